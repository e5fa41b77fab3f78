//! Memory for data on its way (X06): bounded, and nothing waits for what never comes.

use std::time::Duration;

use base::{Entropy, SeededEntropy};

use super::super::script::*;
use super::{BUSY, GOOD, TASK_SET_FULL, pattern, read_back};
use crate::iscsi::Limits;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::medium::Operation;

/// Little of its own, and little in common: 64 KiB, and 4 MiB for each direction, of which one session may have 512 KiB beside
/// others.
pub(super) fn little() -> Limits {
    // No pings between.
    let idle_time = Duration::from_secs(600);
    Limits { own_bytes: 64 << 10, common_bytes: 8 << 20, idle_time, ..Limits::default() }
}

/// Blocks of a write that takes all of that, the own and the common.
const ALL: u16 = 8320;

/// For any data at all.
pub(super) fn almost_none() -> Limits {
    Limits { own_bytes: 4096, common_bytes: 16 << 10, ..Limits::default() }
}

#[test]
fn without_memory_a_command_is_refused_and_can_be_repeated() {
    // X06: what all sessions hold is bounded, and none waits for another.
    let world = World::with(little());
    let keys = [("ImmediateData", "No"), ("MaxBurstLength", "1048576")];
    let (mut a, mut b) = (world.login(&keys), world.login(&keys));
    a.write(1, 0, ALL, &[]); // alone it may have what a command needs
    let r2t = a.one();
    assert_eq!((r2t.header.opcode(), world.registry.common_bytes()), (opcode::R2T, 4 << 20));
    b.write(1, 16384, 1024, &[]);
    assert_eq!(b.one().scsi_status(), BUSY, "the nexus has no other command");
    b.write(2, 16384, 128, &[]);
    let own = b.one();
    assert_eq!(own.header.opcode(), opcode::R2T, "64 KiB it always has");
    b.write(3, 17000, 1024, &[]);
    b.write_burst(&own, &pattern(2, 65536));
    let statuses: Vec<_> = b.receive().iter().map(|pdu| (pdu.header.itt(), pdu.scsi_status())).collect();
    assert_eq!(statuses, [(2, GOOD), (3, BUSY)], "it waits for its own session only");
    let data = pattern(1, usize::from(ALL) * 512);
    let mut last = r2t;
    while last.header.opcode() == opcode::R2T {
        a.write_burst(&last, &data);
        last = a.one();
    }
    assert_eq!((last.scsi_status(), world.registry.common_bytes()), (GOOD, 0));
    b.write(1, 16384, 1024, &[]);
    let r2t = b.one();
    b.write_burst(&r2t, &pattern(3, 1 << 19));
    assert_eq!(b.one().scsi_status(), GOOD);
    assert!(read_back(&mut b, 0, ALL) == data && read_back(&mut b, 16384, 1024) == pattern(3, 1 << 19));
    assert_eq!(world.registry.common_bytes(), 0);
}

#[test]
fn a_read_that_finds_no_memory_is_refused_and_can_be_repeated() {
    let world = World::with(little());
    let (mut a, mut b) = (world.login(&[]), world.login(&[]));
    take_all_in(&mut a);
    assert!(a.connection.output().pending() > 4 << 20 && world.registry.common_bytes() >= 4 << 20);
    b.read(2, 0, 1024);
    assert_eq!(b.one().scsi_status(), BUSY);
    assert_eq!(read_back(&mut b, 0, 128).len(), 65536, "64 KiB it always has");
    a.receive();
    assert_eq!(world.registry.common_bytes(), 0);
    assert_eq!(read_back(&mut b, 0, 1024).len(), 524_288);
}

