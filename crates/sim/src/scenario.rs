//! What happens in a world: a seed's worth of writes, faults, crashes and takeovers.

use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ErrorKind, ImageId, SECTOR, SeededEntropy, Span, checksum};
use bucket::{Bucket, Fault, FaultPlan, Memory, Outage};
use bytes::Bytes;
use image::{Condition, Image};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::checker::Checker;
use crate::gateway::{Machine, Running};
use crate::seams::SimClock;

/// The volume's size in sectors: small, so that writes meet.
const SECTORS: u64 = 2048;
/// Initiators that write at the same time, each in its own part of the volume.
const WRITERS: u64 = 4;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A digest of all that was stored and seen: the same seed gives the same.
    pub digest: u64,
    /// Operations sent.
    pub operations: usize,
    /// Acknowledged operations that were lost with a disk, as they may be.
    pub lost_with_disk: usize,
    /// Crashes, losses of the disk, takeovers.
    pub events: [u32; 3],
}

struct World {
    chance: Arc<SeededEntropy>,
    store: Arc<Memory>,
    machines: [Machine; 2],
    image: ImageId,
    checker: Arc<Mutex<Checker>>,
    seen: u64,
    lost: usize,
    events: [u32; 3],
    rescues: u8,
}

/// Runs one world to its end. `Err` says what was wrong.
pub fn run(seed: u64) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        // Virtual days pass in moments; a world that stands still is a finding, not a wait.
        tokio::time::timeout(Duration::from_secs(7 * 86_400), World::new(seed).live())
            .await
            .unwrap_or_else(|_| Err("the world stood still".into()))
    })
}

fn text(e: base::Error) -> String {
    format!("{e:?}")
}

impl World {
    fn new(seed: u64) -> World {
        let clock = Arc::new(SimClock::new());
        let store = Arc::new(Memory::new().with_clock(clock.clone()));
        let machine =
            |name, salt| Machine::new(name, seed ^ salt, store.clone() as Arc<dyn Bucket>, clock.clone());
        World {
            chance: Arc::new(SeededEntropy::new(seed)),
            machines: [machine("alpha", 0x1111), machine("beta", 0x2222)],
            store,
            image: ImageId([0x51; 16]),
            checker: Arc::new(Mutex::new(Checker::new(SECTORS))),
            seen: 0,
            lost: 0,
            events: [0; 3],
            rescues: 0,
        }
    }

    async fn live(mut self) -> Result<Outcome, String> {
        let record = chain_record(self.image);
        create(&*self.store, &record).await.map_err(text)?;
        let mut owner = 0;
        let mut running = self.machines[owner].start(self.image, None).await.map_err(text)?;
        let rounds = 3 + self.chance.below(5);
        for _ in 0..rounds {
            self.weather(owner);
            running = self.work(running).await?;
            self.machines[owner].faults.clear();
            (owner, running) = match self.chance.below(8) {
                0..=3 => self.crash(owner, running).await?,
                4 => self.lose_disk(owner, running).await?,
                5 => self.take_over(owner, running).await?,
                6 => self.hand_over(owner, running).await?,
                _ => (owner, running),
            };
        }
        self.verify(&running.image, |checker, content| checker.check_read(Span::new(0, SECTORS), content))
            .await?;
        let digest = self.finish(running).await?;
        let operations = self.checker.lock().sent();
        Ok(Outcome { digest, operations, lost_with_disk: self.lost, events: self.events })
    }

    /// Chooses what goes wrong on the way to the bucket.
    fn weather(&self, owner: usize) {
        let faults = &self.machines[owner].faults;
        match self.chance.below(6) {
            0 => faults.set_outage(Outage::Refusing),
            1 => faults.set_outage(Outage::Hanging),
            2 => faults.set_plan(FaultPlan { every: Some((2, Fault::Throttled)), ..FaultPlan::default() }),
            3 => {
                faults.set_plan(FaultPlan { chances: vec![(Fault::AnswerLost, 300)], ..FaultPlan::default() })
            }
            4 => faults.set_plan(FaultPlan {
                latency: Some((Duration::from_millis(1), Duration::from_millis(400))),
                ..FaultPlan::default()
            }),
            _ => {}
        }
    }

