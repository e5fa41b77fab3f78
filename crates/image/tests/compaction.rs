//! Garbage in segments that are not wholly dead: the bucket shrinks to a bounded multiple of what lives, nothing is lost, and
//! readers and writers go on meanwhile (requirements B26, B27).
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{ByteSize, Error, ErrorKind, ImageId, Result, SECTOR, Span};
use bucket::{Key, Memory};
use chain::ExtentKind;
use image::Image;
use local::SimDisk;
use parking_lot::Mutex;
use rig::hooked::{Call, Hook, Hooked};
use rig::{Model, Running, Setup, pattern, paused, read, start};

const IMAGE: ImageId = ImageId([0x61; 16]);
const SECTORS: u64 = 4 << 11;
/// Small enough for many runs in a segment, large enough for a test.
const BLOCK: u64 = 8;

fn setup() -> Setup {
    let mut setup = Setup::small();
    setup.options.garbage = 0.25;
    setup.options.garbage_slack = ByteSize::kib(64);
    setup
}

async fn world(store: &Arc<Memory>, setup: &Setup) -> (Running, Image) {
    image::create(&**store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let running = start(&SimDisk::new(3), store.clone(), setup, 3).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    (running, image)
}

/// Fills the image, then writes every third block anew, which leaves all segments two thirds alive at first, and again another
/// third: one third.
async fn wear(model: &mut Model, image: &Image) {
    for at in (0..SECTORS).step_by(BLOCK as usize) {
        model.write(image, at, pattern(at, (BLOCK * SECTOR) as usize, false)).await;
    }
    image.drain().await.unwrap();
    for third in 0..2 {
        for at in (third * BLOCK..SECTORS).step_by(3 * BLOCK as usize) {
            model.write(image, at, pattern(at + 7, (BLOCK * SECTOR) as usize, false)).await;
        }
        image.drain().await.unwrap();
    }
}

async fn verify(model: &Model, image: &Image) {
    for start in (0..SECTORS).step_by(512) {
        let span = Span::new(start, 512);
        assert!(read(image, span).await.unwrap() == model.part(span), "wrong data in {span:?}");
    }
}

fn bytes_of_segments(store: &Memory) -> u64 {
    let segments = store.objects();
    segments.iter().filter(|(key, _)| key.as_str().contains("/seg/")).map(|(_, body)| body.len() as u64).sum()
}

#[test]
fn half_dead_segments_go() {
    paused(async {
        let store = Arc::new(Memory::new());
        let (running, image) = world(&store, &setup()).await;
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        let worn = bytes_of_segments(&store);
        assert!(worn > SECTORS * SECTOR * 16 / 10, "{worn} bytes: too little garbage to show anything");
        // One who reads and writes all the time while segments are emptied below it.
        for round in 0..240 {
            let at = round * 37 % (SECTORS / BLOCK) * BLOCK;
            model.write(&image, at, pattern(round, (BLOCK * SECTOR) as usize, false)).await;
            let span = Span::new((round * 91) % (SECTORS / BLOCK) * BLOCK, BLOCK);
            assert!(read(&image, span).await.unwrap() == model.part(span));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        image.drain().await.unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let left = bytes_of_segments(&store);
        assert!(left < SECTORS * SECTOR * 16 / 10, "{left} of {worn} bytes are left");
        assert!(running.events.0.lock().is_empty(), "{:?}", running.events.0.lock());
        verify(&model, &image).await;
        image.close().await.unwrap();
        let other = start(&SimDisk::new(9), store.clone(), &setup(), 9).await.unwrap();
        verify(&model, &other.open(IMAGE, None).await.unwrap()).await;
    });
}

/// Without it the same wear keeps everything: the test above measures compaction, not something else.
#[test]
fn without_compaction_it_stays() {
    paused(async {
        let store = Arc::new(Memory::new());
        let mut setup = setup();
        setup.options.garbage_slack = ByteSize::gib(1);
        let (_running, image) = world(&store, &setup).await;
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        image.checkpoint().await.unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(bytes_of_segments(&store) > SECTORS * SECTOR * 16 / 10);
        verify(&model, &image).await;
    });
}

/// A segment that cannot be read is told of once and keeps nobody waiting: the others are emptied, and its own readable part stays.
#[test]
fn a_damaged_segment_is_passed_over() {
    paused(async {
        let store = Arc::new(Memory::new());
        let mut setup = setup();
        // It must come from the bucket.
        setup.cache.capacity = 256 << 10;
        setup.options.garbage_slack = ByteSize::gib(1);
        let (running, image) = world(&store, &setup).await;
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        image.close().await.unwrap();
        let first_segments = || store.objects().into_iter().filter(|(key, _)| key.as_str().contains("/seg/"));
        // Every third block of the first segments still lives. One header and one frame of them rot.
        let mut sick = Vec::new();
        let data = first_segments().filter(|(_, body)| body.len() > 32 << 10).step_by(5).take(2);
        for (i, (key, body)) in data.enumerate() {
            let payload = u64::from(chain::fuzzing::Header::decode(&body).unwrap().payload_at);
            match i {
                0 => drop(store.corrupt(&key, 60, 1)),
                _ => (payload..body.len() as u64).step_by(512).for_each(|at| {
                    store.corrupt(&key, at, 1);
                }),
            }
            sick.push(key);
        }
        let before = bytes_of_segments(&store);
        running.process.kill();
        // So little garbage is allowed that all of the first segments are to be emptied, in whatever order.
        setup.options.garbage = 0.05;
        setup.options.garbage_slack = ByteSize::kib(16);
        let running = start(&SimDisk::new(4), store.clone(), &setup, 4).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        for third in 0..2 {
            for at in (third * BLOCK..SECTORS).step_by(3 * BLOCK as usize) {
                model.write(&image, at, pattern(at + 9, (BLOCK * SECTOR) as usize, false)).await;
            }
            image.drain().await.unwrap();
        }
        for round in 0..120 {
            let at = round * 3 * BLOCK;
            model.write(&image, at, pattern(round, (BLOCK * SECTOR) as usize, false)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        image.drain().await.unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        for key in &sick {
            let told: Vec<String> =
                running.events.0.lock().iter().filter(|text| text.contains(key.as_str())).cloned().collect();
            assert_eq!(told.len(), 1, "{key}: {told:?}");
        }
        let left = bytes_of_segments(&store);
        assert!(
            left < SECTORS * SECTOR * 16 / 10 && left < before * 8 / 10,
            "{left} of {before} bytes are left"
        );
        assert!(
            sick.iter().all(|key| store.objects().iter().any(|(k, _)| k == key)),
            "what lives in it was thrown away"
        );
    });
}

/// A bucket that does not let segments be deleted for a while, and remembers which.
#[derive(Debug, Default)]
struct Undeletable {
    lifted: AtomicBool,
    refused: Mutex<BTreeSet<Key>>,
}

#[async_trait::async_trait]
impl Hook for Undeletable {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        match call {
            Call::Delete(key) if key.as_str().contains("/seg/") && !self.lifted.load(Ordering::Relaxed) => {
                self.refused.lock().insert(key.clone());
                Err(Error::new(ErrorKind::Denied, "not now"))
            }
            _ => Ok(()),
        }
    }
}

/// Garbage whose deletion failed is found by a later checkpoint, and goes then.
#[test]
fn a_deletion_that_failed_is_tried_again() {
    paused(async {
        let store = Hooked::new(Undeletable::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &setup(), 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        for lifted in [false, true] {
            store.hook.lifted.store(lifted, Ordering::Relaxed);
            for round in 0..6u64 {
                for at in (0..SECTORS).step_by(128) {
                    model.write(&image, at, pattern(round + at, 64 << 10, false)).await;
                }
                image.checkpoint().await.unwrap();
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
        let refused = store.hook.refused.lock().clone();
        assert!(refused.len() > 10, "only {} deletions were refused", refused.len());
        let left = store.inner.objects().into_iter().filter(|(key, _)| refused.contains(key)).count();
        assert_eq!(left, 0, "of {}", refused.len());
        verify(&model, &image).await;
    });
}

fn has_copies(header: &chain::Header) -> bool {
    header.extents.iter().any(|e| matches!(e.kind, ExtentKind::Moved { .. }))
}

/// A6: copies behind the checkpoint need the map to be understood. Where it is damaged they do not count, and nothing else suffers.
#[test]
fn a_damaged_map_does_not_keep_copies_from_opening() {
    paused(async {
        let store = Arc::new(Memory::new());
        let disk = SimDisk::new(3);
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&disk, store.clone(), &setup(), 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        let mut round = 0;
        loop {
            round += 1;
            assert!(round < 2000, "no copies behind a checkpoint");
            let at = round * 37 % (SECTORS / BLOCK) * BLOCK;
            model.write(&image, at, pattern(round, (BLOCK * SECTOR) as usize, false)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let loaded = chain::load(&*store, IMAGE).await.unwrap();
            if !loaded.checkpoint.runs.is_empty() && loaded.chain.members.iter().any(has_copies) {
                break;
            }
        }
        drop(image);
        running.crash(&disk);
        for (key, body) in store.objects().iter().filter(|(key, _)| key.as_str().contains("/map/")) {
            (0..body.len() as u64).step_by(50).for_each(|at| assert!(store.corrupt(key, at, 1)));
        }
        let running = start(&disk, store.clone(), &setup(), 4).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let (mut right, mut damaged) = (0, 0);
        for start in (0..SECTORS).step_by(BLOCK as usize) {
            let span = Span::new(start, BLOCK);
            match read(&image, span).await {
                Ok(bytes) => {
                    assert!(bytes == model.part(span), "wrong data in {span:?}");
                    right += 1;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                    damaged += 1;
                }
            }
        }
        assert!(right > 0 && damaged > 0, "{right} {damaged}");
    });
}

/// A bucket that gives no page of a map from the moment on at which copies were put.
#[derive(Debug, Default)]
struct NoMap {
    armed: AtomicBool,
    away: AtomicBool,
}

#[async_trait::async_trait]
impl Hook for NoMap {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        match call {
            Call::Get(key) if key.as_str().contains("/map/") && self.away.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Unavailable, "away"))
            }
            Call::Create(key, body)
                if key.as_str().contains("/seg/") && self.armed.load(Ordering::Relaxed) =>
            {
                let header = chain::fuzzing::Header::decode(&body.to_bytes()).unwrap();
                if has_copies(&header) {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    self.away.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Waits for that. It reads here and there: other pages of the map take the place of those that copying used.
async fn until_away(store: &Hooked<NoMap>, image: &Image) {
    for round in 0..20_000u64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = image.read(Span::new(round * 1237 % (SECTORS / BLOCK) * BLOCK, BLOCK)).await;
        if store.hook.away.load(Ordering::Relaxed) {
            return;
        }
    }
    panic!("nothing was copied");
}

/// A5: copies that cannot be mapped, because the part of the map that they need is out of reach, wait; the volume goes on.
#[test]
fn an_outage_while_copies_are_mapped_is_waited_for() {
    paused(async {
        let store = Hooked::new(NoMap::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &setup(), 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        image.checkpoint().await.unwrap();
        store.hook.armed.store(true, Ordering::Relaxed);
        for round in 0..20_000u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if round % 4 == 0 {
                let at = round / 4 * 37 % (SECTORS / BLOCK) * BLOCK;
                model.write(&image, at, pattern(round, (BLOCK * SECTOR) as usize, false)).await;
            }
            // Reads here and there: other pages of the map take the place of those that copying used.
            let _ = image.read(Span::new(round * 1237 % (SECTORS / BLOCK) * BLOCK, BLOCK)).await;
            if store.hook.away.load(Ordering::Relaxed) {
                break;
            }
        }
        assert!(store.hook.away.load(Ordering::Relaxed), "nothing was copied");
        store.hook.armed.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        image.usable().unwrap();
        assert!(image.status().trouble.is_some(), "the status says why nothing counts");
        store.hook.away.store(false, Ordering::Relaxed);
        image.drain().await.unwrap();
        assert_eq!(image.status().trouble, None);
        verify(&model, &image).await;
    });
}

/// The same, and nobody else waits for it: whoever asks for what is in the bucket already is answered at once.
#[test]
fn nobody_waits_while_copies_are_looked_up() {
    paused(async {
        let store = Hooked::new(NoMap::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &setup(), 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        image.checkpoint().await.unwrap();
        store.hook.armed.store(true, Ordering::Relaxed);
        until_away(&store, &image).await;
        let mut longest = Duration::ZERO;
        for _ in 0..6_000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let asked = tokio::time::Instant::now();
            image.drain().await.unwrap();
            longest = longest.max(asked.elapsed());
        }
        let trouble = image.status().trouble.map(|(_, text)| text).unwrap_or_default();
        assert!(trouble.contains("that was copied"), "nothing had to be looked up: {trouble:?}");
        assert!(longest < Duration::from_millis(50), "{longest:?}");
        store.hook.away.store(false, Ordering::Relaxed);
        verify(&model, &image).await;
    });
}

/// While a page of the map does not come, everything can be put and little counts: writes go on all the same.
#[test]
fn a_page_out_of_reach_does_not_stop_writes() {
    paused(async {
        let setup = setup();
        let store = Hooked::new(NoMap::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &setup, 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        wear(&mut model, &image).await;
        image.checkpoint().await.unwrap();
        store.hook.armed.store(true, Ordering::Relaxed);
        until_away(&store, &image).await;
        store.hook.armed.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let trouble = image.status().trouble.map(|(_, text)| text).unwrap_or_default();
        assert!(trouble.contains("that was copied"), "nothing had to be looked up: {trouble:?}");
        for n in 0..768u64 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let admission = match image.admit(BLOCK * SECTOR).await {
                Ok(admission) => admission,
                Err(e) => panic!(
                    "after {} KiB: {e}; local segments: {:?}, dirty: {:?}, {:?}",
                    n * 4,
                    image.status().spooled,
                    image.status().dirty,
                    running.events.0.lock()
                ),
            };
            let data = vec![pattern(n, (BLOCK * SECTOR) as usize, false)];
            image.write(n * 7 % (SECTORS / BLOCK) * BLOCK, data, false, admission).await.unwrap();
        }
    });
}
