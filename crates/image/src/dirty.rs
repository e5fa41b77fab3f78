//! What was acknowledged and is not yet in the bucket.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::{ByteSize, ImageId, Seq, Span, UnixMillis};
use bytes::{Bytes, BytesMut};
use chain::{Header, Piece};
use local::{Location, RecordKind};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Memory for dirty data, shared by all images; what does not fit is read back from the journal.
#[derive(Debug)]
pub struct DirtyMemory {
    limit: u64,
    used: AtomicU64,
    /// Bytes of sealed segments that wait for the bucket.
    sealed: AtomicU64,
    queue: Mutex<Queue>,
}

/// The records whose bytes are in memory, and some that have gone.
#[derive(Debug)]
struct Queue {
    oldest_first: VecDeque<Weak<DirtyRecord>>,
    /// With so many of them, those that have gone are taken out.
    tidy_at: usize,
}

/// What a record takes besides its bytes.
const OVERHEAD: u64 = 512;
/// Fewer records than this are not looked through for such as have gone.
const FEW: usize = 1 << 12;

impl DirtyMemory {
    /// At most `limit` bytes, and as much again in sealed segments.
    pub fn new(limit: ByteSize) -> Arc<DirtyMemory> {
        Arc::new(DirtyMemory {
            limit: limit.0,
            used: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
            queue: Mutex::new(Queue { oldest_first: VecDeque::new(), tidy_at: FEW }),
        })
    }

    /// How full it is, from 0 to 1.
    pub(crate) fn fullness(&self) -> f64 {
        self.used() as f64 / self.limit.max(1) as f64
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Room for a sealed segment, if there is any.
    pub(crate) fn try_seal(self: &Arc<Self>, bytes: u64) -> Option<SealedRoom> {
        let fits = |sealed| Some(sealed + bytes).filter(|all| *all <= self.limit);
        self.sealed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(SealedRoom { memory: self.clone(), bytes })
    }

    /// Whether there is no room for another sealed segment of so many bytes.
    pub(crate) fn is_short(&self, bytes: u64) -> bool {
        self.sealed.load(Ordering::Relaxed) + bytes > self.limit
    }

    fn hold(&self, record: &Arc<DirtyRecord>) {
        self.used.fetch_add(record.cost(), Ordering::Relaxed);
        let mut guard = self.queue.lock();
        let Queue { oldest_first: queue, tidy_at } = &mut *guard;
        queue.push_back(Arc::downgrade(record));
        if queue.len() >= *tidy_at {
            queue.retain(|record| record.strong_count() > 0);
            *tidy_at = (2 * queue.len()).max(FEW);
        }
        // Only records whose bytes are safe in the journal can go; younger ones follow soon.
        while self.used() > self.limit {
            let Some(oldest) = queue.pop_front() else { return };
            let Some(record) = oldest.upgrade() else { continue };
            if record.location.get().is_none() {
                return queue.push_front(oldest);
            }
            record.forget();
        }
    }
}

/// Room for one sealed segment, until it is dropped.
#[derive(Debug)]
pub(crate) struct SealedRoom {
    memory: Arc<DirtyMemory>,
    bytes: u64,
}

impl Drop for SealedRoom {
    fn drop(&mut self) {
        self.memory.sealed.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// When data was accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accepted {
    /// Since this process has it: its age is not a matter of the time of day, which may jump.
    Here(Instant),
    /// Before, at that time of day.
    Before(UnixMillis),
}

/// One record of an image that is not yet in the bucket.
#[derive(Debug)]
pub(crate) struct DirtyRecord {
    pub seq: Seq,
    pub kind: RecordKind,
    pub span: Span,
    /// Bytes of its payload.
    pub bytes: u64,
    /// When, or when it was found at the start.
    pub accepted: Instant,
    data: Mutex<Option<Vec<Bytes>>>,
    location: OnceLock<Location>,
    memory: Arc<DirtyMemory>,
}

impl DirtyRecord {
    pub fn new(
        memory: &Arc<DirtyMemory>,
        seq: Seq,
        kind: RecordKind,
        span: Span,
        accepted: Instant,
        data: Vec<Bytes>,
    ) -> Arc<DirtyRecord> {
        let bytes = data.iter().map(|d| d.len() as u64).sum();
        let record = Arc::new(DirtyRecord {
            seq,
            kind,
            span,
            bytes,
            accepted,
            data: Mutex::new(Some(data)),
            location: OnceLock::new(),
            memory: memory.clone(),
        });
        memory.hold(&record);
        record
    }

