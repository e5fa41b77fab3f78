//! The one loop that owns an image's chain: it seals dirty records into segments, sees them into the bucket, and moves
//! the durable point.
//!
//! Order of things, for each segment: sealed; put (several at a time); when it and all before it are put, one check that the
//! epoch is still ours, begun after the puts succeeded, makes them *count*; then the map changes, the journal's
//! space comes free and the local segment goes. When the bucket does not keep up, the oldest segments become local
//! segments, which frees the journal just as well.

mod count;
mod spool;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::{BoxFuture, Error, ErrorKind, Number, Result, Seq};
use chain::{HeaderDraft, Kind, Ownership, Position, RowId, Sealed, SegmentDraft};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::checkpoint::{Durable, Made};
use crate::collect::Collector;
use crate::compact::{Compactor, Copies};
use crate::core::{Core, SEGMENT_RECORDS, size_in};
use crate::courtesy::Courtesy;
use crate::dirty::{Accepted, DirtyRecord, SpooledSegment};
use crate::env::Severity;
use crate::gather::gather;
use crate::layers::Standing;
use crate::open::Spent;
use crate::outgoing::{Body, Outgoing, Put};
use crate::status::{Condition, Work};
use upkeep::Attempt;

/// What a handle asks of the loop.
pub(crate) enum Request {
    Drain(oneshot::Sender<Result<()>>),
    Checkpoint(oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
    Halt(oneshot::Sender<Result<()>>),
    /// Nothing is put or counted any more.
    Hold(oneshot::Sender<Result<()>>),
    /// Until as many resume as held.
    Resume,
}

/// Somebody who waits until all up to a record counts.
struct Waiter {
    upto: Seq,
    checkpoint: bool,
    answer: oneshot::Sender<Result<()>>,
}

type PutDone = (Number, Result<()>);
/// The segments that were to be emptied, and what of them was copied.
type Copied = (Vec<RowId>, Result<Box<Copies>>);

/// See the module.
pub(crate) struct Destager {
    pub core: Arc<Core>,
    pub own: Ownership,
    pub requests: mpsc::UnboundedReceiver<Request>,
    /// The last segment sealed.
    pub head: Position,
    pub durable: Durable,
    /// The last client record sealed, and the size as of it.
    pub sealed_seq: Seq,
    pub sealed_size: u64,
    /// Sealed and not yet counted, in order.
    pub outgoing: VecDeque<Outgoing>,
    /// Local segments of earlier epochs that must be sealed anew before any record, in order.
    pub inherited: VecDeque<Arc<SpooledSegment>>,
    pub collector: Collector,
    pub since_checkpoint: usize,
    pub puts: FuturesUnordered<BoxFuture<'static, PutDone>>,
    pub check: Option<BoxFuture<'static, (Number, Result<()>)>>,
    /// The last segment that the store had when the epoch was found to be ours.
    owned: Number,
    /// Which copies of the oldest segment stand: it counts next.
    standing: Option<BoxFuture<'static, Result<Standing>>>,
    pub checkpoint: Option<BoxFuture<'static, Result<Box<Made>>>>,
    compactor: Compactor,
    copying: Option<BoxFuture<'static, Copied>>,
    budget: Budget,
    /// The newest attempt at a checkpoint.
    attempt: Option<Attempt>,
    /// A page of the map could not be read: checkpoints merge nothing.
    damaged_map: bool,
    compact_after: Instant,
    pub next_check: Instant,
    /// What could not be mapped waits so long.
    map_after: Instant,
    /// Since when it has been asked, in vain so far, which copies of the oldest segment stand.
    mapping_since: Option<Instant>,
    pub checkpoint_after: Instant,
    courtesy: Courtesy,
    /// The local disk was full: not before then is it tried again.
    spool_after: Instant,
    waiters: Vec<Waiter>,
    /// So many hold it: at first who opens it.
    held: usize,
    /// What to let go of when nobody holds it any more.
    spent: Option<Spent>,
    closing: Option<oneshot::Sender<Result<()>>>,
    close_sealed: bool,
}

enum Action {
    Request(Option<Request>),
    Put(PutDone),
    Checked(Number, Result<()>),
    Mapped(Result<Standing>),
    Checkpointed(Result<Box<Made>>),
    Copied(Vec<RowId>, Result<Box<Copies>>),
    Look,
}

/// The parts of a [`Destager`] that opening has worked out.
pub(crate) struct Start {
    pub own: Ownership,
    pub requests: mpsc::UnboundedReceiver<Request>,
    pub head: Position,
    pub last_seq: Seq,
    /// The size in sectors as of that record.
    pub size: u64,
    pub inherited: VecDeque<Arc<SpooledSegment>>,
    pub spent: Spent,
    pub since_checkpoint: usize,
    pub collector: Collector,
    pub compactor: Compactor,
    pub budget: Budget,
}

impl Destager {
    pub fn new(core: Arc<Core>, start: Start) -> Destager {
        let now = Instant::now();
        Destager {
            next_check: now + core.env.options.check_every,
            checkpoint_after: now,
            core,
            own: start.own,
            requests: start.requests,
            head: start.head,
            durable: Durable { position: start.head, seq: start.last_seq, size: start.size },
            sealed_seq: start.last_seq,
            sealed_size: start.size,
            outgoing: VecDeque::new(),
            inherited: start.inherited,
            collector: start.collector,
            since_checkpoint: start.since_checkpoint,
            puts: FuturesUnordered::new(),
            check: None,
            owned: start.head.number,
            standing: None,
            checkpoint: None,
            compactor: start.compactor,
            copying: None,
            budget: start.budget,
            attempt: None,
            damaged_map: false,
            compact_after: now,
            map_after: now,
            mapping_since: None,
            courtesy: Courtesy::new(now),
            spool_after: now,
            waiters: Vec::new(),
            held: 1,
            spent: Some(start.spent),
            closing: None,
            close_sealed: false,
        }
    }

