//! One real file: buffered reads, writes past the page cache where they are aligned.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use base::buffer::{ALIGN, in_chunks, write_past_cache};
use base::{AlignedBuf, Error, Result};
use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::failed;
use crate::disk::DiskFile;

/// The most parts the kernel takes in one call.
const MAX_PARTS: usize = 1024;
/// How much is zeroed at a time.
const ZEROES: usize = 1 << 20;
/// From this length on a read is long.
const LONG_READ: usize = 128 << 10;
/// From this length on a write is long; it goes to the disk in pieces of this length.
const CHUNK: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct OsFile {
    path: PathBuf,
    /// Through the page cache.
    file: Arc<File>,
    /// Past it, if the file system can.
    direct: Option<Arc<File>>,
    /// Cleared when a direct write was refused after all.
    direct_works: Arc<AtomicBool>,
    len: AtomicU64,
}

fn open_direct(path: &Path) -> Option<File> {
    let flags = OFlags::DIRECT.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()
}

/// Makes a file of zeroes that are really on the disk, so that writing over them later changes no metadata.
pub(super) fn make_zeroed(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    if len > 0 {
        allocate(&file, 0, len)?;
        let direct = open_direct(path);
        let zeroes = AlignedBuf::zeroed((len as usize).min(ZEROES));
        let mut at = 0;
        while at < len {
            let part = &zeroes[..(len - at).min(ZEROES as u64) as usize];
            let past_cache = direct.as_ref().filter(|_| part.len().is_multiple_of(ALIGN));
            match past_cache.map(|d| d.write_all_at(part, at)) {
                Some(Ok(())) => {}
                Some(Err(e)) if e.raw_os_error() != Some(Errno::INVAL.raw_os_error()) => return Err(e),
                _ => file.write_all_at(part, at)?,
            }
            at += part.len() as u64;
        }
    }
    file.sync_all()
}

/// Allocates a range, extending the file over it; on a file system without allocation it only extends.
fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from, to - from) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(to),
        Err(e) => Err(e.into()),
    }
}

impl OsFile {
    pub(super) fn open(path: &Path) -> io::Result<OsFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // Readers here know what they want; guessing ahead would only read what is being written beside it.
        fadvise(&file, 0, None, Advice::Random)
            .or_else(|e| if e == Errno::NOSYS { Ok(()) } else { Err(e) })?;
        let len = file.metadata()?.len();
        Ok(OsFile {
            path: path.to_owned(),
            file: Arc::new(file),
            direct: open_direct(path).map(Arc::new),
            direct_works: Arc::new(AtomicBool::new(true)),
            len: AtomicU64::new(len),
        })
    }

    /// The descriptor that suits the write.
    fn writer(&self, offset: u64, parts: &[Bytes]) -> &File {
        let aligned = |n: u64| n.is_multiple_of(ALIGN as u64);
        let total: u64 = parts.iter().map(|p| p.len() as u64).sum();
        let fits = aligned(offset)
            && offset + total <= self.len.load(Ordering::Acquire)
            && parts.iter().all(|p| aligned(p.as_ptr() as u64) && aligned(p.len() as u64));
        match &self.direct {
            Some(direct) if fits && self.direct_works.load(Ordering::Relaxed) => direct,
            _ => &self.file,
        }
    }

    fn put(&self, offset: u64, parts: &[Bytes], flags: ReadWriteFlags) -> Result<()> {
        let file = self.writer(offset, parts);
        let past_cache = !std::ptr::eq(file, &*self.file);
        let written = match write_all(file, offset, parts, flags) {
            Err(Errno::INVAL) if past_cache => {
                self.direct_works.store(false, Ordering::Relaxed);
                write_all(&self.file, offset, parts, flags)
            }
            other => other,
        };
        written.map_err(|e| failed("write to", &self.path, e.into()))?;
        self.grown_to(offset, parts);
        Ok(())
    }

    /// How a long write is done: on another thread and past the page cache, wherever its bytes lie. `None` for others.
    fn put_in_chunks(
        &self,
        offset: u64,
        parts: &[Bytes],
    ) -> Option<impl Future<Output = Result<()>> + use<>> {
        let long = parts.iter().map(Bytes::len).sum::<usize>() >= CHUNK;
        let works = long && offset.is_multiple_of(ALIGN as u64) && self.direct_works.load(Ordering::Relaxed);
        let direct = self.direct.clone().filter(|_| works)?;
        let (file, path, parts) = (self.file.clone(), self.path.clone(), parts.to_vec());
        let works = self.direct_works.clone();
        Some(super::away(move || {
            let mut direct = Some(&*direct);
            let written = in_chunks(&parts, CHUNK, |at, chunk| {
                write_past_cache(&file, &mut direct, chunk, offset + at)
            });
            works.fetch_and(direct.is_some(), Ordering::Relaxed);
            written.map_err(|e| failed("write to", &path, e))
        }))
    }

    fn grown_to(&self, offset: u64, parts: &[Bytes]) {
        let end = offset + parts.iter().map(|p| p.len() as u64).sum::<u64>();
        self.len.fetch_max(end, Ordering::AcqRel);
    }

    fn ends_before(&self, end: u64) -> Error {
        Error::corrupt(format!(
            "{} has {} bytes, {end} are expected: it was cut; restore it",
            self.path.display(),
            self.len()
        ))
    }
}

