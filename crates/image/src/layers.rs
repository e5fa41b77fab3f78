//! The map of an image, newest layer first: dirty records, counted segments since the last checkpoint, its runs.

use std::sync::Arc;

use base::{Epoch, ImageId, Number, SECTOR, Seq, Span};
use bytes::Bytes;
use chain::{Extent, ExtentKind, ExtentMap, Frame, Header, Piece, Row, RowId, Target};

use crate::dirty::{DirtyAt, DirtyPiece, DirtyRecord, SpooledSegment, slice_parts};
use crate::pages::{Held, Missing, Runs};
use crate::table::SegmentTable;

/// What is shorter, in sectors, is not worth the look whether it hides something that is cached.
const SMALL: u64 = 32;

/// A frame in the bucket, with all that is needed to fetch and check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredFrame {
    pub origin: ImageId,
    pub epoch: Epoch,
    pub number: Number,
    pub index: u32,
    pub offset: u32,
    pub frame: Frame,
}

/// Where the bytes of a run are to be had.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Hole,
    Zero,
    Record {
        record: Arc<DirtyRecord>,
        skip: u64,
    },
    Spooled {
        segment: Arc<SpooledSegment>,
        frame: u32,
        skip: u64,
    },
    Stored {
        frame: StoredFrame,
        skip: u64,
    },
    /// An entry of the map names a row that the segment table does not have: the map is damaged.
    Unknown(RowId),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Layers {
    pub dirty: ExtentMap<DirtyPiece>,
    pub delta: ExtentMap<Target>,
    /// The delta that a checkpoint in the making is writing as a run.
    pub frozen: Option<Arc<ExtentMap<Target>>>,
    pub runs: Runs,
    pub table: SegmentTable,
}

/// The runs of the copies in a segment which the map still had at their source, in order.
#[derive(Debug, Default)]
pub(crate) struct Standing(pub Vec<Span>);

impl Standing {
    /// Those of one copy.
    fn of(&self, copy: Span) -> &[Span] {
        let first = self.0.partition_point(|run| run.start < copy.start);
        let count = self.0[first..].partition_point(|run| run.start < copy.end());
        &self.0[first..first + count]
    }
}

impl Layers {
    pub fn new(runs: Runs, table: SegmentTable) -> Layers {
        Layers { dirty: ExtentMap::new(), delta: ExtentMap::new(), frozen: None, runs, table }
    }

    /// Where every sector of `span` is, in order; or the pages that must be held first.
    pub fn resolve(&self, span: Span, held: &Held) -> Result<Vec<(Span, Source)>, Missing> {
        let mut found = Vec::new();
        let mut missing = Missing::new();
        self.dirty.walk(span, |part, piece| match piece {
            Some(piece) => found.push((part, dirty_source(piece.at))),
            None => self.clean(part, held, &mut missing, &mut |run, target| {
                found.push((run, self.clean_source(target)));
            }),
        });
        if missing.is_empty() { Ok(found) } else { Err(missing) }
    }

    /// What the layers below the dirty one say of `span`. Without a page that is put into `missing` it is of no use.
    pub fn clean(&self, span: Span, held: &Held, missing: &mut Missing, visit: &mut dyn FnMut(Span, Target)) {
        self.delta.walk(span, |part, target| match (target, &self.frozen) {
            (Some(target), _) => visit(part, target),
            (None, Some(frozen)) => frozen.walk(part, |part, target| match target {
                Some(target) => visit(part, target),
                None => self.runs.walk(part, held, missing, visit),
            }),
            (None, None) => self.runs.walk(part, held, missing, visit),
        });
    }

    fn clean_source(&self, target: Target) -> Source {
        match target {
            Target::Hole => Source::Hole,
            Target::Zero => Source::Zero,
            Target::Frame { row, index, offset, frame, skip } => {
                let Some(row) = self.table.get(row) else { return Source::Unknown(row) };
                let frame = StoredFrame {
                    origin: row.origin,
                    epoch: row.epoch,
                    number: row.number,
                    index,
                    offset,
                    frame,
                };
                Source::Stored { frame, skip: u64::from(skip) }
            }
        }
    }

