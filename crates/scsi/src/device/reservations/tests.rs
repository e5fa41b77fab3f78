use super::*;
use base::SeededEntropy;

fn nexus(id: u64) -> Nexus {
    Nexus { id, transport_id: Arc::from(format!("initiator {id}").as_bytes()), target_port: 1 }
}

/// Random requests of five nexuses: whatever happens, the state stays one that can be, and what is stored comes back.
#[test]
fn no_sequence_of_requests_leads_to_a_wrong_state() {
    use Kind::*;
    let kinds = [
        WriteExclusive,
        ExclusiveAccess,
        WriteExclusiveRegistrants,
        ExclusiveAccessRegistrants,
        WriteExclusiveAll,
        ExclusiveAccessAll,
    ];
    let chance = SeededEntropy::new(5);
    let (mut applied, mut refused) = (0, 0);
    let mut state = Reservations::default();
    for _ in 0..200_000 {
        let who = nexus(chance.below(5));
        let kind = kinds[chance.below(6) as usize];
        let key = |registered: Option<&Registration>| match registered {
            Some(r) if chance.chance(4, 5) => r.key,
            _ => chance.below(4),
        };
        let own = state.registration(&who);
        let other = nexus(chance.below(5));
        let action = match chance.below(8) {
            0 | 1 => Action::Register {
                ignore_key: chance.chance(1, 3),
                aptpl: chance.chance(1, 2),
                all_ports: chance.chance(1, 4),
                others: chance.chance(1, 4).then(|| vec![Path::of(&other)]),
            },
            2 => Action::Reserve(kind),
            3 => Action::Release(kind),
            4 if chance.chance(1, 4) => Action::Clear,
            5 => Action::Move { to: Path::of(&other), unregister: chance.chance(1, 2), aptpl: true },
            _ => Action::Preempt { kind, abort: chance.chance(1, 2) },
        };
        let request = Request { action, key: key(own), action_key: key(state.registration(&other)) };
        let before = state.clone();
        match state.apply(&who, &request) {
            Ok(_) => applied += 1,
            Err(_) => {
                refused += 1;
                assert_eq!(state, before, "a refused request changes nothing: {request:?}");
            }
        }
        check(&state);
    }
    assert!(applied > 30_000 && refused > 30_000, "{applied} {refused}");
}

fn check(state: &Reservations) {
    for (i, r) in state.registrations.iter().enumerate() {
        assert_ne!(r.key, 0);
        assert!(
            state.registrations[..i].iter().all(|other| !other.path.overlaps(&r.path)),
            "twice: {state:?}"
        );
    }
    if let Some(reservation) = &state.reservation {
        assert!(!state.registrations.is_empty(), "reserved by nobody");
        let registered = state.registrations.iter().any(|r| r.path == reservation.holder);
        assert!(registered || reservation.kind.all_registrants(), "the holder is not registered: {state:?}");
    }
    let read = Reservations::decode(&state.encode()).unwrap();
    assert_eq!(read.registrations, state.registrations);
    assert_eq!(read.reservation.as_ref().map(|r| r.kind), state.reservation.as_ref().map(|r| r.kind));
    assert_eq!(read.reservation_key(), state.reservation_key());
}
