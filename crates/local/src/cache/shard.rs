//! One shard's index: which line lies in which slot, and which goes next.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023): new lines pass through a small probationary queue, so that a scan
//! leaves nothing behind; lines read again there move to the main queue, which gives each line as many further rounds
//! as it was read (up to three); a line that was evicted on probation and comes back soon goes to the main queue at once.

use std::collections::VecDeque;

use base::ImageId;
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::memory::{Memory, Parts};
use super::{BLOCK, LINE, LineKey, SHARDS};

/// Sums of a line's blocks.
pub(super) type Sums = [u32; LINE / BLOCK];

/// Where a line lies and what it must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub slot: u32,
    pub len: u32,
    /// Changes whenever the slot gets another line.
    pub turn: u64,
    pub sums: Sums,
}

struct Entry {
    key: LineKey,
    held: Held,
    reads: u8,
    /// The blocks that were read from its slot.
    seen: u16,
    /// What of it is in memory too.
    parts: Option<Box<Parts>>,
}

impl Entry {
    fn was_read(&mut self) {
        self.reads = (self.reads + 1).min(3);
    }
}

/// Where the bytes of a line are.
pub(super) enum Found {
    Memory(Bytes),
    /// In its slot only.
    Disk(Held),
}

/// See the module.
pub(super) struct Shard {
    /// Which of the shards it is: its slots are `index`, `index + SHARDS`, …
    index: u32,
    /// How many slots it may use.
    room: u32,
    /// By slot / SHARDS.
    entries: Vec<Option<Entry>>,
    map: FxHashMap<LineKey, u32>,
    free: Vec<u32>,
    small: VecDeque<(u32, u64)>,
    main: VecDeque<(u32, u64)>,
    ghosts: VecDeque<u64>,
    ghost_set: FxHashSet<u64>,
    turns: u64,
    memory: Memory,
}

