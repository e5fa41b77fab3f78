//! What checkpoints cost (requirement B12): of all bytes that are put, at most about a tenth are for checkpoints, also when small
//! writes fall all over a large volume; a damaged page of the map does not stop them.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ImageId, Result, SECTOR, SeededEntropy, Span};
use bucket::Memory;
use image::Image;
use local::{CacheOptions, JournalOptions, SimDisk};
use parking_lot::Mutex;
use rig::hooked::{Call, Hook, Hooked};
use rig::{Model, Setup, pattern, paused, read, start};

const IMAGE: ImageId = ImageId([0x71; 16]);
const BLOCK: u64 = 8;

/// Counts the bytes put, by the kind of object.
#[derive(Debug, Default)]
struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    fn of(&self, kinds: &[&str]) -> u64 {
        let put = self.0.lock();
        kinds.iter().filter_map(|kind| put.get(*kind)).sum()
    }
}

#[async_trait::async_trait]
impl Hook for Tally {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        if let Call::Create(key, body) = call {
            let kind = key.as_str().split('/').nth(2).unwrap().to_owned();
            *self.0.lock().entry(kind).or_default() += body.len();
        }
        Ok(())
    }
}

/// Everything at a fortieth of its real size, so that a few tens of megabytes are a large volume.
fn setup() -> Setup {
    let mut setup = Setup::small();
    setup.journal = JournalOptions { capacity: 8 << 20, file_size: 1 << 20, ..setup.journal };
    setup.cache = CacheOptions { capacity: 4 << 20, ..setup.cache };
    setup.memory = ByteSize::mib(4);
    setup.options.segment = ByteSize::kib(512);
    setup.options.spool_limit = ByteSize::mib(64);
    setup.options.checkpoint_runs = 500;
    setup.options.checkpoint_segments = 32;
    setup.options.page_entries = 32;
    setup.options.pages = 64;
    setup
}

/// Writes blocks, and tells how many bytes went into segments and into checkpoints meanwhile.
async fn written(tally: &Tally, image: &Image, blocks: impl Iterator<Item = (u64, u64)>) -> (u64, u64) {
    let before = (tally.of(&["seg"]), tally.of(&["map", "ckpt"]));
    for (i, (block, blocks)) in blocks.enumerate() {
        let data = pattern(i as u64 * 7919 + block, (blocks * BLOCK * SECTOR) as usize, false);
        let admission = image.admit(data.len() as u64).await.unwrap();
        image.write(block * BLOCK, vec![data], false, admission).await.unwrap();
        if i % 64 == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    image.drain().await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    (tally.of(&["seg"]) - before.0, tally.of(&["map", "ckpt"]) - before.1)
}

#[test]
fn checkpoints_cost_a_tenth_at_most() {
    paused(async {
        let blocks = 6_000;
        let store = Hooked::new(Tally::default());
        let tally = &store.hook;
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(blocks * BLOCK * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &setup(), 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let chance = SeededEntropy::new(1);

        let (segments, checkpoints) =
            written(tally, &image, (0..15_000).map(|_| (chance.below(blocks), 1))).await;
        println!("4 KiB at random: {checkpoints} bytes of checkpoints for {segments} of segments");
        assert!(segments > 15_000 * 4096 && checkpoints > 100_000, "{segments} {checkpoints}");
        assert!(
            checkpoints <= segments / 10,
            "{checkpoints} bytes of checkpoints for {segments} of segments"
        );
        let checkpoint = image.status().checkpoint;
        let durable = image.status().durable;
        assert!(durable.0 - checkpoint.0 <= 4 * 32 + 8, "{checkpoint} is far behind {durable}");

        let objects = store.inner.objects();
        let roots = objects.iter().filter(|(key, _)| key.as_str().contains("/ckpt/"));
        let pages = roots.map(|(_, body)| {
            let root = chain::fuzzing::Checkpoint::decode(body).unwrap();
            root.runs.iter().map(|run| run.len()).sum::<usize>()
        });
        let pages = pages.max().unwrap();
        assert!(pages >= 150, "only {pages} pages");

        let (segments, checkpoints) = written(tally, &image, (0..blocks / 16).map(|i| (i * 16, 16))).await;
        println!("64 KiB in order: {checkpoints} bytes of checkpoints for {segments} of segments");
        assert!(
            checkpoints <= segments / 50,
            "{checkpoints} bytes of checkpoints for {segments} of segments"
        );
        image.close().await.unwrap();
    });
}

/// A page that rots keeps nobody from what is not on it: checkpoints go around it, once somebody has been told.
#[test]
fn a_damaged_page_does_not_stop_checkpoints() {
    paused(async {
        let blocks = 512;
        let store = Arc::new(Memory::new());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(blocks * BLOCK * SECTOR), 512).await.unwrap();
        let mut setup = setup();
        setup.options.pages = 0;
        let running = start(&SimDisk::new(3), store.clone(), &setup, 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (blocks * BLOCK * SECTOR) as usize]);
        let size = (BLOCK * SECTOR) as usize;
        for block in (0..blocks).step_by(2) {
            model.write(&image, block * BLOCK, pattern(block, size, false)).await;
        }
        image.checkpoint().await.unwrap();
        let page = store.objects().into_iter().rfind(|(key, _)| key.as_str().contains("/map/")).unwrap().0;
        // Of the first page, which holds the first 64 blocks.
        assert!(store.corrupt(&page, 60, 1));
        for round in 0..3 {
            for block in (1..blocks).step_by(2) {
                model.write(&image, block * BLOCK, pattern(block + round, size, false)).await;
            }
            image.drain().await.unwrap();
            tokio::time::timeout(Duration::from_secs(60), image.checkpoint()).await.unwrap().unwrap();
        }
        let told =
            running.events.0.lock().iter().filter(|text| text.contains("checkpoints go around it")).count();
        assert_eq!(told, 1, "{:?}", running.events.0.lock());
        assert!(running.events.any_names(page.as_str()));
        let good = Span::new(128 * BLOCK, (blocks - 128) * BLOCK);
        assert!(read(&image, good).await.unwrap() == model.part(good));
        assert!(read(&image, Span::new(0, BLOCK)).await.is_err());
        // What is written anew is there, whatever lies below.
        for block in 0..128 {
            model.write(&image, block * BLOCK, pattern(block + 9000, size, false)).await;
        }
        tokio::time::timeout(Duration::from_secs(60), image.checkpoint()).await.unwrap().unwrap();
        let all = Span::new(0, blocks * BLOCK);
        assert!(read(&image, all).await.unwrap() == model.part(all));
        image.close().await.unwrap();
    });
}

