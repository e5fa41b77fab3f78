//! A block medium in memory: the model that transports and device servers are tested against.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use async_trait::async_trait;
use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Admission, BlockMedium, Change, Geometry, Provisioning};

/// What a [`MemoryMedium`] can be told to fail or to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the methods of `BlockMedium`
pub enum Operation {
    Admit,
    Read,
    Write,
    Zero,
    Update,
    Flush,
    Provisioning,
    State,
}

/// A sparse disk in memory that knows what was written, what holds zeroes and what holds nothing.
///
/// It can be paused (futures wait until [`resume`](MemoryMedium::resume)), told to fail, resized, write protected, and
/// its blocks can be spoiled. Its admissions are unlimited unless [`limit_admission`](MemoryMedium::limit_admission)
/// says otherwise; having no clock it then waits for room for ever.
pub struct MemoryMedium {
    state: Arc<Mutex<State>>,
}

struct State {
    geometry: Geometry,
    extents: BTreeMap<u64, Extent>,
    spoiled: BTreeSet<u64>,
    failures: BTreeMap<Operation, ErrorKind>,
    counts: BTreeMap<Operation, u64>,
    stored: BTreeMap<String, Bytes>,
    wakers: Vec<Waker>,
    admitted: u64,
    admission_limit: u64,
    prefetched: u64,
    read_only: bool,
    write_cache: bool,
    /// Writes that were acknowledged early, and how many of them no flush has made durable.
    written: u64,
    volatile: u64,
    held: Option<Operation>,
    cold: bool,
    paused: bool,
}

/// A run of blocks from the key it is stored under. What no extent covers is deallocated.
#[derive(Clone)]
struct Extent {
    blocks: u64,
    /// What was written, or `None` for zeroes.
    data: Option<Bytes>,
}

struct Permit {
    state: Arc<Mutex<State>>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.admitted -= self.bytes;
        state.wake();
    }
}

impl MemoryMedium {
    /// An empty disk: every block is deallocated.
    pub fn new(geometry: Geometry) -> MemoryMedium {
        let state = State {
            geometry,
            extents: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            failures: BTreeMap::new(),
            counts: BTreeMap::new(),
            stored: BTreeMap::new(),
            wakers: Vec::new(),
            admitted: 0,
            admission_limit: u64::MAX,
            prefetched: 0,
            read_only: false,
            write_cache: false,
            written: 0,
            volatile: 0,
            held: None,
            cold: false,
            paused: false,
        };
        MemoryMedium { state: Arc::new(Mutex::new(state)) }
    }

    /// Write protects it or lifts that.
    pub fn set_read_only(&self, on: bool) {
        self.state.lock().read_only = on;
    }

    /// Makes `try_read` and `try_admit` answer that waiting is needed.
    pub fn set_cold(&self, on: bool) {
        self.state.lock().cold = on;
    }

    /// Changes the number of blocks; what lies behind the end is lost.
    pub fn resize(&self, blocks: u64) {
        let mut state = self.state.lock();
        let old = state.geometry.blocks;
        if blocks < old {
            state.carve(blocks, old - blocks);
        }
        state.geometry.blocks = blocks;
    }

    /// Makes every operation of a kind fail from now on, or, with `None`, work again.
    pub fn fail(&self, operation: Operation, kind: Option<ErrorKind>) {
        let mut state = self.state.lock();
        match kind {
            Some(kind) => state.failures.insert(operation, kind),
            None => state.failures.remove(&operation),
        };
    }

    /// Makes reads that touch block `lba` fail as corrupt until it is written.
    pub fn spoil(&self, lba: u64) {
        self.state.lock().spoiled.insert(lba);
    }

    /// Makes the futures of all operations wait.
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Makes the futures of one kind of operation wait once they have begun.
    pub fn hold(&self, operation: Operation) {
        self.state.lock().held = Some(operation);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        state.held = None;
        state.wake();
    }

    /// Bounds the bytes of all admissions that are out at one time.
    pub fn limit_admission(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.admission_limit = bytes;
        state.wake();
    }

    /// The bytes of all admissions that are out.
    pub fn admitted(&self) -> u64 {
        self.state.lock().admitted
    }

    /// How often an operation was begun.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// How many blocks were asked to be brought into the cache.
    pub fn prefetched(&self) -> u64 {
        self.state.lock().prefetched
    }

    /// Whether the write cache was switched on.
    pub fn write_cache(&self) -> bool {
        self.state.lock().write_cache
    }

    /// How many acknowledged writes are volatile: the write cache was on, and no flush has begun since.
    pub fn volatile(&self) -> u64 {
        self.state.lock().volatile
    }

