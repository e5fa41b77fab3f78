//! The machine against a scripted initiator.

use std::sync::Arc;

use base::{Entropy, Error, ErrorKind, SeededEntropy};
use proptest::prelude::*;

use super::script::*;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::iscsi::{AllowList, Discovery, Limits, TargetConfig};

mod chance;
mod memory;

const GOOD: u8 = 0;
const CHECK: u8 = 2;
const BUSY: u8 = 8;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    SeededEntropy::new(seed).fill(&mut data);
    data
}

/// What a read of whole blocks brings, checked for sequence, offsets and status.
fn read_back(initiator: &mut Initiator, lba: u32, blocks: u16) -> Vec<u8> {
    initiator.read(0x9999, lba, blocks);
    let pdus = initiator.receive();
    let mut data = Vec::new();
    for (sn, pdu) in pdus.iter().filter(|p| p.header.opcode() == opcode::DATA_IN).enumerate() {
        assert_eq!(pdu.header.word(36) as usize, sn, "DataSN");
        assert_eq!(pdu.header.word(40) as usize, data.len(), "offset");
        data.extend_from_slice(&pdu.data);
    }
    assert_eq!(pdus.last().unwrap().scsi_status(), GOOD);
    data
}

#[test]
fn a_login_negotiates_every_key_and_opens_a_session() {
    let world = World::new();
    let mut i = world.connect();
    let response = i.login(&[
        ("SessionType", "Normal"),
        ("HeaderDigest", "None"),
        ("MaxRecvDataSegmentLength", "262144"),
        ("MaxBurstLength", "16776192"),
        ("FirstBurstLength", "262144"),
        ("InitialR2T", "No"),
        ("X-com.example.odd", "1"),
    ]);
    let text = response.text();
    for line in [
        "TargetPortalGroupTag=1",
        "HeaderDigest=None",
        "MaxBurstLength=16776192",
        "FirstBurstLength=262144",
        "InitialR2T=No",
        "X-com.example.odd=NotUnderstood",
        "MaxRecvDataSegmentLength=262144",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert_eq!(response.header.flags(), 0x87);
    assert_ne!(response.header.0[14..16], [0, 0], "TSIH");
    let sessions = world.registry.sessions();
    assert_eq!((sessions.len(), sessions[0].initiator.as_str()), (1, INITIATOR));
    i.settle();
    drop(i);
    assert_eq!(world.registry.sessions().len(), 0);
}

#[test]
fn logins_that_may_not_be_are_refused_with_the_reason() {
    let world = World::new();
    for (keys, status) in [
        (&[("TargetName", TARGET)][..], 0x0207),
        (&[("InitiatorName", INITIATOR)], 0x0207),
        (&[("InitiatorName", "nonsense"), ("TargetName", TARGET)], 0x0200),
        (&[("InitiatorName", INITIATOR), ("TargetName", "iqn.2026-01.org.tidegate:other")], 0x0203),
        (&[("InitiatorName", INITIATOR), ("SessionType", "Odd")], 0x0209),
    ] {
        let mut i = world.connect();
        assert_eq!(i.login_step(0x87, keys).login_status(), status, "{keys:?}");
        assert!(i.connection.is_closing() && !i.connection.is_disconnected());
        i.pass(1);
        assert!(i.connection.is_finished());
    }
    let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    let mut i = world.connect();
    assert_eq!(i.login_step(0x85, &names).login_status(), 0x020b, "a stage does not follow itself");
    let mut i = world.connect();
    i.login_request(0x87, b"InitiatorName\0");
    assert_eq!(i.one().login_status(), 0x0200, "malformed text");
}

#[test]
fn names_and_addresses_off_the_list_see_and_reach_nothing() {
    // X06, B32.
    let world = World::new();
    let other = AllowList {
        initiators: Some(["iqn.2026-01.org.example:other".parse().unwrap()].into()),
        ..AllowList::default()
    };
    let far = AllowList { networks: vec!["10.0.0.0/8".parse().unwrap()], ..AllowList::default() };
    for allow in [other, far] {
        world.registry.update(TargetConfig { allow, ..world.config.clone() }).unwrap();
        let mut i = world.connect();
        let status =
            i.login_step(0x87, &[("InitiatorName", INITIATOR), ("TargetName", TARGET)]).login_status();
        assert_eq!(status, 0x0202);
        let mut i = world.connect();
        i.login_step(0x87, &[("InitiatorName", INITIATOR), ("SessionType", "Discovery")]);
        i.text(1, NO_TAG, b"SendTargets=All\0");
        assert_eq!(i.one().text(), "");
    }
    let allow = AllowList { networks: vec!["10.0.0.0/8".parse().unwrap()], ..AllowList::default() };
    world.registry.set_discovery(Discovery { allow, ..Discovery::default() });
    let mut i = world.connect();
    let status =
        i.login_step(0x87, &[("InitiatorName", INITIATOR), ("SessionType", "Discovery")]).login_status();
    assert_eq!(status, 0x0202);
}

#[test]
fn a_changed_list_ends_the_sessions_it_excludes() {
    let world = World::new();
    let mut i = world.login(&[]);
    world.registry.update(world.config.clone()).unwrap();
    i.pump();
    assert!(!i.connection.is_closing());
    let allow = AllowList { initiators: Some([].into()), ..AllowList::default() };
    world.registry.update(TargetConfig { allow, ..world.config.clone() }).unwrap();
    i.pump();
    assert!(i.connection.is_closing());
}

#[test]
fn initiators_with_a_view_see_other_units() {
    // B32: the same mapping in REPORT LUNS and in addressing.
    let world = World::new();
    let view = Arc::new(crate::device::TargetDevice::new(TARGET));
    let config = TargetConfig { views: [(INITIATOR.parse().unwrap(), view)].into(), ..world.config.clone() };
    world.registry.update(config).unwrap();
    let mut i = world.connect();
    i.login(&[]);
    i.read(1, 0, 1);
    let answer = i.one();
    assert_eq!((answer.scsi_status(), answer.sense()), (CHECK, (5, 0x25, 0)));
}

#[test]
fn send_targets_names_the_portal_that_was_used() {
    // B33.
    let world = World::new();
    let mut i = world.connect();
    i.login_step(0x87, &[("InitiatorName", INITIATOR), ("SessionType", "Discovery")]);
    let listed = format!("TargetName={TARGET}\nTargetAddress=192.0.2.1:3260,1\n");
    for (asked, answer) in [
        ("SendTargets=All", listed.clone()),
        (&format!("SendTargets={TARGET}"), listed.clone()),
        ("SendTargets=iqn.2026-01.org.tidegate:none", String::new()),
        ("SendTargets=Alle", "SendTargets=Reject\n".to_owned()),
        ("SendTargetsPlease=All", "SendTargetsPlease=NotUnderstood\n".to_owned()),
        ("HeaderDigest=None", "HeaderDigest=Reject\n".to_owned()),
    ] {
        i.text(2, NO_TAG, format!("{asked}\0").as_bytes());
        let response = i.one();
        assert_eq!(
            (response.header.opcode(), response.header.flags(), response.text()),
            (opcode::TEXT_RESPONSE, 0x80, answer)
        );
    }
    let portals = crate::iscsi::Portals(vec![
        "198.51.100.1:3260".parse().unwrap(),
        "[2001:db8::1]:3261".parse().unwrap(),
    ]);
    world.registry.update(TargetConfig { portals, ..world.config.clone() }).unwrap();
    i.text(3, NO_TAG, b"SendTargets=All\0");
    assert!(
        i.one().text().ends_with("TargetAddress=198.51.100.1:3260,1\nTargetAddress=[2001:db8::1]:3261,1\n")
    );
    let mut i = world.login(&[]);
    i.text(4, NO_TAG, b"SendTargets=\0");
    assert!(i.one().text().starts_with(&format!("TargetName={TARGET}\n")));
    i.command(0x80, 5, 0, [0; 16], &[]);
    assert_eq!(i.one().scsi_status(), GOOD);
}

#[test]
fn long_lists_come_in_pieces() {
    let world = World::new();
    for n in 0..40 {
        let name = format!("{TARGET}.{n}").parse().unwrap();
        world.registry.add(TargetConfig { name, ..world.config.clone() }).unwrap();
    }
    let mut i = world.connect();
    i.login_step(
        0x87,
        &[("InitiatorName", INITIATOR), ("SessionType", "Discovery"), ("MaxRecvDataSegmentLength", "512")],
    );
    i.text(7, NO_TAG, b"SendTargets=All\0");
    let mut all = Vec::new();
    loop {
        let piece = i.one();
        assert!(piece.data.len() <= 512);
        all.extend_from_slice(&piece.data);
        if piece.header.is_final() {
            assert_eq!(piece.header.ttt(), NO_TAG);
            break;
        }
        i.text(7, piece.header.ttt(), b"");
    }
    assert_eq!(String::from_utf8(all).unwrap().matches("TargetName=").count(), 41);
}

#[test]
fn a_login_takes_text_in_pieces_but_not_without_end() {
    let world = World::new();
    let mut i = world.connect();
    i.login_request(0x44, format!("InitiatorName={INITIATOR}\0Targ").as_bytes());
    let response = i.one();
    assert_eq!((response.login_status(), response.header.flags(), response.data.len()), (0, 0x04, 0));
    i.login_request(0x87, format!("etName={TARGET}\0").as_bytes());
    assert_eq!(i.one().login_status(), 0);
    let mut i = world.connect();
    let mut status = 0;
    for _ in 0..9 {
        i.login_request(0x44, &[b'x'; 8192]);
        status = i.one().login_status();
        if status != 0 {
            break;
        }
    }
    assert_eq!(status, 0x0302);
}

#[test]
fn reads_bring_data_and_status_together() {
    let world = World::new();
    let mut i = world.login(&[("MaxRecvDataSegmentLength", "65536")]);
    let data = pattern(1, 65536);
    i.write(1, 100, 128, &data[..8192]);
    let r2t = i.one();
    assert_eq!(
        (r2t.header.opcode(), r2t.header.word(40), r2t.header.word(44)),
        (opcode::R2T, 8192, 65536 - 8192)
    );
    i.data_out(1, r2t.header.ttt(), true, 0, 8192, &data[8192..]);
    assert_eq!(i.one().scsi_status(), GOOD);
    i.read(2, 100, 128);
    let one = i.one();
    assert_eq!((one.header.opcode(), one.header.flags()), (opcode::DATA_IN, 0x81), "F and S");
    assert!(one.data == data);
}

#[test]
fn long_reads_are_cut_to_segments_and_bursts() {
    let world = World::new();
    let mut i = world.login(&[("MaxRecvDataSegmentLength", "4096"), ("MaxBurstLength", "10240")]);
    i.read(2, 0, 64);
    let pdus = i.receive();
    let lens: Vec<_> = pdus.iter().map(|p| (p.data.len(), p.header.is_final())).collect();
    let burst = [(4096, false), (4096, false), (2048, true)];
    assert_eq!(lens[..9], [burst, burst, burst].concat());
    assert_eq!(lens.last(), Some(&(2048, true)));
    assert_eq!(read_back(&mut i, 0, 64).len(), 32768);
}

#[test]
fn residuals_say_what_was_not_moved() {
    let world = World::new();
    let mut i = world.login(&[]);
    // (flags of the command, expected length, then flags of the status and residual count)
    for (expected, flags, count) in [(0, 0x04, 512), (200, 0x04, 312), (10_000, 0x02, 9488), (512, 0, 0)] {
        i.command(0xc0, 3, expected, cdb10(0x28, 0, 1), &[]);
        let last = i.one();
        assert_eq!(last.scsi_status(), GOOD);
        assert_eq!((last.header.flags() & 0x06, last.header.word(44)), (flags, count), "{expected}");
        assert_eq!(last.data.len(), expected.min(512) as usize);
    }
    // A read that the initiator calls a write: the data is taken and nothing is brought.
    i.command(0xa0, 4, 512, cdb10(0x28, 0, 1), &[1; 512]);
    let last = i.one();
    assert_eq!((last.header.opcode(), last.scsi_status()), (opcode::SCSI_RESPONSE, GOOD));
}

#[test]
fn data_comes_immediately_unasked_and_asked_for() {
    let world = World::new();
    for (keys, immediate, unsolicited) in [
        (
            &[("InitialR2T", "No"), ("FirstBurstLength", "16384"), ("MaxBurstLength", "32768")][..],
            4096,
            16384,
        ),
        (
            &[
                ("InitialR2T", "No"),
                ("ImmediateData", "No"),
                ("FirstBurstLength", "8192"),
                ("MaxBurstLength", "65536"),
            ],
            0,
            8192,
        ),
        (&[("ImmediateData", "No"), ("MaxBurstLength", "65536"), ("MaxOutstandingR2T", "8")], 0, 0),
        (
            &[
                ("MaxOutstandingR2T", "8"),
                ("MaxBurstLength", "16384"),
                ("DataDigest", "CRC32C"),
                ("HeaderDigest", "CRC32C"),
            ],
            16384,
            16384,
        ),
    ] {
        let mut i = world.login(keys);
        let data = pattern(keys.len() as u64, 131_072);
        let flags = if unsolicited > immediate { 0x20 } else { 0xa0 };
        i.command(flags, 1, 131_072, cdb10(0x2a, 1000, 256), &data[..immediate]);
        for (sn, at) in (0..).zip((immediate..unsolicited).step_by(4096)) {
            assert_eq!(i.receive().len(), 0, "nothing is asked for before the unsolicited data has ended");
            i.data_out(1, NO_TAG, at + 4096 == unsolicited, sn, at as u32, &data[at..at + 4096]);
        }
        let mut queue: std::collections::VecDeque<_> = i.receive().into();
        let (mut at, mut r2ts) = (unsolicited as u32, 0);
        while let Some(pdu) = queue.pop_front() {
            if pdu.header.opcode() != opcode::R2T {
                assert_eq!((pdu.scsi_status(), pdu.header.word(36)), (GOOD, r2ts), "ExpDataSN counts R2Ts");
                assert!(queue.is_empty());
                break;
            }
            let (ttt, offset, len) = (pdu.header.ttt(), pdu.header.word(40), pdu.header.word(44));
            assert_eq!((offset, pdu.header.word(36)), (at, r2ts));
            let (from, half) = (offset as usize, len as usize / 2);
            i.data_out(1, ttt, false, 0, offset, &data[from..from + half]);
            i.data_out(1, ttt, true, 1, offset + len / 2, &data[from + half..from + 2 * half]);
            queue.extend(i.receive());
            at += len;
            r2ts += 1;
        }
        assert_eq!(at, 131_072);
        assert!(read_back(&mut i, 1000, 256) == data);
    }
}

#[test]
fn unsolicited_data_may_be_shorter_than_announced() {
    let world = World::new();
    let mut i = world.login(&[("InitialR2T", "No"), ("FirstBurstLength", "8192")]);
    let data = pattern(3, 8192);
    i.command(0x20, 1, 8192, cdb10(0x2a, 0, 16), &data[..1024]);
    i.data_out(1, NO_TAG, true, 0, 1024, &data[1024..3072]);
    let r2t = i.one();
    assert_eq!((r2t.header.word(40), r2t.header.word(44)), (3072, 5120));
    i.data_out(1, r2t.header.ttt(), true, 0, 3072, &data[3072..]);
    assert_eq!(i.one().scsi_status(), GOOD);
    assert!(read_back(&mut i, 0, 16) == data);
}

#[test]
fn data_out_of_order_ends_the_task_and_writes_nothing() {
    let world = World::new();
    let mut i = world.login(&[("InitialR2T", "No"), ("ImmediateData", "No")]);
    // DataSN, offset and length of two Data-Out PDUs of 512 bytes
    for wrong in [
        [(0, 0, 512), (0, 512, 512)],
        [(27, 0, 512), (28, 512, 512)],
        [(1, 0, 512), (0, 512, 512)],
        [(0, 512, 512), (1, 0, 512)],
        [(0, 0, 512), (1, 512, 1024)],
    ] {
        i.command(0x20, 1, 1024, cdb10(0x2a, 0, 2), &[]);
        for (n, (sn, offset, len)) in wrong.into_iter().enumerate() {
            assert_eq!(i.receive().len(), 0, "the status waits until the initiator has ended");
            i.data_out(1, NO_TAG, n == 1, sn, offset, &pattern(4, len));
        }
        let answer = i.one();
        assert_eq!((answer.scsi_status(), answer.sense()), (CHECK, (0x0b, 0x0c, 0x0d)), "{wrong:?}");
    }
    assert!(read_back(&mut i, 0, 2) == [0; 1024]);
    let mut i = world.login(&[]); // InitialR2T=Yes
    i.command(0x20, 1, 1024, cdb10(0x2a, 0, 2), &[]);
    i.data_out(1, NO_TAG, true, 0, 0, &[1; 1024]);
    assert_eq!(i.one().sense(), (0x0b, 0x0c, 0x0c));
}

#[test]
fn a_wrong_data_digest_is_rejected_and_nothing_is_written() {
    let world = World::new();
    let mut i = world.login(&[("DataDigest", "CRC32C"), ("ImmediateData", "No")]);
    i.write(1, 0, 1, &[]);
    let r2t = i.one();
    let mut header = Header::new(opcode::DATA_OUT, 0x80);
    header.set_word(16, 1);
    header.set_word(20, r2t.header.ttt());
    i.send_spoiled(header, &[7; 512], |bytes| bytes[100] ^= 1);
    let pdus = i.receive();
    assert_eq!((pdus[0].header.opcode(), pdus[0].header.0[2]), (opcode::REJECT, 2));
    assert_eq!(pdus[0].data[..2], [opcode::DATA_OUT, 0x80]);
    assert_eq!((pdus[1].scsi_status(), pdus[1].sense()), (CHECK, (0x0b, 0x47, 0x05)));
    assert!(read_back(&mut i, 0, 1) == [0; 512]);
    assert_eq!(world.registry.sessions()[0].digest_errors, 1);
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let world = World::new();
    let mut i = world.login(&[("HeaderDigest", "CRC32C")]);
    let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    header.set_word(16, 1);
    i.send_spoiled(header, &[], |bytes| bytes[20] ^= 1);
    assert!(i.connection.is_disconnected() && i.connection.is_finished());
}

#[test]
fn commands_outside_the_window_are_ignored_and_gaps_are_waited_for() {
    let world = World::new();
    let mut i = world.login(&[]);
    let sn = i.cmd_sn;
    i.command_numbered(sn.wrapping_sub(1), 0x80, 1, 0, [0; 16], &[]);
    i.command_numbered(sn + 1000, 0x80, 2, 0, [0; 16], &[]);
    assert_eq!(i.receive().len(), 0);
    let data = pattern(5, 512);
    i.command_numbered(sn + 2, 0xc0, 3, 512, cdb10(0x28, 5, 1), &[]);
    i.command_numbered(sn + 1, 0xa0, 4, 512, cdb10(0x2a, 5, 1), &data);
    assert_eq!(i.receive().len(), 0);
    i.command_numbered(sn, 0x80, 5, 0, [0; 16], &[]);
    let tags: Vec<_> = i.receive().iter().map(|p| p.header.itt()).collect();
    // A simple read may overtake a simple write, but nothing may overtake what fills the gap.
    assert_eq!(tags, [5, 3, 4]);
    i.cmd_sn = sn + 3;
    assert!(read_back(&mut i, 5, 1) == data);
}

#[test]
fn a_tag_in_use_is_rejected() {
    let world = World::new();
    let mut i = world.login(&[("ImmediateData", "No")]);
    i.write(1, 0, 1, &[]);
    i.one();
    i.write(1, 0, 1, &[]);
    let reject = i.one();
    assert_eq!((reject.header.opcode(), reject.header.0[2]), (opcode::REJECT, 7));
}

#[test]
fn the_window_closes_while_commands_wait_and_opens_again() {
    let world = World::with(Limits { queue_depth: 4, ..Limits::default() });
    let mut i = world.login(&[]);
    world.medium.set_cold(true);
    world.medium.pause();
    for itt in 1..=4 {
        i.read(itt, 0, 1);
    }
    assert_eq!((i.running(), i.receive().len()), (4, 0));
    i.ping(9, b"still there?");
    let nop = i.one();
    assert_eq!((nop.header.opcode(), nop.data.as_slice()), (opcode::NOP_IN, &b"still there?"[..]));
    assert_eq!(nop.header.word(32), nop.header.word(28).wrapping_sub(1), "MaxCmdSN: no command now");
    i.read(5, 0, 1);
    world.medium.resume();
    let pdus = i.receive();
    assert_eq!(pdus.len(), 4, "the one outside the window was ignored");
    assert_eq!(pdus[3].header.word(32), pdus[3].header.word(28) + 3);
}

#[test]
fn writes_are_slowed_by_withholding_r2t() {
    let world = World::new();
    let mut i = world.login(&[]);
    world.medium.set_cold(true);
    world.medium.limit_admission(1024);
    i.write(1, 0, 2, &[]);
    assert_eq!(i.one().header.opcode(), opcode::R2T, "admitted at the second asking");
    i.write(2, 8, 2, &[9; 512]);
    assert_eq!((i.receive().len(), i.waiting_admissions()), (0, 1), "no room: no R2T");
    i.answer_admission(Err(Error::new(ErrorKind::Busy, "ten seconds")));
    let refused = i.one();
    assert_eq!((refused.scsi_status(), refused.header.itt()), (TASK_SET_FULL, 2));
    i.write(3, 8, 2, &[9; 512]);
    i.function(1, 4, 3, i.cmd_sn - 1);
    assert_eq!((i.one().header.0[2], i.waiting_admissions(), i.abandoned.len()), (0, 0, 1));
    i.write(5, 8, 2, &[9; 512]);
    assert_eq!(i.waiting_admissions(), 1);
    i.function(5, 6, NO_TAG, 0); // gives back what the first holds
    assert_eq!(i.receive().len(), 1);
    assert_eq!(world.medium.admitted(), 0);
}

#[test]
fn a_session_holds_no_more_data_than_its_budget() {
    let world = World::with(Limits { session_bytes: 1 << 20, ..Limits::default() });
    let mut i = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "1048576")]);
    i.write(1, 0, 1536, &[]);
    i.write(2, 4096, 1536, &[]);
    let r2t = i.one();
    assert_eq!(r2t.header.itt(), 1, "only one of them fits");
    let data = pattern(6, 786_432);
    i.write_burst(&r2t, &data);
    let pdus = i.receive();
    assert_eq!(
        (pdus[0].scsi_status(), pdus[1].header.opcode(), pdus[1].header.itt()),
        (GOOD, opcode::R2T, 2)
    );
    i.write_burst(&pdus[1], &data);
    assert_eq!(i.one().scsi_status(), GOOD);
    assert!(read_back(&mut i, 4096, 1536) == data);
}

