//! Which files the journal has, which are needed, and what may still be promised.
//!
//! The promise kept here: what has been reserved fits, whatever happens in between. A file counts as room only if it exists on the disk, so
//! a full file system shows up as a refused reservation and never as a failed write.

use std::collections::{BTreeMap, BTreeSet};

use super::format::{BLOCK, FILE_HEADER, LiveFile};

/// How many files the capacity may be divided into, so that the live table always has a place for each.
pub(super) const MAX_FILES: u64 = 512;

/// So many files that nobody needs are not left to wait for the next header, without which they cannot be used.
const CLUTTER: usize = 3;

/// What a record with so many payload bytes takes at worst: alone in a batch, followed by a mark.
pub(super) fn cost(payload: u64) -> u64 {
    2 * BLOCK + payload.next_multiple_of(BLOCK)
}

#[derive(Debug)]
struct Live {
    slot: u32,
    /// Unreleased extents in it.
    pins: u64,
    /// Where its last batch ends.
    end: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Space {
    file_size: u64,
    /// What a file can be relied on to take: all but its header, the last mark and what the last record may leave over.
    usable: u64,
    /// How many files data may need at a time.
    limit: u64,
    control_reserve: u64,
    slots: BTreeSet<u32>,
    /// Files with unreleased records, and the current one, by generation.
    live: BTreeMap<u64, Live>,
    /// Slots that the newest durable header is in or lists.
    listed: BTreeSet<u32>,
    current: u64,
    offset: u64,
    /// A batch is being written, so the current file is about to be needed.
    writing: bool,
    reserved: u64,
    /// What the mark after the last batch will take.
    mark_debt: u64,
}

impl Space {
    /// The account of a journal that has `slots` and is about to begin a new file; `listed` are those that the newest
    /// durable header is in or lists.
    pub fn new(
        file_size: u64,
        max_record: u64,
        capacity: u64,
        slots: BTreeSet<u32>,
        listed: BTreeSet<u32>,
    ) -> Space {
        let usable = file_size.saturating_sub(FILE_HEADER + BLOCK + cost(max_record)).max(BLOCK);
        Space {
            file_size,
            usable,
            limit: (capacity / file_size).clamp(2, MAX_FILES),
            control_reserve: (usable / 8).min(1 << 20),
            slots,
            live: BTreeMap::new(),
            listed,
            current: 0,
            offset: file_size,
            writing: false,
            reserved: 0,
            mark_debt: 0,
        }
    }

    pub fn add_slot(&mut self, slot: u32) {
        self.slots.insert(slot);
    }

    /// A slot number not in use.
    pub fn new_slot(&self) -> u32 {
        (0..).find(|s| !self.slots.contains(s)).expect("there are fewer files than numbers")
    }

    /// How many files there should be: two to go on with, and one because a file is reusable only one change later.
    fn wanted(&self) -> u64 {
        let live = self.live.len() as u64;
        (self.limit.max(live) + 2).min(live + 3)
    }

    pub fn wants_slot(&self) -> bool {
        (self.slots.len() as u64) < self.wanted() || (self.listed_in_vain() > 0 && self.next_slot().is_none())
    }

    /// How many files the newest header lists that nobody needs any more. After a start these can be all there are: what is in
    /// them was released only when its images had been opened.
    fn listed_in_vain(&self) -> usize {
        // All that are needed are listed: a file is from when it begins, and every header goes on listing those that are.
        self.listed.len().saturating_sub(self.live.len())
    }

    /// Whether to begin another file only so that others can be used again.
    pub fn is_cluttered(&self) -> bool {
        self.listed_in_vain() >= CLUTTER && !self.writing && self.next_slot().is_some()
    }

    /// Whether another file may be made ready while there is nothing else to do, so that `bytes` of them are.
    pub fn wants_reserve(&self, bytes: u64) -> bool {
        let ahead = (bytes / self.file_size).min(self.limit);
        (self.slots.len() as u64) < ahead + 2
    }

    /// Takes a file out of the books that is beyond what is ever needed.
    pub fn take_surplus(&mut self) -> Option<u32> {
        let most = self.limit.max(self.live.len() as u64) + 2;
        if self.slots.len() as u64 <= most || self.reusable().count() < 3 {
            return None;
        }
        let slot = self.reusable().last()?;
        self.slots.remove(&slot);
        Some(slot)
    }

    fn reusable(&self) -> impl Iterator<Item = u32> + '_ {
        let needed: BTreeSet<u32> = self.live.values().map(|l| l.slot).collect();
        self.slots.iter().copied().filter(move |s| !self.listed.contains(s) && !needed.contains(s))
    }

    fn next_slot(&self) -> Option<u32> {
        self.reusable().next()
    }

    /// Takes the slot in which the next file may begin.
    pub fn take_next_slot(&mut self) -> Option<u32> {
        let slot = self.next_slot()?;
        self.listed.insert(slot);
        Some(slot)
    }

    /// A slot that is not needed but listed by the newest header: never to be used but to show why not.
    #[cfg(test)]
    pub fn early_slot(&self) -> Option<u32> {
        let needed: BTreeSet<u32> = self.live.values().map(|l| l.slot).collect();
        self.listed.iter().copied().find(|s| !needed.contains(s))
    }

