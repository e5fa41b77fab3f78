use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base::{BoxFuture, Entropy, Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::{Attributes, Bucket, Key, ObjectMeta, Operation, Payload, StorageClass};

/// The size assumed of a whole object that is asked for, in bytes.
const UNKNOWN_SIZE: u64 = 64 << 20;

/// How often bytes that arrived damaged are asked for again: what is damaged in the store stays so.
const DAMAGED_TRIES: u32 = 6;

/// How long and how often to try.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// The pause after the first failure; it doubles with every further one. Half of it is by chance.
    pub first_pause: Duration,
    /// Where the pause stops growing.
    pub longest_pause: Duration,
    /// How long one attempt may take, apart from its bytes.
    pub attempt: Duration,
    /// The slowest network worth waiting for, in bytes per second: an attempt gets its bytes' time at this speed more.
    pub slowest: u64,
    /// How long all attempts together may take, apart from their bytes.
    pub give_up: Duration,
    /// How many retries may be made in a row by all callers together. Each success allows one more, and so does each
    /// `budget_refill`; beyond that, retries wait: a sick store is not hammered.
    pub budget: u32,
    /// How long until the budget allows one more retry.
    pub budget_refill: Duration,
}

impl Default for RetryPolicy {
    /// For background work, which may wait: two minutes in all.
    fn default() -> RetryPolicy {
        RetryPolicy {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            attempt: Duration::from_secs(15),
            slowest: 128 << 10,
            give_up: Duration::from_secs(120),
            budget: 100,
            budget_refill: Duration::from_millis(200),
        }
    }
}

impl RetryPolicy {
    /// For work that tries again by itself and has to tell soon when it fails: ten seconds in all.
    pub fn background() -> RetryPolicy {
        RetryPolicy { give_up: Duration::from_secs(10), ..RetryPolicy::default() }
    }

    /// For work that a client waits for: eight seconds in all, so that a command is answered within ten.
    pub fn foreground() -> RetryPolicy {
        RetryPolicy {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(1),
            attempt: Duration::from_secs(4),
            slowest: 4 << 20,
            give_up: Duration::from_secs(8),
            ..RetryPolicy::default()
        }
    }
}

/// A bucket whose calls are tried again while they fail for reasons that pass: exponential backoff with jitter, a
/// deadline for every attempt and for the whole, and one budget of retries for all callers.
///
/// A create-only call that finds its name taken after an attempt of unknown outcome reads the object back: if it has the
/// same bytes it is this call's own and the call succeeded. So two who create the same bytes may both be told that they
/// did: an object that decides something carries what nobody else writes (an owner's id, a number drawn by chance).
pub struct Retrying {
    inner: Arc<dyn Bucket>,
    policy: RetryPolicy,
    /// For calls that only look.
    reading: RetryPolicy,
    entropy: Arc<dyn Entropy>,
    budget: Mutex<Budget>,
    retries: AtomicU64,
}

/// Thousandths of a retry that may be made now; below zero, what callers are waiting for.
#[derive(Debug)]
struct Budget {
    left: i64,
    counted: Instant,
}

const ONE: i64 = 1000;

impl Retrying {
    /// Goes around `inner`.
    pub fn new(inner: Arc<dyn Bucket>, policy: RetryPolicy, entropy: Arc<dyn Entropy>) -> Retrying {
        let budget = Budget { left: i64::from(policy.budget) * ONE, counted: Instant::now() };
        let reading = policy.clone();
        Retrying { inner, policy, reading, entropy, budget: Mutex::new(budget), retries: AtomicU64::new(0) }
    }

    /// Has another patience with calls that only look, which clients may be waiting for. The budget stays common.
    pub fn with_reading(self, reading: RetryPolicy) -> Retrying {
        Retrying { reading, ..self }
    }

    fn policy(&self, operation: Operation) -> &RetryPolicy {
        match operation {
            Operation::Get | Operation::Head | Operation::List => &self.reading,
            _ => &self.policy,
        }
    }

