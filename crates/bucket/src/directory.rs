//! A directory as a bucket.
//!
//! An object is a plain file under its own name. Beside them stands `.tidegate`: files being written, and attributes
//! where the file system has no extended ones. How an object becomes durable and visible in one step:
//!
//! 1. its bytes and attributes go to a temporary file, which is synced;
//! 2. the directories above it are made, each synced into its parent;
//! 3. the file is linked to its name (create-only: the kernel lets one link succeed) or renamed to it (put);
//! 4. the directory that holds the name is synced.
//!
//! An object and a longer name below it (`a` and `a/b`) cannot both exist here: the second is refused as `Invalid`.

pub mod attributes;
mod name;
mod temporary;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use base::{AlignedBuf, Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::object::{absent, cut, taken};
use crate::{Access, Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};
use attributes::AttributeStore;
use temporary::{Temporary, Workshop};

/// The directory at the root that is ours.
const OWN: &str = ".tidegate";

/// How often a publication is tried again when another's delete took the directory away under it.
const TRIES: usize = 1000;

/// How many directories are remembered as synced; forgetting costs a sync.
const DURABLE_KEPT: usize = 10_000;

/// A bucket in a directory of a POSIX file system with hard links.
#[derive(Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

/// The work itself, all of it blocking.
#[derive(Debug)]
struct Shared {
    root: PathBuf,
    workshop: Workshop,
    attributes: AttributeStore,
    /// Which directory (by device, inode and time of birth) was last synced into its parent, by path.
    durable: Mutex<BTreeMap<PathBuf, Identity>>,
}

type Identity = (u64, u64, Option<std::time::SystemTime>);

/// Where files are written. It stays as long as the bucket, and shows that a directory is one.
fn workshop(root: &Path) -> PathBuf {
    root.join(OWN).join("temporary")
}

impl Directory {
    /// Opens the bucket that [`Directory::make`] made in `root`, and removes what killed gateways left half-written. It blocks.
    ///
    /// `Unavailable` if it is not there: at a mount point without its file system stands another directory, which must never
    /// be taken for an empty bucket.
    pub fn open(root: impl Into<PathBuf>) -> Result<Directory> {
        let root = root.into();
        match fs::metadata(workshop(&root)) {
            Ok(found) if found.is_dir() => Directory::enter(&root),
            Err(e) if !is_absence(&e) => Err(failed("open the bucket directory", &root, e)),
            _ => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} is not the bucket that was added: is its file system mounted? (There is no {OWN}/temporary in it.)",
                    root.display()
                ),
            )),
        }
    }

    /// Makes `root` a bucket, if it is none yet, and opens it. `Invalid` if the file system cannot carry a bucket (no hard
    /// links, or names that ignore case). It blocks.
    pub fn make(root: impl Into<PathBuf>) -> Result<Directory> {
        let root = root.into();
        let workshop = workshop(&root);
        let new: Vec<_> = workshop.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(&workshop).map_err(|e| failed("make the bucket directory", &root, e))?;
        // What a process that was killed made and did not sync is synced now.
        let ours = [root.join(OWN), root.clone()];
        let above = ours.iter().map(PathBuf::as_path).chain(new.iter().filter_map(|made| made.parent()));
        for dir in above.collect::<BTreeSet<_>>() {
            sync_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?;
        }
        Directory::enter(&root)
    }

    fn enter(root: &Path) -> Result<Directory> {
        let root = root.canonicalize().map_err(|e| failed("open the bucket directory", root, e))?;
        let workshop = Workshop::open(&workshop(&root))?;
        workshop.check_file_system(&root)?;
        let attributes = AttributeStore::open(&root.join(OWN), &workshop)?;
        let shared = Shared { root, workshop, attributes, durable: Mutex::default() };
        Ok(Directory { shared: Arc::new(shared) })
    }

    /// The directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.shared.root
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Shared) -> Result<T> + Send + 'static,
    {
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(result) => result,
            Err(e) if e.is_cancelled() => Err(Error::caused(
                ErrorKind::Unavailable,
                "the gateway is stopping: try again once it runs",
                e,
            )),
            Err(e) => {
                Err(Error::caused(ErrorKind::Internal, "a directory bucket's worker died: report this", e))
            }
        }
    }
}

#[async_trait]
impl Bucket for Directory {
    fn url(&self) -> String {
        self.shared.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |s| s.get(&key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let key = key.clone();
        self.blocking(move |s| s.head(&key)).await
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let (key, body, attributes) = (key.clone(), body.clone(), attributes.clone());
        self.blocking(move |s| s.store(&key, &body, &attributes, true)).await
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let (key, body, attributes) = (key.clone(), body.clone(), attributes.clone());
        self.blocking(move |s| s.store(&key, &body, &attributes, false)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.blocking(move |s| walk::list(s, &prefix, after.as_ref(), limit)).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |s| s.copy(&from, &to)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |s| s.delete(&key)).await
    }

    async fn set_class(&self, key: &Key, _class: StorageClass) -> Result<()> {
        Err(no_classes(&self.url(), key))
    }

    async fn restore(&self, key: &Key, _days: u32) -> Result<()> {
        Err(no_classes(&self.url(), key))
    }
}

impl Shared {
    fn url(&self) -> String {
        format!("dir://{}", self.root.display())
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(name::encode(key.as_str()))
    }

