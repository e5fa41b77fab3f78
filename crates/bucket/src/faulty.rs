use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{BoxFuture, Error, ErrorKind, Result, SeededEntropy};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::{Attributes, Bucket, Key, ObjectMeta, Operation, Payload, StorageClass};

/// How long a call hangs whose answer never comes: longer than any caller waits.
const FOREVER: Duration = Duration::from_secs(3600);

/// One thing that goes wrong between a gateway and its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is refused: nothing happened.
    Refused,
    /// The call is done after a pause.
    Slow(Duration),
    /// The connection breaks before the store has the request: nothing happened.
    ResetBefore,
    /// The store does it, then the connection breaks.
    ResetAfter,
    /// The store does it, and the answer never comes.
    AnswerLost,
    /// The answer never comes, and a write is done only after this time, when the caller has long given up. It is done
    /// at the first call after that, or by [`Faulty::deliver_late`].
    Late(Duration),
    /// The store says 503 Slow Down: nothing happened.
    Throttled,
    /// A bit of the bytes that are read is flipped.
    DamagedRead,
    /// A bit of the body is flipped on its way; a store that verifies checksums refuses it.
    DamagedWrite,
    /// A bit of the body is flipped behind the store's verification: it rots in the store.
    Rotten,
}

impl Fault {
    /// A stable lower-case word, under which [`Faults::injected`] counts it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Refused => "refused",
            Fault::Slow(_) => "slow",
            Fault::ResetBefore => "reset_before",
            Fault::ResetAfter => "reset_after",
            Fault::AnswerLost => "answer_lost",
            Fault::Late(_) => "late",
            Fault::Throttled => "throttled",
            Fault::DamagedRead => "damaged_read",
            Fault::DamagedWrite => "damaged_write",
            Fault::Rotten => "rotten",
        }
    }
}

/// What goes wrong by chance or by count.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// Each fault with how many calls in a thousand have it; at most one strikes a call.
    pub chances: Vec<(Fault, u32)>,
    /// A fault that strikes every n-th call.
    pub every: Option<(u64, Fault)>,
    /// How long calls take, at least and at most.
    pub latency: Option<(Duration, Duration)>,
}

/// A fault for particular calls. Scripts are asked in their order, before the plan.
#[derive(Debug, Clone)]
pub struct Script {
    /// The method; any, if `None`.
    pub operation: Option<Operation>,
    /// How the object's name (or the listed prefix) begins.
    pub prefix: String,
    /// How many such calls pass first.
    pub skip: u64,
    /// How many are then struck.
    pub times: u64,
    /// What strikes them.
    pub fault: Fault,
}

/// Whether the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outage {
    /// It is there.
    #[default]
    None,
    /// Every call is refused at once.
    Refusing,
    /// No call is ever answered, and none is done.
    Hanging,
}

/// The handle by which faults are set and counted while the bucket is in use.
#[derive(Debug)]
pub struct Faults {
    random: SeededEntropy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: FaultPlan,
    scripts: Vec<Script>,
    outage: Outage,
    calls: u64,
    injected: BTreeMap<&'static str, u64>,
    late: Vec<(Instant, Request)>,
}

/// A write that is done when nobody waits for it any more.
#[derive(Debug)]
enum Request {
    Create(Key, Payload, Attributes),
    Put(Key, Payload, Attributes),
    Copy(Key, Key),
    Delete(Key),
    SetClass(Key, StorageClass),
    Restore(Key, u32),
}

