//! A simulated gateway: one disk, one image open at a time, its own path to the bucket.

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, Clock, Epoch, Error, ErrorKind, GatewayId, ImageId, Result, SeededEntropy};
use bucket::{Bucket, Faults, Faulty, RetryPolicy, Retrying};
use image::{DirtyMemory, Env, Event, Events, Image, OpenRequest, Options};
use local::{Cache, CacheOptions, Journal, JournalOptions, Recovery, SimDisk, SimLatency, Spool};
use parking_lot::Mutex;

use crate::seams::Process;

/// Events, kept for the checker's messages.
#[derive(Debug, Default)]
pub(crate) struct EventList(pub Mutex<Vec<String>>);

impl Events for EventList {
    fn event(&self, event: Event) {
        self.0.lock().push(format!("{:?}: {}", event.severity, event.text));
    }
}

/// The machine: what survives a crash of the process.
pub(crate) struct Machine {
    pub name: &'static str,
    pub disk: SimDisk,
    pub path: Arc<Faulty>,
    pub faults: Arc<Faults>,
    clock: Arc<dyn Clock>,
    seed: u64,
    lives: u64,
}

/// The process: what does not.
pub(crate) struct Running {
    pub image: Image,
    pub journal: Journal,
    cache: Cache,
    pub events: Arc<EventList>,
    pub process: Arc<Process>,
}

impl Machine {
    pub fn new(name: &'static str, seed: u64, store: Arc<dyn Bucket>, clock: Arc<dyn Clock>) -> Machine {
        let path = Arc::new(Faulty::new(store, seed));
        Machine { name, disk: new_disk(seed), faults: path.faults(), path, clock, seed, lives: 0 }
    }

    /// Another machine that has this one's disk, or a copy of it, and a way to `store`.
    pub fn twin(&self, disk: SimDisk, store: Arc<dyn Bucket>) -> Machine {
        Machine { disk, lives: self.lives, ..Machine::new(self.name, self.seed, store, self.clock.clone()) }
    }

    /// A copy of this machine, with what is durable on its disk, and with chances of its own.
    pub fn copy(&self, seed: u64, store: Arc<dyn Bucket>) -> Machine {
        let disk = self.disk.fork(seed);
        disk.set_cold(20);
        Machine { disk, ..Machine::new(self.name, seed, store, self.clock.clone()) }
    }

    /// The disk is lost; an empty one takes its place.
    pub fn lose_disk(&mut self, seed: u64) {
        self.disk = new_disk(seed);
    }

    /// Starts the process and opens the image. On an error the process has ended again.
    pub async fn start(&mut self, image: ImageId, accept_loss: Option<Epoch>) -> Result<Running> {
        self.lives += 1;
        let process = Process::new();
        let started = async {
            let (env, recovery, events) = self.boot(&process).await?;
            self.open(env, &recovery, events, &process, image, accept_loss).await
        };
        let started = started.await;
        if started.is_err() {
            self.end(&process);
        }
        started
    }

    /// Starts the process after another gateway took `image` over, and opens what is left of it as image `clone`. `None` if
    /// nothing is left.
    pub async fn rescue(&mut self, image: ImageId, clone: ImageId) -> Result<Option<Running>> {
        self.lives += 1;
        let process = Process::new();
        let rescued = self.rescue_in(&process, image, clone).await;
        if !matches!(rescued, Ok(Some(_))) {
            self.end(&process);
        }
        rescued
    }

    async fn rescue_in(
        &self,
        process: &Arc<Process>,
        image: ImageId,
        clone: ImageId,
    ) -> Result<Option<Running>> {
        let (env, recovery, events) = self.boot(process).await?;
        match self.open(env.clone(), &recovery, events.clone(), process, image, None).await {
            Err(e) if e.kind() == ErrorKind::Denied => {}
            Err(e) => return Err(e),
            Ok(_) => return Err(Error::internal("the image opened though another gateway has it")),
        }
        let forks = image::forks(&env.spool, image, Epoch(u64::MAX));
        let Some(newest) = forks.last().map(|fork| fork.epoch) else { return Ok(None) };
        image::open_fork(&env, image, newest, clone, "rescued").await?;
        let (journal, spool) = (env.journal.clone(), env.spool.clone());
        let running = self.open(env, &recovery, events, process, clone, None).await?;
        for fork in forks {
            image::discard_fork(&*self.path, &journal, &spool, image, fork.epoch).await?;
        }
        Ok(Some(running))
    }

