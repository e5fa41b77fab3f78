use std::collections::BTreeMap;

use base::{Epoch, ImageId, Number, Result, SECTOR, Seq, Span};
use bytes::Bytes;

use crate::codec::{Reader, Writer};
use crate::segment::{Codec, Frame, Position, Target, read_states, write_states};

const ROOT_MAGIC: &[u8; 8] = b"TGckptr1";
const PAGE_MAGIC: &[u8; 8] = b"TGpages1";

/// The name of a row of an image's segment table.
pub type RowId = u32;

/// One segment that the map points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The image whose prefix holds it.
    pub origin: ImageId,
    /// Its owner's term.
    pub epoch: Epoch,
    /// Its place.
    pub number: Number,
    /// Data sectors in it.
    pub sectors: u32,
    /// How many of them the map still points at.
    pub live: u32,
}

/// An image's segment table.
pub type Table = BTreeMap<RowId, Row>;

/// Where a page of a checkpoint lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// The first sector it covers.
    pub start: u64,
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

/// The root of a checkpoint: the whole image at one position.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The image.
    pub image: ImageId,
    /// The last member it includes.
    pub position: Position,
    /// The last client record it includes.
    pub last_seq: Seq,
    /// The image's size in sectors.
    pub size: u64,
    /// The values set at that time.
    pub states: BTreeMap<String, Bytes>,
    /// The segments it points at.
    pub table: Table,
    /// Its pages, sorted by start.
    pub pages: Vec<PageRef>,
}

impl Checkpoint {
    /// The checkpoint of an image without history.
    pub fn empty(image: ImageId, size: u64) -> Checkpoint {
        Checkpoint {
            image,
            position: Position::ROOT,
            last_seq: Seq(0),
            size,
            states: BTreeMap::new(),
            table: Table::new(),
            pages: Vec::new(),
        }
    }

    /// The sealed object.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(ROOT_MAGIC);
        w.raw(&self.image.0);
        w.u64(self.position.epoch.0);
        w.u64(self.position.number.0);
        w.raw(&self.position.digest);
        w.u64(self.last_seq.0);
        w.u64(self.size);
        write_states(&mut w, self.states.iter().map(|(n, v)| (n.as_str(), Some(v))));
        w.count(self.table.len());
        for (id, row) in &self.table {
            w.u32(*id);
            w.raw(&row.origin.0);
            w.u64(row.epoch.0);
            w.u64(row.number.0);
            w.u32(row.sectors);
            w.u32(row.live);
        }
        w.count(self.pages.len());
        for p in &self.pages {
            w.u64(p.start);
            w.u64(p.number.0);
            w.u64(p.epoch.0);
            w.u32(p.part);
            w.u32(p.offset);
            w.u32(p.len);
            w.u64(p.crc64);
        }
        w.seal().0
    }

    /// Reads a sealed object. `Corrupt` if anything about it is wrong.
    pub fn decode(data: &[u8]) -> Result<Checkpoint> {
        let (mut r, _, len) = Reader::open("a checkpoint", ROOT_MAGIC, data)?;
        if len != data.len() {
            return Err(r.corrupt("it goes on behind its digest"));
        }
        let image = ImageId(r.array()?);
        let position = Position { epoch: Epoch(r.u64()?), number: Number(r.u64()?), digest: r.array()? };
        let (last_seq, size) = (Seq(r.u64()?), r.u64()?);
        let states = read_states(&mut r)?.into_iter().filter_map(|s| Some((s.name, s.value?))).collect();
        let table = read_table(&mut r)?;
        let pages = read_page_refs(&mut r)?;
        r.end()?;
        Ok(Checkpoint { image, position, last_seq, size, states, table, pages })
    }
}

fn read_table(r: &mut Reader<'_>) -> Result<Table> {
    let mut table = Table::new();
    for _ in 0..r.count(44)? {
        let id = r.u32()?;
        let row = Row {
            origin: ImageId(r.array()?),
            epoch: Epoch(r.u64()?),
            number: Number(r.u64()?),
            sectors: r.u32()?,
            live: r.u32()?,
        };
        if row.live > row.sectors || table.insert(id, row).is_some() {
            return Err(r.corrupt("its segment table contradicts itself"));
        }
    }
    Ok(table)
}

fn read_page_refs(r: &mut Reader<'_>) -> Result<Vec<PageRef>> {
    let n = r.count(44)?;
    let mut pages: Vec<PageRef> = Vec::with_capacity(n);
    for _ in 0..n {
        let page = PageRef {
            start: r.u64()?,
            number: Number(r.u64()?),
            epoch: Epoch(r.u64()?),
            part: r.u32()?,
            offset: r.u32()?,
            len: r.u32()?,
            crc64: r.u64()?,
        };
        if pages.last().is_some_and(|last| last.start >= page.start) {
            return Err(r.corrupt("its pages are out of order"));
        }
        pages.push(page);
    }
    Ok(pages)
}

/// One page of the map: what the sectors from its start on hold, holes left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Sorted, disjoint runs.
    pub runs: Vec<(Span, Target)>,
}

impl Page {
    /// The sealed bytes.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(PAGE_MAGIC);
        w.count(self.runs.len());
        for (span, target) in &self.runs {
            w.u64(span.start);
            w.u32(span.count as u32);
            match *target {
                Target::Hole | Target::Zero => w.u8(1),
                Target::Frame { row, index, offset, frame, skip } => {
                    w.u8(2);
                    w.u32(row);
                    w.u32(index);
                    w.u32(offset);
                    w.u32(frame.stored);
                    w.u32(frame.raw);
                    w.u8(frame.codec as u8);
                    w.u8(skip);
                    w.u64(frame.crc64);
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
        let n = r.count(13)?;
        let mut runs = Vec::with_capacity(n);
        let mut end = 0;
        for _ in 0..n {
            let span = Span::new(r.u64()?, u64::from(r.u32()?));
            if span.is_empty() || span.start < end || span.start.checked_add(span.count).is_none() {
                return Err(r.corrupt("its runs are out of order"));
            }
            end = span.end();
            runs.push((span, read_target(&mut r, span)?));
        }
        r.end()?;
        Ok(Page { runs })
    }
}

fn read_target(r: &mut Reader<'_>, span: Span) -> Result<Target> {
    match r.u8()? {
        1 => Ok(Target::Zero),
        2 => {
            let (row, index, offset, stored, raw) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?);
            let codec = Codec::read(r)?;
            let skip = r.u8()?;
            let frame = Frame { codec, stored, raw, crc64: r.u64()? };
            frame.check(r)?;
            if u64::from(skip) + span.count > u64::from(raw) / SECTOR {
                return Err(r.corrupt("a run lies outside its frame"));
            }
            Ok(Target::Frame { row, index, offset, frame, skip })
        }
        _ => Err(r.corrupt("a run has an unknown target")),
    }
}
