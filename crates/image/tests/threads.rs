//! What only several threads, or much data, bring to light.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ImageId, SECTOR, Span};
use bucket::Memory;
use local::{JournalOptions, SimDisk};
use rig::{Setup, pattern, read, start};

const MIB: u64 = 1 << 20;

fn threads<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap()
        .block_on(work)
}

/// B12: a write that is answered while the volume closes is in what the next open finds. The window is a few instructions wide,
/// so this meets it only now and then; the simulation, with its one thread, never does.
#[test]
fn a_write_answered_during_a_close_is_there() {
    const SECTORS: u64 = 1024;
    threads(async {
        for round in 0..1000u64 {
            let id = ImageId((u128::from(round) + 1).to_le_bytes());
            let store = Arc::new(Memory::new());
            let disk = SimDisk::new(round);
            image::create(&*store, 0, id, "v", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
            let running = start(&disk, store.clone(), &Setup::small(), round).await.unwrap();
            let image = running.open(id, None).await.unwrap();
            let data = pattern(round, 4096, false);
            let write = async |image: image::Image| {
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                let Ok(admission) = image.admit(4096).await else { return false };
                image.write(8, vec![data.clone()], false, admission).await.is_ok()
            };
            let closer = image.clone();
            let (written, closed) = tokio::join!(write(image.clone()), async move {
                tokio::time::timeout(Duration::from_secs(20), closer.close()).await
            });
            closed.unwrap().unwrap();
            drop(image);
            running.crash(&disk);
            let running = start(&disk, store.clone(), &Setup::small(), round).await.unwrap();
            let image = running.open(id, None).await.unwrap();
            assert!(!written || read(&image, Span::new(8, 8)).await.unwrap() == data[..], "round {round}");
            running.process.kill();
        }
    });
}

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A7: PRE-FETCH of a whole disk brings what the cache can keep, a piece at a time.
#[test]
fn a_prefetch_of_all_is_not_all_in_memory() {
    threads(async {
        let size = 512 * MIB;
        let (id, store) = (ImageId([0x61; 16]), Arc::new(Memory::new()));
        let mut setup = Setup::small();
        setup.journal =
            JournalOptions { capacity: 64 << 20, file_size: 16 << 20, ..JournalOptions::default() };
        setup.options.segment = ByteSize::mib(4);
        setup.options.spool_limit = ByteSize::mib(64);
        setup.memory = ByteSize::mib(16);
        setup.options.check_every = Duration::from_millis(100);
        image::create(&*store, 0, id, "vol1", ByteSize(size), 512).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &setup, 3).await.unwrap();
        let image = running.open(id, None).await.unwrap();
        // Compresses well: the bucket in memory stays small.
        let block = pattern(1, 1 << 20, true);
        for at in 0..size / MIB {
            let admission = image.admit(MIB).await.unwrap();
            image.write(at * MIB / SECTOR, vec![block.clone()], false, admission).await.unwrap();
        }
        image.drain().await.unwrap();
        let (before, mut most) = (resident(), 0);
        image.prefetch(Span::new(0, size / SECTOR));
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            most = most.max(resident());
        }
        assert!(most < before + 128 * MIB, "{} MiB more for one prefetch", (most - before) / MIB);
    });
}
