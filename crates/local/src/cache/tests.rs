use std::collections::BTreeMap;

use base::{Entropy, SeededEntropy};

use super::*;
use crate::{SimDisk, TaskSpawn};

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(f)
}

fn options(lines: u64) -> CacheOptions {
    CacheOptions { capacity: lines * LINE as u64, memory: 0, ..CacheOptions::default() }
}

async fn open(disk: &SimDisk, lines: u64) -> Cache {
    open_with(disk, options(lines)).await
}

async fn open_with(disk: &SimDisk, options: CacheOptions) -> Cache {
    let spawn = Arc::new(TaskSpawn::new(tokio::runtime::Handle::current()));
    Cache::open(disk.mount(), options, spawn).await.unwrap()
}

fn key(number: u64, line: u32) -> LineKey {
    LineKey { image: ImageId([1; 16]), epoch: 3, number, line, content: 0 }
}

/// The only content a line may ever have.
fn content(key: &LineKey, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    SeededEntropy::new(key.hash()).fill(&mut bytes);
    Bytes::from(bytes)
}

/// A line of a few bytes, where only its place matters.
async fn insert_short(cache: &Cache, key: LineKey) {
    if !cache.contains(&key) {
        cache.insert(key, content(&key, 100));
        settle().await;
    }
}

async fn insert(cache: &Cache, key: LineKey) {
    assert!(cache.insert(key, content(&key, LINE)));
    settle().await;
}

async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}

#[test]
fn lines_are_kept_read_in_parts_and_forgotten() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 64).await;
        let tail = key(7, 2);
        for line in [key(7, 0), key(7, 1), key(8, 0)] {
            insert(&cache, line).await;
        }
        assert!(cache.insert(tail, content(&tail, 5000)));
        settle().await;
        let whole = content(&key(7, 1), LINE);
        for (offset, len) in [(0, LINE), (0, 1), (4095, 2), (LINE - 1, 1), (10_000, 9_000), (5, 0)] {
            assert_eq!(
                cache.try_read(key(7, 1), offset, len),
                Lookup::Hit(whole.slice(offset..offset + len))
            );
            assert_eq!(cache.read(key(7, 1), offset, len).await, Some(whole.slice(offset..offset + len)));
        }
        assert_eq!(cache.try_read(tail, 4000, 1000), Lookup::Hit(content(&tail, 5000).slice(4000..)));
        assert_eq!(cache.try_read(tail, 4000, 1001), Lookup::Miss, "behind the line's end");
        assert_eq!(cache.try_read(key(7, 1), usize::MAX, 2), Lookup::Miss);
        disk.set_cold(100);
        assert_eq!(cache.try_read(key(7, 1), 0, 10), Lookup::WouldBlock);
        assert_eq!(cache.read(key(7, 1), 0, 10).await, Some(whole.slice(..10)));
        cache.forget(&tail);
        assert!(!cache.contains(&tail) && cache.contains(&key(7, 0)) && cache.contains(&key(8, 0)));
        cache.invalidate_image(key(8, 0).image);
        assert_eq!(cache.stats().lines, 0);
        assert!(!cache.insert(key(1, MAX_LINES), whole.clone()) && !cache.insert(key(1, 0), Bytes::new()));
    });
}

/// The same place in another history of the image, as in a bucket that was restored from a copy: a miss, also after a clean stop.
#[test]
fn a_line_of_another_history_is_not_taken() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 64).await;
        let line = key(7, 0);
        let other = LineKey { content: 1, ..line };
        insert(&cache, line).await;
        cache.close().await.unwrap();
        let cache = open(&disk, 64).await;
        assert!(cache.contains(&line) && !cache.contains(&other));
        assert_eq!(cache.try_read(other, 0, 10), Lookup::Miss);
        insert(&cache, other).await;
        assert_eq!(cache.read(other, 0, LINE).await, Some(content(&other, LINE)));
        assert_eq!(cache.read(line, 0, LINE).await, Some(content(&line, LINE)));
    });
}