    /// Runs until the image is closed, halted, fenced or fails; then the journal knows it no more, and it can be opened
    /// again.
    pub async fn run(self) {
        let core = self.core.clone();
        self.work().await;
        if let Some(journal) = core.journal.get().cloned() {
            journal.detach();
        }
        core.ended.send_replace(true);
    }

    async fn work(mut self) {
        loop {
            let stop = match self.advance().await {
                Ok(deadline) => {
                    let action = self.select(deadline).await;
                    self.apply(action).await
                }
                Err(e) => Err(e),
            };
            match stop {
                Ok(false) => {}
                Ok(true) => return,
                Err(e) => return self.fail(e).await,
            }
        }
    }

    async fn select(&mut self, deadline: Instant) -> Action {
        let core = self.core.clone();
        tokio::select! {
            biased;
            request = self.requests.recv() => Action::Request(request),
            Some((covers, result)) = maybe(&mut self.check) => Action::Checked(covers, result),
            Some(standing) = maybe(&mut self.standing) => Action::Mapped(standing),
            Some(done) = self.puts.next(), if !self.puts.is_empty() => Action::Put(done),
            Some(made) = maybe(&mut self.checkpoint) => Action::Checkpointed(made),
            Some((victims, copied)) = maybe(&mut self.copying) => Action::Copied(victims, copied),
            () = core.wake.notified() => Action::Look,
            () = tokio::time::sleep_until(deadline) => Action::Look,
        }
    }

    /// Acts on one thing that happened; `true` ends the loop.
    async fn apply(&mut self, action: Action) -> Result<bool> {
        match action {
            Action::Request(None) => return Ok(true),
            Action::Request(Some(request)) => return Ok(self.take(request)),
            Action::Put((number, result)) => self.put_done(number, result)?,
            Action::Checked(covers, result) => {
                self.check = None;
                self.next_check = Instant::now() + self.core.env.options.check_every;
                match result {
                    Ok(()) => {
                        self.owned = self.owned.max(covers);
                        self.well(Work::Check);
                    }
                    Err(e) if e.kind() == ErrorKind::Fenced => return Err(e),
                    Err(e) => {
                        self.trouble(Work::Check, format!("cannot check the ownership of the volume: {e}"));
                    }
                }
            }
            Action::Mapped(standing) => {
                self.standing = None;
                self.mapped(standing).await?;
            }
            Action::Checkpointed(made) => {
                self.checkpoint = None;
                self.checkpointed(made)?;
            }
            Action::Copied(victims, copied) => {
                self.copying = None;
                self.copied(victims, copied);
            }
            Action::Look => {}
        }
        self.count().await?;
        if self.closing.is_some() && self.close_sealed && self.outgoing.is_empty() {
            self.core.stop_serving(Condition::Closed);
            self.answer_all(Ok(()));
            return Ok(true);
        }
        Ok(false)
    }

