//! The committer: the only one who writes to the journal's files; and the preparer, who makes them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use base::{AlignedBuf, Error, ErrorKind, ImageId, Result, StartId};
use bytes::Bytes;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout_at};

use super::book::{Book, Extent};
use super::format::{BLOCK, BatchHeader, FILE_HEADER, FileHeader, MAX_LIVE, RecordEntry, batch_header_len};
use super::{Committed, Location, Owner, Phase, Queued, Record, Shared, State, slot_name};
use crate::disk::DiskFile;

/// The file the committer goes on with.
pub(super) struct Start {
    pub file: Arc<dyn DiskFile>,
    pub generation: u64,
    pub salt: u64,
    /// The number of the next batch.
    pub number: u64,
}

/// Whoever holds it writes: the journal's own thread, or for once the thread that brought the record.
pub(super) struct Committer {
    now: Start,
    /// When to write a mark, if something is not covered by one.
    mark_due: Option<Instant>,
    /// Whether the journal's thread will look by then.
    mark_awaited: bool,
    /// How many of the last batches had one record each.
    lone: u32,
    /// How long the last batch took.
    took: Duration,
}

/// After so many batches of one record each, nobody is there whose records could go along with the next one.
const LONE: u32 = 8;
/// A disk that takes longer than this is not waited for by a thread that has other things to do.
const QUICK: Duration = Duration::from_millis(2);

/// What the journal's thread does when there is nothing to write.
enum Rest {
    /// It looks again when there is work, or at this time.
    Until(Option<Instant>),
    End,
}

enum Work {
    Batch(Batch),
    NewFile,
}

/// What one batch will hold and how long its parts are.
struct Batch {
    records: Vec<Queued>,
    offset: u64,
    size: Size,
}

#[derive(Default, Clone, Copy)]
struct Size {
    records: usize,
    packed: u64,
    direct: u64,
}

impl Size {
    fn with(self, record: &Record) -> Size {
        let len = record.payload.len();
        let mut size = Size { records: self.records + 1, ..self };
        if is_direct(record) {
            size.direct += len;
        } else {
            size.packed += len.next_multiple_of(8);
        }
        size
    }

    /// Header and packed payloads.
    fn front(self) -> u64 {
        batch_header_len(self.records) + self.packed.next_multiple_of(BLOCK)
    }

    fn len(self) -> u64 {
        self.front() + self.direct
    }
}

/// Whether the payload can be written from where it lies.
fn is_direct(record: &Record) -> bool {
    let aligned =
        |p: &Bytes| (p.as_ptr() as u64).is_multiple_of(BLOCK) && (p.len() as u64).is_multiple_of(BLOCK);
    !record.payload.is_empty() && record.payload.parts().iter().all(aligned)
}

/// The journal's thread: runs until the journal is closed or a write fails.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let mut held = shared.committer.lock().await;
        let worked_off = match held.as_mut() {
            Some(committer) => committer.work_off(&shared).await,
            None => Ok(Rest::End),
        };
        let rest = match worked_off {
            Ok(rest) => rest,
            Err(e) => return shared.poison(held, e),
        };
        drop(held);
        let more = shared.work.notified();
        match rest {
            Rest::Until(None) => more.await,
            // Work or the time for a mark: it will see.
            Rest::Until(Some(due)) => timeout_at(due, more).await.unwrap_or_default(),
            Rest::End => return shared.end(),
        }
    }
}

/// Writes what is queued on the calling thread, if that is one record of somebody who is alone: waking another thread for
/// it, and being woken by it, would take as long as the write itself. Says whether it did.
pub(super) fn commit_here(shared: &Shared) -> bool {
    let Ok(mut held) = shared.committer.try_lock() else { return false };
    let Some(committer) = held.as_mut().filter(|c| c.now.file.writes_at_once()) else { return false };
    let batch = {
        let mut state = shared.state.lock();
        let alone = state.queue.len() == 1 && committer.lone >= LONE && committer.took < QUICK;
        if !alone || !matches!(state.phase, Phase::Open) {
            return false;
        }
        match committer.take(shared, &mut state) {
            Work::Batch(batch) => batch,
            Work::NewFile => return false,
        }
    };
    if let Err(e) = wait_here(committer.write_batch(shared, batch)) {
        shared.poison(held, e);
        return true;
    }
    let awaited = std::mem::replace(&mut committer.mark_awaited, true);
    drop(held);
    if !awaited {
        shared.work.notify_one();
    }
    true
}