#[test]
fn an_abort_drops_waiting_tasks_and_waits_for_running_ones() {
    let world = World::new();
    let mut i = world.login(&[("ImmediateData", "No")]);
    i.write(1, 0, 1, &[]);
    let r2t = i.one();
    i.function(1, 2, 1, i.cmd_sn - 1);
    let answer = i.one();
    assert_eq!(
        (answer.header.opcode(), answer.header.0[2], answer.header.itt()),
        (opcode::TASK_MANAGEMENT_RESPONSE, 0, 2)
    );
    i.data_out(1, r2t.header.ttt(), true, 0, 0, &[1; 512]);
    assert_eq!(i.receive().len(), 0, "late data is discarded");
    world.medium.set_cold(true);
    world.medium.pause();
    i.read(3, 0, 1);
    i.function(1, 4, 3, i.cmd_sn - 1);
    assert_eq!((i.receive().len(), i.running()), (0, 1));
    world.medium.resume();
    let answer = i.one();
    assert_eq!((answer.header.itt(), answer.header.0[2]), (4, 0), "and the aborted task says nothing");
    i.function(1, 5, 3, i.cmd_sn - 1);
    assert_eq!(i.one().header.0[2], 1, "it is no more");
    i.function(8, 6, 0, 0);
    assert_eq!(i.one().header.0[2], 4);
}

