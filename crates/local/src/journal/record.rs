//! What goes into the journal, what comes out, and who is told.

use std::collections::BTreeMap;

use base::{Epoch, Error, ImageId, JournalId, Result, Seq, Span, StartId};
use bytes::Bytes;
use tokio::sync::oneshot;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Bytes written to the span.
    Data,
    /// The span reads as zeroes and stays provisioned.
    Zero,
    /// The span reads as zeroes and is a hole.
    Discard,
    /// State of the device: reservations, mode pages, a tape position.
    State,
    /// An operation on a file namespace.
    Namespace,
    /// A point in the order; it changes nothing.
    Barrier,
}

impl RecordKind {
    /// Its code in the format.
    pub fn code(self) -> u8 {
        match self {
            RecordKind::Data => 1,
            RecordKind::Zero => 2,
            RecordKind::Discard => 3,
            RecordKind::State => 4,
            RecordKind::Namespace => 5,
            RecordKind::Barrier => 6,
        }
    }

    /// The kind of a code.
    pub fn from_code(code: u8) -> Option<RecordKind> {
        use RecordKind::*;
        [Data, Zero, Discard, State, Namespace, Barrier].into_iter().find(|k| k.code() == code)
    }

    /// Whether it may use the reserve for control records.
    pub(super) fn is_control(self) -> bool {
        matches!(self, RecordKind::State | RecordKind::Namespace | RecordKind::Barrier)
    }
}

/// The bytes of a record, with their sum: it is made where they come in, not by the one thread that all writes of a disk
/// go through.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    parts: Vec<Bytes>,
    len: u64,
    crc64: u64,
}

impl Payload {
    /// Of these parts, one behind the other. Those that are all aligned to 4,096 in address and length are written without being
    /// copied.
    pub fn new(parts: Vec<Bytes>) -> Payload {
        let len = parts.iter().map(|p| p.len() as u64).sum();
        let crc64 = base::checksum::crc64_parts(parts.iter().map(|p| &p[..]));
        Payload { parts, len, crc64 }
    }

    /// Its parts.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The same, as the owner of them.
    pub fn into_parts(self) -> Vec<Bytes> {
        self.parts
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its CRC-64/NVME.
    pub(super) fn crc64(&self) -> u64 {
        self.crc64
    }
}

/// What is appended.
#[derive(Debug, Clone)]
pub struct Record {
    /// The owner's term; it never falls.
    pub epoch: Epoch,
    /// The place in the owner's order: one more than the last within an epoch; a new epoch may start anywhere.
    pub seq: Seq,
    /// What it is.
    pub kind: RecordKind,
    /// The sectors concerned.
    pub span: Span,
    /// The payload: the span's bytes for `Data`, nothing for `Zero` and `Discard`, anything for the others.
    pub payload: Payload,
}

/// Where a record's payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The generation of the file.
    pub file: u64,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// CRC-64/NVME of the payload.
    pub crc64: u64,
}

/// A record that is durable.
#[derive(Debug)]
pub struct Committed {
    /// What was appended.
    pub record: Record,
    /// Where its payload lies.
    pub location: Location,
}

/// A record that recovery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The owner's term.
    pub epoch: Epoch,
    /// The place in the owner's order.
    pub seq: Seq,
    /// What it is.
    pub kind: RecordKind,
    /// The sectors concerned.
    pub span: Span,
    /// Where its payload lies; read it with [`Journal::read`].
    pub location: Location,
    /// The payload's length in bytes.
    pub payload_len: u32,
    /// The start of the journal that wrote it: the one that took the owner's term.
    pub start: StartId,
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovery {
    /// The journal's id.
    pub journal: JournalId,
    /// Whether the journal was made just now.
    pub created: bool,
    /// Each owner's records in write order: all that were acknowledged and not released, and perhaps older ones that were released
    /// (a release is not durable by itself). Within an epoch they are dense.
    pub owners: BTreeMap<ImageId, Vec<Recovered>>,
    /// Length of the batch that the power cut tore, in bytes as far as it can be known; it was never acknowledged.
    pub torn_bytes: u64,
}

/// Told of everything that becomes durable; called on the committer's thread, so it must be quick.
pub trait Owner: Send + Sync {
    /// These records are durable now. In journal order, after the sync, before anybody who waits for them is woken.
    fn committed(&self, batch: Vec<Committed>);

    /// The journal has stopped for good. What was not committed will not be any more; the next recovery may or may
    /// not find it.
    fn poisoned(&self, error: &Error);
}

/// Who waits for a record: told `Ok` once it is durable and published.
pub type Done = oneshot::Sender<Result<()>>;

/// What an owner has in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerUsage {
    /// Payload bytes of its durable, unreleased records.
    pub bytes: u64,
    /// How many such records there are.
    pub records: u64,
    /// How many needed files are older than its oldest; 0 means that it holds on to the journal's oldest file.
    pub rank: Option<u32>,
}

/// How much of a journal is used, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What is written and still needed.
    pub used: u64,
    /// What it may hold.
    pub capacity: u64,
}

impl Room {
    /// From 0 to 1: what is used of what it can hold.
    pub fn fullness(self) -> f64 {
        self.used as f64 / self.capacity.max(1) as f64
    }
}

/// What the journal as a whole holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalUsage {
    /// What it can hold of data.
    pub capacity: u64,
    /// What is in files that are needed.
    pub used: u64,
    /// What is reserved or queued.
    pub reserved: u64,
    /// What could be reserved now.
    pub available: u64,
    /// Bytes of its files.
    pub on_disk: u64,
    /// The most that its files may come to, unless more is recovered.
    pub most_on_disk: u64,
    /// The owner with the most bytes in the oldest file: whoever wants room asks this one first.
    pub pinned_by: Option<ImageId>,
}
