//! Files being written, each gateway process's under a lock of its own, so that those of dead ones can be removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base::buffer::{in_chunks, write_past_cache};
use base::{Error, Result, checksum};
use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;

use super::{failed, unsynced};

/// From this length on a file is long, in bytes.
const LONG: u64 = 256 << 10;
/// What is written at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Where this process makes its files: `<stem>.<n>` beside a lock `<stem>.lock` that it holds while it lives.
#[derive(Debug)]
pub struct Workshop {
    dir: PathBuf,
    stem: String,
    lock: File,
    counter: AtomicU64,
}

impl Workshop {
    /// Removes what the dead left in `dir`, and takes a stem of its own.
    pub fn open(dir: &Path) -> Result<Workshop> {
        /// In one process no stem is used twice, though another directory may have come to the same path meanwhile.
        static STEMS: AtomicU64 = AtomicU64::new(0);
        clean(dir).map_err(|e| failed("clean", dir, e))?;
        loop {
            let stem = format!("{}-{}", std::process::id(), STEMS.fetch_add(1, Ordering::Relaxed));
            let path = dir.join(format!("{stem}.lock"));
            let lock = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed("make", &path, e)),
            };
            // Another's cleaning may have come between: then the lock stands on a file without a name.
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && same_file(&lock, &path) {
                return Ok(Workshop { dir: dir.to_owned(), stem, lock, counter: AtomicU64::new(0) });
            }
        }
    }

    /// Whether the bucket that was opened is still the one at its path.
    pub fn is_there(&self) -> bool {
        same_file(&self.lock, &self.dir.join(format!("{}.lock", self.stem)))
    }

    /// A new, empty file.
    pub fn start(&self) -> Result<Temporary> {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}.{n}", self.stem));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Temporary { path, file }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::caused(
                base::ErrorKind::Unavailable,
                format!("{} is gone: mount the bucket's directory again, or restart", self.dir.display()),
                e,
            )),
            Err(e) => Err(failed("make", &path, e)),
        }
    }

    /// `Invalid` if names here ignore case or files cannot have two names.
    pub fn check_file_system(&self, root: &Path) -> Result<()> {
        let refuse = |what: &str| {
            let root = root.display();
            Err(Error::invalid(format!(
                "{root} cannot be a bucket: its file system {what}; use ext4, xfs, btrfs or zfs"
            )))
        };
        let file = self.start()?;
        let upper = file.path.with_file_name(format!("{}.CASE", self.stem));
        match file.link_to(&upper) {
            Ok(()) => {}
            Err(e) if super::is_full(&e) => return Err(failed("link", &upper, e)),
            Err(_) => return refuse("has no hard links"),
        }
        let ignores_case = upper.with_file_name(format!("{}.case", self.stem)).exists();
        let second = self.start()?.link_to(&upper);
        fs::remove_file(&upper).map_err(|e| failed("delete", &upper, e))?;
        match second {
            _ if ignores_case => refuse("takes A and a for the same name"),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            _ => refuse("links over names that are taken"),
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Best effort: what stays is removed by the next one to open the bucket.
        if self.is_there() {
            drop(fs::remove_file(self.dir.join(format!("{}.lock", self.stem))));
        }
    }
}

/// One file being written; it goes away unless it was renamed to its name.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Writes its content; gives the CRC-64/NVME of what was written. A long one goes past the page cache where the file system
    /// can: it is seldom read soon, and copying it there costs more of the processors than all else.
    pub fn write(&self, parts: &[Bytes]) -> Result<u64> {
        let mut crc = checksum::crc64(&[]);
        let len = parts.iter().map(|p| p.len() as u64).sum::<u64>();
        let direct = if len < LONG { None } else { self.direct(len)? };
        let mut direct = direct.as_ref();
        let written = in_chunks(parts, CHUNK, |at, chunk| {
            crc = checksum::crc64_combine(crc, checksum::crc64(chunk), chunk.len() as u64);
            write_past_cache(&self.file, &mut direct, chunk, at)
        });
        written.map_err(|e| failed("write", &self.path, e))?;
        Ok(crc)
    }

    /// The same file past the page cache, with room for `len` bytes; `None` where that cannot be had.
    fn direct(&self, len: u64) -> Result<Option<File>> {
        let flags = OFlags::DIRECT.bits() as i32;
        let Ok(direct) = OpenOptions::new().write(true).custom_flags(flags).open(&self.path) else {
            return Ok(None);
        };
        match fallocate(&direct, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Some(direct)),
            Err(e) => Err(failed("make room for", &self.path, e.into())),
        }
    }

    /// Appends all of `source`.
    pub fn fill(&mut self, source: &mut File) -> Result<()> {
        io::copy(source, &mut self.file).map(drop).map_err(|e| failed("write", &self.path, e))
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Syncs bytes and attributes.
    pub fn seal(&self) -> Result<fs::Metadata> {
        self.file.sync_all().map_err(|e| unsynced(&self.path, e))?;
        self.file.metadata().map_err(|e| failed("look at", &self.path, e))
    }

    /// Gives it a second name, which must be free.
    pub fn link_to(&self, path: &Path) -> io::Result<()> {
        match fs::hard_link(&self.path, path) {
            // A file server may have lost its own first answer: then the name is taken by this very file.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && same_file(&self.file, path) => Ok(()),
            other => other,
        }
    }

    /// Moves it to its name, replacing what is there.
    pub fn rename_to(&self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; names are never used twice, so it cannot be another's.
        drop(fs::remove_file(&self.path));
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Removes the files of processes that no longer hold their lock.
fn clean(dir: &Path) -> io::Result<()> {
    let names = || -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut held = Vec::new();
    for name in names()?.into_iter().filter(|n| n.ends_with(".lock")) {
        let path = dir.join(&name);
        let Ok(lock) = File::open(&path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && same_file(&lock, &path) {
            fs::remove_file(&path)?;
            held.push(lock);
        }
    }
    // A lock is made before the files beside it, so a file without one has no owner.
    for name in names()? {
        let owned = name.split_once('.').is_some_and(|(stem, _)| dir.join(format!("{stem}.lock")).exists());
        if !owned {
            match fs::remove_file(dir.join(&name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}
