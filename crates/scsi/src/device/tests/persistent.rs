//! Persistent reservations through the commands (SPC-5 §5.14).

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;
use crate::task::Stop;

const A: u64 = 0xaaaa_0000_0000_0001;
const B: u64 = 0xbbbb_0000_0000_0002;
const CONFLICT: Status = Status::ReservationConflict;

fn list(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut out = key.to_be_bytes().to_vec();
    out.extend(action_key.to_be_bytes());
    out.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    out
}

fn out_cdb(action: u8, kind: u8, length: usize) -> [u8; 10] {
    let n = (length as u32).to_be_bytes();
    [0x5f, action, kind, 0, 0, n[0], n[1], n[2], n[3], 0]
}

impl Bench {
    fn prout(&self, nexus: &Nexus, action: u8, kind: u8, key: u64, action_key: u64) -> Status {
        self.status(nexus, &out_cdb(action, kind, 24), &list(key, action_key, 0))
    }

    /// Asked by somebody who is never told anything else first.
    fn prin(&self, action: u8) -> Vec<u8> {
        self.good(&nexus(99, "iqn.2026-01.example:observer"), &[0x5e, action, 0, 0, 0, 0, 0, 4, 0, 0], &[])
    }

    fn keys(&self) -> Vec<u64> {
        self.prin(0)[8..].chunks(8).map(|k| u64::from_be_bytes(k.try_into().unwrap())).collect()
    }

    /// Key and type of the reservation.
    fn reservation(&self) -> Option<(u64, u8)> {
        let data = self.prin(1);
        (data.len() > 8).then(|| (u64::from_be_bytes(data[8..16].try_into().unwrap()), data[21]))
    }

    fn registered() -> Bench {
        let bench = Bench::new();
        assert_eq!(bench.prout(&bench.a, 0, 0, 0, A), Status::Good);
        assert_eq!(bench.prout(&bench.b, 6, 0, 99, B), Status::Good, "the key is ignored");
        bench
    }

    fn generation(&self) -> u32 {
        u32::from_be_bytes(self.prin(0)[..4].try_into().unwrap())
    }

    fn quiet(&self, nexus: &Nexus) {
        while self.status(nexus, &TEST_UNIT_READY, &[]) == Status::CheckCondition {}
    }
}

#[test]
fn keys_are_checked_changed_and_removed() {
    let bench = Bench::registered();
    assert_eq!(bench.keys(), [A, B]);
    assert_eq!(bench.generation(), 2);
    assert_eq!(bench.prout(&bench.a, 0, 0, 5, 7), CONFLICT);
    assert_eq!(bench.prout(&bench.a, 0, 0, A, 7), Status::Good);
    assert_eq!(bench.keys(), [7, B]);
    assert_eq!(bench.prout(&bench.a, 0, 0, 7, 0), Status::Good);
    assert_eq!(bench.keys(), [B]);
    assert_eq!(bench.prout(&bench.a, 1, 1, 0, 0), CONFLICT, "only the registered reserve");
    assert_eq!(bench.sense(&bench.a, &out_cdb(0, 0, 23), &[0; 23]), (5, 0x1a00));
    assert_eq!(bench.sense(&bench.b, &out_cdb(1, 0x11, 24), &list(B, 0, 0)), (5, 0x2400), "scope");
    assert_eq!(bench.sense(&bench.b, &out_cdb(1, 2, 24), &list(B, 0, 0)), (5, 0x2400), "type");
}

