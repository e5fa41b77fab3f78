//! What operators see. Sizes are bytes, times Unix milliseconds.

use serde::{Deserialize, Serialize};

use crate::event::EventView;

/// The whole gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The program's version.
    pub version: String,
    /// Where iSCSI listens.
    pub portals: Vec<String>,
    /// Its cache disks.
    pub disks: Vec<DiskView>,
    /// Its buckets.
    pub buckets: Vec<BucketView>,
    /// Its volumes.
    pub volumes: Vec<VolumeView>,
    /// Tails of volumes that other gateways took over.
    pub forks: Vec<ForkView>,
    /// Who is logged in.
    pub sessions: Vec<SessionView>,
    /// The newest events, newest last.
    pub events: Vec<EventView>,
}

/// A cache disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DiskView {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// The journal's room.
    pub journal_capacity: u64,
    /// How much of it is used.
    pub journal_used: u64,
    /// Local segments.
    pub local_segments: u64,
    /// Clean cache.
    pub cache_used: u64,
    /// Its limit.
    pub cache_capacity: u64,
    /// What of it is in memory too.
    pub cache_in_memory: u64,
    /// Reads it served.
    pub cache_hits: u64,
    /// Reads it did not.
    pub cache_misses: u64,
    /// Why it cannot be used, or what has become of it while it was.
    pub trouble: Option<String>,
    /// What should be seen to before it becomes trouble.
    pub warning: Option<String>,
}

/// A bucket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BucketView {
    /// Its name here.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Why it cannot be used, if so.
    pub trouble: Option<String>,
}

/// What a probe of a bucket found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeView {
    /// Its name here.
    pub name: String,
    /// What was tried and how it went, a line each.
    pub findings: Vec<String>,
}

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its image's id.
    pub image: String,
    /// Its bucket's name.
    pub bucket: String,
    /// Its cache disk's name.
    pub disk: String,
    /// Bytes.
    pub size: u64,
    /// Bytes in a logical block.
    pub block_size: u32,
    /// The target's iSCSI name.
    pub target: String,
    /// The LUN in the target.
    pub lun: u16,
    /// `opening`, `open`, `releasing`, `refused`, `fenced`, `failed` or `closed`.
    pub state: String,
    /// Why, where it is not open.
    pub reason: Option<String>,
    /// The term of ownership.
    pub epoch: u64,
    /// Acknowledged but not in the bucket.
    pub dirty: u64,
    /// When the oldest of that was acknowledged.
    pub oldest_dirty: Option<u64>,
    /// The part of it in local segments.
    pub local_segments: u64,
    /// Sent to the bucket since the volume was opened.
    pub uploaded: u64,
    /// How fast room comes back, bytes per second.
    pub drain_rate: u64,
    /// Bytes of data in segments, and those still in use.
    pub stored: u64,
    /// Bytes of data in segments that the map still points at.
    pub live: u64,
    /// Why uploads do not go on.
    pub trouble: Option<String>,
    /// Since when.
    pub trouble_since: Option<u64>,
    /// The names of those who may log in by CHAP; if there are any, it is required.
    pub chap_users: Vec<String>,
    /// Whether the target can prove itself, too.
    pub mutual_chap: bool,
    /// Initiator names that may log in; empty: all.
    pub initiators: Vec<String>,
    /// Addresses and networks that may connect; empty: all.
    pub networks: Vec<String>,
}

/// The tail of a volume that another gateway took over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForkView {
    /// `<volume>@lost-<epoch>`, or `<volume>@journal-<disk>` of what a journal keeps of a volume that this gateway does not have.
    pub name: String,
    /// The image.
    pub image: String,
    /// The disk that holds it.
    pub disk: String,
    /// Bytes.
    pub size: u64,
}

/// Somebody logged in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionView {
    /// The initiator's name.
    pub initiator: String,
    /// From where.
    pub peer: String,
    /// The target; none for discovery.
    pub target: Option<String>,
    /// SCSI commands that came.
    pub commands: u64,
    /// Bytes written.
    pub bytes_in: u64,
    /// Bytes read.
    pub bytes_out: u64,
}
