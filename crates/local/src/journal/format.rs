//! Byte layouts: see `docs/formats/journal.md`. Every decoder here takes any bytes.

use base::{AlignedBuf, Epoch, Error, ErrorKind, ImageId, JournalId, Result, Seq, Span, StartId};

use super::RecordKind;

/// The unit of everything in the journal, in bytes.
pub const BLOCK: u64 = 4096;
/// The length of a file's header, in bytes.
pub const FILE_HEADER: u64 = 4 * BLOCK;
/// How many older files a file header can list.
pub const MAX_LIVE: usize = (FILE_HEADER as usize - FIXED) / LIVE_ENTRY;
/// How many records one batch can hold.
pub const MAX_RECORDS: usize = 4096;

pub(super) const VERSION: u32 = 1;
const FIXED: usize = 96;
const LIVE_ENTRY: usize = 24;
const RECORD: usize = 72;
const IDENTITY_MAGIC: &[u8; 8] = b"TGJIDENT";
const FILE_MAGIC: &[u8; 8] = b"TGJFILE1";
const BATCH_MAGIC: &[u8; 8] = b"TGBATCH1";
const IDENTITY_CRC: usize = 40;
const FILE_CRC: usize = 72;
const BATCH_CRC: usize = 80;

/// Which journal a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The journal's id.
    pub journal: JournalId,
    /// The length of each of its files, in bytes.
    pub file_size: u64,
}

/// One older file that is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveFile {
    /// Its generation.
    pub generation: u64,
    /// Where it lies.
    pub slot: u32,
    /// Where its last batch ends, in bytes.
    pub end: u64,
}

/// The first blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    /// The journal's id.
    pub journal: JournalId,
    /// The file's generation; 0 if it was never used.
    pub generation: u64,
    /// What its batches repeat.
    pub salt: u64,
    /// The slot it believes to lie in.
    pub slot: u32,
    /// The number of its first batch.
    pub first_batch: u64,
    /// Its length, in bytes.
    pub file_size: u64,
    /// The start of the journal that writes it; zero if it was never used.
    pub start: StartId,
    /// The older files still needed, by ascending generation.
    pub live: Vec<LiveFile>,
}

/// The header of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// The journal's id.
    pub journal: JournalId,
    /// The generation of the file.
    pub generation: u64,
    /// The salt of the file.
    pub salt: u64,
    /// The batch's number.
    pub number: u64,
    /// Its offset in the file, in bytes.
    pub offset: u64,
    /// Its whole length, in bytes.
    pub len: u32,
    /// Every batch up to this number was durable when this one was written.
    pub durable: u64,
    /// Its records.
    pub records: Vec<RecordEntry>,
}

/// A line of a batch's record table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordEntry {
    /// Whose it is.
    pub owner: ImageId,
    /// In which epoch it was written.
    pub epoch: Epoch,
    /// Its place in the owner's order.
    pub seq: Seq,
    /// What it is.
    pub kind: RecordKind,
    /// Which sectors it concerns.
    pub span: Span,
    /// Where its payload starts, from the start of the batch, in bytes.
    pub payload_offset: u32,
    /// The payload's length, in bytes.
    pub payload_len: u32,
    /// CRC-64/NVME of the payload.
    pub crc64: u64,
}

/// The length of a batch header with so many records, in bytes.
pub fn batch_header_len(records: usize) -> u64 {
    ((FIXED + RECORD * records) as u64).next_multiple_of(BLOCK)
}

pub(super) fn not_valid(what: &str, why: &str) -> Error {
    Error::corrupt(format!("{what} is not valid: {why}"))
}

/// Little-endian fields out of a slice whose length has been checked.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
    pub fn id(&self, at: usize) -> [u8; 16] {
        self.0[at..at + 16].try_into().expect("sixteen bytes")
    }
    pub fn zero(&self, range: std::ops::Range<usize>) -> bool {
        self.0[range].iter().all(|b| *b == 0)
    }
}

