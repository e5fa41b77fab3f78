//! The real disk and the real seams: files, clock, chance and threads of the operating system (Linux).

mod descriptors;
mod file;
mod seams;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, RenameFlags, flock};

use crate::disk::{Disk, DiskFile, check_name};
pub use descriptors::open_files;
use file::OsFile;
pub use seams::{OsEntropy, SystemClock, TaskSpawn, TokioSpawn, make_way};

const LOCK: &str = "tidegate.lock";
/// What a file is called until it is whole.
const UNFINISHED: &str = ".creating";

/// A directory of real files, locked against other processes as long as this lives.
pub struct OsDisk {
    root: PathBuf,
    _lock: File,
}

impl OsDisk {
    /// Opens the directory, making it if necessary, and removes files whose creation was cut short. `Busy` if another process has it open.
    pub fn open(dir: impl AsRef<Path>) -> Result<Arc<OsDisk>> {
        let dir = dir.as_ref();
        let at = |e: io::Error| failed("open the directory", dir, e);
        fs::create_dir_all(dir).map_err(at)?;
        let root = dir.canonicalize().map_err(at)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK)).map_err(at)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::WOULDBLOCK => Error::new(
                ErrorKind::Busy,
                format!(
                    "{} is in use by another process: stop that one, or choose another directory",
                    root.display()
                ),
            ),
            e => failed("lock the directory", &root, e.into()),
        })?;
        remove_unfinished(&root)?;
        Ok(Arc::new(OsDisk { root, _lock: lock }))
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }
}

impl std::fmt::Debug for OsDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OsDisk({})", self.root.display())
    }
}

/// An error about a file, with the kind that its errno calls for.
fn failed(what: &str, path: &Path, e: io::Error) -> Error {
    let (kind, hint) = match e.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, ""),
        io::ErrorKind::AlreadyExists => (ErrorKind::Exists, ""),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (ErrorKind::NoSpace, " (free space on the file system, or give the gateway less of it)")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, " (make it writable for the gateway's user)")
        }
        _ if has_too_many_open(&e) => {
            (ErrorKind::Busy, " (raise the limit of open files, LimitNOFILE= of a systemd unit)")
        }
        _ => (ErrorKind::Internal, " (check the disk and the kernel's log)"),
    };
    Error::caused(kind, format!("cannot {what} {}{hint}", path.display()), e)
}

/// Whether it is the process, or the machine, that has no more file descriptors: that says nothing of the disk.
fn has_too_many_open(e: &io::Error) -> bool {
    let number = e.raw_os_error();
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| number == Some(errno.raw_os_error()))
}

fn remove_unfinished(dir: &Path) -> Result<()> {
    let at = |e: io::Error| failed("look through", dir, e);
    for entry in fs::read_dir(dir).map_err(at)? {
        let entry = entry.map_err(at)?;
        let path = entry.path();
        if entry.file_type().map_err(at)?.is_dir() {
            remove_unfinished(&path)?;
        } else if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Makes the names in a directory durable. What was done to them is done already: so it waits until the directory can be opened.
fn sync_dir(dir: &Path) -> Result<()> {
    loop {
        match File::open(dir).and_then(|d| d.sync_all()) {
            Err(e) if has_too_many_open(&e) => std::thread::sleep(AGAIN),
            done => return done.map_err(|e| failed("sync the directory", dir, e)),
        }
    }
}

/// How long to wait for a file descriptor before the next attempt.
const AGAIN: Duration = Duration::from_millis(50);

/// Makes the directories above `path`, durably.
fn make_parents(root: &Path, path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(root);
    if parent == root || parent.is_dir() {
        return Ok(());
    }
    make_parents(root, parent)?;
    match fs::create_dir(parent) {
        Ok(()) => sync_dir(parent.parent().unwrap_or(root)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed("make the directory", parent, e)),
    }
}

/// Runs work that waits for the disk away from the caller's thread.
async fn away<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::caused(ErrorKind::Internal, "a disk operation died: report this with the log", e))
    })
}

fn create(root: &Path, path: &Path, len: u64) -> Result<OsFile> {
    make_parents(root, path)?;
    if path.exists() {
        return Err(failed("create", path, io::ErrorKind::AlreadyExists.into()));
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let made = file::make_zeroed(&unfinished, len).and_then(|()| rename_new(&unfinished, path));
    if let Err(e) = made {
        // What cannot be removed now is removed when the directory is opened again.
        let _ = fs::remove_file(&unfinished);
        return Err(failed("create", path, e));
    }
    sync_dir(path.parent().unwrap_or(root))?;
    OsFile::open(path).map_err(|e| failed("open", path, e))
}

/// Renames to a name that is not taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems lack it; a link is as exclusive.
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        other => Ok(other?),
    }
}

fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let at = |e: io::Error| failed("list", dir, e);
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<_>>().map_err(at),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(at(e)),
    }
}

#[async_trait]
impl Disk for OsDisk {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    async fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let path = self.path(name)?;
        let file = away(move || OsFile::open(&path).map_err(|e| failed("open", &path, e))).await?;
        Ok(Arc::new(file))
    }

    async fn create(&self, name: &str, len: u64) -> Result<Arc<dyn DiskFile>> {
        let (root, path) = (self.root.clone(), self.path(name)?);
        let file = away(move || create(&root, &path, len)).await?;
        Ok(Arc::new(file))
    }

    async fn list(&self, dir: &str) -> Result<Vec<(String, u64)>> {
        let dir = if dir.is_empty() { self.root.clone() } else { self.path(dir)? };
        away(move || {
            let mut out = Vec::new();
            for entry in entries(&dir)? {
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(failed("look at", &entry.path(), e)),
                };
                let name = entry.file_name().to_string_lossy().into_owned();
                if meta.is_file() && name != LOCK && !name.ends_with(UNFINISHED) {
                    out.push((name, meta.len()));
                }
            }
            out.sort();
            Ok(out)
        })
        .await
    }

    async fn list_dirs(&self, dir: &str) -> Result<Vec<String>> {
        let dir = if dir.is_empty() { self.root.clone() } else { self.path(dir)? };
        away(move || {
            let dirs = entries(&dir)?.into_iter().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            let mut out: Vec<String> = dirs.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            out.sort();
            Ok(out)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        away(move || match fs::remove_file(&path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(&path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed("remove", &path, e)),
        })
        .await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (root, from, to) = (self.root.clone(), self.path(from)?, self.path(to)?);
        away(move || {
            make_parents(&root, &to)?;
            fs::rename(&from, &to).map_err(|e| failed("rename", &from, e))?;
            sync_dir(to.parent().unwrap_or(&root))?;
            if from.parent() != to.parent() {
                sync_dir(from.parent().unwrap_or(&root))?;
            }
            Ok(())
        })
        .await
    }

    async fn free(&self) -> Result<u64> {
        let root = self.root.clone();
        away(move || {
            let stat =
                rustix::fs::statvfs(&root).map_err(|e| failed("ask for free space on", &root, e.into()))?;
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
