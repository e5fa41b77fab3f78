//! The map of an image, newest layer first: dirty records, counted segments since the last checkpoint, its pages.

use std::sync::Arc;

use base::{Epoch, ImageId, Number, SECTOR, Seq, Span};
use bytes::Bytes;
use chain::{ExtentKind, ExtentMap, Frame, Header, PageRef, Piece, Row, RowId, Table, Target};

use crate::dirty::{DirtyAt, DirtyPiece, DirtyRecord, SpooledSegment, slice_parts};
use crate::pages::PageIndex;

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
    Record { record: Arc<DirtyRecord>, skip: u64 },
    Spooled { segment: Arc<SpooledSegment>, frame: u32, skip: u64 },
    Stored { frame: StoredFrame, skip: u64 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Layers {
    pub dirty: ExtentMap<DirtyPiece>,
    pub delta: ExtentMap<Target>,
    /// The delta that a checkpoint in the making is merging into the pages.
    pub frozen: Option<Arc<ExtentMap<Target>>>,
    pub pages: PageIndex,
    pub table: Table,
    next_row: RowId,
}

impl Layers {
    pub fn new(pages: PageIndex, table: Table) -> Layers {
        let next_row = table.last_key_value().map_or(0, |(id, _)| id + 1);
        Layers { dirty: ExtentMap::new(), delta: ExtentMap::new(), frozen: None, pages, table, next_row }
    }

    /// Where every sector of `span` is, in order. `Err` names a page that must be loaded first.
    pub fn resolve(&self, span: Span) -> Result<Vec<(Span, Source)>, PageRef> {
        let mut found = Vec::new();
        let mut missing = None;
        self.dirty.walk(span, |part, piece| match piece {
            Some(piece) => found.push((part, dirty_source(piece.at))),
            None => {
                if missing.is_none()
                    && let Err(place) = self.clean(part, &mut |run, target| {
                        found.push((run, self.clean_source(target)));
                    })
                {
                    missing = Some(place);
                }
            }
        });
        missing.map_or(Ok(found), Err)
    }

    /// What the layers below the dirty one say of `span`.
    pub fn clean(&self, span: Span, visit: &mut impl FnMut(Span, Target)) -> Result<(), PageRef> {
        let mut missing = None;
        self.delta.walk(span, |part, target| match (target, &self.frozen) {
            (Some(target), _) => visit(part, target),
            (None, Some(frozen)) => frozen.walk(part, |part, target| match target {
                Some(target) => visit(part, target),
                None => self.paged(part, visit, &mut missing),
            }),
            (None, None) => self.paged(part, visit, &mut missing),
        });
        missing.map_or(Ok(()), Err)
    }

    fn paged(&self, span: Span, visit: &mut impl FnMut(Span, Target), missing: &mut Option<PageRef>) {
        if missing.is_none()
            && let Err(place) =
                self.pages.walk(span, |part, target| visit(part, target.unwrap_or(Target::Hole)))
        {
            *missing = Some(place);
        }
    }

    fn clean_source(&self, target: Target) -> Source {
        match target {
            Target::Hole => Source::Hole,
            Target::Zero => Source::Zero,
            Target::Frame { row, index, offset, frame, skip } => {
                let row = &self.table[&row];
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

    /// Takes a counted segment into the delta and out of the dirty layer, in one step for readers.
    pub fn apply(&mut self, header: &Header) {
        self.map_segment(header);
        for extent in &header.extents {
            if !matches!(extent.kind, ExtentKind::Moved { .. }) {
                remove_up_to(&mut self.dirty, extent.span, header.last_seq);
            }
        }
    }

    /// Takes a segment into the delta: its row, its extents, and what they displace.
    pub fn map_segment(&mut self, header: &Header) {
        let row = self.next_row;
        let offsets = header.offsets();
        let target = |at: chain::Placement| Target::Frame {
            row,
            index: at.frame,
            offset: offsets[at.frame as usize],
            frame: header.frames[at.frame as usize],
            skip: at.skip,
        };
        let sectors = header.extents.iter().map(|e| match e.kind {
            ExtentKind::Data(_) | ExtentKind::Moved { .. } => e.span.count as u32,
            ExtentKind::Zero | ExtentKind::Hole => 0,
        });
        let sectors: u32 = sectors.sum();
        if sectors > 0 {
            self.next_row += 1;
            let (epoch, number) = (header.position.epoch, header.position.number);
            self.table.insert(row, Row { origin: header.image, epoch, number, sectors, live: 0 });
        }
        for extent in &header.extents {
            match extent.kind {
                ExtentKind::Data(at) => self.map(extent.span, target(at)),
                ExtentKind::Zero => self.map(extent.span, Target::Zero),
                ExtentKind::Hole => self.map(extent.span, Target::Hole),
                ExtentKind::Moved { at, from } => {
                    self.map_moved(extent.span, target(at), (header.image, from.0, from.1));
                }
            }
        }
    }

    fn map(&mut self, span: Span, target: Target) {
        let table = &mut self.table;
        if let Target::Frame { row, .. } = target
            && let Some(row) = table.get_mut(&row)
        {
            row.live += span.count as u32;
        }
        self.delta.insert(span, target, |cut, old| unlink(table, cut, old));
    }

    /// The first page that must be loaded before this segment can be mapped: copies are judged by the map.
    pub fn missing_for(&self, header: &Header) -> Option<PageRef> {
        let moved = header.extents.iter().filter(|e| matches!(e.kind, ExtentKind::Moved { .. }));
        moved.map(|e| self.clean(e.span, &mut |_, _| ())).find_map(Result::err)
    }

    /// A copy counts only where the map still points at what was copied.
    fn map_moved(&mut self, span: Span, target: Target, from: (ImageId, Epoch, Number)) {
        let mut still = Vec::new();
        let table = &self.table;
        let mut visit = |run: Span, old: Target| {
            if let Target::Frame { row, .. } = old
                && table.get(&row).is_some_and(|r| (r.origin, r.epoch, r.number) == from)
            {
                still.push(run);
            }
        };
        let loaded = self.clean(span, &mut visit);
        assert!(loaded.is_ok(), "missing_for is asked before a segment is mapped");
        for run in still {
            self.map(run, target.advance(run.start - span.start));
        }
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

/// Takes what a displaced run held off its segment's live count.
pub(crate) fn unlink(table: &mut Table, span: Span, old: Target) {
    if let Target::Frame { row, .. } = old
        && let Some(row) = table.get_mut(&row)
    {
        row.live = row.live.saturating_sub(span.count as u32);
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
