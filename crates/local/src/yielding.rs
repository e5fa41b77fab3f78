//! Dirty data comes before clean: where the disk has no room for the one, the other gives way.
//!
//! The cache may have filled the disk when the journal needs another file, or a local segment is to be put. What the cache holds is in the
//! bucket as well, what those hold is nowhere else; so they see the disk through [`Yielding`], which makes the cache smaller, a file
//! at a time, and tries again. `NoSpace` gets through when the cache has nothing left to give.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result};
use bytes::Bytes;

use crate::Cache;
use crate::disk::{Disk, DiskFile};

/// A disk for what has no other home, shared with a cache that gives way.
#[derive(Debug)]
pub struct Yielding {
    disk: Arc<dyn Disk>,
    cache: Cache,
}

impl Yielding {
    /// The same disk, on which `cache` gives way. The cache itself must not be opened on it.
    pub fn new(disk: Arc<dyn Disk>, cache: Cache) -> Arc<Yielding> {
        Arc::new(Yielding { disk, cache })
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(YieldingFile { file, cache: self.cache.clone() })
    }
}

/// Passes an error on, unless it was for want of room and the cache had some to give.
async fn make_room(cache: &Cache, error: Error) -> Result<()> {
    if error.kind() != ErrorKind::NoSpace || cache.give_way().await == 0 { Err(error) } else { Ok(()) }
}

#[async_trait]
impl Disk for Yielding {
    fn place(&self) -> String {
        self.disk.place()
    }

    async fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(name).await?))
    }

    async fn create(&self, name: &str, len: u64) -> Result<Arc<dyn DiskFile>> {
        loop {
            match self.disk.create(name, len).await {
                Ok(file) => return Ok(self.file(file)),
                Err(e) => make_room(&self.cache, e).await?,
            }
        }
    }

    async fn list(&self, dir: &str) -> Result<Vec<(String, u64)>> {
        self.disk.list(dir).await
    }

    async fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        self.disk.list_dirs(dir).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        loop {
            match self.disk.rename(from, to).await {
                Ok(()) => return Ok(()),
                Err(e) => make_room(&self.cache, e).await?,
            }
        }
    }

    async fn free(&self) -> Result<u64> {
        self.disk.free().await
    }
}

#[derive(Debug)]
struct YieldingFile {
    file: Arc<dyn DiskFile>,
    cache: Cache,
}

#[async_trait]
impl DiskFile for YieldingFile {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.file.try_read(offset, buf)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.file.read(offset, len).await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        loop {
            match self.file.write(offset, parts).await {
                Ok(()) => return Ok(()),
                Err(e) => make_room(&self.cache, e).await?,
            }
        }
    }

    async fn write_warm(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        loop {
            match self.file.write_warm(offset, parts).await {
                Ok(()) => return Ok(()),
                Err(e) => make_room(&self.cache, e).await?,
            }
        }
    }

    /// A sync that failed is never tried again: what it should have made durable may be lost.
    async fn sync(&self) -> Result<()> {
        self.file.sync().await
    }

    /// Every byte is written once more before the answer is believed, so this is no second sync of what a first one lost.
    async fn write_durable(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        loop {
            match self.file.write_durable(offset, parts).await {
                Ok(()) => return Ok(()),
                Err(e) => make_room(&self.cache, e).await?,
            }
        }
    }

    fn writes_at_once(&self) -> bool {
        self.file.writes_at_once()
    }

    async fn settle(&self) -> Result<()> {
        self.file.settle().await
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        loop {
            match self.file.set_len(len).await {
                Ok(()) => return Ok(()),
                Err(e) => make_room(&self.cache, e).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests;
