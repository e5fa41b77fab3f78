//! Compaction: what still lives in segments that are mostly dead is copied into a new one, so that they can go.
//!
//! Which segments those may be is listed when a checkpoint has been cut, and looked at again when they are taken. A copy counts only
//! where the map still points at what was copied when the new segment takes its place in the chain, so that nothing has to stand
//! still meanwhile. An emptied segment goes when a checkpoint merges the entries that its copies hide.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Epoch, Error, ErrorKind, ImageId, Number, Result, SECTOR, Span};
use chain::{Extent, ExtentKind, Row, RowId, SegmentDraft, Table, Target, name, read_header};

use crate::core::Core;
use crate::env::Severity;
use crate::fetch::AT_A_TIME;
use crate::layers::{Layers, Source, StoredFrame};
use crate::pages::{Held, Missing};
use crate::table::{Sectors, SegmentTable};

/// The most runs that are copied at a time.
const RUNS: usize = 16_384;
/// What is taken from at a time may hold so many times what is copied.
const SPARSE: u64 = 8;

/// Segments to empty.
#[derive(Debug)]
pub(crate) struct Victims(Vec<(RowId, Row)>);

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// There is more garbage than there should be.
    Some,
    /// So much that it matters more than what clients want.
    Urgent,
}

/// What was copied.
pub(crate) struct Copies {
    pub content: SegmentDraft,
    pub from: Vec<(RowId, Row)>,
    /// What was too much for one time.
    pub rest: Vec<RowId>,
    /// Segments of which something cannot be read, and why.
    pub damaged: Vec<(RowId, Error)>,
}

/// Which segments to empty, and which have been since a checkpoint told the map so.
#[derive(Debug)]
pub(crate) struct Compactor {
    image: ImageId,
    /// What looked worth emptying in the newest checkpoint, the emptiest last.
    candidates: Vec<RowId>,
    emptied: BTreeSet<RowId>,
    /// What those had when they were emptied.
    gone: Sectors,
    /// Segments that cannot be emptied because something of them cannot be read: let be until the image is opened again.
    damaged: BTreeSet<RowId>,
}

/// Whether at least a quarter of a segment is dead.
fn sparse(row: &Row) -> bool {
    u64::from(row.live) * 4 <= u64::from(row.sectors) * 3
}

impl Compactor {
    /// Starts from a checkpoint's table.
    pub fn new(image: ImageId, rows: &Table) -> Compactor {
        let (emptied, damaged) = (BTreeSet::new(), BTreeSet::new());
        let mut compactor =
            Compactor { image, candidates: Vec::new(), emptied, gone: Sectors::default(), damaged };
        compactor.list(rows);
        compactor
    }

