use super::*;

const SOON: Duration = Duration::from_secs(1);

#[test]
fn uploads_make_way_only_while_clients_write_and_there_is_room_and_time() {
    let start = Instant::now();
    let mut courtesy = Courtesy::new(start);
    assert!(!courtesy.makes_way(0.0, SOON, start), "nobody has written");
    courtesy.observe(Seq(5), start);
    assert!(courtesy.makes_way(0.1, SOON, start));
    assert!(!courtesy.makes_way(PLENTY, SOON, start), "room comes first");
    assert!(!courtesy.makes_way(0.1, OLDEST, start), "data must not stay here for long");
    courtesy.observe(Seq(5), start + AT_WORK);
    assert!(!courtesy.makes_way(0.1, SOON, start + AT_WORK * 2), "the same place again is no write");
}

#[test]
fn uploads_take_more_the_scarcer_room_becomes() {
    let start = Instant::now();
    let mut courtesy = Courtesy::new(start);
    assert_eq!(courtesy.puts(4, 0.1, SOON, start), 4, "nobody writes");
    courtesy.observe(Seq(5), start);
    let puts = |fullness| courtesy.puts(4, fullness, SOON, start);
    assert_eq!([0.0, PLENTY, 0.63, 0.66, 0.69, SCARCE, 1.0].map(puts), [1, 1, 2, 3, 4, 4, 4]);
    assert_eq!(courtesy.puts(4, PLENTY, OLDEST, start), 4, "data must not stay here for long");
    courtesy.began(start);
    courtesy.ended(start + AT_WORK / 2);
    let resting = start + AT_WORK / 2;
    assert_eq!(courtesy.puts(4, 0.1, SOON, resting), 0, "a rest after each put");
    assert_eq!(courtesy.puts(4, PLENTY, SOON, resting), 1, "which room comes before");
    assert_eq!(courtesy.puts(1, 1.0, SOON, start), 1);
}

#[test]
fn rests_are_as_long_as_puts_took_and_bounded() {
    let start = Instant::now();
    let mut courtesy = Courtesy::new(start);
    assert!(courtesy.rested(start));
    courtesy.began(start);
    let end = start + Duration::from_millis(100);
    courtesy.ended(end);
    assert!(!courtesy.rested(end) && courtesy.rested(end + Duration::from_millis(100) * RESTS));
    courtesy.ended(start + Duration::from_secs(60));
    let long = start + Duration::from_secs(60) + LONGEST_REST;
    assert!(!courtesy.rested(long - Duration::from_millis(1)) && courtesy.rested(long));
}

#[test]
fn the_next_put_waits_no_longer_than_clients_write() {
    let start = Instant::now();
    let mut courtesy = Courtesy::new(start);
    assert_eq!(courtesy.ends(start), None);
    courtesy.began(start);
    courtesy.observe(Seq(5), start);
    assert_eq!(courtesy.ends(start), Some(start + AT_WORK), "more may begin beside one that is under way");
    courtesy.ended(start + AT_WORK / 2);
    assert_eq!(courtesy.ends(start), Some(start + AT_WORK), "the rest would be longer");
    assert!(!courtesy.makes_way(0.1, SOON, start + AT_WORK), "looked at then, it is over");
    let rested = start + AT_WORK / 2 + (AT_WORK / 2 * RESTS).min(LONGEST_REST);
    assert_eq!(courtesy.ends(start + AT_WORK), Some(rested), "and nobody waits for that");
    assert_eq!(courtesy.ends(rested), None);
}
