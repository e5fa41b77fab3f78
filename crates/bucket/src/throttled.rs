use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::Result;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::{Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};

/// How much of the network a bucket may take. `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes per second to the store.
    pub up: Option<u64>,
    /// Bytes per second from the store.
    pub down: Option<u64>,
    /// Requests at once.
    pub in_flight: Option<usize>,
}

/// A bucket that keeps within limits, which may change at any time.
///
/// Bytes are counted by whole requests: one body goes at the network's speed, and those behind it wait until the average
/// is right again.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn Bucket>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    in_flight: usize,
    up: Pace,
    down: Pace,
}

/// When the bytes that went so far are paid for.
#[derive(Debug, Clone, Copy)]
struct Pace(Instant);

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl State {
    fn pace(&mut self, direction: Direction) -> (Option<u64>, &mut Pace) {
        match direction {
            Direction::Up => (self.limits.up, &mut self.up),
            Direction::Down => (self.limits.down, &mut self.down),
        }
    }

    /// Counts bytes: they are paid for later.
    fn charge(&mut self, direction: Direction, bytes: u64) {
        let now = Instant::now();
        if let (Some(rate), pace) = self.pace(direction) {
            let seconds = bytes as f64 / rate.max(1) as f64;
            // A limit of a few bytes a second is no reason to wait for years.
            pace.0 = pace.0.max(now) + Duration::from_secs_f64(seconds.min(86_400.0));
        }
    }
}

/// One request under way.
struct Slot<'a>(&'a Throttled);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
        self.0.changed.notify_waiters();
    }
}

impl Throttled {
    /// Goes around `inner`.
    pub fn new(inner: Arc<dyn Bucket>, limits: Limits) -> Throttled {
        let now = Instant::now();
        let state = State { limits, in_flight: 0, up: Pace(now), down: Pace(now) };
        Throttled { inner, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Changes the limits, for those who wait too.
    pub fn set_limits(&self, limits: Limits) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.limits = limits;
        // What was owed at another rate is forgiven.
        state.up = Pace(now);
        state.down = Pace(now);
        drop(state);
        self.changed.notify_waiters();
    }

    /// The limits as they are.
    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    /// Waits for a free place and for the bytes that went before; `up` bytes are charged at once.
    async fn enter(&self, direction: Direction, bytes: u64) -> Slot<'_> {
        loop {
            // Registered before looking, so that no change is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let wait = {
                let mut state = self.state.lock();
                let owed = match state.pace(direction) {
                    (Some(_), pace) => pace.0.saturating_duration_since(Instant::now()),
                    (None, _) => Duration::ZERO,
                };
                if state.limits.in_flight.is_some_and(|most| state.in_flight >= most.max(1)) {
                    None
                } else if owed.is_zero() {
                    state.in_flight += 1;
                    state.charge(direction, bytes);
                    return Slot(self);
                } else {
                    Some(owed)
                }
            };
            match wait {
                None => changed.await,
                Some(owed) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = sleep(owed) => {}
                    }
                }
            }
        }
    }
}

#[async_trait]
impl Bucket for Throttled {
    fn url(&self) -> String {
        self.inner.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let _slot = self.enter(Direction::Down, 0).await;
        let bytes = self.inner.get(key, range).await?;
        self.state.lock().charge(Direction::Down, bytes.len() as u64);
        Ok(bytes)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let _slot = self.enter(Direction::Down, 0).await;
        self.inner.head(key).await
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let _slot = self.enter(Direction::Up, body.len()).await;
        self.inner.create(key, body, attributes).await
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let _slot = self.enter(Direction::Up, body.len()).await;
        self.inner.put(key, body, attributes).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        let _slot = self.enter(Direction::Down, 0).await;
        self.inner.list(prefix, after, limit).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let _slot = self.enter(Direction::Up, 0).await;
        self.inner.copy(from, to).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let _slot = self.enter(Direction::Up, 0).await;
        self.inner.delete(key).await
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        let _slot = self.enter(Direction::Up, 0).await;
        self.inner.set_class(key, class).await
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        let _slot = self.enter(Direction::Up, 0).await;
        self.inner.restore(key, days).await
    }
}