/// Writes fields at their offsets.
pub(super) fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
    buf[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The checksum of `bytes` with the eight bytes at `at` taken as zero.
fn crc_without(bytes: &[u8], at: usize) -> u64 {
    base::checksum::crc64_parts([&bytes[..at], &[0; 8], &bytes[at + 8..]])
}

/// Puts the checksum of the whole there.
pub(super) fn seal(buf: &mut [u8], at: usize) {
    let crc = crc_without(buf, at);
    put(buf, at, &crc.to_le_bytes());
}

/// Checks magic, checksum and version, in this order, so that only what we wrote can be "of another version".
pub(super) fn check(bytes: &[u8], magic: &[u8; 8], crc_at: usize, what: &str) -> Result<()> {
    if &bytes[..8] != magic {
        return Err(not_valid(what, "the magic is missing"));
    }
    if Fields(bytes).u64(crc_at) != crc_without(bytes, crc_at) {
        return Err(not_valid(what, "the checksum does not match"));
    }
    let version = Fields(bytes).u32(8);
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{what} is of format version {version}, this Tidegate knows {VERSION}: use the one that wrote it"
            ),
        ));
    }
    Ok(())
}

impl Identity {
    /// Its block.
    pub fn encode(&self) -> AlignedBuf {
        let mut b = AlignedBuf::zeroed(BLOCK as usize);
        put(&mut b, 0, IDENTITY_MAGIC);
        put(&mut b, 8, &VERSION.to_le_bytes());
        put(&mut b, 16, &self.journal.0);
        put(&mut b, 32, &self.file_size.to_le_bytes());
        seal(&mut b, IDENTITY_CRC);
        b
    }

    /// Reads it. `Corrupt` if it is damaged, `Invalid` if it is of another version.
    pub fn decode(bytes: &[u8]) -> Result<Identity> {
        let what = "the journal's identity";
        let bytes = bytes.get(..BLOCK as usize).ok_or_else(|| not_valid(what, "it is cut off"))?;
        check(bytes, IDENTITY_MAGIC, IDENTITY_CRC, what)?;
        let f = Fields(bytes);
        Ok(Identity { journal: JournalId(f.id(16)), file_size: f.u64(32) })
    }
}

impl FileHeader {
    /// Its blocks. Lists at most [`MAX_LIVE`] files.
    pub fn encode(&self) -> AlignedBuf {
        assert!(self.live.len() <= MAX_LIVE, "the journal limits its files");
        let mut b = AlignedBuf::zeroed(FILE_HEADER as usize);
        put(&mut b, 0, FILE_MAGIC);
        put(&mut b, 8, &VERSION.to_le_bytes());
        put(&mut b, 12, &(self.live.len() as u32).to_le_bytes());
        put(&mut b, 16, &self.journal.0);
        put(&mut b, 32, &self.generation.to_le_bytes());
        put(&mut b, 40, &self.salt.to_le_bytes());
        put(&mut b, 48, &self.slot.to_le_bytes());
        put(&mut b, 56, &self.first_batch.to_le_bytes());
        put(&mut b, 64, &self.file_size.to_le_bytes());
        put(&mut b, 80, &self.start.0);
        for (i, live) in self.live.iter().enumerate() {
            let at = FIXED + i * LIVE_ENTRY;
            put(&mut b, at, &live.generation.to_le_bytes());
            put(&mut b, at + 8, &live.slot.to_le_bytes());
            put(&mut b, at + 16, &live.end.to_le_bytes());
        }
        seal(&mut b, FILE_CRC);
        b
    }

    /// Reads it. `Corrupt` if it is damaged (or never was), `Invalid` if it is of another version.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader> {
        let what = "the journal file's header";
        let bytes = bytes.get(..FILE_HEADER as usize).ok_or_else(|| not_valid(what, "it is cut off"))?;
        check(bytes, FILE_MAGIC, FILE_CRC, what)?;
        let f = Fields(bytes);
        let entries = f.u32(12) as usize;
        if entries > MAX_LIVE {
            return Err(not_valid(what, "it lists more files than it can hold"));
        }
        let live = |i: usize| {
            let at = FIXED + i * LIVE_ENTRY;
            LiveFile { generation: f.u64(at), slot: f.u32(at + 8), end: f.u64(at + 16) }
        };
        let header = FileHeader {
            journal: JournalId(f.id(16)),
            generation: f.u64(32),
            salt: f.u64(40),
            slot: f.u32(48),
            first_batch: f.u64(56),
            file_size: f.u64(64),
            start: StartId(f.id(80)),
            live: (0..entries).map(live).collect(),
        };
        let ascending = header.live.windows(2).all(|w| w[0].generation < w[1].generation);
        let older = header.live.iter().all(|l| l.generation < header.generation && l.end <= header.file_size);
        if !ascending || !older {
            return Err(not_valid(what, "its table of files makes no sense"));
        }
        Ok(header)
    }
}

