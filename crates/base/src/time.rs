use std::sync::atomic::{AtomicU64, Ordering};

/// Milliseconds since 1970-01-01 UTC.
pub type UnixMillis = u64;

/// The seam for the time of day. Durations and time-outs use tokio's clock, which a simulation pauses.
pub trait Clock: Send + Sync {
    /// The time of day; it may jump.
    fn now(&self) -> UnixMillis;
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: UnixMillis) -> ManualClock {
        ManualClock(AtomicU64::new(now))
    }

    /// Moves it on.
    pub fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        self.0.load(Ordering::Relaxed)
    }
}
