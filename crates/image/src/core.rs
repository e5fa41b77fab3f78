use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use base::{Epoch, Error, ErrorKind, ImageId, Result, SECTOR, Seq, Span};
use bytes::Bytes;
use chain::StateChange;
use local::{Committed, Owner, OwnerHandle, Payload, Record, RecordKind};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::admission::{Admission, Pacer};
use crate::destage::Request;
use crate::dirty::{DirtyRecord, join, slice_parts};
use crate::env::{Env, Event, Options, Severity};
use crate::fetch::InFlight;
use crate::layers::{Layers, Source};
use crate::lock::RangeLocks;
use crate::readahead::Readahead;
use crate::status::{Condition, Progress, Status};

/// An open image: a sparse, durable array of sectors.
///
/// Any number of threads may read and write it at once. It goes on working until it is closed ([`Image::close`]) or halted
/// ([`Image::halt`]).
#[derive(Clone)]
pub struct Image {
    pub(crate) core: Arc<Core>,
}

/// While it lives, nothing of the image is put into its bucket, and nothing counts ([`Image::hold`]).
#[derive(Debug)]
pub struct Hold {
    requests: mpsc::UnboundedSender<Request>,
}

impl Hold {
    /// One that is counted already.
    pub(crate) fn on(core: &Core) -> Hold {
        Hold { requests: core.requests.clone() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // An image that has ended needs no more.
        let _ = self.requests.send(Request::Resume);
    }
}

/// How a run of sectors is provisioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// It holds data.
    Data,
    /// It holds zeroes that were written.
    Zero,
    /// It holds nothing and reads as zeroes.
    Hole,
}

/// Sectors whose provisioning is looked up at a time.
const MAPPING_STEP: u64 = 256 << 11;

/// Where the write order is made.
pub(crate) struct Front {
    pub next: Seq,
    pub committed: Seq,
    /// Records that are visible already, before their sync, because the write cache is on.
    volatile: BTreeMap<Seq, Arc<DirtyRecord>>,
}

/// Committed records that no segment has taken yet, oldest first.
#[derive(Default)]
pub(crate) struct Backlog {
    pub queue: VecDeque<Arc<DirtyRecord>>,
    pub bytes: u64,
}

/// A segment has at most so many records.
pub(crate) const SEGMENT_RECORDS: usize = 16_384;

impl Backlog {
    /// Whether there is enough for a segment.
    pub fn fills_segment(&self, options: &Options) -> bool {
        self.bytes >= options.segment.0 || self.queue.len() >= SEGMENT_RECORDS
    }

    /// Adds records; says whether the destage loop has to look: it knows itself when those it has seen are old enough.
    fn extend(&mut self, records: Vec<Arc<DirtyRecord>>, options: &Options) -> bool {
        let (was_empty, was_full) = (self.queue.is_empty(), self.fills_segment(options));
        self.bytes += records.iter().map(|r| r.bytes).sum::<u64>();
        self.queue.extend(records);
        was_empty || (!was_full && self.fills_segment(options))
    }
}

/// What an image is made of; the destage loop and every handle share it.
pub(crate) struct Core {
    pub id: ImageId,
    pub env: Env,
    pub epoch: Epoch,
    /// The first epoch of the unbroken run in which this journal goes on.
    pub run_start: Epoch,
    pub block_size: u32,
    pub layers: RwLock<Layers>,
    pub journal: OnceLock<OwnerHandle>,
    pub front: Mutex<Front>,
    pub backlog: Mutex<Backlog>,
    pub states: Mutex<BTreeMap<String, Bytes>>,
    /// The same as of the last segment that counts.
    pub durable_states: Mutex<BTreeMap<String, Bytes>>,
    /// In sectors.
    pub size: AtomicU64,
    pub condition: RwLock<Condition>,
    pub locks: Arc<RangeLocks>,
    pub in_flight: InFlight,
    /// A prefetch that a client asked for is under way.
    pub prefetching: AtomicBool,
    pub readahead: Readahead,
    pub write_cache: AtomicBool,
    /// The destage loop looks again.
    pub wake: Notify,
    /// Something was committed.
    pub committed: Notify,
    pub requests: mpsc::UnboundedSender<Request>,
    pub progress: Mutex<Progress>,
    pub pacer: Pacer,
    /// Whether the destage loop has ended, with all that it does then.
    pub ended: watch::Sender<bool>,
}

/// The state that holds the image's size in sectors.
pub(crate) const SIZE_STATE: &str = "size";

/// The size in sectors that a value of [`SIZE_STATE`] means.
pub(crate) fn size_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_le_bytes)
}

