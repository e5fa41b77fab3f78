//! One bit flipped anywhere (acceptance line A6; requirements C05, B12): in every object of a small image, and in the files of
//! its cache disk. What is read is right, or is refused as corrupt by a message that names the place; it is never wrong.
//!
//! A test run tries metadata at every byte and payload at strides; `cargo xtask soak damage` tries every byte of everything.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{ByteSize, ErrorKind, ImageId, SECTOR, Span};
use bucket::{Attributes, Bucket, Key, Memory, Outage};
use image::Image;
use local::{CacheOptions, JournalOptions, SimDisk};
use rig::flips::{self, Place, bit};
use rig::{EventList, Model, Running, Setup, faulty, pattern, paused, read, start};

const IMAGE: ImageId = ImageId([0x51; 16]);
const SECTORS: u64 = 256;
/// Reads are this long, so that damage in one frame does not hide wrong bytes in another.
const STEP: u64 = 32;

/// A gateway with as little journal as there can be, and a cache that reads its disk each time.
fn tiny() -> Setup {
    let small = Setup::small();
    let journal = JournalOptions {
        capacity: 256 << 10,
        file_size: 64 << 10,
        max_reserved: 64 << 10,
        ..small.journal.clone()
    };
    Setup { journal, cache: CacheOptions { capacity: 16 << 20, memory: 0, ..small.cache.clone() }, ..small }
}

/// A bit of everything: large and small, packed well and not, zeroed, discarded, overwritten.
async fn fill(model: &mut Model, image: &Image, round: u64) {
    model.write(image, 32 * (round % 4), pattern(round, 16 << 10, false)).await;
    model.write(image, 160 + round, pattern(round + 50, 8 << 10, true)).await;
    for i in 0..4 {
        model.write(image, 20 * i + round, pattern(round * 10 + i, 1536, i % 2 == 0)).await;
    }
    model.zero(image, Span::new(130 + round, 10), round.is_multiple_of(2)).await;
    image.set_state("reservations", Some(pattern(round, 40, false))).await.unwrap();
}

/// Whether a text names an object or a file and, behind it, an offset of it that lies not behind what was flipped.
fn names(text: &str, name: &str, at: u64) -> bool {
    let named = |rest: &str| {
        rest.split(" at ").skip(1).any(|rest| {
            let number = rest.strip_prefix("offset ").unwrap_or(rest);
            number.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().is_ok_and(|n: u64| n <= at)
        })
    };
    text.split_once(name).is_some_and(|(_, rest)| named(rest))
}

/// What was refused is refused for the damage, by name.
fn assert_named(e: &base::Error, name: &str, at: u64) {
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    assert!(names(&e.to_string(), name, at), "the error does not name {name} and offset: {e}");
}

fn assert_told(events: &EventList, name: &str, at: u64) {
    let events = events.0.lock();
    assert!(events.iter().any(|text| names(text, name, at)), "no event names {name} and offset: {events:?}");
}

/// Reads everything: how many reads were refused, each with an event that names what was damaged, and where.
async fn check(running: &Running, image: &Image, model: &Model, name: &str, at: u64) -> usize {
    let mut refused = 0;
    for start in (0..SECTORS).step_by(STEP as usize) {
        let span = Span::new(start, STEP);
        match read(image, span).await {
            Ok(content) => assert!(content == model.part(span), "wrong data in {span:?}"),
            Err(e) => {
                refused += 1;
                assert_named(&e, name, at);
                assert_told(&running.events, name, at);
            }
        }
    }
    refused
}

/// Reads everything of an image to which nothing was done.
async fn check_all(running: &Running, image: &Image, model: &Model) {
    assert_eq!(check(running, image, model, "nothing", 0).await, 0);
}

