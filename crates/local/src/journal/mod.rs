//! The journal: what makes a write durable. One per cache disk, shared by all images on it.
//!
//! Records are queued by [`OwnerHandle::append`], which never waits; one committer takes whatever is queued, writes
//! it as one batch with one sync, publishes it to the owners in journal order and only then wakes those who wait.
//! The layout on the disk and the rules of recovery stand in `docs/formats/journal.md`.
//!
//! # Space
//!
//! The journal consists of files; a file is used again when every record in it has been released. An append must
//! never find the journal full after it was promised to fit, so space is admitted up front:
//!
//! - [`Journal::try_reserve`] and [`Journal::reserve`] set aside room for one record of a given payload, at its worst
//!   cost ([`Journal::cost`]: alone in a batch, followed by a mark). A record appended with a reservation that covers it is always taken.
//! - A record appended without one (or with one too small) is taken if there is room that nobody has reserved; else
//!   it is refused at once with `NoSpace`. It is never queued to wait for space.
//! - State, namespace and barrier records may use a small reserve that data cannot, because writing them is part of
//!   getting data out and thus of making room.
//!
//! Reservations held and records queued are also bounded by [`JournalOptions::max_reserved`], which bounds memory.

mod book;
mod commit;
pub mod format;
mod record;
mod recover;
mod space;
pub mod starts;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{Entropy, Epoch, Error, ErrorKind, ImageId, JournalId, Result, Seq, Spawn, StartId, Urgency};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::disk::{Disk, DiskFile};
use book::Book;
use commit::Committer;
pub use record::{
    Committed, Done, JournalUsage, Location, Owner, OwnerUsage, Payload, Record, RecordKind, Recovered,
    Recovery, Room,
};
use space::Space;
use starts::Starts;
pub use turn::turn;

/// How a journal is made and run.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// How many bytes of files it may use (at least two files' worth are used).
    pub capacity: u64,
    /// The length of each file in bytes, a multiple of 4,096; it counts only when the journal is first made.
    pub file_size: u64,
    /// A batch takes no further record once it has so many bytes.
    pub max_batch: u64,
    /// A batch has at most so many records.
    pub max_records: usize,
    /// The longest payload of a record, in bytes; an eighth of the file size if that is less.
    pub max_record: u64,
    /// Reservations held plus records queued may come to so many bytes.
    pub max_reserved: u64,
    /// So many bytes of files are made ready while the journal is idle: making them while clients write costs them half of
    /// the disk's speed.
    pub ahead: u64,
    /// How long after the last batch the journal writes a mark.
    pub mark_delay: Duration,
    /// Breaks one rule, to show that the tests would notice.
    #[cfg(test)]
    pub(crate) sabotage: Option<Sabotage>,
}

impl JournalOptions {
    /// For a journal of so many bytes. A file is kept for a single record that is needed, so even a small journal has several: 16, or
    /// as many as files of 8 MiB make.
    pub fn of(capacity: u64) -> JournalOptions {
        let all = JournalOptions::default();
        let sixteenth = capacity / 16 / (1 << 20) * (1 << 20);
        JournalOptions { capacity, file_size: sixteenth.clamp(8 << 20, all.file_size), ..all }
    }
}

impl Default for JournalOptions {
    fn default() -> JournalOptions {
        JournalOptions {
            capacity: 4 << 30,
            file_size: 64 << 20,
            max_batch: 4 << 20,
            max_records: 512,
            max_record: 4 << 20,
            max_reserved: 128 << 20,
            ahead: 1 << 30,
            mark_delay: Duration::from_millis(20),
            #[cfg(test)]
            sabotage: None,
        }
    }
}

/// The rules that tests break on purpose.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Never sync.
    SkipSync,
    /// Wake waiters before the write.
    AckBeforeSync,
    /// Recovery believes payloads and takes rot for a torn tail.
    SkipCrc,
    /// Recovery takes batches of a file's former lives.
    IgnoreGeneration,
    /// Begin a new file without regard for what the newest durable header lists.
    ReuseEarly,
}

/// A handle to the journal of one cache disk. When the last handle (and the last [`OwnerHandle`]) is dropped, the
/// journal closes by itself; [`Journal::close`] also waits for that.
#[derive(Clone)]
pub struct Journal(Arc<Front>);

/// Closes the journal when nobody can append any more.
struct Front(Arc<Shared>);

impl Drop for Front {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({} on {})", self.id(), self.shared().disk.place())
    }
}

