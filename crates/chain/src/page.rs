use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Epoch, Number, Result, SECTOR, Span};
use bytes::Bytes;

use crate::codec::{Reader, Writer};
use crate::segment::{Codec, Frame, Target};

const PAGE_MAGIC: &[u8; 8] = b"TGpages2";

/// Where a page of a checkpoint lies, and what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageRef {
    /// The first sector of its first entry.
    pub start: u64,
    /// The end of its last one.
    pub end: u64,
    /// How many entries it has.
    pub entries: u32,
    /// How many of these are holes.
    pub holes: u32,
    /// How many sectors they all cover.
    pub sectors: u64,
    /// The checkpoint that wrote it.
    pub number: Number,
    /// That checkpoint's epoch.
    pub epoch: Epoch,
    /// Which object of that checkpoint.
    pub part: u32,
    /// Where in the object.
    pub offset: u32,
    /// How long.
    pub len: u32,
    /// CRC-64/NVME of its bytes.
    pub crc64: u64,
}

impl PageRef {
    /// From its first sector to its end.
    pub fn span(&self) -> Span {
        Span::new(self.start, self.end - self.start)
    }
}

/// The pages of one run, which follow each other; never none.
pub type Run = Arc<Vec<PageRef>>;

pub(crate) fn write_run(w: &mut Writer, pages: &[PageRef]) {
    w.count(pages.len());
    let mut end = 0;
    for p in pages {
        w.varint(p.start - end);
        w.varint(p.end - p.start);
        w.varint(p.entries.into());
        w.varint(p.holes.into());
        w.varint(p.sectors);
        w.varint(p.number.0);
        w.varint(p.epoch.0);
        w.varint(p.part.into());
        w.varint(p.offset.into());
        w.varint(p.len.into());
        w.u64(p.crc64);
        end = p.end;
    }
}

pub(crate) fn read_run(r: &mut Reader<'_>) -> Result<Run> {
    let n = r.count(18)?;
    let mut pages = Vec::with_capacity(n);
    let mut at = 0u64;
    for _ in 0..n {
        let (gap, span) = (r.varint()?, r.varint()?);
        let (Some(start), Some(end)) =
            (at.checked_add(gap), at.checked_add(gap).and_then(|start| start.checked_add(span)))
        else {
            return Err(r.corrupt("a page lies behind the last sector"));
        };
        let page = PageRef {
            start,
            end,
            entries: r.varint32()?,
            holes: r.varint32()?,
            sectors: r.varint()?,
            number: Number(r.varint()?),
            epoch: Epoch(r.varint()?),
            part: r.varint32()?,
            offset: r.varint32()?,
            len: r.varint32()?,
            crc64: r.u64()?,
        };
        let covers = u64::from(page.entries)..=span;
        if page.entries == 0 || page.holes > page.entries || !covers.contains(&page.sectors) {
            return Err(r.corrupt("a page has impossible contents"));
        }
        at = end;
        pages.push(page);
    }
    if pages.is_empty() { Err(r.corrupt("a run has no pages")) } else { Ok(Arc::new(pages)) }
}

/// One page of a run: what some sectors hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Sorted and disjoint.
    pub entries: Vec<(Span, Target)>,
}

/// A frame as a page names it.
#[derive(Clone, Copy)]
struct Named {
    row: u32,
    index: u32,
    offset: u32,
    frame: Frame,
}

const HOLE: u64 = 0;
const ZERO: u64 = 1;
/// A frame that comes for the first time.
const NEW: u64 = 2;
/// The first that came before.
const KNOWN: u64 = 3;

