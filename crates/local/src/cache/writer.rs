//! The one who writes lines into slots, in the background.

use std::collections::VecDeque;
use std::sync::Arc;

use base::Result;
use bytes::Bytes;

use super::shard::Sums;
use super::{BLOCK, LINE, LineKey, SHARDS, SLAB_LINES, Shared, count, slab_name};
use crate::disk::DiskFile;

/// The length of a slab file in bytes.
pub(super) const SLAB: u64 = SLAB_LINES as u64 * LINE as u64;
/// How many lines are taken from the queue at a time.
const BATCH: usize = 64;

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
    /// How many lines the cache shall have room for, if that is to change.
    room: Option<u32>,
    closed: bool,
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
        Queue { lines, bytes: 0, limit, writing: Vec::new(), room: None, closed: false }
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

    pub fn resize(&mut self, limit: u64, room: u32) {
        self.limit = limit;
        self.room = Some(room);
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
        let (room, batch, closed) = {
            let mut queue = shared.queue.lock();
            (queue.room.take(), queue.take(), queue.closed)
        };
        if let Some(room) = room {
            set_room(&shared, room).await;
        }
        if !batch.is_empty() {
            shared.room.notify_waiters();
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
    match make_slab(shared, slab).await {
        Ok(file) => {
            let mut slabs = shared.slabs.write();
            let len = slabs.len().max(slab as usize + 1);
            slabs.resize(len, None);
            slabs[slab as usize] = Some(file.clone());
            Ok(file)
        }
        Err(e) => {
            let room = (slab * SLAB_LINES).max(SHARDS) / SHARDS;
            for shard in &shared.shards {
                let mut shard = shard.lock();
                let less = room.min(shard.room());
                shard.set_room(less);
            }
            Err(e)
        }
    }
}

async fn make_slab(shared: &Shared, slab: u32) -> Result<Arc<dyn DiskFile>> {
    let name = slab_name(slab);
    shared.disk.remove(&name).await?;
    let file = shared.disk.create(&name, 0).await?;
    if let Err(e) = file.set_len(SLAB).await {
        shared.disk.remove(&name).await?;
        return Err(e);
    }
    Ok(file)
}

async fn set_room(shared: &Shared, room: u32) {
    for shard in &shared.shards {
        shard.lock().set_room(room / SHARDS);
    }
    let first_unused = room.div_ceil(SLAB_LINES);
    let unused: Vec<u32> = {
        let mut slabs = shared.slabs.write();
        let unused = (first_unused..slabs.len() as u32).collect();
        slabs.truncate(first_unused as usize);
        unused
    };
    for slab in unused {
        // What stays behind is removed at the next start.
        let _ = shared.disk.remove(&slab_name(slab)).await;
    }
}