/// SPC-5 table 67 with the commands of SBC-4 table 13, as: read and write by the holder, by another registrant, by one
/// that is not registered.
#[test]
fn the_conflict_table_holds_for_every_type() {
    type Row = (u8, [bool; 2], [bool; 2]);
    let table: [Row; 6] = [
        (0x1, [true, false], [true, false]),
        (0x3, [false, false], [false, false]),
        (0x5, [true, true], [true, false]),
        (0x6, [true, true], [false, false]),
        (0x7, [true, true], [true, false]),
        (0x8, [true, true], [false, false]),
    ];
    let reads: [&[u8]; 4] =
        [&read10(0, 1), &ten(0x2f, 0, 0, 1), &ten(0x34, 0, 0, 1), &sixteen(0x9e, 0x12, 0, 24)];
    let writes: [(&[u8], usize); 9] = [
        (&write10(0, 1), 512),
        (&sixteen(0x93, 0, 0, 1), 512),
        (&sixteen(0x8b, 0, 0, 1), 512),
        (&sixteen(0x9c, 0, 0, 1), 512),
        (&compare_and_write(0, 1), 1024),
        (&ten(0x35, 0, 0, 0), 0),
        (&ten(0x42, 0, 0, 0), 0),
        (&[0x1a, 0, 0x3f, 0, 255, 0], 0),
        (&[0x1b, 0, 0, 0, 0, 0], 0),
    ];
    let always: [&[u8]; 7] = [
        &TEST_UNIT_READY,
        &[0x12, 0, 0, 0, 36, 0],
        &[0x03, 0, 0, 0, 18, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        &[0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0],
        &[0x1b, 0, 0, 0, 1, 0],
    ];
    for (kind, registered, unregistered) in table {
        let bench = Bench::registered();
        let stranger = nexus(3, "iqn.2026-01.example:c");
        bench.target.nexus_opened(&stranger);
        bench.quiet(&stranger);
        assert_eq!(bench.prout(&bench.a, 1, kind, A, 0), Status::Good);
        let who = [(&bench.a, [true, true]), (&bench.b, registered), (&stranger, unregistered)];
        for (nexus, [may_read, may_write]) in who {
            for cdb in reads {
                assert_eq!(bench.status(nexus, cdb, &[]) == Status::Good, may_read, "{kind} {cdb:02x?}");
            }
            for (cdb, length) in writes {
                assert_eq!(
                    bench.status(nexus, cdb, &vec![0; length]) == Status::Good,
                    may_write,
                    "{kind} {cdb:02x?}"
                );
            }
            for cdb in always {
                assert_eq!(bench.status(nexus, cdb, &[]), Status::Good, "{kind} {cdb:02x?}");
            }
            let quick = bench.target.try_execute(nexus, 0, &command(&read10(0, 1), &[]));
            assert_eq!(quick.is_some(), may_read, "the hot path asks too");
        }
    }
}

#[test]
fn reserving_again_and_releasing_follow_ownership() {
    for kind in [0x1, 0x3, 0x5, 0x6, 0x7, 0x8] {
        let all = kind >= 7;
        let bench = Bench::registered();
        assert_eq!(bench.prout(&bench.a, 1, kind, A, 0), Status::Good);
        assert_eq!(bench.reservation(), Some((if all { 0 } else { A }, kind)));
        assert_eq!(bench.prout(&bench.a, 1, kind, A, 0), Status::Good);
        assert_eq!(bench.prout(&bench.b, 1, kind, B, 0) == Status::Good, all);
        assert_eq!(bench.prout(&bench.a, 1, if kind == 1 { 3 } else { 1 }, A, 0), CONFLICT);
        assert_eq!(
            bench.sense(&bench.a, &out_cdb(2, if kind == 1 { 3 } else { 1 }, 24), &list(A, 0, 0)),
            (5, 0x2604)
        );
        if !all {
            assert_eq!(bench.prout(&bench.b, 2, kind, B, 0), Status::Good, "no holder, no effect");
            assert!(bench.reservation().is_some());
        }
        let before = bench.generation();
        assert_eq!(bench.prout(&bench.a, 2, kind, A, 0), Status::Good);
        assert_eq!(bench.reservation(), None);
        assert_eq!(bench.generation(), before, "neither RESERVE nor RELEASE counts");
        let told = bench.run(&bench.b, &TEST_UNIT_READY, &[]);
        match kind {
            1 | 3 => assert_eq!(told.status, Status::Good),
            _ => assert_eq!(sense(&told), (6, 0x2a04), "RESERVATIONS RELEASED"),
        }
    }
}

#[test]
fn a_holder_that_unregisters_takes_its_reservation_along() {
    for kind in [0x1, 0x3, 0x5, 0x6, 0x7, 0x8] {
        let bench = Bench::registered();
        bench.prout(&bench.a, 1, kind, A, 0);
        assert_eq!(bench.prout(&bench.a, 0, 0, A, 0), Status::Good);
        assert_eq!(bench.reservation().is_some(), kind >= 7, "all registrants hold it on");
        let told = bench.status(&bench.b, &TEST_UNIT_READY, &[]) == Status::CheckCondition;
        assert_eq!(told, matches!(kind, 5 | 6));
        assert_eq!(bench.prout(&bench.b, 0, 0, B, 0), Status::Good);
        assert_eq!(bench.reservation(), None);
    }
}

#[test]
fn clear_removes_all_and_tells() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 1, A, 0);
    assert_eq!(bench.prout(&bench.b, 3, 0, B, 0), Status::Good);
    assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (6, 0x2a03));
    assert_eq!((bench.keys(), bench.reservation()), (vec![], None));
}