    fn take(&mut self, request: Request) -> bool {
        // What was answered early is meant too.
        let upto = self.core.front.lock().last();
        match request {
            Request::Drain(answer) => self.waiters.push(Waiter { upto, checkpoint: false, answer }),
            Request::Checkpoint(answer) => self.waiters.push(Waiter { upto, checkpoint: true, answer }),
            Request::Close(answer) => self.closing = Some(answer),
            Request::Halt(answer) => {
                let _ = answer.send(Ok(()));
                return true;
            }
            Request::Hold(answer) => {
                self.hold();
                let _ = answer.send(Ok(()));
            }
            Request::Resume => self.held -= 1,
        }
        false
    }

    /// Starts whatever can be started; says when to look again at the latest.
    async fn advance(&mut self) -> Result<Instant> {
        let now = Instant::now();
        let failed = match &*self.core.condition.read() {
            Condition::Failed(kind, why) => Some(Error::new(*kind, why.clone())),
            Condition::Open | Condition::Closed | Condition::Fenced(_) => None,
        };
        if let Some(error) = failed {
            // What is committed is uploaded after the next start, which recovers it; nobody waits here for that.
            self.answer_all(Err(error));
            return Ok(now + Duration::from_secs(3600));
        }
        if !matches!(*self.core.condition.read(), Condition::Open) && self.closing.is_none() {
            // The handle was halted.
            return Ok(now + Duration::from_secs(3600));
        }
        if self.held > 0 && self.spent.is_some() {
            // It is not certain yet that it goes on here: nothing is begun.
            return Ok(now + Duration::from_secs(1));
        }
        if let Some(spent) = self.spent.take() {
            spent.let_go(&self.core).await?;
        }
        self.courtesy.observe(self.core.front.lock().committed, now);
        self.seal_what_is_due().await?;
        self.spool_under_pressure().await?;
        if self.held > 0 {
            self.note_progress();
            return Ok(now + Duration::from_secs(1));
        }
        self.start_puts();
        self.start_check();
        self.start_checkpoint();
        self.start_copying();
        self.answer_waiters();
        self.collector.delete_due(&self.core, &self.own);
        self.seal_close()?;
        self.note_progress();
        Ok(self.deadline(now))
    }

    fn deadline(&self, now: Instant) -> Instant {
        let retry = self.outgoing.iter().filter_map(|o| match o.put {
            Put::Idle(at, _) => at,
            _ => None,
        });
        let age = if self.core.backlog.lock().queue.is_empty() {
            None
        } else {
            Some(now + Duration::from_millis(200))
        };
        let rest = (!self.outgoing.is_empty()).then(|| self.courtesy.ends(now)).flatten();
        let map = Some(self.map_after).filter(|at| *at > now);
        retry
            .chain(age)
            .chain(rest)
            .chain(map)
            .chain([self.next_check])
            .min()
            .unwrap_or(self.next_check)
            .max(now + Duration::from_millis(1))
    }

    /// How many puts there may be at a time.
    fn puts_allowed(&self, now: Instant) -> usize {
        let patience = self.waiters.is_empty() && self.closing.is_none() && self.inherited.is_empty();
        let most = self.core.env.options.puts;
        if patience { self.courtesy.puts(most, self.crowding(), self.waited(), now) } else { most }
    }

    /// How long the oldest data sealed has waited.
    fn waited(&self) -> Duration {
        match self.oldest() {
            None => Duration::ZERO,
            Some(Accepted::Here(at)) => at.elapsed(),
            Some(Accepted::Before(_)) => Duration::MAX,
        }
    }

    /// How scarce room is for what clients write next: that on the disk, and three quarters of that in memory, without which
    /// it would be read back from the journal to be sealed.
    fn crowding(&self) -> f64 {
        self.core.fullness().max(0.75 * self.core.env.memory.fullness())
    }

