use super::*;

const READ: u64 = 256;

/// Reads one span behind the other; what was to be fetched, with the read that asked for it.
fn reads(readahead: &Readahead, from: u64, to: u64) -> Vec<(u64, Span)> {
    (from..to).filter_map(|n| readahead.observe(Span::new(n * READ, READ)).map(|ahead| (n, ahead))).collect()
}

#[test]
fn who_reads_on_is_fetched_for_without_gaps_and_ever_further() {
    let readahead = Readahead::default();
    let asked = reads(&readahead, 0, 1000);
    assert_eq!(asked[0], (2, Span::new(3 * READ, FIRST)));
    for (one, next) in asked.iter().zip(&asked[1..]) {
        assert_eq!(next.1.start, one.1.end());
        assert!(next.0 * READ < one.1.end(), "before the reader comes there");
    }
    assert_eq!(asked.last().unwrap().1.count, LONGEST);
    // Reads here and there are not followed.
    let readahead = Readahead::default();
    assert!((0..100).all(|n| readahead.observe(Span::new(n * 7919 % 1000 * READ, READ)).is_none()));
}

#[test]
fn nobody_looks_ahead_where_all_was_there_until_something_is_missing() {
    let readahead = Readahead::default();
    let other = 1 << 30;
    let (first, ahead) = reads(&readahead, 0, 10)[0];
    assert_eq!(reads(&readahead, other, other + 3).len(), 1);
    assert_eq!(first, 2);
    readahead.is_there(ahead);
    assert_eq!(reads(&readahead, 10, 500), [], "it rests");
    assert!(!reads(&readahead, other + 3, other + 100).is_empty(), "the other reader does not");
    // A read of some time ago, as far as the reader is, comes back from the bucket.
    readahead.missed(490 * READ);
    let asked = reads(&readahead, 500, 510);
    assert_eq!((asked[0].0, asked[0].1.start), (500, 501 * READ), "from where the reader is now");
    readahead.is_there(asked[0].1);
    readahead.missed(other * READ);
    assert_eq!(reads(&readahead, 510, 600), [], "what another misses is not its concern");
}