#[test]
fn unsolicited_data_without_memory_is_dropped() {
    let world = World::with(little());
    let keys = [("InitialR2T", "No"), ("FirstBurstLength", "262144")];
    let (mut a, mut b) = (world.login(&[("ImmediateData", "No")]), world.login(&keys));
    a.write(1, 0, ALL, &[]);
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    // Immediate data alone, and immediate data with more to come.
    b.write(1, 16384, 256, &pattern(1, 131_072));
    assert_eq!(b.one().scsi_status(), BUSY);
    b.command(0x20, 2, 131_072, cdb10(0x2a, 16384, 256), &pattern(1, 65536));
    b.data_out(2, NO_TAG, false, 0, 65536, &[7; 32768]);
    assert_eq!(b.receive().len(), 0, "the initiator is still sending");
    b.data_out(2, NO_TAG, true, 1, 98304, &[7; 32768]);
    assert_eq!(b.one().scsi_status(), BUSY);
    b.write(3, 16384, 128, &pattern(2, 65536));
    assert_eq!(b.one().scsi_status(), GOOD);
    drop(a);
    b.write(4, 16384, 256, &pattern(1, 131_072));
    assert_eq!(b.one().scsi_status(), GOOD);
    assert!(read_back(&mut b, 16384, 256) == pattern(1, 131_072));
    assert_eq!(world.registry.common_bytes(), 0);
}

#[test]
fn an_ordered_command_does_not_wait_for_those_behind_it() {
    let world = World::with(little());
    let (mut a, mut b) = (world.login(&[]), world.login(&[("ImmediateData", "No")]));
    a.write(1, 0, ALL, &[]);
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    world.medium.limit_admission((4 << 20) + (128 << 10));
    // An ORDERED one waits for room on the medium; one behind it has its data, and waits for it.
    b.command(0xa2, 1, 262_144, cdb10(0x2a, 9000, 512), &[]);
    assert_eq!(b.waiting_admissions(), 1);
    b.write(2, 16384, 128, &[]);
    let r2t = b.one();
    b.write_burst(&r2t, &pattern(4, 65536));
    assert_eq!(b.receive().len(), 0);
    world.medium.limit_admission(8 << 20);
    let statuses: Vec<_> = b.receive().iter().map(|pdu| (pdu.header.itt(), pdu.scsi_status())).collect();
    assert_eq!(statuses, [(1, TASK_SET_FULL), (2, GOOD)]);
}

#[test]
fn who_waits_for_memory_behind_a_long_command_is_refused_in_time() {
    let world = World::with(little());
    let (mut a, mut b) = (world.login(&[]), world.login(&[("ImmediateData", "No")]));
    a.write(1, 0, ALL, &[]);
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    world.medium.hold(Operation::Flush);
    b.command(0x80, 1, 0, cdb10(0x35, 0, 0), &[]);
    b.write(2, 9000, 512, &[]);
    assert_eq!((b.receive().len(), b.running()), (0, 1));
    b.pass(5);
    b.pass(5);
    assert_eq!(b.receive().len(), 0);
    b.pass(5);
    assert_eq!(b.one().scsi_status(), TASK_SET_FULL);
    world.medium.resume();
    assert_eq!(b.one().scsi_status(), GOOD);
}

/// An initiator that takes its time with answers, and what it was asked.
struct Guest {
    initiator: Initiator,
    asked: Vec<Pdu>,
    /// Tags without a status.
    open: Vec<u32>,
    statuses: Vec<u8>,
    /// MaxCmdSN.
    last: u32,
}

impl Guest {
    fn listen(&mut self) {
        for pdu in self.initiator.receive() {
            self.last = pdu.header.word(32);
            match pdu.header.opcode() {
                opcode::R2T => self.asked.push(pdu),
                opcode::DATA_IN if pdu.header.flags() & 1 == 0 => {}
                _ => {
                    self.open.retain(|tag| *tag != pdu.header.itt());
                    self.statuses.push(pdu.scsi_status());
                }
            }
        }
    }

    fn answer(&mut self, which: u64, data: &[u8]) {
        if !self.asked.is_empty() {
            // Commands in any order, the data of each in its own (DataSequenceInOrder=Yes).
            let tag = self.asked[which as usize % self.asked.len()].header.itt();
            let first = self.asked.iter().position(|r2t| r2t.header.itt() == tag).unwrap();
            let r2t = self.asked.remove(first);
            self.initiator.write_burst(&r2t, data);
            self.listen();
        }
    }

