//! One shard's index: which line lies in which slot, and which goes next.
//!
//! Eviction is S3-FIFO (Yang et al., SOSP 2023): new lines pass through a small probationary queue, so that a scan
//! leaves nothing behind; lines read again there move to the main queue, which gives each line as many further rounds
//! as it was read (up to three); a line that was evicted on probation and comes back soon goes to the main queue at once.

use std::collections::VecDeque;

use base::ImageId;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{BLOCK, LINE, LineKey, SHARDS, SegmentKey};

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

#[derive(Clone, Copy)]
struct Entry {
    key: LineKey,
    held: Held,
    reads: u8,
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
    /// How many lines of a segment are here, and the highest.
    segments: FxHashMap<SegmentKey, (u32, u32)>,
    free: Vec<u32>,
    small: VecDeque<(u32, u64)>,
    main: VecDeque<(u32, u64)>,
    ghosts: VecDeque<u64>,
    ghost_set: FxHashSet<u64>,
    turns: u64,
}

impl Shard {
    pub fn new(index: u32, room: u32) -> Shard {
        Shard {
            index,
            room,
            entries: Vec::new(),
            map: FxHashMap::default(),
            segments: FxHashMap::default(),
            free: Vec::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_set: FxHashSet::default(),
            turns: 0,
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

    /// Finds a line and notes that it was read.
    pub fn look_up(&mut self, key: &LineKey) -> Option<Held> {
        let local = *self.map.get(key)?;
        let entry = self.entries[local as usize].as_mut()?;
        entry.reads = (entry.reads + 1).min(3);
        Some(entry.held)
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
            self.entries.resize(local as usize + 1, None);
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
        self.entries[local as usize] = Some(Entry { key, held, reads });
        self.map.insert(key, local);
        let (lines, highest) = self.segments.entry(key.segment()).or_default();
        *lines += 1;
        *highest = (*highest).max(key.line);
        let queue = if main { &mut self.main } else { &mut self.small };
        queue.push_back((local, self.turns));
    }

    /// The entry that a place in a queue means, if it is still the same line.
    fn at(&mut self, place: (u32, u64)) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(place.0 as usize)?.as_mut()?;
        (entry.held.turn == place.1).then_some(entry)
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
            let Some(entry) = self.at(place) else { continue };
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
        self.entries[local as usize] = None;
        self.free.push(local);
        if let Some(lines) = self.segments.get_mut(&key.segment()) {
            lines.0 -= 1;
            if lines.0 == 0 {
                self.segments.remove(&key.segment());
            }
        }
        // Places of removed lines stay in the queues until they come round; they must not pile up.
        if self.small.len() + self.main.len() > 2 * self.room as usize + 64 {
            let entries = &self.entries;
            let same = |p: &(u32, u64)| entries[p.0 as usize].is_some_and(|e| e.held.turn == p.1);
            self.small.retain(same);
            self.main.retain(same);
        }
        true
    }

    /// Forgets a line if it is still the one that was looked up.
    pub fn remove_if(&mut self, key: &LineKey, turn: u64) -> bool {
        let same =
            self.map.get(key).is_some_and(|l| self.entries[*l as usize].is_some_and(|e| e.held.turn == turn));
        same && self.remove(key)
    }

    pub fn remove_segment(&mut self, segment: SegmentKey) {
        let Some((_, highest)) = self.segments.get(&segment).copied() else { return };
        let (image, epoch, number) = segment;
        for line in 0..=highest {
            self.remove(&LineKey { image, epoch, number, line });
        }
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
