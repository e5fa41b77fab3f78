//! The seam below all local storage.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use base::Result;
use bytes::Bytes;

/// A directory of files on one local disk. Names are relative, `/`-separated; directories come into being by use.
#[async_trait]
pub trait Disk: Send + Sync + Debug {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// Opens a file. `NotFound` if absent.
    async fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>>;

    /// Creates a file of `len` zero bytes that are really allocated (so that later writes change no metadata) and
    /// durable on return, name and length included. `Exists` if the name is taken; `NoSpace` without room.
    async fn create(&self, name: &str, len: u64) -> Result<Arc<dyn DiskFile>>;

    /// Names and sizes of the files in a directory (not below it), in byte order; none if there is no such directory.
    async fn list(&self, dir: &str) -> Result<Vec<(String, u64)>>;

    /// Removes a file, durably. Removing what is absent succeeds.
    async fn remove(&self, name: &str) -> Result<()>;

    /// Renames a file within the disk, durably and atomically, replacing a file of the new name.
    async fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Free bytes on the file system.
    async fn free(&self) -> Result<u64>;
}

/// An open file.
///
/// `write` and `sync` block the calling thread in production: only background threads call them. Writes are durable
/// after the next `sync` that began after them and succeeded; until then a crash may keep any subset of their
/// 512-byte sectors.
#[async_trait]
pub trait DiskFile: Send + Sync + Debug {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset` if that needs no waiting for the disk; `false` if it would have to wait.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;

    /// The `len` bytes at `offset`, read on another thread where it has to wait. `Corrupt` if the file ends before.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Writes the parts one after the other from `offset`. With offset, lengths and addresses aligned to 4,096 it
    /// may bypass the page cache.
    async fn write(&self, offset: u64, parts: &[Bytes]) -> Result<()>;

    /// Makes all finished writes durable. An error means that any of them may be lost, now and for good.
    async fn sync(&self) -> Result<()>;

    /// Cuts or extends it with zeroes.
    async fn set_len(&self, len: u64) -> Result<()>;
}
