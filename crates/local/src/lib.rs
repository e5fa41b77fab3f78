//! What a gateway keeps on its own disks: the *journal* (every acknowledged write, until it is in the bucket), *local
//! segments* in the *spool* (the second home of such writes while a bucket is away) and the *cache* (clean data).
//! The three share nothing but the disk. All of it goes through the [`Disk`] seam, whose simulated twin
//! [`SimDisk`] crashes, tears and reorders.

mod cache;
mod disk;
pub mod journal;
mod os;
mod simdisk;
mod spool;
mod yielding;

pub use cache::{Cache, CacheOptions, CacheStats, LineKey, Lookup};
pub use disk::{Disk, DiskFile};
pub use journal::{
    Committed, Done, Journal, JournalOptions, JournalUsage, Location, Owner, OwnerHandle, OwnerUsage,
    Payload, Record, RecordKind, Recovered, Recovery, Reservation, Room, turn,
};
pub use os::{OsDisk, OsEntropy, SystemClock, TaskSpawn, TokioSpawn, make_way, open_files};
pub use simdisk::{SimCounts, SimDisk, SimLatency};
pub use spool::{Spool, SpoolFile};
pub use yielding::Yielding;
