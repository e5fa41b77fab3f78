//! The simulated twin of a disk: memory that keeps the letter of the [`Disk`] contract and nothing more.
//!
//! What the contract leaves open is decided by a seed, and against the caller: a power cut keeps any subset of the
//! unsynced sectors and any of several unsynced versions of one, a failed sync loses data that reads still show.

mod node;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result, SeededEntropy};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, check_name};
use node::{Keep, Node};

/// How long the simulated disk takes, on tokio's (usually paused) clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimLatency {
    /// For a read that was not answered at once.
    pub read: Duration,
    /// For a write.
    pub write: Duration,
    /// For a sync, a create, a rename, a remove.
    pub sync: Duration,
}

/// What has been asked of a simulated disk so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// `read` calls.
    pub reads: u64,
    /// `try_read` calls.
    pub try_reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of those.
    pub bytes_written: u64,
    /// Syncs.
    pub syncs: u64,
    /// Creates, renames and removes.
    pub names: u64,
}

impl SimCounts {
    /// How many points there were at which the power could have been cut: writes, syncs and changes of names.
    pub fn crash_points(&self) -> u64 {
        self.writes + self.syncs + self.names
    }
}

/// A simulated disk and its switches. Clones are the same disk.
///
/// Users of the disk get it by [`SimDisk::mount`]; such a handle, and every file opened by it, stops working at the
/// next power cut, as a process would.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    rng: SeededEntropy,
    names: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    boot: u64,
    off: bool,
    /// In how many calls below which prefix of names the power is cut.
    cut_in: Option<(String, u64)>,
    /// The call in which that came true.
    cut: Option<String>,
    fail_syncs: u64,
    /// The file whose sync failed.
    failed: Option<String>,
    fail_writes: u64,
    bad: Vec<(String, Range<u64>)>,
    capacity: u64,
    /// As with too many files open: none can be made or opened.
    shut: bool,
    cold: u64,
    latency: SimLatency,
    counts: SimCounts,
    stamp: u64,
}

