//! What a disk's device server stands on.

mod memory;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use base::Result;
use bytes::Bytes;

pub use memory::{MemoryMedium, Operation};

/// The size and shape of a block medium. It may change while in use (a resize).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a logical block: 512 or 4,096.
    pub block_size: u32,
    /// How many logical blocks.
    pub blocks: u64,
    /// Logical blocks in a physical one, as a power of two (SBC-4 §5.16.2, LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT).
    pub physical_exponent: u8,
}

/// How a run of blocks is provisioned (SBC-4 §5.6.2, PROVISIONING STATUS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Holds data.
    Mapped,
    /// Holds nothing and reads as zeroes.
    Deallocated,
    /// Holds zeroes that were written.
    Anchored,
}

/// Permission for a write of a certain size; the reserve it holds is given back when it is dropped.
pub type Admission = Box<dyn std::any::Any + Send + Sync>;

/// The most bytes of one value kept beside the blocks.
pub const MAX_STATE: usize = 64 << 10;

/// What [`BlockMedium::update`] does to a range in memory; `false` leaves the medium as it was.
///
/// A name of its own, because `async_trait` would bind the lifetime of the slice to the call.
pub type Change = Box<dyn FnOnce(&mut [u8]) -> bool + Send>;

/// A sparse, durable array of logical blocks.
///
/// Addresses and counts are in logical blocks and were checked against the geometry by the caller. A future that
/// changes the medium must be run to its end once it was polled. Reads may be dropped. A change is visible to reads
/// before its future ends, never partly.
#[async_trait]
pub trait BlockMedium: Send + Sync {
    /// The present size and shape.
    fn geometry(&self) -> Geometry;

    /// Whether it may not be written (a snapshot).
    fn read_only(&self) -> bool {
        false
    }

    /// A permission to write `bytes`, if one is to be had without waiting.
    fn try_admit(&self, bytes: u64) -> Option<Admission>;

    /// The largest write, in bytes, that is there as a whole or not at all even after a crash; a power of two of at
    /// least one block, or 0 if there is no such promise. It bounds WRITE ATOMIC and COMPARE AND WRITE.
    fn atomic_bytes(&self) -> u32 {
        1 << 20
    }

    /// Waits for a permission to write. May be dropped. `Busy` after ten seconds without one: the initiator is told
    /// TASK SET FULL.
    async fn admit(&self, bytes: u64) -> Result<Admission>;

    /// Reads from memory or page cache, if that needs no waiting. The parts make up the range in order.
    fn try_read(&self, lba: u64, blocks: u32) -> Option<Result<Vec<Bytes>>>;

    /// Reads. `Corrupt`: the bytes are not what was written and could not be repaired.
    async fn read(&self, lba: u64, blocks: u32) -> Result<Vec<Bytes>>;

    /// Writes; durable on return unless the write cache is on and `fua` is not set.
    async fn write(&self, lba: u64, data: Vec<Bytes>, fua: bool, admission: Admission) -> Result<()>;

    /// Makes a range zeroes. `unmap` says that the space may be given up.
    async fn zero(&self, lba: u64, blocks: u64, unmap: bool) -> Result<()>;

    /// Reads a range, hands it to `change`, and writes what `change` made of it, with nothing in between on that
    /// range. If `change` returns `false`, nothing is written. `change` is called once.
    async fn update(&self, lba: u64, blocks: u32, admission: Admission, change: Change) -> Result<()>;

    /// Makes everything that was acknowledged before durable.
    async fn flush(&self) -> Result<()>;

    /// Brings a range into the cache, soon; says nothing about success.
    fn prefetch(&self, lba: u64, blocks: u64);

    /// How the run that starts at `lba` is provisioned, and its length in blocks, at most `most`.
    async fn provisioning(&self, lba: u64, most: u64) -> Result<(Provisioning, u64)>;

    /// Whether acknowledged writes may be volatile until a flush (caching mode page, WCE). Off at first.
    fn set_write_cache(&self, on: bool);

    /// A small durable value stored beside the blocks (persistent reservations, saved mode pages).
    async fn load_state(&self, name: &str) -> Result<Option<Bytes>>;

    /// Stores one of at most [`MAX_STATE`] bytes, durable on return; `None` removes it.
    async fn store_state(&self, name: &str, value: Option<Bytes>) -> Result<()>;
}
