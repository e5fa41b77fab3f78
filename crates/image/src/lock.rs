//! Locks on runs of sectors, for commands that read and then write (COMPARE AND WRITE and its kin).

use std::sync::Arc;

use base::Span;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Held {
    next: u64,
    spans: Vec<(u64, Span, bool)>,
}

/// Writers share, read-then-write commands exclude.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    held: Mutex<Held>,
    freed: Notify,
}

/// A held lock; dropping it frees the range.
#[derive(Debug)]
pub(crate) struct RangeGuard {
    locks: Arc<RangeLocks>,
    id: u64,
}

impl RangeLocks {
    /// Takes a lock if nothing conflicts with it now.
    pub fn try_lock(self: &Arc<Self>, span: Span, exclusive: bool) -> Option<RangeGuard> {
        let mut held = self.held.lock();
        let conflict = held.spans.iter().any(|(_, s, x)| (*x || exclusive) && s.intersect(span).is_some());
        if conflict {
            return None;
        }
        held.next += 1;
        let id = held.next;
        held.spans.push((id, span, exclusive));
        Some(RangeGuard { locks: self.clone(), id })
    }

    /// Waits for a lock.
    pub async fn lock(self: &Arc<Self>, span: Span, exclusive: bool) -> RangeGuard {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(guard) = self.try_lock(span, exclusive) {
                return guard;
            }
            freed.await;
        }
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        if let Some(at) = held.spans.iter().position(|(id, ..)| *id == self.id) {
            held.spans.swap_remove(at);
        }
        drop(held);
        self.locks.freed.notify_waiters();
    }
}
