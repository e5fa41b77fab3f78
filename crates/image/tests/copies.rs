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
        is_refused(&left, &bucket, "records between them are missing").await;
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

/// An older bucket whose rest is still in the journal, all of it, is as good as the right one.
#[test]
fn an_older_bucket_that_the_journal_goes_on_from_opens() {
    paused(async {
        let left = left(0).await;
        let running = start(&left.disk, left.older.clone(), &Setup::small(), 2).await.unwrap();
        holds(&running.open(IMAGE, None).await.unwrap(), &left.model).await;
    });
}
