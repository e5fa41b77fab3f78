//! Work on real threads.

use base::{BoxFuture, Spawn};
use tokio::runtime::{Builder, Handle};

/// The seam for starting work, as production has it: background work goes to a runtime, work that may block or that
/// has a core to itself gets a thread with a runtime of its own.
#[derive(Debug, Clone)]
pub struct Threads {
    background: Handle,
}

impl Threads {
    /// Background work goes to `background`.
    pub fn new(background: Handle) -> Threads {
        Threads { background }
    }
}

impl Spawn for Threads {
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) {
        self.background.spawn(work);
    }

    fn spawn_thread(&self, name: &'static str, work: BoxFuture<'static, ()>) {
        let run = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(work),
            Err(error) => {
                tracing::error!("thread {name} has no runtime: {error}; raise the limit of open files")
            }
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            tracing::error!("thread {name} cannot be started: {error}; raise the limit of threads");
        }
    }
}
