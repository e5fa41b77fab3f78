//! Time and tasks of a simulated process.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

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

/// The tasks of one process, which all end with it, and all stand still while it does.
#[derive(Debug, Default)]
pub struct Process {
    tasks: Mutex<Vec<AbortHandle>>,
    gate: Arc<Gate>,
}

impl Process {
    /// One without tasks.
    pub fn new() -> Arc<Process> {
        Arc::default()
    }

    /// Ends every task where it stands, as SIGKILL does.
    pub fn kill(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    /// Lets every task stand still, as SIGSTOP does: time goes on.
    pub fn pause(&self) {
        self.gate.0.lock().get_or_insert_default();
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.gate.0.lock().take().into_iter().flatten().for_each(Waker::wake);
    }

    /// Work that belongs to this process, though it is started elsewhere.
    pub fn gated<T>(&self, work: impl Future<Output = T> + Send + 'static) -> Gated<T> {
        Gated { work: Box::pin(work), gate: self.gate.clone() }
    }

    #[allow(clippy::disallowed_methods)] // this is the seam
    fn start(&self, work: BoxFuture<'static, ()>) {
        self.tasks.lock().push(tokio::spawn(self.gated(work)).abort_handle());
    }
}

/// Who waits for a process that stands still; `None` while it goes.
#[derive(Debug, Default)]
struct Gate(Mutex<Option<Vec<Waker>>>);

/// Work that goes on only while its process does.
pub struct Gated<T> {
    work: BoxFuture<'static, T>,
    gate: Arc<Gate>,
}

impl<T> Future for Gated<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(waiting) = &mut *self.gate.0.lock() {
            waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        self.work.as_mut().poll(context)
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