    /// Makes a record visible. A run that a younger record made already stays as it is.
    pub fn publish(&mut self, record: &Arc<DirtyRecord>) {
        if let Some(piece) = DirtyPiece::of(record) {
            insert_unless_younger(&mut self.dirty, record.span, piece);
        }
    }

    /// The frames of image `own` that what a segment says hides as a whole, as far as the map is loaded.
    pub fn superseded(&self, own: ImageId, header: &Header) -> Vec<StoredFrame> {
        let mut hidden = Vec::new();
        // Not those of pages that are not loaded: nobody has read there lately.
        let (none, mut missing) = (Held::new(), Missing::new());
        let moved = |extent: &Extent| matches!(extent.kind, ExtentKind::Moved { .. });
        for extent in header.extents.iter().filter(|e| e.span.count >= SMALL && !moved(e)) {
            self.clean(extent.span, &none, &mut missing, &mut |run, target| {
                if let Target::Frame { frame, skip: 0, .. } = target
                    && run.bytes() == u64::from(frame.raw)
                    && let Source::Stored { frame, .. } = self.clean_source(target)
                    && frame.origin == own
                {
                    hidden.push(frame);
                }
            });
        }
        hidden
    }

    /// Takes a counted segment into the delta and out of the dirty layer, in one step for readers.
    pub fn apply(&mut self, header: &Header, standing: &Standing) {
        self.map_segment(header, standing);
        for extent in &header.extents {
            if !matches!(extent.kind, ExtentKind::Moved { .. }) {
                remove_up_to(&mut self.dirty, extent.span, header.last_seq);
            }
        }
    }

    /// Takes a segment into the delta: its row, its extents, and what they displace. Of its copies, what is still standing.
    pub fn map_segment(&mut self, header: &Header, standing: &Standing) {
        let sectors = header.extents.iter().map(|e| match e.kind {
            ExtentKind::Data(_) | ExtentKind::Moved { .. } => e.span.count as u32,
            ExtentKind::Zero | ExtentKind::Hole => 0,
        });
        let sectors: u32 = sectors.sum();
        let (epoch, number) = (header.position.epoch, header.position.number);
        let row = match sectors {
            0 => 0, // no extent will name it
            _ => self.table.insert(Row { origin: header.image, epoch, number, sectors, live: 0 }),
        };
        let offsets = header.offsets();
        let target = |at: chain::Placement| Target::Frame {
            row,
            index: at.frame,
            offset: offsets[at.frame as usize],
            frame: header.frames[at.frame as usize],
            skip: at.skip,
        };
        for extent in &header.extents {
            match extent.kind {
                ExtentKind::Data(at) => self.map(extent.span, target(at)),
                ExtentKind::Zero => self.map(extent.span, Target::Zero),
                ExtentKind::Hole => self.map(extent.span, Target::Hole),
                ExtentKind::Moved { at, .. } => {
                    for run in standing.of(extent.span) {
                        self.map(*run, target(at).advance(run.start - extent.span.start));
                    }
                }
            }
        }
    }

    /// Maps `span` in the delta.
    pub fn map(&mut self, span: Span, target: Target) {
        let table = &mut self.table;
        table.link(span, target);
        self.delta.insert(span, target, |cut, old| table.unlink(cut, old));
    }