/// Carries out what is over when it has been polled once, unless room has to be made on the disk first: for that this thread waits.
fn wait_here<T>(work: impl Future<Output = T>) -> T {
    // On this thread nothing goes on before it is over: it must not be told to let others have a turn.
    let mut work = pin!(tokio::task::unconstrained(work));
    if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return done;
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

/// Wakes a thread that waits here.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Committer {
    pub fn new(start: Start) -> Committer {
        Committer { now: start, mark_due: None, mark_awaited: false, lone: 0, took: Duration::ZERO }
    }

    /// Writes everything that is queued, and the mark if it is time for it.
    async fn work_off(&mut self, shared: &Shared) -> Result<Rest> {
        loop {
            let (work, closing, cluttered) = {
                let mut state = shared.state.lock();
                // Another thread's write failed: not even a mark may be written behind it.
                if let Phase::Poisoned(_) = state.phase {
                    return Ok(Rest::End);
                }
                let work = (!state.queue.is_empty()).then(|| self.take(shared, &mut state));
                let cluttered = work.is_none() && state.space.is_cluttered();
                (work, !matches!(state.phase, Phase::Open), cluttered)
            };
            match work {
                Some(Work::Batch(batch)) => self.write_batch(shared, batch).await?,
                Some(Work::NewFile) => self.begin_file(shared).await?,
                None if cluttered => self.begin_file(shared).await?,
                None if self.mark_due.is_some_and(|due| closing || due <= Instant::now()) => {
                    self.write_mark(shared).await?;
                }
                None if closing => return Ok(Rest::End),
                None => {
                    self.mark_awaited = self.mark_due.is_some();
                    return Ok(Rest::Until(self.mark_due));
                }
            }
        }
    }

    /// As much of the queue as one batch in the current file can take.
    fn take(&self, shared: &Shared, state: &mut State) -> Work {
        let options = &shared.options;
        let State { queue, space, .. } = state;
        if space.is_stale() {
            return Work::NewFile;
        }
        let left = space.left();
        let mut size = Size::default();
        while let Some(next) = queue.get(size.records).map(|q| size.with(&q.record)) {
            let enough = next.len() > options.max_batch || next.records > options.max_records;
            if next.len() > left || (size.records > 0 && enough) {
                break;
            }
            size = next;
        }
        if size.records == 0 {
            return Work::NewFile;
        }
        space.start_batch();
        let records = if size.records == queue.len() {
            std::mem::take(queue)
        } else {
            queue.drain(..size.records).collect::<VecDeque<_>>()
        };
        Work::Batch(Batch { records: records.into(), offset: space.offset(), size })
    }

    fn header(&self, shared: &Shared, offset: u64, len: u64, records: Vec<RecordEntry>) -> BatchHeader {
        BatchHeader {
            journal: shared.id,
            generation: self.now.generation,
            salt: self.now.salt,
            number: self.now.number,
            offset,
            len: len as u32,
            durable: self.now.number - 1,
            records,
        }
    }

    /// The parts to write, and where each record's payload will lie.
    fn encode(&self, shared: &Shared, batch: &Batch) -> (Vec<Bytes>, Vec<Location>) {
        let front_len = batch.size.front();
        let mut front = AlignedBuf::zeroed(front_len as usize);
        let mut packed = batch_header_len(batch.records.len());
        let mut direct = front_len;
        let mut parts = vec![Bytes::new()];
        let mut entries = Vec::with_capacity(batch.records.len());
        for q in &batch.records {
            let payload = &q.record.payload;
            let len = payload.len();
            let payload_offset = if is_direct(&q.record) {
                parts.extend(payload.parts().iter().cloned());
                direct += len;
                direct - len
            } else {
                let start = packed;
                let mut at = start as usize;
                for part in payload.parts() {
                    front[at..at + part.len()].copy_from_slice(part);
                    at += part.len();
                }
                packed += len.next_multiple_of(8);
                start
            };
            entries.push(RecordEntry {
                owner: q.id,
                epoch: q.record.epoch,
                seq: q.record.seq,
                kind: q.record.kind,
                span: q.record.span,
                payload_offset: payload_offset as u32,
                payload_len: len as u32,
                crc64: payload.crc64(),
            });
        }
        let location = |e: &RecordEntry| Location {
            file: self.now.generation,
            offset: batch.offset + u64::from(e.payload_offset),
            len: e.payload_len,
            crc64: e.crc64,
        };
        let locations = entries.iter().map(location).collect();
        self.header(shared, batch.offset, batch.size.len(), entries).encode_into(&mut front);
        parts[0] = front.into_bytes();
        (parts, locations)
    }

    async fn write_batch(&mut self, shared: &Shared, batch: Batch) -> Result<()> {
        let (parts, locations) = self.encode(shared, &batch);
        let begun = Instant::now();
        self.lone = if batch.size.records == 1 { self.lone.saturating_add(1) } else { 0 };
        #[cfg(test)]
        if shared.options.sabotage == Some(super::Sabotage::AckBeforeSync) {
            let offset = batch.offset;
            self.publish(shared, batch, locations);
            tokio::task::yield_now().await;
            let written = self.write(shared, offset, &parts).await;
            self.wrote_batch(shared, begun);
            return written;
        }
        if let Err(e) = self.write(shared, batch.offset, &parts).await {
            batch.fail(&e);
            return Err(e);
        }
        self.publish(shared, batch, locations);
        self.wrote_batch(shared, begun);
        Ok(())
    }

    async fn write(&self, shared: &Shared, offset: u64, parts: &[Bytes]) -> Result<()> {
        #[cfg(test)]
        if shared.options.sabotage == Some(super::Sabotage::SkipSync) {
            return self.now.file.write(offset, parts).await;
        }
        self.now.file.write_durable(offset, parts).await.map_err(|e| {
            let name = shared.name_of(self.now.generation);
            e.within(format!("write {name} at {offset}"))
        })
    }

    fn wrote_batch(&mut self, shared: &Shared, begun: Instant) {
        let now = Instant::now();
        self.now.number += 1;
        self.took = now - begun;
        self.mark_due = Some(now + shared.options.mark_delay);
    }

    /// The batch is durable: enter it into the books, tell the owners, wake those who wait; in this order.
    fn publish(&self, shared: &Shared, batch: Batch, locations: Vec<Location>) {
        let extents = extents(self.now.generation, &batch.records);
        let cost = batch.records.iter().map(|q| q.cost).sum();
        {
            let mut state = shared.state.lock();
            state.last_batch = Some(Instant::now());
            state.space.finish_batch(batch.size.len(), extents.len() as u64, cost);
            for (id, extent) in extents {
                state.books.entry(id).or_default().enter(extent);
            }
        }
        let mut done = Vec::new();
        let mut owners: Vec<(ImageId, Arc<dyn Owner>, Vec<Committed>)> = Vec::new();
        for (q, location) in batch.records.into_iter().zip(locations) {
            let committed = Committed { record: q.record, location };
            done.extend(q.done);
            match owners.iter_mut().rev().find(|(id, ..)| *id == q.id) {
                Some((_, _, list)) => list.push(committed),
                None => owners.push((q.id, q.owner, vec![committed])),
            }
        }
        for (_, owner, list) in owners {
            owner.committed(list);
        }
        for waiter in done {
            // Whoever gave up waiting has dropped the other end.
            let _ = waiter.send(Ok(()));
        }
        shared.room.notify_waiters();
    }

    async fn write_mark(&mut self, shared: &Shared) -> Result<()> {
        let offset = shared.state.lock().space.offset();
        let mut block = AlignedBuf::zeroed(BLOCK as usize);
        self.header(shared, offset, BLOCK, Vec::new()).encode_into(&mut block);
        self.write(shared, offset, &[block.into_bytes()]).await?;
        shared.state.lock().space.finish_mark();
        self.now.number += 1;
        self.mark_due = None;
        Ok(())
    }

    /// Goes on in another file. Its header, made durable first, is also the mark of everything before.
    async fn begin_file(&mut self, shared: &Shared) -> Result<()> {
        let slot = slot(shared).await?;
        self.now = begin_file(shared, slot, self.now.generation + 1, self.now.number).await?;
        self.mark_due = None;
        shared.prepare.notify_one();
        shared.room.notify_waiters();
        Ok(())
    }
}

