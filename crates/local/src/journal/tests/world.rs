//! A model of what the journal has promised, and lives of a journal under a disk that loses its power.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{AlignedBuf, Entropy, Epoch, Error, ErrorKind, ImageId, SeededEntropy, Seq, Span};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::journal::*;
use crate::{SimDisk, SimLatency, TaskSpawn};

pub type Check = Result<(), String>;

pub fn block_on<T>(f: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a test has a runtime").block_on(f)
}

pub fn small() -> JournalOptions {
    JournalOptions {
        capacity: 4 * (96 << 10),
        file_size: 96 << 10,
        max_batch: 24 << 10,
        max_records: 16,
        ahead: 0,
        ..JournalOptions::default()
    }
}

pub async fn open(disk: &SimDisk, options: &JournalOptions, seed: u64) -> base::Result<(Journal, Recovery)> {
    let spawn = Arc::new(TaskSpawn::new(tokio::runtime::Handle::current()));
    Journal::open(disk.mount(), options.clone(), spawn, Arc::new(SeededEntropy::new(seed))).await
}

/// An owner that remembers what it is told.
#[derive(Default)]
pub struct Seen {
    pub committed: Mutex<Vec<(Epoch, Seq, Location)>>,
    pub poisoned: Mutex<Option<String>>,
}

impl Owner for Seen {
    fn committed(&self, batch: Vec<Committed>) {
        let told = batch.into_iter().map(|c| (c.record.epoch, c.record.seq, c.location));
        self.committed.lock().extend(told);
    }
    fn poisoned(&self, error: &Error) {
        *self.poisoned.lock() = Some(error.to_string());
    }
}

/// A record as the model remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub epoch: Epoch,
    pub seq: Seq,
    pub kind: RecordKind,
    pub span: Span,
    pub payload: Vec<u8>,
    pub acked: bool,
}

/// What one owner has been promised.
#[derive(Default)]
pub struct Model {
    pub history: Vec<Known>,
    pub released: Seq,
    pub last: Seq,
    pub epoch: Epoch,
}

impl Model {
    fn acked(&self) -> Seq {
        self.history.iter().filter(|k| k.acked).map(|k| k.seq).max().unwrap_or(self.released)
    }

    /// What recovery found must be a run of known records that reaches from the first unreleased to at least the last acknowledged one.
    fn check(&mut self, found: &[(Recovered, Bytes)]) -> Check {
        let known = |r: &Recovered| self.history.iter().find(|k| k.epoch == r.epoch && k.seq == r.seq);
        for (r, payload) in found {
            let k =
                known(r).ok_or_else(|| format!("record {} of epoch {} was never written", r.seq, r.epoch))?;
            let same = k.kind == r.kind && k.span == r.span && k.payload[..] == payload[..];
            if !same || r.payload_len as usize != k.payload.len() {
                return Err(format!("record {} of epoch {} came back changed", r.seq, r.epoch));
            }
        }
        for w in found.windows(2) {
            let (a, b) = (&w[0].0, &w[1].0);
            if b.seq != a.seq.next() && (b.seq.0 > self.released.0 + 1 || b.epoch == a.epoch) {
                return Err(format!("record {} follows {}", b.seq, a.seq));
            }
        }
        let (first, last) = match found {
            [] => (Seq(u64::MAX), Seq(0)),
            [first, .., last] => (first.0.seq, last.0.seq),
            [one] => (one.0.seq, one.0.seq),
        };
        let acked = self.acked();
        if acked > self.released && (first.0 > self.released.0 + 1 || last < acked) {
            return Err(format!(
                "acknowledged {}..={acked}, recovered {first}..={last}",
                self.released.0 + 1
            ));
        }
        let end = last.max(self.released).max(acked);
        self.history.retain(|k| k.seq <= end);
        self.history.iter_mut().for_each(|k| k.acked = true);
        self.last = end;
        self.epoch = self.epoch.next();
        Ok(())
    }
}

pub struct World {
    pub disk: SimDisk,
    pub options: JournalOptions,
    pub rng: SeededEntropy,
    pub models: BTreeMap<ImageId, Model>,
    /// Records appended over all lives, so that a test can see that it tested something.
    pub appended: u64,
    pub recovered: u64,
}

