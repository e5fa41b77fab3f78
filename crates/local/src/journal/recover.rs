//! Opening: finding the end of the log, and telling a torn tail from rot. The rules stand in `docs/formats/journal.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base::{Entropy, Error, ErrorKind, ImageId, JournalId, Result};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::book::{Book, Extent};
use super::commit::{Start, begin_file, make_file};
use super::format::{BLOCK, BatchHeader, FILE_HEADER, FileHeader, Identity, LiveFile};
use super::space::{MAX_FILES, Space};
use super::starts;
use super::{DIR, JournalOptions, Location, Phase, Recovered, Recovery, Shared, State, slot_name};
use crate::disk::{Disk, DiskFile};

const IDENTITY: &str = "journal/identity";
const IDENTITY_NEW: &str = "journal/identity.tmp";
const SMALLEST_FILE: u64 = 64 << 10;
/// How much is read at a time.
const WINDOW: u64 = 1 << 20;

/// A file that was there.
struct Found {
    slot: u32,
    file: Arc<dyn DiskFile>,
    /// Its header, unless it is damaged or was never written.
    header: Option<FileHeader>,
}

/// What the log turned out to be.
#[derive(Default)]
struct Log {
    owners: BTreeMap<ImageId, OwnerLog>,
    /// Files with batches, by generation.
    files: BTreeMap<u64, LiveFile>,
    torn_bytes: u64,
    /// The number of the next batch.
    number: u64,
    newest: u64,
    /// Slots that must not be written over yet.
    listed: BTreeSet<u32>,
}

#[derive(Default)]
struct OwnerLog {
    records: Vec<Recovered>,
    extents: Vec<Extent>,
    /// The batch that the last record came from.
    batch: u64,
}

pub(super) async fn open(
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    entropy: Arc<dyn Entropy>,
) -> Result<(Shared, Start, Recovery)> {
    let place = disk.place();
    let failed = |e: Error| {
        let said = if e.kind() == ErrorKind::Corrupt {
            format!(
                "the journal on {place} is damaged; restore the disk, or move {place}/{DIR} away: the next start then says how its \
                 unsent writes are given up for good"
            )
        } else {
            format!("open the journal on {place}")
        };
        e.within(said)
    };
    let (identity, created) = identity(&*disk, &options, &*entropy).await.map_err(failed)?;
    let options = settle_options(options, identity.file_size)?;
    let found = find_files(&*disk, &identity).await.map_err(failed)?;
    let log = read_log(&found, &identity, &options).await.map_err(failed)?;
    let starts = starts::begin(&*disk, identity.journal, &*entropy).await.map_err(failed)?;
    let slots = found.iter().map(|f| f.slot).collect();
    let space =
        Space::new(options.file_size, options.max_record, options.capacity, slots, log.listed.clone());
    let readable = found.iter().filter_map(|f| {
        let generation = f.header.as_ref()?.generation;
        log.files.contains_key(&generation).then(|| (generation, (f.slot, f.file.clone())))
    });
    let shared = Shared {
        id: identity.journal,
        starts,
        disk,
        options,
        entropy,
        readable: RwLock::new(readable.collect()),
        state: Mutex::new(State {
            phase: Phase::Open,
            queue: VecDeque::new(),
            space,
            books: BTreeMap::new(),
            slots: found.iter().map(|f| (f.slot, f.file.clone())).collect(),
            waiting: 0,
            last_batch: None,
            no_file: None,
            refusal: None,
        }),
        committer: tokio::sync::Mutex::new(None),
        work: Notify::new(),
        room: Notify::new(),
        prepare: Notify::new(),
        prepared: Notify::new(),
        turn: tokio::sync::Mutex::new(()),
        ended: watch::Sender::new(false),
    };
    let mut recovery =
        Recovery { journal: shared.id, created, owners: BTreeMap::new(), torn_bytes: log.torn_bytes };
    let (newest, number) = (log.newest, log.number);
    enter(&shared, log, &mut recovery);
    let start = begin(&shared, newest + 1, number).await?;
    Ok((shared, start, recovery))
}