#[test]
fn preempting_takes_the_place_of_a_holder_or_removes_registrations() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 5, A, 0);
    assert_eq!(bench.prout(&bench.b, 4, 1, B, 0xdead), CONFLICT, "nobody has that key");
    assert_eq!(bench.sense(&bench.b, &out_cdb(4, 1, 24), &list(B, 0, 0)), (5, 0x2600));
    assert_eq!(bench.prout(&bench.b, 4, 1, B, A), Status::Good);
    assert_eq!(bench.reservation(), Some((B, 1)));
    assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (6, 0x2a05), "REGISTRATIONS PREEMPTED");
    assert_eq!(bench.keys(), [B]);
    // A key that holds nothing is only removed.
    assert_eq!(bench.prout(&bench.a, 0, 0, 0, A), Status::Good);
    assert_eq!(bench.prout(&bench.b, 4, 3, B, A), Status::Good);
    assert_eq!((bench.keys(), bench.reservation()), (vec![B], Some((B, 1))));
    // Oneself: the type changes, the registration stays.
    assert_eq!(bench.prout(&bench.b, 4, 3, B, B), Status::Good);
    assert_eq!((bench.keys(), bench.reservation()), (vec![B], Some((B, 3))));
    bench.quiet(&bench.a);
}

#[test]
fn preempting_all_registrants_needs_key_zero_to_take_over() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 7, A, 0);
    assert_eq!(bench.prout(&bench.b, 4, 1, B, A), Status::Good);
    assert_eq!((bench.keys(), bench.reservation()), (vec![B], Some((0, 7))));
    bench.quiet(&bench.a);
    bench.prout(&bench.a, 0, 0, 0, A);
    assert_eq!(bench.prout(&bench.b, 4, 1, B, 0), Status::Good);
    assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (6, 0x2a05));
    assert_eq!((bench.keys(), bench.reservation()), (vec![B], Some((B, 1))));
}

#[test]
fn preempt_and_abort_ends_after_the_victims_tasks_which_end_aborted() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 5, A, 0);
    bench.medium.pause();
    let mut write = bench.begin(&bench.a, &write10(0, 1), &[1; 512]);
    assert!(poll_once(write.as_mut()).is_pending());
    let preempt = (out_cdb(5, 1, 24), list(B, A, 0));
    let mut preempting = bench.begin(&bench.b, &preempt.0, &preempt.1);
    assert!(poll_once(preempting.as_mut()).is_pending(), "a write of the victim could still come");
    assert_eq!(bench.sense(&bench.a, &write10(1, 1), &[1; 512]), (6, 0x2a05));
    assert_eq!(bench.status(&bench.a, &write10(1, 1), &[1; 512]), CONFLICT, "no new one is let in");
    bench.medium.resume();
    assert!(poll_once(preempting.as_mut()).is_pending());
    assert_eq!(now(write).status, Status::TaskAborted);
    assert_eq!(now(preempting).status, Status::Good);
    assert_eq!(bench.reservation(), Some((B, 1)));
}

#[test]
fn preempt_and_abort_does_not_wait_for_tasks_begun_later() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 5, A, 0);
    bench.medium.set_cold(true);
    bench.medium.pause();
    let mut first = bench.begin(&bench.a, &read10(0, 1), &[]);
    assert!(poll_once(first.as_mut()).is_pending());
    let preempt = (out_cdb(5, 5, 24), list(B, A, 0));
    let mut preempting = bench.begin(&bench.b, &preempt.0, &preempt.1);
    assert!(poll_once(preempting.as_mut()).is_pending());
    bench.quiet(&bench.a);
    // Type 5 lets everybody read: the victim goes on reading, one command overlapping the next.
    let mut next = bench.begin(&bench.a, &read10(0, 1), &[]);
    assert!(poll_once(next.as_mut()).is_pending());
    assert!(poll_once(preempting.as_mut()).is_pending(), "the first is not over");
    bench.medium.resume();
    assert_eq!(now(first).status, Status::TaskAborted);
    match poll_once(preempting.as_mut()) {
        Poll::Ready(outcome) => assert_eq!(outcome.status, Status::Good),
        Poll::Pending => panic!("it waits for a command that began after it"),
    }
    assert_eq!(now(next).status, Status::Good);
}