    /// A record found in the journal at start-up; its bytes stay there.
    pub fn recovered(
        memory: &Arc<DirtyMemory>,
        seq: Seq,
        kind: RecordKind,
        span: Span,
        accepted: Instant,
        location: Location,
        bytes: u64,
    ) -> Arc<DirtyRecord> {
        Arc::new(DirtyRecord {
            seq,
            kind,
            span,
            bytes,
            accepted,
            data: Mutex::new(None),
            location: OnceLock::from(location),
            memory: memory.clone(),
        })
    }

    /// Says where it lies in the journal. Once.
    pub fn placed(&self, location: Location) {
        let _ = self.location.set(location);
    }

    /// Where it lies in the journal, once it does.
    pub fn location(&self) -> Option<Location> {
        self.location.get().copied()
    }

    /// Its bytes, if they are in memory.
    pub fn data(&self) -> Option<Vec<Bytes>> {
        self.data.lock().clone()
    }

    /// Appends `len` bytes from `offset` to `out`, if they are in memory.
    pub fn slice(&self, offset: u64, len: u64, out: &mut Vec<Bytes>) -> bool {
        match &*self.data.lock() {
            Some(parts) => {
                slice_parts(parts, offset, len, out);
                true
            }
            None => false,
        }
    }

    /// What it takes of the memory while its bytes are there.
    fn cost(&self) -> u64 {
        self.bytes + OVERHEAD
    }

    fn forget(&self) {
        if self.data.lock().take().is_some() {
            self.memory.used.fetch_sub(self.cost(), Ordering::Relaxed);
        }
    }
}

impl Drop for DirtyRecord {
    fn drop(&mut self) {
        if self.data.get_mut().take().is_some() {
            self.memory.used.fetch_sub(self.cost(), Ordering::Relaxed);
        }
    }
}

/// A sealed segment that waits on the local disk.
#[derive(Debug)]
pub(crate) struct SpooledSegment {
    pub image: ImageId,
    /// Its file in the spool.
    pub name: String,
    pub header: Header,
    pub offsets: Vec<u32>,
    pub bytes: u64,
}

/// Where a run of dirty sectors is.
#[derive(Debug, Clone)]
pub(crate) enum DirtyAt {
    Record { record: Arc<DirtyRecord>, skip: u64 },
    Spooled { segment: Arc<SpooledSegment>, frame: u32, skip: u64 },
    Zero,
    Hole,
}

/// A run of dirty sectors and the record that made it so.
#[derive(Debug, Clone)]
pub(crate) struct DirtyPiece {
    pub seq: Seq,
    pub at: DirtyAt,
}

impl DirtyPiece {
    /// What a whole record makes of its span; `None` for records that map nothing.
    pub fn of(record: &Arc<DirtyRecord>) -> Option<DirtyPiece> {
        let at = match record.kind {
            RecordKind::Data => DirtyAt::Record { record: record.clone(), skip: 0 },
            RecordKind::Zero => DirtyAt::Zero,
            RecordKind::Discard => DirtyAt::Hole,
            RecordKind::State | RecordKind::Namespace | RecordKind::Barrier => return None,
        };
        Some(DirtyPiece { seq: record.seq, at })
    }
}

impl Piece for DirtyPiece {
    fn advance(&self, sectors: u64) -> DirtyPiece {
        let mut piece = self.clone();
        match &mut piece.at {
            DirtyAt::Record { skip, .. } | DirtyAt::Spooled { skip, .. } => *skip += sectors,
            DirtyAt::Zero | DirtyAt::Hole => {}
        }
        piece
    }
}

/// Appends `len` bytes from `offset` of the concatenation of `parts`, without copying.
pub(crate) fn slice_parts(parts: &[Bytes], mut offset: u64, mut len: u64, out: &mut Vec<Bytes>) {
    for part in parts {
        let size = part.len() as u64;
        if offset >= size {
            offset -= size;
            continue;
        }
        let take = len.min(size - offset);
        out.push(part.slice(offset as usize..(offset + take) as usize));
        len -= take;
        offset = 0;
        if len == 0 {
            return;
        }
    }
    debug_assert_eq!(len, 0, "a slice reaches behind its record");
}

/// The parts in one piece.
pub(crate) fn join(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 => Bytes::new(),
        1 => parts.swap_remove(0),
        _ => {
            let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            parts.iter().for_each(|p| all.extend_from_slice(p));
            all.freeze()
        }
    }
}

#[cfg(test)]
mod tests;