    /// How full the journal is, from 0 to 1.
    fn journal_fullness(&self) -> f64 {
        self.core.env.journal.room().fullness()
    }

    /// When the oldest client record that does not count yet was accepted.
    fn oldest(&self) -> Option<Accepted> {
        self.outgoing.iter().find_map(|o| o.oldest)
    }

    fn draining(&self) -> bool {
        self.closing.is_some() || self.waiters.iter().any(|w| w.upto > self.sealed_seq)
    }

    fn unsealed_due(&self) -> bool {
        let backlog = self.core.backlog.lock();
        let Some(oldest) = backlog.queue.front() else { return false };
        backlog.fills_segment(&self.core.env.options)
            || oldest.accepted.elapsed() >= self.core.env.options.segment_age
            || self.draining()
    }

    async fn seal_what_is_due(&mut self) -> Result<()> {
        // No more is sealed than can be put soon: sealing takes time of the processors that clients may need.
        let room = self.puts_allowed(Instant::now()).max(1) + 1;
        loop {
            let in_memory = || self.outgoing.iter().filter(|o| o.in_memory());
            // What the store has is only late to count, but for long it must not take the memory that all volumes share.
            let to_put = in_memory().filter(|o| o.put != Put::Done).count();
            let memory = match in_memory().count() {
                0 => Some(None),
                all if to_put >= room || all >= 2 * room => None,
                _ => self.core.env.memory.try_seal(self.core.env.options.segment.0).map(Some),
            };
            let Some(memory) = memory else {
                if !self.should_spool() {
                    return Ok(());
                }
                self.spool_if_it_fits().await?;
                continue;
            };
            if let Some(segment) = self.inherited.pop_front() {
                self.seal_inherited(segment).await?;
            } else if self.unsealed_due() {
                self.seal_records().await?;
                if let Some(Outgoing { body: Body::Memory(_, room), .. }) = self.outgoing.back_mut() {
                    *room = memory;
                }
            } else {
                return Ok(());
            }
        }
    }

    fn draft(&self, kind: Kind, first: Seq, last: Seq) -> HeaderDraft {
        HeaderDraft {
            image: self.core.id,
            epoch: self.own.epoch(),
            previous: self.head,
            kind,
            created: self.core.env.clock.now(),
            size: self.sealed_size,
            first_seq: first,
            last_seq: last,
        }
    }

    /// Seals the oldest committed records, up to a segment's worth. They leave the backlog when they are outgoing: who asks
    /// meanwhile what is dirty must not miss them.
    async fn seal_records(&mut self) -> Result<()> {
        let records = self.oldest_records();
        let Some((first, last)) = records.first().zip(records.last()).map(|(a, b)| (a.seq, b.seq)) else {
            return Ok(());
        };
        if first != self.sealed_seq.next() {
            return Err(Error::internal(format!("record {first} would be sealed after {}", self.sealed_seq)));
        }
        let content = gather(&self.core.env.journal, &records).await?;
        let dirty = records.iter().map(|r| r.bytes).sum::<u64>();
        // What lies beyond a later size is of no use, what a later shrink has not yet cut off must not come back: so the size goes
        // with the records, not with the time.
        self.sealed_size = size_in(content.states()).unwrap_or(self.sealed_size);
        let draft = self.draft(Kind::Data, first, last);
        self.push(content.seal(draft), draft, dirty, Some(Accepted::Here(records[0].accepted)));
        self.note_progress();
        let mut backlog = self.core.backlog.lock();
        backlog.queue.drain(..records.len());
        backlog.bytes -= dirty;
        Ok(())
    }

    fn oldest_records(&self) -> Vec<Arc<DirtyRecord>> {
        let most = self.core.env.options.segment.0;
        let mut bytes = 0;
        let fits = |(n, record): &(usize, &Arc<DirtyRecord>)| {
            bytes += record.bytes;
            *n == 0 || (bytes <= most && *n < SEGMENT_RECORDS)
        };
        let backlog = self.core.backlog.lock();
        backlog.queue.iter().enumerate().take_while(fits).map(|(_, record)| record.clone()).collect()
    }

