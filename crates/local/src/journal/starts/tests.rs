use base::SeededEntropy;

use super::*;
use crate::simdisk::SimDisk;

const JOURNAL: JournalId = JournalId([7; 16]);

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(work)
}

async fn made() -> SimDisk {
    let disk = SimDisk::new(1);
    create(&*disk.mount(), JOURNAL).await.unwrap();
    disk
}

async fn started(disk: &SimDisk, seed: u64) -> Starts {
    let starts = begin(&*disk.mount(), JOURNAL, &SeededEntropy::new(seed)).await.unwrap();
    disk.crash();
    disk.restart();
    starts
}

#[test]
fn each_start_is_another_and_none_is_forgotten() {
    now(async {
        let disk = made().await;
        let mut ids = Vec::new();
        for seed in 0..600 {
            let starts = started(&disk, seed).await;
            ids.push(starts.current());
            assert_eq!((starts.count, &starts.ids), (seed + 1, &ids));
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 600);
        assert_eq!(disk.len_of(NAME), Some(32 << 10), "it grows with what is in it");
    });
}

/// A cut at any call of the disk leaves the starts before, and the next is behind them.
#[test]
fn a_cut_loses_no_former_start() {
    now(async {
        // The 253rd finds no room in the first file.
        let full = made().await;
        for seed in 0..252 {
            started(&full, seed).await;
        }
        for (disk, former) in [(made().await, 0), (full, 252)] {
            for cut in 0..40 {
                let disk = disk.fork(cut);
                disk.crash_at(disk.counts().crash_points() + cut);
                let survived = begin(&*disk.mount(), JOURNAL, &SeededEntropy::new(1000)).await.is_ok();
                disk.calm();
                disk.crash();
                disk.restart();
                let after = started(&disk, 2000).await;
                assert!(after.count > former + u64::from(survived), "{cut}: {after:?}");
                assert_eq!(after.ids.len() as u64, after.count, "{cut}");
            }
        }
    });
}

#[test]
fn one_damaged_copy_is_repaired_and_two_are_refused() {
    now(async {
        let disk = made().await;
        let first = started(&disk, 1).await;
        for offset in (0..2 * BLOCK).step_by(61) {
            let disk = disk.fork(offset);
            disk.rot_bit(NAME, offset, 3);
            assert_eq!(started(&disk, 2).await.ids[0], first.current(), "{offset}");
            disk.rot_bit(NAME, (offset + BLOCK) % (2 * BLOCK), 3);
            assert_eq!(started(&disk, 3).await.count, 3, "the other copy was written anew: {offset}");
        }
        disk.rot_bit(NAME, 70, 1);
        disk.rot_bit(NAME, BLOCK + 90, 1);
        let refused = begin(&*disk.mount(), JOURNAL, &SeededEntropy::new(9)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.to_string().contains(NAME), "{refused}");
    });
}

#[test]
fn a_missing_a_foreign_and_a_cut_list_are_refused() {
    now(async {
        let entropy = SeededEntropy::new(1);
        let disk = made().await;
        let refused = begin(&*disk.mount(), JournalId([8; 16]), &entropy).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        disk.mount().open(NAME).await.unwrap().set_len(BLOCK).await.unwrap();
        assert_eq!(begin(&*disk.mount(), JOURNAL, &entropy).await.unwrap_err().kind(), ErrorKind::Corrupt);
        disk.mount().remove(NAME).await.unwrap();
        assert_eq!(begin(&*disk.mount(), JOURNAL, &entropy).await.unwrap_err().kind(), ErrorKind::Corrupt);
    });
}

/// On a full disk the oldest start is forgotten, not the newest refused.
#[test]
fn a_full_disk_takes_another_start() {
    now(async {
        let disk = made().await;
        for seed in 0..252 {
            started(&disk, seed).await;
        }
        disk.set_capacity(2 * BLOCK);
        let starts = started(&disk, 252).await;
        assert_eq!((starts.count, starts.ids.len()), (253, 252));
        let next = started(&disk, 253).await;
        assert_eq!((next.count, &next.ids[..251]), (254, &starts.ids[1..]));
    });
}

#[test]
fn the_layout_is_the_documented_one() {
    let starts = Starts { journal: JOURNAL, count: 9, ids: vec![StartId([1; 16]), StartId([2; 16])] };
    let bytes = starts.encode(BLOCK);
    assert_eq!(&bytes[..8], b"TGJSTART");
    assert_eq!(bytes[8..16], [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(bytes[16..32], JOURNAL.0);
    assert_eq!(bytes[32..40], 9u64.to_le_bytes());
    assert_eq!(bytes[64..96], [[1; 16], [2; 16]].concat());
    assert_eq!(Starts::decode(&bytes).unwrap(), starts);
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        assert_eq!(Starts::decode(&damaged).unwrap_err().kind(), ErrorKind::Corrupt, "{at}");
    }
    // A sealed list whose number of entries is nonsense.
    for n in [1u32, 10, 300, u32::MAX] {
        let mut wrong = bytes.to_vec();
        put(&mut wrong, 12, &n.to_le_bytes());
        seal(&mut wrong, CRC);
        assert_eq!(Starts::decode(&wrong).unwrap_err().kind(), ErrorKind::Corrupt, "{n}");
    }
}