    fn end(&self, process: &Process) {
        process.kill();
        self.disk.crash();
        self.disk.restart();
    }

    async fn boot(&self, process: &Arc<Process>) -> Result<(Env, Recovery, Arc<EventList>)> {
        let entropy = Arc::new(SeededEntropy::new(self.seed.wrapping_add(self.lives)));
        let disk = self.disk.mount();
        let options = JournalOptions {
            capacity: 4 << 20,
            file_size: 512 << 10,
            max_reserved: 256 << 10,
            ..JournalOptions::default()
        };
        let (journal, recovery) =
            Journal::open(disk.clone(), options, process.clone(), entropy.clone()).await?;
        let spool = Arc::new(Spool::open(disk.clone()).await?);
        let options = CacheOptions { capacity: 1 << 20, memory: 256 << 10, ..CacheOptions::default() };
        let cache = Cache::open(disk, options, process.clone()).await?;
        let events = Arc::new(EventList::default());
        let policy = RetryPolicy::default();
        let env = Env {
            clock: self.clock.clone(),
            spawn: process.clone(),
            bucket: Arc::new(Retrying::new(self.path.clone(), policy, entropy)),
            journal: journal.clone(),
            spool,
            cache,
            memory: DirtyMemory::new(ByteSize::kib(256)),
            gateway: GatewayId([self.name.as_bytes()[0]; 16]),
            gateway_name: self.name.into(),
            events: events.clone(),
            options: options_for_small_worlds(),
        };
        Ok((env, recovery, events))
    }

    async fn open(
        &self,
        env: Env,
        recovery: &Recovery,
        events: Arc<EventList>,
        process: &Arc<Process>,
        image: ImageId,
        accept_loss: Option<Epoch>,
    ) -> Result<Running> {
        let recovered = recovery.owners.get(&image).cloned().unwrap_or_default();
        let (journal, cache) = (env.journal.clone(), env.cache.clone());
        let image = Image::open(env, OpenRequest { image, recovered, accept_loss }).await?;
        Ok(Running { image, journal, cache, events, process: process.clone() })
    }

    /// Kills the process and cuts the power.
    pub fn crash(&mut self, running: Running) {
        running.process.kill();
        drop(running);
        self.disk.crash();
        self.disk.restart();
    }

    /// Kills the process; the power stays on.
    pub fn kill(&mut self, running: Running) {
        running.process.kill();
        drop(running);
        self.disk.kill();
    }
}

/// On some disks everything takes its time, so that others go on between a write and its sync.
fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.set_cold(20);
    if SeededEntropy::new(seed).chance(1, 2) {
        let [write, sync] = [200, 1_500].map(Duration::from_micros);
        disk.set_latency(SimLatency { read: write, write, sync });
    }
    disk
}

impl Running {
    /// Closes the image and ends the process.
    pub async fn close(&self) -> Result<()> {
        self.image.close().await?;
        if let Err(e) = self.cache.close().await {
            self.events.0.lock().push(format!("the next start is cold: {e}"));
        }
        self.journal.close().await?;
        self.process.kill();
        Ok(())
    }
}

fn options_for_small_worlds() -> Options {
    Options {
        segment: ByteSize::kib(64),
        segment_age: Duration::from_millis(500),
        puts: 3,
        check_every: Duration::from_secs(3),
        spool_above: 0.4,
        spool_limit: ByteSize::mib(8),
        admit_within: Duration::from_secs(8),
        checkpoint_runs: 200,
        checkpoint_segments: 12,
        page_entries: 32,
        pages: 4,
        grace: Duration::from_secs(20),
        garbage: 0.3,
        garbage_slack: ByteSize::kib(64),
    }
}
