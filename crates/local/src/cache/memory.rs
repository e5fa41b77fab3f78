//! What one shard keeps of its lines in memory: parts that were read more than once, verified when they came.
//!
//! A line that is read again costs neither a system call nor a checksum then. Which go is decided as a clock does it: the oldest
//! that was not read since its last turn.

use std::collections::VecDeque;

use base::{AlignedBuf, buffer};
use bytes::Bytes;

/// What a part costs besides its bytes.
const OVERHEAD: u64 = 128;

/// The parts of one line.
#[derive(Default)]
pub(super) struct Parts {
    /// In no order. None lies within another.
    parts: Vec<Part>,
    /// Whether it was read since its last turn.
    read: bool,
}

struct Part {
    /// Where in the line it begins, in bytes.
    from: usize,
    bytes: Bytes,
}

impl Part {
    fn end(&self) -> usize {
        self.from + self.bytes.len()
    }

    fn covers(&self, from: usize, end: usize) -> bool {
        self.from <= from && end <= self.end()
    }

    fn cost(&self) -> u64 {
        cost(self.bytes.len())
    }
}

/// What a part of so many bytes takes.
fn cost(bytes: usize) -> u64 {
    buffer::footprint(bytes) as u64 + OVERHEAD
}

impl Parts {
    /// The bytes from `from` to `end` of the line, if one part has them all.
    pub fn find(&mut self, from: usize, end: usize) -> Option<Bytes> {
        let part = self.parts.iter().find(|part| part.covers(from, end))?;
        self.read = true;
        Some(part.bytes.slice(from - part.from..end - part.from))
    }

    fn covers(&self, from: usize, end: usize) -> bool {
        self.parts.iter().any(|part| part.covers(from, end))
    }

    /// Takes a part that no other covers in place of those that lie within it. How much more memory that is, and how much less.
    fn add(&mut self, part: Part) -> (u64, u64) {
        let before = self.cost();
        self.parts.retain(|old| !part.covers(old.from, old.end()));
        let less = before - self.cost();
        let more = part.cost();
        self.parts.push(part);
        (more, less)
    }

    fn cost(&self) -> u64 {
        self.parts.iter().map(Part::cost).sum()
    }
}

/// The memory of a shard. Its lines hold their own parts.
pub(super) struct Memory {
    limit: u64,
    used: u64,
    /// The lines with parts, by slot and turn, and some that have none any more.
    queue: VecDeque<(u32, u64)>,
}

impl Memory {
    pub fn new(limit: u64) -> Memory {
        Memory { limit, used: 0, queue: VecDeque::new() }
    }

    /// Bytes it takes.
    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Adds a copy of what was read of a line, which has that `place`.
    pub fn add(&mut self, place: (u32, u64), line: &mut Option<Box<Parts>>, from: usize, bytes: &[u8]) {
        let known = line.as_ref().is_some_and(|parts| parts.covers(from, from + bytes.len()));
        if known || cost(bytes.len()) > self.limit {
            return;
        }
        let part = Part { from, bytes: AlignedBuf::long_copy_of(bytes).into_bytes() };
        let parts = line.get_or_insert_with(|| {
            self.queue.push_back(place);
            Box::default()
        });
        let (more, less) = parts.add(part);
        self.used = self.used + more - less;
    }

    /// A line goes, with what it has.
    pub fn gone(&mut self, line: Option<Box<Parts>>) {
        self.used -= line.map_or(0, |parts| parts.cost());
    }

    /// The next whose turn it is, if it is too much.
    pub fn next(&mut self) -> Option<(u32, u64)> {
        if self.used > self.limit { self.queue.pop_front() } else { None }
    }

    /// It is the turn of this line: its parts go, or it is passed over because it was read.
    pub fn turn(&mut self, place: (u32, u64), line: &mut Option<Box<Parts>>) {
        match line {
            Some(parts) if parts.read => {
                parts.read = false;
                self.queue.push_back(place);
            }
            _ => self.gone(line.take()),
        }
    }

    /// Places of lines that went stay until it is their turn; if there are more than so many of them, those that `stay` says.
    pub fn tidy(&mut self, most: usize, stay: impl Fn(&(u32, u64)) -> bool) {
        if self.queue.len() > most {
            self.queue.retain(stay);
        }
    }
}