impl BatchHeader {
    /// Writes the header into the front of `out`, which is zero and at least as long as the header.
    pub fn encode_into(&self, out: &mut [u8]) {
        assert!(self.records.len() <= MAX_RECORDS, "the committer limits its batches");
        let len = batch_header_len(self.records.len());
        let b = &mut out[..len as usize];
        put(b, 0, BATCH_MAGIC);
        put(b, 8, &VERSION.to_le_bytes());
        put(b, 12, &(len as u32).to_le_bytes());
        put(b, 16, &self.journal.0);
        put(b, 32, &self.generation.to_le_bytes());
        put(b, 40, &self.salt.to_le_bytes());
        put(b, 48, &self.number.to_le_bytes());
        put(b, 56, &self.offset.to_le_bytes());
        put(b, 64, &self.len.to_le_bytes());
        put(b, 68, &(self.records.len() as u32).to_le_bytes());
        put(b, 72, &self.durable.to_le_bytes());
        for (i, r) in self.records.iter().enumerate() {
            r.encode_into(&mut b[FIXED + i * RECORD..FIXED + (i + 1) * RECORD]);
        }
        seal(b, BATCH_CRC);
    }

    /// How long the header starting here says it is, if it starts like one; for reading the rest before decoding it.
    pub fn peek_len(bytes: &[u8]) -> Option<u64> {
        let fixed = bytes.get(..FIXED)?;
        let f = Fields(fixed);
        let records = f.u32(68) as usize;
        let good = &fixed[..8] == BATCH_MAGIC
            && records <= MAX_RECORDS
            && u64::from(f.u32(12)) == batch_header_len(records);
        good.then(|| batch_header_len(records))
    }

    /// Reads it from its blocks (more may follow). `Corrupt` if it is damaged, `Invalid` if it is of another version.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader> {
        let what = "the batch header";
        let len =
            BatchHeader::peek_len(bytes).ok_or_else(|| not_valid(what, "it does not start like one"))?;
        let bytes = bytes.get(..len as usize).ok_or_else(|| not_valid(what, "it is cut off"))?;
        check(bytes, BATCH_MAGIC, BATCH_CRC, what)?;
        let f = Fields(bytes);
        let batch_len = f.u32(64);
        if !u64::from(batch_len).is_multiple_of(BLOCK) || u64::from(batch_len) < len {
            return Err(not_valid(what, "its length makes no sense"));
        }
        let records = (0..f.u32(68) as usize)
            .map(|i| {
                RecordEntry::decode(&bytes[FIXED + i * RECORD..FIXED + (i + 1) * RECORD], len, batch_len)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(BatchHeader {
            journal: JournalId(f.id(16)),
            generation: f.u64(32),
            salt: f.u64(40),
            number: f.u64(48),
            offset: f.u64(56),
            len: batch_len,
            durable: f.u64(72),
            records,
        })
    }
}

impl RecordEntry {
    fn encode_into(&self, b: &mut [u8]) {
        put(b, 0, &self.owner.0);
        put(b, 16, &self.epoch.0.to_le_bytes());
        put(b, 24, &self.seq.0.to_le_bytes());
        put(b, 32, &self.span.start.to_le_bytes());
        put(b, 40, &self.span.count.to_le_bytes());
        put(b, 48, &self.payload_offset.to_le_bytes());
        put(b, 52, &self.payload_len.to_le_bytes());
        put(b, 56, &self.crc64.to_le_bytes());
        b[64] = self.kind.code();
    }

    fn decode(b: &[u8], header_len: u64, batch_len: u32) -> Result<RecordEntry> {
        let f = Fields(b);
        let entry = RecordEntry {
            owner: ImageId(f.id(0)),
            epoch: Epoch(f.u64(16)),
            seq: Seq(f.u64(24)),
            span: Span::new(f.u64(32), f.u64(40)),
            payload_offset: f.u32(48),
            payload_len: f.u32(52),
            crc64: f.u64(56),
            kind: RecordKind::from_code(b[64]).ok_or_else(|| not_valid("a record", "its kind is unknown"))?,
        };
        let start = u64::from(entry.payload_offset);
        let end = start + u64::from(entry.payload_len);
        let inside = entry.payload_len == 0 || (start >= header_len && end <= u64::from(batch_len));
        let spans =
            entry.span.start.checked_add(entry.span.count).is_some_and(|end| end <= u64::MAX / base::SECTOR);
        if !inside || !spans || !f.zero(65..RECORD) {
            return Err(not_valid("a record", "its place makes no sense"));
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests;