/// Which journal is on a disk, if there is one. `Corrupt` if it does not say.
pub(super) async fn find(disk: &dyn Disk) -> Result<Option<JournalId>> {
    match disk.open(IDENTITY).await {
        Ok(file) => Ok(Some(Identity::decode(&file.read(0, BLOCK as usize).await?)?.journal)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads the journal's identity, or gives it one.
async fn identity(
    disk: &dyn Disk,
    options: &JournalOptions,
    entropy: &dyn Entropy,
) -> Result<(Identity, bool)> {
    disk.remove(IDENTITY_NEW).await?;
    match disk.open(IDENTITY).await {
        Ok(file) => {
            let block = file.read(0, BLOCK as usize).await?;
            let identity = Identity::decode(&block).map_err(|e| {
                e.within(format!("{IDENTITY} at 0 on {}: restore it from a copy", disk.place()))
            })?;
            Ok((identity, false))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if disk.list(DIR).await?.iter().any(|(name, _)| name.ends_with(".log")) {
                return Err(Error::corrupt(format!(
                    "{IDENTITY} is missing on {} beside journal files: restore it, or move the files away",
                    disk.place()
                )));
            }
            let share = options.capacity.div_ceil(MAX_FILES).next_multiple_of(BLOCK);
            let identity =
                Identity { journal: JournalId::generate(entropy), file_size: options.file_size.max(share) };
            starts::create(disk, identity.journal).await?;
            let file = disk.create(IDENTITY_NEW, BLOCK).await?;
            file.write_durable(0, &[identity.encode().into_bytes()]).await?;
            disk.rename(IDENTITY_NEW, IDENTITY).await?;
            Ok((identity, true))
        }
        Err(e) => Err(e),
    }
}

fn settle_options(mut options: JournalOptions, file_size: u64) -> Result<JournalOptions> {
    if file_size < SMALLEST_FILE || !file_size.is_multiple_of(BLOCK) {
        return Err(Error::invalid(format!(
            "a journal file size of {file_size} bytes is not possible: use a multiple of {BLOCK}, at least {SMALLEST_FILE}"
        )));
    }
    options.file_size = file_size;
    let eighth = (file_size / 8) / BLOCK * BLOCK;
    options.max_record = options.max_record.clamp(BLOCK, eighth);
    options.max_batch = options.max_batch.clamp(BLOCK, 64 << 20);
    options.max_records = options.max_records.clamp(1, super::format::MAX_RECORDS);
    Ok(options)
}

async fn find_files(disk: &dyn Disk, identity: &Identity) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (name, len) in disk.list(DIR).await? {
        let Some(slot) = name.strip_suffix(".log").filter(|n| n.len() == 8) else { continue };
        let Ok(slot) = u32::from_str_radix(slot, 16) else { continue };
        let name = slot_name(slot);
        if len != identity.file_size {
            return Err(Error::corrupt(format!(
                "{name} on {} has {len} bytes instead of {}: restore it",
                disk.place(),
                identity.file_size
            )));
        }
        let file = disk.open(&name).await?;
        let blocks =
            file.read(0, FILE_HEADER as usize).await.map_err(|e| e.within(format!("read {name}")))?;
        let header = match FileHeader::decode(&blocks) {
            Ok(header) => Some(check_header(header, &name, slot, identity)?),
            Err(e) if e.kind() == ErrorKind::Corrupt => None,
            Err(e) => return Err(e.within(format!("{name} on {}", disk.place()))),
        };
        found.push(Found { slot, file, header });
    }
    Ok(found)
}

fn check_header(header: FileHeader, name: &str, slot: u32, identity: &Identity) -> Result<FileHeader> {
    if header.journal != identity.journal {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "{name} belongs to journal {}, this is journal {}: move the file back where it came from",
                header.journal, identity.journal
            ),
        ));
    }
    if header.slot != slot || header.file_size != identity.file_size {
        return Err(Error::corrupt(format!(
            "{name} was slot {:08x} of {} bytes: it was renamed or cut; restore the directory",
            header.slot, header.file_size
        )));
    }
    Ok(header)
}

async fn read_log(found: &[Found], identity: &Identity, options: &JournalOptions) -> Result<Log> {
    let with_header = |g: u64| {
        found.iter().filter_map(move |f| Some((f, f.header.as_ref()?))).find(|h| h.1.generation == g)
    };
    let newest = found.iter().filter_map(|f| f.header.as_ref()).map(|h| h.generation).max().unwrap_or(0);
    for f in found.iter().filter(|f| f.header.is_none()) {
        Scan::new(f, identity.journal, options).refuse_later_than(newest).await?;
    }
    let mut log = Log { number: 1, newest, ..Log::default() };
    let Some((newest_file, newest_header)) = with_header(newest).filter(|_| newest > 0) else {
        return Ok(log);
    };
    for live in &newest_header.live {
        let Some((file, header)) = with_header(live.generation).filter(|(f, _)| f.slot == live.slot) else {
            return Err(Error::corrupt(format!(
                "{} at 0: its header is not that of generation {}, which is still needed",
                slot_name(live.slot),
                live.generation
            )));
        };
        log.read_sealed(Scan::new(file, identity.journal, options), header, live.end).await?;
        log.listed.insert(live.slot);
    }
    newest_file.file.settle().await?;
    let used = log.read_newest(Scan::new(newest_file, identity.journal, options), newest_header).await?;
    if used {
        log.listed.insert(newest_file.slot);
    }
    Ok(log)
}

