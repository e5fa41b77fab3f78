//! Any bytes: command descriptor blocks, parameter lists, stored state.

use base::{Entropy, SeededEntropy};
use proptest::prelude::*;

use super::*;
use crate::device::cdb::Cdb;
use crate::device::mode::Settings;
use crate::device::opcode::COMMANDS;
use crate::device::persistent;
use crate::device::reservations::Reservations;
use crate::device::sanitize::Sanitize;

/// Commands that are right but for some flipped bits, with data that is right or is not: each ends, with a status that
/// fits what it carries, and reads keep within the disk.
#[test]
fn mutated_commands_end_well() {
    let chance = SeededEntropy::new(3);
    let bench = Bench::on(medium(512, 300));
    for round in 0..60_000u64 {
        let kind = &COMMANDS[chance.below(COMMANDS.len() as u64) as usize];
        let mut cdb: Vec<u8> = kind.usage.iter().map(|mask| mask & chance.next_u64() as u8).collect();
        cdb[0] = kind.opcode();
        if let Some(action) = kind.service_action {
            cdb[1] = cdb[1] & 0xe0 | action;
        }
        for byte in &mut cdb[2..] {
            if chance.chance(3, 5) {
                *byte = if chance.chance(1, 2) { 0 } else { *byte & 0x03 };
            }
        }
        for _ in 0..chance.below(3) {
            let at = chance.below(cdb.len() as u64) as usize;
            cdb[at] ^= 1 << chance.below(8);
        }
        cdb.truncate(
            1 + chance.below(64).min(cdb.len() as u64 - 1) as usize + usize::from(chance.chance(9, 10)) * 15,
        );
        let mut out = vec![0; [0, 8, 24, 28, 100, 512, 1024, 5000][chance.below(8) as usize]];
        chance.fill(&mut out);
        out.iter_mut().for_each(|byte| *byte &= if round % 3 == 0 { 0x0f } else { 0x01 });
        let mut command = command(&cdb, &out);
        command.cdb = cdb.clone();
        command.expected_in = 1 << 20;
        let nexus = if chance.chance(1, 2) { &bench.a } else { &bench.b };
        let asked = bench.target.demand(0, &cdb, command.expected_out);
        assert!(asked.admission.max(asked.data_out) as usize <= out.len());
        if let Some(quick) = bench.target.try_execute(nexus, 0, &command) {
            assert_eq!(quick.status, Status::Good);
        }
        let outcome = now(bench.target.execute(nexus, 0, command, None));
        match outcome.status {
            Status::Good => assert!(outcome.sense.is_empty()),
            Status::CheckCondition => {
                assert!(outcome.sense.len() >= 8 && outcome.data_in.is_empty(), "{cdb:02x?}")
            }
            Status::ReservationConflict => assert!(outcome.sense.is_empty()),
            other => panic!("{other:?} from {cdb:02x?}"),
        }
    }
    assert_eq!(bench.medium.admitted(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stored_state_of_any_bytes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(read) = Reservations::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        let _ = Settings::decode(&bytes);
        let _ = Sanitize::decode(&bytes);
        let _ = persistent::transport_id(&bytes);
    }

    #[test]
    fn parameter_lists_of_any_bytes_are_survived(
        action in 0u8..8,
        kind in any::<u8>(),
        list in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 0, 0];
        let _ = persistent::decode(Cdb(&cdb), &list, &nexus(1, "iqn.a"));
    }

    #[test]
    fn copy_and_mode_lists_of_any_bytes_are_survived(mut list in prop::collection::vec(any::<u8>(), 0..400), fix in any::<bool>()) {
        let bench = Bench::on(medium(512, 64));
        if fix && list.len() > 80 {
            list[2..4].copy_from_slice(&[0, 32]);
            list[8..16].copy_from_slice(&[0, 0, 0, 28, 0, 0, 0, 0]);
            (list[16], list[48]) = (0xe4, 0x02);
        }
        let [hi, lo] = (list.len() as u16).to_be_bytes();
        bench.run(&bench.a, &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, hi, lo, 0, 0], &list);
        bench.run(&bench.a, &[0x55, 0x10, 0, 0, 0, 0, 0, hi, lo, 0], &list);
        bench.run(&bench.a, &[0x42, 0, 0, 0, 0, 0, 0, hi, lo, 0], &list);
        bench.run(&bench.a, &[0x48, 0x01, 0, 0, 0, 0, 0, hi, lo, 0], &list);
    }
}

#[test]
fn a_volume_with_unreadable_state_does_not_open() {
    for name in ["scsi.persistent-reservations", "scsi.mode-pages", "scsi.sanitize"] {
        let medium = medium(512, 8);
        now(crate::medium::BlockMedium::store_state(&*medium, name, Some(Bytes::from_static(b"\xff\xff"))))
            .unwrap();
        let error = now(LogicalUnit::new(identity(), medium)).err().unwrap();
        assert_eq!(error.kind(), base::ErrorKind::Corrupt, "{name}");
    }
}