/// A6: whatever bit of a slab flips, a read gives the right bytes or a miss.
#[test]
fn rot_is_a_miss_and_never_wrong_data() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 64).await;
        let mut dropped = 0;
        for at in (0..3 * LINE as u64).step_by(1021) {
            for n in 0..8 {
                insert_again(&cache, key(n, 0)).await;
            }
            disk.rot("cache/00000000.slab", at);
            for n in 0..8 {
                match cache.try_read(key(n, 0), 0, LINE) {
                    Lookup::Hit(bytes) => assert_eq!(bytes, content(&key(n, 0), LINE)),
                    Lookup::Miss => dropped += 1,
                    Lookup::WouldBlock => panic!("the disk is warm"),
                }
            }
        }
        assert_eq!((cache.stats().corrupt, cache.stats().misses), (dropped, dropped));
        assert!(dropped > 10);
        insert_again(&cache, key(0, 0)).await;
        disk.fail_reads("cache/00000000.slab", 0..64 << 20);
        assert_eq!(cache.read(key(0, 0), 0, 1).await, None, "a read error is a miss too");
    });
}

/// What is read again needs no disk the next time, also in parts; what was read once does.
#[test]
fn what_is_read_again_is_kept_in_memory() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open_with(&disk, CacheOptions { memory: 4 << 20, ..options(64) }).await;
        let (once, again) = (key(7, 0), key(8, 0));
        insert(&cache, once).await;
        insert(&cache, again).await;
        let whole = content(&again, LINE);
        assert!(matches!(cache.try_read(once, 0, LINE), Lookup::Hit(_)));
        assert_eq!(cache.read(again, 0, LINE).await, Some(whole.clone()));
        assert_eq!(cache.read(again, 5000, 4000).await, Some(whole.slice(5000..9000)));
        disk.set_cold(100);
        assert_eq!(cache.try_read(once, 0, 1), Lookup::WouldBlock);
        for (offset, len) in [(5000, 4000), (4096, 8192), (6000, 1)] {
            assert_eq!(
                cache.try_read(again, offset, len),
                Lookup::Hit(whole.slice(offset..offset + len)),
                "the blocks around what was read"
            );
        }
        for (offset, len) in [(4095, 10), (12_000, 1000), (0, 4096)] {
            assert_eq!(cache.try_read(again, offset, len), Lookup::WouldBlock);
        }
        let little = cache.stats().in_memory;
        assert!((8192..10_000).contains(&little), "{little}");
        assert_eq!(cache.read(again, 0, LINE).await, Some(whole.clone()));
        assert_eq!(cache.try_read(again, 0, LINE), Lookup::Hit(whole.clone()));
        let all = cache.stats().in_memory;
        assert!((LINE as u64..LINE as u64 + 1000).contains(&all), "{all}: in place of what it covers");
        cache.forget(&again);
        assert_eq!((cache.try_read(again, 0, 1), cache.stats().in_memory), (Lookup::Miss, 0));
    });
}

/// One reader who asks, asks again and then waits for the disk has read once.
#[test]
fn a_read_that_waits_for_the_disk_counts_once() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open_with(&disk, CacheOptions { memory: 4 << 20, ..options(64) }).await;
        insert(&cache, key(7, 0)).await;
        disk.set_cold(100);
        for n in 0..4 {
            assert_eq!(cache.stats().in_memory, 0, "{n} blocks read, each once");
            for _ in 0..2 {
                assert_eq!(cache.try_read(key(7, 0), n * BLOCK, BLOCK), Lookup::WouldBlock);
            }
            assert!(cache.read(key(7, 0), n * BLOCK, BLOCK).await.is_some());
        }
        assert!(cache.read(key(7, 0), 0, BLOCK).await.is_some());
        assert!(matches!(cache.try_read(key(7, 0), 0, BLOCK), Lookup::Hit(_)));
    });
}

/// Memory is bounded, and what is read all the time stays in it while much else is read twice.
#[test]
fn memory_goes_to_what_is_read_most() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open_with(&disk, CacheOptions { memory: 4 << 20, ..options(1024) }).await;
        let often = |n: u64| key(n, 0);
        for n in 0..16 {
            insert(&cache, often(n)).await;
            for _ in 0..2 {
                assert!(cache.read(often(n), 0, LINE).await.is_some());
            }
        }
        let mut there = 0;
        for n in 0..512 {
            disk.set_cold(0);
            let other = key(1000 + n, 0);
            insert(&cache, other).await;
            for _ in 0..2 {
                assert_eq!(cache.read(other, 0, LINE).await, Some(content(&other, LINE)));
            }
            disk.set_cold(100);
            for n in 0..16 {
                there += u64::from(matches!(cache.try_read(often(n), 0, LINE), Lookup::Hit(_)));
                assert_eq!(cache.read(often(n), 0, LINE).await, Some(content(&often(n), LINE)));
            }
            assert!(cache.stats().in_memory <= 4 << 20, "{:?}", cache.stats());
        }
        assert!(there > 16 * 512 * 99 / 100, "{there} of {}", 16 * 512);
        assert!(cache.stats().in_memory > 3 << 20, "{:?}", cache.stats());
        cache.resize(options(1024));
        assert_eq!(cache.stats().in_memory, 0);
        assert_eq!(cache.try_read(often(0), 0, 1), Lookup::WouldBlock);
    });
}

