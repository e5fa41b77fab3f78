//! Clean data: lines of segments that are in the bucket anyway, kept on the local disk because they are read often.
//!
//! Losing a line costs a fetch and nothing else, so inserts are written without sync, may be dropped, and are forgotten after a crash.
//! What must never happen is that a wrong byte is served: each line has a CRC-32C per 4 KiB in memory, verified
//! on every read from the disk. What is read again stays in memory, as far as there is some for it. Layout on disk: `docs/formats/cache.md`. Requirements: F03, F33, B12, C13.

mod index;
mod memory;
mod shard;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{AlignedBuf, ImageId, Result, Spawn, Urgency};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::disk::{Disk, DiskFile};
use shard::{Found, Held, Shard};
use writer::{Push, Queue};

/// The length of a line in bytes; the last one of a segment may be shorter.
pub(crate) const LINE: usize = 64 << 10;
/// The unit of checksums, in bytes.
const BLOCK: usize = 4096;
/// Lines per slab file.
const SLAB_LINES: u32 = 1024;
const SHARDS: u32 = 16;
/// No segment has as many lines.
const MAX_LINES: u32 = 1 << 20;
/// What a line costs in memory at most, in bytes.
const ENTRY_MEMORY: u64 = 256;
const DIR: &str = "cache";

/// How big the cache may get.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Bytes on the disk.
    pub capacity: u64,
    /// Bytes of memory for the index; it limits the number of lines (256 bytes for each 64 KiB).
    pub index_budget: u64,
    /// Bytes of memory for what is read again.
    pub memory: u64,
    /// Bytes of lines waiting to be written; beyond it inserts are dropped.
    pub queue: u64,
    /// Free bytes of the file system that the cache does not grow into.
    pub spare: u64,
}

impl Default for CacheOptions {
    fn default() -> CacheOptions {
        CacheOptions {
            capacity: 16 << 30,
            index_budget: 128 << 20,
            memory: 64 << 20,
            queue: 32 << 20,
            spare: 0,
        }
    }
}

/// Names one line: up to 64 KiB of a segment's raw payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineKey {
    /// The image that put the segment.
    pub image: ImageId,
    /// The segment's epoch.
    pub epoch: u64,
    /// The segment's number.
    pub number: u64,
    /// Which line of it, from 0, below 2^20.
    pub line: u32,
    /// What it must hold: the CRC-64 that its object has for it. In another history of the image, as after a bucket was restored from
    /// a copy, the same place may hold something else.
    pub content: u64,
}

impl LineKey {
    /// A hash that stays the same over versions, because the index on disk relies on it.
    fn hash(&self) -> u64 {
        let (a, b) = self.image.0.split_at(8);
        let word = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("eight bytes"));
        let words = [word(a), word(b), self.epoch, self.number, self.line.into(), self.content];
        words.into_iter().fold(0, |h: u64, w| {
            let z = (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
        })
    }
}

/// The answer to a read that must not wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The bytes.
    Hit(Bytes),
    /// The cache does not have them.
    Miss,
    /// It has them, but the disk would have to be waited for: use [`Cache::read`].
    WouldBlock,
}

/// What the cache has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Reads answered.
    pub hits: u64,
    /// Reads not answered.
    pub misses: u64,
    /// Lines written.
    pub inserted: u64,
    /// Inserts given up: too many at once, no room, a failed write.
    pub dropped: u64,
    /// Lines that made room for others.
    pub evictions: u64,
    /// Lines whose bytes did not match their sums, or could not be read; they were dropped.
    pub corrupt: u64,
    /// Lines held now.
    pub lines: u64,
    /// How many lines there is room for.
    pub room: u64,
    /// Bytes of its files.
    pub on_disk: u64,
    /// Bytes of lines that are in memory too.
    pub in_memory: u64,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    inserted: AtomicU64,
    dropped: AtomicU64,
    evictions: AtomicU64,
    corrupt: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The cache on one disk. Clones are the same cache.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    disk: Arc<dyn Disk>,
    shards: Vec<Mutex<Shard>>,
    slabs: RwLock<Vec<Option<Arc<dyn DiskFile>>>>,
    /// Held by whoever makes or removes slabs.
    sizing: tokio::sync::Mutex<writer::Bounds>,
    queue: Mutex<Queue>,
    work: Notify,
    /// Told when the queue has room again, or will never have any.
    room: Notify,
    counters: Counters,
    ended: watch::Sender<bool>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache(on {})", self.0.disk.place())
    }
}

/// How many lines a budget allows, a multiple of the number of shards.
impl CacheOptions {
    /// How many bytes the cache holds at most: the capacity, or less if the index may not take the memory for it.
    pub fn most(&self) -> u64 {
        u64::from(lines_for(self)) * LINE as u64
    }
}

fn lines_for(options: &CacheOptions) -> u32 {
    let lines = (options.capacity / LINE as u64).min(options.index_budget / ENTRY_MEMORY);
    let lines = lines.min(u64::from(u32::MAX - SLAB_LINES)) as u32;
    (lines / SHARDS).max(1) * SHARDS
}