/// A slot that may be written over. What was admitted has one; waiting for the preparer is for records that the
/// reserve for control records let in.
async fn slot(shared: &Shared) -> Result<u32> {
    loop {
        let tried = shared.prepared.notified();
        tokio::pin!(tried);
        tried.as_mut().enable();
        {
            let mut state = shared.state.lock();
            #[cfg(test)]
            if shared.options.sabotage == Some(super::Sabotage::ReuseEarly)
                && let Some(slot) = state.space.early_slot()
            {
                return Ok(slot);
            }
            if let Some(slot) = state.space.take_next_slot() {
                return Ok(slot);
            }
            state.no_file = None;
        }
        shared.prepare.notify_one();
        tried.await;
        let failed = shared.state.lock().no_file.as_ref().map(Error::duplicate);
        match failed {
            // Too many files are open: that passes.
            Some(e) if e.kind() == ErrorKind::Busy => tokio::time::sleep(AGAIN).await,
            Some(e) => return Err(e),
            None => {}
        }
    }
}

/// Begins a life of the file in `slot`, which may be written over, by making its header durable.
pub(super) async fn begin_file(shared: &Shared, slot: u32, generation: u64, number: u64) -> Result<Start> {
    let (file, live) = {
        let state = shared.state.lock();
        (state.slots.get(&slot).cloned().expect("every slot in the books has its file"), state.space.table())
    };
    if live.len() > MAX_LIVE {
        return Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "the journal needs {} files at once: let it upload before restarting it again",
                live.len()
            ),
        ));
    }
    shared.readable.write().retain(|_, (s, _)| *s != slot);
    let salt = shared.entropy.next_u64();
    let header = FileHeader {
        journal: shared.id,
        generation,
        salt,
        slot,
        first_batch: number,
        file_size: shared.options.file_size,
        start: shared.starts.current(),
        live,
    };
    let written = file.write_durable(0, &[header.encode().into_bytes()]).await;
    written.map_err(|e| e.within(format!("begin {}", slot_name(slot))))?;
    shared.state.lock().space.begin_file(generation, slot, &header.live);
    shared.readable.write().insert(generation, (slot, file.clone()));
    Ok(Start { file, generation, salt, number })
}