impl Shard {
    /// Of `room` lines, parts of which may take `memory` bytes of memory.
    pub fn new(index: u32, room: u32, memory: u64) -> Shard {
        Shard {
            index,
            room,
            entries: Vec::new(),
            map: FxHashMap::default(),
            free: Vec::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_set: FxHashSet::default(),
            turns: 0,
            memory: Memory::new(memory),
        }
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn room(&self) -> u32 {
        self.room
    }

    pub fn contains(&self, key: &LineKey) -> bool {
        self.map.contains_key(key)
    }

    /// Bytes of memory that parts of lines take.
    pub fn in_memory(&self) -> u64 {
        self.memory.used()
    }

    /// Finds the bytes from `from` to `end` of a line, if it is as long.
    pub fn look_up(&mut self, key: &LineKey, from: usize, end: usize) -> Option<Found> {
        let local = *self.map.get(key)?;
        let entry = self.entries[local as usize].as_mut().filter(|entry| end <= entry.held.len as usize)?;
        let Some(bytes) = entry.parts.as_mut().and_then(|parts| parts.find(from, end)) else {
            return Some(Found::Disk(entry.held));
        };
        entry.was_read();
        Some(Found::Memory(bytes))
    }

    /// Whole blocks of a line were read from its slot, and verified. If it is still the one that was looked up, and the same
    /// blocks were read before, they stay in memory.
    pub fn was_read(&mut self, key: &LineKey, turn: u64, from: usize, bytes: &[u8]) {
        let Some(local) = self.map.get(key).copied() else { return };
        let Some(entry) = at(&mut self.entries, (local, turn)) else { return };
        entry.was_read();
        let blocks = (from / BLOCK..(from + bytes.len()).div_ceil(BLOCK)).fold(0, |all, n| all | 1 << n);
        let again = entry.seen & blocks == blocks;
        entry.seen |= blocks;
        if !again {
            return;
        }
        self.memory.add((local, turn), &mut entry.parts, from, bytes);
        self.fit_memory();
        let entries = &self.entries;
        self.memory.tidy(2 * self.map.len() + 64, |place| is_at(entries, place));
    }

    /// Changes how many bytes of memory parts of lines may take.
    pub fn set_memory(&mut self, limit: u64) {
        self.memory.set_limit(limit);
        self.fit_memory();
    }

    fn fit_memory(&mut self) {
        while let Some(place) = self.memory.next() {
            if let Some(entry) = at(&mut self.entries, place) {
                self.memory.turn(place, &mut entry.parts);
            }
        }
    }

    /// Takes a slot to write a line into, evicting one if it must. It belongs to the caller until [`Shard::settle`]
    /// or [`Shard::give_back`]. The number of lines evicted comes with it.
    pub fn take_slot(&mut self) -> Option<(u32, u64)> {
        let mut evicted = 0;
        loop {
            while let Some(local) = self.free.pop() {
                if local < self.room {
                    return Some((self.slot(local), evicted));
                }
            }
            if (self.entries.len() as u32) < self.room {
                self.entries.push(None);
                return Some((self.slot(self.entries.len() as u32 - 1), evicted));
            }
            if !self.evict_one() {
                return None;
            }
            evicted += 1;
        }
    }

    fn slot(&self, local: u32) -> u32 {
        local * SHARDS + self.index
    }

    pub fn give_back(&mut self, slot: u32) {
        let local = slot / SHARDS;
        if local < self.entries.len() as u32 {
            self.free.push(local);
        }
    }

    /// The line has been written into the slot. If it has come some other way meanwhile, the slot is free again.
    pub fn settle(&mut self, key: LineKey, slot: u32, len: u32, sums: Sums) {
        let ghost = self.ghost_set.contains(&key.hash());
        if self.map.contains_key(&key) || slot / SHARDS >= self.room {
            return self.give_back(slot);
        }
        self.put(key, Held { slot, len, turn: 0, sums }, ghost, 0);
    }

    /// A line from the index of a former run; [`Shard::restored`] follows the last one.
    pub fn restore(&mut self, key: LineKey, held: Held) {
        let local = held.slot / SHARDS;
        let misplaced =
            key.hash() % u64::from(SHARDS) != u64::from(self.index) || held.slot % SHARDS != self.index;
        if misplaced || local >= self.room || self.map.contains_key(&key) {
            return;
        }
        if self.entries.len() as u32 <= local {
            self.entries.resize_with(local as usize + 1, || None);
        }
        if self.entries[local as usize].is_none() {
            self.put(key, held, true, 0);
        }
    }

    /// All lines of the former run are in: what lies between is free.
    pub fn restored(&mut self) {
        self.free = (0..self.entries.len() as u32).filter(|l| self.entries[*l as usize].is_none()).collect();
    }

    fn put(&mut self, key: LineKey, held: Held, main: bool, reads: u8) {
        self.turns += 1;
        let held = Held { turn: self.turns, ..held };
        let local = held.slot / SHARDS;
        self.entries[local as usize] = Some(Entry { key, held, reads, seen: 0, parts: None });
        self.map.insert(key, local);
        let queue = if main { &mut self.main } else { &mut self.small };
        queue.push_back((local, self.turns));
    }

    fn evict_one(&mut self) -> bool {
        loop {
            let probation = self.small.len() * 10 >= self.room as usize || self.main.is_empty();
            let queue = if probation { &mut self.small } else { &mut self.main };
            let Some(place) = queue.pop_front() else {
                if self.small.is_empty() && self.main.is_empty() {
                    return false;
                }
                continue;
            };
            let Some(entry) = at(&mut self.entries, place) else { continue };
            if entry.reads > 0 {
                entry.reads = if probation { 0 } else { entry.reads - 1 };
                self.main.push_back(place);
                continue;
            }
            let key = entry.key;
            if probation {
                self.remember(key.hash());
            }
            self.remove(&key);
            return true;
        }
    }

    fn remember(&mut self, ghost: u64) {
        if self.ghost_set.insert(ghost) {
            self.ghosts.push_back(ghost);
        }
        while self.ghosts.len() > self.room as usize {
            if let Some(old) = self.ghosts.pop_front() {
                self.ghost_set.remove(&old);
            }
        }
    }

    /// Forgets a line.
    pub fn remove(&mut self, key: &LineKey) -> bool {
        let Some(local) = self.map.remove(key) else { return false };
        let entry = self.entries[local as usize].take();
        self.memory.gone(entry.and_then(|entry| entry.parts));
        self.free.push(local);
        // Places of removed lines stay in the queues until they come round; they must not pile up.
        if self.small.len() + self.main.len() > 2 * self.room as usize + 64 {
            let entries = &self.entries;
            self.small.retain(|place| is_at(entries, place));
            self.main.retain(|place| is_at(entries, place));
        }
        true
    }

    /// Forgets a line if it is still the one that was looked up.
    pub fn remove_if(&mut self, key: &LineKey, turn: u64) -> bool {
        let same = self.map.get(key).is_some_and(|local| is_at(&self.entries, &(*local, turn)));
        same && self.remove(key)
    }

    pub fn remove_image(&mut self, image: ImageId) {
        let keys: Vec<LineKey> =
            self.entries.iter().flatten().map(|e| e.key).filter(|k| k.image == image).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Changes how many slots it may use; lines beyond are forgotten.
    pub fn set_room(&mut self, room: u32) {
        let beyond: Vec<LineKey> = self.entries.iter().skip(room as usize).flatten().map(|e| e.key).collect();
        for key in beyond {
            self.remove(&key);
        }
        self.room = room;
        if self.entries.len() > room as usize {
            self.entries.truncate(room as usize);
            self.small.retain(|p| p.0 < room);
            self.main.retain(|p| p.0 < room);
            self.free.retain(|f| *f < room);
        }
    }

    /// All lines, those that are likely to be read again last, so that they are kept the longest after a restart.
    pub fn lines(&self) -> impl Iterator<Item = (LineKey, Held)> + '_ {
        self.small.iter().chain(&self.main).filter_map(|(local, turn)| {
            let entry = self.entries[*local as usize].as_ref()?;
            (entry.held.turn == *turn).then_some((entry.key, entry.held))
        })
    }
}

/// The entry that a place in a queue means, if it is still the same line.
fn at(entries: &mut [Option<Entry>], (local, turn): (u32, u64)) -> Option<&mut Entry> {
    entries.get_mut(local as usize)?.as_mut().filter(|entry| entry.held.turn == turn)
}

fn is_at(entries: &[Option<Entry>], (local, turn): &(u32, u64)) -> bool {
    entries.get(*local as usize).and_then(Option::as_ref).is_some_and(|entry| entry.held.turn == *turn)
}
