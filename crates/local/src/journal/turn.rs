//! Turns of a thread that serves clients: what it appends in one turn is handed to the committer together.

use std::cell::RefCell;
use std::sync::Arc;

use super::Shared;
use super::commit::commit_here;

thread_local! {
    /// The journals that were appended to in this turn; `None` outside turns.
    static TURN: RefCell<Option<Vec<Arc<Shared>>>> = const { RefCell::new(None) };
}

/// Runs one turn of work on this thread: until it ends, nothing appended by this thread is written, and then all of it at
/// once, which saves wake-ups and makes batches larger.
///
/// If this thread serves nobody else (`alone`) and the record is the only one about, the thread itself writes it, if
/// the disk is quick: then nobody has to be woken at all. It waits for the disk meanwhile.
pub fn turn<R>(alone: bool, work: impl FnOnce() -> R) -> R {
    TURN.set(Some(Vec::new()));
    let end = End { alone };
    let result = work();
    drop(end);
    result
}

/// Whether a turn of this thread sees to what has been appended to the journal.
pub(super) fn defer(shared: &Arc<Shared>) -> bool {
    TURN.with_borrow_mut(|turn| {
        let Some(journals) = turn else { return false };
        if !journals.iter().any(|j| Arc::ptr_eq(j, shared)) {
            journals.push(shared.clone());
        }
        true
    })
}

/// Ends the turn, also if the work panicked.
struct End {
    alone: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        for journal in TURN.take().into_iter().flatten() {
            if !self.alone || std::thread::panicking() || !commit_here(&journal) {
                journal.work.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;