/// What changes nothing costs nothing: an idle image puts no objects beyond its owner's epoch, fence and close.
#[test]
fn an_idle_image_puts_nothing() {
    paused(async {
        let store = Arc::new(Memory::new());
        let image_id = ImageId([0x77; 16]);
        image::create(&*store, 0, image_id, "idle", ByteSize::mib(64), 512).await.unwrap();
        for (round, fill) in [(1u64, false), (2, false), (3, true), (4, false), (5, false)] {
            let running = start(&SimDisk::new(round), store.clone(), &Setup::small(), round).await.unwrap();
            let image = running.open(image_id, None).await.unwrap();
            if fill {
                // Written and given up again: the map is empty, and there is garbage.
                let admission = image.admit(64 << 10).await.unwrap();
                image.write(0, vec![pattern(1, 64 << 10, false)], false, admission).await.unwrap();
                image.drain().await.unwrap();
                image.zero(Span::new(0, 128 << 10), true).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            let before = store.objects().len();
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert!(store.objects().len() <= before, "{before} objects became {}", store.objects().len());
            image.close().await.unwrap();
        }
    });
}

/// What lay behind a smaller end does not come back when the image grows, however writes and the change met.
#[test]
fn shrinking_under_writes_gives_the_tail_up() {
    paused(async {
        let store = Arc::new(Memory::new());
        let image_id = ImageId([0x78; 16]);
        image::create(&*store, 0, image_id, "shrunk", ByteSize::mib(8), 512).await.unwrap();
        let running = start(&SimDisk::new(8), store.clone(), &Setup::small(), 8).await.unwrap();
        let image = running.open(image_id, None).await.unwrap();
        let (small, large) = (4 << 11, 8 << 11);
        for round in 0..20u64 {
            let writes = (0..8u64).map(|n| {
                let image = image.clone();
                async move {
                    for _ in 0..round % 4 {
                        tokio::task::yield_now().await;
                    }
                    let admission = image.admit(4096).await.unwrap();
                    // Refused once the end has moved.
                    let data = vec![pattern(round * 8 + n, 4096, false)];
                    let _ = image.write(small + n * 8, data, false, admission).await;
                }
            });
            let resize = image.resize(small);
            let (resized, _) =
                futures_util::future::join(resize, futures_util::future::join_all(writes)).await;
            resized.unwrap();
            image.resize(large).await.unwrap();
            let tail = read(&image, Span::new(small, 80)).await.unwrap();
            assert!(tail.iter().all(|byte| *byte == 0), "round {round}");
        }
    });
}

/// Old checkpoints go though no segment ever becomes garbage: of a volume that only fills the newest two stay.
#[test]
fn a_volume_that_only_fills_keeps_two_checkpoints() {
    paused(async {
        let store = Arc::new(Memory::new());
        let blocks = 512;
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(blocks * BLOCK * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(4), store.clone(), &setup(), 4).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (blocks * BLOCK * SECTOR) as usize]);
        let roots = || store.objects().iter().filter(|(key, _)| key.as_str().contains("/ckpt/")).count();
        let mut most = 0;
        for block in 0..blocks {
            model.write(&image, block * BLOCK, pattern(block, (BLOCK * SECTOR) as usize, false)).await;
            if block % 64 == 63 {
                image.checkpoint().await.unwrap();
                most = most.max(roots());
            }
        }
        assert!(most > 4, "{most}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        // What was due is deleted when the image looks after itself the next time.
        assert_eq!(roots(), 2);
        image.close().await.unwrap();
        let all = Span::new(0, blocks * BLOCK);
        let again = start(&SimDisk::new(5), store.clone(), &setup(), 5).await.unwrap();
        assert!(read(&again.open(IMAGE, None).await.unwrap(), all).await.unwrap() == model.part(all));
    });
}