    fn begin(&mut self, tag: u32, chance: &SeededEntropy, data: &[u8]) {
        let blocks = 1 << chance.below(13);
        let attribute = [0x21, 0x21, 0x21, 0x22, 0x23][chance.below(5) as usize];
        let (lba, len) = (chance.below(100_000) as u32, u32::from(blocks) * 512);
        self.open.push(tag);
        if chance.below(3) == 0 {
            self.initiator.command(0xc1, tag, len, cdb10(0x28, lba, blocks), &[]);
        } else {
            let immediate = if chance.below(2) == 0 { (len as usize).min(65536) } else { 0 };
            self.initiator.command(0x80 | attribute, tag, len, cdb10(0x2a, lba, blocks), &data[..immediate]);
        }
        self.listen();
    }
}

#[test]
fn no_session_waits_for_another_or_for_itself() {
    let data = pattern(1, 4 << 20);
    let mut statuses = [0; 256];
    for seed in 0..60 {
        let chance = SeededEntropy::new(seed);
        let world = World::with(Limits { session_bytes: 2 << 20, ..little() });
        let keys = [("MaxBurstLength", "524288"), ("MaxOutstandingR2T", "4")];
        let login = |_| {
            let mut initiator = world.login(&keys);
            initiator.ping(1, &[]);
            let last = initiator.one().header.word(32);
            Guest { initiator, asked: vec![], open: vec![], statuses: vec![], last }
        };
        let mut guests: Vec<Guest> = (0..4).map(login).collect();
        for tag in 2..120 {
            let guest = &mut guests[chance.below(4) as usize];
            match chance.below(2) {
                0 if guest.initiator.cmd_sn <= guest.last => guest.begin(tag, &chance, &data),
                _ => guest.answer(chance.next_u64(), &data),
            }
        }
        // One by one: none needs another to go on.
        for guest in &mut guests {
            while !guest.asked.is_empty() {
                guest.answer(chance.next_u64(), &data);
            }
            assert_eq!(guest.open, [], "seed {seed}: commands that wait for nothing");
            guest.statuses.iter().for_each(|status| statuses[usize::from(*status)] += 1);
        }
        assert_eq!((world.registry.common_bytes(), world.medium.admitted()), (0, 0), "seed {seed}");
    }
    let [good, busy, full] = [GOOD, BUSY, TASK_SET_FULL].map(|status| statuses[usize::from(status)]);
    assert!(good > 5 * busy && busy > 10 && full > 10, "{good} {busy} {full}");
    assert_eq!(good + busy + full, statuses.iter().sum::<usize>());
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The bytes of a command, not sent yet.
fn raw(i: &mut Initiator, flags: u8, itt: u32, expected: u32, cdb: [u8; 16]) -> Vec<u8> {
    let mut header = Header::new(opcode::SCSI_COMMAND, flags);
    header.set_word(16, itt);
    header.set_word(20, expected);
    header.set_word(24, i.cmd_sn);
    i.cmd_sn += 1;
    header.0[32..48].copy_from_slice(&cdb);
    header.0.to_vec()
}

#[test]
fn a_running_write_is_not_told_undone() {
    let world = World::with(Limits { promised_bytes: 1 << 20, ..Limits::default() });
    let mut i = world.login(&[("InitialR2T", "No"), ("FirstBurstLength", "262144")]);
    i.write(1, 0, 2048, &[]); // 1 MiB: all that may be promised
    assert_eq!(i.one().header.opcode(), opcode::R2T);
    world.medium.hold(Operation::Write);
    let data = pattern(1, 131_072);
    // 64 KiB immediate, 64 KiB unsolicited: no room may be promised yet, but when all is here it needs no promise.
    i.command(0x20, 2, 131_072, cdb10(0x2a, 4096, 256), &data[..65536]);
    i.data_out(2, NO_TAG, true, 0, 65536, &data[65536..]);
    let early = i.receive();
    assert_eq!((early.len(), i.running()), (0, 1), "it runs {early:?}");
    i.pass(5);
    i.pass(5);
    let statuses: Vec<_> = i.receive().iter().map(|pdu| (pdu.header.itt(), pdu.scsi_status())).collect();
    let running = i.running();
    world.medium.resume();
    i.pump();
    let landed = read_back(&mut world.login(&[]), 4096, 256) == data;
    assert_eq!(
        (statuses, running, landed),
        (vec![], 1, true),
        "an answer while it runs, and then it is done"
    );
}

#[test]
fn who_was_just_given_memory_is_not_refused() {
    let world = World::with(little());
    let mut b = world.login(&[("ImmediateData", "No")]);
    world.medium.hold(Operation::Flush);
    b.command(0x80, 1, 0, cdb10(0x35, 0, 0), &[]);
    b.write(2, 0, 768, &[]); // 384 KiB of at most 576
    assert_eq!(b.one().header.opcode(), opcode::R2T);
    b.write(3, 4096, 1024, &[]);
    b.write(4, 9000, 256, &[]); // would fit, but waits its turn
    assert_eq!(b.receive().len(), 0);
    b.pass(5);
    b.pass(5);
    b.pass(5);
    let data = pattern(1, 131_072);
    for pdu in b.receive() {
        match pdu.header.opcode() {
            opcode::R2T => {
                assert_eq!(pdu.header.itt(), 4);
                b.write_burst(&pdu, &data);
            }
            _ => assert_eq!((pdu.header.itt(), pdu.scsi_status()), (3, TASK_SET_FULL)),
        }
    }
    let last = b.one();
    assert_eq!((last.header.itt(), last.scsi_status()), (4, GOOD), "it was asked for its data");
}

#[test]
fn turn_and_promise_do_not_wait_for_each_other() {
    let world = World::with(Limits { promised_bytes: 1 << 20, ..Limits::default() });
    let mut b = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "1048576")]);
    world.medium.hold(Operation::Flush);
    b.command(0x80, 1, 0, cdb10(0x35, 0, 0), &[]); // the oldest, slow
    b.write(2, 0, 1024, &[]); // in one burst
    let r2t = b.one();
    b.write(3, 4096, 1536, &[]); // 512 + 768 KiB: waits for room
    b.write(4, 9000, 512, &[]);
    b.write(5, 9600, 512, &[]);
    let asked = b.receive();
    assert_eq!(
        asked.iter().map(|pdu| pdu.header.itt()).collect::<Vec<_>>(),
        [4, 5],
        "have room, and need no turn"
    );
    b.write_burst(&r2t, &pattern(1, 524_288));
    for r2t in &asked {
        b.write_burst(r2t, &pattern(1, 262_144));
    }
    let seen: Vec<_> = b.receive().iter().map(|pdu| (pdu.header.opcode(), pdu.header.itt())).collect();
    assert!(seen.contains(&(opcode::R2T, 3)), "{seen:?}");
}

