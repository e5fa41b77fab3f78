use base::{ImageId, ManualClock};

use super::*;

#[test]
fn damage_is_told_once_an_hour_and_counted() {
    let clock = Arc::new(ManualClock::at(1000));
    let log = EventLog::new(clock.clone());
    let tell = |text: &str, image: u8| {
        let image = ImageId([image; 16]);
        log.event(Event { severity: Severity::Error, image, text: text.into() });
    };
    let here = "stored data is damaged and no other copy was found: segment 7 at 4096";
    let there = "stored data is damaged and no other copy was found: segment 7 at 8192";
    for _ in 0..50 {
        tell(here, 1);
        tell(there, 1);
    }
    tell(here, 2);
    let told = |most| log.newest(most).iter().map(|e| (e.text.clone(), e.times)).collect::<Vec<_>>();
    assert_eq!(told(9), [(here.into(), 50), (there.into(), 50), (here.into(), 1)]);
    clock.advance(AN_HOUR);
    tell(here, 1);
    assert_eq!(told(1), [(here.into(), 1)]);
    // What is no damage is told as often as it happens.
    for _ in 0..3 {
        tell("no room for writes", 1);
    }
    assert_eq!(log.newest(99).len(), 7);
}
