//! Commands that move blocks, against a model, and how their failures look.

use base::{Entropy, ErrorKind, SeededEntropy};

use super::*;
use crate::medium::Operation;

fn filled(blocks: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; blocks * 512];
    SeededEntropy::new(seed).fill(&mut data);
    data
}

fn extended_copy(from: u64, to: u64, blocks: u16) -> (Vec<u8>, Vec<u8>) {
    let mut list = vec![7, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    list.extend([0xe4, 0, 0, 0, 1, 3, 0, 16]);
    list.extend(identity().naa);
    list.extend([0, 0, 0, 0, 0, 0, 2, 0]);
    list.extend([0x02, 0, 0, 24, 0, 0, 0, 0, 0, 0]);
    list.extend(blocks.to_be_bytes());
    list.extend(from.to_be_bytes());
    list.extend(to.to_be_bytes());
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend((list.len() as u32).to_be_bytes());
    cdb.extend([0, 0]);
    (cdb, list)
}

fn unmap(ranges: &[(u64, u32)]) -> (Vec<u8>, Vec<u8>) {
    let length = ranges.len() * 16;
    let mut list = ((length + 6) as u16).to_be_bytes().to_vec();
    list.extend((length as u16).to_be_bytes());
    list.extend([0; 4]);
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    (ten(0x42, 0, 0, list.len() as u16).to_vec(), list)
}

#[test]
fn every_writing_command_agrees_with_an_array() {
    const BLOCKS: u64 = 128;
    let chance = SeededEntropy::new(11);
    let bench = Bench::on(medium(512, BLOCKS));
    let mut model = vec![0u8; BLOCKS as usize * 512];
    for round in 0..6000 {
        let blocks = chance.below(12) as usize;
        let lba = chance.below(BLOCKS - blocks as u64 + 1) as usize;
        let data = filled(blocks, round);
        let range = lba * 512..(lba + blocks) * 512;
        let (lba64, count) = (lba as u64, blocks as u32);
        let run = |cdb: &[u8], out: &[u8]| bench.run(&bench.a, cdb, out).status;
        let status = match chance.below(11) {
            0 => run(&write10(lba as u32, blocks as u16), &data),
            1 => run(&sixteen(0x8a, 0x08, lba64, count), &data),
            2 => run(&sixteen(0x8e, 0x02, lba64, count), &data),
            3 => run(&sixteen(0x9c, 0, lba64, count), &data),
            4 => {
                let status = run(&sixteen(0x8b, 0, lba64, count), &data);
                model[range].iter_mut().zip(&data).for_each(|(a, b)| *a |= b);
                assert_eq!(status, Status::Good);
                continue;
            }
            5 => {
                let out = [&model[range.clone()], &data[..]].concat();
                run(&compare_and_write(lba64, blocks as u8), &out)
            }
            6 if blocks > 0 => {
                let block = &data[..512];
                model[range].chunks_mut(512).for_each(|b| b.copy_from_slice(block));
                // UNMAP changes nothing of what is read: the block is not all zeroes.
                let flags = if chance.chance(1, 2) { 0x08 } else { 0 };
                assert_eq!(run(&sixteen(0x93, flags, lba64, count), block), Status::Good);
                continue;
            }
            7 if blocks > 0 => {
                model[range].fill(0);
                assert_eq!(run(&sixteen(0x93, 0x09, lba64, count), &[]), Status::Good);
                continue;
            }
            8 => {
                model[range].fill(0);
                let (cdb, list) = unmap(&[(lba64, count)]);
                assert_eq!(run(&cdb, &list), Status::Good);
                continue;
            }
            9 => {
                let to = chance.below(BLOCKS - blocks as u64 + 1) as usize;
                model.copy_within(range, to * 512);
                let (cdb, list) = extended_copy(lba64, to as u64, blocks as u16);
                assert_eq!(run(&cdb, &list), Status::Good);
                continue;
            }
            _ => {
                assert_eq!(bench.good(&bench.b, &sixteen(0x88, 0, lba64, count), &[]), model[range]);
                continue;
            }
        };
        assert_eq!(status, Status::Good);
        model[range].copy_from_slice(&data);
    }
    assert_eq!(bench.read(0, BLOCKS as u16), model);
    bench.good(&bench.a, &ten(0x2f, 0x02, 0, BLOCKS as u16), &model);
    assert_eq!(bench.medium.admitted(), 0, "every admission was given back");
}

#[test]
fn long_copies_that_overlap_keep_what_the_source_was() {
    let bench = Bench::on(medium(512, 70_000));
    for (from, to, blocks) in [(0u32, 5_000u32, 30_000u16), (20_000, 3_000, 40_000)] {
        let data = filled(usize::from(blocks), u64::from(from));
        for (i, part) in data.chunks(10_000 * 512).enumerate() {
            bench.write(from + i as u32 * 10_000, part);
        }
        let (cdb, list) = extended_copy(u64::from(from), u64::from(to), blocks);
        bench.good(&bench.a, &cdb, &list);
        for (i, part) in data.chunks(10_000 * 512).enumerate() {
            assert!(bench.read(to + i as u32 * 10_000, (part.len() / 512) as u16) == part);
        }
    }
}

#[test]
fn ends_of_the_disk_are_kept() {
    let bench = Bench::new();
    let out_of_range = (5, 0x2100);
    for cdb in [read10(1024, 1), read10(1023, 2), read10(1025, 0), read10(u32::MAX, 1), ten(0x34, 0, 1020, 5)]
    {
        assert_eq!(bench.sense(&bench.a, &cdb, &[]), out_of_range, "{cdb:02x?}");
    }
    bench.good(&bench.a, &read10(1024, 0), &[]);
    for opcode in [0x88, 0x8f, 0x90, 0x91] {
        assert_eq!(bench.sense(&bench.a, &sixteen(opcode, 0, u64::MAX, 1), &[]), out_of_range);
        assert_eq!(bench.sense(&bench.a, &sixteen(opcode, 0, 1 << 63, 1), &[]), out_of_range);
    }
    assert_eq!(bench.sense(&bench.a, &sixteen(0x8a, 0, 1023, 2), &[0; 1024]), out_of_range);
    let (cdb, list) = unmap(&[(0, 4), (1020, 5)]);
    bench.write(0, &[1; 512]);
    assert_eq!(bench.sense(&bench.a, &cdb, &list), out_of_range);
    assert_eq!(bench.read(0, 1), [1; 512], "nothing is unmapped if one range is wrong");
    let (cdb, list) = unmap(&[(1024, 0)]);
    bench.good(&bench.a, &cdb, &list);
}

#[test]
fn six_byte_commands_move_256_blocks_for_zero() {
    let bench = Bench::new();
    let data = filled(256, 1);
    bench.good(&bench.a, &[0x0a, 0, 0, 4, 0, 0], &data);
    assert!(bench.good(&bench.a, &[0x08, 0, 0, 4, 0, 0], &[]) == data);
    // The three bits above the address were a LUN once and are no part of it.
    assert!(bench.good(&bench.a, &[0x08, 0xe0, 0, 4, 1, 0], &[]) == data[..512]);
}

#[test]
fn protection_fields_must_be_zero() {
    let bench = Bench::new();
    for protect in 1..8u8 {
        for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0x41] {
            assert_eq!(bench.sense(&bench.a, &ten(opcode, protect << 5, 0, 1), &[0; 512]), (5, 0x2400));
        }
        for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x89, 0x93, 0x9c] {
            assert_eq!(bench.sense(&bench.a, &sixteen(opcode, protect << 5, 0, 1), &[0; 1024]), (5, 0x2400));
        }
    }
}

