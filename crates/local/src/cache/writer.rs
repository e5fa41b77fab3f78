//! The one who writes lines into slots, in the background.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use tokio::time::Instant;

use super::shard::Sums;
use super::{BLOCK, LINE, LineKey, SHARDS, SLAB_LINES, Shared, count, slab_name};
use crate::disk::DiskFile;

/// The length of a slab file in bytes.
pub(super) const SLAB: u64 = SLAB_LINES as u64 * LINE as u64;
/// How many lines are taken from the queue at a time.
const BATCH: usize = 64;
/// How often a cache that gave way looks whether it may grow again.
const LOOK: Duration = Duration::from_secs(1);

/// Where a slot starts in its slab, in bytes.
pub(super) fn offset_of(slot: u32) -> u64 {
    u64::from(slot % SLAB_LINES) * LINE as u64
}

/// What waits to be written.
pub(super) struct Queue {
    lines: VecDeque<(LineKey, Bytes)>,
    bytes: u64,
    limit: u64,
    /// What is being written, without those that were cancelled meanwhile.
    writing: Vec<LineKey>,
    /// Other bounds, if they are to change.
    bounds: Option<Bounds>,
    closed: bool,
}

/// How big the cache may get.
pub(super) struct Bounds {
    /// How many lines it shall have room for; it has less where the disk has.
    lines: u32,
    /// Free bytes of the file system that it does not grow into.
    spare: u64,
    /// When the disk was last asked for more room.
    looked: Option<Instant>,
}

impl Bounds {
    pub fn new(lines: u32, spare: u64) -> Bounds {
        Bounds { lines, spare, looked: None }
    }
}

/// What became of a line that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    Taken,
    /// Not now: there is no room.
    Full,
    /// Never.
    Refused,
}

impl Queue {
    pub fn new(limit: u64) -> Queue {
        let lines = VecDeque::new();
        Queue { lines, bytes: 0, limit, writing: Vec::new(), bounds: None, closed: false }
    }

    pub fn push(&mut self, key: LineKey, data: &Bytes) -> Push {
        let len = data.len() as u64;
        if self.closed || len > self.limit {
            return Push::Refused;
        }
        if self.bytes + len > self.limit {
            return Push::Full;
        }
        self.bytes += len;
        self.lines.push_back((key, data.clone()));
        Push::Taken
    }

    pub fn cancel(&mut self, which: impl Fn(&LineKey) -> bool) {
        self.lines.retain(|(k, _)| !which(k));
        self.bytes = self.lines.iter().map(|(_, d)| d.len() as u64).sum();
        self.writing.retain(|k| !which(k));
    }

    pub fn resize(&mut self, limit: u64, bounds: Bounds) {
        self.limit = limit;
        self.bounds = Some(bounds);
    }

    /// Takes no more. Those who wait for room have to be told.
    pub fn close(&mut self) {
        self.closed = true;
    }

    fn take(&mut self) -> Vec<(LineKey, Bytes)> {
        let n = self.lines.len().min(BATCH);
        let batch: Vec<_> = self.lines.drain(..n).collect();
        self.bytes -= batch.iter().map(|(_, d)| d.len() as u64).sum::<u64>();
        self.writing = batch.iter().map(|(k, _)| *k).collect();
        batch
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let (bounds, batch, closed) = {
            let mut queue = shared.queue.lock();
            (queue.bounds.take(), queue.take(), queue.closed)
        };
        if let Some(bounds) = bounds {
            let mut known = shared.sizing.lock().await;
            set_room(&shared, bounds.lines).await;
            *known = bounds;
        }
        if !batch.is_empty() {
            shared.room.notify_waiters();
            grow(&shared).await;
            for (key, data) in batch {
                write(&shared, key, data).await;
            }
        } else if closed {
            break;
        } else {
            shared.work.notified().await;
        }
    }
    shared.ended.send_replace(true);
}

fn sums(data: &[u8]) -> Sums {
    let mut sums = [0; LINE / BLOCK];
    for (sum, block) in sums.iter_mut().zip(data.chunks(BLOCK)) {
        *sum = base::checksum::crc32c(block);
    }
    sums
}