impl SimDisk {
    /// An empty disk whose every choice follows from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            rng: SeededEntropy::new(seed),
            names: BTreeMap::new(),
            nodes: BTreeMap::new(),
            next_node: 0,
            boot: 0,
            off: false,
            cut_in: None,
            cut: None,
            fail_syncs: 0,
            failed: None,
            fail_writes: 0,
            bad: Vec::new(),
            capacity: u64::MAX,
            shut: false,
            cold: 0,
            latency: SimLatency::default(),
            counts: SimCounts::default(),
            stamp: 0,
        })))
    }

    /// A handle for one run of a process: good until the next power cut.
    pub fn mount(&self) -> Arc<dyn Disk> {
        Arc::new(Mount { state: self.0.clone(), boot: self.0.lock().boot })
    }

    /// A power cut and a restart, now: unsynced sectors survive or not by chance, old handles fail from here on.
    pub fn crash(&self) {
        let mut s = self.0.lock();
        s.cut_power();
        s.off = false;
    }

    /// The process ends, now, and the power stays on: what it wrote is there, synced or not, and old handles fail from here on.
    pub fn kill(&self) {
        let mut s = self.0.lock();
        s.stamp += 1;
        let stamp = s.stamp;
        s.nodes.values_mut().for_each(|node| node.finish_all(stamp));
        s.boot += 1;
        s.calm();
    }

    /// Cuts the power in the middle of the `n`-th write, sync or change of a name from now (1 is the next one); that
    /// call and everything after fails until [`SimDisk::restart`].
    pub fn crash_at(&self, n: u64) {
        self.crash_below("", n);
    }

    /// The same, but only calls for files whose names begin so count.
    pub fn crash_below(&self, prefix: &str, n: u64) {
        self.0.lock().cut_in = Some((prefix.to_owned(), n.max(1)));
    }

    /// Takes back what was ordered for later: the power cut, failing syncs and writes.
    pub fn calm(&self) {
        self.0.lock().calm();
    }

    /// The call, and its file, in which a [`SimDisk::crash_at`] came true since this was last asked.
    pub fn take_cut(&self) -> Option<String> {
        self.0.lock().cut.take()
    }

    /// Switches the power on again (after cutting it, if it was on).
    pub fn restart(&self) {
        let mut s = self.0.lock();
        if !s.off {
            s.cut_power();
        }
        s.off = false;
        s.cut_in = None;
    }

    /// Whether the power is off, that is, a [`SimDisk::crash_at`] has come true.
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// The next `n` syncs fail, and lose by chance what they should have made durable.
    pub fn fail_syncs(&self, n: u64) {
        self.0.lock().fail_syncs = n;
    }

    /// The file whose sync failed since the last power cut or restart, if one did.
    pub fn failed_sync(&self) -> Option<String> {
        self.0.lock().failed.clone()
    }

    /// The next `n` writes fail, having written some of their sectors.
    pub fn fail_writes(&self, n: u64) {
        self.0.lock().fail_writes = n;
    }

    /// Reads that touch these bytes of the file fail, until [`SimDisk::heal`].
    pub fn fail_reads(&self, name: &str, range: Range<u64>) {
        self.0.lock().bad.push((name.to_owned(), range));
    }

    /// Ends all [`SimDisk::fail_reads`].
    pub fn heal(&self) {
        self.0.lock().bad.clear();
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`, durably and behind everyone's back.
    pub fn rot_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut s = self.0.lock();
        let node = s.names.get(name).copied();
        if let Some(node) = node.and_then(|n| s.nodes.get_mut(&n)) {
            node.rot(offset, 1 << (bit & 7));
        }
    }

    /// Flips some bit of the byte at `offset`.
    pub fn rot(&self, name: &str, offset: u64) {
        let bit = self.0.lock().rng.below(8) as u8;
        self.rot_bit(name, offset, bit);
    }

    /// How many bytes its files may hold together; what exists stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Whether files can be neither made nor opened for now, as with too many open.
    pub fn set_shut(&self, shut: bool) {
        self.0.lock().shut = shut;
    }

    /// How many of 100 `try_read` calls say that they would have to wait.
    pub fn set_cold(&self, percent: u64) {
        self.0.lock().cold = percent;
    }

    /// How long things take from now on.
    pub fn set_latency(&self, latency: SimLatency) {
        self.0.lock().latency = latency;
    }

    /// What has been asked of it so far.
    pub fn counts(&self) -> SimCounts {
        self.0.lock().counts
    }

    /// Another disk that holds what is durable here now.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let other = SimDisk::new(seed);
        let s = self.0.lock();
        let mut o = other.0.lock();
        o.names = s.names.clone();
        o.nodes = s.nodes.iter().map(|(id, node)| (*id, node.durable_copy())).collect();
        o.next_node = s.next_node;
        o.capacity = s.capacity;
        drop(o);
        other
    }

    /// The names of all files, for looking at the disk from outside.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// A file's length.
    pub fn len_of(&self, name: &str) -> Option<u64> {
        let s = self.0.lock();
        Some(s.nodes.get(s.names.get(name)?)?.len())
    }

    /// What a reader of the file would see now, from outside.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let s = self.0.lock();
        let node = s.nodes.get(s.names.get(name)?)?;
        let mut buf = vec![0; node.len() as usize];
        node.read(0, &mut buf);
        Some(buf)
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = self.0.lock();
        write!(f, "SimDisk({} files, boot {}{})", s.names.len(), s.boot, if s.off { ", off" } else { "" })
    }
}

fn power_is_off() -> Error {
    Error::new(ErrorKind::Unavailable, "the simulated disk has lost its power since this handle was opened")
}

fn io_error(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("simulated I/O error: {what} {name}"))
}

impl State {
    fn cut_power(&mut self) {
        let keep = match self.rng.below(6) {
            0 => Keep::Nothing,
            1 => Keep::All,
            2 => Keep::Before(self.stamp.saturating_sub(self.rng.below(16))),
            _ => Keep::Chance(1 + self.rng.below(99)),
        };
        for node in self.nodes.values_mut() {
            node.crash(keep, &self.rng);
        }
        let named: std::collections::BTreeSet<u64> = self.names.values().copied().collect();
        self.nodes.retain(|id, _| named.contains(id));
        self.boot += 1;
        self.off = true;
        self.calm();
    }

    fn calm(&mut self) {
        self.cut_in = None;
        self.fail_syncs = 0;
        self.failed = None;
        self.fail_writes = 0;
    }

    fn alive(&self, boot: u64) -> Result<()> {
        if self.off || self.boot != boot { Err(power_is_off()) } else { Ok(()) }
    }

    /// Whether the power is cut at this point.
    fn cut_now(&mut self, call: &str, name: &str) -> bool {
        match &mut self.cut_in {
            Some((prefix, n)) if name.starts_with(&**prefix) => *n -= 1,
            _ => return false,
        }
        let now = self.cut_in.as_ref().is_some_and(|(_, n)| *n == 0);
        if now {
            self.cut = Some(format!("{call} {name}"));
        }
        now
    }

    fn used(&self) -> u64 {
        self.nodes.values().map(Node::len).sum()
    }

    fn may_open(&self, name: &str) -> Result<()> {
        if !self.shut {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, format!("the simulated disk opens no file, {name} neither, for now")))
    }

    fn room_for(&self, more: u64, name: &str) -> Result<()> {
        if self.used().saturating_add(more) <= self.capacity {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            format!("the simulated disk has no room for {more} more bytes of {name}: raise its capacity"),
        ))
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("an open file's node lives until the power cut that ends the handle")
    }

    /// Runs one change of names, or cuts the power having run it or not.
    fn change_names<T>(
        &mut self,
        boot: u64,
        call: (&str, &str),
        change: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        self.alive(boot)?;
        self.counts.names += 1;
        if !self.cut_now(call.0, call.1) {
            return change(self);
        }
        if self.rng.chance(1, 2) {
            let _ = change(self);
        }
        self.cut_power();
        Err(power_is_off())
    }
}

struct Mount {
    state: Arc<Mutex<State>>,
    boot: u64,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "simulated disk, boot {}", self.boot)
    }
}

async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

impl Mount {
    async fn wait_for_names(&self) {
        let time = self.state.lock().latency.sync;
        pass(time).await;
    }

    fn file(&self, name: &str, node: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { state: self.state.clone(), boot: self.boot, node, name: name.to_owned() })
    }
}

#[async_trait]
impl Disk for Mount {
    fn place(&self) -> String {
        "the simulated disk".to_owned()
    }

    async fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        let s = self.state.lock();
        s.alive(self.boot)?;
        s.may_open(name)?;
        let node = s.names.get(name).copied().ok_or_else(|| not_found(name))?;
        Ok(self.file(name, node))
    }

    async fn create(&self, name: &str, len: u64) -> Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        self.wait_for_names().await;
        let node = self.state.lock().change_names(self.boot, ("create", name), |s| {
            if s.names.contains_key(name) {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("{name} exists already on the simulated disk"),
                ));
            }
            s.may_open(name)?;
            s.room_for(len, name)?;
            let id = s.next_node;
            s.next_node += 1;
            s.nodes.insert(id, Node::zeroed(len));
            s.names.insert(name.to_owned(), id);
            Ok(id)
        })?;
        Ok(self.file(name, node))
    }

    async fn list(&self, dir: &str) -> Result<Vec<(String, u64)>> {
        let s = self.state.lock();
        s.alive(self.boot)?;
        let below = prefix(dir);
        let inside = s.names.iter().filter_map(|(name, node)| {
            let rest = name.strip_prefix(&below)?;
            (!rest.contains('/')).then(|| (rest.to_owned(), s.nodes[node].len()))
        });
        Ok(inside.collect())
    }

    async fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        let s = self.state.lock();
        s.alive(self.boot)?;
        let below = prefix(dir);
        let mut dirs: Vec<String> = s
            .names
            .keys()
            .filter_map(|name| Some(name.strip_prefix(&below)?.split_once('/')?.0.to_owned()))
            .collect();
        dirs.sort();
        dirs.dedup();
        Ok(dirs)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.wait_for_names().await;
        self.state.lock().change_names(self.boot, ("remove", name), |s| {
            s.names.remove(name);
            Ok(())
        })
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.wait_for_names().await;
        self.state.lock().change_names(self.boot, ("rename", from), |s| {
            let node = s.names.remove(from).ok_or_else(|| not_found(from))?;
            s.names.insert(to.to_owned(), node);
            Ok(())
        })
    }

    async fn free(&self) -> Result<u64> {
        let s = self.state.lock();
        s.alive(self.boot)?;
        Ok(s.capacity.saturating_sub(s.used()))
    }
}

fn prefix(dir: &str) -> String {
    if dir.is_empty() { String::new() } else { format!("{dir}/") }
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {name} on the simulated disk"))
}

struct SimFile {
    state: Arc<Mutex<State>>,
    boot: u64,
    node: u64,
    name: String,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "simulated file {}", self.name)
    }
}

impl SimFile {
    fn fill(&self, s: &mut State, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + buf.len() as u64;
        if s.bad.iter().any(|(name, r)| *name == self.name && r.start < end && offset < r.end) {
            return Err(io_error("read of", &self.name));
        }
        let node = s.node(self.node);
        if end > node.len() {
            return Err(Error::corrupt(format!(
                "{} ends at {} before the byte {end} that should be in it: restore it or remove the disk's data",
                self.name,
                node.len()
            )));
        }
        node.read(offset, buf);
        Ok(())
    }

    /// Lets time pass between the write and its end, and stamps it.
    async fn end_write(&self, ticket: u64, offset: u64, parts: &[Bytes]) -> Result<()> {
        let time = self.state.lock().latency.write;
        pass(time).await;
        let mut s = self.state.lock();
        s.alive(self.boot)?;
        s.stamp += 1;
        let stamp = s.stamp;
        let len = parts.iter().map(|p| p.len() as u64).sum();
        s.node(self.node).finish(ticket, stamp, offset, len);
        Ok(())
    }

    /// Makes durable what was finished before, or only what the write with this ticket wrote.
    async fn sync_of(&self, only: Option<u64>) -> Result<()> {
        let (covered, time) = {
            let mut s = self.state.lock();
            s.alive(self.boot)?;
            s.counts.syncs += 1;
            if s.cut_now("sync", &self.name) {
                s.cut_power();
                return Err(power_is_off());
            }
            (s.stamp, s.latency.sync)
        };
        pass(time).await;
        let mut guard = self.state.lock();
        let s = &mut *guard;
        s.alive(self.boot)?;
        let node = s.nodes.get_mut(&self.node).expect("an open file's node lives until the power cut");
        if s.fail_syncs > 0 {
            s.fail_syncs -= 1;
            s.failed = Some(self.name.clone());
            node.fail_sync(&s.rng);
            return Err(io_error("sync of", &self.name));
        }
        match only {
            Some(ticket) => node.sync_write(ticket, covered),
            None => node.sync(covered),
        }
        Ok(())
    }

    /// Puts the write where a crash may find it; the stamp it gets when it is finished decides which sync covers it.
    fn start_write(&self, offset: u64, parts: &[Bytes]) -> Result<u64> {
        let mut guard = self.state.lock();
        let s = &mut *guard;
        s.alive(self.boot)?;
        let len: u64 = parts.iter().map(|p| p.len() as u64).sum();
        s.counts.writes += 1;
        s.counts.bytes_written += len;
        let growth = (offset + len).saturating_sub(s.node(self.node).len());
        s.room_for(growth, &self.name)?;
        let ticket = s.next_node;
        s.next_node += 1;
        if s.fail_writes > 0 {
            s.fail_writes -= 1;
            let keep = s.rng.below(len + 1) as usize;
            let whole: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
            s.node(self.node).write(offset, &whole[..keep], ticket);
            return Err(io_error("write to", &self.name));
        }
        let mut at = offset;
        for part in parts {
            s.node(self.node).write(at, part, ticket);
            at += part.len() as u64;
        }
        if s.cut_now("write", &self.name) {
            s.cut_power();
            return Err(power_is_off());
        }
        Ok(ticket)
    }
}

#[async_trait]
impl DiskFile for SimFile {
    fn len(&self) -> u64 {
        let mut s = self.state.lock();
        if s.alive(self.boot).is_err() { 0 } else { s.node(self.node).len() }
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let mut s = self.state.lock();
        s.alive(self.boot)?;
        s.counts.try_reads += 1;
        if s.cold > 0 && s.rng.chance(s.cold, 100) {
            return Ok(false);
        }
        self.fill(&mut s, offset, buf).map(|()| true)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let time = {
            let mut s = self.state.lock();
            s.counts.reads += 1;
            s.latency.read
        };
        pass(time).await;
        let mut s = self.state.lock();
        s.alive(self.boot)?;
        let mut buf = base::AlignedBuf::zeroed(len);
        self.fill(&mut s, offset, &mut buf)?;
        Ok(buf.into_bytes())
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        let ticket = self.start_write(offset, parts)?;
        self.end_write(ticket, offset, parts).await
    }

    async fn write_durable(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        let ticket = self.start_write(offset, parts)?;
        self.end_write(ticket, offset, parts).await?;
        self.sync_of(Some(ticket)).await
    }

    async fn sync(&self) -> Result<()> {
        self.sync_of(None).await
    }

    fn writes_at_once(&self) -> bool {
        let latency = self.state.lock().latency;
        latency.write.is_zero() && latency.sync.is_zero()
    }

    async fn settle(&self) -> Result<()> {
        self.sync().await?;
        let mut s = self.state.lock();
        s.alive(self.boot)?;
        s.node(self.node).forget_lost();
        Ok(())
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        let mut guard = self.state.lock();
        let s = &mut *guard;
        s.alive(self.boot)?;
        let growth = len.saturating_sub(s.node(self.node).len());
        s.room_for(growth, &self.name)?;
        s.stamp += 1;
        let stamp = s.stamp;
        s.node(self.node).set_len(len, stamp);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
