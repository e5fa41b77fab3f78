use base::{ErrorKind, Result};
use bytes::Bytes;

use super::*;

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(f)
}

fn part(byte: u8, len: usize) -> Vec<Bytes> {
    vec![Bytes::from(vec![byte; len])]
}

#[test]
fn synced_bytes_survive_every_crash_and_unsynced_sectors_survive_in_any_combination() {
    block_on(async {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let disk = SimDisk::new(seed);
            let file = disk.mount().create("a", 4096).await.unwrap();
            file.write(0, &part(1, 1024)).await.unwrap();
            file.sync().await.unwrap();
            file.write(1024, &part(2, 1024)).await.unwrap();
            file.write(1024, &part(3, 512)).await.unwrap();
            disk.crash();
            assert_eq!(file.sync().await.unwrap_err().kind(), ErrorKind::Unavailable);
            let found = disk.contents("a").unwrap();
            assert!(found[..1024].iter().all(|b| *b == 1) && found[2048..].iter().all(|b| *b == 0));
            assert!(found[1024..1536].iter().all(|b| *b == found[1024]), "sectors are never torn within");
            outcomes.insert((found[1024], found[1536]));
        }
        let all = [0, 2, 3].into_iter().flat_map(|a| [0, 2].map(|b| (a, b)));
        assert_eq!(outcomes, all.collect());
    });
}

#[test]
fn a_failed_sync_loses_what_reads_still_show() {
    block_on(async {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            let file = disk.mount().create("a", 512).await.unwrap();
            file.write(0, &part(7, 512)).await.unwrap();
            disk.fail_syncs(1);
            assert_eq!(file.sync().await.unwrap_err().kind(), ErrorKind::Internal);
            file.sync().await.unwrap();
            assert_eq!(file.read(0, 1).await.unwrap()[0], 7);
            disk.crash();
            lost += u64::from(disk.contents("a").unwrap()[0] == 0);
        }
        assert!(lost > 5 && lost < 45, "{lost}");
    });
}

#[test]
fn the_power_goes_off_at_the_named_point_and_stays_off() {
    block_on(async {
        let run = async |disk: &SimDisk| -> Result<()> {
            let mount = disk.mount();
            let file = mount.create("d/a.tmp", 1024).await?;
            file.write(0, &part(1, 1024)).await?;
            file.sync().await?;
            mount.rename("d/a.tmp", "d/a").await?;
            mount.remove("d/b").await
        };
        let whole = SimDisk::new(0);
        run(&whole).await.unwrap();
        let points = whole.counts().crash_points();
        assert_eq!(points, 5);
        for point in 1..=points {
            let disk = SimDisk::new(point);
            disk.crash_at(point);
            assert_eq!(run(&disk).await.unwrap_err().kind(), ErrorKind::Unavailable);
            assert!(disk.is_off());
            assert!(disk.mount().list("d").await.is_err());
            disk.restart();
            let names = disk.mount().list("d").await.unwrap();
            assert!(names.len() <= 1);
            if disk.contents("d/a").is_some() {
                assert_eq!(disk.contents("d/a").unwrap(), vec![1; 1024], "renamed only after the sync");
            }
        }
    });
}

#[test]
fn the_power_goes_off_in_a_call_for_the_named_files() {
    block_on(async {
        let disk = SimDisk::new(3);
        let mount = disk.mount();
        let a = mount.create("a/x", 512).await.unwrap();
        disk.crash_below("b/", 2);
        a.write(0, &part(1, 512)).await.unwrap();
        a.sync().await.unwrap();
        let b = mount.create("b/y", 512).await.unwrap();
        assert_eq!(disk.take_cut(), None);
        assert!(b.write(0, &part(1, 512)).await.is_err() && disk.is_off());
        assert_eq!(disk.take_cut().as_deref(), Some("write b/y"));
        disk.restart();
        disk.crash_at(1);
        disk.calm();
        assert!(disk.mount().create("c", 512).await.is_ok());
    });
}

#[test]
fn a_killed_process_leaves_what_it_wrote_and_settling_shows_what_a_failed_sync_lost() {
    block_on(async {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            let file = disk.mount().create("a", 1024).await.unwrap();
            file.write(0, &part(7, 512)).await.unwrap();
            disk.fail_syncs(1);
            assert!(file.sync().await.is_err());
            assert_eq!(disk.failed_sync().as_deref(), Some("a"));
            file.write(512, &part(8, 512)).await.unwrap();
            disk.kill();
            assert_eq!(file.sync().await.unwrap_err().kind(), ErrorKind::Unavailable);
            let file = disk.mount().open("a").await.unwrap();
            assert_eq!(file.read(0, 1).await.unwrap()[0], 7);
            file.settle().await.unwrap();
            let settled = file.read(0, 1024).await.unwrap();
            assert_eq!(settled[512], 8);
            lost += u64::from(settled[0] == 0);
            disk.crash();
            assert_eq!(disk.contents("a").unwrap(), settled);
        }
        assert!(lost > 5 && lost < 45, "{lost}");
    });
}

