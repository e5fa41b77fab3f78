//! Clock, chance and threads of the operating system.

use base::{BoxFuture, Clock, Entropy, Spawn, UnixMillis, Urgency};
use tokio::runtime::{Builder, Handle};

/// The time of day as the machine knows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // this is the seam the ban points to
    fn now(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_millis() as UnixMillis)
    }
}

/// The kernel's random numbers, good for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            match rustix::rand::getrandom(&mut out[done..], rustix::rand::GetRandomFlags::empty()) {
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("the kernel gives no random numbers ({e}): Linux 3.17 or newer is needed"),
            }
        }
    }
}

/// How much less of the processors than others a thread wants that makes way, as `nice` counts.
const NICE: i32 = 10;

/// From now on the calling thread, and those that it starts, make way where processors are short: a runtime's threads, which seal
/// and upload, would else take milliseconds from threads that clients wait for.
pub fn make_way() {
    // It works or it does not: then everything is equally urgent, as elsewhere.
    let _ = rustix::process::nice(NICE);
}

/// Work on a tokio runtime, blocking work on threads of its own.
#[derive(Debug, Clone)]
pub struct TokioSpawn(Handle);

impl TokioSpawn {
    /// Starts work on this runtime.
    pub fn new(handle: Handle) -> TokioSpawn {
        TokioSpawn(handle)
    }
}

impl Spawn for TokioSpawn {
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) {
        self.0.spawn(work);
    }

    fn spawn_thread(&self, name: &'static str, urgency: Urgency, work: BoxFuture<'static, ()>) {
        let run = move || {
            if urgency == Urgency::Background {
                make_way();
            }
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(work),
                Err(e) => {
                    panic!("no runtime for the thread {name:?} ({e}): raise the limits on threads and files")
                }
            }
        };
        if let Err(e) = std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            panic!("no thread for {name:?} ({e}): raise the limit on threads");
        }
    }
}

/// Everything as tasks of one runtime, for tests and simulation, where no disk really blocks.
#[derive(Debug, Clone)]
pub struct TaskSpawn(Handle);

impl TaskSpawn {
    /// Starts work on this runtime.
    pub fn new(handle: Handle) -> TaskSpawn {
        TaskSpawn(handle)
    }
}

impl Spawn for TaskSpawn {
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) {
        self.0.spawn(work);
    }

    fn spawn_thread(&self, _name: &'static str, _urgency: Urgency, work: BoxFuture<'static, ()>) {
        self.0.spawn(work);
    }
}
