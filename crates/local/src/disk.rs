//! The seam below all local storage.
//!
//! Two implementations stand behind it: [`crate::OsDisk`] (a directory of real files) and [`crate::SimDisk`] (memory
//! that crashes, tears, reorders, rots and fills up on command). Everything else in this crate knows only the traits.
//!
//! # What survives a power cut
//!
//! | call | durable | cut while it runs |
//! |---|---|---|
//! | `create`, `remove`, `rename` | when it returns | it happened whole or not at all |
//! | `write` | after the next `sync` that *began* after the write returned, and succeeded | any subset of its 512-byte sectors |
//! | `write_durable` | when it returns `Ok` | any subset of its 512-byte sectors |
//! | `set_len`, and growth by a write past the end | after the next such `sync` | the old or the new length |
//!
//! Between two syncs nothing is ordered: a later write may survive where an earlier one is lost, and of two writes to
//! one sector either may be found. After a failed `sync` any write since the last good one may be lost for good, even
//! though reads still show it and the next `sync` succeeds (this is what Linux does), so nobody may try it again and
//! believe the answer.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use base::Result;
use bytes::Bytes;

/// A directory of files on one local disk. Names are relative, `/`-separated; directories come into being by use.
///
/// None of these calls blocks the calling thread: where they wait for the disk they do it on another thread.
#[async_trait]
pub trait Disk: Send + Sync + Debug {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// Opens a file. `NotFound` if absent.
    async fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>>;

    /// Creates a file of `len` zero bytes that are really allocated (so that later writes change no metadata) and
    /// durable on return, name and length included. `Exists` if the name is taken; `NoSpace` without room.
    async fn create(&self, name: &str, len: u64) -> Result<Arc<dyn DiskFile>>;

    /// Names (without the directory's) and sizes of the files in a directory (not below it), in byte order; none if
    /// there is no such directory.
    async fn list(&self, dir: &str) -> Result<Vec<(String, u64)>>;

    /// The names of the directories directly in a directory, in byte order; `""` is the top. Whether a directory that
    /// has lost its last file is still listed is not defined.
    async fn list_dirs(&self, dir: &str) -> Result<Vec<String>>;

    /// Removes a file, durably. Removing what is absent succeeds. Open handles to it go on working.
    async fn remove(&self, name: &str) -> Result<()>;

    /// Renames a file within the disk, durably and atomically, replacing a file of the new name. It does not sync the
    /// file's contents: do that before.
    async fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Free bytes on the file system.
    async fn free(&self) -> Result<u64>;
}

/// An open file.
///
/// `write_durable`, `write_warm`, `set_len` and short calls of `write` block the calling thread in production: only threads of
/// the background call them. See the [module](self) for what survives a power cut.
#[async_trait]
pub trait DiskFile: Send + Sync + Debug {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset` if that needs no waiting for the disk; `false` if it would have to wait (`buf` may
    /// then hold anything).
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;

    /// The `len` bytes at `offset`, read on another thread where it has to wait. `Corrupt` if the file ends before.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Writes the parts one after the other from `offset`. With offset, lengths and addresses aligned to 4,096 it
    /// may bypass the page cache.
    async fn write(&self, offset: u64, parts: &[Bytes]) -> Result<()>;

    /// Writes as [`DiskFile::write`] does, but through the page cache, because the bytes are likely to be read soon.
    async fn write_warm(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        self.write(offset, parts).await
    }

    /// Makes all finished writes durable. An error means that any of them may be lost, now and for good.
    async fn sync(&self) -> Result<()>;

    /// Writes as [`DiskFile::write`] does and makes the bytes of *this* write durable before it returns. It says
    /// nothing about earlier writes. An error means what a failed [`DiskFile::sync`] means.
    async fn write_durable(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        self.write(offset, parts).await?;
        self.sync().await
    }

    /// Whether writing, [`DiskFile::write_durable`] included, is over when its future has been polled once: the calling thread
    /// waits for the disk. Only where room has to be made first may it take longer.
    fn writes_at_once(&self) -> bool {
        false
    }

    /// Syncs, and lets later reads come from the disk itself rather than from memory, so that what a recovery finds is
    /// what a power cut would leave, even after a failed sync in a former process.
    async fn settle(&self) -> Result<()> {
        self.sync().await
    }

    /// Cuts it or extends it with zeroes, allocating room for them where that is cheap.
    async fn set_len(&self, len: u64) -> Result<()>;
}

/// Checks a name that is to be used on a disk: relative, of non-empty components without `.` or `..`, printable ASCII.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= 512
        && name.split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(|b| b.is_ascii_graphic())
        });
    if good {
        return Ok(());
    }
    Err(base::Error::invalid(format!(
        "{name:?} is no name on a disk: use relative names of printable ASCII without empty parts, \".\" or \"..\""
    )))
}