impl Batch {
    fn fail(self, error: &Error) {
        for waiter in self.records.into_iter().filter_map(|q| q.done) {
            let _ = waiter.send(Err(stopped(error)));
        }
    }
}

/// What the records of one batch add to each owner's account, in journal order.
fn extents(file: u64, records: &[Queued]) -> Vec<(ImageId, Extent)> {
    let mut out: Vec<(ImageId, Extent)> = Vec::new();
    for q in records {
        let bytes = q.record.payload.len();
        match out.iter_mut().rev().find(|(id, e)| *id == q.id && e.epoch == q.record.epoch) {
            Some((_, e)) => {
                e.last = q.record.seq;
                e.records += 1;
                e.bytes += bytes;
            }
            None => {
                out.push((
                    q.id,
                    Extent { file, epoch: q.record.epoch, last: q.record.seq, records: 1, bytes },
                ));
            }
        }
    }
    out
}

fn stopped(error: &Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("the journal has stopped; restart the gateway to recover from what is durable: {error}"),
    )
}

impl Shared {
    /// The journal stops for good: nothing is tried again, because after a failed sync nobody can know what is on the disk.
    ///
    /// Whose write failed still holds the committer, and it ends here, before anybody else can have it: the next batch would be
    /// written where the failed one was, under its number, and be acknowledged.
    fn poison(&self, mut held: MutexGuard<'_, Option<Committer>>, error: Error) {
        let error = stopped(&error);
        let (queue, owners) = {
            let mut state = self.state.lock();
            state.phase = Phase::Poisoned(error.duplicate());
            (std::mem::take(&mut state.queue), state.take_owners())
        };
        *held = None;
        drop(held);
        self.work.notify_one();
        for owner in owners {
            owner.poisoned(&error);
        }
        for waiter in queue.into_iter().filter_map(|q| q.done) {
            let _ = waiter.send(Err(error.duplicate()));
        }
        self.tell_the_end();
    }

