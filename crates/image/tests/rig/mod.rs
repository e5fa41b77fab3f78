//! A machine for tests: a simulated disk, a bucket in memory behind faults, and one or more images on them.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test binary uses its part; a failed set-up is a failed test

pub mod flips;
pub mod hooked;

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, Epoch, GatewayId, ImageId, Result, SECTOR, SeededEntropy, Span};
use bucket::{Bucket, Faults, Faulty, Memory, RetryPolicy, Retrying};
use bytes::Bytes;
use image::{DirtyMemory, Env, Event, Events, Hold, Image, OpenRequest, Options};
use local::{Cache, CacheOptions, Journal, JournalOptions, Recovery, SimDisk, Spool};
use parking_lot::Mutex;
use sim::{Process, SimClock};

/// Events, kept.
#[derive(Debug, Default)]
pub struct EventList(pub Mutex<Vec<String>>);

impl Events for EventList {
    fn event(&self, event: Event) {
        self.0.lock().push(event.text);
    }
}

impl EventList {
    pub fn any_names(&self, what: &str) -> bool {
        self.0.lock().iter().any(|text| text.contains(what))
    }
}

/// What a process is run with.
#[derive(Clone)]
pub struct Setup {
    pub journal: JournalOptions,
    pub cache: CacheOptions,
    pub memory: ByteSize,
    pub options: Options,
    pub name: &'static str,
}

impl Setup {
    pub fn small() -> Setup {
        Setup {
            journal: JournalOptions {
                capacity: 1 << 20,
                file_size: 256 << 10,
                max_reserved: 128 << 10,
                ..JournalOptions::default()
            },
            cache: CacheOptions { capacity: 1 << 20, ..CacheOptions::default() },
            memory: ByteSize::kib(64),
            options: Options {
                segment: ByteSize::kib(64),
                segment_age: Duration::from_millis(500),
                puts: 3,
                spool_above: 0.3,
                spool_limit: ByteSize::mib(8),
                checkpoint_runs: 40,
                checkpoint_segments: 6,
                page_entries: 16,
                pages: 4,
                grace: Duration::from_secs(20),
                garbage_slack: ByteSize::kib(128),
                ..Options::default()
            },
            name: "alpha",
        }
    }
}

/// A running process on a disk.
pub struct Running {
    pub env: Env,
    pub recovery: Recovery,
    pub events: Arc<EventList>,
    pub process: Arc<Process>,
    pub spool: Arc<Spool>,
}

/// Starts a process. A failure is what recovery of the disk says.
pub async fn start(disk: &SimDisk, bucket: Arc<dyn Bucket>, setup: &Setup, seed: u64) -> Result<Running> {
    let process = Process::new();
    let entropy = Arc::new(SeededEntropy::new(seed));
    let mounted = disk.mount();
    let (journal, recovery) =
        Journal::open(mounted.clone(), setup.journal.clone(), process.clone(), entropy.clone()).await?;
    let spool = Arc::new(Spool::open(mounted.clone()).await?);
    let cache = Cache::open(mounted, setup.cache.clone(), process.clone()).await?;
    let events = Arc::new(EventList::default());
    let env = Env {
        clock: Arc::new(SimClock::new()),
        spawn: process.clone(),
        bucket: Arc::new(Retrying::new(bucket, RetryPolicy::default(), entropy)),
        journal,
        spool: spool.clone(),
        cache,
        memory: DirtyMemory::new(setup.memory),
        gateway: GatewayId([setup.name.as_bytes()[0]; 16]),
        gateway_name: setup.name.into(),
        events: events.clone(),
        options: setup.options.clone(),
    };
    Ok(Running { env, recovery, events, process, spool })
}

impl Running {
    pub async fn open(&self, image: ImageId, accept_loss: Option<Epoch>) -> Result<Image> {
        self.open_on(self.env.bucket.clone(), image, accept_loss).await
    }

    /// Opens an image that lives in another bucket.
    pub async fn open_on(
        &self,
        bucket: Arc<dyn Bucket>,
        image: ImageId,
        accept_loss: Option<Epoch>,
    ) -> Result<Image> {
        let (image, _) = self.open_held_on(bucket, image, accept_loss).await?;
        Ok(image)
    }

    pub async fn open_held_on(
        &self,
        bucket: Arc<dyn Bucket>,
        image: ImageId,
        accept_loss: Option<Epoch>,
    ) -> Result<(Image, Hold)> {
        let recovered = self.recovery.owners.get(&image).cloned().unwrap_or_default();
        let env = Env { bucket, ..self.env.clone() };
        Image::open_held(env, OpenRequest { image, recovered, accept_loss }).await
    }

    /// SIGKILL and power cut.
    pub fn crash(self, disk: &SimDisk) {
        self.process.kill();
        drop(self);
        disk.crash();
        disk.restart();
    }
}

/// A bucket behind faults.
pub fn faulty(store: &Arc<Memory>, seed: u64) -> (Arc<dyn Bucket>, Arc<Faults>) {
    let faulty = Arc::new(Faulty::new(store.clone(), seed));
    let faults = faulty.faults();
    (faulty, faults)
}

/// Bytes that differ everywhere and do not compress, or do.
pub fn pattern(seed: u64, len: usize, compressible: bool) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = if compressible { (state & 0xff) | 0x0101_0100 } else { state };
        let times = if compressible { 16 } else { 1 };
        (0..times).for_each(|_| out.extend_from_slice(&word.to_le_bytes()));
    }
    out.truncate(len);
    out.into()
}

/// An image and what it must hold.
pub struct Model(pub Vec<u8>);

impl Model {
    pub async fn write(&mut self, image: &Image, start: u64, data: Bytes) {
        let at = (start * SECTOR) as usize;
        self.0[at..at + data.len()].copy_from_slice(&data);
        let admission = image.admit(data.len() as u64).await.unwrap();
        image.write(start, vec![data], false, admission).await.unwrap();
    }

    pub async fn zero(&mut self, image: &Image, span: Span, unmap: bool) {
        self.0[(span.start * SECTOR) as usize..(span.end() * SECTOR) as usize].fill(0);
        image.zero(span, unmap).await.unwrap();
    }

    pub fn part(&self, span: Span) -> &[u8] {
        &self.0[(span.start * SECTOR) as usize..(span.end() * SECTOR) as usize]
    }
}

pub async fn read(image: &Image, span: Span) -> Result<Vec<u8>> {
    Ok(image.read(span).await?.iter().flat_map(|part| part.iter().copied()).collect())
}

/// Runs under a clock that stands still but for sleeps. What waits for something that never comes fails after a day.
pub fn paused<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let day = Duration::from_secs(86_400);
    runtime.block_on(async { tokio::time::timeout(day, work).await.expect("it waits for what never comes") })
}