/// The size in the bucket is that of the moment at which the writes there ended, not of the moment of their upload: a bucket that
/// lags behind a shrink has the larger size, with what was there.
#[test]
fn the_size_goes_with_the_writes() {
    paused(async {
        let (small, large) = (64 * BLOCK, 512 * BLOCK);
        let mut lagging = 0;
        for round in 0..24u64 {
            let store = Arc::new(Memory::new());
            image::create(&*store, 0, IMAGE, "vol1", ByteSize(large * SECTOR), 512).await.unwrap();
            let (path, faults) = rig::faulty(&store, round);
            let running = start(&SimDisk::new(round), path, &Setup::small(), round).await.unwrap();
            let image = running.open(IMAGE, None).await.unwrap();
            faults.set_outage(bucket::Outage::Refusing);
            let mut model = Model(vec![0; (large * SECTOR) as usize]);
            for n in 0..6 {
                model.write(&image, n * 16 * BLOCK, pattern(n + 1, 64 << 10, false)).await;
            }
            image.resize(small).await.unwrap();
            faults.clear();
            for _ in 0..round * 4 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            running.process.kill();

            let other = start(&SimDisk::new(99), store.clone(), &Setup::small(), 99).await.unwrap();
            let epoch = chain::load(&*store, IMAGE).await.unwrap().chain.head.epoch;
            let found = other.open(IMAGE, Some(epoch)).await.unwrap();
            let written = |n: u64| Span::new(n * 16 * BLOCK, 128);
            let mut there = 0;
            for n in (0..6).filter(|n| written(*n).end() <= found.sectors()) {
                there += u64::from(read(&found, written(n)).await.unwrap() == model.part(written(n)));
            }
            if found.sectors() == large {
                lagging += u64::from(there > 0);
            } else {
                assert_eq!((found.sectors(), there), (small, 4), "round {round}");
                // What was cut off stays so.
                found.resize(large).await.unwrap();
                let tail = read(&found, Span::new(small, large - small)).await.unwrap();
                assert!(tail.iter().all(|byte| *byte == 0), "round {round}");
            }
        }
        assert!(lagging > 1, "{lagging}");
    });
}

/// The cache keeps what can be read: lines whose data was written over make room at once, not when their turn comes.
#[test]
fn what_was_written_over_leaves_the_cache() {
    paused(async {
        let store = Arc::new(Memory::new());
        let lines = 16u64;
        image::create(&*store, 0, IMAGE, "vol1", ByteSize::mib(1), 512).await.unwrap();
        let mut setup = setup();
        setup.options.garbage = 0.9;
        let running = start(&SimDisk::new(6), store.clone(), &setup, 6).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; 1 << 20]);
        for round in 0..5 {
            for line in 0..lines {
                model.write(&image, line * 128, pattern(round * lines + line, 64 << 10, false)).await;
            }
            image.drain().await.unwrap();
            // A checkpoint in between: what is hidden lies in a run then.
            if round == 2 {
                image.checkpoint().await.unwrap();
                assert!(read(&image, Span::new(0, 2048)).await.unwrap() == model.0);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(running.env.cache.stats().lines, lines, "round {round}");
        }
        let before = running.env.cache.stats();
        assert!(read(&image, Span::new(0, 2048)).await.unwrap() == model.0);
        assert_eq!(running.env.cache.stats().misses, before.misses, "the newest is there");
        image.close().await.unwrap();
    });
}

/// Where all is in the cache nobody looks ahead of a reader; where it is not, the reader waits for the first of it only.
#[test]
fn a_reader_who_leaves_the_cache_is_fetched_for_again() {
    paused(async {
        let store = Arc::new(Memory::new());
        let size = 8u64 << 20;
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(size), 512).await.unwrap();
        let mut setup = setup();
        setup.cache.capacity = 8 * size;
        let running = start(&SimDisk::new(8), store.clone(), &setup, 8).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; size as usize]);
        for at in 0..size >> 16 {
            model.write(&image, at << 7, pattern(at, 64 << 10, false)).await;
            image.drain().await.unwrap();
        }
        image.close().await.unwrap();
        let running = start(&SimDisk::new(9), store.clone(), &setup, 9).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let (line, lines) = (128, size / SECTOR / 128);
        // Backwards, so that nobody takes it for a reader who goes on.
        for n in (0..lines / 2).rev() {
            read(&image, Span::new(n * line, line)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut missed = [0; 2];
        for n in 0..lines {
            let before = running.env.cache.stats().misses;
            let span = Span::new(n * line, line);
            assert!(read(&image, span).await.unwrap() == model.part(span));
            missed[usize::from(n >= lines / 2)] += running.env.cache.stats().misses - before;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(missed[0], 0);
        assert!((1..5).contains(&missed[1]), "{missed:?} of {lines}");
        image.close().await.unwrap();
    });
}