impl Faults {
    /// Sets what goes wrong from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.state.lock().plan = plan;
    }

    /// Adds a fault for particular calls.
    pub fn script(&self, script: Script) {
        self.state.lock().scripts.push(script);
    }

    /// The next call of `operation` has `fault`.
    pub fn next(&self, operation: Operation, fault: Fault) {
        self.script(Script { operation: Some(operation), prefix: String::new(), skip: 0, times: 1, fault });
    }

    /// Takes the store away, or brings it back. Calls that hang go on hanging.
    pub fn set_outage(&self, outage: Outage) {
        self.state.lock().outage = outage;
    }

    /// Ends all faults: no plan, no script, no outage. Late writes stay under way.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.plan = FaultPlan::default();
        state.scripts.clear();
        state.outage = Outage::None;
    }

    /// How often each fault struck, by its word; calls during an outage count as `outage`.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().injected.clone()
    }

    /// How many calls were made in all.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// How many late writes are under way.
    pub fn late(&self) -> usize {
        self.state.lock().late.len()
    }

    fn draw(&self, operation: Operation, name: &str) -> (Outage, Option<Fault>, Duration) {
        let mut state = self.state.lock();
        state.calls += 1;
        let latency = match state.plan.latency {
            Some((least, most)) => {
                let spread = most.saturating_sub(least).as_micros() as u64;
                least + Duration::from_micros(self.random.below(spread + 1))
            }
            None => Duration::ZERO,
        };
        if state.outage != Outage::None {
            *state.injected.entry("outage").or_default() += 1;
            return (state.outage, None, latency);
        }
        let fault = state.scripted(operation, name).or_else(|| state.planned(&self.random));
        if let Some(fault) = fault {
            *state.injected.entry(fault.as_str()).or_default() += 1;
        }
        (Outage::None, fault, latency)
    }

    /// Flips one bit, if there is one.
    fn damage(&self, bytes: &[u8]) -> Bytes {
        let mut bytes = bytes.to_vec();
        if !bytes.is_empty() {
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        bytes.into()
    }

    fn take_due(&self, all: bool) -> Vec<Request> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut state.late).into_iter().partition(|(at, _)| all || *at <= now);
        state.late = later;
        let mut due: Vec<_> = due;
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, request)| request).collect()
    }
}

impl State {
    fn scripted(&mut self, operation: Operation, name: &str) -> Option<Fault> {
        let fits = |s: &Script| s.operation.is_none_or(|o| o == operation) && name.starts_with(&s.prefix);
        let at = self.scripts.iter_mut().position(|s| {
            let strikes = fits(s) && s.skip == 0;
            if fits(s) && !strikes {
                s.skip -= 1;
            }
            strikes && s.times > 0
        })?;
        let script = &mut self.scripts[at];
        let fault = script.fault;
        script.times -= 1;
        if script.times == 0 {
            self.scripts.remove(at);
        }
        Some(fault)
    }

    fn planned(&self, random: &SeededEntropy) -> Option<Fault> {
        if let Some((n, fault)) = self.plan.every
            && self.calls.is_multiple_of(n)
        {
            return Some(fault);
        }
        if self.plan.chances.is_empty() {
            return None;
        }
        let mut dice = random.below(1000) as u32;
        for (fault, share) in &self.plan.chances {
            if dice < *share {
                return Some(*fault);
            }
            dice -= share;
        }
        None
    }
}

/// A bucket behind a bad network and a bad store, by seed and by script. It is how tests, simulations and operators
/// (`tidegate demo`) see a failing store without one.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Bucket>,
    faults: Arc<Faults>,
}

impl Faulty {
    /// Goes around `inner`; nothing goes wrong until the handle says so.
    pub fn new(inner: Arc<dyn Bucket>, seed: u64) -> Faulty {
        let faults = Faults { random: SeededEntropy::new(seed), state: Mutex::default() };
        Faulty { inner, faults: Arc::new(faults) }
    }

    /// The handle.
    pub fn faults(&self) -> Arc<Faults> {
        self.faults.clone()
    }

    /// Does all late writes now, in the order in which they are due.
    pub async fn deliver_late(&self) {
        self.deliver(self.faults.take_due(true)).await;
    }

    async fn deliver(&self, requests: Vec<Request>) {
        for request in requests {
            // Nobody hears how it ended.
            drop(match request {
                Request::Create(key, body, attributes) => {
                    self.inner.create(&key, &body, &attributes).await.map(drop)
                }
                Request::Put(key, body, attributes) => {
                    self.inner.put(&key, &body, &attributes).await.map(drop)
                }
                Request::Copy(from, to) => self.inner.copy(&from, &to).await.map(drop),
                Request::Delete(key) => self.inner.delete(&key).await,
                Request::SetClass(key, class) => self.inner.set_class(&key, class).await,
                Request::Restore(key, days) => self.inner.restore(&key, days).await,
            });
        }
    }