    fn end(&self) {
        let owners = {
            let mut state = self.state.lock();
            if let Phase::Poisoned(_) = state.phase {
                return;
            }
            state.phase = Phase::Closed;
            state.take_owners()
        };
        drop(owners);
        self.tell_the_end();
    }

    fn tell_the_end(&self) {
        self.room.notify_waiters();
        self.prepare.notify_one();
        self.ended.send_replace(true);
    }
}

impl State {
    fn take_owners(&mut self) -> Vec<Arc<dyn Owner>> {
        self.books.values_mut().filter_map(|b: &mut Book| b.attached.take()).collect()
    }
}

/// How long a file that could not be made for now is left alone.
const AGAIN: Duration = Duration::from_millis(100);

/// A journal is idle if nothing was written for so long.
const IDLE: Duration = Duration::from_millis(100);

/// What the preparer of files does next.
enum Errand {
    Remove(u32),
    /// A file that will be needed soon.
    Make(u32),
    /// One that is made because there is time.
    Reserve(u32),
    /// Look again then.
    Later(Instant),
    Nothing,
    End,
}

/// Makes files ahead of need, and removes those beyond it, until the journal ends.
pub(super) async fn prepare_files(shared: Arc<Shared>) {
    let mut reserves = true;
    loop {
        let more = shared.prepare.notified();
        tokio::pin!(more);
        more.as_mut().enable();
        match errand(&shared, reserves) {
            Errand::End => return,
            Errand::Remove(slot) => remove_slot(&shared, slot).await,
            Errand::Make(slot) => {
                let made = add_file(&shared, slot).await;
                let failed = made.is_err();
                shared.state.lock().no_file = made.err();
                shared.prepared.notify_waiters();
                shared.room.notify_waiters();
                shared.work.notify_one();
                if failed {
                    more.await;
                }
            }
            // Where there is no room for a reserve there may still be for what is needed.
            Errand::Reserve(slot) => reserves = add_file(&shared, slot).await.is_ok(),
            Errand::Later(then) => timeout_at(then, more).await.unwrap_or_default(),
            Errand::Nothing => {
                shared.prepared.notify_waiters();
                more.await;
            }
        }
    }
}

fn errand(shared: &Shared, reserves: bool) -> Errand {
    let mut state = shared.state.lock();
    if !matches!(state.phase, Phase::Open | Phase::Closing) {
        return Errand::End;
    }
    if let Some(slot) = state.space.take_surplus() {
        return Errand::Remove(slot);
    }
    if state.space.wants_slot() {
        return Errand::Make(state.space.new_slot());
    }
    if !reserves || !matches!(state.phase, Phase::Open) || !state.space.wants_reserve(shared.options.ahead) {
        return Errand::Nothing;
    }
    let idle_at = state.last_batch.map(|at| at + IDLE).filter(|at| *at > Instant::now());
    match idle_at {
        Some(then) => Errand::Later(then),
        None => Errand::Reserve(state.space.new_slot()),
    }
}

async fn add_file(shared: &Shared, slot: u32) -> Result<()> {
    let file = make_file(shared, slot).await?;
    let mut state = shared.state.lock();
    state.slots.insert(slot, file);
    state.space.add_slot(slot);
    Ok(())
}

async fn remove_slot(shared: &Shared, slot: u32) {
    shared.readable.write().retain(|_, (s, _)| *s != slot);
    shared.state.lock().slots.remove(&slot);
    // A file that could not be removed is found and used again at the next start.
    let _ = shared.disk.remove(&slot_name(slot)).await;
}

/// Makes a zeroed file and marks it as never used, so that the next start need not search it.
pub(super) async fn make_file(shared: &Shared, slot: u32) -> Result<Arc<dyn DiskFile>> {
    let name = slot_name(slot);
    let size = shared.options.file_size;
    let within = |e: Error| e.within(format!("make {name} of {size} bytes for the journal"));
    let file = shared.disk.create(&name, size).await.map_err(within)?;
    let blank = FileHeader {
        journal: shared.id,
        generation: 0,
        salt: 0,
        slot,
        first_batch: 0,
        file_size: size,
        start: StartId([0; 16]),
        live: Vec::new(),
    };
    debug_assert!(size > FILE_HEADER);
    file.write_durable(0, &[blank.encode().into_bytes()]).await.map_err(within)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
