use super::*;

fn at(start: Instant, micros: u64) -> Instant {
    start + Duration::from_micros(micros)
}

#[test]
fn only_who_sends_soon_is_waited_for_and_not_for_long() {
    let start = Instant::now();
    let mut patience = Patience::new(start);
    assert!(!patience.lasts(start), "nothing has come yet");
    patience.worked(at(start, 500), at(start, 520));
    assert!(!patience.lasts(at(start, 521)), "it took its time");
    patience.worked(at(start, 560), at(start, 580));
    assert!(patience.lasts(at(start, 581)) && patience.lasts(at(start, 679)));
    assert!(!patience.lasts(at(start, 680)), "nothing came soon");
    // One that comes late, whether it was waited for or not, is not waited for again.
    patience.worked(at(start, 700), at(start, 720));
    assert!(!patience.lasts(at(start, 721)));
}