#[test]
fn reads_have_a_turn_beside_writes() {
    let world = World::with(little());
    let mut b = world.login(&[("ImmediateData", "No")]);
    let data = pattern(1, 131_072);
    let (mut asked, mut good, mut full, mut written) = (Vec::new(), 0, 0, 0);
    for tag in 2..7 {
        b.write(tag, 0, 256, &[]);
    }
    for round in 0..200 {
        b.read(1000 + round, 0, 512);
        for pdu in b.receive() {
            match pdu.header.opcode() {
                opcode::R2T => asked.push(pdu),
                _ if !(1000..10_000).contains(&pdu.header.itt()) => written += 1,
                opcode::DATA_IN if pdu.header.flags() & 1 == 0 => {}
                _ if pdu.scsi_status() == TASK_SET_FULL => full += 1,
                _ => good += 1,
            }
        }
        let r2t = asked.remove(0);
        b.write_burst(&r2t, &data);
        b.write(10_000 + round, 0, 256, &[]);
    }
    assert!(good > 0, "{written} writes, {good} reads, {full} refused");
}

#[test]
fn a_read_without_memory_does_not_stop_complete_writes() {
    let world = World::with(little());
    let (mut a, mut b) = (world.login(&[]), world.login(&[("ImmediateData", "No")]));
    a.write(1, 0, ALL, &[]);
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    world.medium.set_cold(true);
    b.write(1, 9000, 64, &[]);
    let r2t = b.one();
    world.medium.hold(Operation::Read);
    b.read(2, 0, 128);
    b.read(3, 0, 8);
    b.write_burst(&r2t, &pattern(1, 32768));
    b.command(0x80, 4, 0, [0; 16], &[]);
    for _ in 0..6 {
        b.pass(5);
    }
    let mut answered: Vec<_> =
        b.receive().iter().map(|pdu| (pdu.header.opcode(), pdu.header.itt())).collect();
    answered.retain(|(op, _)| *op != opcode::NOP_IN);
    assert!(!answered.is_empty(), "nothing in half a minute: running {}", b.running());
}