    /// Everything that happens before the store sees the request.
    async fn before(
        &self,
        operation: Operation,
        name: &str,
        request: impl FnOnce() -> Option<Request>,
    ) -> Result<Option<Fault>> {
        self.deliver(self.faults.take_due(false)).await;
        let (outage, fault, latency) = self.faults.draw(operation, name);
        if !latency.is_zero() {
            sleep(latency).await;
        }
        match (outage, fault) {
            (Outage::Refusing, _) => return Err(unavailable("connection refused: the store is away")),
            (Outage::Hanging, _) => return self.hang().await,
            (_, Some(Fault::Refused)) => return Err(unavailable("connection refused")),
            (_, Some(Fault::ResetBefore)) => return Err(unavailable("connection reset by peer")),
            (_, Some(Fault::Throttled)) => return Err(unavailable("503 Slow Down")),
            (_, Some(Fault::Slow(pause))) => sleep(pause).await,
            (_, Some(Fault::Late(delay))) => {
                if let Some(request) = request() {
                    self.faults.state.lock().late.push((Instant::now() + delay, request));
                }
                return self.hang().await;
            }
            _ => {}
        }
        Ok(fault)
    }

    /// Everything that happens to the answer.
    async fn answer<T>(&self, fault: Option<Fault>, call: BoxFuture<'_, Result<T>>) -> Result<T> {
        match fault {
            Some(Fault::ResetAfter) => {
                drop(call.await);
                Err(unavailable("connection reset by peer"))
            }
            Some(Fault::AnswerLost) => {
                drop(call.await);
                self.hang().await
            }
            _ => call.await,
        }
    }

    async fn hang<T>(&self) -> Result<T> {
        sleep(FOREVER).await;
        Err(unavailable("no answer"))
    }

    fn body(&self, fault: Option<Fault>, body: &Payload) -> Payload {
        match fault {
            Some(Fault::DamagedWrite) => {
                Payload::with_crc(vec![self.faults.damage(&body.to_bytes())], body.crc64())
            }
            Some(Fault::Rotten) => Payload::new(vec![self.faults.damage(&body.to_bytes())]),
            _ => body.clone(),
        }
    }
}

fn unavailable(what: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, what)
}

#[async_trait]
impl Bucket for Faulty {
    fn url(&self) -> String {
        self.inner.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let fault = self.before(Operation::Get, key.as_str(), || None).await?;
        let bytes = self.answer(fault, self.inner.get(key, range)).await?;
        Ok(if fault == Some(Fault::DamagedRead) { self.faults.damage(&bytes) } else { bytes })
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let fault = self.before(Operation::Head, key.as_str(), || None).await?;
        self.answer(fault, self.inner.head(key)).await
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let late = || Some(Request::Create(key.clone(), body.clone(), attributes.clone()));
        let fault = self.before(Operation::Create, key.as_str(), late).await?;
        self.answer(fault, self.inner.create(key, &self.body(fault, body), attributes)).await
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let late = || Some(Request::Put(key.clone(), body.clone(), attributes.clone()));
        let fault = self.before(Operation::Put, key.as_str(), late).await?;
        self.answer(fault, self.inner.put(key, &self.body(fault, body), attributes)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        let fault = self.before(Operation::List, prefix, || None).await?;
        self.answer(fault, self.inner.list(prefix, after, limit)).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let late = || Some(Request::Copy(from.clone(), to.clone()));
        let fault = self.before(Operation::Copy, from.as_str(), late).await?;
        self.answer(fault, self.inner.copy(from, to)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let fault =
            self.before(Operation::Delete, key.as_str(), || Some(Request::Delete(key.clone()))).await?;
        self.answer(fault, self.inner.delete(key)).await
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        let late = || Some(Request::SetClass(key.clone(), class));
        let fault = self.before(Operation::SetClass, key.as_str(), late).await?;
        self.answer(fault, self.inner.set_class(key, class)).await
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        let late = || Some(Request::Restore(key.clone(), days));
        let fault = self.before(Operation::Restore, key.as_str(), late).await?;
        self.answer(fault, self.inner.restore(key, days)).await
    }
}