#[test]
fn data_that_is_too_short_is_written_as_far_as_whole_blocks_go() {
    // RFC 7143 §11.4.5: the residual is counted against what the command asked for.
    let bench = Bench::new();
    bench.write(0, &[1; 1024]);
    let outcome = bench.run(&bench.a, &write10(0, 2), &[2; 512]);
    assert_eq!((outcome.status, outcome.transfer), (Status::Good, 1024));
    assert_eq!(bench.read(0, 2), [[2u8; 512], [1; 512]].concat());
    let outcome = bench.run(&bench.a, &write10(0, 1), &[]);
    assert_eq!((outcome.status, outcome.transfer), (Status::Good, 512));
    let outcome = bench.run(&bench.a, &write10(0, 1), &[3; 200]);
    assert_eq!((sense(&outcome), outcome.transfer), ((5, 0x0e03), 512));
    let outcome = bench.run(&bench.a, &write10(0, 1), &[4; 1024]);
    assert_eq!((outcome.status, outcome.transfer), (Status::Good, 512));
    assert_eq!(bench.read(0, 2), [[4u8; 512], [1; 512]].concat());
    // Reads: no more is fetched than there is room for, the residual knows.
    let mut short = command(&read10(0, 8), &[]);
    short.expected_in = 700;
    let outcome = now(bench.target.execute(&bench.a, 0, short, None));
    assert_eq!((outcome.data_in.concat().len(), outcome.transfer), (1024, 4096));
}