#[test]
fn a_large_command_beside_small_ones() {
    let world = World::with(Limits { common_bytes: 128 << 20, ..Limits::default() });
    let mut others: Vec<_> = (0..5).map(|_| world.login(&[("ImmediateData", "No")])).collect();
    let mut b = world.login(&[("ImmediateData", "No")]);
    for other in &mut others {
        other.write(1, 0, 320, &[]); // 160 KiB
        assert_eq!(other.one().header.opcode(), opcode::R2T);
    }
    let taken = world.registry.common_bytes();
    b.command(0xa0, 2, 16 << 20, cdb10(0x2a, 0, 32768), &[]);
    let answer = b.one();
    assert_eq!(answer.header.opcode(), opcode::R2T, "{} with {taken} of 128 MiB taken", answer.header.0[3]);
}

#[test]
fn echoes_keep_no_more_than_they_say() {
    let world = World::with(Limits { common_bytes: 128 << 20, ..Limits::default() });
    let mut b = world.login(&[("MaxRecvDataSegmentLength", "1024")]);
    let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    header.set_word(16, 9);
    header.set_word(20, NO_TAG);
    header.set_word(24, b.cmd_sn);
    header.set_data_len(262_144);
    let mut bytes = header.0.to_vec();
    bytes.resize(48 + 262_144, 7);
    let before = resident();
    for _ in 0..1000 {
        assert_eq!(b.connection.handle_input(b.time, &bytes), bytes.len());
        assert!(b.connection.poll_event().is_none());
    }
    let grown = resident() - before;
    let pending = b.connection.output().pending();
    assert!(
        grown < 32 << 20,
        "{} MiB for {pending} bytes that wait, {} of the pool",
        grown >> 20,
        world.registry.common_bytes()
    );
}

#[test]
fn short_bursts_take_no_more_memory_than_is_counted() {
    let world = World::with(Limits { common_bytes: 128 << 20, ..Limits::default() });
    let mut b = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "512")]);
    let data = pattern(1, 16 << 20);
    let before = resident();
    b.command(0xa0, 2, 16 << 20, cdb10(0x2a, 0, 32768), &[]);
    let mut done = 0;
    let mut asked: std::collections::VecDeque<_> = b.receive().into();
    while done < 32_700 {
        let r2t = asked.pop_front().unwrap();
        b.write_burst(&r2t, &data);
        asked.extend(b.receive());
        done += 1;
    }
    let grown = resident() - before;
    let counted = world.registry.common_bytes() as u64;
    assert!(counted >= 64 << 20 && grown < counted + (32 << 20), "{} MiB for {counted}", grown >> 20);
}

fn answers(i: &mut Initiator) -> Vec<(u8, u32, u8)> {
    i.receive().iter().map(|pdu| (pdu.header.opcode(), pdu.header.itt(), pdu.header.0[3])).collect()
}

#[test]
fn who_needs_no_memory_is_nobodys_turn() {
    let world = World::with(little());
    let mut b = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "1048576")]);
    b.write(1, 0, 768, &[]); // 384 KiB
    let first = b.one();
    b.write(2, 4096, 1024, &[]); // 512 KiB: waits
    assert_eq!(b.receive().len(), 0);
    world.medium.hold(Operation::Flush);
    b.command(0x80, 3, 0, cdb10(0x35, 0, 0), &[]); // long, and needs none
    assert_eq!(b.running(), 1);
    let data = pattern(1, 1 << 20);
    b.write_burst(&first, &data);
    let second = b.receive().into_iter().find(|pdu| pdu.header.opcode() == opcode::R2T).unwrap();
    assert_eq!(second.header.itt(), 2);
    b.write_burst(&second, &data);
    assert_eq!((b.one().scsi_status(), world.registry.common_bytes()), (GOOD, 0));
    b.write(4, 9000, 256, &[]); // 128 KiB, all memory is free
    let now = answers(&mut b);
    b.pass(5);
    b.pass(5);
    assert_eq!((now, answers(&mut b)), (vec![(opcode::R2T, 4, 0)], vec![]));
}