    async fn seal_inherited(&mut self, segment: Arc<SpooledSegment>) -> Result<()> {
        let (first, last) = (segment.header.first_seq, segment.header.last_seq);
        if first != self.sealed_seq.next() {
            return Err(Error::corrupt(format!(
                "local segment {} begins at record {first}, but the last one before it is {}",
                segment.name, self.sealed_seq
            )));
        }
        self.sealed_size = segment.header.size;
        let draft = self.draft(Kind::Data, first, last);
        let object = self.core.env.spool.get(segment.image, &segment.name, 0..segment.bytes).await?;
        let sealed = crate::outgoing::reseal(&segment, &object, draft)?;
        let (dirty, created) = (segment.bytes, segment.header.created);
        self.push(sealed, draft, dirty, Some(Accepted::Before(created)));
        if let Some(out) = self.outgoing.back_mut() {
            out.body = Body::Spooled(segment);
        }
        Ok(())
    }

    fn push(&mut self, sealed: Sealed, draft: HeaderDraft, dirty: u64, oldest: Option<Accepted>) {
        self.head = sealed.header.position;
        self.sealed_seq = self.sealed_seq.max(sealed.header.last_seq);
        self.outgoing.push_back(Outgoing {
            header: sealed.header.clone(),
            draft,
            size: sealed.payload.len(),
            body: Body::Memory(Arc::new(sealed), None),
            put: Put::Idle(None, 0),
            dirty,
            oldest,
        });
    }

    /// Whether the journal is so full that making room in it comes first.
    fn pressed(&self) -> bool {
        self.journal_fullness() > self.core.env.options.spool_above
    }

    fn release(&self, upto: Seq) {
        if let Some(journal) = self.core.journal.get() {
            journal.release(upto);
        }
    }

    fn start_puts(&mut self) {
        let now = Instant::now();
        let most = self.puts_allowed(now);
        // While the journal has room, what was uploaded is kept in the cache, whatever it takes; later room comes first.
        let keep = !self.pressed();
        for out in &mut self.outgoing {
            if self.puts.len() >= most {
                return;
            }
            let Put::Idle(not_before, failures) = out.put else { continue };
            if not_before.is_some_and(|at| at > now) {
                continue;
            }
            out.put = Put::Flying { since: now, failures };
            self.courtesy.began(now);
            let (core, own) = (self.core.clone(), self.own.clone());
            let (body, draft, number) = (out.body_ref(), out.draft, out.header.position.number);
            self.puts.push(Box::pin(async move {
                let put = async {
                    let sealed = Outgoing::load(&core, body, draft).await?;
                    let fill = async {
                        if failures == 0 && keep {
                            // A cache that is stuck must not hold up what is put.
                            let _ = tokio::time::timeout(FILL, core.keep(&sealed)).await;
                        }
                    };
                    // Its bytes are in the cache when the map begins to point there.
                    futures_util::future::join(own.put_segment(&sealed), fill).await.0
                };
                (number, put.await)
            }));
        }
    }

    fn put_done(&mut self, number: Number, result: Result<()>) -> Result<()> {
        let Some(out) = self.outgoing.iter_mut().find(|o| o.header.position.number == number) else {
            return Err(Error::internal(format!("segment {number} came back but was not sent")));
        };
        let Put::Flying { failures, .. } = out.put else {
            return Err(Error::internal(format!("segment {number} came back twice")));
        };
        match result {
            Ok(()) => {
                out.put = Put::Done;
                self.courtesy.ended(Instant::now());
                let size = out.size;
                self.core.progress.lock().uploaded += size;
                if !self.outgoing.iter().any(Outgoing::is_failing) {
                    self.well(Work::Put);
                }
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::Fenced | ErrorKind::Corrupt | ErrorKind::Internal) => {
                Err(e)
            }
            Err(e) => {
                let wait = Duration::from_millis(500 << failures.min(4));
                out.put = Put::Idle(Some(Instant::now() + wait), failures + 1);
                self.trouble(Work::Put, format!("cannot upload: {e}"));
                Ok(())
            }
        }
    }

    /// From here on nothing is put, and nothing counts: the store may be another one afterwards. What is known of puts and checks
    /// so far is forgotten. All begins again when it is resumed.
    fn hold(&mut self) {
        self.held += 1;
        self.puts.clear();
        self.check = None;
        self.standing = None;
        self.owned = self.durable.position.number;
        for out in &mut self.outgoing {
            match out.put {
                Put::Idle(..) => {}
                Put::Flying { failures, .. } => out.put = Put::Idle(None, failures),
                _ => out.put = Put::Idle(None, 0),
            }
        }
        if self.checkpoint.take().is_some() {
            self.checkpoint_failed();
        }
    }

