//! One bit flipped anywhere (acceptance line A6; requirements C05, B12): in every object of a small image, and in the files of
//! its cache disk. What is read is right, or is refused as corrupt by a message that names the place; it is never wrong.
//!
//! Metadata is tried at every byte, payload at strides.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ErrorKind, ImageId, SECTOR, Span};
use bucket::{Attributes, Bucket, Key, Memory, Outage};
use image::Image;
use local::SimDisk;
use rig::{EventList, Model, Setup, faulty, pattern, paused, read, start};

const IMAGE: ImageId = ImageId([0x51; 16]);
const SECTORS: u64 = 1024;
/// Reads are this long, so that damage in one frame does not hide wrong bytes in another.
const STEP: u64 = 64;

/// A bit of everything: large and small, packed well and not, zeroed, discarded, overwritten.
async fn fill(model: &mut Model, image: &Image, round: u64) {
    model.write(image, 128 * (round % 4), pattern(round, 64 << 10, false)).await;
    model.write(image, 700 + round, pattern(round + 50, 16 << 10, true)).await;
    for i in 0..4 {
        model.write(image, 40 * i + round, pattern(round * 10 + i, 1536, i % 2 == 0)).await;
    }
    model.zero(image, Span::new(500 + round, 20), round.is_multiple_of(2)).await;
    image.set_state("reservations", Some(pattern(round, 40, false))).await.unwrap();
}

async fn check(image: &Image, model: &Model, events: &EventList, place: &str) -> usize {
    let mut refused = 0;
    for start in (0..SECTORS).step_by(STEP as usize) {
        let span = Span::new(start, STEP);
        match read(image, span).await {
            Ok(content) => assert!(content == model.part(span), "{place}: wrong data in {span:?}"),
            Err(e) => {
                refused += 1;
                assert_eq!(e.kind(), ErrorKind::Corrupt, "{place}: {e}");
                let named = |text: &str| text.contains(place) && text.contains("offset");
                assert!(named(&e.to_string()), "{place}: the error names it not: {e}");
                assert!(events.0.lock().iter().any(|t| named(t)), "{place}: no event: {:?}", events.0.lock());
            }
        }
    }
    refused
}