#[test]
fn a_read_behind_a_waiting_write_has_its_time() {
    let world = World::with(little());
    let mut b = world.login(&[("ImmediateData", "No")]);
    b.write(1, 0, 768, &[]);
    b.write(2, 4096, 1024, &[]); // waits
    assert_eq!(answers(&mut b).len(), 1);
    world.medium.set_cold(true);
    world.medium.hold(Operation::Read);
    b.read(3, 0, 896);
    b.read(4, 0, 896);
    assert_eq!((b.running(), answers(&mut b)), (1, vec![]));
    b.pass(5); // the first tick, which may come at any time
    assert_eq!(answers(&mut b), vec![]);
}

#[test]
fn who_needs_no_memory_is_not_refused_for_it() {
    let world = World::with(little());
    let mut b = world.login(&[]);
    b.write(1, 0, 768, &[]);
    b.write(2, 4096, 1024, &[]); // waits
    assert_eq!(answers(&mut b).len(), 1);
    b.command(0x82, 3, 0, cdb10(0x35, 0, 0), &[]); // ORDERED, no data
    b.write(4, 9000, 8, &pattern(1, 4096)); // all its data is here
    for _ in 0..5 {
        b.pass(5);
    }
    let mut seen = answers(&mut b);
    seen.retain(|(opcode, ..)| *opcode != opcode::NOP_IN);
    assert_eq!(seen, vec![(opcode::SCSI_RESPONSE, 2, TASK_SET_FULL)]);
}

#[test]
fn head_of_queue_reads_are_first() {
    let world = World::with(little());
    let mut b = world.login(&[]);
    world.medium.set_cold(true);
    world.medium.hold(Operation::Read);
    b.read(1, 0, 896);
    b.read(2, 0, 896);
    b.read(3, 0, 896);
    b.command(0xc3, 4, 896 * 512, cdb10(0x28, 0, 896), &[]);
    assert_eq!(b.running(), 1);
    world.medium.resume();
    let order: Vec<_> = answers(&mut b).iter().map(|a| a.1).fold(vec![], |mut all, itt| {
        if all.last() != Some(&itt) {
            all.push(itt)
        }
        all
    });
    assert_eq!(order, [1, 4, 2, 3]);
}

#[test]
fn data_that_is_dropped_is_data() {
    let world = World::with(little());
    let mut a = world.login(&[("ImmediateData", "No")]);
    a.write(1, 0, ALL, &[]);
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    let mut b =
        world.login(&[("InitialR2T", "No"), ("FirstBurstLength", "1048576"), ("ImmediateData", "No")]);
    b.write(1, 20000, 64, &[]);
    let r2t = b.one();
    b.command(0x20, 2, 1 << 20, cdb10(0x2a, 0, 2048), &[]); // no memory: refused once its data is in
    for n in 0..4 {
        b.data_out(2, NO_TAG, false, n, n * 1024, &[0; 1024]);
        b.pass(5);
    }
    assert_eq!(answers(&mut b), vec![], "the initiator was at work all the time");
    b.write_burst(&r2t, &pattern(1, 32768));
}

/// As many echoes of so many bytes as are taken without one being sent: what waits, what that takes, what is kept afterwards.
fn echoes(len: usize) -> (u64, u64, u64) {
    let world = World::with(Limits::default());
    let mut b = world.login(&[]);
    let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    header.set_word(16, 9);
    header.set_word(20, NO_TAG);
    header.set_word(24, b.cmd_sn);
    header.set_data_len(len);
    let mut bytes = header.0.to_vec();
    bytes.resize(48 + len, 7);
    let before = resident();
    while b.connection.handle_input(b.time, &bytes) == bytes.len() {
        assert!(b.connection.poll_event().is_none());
    }
    let pending = b.connection.output().pending();
    let full = resident().saturating_sub(before);
    b.connection.sent(pending);
    assert!(b.connection.poll_event().is_none());
    assert_eq!(world.registry.common_bytes(), 0);
    (pending as u64 >> 20, full >> 20, resident().saturating_sub(before) >> 20)
}