#[test]
fn commands_that_cannot_be_cut_refuse_other_lengths() {
    let bench = Bench::new();
    for out in [0, 512, 1536] {
        assert_eq!(bench.sense(&bench.a, &compare_and_write(0, 1), &vec![0; out]), (5, 0x0e03), "{out}");
    }
    assert_eq!(bench.sense(&bench.a, &compare_and_write(0, 0), &[0; 1024]), (5, 0x2400));
    assert_eq!(bench.sense(&bench.a, &sixteen(0x9c, 0, 0, 2), &[0; 512]), (5, 0x0e03));
    for out in [0, 256, 1024] {
        assert_eq!(bench.sense(&bench.a, &sixteen(0x93, 0, 0, 1), &vec![0; out]), (5, 0x0e03), "{out}");
    }
    assert_eq!(
        bench.sense(&bench.a, &sixteen(0x93, 0x10, 0, 1), &[0; 512]),
        (5, 0x2400),
        "ANCHOR without UNMAP"
    );
}

#[test]
fn a_miscompare_says_where_and_changes_nothing() {
    let bench = Bench::new();
    bench.write(8, &[1; 1024]);
    let mut out = [vec![1; 1024], vec![9; 1024]].concat();
    out[700] = 0;
    let outcome = bench.run(&bench.a, &compare_and_write(8, 2), &out);
    assert_eq!((sense(&outcome), information(&outcome)), ((0xe, 0x1d00), 700));
    assert_eq!(bench.read(8, 2), [1; 1024]);
    let mut expected = vec![1; 1024];
    expected[1023] = 2;
    let outcome = bench.run(&bench.a, &ten(0x2f, 0x02, 8, 2), &expected);
    assert_eq!((sense(&outcome), information(&outcome)), ((0xe, 0x1d00), 9));
    bench.good(&bench.a, &ten(0x2f, 0x06, 8, 2), &[1; 512]);
    let outcome = bench.run(&bench.a, &ten(0x2f, 0x06, 8, 3), &[1; 512]);
    assert_eq!((sense(&outcome), information(&outcome)), ((0xe, 0x1d00), 10));
    assert_eq!(bench.sense(&bench.a, &ten(0x2f, 0x04, 8, 3), &[1; 512]), (5, 0x2400));
}