/// A closed image with two terms of ownership, several checkpoints and garbage collected, and its disk.
async fn closed_image() -> (Arc<Memory>, Model) {
    let store = Arc::new(Memory::new());
    let (disk, setup) = (SimDisk::new(1), tiny());
    image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
    for term in 0..2 {
        let running = start(&disk, store.clone(), &setup, term).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        for round in 0..2 {
            fill(&mut model, &image, term * 4 + round).await;
            image.checkpoint().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        fill(&mut model, &image, term * 4 + 9).await;
        image.close().await.unwrap();
        running.env.journal.close().await.unwrap();
        running.process.kill();
    }
    (store, model)
}

/// A sample of an object: all of what is not payload, and strides through payload.
fn of_object(key: &Key, body: &[u8]) -> Place {
    let metadata = match key.as_str().contains("/seg/") {
        true => chain::fuzzing::Header::decode(body).unwrap().payload_at as usize,
        false => body.len(),
    };
    let sample = (0..metadata).chain((metadata..body.len()).step_by(4093)).map(|at| at as u64).collect();
    Place { name: key.to_string(), len: body.len() as u64, sample, holes: vec![] }
}

#[test]
fn one_bit_in_the_bucket() {
    let (store, model) = paused(closed_image());
    let blank = SimDisk::new(2);
    paused(async {
        let running = start(&blank, store.clone(), &tiny(), 0).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        running.env.journal.close().await.unwrap();
        running.crash(&blank);
        forget_cache(&blank).await;
    });
    let places: Vec<Place> = store.objects().iter().map(|(key, body)| of_object(key, body)).collect();
    let count = flips::each("one_bit_in_the_bucket", &places, |name, range| {
        let damaged = Arc::new(store.fork());
        let key = Key::new(name).unwrap();
        range.clone().for_each(|at| assert!(damaged.corrupt(&key, at, 1 << bit(at))));
        paused(async {
            let running = start(&blank.fork(range.start), damaged, &tiny(), range.start).await.unwrap();
            let right = match running.open(IMAGE, None).await {
                Ok(image) => check(&running, &image, &model, name, range.start).await == 0,
                // The gateway makes an event of it.
                Err(e) => {
                    assert_named(&e, name, range.start);
                    false
                }
            };
            running.process.kill();
            right
        })
    });
    count.assert_at_least(1000, 500);
}

/// A frame that has rotted in the bucket is still in the cache: nobody notices.
#[test]
fn a_cached_frame_outlives_its_object() {
    let (store, model) = paused(closed_image());
    paused(async {
        let disk = SimDisk::new(3);
        let cache = CacheOptions { capacity: 32 << 20, ..CacheOptions::default() };
        let setup = Setup { cache, ..tiny() };
        let running = start(&disk, store.clone(), &setup, 0).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        check_all(&running, &image, &model).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        for (key, body) in store.objects() {
            if key.as_str().contains("/seg/") {
                let payload = chain::fuzzing::Header::decode(&body).unwrap().payload_at;
                (u64::from(payload)..body.len() as u64).step_by(61).for_each(|at| {
                    store.corrupt(&key, at, 4);
                });
            }
        }
        check_all(&running, &image, &model).await;
    });
}

/// The disk of a gateway that was stopped with a warm cache.
async fn warm_disk(store: &Arc<Memory>, model: &Model) -> SimDisk {
    let disk = SimDisk::new(4);
    let running = start(&disk, store.clone(), &tiny(), 0).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    check_all(&running, &image, model).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    image.close().await.unwrap();
    running.env.journal.close().await.unwrap();
    running.env.cache.close().await.unwrap();
    running.process.kill();
    disk
}

/// A sample of a file of the cache. Most of a slab holds nothing yet.
fn of_cache_file(name: &str, body: &[u8]) -> Place {
    const HOLE: usize = 1 << 20;
    let mut holes: Vec<Range<u64>> = Vec::new();
    for (at, block) in
        (0..).step_by(4096).zip(body.chunks(4096)).filter(|(_, block)| block.iter().all(|b| *b == 0))
    {
        let end = at + block.len() as u64;
        match holes.last_mut().filter(|hole| hole.end == at && at - hole.start < HOLE as u64) {
            Some(hole) => hole.end = end,
            None => holes.push(at..end),
        }
    }
    let step = if name.ends_with(".slab") { 409 } else { 1 };
    let held = |at: &u64| !holes.iter().any(|hole| hole.contains(at));
    let sample = (0..body.len() as u64).filter(held).step_by(step).collect();
    Place { name: name.to_owned(), len: body.len() as u64, sample, holes }
}

/// Rot in the cache costs a fetch, no more.
#[test]
fn one_bit_in_the_cache() {
    let (store, model) = paused(closed_image());
    let disk = paused(warm_disk(&store, &model));
    let files = disk.names().into_iter().filter(|name| name.starts_with("cache/"));
    let places: Vec<Place> = files.map(|name| of_cache_file(&name, &disk.contents(&name).unwrap())).collect();
    assert!(places.len() > 1, "the cache left no index");
    let (found, unused) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = flips::each("one_bit_in_the_cache", &places, |name, range| {
        let damaged = disk.fork(range.start);
        range.clone().for_each(|at| damaged.rot_bit(name, at, bit(at)));
        paused(async {
            let bucket = Arc::new(store.fork());
            let running = start(&damaged, bucket, &tiny(), range.start).await.unwrap();
            let warm = running.env.cache.stats().lines > 0;
            let image = running.open(IMAGE, None).await.unwrap();
            check_all(&running, &image, &model).await;
            let stats = running.env.cache.stats();
            assert!(!warm || stats.hits > 0, "the cache was not read: {stats:?}");
            found.fetch_add(stats.corrupt.min(1), Ordering::Relaxed);
            unused.fetch_add(u64::from(!warm), Ordering::Relaxed);
            running.process.kill();
        });
        true
    });
    println!("{found:?} times a line was found damaged, {unused:?} times the index");
    count.assert_at_least(1000, 0);
    assert!(count.right < 1000 || found.into_inner() > 100 && unused.into_inner() > 100);
}

/// The cache is forgotten by a restart anyway; without its big file the trials are quick.
async fn forget_cache(disk: &SimDisk) {
    let mounted = disk.mount();
    for name in disk.names().iter().filter(|name| name.starts_with("cache/")) {
        mounted.remove(name).await.unwrap();
    }
    disk.crash();
    disk.restart();
}

/// An image that was cut off from its bucket: dirty data in the journal and in local segments.
async fn dirty_disk(store: &Arc<Memory>) -> (SimDisk, Model) {
    let disk = SimDisk::new(5);
    let (path, faults) = faulty(store, 1);
    image::create(&**store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
    let running = start(&disk, path, &tiny(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    fill(&mut model, &image, 1).await;
    image.drain().await.unwrap();
    faults.set_outage(Outage::Refusing);
    for round in 2..10 {
        fill(&mut model, &image, round).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(image.status().spooled.0 > 0, "nothing was spooled");
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.crash(&disk);
    forget_cache(&disk).await;
    (disk, model)
}

/// A sample of a file: every byte of the first block of what is in it, strides elsewhere; zeroes behind the end of a journal
/// only seldom.
fn of_file(name: &str, body: &[u8]) -> Place {
    let used =
        |at: usize| body[at / 4096 * 4096..(at / 4096 * 4096 + 4096).min(body.len())].iter().any(|b| *b != 0);
    let fine = (0..body.len()).filter(|at| used(*at) && (at % 4096 < 160 || at % 4096 % 509 == 0));
    let coarse = (0..body.len()).step_by(40_009);
    let mut sample: Vec<u64> = fine.step_by(7).chain(coarse).map(|at| at as u64).collect();
    sample.sort_unstable();
    sample.dedup();
    Place { name: name.to_owned(), len: body.len() as u64, sample, holes: vec![] }
}

#[test]
fn one_bit_on_the_cache_disk() {
    let store = Arc::new(Memory::new());
    let (disk, model) = paused(dirty_disk(&store));
    let places: Vec<Place> =
        disk.names().iter().map(|name| of_file(name, &disk.contents(name).unwrap())).collect();
    let count = flips::each("one_bit_on_the_cache_disk", &places, |name, range| {
        let damaged = disk.fork(range.start);
        range.clone().for_each(|at| damaged.rot_bit(name, at, bit(at)));
        paused(async {
            let trial = survives(&damaged, &store, &model, name, range.start);
            let ended = tokio::time::timeout(Duration::from_secs(3600), trial).await;
            ended.unwrap_or_else(|_| panic!("nothing goes on"))
        })
    });
    count.assert_at_least(500, 100);
}

/// Whether all is read right; a refusal must name the file, and where in it.
async fn survives(disk: &SimDisk, store: &Arc<Memory>, model: &Model, name: &str, at: u64) -> bool {
    let bucket: Arc<dyn Bucket> = Arc::new(store.fork());
    let file = name.rsplit('/').next().unwrap();
    // The gateway makes events of the first two.
    let running = match start(disk, bucket, &tiny(), at).await {
        Ok(running) => running,
        Err(e) => {
            assert_named(&e, file, at);
            return false;
        }
    };
    let image = match running.open(IMAGE, None).await {
        Ok(image) => image,
        Err(e) => {
            assert_named(&e, file, at);
            return false;
        }
    };
    let whole = check(&running, &image, model, file, at).await == 0;
    // Uploading it must not hide it either.
    if let Err(e) = image.drain().await {
        assert_named(&e, file, at);
        assert_told(&running.events, file, at);
        return false;
    }
    let still = check(&running, &image, model, file, at).await == 0;
    running.process.kill();
    whole && still
}

/// A checkpoint whose segment table lacks a row that its map names: what lies there is refused, and nothing else.
#[test]
fn a_row_that_is_missing() {
    let (store, model) = paused(closed_image());
    // The names of the newest sort first.
    let (key, body) = store.objects().into_iter().find(|(key, _)| key.as_str().contains("/ckpt/")).unwrap();
    let mut root = chain::fuzzing::Checkpoint::decode(&body).unwrap();
    let (row, _) = root.table.iter().max_by_key(|(_, row)| row.live).unwrap();
    let row = *row;
    root.table.remove(&row);
    paused(async {
        assert!(store.lose(&key));
        store.create(&key, &root.encode().into(), &Attributes::default()).await.unwrap();
        let running = start(&SimDisk::new(3), store.clone(), &tiny(), 3).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut refused = 0;
        for start in (0..SECTORS).step_by(STEP as usize) {
            let span = Span::new(start, STEP);
            match read(&image, span).await {
                Ok(content) => assert!(content == model.part(span), "wrong data in {span:?}"),
                Err(e) => {
                    refused += 1;
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                    assert!(
                        running.events.any_names(&format!("row {row} ")),
                        "{:?}",
                        running.events.0.lock()
                    );
                }
            }
        }
        assert!((1..SECTORS / STEP).contains(&refused), "{refused}");
    });
}