    /// The table of the next file's header.
    pub fn table(&self) -> Vec<LiveFile> {
        let needed = self.live.iter().filter(|(_, l)| l.pins > 0);
        needed.map(|(g, l)| LiveFile { generation: *g, slot: l.slot, end: l.end }).collect()
    }

    /// The file of `generation` in `slot` is the current one; its header, which lists `table`, is durable.
    pub fn begin_file(&mut self, generation: u64, slot: u32, table: &[LiveFile]) {
        self.listed = table.iter().map(|l| l.slot).chain([slot]).collect();
        self.live.retain(|_, l| l.pins > 0);
        self.live.insert(generation, Live { slot, pins: 0, end: FILE_HEADER });
        self.current = generation;
        self.offset = FILE_HEADER;
        self.mark_debt = 0;
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes left for batches in the current file.
    pub fn left(&self) -> u64 {
        self.file_size.saturating_sub(self.offset + BLOCK)
    }

    /// Whether nothing in the current file is needed and beginning another gains room.
    pub fn is_stale(&self) -> bool {
        let pins = self.live.get(&self.current).map_or(0, |l| l.pins);
        let consumed = self.offset.saturating_sub(FILE_HEADER);
        pins == 0 && !self.writing && consumed * 2 >= self.usable && self.next_slot().is_some()
    }

    /// A batch will be written into the current file.
    pub fn start_batch(&mut self) {
        self.writing = true;
    }

    /// A batch of `len` bytes with `extents` unreleased extents has become durable; `cost` was reserved for it.
    pub fn finish_batch(&mut self, len: u64, extents: u64, cost: u64) {
        self.writing = false;
        self.offset += len;
        self.mark_debt = BLOCK;
        self.give_back(cost);
        if let Some(live) = self.live.get_mut(&self.current) {
            live.pins += extents;
            live.end = self.offset;
        }
    }

    /// A mark has become durable.
    pub fn finish_mark(&mut self) {
        self.offset += BLOCK;
        self.mark_debt = 0;
        if let Some(live) = self.live.get_mut(&self.current) {
            live.end = self.offset;
        }
    }

    /// Recovery found an extent in this file.
    pub fn pin(&mut self, file: &LiveFile) {
        let new = Live { slot: file.slot, pins: 0, end: file.end };
        self.live.entry(file.generation).or_insert(new).pins += 1;
    }

    /// One extent in the file was released; whether that made room.
    pub fn unpin(&mut self, file: u64) -> bool {
        let Some(live) = self.live.get_mut(&file) else { return false };
        live.pins -= 1;
        if live.pins > 0 {
            return false;
        }
        if file != self.current {
            self.live.remove(&file);
        }
        true
    }

    fn room(&self) -> u64 {
        let consumed = self.offset.saturating_sub(FILE_HEADER);
        if self.is_stale() { self.usable } else { self.usable.saturating_sub(consumed) }
    }

    /// What could be promised of `limit` files if nothing were reserved.
    fn total(&self, limit: u64) -> u64 {
        let live = self.live.len() as u64;
        let files = match self.next_slot() {
            Some(_) => limit.min(self.slots.len() as u64 - 1).saturating_sub(live),
            None => 0,
        };
        files * self.usable + self.room()
    }

    /// Sets `bytes` aside if they are free; control records may go further than data.
    pub fn reserve(&mut self, bytes: u64, control: bool, max_reserved: u64) -> bool {
        let taken = self.reserved + self.mark_debt;
        let fits = if control {
            taken + bytes <= self.total(self.limit + 1)
        } else {
            self.live.len() as u64 <= self.limit
                && taken + bytes + self.control_reserve <= self.total(self.limit)
        };
        let bounded = self.reserved == 0 || self.reserved.saturating_add(bytes) <= max_reserved;
        if fits && bounded {
            self.reserved += bytes;
        }
        fits && bounded
    }

    pub fn give_back(&mut self, bytes: u64) {
        self.reserved -= bytes;
    }

    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    pub fn available(&self) -> u64 {
        if self.live.len() as u64 > self.limit {
            return 0;
        }
        self.total(self.limit).saturating_sub(self.reserved + self.mark_debt + self.control_reserve)
    }

    pub fn capacity(&self) -> u64 {
        self.limit * self.usable
    }

    /// Bytes of all files.
    pub fn on_disk(&self) -> u64 {
        self.slots.len() as u64 * self.file_size
    }

    /// The most that the files come to when the capacity is used up.
    pub fn most_on_disk(&self) -> u64 {
        (self.limit + 2) * self.file_size
    }

    /// Bytes of files that are needed: an older one is used up whatever is in it.
    pub fn used(&self) -> u64 {
        let needed = self.live.iter().filter(|(_, l)| l.pins > 0);
        let used = |(g, l): (&u64, &Live)| {
            let consumed = l.end - FILE_HEADER;
            if *g == self.current { consumed } else { consumed.max(self.usable) }
        };
        needed.map(used).sum()
    }

    /// The generation of the oldest file that is needed.
    pub fn oldest(&self) -> Option<u64> {
        self.live.iter().find(|(_, l)| l.pins > 0).map(|(g, _)| *g)
    }

    /// How many needed files are older.
    pub fn rank(&self, file: u64) -> u32 {
        self.live.range(..file).filter(|(_, l)| l.pins > 0).count() as u32
    }
}