/// A slot and its file.
type Readable = (u32, Arc<dyn DiskFile>);

/// What the handles, the committer and the preparer share.
struct Shared {
    id: JournalId,
    starts: Starts,
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    entropy: Arc<dyn Entropy>,
    state: Mutex<State>,
    /// There once the journal has begun its first file, and until a write fails.
    committer: tokio::sync::Mutex<Option<Committer>>,
    /// Files by generation, for readers; a generation disappears from here before its file is written over.
    readable: RwLock<BTreeMap<u64, Readable>>,
    /// Work for the committer.
    work: Notify,
    /// Room may have appeared.
    room: Notify,
    /// Work for the preparer of files.
    prepare: Notify,
    /// The preparer has tried.
    prepared: Notify,
    /// Those who wait for room, in order.
    turn: tokio::sync::Mutex<()>,
    /// Whether the committer has ended.
    ended: watch::Sender<bool>,
}

struct State {
    phase: Phase,
    queue: VecDeque<Queued>,
    space: Space,
    books: BTreeMap<ImageId, Book>,
    slots: BTreeMap<u32, Arc<dyn DiskFile>>,
    waiting: usize,
    /// When the last batch was durable.
    last_batch: Option<Instant>,
    /// Why the last attempt to make a file failed.
    no_file: Option<Error>,
    /// Why nothing more is taken for now.
    refusal: Option<Error>,
}

enum Phase {
    Open,
    Closing,
    Closed,
    Poisoned(Error),
}

/// A record on its way to the disk.
struct Queued {
    id: ImageId,
    owner: Arc<dyn Owner>,
    record: Record,
    done: Option<Done>,
    cost: u64,
}