    /// Opens an object's file. What is no regular file is no object; links that lead elsewhere are not followed.
    fn open(&self, key: &Key) -> Result<(File, fs::Metadata)> {
        let path = self.path(key);
        let nofollow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(nofollow.bits() as i32).open(&path);
        let found = opened.and_then(|f| f.metadata().map(|m| (f, m)));
        match found {
            Ok((file, meta)) if meta.is_file() => {
                // It may be another's of the same name.
                self.refuse_another()?;
                Ok((file, meta))
            }
            Ok(_) => Err(self.missing(key)),
            Err(e) if is_absence(&e) => Err(self.missing(key)),
            Err(e) => Err(failed("open", &path, e)),
        }
    }

    /// "No such object" is said only while the bucket itself is verifiably there: a file system that is not mounted
    /// must never look like an empty bucket.
    fn missing(&self, key: &Key) -> Error {
        if self.workshop.is_there() {
            return absent(&self.url(), key);
        }
        self.gone()
    }

    fn gone(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "{} is not the directory that was opened: mount it again, or restart",
                self.root.display()
            ),
        )
    }

    /// Nothing is changed in another directory that has come to this path, nor read, though it may be a bucket, too.
    fn refuse_another(&self) -> Result<()> {
        if self.workshop.is_there() { Ok(()) } else { Err(self.gone()) }
    }

    fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let (file, meta) = self.open(key)?;
        let range = match range {
            Some(r) => cut(key, r, meta.len())?,
            None => 0..meta.len(),
        };
        let mut bytes = AlignedBuf::for_overwrite((range.end - range.start) as usize);
        file.read_exact_at(&mut bytes, range.start).map_err(|e| failed("read", &self.path(key), e))?;
        Ok(bytes.into_bytes())
    }

    fn head(&self, key: &Key) -> Result<ObjectMeta> {
        loop {
            let (file, meta) = self.open(key)?;
            let attributes = self.attributes.read(key, &file, &meta)?;
            // Attributes that stand in a file of their own go away with a replaced object: look again if that happened.
            let again = fs::symlink_metadata(self.path(key));
            if attributes.is_none() && again.is_ok_and(|now| tag(&now) != tag(&meta)) {
                continue;
            }
            return Ok(describe(key.clone(), &meta, attributes.unwrap_or_default()));
        }
    }

    fn store(
        &self,
        key: &Key,
        body: &Payload,
        attributes: &Attributes,
        only_new: bool,
    ) -> Result<ObjectMeta> {
        self.admit(key, attributes)?;
        let temporary = self.workshop.start()?;
        body.check_sum(temporary.write(body.parts())?)?;
        self.publish(key, temporary, attributes, only_new)
    }

    fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let attributes = self.head(from)?.attributes;
        let (mut file, _) = self.open(from)?;
        let mut temporary = self.workshop.start()?;
        temporary.fill(&mut file)?;
        self.publish(to, temporary, &attributes, false)
    }

    fn admit(&self, key: &Key, attributes: &Attributes) -> Result<()> {
        attributes.check()?;
        if attributes.class == StorageClass::Standard { Ok(()) } else { Err(no_classes(&self.url(), key)) }
    }

    /// Steps 1 to 4 of the module's head, for a temporary file that has all its bytes.
    fn publish(
        &self,
        key: &Key,
        temporary: Temporary,
        attributes: &Attributes,
        only_new: bool,
    ) -> Result<ObjectMeta> {
        let path = self.path(key);
        let dir = path.parent().expect("the path of a key lies below the root").to_owned();
        let note = self.attributes.attach(key, &temporary, attributes)?;
        let meta = temporary.seal()?;
        for _ in 0..TRIES {
            match self.make_parents(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(self.clash(key)),
                other => other.map_err(|e| failed("make", &dir, e))?,
            }
            let replaced = fs::symlink_metadata(&path).ok();
            // Only now: the temporary file, too, may lie in another directory. If it does not, its name is not there either.
            self.refuse_another()?;
            let done = if only_new { temporary.link_to(&path) } else { temporary.rename_to(&path) };
            match done {
                Ok(()) => {
                    note.keep();
                    sync_dir_if_there(&dir)?;
                    if let Some(old) = replaced.filter(|old| tag(old) != tag(&meta)) {
                        self.attributes.forget(key, &old);
                    }
                    return Ok(describe(key.clone(), &meta, attributes.clone()));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(_) if replaced.as_ref().is_some_and(fs::Metadata::is_dir) => {
                    if !remove_empty(&path) {
                        return Err(self.clash(key));
                    }
                }
                Err(e)
                    if e.kind() == io::ErrorKind::AlreadyExists
                        && path.symlink_metadata().is_ok_and(|m| !m.is_dir()) =>
                {
                    // A caller who lost an answer will read this object back and call it its own, so it has to be
                    // as durable as if the first call had returned.
                    sync_dir_if_there(&dir)?;
                    return Err(taken(&self.url(), key));
                }
                Err(e) if is_crossing(&e) => continue,
                Err(e) => return Err(failed("name", &path, e)),
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{} keeps vanishing: check that {} is mounted", dir.display(), self.root.display()),
        ))
    }

    /// Makes the directories down to `dir`; those that this process has not synced into their parents yet, whoever
    /// made them, are synced now.
    fn make_parents(&self, dir: &Path) -> io::Result<()> {
        let below = dir.strip_prefix(&self.root).expect("only paths below the root are made");
        let mut at = self.root.clone();
        for part in below.components() {
            let parent = at.clone();
            at.push(part);
            match fs::create_dir(&at) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            let meta = fs::metadata(&at)?;
            if !meta.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            let identity = (meta.dev(), meta.ino(), meta.created().ok());
            if self.durable.lock().get(&at) != Some(&identity) {
                File::open(&parent)?.sync_all()?;
                let mut durable = self.durable.lock();
                if durable.len() >= DURABLE_KEPT {
                    durable.clear();
                }
                durable.insert(at.clone(), identity);
            }
        }
        Ok(())
    }

    fn clash(&self, key: &Key) -> Error {
        Error::invalid(format!(
            "{key} cannot be stored in {}: a directory holds either an object or longer names below it, not both; \
             use another name",
            self.url()
        ))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.refuse_another()?;
        let path = self.path(key);
        let dir = path.parent().expect("the path of a key lies below the root");
        let old = fs::symlink_metadata(&path).ok();
        if old.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if is_absence(&e) => self.refuse_another()?,
            Err(e) => return Err(failed("delete", &path, e)),
        }
        sync_dir_if_there(dir)?;
        if let Some(old) = old {
            self.attributes.forget(key, &old);
        }
        self.prune(dir);
        Ok(())
    }

    /// Removes directories that became empty. One that comes back after a power cut does no harm: nothing is synced.
    fn prune(&self, from: &Path) {
        let mut at = from.to_owned();
        while at != self.root && fs::remove_dir(&at).is_ok() {
            self.durable.lock().remove(&at);
            at.pop();
        }
    }
}