struct Client {
    handle: OwnerHandle,
    seen: Arc<Seen>,
    waiting: Vec<(Seq, oneshot::Receiver<base::Result<()>>)>,
}

impl World {
    pub fn new(seed: u64, options: JournalOptions) -> World {
        let rng = SeededEntropy::new(seed);
        let models = (0..3).map(|i| (ImageId([i; 16]), Model::default())).collect();
        World { disk: SimDisk::new(rng.next_u64()), options, rng, models, appended: 0, recovered: 0 }
    }

    /// Opens the journal and holds what it recovered against the model. `None` if the power went off meanwhile.
    pub async fn open(&mut self) -> Result<Option<Journal>, String> {
        let opened = open(&self.disk, &self.options, self.rng.next_u64()).await;
        let (journal, recovery) = match opened {
            Ok(opened) => opened,
            Err(_) if self.disk.is_off() => return Ok(None),
            Err(e) => return Err(format!("open: {e}")),
        };
        for (id, model) in &mut self.models {
            let mut found = Vec::new();
            for r in recovery.owners.get(id).into_iter().flatten() {
                let payload = match journal.read(r.location).await {
                    Ok(payload) => payload,
                    Err(_) if self.disk.is_off() => return Ok(None),
                    Err(e) => return Err(format!("read of recovered {}: {e}", r.seq)),
                };
                found.push((*r, payload));
            }
            self.recovered += found.len() as u64;
            model.check(&found).map_err(|e| format!("owner {id}: {e}"))?;
        }
        Ok(Some(journal))
    }

    /// One life: open, check, work, and end by a power cut at the `cut`-th point or (0) at any moment.
    pub async fn live(&mut self, cut: u64, steps: u64) -> Check {
        if cut > 0 {
            self.disk.crash_at(cut);
        }
        if let Some(journal) = self.open().await? {
            let mut clients = self.attach(&journal);
            for _ in 0..steps {
                if self.disk.is_off() || journal.poisoned().is_some() {
                    break;
                }
                self.step(&journal, &mut clients).await?;
            }
            // Whatever was acknowledged until now counts, whether anybody has looked or not.
            self.disk.restart();
            for (id, client) in &mut clients {
                self.collect(*id, client)?;
            }
        }
        self.disk.restart();
        Ok(())
    }

    fn attach(&mut self, journal: &Journal) -> Vec<(ImageId, Client)> {
        let attach = |id: &ImageId| {
            let seen = Arc::new(Seen::default());
            let handle = journal.attach(*id, seen.clone()).expect("nobody else is attached");
            (*id, Client { handle, seen, waiting: Vec::new() })
        };
        self.models.keys().map(attach).collect()
    }

    fn collect(&mut self, id: ImageId, client: &mut Client) -> Check {
        let model = self.models.get_mut(&id).expect("each client has a model");
        let mut told = BTreeMap::new();
        client.waiting.retain_mut(|(seq, rx)| match rx.try_recv() {
            Ok(answer) => {
                told.insert(*seq, answer.is_ok());
                false
            }
            Err(_) => true,
        });
        let committed = client.seen.committed.lock();
        for k in model.history.iter_mut().filter(|k| told.get(&k.seq) == Some(&true)) {
            if !committed.iter().any(|(epoch, seq, _)| (*epoch, *seq) == (k.epoch, k.seq)) {
                return Err(format!("record {} was acknowledged before it was published", k.seq));
            }
            k.acked = true;
        }
        let ordered = committed.windows(2).all(|w| (w[0].0, w[0].1) < (w[1].0, w[1].1));
        if ordered { Ok(()) } else { Err("published out of order".into()) }
    }

    async fn step(&mut self, journal: &Journal, clients: &mut [(ImageId, Client)]) -> Check {
        let which = self.rng.below(clients.len() as u64) as usize;
        let (id, client) = &mut clients[which];
        let id = *id;
        match self.rng.below(10) {
            0..=5 => {
                for _ in 0..1 + self.rng.below(12) {
                    self.append(journal, id, client)?;
                }
            }
            6 => tokio::time::sleep(Duration::from_millis(self.rng.below(60))).await,
            7 => {
                self.collect(id, client)?;
                self.read_something(journal, client, id).await?;
            }
            _ => {}
        }
        for _ in 0..self.rng.below(4) {
            tokio::task::yield_now().await;
        }
        self.collect(id, client)?;
        let model = self.models.get_mut(&id).expect("each client has a model");
        if self.rng.chance(1, 4) || journal.usage().available < journal.usage().capacity / 3 {
            let acked = model.acked();
            if acked > model.released {
                let upto = Seq(model.released.0 + 1 + self.rng.below(acked.0 - model.released.0));
                model.released = upto;
                client.handle.release(upto);
            }
        }
        Ok(())
    }