async fn write(shared: &Shared, key: LineKey, data: Bytes) {
    let shard = shared.shard(&key);
    let taken = {
        let mut shard = shard.lock();
        if shard.contains(&key) {
            return;
        }
        shard.take_slot()
    };
    let Some((slot, evicted)) = taken else { return count(&shared.counters.dropped) };
    shared.counters.evictions.fetch_add(evicted, std::sync::atomic::Ordering::Relaxed);
    let (len, sums) = (data.len() as u32, sums(&data));
    let written = match slab(shared, slot / SLAB_LINES).await {
        Ok(file) => file.write_warm(offset_of(slot), &[data]).await,
        Err(e) => Err(e),
    };
    // Held over settling, so that a cancellation comes either before it or finds the line settled.
    let queue = shared.queue.lock();
    if written.is_ok() && queue.writing.contains(&key) {
        shard.lock().settle(key, slot, len, sums);
        count(&shared.counters.inserted);
    } else {
        shard.lock().give_back(slot);
        count(&shared.counters.dropped);
    }
}

/// The file of a slab, made when it is first needed. Where there is no room for it, the cache makes do with what it has.
async fn slab(shared: &Shared, slab: u32) -> Result<Arc<dyn DiskFile>> {
    if let Some(file) = shared.slabs.read().get(slab as usize).cloned().flatten() {
        return Ok(file);
    }
    let bounds = shared.sizing.lock().await;
    if slab * SLAB_LINES >= room(shared) {
        return Err(no_room("the cache gave way meanwhile"));
    }
    match make_slab(shared, slab, bounds.spare).await {
        Ok(file) => {
            let mut slabs = shared.slabs.write();
            let len = slabs.len().max(slab as usize + 1);
            slabs.resize(len, None);
            slabs[slab as usize] = Some(file.clone());
            Ok(file)
        }
        Err(e) => {
            set_room(shared, slab * SLAB_LINES).await;
            Err(e)
        }
    }
}

/// Nobody is told of it: what cannot be kept is fetched again.
fn no_room(why: &'static str) -> Error {
    Error::new(ErrorKind::NoSpace, why)
}

async fn make_slab(shared: &Shared, slab: u32, spare: u64) -> Result<Arc<dyn DiskFile>> {
    let name = slab_name(slab);
    shared.disk.remove(&name).await?;
    if spare > 0 && shared.disk.free().await? < SLAB + spare {
        return Err(no_room("what is free on the disk is left to dirty data"));
    }
    let file = shared.disk.create(&name, 0).await?;
    if let Err(e) = file.set_len(SLAB).await {
        shared.disk.remove(&name).await?;
        return Err(e);
    }
    Ok(file)
}

/// How many lines there is room for.
fn room(shared: &Shared) -> u32 {
    shared.shards.iter().map(|shard| shard.lock().room()).sum()
}

/// Gives the cache more or less room; files that it has no use for any more go. What they took is free then, even while
/// somebody reads one.
async fn set_room(shared: &Shared, room: u32) {
    for shard in &shared.shards {
        shard.lock().set_room(room / SHARDS);
    }
    let first_unused = room.div_ceil(SLAB_LINES);
    let unused: Vec<_> = {
        let mut slabs = shared.slabs.write();
        let from = (first_unused as usize).min(slabs.len());
        (first_unused..).zip(slabs.drain(from..)).filter_map(|(slab, file)| Some((slab, file?))).collect()
    };
    for (slab, file) in unused {
        // What stays behind is removed at the next start.
        let _ = file.set_len(0).await;
        let _ = shared.disk.remove(&slab_name(slab)).await;
    }
}

/// Gives up the last file. How many bytes that makes free.
pub(super) async fn give_way(shared: &Shared) -> u64 {
    let mut bounds = shared.sizing.lock().await;
    let last = shared.slabs.read().iter().rposition(Option::is_some);
    let Some(last) = last else { return 0 };
    set_room(shared, last as u32 * SLAB_LINES).await;
    bounds.looked = Some(Instant::now());
    SLAB
}

/// A cache that gave way, or found no room, gets room for one more file if the disk has it by now.
async fn grow(shared: &Shared) {
    let now_room = room(shared);
    let mut bounds = shared.sizing.lock().await;
    let soon = bounds.looked.is_some_and(|at| at.elapsed() < LOOK);
    if soon || now_room >= bounds.lines / SHARDS * SHARDS {
        return;
    }
    bounds.looked = Some(Instant::now());
    if shared.disk.free().await.is_ok_and(|free| free >= SLAB + bounds.spare) {
        set_room(shared, (now_room + SLAB_LINES).min(bounds.lines)).await;
    }
}