impl Journal {
    /// Opens the journal on a disk, or makes one. `Corrupt` names the file and offset where a record that was durable
    /// has rotted; `NoSpace` if there is no room for one more file.
    pub async fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        spawn: Arc<dyn Spawn>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Journal, Recovery)> {
        let (shared, start, recovery) = recover::open(disk, options, entropy).await?;
        *shared.committer.lock().await = Some(Committer::new(start));
        let shared = Arc::new(shared);
        spawn.spawn_thread("journal", Urgency::Clients, Box::pin(commit::run(shared.clone())));
        spawn.spawn_thread(
            "journal-files",
            Urgency::Background,
            Box::pin(commit::prepare_files(shared.clone())),
        );
        Ok((Journal(Arc::new(Front(shared))), recovery))
    }

    /// Which journal is on a disk, if there is one. `Corrupt` if it does not say.
    pub async fn find(disk: &dyn Disk) -> Result<Option<JournalId>> {
        recover::find(disk).await
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// The journal's id.
    pub fn id(&self) -> JournalId {
        self.shared().id
    }

    /// This start of it. A copy of the disk has the journal's id, too, but each start of it another one of these.
    pub fn start(&self) -> StartId {
        self.shared().starts.current()
    }

    /// Whether it has had that start: one of a copy of its disk, since that was made, is none of its own.
    pub fn has_started(&self, start: StartId) -> bool {
        self.shared().starts.ids.contains(&start)
    }

    /// Makes `owner` the one who appends for image `id` and is told of it. The journal keeps `owner` alive until
    /// [`OwnerHandle::detach`], [`Journal::close`] or poisoning. `Exists` if the image is attached already.
    pub fn attach(&self, id: ImageId, owner: Arc<dyn Owner>) -> Result<OwnerHandle> {
        let mut state = self.shared().state.lock();
        state.phase.check()?;
        let book = state.books.entry(id).or_default();
        if book.attached.is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("image {id} is attached to the journal already: detach it first"),
            ));
        }
        book.attached = Some(owner);
        Ok(OwnerHandle { journal: self.clone(), id })
    }

    /// Whether somebody is attached for an image.
    pub fn is_attached(&self, id: ImageId) -> bool {
        self.shared().state.lock().books.get(&id).is_some_and(|book| book.attached.is_some())
    }

    /// What a record with so many payload bytes may take at worst, in bytes: what a reservation for it counts.
    pub fn cost(payload: u64) -> u64 {
        space::cost(payload)
    }

    /// The longest payload of one record, in bytes.
    pub fn max_record(&self) -> u64 {
        self.shared().options.max_record
    }

    /// Reserves room for one record of up to `payload` bytes, if there is room and nobody waits for it.
    pub fn try_reserve(&self, payload: u64) -> Option<Reservation> {
        let mut state = self.shared().state.lock();
        if state.waiting > 0 || state.takes().is_err() {
            return None;
        }
        self.take_room(&mut state, space::cost(payload))
    }

    fn take_room(&self, state: &mut State, cost: u64) -> Option<Reservation> {
        let taken = state.space.reserve(cost, false, self.shared().options.max_reserved);
        taken.then(|| Reservation { shared: self.shared().clone(), bytes: cost })
    }

    /// Reserves room for one record of up to `payload` bytes, waiting for it, first come first served. An error if
    /// the journal stops or such a record could never fit.
    pub async fn reserve(&self, payload: u64) -> Result<Reservation> {
        let shared = self.shared();
        if payload > self.max_record() {
            return Err(too_long(payload, self.max_record()));
        }
        let _counted = Waiting::new(shared);
        let _turn = shared.turn.lock().await;
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = shared.state.lock();
                state.takes()?;
                if let Some(r) = self.take_room(&mut state, space::cost(payload)) {
                    return Ok(r);
                }
            }
            room.await;
        }
    }

    /// The payload at `location`. `Corrupt` if it is not what was written; `NotFound` if the record was released and
    /// its file is used again.
    pub async fn read(&self, location: Location) -> Result<Bytes> {
        let file = self.file_of(location)?;
        let read = file.read(location.offset, location.len as usize).await;
        self.verified(location, read)
    }

    /// The payload at `location` if that needs no waiting for the disk.
    pub fn try_read(&self, location: Location) -> Result<Option<Bytes>> {
        let file = self.file_of(location)?;
        let mut buf = base::AlignedBuf::for_overwrite(location.len as usize);
        match file.try_read(location.offset, &mut buf) {
            Ok(false) => Ok(None),
            Ok(true) => self.verified(location, Ok(buf.into_bytes())).map(Some),
            Err(e) => self.verified(location, Err(e)).map(Some),
        }
    }

    fn file_of(&self, location: Location) -> Result<Arc<dyn DiskFile>> {
        self.shared().readable.read().get(&location.file).map(|(_, file)| file.clone()).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("journal file of generation {} was released: look the data up again", location.file),
            )
        })
    }

    /// A mismatch counts only if the file was not written over meanwhile.
    fn verified(&self, location: Location, read: Result<Bytes>) -> Result<Bytes> {
        match read {
            Ok(bytes) if base::checksum::crc64(&bytes) == location.crc64 => Ok(bytes),
            other => {
                self.file_of(location)?;
                let place = self.shared().disk.place();
                let name = self.shared().name_of(location.file);
                Err(match other {
                    Ok(_) => Error::corrupt(format!(
                        "{name} on {place} has other bytes at {} than were written: check the disk",
                        location.offset
                    )),
                    Err(e) => e.within(format!("read {name} on {place} at {}", location.offset)),
                })
            }
        }
    }

    /// Gives up everything recovered for an image that will not be attached.
    pub fn release_owner(&self, id: ImageId) {
        self.shared().release(id, Book::release_all);
    }

    /// Whether nothing that was appended for an image is needed any more: nobody is attached for it, nothing is on its way to
    /// the disk, and everything that is there was released.
    pub fn is_settled(&self, id: ImageId) -> bool {
        !self.shared().state.lock().books.contains_key(&id)
    }

    /// The epoch of the newest record of an image that is not settled.
    pub fn newest(&self, id: ImageId) -> Option<Epoch> {
        self.shared().state.lock().books.get(&id).and_then(Book::newest)
    }

    /// What an image has here.
    pub fn usage_of(&self, id: ImageId) -> OwnerUsage {
        let state = self.shared().state.lock();
        let book = state.books.get(&id);
        let mut usage = book.map_or(OwnerUsage::default(), Book::usage);
        usage.rank = book.and_then(Book::oldest).map(|file| state.space.rank(file));
        usage
    }

    /// Images with unreleased records, attached or not.
    pub fn owners(&self) -> Vec<ImageId> {
        let state = self.shared().state.lock();
        state.books.iter().filter(|(_, b)| b.usage().records > 0).map(|(id, _)| *id).collect()
    }

    /// What is used of it. Cheap: every write asks.
    pub fn room(&self) -> Room {
        let state = self.shared().state.lock();
        Room { used: state.space.used(), capacity: state.space.capacity() }
    }

    /// How full the journal is and because of whom.
    pub fn usage(&self) -> JournalUsage {
        let state = self.shared().state.lock();
        let oldest = state.space.oldest();
        let pins = state.books.iter().filter_map(|(id, b)| Some((b.bytes_in(oldest?)?, *id)));
        JournalUsage {
            capacity: state.space.capacity(),
            used: state.space.used(),
            reserved: state.space.reserved(),
            available: state.space.available(),
            on_disk: state.space.on_disk(),
            most_on_disk: state.space.most_on_disk(),
            pinned_by: pins.max().map(|(_, id)| id),
        }
    }

    /// Why the journal has stopped, if it has been poisoned.
    pub fn poisoned(&self) -> Option<Error> {
        match &self.shared().state.lock().phase {
            Phase::Poisoned(e) => Some(e.duplicate()),
            _ => None,
        }
    }

    /// Takes nothing more and answers with this error, until `None` ends that: for files that work but will not be found again, as
    /// when their directory is gone. What is queued is still written; reading and releasing go on.
    pub fn refuse(&self, why: Option<Error>) {
        self.shared().state.lock().refusal = why;
        self.shared().room.notify_waiters();
    }

    /// Why it takes nothing more for now, or for good.
    pub fn refusal(&self) -> Option<Error> {
        self.shared().state.lock().takes().err()
    }

    /// Writes out what is queued, takes nothing more, lets go of all owners and waits for the end.
    pub async fn close(&self) -> Result<()> {
        self.shared().begin_close();
        let mut ended = self.shared().ended.subscribe();
        if ended.wait_for(|ended| *ended).await.is_err() {
            return Err(Error::internal("the journal's committer is gone: restart the gateway"));
        }
        self.poisoned().map_or(Ok(()), Err)
    }
}

