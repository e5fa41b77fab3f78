//! Destaging makes way for clients: while they write and there is plenty of room, uploads take a part of the disk and the
//! network only; the scarcer it becomes, the larger a part.
//!
//! The newest data of a lost gateway is lost with it, so this is bounded in time as well as in room.

use std::time::Duration;

use base::Seq;
use tokio::time::Instant;

use crate::admission::PACED_FROM;

/// Clients that have written within this time are at work.
const AT_WORK: Duration = Duration::from_millis(100);
/// Up to this fullness there is plenty of room.
const PLENTY: f64 = 0.6;
/// From this fullness on it is scarce: uploads take all they can, as clients are slowed down for it.
const SCARCE: f64 = PACED_FROM;
/// Data that waits longer than this is uploaded as fast as can be.
const OLDEST: Duration = Duration::from_secs(10);
/// Between two puts, this many times as long as the last one took.
const RESTS: u32 = 63;
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

    /// Whether clients come first now: room is used up so far, from 0 to 1, and the oldest data has waited so long.
    pub fn makes_way(&self, fullness: f64, waited: Duration, now: Instant) -> bool {
        self.is_patient(waited, now) && fullness < PLENTY
    }

    /// How many puts of at most so many there may be at a time. More of them one by one, as room becomes scarce: all at once would
    /// slow clients down more than the room is worth.
    pub fn puts(&self, most: usize, fullness: f64, waited: Duration, now: Instant) -> usize {
        if !self.is_patient(waited, now) {
            return most;
        }
        if fullness < PLENTY {
            return usize::from(self.rested(now));
        }
        let scarcity = (fullness - PLENTY) / (SCARCE - PLENTY);
        (1 + (scarcity * most as f64) as usize).min(most)
    }

    /// Whether clients write now, and nothing has waited for long.
    fn is_patient(&self, waited: Duration, now: Instant) -> bool {
        self.written.is_some_and(|at| now - at < AT_WORK) && waited < OLDEST
    }

    /// Whether the next put may begin, if clients come first.
    fn rested(&self, now: Instant) -> bool {
        now >= self.rest_ends
    }

    /// When more puts may begin, if nobody writes any more; `None` for now.
    pub fn ends(&self, now: Instant) -> Option<Instant> {
        let over = self.written.map(|at| at + AT_WORK);
        [Some(self.rest_ends), over].into_iter().flatten().filter(|at| now < *at).min()
    }
}

#[cfg(test)]
mod tests;
