use std::collections::BTreeMap;

use base::{ByteSize, Epoch, ErrorKind, Number, UnixMillis};
use tokio::time::Instant;

use crate::core::Core;
use crate::dirty::Accepted;

/// Whether an image serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It does.
    Open,
    /// It was closed or halted.
    Closed,
    /// Another gateway owns it now; the reason names the epoch object.
    Fenced(String),
    /// It stopped for a fault.
    Failed(ErrorKind, String),
}

/// What an operator wants to know of an image: the dirty ledger first.
#[derive(Debug, Clone)]
pub struct Status {
    /// Whether it serves.
    pub condition: Condition,
    /// This owner's term.
    pub epoch: Epoch,
    /// Its size.
    pub size: ByteSize,
    /// Acknowledged but not yet in the bucket.
    pub dirty: ByteSize,
    /// When the oldest of that was acknowledged.
    pub oldest_dirty: Option<UnixMillis>,
    /// The part of it that lies in local segments.
    pub spooled: ByteSize,
    /// Sent to the bucket since it was opened.
    pub uploaded: ByteSize,
    /// How fast room comes back, bytes per second.
    pub drain_rate: f64,
    /// The last segment that counts.
    pub durable: Number,
    /// The last checkpoint.
    pub checkpoint: Number,
    /// Segments the map points at.
    pub segments: usize,
    /// Sectors of data in them, and how many of these the map refers to, at the most.
    pub sectors: (u64, u64),
    /// Why uploads do not go on, if they do not, and since when.
    pub trouble: Option<(UnixMillis, String)>,
}

/// What the destage loop needs the bucket for, and tries again while that fails; what keeps most from the bucket first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Put,
    Check,
    Map,
    Checkpoint,
}

/// What fails at present, and why. Each ends when the same succeeds: that the bucket answers one call proves nothing of another.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    reasons: BTreeMap<Work, String>,
    /// Since when there has been one.
    since: UnixMillis,
}

impl Troubles {
    /// `true` if all was well until now.
    pub fn begin(&mut self, work: Work, why: String, now: UnixMillis) -> bool {
        let first = self.is_empty();
        if first {
            self.since = now;
        }
        self.reasons.insert(work, why);
        first
    }

    /// `true` if all is well again.
    pub fn end(&mut self, work: Work) -> bool {
        let before = !self.is_empty();
        self.reasons.remove(&work);
        before && self.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    fn worst(&self) -> Option<(UnixMillis, String)> {
        self.reasons.values().next().map(|why| (self.since, why.clone()))
    }
}

/// What the destage loop has got done.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Committed bytes that do not count yet, sealed or not.
    pub dirty_bytes: u64,
    pub oldest_dirty: Option<UnixMillis>,
    pub spooled_bytes: u64,
    pub uploaded: u64,
    pub durable: Number,
    pub checkpoint: Number,
    pub troubles: Troubles,
    rate: f64,
    since: Option<Instant>,
    freed: u64,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            dirty_bytes: 0,
            oldest_dirty: None,
            spooled_bytes: 0,
            uploaded: 0,
            durable: Number(0),
            checkpoint: Number(0),
            troubles: Troubles::default(),
            rate: 0.0,
            since: None,
            freed: 0,
        }
    }

    /// Takes note that so many bytes of journal came free.
    pub fn freed(&mut self, bytes: u64) {
        self.freed += bytes;
        self.settle();
    }

    fn settle(&mut self) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let seconds = (now - since).as_secs_f64();
        if seconds >= 0.5 {
            self.rate = self.rate * 0.5 + self.freed as f64 / seconds * 0.5;
            self.freed = 0;
            self.since = Some(now);
        }
    }

    /// How fast journal comes free, bytes per second, smoothed.
    pub fn rate(&mut self) -> f64 {
        self.settle();
        self.rate
    }
}

impl Core {
    /// What the time of day was then, by what the clock shows now.
    pub fn time_of(&self, accepted: Accepted) -> UnixMillis {
        match accepted {
            Accepted::Here(at) => self.env.clock.now().saturating_sub(at.elapsed().as_millis() as u64),
            Accepted::Before(time) => time,
        }
    }

    pub fn status(&self) -> Status {
        let (unsealed, oldest_unsealed) = {
            let backlog = self.backlog.lock();
            (backlog.bytes, backlog.queue.front().map(|r| self.time_of(Accepted::Here(r.accepted))))
        };
        let (segments, sectors) = {
            let layers = self.layers.read();
            let sectors = layers.table.all();
            (layers.table.rows().len(), (sectors.stored, sectors.live))
        };
        let condition = self.condition.read().clone();
        // One that has stopped uploads nothing any more; one that is being closed does.
        let at_work = matches!(condition, Condition::Open | Condition::Closed);
        let mut progress = self.progress.lock();
        Status {
            condition,
            epoch: self.epoch,
            size: ByteSize(self.size.load(std::sync::atomic::Ordering::Relaxed) * base::SECTOR),
            dirty: ByteSize(progress.dirty_bytes + unsealed),
            oldest_dirty: progress.oldest_dirty.or(oldest_unsealed),
            spooled: ByteSize(progress.spooled_bytes),
            uploaded: ByteSize(progress.uploaded),
            drain_rate: progress.rate(),
            durable: progress.durable,
            checkpoint: progress.checkpoint,
            segments,
            sectors,
            trouble: progress.troubles.worst().filter(|_| at_work),
        }
    }
}

#[cfg(test)]
mod tests;
