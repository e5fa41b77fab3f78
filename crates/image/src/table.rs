//! The segment table of an open image: which segments entries of the map refer to, how much, and the sums of that.

use std::collections::BTreeMap;

use base::{Error, ImageId, Result, Span};
use chain::{Row, RowId, Table, Target};

/// Sectors of data in segments, and how many of these entries of the map refer to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sectors {
    pub stored: u64,
    pub live: u64,
}

impl Sectors {
    pub fn add(&mut self, row: &Row) {
        self.stored += u64::from(row.sectors);
        self.live += u64::from(row.live);
    }
}

/// The rows, and their sums over all and over those of the image itself.
///
/// A row's `live` is the number of sectors that the entries of all layers refer to, also those that a newer layer hides. So it
/// never falls to zero while anything can still lead a reader to the segment.
#[derive(Debug)]
pub(crate) struct SegmentTable {
    image: ImageId,
    rows: Table,
    all: Sectors,
    own: Sectors,
    next: RowId,
}

impl SegmentTable {
    pub fn new(image: ImageId, rows: Table) -> SegmentTable {
        let next = rows.last_key_value().map_or(0, |(id, _)| id + 1);
        let mut table = SegmentTable { image, rows, all: Sectors::default(), own: Sectors::default(), next };
        for row in table.rows.values() {
            table.all.add(row);
            if row.origin == image {
                table.own.add(row);
            }
        }
        table
    }

    pub fn rows(&self) -> &Table {
        &self.rows
    }

    pub fn get(&self, id: RowId) -> Option<&Row> {
        self.rows.get(&id)
    }

    /// Over all rows.
    pub fn all(&self) -> Sectors {
        self.all
    }

    /// Over the segments that this image put itself.
    pub fn own(&self) -> Sectors {
        self.own
    }

    /// A new row, which nothing refers to yet.
    pub fn insert(&mut self, row: Row) -> RowId {
        let id = self.next;
        self.next += 1;
        self.all.add(&row);
        if row.origin == self.image {
            self.own.add(&row);
        }
        self.rows.insert(id, row);
        id
    }

    /// An entry for `span` came into the map.
    pub fn link(&mut self, span: Span, target: Target) {
        if let Target::Frame { row, .. } = target {
            self.change(row, |live| live + span.count as u32);
        }
    }

    /// An entry, or this part of one, left the map.
    pub fn unlink(&mut self, span: Span, target: Target) {
        if let Target::Frame { row, .. } = target {
            self.change(row, |live| live.saturating_sub(span.count as u32));
        }
    }

    fn change(&mut self, id: RowId, to: impl FnOnce(u32) -> u32) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        let (old, new) = (row.live, to(row.live));
        row.live = new;
        let own = (row.origin == self.image).then_some(&mut self.own);
        for sums in own.into_iter().chain([&mut self.all]) {
            sums.live = sums.live - u64::from(old) + u64::from(new);
        }
    }

    /// Takes off what a merge found hidden, and drops the rows that nothing refers to any more.
    pub fn merged(&mut self, hidden: &Hidden) {
        for (row, sectors) in &hidden.0 {
            self.change(*row, |live| live.saturating_sub(*sectors));
        }
        let (image, all, own) = (self.image, &mut self.all, &mut self.own);
        self.rows.retain(|_, row| {
            if row.live == 0 {
                all.stored -= u64::from(row.sectors);
                if row.origin == image {
                    own.stored -= u64::from(row.sectors);
                }
            }
            row.live > 0
        });
    }
}

/// Sectors of entries that a merge left out because newer ones hide them, by row.
#[derive(Debug, Default)]
pub(crate) struct Hidden(BTreeMap<RowId, u32>);

impl Hidden {
    pub fn add(&mut self, span: Span, target: Target) {
        if let Target::Frame { row, .. } = target {
            *self.0.entry(row).or_default() += span.count as u32;
        }
    }

    /// Takes them off the rows of a checkpoint and drops those that nothing refers to any more. A row of which less is known than
    /// was hidden means that the counts are wrong; then nothing may be dropped by them.
    pub fn take_off(&self, rows: &mut Table) -> Result<()> {
        for (id, sectors) in &self.0 {
            let live = rows.get_mut(id).map(|row| &mut row.live).filter(|live| **live >= *sectors);
            *live.ok_or_else(|| {
                Error::internal(format!("row {id} of the segment table counts less than refers to it"))
            })? -= sectors;
        }
        rows.retain(|_, row| row.live > 0);
        Ok(())
    }
}