#[test]
fn short_echoes_take_what_is_counted() {
    let (pending, full, _) = echoes(520);
    assert!(full < 3 * pending, "{full} MiB for {pending}");
}

#[test]
fn the_arena_is_given_back() {
    let (pending, _, kept) = echoes(512);
    assert!(kept < 8, "{kept} MiB kept of {pending} by an idle session");
}

#[test]
fn no_room_is_held_without_memory() {
    let world = World::with(little());
    let keys = [("ImmediateData", "No")];
    let (mut a, mut b, mut c) = (world.login(&keys), world.login(&keys), world.login(&keys));
    world.medium.limit_admission(16 << 20);
    a.write(1, 0, ALL, &[]); // all the memory, 4 MiB of room
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    world.medium.hold(Operation::Flush);
    b.command(0x80, 1, 0, cdb10(0x35, 0, 0), &[]);
    for tag in 2..14 {
        b.write(tag, 0, 2048, &[]); // without memory for a byte of it
    }
    assert_eq!(answers(&mut b), vec![]);
    c.write(1, 0, 128, &[]); // its own 64 KiB
    assert_eq!(
        answers(&mut c),
        vec![(opcode::R2T, 1, 0)],
        "{} of 16 MiB of room are taken",
        world.medium.admitted() >> 20
    );
}

#[test]
fn data_that_comes_is_a_move() {
    let world = World::with(little());
    let mut b = world.login(&[("ImmediateData", "No")]);
    b.write(1, 0, 768, &[]);
    let r2t = b.one();
    b.write(2, 4096, 1024, &[]); // waits
    for n in 0..2u32 {
        b.data_out(1, r2t.header.ttt(), false, n, n * 65536, &[0; 65536]);
        b.pass(5);
    }
    assert_eq!(answers(&mut b), vec![], "what it waits for comes in");
}

#[test]
fn one_initiator_alone_is_not_refused() {
    let world = World::with(Limits { common_bytes: 128 << 20, ..Limits::default() }); // a machine of 2 GiB
    let mut b = world.login(&[("InitialR2T", "No"), ("FirstBurstLength", "262144")]); // as Linux
    b.ping(7, &[]);
    let last = b.one().header.word(32);
    world.medium.hold(Operation::Write);
    let data = pattern(1, 262_144);
    let allowed = last + 1 - b.cmd_sn;
    // 1 MiB each, a quarter of it unasked: what is asked for leaves room for what comes by itself.
    for tag in 0..allowed {
        b.write(tag + 9, 0, 2048, &data);
    }
    let kinds: Vec<_> = answers(&mut b).iter().map(|(opcode, ..)| *opcode).collect();
    assert!(
        !kinds.is_empty() && kinds.iter().all(|kind| *kind == opcode::R2T),
        "{kinds:?} within a window of {allowed}"
    );
    assert!(allowed >= 8);
}

#[test]
fn who_takes_its_answers_slowly_is_alive() {
    let world = World::with(Limits { idle_time: Limits::default().idle_time, ..little() });
    let (mut a, mut b) = (world.login(&[]), world.login(&[]));
    let read = raw(&mut b, 0xc0, 2, 896 * 512, cdb10(0x28, 0, 896));
    b.connection.handle_input(b.time, &read);
    assert!(b.connection.poll_event().is_none());
    let read = raw(&mut a, 0xc0, 2, 3000 * 512, cdb10(0x28, 0, 3000));
    a.connection.handle_input(a.time, &read);
    assert!(a.connection.poll_event().is_none());
    for _ in 0..24 {
        let mut nop = Header::new(opcode::NOP_OUT | 0x40, 0x80);
        nop.set_word(16, 9);
        nop.set_word(20, NO_TAG);
        nop.set_word(24, b.cmd_sn);
        b.connection.handle_input(b.time, &nop.0); // it is not looked at
        b.time += Duration::from_secs(5);
        b.connection.handle_timeout(b.time);
        assert!(!b.connection.is_disconnected(), "{:?} after {:?}", b.connection.reason(), b.time);
        b.connection.sent(8192);
        assert!(b.connection.poll_event().is_none());
    }
}

