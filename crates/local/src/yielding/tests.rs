use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, ImageId, SeededEntropy};
use bytes::Bytes;

use super::*;
use crate::{CacheOptions, Journal, JournalOptions, LineKey, SimDisk, Spool, TaskSpawn};

const SLAB: u64 = 64 << 20;
const OWNER: ImageId = ImageId([1; 16]);

fn block_on<T>(f: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(f)
}

fn spawn() -> Arc<TaskSpawn> {
    Arc::new(TaskSpawn::new(tokio::runtime::Handle::current()))
}

fn key(number: u64) -> LineKey {
    LineKey { image: OWNER, epoch: 1, number, line: 0, content: 0 }
}

/// Offers so many lines of a few bytes to the cache.
async fn fill(cache: &Cache, lines: std::ops::Range<u64>) {
    for n in lines {
        cache.insert_in_turn(key(n), Bytes::from(vec![n as u8; 100])).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// A disk that is full of clean cache but for `left` bytes.
async fn full_of_cache(left: u64) -> (SimDisk, Cache) {
    let disk = SimDisk::new(1);
    disk.set_capacity(2 * SLAB + left);
    let options = CacheOptions { capacity: 8 * SLAB, ..CacheOptions::default() };
    let cache = Cache::open(disk.mount(), options, spawn()).await.unwrap();
    fill(&cache, 0..4096).await;
    assert_eq!(cache.stats().on_disk, 2 * SLAB, "{:?}", cache.stats());
    (disk, cache)
}

#[test]
fn the_journal_gets_room_that_clean_cache_has() {
    block_on(async {
        let (disk, cache) = full_of_cache(5000).await;
        let options =
            JournalOptions { capacity: 1 << 20, file_size: 96 << 10, ahead: 0, ..JournalOptions::default() };
        let open =
            async |disk| Journal::open(disk, options.clone(), spawn(), Arc::new(SeededEntropy::new(1))).await;
        let refused = open(disk.mount()).await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
        let (journal, _) = open(Yielding::new(disk.mount(), cache.clone())).await.unwrap();
        assert_eq!(cache.stats().on_disk, SLAB, "one file was enough");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let usage = journal.usage();
        assert!(usage.on_disk >= 3 * (96 << 10) && usage.on_disk <= usage.most_on_disk, "{usage:?}");
        // What is left is served.
        let kept = (0..4096).filter(|n| cache.contains(&key(*n))).count();
        assert!((1..=1024).contains(&kept), "{kept}");
        journal.close().await.unwrap();
    });
}

#[test]
fn a_local_segment_gets_room_until_no_cache_is_left() {
    block_on(async {
        let (disk, cache) = full_of_cache(1000).await;
        let spool = Spool::open(Yielding::new(disk.mount(), cache.clone())).await.unwrap();
        let segment = Bytes::from(vec![7; 40 << 20]);
        for (name, left) in [("a", 1), ("b", 0), ("c", 0)] {
            spool.put(OWNER, name, std::slice::from_ref(&segment)).await.unwrap();
            assert_eq!(cache.stats().on_disk, left * SLAB, "{name}");
        }
        let refused = spool.put(OWNER, "d", std::slice::from_ref(&segment)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
        assert_eq!(disk.names().iter().filter(|n| n.starts_with("spool")).count(), 3, "{:?}", disk.names());
        assert_eq!(spool.get(OWNER, "c", 0..10).await.unwrap(), segment.slice(..10));

        // There is room again, and the cache grows into it, but for what it is to leave.
        for name in ["a", "b", "c"] {
            spool.remove(OWNER, name).await.unwrap();
        }
        disk.crash();
        disk.set_capacity(3 * SLAB);
        let options = CacheOptions { capacity: 8 * SLAB, spare: SLAB, ..CacheOptions::default() };
        let cache = Cache::open(disk.mount(), options, spawn()).await.unwrap();
        fill(&cache, 0..4096).await;
        assert_eq!(cache.stats().on_disk, 2 * SLAB);
        assert!(cache.give_way().await > 0 && cache.give_way().await > 0);
        assert_eq!((cache.give_way().await, cache.stats().lines), (0, 0));
        for from in [0, 5000, 10_000] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            fill(&cache, from..from + 4096).await;
        }
        assert_eq!(cache.stats().on_disk, 2 * SLAB, "it grew again");
    });
}

#[test]
fn every_way_of_writing_gets_room() {
    block_on(async {
        for way in 0..4 {
            let (disk, cache) = full_of_cache(1000).await;
            let file = Yielding::new(disk.mount(), cache.clone()).create("x", 0).await.unwrap();
            let parts = [Bytes::from(vec![5; 10_000])];
            match way {
                0 => file.write(0, &parts).await.unwrap(),
                1 => file.write_warm(0, &parts).await.unwrap(),
                2 => file.write_durable(0, &parts).await.unwrap(),
                _ => file.set_len(10_000).await.unwrap(),
            }
            assert_eq!((file.len(), cache.stats().on_disk), (10_000, SLAB));
            disk.fail_syncs(1);
            assert_eq!(file.sync().await.unwrap_err().kind(), ErrorKind::Internal, "never tried again");
        }
    });
}