#[test]
fn two_that_preempt_and_abort_each_other_do_not_wait_for_each_other() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 5, A, 0);
    bench.medium.set_cold(true);
    bench.medium.pause();
    let mut read = bench.begin(&bench.a, &read10(0, 1), &[]);
    assert!(poll_once(read.as_mut()).is_pending());
    let by_b = (out_cdb(5, 5, 24), list(B, A, 0));
    let mut by_b = bench.begin(&bench.b, &by_b.0, &by_b.1);
    assert!(poll_once(by_b.as_mut()).is_pending());
    bench.quiet(&bench.a);
    bench.medium.resume();
    assert_eq!(bench.prout(&bench.a, 6, 0, 0, A), Status::Good, "it registers again");
    assert_eq!(bench.prout(&bench.a, 5, 5, A, B), Status::Good);
    assert_eq!(now(by_b).status, Status::TaskAborted);
    assert_eq!(now(read).status, Status::TaskAborted);
    assert_eq!(bench.reservation(), Some((A, 5)));
}

#[test]
fn one_that_waits_for_others_does_not_keep_a_third_waiting() {
    let bench = Bench::registered();
    let c = nexus(3, "iqn.2026-01.example:c");
    bench.target.nexus_opened(&c);
    bench.quiet(&c);
    assert_eq!(bench.prout(&c, 6, 0, 0, 7), Status::Good);
    bench.prout(&bench.a, 1, 5, A, 0);
    bench.medium.set_cold(true);
    bench.medium.pause();
    let mut read = bench.begin(&bench.a, &read10(0, 1), &[]);
    assert!(poll_once(read.as_mut()).is_pending());
    let by_b = (out_cdb(5, 5, 24), list(B, A, 0));
    let mut by_b = bench.begin(&bench.b, &by_b.0, &by_b.1);
    assert!(poll_once(by_b.as_mut()).is_pending());
    // The only command of B that C aborts is one that changes nothing any more.
    assert_eq!(bench.prout(&c, 5, 5, 7, B), Status::Good);
    assert_eq!(now(by_b).status, Status::TaskAborted, "though the read still runs");
    assert!(poll_once(read.as_mut()).is_pending());
}

#[test]
fn one_that_waits_is_woken_when_it_is_stopped() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 5, A, 0);
    bench.medium.set_cold(true);
    bench.medium.pause();
    let mut read = bench.begin(&bench.a, &read10(0, 1), &[]);
    assert!(poll_once(read.as_mut()).is_pending());
    let mut preempt = command(&out_cdb(5, 5, 24), &list(B, A, 0));
    assert!(crate::device::may_take_long(&preempt.cdb));
    let stop = Stop::default();
    preempt.stop = Some(stop.clone());
    let mut preempting = pin!(bench.target.execute(&bench.b, 0, preempt, None));
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = woken.clone().into();
    assert!(preempting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(!woken.0.load(Ordering::Relaxed));
    stop.ask();
    assert!(woken.0.load(Ordering::Relaxed));
    assert_eq!(now(preempting).status, Status::TaskAborted);
}

#[test]
fn a_preempted_task_that_has_not_begun_its_change_does_not_make_it() {
    let bench = Bench::new();
    bench.good(&bench.a, &out_cdb(0, 0, 24), &list(0, A, 0x01));
    bench.good(&bench.b, &out_cdb(0, 0, 24), &list(0, B, 0x01));
    bench.medium.pause();
    let preempt = (out_cdb(5, 5, 24), list(B, A, 0));
    let mut preempting = bench.begin(&bench.b, &preempt.0, &preempt.1);
    assert!(poll_once(preempting.as_mut()).is_pending(), "it is being stored");
    let again = (out_cdb(6, 0, 24), list(0, A, 0x01));
    let mut again = bench.begin(&bench.a, &again.0, &again.1);
    assert!(poll_once(again.as_mut()).is_pending());
    bench.medium.resume();
    assert!(poll_once(preempting.as_mut()).is_pending(), "it waits for the other to end");
    assert_eq!(now(again).status, Status::TaskAborted);
    assert_eq!(now(preempting).status, Status::Good);
    assert_eq!(bench.keys(), [B]);
}