    fn append(&mut self, journal: &Journal, id: ImageId, client: &mut Client) -> Check {
        let kind = RecordKind::from_code(1 + self.rng.below(6) as u8).expect("1 to 6 are kinds");
        let sectors = 1 + self.rng.below(if self.rng.chance(1, 4) { 24 } else { 3 });
        let span = Span::new(self.rng.below(1 << 30), sectors);
        let len = match kind {
            RecordKind::Data => span.bytes() as usize,
            RecordKind::Zero | RecordKind::Discard => 0,
            _ => self.rng.below(900) as usize,
        };
        let mut payload = AlignedBuf::zeroed(len);
        self.rng.fill(&mut payload);
        let payload = payload.into_bytes();
        let parts = if self.rng.chance(1, 3) && len > 1 {
            vec![payload.slice(..len / 2), payload.slice(len / 2..)]
        } else {
            vec![payload.clone()]
        };
        let model = self.models.get_mut(&id).expect("each client has a model");
        let (epoch, seq) = (model.epoch, model.last.next());
        let record = Record { epoch, seq, kind, span, payload: Payload::new(parts) };
        let (tx, rx) = oneshot::channel();
        let appended = match journal.try_reserve(len as u64) {
            Some(room) => client.handle.append_reserved(record, room, Some(tx)),
            None => client.handle.append(record, Some(tx)),
        };
        match appended {
            Ok(()) => {
                model.last = seq;
                let payload = payload.to_vec();
                model.history.push(Known { epoch, seq, kind, span, payload, acked: false });
                client.waiting.push((seq, rx));
                self.appended += 1;
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NoSpace => Ok(()),
            Err(_) if self.disk.is_off() || journal.poisoned().is_some() => Ok(()),
            Err(e) => Err(format!("append: {e}")),
        }
    }

    async fn read_something(&mut self, journal: &Journal, client: &Client, id: ImageId) -> Check {
        let committed = client.seen.committed.lock().clone();
        let Some((epoch, seq, location)) = committed.get(self.rng.below(committed.len() as u64) as usize)
        else {
            return Ok(());
        };
        let model = &self.models[&id];
        let known = model.history.iter().find(|k| (k.epoch, k.seq) == (*epoch, *seq));
        match journal.read(*location).await {
            Ok(bytes) if known.is_some_and(|k| k.payload[..] == bytes[..]) => Ok(()),
            Ok(_) => Err(format!("read of {seq} gave other bytes")),
            Err(e) if e.kind() == ErrorKind::NotFound && *seq <= model.released => Ok(()),
            Err(_) if self.disk.is_off() => Ok(()),
            Err(e) => Err(format!("read of {seq}: {e}")),
        }
    }
}

/// Some lives on one disk, each ended by a power cut, and a last recovery.
pub async fn lives(seed: u64, options: JournalOptions, lives: u64) -> Result<World, String> {
    let mut world = World::new(seed, options);
    if world.rng.chance(1, 3) {
        world.disk.set_latency(SimLatency {
            read: Duration::ZERO,
            write: Duration::from_micros(30),
            sync: Duration::from_micros(world.rng.below(900)),
        });
    }
    world.options.mark_delay = Duration::from_millis(1 + world.rng.below(40));
    world.options.ahead = world.rng.below(2) << 20;
    for _ in 0..lives {
        let cut = if world.rng.chance(1, 8) { 0 } else { 1 + world.rng.below(70) };
        let steps = 10 + world.rng.below(80);
        world.live(cut, steps).await.map_err(|e| format!("seed {seed}: {e}"))?;
    }
    world.open().await.map_err(|e| format!("seed {seed}, at the end: {e}"))?;
    Ok(world)
}