/// The size that the last of these changes sets, if any does.
pub(crate) fn size_in(changes: &[StateChange]) -> Option<u64> {
    let last = changes.iter().rev().find(|change| change.name == SIZE_STATE)?;
    last.value.as_deref().and_then(size_of)
}

impl Front {
    /// The last record that has been accepted.
    pub fn last(&self) -> Seq {
        Seq(self.next.0.saturating_sub(1))
    }

    pub fn new(last: Seq) -> Front {
        Front { next: last.next(), committed: last, volatile: BTreeMap::new() }
    }
}

impl Core {
    /// Whether it serves. `Fenced`, or the failure that stopped it.
    pub fn usable(&self) -> Result<()> {
        match &*self.condition.read() {
            Condition::Open => Ok(()),
            Condition::Closed => Err(Error::new(ErrorKind::Unavailable, "the volume is closed")),
            Condition::Fenced(why) => Err(Error::fenced(format!("volume lost to another gateway: {why}"))),
            Condition::Failed(kind, why) => Err(Error::new(*kind, why.clone())),
        }
    }

    /// Leaves the open condition, once; later calls change nothing.
    pub fn stop_serving(&self, to: Condition) {
        let mut condition = self.condition.write();
        if *condition == Condition::Open {
            *condition = to;
            drop(condition);
            self.wake.notify_one();
        }
    }

    pub fn report(&self, severity: Severity, text: String) {
        self.env.events.event(Event { severity, image: self.id, text });
    }

    pub fn check_span(&self, span: Span) -> Result<()> {
        let size = self.size.load(Ordering::Acquire);
        if span.start.checked_add(span.count).is_some_and(|end| end <= size) {
            Ok(())
        } else {
            Err(Error::invalid(format!("sectors {}+{} lie behind the end at {size}", span.start, span.count)))
        }
    }

    /// Gives a record its place in the write order and hands it to the journal.
    fn append(
        &self,
        kind: RecordKind,
        span: Span,
        payload: Vec<Bytes>,
        admission: Admission,
        answer: Answer,
    ) -> Result<Appended> {
        let (done, committed) = oneshot::channel();
        // Before the lock: it takes as long as the bytes are many.
        let payload = Payload::new(payload);
        let mut front = self.front.lock();
        self.usable()?;
        let seq = front.next;
        // As the setting is now: who turns the write cache off waits for what comes before, and nothing early may come after.
        let early = answer == Answer::AsSet && self.write_cache.load(Ordering::Relaxed);
        let visible = early.then(|| payload.parts().to_vec());
        let record = Record { epoch: self.epoch, seq, kind, span, payload };
        let ended = || Error::new(ErrorKind::Unavailable, "the volume has ended");
        let journal = self.journal.get().ok_or_else(ended)?;
        match admission.reservation {
            Some(room) => journal.append_reserved(record, room, Some(done))?,
            None => journal.append(record, Some(done))?,
        }
        front.next = seq.next();
        if let Some(data) = visible {
            let now = Instant::now();
            let record = DirtyRecord::new(&self.env.memory, seq, kind, span, now, data);
            self.layers.write().publish(&record);
            front.volatile.insert(seq, record);
        }
        Ok(if early { Appended::Early } else { Appended::Waits(committed) })
    }

    /// Appends and waits as long as the write cache setting asks for.
    async fn change(
        &self,
        kind: RecordKind,
        span: Span,
        payload: Vec<Bytes>,
        admission: Admission,
        fua: bool,
    ) -> Result<()> {
        self.append(kind, span, payload, admission, Answer::of(fua))?.done().await
    }
}

/// When a record is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// When it is durable.
    Durable,
    /// At once if the write cache is on.
    AsSet,
}

impl Answer {
    fn of(fua: bool) -> Answer {
        if fua { Answer::Durable } else { Answer::AsSet }
    }
}

/// A record in the journal's queue.
enum Appended {
    /// It may be answered now.
    Early,
    /// It may be answered then.
    Waits(oneshot::Receiver<Result<()>>),
}

impl Appended {
    async fn done(self) -> Result<()> {
        let Appended::Waits(committed) = self else { return Ok(()) };
        committed.await.unwrap_or_else(|_| Err(Error::internal("the journal stopped before it answered")))
    }
}