async fn insert_again(cache: &Cache, key: LineKey) {
    if !cache.contains(&key) {
        insert(cache, key).await;
    }
}

#[test]
fn it_is_warm_after_a_clean_stop_and_cold_after_a_crash() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 256).await;
        for n in 0..40 {
            insert(&cache, key(n, n as u32)).await;
        }
        cache.close().await.unwrap();
        assert!(!cache.insert(key(99, 0), content(&key(99, 0), LINE)), "closed");
        disk.crash();
        let warm = open(&disk, 256).await;
        for n in 0..40 {
            assert_eq!(
                warm.try_read(key(n, n as u32), 0, LINE),
                Lookup::Hit(content(&key(n, n as u32), LINE))
            );
        }
        insert(&warm, key(50, 0)).await;
        disk.crash();
        let cold = open(&disk, 256).await;
        assert_eq!(cold.stats().lines, 0);
        assert!(disk.names().is_empty());
    });
}

/// Under any mix of inserts, invalidations, resizes, rot and restarts: right bytes or a miss.
#[test]
fn only_right_bytes_are_ever_served() {
    let mut hits = 0;
    for seed in 0..150 {
        hits += block_on(async {
            let rng = SeededEntropy::new(seed);
            let disk = SimDisk::new(seed);
            let memory = [0, 1 << 20, 4 << 20][seed as usize % 3];
            let options = |lines| CacheOptions { memory, ..options(lines) };
            let mut cache = open_with(&disk, options(48)).await;
            // In another history a segment's lines hold something else, and say so; after an image was forgotten it may be made
            // anew and hold something else without a word.
            let mut contents: BTreeMap<u64, u64> = BTreeMap::new();
            let mut life = 0;
            let data = |k: &LineKey, life: u64| {
                let mut bytes = vec![0; 1 + (k.hash() % LINE as u64) as usize];
                SeededEntropy::new(k.hash() ^ life << 40).fill(&mut bytes);
                Bytes::from(bytes)
            };
            let mut hits = 0;
            for _ in 0..300 {
                let number = rng.below(12);
                let content = *contents.get(&number).unwrap_or(&0);
                let k = LineKey { content, ..key(number, rng.below(8) as u32) };
                let whole = data(&k, life);
                match rng.below(20) {
                    0..=8 => {
                        cache.insert(k, whole);
                    }
                    9..=15 => {
                        let offset = rng.below(whole.len() as u64) as usize;
                        let len = 1 + rng.below((whole.len() - offset) as u64) as usize;
                        if let Some(bytes) = cache.read(k, offset, len).await {
                            assert_eq!(bytes, whole.slice(offset..offset + len), "seed {seed}");
                            hits += 1;
                        }
                    }
                    16 if rng.chance(1, 4) => {
                        cache.invalidate_image(k.image);
                        life += 1;
                    }
                    16 => {
                        contents.insert(number, rng.below(3));
                    }
                    17 => cache.resize(options(16 + rng.below(48))),
                    18 if rng.chance(1, 4) => {
                        if rng.chance(1, 2) {
                            cache.close().await.unwrap();
                        }
                        disk.crash();
                        cache = open_with(&disk, options(48)).await;
                    }
                    18 => disk.rot("cache/00000000.slab", rng.below(64 * LINE as u64)),
                    _ => settle().await,
                }
                assert!(cache.stats().lines <= 64 && cache.stats().in_memory <= memory, "seed {seed}");
            }
            cache.invalidate_image(key(0, 0).image);
            assert_eq!(cache.stats().in_memory, 0, "seed {seed}: what lines held went with them");
            hits
        });
    }
    assert!(hits > 1000, "{hits}");
}

