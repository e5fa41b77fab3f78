//! What happens in a world: a seed's worth of writes, faults, crashes and takeovers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ErrorKind, ImageId, SECTOR, SeededEntropy, Span, checksum};
use bucket::{Bucket, Fault, FaultPlan, Key, Memory, Outage};
use image::{Condition, Image, Unclosed};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::checker::Checker;
use crate::gateway::{Machine, Running};
use crate::initiator::Initiator;
use crate::seams::SimClock;

/// The volume's size in sectors: small, so that writes meet.
pub(crate) const SECTORS: u64 = 2048;
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
    /// What happened, and how often: the world's events, and each kind of call in which the power was cut.
    pub happened: BTreeMap<String, u32>,
}

pub(crate) struct World {
    pub chance: Arc<SeededEntropy>,
    pub store: Arc<Memory>,
    pub machines: [Machine; 2],
    pub image: ImageId,
    pub checker: Arc<Mutex<Checker>>,
    pub seen: u64,
    lost: usize,
    happened: BTreeMap<String, u32>,
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

pub(crate) fn text(e: base::Error) -> String {
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
            happened: BTreeMap::new(),
            rescues: 0,
        }
    }

    async fn live(mut self) -> Result<Outcome, String> {
        let record = chain_record(self.image);
        create(&*self.store, &record).await.map_err(text)?;
        let mut owner = 0;
        let mut running = self.start(owner, None).await.map_err(text)?;
        let rounds = 3 + self.chance.below(5);
        for _ in 0..rounds {
            self.weather(owner);
            let upset = self.upset(owner);
            self.work(owner, &running).await?;
            drop(upset);
            self.machines[owner].faults.clear();
            let stopped = self.stopped(owner, &running).await?;
            (owner, running) = match self.chance.below(10) {
                0 => self.lose_disk(owner, running).await?,
                1 => self.fail_over(owner, running).await?,
                2 | 3 => self.crash(owner, running).await?,
                _ if stopped => self.crash(owner, running).await?,
                4 => self.take_over(owner, running).await?,
                5 => self.take_over_from_a_sleeper(owner, running).await?,
                6 | 7 => self.hand_over(owner, running).await?,
                8 => self.go_on_with_a_copy(owner, running).await?,
                _ => (owner, running),
            };
        }
        self.verify(&running.image, |checker, content| checker.check_read(Span::new(0, SECTORS), content))
            .await?;
        self.rot_on_disk(owner, &running).await?;
        let digest = self.finish(owner, running).await?;
        let operations = self.checker.lock().sent();
        Ok(Outcome { digest, operations, lost_with_disk: self.lost, happened: self.happened })
    }

    pub(crate) fn note(&mut self, what: &str) {
        *self.happened.entry(what.to_owned()).or_default() += 1;
    }

    /// Notes that the power was cut, and in which call, if it was.
    fn note_cut(&mut self, machine: usize, phase: &str) -> bool {
        let cut = self.machines[machine].disk.take_cut();
        if let Some(call) = &cut {
            let dir = call.split('/').next().unwrap_or_default();
            self.note(&format!("cut while {phase}: {dir}"));
        }
        cut.is_some()
    }

    /// Chooses what goes wrong on the way to the bucket.
    fn weather(&self, owner: usize) {
        let faults = &self.machines[owner].faults;
        match self.chance.below(7) {
            0 => faults.set_outage(Outage::Refusing),
            1 => faults.set_outage(Outage::Hanging),
            2 => faults.set_plan(FaultPlan { every: Some((2, Fault::Throttled)), ..FaultPlan::default() }),
            3 => {
                faults.set_plan(FaultPlan { chances: vec![(Fault::AnswerLost, 300)], ..FaultPlan::default() })
            }
            4 => faults.set_plan(FaultPlan {
                chances: vec![(Fault::Late(Duration::from_secs(40)), 100), (Fault::ResetAfter, 100)],
                ..FaultPlan::default()
            }),
            5 => faults.set_plan(FaultPlan {
                latency: Some((Duration::from_millis(1), Duration::from_millis(400))),
                ..FaultPlan::default()
            }),
            _ => {}
        }
    }

    /// Lets the initiators work for a while. Stops them in the middle of what they do.
    pub(crate) async fn work(&self, owner: usize, running: &Running) -> Result<(), String> {
        let mut writers = self.initiators(owner, running, false);
        let while_working = Duration::from_millis(200 + self.chance.below(8_000));
        worked(&mut writers, while_working).await
    }

    fn initiators(&self, owner: usize, running: &Running, overtaken: bool) -> Tasks {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let initiator = Initiator {
                image: running.image.clone(),
                journal: running.journal.clone(),
                disk: self.machines[owner].disk.clone(),
                checker: self.checker.clone(),
                chance: SeededEntropy::new(base::Entropy::next_u64(&*self.chance)),
                part: Span::new(writer * (SECTORS / WRITERS), SECTORS / WRITERS),
                overtaken,
            };
            writers.spawn(running.process.gated(initiator.run()));
        }
        writers
    }

    /// Whether the owner cannot go on: its power was cut, or a sync failed. Of the latter it must know.
    async fn stopped(&mut self, owner: usize, running: &Running) -> Result<bool, String> {
        if self.note_cut(owner, "working") {
            return Ok(true);
        }
        let failed = self.machines[owner].disk.failed_sync();
        self.machines[owner].disk.calm();
        let condition = running.image.status().condition;
        let (Some(file), false) = (failed, condition == Condition::Open) else {
            return match condition {
                Condition::Open => Ok(false),
                _ => Err(format!("it stopped though nothing is wrong with its disk: {condition:?}")),
            };
        };
        for refused in [running.image.flush().await.err(), running.image.admit(512).await.err()] {
            if refused.is_none() {
                return Err(format!("a sync of {file} failed, and it goes on as {condition:?}"));
            }
        }
        self.note(&format!("failed sync: {}", file.split('/').next().unwrap_or_default()));
        Ok(true)
    }

    /// Ends the process, and mostly cuts the power.
    fn fall(&mut self, owner: usize, running: Running) {
        let off = self.machines[owner].disk.is_off();
        match !off && self.chance.chance(1, 4) {
            true => self.machines[owner].kill(running),
            false => self.machines[owner].crash(running),
        }
    }

    async fn crash(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.note("crash");
        self.fall(owner, running);
        self.store_settles(owner).await;
        let running = self.start(owner, None).await.map_err(|e| format!("open after a crash: {e:?}"))?;
        self.verify(&running.image, Checker::settle_after_crash)
            .await
            .map_err(|e| format!("after a crash: {e}"))?;
        Ok((owner, running))
    }

    /// The gateway is gone with its disk; the other one opens what is in the bucket.
    async fn lose_disk(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.note("disk lost");
        self.machines[owner].crash(running);
        self.machines[owner].lose_disk(base::Entropy::next_u64(&*self.chance));
        let (other, new, _) = self.other_opens(owner).await?;
        Ok((other, new))
    }

    /// The gateway is gone, the other one takes over, and the former one comes back with its disk.
    async fn fail_over(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.note("fail-over");
        self.fall(owner, running);
        let before = self.checker.lock().clone();
        let (other, new, lost) = self.other_opens(owner).await?;
        self.come_back(owner, before, lost).await?;
        Ok((other, new))
    }

    /// The other gateway takes over while this one still works, cut off from the bucket; then this one comes back.
    async fn take_over(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.note("takeover");
        self.machines[owner].faults.set_outage(Outage::Hanging);
        self.work(owner, &running).await?;
        let before = self.checker.lock().clone();
        let (other, new, lost) = self.other_opens(owner).await?;
        self.machines[owner].faults.clear();
        self.expect_fenced(&running).await?;
        self.machines[owner].crash(running);
        self.come_back(owner, before, lost).await?;
        Ok((other, new))
    }

    /// This gateway stands still in the middle of what it does, with its initiators; the other one takes over, works, and
    /// collects garbage; then this one goes on where it stood.
    async fn take_over_from_a_sleeper(
        &mut self,
        owner: usize,
        running: Running,
    ) -> Result<(usize, Running), String> {
        self.note("takeover from a sleeper");
        self.weather(owner);
        let mut sleepers = self.initiators(owner, &running, true);
        worked_on(&mut sleepers, Duration::from_millis(200 + self.chance.below(4_000))).await?;
        running.process.pause();
        // From here on there are two histories, and who sleeps goes on with the older one.
        let checker = Arc::new(Mutex::new(self.checker.lock().clone()));
        let before = std::mem::replace(&mut self.checker, checker);
        let acknowledged = before.lock().acknowledged();
        let (other, mut new, mut lost) = self.other_opens(owner).await?;
        let there = self.segments();
        for _ in 0..2 {
            self.work(other, &new).await?;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        if there.difference(&self.segments()).next().is_some() {
            self.note("garbage collected under a sleeper");
        }
        self.machines[owner].faults.clear();
        running.process.resume();
        worked(&mut sleepers, Duration::from_secs(30)).await?;
        self.expect_fenced(&running).await?;
        self.machines[owner].crash(running);
        lost += before.lock().acknowledged() - acknowledged;
        let before = before.lock().clone();
        self.come_back(owner, before, lost).await?;
        if self.chance.chance(1, 2) {
            new = self.crash(other, new).await?.1;
        }
        Ok((other, new))
    }

    /// The machine is copied while it works, goes on for a while, and falls. The copy takes its place; then the original is tried again.
    async fn go_on_with_a_copy(
        &mut self,
        owner: usize,
        running: Running,
    ) -> Result<(usize, Running), String> {
        self.note("machine copied");
        let seed = base::Entropy::next_u64(&*self.chance);
        let copy = self.machines[owner].copy(seed, self.store.clone());
        let at_copy = self.checker.lock().acknowledged();
        self.weather(owner);
        self.work(owner, &running).await?;
        if self.chance.chance(1, 3) {
            // Then the bucket has all that the original has; unless its power was cut.
            self.machines[owner].faults.clear();
            drop(running.image.drain().await);
        }
        self.fall(owner, running);
        self.store_settles(owner).await;
        let original = std::mem::replace(&mut self.machines[owner], copy);
        let running = self.start(owner, None).await.map_err(|e| format!("open on a copy: {e:?}"))?;
        let acknowledged = self.checker.lock().acknowledged();
        let mut lost = 0;
        self.verify(&running.image, |checker, content| {
            lost = checker.settle_after_loss(content)?;
            Ok(())
        })
        .await
        .map_err(|e| format!("on a copy: {e}"))?;
        if acknowledged - lost < at_copy {
            return Err(format!(
                "the copy lost some of {at_copy} operations that were acknowledged before it was made"
            ));
        }
        self.lost += lost;
        self.work(owner, &running).await?;
        let closed = self.chance.chance(1, 2);
        match closed {
            true => running.close().await.map_err(|e| format!("close on a copy: {e:?}"))?,
            false => self.fall(owner, running),
        }
        self.original_comes_back(owner, original, lost, closed).await
    }

    /// The original of a copied machine starts again. It must not open the image if it has acknowledged what the copy has not, or
    /// may lack what the copy has. Who may have the image goes on with it.
    async fn original_comes_back(
        &mut self,
        owner: usize,
        original: Machine,
        lost: usize,
        closed: bool,
    ) -> Result<(usize, Running), String> {
        let copy = std::mem::replace(&mut self.machines[owner], original);
        self.machines[owner].faults.clear();
        match self.start(owner, None).await {
            Ok(running) if lost == 0 && closed => {
                self.note("the original goes on behind its copy");
                self.verify(&running.image, Checker::settle_after_crash).await?;
                return Ok((owner, running));
            }
            Err(e) if e.kind() == ErrorKind::Corrupt && e.to_string().contains("on a copy of this disk") => {
                self.note("the original is refused for what only it has");
            }
            Err(e) if e.kind() == ErrorKind::Denied && lost == 0 && !closed => {
                self.note("the original is refused for what only its copy has");
            }
            Ok(_) => return Err(format!("the original of a copy opened; lost {lost}, closed {closed}")),
            Err(e) => return Err(format!("the original of a copy; lost {lost}, closed {closed}: {e:?}")),
        }
        self.machines[owner] = copy;
        let running = self.start(owner, None).await.map_err(|e| format!("open on a copy again: {e:?}"))?;
        self.verify(&running.image, Checker::settle_after_crash)
            .await
            .map_err(|e| format!("on a copy again: {e}"))?;
        Ok((owner, running))
    }

    /// The bucket answers the older owner again: it must find out that it lost the image, and stop.
    async fn expect_fenced(&self, running: &Running) -> Result<(), String> {
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
        Ok(())
    }

    /// The older owner starts again. It must not open the image, and if operations were lost to the other one, it has kept them.
    async fn come_back(&mut self, owner: usize, before: Checker, lost: usize) -> Result<(), String> {
        self.machines[owner].faults.clear();
        match self.start(owner, None).await {
            Err(e) if e.kind() == ErrorKind::Denied => {}
            Err(e) => return Err(format!("the older owner comes back: {e:?}")),
            Ok(_) => return Err("the image opened though another gateway has it".into()),
        }
        if !self.rescue(owner, before).await? && lost > 0 {
            return Err(format!("{lost} acknowledged operations are in no fork"));
        }
        Ok(())
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
        rescued.close().await.map_err(text)?;
        Ok(true)
    }

    /// The other gateway opens the image, and how many acknowledged operations are lost to it.
    async fn other_opens(&mut self, owner: usize) -> Result<(usize, Running, usize), String> {
        self.store_settles(owner).await;
        let other = 1 - owner;
        let refused = match self.start(other, None).await {
            Ok(_) => return Err("an image that was not closed opened without its journal".into()),
            Err(e) => e,
        };
        let Some(unclosed) = Unclosed::find(&refused) else {
            return Err(format!("unexpected refusal: {refused:?}"));
        };
        let running = self.start(other, Some(unclosed.epoch)).await.map_err(text)?;
        let mut lost = 0;
        self.verify(&running.image, |checker, content| {
            lost = checker.settle_after_loss(content)?;
            Ok(())
        })
        .await?;
        self.lost += lost;
        Ok((other, running, lost))
    }

    /// The owner closes in good order and the other one goes on: nothing may be missing. If the power is cut meanwhile, the
    /// owner goes on.
    async fn hand_over(&mut self, owner: usize, running: Running) -> Result<(usize, Running), String> {
        self.note("hand-over");
        if self.chance.chance(1, 2) {
            self.machines[owner].disk.crash_at(self.soon(7));
        }
        let closed = running.close().await;
        if self.note_cut(owner, "closing") {
            return self.crash(owner, running).await;
        }
        self.machines[owner].disk.calm();
        closed.map_err(|e| format!("close: {e:?}; {:?}", running.events.0.lock()))?;
        drop(running);
        let other = 1 - owner;
        let running = self.start(other, None).await.map_err(|e| format!("open after a close: {e:?}"))?;
        self.verify(&running.image, Checker::settle_after_crash)
            .await
            .map_err(|e| format!("after a hand-over: {e}"))?;
        Ok((other, running))
    }

    /// Starts a gateway. Sometimes the power is cut while it opens the image, again and again.
    async fn start(&mut self, machine: usize, accept: Option<base::Epoch>) -> base::Result<Running> {
        while self.chance.chance(1, 3) {
            let soon = self.soon(5);
            self.machines[machine].disk.crash_at(soon);
            let started = self.machines[machine].start(self.image, accept).await;
            if !self.note_cut(machine, "opening") {
                self.machines[machine].disk.calm();
                return started;
            }
            if let Ok(running) = started {
                self.machines[machine].crash(running);
            }
        }
        self.machines[machine].start(self.image, accept).await
    }

    /// One of the next calls of a disk: rather one of the very next, one of the next 2^`bits` at the most.
    fn soon(&self, bits: u64) -> u64 {
        1 + self.chance.below(1 << self.chance.below(bits + 1))
    }

    fn segments(&self) -> BTreeSet<Key> {
        self.store
            .objects()
            .into_iter()
            .map(|(key, _)| key)
            .filter(|k| k.as_str().contains("/seg/"))
            .collect()
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

    /// Everything drains, nothing is left behind, and the bucket alone has it all.
    async fn finish(&mut self, owner: usize, running: Running) -> Result<u64, String> {
        running.image.drain().await.map_err(|e| format!("drain: {e:?}; {:?}", running.events.0.lock()))?;
        let status = running.image.status();
        if status.dirty.0 != 0 || status.spooled.0 != 0 {
            return Err(format!("after a drain this is left: {status:?}"));
        }
        running.close().await.map_err(text)?;
        drop(running);
        let digest = self.store.digest();
        self.rot_in_cache(owner).await?;
        self.rot_in_bucket().await?;
        self.machines[0].lose_disk(7);
        let fresh = self.machines[0].start(self.image, None).await.map_err(text)?;
        self.verify(&fresh.image, |checker, content| checker.check_read(Span::new(0, SECTORS), content))
            .await?;
        self.machines[0].crash(fresh);
        Ok(digest ^ self.store.digest() ^ self.seen)
    }
}

/// What initiators do, each until it is stopped.
type Tasks = JoinSet<Result<(), String>>;

/// Lets them go on for a while.
async fn worked_on(writers: &mut Tasks, time: Duration) -> Result<(), String> {
    let ended = tokio::time::timeout(time, async {
        while let Some(done) = writers.join_next().await {
            done.map_err(|e| e.to_string())??;
        }
        Ok::<(), String>(())
    });
    ended.await.unwrap_or(Ok(()))
}

/// Lets them go on for a while, and stops them in the middle of what they do.
async fn worked(writers: &mut Tasks, time: Duration) -> Result<(), String> {
    worked_on(writers, time).await?;
    writers.shutdown().await;
    Ok(())
}

fn chain_record(image: ImageId) -> (ImageId, ByteSize) {
    (image, ByteSize(SECTORS * SECTOR))
}

async fn create(bucket: &dyn Bucket, (image, size): &(ImageId, ByteSize)) -> base::Result<()> {
    image::create(bucket, 0, *image, "vol1", *size, 512).await
}