#[test]
fn a_lost_block_is_named() {
    let bench = Bench::new();
    bench.write(0, &[5; 512 * 64]);
    for bad in [0, 17, 63] {
        bench.medium.spoil(bad);
        for cdb in [read10(0, 64), ten(0x2f, 0, 0, 64)] {
            let outcome = bench.run(&bench.a, &cdb, &[]);
            assert_eq!((sense(&outcome), u64::from(information(&outcome))), ((3, 0x1100), bad));
            assert_eq!(outcome.transfer, 0, "no byte of the buffer counts");
        }
        let outcome = bench.run(&bench.a, &sixteen(0x8b, 0, 0, 64), &[0; 512 * 64]);
        assert_eq!((sense(&outcome), u64::from(information(&outcome))), ((3, 0x1100), bad));
        bench.write(bad as u32, &[5; 512]);
    }
    bench.read(0, 64);
}

#[test]
fn every_kind_of_error_has_its_answer_for_reads_and_writes() {
    let expected = |kind: ErrorKind| match kind {
        ErrorKind::Busy => None,
        ErrorKind::Unavailable => Some((2, 0x0401)),
        ErrorKind::Fenced => Some((2, 0x040c)),
        ErrorKind::Corrupt => Some((3, 0x1100)),
        ErrorKind::NoSpace => Some((7, 0x2707)),
        ErrorKind::Denied => Some((7, 0x2700)),
        ErrorKind::Invalid => Some((5, 0x2100)),
        ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Internal => Some((4, 0x4400)),
    };
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Invalid,
        ErrorKind::Denied,
        ErrorKind::NoSpace,
        ErrorKind::Busy,
        ErrorKind::Unavailable,
        ErrorKind::Corrupt,
        ErrorKind::Internal,
        ErrorKind::Fenced,
    ];
    let bench = Bench::new();
    for kind in kinds {
        for (operation, cdb, out) in [
            (Operation::Read, read10(0, 1), 0),
            (Operation::Write, write10(0, 1), 512),
            (Operation::Flush, ten(0x35, 0, 0, 0), 0),
            (Operation::Zero, ten(0x41, 0, 0, 1), 512),
        ] {
            bench.medium.fail(operation, Some(kind));
            let outcome = bench.run(&bench.a, &cdb, &vec![0; out]);
            match expected(kind) {
                None => assert_eq!(outcome.status, Status::TaskSetFull),
                Some(sense_data) => assert_eq!(sense(&outcome), sense_data, "{kind:?} of {operation:?}"),
            }
            bench.medium.fail(operation, None);
        }
        let refused = bench.target.admission_failed(0, &base::Error::new(kind, "told to"));
        assert_eq!(refused.status == Status::TaskSetFull, kind == ErrorKind::Busy);
    }
    // Fenced is for good, and paths that are tested show it.
    assert_eq!(bench.sense(&bench.b, &TEST_UNIT_READY, &[]), (2, 0x040c));
    assert_eq!(bench.good(&bench.a, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[])[4], 0x03);
}

#[test]
fn provisioning_shows_what_was_written_unmapped_and_anchored() {
    let bench = Bench::new();
    let status = |lba: u64| {
        let mut cdb = sixteen(0x9e, 0x12, lba, 0);
        cdb[10..14].copy_from_slice(&255u32.to_be_bytes());
        let data = bench.good(&bench.a, &cdb, &[]);
        let entries = data[8..].chunks_exact(16);
        entries.map(|e| (e[7], u32::from_be_bytes(e[8..12].try_into().unwrap()), e[12])).collect::<Vec<_>>()
    };
    assert_eq!(status(0), [(0, 1024, 1)]);
    bench.write(8, &[1; 512 * 8]);
    bench.good(&bench.a, &sixteen(0x93, 0x18, 12, 2), &[0; 512]);
    assert_eq!(status(0), [(0, 8, 1), (8, 4, 0), (12, 2, 2), (14, 2, 0), (16, 1008, 1)]);
    assert_eq!(status(9)[0], (9, 3, 0));
    let (cdb, list) = unmap(&[(8, 8)]);
    bench.good(&bench.a, &cdb, &list);
    assert_eq!(status(0), [(0, 1024, 1)]);
    assert_eq!(bench.sense(&bench.a, &sixteen(0x9e, 0x12, 1024, 24), &[]), (5, 0x2100));
}