/// Enters what was found into the books.
fn enter(shared: &Shared, log: Log, recovery: &mut Recovery) {
    let mut state = shared.state.lock();
    let State { books, space, .. } = &mut *state;
    for (id, owner) in log.owners {
        let mut book = Book::default();
        for extent in owner.extents {
            space.pin(&log.files[&extent.file]);
            book.enter(extent);
        }
        if let Some(last) = owner.records.last() {
            book.appended(last.epoch, last.seq);
        }
        books.insert(id, book);
        recovery.owners.insert(id, owner.records);
    }
}

/// Begins the file that the journal goes on with.
async fn begin(shared: &Shared, generation: u64, number: u64) -> Result<Start> {
    let taken = shared.state.lock().space.take_next_slot();
    let slot = match taken {
        Some(slot) => slot,
        None => {
            let slot = shared.state.lock().space.new_slot();
            let file = make_file(shared, slot).await?;
            let mut state = shared.state.lock();
            state.slots.insert(slot, file);
            state.space.add_slot(slot);
            slot
        }
    };
    begin_file(shared, slot, generation, number).await
}

impl Log {
    /// A file whose end is known: everything up to it was durable.
    async fn read_sealed(&mut self, mut scan: Scan<'_>, header: &FileHeader, end: u64) -> Result<()> {
        let mut at = FILE_HEADER;
        let mut number = header.first_batch;
        while at < end {
            let batch = scan.batch(header, at, number).await?.filter(|b| at + u64::from(b.len) <= end);
            let Some(batch) = batch else { return Err(scan.rotten(at)) };
            at += u64::from(batch.len);
            number = batch.number + 1;
            self.enter(header, &batch, at)?;
        }
        Ok(())
    }

    /// The newest file: its end is where the log ends. Whether anything is in it.
    async fn read_newest(&mut self, mut scan: Scan<'_>, header: &FileHeader) -> Result<bool> {
        let mut at = FILE_HEADER;
        self.number = header.first_batch;
        while let Some(batch) = scan.batch(header, at, self.number).await? {
            at += u64::from(batch.len);
            self.number = batch.number + 1;
            self.enter(header, &batch, at)?;
        }
        self.torn_bytes =
            scan.header_at(at).await?.filter(|b| scan.is_of(b, header, at)).map_or(0, |b| b.len.into());
        if scan.proves_durable(header, at, self.number).await? {
            return Err(scan.rotten(at));
        }
        Ok(at > FILE_HEADER)
    }

    fn enter(&mut self, file: &FileHeader, batch: &BatchHeader, end: u64) -> Result<()> {
        let generation = file.generation;
        self.files.insert(generation, LiveFile { generation, slot: file.slot, end });
        for r in &batch.records {
            let log = self.owners.entry(r.owner).or_default();
            let record = Recovered {
                epoch: r.epoch,
                seq: r.seq,
                kind: r.kind,
                span: r.span,
                location: Location {
                    file: generation,
                    offset: batch.offset + u64::from(r.payload_offset),
                    len: r.payload_len,
                    crc64: r.crc64,
                },
                payload_len: r.payload_len,
                start: file.start,
            };
            if log.has_gap_before(&record, &self.files)? {
                *log = OwnerLog::default();
            }
            log.records.push(record);
            let extent = Extent { file: generation, epoch: r.epoch, last: r.seq, records: 0, bytes: 0 };
            if log.batch != batch.number || log.extents.last().is_none_or(|e| e.epoch != r.epoch) {
                log.batch = batch.number;
                log.extents.push(extent);
            }
            let last = log.extents.last_mut().expect("pushed above if there was none");
            last.last = r.seq;
            last.records += 1;
            last.bytes += u64::from(r.payload_len);
        }
        Ok(())
    }
}

impl OwnerLog {
    /// Whether nothing before this one is needed any more: records between them were in a file that was used again, or the owner
    /// began anew behind an earlier place (its image was opened in an older copy of its bucket), which the books allow only when all that there was
    /// is released. Any other gap is an error.
    fn has_gap_before(&self, next: &Recovered, files: &BTreeMap<u64, LiveFile>) -> Result<bool> {
        let Some(last) = self.records.last() else { return Ok(false) };
        if next.epoch > last.epoch || (next.epoch == last.epoch && next.seq == last.seq.next()) {
            return Ok(false);
        }
        if next.epoch < last.epoch || next.seq <= last.seq {
            return Ok(true);
        }
        let (from, to) = (last.location.file, next.location.file);
        let reused = from < to && (files.range(from..=to).count() as u64) < to - from + 1;
        if reused {
            return Ok(true);
        }
        Err(Error::corrupt(format!(
            "generation {to} at {}: record {} of epoch {} follows {} of {}, so records are missing",
            next.location.offset, next.seq, next.epoch, last.seq, last.epoch
        )))
    }
}