#[test]
fn aborting_a_command_that_never_came_fills_its_place() {
    let world = World::new();
    let mut i = world.login(&[]);
    let sn = i.cmd_sn;
    i.command_numbered(sn + 1, 0x80, 2, 0, [0; 16], &[]);
    i.cmd_sn = sn + 2;
    i.function(1, 3, 77, sn);
    let tags: Vec<_> = i.receive().iter().map(|p| (p.header.opcode(), p.header.itt())).collect();
    assert!(
        tags.contains(&(opcode::SCSI_RESPONSE, 2)) && tags.contains(&(opcode::TASK_MANAGEMENT_RESPONSE, 3)),
        "{tags:?}"
    );
}

#[test]
fn a_reset_ends_the_tasks_of_every_session() {
    let world = World::new();
    let mut a = world.login(&[]);
    let mut b = world.connect();
    b.login(&[("ImmediateData", "No")]);
    b.settle();
    world.medium.set_cold(true);
    world.medium.pause();
    b.read(1, 0, 1);
    b.write(2, 0, 1, &[]);
    b.receive();
    a.function(5, 3, NO_TAG, 0);
    b.pump();
    assert_eq!(a.receive().len(), 0, "the read of the other session still runs");
    let told = b.one();
    assert_eq!((told.scsi_status(), told.header.itt()), (TASK_ABORTED, 2));
    world.medium.resume();
    assert_eq!(a.receive().len(), 0);
    let told = b.one();
    assert_eq!((told.scsi_status(), told.header.itt()), (TASK_ABORTED, 1));
    let answer = a.one();
    assert_eq!((answer.header.opcode(), answer.header.0[2]), (opcode::TASK_MANAGEMENT_RESPONSE, 0));
    b.command(0x80, 4, 0, [0; 16], &[]);
    assert_eq!(b.one().sense().0, 6, "a unit attention tells of it");
}