impl Owner for Core {
    fn committed(&self, batch: Vec<Committed>) {
        let now = Instant::now();
        let mut records = Vec::with_capacity(batch.len());
        let mut fresh = Vec::with_capacity(batch.len());
        let Some(last) = batch.last().map(|c| c.record.seq) else { return };
        let mut front = self.front.lock();
        for Committed { record, location } in batch {
            let payload = record.payload.into_parts();
            if record.kind == RecordKind::State {
                self.set_state_now(&join(payload.clone()));
            }
            let known = front.volatile.remove(&record.seq);
            let visible = known.is_some();
            let dirty = known.unwrap_or_else(|| {
                DirtyRecord::new(&self.env.memory, record.seq, record.kind, record.span, now, payload)
            });
            dirty.placed(location);
            if !visible {
                fresh.push(dirty.clone());
            }
            records.push(dirty);
        }
        drop(front);
        let mut layers = self.layers.write();
        fresh.iter().for_each(|record| layers.publish(record));
        drop(layers);
        let wake = self.backlog.lock().extend(records, &self.env.options);
        // Only now: who sees that all is committed looks into the backlog next, and what it does not find there is lost.
        self.front.lock().committed = last;
        if wake {
            self.wake.notify_one();
        }
        self.committed.notify_waiters();
    }

    fn poisoned(&self, error: &Error) {
        let text = format!(
            "the journal failed and takes no more writes: {error}; restart the gateway to recover from it"
        );
        self.report(Severity::Error, text.clone());
        self.stop_serving(Condition::Failed(ErrorKind::Internal, text));
        // One that is closing has stopped serving, and waits for what will not come.
        self.wake.notify_one();
        self.committed.notify_waiters();
    }
}

impl Core {
    /// Applies the payload of a state record.
    pub fn set_state_now(&self, payload: &[u8]) {
        let Ok((name, value)) = decode_state(payload) else {
            return self.report(Severity::Error, "a state record in the journal cannot be read".into());
        };
        if name == SIZE_STATE
            && let Some(size) = value.as_deref().and_then(size_of)
        {
            self.size.store(size, Ordering::Release);
        }
        let mut states = self.states.lock();
        match value {
            Some(value) => states.insert(name, value),
            None => states.remove(&name),
        };
    }
}

/// A state record's payload: 1 byte set or removed, 2 bytes length of the name, name, value; padded with zeroes is not
/// allowed.
pub(crate) fn encode_state(name: &str, value: Option<&Bytes>) -> Bytes {
    let mut payload = vec![u8::from(value.is_some())];
    payload.extend_from_slice(&(name.len() as u16).to_le_bytes());
    payload.extend_from_slice(name.as_bytes());
    payload.extend_from_slice(value.map_or(&[], |v| &v[..]));
    payload.into()
}

/// The reverse of [`encode_state`].
pub(crate) fn decode_state(payload: &[u8]) -> Result<(String, Option<Bytes>)> {
    let wrong = || Error::corrupt("a state record's payload is malformed");
    let [set, a, b, rest @ ..] = payload else { return Err(wrong()) };
    let len = u16::from_le_bytes([*a, *b]) as usize;
    let (name, value) = rest.split_at_checked(len).ok_or_else(wrong)?;
    let name =
        std::str::from_utf8(name).map_err(|e| Error::caused(ErrorKind::Corrupt, "a state's name", e))?;
    Ok((name.to_owned(), (*set == 1).then(|| Bytes::copy_from_slice(value))))
}

impl Image {
    /// Its id.
    pub fn id(&self) -> ImageId {
        self.core.id
    }

    /// Its size in sectors.
    pub fn sectors(&self) -> u64 {
        self.core.size.load(Ordering::Acquire)
    }

    /// Bytes in a logical block: 512 or 4,096.
    pub fn block_size(&self) -> u32 {
        self.core.block_size
    }

    /// The present owner's term.
    pub fn epoch(&self) -> Epoch {
        self.core.epoch
    }

    /// The first epoch of the unbroken run this owner is in: older local segments of the image are a fork. `None` once another
    /// gateway owns it: then all are.
    pub fn run_start(&self) -> Option<Epoch> {
        let fenced = matches!(*self.core.condition.read(), Condition::Fenced(_));
        (!fenced).then_some(self.core.run_start)
    }

    /// Whether it serves, and why not.
    pub fn usable(&self) -> Result<()> {
        self.core.usable()
    }

    /// A permission to write, if one is to be had without waiting.
    pub fn try_admit(&self, bytes: u64) -> Option<Admission> {
        self.core.try_admit(bytes)
    }

    /// Waits for a permission to write; slow when the disk fills faster than the bucket takes it.
    ///
    /// `Busy` when none was to be had within the time set; `Fenced` and others if the image stopped.
    pub async fn admit(&self, bytes: u64) -> Result<Admission> {
        self.core.admit(bytes).await
    }

    /// Reads if everything is in memory or page cache; the parts make up the span in order.
    pub fn try_read(&self, span: Span) -> Option<Result<Vec<Bytes>>> {
        self.core.try_read(span)
    }

