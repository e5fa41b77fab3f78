//! Noticing sequential readers and fetching ahead of them.

use base::Span;
use parking_lot::Mutex;

/// Readers followed at a time.
const STREAMS: usize = 8;
/// The first step ahead, in sectors (256 KiB).
const FIRST: u64 = 512;
/// The longest step ahead, in sectors (8 MiB).
const LONGEST: u64 = 16_384;

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where the next read would begin.
    next: u64,
    /// Up to where was asked for already.
    ahead: u64,
    /// Reads in a row.
    hits: u32,
    step: u64,
    used: u64,
    /// What lies ahead was there already when it was last looked for: nobody looks again before a read misses something.
    rests: bool,
}

impl Stream {
    /// A reader that has just read for the first time.
    fn new(next: u64, used: u64) -> Stream {
        Stream { next, ahead: next, hits: 1, step: FIRST, used, rests: false }
    }
}

/// The readers of an image.
#[derive(Debug, Default)]
pub(crate) struct Readahead {
    streams: Mutex<([Stream; STREAMS], u64)>,
}

impl Readahead {
    /// Takes note of a read; says what to fetch ahead of it.
    pub fn observe(&self, span: Span) -> Option<Span> {
        let mut guard = self.streams.try_lock()?;
        let (streams, tick) = &mut *guard;
        *tick += 1;
        let tick = *tick;
        let Some(stream) = streams.iter_mut().find(|s| s.hits > 0 && s.next == span.start) else {
            let oldest = streams.iter_mut().min_by_key(|s| s.used)?;
            *oldest = Stream::new(span.end(), tick);
            return None;
        };
        stream.next = span.end();
        stream.used = tick;
        stream.hits += 1;
        stream.ahead = stream.ahead.max(span.end());
        if stream.rests {
            stream.ahead = stream.next;
            return None;
        }
        if stream.hits < 3 || stream.ahead - stream.next > stream.step / 2 {
            return None;
        }
        let ahead = Span::new(stream.ahead, stream.step);
        stream.ahead = ahead.end();
        stream.step = (stream.step * 2).min(LONGEST);
        Some(ahead)
    }

    /// All of `ahead`, which was to be fetched, is there already.
    pub fn is_there(&self, ahead: Span) {
        let (streams, _) = &mut *self.streams.lock();
        let asked = |s: &&mut Stream| s.ahead >= ahead.end() && s.ahead - ahead.end() <= LONGEST;
        for stream in streams.iter_mut().filter(asked) {
            stream.rests = true;
        }
    }

    /// A read that was to end at this sector found something missing, and waits for it.
    pub fn missed(&self, end: u64) {
        let (streams, _) = &mut *self.streams.lock();
        for stream in streams.iter_mut().filter(|s| s.next >= end && s.next - end <= LONGEST) {
            stream.rests = false;
        }
    }
}

#[cfg(test)]
mod tests;