#[test]
fn ordered_tasks_wait_and_are_waited_for() {
    let world = World::new();
    let mut i = world.login(&[]);
    world.medium.set_cold(true);
    world.medium.pause();
    i.read(1, 0, 1);
    i.command(0xc2, 2, 512, cdb10(0x28, 0, 1), &[]); // ORDERED
    i.read(3, 0, 1);
    assert_eq!(i.running(), 1);
    i.command(0xc3, 4, 512, cdb10(0x28, 0, 1), &[]); // HEAD OF QUEUE
    assert_eq!(i.running(), 2);
    world.medium.resume();
    let tags: Vec<_> = i.receive().iter().map(|p| p.header.itt()).collect();
    assert_eq!(tags, [1, 4, 2, 3]);
}

#[test]
fn logging_in_anew_replaces_the_session_when_its_commands_have_ended() {
    let world = World::new();
    let mut old = world.login(&[]);
    old.write(1, 0, 1, &[]);
    let r2t = old.one();
    world.medium.pause();
    old.write_burst(&r2t, &[3; 512]);
    assert_eq!(old.running(), 1);
    let mut new = world.connect();
    new.isid = old.isid;
    let text = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
    new.login_request(0x87, text.as_bytes());
    old.pump();
    assert!(old.connection.is_disconnected() && !old.connection.is_finished());
    assert_eq!(new.receive().len(), 0, "its write might overtake one of ours");
    world.medium.resume();
    old.pump();
    assert!(old.connection.is_finished());
    drop(old);
    assert_eq!(new.one().login_status(), 0);
    assert_eq!(world.registry.sessions().len(), 1);
    new.settle();
    assert!(read_back(&mut new, 0, 1) == [3; 512]);
    let mut other = world.connect();
    other.login(&[]);
    new.pump();
    assert!(!new.connection.is_closing(), "another ISID is another session");
}

