//! Memory for data on its way between initiators and media, bounded for all sessions together (requirement X06).
//!
//! A session has a little of its own for each direction. What it holds beyond comes out of a pool that all share, one for each
//! direction, and of which it may have an eighth of what the others leave: so there is some left for those that come later,
//! and all come to have the same as commands end and begin, however greedy they are. A session's oldest command may take all
//! that is left, lest a long one never begins beside many short ones. Nobody ever waits for the pool, so that sessions cannot
//! wait for each other: a session waits for what it holds itself, or refuses a command, which the initiator then repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much one may have of what the others leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A session for data that it asks for.
    Session = 8,
    /// A session for data that comes unasked, beside the other: what the command window has promised must fit.
    Unasked = 2,
    /// A session for its oldest command.
    Command = 1,
}

/// Sessions draw in steps of so many bytes, so that not every command touches what all share.
const STEP: usize = 256 << 10;

/// The memory that all sessions share.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    /// May be beyond the size: what a session has to say is said.
    taken: AtomicUsize,
}

impl Pool {
    pub(super) fn new(size: usize) -> Arc<Pool> {
        Arc::new(Pool { size, taken: AtomicUsize::new(0) })
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether one that has some already may have some more.
    fn allows(&self, taken: usize, had: usize, more: usize, part: Part) -> bool {
        let left = self.size.saturating_sub(taken.saturating_sub(had));
        // The first of all may have what a single command needs, however much that is.
        taken == 0 || had + more <= left / part as usize
    }

    /// Whether so much is taken that nobody should have more than he holds.
    fn is_scarce(&self) -> bool {
        self.taken() > self.size / 2
    }

    fn try_take(&self, had: usize, more: usize, part: Part) -> bool {
        let add = |taken| self.allows(taken, had, more, part).then_some(taken + more);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

/// What one session has of the pool; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    pool: Arc<Pool>,
    drawn: usize,
}

impl Share {
    pub(super) fn new(pool: Arc<Pool>) -> Share {
        Share { pool, drawn: 0 }
    }

    /// Draws so much that the session may hold `bytes` of the pool. Says whether it may.
    pub(super) fn reach(&mut self, bytes: usize, part: Part) -> bool {
        let roomy = if self.pool.is_scarce() { bytes } else { bytes.next_multiple_of(STEP) };
        for wanted in [roomy, bytes] {
            if wanted <= self.drawn || self.pool.try_take(self.drawn, wanted - self.drawn, part) {
                self.drawn = self.drawn.max(wanted);
                return true;
            }
        }
        false
    }

    /// The session holds so much of the pool now: less than it has drawn, or a little more because it had to.
    pub(super) fn settle(&mut self, bytes: usize) {
        let kept = if bytes == 0 || self.pool.is_scarce() { bytes } else { bytes + 2 * STEP };
        if bytes > self.drawn {
            self.pool.taken.fetch_add(bytes - self.drawn, Ordering::Relaxed);
            self.drawn = bytes;
        } else if self.drawn > kept {
            self.pool.taken.fetch_sub(self.drawn - bytes, Ordering::Relaxed);
            self.drawn = bytes;
        }
    }

    /// Whether the session has more than it might draw now.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.drawn > 0 && !self.pool.allows(self.pool.taken(), self.drawn, 0, Part::Session)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests;