fn write_all(file: &File, mut offset: u64, parts: &[Bytes], flags: ReadWriteFlags) -> Result<(), Errno> {
    for group in parts.chunks(MAX_PARTS) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|p| IoSlice::new(p)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match pwritev2(file, left, offset, flags) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

#[async_trait]
impl DiskFile for OsFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let want = buf.len();
        match preadv2(&*self.file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n == want),
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(e) => Err(failed("read", &self.path, e.into())),
        }
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut buf = AlignedBuf::for_overwrite(len);
        // What is long is read for the bucket, once: copies of it would only fill the page cache.
        let past_cache =
            len >= LONG_READ && [offset, len as u64].iter().all(|n| n.is_multiple_of(ALIGN as u64));
        if !past_cache && self.try_read(offset, &mut buf)? {
            return Ok(buf.into_bytes());
        }
        if offset + len as u64 > self.len() {
            return Err(self.ends_before(offset + len as u64));
        }
        let direct = self.direct.clone().filter(|_| past_cache && self.direct_works.load(Ordering::Relaxed));
        let (file, path) = (self.file.clone(), self.path.clone());
        super::away(move || {
            let read = match direct.map(|direct| direct.read_exact_at(&mut buf, offset)) {
                Some(Err(e)) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => None,
                other => other,
            };
            match read.unwrap_or_else(|| file.read_exact_at(&mut buf, offset)) {
                Ok(()) => Ok(buf.into_bytes()),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(Error::corrupt(format!("{} is shorter than it was: restore it", path.display())))
                }
                Err(e) => Err(failed("read", &path, e)),
            }
        })
        .await
    }

    async fn write(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        let Some(write) = self.put_in_chunks(offset, parts) else {
            return self.put(offset, parts, ReadWriteFlags::empty());
        };
        write.await?;
        self.grown_to(offset, parts);
        Ok(())
    }

    async fn write_warm(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        write_all(&self.file, offset, parts, ReadWriteFlags::empty())
            .map_err(|e| failed("write to", &self.path, e.into()))?;
        self.grown_to(offset, parts);
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        let (file, path) = (self.file.clone(), self.path.clone());
        super::away(move || file.sync_data().map_err(|e| failed("sync", &path, e))).await
    }

    async fn write_durable(&self, offset: u64, parts: &[Bytes]) -> Result<()> {
        self.put(offset, parts, ReadWriteFlags::DSYNC)
    }

    fn writes_at_once(&self) -> bool {
        true
    }

    async fn settle(&self) -> Result<()> {
        self.sync().await?;
        fadvise(&*self.file, 0, None, Advice::DontNeed)
            .map_err(|e| failed("drop the cached pages of", &self.path, e.into()))
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        let old = self.len();
        let done = if len > old { allocate(&self.file, old, len) } else { self.file.set_len(len) };
        done.map_err(|e| failed("change the length of", &self.path, e))?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }
}
