//! What fails by itself below the gateways: power cuts at one call of the disk, failing syncs, and single bits that rot.
//!
//! Rot in the cache comes at any time and must never show. Elsewhere it may cost data, but never without a word: it is the last
//! act of a world, on copies of its disk and of its bucket.

use std::sync::Arc;
use std::time::Duration;

use base::{Entropy, ErrorKind, SECTOR, SeededEntropy, Span};
use bucket::{Memory, Outage};
use local::SimDisk;
use tokio::task::JoinSet;

use crate::checker::Checker;
use crate::gateway::{Machine, Running};
use crate::scenario::{SECTORS, World, text};

/// How many bits rot, one after the other, on copies of a disk or a bucket.
const FLIPS: u64 = 2;
/// Sectors in one read, so that damage in one place does not hide wrong bytes in another.
const STEP: u64 = 64;

/// What a flipped bit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Everything is there.
    Whole,
    /// Something was refused as corrupt.
    Refused,
}

impl World {
    /// Chooses what happens to the owner's disk, until the answer is dropped.
    pub(crate) fn upset(&self, owner: usize) -> JoinSet<()> {
        let disk = self.machines[owner].disk.clone();
        let chance = SeededEntropy::new(self.chance.next_u64());
        let mut upset = JoinSet::new();
        match chance.below(8) {
            0 | 1 => disk.crash_at(1 + chance.below(1 << chance.below(12))),
            2 => disk.crash_below("spool/", 1 + chance.below(12)),
            3 => drop(upset.spawn(async move {
                tokio::time::sleep(Duration::from_millis(chance.below(4_000))).await;
                disk.fail_syncs(1);
            })),
            4 | 5 => drop(upset.spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    rot_cache(&disk, &chance, 8);
                }
            })),
            _ => {}
        }
        upset
    }

    /// One bit of what is durable in journal and local segments.
    pub(crate) async fn rot_on_disk(&mut self, owner: usize, running: &Running) -> Result<(), String> {
        self.machines[owner].faults.set_outage(Outage::Refusing);
        self.work(owner, running).await?;
        // The journal falls idle and writes its mark: from now on all of it is below.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (disk, store) = (self.machines[owner].disk.fork(self.chance.next_u64()), self.store.fork());
        self.machines[owner].faults.clear();
        for _ in 0..FLIPS {
            let copy = disk.fork(self.chance.next_u64());
            let machine = self.machines[owner].twin(copy.clone(), Arc::new(store.fork()));
            self.judge("disk", machine, |world| world.flip_on(&copy)).await?;
        }
        Ok(())
    }

    /// Bits of the cache of a disk whose image is closed and in the bucket: nobody notices.
    pub(crate) async fn rot_in_cache(&mut self, owner: usize) -> Result<(), String> {
        let copy = self.machines[owner].disk.fork(self.chance.next_u64());
        let machine = self.machines[owner].twin(copy.clone(), Arc::new(self.store.fork()));
        let rot = |world: &World| {
            rot_cache(&copy, &world.chance, 512);
            "the cache".to_owned()
        };
        match self.judge("cache", machine, rot).await? {
            Found::Whole => Ok(()),
            Found::Refused => Err("rot in the cache was taken for damage of the data".into()),
        }
    }

    /// One bit of an object, for a gateway that has nothing else.
    pub(crate) async fn rot_in_bucket(&mut self) -> Result<(), String> {
        for _ in 0..FLIPS {
            let copy = Arc::new(self.store.fork());
            let machine = self.machines[0].twin(SimDisk::new(self.chance.next_u64()), copy.clone());
            self.judge("bucket", machine, |world| world.flip_in(&copy)).await?;
        }
        Ok(())
    }

    /// Flips a bit in a block that is in use; the cache is forgotten by a crash anyway.
    fn flip_on(&self, disk: &SimDisk) -> String {
        const BLOCK: usize = 4096;
        let names: Vec<_> = disk.names().into_iter().filter(|name| !name.starts_with("cache/")).collect();
        let name = &names[self.chance.below(names.len() as u64) as usize];
        let content = disk.contents(name).unwrap_or_default();
        let used = content.chunks(BLOCK).enumerate().filter(|(_, b)| b.iter().any(|b| *b != 0));
        let used: Vec<_> = used.map(|(block, bytes)| (block * BLOCK, bytes.len())).collect();
        let (block, len) =
            used.get(self.chance.below(used.len() as u64) as usize).copied().unwrap_or_default();
        let at = block as u64 + self.near_the_front(len as u64);
        disk.rot(name, at);
        format!("{name} at {at}")
    }

    fn flip_in(&self, store: &Memory) -> String {
        let objects = store.objects();
        let (key, body) = &objects[self.chance.below(objects.len() as u64) as usize];
        let at = self.near_the_front(body.len() as u64);
        store.corrupt(key, at, 1 << self.chance.below(8));
        format!("{key} at {at}")
    }

    /// Metadata stands in front of data, and there is less of it.
    fn near_the_front(&self, len: u64) -> u64 {
        let front = if self.chance.chance(1, 2) { len.min(256) } else { len };
        self.chance.below(front)
    }

    /// Opens what is damaged, or damages what was opened; reads it, drains it, reads it again: every answer is right, or is an
    /// error of kind Corrupt.
    async fn judge(
        &mut self,
        of: &str,
        mut machine: Machine,
        rot: impl Fn(&World) -> String,
    ) -> Result<Found, String> {
        let checker = self.checker.lock().clone();
        let mut place = String::new();
        let looked = self.look(&mut machine, &checker, || place = rot(self)).await;
        let found = looked.map_err(|e| format!("after a bit rotted in {place}: {e}"))?;
        self.note(&format!("rot: {of}, {found:?}").to_lowercase());
        self.seen = self.seen.rotate_left(1) ^ found as u64;
        Ok(found)
    }

    async fn look(
        &self,
        machine: &mut Machine,
        checker: &Checker,
        mut rot: impl FnMut(),
    ) -> Result<Found, String> {
        let late = self.chance.chance(1, 3);
        if !late {
            rot();
        }
        let running = match machine.start(self.image, None).await {
            Ok(running) => running,
            Err(e) => return refused(e),
        };
        if late {
            rot();
        }
        let mut found = read_all(&running, checker).await?;
        if found == Found::Whole && running.image.status().dirty.0 > 0 {
            // A bit that rotted must not become right by being uploaded.
            found = match running.image.drain().await {
                Ok(()) => read_all(&running, checker).await?,
                Err(e) => refused(e)?,
            };
        }
        machine.crash(running);
        Ok(found)
    }
}

async fn read_all(running: &Running, checker: &Checker) -> Result<Found, String> {
    let mut found = Found::Whole;
    for start in (0..SECTORS).step_by(STEP as usize) {
        let span = Span::new(start, STEP);
        match running.image.read(span).await {
            Ok(parts) => checker.check_read(span, &parts.concat())?,
            Err(e) => found = refused(e)?,
        }
    }
    Ok(found)
}

fn refused(e: base::Error) -> Result<Found, String> {
    match e.kind() {
        ErrorKind::Corrupt => Ok(Found::Refused),
        _ => Err(text(e)),
    }
}

/// Flips bits in the cache's files.
fn rot_cache(disk: &SimDisk, chance: &SeededEntropy, bits: u64) {
    for name in disk.names().iter().filter(|name| name.ends_with(".slab")) {
        // What the world's volume can fill of it.
        let used = disk.len_of(name).unwrap_or(0).min(SECTORS * SECTOR);
        (0..bits).for_each(|_| disk.rot(name, chance.below(used)));
    }
}