#[test]
fn a_preempted_task_that_takes_long_ends_at_its_next_piece() {
    let bench = Bench::on(medium(512, 60_000));
    assert_eq!(bench.prout(&bench.a, 0, 0, 0, A), Status::Good);
    assert_eq!(bench.prout(&bench.b, 0, 0, 0, B), Status::Good);
    let mut verify = bench.begin(&bench.a, &sixteen(0x8f, 0, 0, 60_000), &[]);
    assert!(poll_once(verify.as_mut()).is_pending());
    let preempt = (out_cdb(5, 5, 24), list(B, A, 0));
    let mut preempting = bench.begin(&bench.b, &preempt.0, &preempt.1);
    assert!(poll_once(preempting.as_mut()).is_pending());
    match poll_once(verify.as_mut()) {
        Poll::Ready(outcome) => assert_eq!(outcome.status, Status::TaskAborted),
        Poll::Pending => panic!("it goes on"),
    }
    assert_eq!(now(preempting).status, Status::Good);
}

#[test]
fn aptpl_survives_a_restart_and_nothing_else_does() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 5, A, 0);
    let bench = bench.restarted();
    assert_eq!((bench.keys(), bench.reservation()), (vec![], None));

    bench.good(&bench.a, &out_cdb(0, 0, 24), &list(0, A, 0x01));
    bench.good(&bench.b, &out_cdb(0, 0, 24), &list(0, B, 0x01));
    bench.prout(&bench.b, 1, 6, B, 0);
    assert_eq!(bench.prin(2)[3] & 1, 1, "PTPL_A");
    let status = bench.prin(3);
    let bench = bench.restarted();
    assert_eq!((bench.keys(), bench.reservation()), (vec![A, B], Some((B, 6))));
    assert_eq!(bench.prin(3)[4..], status[4..]);
    assert_eq!(bench.generation(), 0);
    let stranger = nexus(3, "iqn.2026-01.example:c");
    assert_eq!(bench.status(&stranger, &read10(0, 1), &[]), CONFLICT);
    // The last registration without APTPL switches it off for all.
    bench.good(&bench.a, &out_cdb(0, 0, 24), &list(A, A, 0));
    assert_eq!(bench.restarted().keys(), []);
}

#[test]
fn a_change_that_cannot_be_stored_does_not_happen() {
    let bench = Bench::registered();
    bench.medium.fail(crate::medium::Operation::State, Some(base::ErrorKind::Unavailable));
    assert_eq!(bench.sense(&bench.a, &out_cdb(0, 0, 24), &list(A, 7, 0x01)), (2, 0x0401));
    assert_eq!(bench.keys(), [A, B]);
    assert_eq!(bench.generation(), 2);
}

fn id_of(nexus: &Nexus) -> Vec<u8> {
    nexus.transport_id.to_vec()
}

#[test]
fn spec_i_pt_registers_others_too() {
    let bench = Bench::new();
    let mut out = list(0, A, 0x08);
    let mut id = id_of(&bench.b);
    id.extend([0; 8]); // padded longer than the transport does, and in capitals
    id[3] += 8;
    id[4..8].copy_from_slice(b"IQN.");
    out.extend((id.len() as u32).to_be_bytes());
    out.extend(&id);
    bench.good(&bench.a, &out_cdb(0, 0, out.len()), &out);
    assert_eq!(bench.keys(), [A, A]);
    assert_eq!(bench.prout(&bench.b, 1, 1, A, 0), Status::Good, "b is registered");
    out[27] -= 1;
    assert_eq!(bench.sense(&bench.a, &out_cdb(0, 0, out.len()), &out), (5, 0x1a00));
    assert_eq!(bench.sense(&bench.a, &out_cdb(6, 0, 24), &list(0, A, 0x08)), (5, 0x2600));
}

/// The capabilities promise PTPL_C for as many as can be stored, and no more are taken.
#[test]
fn more_than_can_be_stored_are_refused_as_such() {
    let bench = Bench::new();
    let named = |n: u64| id_of(&nexus(3, &format!("iqn.2026-01.example:{n:0>190}")));
    let register = |count: u64, flags: u8| {
        let ids: Vec<u8> = (10..10 + count).flat_map(named).collect();
        let mut out = list(0, A, 0x08 | flags);
        out.extend((ids.len() as u32).to_be_bytes());
        out.extend(ids);
        bench.run(&bench.a, &out_cdb(0, 0, out.len()), &out)
    };
    assert_eq!(sense(&register(320, 0x01)), (5, 0x5504));
    assert_eq!(bench.keys(), []);
    assert_eq!(register(320, 0).status, Status::Good);
    assert_eq!(bench.sense(&bench.a, &out_cdb(6, 0, 24), &list(0, A, 0x01)), (5, 0x5504));
    assert_eq!(bench.generation(), 1);
}

