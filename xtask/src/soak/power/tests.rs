//! A log as the kernel writes it, read and applied.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::log::Log;
use super::{cuts, sparse, write_zeros};

fn entry(sector: u64, sectors: u64, flags: u64, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [sector, sectors, flags, text.len() as u64] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(text.as_bytes());
    bytes.resize(512, 0);
    bytes
}

#[test]
fn a_log_is_replayed_up_to_each_flush() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Vec::new();
    for word in [0x006a_7366_7773_6872_u64, 1, 6, 512] {
        log.extend(word.to_le_bytes());
    }
    log.resize(512, 0);
    log.extend(entry(2, 1, 0, ""));
    log.extend([7; 512]);
    log.extend(entry(0, 0, 8, "round-0"));
    log.extend(entry(0, 0, 1, "")); // a flush
    log.extend(entry(3, 1, 2, "")); // a write with FUA
    log.extend([8; 512]);
    log.extend(entry(0, 0, 8, "round-1"));
    log.extend(entry(2, 1, 4 | 1, "")); // a discard
    std::fs::write(dir.path().join("log"), &log).unwrap();

    let log = Log::open(&dir.path().join("log")).unwrap();
    let entries = log.entries().unwrap();
    let found: Vec<_> = cuts(&entries).iter().map(|c| (c.entries, c.round)).collect();
    assert_eq!(found, [(3, 0), (4, 0), (6, 1)]);

    let disk = sparse(&dir.path().join("disk"), 4096).unwrap();
    let look = |sector: u64| {
        let mut bytes = [0; 512];
        disk.read_exact_at(&mut bytes, sector * 512).unwrap();
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        bytes[0]
    };
    entries[..4].iter().for_each(|e| log.apply(e, &disk).unwrap());
    assert_eq!((look(2), look(3)), (7, 8));
    entries[4..].iter().for_each(|e| log.apply(e, &disk).unwrap());
    assert_eq!((look(2), look(3)), (0, 8));
}

#[test]
fn a_long_discard_leaves_zeros_and_takes_no_room() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let disk = sparse(&dir.path().join("disk"), 8 * MIB).unwrap();
    disk.write_all_at(&vec![7; 8 << 20], 0).unwrap();
    let full = disk.metadata().unwrap().blocks();
    write_zeros(&disk, 2 * MIB, 4 * MIB).unwrap();
    let mut bytes = vec![0; 8 << 20];
    disk.read_exact_at(&mut bytes, 0).unwrap();
    let zeros = bytes.iter().filter(|byte| **byte == 0).count() as u64;
    assert_eq!((bytes[0], zeros, bytes[8 * MIB as usize - 1]), (7, 4 * MIB, 7));
    assert_eq!(full - disk.metadata().unwrap().blocks(), 4 * MIB / 512);
}

#[test]
fn what_is_no_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log"), [0; 4096]).unwrap();
    assert!(Log::open(&dir.path().join("log")).is_err());
}