/// Reads one file front to back through a window.
struct Scan<'a> {
    found: &'a Found,
    journal: JournalId,
    options: &'a JournalOptions,
    window: Bytes,
    start: u64,
}

impl<'a> Scan<'a> {
    fn new(found: &'a Found, journal: JournalId, options: &'a JournalOptions) -> Scan<'a> {
        Scan { found, journal, options, window: Bytes::new(), start: 0 }
    }

    fn rotten(&self, at: u64) -> Error {
        Error::corrupt(format!("{} at {at}: what was durable here has rotted", slot_name(self.found.slot)))
    }

    /// Bytes of the file; `None` if it ends before.
    async fn bytes(&mut self, at: u64, len: u64) -> Result<Option<Bytes>> {
        let size = self.options.file_size;
        if at.checked_add(len).is_none_or(|end| end > size) {
            return Ok(None);
        }
        let inside = at >= self.start && at + len <= self.start + self.window.len() as u64;
        if !inside {
            let n = len.max(WINDOW).min(size - at);
            let read = self.found.file.read(at, n as usize).await;
            self.window =
                read.map_err(|e| e.within(format!("read {} at {at}", slot_name(self.found.slot))))?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(Some(self.window.slice(from..from + len as usize)))
    }

    /// Whatever decodes as a batch header here, of any life of the file.
    async fn header_at(&mut self, at: u64) -> Result<Option<BatchHeader>> {
        let Some(first) = self.bytes(at, BLOCK).await? else { return Ok(None) };
        let Some(len) = BatchHeader::peek_len(&first) else { return Ok(None) };
        let Some(blocks) = self.bytes(at, len).await? else { return Ok(None) };
        // A header of an unknown version can only be of a former life: the file's own header has been understood.
        Ok(BatchHeader::decode(&blocks).ok())
    }

    fn is_of(&self, batch: &BatchHeader, header: &FileHeader, at: u64) -> bool {
        let ours = batch.journal == self.journal
            && batch.generation == header.generation
            && batch.salt == header.salt
            && batch.offset == at;
        #[cfg(test)]
        let ours = ours || self.options.sabotage == Some(super::Sabotage::IgnoreGeneration);
        ours
    }

    async fn payloads_match(&mut self, batch: &BatchHeader, at: u64) -> Result<bool> {
        #[cfg(test)]
        if self.options.sabotage == Some(super::Sabotage::SkipCrc) {
            return Ok(true);
        }
        let Some(bytes) = self.bytes(at, batch.len.into()).await? else { return Ok(false) };
        Ok(batch.records.iter().all(|r| {
            let start = r.payload_offset as usize;
            let payload =
                if r.payload_len == 0 { &[][..] } else { &bytes[start..start + r.payload_len as usize] };
            base::checksum::crc64(payload) == r.crc64
        }))
    }

    /// The batch here if it is valid in every respect.
    async fn batch(&mut self, header: &FileHeader, at: u64, number: u64) -> Result<Option<BatchHeader>> {
        let Some(batch) = self.header_at(at).await? else { return Ok(None) };
        let expected = batch.number == number;
        #[cfg(test)]
        let expected = expected || self.options.sabotage == Some(super::Sabotage::IgnoreGeneration);
        let fits = at + u64::from(batch.len) <= self.options.file_size;
        let valid =
            expected && fits && self.is_of(&batch, header, at) && self.payloads_match(&batch, at).await?;
        Ok(valid.then_some(batch))
    }

    /// Whether a batch behind `at` says that batch `number` was durable.
    async fn proves_durable(&mut self, header: &FileHeader, at: u64, number: u64) -> Result<bool> {
        #[cfg(test)]
        if self
            .options
            .sabotage
            .is_some_and(|s| matches!(s, super::Sabotage::SkipCrc | super::Sabotage::IgnoreGeneration))
        {
            return Ok(false);
        }
        let mut at = at + BLOCK;
        while at < self.options.file_size {
            let later = self.header_at(at).await?;
            if later.is_some_and(|b| self.is_of(&b, header, at) && b.durable >= number) {
                return Ok(true);
            }
            at += BLOCK;
        }
        Ok(false)
    }

    /// A file without a valid header must not hold a batch newer than every valid header.
    async fn refuse_later_than(&mut self, newest: u64) -> Result<()> {
        let mut at = FILE_HEADER;
        while at < self.options.file_size {
            if let Some(batch) = self.header_at(at).await?
                && batch.journal == self.journal
                && batch.generation > newest
                && batch.offset == at
                && self.payloads_match(&batch, at).await?
            {
                return Err(self.rotten(0));
            }
            at += BLOCK;
        }
        Ok(())
    }
}