#[test]
fn all_tg_pt_covers_every_port() {
    let bench = Bench::new();
    bench.good(&bench.a, &out_cdb(0, 0, 24), &list(0, A, 0x04));
    let elsewhere = Nexus { id: 9, target_port: 2, ..bench.a.clone() };
    assert_eq!(bench.prout(&elsewhere, 1, 3, A, 0), Status::Good);
    assert_eq!(bench.status(&bench.b, &read10(0, 1), &[]), CONFLICT);
    assert_eq!(bench.status(&elsewhere, &read10(0, 1), &[]), Status::Good);
    let status = bench.prin(3);
    assert_eq!((status[8 + 12], status[8 + 13]), (0x03, 3), "ALL_TG_PT and R_HOLDER; exclusive access");
}

#[test]
fn a_holder_can_hand_its_reservation_over() {
    let bench = Bench::registered();
    let id = id_of(&bench.b);
    let mut out = A.to_be_bytes().to_vec();
    out.extend(0x77u64.to_be_bytes());
    out.extend([0, 0x02, 0, 1]); // UNREG
    out.extend((id.len() as u32).to_be_bytes());
    out.extend(&id);
    let cdb = out_cdb(7, 0, out.len());
    assert_eq!(bench.status(&bench.a, &cdb, &out), CONFLICT, "nothing is reserved");
    bench.prout(&bench.a, 1, 3, A, 0);
    bench.good(&bench.a, &cdb, &out);
    assert_eq!((bench.keys(), bench.reservation()), (vec![0x77], Some((0x77, 3))));
    assert_eq!(bench.status(&bench.b, &write10(0, 1), &[0; 512]), Status::Good);
    assert_eq!(bench.status(&bench.a, &write10(0, 1), &[0; 512]), CONFLICT);
}

#[test]
fn reservations_survive_session_loss_and_reset() {
    let bench = Bench::registered();
    bench.prout(&bench.a, 1, 3, A, 0);
    bench.target.nexus_closed(&bench.a);
    now(bench.target.task_function(&bench.b, 0, crate::task::TaskFunction::LogicalUnitReset));
    bench.quiet(&bench.b);
    assert_eq!(bench.status(&bench.b, &read10(0, 1), &[]), CONFLICT);
    // The same initiator port in a new session is the same registrant.
    let again = Nexus { id: 50, ..bench.a.clone() };
    bench.target.nexus_opened(&again);
    bench.quiet(&again);
    assert_eq!(bench.status(&again, &read10(0, 1), &[]), Status::Good);
}

#[test]
fn reserve_and_persistent_reservations_exclude_each_other_but_for_registrants() {
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    let bench = Bench::new();
    bench.good(&bench.a, &reserve, &[]);
    assert_eq!(bench.prout(&bench.a, 0, 0, 0, A), CONFLICT);
    assert_eq!(bench.prout(&bench.b, 0, 0, 0, B), CONFLICT);
    bench.good(&bench.a, &release, &[]);
    bench.prout(&bench.a, 0, 0, 0, A);
    assert_eq!(bench.status(&bench.b, &reserve, &[]), CONFLICT);
    assert_eq!(bench.status(&bench.a, &reserve, &[]), CONFLICT, "registered, but nothing is held");
    bench.prout(&bench.a, 1, 3, A, 0);
    // CRH (SPC-5 §5.14.3): the holder is told GOOD and nothing changes.
    bench.good(&bench.a, &reserve, &[]);
    bench.good(&bench.a, &release, &[]);
    assert_eq!(bench.status(&bench.b, &reserve, &[]), CONFLICT);
    assert_eq!(bench.reservation(), Some((A, 3)));
}

#[test]
fn read_keys_tells_the_whole_length_in_a_short_answer() {
    let bench = Bench::registered();
    let data = bench.good(&bench.a, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]);
    assert_eq!(data, [0, 0, 0, 2, 0, 0, 0, 16]);
    assert_eq!(bench.prin(2), [0, 8, 0x1d, 0x80, 0xea, 0x01, 0, 0]);
    assert_eq!(bench.sense(&bench.a, &[0x5e, 4, 0, 0, 0, 0, 0, 0, 8, 0], &[]), (5, 0x2400));
}
