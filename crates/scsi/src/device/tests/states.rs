//! SANITIZE, and tasks that others abort.

use base::ErrorKind;

use super::*;
use crate::medium::Operation;
use crate::task::{Stop, TaskFunction};

fn sanitize(action: u8) -> [u8; 10] {
    [0x48, action, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn overwrite(flags: u8, pattern: &[u8]) -> ([u8; 10], Vec<u8>) {
    let mut list = vec![1, 0, 0, pattern.len() as u8];
    list.extend(pattern);
    ([0x48, flags | 0x01, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], list)
}

#[test]
fn sanitize_wipes_everything() {
    let bench = Bench::new();
    bench.write(1000, &[1; 512]);
    bench.good(&bench.a, &sanitize(0x02), &[]);
    assert_eq!(bench.read(1000, 1), [0; 512]);
    bench.write(1000, &[1; 512]);
    bench.good(&bench.a, &sanitize(0x03), &[]);
    assert_eq!(bench.read(1000, 1), [0; 512]);
    let (cdb, list) = overwrite(0, &[1, 2, 3]);
    bench.good(&bench.a, &cdb, &list);
    let block = bench.read(1023, 1);
    assert!(block.chunks(3).all(|part| [1, 2, 3].starts_with(part)), "the pattern repeats within each block");
    // Three passes with inversion end with the pattern itself.
    let (cdb, mut list) = overwrite(0, &[0xf0]);
    list[0] = 0x83;
    bench.good(&bench.a, &cdb, &list);
    assert_eq!(bench.read(7, 1), [0xf0; 512]);
}

#[test]
fn sanitize_refuses_what_is_not_plain() {
    let bench = Bench::new();
    bench.write(0, &[1; 512]);
    for (at, value) in [(1, 0x42), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (8, 8)] {
        let mut cdb = sanitize(0x02);
        cdb[at] = value;
        assert_eq!(bench.sense(&bench.a, &cdb, &[0; 8]), (5, 0x2400), "byte {at}");
    }
    assert_eq!(bench.sense(&bench.a, &sanitize(0x04), &[]), (5, 0x2400));
    for (at, value) in [(0, 0), (0, 0x21), (3, 0), (3, 2)] {
        let (cdb, mut list) = overwrite(0, &[9]);
        list[at] = value;
        assert_eq!(bench.sense(&bench.a, &cdb, &list), (5, 0x2600), "byte {at}");
    }
    assert_eq!(bench.read(0, 1), [1; 512]);
}

#[test]
fn while_it_runs_only_a_few_commands_answer_and_nothing_ends_it() {
    let bench = Bench::new();
    bench.medium.pause();
    let (cdb, list) = overwrite(0, &[9]);
    let mut running = bench.begin(&bench.a, &cdb, &list);
    assert!(poll_once(running.as_mut()).is_pending());
    bench.medium.resume();
    assert!(poll_once(running.as_mut()).is_pending(), "it passes the turn after the first piece");
    let in_progress = (2, 0x041b);
    for (cdb, out) in [(read10(0, 1), 0), (write10(0, 1), 512), (ten(0x35, 0, 0, 0), 0)] {
        assert_eq!(bench.sense(&bench.b, &cdb, &vec![0; out]), in_progress);
    }
    assert_eq!(bench.sense(&bench.b, &sanitize(0x02), &[]), in_progress);
    assert!(bench.target.try_execute(&bench.b, 0, &command(&read10(0, 1), &[])).is_none());
    bench.good(&bench.b, &[0x12, 0, 0, 0, 36, 0], &[]);
    let data = bench.good(&bench.b, &[3, 0, 0, 0, 18, 0], &[]);
    assert_eq!((data[2], data[12], data[13], data[15]), (2, 0x04, 0x1b, 0x80), "with progress");
    now(bench.target.task_function(&bench.b, 0, TaskFunction::LogicalUnitReset));
    bench.target.nexus_closed(&bench.a);
    assert_eq!(bench.sense(&bench.b, &TEST_UNIT_READY, &[]), (6, 0x2903));
    assert_eq!(bench.sense(&bench.b, &TEST_UNIT_READY, &[]), in_progress);
    assert_eq!(now(running).status, Status::Good);
    bench.good(&bench.b, &TEST_UNIT_READY, &[]);
}

#[test]
fn it_waits_for_the_commands_that_were_there_before() {
    let bench = Bench::new();
    bench.medium.pause();
    let mut write = bench.begin(&bench.b, &write10(5, 1), &[1; 512]);
    assert!(poll_once(write.as_mut()).is_pending());
    bench.medium.resume();
    let erase = sanitize(0x02);
    let mut wipe = bench.begin(&bench.a, &erase, &[]);
    assert!(poll_once(wipe.as_mut()).is_pending(), "the write could come after it");
    assert_eq!(now(write).status, Status::Good);
    assert_eq!(now(wipe).status, Status::Good);
    assert_eq!(bench.read(5, 1), [0; 512]);
}

#[test]
fn with_a_worker_immediate_returns_at_once_and_without_it_waits() {
    let bench = Bench::new();
    bench.write(0, &[1; 512]);
    bench.good(&bench.a, &sanitize(0x82), &[]);
    assert_eq!(bench.read(0, 1), [0; 512], "done before the status");

    bench.write(0, &[1; 512]);
    {
        let mut worker = pin!(bench.unit.background());
        assert!(poll_once(worker.as_mut()).is_pending());
        bench.good(&bench.a, &sanitize(0x82), &[]);
        assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (2, 0x041b));
        assert!(poll_once(worker.as_mut()).is_pending());
        assert_eq!(bench.read(0, 1), [0; 512]);
    }
    bench.good(&bench.a, &sanitize(0x82), &[]);
}

#[test]
fn an_interrupted_operation_goes_on_after_a_restart() {
    let bench = Bench::new();
    bench.write(0, &[1; 512]);
    {
        let (cdb, list) = overwrite(0, &[0xcc]);
        let mut running = bench.begin(&bench.a, &cdb, &list);
        assert!(poll_once(running.as_mut()).is_pending());
        // The process dies here.
    }
    let bench = bench.restarted();
    assert_eq!(bench.sense(&bench.a, &read10(0, 1), &[]), (2, 0x041b));
    {
        let mut worker = pin!(bench.unit.background());
        for _ in 0..10 {
            assert!(poll_once(worker.as_mut()).is_pending());
        }
    }
    assert_eq!(bench.read(0, 1), [0xcc; 512]);
    let bench = bench.restarted();
    bench.write(0, &[1; 512]);
    let bench = bench.restarted();
    assert_eq!(bench.read(0, 1), [1; 512], "a finished operation is not begun again");
}

#[test]
fn a_failed_operation_is_told_until_it_succeeds_or_is_left() {
    let bench = Bench::new();
    bench.medium.fail(Operation::Zero, Some(ErrorKind::Internal));
    assert_eq!(bench.sense(&bench.a, &sanitize(0x02), &[]), (3, 0x3103));
    assert_eq!(bench.sense(&bench.b, &read10(0, 1), &[]), (3, 0x3103));
    assert_eq!(bench.sense(&bench.a, &sanitize(0x1f), &[]), (5, 0x2400), "AUSE was not set");
    let bench = bench.restarted_failed();
    assert_eq!(bench.sense(&bench.a, &sanitize(0x22), &[]), (3, 0x3103));
    bench.good(&bench.a, &sanitize(0x1f), &[]);
    bench.read(0, 1);
    bench.good(&bench.a, &sanitize(0x1f), &[]);
    assert_eq!(bench.sense(&bench.a, &sanitize(0x02), &[]), (3, 0x3103));
    bench.medium.fail(Operation::Zero, None);
    bench.good(&bench.a, &sanitize(0x02), &[]);
    bench.read(0, 1);
}

/// A medium that could not forget the operation would start it again after a restart: no write may be taken meanwhile.
#[test]
fn nothing_is_written_while_a_restart_would_wipe_it() {
    let bench = Bench::new();
    bench.medium.pause();
    let (cdb, list) = overwrite(0, &[9]);
    let mut running = bench.begin(&bench.a, &cdb, &list);
    assert!(poll_once(running.as_mut()).is_pending());
    bench.medium.resume();
    assert!(poll_once(running.as_mut()).is_pending());
    bench.medium.fail(Operation::State, Some(ErrorKind::Internal));
    assert_eq!(sense(&now(running)), (3, 0x3103));
    assert_eq!(bench.sense(&bench.a, &write10(0, 1), &[1; 512]), (3, 0x3103));
}

impl Bench {
    /// After a restart in which the failure of a sanitize operation is remembered.
    fn restarted_failed(self) -> Bench {
        let bench = Bench::fresh(self.medium);
        for nexus in [&bench.a, &bench.b] {
            assert_eq!(bench.sense(nexus, &TEST_UNIT_READY, &[]), (6, 0x2900));
            assert_eq!(bench.sense(nexus, &TEST_UNIT_READY, &[]), (3, 0x3103));
        }
        bench
    }
}

#[test]
fn reserve_belongs_to_a_nexus_until_release_loss_or_reset() {
    let bench = Bench::new();
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    let conflict = Status::ReservationConflict;
    bench.good(&bench.a, &reserve, &[]);
    bench.good(&bench.a, &reserve, &[]);
    for cdb in [&TEST_UNIT_READY[..], &reserve, &read10(0, 1), &[0x1a, 0, 0x3f, 0, 255, 0], &[0x5e; 10][..]] {
        let mut cdb = cdb.to_vec();
        if cdb[0] == 0x5e {
            cdb = vec![0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0];
        }
        assert_eq!(bench.status(&bench.b, &cdb, &[]), conflict, "{cdb:02x?}");
    }
    assert_eq!(bench.status(&bench.b, &sanitize(0x02), &[]), conflict);
    bench.good(&bench.b, &[0x12, 0, 0, 0, 36, 0], &[]);
    bench.good(&bench.b, &release, &[]);
    assert_eq!(bench.status(&bench.b, &reserve, &[]), conflict, "releasing another's does nothing");
    bench.good(&bench.a, &release, &[]);
    bench.good(&bench.b, &reserve, &[]);
    bench.target.nexus_closed(&bench.b);
    bench.good(&bench.a, &reserve, &[]);
    now(bench.target.task_function(&bench.a, 0, TaskFunction::TargetWarmReset));
    bench.target.nexus_opened(&bench.b);
    assert_eq!(bench.sense(&bench.b, &TEST_UNIT_READY, &[]), (6, 0x2900));
    bench.good(&bench.b, &reserve, &[]);
}

#[test]
fn a_unit_taken_away_and_shown_again_counts_its_tasks_right() {
    let bench = Bench::new();
    bench.medium.pause();
    let mut write = bench.begin(&bench.b, &write10(5, 1), &[1; 512]);
    assert!(poll_once(write.as_mut()).is_pending());
    bench.target.detach(0);
    bench.target.attach(0, bench.unit.clone());
    bench.medium.resume();
    assert_eq!(now(write).status, Status::Good);
    for nexus in [&bench.a, &bench.b] {
        assert_eq!(bench.sense(nexus, &TEST_UNIT_READY, &[]), (6, 0x2900));
        assert_eq!(bench.sense(nexus, &TEST_UNIT_READY, &[]), (6, 0x3f0e));
    }
    bench.good(&bench.a, &sanitize(0x02), &[]);
}

/// Begins a command that can be stopped.
fn stoppable<'a>(bench: &'a Bench, cdb: &[u8], out: &[u8]) -> (Stop, BoxFuture<'a, Outcome>) {
    let stop = Stop::default();
    let mut command = command(cdb, out);
    assert!(crate::device::may_take_long(&command.cdb));
    command.stop = Some(stop.clone());
    (stop, Box::pin(bench.target.execute(&bench.a, 0, command, None)))
}