#[test]
fn unsolicited_data_may_have_what_a_command_may() {
    let world = World::with(Limits { common_bytes: 128 << 20, ..Limits::default() });
    let mut a = world.login(&[("ImmediateData", "No")]);
    a.write(1, 0, 320, &[]); // 160 KiB: 32 KiB of the pool's 64 MiB
    assert_eq!(a.one().header.opcode(), opcode::R2T);
    let mut b = world.login(&[
        ("InitialR2T", "No"),
        ("MaxBurstLength", "16776192"),
        ("FirstBurstLength", "16776192"),
        ("ImmediateData", "No"),
    ]);
    b.command(0x20, 1, 10 << 20, cdb10(0x2a, 0, 20480), &[]);
    for n in 0..40 {
        b.data_out(1, NO_TAG, n == 39, n, n * 262_144, &[1; 262_144]);
    }
    let answer = b.one();
    assert_eq!(
        answer.scsi_status(),
        GOOD,
        "{:?}, {} of 64 MiB taken, and nothing else in its session",
        answer.data,
        world.registry.common_bytes()
    );
}

#[test]
fn what_another_session_gives_back_is_found() {
    let world = World::with(little());
    let keys = [("ImmediateData", "No"), ("MaxBurstLength", "16776192")];
    let (mut a, mut b) = (world.login(&keys), world.login(&keys));
    a.write(1, 0, ALL, &[]);
    let r2t = a.one();
    world.medium.hold(Operation::Flush);
    b.command(0x80, 1, 0, cdb10(0x35, 0, 0), &[]); // the oldest, slow
    b.write(2, 9000, 512, &[]);
    assert_eq!(answers(&mut b), vec![]);
    a.write_burst(&r2t, &pattern(1, usize::from(ALL) * 512));
    assert_eq!(a.one().scsi_status(), GOOD);
    b.pass(5);
    assert_eq!(answers(&mut b), vec![(opcode::R2T, 2, 0)]);
}

/// `a` takes all memory for reads: what it reads is not sent yet.
fn take_all_in(a: &mut Initiator) {
    let read = raw(a, 0xc0, 2, u32::from(ALL) * 512, cdb10(0x28, 0, ALL));
    a.connection.handle_input(a.time, &read);
    assert!(a.connection.poll_event().is_none());
}

/// What was refused of what has come.
fn refusals(i: &mut Initiator) -> Vec<(u8, u32, u8)> {
    answers(i).into_iter().filter(|(code, ..)| *code == opcode::SCSI_RESPONSE).collect()
}

#[test]
fn short_reads_wait_for_their_own_session_only() {
    // Each fits what is the session's own once the one before it is sent.
    let world = World::with(little());
    let (mut a, mut b) = (world.login(&[]), world.login(&[]));
    take_all_in(&mut a);
    let reads: Vec<u8> = (10..18).flat_map(|tag| raw(&mut b, 0xc0, tag, 32768, cdb10(0x28, 0, 64))).collect();
    b.send_bytes(&reads);
    assert_eq!(refusals(&mut b), []);
}

#[test]
fn a_read_of_what_is_its_sessions_own_waits_for_an_echo() {
    let world = World::with(little());
    let (mut a, mut b) = (world.login(&[]), world.login(&[]));
    take_all_in(&mut a);
    let mut nop = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    nop.set_word(16, 9);
    nop.set_word(20, NO_TAG);
    nop.set_word(24, b.cmd_sn);
    let mut both = nop.0.to_vec();
    both.extend(raw(&mut b, 0xc0, 10, 65536, cdb10(0x28, 0, 128)));
    b.send_bytes(&both);
    assert_eq!(refusals(&mut b), []);
}

#[test]
fn what_was_sent_makes_room_at_once() {
    let world = World::with(little());
    let mut a = world.login(&[]);
    take_all_in(&mut a);
    assert!(a.connection.input_space().is_none(), "there is too much to be sent");
    let pending = a.connection.output().pending();
    a.connection.sent(pending - (100 << 10));
    assert!(a.connection.input_space().is_some(), "the shell reads before it runs anything");
}
