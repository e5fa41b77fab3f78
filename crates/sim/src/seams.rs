//! Time and tasks of a simulated process.

use std::sync::Arc;

use base::{BoxFuture, Clock, Spawn, UnixMillis};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The time of day, as far as tokio's paused clock has come.
#[derive(Debug)]
pub struct SimClock(Instant);

impl SimClock {
    /// Begins now.
    #[allow(clippy::new_without_default)] // when it begins matters
    pub fn new() -> SimClock {
        SimClock(Instant::now())
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixMillis {
        1_700_000_000_000 + self.0.elapsed().as_millis() as u64
    }
}

/// The tasks of one process, which all end with it.
#[derive(Debug, Default)]
pub struct Process(Mutex<Vec<AbortHandle>>);

impl Process {
    /// One without tasks.
    pub fn new() -> Arc<Process> {
        Arc::default()
    }

    /// Ends every task where it stands, as SIGKILL does.
    pub fn kill(&self) {
        self.0.lock().drain(..).for_each(|task| task.abort());
    }

    #[allow(clippy::disallowed_methods)] // this is the seam
    fn start(&self, work: BoxFuture<'static, ()>) {
        self.0.lock().push(tokio::spawn(work).abort_handle());
    }
}

impl Spawn for Process {
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) {
        self.start(work);
    }

    fn spawn_thread(&self, _name: &'static str, _urgency: base::Urgency, work: BoxFuture<'static, ()>) {
        self.start(work);
    }
}