    /// Takes back the delta that was frozen, below what has come since.
    pub fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        let newer = std::mem::replace(&mut self.delta, Arc::unwrap_or_clone(frozen));
        for (span, target) in newer.iter() {
            let table = &mut self.table;
            self.delta.insert(span, *target, |cut, old| table.unlink(cut, old));
        }
    }

    /// Which of these extents of a segment are copies that count: where the map still points at what was copied. The extents of a
    /// segment do not overlap, so that one decides nothing about another.
    pub fn standing(
        &self,
        image: ImageId,
        extents: &[Extent],
        held: &Held,
        missing: &mut Missing,
    ) -> Vec<Span> {
        let mut standing = Vec::new();
        for extent in extents {
            let ExtentKind::Moved { from, .. } = extent.kind else { continue };
            self.clean(extent.span, held, missing, &mut |run, old| {
                if let Target::Frame { row, .. } = old
                    && let Some(row) = self.table.get(row)
                    && (row.origin, row.epoch, row.number) == (image, from.0, from.1)
                {
                    standing.push(run);
                }
            });
        }
        standing
    }

    /// Points the dirty runs of a segment that went to the local disk there.
    pub fn spooled(&mut self, segment: &Arc<SpooledSegment>) {
        let last = segment.header.last_seq;
        for extent in &segment.header.extents {
            let ExtentKind::Data(at) = extent.kind else { continue };
            let runs: Vec<(Span, Seq)> = self
                .dirty
                .overlapping(extent.span)
                .filter(|(_, piece)| piece.seq <= last)
                .map(|(run, piece)| (run, piece.seq))
                .collect();
            for (run, seq) in runs {
                let skip = u64::from(at.skip) + run.start - extent.span.start;
                let at = DirtyAt::Spooled { segment: segment.clone(), frame: at.frame, skip };
                self.dirty.insert(run, DirtyPiece { seq, at }, |_, _| ());
            }
        }
    }

    /// Takes a segment found on the local disk at start-up into the dirty layer.
    pub fn recover_spooled(&mut self, segment: &Arc<SpooledSegment>) {
        for extent in &segment.header.extents {
            let at = match extent.kind {
                ExtentKind::Data(at) => {
                    DirtyAt::Spooled { segment: segment.clone(), frame: at.frame, skip: u64::from(at.skip) }
                }
                ExtentKind::Zero => DirtyAt::Zero,
                ExtentKind::Hole => DirtyAt::Hole,
                ExtentKind::Moved { .. } => continue,
            };
            self.dirty.insert(extent.span, DirtyPiece { seq: segment.header.last_seq, at }, |_, _| ());
        }
    }
}

fn dirty_source(at: DirtyAt) -> Source {
    match at {
        DirtyAt::Record { record, skip } => Source::Record { record, skip },
        DirtyAt::Spooled { segment, frame, skip } => Source::Spooled { segment, frame, skip },
        DirtyAt::Zero => Source::Zero,
        DirtyAt::Hole => Source::Hole,
    }
}

fn insert_unless_younger(dirty: &mut ExtentMap<DirtyPiece>, span: Span, piece: DirtyPiece) {
    let younger: Vec<Span> =
        dirty.overlapping(span).filter(|(_, p)| p.seq > piece.seq).map(|(run, _)| run).collect();
    let mut at = span.start;
    for run in younger {
        if run.start > at {
            let part = Span::new(at, run.start - at);
            dirty.insert(part, piece.advance(at - span.start), |_, _| ());
        }
        at = run.end();
    }
    if at < span.end() {
        dirty.insert(Span::new(at, span.end() - at), piece.advance(at - span.start), |_, _| ());
    }
}

fn remove_up_to(dirty: &mut ExtentMap<DirtyPiece>, span: Span, last: Seq) {
    let covered: Vec<Span> =
        dirty.overlapping(span).filter(|(_, p)| p.seq <= last).map(|(run, _)| run).collect();
    for run in covered {
        dirty.remove(run, |_, _| ());
    }
}

/// Appends a run of zero bytes without allocating for the usual sizes.
pub(crate) fn push_zeroes(out: &mut Vec<Bytes>, sectors: u64) {
    static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
    let mut left = sectors * SECTOR;
    while left > 0 {
        let n = left.min(ZEROES.len() as u64);
        out.push(Bytes::from_static(&ZEROES[..n as usize]));
        left -= n;
    }
}

/// Appends `count` sectors from `skip` of a decoded frame.
pub(crate) fn push_frame(out: &mut Vec<Bytes>, raw: Bytes, skip: u64, count: u64) {
    slice_parts(&[raw], skip * SECTOR, count * SECTOR, out);
}
