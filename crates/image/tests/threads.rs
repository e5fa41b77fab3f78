//! What only several threads, or much data, bring to light.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ImageId, SECTOR, Span};
use bucket::Memory;
use local::{JournalOptions, SimDisk, SimLatency};
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

/// A close that waits for the last record to be synced does so at rest, and is told if that never comes.
#[test]
fn a_close_waits_for_the_last_record_without_looking() {
    const SYNC: Duration = Duration::from_secs(2);
    for fails in [false, true] {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_time().build().unwrap();
        let id = ImageId([9; 16]);
        runtime.block_on(async {
            let store = Arc::new(Memory::new());
            let disk = SimDisk::new(1);
            image::create(&*store, 0, id, "v", ByteSize::mib(1), 512).await.unwrap();
            let running = start(&disk, store, &Setup::small(), 1).await.unwrap();
            let image = running.open(id, None).await.unwrap();
            disk.set_latency(SimLatency { sync: SYNC, ..SimLatency::default() });
            disk.fail_syncs(u64::from(fails));
            let admission = image.admit(4096).await.unwrap();
            let written = image.write(8, vec![pattern(1, 4096, false)], false, admission);
            let closed = tokio::time::timeout(20 * SYNC, async {
                // The write first: it must be on its way.
                tokio::task::yield_now().await;
                image.close().await
            });
            let (written, closed) = tokio::join!(written, closed);
            assert_eq!((written.is_err(), closed.expect("it hangs").is_err()), (fails, fails));
            running.process.kill();
        });
        let busy: Duration = (0..2).map(|n| runtime.metrics().worker_total_busy_duration(n)).sum();
        assert!(busy < SYNC / 2, "busy for {busy:?}");
    }
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