#[test]
fn a_login_does_not_wait_for_ever_for_an_older_session() {
    let world = World::new();
    let mut old = world.login(&[]);
    old.write(1, 0, 1, &[]);
    let r2t = old.one();
    world.medium.pause();
    old.write_burst(&r2t, &[3; 512]);
    let mut new = world.connect();
    new.isid = old.isid;
    new.login_request(0x87, format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0").as_bytes());
    old.pump();
    new.pass(15);
    assert_eq!(new.one().login_status(), 0x0301);
    assert!(new.connection.is_closing());
}

#[test]
fn a_logout_is_answered_when_commands_have_ended() {
    let world = World::new();
    let mut i = world.login(&[]);
    world.medium.set_cold(true);
    world.medium.pause();
    i.read(1, 0, 1);
    i.logout(2);
    assert_eq!(i.receive().len(), 0);
    world.medium.resume();
    let answer = i.one();
    assert_eq!((answer.header.opcode(), answer.header.0[2]), (opcode::LOGOUT_RESPONSE, 0));
    assert!(i.connection.is_closing() && i.connection.is_parting());
    i.pass(1);
    assert!(i.connection.is_finished());
}

#[test]
fn silent_initiators_are_asked_and_dropped() {
    let world = World::new();
    let mut i = world.login(&[]);
    i.pass(14);
    assert_eq!(i.receive().len(), 0);
    i.pass(1);
    let ping = i.one();
    assert_eq!((ping.header.opcode(), ping.header.itt()), (opcode::NOP_IN, NO_TAG));
    let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    header.set_word(16, NO_TAG);
    header.set_word(20, ping.header.ttt());
    i.send(header, &[]);
    i.pass(15);
    assert_eq!(i.one().header.opcode(), opcode::NOP_IN);
    // A client may sleep for a minute between two commands (iscsi-test-cu's Sanitize.Reset) and keep its session.
    i.pass(59);
    assert!(!i.connection.is_disconnected());
    i.pass(1);
    assert!(i.connection.is_finished());
}

#[test]
fn half_open_logins_are_dropped_in_time() {
    // A7: slow-loris.
    let world = World::new();
    let mut i = world.connect();
    for second in 1..=15 {
        i.connection.handle_input(i.time, &[0x43]);
        i.pass(1);
        assert_eq!(i.connection.is_disconnected(), second == 15);
    }
}

#[test]
fn what_is_not_supported_is_rejected() {
    let world = World::new();
    let mut i = world.login(&[]);
    for (operation, reason) in [(opcode::SNACK, 3), (0x1c, 5)] {
        let mut header = Header::new(operation, 0x80);
        header.set_word(16, 1);
        i.send(header, &[]);
        let reject = i.one();
        assert_eq!((reject.header.opcode(), reject.header.0[2]), (opcode::REJECT, reason));
    }
    let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
    header.set_word(16, 1);
    i.send(header, &[]);
    assert!(i.connection.is_finished());
    let mut i = world.login(&[]);
    let mut header = Header::new(opcode::NOP_OUT, 0x80);
    header.set_data_len(1 << 20);
    i.connection.handle_input(i.time, &header.0);
    assert!(i.connection.is_finished(), "a segment longer than declared");
}

#[test]
fn the_operator_can_ask_for_a_logout_and_take_a_target_away() {
    let world = World::new();
    let mut i = world.login(&[]);
    world.registry.request_logout(5);
    let message = i.one();
    assert_eq!(
        (message.header.opcode(), message.header.0[36], message.header.word(40)),
        (opcode::ASYNC_MESSAGE, 1, 5)
    );
    world.registry.remove(&TARGET.parse().unwrap()).unwrap();
    i.pump();
    assert!(i.connection.is_closing());
    let mut i = world.connect();
    assert_eq!(
        i.login_step(0x87, &[("InitiatorName", INITIATOR), ("TargetName", TARGET)]).login_status(),
        0x0203
    );
}

#[test]
fn a_target_that_is_not_ready_yet_is_worth_another_try() {
    let world = World::new();
    let status = || {
        let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
        world.connect().login_step(0x87, &names).login_status()
    };
    let name = TARGET.parse().unwrap();
    world.registry.remove(&name).unwrap();
    world.registry.expect(TARGET.parse().unwrap());
    assert_eq!(status(), 0x0301, "service unavailable: initiators come back");
    world.registry.forget(&name);
    assert_eq!(status(), 0x0203, "not found");
}

#[test]
fn the_number_of_sessions_is_bounded() {
    let world = World::with(Limits { sessions: 1, ..Limits::default() });
    let _first = world.login(&[]);
    let mut i = world.connect();
    let status = i.login_step(0x87, &[("InitiatorName", INITIATOR), ("TargetName", TARGET)]).login_status();
    assert_eq!(status, 0x0302);
}

#[test]
fn a_command_is_asked_for_no_more_data_than_it_takes() {
    let world = World::new();
    let mut i = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "1048576")]);
    let data = pattern(7, 1024);
    // Two blocks are to be written, 4 GiB are announced.
    i.command(0xa0, 1, u32::MAX, cdb10(0x2a, 8, 2), &[]);
    let r2t = i.one();
    assert_eq!((r2t.header.opcode(), r2t.header.word(40), r2t.header.word(44)), (opcode::R2T, 0, 1024));
    assert_eq!(world.medium.admitted(), 1024);
    i.write_burst(&r2t, &data);
    let done = i.one();
    assert_eq!(
        (done.scsi_status(), done.header.flags() & 0x06, done.header.word(44)),
        (GOOD, 0x02, u32::MAX - 1024)
    );
    assert!(read_back(&mut i, 8, 2) == data);
    // Fewer are announced than the command takes.
    i.command(0xa0, 1, 512, cdb10(0x2a, 20, 2), &[]);
    let r2t = i.one();
    assert_eq!(r2t.header.word(44), 512);
    i.write_burst(&r2t, &data);
    let done = i.one();
    assert_eq!((done.scsi_status(), done.header.flags() & 0x06, done.header.word(44)), (GOOD, 0x04, 512));
    // Commands that take nothing, or will be refused for their length, are asked for nothing.
    for cdb in [cdb10(0x2f, 0, 9), cdb10(0x2a, 0, 65_535), cdb10(0xff, 0, 1)] {
        i.command(0xa0, 2, 1 << 20, cdb, &[]);
        let answer = i.one();
        assert_eq!(answer.header.opcode(), opcode::SCSI_RESPONSE);
        assert_eq!((answer.header.flags() & 0x06, answer.header.word(44)), (0x02, 1 << 20));
    }
}

