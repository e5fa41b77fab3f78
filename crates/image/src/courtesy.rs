//! Destaging makes way for clients: while they write and there is plenty of room, uploads take a part of the disk and the
//! network only.
//!
//! The newest data of a lost gateway is lost with it, so this is bounded in time as well as in room.

use std::time::Duration;

use base::Seq;
use tokio::time::Instant;

/// Clients that have written within this time are at work.
const AT_WORK: Duration = Duration::from_millis(100);
/// Up to this fullness of the journal there is plenty of room.
const PLENTY: f64 = 0.4;
/// Data that waits longer than this is uploaded as fast as can be.
const OLDEST: Duration = Duration::from_secs(10);
/// Between two puts, this many times as long as the last one took.
const RESTS: u32 = 15;
/// But not longer than this.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Courtesy {
    committed: Seq,
    /// When clients were last seen to have written.
    written: Option<Instant>,
    began: Instant,
    rest_ends: Instant,
}

impl Courtesy {
    pub fn new(now: Instant) -> Courtesy {
        Courtesy { committed: Seq(0), written: None, began: now, rest_ends: now }
    }

    /// Takes note of how far clients have come.
    pub fn observe(&mut self, committed: Seq, now: Instant) {
        if self.committed != committed {
            self.committed = committed;
            self.written = Some(now);
        }
    }

    /// A put has begun.
    pub fn began(&mut self, now: Instant) {
        self.began = now;
    }

    /// A put has ended.
    pub fn ended(&mut self, now: Instant) {
        self.rest_ends = now + (now - self.began).saturating_mul(RESTS).min(LONGEST_REST);
    }

    /// Whether clients come first now: the journal is so full, from 0 to 1, and the oldest data has waited so long.
    pub fn makes_way(&self, fullness: f64, waited: Duration, now: Instant) -> bool {
        self.written.is_some_and(|at| now - at < AT_WORK) && waited < OLDEST && fullness < PLENTY
    }

    /// Whether the next put may begin, if clients come first.
    pub fn rested(&self, now: Instant) -> bool {
        now >= self.rest_ends
    }

    /// When the next put may begin at the latest, if nobody writes any more; `None` for now.
    pub fn ends(&self, now: Instant) -> Option<Instant> {
        let over = self.written.map_or(now, |at| at + AT_WORK);
        Some(self.rest_ends.min(over)).filter(|at| now < *at)
    }
}

#[cfg(test)]
mod tests;