    /// Waits while operations of that kind are held.
    async fn released(&self, operation: Operation) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.held == Some(operation) {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Waits while paused, counts the operation, and fails it if told to.
    async fn begin(&self, operation: Operation) -> Result<()> {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.paused {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
            *state.counts.entry(operation).or_default() += 1;
            Poll::Ready(state.failure(operation))
        })
        .await
    }
}

impl State {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn failure(&self, operation: Operation) -> Result<()> {
        match self.failures.get(&operation) {
            Some(kind) => {
                Err(Error::new(*kind, format!("{operation:?} was told to fail; tell it to work again")))
            }
            None => Ok(()),
        }
    }

    /// A write is acknowledged: durable, or not yet.
    fn acknowledge(&mut self, fua: bool) {
        let early = self.write_cache && !fua;
        self.written += u64::from(early);
        self.volatile += u64::from(early);
    }

    fn admit(&mut self, bytes: u64) -> bool {
        let fits = self.admitted == 0 || self.admitted.saturating_add(bytes) <= self.admission_limit;
        if fits {
            self.admitted += bytes;
        }
        fits
    }

    fn check(&self, lba: u64, blocks: u64) -> Result<()> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.geometry.blocks => Ok(()),
            _ => Err(Error::invalid(format!(
                "{blocks} blocks at {lba} lie beyond the {} blocks of the medium; check against its geometry first",
                self.geometry.blocks
            ))),
        }
    }

    /// Removes a range, splitting what reaches over its ends.
    fn carve(&mut self, lba: u64, blocks: u64) {
        let end = lba + blocks;
        let first = self.extents.range(..=lba).next_back().map_or(lba, |(start, _)| *start);
        let touched: Vec<u64> = self.extents.range(first..end).map(|(start, _)| *start).collect();
        for start in touched {
            let stop = start + self.extents[&start].blocks;
            if stop <= lba {
                continue;
            }
            let extent = self.extents.remove(&start).expect("its key was just listed");
            if start < lba {
                let head = self.part(&extent, 0, lba - start);
                self.extents.insert(start, head);
            }
            if stop > end {
                let tail = self.part(&extent, end - start, stop - end);
                self.extents.insert(end, tail);
            }
        }
        let healed: Vec<u64> = self.spoiled.range(lba..end).copied().collect();
        healed.iter().for_each(|lba| {
            self.spoiled.remove(lba);
        });
    }

    fn part(&self, extent: &Extent, from: u64, blocks: u64) -> Extent {
        let size = self.geometry.block_size as usize;
        let bytes = from as usize * size..(from + blocks) as usize * size;
        Extent { blocks, data: extent.data.as_ref().map(|data| data.slice(bytes)) }
    }

    /// The run of one kind that starts at `lba`, within `most` blocks: its length and what it holds, if anything.
    fn run(&self, lba: u64, most: u64) -> (u64, Option<Extent>) {
        if let Some((start, extent)) = self.extents.range(..=lba).next_back()
            && start + extent.blocks > lba
        {
            let blocks = (start + extent.blocks - lba).min(most);
            return (blocks, Some(self.part(extent, lba - start, blocks)));
        }
        let gap = self.extents.range(lba..).next().map_or(most, |(start, _)| (start - lba).min(most));
        (gap, None)
    }

    fn read(&self, lba: u64, blocks: u64) -> Result<Vec<Bytes>> {
        self.check(lba, blocks)?;
        if let Some(bad) = self.spoiled.range(lba..lba + blocks).next() {
            return Err(Error::corrupt(format!("block {bad} is not what was written; write it again")));
        }
        let mut parts = Vec::new();
        let mut at = lba;
        while at < lba + blocks {
            let (length, extent) = self.run(at, lba + blocks - at);
            let zeroes = || Bytes::from(vec![0; length as usize * self.geometry.block_size as usize]);
            parts.push(extent.and_then(|e| e.data).unwrap_or_else(zeroes));
            at += length;
        }
        Ok(parts)
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> Result<()> {
        let size = self.geometry.block_size as usize;
        if !data.len().is_multiple_of(size) {
            return Err(Error::invalid(format!(
                "{} bytes are no whole number of blocks of {size}",
                data.len()
            )));
        }
        let blocks = (data.len() / size) as u64;
        self.check(lba, blocks)?;
        if blocks > 0 {
            self.carve(lba, blocks);
            self.extents.insert(lba, Extent { blocks, data: Some(Bytes::copy_from_slice(data)) });
        }
        Ok(())
    }
}

