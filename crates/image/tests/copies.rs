//! Buckets that are not the ones a cache disk was last used with: older copies, and copies in which somebody else went on (C01, C05). What
//! was acknowledged stays on the disk until the right bucket is back.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ErrorKind, ImageId, SECTOR, Span};
use bucket::{Memory, Outage};
use image::Image;
use local::SimDisk;
use rig::{Model, Setup, faulty, pattern, paused, read, start};

const IMAGE: ImageId = ImageId([0x51; 16]);
const SECTORS: u64 = 2048;

async fn scribble(model: &mut Model, image: &Image, rounds: std::ops::Range<u64>) {
    for round in rounds {
        model.write(image, (round * 37) % 900, pattern(round, 20 << 10, false)).await;
    }
}

async fn holds(image: &Image, model: &Model) {
    assert!(read(image, Span::new(0, SECTORS)).await.unwrap() == model.0);
}

/// What the gateway `alpha` leaves: a bucket as it was after its first run, the same after its second, and a disk that has
/// acknowledged writes of the second.
struct Left {
    older: Arc<Memory>,
    right: Arc<Memory>,
    disk: SimDisk,
    model: Model,
}

async fn left(drained: u64) -> Left {
    let right = Arc::new(Memory::new());
    image::create(&*right, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
    let disk = SimDisk::new(1);
    let (path, faults) = faulty(&right, 1);
    let running = start(&disk, path, &Setup::small(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut model, &image, 0..10).await;
    image.close().await.unwrap();
    let older = Arc::new(right.fork());
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut model, &image, 10..10 + drained).await;
    image.drain().await.unwrap();
    faults.set_outage(Outage::Refusing);
    scribble(&mut model, &image, 300..304).await;
    running.crash(&disk);
    Left { older, right, disk, model }
}

/// Every start finds what the first one found, however often it is tried.
async fn is_refused(left: &Left, bucket: &Arc<Memory>, words: &str) {
    for attempt in 0..3 {
        let before = bucket.digest();
        let running = start(&left.disk, bucket.clone(), &Setup::small(), 2).await.unwrap();
        for _ in 0..2 {
            let refused = running.open(IMAGE, None).await.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{attempt}: {refused}");
            assert!(refused.to_string().contains(words), "{attempt}: {refused}");
            assert!(refused.to_string().contains("put the present one back"), "{refused}");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(bucket.digest() == before, "{attempt}: who is refused leaves the bucket as it was");
        running.crash(&left.disk);
    }
    let running = start(&left.disk, left.right.clone(), &Setup::small(), 3).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    holds(&image, &left.model).await;
    image.close().await.unwrap();
    let fresh = start(&SimDisk::new(5), left.right.clone(), &Setup::small(), 4).await.unwrap();
    holds(&fresh.open(IMAGE, None).await.unwrap(), &left.model).await;
}

#[test]
fn an_older_bucket_is_refused_at_every_start() {
    paused(async {
        let left = left(200).await;
        let bucket = left.older.clone();
        is_refused(&left, &bucket, "nobody ever served it there in that epoch").await;
    });
}

/// In the copy another gateway went on from where that was closed, and closed it well.
async fn continued(rounds: u64, words: &str) {
    let left = left(200).await;
    let bucket = left.older.clone();
    let setup = Setup { name: "beta", ..Setup::small() };
    let other = start(&SimDisk::new(2), bucket.clone(), &setup, 2).await.unwrap();
    let image = other.open(IMAGE, None).await.unwrap();
    scribble(&mut Model(vec![0; (SECTORS * SECTOR) as usize]), &image, 0..rounds).await;
    image.close().await.unwrap();
    drop(other);
    is_refused(&left, &bucket, words).await;
}

#[test]
fn a_copy_in_which_another_gateway_wrote_less_is_refused() {
    paused(continued(3, "gateway \"beta\"'s"));
}

#[test]
fn a_copy_in_which_another_gateway_wrote_more_is_refused() {
    paused(continued(400, "gateway \"beta\"'s"));
}

/// Also if the journal has all that it lacks: it could go on from there, but only as long as no opening stops on the way.
#[test]
fn an_older_bucket_that_the_journal_could_go_on_from_is_refused() {
    paused(async {
        let left = left(0).await;
        let bucket = left.older.clone();
        is_refused(&left, &bucket, "nobody ever served it there in that epoch").await;
    });
}

/// An image all of which is in its bucket is opened in an older copy of that: what the journal shows of the time after, all of it released,
/// does not make the journal unreadable.
#[test]
fn a_rolled_back_image_leaves_a_journal_that_opens() {
    paused(async {
        let right = Arc::new(Memory::new());
        image::create(&*right, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let disk = SimDisk::new(1);
        let running = start(&disk, right.clone(), &Setup::small(), 1).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        let image = running.open(IMAGE, None).await.unwrap();
        scribble(&mut model, &image, 0..2).await;
        image.close().await.unwrap();
        let older = Arc::new(right.fork());
        let image = running.open(IMAGE, None).await.unwrap();
        scribble(&mut Model(model.0.clone()), &image, 2..4).await;
        image.close().await.unwrap();
        let image = running.open_on(older.clone(), IMAGE, None).await.unwrap();
        scribble(&mut model, &image, 10..11).await;
        running.crash(&disk);
        let running = start(&disk, older, &Setup::small(), 2).await.unwrap();
        holds(&running.open(IMAGE, None).await.unwrap(), &model).await;
    });
}

/// One epoch number in the bucket and in an older copy of it: the gateway served from the copy for a while, and what it acknowledged there, in
/// the journal or (`spooled`) only in local segments, is not in the bucket, though that has as many records of an epoch of that number.
async fn served_twice(spooled: bool, words: &str) {
    const BEFORE: ImageId = ImageId([0x52; 16]);
    const AFTER: ImageId = ImageId([0x53; 16]);
    // So many writes that the journal shows nothing of what was before.
    const OVER_ALL: u64 = 300;
    let zeros = || Model(vec![0; (SECTORS * SECTOR) as usize]);
    let right = Arc::new(Memory::new());
    for image in [IMAGE, BEFORE, AFTER] {
        image::create(&*right, 0, image, "vol", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    }
    let disk = SimDisk::new(1);
    let mut model = zeros();
    let running = start(&disk, right.clone(), &Setup::small(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut model, &image, 0..2).await;
    image.close().await.unwrap();
    let older = Arc::new(right.fork());
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut Model(model.0.clone()), &image, 2..200).await;
    image.close().await.unwrap();
    let other = running.open(BEFORE, None).await.unwrap();
    scribble(&mut zeros(), &other, 0..OVER_ALL).await;
    other.close().await.unwrap();
    running.crash(&disk);

    let (path, faults) = faulty(&older, 1);
    let running = start(&disk, path, &Setup::small(), 2).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    let other = running.open(AFTER, None).await.unwrap();
    faults.set_outage(Outage::Refusing);
    scribble(&mut model, &image, 600..603).await;
    if spooled {
        scribble(&mut zeros(), &other, 600..600 + OVER_ALL).await;
        assert_eq!(running.env.journal.usage_of(IMAGE).records, 0);
        assert!(!running.spool.list(IMAGE).is_empty());
    }
    running.crash(&disk);

    is_refused(&Left { older: right.clone(), right: older, disk, model }, &right, words).await;
}

#[test]
fn records_of_another_history_are_not_taken_for_uploaded() {
    paused(served_twice(false, "another start of this gateway"));
}

#[test]
fn local_segments_of_another_history_are_not_taken_for_uploaded() {
    paused(served_twice(true, "is another one"));
}

/// The disk of a gateway that was copied while it ran, and the same disk when that gateway is gone: both have acknowledged writes, and
/// those of the copy are in the bucket.
struct Copied {
    bucket: Arc<Memory>,
    original: SimDisk,
    copy: SimDisk,
    /// What the copy's gateway has acknowledged.
    model: Model,
}

/// After the copy was made the original's gateway acknowledged `rounds` writes, of which the bucket has `drained`; the copy's acknowledged
/// `others` behind what the bucket had then, and closed the image if it says so.
async fn copied(drained: u64, rounds: u64, others: u64, closed: bool) -> Copied {
    let bucket = Arc::new(Memory::new());
    image::create(&*bucket, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
    let original = SimDisk::new(1);
    let (path, faults) = faulty(&bucket, 1);
    let running = start(&original, path, &Setup::small(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut model, &image, 0..10).await;
    image.drain().await.unwrap();
    let copy = original.fork(2);
    scribble(&mut model, &image, 10..10 + drained).await;
    image.drain().await.unwrap();
    faults.set_outage(Outage::Refusing);
    scribble(&mut Model(model.0.clone()), &image, 300..300 + rounds).await;
    running.crash(&original);
    let running = start(&copy, bucket.clone(), &Setup::small(), 2).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut model, &image, 600..600 + others).await;
    match closed {
        true => image.close().await.unwrap(),
        false => image.drain().await.unwrap(),
    }
    running.crash(&copy);
    Copied { bucket, original, copy, model }
}

async fn a_copy_went_on(drained: u64, others: u64, closed: bool) {
    let Copied { bucket, original, copy, model } = copied(drained, 4, others, closed).await;
    for attempt in 0..3 {
        let before = bucket.digest();
        let running = start(&original, bucket.clone(), &Setup::small(), 10 + attempt).await.unwrap();
        for accept_loss in [None, Some(base::Epoch(2))] {
            let refused = running.open(IMAGE, accept_loss).await.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
            assert!(refused.to_string().contains("on a copy of this disk"), "{refused}");
            assert!(refused.to_string().contains("put the present one back"), "{refused}");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(bucket.digest() == before, "{attempt}: who is refused leaves the bucket as it was");
        let kept = running.env.journal.usage_of(IMAGE).records + running.spool.list(IMAGE).len() as u64;
        assert!(kept > 0, "{attempt}: and its disk");
        running.crash(&original);
    }
    let running = start(&copy, bucket.clone(), &Setup::small(), 20).await.unwrap();
    holds(&running.open(IMAGE, None).await.unwrap(), &model).await;
}

#[test]
fn a_disk_whose_copy_went_on_is_refused() {
    paused(async {
        for (drained, others, closed) in [(0, 1, false), (0, 200, false), (20, 3, true), (20, 200, true)] {
            a_copy_went_on(drained, others, closed).await;
        }
    });
}

/// All that the original acknowledged is in the bucket: it loses nothing, and goes on behind the copy as behind any other gateway.
#[test]
fn a_disk_without_a_tail_goes_on_behind_its_copy() {
    paused(async {
        let Copied { bucket, original, copy, model } = copied(20, 0, 50, true).await;
        let running = start(&original, bucket.clone(), &Setup::small(), 10).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        holds(&image, &model).await;
        running.crash(&original);
        // Now it is the copy that may not know what the other has.
        let running = start(&copy, bucket.clone(), &Setup::small(), 20).await.unwrap();
        let refused = running.open(IMAGE, None).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        assert!(refused.to_string().contains("on a copy of this cache disk"), "{refused}");
        let epoch = image::Unclosed::find(&refused).unwrap().epoch;
        running.crash(&copy);
        let running = start(&copy, bucket, &Setup::small(), 21).await.unwrap();
        holds(&running.open(IMAGE, Some(epoch)).await.unwrap(), &model).await;
    });
}

/// A local segment that was not removed in time, though the bucket has it, and the image was closed: it is no fork when another gateway has the
/// image since, and none when this one opens it again.
#[test]
fn local_segments_that_the_bucket_has_are_no_forks() {
    paused(async {
        let bucket = Arc::new(Memory::new());
        image::create(&*bucket, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        let disk = SimDisk::new(1);
        let (path, faults) = faulty(&bucket, 1);
        let running = start(&disk, path, &Setup::small(), 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        faults.set_outage(Outage::Refusing);
        scribble(&mut model, &image, 0..40).await;
        let kept: Vec<_> = disk.names().into_iter().filter(|name| name.starts_with("spool/")).collect();
        let kept: Vec<_> = kept.into_iter().map(|name| (disk.contents(&name).unwrap(), name)).collect();
        assert!(!kept.is_empty() && kept.iter().all(|(bytes, _)| !bytes.is_empty()));
        faults.clear();
        image.close().await.unwrap();
        running.crash(&disk);
        for (bytes, name) in kept {
            let file = disk.mount().create(&name, bytes.len() as u64).await.unwrap();
            file.write_durable(0, &[bytes.into()]).await.unwrap();
        }
        let setup = Setup { name: "beta", ..Setup::small() };
        let other = start(&SimDisk::new(2), bucket.clone(), &setup, 2).await.unwrap();
        let theirs = other.open(IMAGE, None).await.unwrap();
        let again = disk.fork(3);
        for (disk, opens) in [(disk, false), (again, true)] {
            if opens {
                theirs.close().await.unwrap();
            }
            let running = start(&disk, bucket.clone(), &Setup::small(), 3).await.unwrap();
            assert!(!image::forks(&running.spool, IMAGE, base::Epoch(9)).is_empty());
            let opened = running.open(IMAGE, None).await;
            assert_eq!(opened.is_ok(), opens, "{:?}", opened.err());
            if let Ok(image) = &opened {
                holds(image, &model).await;
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(image::forks(&running.spool, IMAGE, base::Epoch(9)), [], "{opens}");
        }
    });
}