/// Counts one who waits for room, even if the wait is given up.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Waiting<'a> {
        shared.state.lock().waiting += 1;
        Waiting(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// Room set aside for one record; given back when dropped.
pub struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    /// What it covers, in bytes of [`Journal::cost`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Splits off room for a record of up to `payload` bytes, if it has that much.
    pub fn split(&mut self, payload: u64) -> Option<Reservation> {
        let cost = space::cost(payload);
        self.bytes = self.bytes.checked_sub(cost)?;
        Some(Reservation { shared: self.shared.clone(), bytes: cost })
    }

    /// Puts another's room into this one.
    pub fn merge(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.state.lock().space.give_back(self.bytes);
            self.shared.room.notify_waiters();
        }
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

/// An image's handle to the journal.
#[derive(Clone)]
pub struct OwnerHandle {
    journal: Journal,
    id: ImageId,
}

impl std::fmt::Debug for OwnerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnerHandle({})", self.id)
    }
}

impl OwnerHandle {
    /// Queues a record without a reservation (see the [module](self) on space). Never waits; the order of calls is
    /// the journal's order. `done` fires after [`Owner::committed`]. An error at once, and nothing queued, if the journal has
    /// stopped (`Internal` if poisoned, `Unavailable` if closed), refuses ([`Journal::refuse`]), is full (`NoSpace`) or the record
    /// breaks a rule (`Invalid`).
    pub fn append(&self, record: Record, done: Option<Done>) -> Result<()> {
        self.journal.shared().append(self.id, record, None, done)
    }

    /// Queues a record into reserved room; what is left of the reservation is given back.
    pub fn append_reserved(&self, record: Record, room: Reservation, done: Option<Done>) -> Result<()> {
        self.journal.shared().append(self.id, record, Some(room), done)
    }

    /// The journal this belongs to.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whose handle it is.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// The newest durable record's place (0 if there is none).
    pub fn durable(&self) -> Seq {
        self.journal.shared().state.lock().books.get(&self.id).map_or(Seq(0), Book::durable)
    }

    /// What the image has in the journal.
    pub fn usage(&self) -> OwnerUsage {
        self.journal.usage_of(self.id)
    }

    /// Durable records up to `upto`, inclusive, are needed no more: in journal order, until the first record beyond
    /// it. Records set aside by [`OwnerHandle::abandon`] are left alone. Space comes back by batches: one is free when its last record is released.
    pub fn release(&self, upto: Seq) {
        self.journal.shared().release(self.id, |book| book.release(upto));
    }

    /// Sets the records of epochs up to `through` aside: they belong to a fork now and are freed only by
    /// [`OwnerHandle::release_abandoned`].
    pub fn abandon(&self, through: Epoch) {
        if let Some(book) = self.journal.shared().state.lock().books.get_mut(&self.id) {
            book.abandon(through);
        }
    }