fn slab_name(slab: u32) -> String {
    format!("{DIR}/{slab:08x}.slab")
}

/// What is to be done for a read.
enum Way {
    /// Nothing: it was in memory.
    Had(Bytes),
    Read(Plan),
}

/// A range to be read and verified.
struct Plan {
    held: Held,
    file: Arc<dyn DiskFile>,
    /// The blocks around the range, in bytes from the start of the line.
    from: usize,
    to: usize,
}

impl Cache {
    /// Opens the cache on a disk: warm after a clean [`Cache::close`], else empty.
    pub async fn open(disk: Arc<dyn Disk>, options: CacheOptions, spawn: Arc<dyn Spawn>) -> Result<Cache> {
        let lines = lines_for(&options);
        let found = index::take(&*disk).await?;
        let mut shards: Vec<Shard> =
            (0..SHARDS).map(|s| Shard::new(s, lines / SHARDS, options.memory / u64::from(SHARDS))).collect();
        let mut slabs = Vec::new();
        for (name, len) in disk.list(DIR).await? {
            let slab = name.strip_suffix(".slab").and_then(|n| u32::from_str_radix(n, 16).ok());
            let wanted = slab.filter(|s| {
                name == format!("{s:08x}.slab")
                    && s.checked_mul(SLAB_LINES).is_some_and(|first| first < lines)
            });
            match wanted {
                Some(slab) if found.is_some() && len == writer::SLAB => {
                    let at = slab as usize;
                    slabs.resize(slabs.len().max(at + 1), None);
                    slabs[at] = Some(disk.open(&slab_name(slab)).await?);
                }
                _ => disk.remove(&format!("{DIR}/{name}")).await?,
            }
        }
        for (key, held) in found.into_iter().flatten() {
            let there = slabs.get((held.slot / SLAB_LINES) as usize).is_some_and(Option::is_some);
            if there && held.slot < lines {
                shards[(held.slot % SHARDS) as usize].restore(key, held);
            }
        }
        shards.iter_mut().for_each(Shard::restored);
        let shared = Arc::new(Shared {
            disk,
            shards: shards.into_iter().map(Mutex::new).collect(),
            slabs: RwLock::new(slabs),
            sizing: tokio::sync::Mutex::new(writer::Bounds::new(lines, options.spare)),
            queue: Mutex::new(Queue::new(options.queue)),
            work: Notify::new(),
            room: Notify::new(),
            counters: Counters::default(),
            ended: watch::Sender::new(false),
        });
        spawn.spawn_thread("cache", Urgency::Background, Box::pin(writer::run(shared.clone())));
        Ok(Cache(shared))
    }

    /// Offers a line to be kept: up to 64 KiB, from the line's start. It is written in the background, or dropped if too much is waiting already;
    /// whether it was taken is the answer.
    pub fn insert(&self, key: LineKey, data: Bytes) -> bool {
        self.note(self.push(key, &data)) == Push::Taken
    }