#[test]
fn a_scan_does_not_push_out_what_is_read_often() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 1024).await;
        for n in 0..400 {
            insert_short(&cache, key(n, 0)).await;
        }
        for _ in 0..2 {
            for n in 0..400 {
                cache.try_read(key(n, 0), 0, 1);
            }
        }
        for n in 10_000..16_000 {
            insert_short(&cache, key(n, 0)).await; // read once by someone, never again
        }
        let kept = (0..400).filter(|n| cache.contains(&key(*n, 0))).count();
        assert!(kept > 360, "{kept} of 400 kept");
        assert!(cache.stats().lines <= 1024 && cache.stats().evictions > 5000);
    });
}

#[test]
fn it_keeps_within_its_bounds_and_makes_do_with_a_full_disk() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 3000).await;
        assert_eq!(cache.stats().room, 3000 / 16 * 16);
        disk.set_capacity(writer::SLAB + 1000);
        for n in 0..1500 {
            insert_short(&cache, key(n, 0)).await;
        }
        let stats = cache.stats();
        assert!(stats.room <= 1024 && stats.lines > 900 && stats.dropped > 0, "{stats:?}");
        cache.resize(options(32));
        settle().await;
        assert!(cache.stats().lines <= 32);
        disk.set_capacity(u64::MAX);
        cache.resize(options(3000));
        settle().await;
        for n in 0..2000 {
            insert_short(&cache, key(n, 0)).await;
        }
        assert!(cache.stats().lines > 1024 && (2..=3).contains(&disk.names().len()), "{:?}", cache.stats());
        cache.resize(CacheOptions { index_budget: 100 * ENTRY_MEMORY, ..options(3000) });
        settle().await;
        assert!(cache.stats().room <= 100 && disk.names().len() == 1);
        let line = content(&key(1, 1), LINE);
        let taken = (0..2000).filter(|n| cache.insert(key(*n, 5), line.clone())).count();
        assert_eq!(taken, 512, "32 MiB wait at most");
    });
}

#[test]
fn memory_for_the_index_bounds_what_the_cache_holds() {
    let options = |index_budget| CacheOptions { capacity: 1 << 40, index_budget, ..CacheOptions::default() };
    assert_eq!(options(4 << 30).most(), 1 << 40, "a 256th suffices");
    assert_eq!(options(1 << 30).most(), 1 << 38);
}

#[test]
fn a_damaged_index_is_ignored_and_any_bytes_are_survived() {
    block_on(async {
        let disk = SimDisk::new(1);
        let cache = open(&disk, 64).await;
        for n in 0..5 {
            insert(&cache, key(n, 0)).await;
        }
        cache.close().await.unwrap();
        let index = disk.contents("cache/index").unwrap();
        assert_eq!(index.len(), 4096 + 5 * index::ENTRY);
        assert_eq!(index::decode(&index).unwrap().len(), 5);
        for at in 0..index.len() {
            let mut bad = index.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(index::decode(&bad).is_err(), "byte {at}");
            assert!(index::decode(&index[..at]).is_err());
        }
        disk.rot("cache/index", 4200);
        assert_eq!(open(&disk, 64).await.stats().lines, 0);
    });
}

#[test]
fn who_waits_for_room_gets_it_or_is_told_that_there_will_be_none() {
    block_on(async {
        let disk = SimDisk::new(8);
        let spawn = Arc::new(TaskSpawn::new(tokio::runtime::Handle::current()));
        let small = CacheOptions { queue: 2 * LINE as u64, ..options(64) };
        let cache = Cache::open(disk.mount(), small, spawn).await.unwrap();
        // Far more than the queue holds, and none is dropped.
        for line in 0..20 {
            assert!(cache.insert_in_turn(key(1, line), content(&key(1, line), LINE)).await);
        }
        settle().await;
        assert_eq!((cache.stats().lines, cache.stats().dropped), (20, 0));
        // Room that comes from lines given up counts as well.
        assert!(cache.insert(key(2, 0), content(&key(2, 0), LINE)));
        assert!(cache.insert(key(2, 1), content(&key(2, 1), LINE)));
        let mut waiting = Box::pin(cache.insert_in_turn(key(3, 0), content(&key(3, 0), LINE)));
        let pending =
            std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
        assert!(pending.await);
        cache.invalidate_image(ImageId([1; 16]));
        assert!(waiting.await);
        assert!(
            !cache.insert_in_turn(key(4, 0), content(&key(4, 0), LINE + 1)).await,
            "no line is that long"
        );
        cache.close().await.unwrap();
        assert!(!cache.insert_in_turn(key(4, 0), content(&key(4, 0), LINE)).await);
    });
}
