//! Three sessions that do everything at random beside each other, with hardly any memory in common (X06): every command gets one
//! status, what is GOOD is there, what was refused is not, and in the end nothing waits and nothing is held.

use std::collections::{BTreeMap, BTreeSet};

use base::{Entropy, SeededEntropy};

use super::super::script::*;
use super::{BUSY, GOOD, TASK_ABORTED, TASK_SET_FULL, pattern, read_back};
use crate::iscsi::Limits;
use crate::iscsi::pdu::{HEADER, Header, NO_TAG, opcode};
use crate::medium::Operation;

const SEEDS: u64 = 100;
const STEPS: u32 = 260;

/// Blocks of the disk that are written, each at most once.
const WRITTEN: u32 = 131_000;

/// Added to the tags of functions, which are not those of commands.
const FUNCTIONS: u32 = 10_000;

/// How a session writes: unasked or asked for, with immediate data or without.
struct Manners {
    keys: &'static [(&'static str, &'static str)],
    first_burst: usize,
    immediate: bool,
}

const MANNERS: [Manners; 3] = [
    Manners {
        keys: &[
            ("InitialR2T", "No"),
            ("FirstBurstLength", "65536"),
            ("MaxBurstLength", "131072"),
            ("MaxOutstandingR2T", "4"),
        ],
        first_burst: 65536,
        immediate: true,
    },
    Manners {
        keys: &[("ImmediateData", "No"), ("MaxBurstLength", "65536"), ("MaxOutstandingR2T", "2")],
        first_burst: 0,
        immediate: false,
    },
    Manners {
        keys: &[
            ("InitialR2T", "No"),
            ("FirstBurstLength", "262144"),
            ("MaxBurstLength", "524288"),
            ("ImmediateData", "No"),
        ],
        first_burst: 262_144,
        immediate: false,
    },
];

/// Data that is still to be sent, asked for or not.
struct Burst {
    tag: u32,
    ttt: u32,
    at: usize,
    end: usize,
    sn: u32,
}

struct Command {
    lba: u32,
    blocks: u16,
    /// What is written; a read has none.
    data: Option<Vec<u8>>,
    aborted: bool,
    status: Option<u8>,
}

struct Guest {
    initiator: Initiator,
    manners: &'static Manners,
    commands: BTreeMap<u32, Command>,
    bursts: Vec<Burst>,
    max_cmd_sn: u32,
    stat_sn: u32,
    /// A command that is held back though later ones were sent.
    missing: Option<Vec<u8>>,
}

impl Guest {
    fn new(world: &World, manners: &'static Manners) -> Guest {
        let mut initiator = world.login(manners.keys);
        initiator.ping(1, &[]);
        let header = initiator.one().header;
        Guest {
            initiator,
            manners,
            commands: BTreeMap::new(),
            bursts: Vec::new(),
            max_cmd_sn: header.word(32),
            stat_sn: header.word(24),
            missing: None,
        }
    }

    fn is_gone(&self) -> bool {
        self.initiator.connection.is_disconnected()
    }

    fn listen(&mut self) {
        if self.initiator.deaf || self.is_gone() {
            self.initiator.pump();
            return;
        }
        for pdu in self.initiator.receive() {
            self.heard(&pdu);
        }
    }

    fn heard(&mut self, pdu: &Pdu) {
        let (code, tag) = (pdu.header.opcode(), pdu.header.itt());
        self.max_cmd_sn = pdu.header.word(32);
        let has_status = match code {
            opcode::R2T => false,
            opcode::DATA_IN => pdu.header.flags() & 1 != 0,
            opcode::NOP_IN => tag != NO_TAG,
            _ => true,
        };
        if has_status {
            self.stat_sn = self.stat_sn.wrapping_add(1);
            assert_eq!(pdu.header.word(24), self.stat_sn, "StatSN of {tag}");
        }
        match code {
            opcode::R2T => {
                assert_eq!(self.commands[&tag].status, None, "asked for data after the status of {tag}");
                let at = pdu.header.word(40) as usize;
                let end = at + pdu.header.word(44) as usize;
                self.bursts.push(Burst { tag, ttt: pdu.header.ttt(), at, end, sn: 0 });
            }
            opcode::DATA_IN | opcode::SCSI_RESPONSE if has_status => {
                let command = self.commands.get_mut(&tag).expect("a status for nobody");
                assert_eq!(command.status, None, "two statuses of {tag}");
                command.status = Some(pdu.header.0[3]);
                self.bursts.retain(|burst| burst.tag != tag);
            }
            opcode::REJECT => panic!("rejected: {pdu:?}"),
            _ => {}
        }
    }

    /// Whether another command may be sent, the one held back besides.
    fn may_send(&self) -> bool {
        self.initiator.cmd_sn + u32::from(self.missing.is_some()) <= self.max_cmd_sn
    }