#[test]
fn the_hot_path_answers_as_the_long_way_does() {
    let bench = Bench::new();
    bench.write(3, &[6; 1024]);
    let read = command(&read10(3, 2), &[]);
    let quick = bench.target.try_execute(&bench.a, 0, &read).unwrap();
    assert_eq!((quick.status, quick.data_in.concat(), quick.transfer), (Status::Good, vec![6; 1024], 1024));
    assert!(bench.target.try_execute(&bench.a, 0, &command(&TEST_UNIT_READY, &[])).is_some());
    // Whatever is not plain goes the long way.
    assert!(bench.target.try_execute(&bench.a, 0, &command(&read10(2000, 1), &[])).is_none());
    assert!(bench.target.try_execute(&bench.a, 0, &command(&write10(0, 1), &[0; 512])).is_none());
    bench.unit.capacity_changed();
    assert!(bench.target.try_execute(&bench.a, 0, &read).is_none());
    assert_eq!(bench.sense(&bench.a, &read10(3, 2), &[]), (6, 0x2a09));
    bench.medium.set_cold(true);
    assert!(bench.target.try_execute(&bench.a, 0, &read).is_none());
    assert_eq!(bench.read(3, 2), [6; 1024]);
}

#[test]
fn admission_is_asked_for_what_writes_bring() {
    let bench = Bench::new();
    let ask = |cdb: &[u8], expected: u32| bench.target.demand(0, cdb, expected).admission;
    assert_eq!(ask(&write10(0, 8), 4096), 4096);
    assert_eq!(ask(&write10(0, 8), 1024), 1024, "no more than will come");
    assert_eq!(ask(&write10(0, 8), u32::MAX), 4096, "no more than will be written");
    assert_eq!(ask(&compare_and_write(0, 4), 4096), 2048);
    assert_eq!(ask(&sixteen(0x8a, 0, 0, 32768), u32::MAX), 16 << 20);
    assert_eq!(ask(&sixteen(0x8a, 0, 0, 32769), u32::MAX), 0, "it will be refused");
    assert_eq!(ask(&read10(0, 8), 0), 0);
    assert_eq!(ask(&[0x2a], 512), 0);
    let admission = crate::medium::BlockMedium::try_admit(&*bench.medium, 512);
    let outcome = now(bench.target.execute(&bench.a, 0, command(&write10(0, 1), &[1; 512]), admission));
    assert_eq!(outcome.status, Status::Good);
    assert_eq!(bench.medium.admitted(), 0);
}

#[test]
fn commands_take_the_data_that_their_cdb_says() {
    let bench = Bench::new();
    let take = |cdb: &[u8]| bench.target.demand(0, cdb, u32::MAX).data_out;
    for (bytes, cdb) in [
        (1024, &write10(0, 2)[..]),
        (131_072, &[0x0a, 0, 0, 0, 0, 0]),
        (512, &ten(0x2e, 0, 0, 1)),
        (512, &sixteen(0x8b, 0, 0, 1)),
        (0, &sixteen(0x8a, 0, 0, u32::MAX)),
        (2048, &compare_and_write(0, 2)),
        (0, &ten(0x2f, 0, 0, 3)),
        (1536, &ten(0x2f, 2, 0, 3)),
        (512, &ten(0x2f, 6, 0, 3)),
        (512, &ten(0x41, 0, 0, 9)),
        (512, &sixteen(0x93, 0, 0, 9)),
        (0, &sixteen(0x93, 9, 0, 9)),
        (20, &[0x15, 0x10, 0, 0, 20, 0]),
        (300, &[0x55, 0x10, 0, 0, 0, 0, 0, 1, 44, 0]),
        (24, &ten(0x42, 0, 0, 24)),
        (5, &[0x48, 1, 0, 0, 0, 0, 0, 0, 5, 0]),
        (24, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0]),
        (0, &[0x5f, 0, 0, 0, 0, 255, 255, 255, 255, 0]),
        (76, &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76, 0, 0]),
        (0, &read10(0, 1)),
        (0, &[0xff; 10]),
    ] {
        assert_eq!(take(cdb), bytes, "{cdb:02x?}");
    }
    assert_eq!(bench.target.demand(0, &write10(0, 2), 700).data_out, 700);
    assert_eq!(bench.target.demand(1 << 48, &write10(0, 2), 700).data_out, 0, "there is no such unit");
}

