//! Lateness grows, is bounded, and is each address's own (X03).

use super::*;

fn suspects() -> (Arc<Suspects>, Arc<Mutex<Vec<Guessing>>>) {
    let (suspects, told) = (Arc::new(Suspects::default()), Arc::new(Mutex::new(Vec::new())));
    let heard = told.clone();
    suspects.watch(Box::new(move |guessing| heard.lock().push(guessing)));
    (suspects, told)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(last: u32) -> IpAddr {
    IpAddr::from((u32::from_be_bytes([10, 0, 0, 0]) + last).to_be_bytes())
}

/// Discovery, the first target, the second and so on.
fn door(n: usize) -> Door {
    (n > 0).then(|| format!("iqn.2026-01.org.tidegate:disk{n}").parse().unwrap())
}

/// Wrong once at the first target, with the answer given at once.
fn lateness(suspects: &Arc<Suspects>, address: IpAddr, now: Duration) -> u64 {
    lateness_at(suspects, address, &door(1), now)
}

fn lateness_at(suspects: &Arc<Suspects>, address: IpAddr, door: &Door, now: Duration) -> u64 {
    suspects.wrong(address, door, now).map_or(0, |(late, _)| late.as_secs())
}

#[test]
fn answers_come_later_and_later_but_not_without_end() {
    let (suspects, told) = suspects();
    let late: Vec<u64> = (0..10).map(|n| lateness(&suspects, address(1), at(n))).collect();
    assert_eq!(late, [0, 0, 0, 1, 2, 4, 8, 8, 8, 8]);
    assert_eq!(lateness(&suspects, address(2), at(10)), 0, "another address pays nothing");
    assert_eq!(*told.lock(), [Guessing { address: address(1), times: 4 }], "told once");
    lateness(&suspects, address(1), at(62));
    lateness(&suspects, address(1), at(64));
    assert_eq!(told.lock().len(), 2, "and once more in the next minute");
    for n in 0..100 {
        lateness(&suspects, address(1), at(65 + n));
    }
    assert_eq!(lateness(&suspects, address(1), at(200)), 8);
}

#[test]
fn the_right_proof_and_time_forgive() {
    let (suspects, _) = suspects();
    for n in 0..6 {
        lateness(&suspects, address(1), at(n));
    }
    suspects.right(address(1), &door(1));
    assert_eq!(lateness(&suspects, address(1), at(7)), 0);
    for n in 0..6 {
        lateness(&suspects, address(1), at(n));
    }
    assert_eq!(lateness(&suspects, address(1), at(6)), 8);
    assert_eq!(lateness(&suspects, address(1), at(6 + 601)), 0);
}

#[test]
fn the_right_proof_forgives_at_its_own_door_alone() {
    let (suspects, _) = suspects();
    let own = door(1);
    // A guess at another's target, then a login at one's own: the guesses add up all the same.
    for (n, other) in [door(2), door(0), door(3), door(2), door(0), door(3)].iter().enumerate() {
        let wanted = [0, 0, 0, 1, 2, 4][n];
        assert_eq!(lateness_at(&suspects, address(1), other, at(1)), wanted, "guess {n}");
        suspects.right(address(1), &own);
    }
    // Each door forgives what was wrong at it.
    for (n, (other, left)) in [(door(2), 4), (door(0), 2), (door(3), 0)].iter().enumerate() {
        suspects.right(address(1), other);
        assert_eq!(suspects.by_address.lock().get(&address(1)).map_or(0, Suspect::times), *left, "{n}");
    }
    assert!(suspects.by_address.lock().is_empty(), "what is forgiven is forgotten");
}

#[test]
fn guesses_at_many_doors_are_all_counted_in_bounded_memory() {
    let (suspects, _) = suspects();
    for n in 0..1000 {
        lateness_at(&suspects, address(1), &door(n), at(1));
        suspects.right(address(1), &door(2000));
    }
    let known = suspects.by_address.lock();
    let suspect = &known[&address(1)];
    assert_eq!((suspect.at.len(), suspect.times()), (APART, 1000));
    drop(known);
    suspects.right(address(1), &door(999));
    assert_eq!(lateness(&suspects, address(1), at(2)), 8);
    assert_eq!(lateness(&suspects, address(1), at(2 + 601)), 0, "time forgives all");
}

#[test]
fn many_connections_at_once_gain_nothing() {
    let (suspects, _) = suspects();
    let waiting: Vec<_> = (0..11).filter_map(|_| suspects.wrong(address(1), &door(1), at(0))).collect();
    assert_eq!(waiting.len(), 8);
    assert!(suspects.is_crowded(address(1)) && !suspects.is_crowded(address(2)));
    suspects.right(address(1), &door(1));
    assert!(suspects.is_crowded(address(1)), "what is outstanding stays so");
    drop(waiting);
    assert!(!suspects.is_crowded(address(1)));
}

#[test]
fn no_more_addresses_are_remembered_than_set() {
    let (suspects, _) = suspects();
    let waiting: Vec<_> = (0..5).filter_map(|_| suspects.wrong(address(0), &door(1), at(0))).collect();
    for n in 1..5000 {
        lateness(&suspects, address(n), at(n.into()));
        assert!(suspects.by_address.lock().len() <= REMEMBERED);
    }
    assert!(suspects.by_address.lock().contains_key(&address(0)), "it has answers outstanding");
    assert!(!suspects.by_address.lock().contains_key(&address(1)));
    drop(waiting);
    // A network of IPv6 counts as one host, and IPv4 in IPv6 as IPv4.
    let late = |text: &str| lateness(&suspects, text.parse().unwrap(), at(6000));
    let six = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3", "2001:db8::4", "2001:db8:0:1::5"];
    assert_eq!(six.map(late), [0, 0, 0, 1, 0]);
    assert_eq!(["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"].map(late), [0, 0, 0, 1]);
}