    fn read(&mut self, tag: u32, chance: &SeededEntropy) {
        let blocks = 1 << chance.below(11);
        let command = Command { lba: 0, blocks, data: None, aborted: false, status: None };
        self.commands.insert(tag, command);
        self.initiator.read(tag, chance.below(100_000) as u32, blocks);
        self.listen();
    }

    /// A write of `blocks` at `lba`, with immediate and unsolicited data as the session may.
    fn write(&mut self, tag: u32, lba: u32, blocks: u16, chance: &SeededEntropy) {
        let data = pattern(chance.next_u64(), usize::from(blocks) * 512);
        let simple = 0x21;
        let attribute = [0x20, simple, simple, simple, 0x22, 0x23][chance.below(6) as usize];
        let first = self.manners.first_burst.min(data.len());
        let some = |most: usize| chance.below(most as u64 / 512 + 1) as usize * 512;
        let immediate = if self.manners.immediate && chance.below(2) == 0 { some(first) } else { 0 };
        let more = immediate < first && chance.below(2) == 0;
        if more {
            // It may end early.
            let end = if chance.below(4) == 0 {
                (immediate + some(first - immediate)).max(immediate + 512)
            } else {
                first
            };
            self.bursts.push(Burst { tag, ttt: NO_TAG, at: immediate, end: end.min(first), sn: 0 });
        }
        let flags = if more { attribute } else { attribute | 0x80 };
        let (length, begin) = (data.len() as u32, data[..immediate].to_vec());
        let command = Command { lba, blocks, data: Some(data), aborted: false, status: None };
        self.commands.insert(tag, command);
        self.initiator.command(flags, tag, length, cdb10(0x2a, lba, blocks), &begin);
        self.listen();
    }

    /// Sends one Data-Out, of the first burst of some command.
    fn send_data(&mut self, which: u64, most: usize) {
        if self.bursts.is_empty() {
            return;
        }
        let tag = self.bursts[which as usize % self.bursts.len()].tag;
        let place = self.bursts.iter().position(|burst| burst.tag == tag).unwrap();
        let burst = &mut self.bursts[place];
        let (ttt, sn, at) = (burst.ttt, burst.sn, burst.at);
        let next = burst.end.min(at + most);
        (burst.at, burst.sn) = (next, sn + 1);
        let last = next == burst.end;
        if last {
            self.bursts.remove(place);
        }
        let data = self.commands[&tag].data.as_ref().unwrap()[at..next].to_vec();
        self.initiator.data_out(tag, ttt, last, sn, at as u32, &data);
        self.listen();
    }

    fn send_all_data(&mut self) {
        while !self.bursts.is_empty() {
            self.send_data(0, 262_144);
        }
    }

    /// Holds a command back, or sends the one that was.
    fn skip(&mut self, tag: u32) {
        if let Some(header) = self.missing.take() {
            self.initiator.send_bytes(&header);
            return self.listen();
        }
        if self.may_send() {
            let mut nop = Header::new(opcode::NOP_OUT, 0x80);
            nop.set_word(16, tag);
            nop.set_word(20, NO_TAG);
            nop.set_word(24, self.initiator.cmd_sn);
            self.initiator.cmd_sn += 1;
            assert_eq!(nop.0.len(), HEADER);
            self.missing = Some(nop.0.to_vec());
        }
    }

    fn open(&self) -> Vec<u32> {
        let open = self.commands.iter().filter(|(_, command)| command.status.is_none());
        open.map(|(tag, _)| *tag).collect()
    }

    fn all_aborted(&mut self) {
        for command in self.commands.values_mut().filter(|command| command.status.is_none()) {
            command.aborted = true;
        }
    }

    fn abort_one(&mut self, function: u32, chance: &SeededEntropy) {
        let open = self.open();
        if open.is_empty() {
            return;
        }
        let tag = open[chance.below(open.len() as u64) as usize];
        self.commands.get_mut(&tag).unwrap().aborted = true;
        self.initiator.function(1, function, tag, self.initiator.cmd_sn - 1);
        self.listen();
    }

    /// Sends what is owed, listens, and sees whether every command ends; what waits for memory may be refused by time.
    fn finish(&mut self) {
        for _ in 0..8 {
            self.send_all_data();
            self.listen();
            if self.commands.values().all(|command| command.aborted || command.status.is_some()) {
                return;
            }
            self.initiator.pass(5);
        }
        panic!("{:?} wait for ever: {:?}", self.open(), self.initiator.connection.reason());
    }
}

