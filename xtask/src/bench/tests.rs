//! The arithmetic of the tables.

use super::{Load, median, spread, steadiest};

#[test]
fn medians_and_spreads() {
    assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median([5.0]), 5.0);
    assert_eq!(spread([100.0; 5]), 0.0);
    assert_eq!(spread([80.0, 90.0, 100.0, 110.0, 120.0]), 0.4);
    // One stray round makes a run invalid: what disturbed it may have disturbed the others' figures as well.
    assert_eq!(spread([100.0, 100.0, 100.0, 100.0, 500.0]), 4.0);
    assert!(spread([]).is_nan());
}

#[test]
fn loads_have_names() {
    assert_eq!(Load { mode: "randread", bytes: 4096, depth: 32 }.name(), "4k randread QD32");
    assert_eq!(Load { mode: "seqwrite", bytes: 1 << 20, depth: 1 }.name(), "1M seqwrite QD1");
}

#[test]
fn the_steadiest_rounds_are_the_neighbours_that_lie_closest_together() {
    let figures = [50.0, 101.0, 300.0, 99.0, 100.0, 104.0, 200.0];
    let any = |_| true;
    assert_eq!(steadiest(&figures, 3, any), Some(3..6));
    assert_eq!(steadiest(&figures, 7, any), Some(0..7));
    assert_eq!(steadiest(&figures[..2], 3, any), None, "there are not enough");
    assert_eq!(steadiest(&figures, 3, |at| at != 4), Some(1..4), "what does not count parts neighbours");
    assert_eq!(steadiest(&figures, 2, |at| at % 2 == 0), None);
}
