//! How long a thread looks for the next command before it sleeps.
//!
//! To put a thread to sleep and to wake it takes longer than a small read, most of all in a virtual machine, whose processor the host takes
//! meanwhile. Where an initiator sends its next command soon after the last answer, its thread stays awake for that.

use std::time::Duration;

use tokio::time::Instant;

/// How soon the next command must come to be waited for, and how long it is waited for.
const SOON: Duration = Duration::from_micros(100);

/// What a thread knows of the pace of its initiators.
#[derive(Debug)]
pub(crate) struct Patience {
    /// When it was last done with what came.
    done: Instant,
    /// Whether that had come soon.
    soon: bool,
}

impl Patience {
    pub fn new(now: Instant) -> Patience {
        Patience { done: now, soon: false }
    }

    /// Something came at `came`, and has been done now.
    pub fn worked(&mut self, came: Instant, now: Instant) {
        self.soon = came.saturating_duration_since(self.done) < SOON;
        self.done = now;
    }

    /// Whether to stay awake.
    pub fn lasts(&self, now: Instant) -> bool {
        self.soon && now.saturating_duration_since(self.done) < SOON
    }
}

#[cfg(test)]
mod tests;