    /// Reads. `Corrupt` if stored bytes are not what was written and no other copy is; the event names the object.
    pub async fn read(&self, span: Span) -> Result<Vec<Bytes>> {
        match self.core.try_read(span) {
            Some(done) => done,
            None => self.core.read(span).await,
        }
    }

    /// Writes whole sectors; durable on return unless the write cache is on and `fua` is not set.
    pub async fn write(&self, start: u64, data: Vec<Bytes>, fua: bool, admission: Admission) -> Result<()> {
        let bytes: u64 = data.iter().map(|d| d.len() as u64).sum();
        let span = Span::new(start, bytes / SECTOR);
        self.core.check_span(span)?;
        if !bytes.is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!("{bytes} bytes are no whole sectors")));
        }
        let _guard = self.lock(span, false).await;
        // It may have become smaller meanwhile: then the guard was waited for.
        self.core.check_span(span)?;
        self.put(span, data, admission, fua).await
    }

    /// Appends data under a lock that the caller holds.
    async fn put(&self, span: Span, data: Vec<Bytes>, admission: Admission, fua: bool) -> Result<()> {
        if span.bytes() <= self.core.env.journal.max_record() {
            return self.core.change(RecordKind::Data, span, data, admission, fua).await;
        }
        self.put_in_records(span, data, admission, fua).await
    }

    /// A write longer than a journal record can be: several records, all queued before the first is waited for.
    async fn put_in_records(
        &self,
        span: Span,
        data: Vec<Bytes>,
        mut admission: Admission,
        fua: bool,
    ) -> Result<()> {
        let most = self.core.env.journal.max_record() / SECTOR;
        let mut waiting = Vec::new();
        let mut at = 0;
        while at < span.count {
            let part = Span::new(span.start + at, most.min(span.count - at));
            let mut cut = Vec::new();
            slice_parts(&data, at * SECTOR, part.bytes(), &mut cut);
            let room = admission.reservation.as_mut().and_then(|r| r.split(part.bytes()));
            waiting.push(self.core.append(
                RecordKind::Data,
                part,
                cut,
                Admission { reservation: room },
                Answer::of(fua),
            )?);
            at += part.count;
        }
        for record in waiting {
            record.done().await?;
        }
        Ok(())
    }

    /// Makes sectors zeroes; with `unmap` they may be given up and become holes.
    pub async fn zero(&self, span: Span, unmap: bool) -> Result<()> {
        self.core.check_span(span)?;
        if span.is_empty() {
            return Ok(());
        }
        let _guard = self.lock(span, false).await;
        self.core.check_span(span)?;
        let admission = self.core.admit(0).await?;
        let kind = if unmap { RecordKind::Discard } else { RecordKind::Zero };
        self.core.change(kind, span, Vec::new(), admission, false).await
    }

    /// Reads, lets `change` work on the bytes, and writes them if it says so, with no other write to the span between.
    pub async fn update(
        &self,
        span: Span,
        admission: Admission,
        change: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<()> {
        self.core.check_span(span)?;
        let _guard = self.lock(span, true).await;
        self.core.check_span(span)?;
        let mut bytes = base::AlignedBuf::zeroed(span.bytes() as usize);
        let mut at = 0;
        for part in self.read(span).await? {
            bytes[at..at + part.len()].copy_from_slice(&part);
            at += part.len();
        }
        if !change(&mut bytes) {
            return Ok(());
        }
        self.put(span, vec![bytes.into_bytes()], admission, false).await
    }

    async fn lock(&self, span: Span, exclusive: bool) -> crate::lock::RangeGuard {
        match self.core.locks.try_lock(span, exclusive) {
            Some(guard) => guard,
            None => self.core.locks.lock(span, exclusive).await,
        }
    }

    /// Makes every acknowledged write durable (those the write cache acknowledged early).
    pub async fn flush(&self) -> Result<()> {
        let outstanding = {
            let front = self.core.front.lock();
            front.committed.next() != front.next
        };
        if !outstanding {
            return self.core.usable();
        }
        let admission = Admission::control();
        let barrier =
            self.core.append(RecordKind::Barrier, Span::new(0, 0), Vec::new(), admission, Answer::Durable)?;
        barrier.done().await
    }

    /// Whether writes may be acknowledged before they are durable. Off at first.
    pub fn set_write_cache(&self, on: bool) {
        let _no_record_between = self.core.front.lock();
        self.core.write_cache.store(on, Ordering::Relaxed);
    }

    /// A small value stored with the image.
    pub fn state(&self, name: &str) -> Option<Bytes> {
        self.core.states.lock().get(name).cloned()
    }

    /// Stores one, or removes it; durable on return. Names up to 255 bytes, values up to 64 KiB.
    pub async fn set_state(&self, name: &str, value: Option<Bytes>) -> Result<()> {
        if name.len() > 255 || value.as_ref().is_some_and(|v| v.len() > 64 << 10) {
            return Err(Error::invalid(format!("state {name:?} is too long to be kept")));
        }
        let payload = vec![encode_state(name, value.as_ref())];
        let (none, admission) = (Span::new(0, 0), Admission::control());
        self.core.append(RecordKind::State, none, payload, admission, Answer::Durable)?.done().await
    }

    /// Changes the size. What lies behind a smaller one is given up.
    pub async fn resize(&self, sectors: u64) -> Result<()> {
        let old = self.sectors();
        let tail = Span::new(sectors, old.saturating_sub(sectors));
        // Writes that were let in before must not come behind the discard, or growing would bring them back.
        let _guard = self.lock(tail, true).await;
        if !tail.is_empty() {
            let admission = self.core.admit(0).await?;
            self.core.change(RecordKind::Discard, tail, Vec::new(), admission, false).await?;
        }
        self.set_state(SIZE_STATE, Some(Bytes::copy_from_slice(&sectors.to_le_bytes()))).await
    }

    /// How the run at `start` is provisioned, and its length, at most `most`.
    pub async fn mapping(&self, start: u64, most: u64) -> Result<(Mapping, u64)> {
        let span = Span::new(start, most.min(self.sectors().saturating_sub(start)));
        self.core.check_span(span)?;
        let mut found: Option<(Mapping, u64)> = None;
        let mut at = span.start;
        while at < span.end() {
            // In steps: the map of a large span may be more than should be loaded at a time.
            let step = Span::new(at, MAPPING_STEP.min(span.end() - at));
            for (run, source) in self.core.resolve(step).await? {
                let kind = match source {
                    Source::Hole => Mapping::Hole,
                    Source::Zero => Mapping::Zero,
                    Source::Record { .. }
                    | Source::Spooled { .. }
                    | Source::Stored { .. }
                    | Source::Unknown(_) => Mapping::Data,
                };
                match &mut found {
                    None => found = Some((kind, run.count)),
                    Some((same, count)) if *same == kind => *count += run.count,
                    Some(done) => return Ok(*done),
                }
            }
            at = step.end();
        }
        Ok(found.unwrap_or((Mapping::Hole, span.count)))
    }

    /// Fetches a span into the cache, soon.
    pub fn prefetch(&self, span: Span) {
        if self.core.check_span(span).is_ok() {
            self.core.spawn_prefetch_all(span);
        }
    }

    /// Waits until everything that was acknowledged by now is in the bucket.
    pub async fn drain(&self) -> Result<()> {
        self.request(Request::Drain).await
    }

    /// Drains and cuts a checkpoint.
    pub async fn checkpoint(&self) -> Result<()> {
        self.request(Request::Checkpoint).await
    }

    /// Ends it in good order: everything goes to the bucket, and any gateway may open it next. Waits for the bucket as
    /// long as it takes; it goes on if this is dropped.
    pub async fn close(&self) -> Result<()> {
        self.request(Request::Close).await
    }

    /// Stops at once; what is dirty stays in the journal, and this gateway's next open goes on with it.
    pub async fn halt(&self) -> Result<()> {
        self.core.stop_serving(Condition::Closed);
        self.request(Request::Halt).await
    }

    /// Nothing is put into the bucket, and nothing counts, while what this gives lives: the store behind it may change meanwhile.
    /// What was put and did not count yet is put again afterwards.
    pub async fn hold(&self) -> Result<Hold> {
        // Before it is asked for: who gives up waiting lets go of it, too.
        let hold = Hold::on(&self.core);
        self.request(Request::Hold).await?;
        Ok(hold)
    }

    async fn request(&self, make: impl FnOnce(oneshot::Sender<Result<()>>) -> Request) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(ErrorKind::Unavailable, "the volume's background work has ended");
        let ended = || self.core.usable().and_then(|()| Err(gone()));
        if self.core.requests.send(make(answer)).is_err() {
            return ended();
        }
        answered.await.unwrap_or_else(|_| ended())
    }

    /// Waits until all background work has ended: of an image that was lost to another gateway, until what it had is kept as
    /// a fork, whole.
    pub async fn ended(&self) {
        // The sender lives as long as this handle.
        let _ = self.core.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// What an operator wants to know.
    pub fn status(&self) -> Status {
        self.core.status()
    }
}