#[test]
fn commands_of_one_length_refuse_to_be_announced_with_another() {
    let world = World::new();
    let mut i = world.login(&[]);
    let compare_and_write = |blocks: u8| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x89, blocks);
        cdb
    };
    for (cdb, sense) in [
        (cdb10(0x41, 0, 4), (5, 0x0e, 0x03)),
        (compare_and_write(1), (5, 0x0e, 0x03)),
        (compare_and_write(0), (5, 0x24, 0x00)),
    ] {
        i.command(0xa0, 1, 2048, cdb, &[1; 2048]);
        assert_eq!(i.one().sense(), sense);
    }
    assert!(read_back(&mut i, 0, 4) == [0; 2048]);
}

#[test]
fn unasked_data_beyond_what_a_command_takes_is_dropped() {
    let world = World::with(Limits { data_segment: 4096, ..Limits::default() });
    let mut i = world.login(&[("InitialR2T", "No"), ("FirstBurstLength", "65536")]);
    let data = pattern(8, 65_536);
    // Two blocks are written, 64 KiB come: immediately, across the end of the blocks, and behind it.
    for immediate in [0, 512, 4096] {
        i.command(0x20, 1, 70_000, cdb10(0x2a, 8, 2), &data[..immediate]);
        for (sn, at) in (0..).zip((immediate..65_536).step_by(4096)) {
            assert_eq!(i.receive().len(), 0, "the status waits for the end of what was announced");
            let end = (at + 4096).min(65_536);
            i.data_out(1, NO_TAG, end == 65_536, sn, at as u32, &data[at..end]);
        }
        let done = i.one();
        assert_eq!(
            (done.scsi_status(), done.header.flags() & 0x06, done.header.word(44)),
            (GOOD, 0x02, 68_976)
        );
        assert!(read_back(&mut i, 8, 2) == data[..1024]);
        i.write(1, 8, 2, &[0; 1024]);
        assert_eq!(i.one().scsi_status(), GOOD);
    }
    // All of it immediate, and none of it of use.
    for (cdb, written) in [(cdb10(0x2a, 8, 2), 1024), (cdb10(0x2f, 8, 2), 0)] {
        i.command(0xa0, 1, 4096, cdb, &data[..4096]);
        let done = i.one();
        assert_eq!((done.scsi_status(), done.header.word(44)), (GOOD, 4096 - written));
    }
    assert!(read_back(&mut i, 8, 3) == [&data[..1024], &[0; 512]].concat());
    // Too much is still too much.
    i.command(0xa0, 1, 1024, cdb10(0x2a, 8, 2), &data[..2048]);
    assert_eq!(i.one().sense(), (0x0b, 0x0c, 0x0d));
}

/// Lets time pass while the initiator shows that it lives.
fn live(initiator: &mut Initiator, seconds: u64) -> Vec<Pdu> {
    let mut pdus = Vec::new();
    for _ in 0..seconds {
        initiator.pass(1);
        initiator.ping(0x5555, &[]);
        pdus.extend(initiator.receive());
    }
    pdus.retain(|pdu| pdu.header.opcode() != opcode::NOP_IN);
    pdus
}