    /// Lets the initiators work for a while. Stops them in the middle of what they do.
    async fn work(&mut self, running: Running) -> Result<Running, String> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let initiator = Initiator {
                image: running.image.clone(),
                checker: self.checker.clone(),
                chance: SeededEntropy::new(base::Entropy::next_u64(&*self.chance)),
                part: Span::new(writer * (SECTORS / WRITERS), SECTORS / WRITERS),
            };
            writers.spawn(initiator.run());
        }
        let while_working = Duration::from_millis(200 + self.chance.below(8_000));
        let ended = tokio::time::timeout(while_working, async {
            while let Some(done) = writers.join_next().await {
                done.map_err(|e| e.to_string())??;
            }
            Ok::<(), String>(())
        });
        ended.await.unwrap_or(Ok(()))?;
        writers.abort_all();
        while writers.join_next().await.is_some() {}
        Ok(running)
    }

    async fn crash(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.events[0] += 1;
        self.machines[owner].crash(running);
        self.store_settles(owner).await;
        let running = self.start(owner, None).await?;
        self.verify(&running.image, Checker::settle_after_crash)
            .await
            .map_err(|e| format!("after a crash: {e}"))?;
        Ok((owner, running))
    }

    /// The gateway is gone with its disk; the other one opens what is in the bucket.
    async fn lose_disk(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.events[1] += 1;
        self.machines[owner].crash(running);
        self.machines[owner].disk = local::SimDisk::new(base::Entropy::next_u64(&*self.chance));
        self.other_opens(owner).await
    }

    /// The other gateway takes over while this one still works, cut off from the bucket; then this one comes back.
    async fn take_over(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.events[2] += 1;
        self.machines[owner].faults.set_outage(Outage::Hanging);
        let running = self.work(running).await?;
        let before = self.checker.lock().clone();
        let lost = self.lost;
        let (other, new) = self.other_opens(owner).await?;
        let lost = self.lost - lost;
        self.machines[owner].faults.clear();
        tokio::time::sleep(Duration::from_secs(300)).await;
        let status = running.image.status();
        if !matches!(status.condition, Condition::Fenced(_)) {
            return Err(format!(
                "the older owner does not know that it lost the image: {:?}",
                status.condition
            ));
        }
        for refused in [running.image.read(Span::new(0, 1)).await.err(), running.image.admit(512).await.err()]
        {
            if refused.as_ref().map(base::Error::kind) != Some(ErrorKind::Fenced) {
                return Err(format!("the older owner still serves: {refused:?}"));
            }
        }
        self.machines[owner].crash(running);
        if !self.rescue(owner, before).await? && lost > 0 {
            return Err(format!("{lost} acknowledged operations are in no fork"));
        }
        Ok((other, new))
    }

    /// The older owner starts again: what it kept must hold every write it had acknowledged.
    /// `false` if it kept nothing.
    async fn rescue(&mut self, owner: usize, mut before: Checker) -> Result<bool, String> {
        self.rescues += 1;
        let clone = ImageId([self.rescues; 16]);
        let rescued = self.machines[owner].rescue(self.image, clone).await;
        let Some(rescued) = rescued.map_err(|e| format!("rescue: {e:?}"))? else { return Ok(false) };
        let content = self.content(&rescued.image).await?;
        before.settle_after_crash(&content).map_err(|e| format!("in a rescued fork: {e}"))?;
        self.seen = self.seen.rotate_left(7) ^ checksum::crc64(&content);
        rescued.image.close().await.map_err(text)?;
        rescued.end().await.map_err(text)?;
        Ok(true)
    }

    async fn other_opens(&mut self, owner: usize) -> Result<(usize, Running), String> {
        self.store_settles(owner).await;
        let other = 1 - owner;
        let refused = match self.machines[other].start(self.image, None).await {
            Ok(_) => return Err("an image that was not closed opened without its journal".into()),
            Err(e) => e,
        };
        if refused.kind() != ErrorKind::Denied {
            return Err(format!("unexpected refusal: {refused:?}"));
        }
        let epoch = refused.to_string().rsplit(' ').next().and_then(|e| e.parse().ok()).map(base::Epoch);
        let running = self.start(other, epoch).await?;
        let lost = self.verify_loss(&running.image).await?;
        self.lost += lost;
        Ok((other, running))
    }

    /// The owner closes in good order and the other one goes on: nothing may be missing.
    async fn hand_over(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        running.image.close().await.map_err(|e| format!("close: {e:?}; {:?}", running.events.0.lock()))?;
        running.end().await.map_err(text)?;
        let other = 1 - owner;
        let running = self.start(other, None).await?;
        self.verify(&running.image, Checker::settle_after_crash)
            .await
            .map_err(|e| format!("after a hand-over: {e}"))?;
        Ok((other, running))
    }

    async fn start(&mut self, machine: usize, accept: Option<base::Epoch>) -> Result<Running, String> {
        self.machines[machine].start(self.image, accept).await.map_err(|e| format!("open: {e:?}"))
    }

    /// Requests of a dead process may still arrive, or never.
    async fn store_settles(&self, machine: usize) {
        if self.chance.chance(1, 2) {
            self.machines[machine].path.deliver_late().await;
        }
    }

    async fn content(&self, image: &Image) -> Result<Vec<u8>, String> {
        let mut content = Vec::with_capacity((SECTORS * SECTOR) as usize);
        let step = 1 + self.chance.below(512);
        let mut at = 0;
        while at < SECTORS {
            let span = Span::new(at, step.min(SECTORS - at));
            let parts = image.read(span).await.map_err(|e| format!("read {span:?}: {e:?}"))?;
            parts.iter().for_each(|p| content.extend_from_slice(p));
            at = span.end();
        }
        Ok(content)
    }

    async fn verify(
        &mut self,
        image: &Image,
        check: impl FnOnce(&mut Checker, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let content = self.content(image).await?;
        self.seen = self.seen.rotate_left(7) ^ checksum::crc64(&content);
        check(&mut self.checker.lock(), &content)
    }

    async fn verify_loss(&mut self, image: &Image) -> Result<usize, String> {
        let mut lost = 0;
        self.verify(image, |checker, content| {
            lost = checker.settle_after_loss(content)?;
            Ok(())
        })
        .await?;
        Ok(lost)
    }

    /// Everything drains, nothing is left behind, and the bucket alone has it all.
    async fn finish(&mut self, running: Running) -> Result<u64, String> {
        running.image.drain().await.map_err(|e| format!("drain: {e:?}; {:?}", running.events.0.lock()))?;
        let status = running.image.status();
        if status.dirty.0 != 0 || status.spooled.0 != 0 {
            return Err(format!("after a drain this is left: {status:?}"));
        }
        running.image.close().await.map_err(text)?;
        running.end().await.map_err(text)?;
        let fresh = self.start_fresh().await?;
        self.verify(&fresh.image, |checker, content| checker.check_read(Span::new(0, SECTORS), content))
            .await?;
        self.machines[0].crash(fresh);
        Ok(self.store.digest() ^ self.seen)
    }

    async fn start_fresh(&mut self) -> Result<Running, String> {
        self.machines[0].disk = local::SimDisk::new(7);
        self.start(0, None).await
    }
}

