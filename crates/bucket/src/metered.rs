use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Attributes, Bucket, Key, ObjectMeta, Operation, Payload, StorageClass};

/// Times are counted in classes that double: up to 1 µs, 2 µs, 4 µs, … the last one holds all above (about 9 hours).
pub const LATENCY_CLASSES: usize = 36;

/// What is known of one operation since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperationStats {
    /// Calls that have ended.
    pub calls: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Calls that ended with an error, by its kind's word. `not_found` and `exists` are answers, but counted here.
    pub errors: BTreeMap<&'static str, u64>,
    /// Calls that were given up before they ended.
    pub abandoned: u64,
    /// Bytes of bodies that were stored.
    pub bytes_up: u64,
    /// Bytes that were read.
    pub bytes_down: u64,
    /// Time spent, over all calls.
    pub time: Duration,
    /// How many calls took up to 2^n µs.
    pub latency: Histogram,
}

/// Counts by doubling classes of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram([u64; LATENCY_CLASSES]);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram([0; LATENCY_CLASSES])
    }
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let class = micros
            .max(1)
            .checked_next_power_of_two()
            .map_or(LATENCY_CLASSES - 1, |p| p.trailing_zeros() as usize);
        self.0[class.min(LATENCY_CLASSES - 1)] += 1;
    }

    /// The counts, class by class.
    pub fn counts(&self) -> &[u64; LATENCY_CLASSES] {
        &self.0
    }

    /// The upper bound of the class that holds the call of rank `permille` (500 is the median); zero if there were none.
    pub fn quantile(&self, permille: u64) -> Duration {
        let total: u64 = self.0.iter().sum();
        let rank = (total * permille.min(1000)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (class, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(1 << class);
            }
        }
        Duration::ZERO
    }
}

/// A bucket that counts.
#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn Bucket>,
    stats: Mutex<[OperationStats; Operation::ALL.len()]>,
}

/// One call under way; dropped without an end it counts as abandoned.
struct Call<'a> {
    metered: &'a Metered,
    operation: Operation,
    start: Instant,
    has_ended: bool,
}

impl Call<'_> {
    fn end<T>(mut self, result: Result<T>, up: u64, down: impl FnOnce(&T) -> u64) -> Result<T> {
        self.has_ended = true;
        let time = self.start.elapsed();
        let mut stats = self.metered.stats.lock();
        let stats = &mut stats[self.operation as usize];
        stats.calls += 1;
        stats.time += time;
        stats.latency.add(time);
        match &result {
            Ok(value) => {
                stats.bytes_up += up;
                stats.bytes_down += down(value);
            }
            Err(e) => *stats.errors.entry(e.kind().as_str()).or_default() += 1,
        }
        result
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut stats = self.metered.stats.lock();
        let stats = &mut stats[self.operation as usize];
        stats.in_flight -= 1;
        stats.abandoned += u64::from(!self.has_ended);
    }
}

impl Metered {
    /// Goes around `inner`.
    pub fn new(inner: Arc<dyn Bucket>) -> Metered {
        Metered { inner, stats: Mutex::default() }
    }

    /// What was counted so far, by operation.
    pub fn snapshot(&self) -> Vec<(Operation, OperationStats)> {
        Operation::ALL.into_iter().zip(self.stats.lock().clone()).collect()
    }

    /// What was counted of one operation.
    pub fn of(&self, operation: Operation) -> OperationStats {
        self.stats.lock()[operation as usize].clone()
    }

    /// Whether any call ended in an error that says the store is away, and how many.
    pub fn unavailable(&self) -> u64 {
        let word = ErrorKind::Unavailable.as_str();
        self.stats.lock().iter().filter_map(|s| s.errors.get(word)).sum()
    }

    fn begin(&self, operation: Operation) -> Call<'_> {
        self.stats.lock()[operation as usize].in_flight += 1;
        Call { metered: self, operation, start: Instant::now(), has_ended: false }
    }
}

#[async_trait]
impl Bucket for Metered {
    fn url(&self) -> String {
        self.inner.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let call = self.begin(Operation::Get);
        call.end(self.inner.get(key, range).await, 0, |bytes| bytes.len() as u64)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let call = self.begin(Operation::Head);
        call.end(self.inner.head(key).await, 0, |_| 0)
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let call = self.begin(Operation::Create);
        call.end(self.inner.create(key, body, attributes).await, body.len(), |_| 0)
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let call = self.begin(Operation::Put);
        call.end(self.inner.put(key, body, attributes).await, body.len(), |_| 0)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        let call = self.begin(Operation::List);
        call.end(self.inner.list(prefix, after, limit).await, 0, |_| 0)
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let call = self.begin(Operation::Copy);
        call.end(self.inner.copy(from, to).await, 0, |_| 0)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let call = self.begin(Operation::Delete);
        call.end(self.inner.delete(key).await, 0, |()| 0)
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        let call = self.begin(Operation::SetClass);
        call.end(self.inner.set_class(key, class).await, 0, |()| 0)
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        let call = self.begin(Operation::Restore);
        call.end(self.inner.restore(key, days).await, 0, |()| 0)
    }
}
