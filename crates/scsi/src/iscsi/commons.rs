//! Memory that all sessions have in common: a bound for all of them together, fairly shared, and free of locks while there is
//! enough.
//!
//! Each session has some of its own besides, so that its smallest steps never wait for another session. What it draws beyond
//! that is never more than what it leaves to the others: with `n` sessions that take what they can get, each has about
//! one part in `n + 1`, and who comes next finds another such part. Who has drawn nothing and wants more than that can queue;
//! while anybody does, only the first in the queue draws, and it may have all that there is. It has its turn because
//! whoever holds something gives it back without drawing more first: a command gets all it needs at once. Who has drawn
//! something does not queue: it looks again when it has given that back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::mailbox::{Mailbox, Notice};

/// What is drawn at a time, at least, in bytes.
const QUANTUM: usize = 256 << 10;

/// Bytes for all sessions together.
pub(super) struct Commons {
    most: usize,
    drawn: AtomicUsize,
    /// As many as are in the queue, to be seen without its lock.
    waiting: AtomicUsize,
    queue: Mutex<VecDeque<Arc<Mailbox>>>,
}

impl Commons {
    pub(super) fn new(most: usize) -> Arc<Commons> {
        Arc::new(Commons {
            most,
            drawn: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
        })
    }

    /// Takes `more` bytes for somebody who has `had`.
    fn draw(&self, had: usize, more: usize, first: bool) -> bool {
        let fits = |drawn: usize| {
            let left = self.most.checked_sub(drawn + more);
            // What is larger than all of it has its turn alone.
            let fits = if first { drawn == had || left.is_some() } else { had + more <= left.unwrap_or(0) };
            fits.then_some(drawn + more)
        };
        // In one order with `waiting`: who gives back sees who waits, or who waits sees what was given back.
        self.drawn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.drawn.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.call_first();
        }
    }

    /// Tells the first in the queue to look.
    fn call_first(&self) {
        let first = self.queue.lock().front().cloned();
        if let Some(first) = first {
            first.post(Notice::Room);
        }
    }
}

/// What one session has of it, given back when dropped.
pub(super) struct Share {
    commons: Arc<Commons>,
    mailbox: Arc<Mailbox>,
    /// What it has without drawing.
    own: usize,
    drawn: usize,
    queued: bool,
    /// Wanted something that it did not get, since it was last called.
    wanting: bool,
}

impl Share {
    pub(super) fn new(commons: &Arc<Commons>, mailbox: &Arc<Mailbox>, own: usize) -> Share {
        let (commons, mailbox) = (commons.clone(), mailbox.clone());
        Share { commons, mailbox, own, drawn: 0, queued: false, wanting: false }
    }

    /// All that it has.
    pub(super) fn total(&self) -> usize {
        self.own + self.drawn
    }

    /// Whether it has `need` bytes, after drawing what it may.
    pub(super) fn reach(&mut self, need: usize) -> bool {
        if need <= self.total() {
            return true;
        }
        let more = need - self.total();
        let first = match self.commons.waiting.load(Ordering::SeqCst) {
            0 => false,
            _ if self.is_first() => true,
            _ => return false,
        };
        let drawn = match self.commons.draw(self.drawn, more.next_multiple_of(QUANTUM), first) {
            true => more.next_multiple_of(QUANTUM),
            false if self.commons.draw(self.drawn, more, first) => more,
            false => return false,
        };
        self.drawn += drawn;
        true
    }

    /// The same. If it has not, the session is to try again when it has given back what it has, or, if that is nothing, when
    /// it is told that it is its turn.
    pub(super) fn reach_or_wait(&mut self, need: usize) -> bool {
        let had = self.drawn;
        if self.reach(need) {
            self.wanting &= self.drawn == had;
            return true;
        }
        if had > 0 {
            return false;
        }
        self.wanting = true;
        if self.queued {
            return false;
        }
        self.queued = true;
        {
            let mut queue = self.commons.queue.lock();
            queue.push_back(self.mailbox.clone());
            self.commons.waiting.store(queue.len(), Ordering::SeqCst);
        }
        // What was given back meanwhile was given back to nobody.
        let reached = self.reach(need);
        if reached {
            self.wanting = false;
            self.leave_queue();
        }
        reached
    }

    fn is_first(&self) -> bool {
        self.queued && self.commons.queue.lock().front().is_some_and(|m| Arc::ptr_eq(m, &self.mailbox))
    }

    /// The session was told that it is its turn: from now on it is seen whether it still wants anything.
    pub(super) fn called(&mut self) {
        self.wanting = false;
    }

    /// The session has tried everything that waited. If nothing waits any more, it is the next one's turn.
    pub(super) fn tried(&mut self) {
        if self.queued && !self.wanting {
            self.leave_queue();
        }
    }

    /// Wants nothing any more.
    pub(super) fn leave_queue(&mut self) {
        self.wanting = false;
        if !std::mem::take(&mut self.queued) {
            return;
        }
        {
            let mut queue = self.commons.queue.lock();
            queue.retain(|m| !Arc::ptr_eq(m, &self.mailbox));
            self.commons.waiting.store(queue.len(), Ordering::SeqCst);
        }
        self.commons.call_first();
    }

    /// Gives back what is beyond `need` bytes. While the session is at work and nobody wants more, it keeps some, so as not to
    /// draw for each command.
    pub(super) fn settle(&mut self, need: usize) {
        if self.drawn == 0 {
            return;
        }
        let spare = self.drawn.min(self.total().saturating_sub(need));
        let kept = if need == 0 || self.is_pressed() { 0 } else { (self.drawn / 2).max(4 * QUANTUM) };
        if spare > kept {
            self.drawn -= spare;
            self.commons.give_back(spare);
        }
    }

    /// Whether others want what it has.
    fn is_pressed(&self) -> bool {
        let drawn = self.commons.drawn.load(Ordering::Relaxed);
        self.commons.waiting.load(Ordering::Relaxed) > 0
            || self.drawn > self.commons.most.saturating_sub(drawn)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.leave_queue();
        self.settle(0);
    }
}

#[cfg(test)]
mod tests;