fn describe(key: Key, meta: &fs::Metadata, attributes: Attributes) -> ObjectMeta {
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    ObjectMeta {
        key,
        size: meta.len(),
        etag: tag(meta),
        modified: modified.map_or(0, |d| d.as_millis() as u64),
        attributes,
        access: Access::Ready,
    }
}

fn tag(meta: &fs::Metadata) -> String {
    format!("{:x}.{:x}-{:x}-{:x}", meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino())
}

/// Removes a tree of nothing but directories; `false` if there is anything else in it.
fn remove_empty(path: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) || !remove_empty(&entry.path()) {
                return false;
            }
        }
    }
    fs::remove_dir(path).is_ok()
}

fn sync_dir(dir: &Path) -> Result<()> {
    let file = File::open(dir).map_err(|e| failed("open", dir, e))?;
    file.sync_all().map_err(|e| unsynced(dir, e))
}

/// The same; a directory that another's delete emptied and removed meanwhile needs no sync.
fn sync_dir_if_there(dir: &Path) -> Result<()> {
    match sync_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A failed sync says nothing about which bytes survived: it is never repeated on the same file.
fn unsynced(path: &Path, e: io::Error) -> Error {
    let kind = if is_full(&e) { ErrorKind::NoSpace } else { ErrorKind::Internal };
    Error::caused(kind, format!("{} could not be synced: check the disk under it", path.display()), e)
}

fn is_absence(e: &io::Error) -> bool {
    let link = e.raw_os_error() == Some(Errno::LOOP.raw_os_error());
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || link
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a name that changes between file and directory under us answers: the next try sees it as it is.
fn is_crossing(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::AlreadyExists | K::IsADirectory | K::NotADirectory | K::DirectoryNotEmpty)
}

fn no_classes(url: &str, key: &Key) -> Error {
    Error::invalid(format!("{key}: {url} is a directory and has no storage classes: use the standard one"))
}

fn failed(act: &str, path: &Path, e: io::Error) -> Error {
    use io::ErrorKind as K;
    let (kind, advice) = match e.kind() {
        _ if is_full(&e) => (ErrorKind::NoSpace, "make room on that file system"),
        K::NotFound => (ErrorKind::NotFound, "check that it is there"),
        K::PermissionDenied => (ErrorKind::Denied, "give the gateway's user the right to it"),
        K::ReadOnlyFilesystem => (ErrorKind::Denied, "mount it writable"),
        K::InvalidFilename | K::InvalidInput => (ErrorKind::Invalid, "use a shorter or plainer name"),
        _ => (ErrorKind::Unavailable, "check the disk under it"),
    };
    Error::caused(kind, format!("cannot {act} {}: {advice}", path.display()), e)
}
