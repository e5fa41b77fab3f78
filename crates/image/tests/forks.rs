//! An image that another gateway took over (acceptance line A4; requirements B03, C04): what the older owner had acknowledged and
//! the bucket had not is kept as a fork, whether the older owner was awake, asleep or dead; it opens as a volume of its own with
//! every acknowledged write, also after the new owner has collected garbage.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{ByteSize, Epoch, Error, ErrorKind, ImageId, Result, SECTOR, Span};
use bucket::{Bucket, Memory, Outage};
use image::{Condition, Image};
use local::SimDisk;
use rig::hooked::{Call, Hook, Hooked};
use rig::{Model, Setup, faulty, pattern, paused, read, start};

const IMAGE: ImageId = ImageId([0x51; 16]);
const CLONE: ImageId = ImageId([0x77; 16]);
const SECTORS: u64 = 1024;

async fn same(image: &Image, model: &Model) {
    for start in (0..SECTORS).step_by(64) {
        let span = Span::new(start, 64);
        assert!(read(image, span).await.unwrap() == model.part(span), "wrong data in {span:?}");
    }
}

async fn scribble(model: &mut Model, image: &Image, rounds: std::ops::Range<u64>) {
    for round in rounds {
        model.write(image, (round * 37) % 900, pattern(round, 20 << 10, round % 2 == 0)).await;
        model.zero(image, Span::new((round * 91) % 1000, 9), round % 3 == 0).await;
    }
}

/// How the older owner ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Older {
    /// It wakes up and finds itself fenced.
    Wakes,
    /// It was killed, and starts again without being allowed to open.
    Refused,
    /// It was killed, and takes the image back.
    TakesBack,
}

async fn story(older: Older) {
    let store = Arc::new(Memory::new());
    let (alpha, beta) = (SimDisk::new(1), SimDisk::new(2));
    let (path, faults) = faulty(&store, 1);
    let beta_setup = Setup { name: "beta", ..Setup::small() };
    image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut mine = Model(vec![0; (SECTORS * SECTOR) as usize]);

    let running = start(&alpha, path.clone(), &Setup::small(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut mine, &image, 0..20).await;
    image.drain().await.unwrap();
    let mut theirs = Model(mine.0.clone());
    faults.set_outage(Outage::Refusing);
    scribble(&mut mine, &image, 20..60).await;
    assert!(image.status().spooled.0 > 0, "part of it is in local segments, part in the journal");

    // The other gateway gives that up, writes its own and collects garbage.
    let other = start(&beta, store.clone(), &beta_setup, 2).await.unwrap();
    assert_eq!(other.open(IMAGE, None).await.err().unwrap().kind(), ErrorKind::Denied);
    let new = other.open(IMAGE, Some(image.epoch())).await.unwrap();
    same(&new, &theirs).await;
    for round in 100..160 {
        scribble(&mut theirs, &new, round..round + 1).await;
        if round % 10 == 0 {
            new.checkpoint().await.unwrap();
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    }
    same(&new, &theirs).await;

    faults.clear();
    let running = match older {
        Older::Wakes => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(matches!(image.status().condition, Condition::Fenced(_)), "{:?}", image.status());
            assert_eq!(image.admit(512).await.err().unwrap().kind(), ErrorKind::Fenced);
            assert_eq!(image.read(Span::new(0, 1)).await.err().unwrap().kind(), ErrorKind::Fenced);
            assert_eq!(running.env.journal.owners(), vec![], "the fork keeps no journal space");
            running
        }
        Older::Refused => {
            running.crash(&alpha);
            let running = start(&alpha, path.clone(), &Setup::small(), 3).await.unwrap();
            assert_eq!(running.open(IMAGE, None).await.err().unwrap().kind(), ErrorKind::Denied);
            assert_eq!(running.env.journal.owners(), vec![], "the fork keeps no journal space");
            running
        }
        Older::TakesBack => {
            running.crash(&alpha);
            new.close().await.unwrap();
            let running = start(&alpha, path.clone(), &Setup::small(), 3).await.unwrap();
            let back = running.open(IMAGE, None).await.unwrap();
            same(&back, &theirs).await;
            back.close().await.unwrap();
            running
        }
    };
    let forks = image::forks(&running.spool, IMAGE, Epoch(u64::MAX));
    assert_eq!(forks.iter().map(|f| f.epoch).collect::<Vec<_>>(), [Epoch(1)], "{older:?}");

    let record = image::open_fork(&running.env, IMAGE, Epoch(1), CLONE, "rescued").await.unwrap();
    assert_eq!((record.size, record.name.as_str()), (ByteSize(SECTORS * SECTOR), "rescued"));
    let rescued = running.open(CLONE, None).await.unwrap();
    same(&rescued, &mine).await;
    assert_eq!(image::clones_of(&*store, IMAGE).await.unwrap().into_iter().collect::<Vec<_>>(), [CLONE]);

    // It is a volume like any other, on whatever gateway.
    scribble(&mut mine, &rescued, 200..210).await;
    rescued.checkpoint().await.unwrap();
    same(&rescued, &mine).await;
    rescued.close().await.unwrap();
    image::discard_fork(&*running.env.bucket, &running.env.journal, &running.spool, IMAGE, Epoch(1))
        .await
        .unwrap();
    assert_eq!(image::forks(&running.spool, IMAGE, Epoch(u64::MAX)), vec![]);
    let gamma = start(&SimDisk::new(9), store.clone() as Arc<dyn Bucket>, &beta_setup, 5).await.unwrap();
    same(&gamma.open(CLONE, None).await.unwrap(), &mine).await;
}

#[test]
fn the_older_owner_wakes_up() {
    paused(story(Older::Wakes));
}

#[test]
fn the_older_owner_starts_again_and_is_refused() {
    paused(story(Older::Refused));
}

#[test]
fn the_older_owner_takes_the_image_back() {
    paused(story(Older::TakesBack));
}

/// Lets nobody get as far as the fence of a term.
#[derive(Debug, Default)]
struct NoFence(AtomicBool);

#[async_trait::async_trait]
impl Hook for NoFence {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        match call {
            Call::Create(key, _) if key.as_str().contains("/fence/") && self.0.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Denied, "died before its fence"))
            }
            _ => Ok(()),
        }
    }
}

