use base::Epoch;

use super::*;

const IMAGE: ImageId = ImageId([1; 16]);
const SEGMENT: u64 = 100 * SECTOR;

fn row(number: u64, live: u32) -> Row {
    Row { origin: IMAGE, epoch: Epoch(1), number: Number(number), sectors: 100, live }
}

fn ids(victims: Option<Victims>) -> Vec<RowId> {
    victims.map(|victims| victims.ids()).unwrap_or_default()
}

/// Rows are listed once for each checkpoint, the emptiest first, and taken in batches; what has gone meanwhile is left out.
#[test]
fn candidates_are_taken_in_batches_as_they_are_now() {
    let foreign = Row { origin: ImageId([2; 16]), ..row(9, 0) };
    let rows: Table =
        [(1, row(1, 70)), (2, row(2, 40)), (3, row(3, 90)), (4, row(4, 40)), (5, row(5, 5)), (6, foreign)]
            .into();
    let mut compactor = Compactor::new(IMAGE, &rows);
    let table = SegmentTable::new(IMAGE, rows.clone());
    assert_eq!(ids(compactor.take(&table, SEGMENT)), [5, 2, 4], "as much as fills a segment");
    assert_eq!(ids(compactor.take(&table, SEGMENT)), [1], "the next");
    assert!(compactor.take(&table, SEGMENT).is_none(), "and that was all before another checkpoint");
    compactor.put_back(vec![2, 4]);
    let mut left = rows.clone();
    left.remove(&2);
    assert_eq!(ids(compactor.take(&SegmentTable::new(IMAGE, left), SEGMENT)), [4], "the other has gone");
}

/// What was emptied is no candidate until everything was merged; what is damaged is none as long as it is there.
#[test]
fn emptied_and_damaged_segments_are_left_out() {
    let rows: Table = (0..4).map(|id| (id, row(u64::from(id), 10))).collect();
    let table = SegmentTable::new(IMAGE, rows.clone());
    let mut compactor = Compactor::new(IMAGE, &rows);
    compactor.emptied(&[(0, rows[&0]), (1, rows[&1])]);
    compactor.pass_over(2);
    assert_eq!(compactor.would_free(), 200 * SECTOR);
    compactor.checkpointed(&rows, false);
    assert_eq!(ids(compactor.take(&table, SEGMENT)), [3]);
    assert_eq!(compactor.would_free(), 200 * SECTOR);
    compactor.checkpointed(&rows, true);
    assert_eq!((ids(compactor.take(&table, SEGMENT)), compactor.would_free()), (vec![0, 1, 3], 0));
}