#[test]
fn data_that_does_not_come_ends_its_task_and_no_other() {
    let world = World::new();
    let mut i = world.login(&[("InitialR2T", "No"), ("MaxBurstLength", "65536"), ("MaxOutstandingR2T", "2")]);
    i.write(1, 0, 512, &[]);
    let r2ts = i.receive();
    assert_eq!(r2ts.len(), 2);
    i.command(0x20, 2, 4096, cdb10(0x2a, 8, 8), &[1; 512]); // the rest is announced
    assert_eq!(world.medium.admitted(), 262_144 + 4096);
    assert_eq!(live(&mut i, 10).len(), 0);
    // One that came later has its own time.
    i.write(3, 64, 1, &[]);
    let young = i.one();
    let ended = live(&mut i, 5);
    let told: Vec<_> = ended.iter().map(|p| (p.header.itt(), p.scsi_status(), p.sense())).collect();
    assert_eq!(told, [(1, CHECK, (0x0b, 0x0c, 0x0d)), (2, CHECK, (0x0b, 0x0c, 0x0d))]);
    assert_eq!(world.medium.admitted(), 512, "the room is given back");
    // What still comes is dropped, also where the tag has a new owner.
    i.data_out(2, NO_TAG, true, 0, 512, &[1; 3584]);
    i.write_burst(&r2ts[0], &[1; 65_536]);
    i.write(1, 16, 1, &[]);
    let new = i.one();
    i.write_burst(&r2ts[1], &[1; 131_072]);
    assert_eq!(i.receive().len(), 0);
    i.write_burst(&new, &[2; 512]);
    assert_eq!(i.one().scsi_status(), GOOD);
    i.write_burst(&young, &[3; 512]);
    assert_eq!(i.one().scsi_status(), GOOD);
    assert!(read_back(&mut i, 0, 16) == [0; 8192]);
    assert!(read_back(&mut i, 16, 1) == [2; 512]);
    assert_eq!(world.medium.admitted(), 0);
}

#[test]
fn an_initiator_that_never_stops_talking_puts_off_nothing() {
    let world = World::new();
    let mut i = world.login(&[("ImmediateData", "No")]);
    i.write(1, 0, 1, &[]);
    i.one();
    // Its silence, at which the shell looks at the clock, never comes.
    for _ in 0..15 {
        i.time += std::time::Duration::from_secs(1);
        i.ping(5, &[]);
    }
    let told = i.receive().into_iter().filter(|pdu| pdu.header.opcode() != opcode::NOP_IN);
    assert_eq!(told.map(|pdu| pdu.sense()).collect::<Vec<_>>(), [(0x0b, 0x0c, 0x0d)]);
    assert_eq!(world.medium.admitted(), 0);
}

#[test]
fn a_unit_that_comes_while_a_command_does_is_no_matter() {
    let world = World::with(Limits { data_segment: 4096, ..Limits::default() });
    let device = world.config.device.clone();
    let unit = device.unit(0).unwrap();
    let mut i = world.login(&[("InitialR2T", "No"), ("FirstBurstLength", "65536")]);
    device.detach(0);
    let mut header = Header::new(opcode::SCSI_COMMAND, 0x20);
    header.set_word(16, 1);
    header.set_word(20, 65_536);
    header.set_word(24, i.cmd_sn);
    header.0[32..48].copy_from_slice(&cdb10(0x2a, 0, 128));
    header.set_data_len(1024);
    i.connection.handle_input(i.time, &header.0);
    device.attach(0, unit);
    i.connection.handle_input(i.time, &[1; 1024]);
    i.cmd_sn += 1;
    let pieces = 65_536 / 4096;
    for n in 0..pieces {
        let (at, end) = (1024 + n * 4096, (1024 + (n + 1) * 4096).min(65_536));
        i.data_out(1, NO_TAG, n == pieces - 1, n, at, &vec![1; (end - at) as usize]);
    }
    assert_eq!(i.one().sense(), (0x0b, 0x0c, 0x0d), "to be repeated");
    i.settle();
}

#[test]
fn data_may_be_slow_and_initiators_may_pause() {
    let world = World::new();
    let mut i = world.login(&[("ImmediateData", "No")]);
    i.write(1, 0, 64, &[]);
    i.write(2, 64, 1, &[]);
    let r2ts = i.receive();
    // A slow link: the second waits while the first is sent.
    for n in 0..16 {
        assert_eq!(live(&mut i, 4).len(), 0);
        i.data_out(1, r2ts[0].header.ttt(), n == 15, n, n * 2048, &[4; 2048]);
    }
    assert_eq!(i.one().scsi_status(), GOOD);
    i.write_burst(&r2ts[1], &[5; 512]);
    assert_eq!(i.one().scsi_status(), GOOD);
    // A virtual machine is paused for a minute.
    i.write(1, 0, 1, &[]);
    let r2t = i.one();
    for _ in 0..60 {
        i.pass(1);
    }
    i.receive();
    i.write_burst(&r2t, &[5; 512]);
    assert_eq!(i.one().scsi_status(), GOOD);
    // But not without end: a byte now and then does not keep room for ever.
    i.write(1, 0, 64, &[]);
    let r2t = i.one();
    let mut told = Vec::new();
    for n in 0..120 {
        i.data_out(1, r2t.header.ttt(), false, n, n, &[4]);
        told.extend(live(&mut i, 1));
    }
    assert_eq!((told.len(), told[0].sense()), (1, (0x0b, 0x0c, 0x0d)));
    assert_eq!(world.medium.admitted(), 0);
}

#[test]
fn a_session_holds_little_room_for_data_it_has_not_sent() {
    let world = World::with(Limits { promised_bytes: 4 << 20, ..Limits::default() });
    let mut i = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "1048576")]);
    for tag in 1..=100 {
        i.write(tag, 0, 2048, &[]);
    }
    let mut r2ts = i.receive();
    assert_eq!((r2ts.len(), world.medium.admitted()), (4, 4 << 20));
    let mut other = world.connect();
    other.login(&[]);
    other.settle();
    other.write(1, 8192, 1, &[1; 512]);
    assert_eq!(other.one().scsi_status(), GOOD);
    // Where the medium has to be asked it is the same.
    let cold = |on: bool| world.medium.set_cold(on);
    cold(true);
    // With its data a command makes room for the next; each is answered in turn.
    let data = pattern(9, 1 << 20);
    let mut done = 0;
    while let Some(r2t) = r2ts.pop() {
        i.write_burst(&r2t, &data);
        for pdu in i.receive() {
            match pdu.header.opcode() {
                opcode::R2T => r2ts.push(pdu),
                _ => done += usize::from(pdu.scsi_status() == GOOD),
            }
        }
        assert!(world.medium.admitted() <= 4 << 20);
    }
    assert_eq!((done, world.medium.admitted()), (100, 0));
    cold(false);
    assert!(read_back(&mut i, 0, 2048) == data);
    // One that is larger than all of it has its turn too.
    i.write(1, 0, 16_384, &[]);
    assert_eq!(i.receive().iter().filter(|pdu| pdu.header.opcode() == opcode::R2T).count(), 1);
}

