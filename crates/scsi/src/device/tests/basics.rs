//! INQUIRY, VPD, mode pages, supported operation codes, LUNs: what initiators learn before the first block.

use super::*;
use crate::device::opcode::COMMANDS;
use crate::task::TaskFunction;

fn inquiry(page: u8, length: u16) -> [u8; 6] {
    let [hi, lo] = length.to_be_bytes();
    [0x12, 1, page, hi, lo, 0]
}

#[test]
fn standard_inquiry_data_keep_to_spc() {
    let bench = Bench::new();
    let data = bench.good(&bench.a, &[0x12, 0, 0, 1, 0, 0], &[]);
    assert_eq!(data.len(), usize::from(data[4]) + 5);
    assert_eq!(&data[..4], &[0, 0, 6, 0x12]);
    assert_eq!(&data[8..36], b"TIDEGATEVOLUME          0.1 ");
    // SAM-5, iSCSI, SPC-4, SBC-3.
    assert_eq!(&data[58..66], &[0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    assert_eq!(bench.good(&bench.a, &[0x12, 0, 0, 0, 7, 0], &[]), data[..7]);
    assert_eq!(bench.sense(&bench.a, &[0x12, 0, 1, 1, 0, 0], &[]), (5, 0x2400));
    assert_eq!(bench.sense(&bench.a, &inquiry(0x99, 255), &[]), (5, 0x2400));
}

#[test]
fn every_vpd_page_listed_can_be_read_and_says_its_length() {
    let bench = Bench::new();
    let list = bench.good(&bench.a, &inquiry(0, 255), &[]);
    assert_eq!(list[4..], [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for page in &list[4..] {
        let data = bench.good(&bench.a, &inquiry(*page, 4096), &[]);
        assert_eq!(data[1], *page);
        assert_eq!(data.len(), 4 + usize::from(u16::from_be_bytes([data[2], data[3]])), "page {page:02x}");
    }
}

#[test]
fn identification_names_unit_port_and_device() {
    let bench = Bench::new();
    let data = bench.good(&bench.a, &inquiry(0x83, 4096), &[]);
    let mut found = Vec::new();
    let mut rest = &data[4..];
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(4 + usize::from(rest[3]));
        found.push((head[1] >> 4 & 3, head[1] & 15, head[4..].to_vec()));
        rest = tail;
    }
    let kinds: Vec<_> = found.iter().map(|(association, kind, _)| (*association, *kind)).collect();
    assert_eq!(kinds, [(0, 3), (0, 1), (1, 4), (1, 5), (1, 8), (2, 8)]);
    assert_eq!(found[0].2, identity().naa);
    assert_eq!(found[1].2, b"TIDEGATE0123456789abcdef");
    assert!(found[4].2.starts_with(b"iqn.2026-01.example:disk,t,0x0001\0"));
    assert!(found.iter().all(|(_, kind, name)| *kind != 8 || name.len() % 4 == 0));
}

#[test]
fn identities_of_images_are_stable_and_differ() {
    let ids: Vec<_> = (0..50u8).map(|i| Identity::of_image(base::ImageId([i; 16]), "1")).collect();
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(id.naa[0] >> 4, 6);
        assert_eq!(id.naa().len(), 16);
        assert!(ids[..i].iter().all(|other| other.naa != id.naa && other.serial != id.serial));
    }
    assert_eq!(ids[3], Identity::of_image(base::ImageId([3; 16]), "1"));
}

#[test]
fn block_limits_are_what_commands_accept() {
    for (size, blocks) in [(512, 200_000), (4096, 200_000)] {
        let bench = Bench::on(medium(size, blocks));
        let data = bench.good(&bench.a, &inquiry(0xb0, 255), &[]);
        let field = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
        assert_eq!(data.len(), 64);
        let (compare, transfer, atomic) = (data[5], field(8), field(44));
        assert!(compare > 0 && atomic >= 256 && atomic <= transfer);
        let out_of = |blocks: u32| vec![0u8; blocks as usize * size as usize];
        assert!(
            bench.good(&bench.a, &sixteen(0x88, 0, 0, transfer), &[]).len() == (transfer * size) as usize
        );
        assert_eq!(bench.sense(&bench.a, &sixteen(0x88, 0, 0, transfer + 1), &[]), (5, 0x2400));
        let mut write_atomic = sixteen(0x9c, 0, 0, atomic);
        bench.good(&bench.a, &write_atomic, &out_of(atomic));
        write_atomic[10..14].copy_from_slice(&(atomic + 1).to_be_bytes());
        assert_eq!(bench.sense(&bench.a, &write_atomic, &out_of(atomic + 1)), (5, 0x2400));
        bench.good(&bench.a, &compare_and_write(0, compare), &out_of(2 * u32::from(compare)));
        let same = u64::from_be_bytes(data[36..44].try_into().unwrap()) as u32;
        bench.good(&bench.a, &sixteen(0x93, 0, 0, same), &out_of(1));
        assert_eq!(bench.sense(&bench.a, &sixteen(0x93, 0, 0, same + 1), &out_of(1)), (5, 0x2400));
        assert_eq!(bench.sense(&bench.a, &sixteen(0x93, 0, 0, 0), &out_of(1)), (5, 0x2400), "WSNZ");
    }
}

#[test]
fn capacity_is_reported_in_both_sizes() {
    let bench = Bench::on(medium(4096, 1 << 33));
    assert_eq!(
        bench.good(&bench.a, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        [255, 255, 255, 255, 0, 0, 16, 0]
    );
    let data = bench.good(&bench.a, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[]);
    assert_eq!(&data[..16], &[0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 16, 0, 0, 3, 0xc0, 0]);
    assert_eq!(bench.sense(&bench.a, &[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[]), (5, 0x2400));
}

#[test]
fn report_opcodes_describes_every_command_alone_and_in_the_list() {
    let bench = Bench::new();
    for with_timeouts in [0u8, 0x80] {
        let all = bench.good(&bench.a, &[0xa3, 0x0c, with_timeouts, 0, 0, 0, 0, 0, 255, 255, 0, 0], &[]);
        let step = if with_timeouts == 0 { 8 } else { 20 };
        assert_eq!(all.len() - 4, COMMANDS.len() * step);
        for entry in all[4..].chunks(step) {
            let (opcode, action, has_actions) = (entry[0], entry[3], entry[5] & 1 == 1);
            assert_eq!(entry[5] & 2 != 0, with_timeouts != 0);
            let [right, wrong] = if has_actions { [2, 1] } else { [1, 2] };
            let ask =
                |options: u8| [0xa3, 0x0c, with_timeouts | options, opcode, 0, action, 0, 0, 1, 0, 0, 0];
            assert_eq!(bench.sense(&bench.a, &ask(wrong), &[]), (5, 0x2400), "{opcode:02x}");
            for options in [right, 3] {
                let one = bench.good(&bench.a, &ask(options), &[]);
                assert_eq!(one[1] & 0x07, 3);
                assert_eq!(one[3], entry[7]);
                assert_eq!(one[4], opcode);
                assert!(!has_actions || one[5] & 0x1f == action);
            }
        }
    }
    let unknown = bench.good(&bench.a, &[0xa3, 0x0c, 1, 0xff, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(unknown[1], 1);
}

#[test]
fn the_command_table_is_in_order_for_its_index() {
    let opcodes: Vec<u8> = COMMANDS.iter().map(|kind| kind.opcode()).collect();
    assert!(opcodes.is_sorted(), "commands of one operation code must stand together");
    assert!(COMMANDS.len() < 255);
    for kind in COMMANDS {
        let length = match kind.opcode() >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            _ => 12,
        };
        assert_eq!(kind.usage.len(), length, "{:02x}", kind.opcode());
    }
}

fn mode_sense(control: u8, page: u8) -> [u8; 6] {
    [0x1a, 0x08, control << 6 | page, 0, 255, 0]
}

/// Caching page with WCE, control page with D_SENSE and SWP.
fn mode_select(save: bool, write_cache: bool, descriptor_sense: bool, protect: bool) -> ([u8; 6], Vec<u8>) {
    let mut list = vec![0, 0, 0, 0, 0x08, 0x12, u8::from(write_cache) << 2];
    list.resize(4 + 20, 0);
    list.extend([0x0a, 0x0a, 0x20 | u8::from(descriptor_sense) << 2, 0x10, u8::from(protect) << 3, 0x40]);
    list.extend([0, 0, 0, 100, 0, 0]);
    ([0x15, 0x10 | u8::from(save), 0, 0, list.len() as u8, 0], list)
}

#[test]
fn write_cache_is_off_until_set_and_saved_pages_survive_a_restart() {
    // Requirement C01.
    let bench = Bench::new();
    assert_eq!(bench.good(&bench.a, &mode_sense(0, 0x08), &[])[4 + 2], 0);
    assert!(!bench.medium.write_cache());
    let (cdb, list) = mode_select(true, true, true, false);
    bench.good(&bench.a, &cdb, &list);
    assert!(bench.medium.write_cache());
    assert_eq!(bench.sense(&bench.b, &TEST_UNIT_READY, &[]), (6, 0x2a01), "MODE PARAMETERS CHANGED");
    bench.good(&bench.a, &TEST_UNIT_READY, &[]);

    let bench = bench.restarted();
    assert!(bench.medium.write_cache());
    assert_eq!(bench.good(&bench.a, &mode_sense(0, 0x08), &[])[4 + 2], 0x04);
    assert_eq!(bench.good(&bench.a, &mode_sense(2, 0x08), &[])[4 + 2], 0, "the default stays");
    let outcome = bench.run(&bench.a, &read10(2000, 1), &[]);
    assert_eq!(outcome.sense[0], 0x72, "descriptor sense");
    assert_eq!(sense(&outcome), (5, 0x2100));
}

#[test]
fn switching_the_write_cache_off_flushes_first() {
    let bench = Bench::new();
    let (cdb, list) = mode_select(false, true, false, false);
    bench.good(&bench.a, &cdb, &list);
    let flushes = bench.medium.count(crate::medium::Operation::Flush);
    let (cdb, list) = mode_select(false, false, false, false);
    bench.good(&bench.a, &cdb, &list);
    assert_eq!(bench.medium.count(crate::medium::Operation::Flush), flushes + 1);
    assert!(!bench.medium.write_cache());
}

/// Whether a write is answered early is decided where it has its place among the writes: who turns the write cache off waits
/// for what was answered early before, and nothing is answered early behind that.
#[test]
fn nothing_is_volatile_behind_the_end_of_the_write_cache() {
    use crate::medium::Operation;
    let bench = Bench::new();
    let (on, list_on) = mode_select(false, true, false, false);
    let (off, list_off) = mode_select(false, false, false, false);
    bench.good(&bench.a, &on, &list_on);
    bench.sense(&bench.b, &TEST_UNIT_READY, &[]);
    bench.write(0, &[1; 512]);
    assert_eq!(bench.medium.volatile(), 1);
    bench.medium.hold(Operation::Flush);
    let mut change = bench.begin(&bench.a, &off, &list_off);
    assert!(poll_once(change.as_mut()).is_pending());
    // What the flush covers is fixed; whatever is answered now has to be durable by itself.
    bench.good(&bench.b, &write10(8, 1), &[2; 512]);
    bench.medium.resume();
    assert_eq!(now(change).status, Status::Good);
    assert_eq!(bench.medium.volatile(), 0);
}

#[test]
fn an_update_with_fua_is_durable_though_the_write_cache_ends_meanwhile() {
    use crate::medium::Operation;
    let bench = Bench::new();
    let (on, list_on) = mode_select(false, true, false, false);
    let (off, list_off) = mode_select(false, false, false, false);
    bench.good(&bench.a, &on, &list_on);
    bench.sense(&bench.b, &TEST_UNIT_READY, &[]);
    // It has been made, early, and is not answered yet.
    bench.medium.hold(Operation::Update);
    let mut cdb = compare_and_write(0, 1);
    cdb[1] = 0x08;
    let both = [[0; 512], [3; 512]].concat();
    let mut update = bench.begin(&bench.b, &cdb, &both);
    assert!(poll_once(update.as_mut()).is_pending());
    assert_eq!(bench.medium.volatile(), 1);
    // The write cache is off, and its flush is under way.
    bench.medium.hold(Operation::Flush);
    let mut change = bench.begin(&bench.a, &off, &list_off);
    assert!(poll_once(change.as_mut()).is_pending());
    assert!(poll_once(update.as_mut()).is_pending(), "it is not durable");
    bench.medium.resume();
    assert_eq!(now(update).status, Status::Good);
    assert_eq!(bench.medium.volatile(), 0);
    assert_eq!(now(change).status, Status::Good);
}

#[test]
fn a_reset_brings_saved_pages_back() {
    let bench = Bench::new();
    let (cdb, list) = mode_select(false, true, false, true);
    bench.good(&bench.a, &cdb, &list);
    now(bench.target.task_function(&bench.a, 0, TaskFunction::LogicalUnitReset));
    for nexus in [&bench.a, &bench.b] {
        assert_eq!(bench.sense(nexus, &TEST_UNIT_READY, &[]), (6, 0x2903));
        bench.good(nexus, &TEST_UNIT_READY, &[]);
    }
    assert!(!bench.medium.write_cache());
    bench.write(0, &[1; 512]);
}

#[test]
fn mode_select_takes_only_what_can_be_changed() {
    let bench = Bench::new();
    let (cdb, good) = mode_select(false, false, false, false);
    for (at, value) in [(4 + 3, 1), (24 + 2, 0x40), (24 + 5, 0), (5, 0x11), (4, 0x09), (24, 0x4a)] {
        let mut list = good.clone();
        list[at] = value;
        assert_eq!(bench.sense(&bench.a, &cdb, &list), (5, 0x2600), "byte {at}");
    }
    assert_eq!(bench.sense(&bench.a, &cdb, &good[..good.len() - 1]), (5, 0x1a00));
    let mut no_page_format = cdb;
    no_page_format[1] = 0;
    assert_eq!(bench.sense(&bench.a, &no_page_format, &good), (5, 0x2400));
    // What MODE SENSE says can be sent back as it is, block descriptor and all.
    let mut back = bench.good(&bench.a, &[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 1, 0, 0], &[]);
    back[0..2].fill(0);
    bench.good(&bench.a, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, back.len() as u8, 0], &back);
}

#[test]
fn software_write_protection_stops_writes_and_only_those() {
    let bench = Bench::new();
    let (cdb, list) = mode_select(false, false, false, true);
    bench.good(&bench.a, &cdb, &list);
    assert_eq!(bench.good(&bench.a, &mode_sense(0, 0x0a), &[])[2] & 0x80, 0x80);
    assert_eq!(bench.sense(&bench.a, &write10(0, 1), &[0; 512]), (7, 0x2702));
    bench.read(0, 1);
}

#[test]
fn a_read_only_medium_refuses_every_command_that_writes() {
    let bench = Bench::new();
    bench.write(0, &[7; 512]);
    bench.medium.set_read_only(true);
    let (one, two) = ([0u8; 512], [7u8; 1024]);
    let unmap = {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend([0; 11]);
        list.extend([1, 0, 0, 0, 0]);
        list
    };
    let cases: [(&[u8], &[u8]); 9] = [
        (&write10(0, 1), &one),
        (&ten(0x2e, 0, 0, 1), &one),
        (&compare_and_write(0, 1), &two),
        (&sixteen(0x8b, 0, 0, 1), &one),
        (&sixteen(0x9c, 0, 0, 1), &one),
        (&sixteen(0x93, 0x08, 0, 1), &one),
        (&sixteen(0x93, 0x01, 0, 1), &[]),
        (&ten(0x42, 0, 0, 24), &unmap),
        (&[0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
    ];
    for (cdb, out) in cases {
        assert_eq!(bench.sense(&bench.a, cdb, out), (7, 0x2700), "{:02x}", cdb[0]);
    }
    assert_eq!(bench.read(0, 1), [7; 512]);
}

#[test]
fn luns_are_found_by_both_addressing_methods() {
    let bench = Bench::new();
    bench.target.attach(700, now(LogicalUnit::new(identity(), medium(512, 8))).unwrap());
    assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (6, 0x3f0e), "REPORTED LUNS DATA HAS CHANGED");
    let flat = 0x42bc_0000_0000_0000;
    assert!(bench.target.unit(flat).is_some());
    assert!(bench.target.unit(0x4000_0000_0000_0000).is_some(), "LUN 0 in flat form");
    for absent in [0x0001_0000_0000_0000, 0x0000_0000_0000_0001, 0x0100_0000_0000_0000, 0x8000_0000_0000_0000]
    {
        assert!(bench.target.unit(absent).is_none(), "{absent:016x}");
    }
    // The other nexus reads the inventory instead, and need not be told any more.
    let report = bench.good(&bench.b, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(report[..8], [0, 0, 0, 16, 0, 0, 0, 0]);
    assert_eq!(report[8..], [0, 0, 0, 0, 0, 0, 0, 0, 0x42, 0xbc, 0, 0, 0, 0, 0, 0]);
    bench.good(&bench.b, &TEST_UNIT_READY, &[]);
    bench.target.detach(700);
    assert!(bench.target.unit(flat).is_none());
}

#[test]
fn an_absent_unit_answers_inquiry_report_luns_and_request_sense_only() {
    let bench = Bench::new();
    let absent = 0x0005_0000_0000_0000;
    let at = |lun: u64, cdb: &[u8]| now(bench.target.execute(&bench.a, lun, command(cdb, &[]), None));
    assert_eq!(at(absent, &[0x12, 0, 0, 0, 36, 0]).data_in.concat()[0], 0x7f);
    assert_eq!(at(absent, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data_in.concat()[3], 8);
    assert_eq!(at(absent, &[3, 0, 0, 0, 18, 0]).data_in.concat()[12], 0x25);
    assert_eq!(sense(&at(absent, &TEST_UNIT_READY)), (5, 0x2500));
    assert_eq!(sense(&at(absent, &read10(0, 1))), (5, 0x2500));
    let well_known = 0xc101_0000_0000_0000;
    assert_eq!(at(well_known, &[0x12, 0, 0, 0, 36, 0]).data_in.concat()[0], 0x1e);
    assert_eq!(at(well_known, &TEST_UNIT_READY).status, Status::Good);
    assert_eq!(sense(&at(well_known, &read10(0, 1))), (5, 0x2000));
}

#[test]
fn a_new_nexus_is_told_once_and_inquiry_does_not_tell() {
    let bench = Bench::fresh(medium(512, 8));
    bench.good(&bench.a, &[0x12, 0, 0, 0, 36, 0], &[]);
    assert_eq!(bench.sense(&bench.a, &read10(0, 1), &[]), (6, 0x2900));
    bench.read(0, 1);
    let data = bench.good(&bench.b, &[3, 0, 0, 0, 18, 0], &[]);
    assert_eq!((data[2], data[12], data[13]), (6, 0x29, 0x00));
    bench.good(&bench.b, &TEST_UNIT_READY, &[]);
    bench.unit.capacity_changed();
    assert_eq!(bench.sense(&bench.a, &TEST_UNIT_READY, &[]), (6, 0x2a09));
}

#[test]
fn log_pages_and_small_commands_answer() {
    let bench = Bench::new();
    assert_eq!(bench.good(&bench.a, &[0x4d, 0, 0x40, 0, 0, 0, 0, 1, 0, 0], &[]), [0, 0, 0, 2, 0, 0x2f]);
    assert_eq!(bench.sense(&bench.a, &[0x4d, 0, 0x4d, 0, 0, 0, 0, 1, 0, 0], &[]), (5, 0x2400));
    assert_eq!(bench.good(&bench.a, &[0x37, 0, 0x0d, 0, 0, 0, 0, 0, 8, 0], &[]), [0, 0x0d, 0, 0]);
    assert_eq!(bench.good(&bench.a, &[0xb7, 0x0d, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], &[])[1], 0x0d);
    bench.good(&bench.a, &[0x1e, 0, 0, 0, 1, 0], &[]);
    bench.good(&bench.a, &[0x1b, 0, 0, 0, 0, 0], &[]);
    assert_eq!(bench.medium.count(crate::medium::Operation::Flush), 1, "stopping flushes");
    bench.read(0, 1);
    let groups = bench.good(&bench.a, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!(groups, [0, 0, 0, 12, 0, 0x09, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1]);
    assert_eq!(bench.good(&bench.a, &[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]), [0xd8, 0, 0, 0]);
}

#[test]
fn unknown_commands_and_naca_are_refused() {
    let bench = Bench::new();
    assert_eq!(bench.sense(&bench.a, &[0xff; 16], &[]), (5, 0x2000));
    assert_eq!(
        bench.sense(&bench.a, &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        (5, 0x2400)
    );
    let mut naca = read10(0, 1);
    naca[9] = 4;
    let outcome = bench.run(&bench.a, &naca, &[]);
    assert_eq!(sense(&outcome), (5, 0x2400));
    assert_eq!(outcome.sense[15..18], [0xca, 0, 9], "points at bit 2 of byte 9 of the CDB");
}