#[test]
fn copies_report_their_results_to_the_nexus_that_asked() {
    let bench = Bench::new();
    let status = |list_id: u8| [0x84, 0, list_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    assert_eq!(bench.sense(&bench.a, &status(7), &[]), (5, 0x2400));
    let (cdb, list) = extended_copy(0, 100, 10);
    bench.good(&bench.a, &cdb, &list);
    assert_eq!(bench.good(&bench.a, &status(7), &[]), [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 20, 0]);
    assert_eq!(bench.sense(&bench.b, &status(7), &[]), (5, 0x2400));
    let (cdb, list) = extended_copy(0, 1020, 10);
    assert_eq!(bench.sense(&bench.a, &cdb, &list), (0xa, 0x0000));
    assert_eq!(bench.good(&bench.a, &status(7), &[])[4], 2);
    let failure = bench.good(&bench.a, &[0x84, 4, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!((failure[56], failure[60] & 0x7f, failure[62]), (2, 0x70, 0x0a));
    let (cdb, mut list) = extended_copy(0, 100, 10);
    list[24] ^= 1; // nobody has this name
    assert_eq!(bench.sense(&bench.a, &cdb, &list), (0xa, 0x0804));
    let parameters = bench.good(&bench.a, &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!(parameters.len(), 46);
    assert_eq!(parameters[43..], [2, 0x02, 0xe4]);
}

#[test]
fn a_copy_respects_the_reservations_of_its_destination() {
    let bench = Bench::new();
    let other = Arc::new(MemoryMedium::new(Geometry { block_size: 512, blocks: 64, physical_exponent: 0 }));
    let mut name = identity();
    name.naa[15] = b'!';
    bench.target.attach(1, now(LogicalUnit::new(name.clone(), other)).unwrap());
    let lun1 = 0x0001_0000_0000_0000;
    let at1 = |nexus: &Nexus, cdb: &[u8]| now(bench.target.execute(nexus, lun1, command(cdb, &[]), None));
    for nexus in [&bench.a, &bench.b] {
        at1(nexus, &TEST_UNIT_READY);
        at1(nexus, &TEST_UNIT_READY);
        bench.run(nexus, &TEST_UNIT_READY, &[]);
    }
    bench.write(0, &[3; 512]);
    let copy = || {
        let (mut cdb, list) = extended_copy(0, 5, 1);
        let mut second = list[16..48].to_vec();
        second[8..24].copy_from_slice(&name.naa);
        let mut both = [&list[..48], &second, &list[48..]].concat();
        both[3] = 64;
        both[80 + 7] = 1;
        cdb[13] = both.len() as u8;
        (cdb, both)
    };
    let (cdb, list) = copy();
    bench.good(&bench.a, &cdb, &list);
    assert_eq!(at1(&bench.a, &read10(5, 1)).data_in.concat(), [3; 512]);
    assert_eq!(at1(&bench.b, &[0x16, 0, 0, 0, 0, 0]).status, Status::Good);
    assert_eq!(bench.sense(&bench.a, &cdb, &list), (0xa, 0x0804));
}