fn chain_record(image: ImageId) -> (ImageId, ByteSize) {
    (image, ByteSize(SECTORS * SECTOR))
}

async fn create(bucket: &dyn Bucket, (image, size): &(ImageId, ByteSize)) -> base::Result<()> {
    image::create(bucket, 0, *image, "vol1", *size, 512).await
}

/// Somebody who writes, zeroes, discards, reads and flushes in one part of the volume.
struct Initiator {
    image: Image,
    checker: Arc<Mutex<Checker>>,
    chance: SeededEntropy,
    part: Span,
}

impl Initiator {
    async fn run(self) -> Result<(), String> {
        loop {
            match self.chance.below(12) {
                0..=6 => self.write().await?,
                7 => self.empty().await?,
                8 => {
                    let _ = self.image.flush().await;
                }
                9 => tokio::time::sleep(Duration::from_millis(self.chance.below(1_000))).await,
                _ => self.read().await?,
            }
        }
    }

    fn span(&self) -> Span {
        let long = if self.chance.chance(1, 6) { 120 } else { 16 };
        let count = 1 + self.chance.below(long);
        let start = self.part.start + self.chance.below(self.part.count - count);
        Span::new(start, count)
    }

    async fn write(&self) -> Result<(), String> {
        let span = self.span();
        let admission = match self.image.admit(span.bytes()).await {
            Ok(admission) => admission,
            Err(e) => return self.refused(e).await,
        };
        let id = self.checker.lock().send(span, false);
        let data = vec![Checker::data(id, span)];
        match self.image.write(span.start, data, false, admission).await {
            Ok(()) => self.checker.lock().acknowledge(id),
            Err(e) => self.refused(e).await?,
        }
        Ok(())
    }

    async fn empty(&self) -> Result<(), String> {
        let span = self.span();
        let id = self.checker.lock().send(span, true);
        match self.image.zero(span, self.chance.chance(1, 2)).await {
            Ok(()) => self.checker.lock().acknowledge(id),
            Err(e) => self.refused(e).await?,
        }
        Ok(())
    }

    async fn read(&self) -> Result<(), String> {
        let span = self.span();
        match self.image.read(span).await {
            Ok(parts) => {
                let content: Vec<u8> = parts.iter().flat_map(|p: &Bytes| p.iter().copied()).collect();
                self.checker.lock().check_read(span, &content).map_err(|e| format!("while working: {e}"))
            }
            Err(e) => self.refused(e).await,
        }
    }

    /// Which errors an initiator may meet: no room, the store away, the image lost.
    async fn refused(&self, e: base::Error) -> Result<(), String> {
        match e.kind() {
            ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::NoSpace | ErrorKind::Fenced => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            }
            _ => Err(format!("an initiator got {e:?}")),
        }
    }
}