    fn list(&mut self, rows: &Table) {
        let own = rows.iter().filter(|(id, row)| {
            row.origin == self.image
                && sparse(row)
                && !self.emptied.contains(id)
                && !self.damaged.contains(id)
        });
        let share = |row: &Row| u64::from(row.live) * 1024 / u64::from(row.sectors.max(1));
        let mut found: Vec<(u64, RowId)> = own.map(|(id, row)| (share(row), *id)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        self.candidates = found.into_iter().map(|(_, id)| id).collect();
    }

    /// Whether there is more garbage in the bucket than there should be, as far as the counts tell, and something to do about it.
    pub fn need(&self, core: &Core) -> Option<Need> {
        if self.candidates.is_empty() { None } else { self.excess(core, 0) }
    }

    /// Whether there is, and be it that nothing is known that could be done about it.
    pub fn exceeds(&self, core: &Core) -> bool {
        self.excess(core, 0).is_some()
    }

    /// Whether there may be, if `hidden` sectors that the counts take for living are none.
    pub fn suspects(&self, core: &Core, hidden: u64) -> bool {
        self.need(core).is_none() && self.excess(core, hidden).is_some()
    }

    fn excess(&self, core: &Core, hidden: u64) -> Option<Need> {
        let own = core.layers.read().table.own();
        let options = &core.env.options;
        let live = own.live.saturating_sub(self.gone.live).saturating_sub(hidden);
        let dead = (own.stored.saturating_sub(self.gone.stored)).saturating_sub(live) * SECTOR;
        let most = (live * SECTOR) as f64 * options.garbage + options.garbage_slack.0 as f64;
        match dead as f64 {
            dead if dead <= most => None,
            dead if dead <= 2.0 * most => Some(Need::Some),
            _ => Some(Need::Urgent),
        }
    }

    /// The next segments to empty, as they are now: about as many as fill a new one.
    pub fn take(&mut self, table: &SegmentTable, segment: u64) -> Option<Victims> {
        let (mut live, mut all) = (0, 0);
        let mut victims = Vec::new();
        while let Some(id) = self.candidates.last() {
            let id = *id;
            // It may be gone since.
            if let Some(row) = table.get(id).copied() {
                live += u64::from(row.live);
                all += u64::from(row.sectors);
                if !victims.is_empty() && (live > segment / SECTOR || all > segment / SECTOR * SPARSE) {
                    break;
                }
                victims.push((id, row));
            }
            self.candidates.pop();
        }
        (!victims.is_empty()).then_some(Victims(victims))
    }

    /// These could not be looked at for now.
    pub fn put_back(&mut self, victims: Vec<RowId>) {
        self.candidates.extend(victims.into_iter().rev());
    }

    /// These have been emptied.
    pub fn emptied(&mut self, from: &[(RowId, Row)]) {
        for (id, row) in from {
            if self.emptied.insert(*id) {
                self.gone.add(row);
            }
        }
    }

    /// This one is let be.
    pub fn pass_over(&mut self, id: RowId) {
        self.damaged.insert(id);
    }

    /// Bytes of segments that would go if all of the map were merged.
    pub fn would_free(&self) -> u64 {
        self.gone.stored * SECTOR
    }

    /// A checkpoint has been cut. One that merged all of the map leaves nothing of what was emptied before.
    pub fn checkpointed(&mut self, rows: &Table, whole: bool) {
        let still = |id: &RowId| !whole && rows.contains_key(id);
        self.emptied.retain(still);
        self.gone = Sectors::default();
        self.emptied.iter().filter_map(|id| rows.get(id)).for_each(|row| self.gone.add(row));
        self.damaged.retain(|id| rows.contains_key(id));
        self.list(rows);
    }
}

impl Victims {
    /// Their rows.
    pub fn ids(&self) -> Vec<RowId> {
        self.0.iter().map(|(id, _)| *id).collect()
    }
}

/// Copies what lives in the victims. One that cannot be read does not keep the others waiting.
pub(crate) async fn copy(core: Arc<Core>, victims: Victims) -> Result<Copies> {
    let mut copied: Vec<(Span, bytes::Bytes, (Epoch, Number))> = Vec::new();
    let mut copies =
        Copies { content: SegmentDraft::default(), from: Vec::new(), rest: Vec::new(), damaged: Vec::new() };
    for (id, row) in victims.0 {
        if copied.len() >= RUNS {
            copies.rest.push(id);
            continue;
        }
        match living(&core, id, &row).await {
            Ok(runs) => {
                copied.extend(runs);
                copies.from.push((id, row));
            }
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                copies.damaged.push((id, e));
            }
            Err(e) => return Err(e),
        }
    }
    copied.sort_by_key(|(span, ..)| span.start);
    for (span, bytes, place) in copied {
        copies.content.moved(span.start, bytes, place);
    }
    Ok(copies)
}

/// What the map still has in the segment of row `id`.
async fn living(
    core: &Arc<Core>,
    id: RowId,
    row: &Row,
) -> Result<Vec<(Span, bytes::Bytes, (Epoch, Number))>> {
    let place = (row.epoch, row.number);
    let header = read_header(&*core.env.bucket, core.id, row.epoch, row.number).await?;
    let mut runs = Vec::new();
    for extents in header.extents.chunks(AT_A_TIME) {
        runs.extend(core.ask(|layers, held| find(layers, id, extents, held)).await?);
    }
    let parts = core.collect(&runs).await?;
    Ok(runs.into_iter().zip(parts).map(|((span, _), bytes)| (span, bytes, place)).collect())
}

/// The runs of these extents that the map has in the segment of row `id`.
fn find(layers: &Layers, id: RowId, extents: &[Extent], held: &Held) -> Result<Vec<(Span, Source)>, Missing> {
    let mut found = Vec::new();
    let mut missing = Missing::new();
    let Some(r) = layers.table.get(id) else { return Ok(found) };
    for extent in extents {
        if !matches!(extent.kind, ExtentKind::Data(_) | ExtentKind::Moved { .. }) {
            continue;
        }
        layers.clean(extent.span, held, &mut missing, &mut |run, target| {
            if let Target::Frame { row, index, offset, frame, skip } = target
                && row == id
            {
                let frame =
                    StoredFrame { origin: r.origin, epoch: r.epoch, number: r.number, index, offset, frame };
                found.push((run, Source::Stored { frame, skip: u64::from(skip) }));
            }
        });
    }
    if missing.is_empty() { Ok(found) } else { Err(missing) }
}

/// Says of a segment that it is damaged.
pub(crate) fn report_damage(core: &Core, row: Option<&Row>, e: &Error) {
    let segment = row.map(|row| name::segment(row.origin, row.epoch, row.number).to_string());
    core.report(
        Severity::Error,
        format!(
            "stored data is damaged: segment {} cannot be emptied and stays until the volume is opened again; \
             restore the object from another copy of the bucket if there is one: {e}",
            segment.unwrap_or_default()
        ),
    );
}

#[cfg(test)]
mod tests;