    /// How many attempts were made beyond the first ones.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Calls until it succeeds, fails for good or time is up. `call` is told whether an earlier attempt may have taken
    /// effect.
    async fn run<'a, T>(
        &self,
        operation: Operation,
        name: &str,
        bytes: u64,
        call: impl Fn(bool) -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        let policy = self.policy(operation);
        let transfer = Duration::from_secs_f64(bytes as f64 / policy.slowest.max(1) as f64);
        let end = Instant::now() + policy.give_up + transfer;
        let mut damaged = 0;
        for attempt in 0.. {
            let time = (policy.attempt + transfer).min(end - Instant::now());
            let error = match timeout(time, call(attempt > 0)).await {
                Ok(Ok(value)) => {
                    self.refund(ONE);
                    return Ok(value);
                }
                Ok(Err(e)) => e,
                Err(_) => {
                    Error::new(ErrorKind::Unavailable, format!("no answer within {} s", time.as_secs_f32()))
                }
            };
            damaged += u32::from(error.kind() == ErrorKind::Corrupt);
            let may_pass = match error.kind() {
                ErrorKind::Unavailable | ErrorKind::Busy => true,
                ErrorKind::Corrupt => damaged < DAMAGED_TRIES,
                _ => false,
            };
            if !may_pass {
                return Err(error);
            }
            let pause = self.pause(policy, attempt).max(self.spend());
            if Instant::now() + pause >= end {
                self.refund(ONE);
                let attempts = attempt + 1;
                let what = operation.as_str();
                return Err(
                    error.within(format!("{what} {name} in {} failed {attempts} times", self.inner.url()))
                );
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            sleep(pause).await;
        }
        unreachable!("the loop has no end but a return")
    }

    fn pause(&self, policy: &RetryPolicy, attempt: u32) -> Duration {
        let doubled = policy.first_pause.saturating_mul(1 << attempt.min(20));
        let half = doubled.min(policy.longest_pause) / 2;
        half + Duration::from_micros(self.entropy.next_u64() % (half.as_micros() as u64 + 1))
    }

    /// Takes one retry out of the budget: how long it has to wait for that.
    fn spend(&self) -> Duration {
        let refill = self.policy.budget_refill.as_micros().max(1) as i64;
        let full = i64::from(self.policy.budget) * ONE;
        let mut budget = self.budget.lock();
        let now = Instant::now();
        let gained = (now - budget.counted).as_micros() as i64 * ONE / refill;
        if gained > 0 {
            budget.counted = now;
            budget.left = budget.left.saturating_add(gained).min(full);
        }
        budget.left -= ONE;
        Duration::from_micros((-budget.left).max(0) as u64 * refill as u64 / ONE as u64)
    }

    fn refund(&self, amount: i64) {
        let mut budget = self.budget.lock();
        budget.left = (budget.left + amount).min(i64::from(self.policy.budget) * ONE);
    }

    /// What a create-only call makes of `exists` when an earlier attempt may have been done.
    async fn recognise(&self, key: &Key, body: &Payload, exists: Error) -> Result<ObjectMeta> {
        let meta = match self.inner.head(key).await {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(exists),
            Err(e) => return Err(e),
        };
        if meta.size != body.len() {
            return Err(exists);
        }
        match self.inner.get(key, None).await {
            Ok(stored) if body.equals(&stored) => Ok(meta),
            Ok(_) => Err(exists),
            // Gone meanwhile, or archived: it cannot be called ours.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => Err(exists),
            Err(e) => Err(e),
        }
    }
}

/// A body that was damaged before it left here will not be whole the next time: that error is final, all others are
/// judged by [`Retrying::run`].
fn final_if_ours<T>(body: &Payload, answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(e) if e.kind() == ErrorKind::Corrupt && body.check().is_err() => Ok(Err(e)),
        other => other.map(Ok),
    }
}

impl std::fmt::Debug for Retrying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Retrying({:?})", self.inner)
    }
}

#[async_trait]
impl Bucket for Retrying {
    fn url(&self) -> String {
        self.inner.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let size = range.as_ref().map_or(UNKNOWN_SIZE, |r| r.end.saturating_sub(r.start));
        self.run(Operation::Get, key.as_str(), size, |_| self.inner.get(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.run(Operation::Head, key.as_str(), 0, |_| self.inner.head(key)).await
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let once = async |again: bool| match self.inner.create(key, body, attributes).await {
            Err(e) if again && e.kind() == ErrorKind::Exists => self.recognise(key, body, e).await.map(Ok),
            other => final_if_ours(body, other),
        };
        self.run(Operation::Create, key.as_str(), body.len(), |again| Box::pin(once(again))).await?
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let once = async || final_if_ours(body, self.inner.put(key, body, attributes).await);
        self.run(Operation::Put, key.as_str(), body.len(), |_| Box::pin(once())).await?
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        self.run(Operation::List, prefix, 0, |_| self.inner.list(prefix, after, limit)).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        self.run(Operation::Copy, from.as_str(), UNKNOWN_SIZE, |_| self.inner.copy(from, to)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.run(Operation::Delete, key.as_str(), 0, |_| self.inner.delete(key)).await
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        self.run(Operation::SetClass, key.as_str(), UNKNOWN_SIZE, |_| self.inner.set_class(key, class)).await
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        self.run(Operation::Restore, key.as_str(), 0, |_| self.inner.restore(key, days)).await
    }
}
