//! Buckets that are away, slow or refuse (acceptance line A5; requirements C07, B12): writing goes on, slowed in time; no write waits
//! long; all of it arrives afterwards, once; and one dead bucket is felt by its own volume alone.
//!
//! Sizes are a fortieth of real ones: 512 KiB/s of writes in place of 20 MB/s, and journal and local segments to match.
#![allow(missing_docs, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base::{ByteSize, Error, ErrorKind, ImageId, ManualClock, SECTOR, SeededEntropy, Span};
use bucket::{Bucket, Fault, FaultPlan, Faults, Memory, Outage, RetryPolicy, Retrying, Switch};
use image::{Condition, Image};
use local::{JournalOptions, SimDisk, SimLatency};
use rig::hooked::{Call, Hook, Hooked};
use rig::{Model, Running, Setup, faulty, pattern, paused, read, start};
use tokio::time::Instant;

const IMAGE: ImageId = ImageId([0x51; 16]);
const OTHER: ImageId = ImageId([0x52; 16]);
const SECTORS: u64 = 32 << 11;
const BLOCK: u64 = 64 << 10;

fn setup(spool_limit: ByteSize) -> Setup {
    let mut setup = Setup::small();
    setup.journal = JournalOptions {
        capacity: 32 << 20,
        file_size: 2 << 20,
        max_reserved: 2 << 20,
        ..JournalOptions::default()
    };
    setup.memory = ByteSize::mib(4);
    setup.options.segment = ByteSize::mib(1);
    setup.options.spool_above = 0.4;
    setup.options.spool_limit = spool_limit;
    setup.options.checkpoint_segments = 64;
    setup.options.checkpoint_runs = 4000;
    setup
}

/// Refuses segments, while it is told to.
#[derive(Debug, Default)]
struct NoSegments(AtomicBool);

#[async_trait::async_trait]
impl Hook for NoSegments {
    async fn before(&self, call: Call<'_>) -> base::Result<()> {
        match call {
            Call::Create(key, _) if self.0.load(Ordering::Relaxed) && key.as_str().contains("/seg/") => {
                Err(Error::new(ErrorKind::Unavailable, "no segments now"))
            }
            _ => Ok(()),
        }
    }
}

/// Takes what is put and answers nothing else.
#[derive(Debug)]
struct TakesOnly;

#[async_trait::async_trait]
impl Hook for TakesOnly {
    async fn before(&self, call: Call<'_>) -> base::Result<()> {
        match call {
            Call::Create(..) => Ok(()),
            _ => Err(Error::new(ErrorKind::Unavailable, "only puts are answered")),
        }
    }
}

/// Refuses checkpoints, while it is told to.
#[derive(Debug, Default)]
struct NoCheckpoints(AtomicBool);

#[async_trait::async_trait]
impl Hook for NoCheckpoints {
    async fn before(&self, call: Call<'_>) -> base::Result<()> {
        match call {
            Call::Create(key, _) if self.0.load(Ordering::Relaxed) && !key.as_str().contains("/seg/") => {
                Err(Error::new(ErrorKind::Unavailable, "no checkpoints now"))
            }
            _ => Ok(()),
        }
    }
}