    /// The same, but waits while too much is waiting already. Whether it was taken is the answer: it is not if the
    /// cache is being closed.
    pub async fn insert_in_turn(&self, key: LineKey, data: Bytes) -> bool {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.push(key, &data) {
                Push::Full => room.await,
                other => return self.note(other) == Push::Taken,
            }
        }
    }

    fn push(&self, key: LineKey, data: &Bytes) -> Push {
        let fits = key.line < MAX_LINES && !data.is_empty() && data.len() <= LINE;
        if fits { self.0.queue.lock().push(key, data) } else { Push::Refused }
    }

    fn note(&self, push: Push) -> Push {
        match push {
            Push::Taken => self.0.work.notify_one(),
            Push::Full | Push::Refused => count(&self.0.counters.dropped),
        }
        push
    }

    fn plan(&self, key: &LineKey, offset: usize, len: usize) -> Option<Way> {
        let end = offset.checked_add(len)?;
        let held = match self.0.shard(key).lock().look_up(key, offset, end)? {
            Found::Memory(bytes) => return Some(Way::Had(bytes)),
            Found::Disk(held) => held,
        };
        let file = self.0.slabs.read().get((held.slot / SLAB_LINES) as usize).cloned().flatten()?;
        let from = offset / BLOCK * BLOCK;
        let to = end.next_multiple_of(BLOCK).min(held.len as usize);
        Some(Way::Read(Plan { held, file, from, to }))
    }

    /// Checks what was read and cuts out what was asked for; drops the line if it is damaged. What of it is read again stays in
    /// memory.
    fn finish(
        &self,
        key: &LineKey,
        plan: &Plan,
        read: Result<Bytes>,
        offset: usize,
        len: usize,
    ) -> Option<Bytes> {
        let good = read.ok().filter(|bytes| {
            let sums = &plan.held.sums[plan.from / BLOCK..];
            bytes.chunks(BLOCK).zip(sums).all(|(block, sum)| base::checksum::crc32c(block) == *sum)
        });
        if good.is_none() && self.0.shard(key).lock().remove_if(key, plan.held.turn) {
            count(&self.0.counters.corrupt);
        }
        let bytes = good?;
        self.0.shard(key).lock().was_read(key, plan.held.turn, plan.from, &bytes);
        Some(bytes.slice(offset - plan.from..offset - plan.from + len))
    }

    /// The bytes at `offset` of a line, if that needs no waiting for the disk.
    pub fn try_read(&self, key: LineKey, offset: usize, len: usize) -> Lookup {
        let found = match self.plan(&key, offset, len) {
            None => None,
            Some(Way::Had(bytes)) => Some(bytes),
            Some(Way::Read(plan)) => {
                let mut buf = AlignedBuf::for_overwrite(plan.to - plan.from);
                let at = writer::offset_of(plan.held.slot) + plan.from as u64;
                let read = match plan.file.try_read(at, &mut buf) {
                    Ok(false) => return Lookup::WouldBlock,
                    Ok(true) => Ok(buf.into_bytes()),
                    Err(e) => Err(e),
                };
                self.finish(&key, &plan, read, offset, len)
            }
        };
        self.answer(found).map_or(Lookup::Miss, Lookup::Hit)
    }

    /// The bytes at `offset` of a line, waiting for the disk if need be.
    pub async fn read(&self, key: LineKey, offset: usize, len: usize) -> Option<Bytes> {
        let found = match self.plan(&key, offset, len) {
            None => None,
            Some(Way::Had(bytes)) => Some(bytes),
            Some(Way::Read(plan)) => {
                let at = writer::offset_of(plan.held.slot) + plan.from as u64;
                let read = plan.file.read(at, plan.to - plan.from).await;
                self.finish(&key, &plan, read, offset, len)
            }
        };
        self.answer(found)
    }

    fn answer(&self, found: Option<Bytes>) -> Option<Bytes> {
        count(if found.is_some() { &self.0.counters.hits } else { &self.0.counters.misses });
        found
    }

    /// Whether a line is held, without counting it as a read.
    pub fn contains(&self, key: &LineKey) -> bool {
        self.0.shard(key).lock().contains(key)
    }

    /// Forgets a line that nobody will read again, unless it is still on its way to the disk: its slot is the next to be used, while
    /// the kernel still has that part of the file in memory.
    pub fn forget(&self, key: &LineKey) {
        self.0.shard(key).lock().remove(key);
    }

    /// Forgets all lines of an image, also those on their way to the disk. When it returns none can be read.
    pub fn invalidate_image(&self, image: ImageId) {
        self.0.queue.lock().cancel(|k| k.image == image);
        self.0.room.notify_waiters();
        for shard in &self.0.shards {
            shard.lock().remove_image(image);
        }
    }

    /// Sets other bounds. Lines beyond them go, and their room on the disk is given back, in the background.
    pub fn resize(&self, options: CacheOptions) {
        for shard in &self.0.shards {
            shard.lock().set_memory(options.memory / u64::from(SHARDS));
        }
        let bounds = writer::Bounds::new(lines_for(&options), options.spare);
        self.0.queue.lock().resize(options.queue, bounds);
        self.0.work.notify_one();
        self.0.room.notify_waiters();
    }

    /// Gives some of its room on the disk to data that has no other home: the lines of one file go, and what they took is free
    /// when this returns. How many bytes that were; 0 if there is nothing left to give. The cache grows again when there is
    /// room to spare.
    pub async fn give_way(&self) -> u64 {
        writer::give_way(&self.0).await
    }

    /// What it has done so far.
    pub fn stats(&self) -> CacheStats {
        let c = &self.0.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut lines, mut room, mut in_memory) = (0, 0, 0);
        for shard in &self.0.shards {
            let shard = shard.lock();
            lines += shard.len() as u64;
            room += u64::from(shard.room());
            in_memory += shard.in_memory();
        }
        CacheStats {
            hits: get(&c.hits),
            misses: get(&c.misses),
            inserted: get(&c.inserted),
            dropped: get(&c.dropped),
            evictions: get(&c.evictions),
            corrupt: get(&c.corrupt),
            lines,
            room,
            in_memory,
            on_disk: self.0.slabs.read().iter().flatten().count() as u64 * writer::SLAB,
        }
    }

    /// Stops writing and leaves an index, so that the next start is warm.
    pub async fn close(&self) -> Result<()> {
        self.0.queue.lock().close();
        self.0.work.notify_one();
        self.0.room.notify_waiters();
        let mut ended = self.0.ended.subscribe();
        // The writer cannot vanish without saying so while `self` holds the sender.
        let _ = ended.wait_for(|ended| *ended).await;
        let slabs: Vec<_> = self.0.slabs.read().iter().flatten().cloned().collect();
        for slab in slabs {
            slab.sync().await?;
        }
        index::leave(&*self.0.disk, &self.0.shards).await
    }
}

impl Shared {
    fn shard(&self, key: &LineKey) -> &Mutex<Shard> {
        &self.shards[(key.hash() % u64::from(SHARDS)) as usize]
    }
}

#[cfg(test)]
mod tests;
