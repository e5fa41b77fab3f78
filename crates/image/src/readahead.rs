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
            *oldest = Stream { next: span.end(), ahead: span.end(), hits: 1, step: FIRST, used: tick };
            return None;
        };
        stream.next = span.end();
        stream.used = tick;
        stream.hits += 1;
        stream.ahead = stream.ahead.max(span.end());
        if stream.hits < 3 || stream.ahead - stream.next > stream.step / 2 {
            return None;
        }
        let ahead = Span::new(stream.ahead, stream.step);
        stream.ahead = ahead.end();
        stream.step = (stream.step * 2).min(LONGEST);
        Some(ahead)
    }
}