impl Page {
    /// The sealed bytes.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(PAGE_MAGIC);
        w.count(self.entries.len());
        let mut names: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        let mut at = 0;
        for (span, target) in &self.entries {
            w.varint(span.start - at);
            w.varint(span.count);
            at = span.end();
            match *target {
                Target::Hole => w.varint(HOLE),
                Target::Zero => w.varint(ZERO),
                Target::Frame { row, index, offset, frame, skip } => {
                    let next = KNOWN + names.len() as u64;
                    match names.get(&(row, index)) {
                        Some(name) => w.varint(*name),
                        None => {
                            names.insert((row, index), next);
                            w.varint(NEW);
                            Named { row, index, offset, frame }.write(&mut w);
                        }
                    }
                    w.u8(skip);
                }
            }
        }
        w.seal().0
    }

    /// Reads sealed bytes. `Corrupt` if anything about them is wrong.
    pub fn decode(data: &[u8]) -> Result<Page> {
        let (mut r, _, len) = Reader::open("a map page", PAGE_MAGIC, data)?;
        if len != data.len() {
            return Err(r.corrupt("it goes on behind its digest"));
        }
        let n = r.count(3)?;
        let mut entries = Vec::with_capacity(n);
        let mut named = Vec::new();
        let mut at = 0u64;
        for _ in 0..n {
            let (gap, count) = (r.varint()?, r.varint()?);
            let start = at.checked_add(gap).filter(|start| start.checked_add(count).is_some());
            let Some(start) = start.filter(|_| count > 0) else {
                return Err(r.corrupt("its entries are out of order"));
            };
            let span = Span::new(start, count);
            at = span.end();
            entries.push((span, read_target(&mut r, count, &mut named)?));
        }
        r.end()?;
        Ok(Page { entries })
    }

    /// The place of this page if it is stored as `bytes` at `offset` of an object.
    ///
    /// # Panics
    ///
    /// If it has no entries: such a page is never stored.
    pub fn place(&self, bytes: &[u8], object: (Number, Epoch, u32), offset: u32) -> PageRef {
        let (Some((first, _)), Some((last, _))) = (self.entries.first(), self.entries.last()) else {
            panic!("a page without entries is never stored");
        };
        PageRef {
            start: first.start,
            end: last.end(),
            entries: self.entries.len() as u32,
            holes: self.entries.iter().filter(|(_, target)| *target == Target::Hole).count() as u32,
            sectors: self.entries.iter().map(|(span, _)| span.count).sum(),
            number: object.0,
            epoch: object.1,
            part: object.2,
            offset,
            len: bytes.len() as u32,
            crc64: base::checksum::crc64(bytes),
        }
    }
}

fn read_target(r: &mut Reader<'_>, count: u64, named: &mut Vec<Named>) -> Result<Target> {
    let Named { row, index, offset, frame } = match r.varint()? {
        HOLE => return Ok(Target::Hole),
        ZERO => return Ok(Target::Zero),
        NEW => {
            let new = Named::read(r)?;
            named.push(new);
            new
        }
        known => {
            let known = usize::try_from(known - KNOWN).ok().and_then(|n| named.get(n));
            *known.ok_or_else(|| r.corrupt("an entry names a frame that the page does not have"))?
        }
    };
    let skip = r.u8()?;
    let sectors = u64::from(frame.raw) / SECTOR;
    if count > sectors || u64::from(skip) > sectors - count {
        return Err(r.corrupt("an entry lies outside its frame"));
    }
    Ok(Target::Frame { row, index, offset, frame, skip })
}

impl Named {
    fn write(&self, w: &mut Writer) {
        w.varint(self.row.into());
        w.varint(self.index.into());
        w.varint(self.offset.into());
        w.varint(u64::from(self.frame.raw) / SECTOR * 2 + self.frame.codec as u64);
        if self.frame.codec != Codec::Raw {
            w.varint(self.frame.stored.into());
        }
        w.u64(self.frame.crc64);
    }

    fn read(r: &mut Reader<'_>) -> Result<Named> {
        let (row, index, offset) = (r.varint32()?, r.varint32()?, r.varint32()?);
        let lengths = r.varint32()?;
        let codec = if lengths & 1 == 0 { Codec::Raw } else { Codec::Lz4 };
        let raw = (lengths / 2).saturating_mul(SECTOR as u32);
        let stored = if codec == Codec::Raw { raw } else { r.varint32()? };
        let frame = Frame { codec, stored, raw, crc64: r.u64()? };
        frame.check(r)?;
        Ok(Named { row, index, offset, frame })
    }
}