/// Somebody accepts the loss of `alpha`'s tail and dies between its pin and its fence. `alpha` finds itself fenced, starts again, goes
/// on with what it had, and loses the image for good: all that it had is one fork. `late`: segments of the first term reach
/// the bucket behind that first pin, and `alpha` forgets them on its disk.
async fn died_before_its_fence(late: bool) {
    let store = Arc::new(Memory::new());
    let (alpha, beta) = (SimDisk::new(1), SimDisk::new(2));
    let (path, faults) = faulty(&store, 1);
    let beta_setup = Setup { name: "beta", ..Setup::small() };
    image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut mine = Model(vec![0; (SECTORS * SECTOR) as usize]);
    let running = start(&alpha, path.clone(), &Setup::small(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut mine, &image, 0..20).await;
    image.drain().await.unwrap();
    let mut theirs = Model(mine.0.clone());
    faults.set_outage(Outage::Refusing);
    scribble(&mut mine, &image, 20..60).await;
    assert!(image.status().spooled.0 > 0);

    let dying = Hooked::before(store.clone(), NoFence(AtomicBool::new(true)));
    let other = start(&beta, dying, &beta_setup, 2).await.unwrap();
    other.open(IMAGE, Some(Epoch(1))).await.err().unwrap();
    other.crash(&beta);
    let pins = || store.objects().into_iter().filter(|(key, _)| key.as_str().contains("/pin/")).count();
    assert_eq!(pins(), 1);
    if late {
        // What is put now counts for nobody, and is in the chain of whoever comes next.
        theirs = Model(mine.0.clone());
        faults.clear();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(matches!(image.status().condition, Condition::Fenced(_)), "{:?}", image.status());
        faults.set_outage(Outage::Refusing);
    }
    running.crash(&alpha);
    faults.clear();
    let running = start(&alpha, path.clone(), &Setup::small(), 3).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    assert_eq!(image.epoch(), Epoch(3));
    if late {
        image.drain().await.unwrap();
    }
    faults.set_outage(Outage::Refusing);
    scribble(&mut mine, &image, 60..100).await;

    let other = start(&beta, store.clone(), &beta_setup, 4).await.unwrap();
    let new = other.open(IMAGE, Some(Epoch(3))).await.unwrap();
    same(&new, &theirs).await;
    for round in 100..160 {
        scribble(&mut theirs, &new, round..round + 1).await;
        if round % 10 == 0 {
            new.checkpoint().await.unwrap();
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    }
    faults.clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(image.status().condition, Condition::Fenced(_)), "{:?}", image.status());
    image.ended().await;
    let forks = image::forks(&running.spool, IMAGE, Epoch(u64::MAX));
    let epoch = forks.first().unwrap().epoch;
    assert_eq!(epoch, Epoch(if late { 3 } else { 1 }), "{forks:?}");
    image::open_fork(&running.env, IMAGE, epoch, CLONE, "rescued").await.unwrap();
    same(&running.open(CLONE, None).await.unwrap(), &mine).await;
    image::discard_fork(&*running.env.bucket, &running.env.journal, &running.spool, IMAGE, Epoch(3))
        .await
        .unwrap();
    assert_eq!(image::forks(&running.spool, IMAGE, Epoch(u64::MAX)), vec![]);
    assert_eq!(pins(), 1, "that of the clone: the pin of one who never served is gone");
}

#[test]
fn one_who_died_before_its_fence_took_nothing() {
    paused(died_before_its_fence(false));
}

#[test]
fn one_who_died_before_its_fence_took_nothing_of_what_came_late() {
    paused(died_before_its_fence(true));
}

/// A fork that was given up stays so, though a journal that starts again shows its records once more.
async fn given_up(stop: bool) {
    let store = Arc::new(Memory::new());
    let (alpha, beta) = (SimDisk::new(1), SimDisk::new(2));
    let (path, faults) = faulty(&store, 1);
    let beta_setup = Setup { name: "beta", ..Setup::small() };
    image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let mut mine = Model(vec![0; (SECTORS * SECTOR) as usize]);
    let running = start(&alpha, path.clone(), &Setup::small(), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    scribble(&mut mine, &image, 0..5).await;
    image.drain().await.unwrap();
    faults.set_outage(Outage::Refusing);
    scribble(&mut mine, &image, 5..8).await;
    let other = start(&beta, store.clone(), &beta_setup, 2).await.unwrap();
    other.open(IMAGE, Some(image.epoch())).await.unwrap();
    faults.clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    image.ended().await;
    drop(image);
    let forks = |spool: &local::Spool| image::forks(spool, IMAGE, Epoch(u64::MAX)).len();
    assert_eq!(forks(&running.spool), 1);
    image::discard_fork(&*running.env.bucket, &running.env.journal, &running.spool, IMAGE, Epoch(1))
        .await
        .unwrap();
    if stop {
        running.env.journal.close().await.unwrap();
    }
    running.crash(&alpha);
    let running = start(&alpha, path.clone(), &Setup::small(), 3).await.unwrap();
    assert_eq!(running.env.journal.owners(), [IMAGE], "the journal still shows them");
    assert_eq!(running.open(IMAGE, None).await.err().unwrap().kind(), ErrorKind::Denied);
    assert_eq!((forks(&running.spool), running.env.journal.owners()), (0, vec![]));
}

#[test]
fn a_discarded_fork_does_not_come_back_after_a_crash() {
    paused(given_up(false));
}

#[test]
fn a_discarded_fork_does_not_come_back_after_a_stop() {
    paused(given_up(true));
}

/// An image that was closed opens again in the same process; one that was halted says that its records need a restart.
#[test]
fn opened_twice_by_one_process() {
    paused(async {
        let store = Arc::new(Memory::new());
        let disk = SimDisk::new(1);
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        let running = start(&disk, store.clone(), &Setup::small(), 1).await.unwrap();
        for round in 0..3 {
            let image = running.open(IMAGE, None).await.unwrap();
            scribble(&mut model, &image, round..round + 3).await;
            image.close().await.unwrap();
        }
        let image = running.open(IMAGE, None).await.unwrap();
        scribble(&mut model, &image, 20..22).await;
        image.halt().await.unwrap();
        let refused = running.open(IMAGE, None).await.err().unwrap();
        assert!(refused.to_string().contains("restart the gateway"), "{refused}");
        running.env.journal.close().await.unwrap();
        running.process.kill();
        // Records that may be written over at any time are nothing to go on with, until the next start finds them.
        let running = start(&disk, store.clone(), &Setup::small(), 2).await.unwrap();
        running.env.journal.release_owner(IMAGE);
        let refused = running.open(IMAGE, None).await.err().unwrap();
        assert!(refused.to_string().contains("restart the gateway"), "{refused}");
        running.env.journal.close().await.unwrap();
        running.process.kill();
        let running = start(&disk, store, &Setup::small(), 3).await.unwrap();
        same(&running.open(IMAGE, None).await.unwrap(), &model).await;
    });
}