/// One step of one guest, or of the world around all.
fn step(world: &World, guests: &mut [Guest], tag: u32, next_lba: &mut u32, chance: &SeededEntropy) {
    let who = chance.below(guests.len() as u64) as usize;
    let guest = &mut guests[who];
    if guest.is_gone() {
        return;
    }
    match chance.below(20) {
        0..=1 if guest.may_send() => guest.read(tag, chance),
        2..=6 if guest.may_send() => {
            let blocks = 1 << chance.below(11);
            if *next_lba + u32::from(blocks) <= WRITTEN {
                guest.write(tag, *next_lba, blocks, chance);
                *next_lba += u32::from(blocks);
            }
        }
        7..=12 => guest.send_data(chance.next_u64(), 1 << (9 + chance.below(9))),
        13 => {
            guest.initiator.ping(tag, &vec![5; chance.below(20_000) as usize]);
            guest.listen();
        }
        14 => {
            for guest in guests.iter_mut().filter(|guest| !guest.is_gone()) {
                guest.initiator.pass(5);
                guest.listen();
            }
        }
        15 => match chance.below(4) {
            0 => world.medium.hold(Operation::Write),
            1 => world.medium.hold(Operation::Read),
            _ => world.medium.resume(),
        },
        16 => {
            guest.initiator.deaf = !guest.initiator.deaf;
            guest.listen();
        }
        17 => world.medium.limit_admission(1 << (19 + chance.below(5))),
        18 => guest.skip(tag),
        19 => disturb(guests, who, FUNCTIONS + tag, chance),
        _ => {}
    }
}

/// ABORT TASK, now and then a reset, or a connection that is gone.
fn disturb(guests: &mut [Guest], who: usize, function: u32, chance: &SeededEntropy) {
    match chance.below(20) {
        0 => {
            const LOGICAL_UNIT_RESET: u8 = 5;
            guests[who].initiator.function(LOGICAL_UNIT_RESET, function, NO_TAG, 0);
            for guest in guests.iter_mut() {
                guest.all_aborted();
                guest.initiator.pump();
            }
            guests.iter_mut().for_each(Guest::listen);
        }
        1 => {
            guests[who].initiator.connection.disconnect();
            guests[who].initiator.pump();
            guests[who].all_aborted();
        }
        2..=6 => guests[who].abort_one(function, chance),
        _ => {}
    }
}

/// What is written is there if the initiator was told so, and nothing of it if it was refused.
fn look(check: &mut Initiator, tag: u32, command: &Command) {
    let Some(data) = &command.data else { return };
    let there = read_back(check, command.lba, command.blocks);
    let (whole, none) = (there == *data, there.iter().all(|byte| *byte == 0));
    match command.status {
        Some(GOOD) => assert!(whole, "the write {tag} was GOOD and is not there"),
        None | Some(TASK_ABORTED) => assert!(whole || none, "a part of the aborted write {tag} is there"),
        Some(status) => assert!(none, "the write {tag} was refused ({status:#x}) and is there"),
    }
}

/// Plays one seed to its end; gives the statuses that there were.
fn play(seed: u64) -> BTreeSet<u8> {
    let chance = SeededEntropy::new(seed);
    let world = World::with(Limits {
        session_bytes: 1 << 20,
        promised_bytes: 1 << 20,
        queue_depth: 32,
        ..super::memory::little()
    });
    let mut guests: Vec<Guest> = MANNERS.iter().map(|manners| Guest::new(&world, manners)).collect();
    world.medium.set_cold(chance.below(2) == 0);
    let mut next_lba = 0;
    for tag in 2..STEPS {
        step(&world, &mut guests, tag, &mut next_lba, &chance);
    }
    world.medium.resume();
    world.medium.limit_admission(64 << 20);
    for guest in &mut guests {
        guest.initiator.deaf = false;
        guest.listen();
        if guest.missing.is_some() && !guest.is_gone() {
            guest.skip(0);
        }
    }
    for guest in guests.iter_mut().filter(|guest| !guest.is_gone()) {
        guest.finish();
    }
    for guest in &mut guests {
        guest.initiator.pump();
        assert!(!guest.is_gone() || guest.initiator.connection.is_finished());
    }
    assert_eq!((world.registry.common_bytes(), world.medium.admitted()), (0, 0), "something is still held");
    let mut check = world.login(&[]);
    for (tag, command) in guests.iter().flat_map(|guest| &guest.commands) {
        look(&mut check, *tag, command);
    }
    guests.iter().flat_map(|guest| guest.commands.values()).filter_map(|command| command.status).collect()
}

#[test]
fn sessions_with_hardly_any_memory_keep_their_word() {
    let mut statuses = BTreeSet::new();
    for seed in 0..SEEDS {
        match std::panic::catch_unwind(|| play(seed)) {
            Ok(seen) => statuses.extend(seen),
            Err(e) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(e);
            }
        }
    }
    let often = BTreeSet::from([GOOD, BUSY, TASK_SET_FULL]);
    assert!(statuses.is_superset(&often), "all of it happens: {statuses:x?}");
}
