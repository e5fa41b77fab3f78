use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, Clock, GatewayId, ImageId, Spawn};
use bucket::Bucket;
use local::{Cache, Journal, Spool};

use crate::dirty::DirtyMemory;
use crate::run::Limits;

/// What an image stands on: the seams, its bucket, and the parts of one cache disk that it shares with others.
#[derive(Clone)]
pub struct Env {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// How background work is started.
    pub spawn: Arc<dyn Spawn>,
    /// Where the image lives.
    pub bucket: Arc<dyn Bucket>,
    /// The disk's journal.
    pub journal: Journal,
    /// The disk's local segments.
    pub spool: Arc<Spool>,
    /// The disk's clean cache.
    pub cache: Cache,
    /// Memory for data that is dirty.
    pub memory: Arc<DirtyMemory>,
    /// This gateway.
    pub gateway: GatewayId,
    /// Its name, for people.
    pub gateway_name: String,
    /// Who hears of what happens.
    pub events: Arc<dyn Events>,
    /// Limits and habits.
    pub options: Options,
}

/// Limits and habits of an image.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment is sealed when this much is dirty.
    pub segment: ByteSize,
    /// Or when the oldest dirty record is this old.
    pub segment_age: Duration,
    /// Segments on their way to the bucket at a time.
    pub puts: usize,
    /// How often an idle owner looks whether it still is one.
    pub check_every: Duration,
    /// How much of the journal may be used before segments go to the local disk instead of waiting for the bucket.
    pub spool_above: f64,
    /// The most bytes of local segments of one image.
    pub spool_limit: ByteSize,
    /// The longest a write waits to be admitted.
    pub admit_within: Duration,
    /// A checkpoint is due when this many runs were mapped since the last one.
    pub checkpoint_runs: usize,
    /// Or when this many segments were. It waits until a tenth of what was written pays for it, but no longer than
    /// [`Options::PATIENCE`] times as much.
    pub checkpoint_segments: usize,
    /// The most entries of a map page.
    pub page_entries: usize,
    /// Loaded map pages kept.
    pub pages: usize,
    /// How long a segment that nothing points at is kept.
    pub grace: Duration,
    /// How many bytes in the bucket may be dead for each one that lives; more are compacted away.
    pub garbage: f64,
    /// So much more may be dead in any case.
    pub garbage_slack: ByteSize,
}

impl Options {
    /// How many times what makes a checkpoint due is mapped at most before one is cut, whatever it costs: opening replays no more.
    pub const PATIENCE: usize = 4;

    /// The limits of map pages.
    pub(crate) fn limits(&self) -> Limits {
        Limits { entries: self.page_entries.max(4), pages: self.pages }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment: ByteSize::mib(16),
            segment_age: Duration::from_secs(2),
            puts: 4,
            check_every: Duration::from_secs(3),
            spool_above: 0.65,
            spool_limit: ByteSize::gib(32),
            admit_within: Duration::from_secs(8),
            checkpoint_runs: 200_000,
            checkpoint_segments: 256,
            page_entries: 1024,
            pages: 1024,
            grace: Duration::from_secs(600),
            garbage: 0.5,
            garbage_slack: ByteSize::mib(256),
        }
    }
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Data or service is affected.
    Error,
}

/// Something that happened to an image.
#[derive(Debug, Clone)]
pub struct Event {
    /// How much it matters.
    pub severity: Severity,
    /// The image.
    pub image: ImageId,
    /// What happened, with the object and offset concerned where there are any.
    pub text: String,
}

/// Who hears of what happens. Called from data paths: it must not wait.
pub trait Events: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}