#[test]
fn long_commands_end_at_the_next_piece_when_stopped() {
    let bench = Bench::on(medium(512, 60_000));
    for (cdb, out) in [(sixteen(0x8f, 0, 0, 60_000), vec![]), (sixteen(0x93, 0, 0, 60_000), vec![7; 512])] {
        let (stop, mut running) = stoppable(&bench, &cdb, &out);
        assert!(poll_once(running.as_mut()).is_pending());
        stop.ask();
        match poll_once(running.as_mut()) {
            Poll::Ready(outcome) => assert_eq!(outcome.status, Status::TaskAborted),
            Poll::Pending => panic!("it goes on"),
        }
    }
    assert_eq!((bench.read(0, 1), bench.read(59_999, 1)), (vec![7; 512], vec![0; 512]));
    assert!(!crate::device::may_take_long(&write10(0, 1)));
}

#[test]
fn a_stopped_sanitize_command_leaves_the_operation_to_the_worker() {
    let bench = Bench::on(medium(512, 40_000));
    bench.write(39_999, &[1; 512]);
    let (cdb, list) = overwrite(0, &[0xcc]);
    // Without a worker it goes on as if nobody had asked.
    let (stop, mut running) = stoppable(&bench, &cdb, &list);
    assert!(poll_once(running.as_mut()).is_pending());
    stop.ask();
    assert_eq!(now(running).status, Status::Good);

    bench.write(39_999, &[1; 512]);
    let mut worker = pin!(bench.unit.background());
    assert!(poll_once(worker.as_mut()).is_pending());
    let (stop, mut running) = stoppable(&bench, &cdb, &list);
    assert!(poll_once(running.as_mut()).is_pending());
    stop.ask();
    assert_eq!(now(running).status, Status::TaskAborted);
    assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (2, 0x041b));
    let writes = bench.medium.count(Operation::Write);
    for _ in 0..20 {
        assert!(poll_once(worker.as_mut()).is_pending());
    }
    assert_eq!(bench.read(39_999, 1), [0xcc; 512]);
    // 40,000 blocks are five pieces, of which the command did one.
    assert_eq!(bench.medium.count(Operation::Write) - writes, 4, "it went on where the command was");
}