/// A closed image with two terms of ownership, several checkpoints and garbage collected, and its disk.
async fn closed_image() -> (Arc<Memory>, Model) {
    let store = Arc::new(Memory::new());
    let (disk, setup) = (SimDisk::new(1), Setup::small());
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

/// Where to flip: all of what is not payload, and strides through payload.
fn offsets(key: &Key, body: &[u8]) -> Vec<u64> {
    let metadata = match key.as_str().contains("/seg/") {
        true => chain::fuzzing::Header::decode(body).unwrap().payload_at as usize,
        false => body.len(),
    };
    (0..metadata).chain((metadata..body.len()).step_by(4093)).map(|at| at as u64).collect()
}

#[test]
fn one_bit_in_the_bucket() {
    let (store, model) = paused(closed_image());
    let blank = SimDisk::new(2);
    paused(async {
        let running = start(&blank, store.clone(), &Setup::small(), 0).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        running.env.journal.close().await.unwrap();
        running.crash(&blank);
        forget_cache(&blank).await;
    });
    let (mut tried, mut refused_open, mut refused_read) = (0, 0, 0);
    for (key, body) in store.objects() {
        for (i, at) in offsets(&key, &body).into_iter().enumerate() {
            let damaged = Arc::new(store.fork());
            assert!(damaged.corrupt(&key, at, 1 << (i % 8)));
            let place = key.to_string();
            tried += 1;
            paused(async {
                let disk = blank.fork(at);
                let running = start(&disk, damaged, &Setup::small(), at).await.unwrap();
                match running.open(IMAGE, None).await {
                    Ok(image) => refused_read += check(&image, &model, &running.events, &place).await,
                    Err(e) => {
                        refused_open += 1;
                        assert_eq!(e.kind(), ErrorKind::Corrupt, "{place} at {at}: {e}");
                        assert!(e.to_string().contains(&place), "{place} at {at}: named not in: {e}");
                    }
                }
                running.process.kill();
            });
        }
    }
    println!("{tried} flips: {refused_open} opens and {refused_read} reads refused");
    assert!(tried > 2000 && refused_open > 100 && refused_read > 10, "{tried} {refused_open} {refused_read}");
}

/// A frame that has rotted in the bucket is still in the cache: nobody notices.
#[test]
fn a_cached_frame_outlives_its_object() {
    let (store, model) = paused(closed_image());
    paused(async {
        let disk = SimDisk::new(3);
        let cache = local::CacheOptions { capacity: 32 << 20, ..local::CacheOptions::default() };
        let setup = Setup { cache, ..Setup::small() };
        let running = start(&disk, store.clone(), &setup, 0).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        assert_eq!(check(&image, &model, &running.events, "nothing").await, 0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for (key, body) in store.objects() {
            if key.as_str().contains("/seg/") {
                let payload = chain::fuzzing::Header::decode(&body).unwrap().payload_at;
                (u64::from(payload)..body.len() as u64).step_by(61).for_each(|at| {
                    store.corrupt(&key, at, 4);
                });
            }
        }
        assert_eq!(check(&image, &model, &running.events, "nothing").await, 0);
    });
}

/// Rot in the cache costs a fetch, no more.
#[test]
fn one_bit_in_the_cache() {
    let (store, model) = paused(closed_image());
    paused(async {
        let disk = SimDisk::new(4);
        disk.set_cold(0);
        let running = start(&disk, store.clone(), &Setup::small(), 0).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut hits = 0;
        for round in 0..24 {
            assert_eq!(check(&image, &model, &running.events, "nothing").await, 0);
            tokio::time::sleep(Duration::from_secs(5)).await;
            for name in disk.names().iter().filter(|n| n.starts_with("cache/")) {
                let len = disk.contents(name).unwrap().len() as u64;
                for at in (round * 61..len).step_by(4096) {
                    disk.rot_bit(name, at, (round % 8) as u8);
                    hits += 1;
                }
            }
        }
        assert!(hits > 1000, "only {hits} bytes rotted");
    });
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
    let running = start(&disk, path, &Setup::small(), 1).await.unwrap();
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

/// Every byte of the first block of what is in a file, strides elsewhere; zeroes behind the end of a journal only seldom.
fn file_offsets(body: &[u8]) -> Vec<u64> {
    let used =
        |at: usize| body[at / 4096 * 4096..(at / 4096 * 4096 + 4096).min(body.len())].iter().any(|b| *b != 0);
    let fine = (0..body.len()).filter(|at| used(*at) && (at % 4096 < 160 || at % 4096 % 509 == 0));
    let coarse = (0..body.len()).step_by(40_009);
    let mut all: Vec<u64> = fine.step_by(7).chain(coarse).map(|at| at as u64).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn one_bit_on_the_cache_disk() {
    let store = Arc::new(Memory::new());
    let (disk, model) = paused(dirty_disk(&store));
    let (mut tried, mut refused) = (0, 0);
    for name in disk.names() {
        println!("{name}: {tried} {refused}");
        for (i, at) in file_offsets(&disk.contents(&name).unwrap()).into_iter().enumerate() {
            tried += 1;
            let damaged = disk.fork(at);
            damaged.rot_bit(&name, at, (i % 8) as u8);
            let whole = paused(async {
                let trial = survives(&damaged, &store, &model, &name, at);
                let ended = tokio::time::timeout(Duration::from_secs(3600), trial).await;
                ended.unwrap_or_else(|_| panic!("{name} at {at}: nothing goes on"))
            });
            refused += usize::from(!whole);
        }
    }
    println!("{tried} flips: {refused} refused");
    assert!(tried > 1000 && refused > 100, "{tried} {refused}");
}

/// Whether all is read right; a refusal must name the file.
async fn survives(disk: &SimDisk, store: &Arc<Memory>, model: &Model, name: &str, at: u64) -> bool {
    let bucket: Arc<dyn Bucket> = Arc::new(store.fork());
    let file = name.rsplit('/').next().unwrap();
    let named = |e: &base::Error| {
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{name} at {at}: {e}");
        assert!(e.to_string().contains(file), "{name} at {at} is not named: {e}");
        false
    };
    let running = match start(disk, bucket, &Setup::small(), at).await {
        Ok(running) => running,
        Err(e) => return named(&e),
    };
    let image = match running.open(IMAGE, None).await {
        Ok(image) => image,
        Err(e) => return named(&e),
    };
    let whole = check_disk(&image, model, &named).await;
    // Uploading it must not hide it either.
    if let Err(e) = image.drain().await {
        named(&e);
        assert!(running.events.any_names(file), "{name} at {at}: no event");
        return false;
    }
    running.process.kill();
    check_disk(&image, model, &named).await && whole
}

async fn check_disk(image: &Image, model: &Model, named: &impl Fn(&base::Error) -> bool) -> bool {
    let mut whole = true;
    for start in (0..SECTORS).step_by(STEP as usize) {
        let span = Span::new(start, STEP);
        match read(image, span).await {
            Ok(content) => assert!(content == model.part(span), "wrong data in {span:?}"),
            Err(e) => whole = named(&e),
        }
    }
    whole
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
        let running = start(&SimDisk::new(3), store.clone(), &Setup::small(), 3).await.unwrap();
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