    fn trouble(&self, work: Work, why: String) {
        let now = self.core.env.clock.now();
        let first = self.core.progress.lock().troubles.begin(work, why.clone(), now);
        if first {
            self.core.report(Severity::Warning, why);
        }
    }

    /// Something succeeded that may have failed before.
    fn well(&self, work: Work) {
        let over = self.core.progress.lock().troubles.end(work);
        if over {
            self.core.report(Severity::Info, "uploads go on".into());
        }
    }

    fn answer_waiters(&mut self) {
        let checkpointed = self.checkpoint.is_none() && self.since_checkpoint == 0;
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.upto <= self.durable.seq && (!waiter.checkpoint || checkpointed) {
                let _ = waiter.answer.send(Ok(()));
            } else {
                self.waiters.push(waiter);
            }
        }
    }

    /// When closing and all is counted and checkpointed: the last segment.
    fn seal_close(&mut self) -> Result<()> {
        let idle = self.outgoing.is_empty()
            && self.inherited.is_empty()
            && self.core.backlog.lock().queue.is_empty()
            && self.checkpoint.is_none()
            && self.copying.is_none();
        let mapped = !self.core.layers.read().delta.is_empty() && Instant::now() >= self.checkpoint_after;
        if self.closing.is_none() || self.close_sealed || !idle || (mapped && self.since_checkpoint > 0) {
            return Ok(());
        }
        // Nothing more is taken from here on: a record behind the close would be lost to the next owner.
        self.core.stop_serving(Condition::Closed);
        let settled = {
            let front = self.core.front.lock();
            front.committed.next() == front.next
        };
        if !settled || !self.core.backlog.lock().queue.is_empty() {
            // What is under way wakes the loop when it comes into the backlog, or when the journal fails.
            return self.core.env.journal.poisoned().map_or(Ok(()), Err);
        }
        let draft = self.draft(Kind::Close, self.sealed_seq.next(), self.sealed_seq);
        self.push(SegmentDraft::default().seal(draft), draft, 0, None);
        self.close_sealed = true;
        self.start_puts();
        Ok(())
    }

    fn note_progress(&self) {
        let mut progress = self.core.progress.lock();
        progress.dirty_bytes = self.outgoing.iter().map(|o| o.dirty).sum::<u64>()
            + self.inherited.iter().map(|s| s.bytes).sum::<u64>();
        let inherited = || self.inherited.front().map(|s| Accepted::Before(s.header.created));
        progress.oldest_dirty = self.oldest().or_else(inherited).map(|at| self.core.time_of(at));
    }

    fn answer_all(&mut self, result: Result<()>) {
        let again = || result.as_ref().map_or_else(|e| Err(e.duplicate()), |()| Ok(()));
        for waiter in std::mem::take(&mut self.waiters) {
            let _ = waiter.answer.send(again());
        }
        if let Some(answer) = self.closing.take() {
            let _ = answer.send(again());
        }
    }

    /// The end for a reason: the image stops serving; if it was fenced, what is not in the bucket becomes a fork.
    async fn fail(mut self, error: Error) {
        let condition = match error.kind() {
            ErrorKind::Fenced => Condition::Fenced(error.to_string()),
            kind => Condition::Failed(kind, format!("background work stopped: {error}")),
        };
        self.core.report(Severity::Error, format!("the volume stopped: {error}"));
        self.core.stop_serving(condition);
        self.answer_all(Err(error.duplicate()));
        if error.kind() == ErrorKind::Fenced
            && let Err(e) = self.keep_as_fork().await
        {
            self.core.report(
                Severity::Error,
                format!("what was lost to the other gateway stays in the journal: {e}"),
            );
        }
    }
}

/// How long the put of a segment may wait for the cache to take it too.
const FILL: Duration = Duration::from_secs(2);

/// A future that may not be there.
async fn maybe<T>(slot: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    match slot {
        Some(future) => Some(future.await),
        None => std::future::pending().await,
    }
}
