//! How sessions act on each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::Mutex;

/// What a session is told from outside.
pub(super) enum Notice {
    /// End the tasks of one logical unit (`None`: all) because another session says so. The ticket is dropped when they
    /// have ended.
    Abort { lun: Option<u16>, ticket: Arc<Gate> },
    /// A gate of this session's own has opened.
    Opened(u64),
    /// Close. The ticket is dropped when every command has ended.
    Close { ticket: Option<Arc<Gate>> },
    /// Ask the initiator to log out.
    RequestLogout { within_seconds: u16 },
}

/// Opens when its last clone is dropped: it then tells its owner so. Whoever is to be waited for holds a clone.
pub(super) struct Gate {
    owner: Weak<Mailbox>,
    number: u64,
}

impl Gate {
    pub(super) fn new(owner: &Arc<Mailbox>, number: u64) -> Arc<Gate> {
        Arc::new(Gate { owner: Arc::downgrade(owner), number })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.post(Notice::Opened(self.number));
        }
    }
}

/// A connection's notices, and how to wake it.
#[derive(Default)]
pub(super) struct Mailbox {
    filled: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    notices: Vec<Notice>,
    waker: Option<Waker>,
    closed: bool,
}

impl Mailbox {
    /// Leaves a notice, or drops it if nobody will read it any more.
    pub(super) fn post(&self, notice: Notice) {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner); // a ticket in the notice may post to another mailbox, or to this one
            return;
        }
        inner.notices.push(notice);
        self.filled.store(true, Ordering::Release);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what was left.
    pub(super) fn take(&self) -> Vec<Notice> {
        if !self.filled.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.inner.lock().notices)
    }

    /// Says who is to be woken by the next notice; wakes at once if there is one.
    pub(super) fn register(&self, waker: &Waker) {
        let mut inner = self.inner.lock();
        if !inner.notices.is_empty() {
            waker.wake_by_ref();
        }
        if !inner.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
    }

    /// Takes no more notices.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let left = std::mem::take(&mut inner.notices);
        drop(inner);
        drop(left);
    }
}
