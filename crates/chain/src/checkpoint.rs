use std::collections::BTreeMap;

use base::{Epoch, ImageId, Number, Result, Seq};
use bytes::Bytes;

use crate::codec::{Reader, Writer};
use crate::page::{Run, read_run, write_run};
use crate::segment::{Position, read_states, write_states};

const ROOT_MAGIC: &[u8; 8] = b"TGckptr2";

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
    /// How many of them entries of the map refer to, also such as newer entries hide: 0 when the segment may go.
    pub live: u32,
}

/// An image's segment table.
pub type Table = BTreeMap<RowId, Row>;

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
    /// Its map: runs of pages, the newest first. What no entry of a run covers shows what the next one has.
    pub runs: Vec<Run>,
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
            runs: Vec::new(),
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
        w.count(self.runs.len());
        self.runs.iter().for_each(|run| write_run(&mut w, run));
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
        let runs = read_runs(&mut r)?;
        r.end()?;
        Ok(Checkpoint { image, position, last_seq, size, states, table, runs })
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

fn read_runs(r: &mut Reader<'_>) -> Result<Vec<Run>> {
    let n = r.count(4)?;
    (0..n).map(|_| read_run(r)).collect()
}