    /// Frees the records set aside of epochs up to `through`.
    pub fn release_abandoned(&self, through: Epoch) {
        self.journal.shared().release(self.id, |book| book.release_abandoned(through));
    }

    /// Ends the attachment. What is queued is still written and told to the old owner; records stay until released.
    pub fn detach(self) {
        let old = self.journal.shared().state.lock().books.get_mut(&self.id).and_then(|b| b.attached.take());
        self.journal.shared().release(self.id, |_| Vec::new());
        drop(old);
    }
}

impl State {
    /// Whether new records are taken.
    fn takes(&self) -> Result<()> {
        self.phase.check()?;
        self.refusal.as_ref().map_or(Ok(()), |why| Err(why.duplicate()))
    }
}

impl Phase {
    fn check(&self) -> Result<()> {
        match self {
            Phase::Open => Ok(()),
            Phase::Poisoned(e) => Err(e.duplicate()),
            Phase::Closing | Phase::Closed => {
                Err(Error::new(ErrorKind::Unavailable, "the journal is closed: open it again before writing"))
            }
        }
    }
}

fn too_long(len: u64, max: u64) -> Error {
    Error::invalid(format!("a journal record has {len} bytes, at most {max} are possible: split it"))
}

impl Shared {
    fn append(
        self: &Arc<Shared>,
        id: ImageId,
        record: Record,
        room: Option<Reservation>,
        done: Option<Done>,
    ) -> Result<()> {
        let payload = record.payload.len();
        let fits_kind = match record.kind {
            RecordKind::Data => payload == record.span.bytes(),
            RecordKind::Zero | RecordKind::Discard => payload == 0,
            RecordKind::State | RecordKind::Namespace | RecordKind::Barrier => true,
        };
        if !fits_kind
            || record.span.start.checked_add(record.span.count).is_none_or(|e| e > u64::MAX / base::SECTOR)
        {
            return Err(Error::invalid(format!(
                "a {:?} record of {} sectors has {payload} bytes of payload: a bug in the image, report it",
                record.kind, record.span.count
            )));
        }
        if payload > self.options.max_record {
            return Err(too_long(payload, self.options.max_record));
        }
        let cost = space::cost(payload);
        let mut room = room;
        {
            let mut state = self.state.lock();
            state.takes()?;
            let State { books, space, queue, .. } = &mut *state;
            let detached = || {
                Error::invalid(format!("image {id} is detached from the journal: attach it before writing"))
            };
            let book = books.get_mut(&id).ok_or_else(detached)?;
            let owner = book.attached.clone().ok_or_else(detached)?;
            book.check_next(id, record.epoch, record.seq)?;
            let held = room.as_ref().map_or(0, |r| r.bytes);
            let more = cost.saturating_sub(held);
            if more > 0 && !space.reserve(more, record.kind.is_control(), u64::MAX) {
                return Err(Error::new(
                    ErrorKind::NoSpace,
                    "the journal is full: wait until data has been uploaded, or enlarge the cache disk",
                ));
            }
            if let Some(room) = &mut room {
                room.bytes -= held.min(cost);
            }
            book.appended(record.epoch, record.seq);
            queue.push_back(Queued { id, owner, record, done, cost });
        }
        if !turn::defer(self) {
            self.work.notify_one();
        }
        Ok(())
    }

    fn release(&self, id: ImageId, how: impl FnOnce(&mut Book) -> Vec<u64>) {
        let (mut freed, mut cluttered) = (false, false);
        {
            let mut state = self.state.lock();
            let State { books, space, .. } = &mut *state;
            if let Some(book) = books.get_mut(&id) {
                for file in how(book) {
                    freed |= space.unpin(file);
                }
                if book.is_forgettable() {
                    books.remove(&id);
                }
            }
            cluttered |= freed && space.is_cluttered();
        }
        if cluttered {
            self.work.notify_one();
        }
        if freed {
            self.room.notify_waiters();
            self.prepare.notify_one();
        }
    }

    fn begin_close(&self) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.work.notify_one();
        self.prepare.notify_one();
        self.room.notify_waiters();
    }

    fn name_of(&self, generation: u64) -> String {
        let slot = self.readable.read().get(&generation).map(|(slot, _)| *slot);
        slot.map_or_else(|| format!("the journal file of generation {generation}"), slot_name)
    }
}

/// The name of a slot's file.
fn slot_name(slot: u32) -> String {
    format!("{DIR}/{slot:08x}.log")
}

const DIR: &str = "journal";

#[cfg(test)]
mod tests;
