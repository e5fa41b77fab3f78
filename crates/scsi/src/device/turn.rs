//! Being a good neighbour on a thread that serves many commands.

use std::future::poll_fn;
use std::task::Poll;

/// Lets others on the thread have a turn. Commands that move a lot do it after every piece: a medium that never waits
/// would otherwise keep the thread from answering anybody.
pub(super) async fn pass() {
    let mut passed = false;
    poll_fn(|cx| {
        if passed {
            return Poll::Ready(());
        }
        passed = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