/// Takes its time, and counts how many puts there are at once.
#[derive(Debug, Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait::async_trait]
impl Hook for Crowd {
    async fn before(&self, call: Call<'_>) -> base::Result<()> {
        if let Call::Create(..) = call {
            self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.now.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Refuses one segment, the first that is put after it is told to, and takes those behind it.
#[derive(Debug, Default)]
struct NotThisOne {
    armed: AtomicBool,
    refused: std::sync::OnceLock<String>,
}

#[async_trait::async_trait]
impl Hook for NotThisOne {
    async fn before(&self, call: Call<'_>) -> base::Result<()> {
        match call {
            Call::Create(key, _) if self.armed.load(Ordering::Relaxed) && key.as_str().contains("/seg/") => {
                let refused = self.refused.get_or_init(|| key.as_str().to_owned()) == key.as_str();
                if refused { Err(Error::new(ErrorKind::Unavailable, "not this one")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

/// Writes block after block, round and round, and remembers what was acknowledged where.
struct Writer {
    image: Image,
    next: u64,
    newest: Vec<Option<u64>>,
    longest: Duration,
    total: Duration,
    busy: u64,
    /// Refused for want of space, which comes after being refused as busy for a while.
    no_space: u64,
    first_busy: Option<Instant>,
    first_no_space: Option<Instant>,
}

impl Writer {
    fn new(image: Image) -> Writer {
        let blocks = (SECTORS * SECTOR / BLOCK) as usize;
        Writer {
            image,
            next: 0,
            newest: vec![None; blocks],
            longest: Duration::ZERO,
            total: Duration::ZERO,
            busy: 0,
            no_space: 0,
            first_busy: None,
            first_no_space: None,
        }
    }

    async fn write(&mut self) -> bool {
        let (id, at) = (self.next, self.next % self.newest.len() as u64);
        let begun = Instant::now();
        let done = async {
            let admission = self.image.admit(BLOCK).await?;
            let data = vec![pattern(id, BLOCK as usize, false)];
            self.image.write(at * (BLOCK / SECTOR), data, false, admission).await
        };
        let done = done.await;
        self.longest = self.longest.max(begun.elapsed());
        self.total += begun.elapsed();
        match done {
            Ok(()) => {
                self.newest[at as usize] = Some(id);
                self.next += 1;
                true
            }
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                self.first_no_space.get_or_insert(Instant::now());
                self.no_space += 1;
                false
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
                self.first_busy.get_or_insert(Instant::now());
                self.busy += 1;
                false
            }
        }
    }

    /// 512 KiB/s for so long.
    async fn steadily(&mut self, seconds: u64) {
        let begun = Instant::now();
        let mut due = begun;
        while begun.elapsed() < Duration::from_secs(seconds) {
            self.write().await;
            due += Duration::from_millis(125);
            tokio::time::sleep_until(due).await;
        }
    }

    async fn verify(&self, image: &Image) {
        for (at, id) in self.newest.iter().enumerate() {
            let Some(id) = id else { continue };
            let found = read(image, Span::new(at as u64 * (BLOCK / SECTOR), BLOCK / SECTOR)).await.unwrap();
            assert!(found == pattern(*id, BLOCK as usize, false), "block {at}");
        }
    }
}

async fn world(spool_limit: ByteSize) -> (Arc<Memory>, Arc<Faults>, SimDisk, Running, Image) {
    let store = Arc::new(Memory::new());
    image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
    let (path, faults) = faulty(&store, 1);
    let disk = SimDisk::new(1);
    let running = start(&disk, path, &setup(spool_limit), 1).await.unwrap();
    let image = running.open(IMAGE, None).await.unwrap();
    (store, faults, disk, running, image)
}

/// Everything drains, nothing is left on the disk, and the bucket alone has it all.
async fn drains(writer: &Writer, running: &Running, store: &Arc<Memory>) {
    tokio::time::timeout(Duration::from_secs(600), writer.image.drain()).await.unwrap().unwrap();
    let status = writer.image.status();
    assert_eq!((status.dirty.0, status.spooled.0, running.spool.bytes()), (0, 0, 0), "{status:?}");
    assert_eq!(status.trouble, None);
    writer.verify(&writer.image).await;
    writer.image.close().await.unwrap();
    let other = start(&SimDisk::new(9), store.clone(), &Setup::small(), 9).await.unwrap();
    writer.verify(&other.open(IMAGE, None).await.unwrap()).await;
}

async fn ten_minutes_of(outage: Outage) {
    let (store, faults, _disk, running, image) = world(ByteSize::mib(800)).await;
    let mut writer = Writer::new(image.clone());
    writer.steadily(10).await;
    faults.set_outage(outage);
    writer.steadily(600).await;
    let status = image.status();
    assert!(status.trouble.is_some(), "the status says why nothing is uploaded: {status:?}");
    assert!(status.dirty.0 > 250 << 20 && status.spooled.0 > 200 << 20, "{status:?}");
    assert!(running.env.journal.usage().used < 24 << 20, "local segments relieve the journal");
    assert_eq!(writer.busy, 0, "there was room all the time");
    assert!(writer.longest < Duration::from_secs(1), "{:?}", writer.longest);
    faults.clear();
    writer.steadily(10).await;
    drains(&writer, &running, &store).await;
}

#[test]
fn ten_minutes_without_the_bucket() {
    paused(ten_minutes_of(Outage::Refusing));
}

#[test]
fn ten_minutes_of_a_bucket_that_hangs() {
    paused(ten_minutes_of(Outage::Hanging));
}

/// The local disk has less room than the volume may take of it: what does not fit stays in the journal, clients are slowed and then refused,
/// and nothing stops for good.
#[test]
fn a_local_disk_that_is_full_stops_nothing() {
    paused(async {
        let (store, faults, disk, running, image) = world(ByteSize::mib(800)).await;
        disk.set_capacity(44 << 20);
        let mut writer = Writer::new(image.clone());
        writer.steadily(5).await;
        faults.set_outage(Outage::Refusing);
        writer.steadily(120).await;
        assert!(running.events.any_names("no local segment now"), "it was full");
        assert!(writer.busy + writer.no_space > 0, "clients were told");
        assert!(writer.longest < Duration::from_secs(10), "{:?}", writer.longest);
        faults.clear();
        tokio::time::sleep(Duration::from_secs(30)).await;
        let refused = writer.busy + writer.no_space;
        writer.steadily(10).await;
        assert_eq!(writer.busy + writer.no_space, refused, "there is room again");
        drains(&writer, &running, &store).await;
    });
}

/// The process can open no file for a while (X06): the journal's files are open, and what it cannot put elsewhere stays there.
#[test]
fn too_many_open_files_stop_nothing() {
    paused(async {
        let (store, faults, disk, running, image) = world(ByteSize::mib(800)).await;
        let mut writer = Writer::new(image.clone());
        writer.steadily(5).await;
        faults.set_outage(Outage::Refusing);
        disk.set_shut(true);
        writer.steadily(120).await;
        assert!(running.events.any_names("no local segment now"), "none could be made");
        assert!(writer.busy + writer.no_space > 0, "clients were told");
        assert!(writer.longest < Duration::from_secs(10), "{:?}", writer.longest);
        disk.set_shut(false);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let refused = writer.busy + writer.no_space;
        writer.steadily(60).await;
        assert_eq!(writer.busy + writer.no_space, refused, "local segments give room again");
        faults.clear();
        writer.steadily(10).await;
        drains(&writer, &running, &store).await;
    });
}

/// Turns given out while room was scarce are not waited for once there is plenty.
#[test]
fn a_paced_write_goes_as_soon_as_there_is_room() {
    paused(async {
        const LARGE: u64 = 1 << 20;
        let (_store, faults, _disk, _running, image) = world(ByteSize::mib(16)).await;
        faults.set_outage(Outage::Refusing);
        let mut writer = Writer::new(image.clone());
        while image.status().dirty.0 < 27 << 19 {
            assert!(writer.write().await);
        }
        let begun = Instant::now();
        let all = (0..10).map(|n| {
            let image = image.clone();
            async move {
                let admission = image.admit(LARGE).await.unwrap();
                let data = vec![pattern(n, LARGE as usize, false)];
                image.write(n * (LARGE / SECTOR), data, false, admission).await.unwrap();
                begun.elapsed()
            }
        });
        let clear = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            faults.clear();
            image.drain().await.unwrap();
            begun.elapsed()
        };
        let (took, drained) = futures_util::join!(futures_util::future::join_all(all), clear);
        let (third, last) = (took[2], took[9]);
        assert!(4 * third > drained, "at that pace they would not be through yet: {drained:?}: {took:?}");
        assert!(last < drained + Duration::from_millis(50), "{drained:?}: {took:?}");
    });
}

/// A volume that nobody writes to: what it says of an outage ends with the outage, and the next one is told again.
#[test]
fn the_trouble_of_an_idle_volume_ends_with_the_outage() {
    paused(async {
        let (_store, faults, _disk, running, image) = world(ByteSize::mib(16)).await;
        for outage in 1..=2 {
            faults.set_outage(Outage::Refusing);
            tokio::time::sleep(Duration::from_secs(180)).await;
            let why = image.status().trouble.map(|(_, why)| why).unwrap_or_default();
            assert!(why.contains("cannot check the ownership"), "{why:?}");
            faults.clear();
            tokio::time::sleep(Duration::from_secs(180)).await;
            assert_eq!(image.status().trouble, None, "after outage {outage}");
            let told = running.events.0.lock().clone();
            for what in ["cannot check the ownership", "uploads go on"] {
                let times = told.iter().filter(|text| text.contains(what)).count();
                assert_eq!(times, outage, "{what}: {told:#?}");
            }
        }
    });
}

/// An ownership that can be checked does not hide that nothing can be uploaded.
#[test]
fn a_good_check_is_no_good_upload() {
    paused(async {
        let store = Hooked::new(NoSegments::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(1), store.clone(), &setup(ByteSize::mib(16)), 1).await.unwrap();
        let mut writer = Writer::new(running.open(IMAGE, None).await.unwrap());
        store.hook.0.store(true, Ordering::Relaxed);
        assert!(writer.write().await);
        tokio::time::sleep(Duration::from_secs(180)).await;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(writer.image.status().trouble.is_some_and(|(_, why)| why.contains("cannot upload")));
        }
        assert!(!running.events.any_names("uploads go on"));
        store.hook.0.store(false, Ordering::Relaxed);
        writer.image.drain().await.unwrap();
        assert_eq!(writer.image.status().trouble, None);
    });
}

/// Nothing waits for its bucket any more in a volume that another gateway has taken over.
#[test]
fn a_volume_that_was_lost_has_no_trouble() {
    paused(async {
        let (store, faults, _disk, _running, image) = world(ByteSize::mib(16)).await;
        faults.set_outage(Outage::Refusing);
        tokio::time::sleep(Duration::from_secs(180)).await;
        assert!(image.status().trouble.is_some());
        let setup = Setup { name: "beta", ..Setup::small() };
        let other = start(&SimDisk::new(9), store, &setup, 9).await.unwrap();
        let _there = other.open(IMAGE, Some(image.epoch())).await.unwrap();
        faults.clear();
        tokio::time::sleep(Duration::from_secs(180)).await;
        let status = image.status();
        assert!(matches!(status.condition, Condition::Fenced(_)), "{status:?}");
        assert_eq!(status.trouble, None);
    });
}

async fn bad_weather(plan: FaultPlan) {
    let (store, faults, _disk, running, image) = world(ByteSize::mib(800)).await;
    let mut writer = Writer::new(image);
    faults.set_plan(plan);
    writer.steadily(120).await;
    assert_eq!(writer.busy, 0);
    assert!(writer.longest < Duration::from_secs(10), "{:?}", writer.longest);
    assert!(faults.injected().values().sum::<u64>() >= 10, "{:?}", faults.injected());
    // How far depends on which calls are lost: each costs its whole patience.
    assert!(writer.image.status().uploaded.0 > 4 << 20, "it gets on in bad weather too");
    faults.clear();
    drains(&writer, &running, &store).await;
}

#[test]
fn every_second_call_is_refused() {
    paused(bad_weather(FaultPlan { every: Some((2, Fault::Throttled)), ..FaultPlan::default() }));
}

#[test]
fn answers_get_lost() {
    paused(bad_weather(FaultPlan { chances: vec![(Fault::AnswerLost, 300)], ..FaultPlan::default() }));
}

/// The second home full too: writes are slowed long before, then refused as busy, each within its time; afterwards all goes on.
#[test]
fn even_the_second_home_is_full() {
    paused(async {
        let (store, faults, _disk, running, image) = world(ByteSize::mib(24)).await;
        faults.set_outage(Outage::Refusing);
        let mut writer = Writer::new(image.clone());
        writer.steadily(600).await;
        assert!(writer.busy > 0, "it must come to its end");
        assert!(writer.no_space > 10, "half a minute later it says so for good: {}", writer.no_space);
        let patience = writer.first_no_space.unwrap() - writer.first_busy.unwrap();
        assert!((20..40).contains(&patience.as_secs()), "{patience:?}");
        let unmapped = Instant::now();
        assert_eq!(image.zero(Span::new(0, 8), true).await.unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(unmapped.elapsed() < Duration::from_secs(10));
        writer.verify(&image).await;
        assert!(writer.longest < Duration::from_secs(10), "{:?}", writer.longest);
        let status = image.status();
        assert!(status.dirty.0 <= 24 << 20, "its own limit holds: {status:?}");
        assert!(status.spooled.0 <= 25 << 20);
        faults.clear();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = (writer.busy, writer.no_space);
        writer.longest = Duration::ZERO;
        writer.steadily(30).await;
        assert_eq!((writer.busy, writer.no_space), before, "there is room again");
        assert!(writer.longest < Duration::from_secs(1), "{:?}", writer.longest);
        // The next time is like the first: busy, and only then no space.
        faults.set_outage(Outage::Refusing);
        (writer.first_busy, writer.first_no_space) = (None, None);
        while writer.first_no_space.is_none() {
            writer.write().await;
        }
        assert!(writer.first_no_space.unwrap() - writer.first_busy.unwrap() >= Duration::from_secs(20));
        faults.clear();
        drains(&writer, &running, &store).await;
    });
}

/// Many writers at a full volume: those that give up waiting take nothing from those that come later.
#[test]
fn a_crowd_before_a_full_volume() {
    paused(async {
        let (_store, faults, _disk, _running, image) = world(ByteSize::mib(24)).await;
        faults.set_outage(Outage::Refusing);
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let mut writer = Writer::new(image.clone());
            crowd.spawn(async move {
                writer.steadily(120).await;
                writer.longest
            });
        }
        tokio::time::sleep(Duration::from_secs(110)).await;
        faults.clear();
        while let Some(longest) = crowd.join_next().await {
            assert!(longest.unwrap() < Duration::from_secs(10));
        }
        let mut writer = Writer::new(image);
        writer.steadily(20).await;
        assert_eq!(writer.busy, 0, "room came back at once");
    });
}

/// One command of an unmap may be of many parts, which have ten seconds in all: none of them waits for the turns of writes.
#[test]
fn an_unmap_of_many_parts_is_not_slowed_beside_paced_writes() {
    paused(async {
        const PART: u64 = 256 << 10;
        let (_store, faults, _disk, _running, image) = world(ByteSize::mib(16)).await;
        faults.set_outage(Outage::Refusing);
        let mut writer = Writer::new(image.clone());
        while image.status().dirty.0 < 14 << 20 {
            assert!(writer.write().await);
        }
        let begun = Instant::now();
        let writes = (0..6).map(|n| {
            let image = image.clone();
            async move {
                let admission = image.admit(PART).await.unwrap();
                let data = vec![pattern(n, PART as usize, false)];
                image.write(n * (PART / SECTOR), data, false, admission).await.unwrap();
                begun.elapsed()
            }
        });
        let unmap = async {
            for part in 0..64 {
                image.zero(Span::new(SECTORS / 2 + part * 128, 64), true).await.unwrap();
            }
            begun.elapsed()
        };
        let (written, unmapped) = futures_util::join!(futures_util::future::join_all(writes), unmap);
        assert!(written[5] > Duration::from_millis(100), "nothing was paced: {written:?}");
        assert!(unmapped < Duration::from_millis(20), "{unmapped:?} beside writes that took {written:?}");
    });
}

/// A drain waits for what the write cache answered before it was in the journal.
#[test]
fn a_drain_waits_for_writes_that_were_answered_early() {
    paused(async {
        let (store, _faults, disk, _running, image) = world(ByteSize::mib(16)).await;
        image.set_write_cache(true);
        disk.set_latency(SimLatency { sync: Duration::from_secs(5), ..SimLatency::default() });
        let begun = Instant::now();
        let data = pattern(7, BLOCK as usize, false);
        let admission = image.admit(BLOCK).await.unwrap();
        image.write(64, vec![data.clone()], false, admission).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "it was not answered early");
        image.drain().await.unwrap();
        let setup = Setup { name: "beta", ..Setup::small() };
        let other = start(&SimDisk::new(9), store, &setup, 9).await.unwrap();
        let there = other.open(IMAGE, Some(image.epoch())).await.unwrap();
        assert!(
            read(&there, Span::new(64, BLOCK / SECTOR)).await.unwrap() == data[..],
            "it was not in the bucket"
        );
    });
}

/// Whoever waits for what can never come, because the journal has failed, is told so.
#[test]
fn a_failed_journal_answers_who_waits() {
    paused(async {
        let (_store, faults, disk, _running, image) = world(ByteSize::mib(24)).await;
        faults.set_outage(Outage::Refusing);
        let mut writer = Writer::new(image.clone());
        writer.steadily(5).await;
        let mut waiting = tokio::task::JoinSet::new();
        let waits = image.clone();
        waiting.spawn(async move { waits.drain().await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        disk.fail_syncs(1);
        let admission = image.admit(BLOCK).await.unwrap();
        let written = image.write(0, vec![pattern(1, BLOCK as usize, false)], false, admission).await;
        assert!(written.is_err(), "a write that is not on the disk was acknowledged");
        let told =
            tokio::time::timeout(Duration::from_secs(60), waiting.join_next()).await.expect("it hangs");
        assert!(told.unwrap().unwrap().is_err());
        let later = tokio::time::timeout(Duration::from_secs(60), image.drain()).await.expect("it hangs");
        assert!(later.is_err());
        let closed = tokio::time::timeout(Duration::from_secs(60), image.close()).await.expect("it hangs");
        assert!(closed.is_err());
    });
}

/// One volume's bucket is dead for the whole run; another on the same journal goes on as if nothing were.
#[test]
fn a_dead_bucket_is_felt_by_its_own_volume_alone() {
    async fn pace_of_the_other(dead: bool) -> Duration {
        let (_store, faults, disk, running, image) = world(ByteSize::mib(24)).await;
        disk.set_latency(local::SimLatency {
            sync: Duration::from_millis(1),
            ..local::SimLatency::default()
        });
        let healthy = Arc::new(Memory::new());
        image::create(&*healthy, 0, OTHER, "vol2", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let other = running.open_on(healthy as Arc<dyn Bucket>, OTHER, None).await.unwrap();
        if dead {
            faults.set_outage(Outage::Refusing);
        }
        let (mut stuck, mut lively) = (Writer::new(image), Writer::new(other));
        tokio::join!(stuck.steadily(400), lively.steadily(400));
        assert_eq!(dead, stuck.busy > 0);
        assert_eq!(lively.busy, 0);
        lively.total / lively.next as u32
    }
    let alone = paused(pace_of_the_other(false));
    let beside = paused(pace_of_the_other(true));
    println!("a write took {alone:?}, beside a dead bucket {beside:?}");
    assert!(beside <= alone.mul_f64(1.1), "{alone:?} became {beside:?}");
}

/// C07: who waits for what another fetches has ten seconds in all, not ten more when the other had no luck.
#[test]
fn two_reads_of_one_frame_wait_no_longer_than_one() {
    paused(async {
        let (store, _, _disk, running, image) = world(ByteSize::mib(16)).await;
        let mut writer = Writer::new(image.clone());
        assert!(writer.write().await);
        image.close().await.unwrap();
        running.process.kill();
        // Reads give up earlier than uploads; nothing is cached.
        let (path, faults) = faulty(&store, 1);
        let retrying = Retrying::new(path, RetryPolicy::background(), Arc::new(SeededEntropy::new(1)));
        let bucket: Arc<dyn Bucket> = Arc::new(retrying.with_reading(RetryPolicy::foreground()));
        let running = start(&SimDisk::new(4), store.clone(), &Setup::small(), 3).await.unwrap();
        let image = running.open_on(bucket, IMAGE, None).await.unwrap();
        // The page of the map is in memory.
        image.mapping(0, 128).await.unwrap();
        faults.set_outage(Outage::Refusing);
        let timed = async |after, start| {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let begun = Instant::now();
            assert!(image.read(Span::new(start, 8)).await.is_err());
            begun.elapsed()
        };
        let (one, two) = tokio::join!(timed(0, 0), timed(300, 8));
        assert!(one.max(two) <= Duration::from_secs(10), "{one:?} {two:?}");
    });
}

/// One local segment after the other is let go while they are read: that is no damage, however often a read is overtaken.
#[test]
fn a_read_that_a_drain_overtakes_is_no_damage() {
    paused(async {
        const PIECE: u64 = 8 << 10;
        const PIECES: u64 = 300;
        let mut setup = setup(ByteSize::mib(16));
        setup.options.segment = ByteSize(PIECE);
        setup.options.spool_above = 0.0;
        let store = Arc::new(Memory::new());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let (path, faults) = faulty(&store, 1);
        let disk = SimDisk::new(1);
        let running = start(&disk, path, &setup, 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        faults.set_outage(Outage::Refusing);
        let mut model = Model(vec![0; (PIECES * PIECE) as usize]);
        for at in 0..PIECES {
            // The oldest ones everywhere, so that a read of all comes to some last.
            let place = at * 7 % PIECES * (PIECE / SECTOR);
            model.write(&image, place, pattern(at, PIECE as usize, false)).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let there = running.spool.list(IMAGE).len();
        assert!(there as u64 > PIECES - 10, "{there} local segments");

        let ms = Duration::from_millis;
        disk.set_latency(SimLatency { read: ms(3), write: ms(1), sync: ms(2) });
        faults.clear();
        let mut reads = 0;
        while running.spool.bytes() > 0 {
            let found = read(&image, Span::new(0, PIECES * PIECE / SECTOR)).await.unwrap();
            assert!(found == model.0);
            reads += usize::from(running.spool.list(IMAGE).len() < there);
        }
        assert!(reads > 0, "none was overtaken");
        assert!(!running.events.any_names("damaged"));
    });
}

/// Who asks while records are being sealed is not told that all is in the bucket.
#[test]
fn what_is_being_sealed_is_dirty() {
    paused(async {
        let store = Arc::new(Memory::new());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let disk = SimDisk::new(1);
        // With hardly any memory, what is sealed is read back from the journal, and the disk takes its time.
        let setup = Setup { memory: ByteSize::kib(64), ..setup(ByteSize::mib(16)) };
        let running = start(&disk, store.clone(), &setup, 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut writer = Writer::new(image.clone());
        disk.set_latency(SimLatency { read: Duration::from_millis(5), ..SimLatency::default() });
        for _ in 0..6 {
            assert!(writer.write().await);
        }
        while image.status().dirty.0 > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        image.halt().await.unwrap();
        drop(running);
        let setup = Setup { name: "beta", ..Setup::small() };
        let other = start(&SimDisk::new(9), store, &setup, 9).await.unwrap();
        writer.verify(&other.open(IMAGE, Some(image.epoch())).await.unwrap()).await;
    });
}

/// What another store took in the bucket's place, and did not count yet, is put again where the bucket is now; nothing counts meanwhile.
#[test]
fn what_a_wrong_store_took_is_put_again() {
    paused(async {
        let (right, wrong) = (Arc::new(Memory::new()), Hooked::new(TakesOnly));
        image::create(&*right, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let switch = Arc::new(Switch::new(right.clone()));
        let running = start(&SimDisk::new(1), switch.clone(), &setup(ByteSize::mib(800)), 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut writer = Writer::new(image.clone());
        writer.steadily(5).await;
        image.drain().await.unwrap();
        switch.set(wrong.clone());
        writer.steadily(10).await;
        assert!(!wrong.inner.list("", None, 1).await.unwrap().is_empty(), "it was to take some");
        let hold = image.hold().await.unwrap();
        let durable = image.status().durable;
        let there = right.list("", None, 1000).await.unwrap().len();
        switch.set(right.clone());
        writer.steadily(10).await;
        assert_eq!(image.status().durable, durable);
        assert_eq!(right.list("", None, 1000).await.unwrap().len(), there, "nothing is put while it is held");
        drop(hold);
        drains(&writer, &running, &right).await;
    });
}

/// What the local disk has stays, though this store has it too, until it is certain that the image goes on there and not in a copy.
#[test]
fn an_opening_that_is_not_wanted_lets_go_of_nothing() {
    paused(async {
        let (store, faults, disk, running, image) = world(ByteSize::mib(800)).await;
        let copy = Arc::new(store.fork());
        let mut writer = Writer::new(image);
        // All is put, and nobody is told.
        faults.set_plan(FaultPlan { chances: vec![(Fault::AnswerLost, 1000)], ..FaultPlan::default() });
        writer.steadily(60).await;
        running.crash(&disk);
        let running = start(&disk, store.clone(), &setup(ByteSize::mib(800)), 2).await.unwrap();
        let kept = || (running.env.journal.usage_of(IMAGE).records, running.spool.list(IMAGE).len());
        let before = kept();
        assert!(before.0 > 0 && before.1 > 0, "{before:?}");
        let (image, hold) = running.open_held_on(store.clone(), IMAGE, None).await.unwrap();
        let there = store.list("", None, 1000).await.unwrap().len();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let header = chain::load(&*store, IMAGE).await.unwrap().chain.members.pop().unwrap();
        let (epoch, number) = (header.position.epoch.0, header.position.number.0 - 1);
        let both = running
            .spool
            .list(IMAGE)
            .iter()
            .any(|file| file.name == format!("{:016x}-{number:016x}.seg", epoch - 1));
        assert!(both, "segment {number} is to be in the store and on the local disk");
        image.halt().await.unwrap();
        image.ended().await;
        drop(hold);
        assert_eq!((kept(), store.list("", None, 1000).await.unwrap().len()), (before, there));
        writer.image = running.open_on(copy.clone(), IMAGE, None).await.unwrap();
        drains(&writer, &running, &copy).await;
    });
}

/// However long a volume is held, it leaves the journal to others, and its writers have its own share of the local disk.
#[test]
fn writing_goes_on_while_a_volume_is_held() {
    paused(async {
        let (store, _faults, _disk, running, image) = world(ByteSize::mib(800)).await;
        let mut writer = Writer::new(image.clone());
        writer.steadily(5).await;
        let hold = image.hold().await.unwrap();
        writer.steadily(60).await;
        assert!(running.env.journal.usage().used < 24 << 20, "{:?}", running.env.journal.usage());
        assert_eq!((writer.busy, writer.no_space), (0, 0));
        drop(hold);
        drains(&writer, &running, &store).await;
    });
}

/// A checkpoint that was under way when the volume was held is begun anew afterwards.
#[test]
fn a_checkpoint_is_begun_anew_after_a_hold() {
    paused(async {
        let store = Hooked::new(NoCheckpoints::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(1), store.clone(), &setup(ByteSize::mib(16)), 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut writer = Writer::new(image.clone());
        writer.steadily(5).await;
        store.hook.0.store(true, Ordering::Relaxed);
        let asked = image.checkpoint();
        let held = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let hold = image.hold().await.unwrap();
            let there = store.inner.list("", None, 1000).await.unwrap().len();
            store.hook.0.store(false, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(store.inner.list("", None, 1000).await.unwrap().len(), there, "it goes on meanwhile");
            drop(hold);
        };
        tokio::join!(asked, held).0.unwrap();
        assert_eq!(image.status().trouble, None);
        drains(&writer, &running, &store.inner).await;
    });
}

/// As long as one segment cannot be put, nothing behind it counts, and the status says why though those are put.
#[test]
fn the_trouble_of_one_put_outlasts_the_success_of_others() {
    paused(async {
        let store = Hooked::new(NotThisOne::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(1), store.clone(), &setup(ByteSize::mib(800)), 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut writer = Writer::new(image.clone());
        store.hook.armed.store(true, Ordering::Relaxed);
        // It is tried for a while before it is told.
        while image.status().trouble.is_none() {
            writer.steadily(1).await;
        }
        for _ in 0..100 {
            writer.steadily(1).await;
            assert!(image.status().trouble.is_some());
        }
        assert!(image.status().uploaded.0 > 1 << 20, "others were to be put");
        assert!(!running.events.any_names("uploads go on"));
    });
}

/// What the status says of a checkpoint that fails ends with the next one that does not.
#[test]
fn the_trouble_of_a_checkpoint_ends_with_it() {
    paused(async {
        let store = Hooked::new(NoCheckpoints::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let running = start(&SimDisk::new(1), store.clone(), &setup(ByteSize::mib(16)), 1).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        let mut writer = Writer::new(image.clone());
        store.hook.0.store(true, Ordering::Relaxed);
        writer.steadily(5).await;
        let asked = image.checkpoint();
        let watched = async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            writer.steadily(5).await;
            let why = image.status().trouble.map(|(_, why)| why).unwrap_or_default();
            assert!(why.contains("cannot write a checkpoint"), "{why:?}: puts go on, and do not end it");
            store.hook.0.store(false, Ordering::Relaxed);
        };
        tokio::join!(asked, watched).0.unwrap();
        assert_eq!(image.status().trouble, None);
    });
}

/// Uploads make way for clients only as long as the volume has plenty of the room that its writes are slowed by: the journal's is not all.
#[test]
fn uploads_make_no_way_once_the_volumes_own_room_is_scarce() {
    async fn puts_at_once(limit: ByteSize) -> usize {
        let store = Hooked::new(Crowd::default());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let setup = Setup { memory: ByteSize::mib(64), ..setup(limit) };
        let running = start(&SimDisk::new(1), store.clone(), &setup, 1).await.unwrap();
        let mut writer = Writer::new(running.open(IMAGE, None).await.unwrap());
        // Not so long that data has waited too long.
        for _ in 0..80 {
            writer.write().await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        store.hook.most.load(Ordering::Relaxed)
    }
    assert_eq!(paused(puts_at_once(ByteSize::mib(64))), 1);
    assert!(paused(puts_at_once(ByteSize::mib(4))) > 1);
}

/// Kills leave a record or two in each of many journal files, which are kept for them: that is room gone, and the segments make some.
#[test]
fn files_with_little_in_them_do_not_keep_writes_out() {
    paused(async {
        let store = Arc::new(Memory::new());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let mut setup = setup(ByteSize::mib(32));
        setup.journal.capacity = 8 << 20;
        let disk = SimDisk::new(1);
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        for life in 0..9 {
            let (bucket, faults) = faulty(&store, life);
            let running = start(&disk, bucket, &setup, life).await.unwrap();
            let image = running.open(IMAGE, None).await.unwrap();
            faults.set_outage(Outage::Refusing);
            model.write(&image, life * 8, pattern(life, 4 << 10, false)).await;
            if life == 8 {
                for round in 0..16 << 4 {
                    model.write(&image, 1000 + round * 128, pattern(round, 64 << 10, false)).await;
                    tokio::time::sleep(Duration::from_millis(125)).await;
                }
                assert!(read(&image, Span::new(0, SECTORS)).await.unwrap() == model.0);
            }
            running.crash(&disk);
        }
        let running = start(&disk, store, &setup, 10).await.unwrap();
        let image = running.open(IMAGE, None).await.unwrap();
        assert!(read(&image, Span::new(0, SECTORS)).await.unwrap() == model.0);
    });
}

/// What a volume left in many journal files stays there while its bucket is dead at the start, and what is left does for another one.
#[test]
fn a_volume_that_cannot_be_opened_keeps_no_writes_of_another_out() {
    paused(async {
        let stores = [IMAGE, OTHER].map(|_| Arc::new(Memory::new()));
        for (store, image) in stores.iter().zip([IMAGE, OTHER]) {
            image::create(&**store, 0, image, "vol", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        }
        let mut setup = setup(ByteSize::mib(32));
        setup.journal.capacity = 16 << 20;
        let disk = SimDisk::new(1);
        let mut models = [IMAGE, OTHER].map(|_| Model(vec![0; (SECTORS * SECTOR) as usize]));
        for life in 0..6 {
            let (bucket, faults) = faulty(&stores[1], life);
            let running = start(&disk, stores[0].clone(), &setup, life).await.unwrap();
            let image = running.open_on(bucket, OTHER, None).await.unwrap();
            faults.set_outage(Outage::Refusing);
            models[1].write(&image, life * 8, pattern(life, 4 << 10, false)).await;
            running.crash(&disk);
        }
        let (dead, faults) = faulty(&stores[1], 6);
        faults.set_outage(Outage::Refusing);
        let running = start(&disk, stores[0].clone(), &setup, 6).await.unwrap();
        let refused = running.open_on(dead, OTHER, None).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
        let image = running.open(IMAGE, None).await.unwrap();
        for round in 0..32 << 4 {
            models[0].write(&image, (round * 128) % SECTORS, pattern(round, 64 << 10, false)).await;
        }
        assert_eq!(running.env.journal.usage_of(OTHER).records, 6);
        running.crash(&disk);
        let running = start(&disk, stores[0].clone(), &setup, 7).await.unwrap();
        let opened = [running.open(IMAGE, None).await, running.open_on(stores[1].clone(), OTHER, None).await];
        for (image, model) in opened.iter().zip(&models) {
            assert!(read(image.as_ref().unwrap(), Span::new(0, SECTORS)).await.unwrap() == model.0);
        }
    });
}

/// For a clock that was put back by an hour, nothing grows older in the next one.
#[test]
fn a_clock_that_is_put_back_keeps_nothing_from_the_bucket() {
    paused(async {
        let store = Arc::new(Memory::new());
        image::create(&*store, 0, IMAGE, "vol1", ByteSize(SECTORS * SECTOR), 512).await.unwrap();
        let mut running = start(&SimDisk::new(1), store, &Setup::small(), 1).await.unwrap();
        running.env.clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let image = running.open(IMAGE, None).await.unwrap();
        let mut model = Model(vec![0; (SECTORS * SECTOR) as usize]);
        for round in 0..20 {
            model.write(&image, round * 8, pattern(round, 4 << 10, false)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(image.status().dirty < ByteSize::kib(40), "while somebody writes: {:?}", image.status());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(
            (image.status().dirty, image.status().oldest_dirty),
            (ByteSize(0), None),
            "and afterwards"
        );
    });
}
