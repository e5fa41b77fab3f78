use std::future::Future;
use std::pin::Pin;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The seam for starting work, so that a simulation can run everything on one thread.
pub trait Spawn: Send + Sync {
    /// Starts background work that never blocks its thread for long. `name` is for logs and thread names.
    fn spawn(&self, name: &'static str, work: BoxFuture<'static, ()>);

    /// Starts work that may block (it syncs a disk): a thread of its own in production.
    fn spawn_thread(&self, name: &'static str, urgency: Urgency, work: BoxFuture<'static, ()>);
}

/// Who waits for the work of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Clients do.
    Clients,
    /// Nobody does for now: where processors are short it makes way.
    Background,
}