#[async_trait]
impl BlockMedium for MemoryMedium {
    fn geometry(&self) -> Geometry {
        self.state.lock().geometry
    }

    fn read_only(&self) -> bool {
        self.state.lock().read_only
    }

    fn try_admit(&self, bytes: u64) -> Option<Admission> {
        let mut state = self.state.lock();
        if state.cold || state.paused || state.failure(Operation::Admit).is_err() || !state.admit(bytes) {
            return None;
        }
        Some(Box::new(Permit { state: Arc::clone(&self.state), bytes }))
    }

    async fn admit(&self, bytes: u64) -> Result<Admission> {
        self.begin(Operation::Admit).await?;
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.admit(bytes) {
                return Poll::Ready(());
            }
            state.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(Box::new(Permit { state: Arc::clone(&self.state), bytes }))
    }

    fn try_read(&self, lba: u64, blocks: u32) -> Option<Result<Vec<Bytes>>> {
        let mut state = self.state.lock();
        if state.cold || state.paused {
            return None;
        }
        *state.counts.entry(Operation::Read).or_default() += 1;
        Some(state.failure(Operation::Read).and_then(|()| state.read(lba, u64::from(blocks))))
    }

    async fn read(&self, lba: u64, blocks: u32) -> Result<Vec<Bytes>> {
        self.begin(Operation::Read).await?;
        self.released(Operation::Read).await;
        self.state.lock().read(lba, u64::from(blocks))
    }

    async fn write(&self, lba: u64, data: Vec<Bytes>, fua: bool, admission: Admission) -> Result<()> {
        self.begin(Operation::Write).await?;
        self.released(Operation::Write).await;
        let written = {
            let mut state = self.state.lock();
            state.write(lba, &data.concat()).map(|()| state.acknowledge(fua))
        };
        drop(admission);
        written
    }

    async fn zero(&self, lba: u64, blocks: u64, unmap: bool) -> Result<()> {
        self.begin(Operation::Zero).await?;
        let mut state = self.state.lock();
        state.check(lba, blocks)?;
        state.carve(lba, blocks);
        if !unmap && blocks > 0 {
            state.extents.insert(lba, Extent { blocks, data: None });
        }
        Ok(())
    }

    async fn update(&self, lba: u64, blocks: u32, admission: Admission, change: Change) -> Result<()> {
        self.begin(Operation::Update).await?;
        let updated = {
            let mut state = self.state.lock();
            state.read(lba, u64::from(blocks)).and_then(|parts| {
                let mut data = parts.concat();
                if change(&mut data) {
                    state.write(lba, &data).map(|()| state.acknowledge(false))
                } else {
                    Ok(())
                }
            })
        };
        drop(admission);
        self.released(Operation::Update).await;
        updated
    }

    async fn flush(&self) -> Result<()> {
        self.begin(Operation::Flush).await?;
        let covered = self.state.lock().written;
        self.released(Operation::Flush).await;
        let mut state = self.state.lock();
        state.volatile = state.volatile.min(state.written - covered);
        Ok(())
    }

    fn prefetch(&self, _lba: u64, blocks: u64) {
        self.state.lock().prefetched += blocks;
    }

    async fn provisioning(&self, lba: u64, most: u64) -> Result<(Provisioning, u64)> {
        self.begin(Operation::Provisioning).await?;
        let state = self.state.lock();
        state.check(lba, most)?;
        let (mut length, extent) = state.run(lba, most);
        let kind = kind_of(extent.as_ref());
        while length < most {
            let (more, next) = state.run(lba + length, most - length);
            if kind_of(next.as_ref()) != kind {
                break;
            }
            length += more;
        }
        Ok((kind, length))
    }

    fn set_write_cache(&self, on: bool) {
        self.state.lock().write_cache = on;
    }

    async fn load_state(&self, name: &str) -> Result<Option<Bytes>> {
        self.begin(Operation::State).await?;
        Ok(self.state.lock().stored.get(name).cloned())
    }

    async fn store_state(&self, name: &str, value: Option<Bytes>) -> Result<()> {
        self.begin(Operation::State).await?;
        let mut state = self.state.lock();
        match value {
            Some(value) => state.stored.insert(name.to_owned(), value),
            None => state.stored.remove(name),
        };
        Ok(())
    }
}

fn kind_of(extent: Option<&Extent>) -> Provisioning {
    match extent {
        None => Provisioning::Deallocated,
        Some(Extent { data: None, .. }) => Provisioning::Anchored,
        Some(Extent { data: Some(_), .. }) => Provisioning::Mapped,
    }
}