#[test]
fn a_durable_write_says_nothing_about_those_before() {
    block_on(async {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            let file = disk.mount().create("a", 1024).await.unwrap();
            file.write(0, &part(1, 1024)).await.unwrap();
            file.write_durable(512, &part(2, 512)).await.unwrap();
            disk.crash();
            let found = disk.contents("a").unwrap();
            assert_eq!(found[512], 2);
            lost += u64::from(found[0] == 0);
        }
        assert!(lost > 5 && lost < 45, "{lost}");
    });
}

#[test]
fn lengths_are_durable_with_the_sync_and_cut_bytes_come_back_as_zeroes() {
    block_on(async {
        for seed in 0..100 {
            let disk = SimDisk::new(seed);
            let file = disk.mount().create("a", 2000).await.unwrap();
            file.write(0, &part(5, 2000)).await.unwrap();
            file.sync().await.unwrap();
            file.set_len(700).await.unwrap();
            file.set_len(3000).await.unwrap();
            let read = file.read(0, 3000).await.unwrap();
            assert!(read[..700].iter().all(|b| *b == 5) && read[700..].iter().all(|b| *b == 0));
            if seed % 2 == 0 {
                file.sync().await.unwrap();
            }
            disk.crash();
            let found = disk.contents("a").unwrap();
            assert!([700, 2000, 3000].contains(&found.len()));
            if seed % 2 == 0 {
                assert_eq!(found, read.to_vec());
            }
        }
    });
}

#[test]
fn faults_are_as_ordered_and_the_same_seed_is_the_same_disk() {
    block_on(async {
        let digest = async |seed| {
            let disk = SimDisk::new(seed);
            let mount = disk.mount();
            let file = mount.create("x/y", 8192).await.unwrap();
            disk.fail_reads("x/y", 512..513);
            assert!(file.read(0, 512).await.is_ok());
            assert_eq!(file.read(0, 513).await.unwrap_err().kind(), ErrorKind::Internal);
            disk.heal();
            disk.rot_bit("x/y", 700, 3);
            assert_eq!(file.read(700, 1).await.unwrap()[0], 8);
            assert_eq!(file.read(8000, 200).await.unwrap_err().kind(), ErrorKind::Corrupt);
            disk.set_capacity(8192);
            assert_eq!(mount.create("z", 1).await.unwrap_err().kind(), ErrorKind::NoSpace);
            assert_eq!(mount.create("x/y", 0).await.unwrap_err().kind(), ErrorKind::Exists);
            assert_eq!(mount.create("../z", 0).await.unwrap_err().kind(), ErrorKind::Invalid);
            disk.set_cold(100);
            assert!(!file.try_read(0, &mut [0]).unwrap());
            assert_eq!(mount.list_dirs("").await.unwrap(), ["x"]);
            for i in 0..8 {
                file.write(i * 512, &part(9, 700)).await.unwrap();
            }
            let copy = disk.fork(1);
            assert_eq!(copy.contents("x/y").unwrap()[700], 8, "a fork holds what is durable");
            disk.crash();
            base::checksum::crc64(&disk.contents("x/y").unwrap())
        };
        assert_eq!(digest(4).await, digest(4).await);
        assert_ne!(digest(4).await, digest(9).await);
    });
}

#[test]
fn a_sync_covers_only_writes_that_were_finished_when_it_began() {
    block_on(async {
        let mut lost = 0;
        for seed in 0..60 {
            let disk = SimDisk::new(seed);
            let file = disk.mount().create("a", 1024).await.unwrap();
            disk.set_latency(SimLatency {
                write: Duration::from_millis(2),
                sync: Duration::from_millis(5),
                ..Default::default()
            });
            let (early, late) = (part(1, 512), part(2, 512));
            file.write(0, &early).await.unwrap();
            let (a, b) = futures_join(file.sync(), file.write(512, &late)).await;
            a.unwrap();
            b.unwrap();
            disk.crash();
            let found = disk.contents("a").unwrap();
            assert_eq!(found[0], 1);
            lost += u64::from(found[512] == 0);
        }
        assert!(lost > 5, "{lost}");
    });
}

async fn futures_join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    tokio::join!(a, b)
}
