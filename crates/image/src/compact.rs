//! Compaction: what still lives in segments that are mostly dead is copied into a new one, so that they can go.
//!
//! Which segments those are is known when a checkpoint has been cut. A copy counts only where the map still points at
//! what was copied when the new segment takes its place in the chain, so that nothing has to stand still meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Epoch, Number, Result, SECTOR, Span};
use chain::{ExtentKind, PageRef, Row, RowId, SegmentDraft, Target, read_header};

use crate::core::Core;
use crate::layers::{Layers, Source, StoredFrame};

/// The most runs that are copied at a time.
const RUNS: usize = 16_384;
/// What is taken from at a time may hold so many times what is copied.
const SPARSE: u64 = 8;

/// Segments to empty.
#[derive(Debug)]
pub(crate) struct Victims {
    rows: Vec<(RowId, Row)>,
    /// So much is dead that it matters more than what clients want.
    pub urgent: bool,
}

/// What was copied.
pub(crate) struct Copies {
    pub content: SegmentDraft,
    pub from: Vec<RowId>,
}

/// What has been emptied since the last checkpoint, which will tell the map so.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    emptied: BTreeSet<RowId>,
    /// There is nothing more to empty before the next checkpoint.
    through: bool,
}

impl Compactor {
    /// The segments that are worth emptying next, if there is more garbage in the bucket than there should be.
    pub fn victims(&mut self, core: &Core) -> Option<Victims> {
        if self.through {
            return None;
        }
        let options = &core.env.options;
        let layers = core.layers.read();
        let rows = || layers.table.iter().filter(|(id, r)| r.origin == core.id && !self.emptied.contains(id));
        let (stored, live) = rows().fold((0, 0), |(stored, live), (_, row)| {
            (stored + u64::from(row.sectors), live + u64::from(row.live))
        });
        let dead = (stored - live.min(stored)) * SECTOR;
        let most = |share: f64| (live * SECTOR) as f64 * share + options.garbage_slack.0 as f64;
        if dead as f64 <= most(options.garbage) {
            self.through = true;
            return None;
        }
        let mut sparse: Vec<(RowId, Row)> = rows()
            .filter(|(_, r)| u64::from(r.live) * 4 <= u64::from(r.sectors) * 3)
            .map(|(id, r)| (*id, *r))
            .collect();
        sparse.sort_by_key(|(id, row)| (u64::from(row.live) * 1024 / u64::from(row.sectors.max(1)), *id));
        let (mut live, mut all) = (0, 0);
        let segment = options.segment.0 / SECTOR;
        sparse.retain(|(_, row)| {
            live += u64::from(row.live);
            all += u64::from(row.sectors);
            live <= segment && all <= segment * SPARSE
        });
        self.through = sparse.is_empty();
        (!sparse.is_empty())
            .then(|| Victims { rows: sparse, urgent: dead as f64 > 2.0 * most(options.garbage) })
    }

    /// These have been emptied.
    pub fn emptied(&mut self, from: &[RowId]) {
        self.emptied.extend(from);
    }

    /// Whether a checkpoint would let emptied segments go, and nothing is left to do before it.
    pub fn waits_for_checkpoint(&self) -> bool {
        self.through && !self.emptied.is_empty()
    }

    /// A checkpoint has been cut: the map knows what is dead.
    pub fn checkpointed(&mut self) {
        *self = Compactor::default();
    }
}

/// Copies what lives in the victims.
pub(crate) async fn copy(core: Arc<Core>, victims: Victims) -> Result<Copies> {
    let mut runs = Vec::new();
    let mut from = Vec::new();
    for (id, row) in victims.rows {
        if runs.len() >= RUNS {
            break;
        }
        let header = read_header(&*core.env.bucket, core.id, row.epoch, row.number).await?;
        for extent in &header.extents {
            if matches!(extent.kind, ExtentKind::Data(_) | ExtentKind::Moved { .. }) {
                living(&core, id, extent.span, &mut runs).await?;
            }
        }
        from.push(id);
    }
    runs.sort_by_key(|(span, ..)| span.start);
    let pieces: Vec<(Span, Source)> = runs.iter().map(|(span, source, _)| (*span, source.clone())).collect();
    let parts = core.collect(&pieces).await?;
    let mut content = SegmentDraft::default();
    for ((span, _, place), bytes) in runs.iter().zip(parts) {
        content.moved(span.start, bytes, *place);
    }
    Ok(Copies { content, from })
}

/// A run that lives, where it is, and in which segment.
type Living = (Span, Source, (Epoch, Number));

/// The runs of `span` which the map still has in the segment of row `id`.
async fn living(core: &Core, id: RowId, span: Span, runs: &mut Vec<Living>) -> Result<()> {
    loop {
        let missing = match find(&core.layers.read(), id, span) {
            Ok(found) => {
                runs.extend(found);
                return Ok(());
            }
            Err(place) => place,
        };
        core.load_page(missing).await?;
    }
}

fn find(layers: &Layers, id: RowId, span: Span) -> Result<Vec<Living>, PageRef> {
    let mut found = Vec::new();
    layers.clean(span, &mut |run, target| {
        let Target::Frame { row, index, offset, frame, skip } = target else { return };
        if let Some(r) = layers.table.get(&row).filter(|_| row == id) {
            let frame =
                StoredFrame { origin: r.origin, epoch: r.epoch, number: r.number, index, offset, frame };
            found.push((run, Source::Stored { frame, skip: u64::from(skip) }, (r.epoch, r.number)));
        }
    })?;
    Ok(found)
}