#[test]
fn room_granted_late_is_given_back_if_there_is_enough_already() {
    let world = World::with(Limits { promised_bytes: 1 << 20, ..Limits::default() });
    let mut i = world.login(&[("ImmediateData", "No"), ("MaxBurstLength", "1048576")]);
    world.medium.set_cold(true);
    world.medium.pause();
    for tag in 1..=8 {
        i.write(tag, 0, 2048, &[]);
    }
    assert_eq!(i.waiting_admissions(), 8, "nothing is held yet, so all may ask");
    world.medium.resume();
    let r2ts = i.receive();
    assert_eq!((r2ts.len(), world.medium.admitted()), (1, 1 << 20));
    i.write_burst(&r2ts[0], &vec![1; 1 << 20]);
    assert_eq!(i.receive().len(), 2, "a status and the next R2T");
}

/// PERSISTENT RESERVE OUT with tag 7.
fn reserve_out(initiator: &mut Initiator, action: u8, kind: u8, key: u8, action_key: u8) {
    let (mut cdb, mut list) = ([0; 16], [0; 24]);
    (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
    (list[7], list[15]) = (key, action_key);
    initiator.command(0xa0, 7, 24, cdb, &list);
}

/// A victim whose read does not end, and one that has aborted it (PREEMPT AND ABORT) and waits for its end.
fn preempting(world: &World) -> (Initiator, Initiator) {
    let (mut victim, mut preempting) = (world.login(&[]), world.login(&[]));
    for (initiator, key) in [(&mut victim, 1), (&mut preempting, 2)] {
        reserve_out(initiator, 6, 0, 0, key);
        assert_eq!(initiator.one().scsi_status(), GOOD);
    }
    world.medium.set_cold(true);
    world.medium.pause();
    victim.read(2, 0, 1);
    reserve_out(&mut preempting, 5, 5, 2, 1);
    assert_eq!((preempting.receive().len(), preempting.running()), (0, 1));
    (victim, preempting)
}

#[test]
fn a_preemption_that_waits_holds_up_no_abort_no_logout_no_login_and_no_stop() {
    let world = World::new();
    let (_victim, mut i) = preempting(&world);
    i.function(1, 8, 7, i.cmd_sn - 1);
    let answer = i.one();
    assert_eq!((answer.header.opcode(), answer.header.0[2]), (opcode::TASK_MANAGEMENT_RESPONSE, 0));

    let world = World::new();
    let (_victim, mut i) = preempting(&world);
    i.logout(8);
    assert_eq!(i.one().header.opcode(), opcode::LOGOUT_RESPONSE);

    let world = World::new();
    let (_victim, mut i) = preempting(&world);
    let mut new = world.connect();
    new.isid = i.isid;
    new.login_request(0x87, format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0").as_bytes());
    i.pump();
    assert!(i.connection.is_finished());
    drop(i);
    assert_eq!(new.one().login_status(), 0);

    let world = World::new();
    let (_victim, mut i) = preempting(&world);
    i.connection.disconnect();
    i.pump();
    assert!(i.connection.is_finished());
}

/// Feeds bytes in chunks of a size and does what a shell does.
fn feed(initiator: &mut Initiator, bytes: &[u8], chunk: usize) {
    for piece in bytes.chunks(chunk) {
        initiator.connection.handle_input(initiator.time, piece);
        initiator.pump();
        let _ = initiator.connection.poll_timeout();
    }
}

/// A conversation of valid PDUs behind a login, to be spoiled.
fn conversation() -> Vec<u8> {
    let mut out = crate::iscsi::Output::default();
    let mut put = |operation: u8, flags: u8, words: &[(usize, u32)], data: &[u8]| {
        let mut header = Header::new(operation, flags);
        words.iter().for_each(|(at, word)| header.set_word(*at, *word));
        out.put_copied(header, data);
    };
    let write = u32::from_be_bytes([0x2a, 0, 0, 0]);
    for n in 0..6 {
        put(
            opcode::SCSI_COMMAND,
            0x20,
            &[(16, n), (20, 4096), (24, 10 + n), (32, write), (39, 8 << 8)],
            &[1; 1024],
        );
        put(opcode::DATA_OUT, 0x80, &[(16, n), (20, NO_TAG), (40, 1024)], &[2; 3072]);
        put(opcode::NOP_OUT | 0x40, 0x80, &[(16, 50 + n), (20, NO_TAG)], b"hello");
        put(opcode::TASK_MANAGEMENT | 0x40, 0x81, &[(16, 60 + n), (20, n), (24, 11 + n)], &[]);
        put(opcode::TEXT | 0x40, 0x80, &[(16, 70 + n), (20, NO_TAG)], b"SendTargets=All\0");
    }
    put(opcode::LOGOUT | 0x40, 0x80, &[(16, 80)], &[]);
    let mut slices = [std::io::IoSlice::new(&[]); 64];
    let used = out.slices(&mut slices);
    slices[..used].iter().flat_map(|s| s.to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_before_login_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4000), chunk in 1usize..200) {
        let world = World::new();
        let mut i = world.connect();
        feed(&mut i, &bytes, chunk);
    }

    #[test]
    fn any_bytes_after_login_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4000), chunk in 1usize..200) {
        let world = World::new();
        let mut i = world.connect();
        i.login(&[("InitialR2T", "No")]);
        feed(&mut i, &bytes, chunk);
    }

    #[test]
    fn spoiled_conversations_do_no_harm(seed in any::<u64>(), spoiled in 1u64..12, chunk in 1usize..3000) {
        let chance = SeededEntropy::new(seed);
        let mut bytes = conversation();
        for _ in 0..spoiled {
            // Mostly in headers: every header begins where a multiple of four is.
            let at = chance.below(bytes.len() as u64) as usize;
            bytes[at] = chance.next_u64() as u8;
        }
        let world = World::with(if seed % 2 == 0 { Limits::default() } else { memory::almost_none() });
        let mut i = world.connect();
        i.login(&[("InitialR2T", "No")]);
        feed(&mut i, &bytes, chunk);
        i.connection.disconnect();
        i.pump();
        prop_assert!(i.connection.is_finished());
        drop(i);
        prop_assert_eq!(world.registry.sessions().len(), 0);
        prop_assert_eq!((world.medium.admitted(), world.registry.common_bytes()), (0, 0));
    }
}
