//! Local segments: the second home of acknowledged writes that cannot go to their bucket yet.
//!
//! Each image has a directory of immutable files, whole and durable or absent. What is in a file is the image layer's
//! business (sealed segments, which carry their own checksums); the spool keeps names, order and account.
//!
//! ```text
//! spool/<image id, 32 hex digits>/<name>
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use base::{Error, ErrorKind, ImageId, Result};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

const DIR: &str = "spool";
const UNFINISHED: &str = ".tmp";
/// How many files are kept open for reading.
const OPEN_FILES: usize = 64;

/// A file in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// The local segments of all images on one disk.
#[derive(Debug)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<ImageId, BTreeMap<String, u64>>,
    bytes: u64,
    /// Names being put or removed.
    busy: BTreeSet<(ImageId, String)>,
    /// Open files, the one used last at the back.
    open: VecDeque<(ImageId, String, Arc<dyn DiskFile>)>,
}

/// Keeps a name from being used twice at a time.
struct Claim<'a> {
    spool: &'a Spool,
    key: (ImageId, String),
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.spool.state.lock().busy.remove(&self.key);
    }
}

fn dir(owner: ImageId) -> String {
    format!("{DIR}/{owner}")
}

fn path(owner: ImageId, name: &str) -> String {
    format!("{DIR}/{owner}/{name}")
}

fn check_name(name: &str) -> Result<()> {
    let good = (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with('.')
        && !name.ends_with(UNFINISHED);
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name:?} is no name for a local segment: use up to 128 letters, digits, \".\", \"_\" and \"-\""
    )))
}

impl Spool {
    /// Finds what is there and removes what was being written when the gateway stopped.
    pub async fn open(disk: Arc<dyn Disk>) -> Result<Spool> {
        let mut state = State::default();
        for owner in disk.list_dirs(DIR).await? {
            let Ok(id) = owner.parse::<ImageId>() else { continue };
            for (name, len) in disk.list(&dir(id)).await? {
                if name.ends_with(UNFINISHED) {
                    disk.remove(&path(id, &name)).await?;
                } else if check_name(&name).is_ok() {
                    state.files.entry(id).or_default().insert(name, len);
                    state.bytes += len;
                }
            }
        }
        Ok(Spool { disk, state: Mutex::new(state) })
    }

    fn claim(&self, owner: ImageId, name: &str) -> Result<Claim<'_>> {
        let key = (owner, name.to_owned());
        if !self.state.lock().busy.insert(key.clone()) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("local segment {} is being written or removed: try again", path(owner, name)),
            ));
        }
        Ok(Claim { spool: self, key })
    }

    /// Puts a file; it is durable, name included, when this returns. `Exists` if the name is taken, `NoSpace` if the disk
    /// is full (nothing is left behind then). It waits for the disk on the calling thread: call it from the background.
    pub async fn put(&self, owner: ImageId, name: &str, parts: &[Bytes]) -> Result<()> {
        check_name(name)?;
        let _claim = self.claim(owner, name)?;
        let target = path(owner, name);
        if self.state.lock().files.get(&owner).is_some_and(|f| f.contains_key(name)) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("local segment {target} exists: it is never replaced"),
            ));
        }
        let unfinished = format!("{target}{UNFINISHED}");
        if let Err(e) = self.write(&unfinished, &target, parts).await {
            // If this fails too, the leftover goes at the next start.
            let _ = self.disk.remove(&unfinished).await;
            return Err(e.within(format!("put local segment {target} on {}", self.disk.place())));
        }
        let len = parts.iter().map(|p| p.len() as u64).sum();
        let mut state = self.state.lock();
        state.files.entry(owner).or_default().insert(name.to_owned(), len);
        state.bytes += len;
        Ok(())
    }

    async fn write(&self, unfinished: &str, target: &str, parts: &[Bytes]) -> Result<()> {
        self.disk.remove(unfinished).await?;
        let file = self.disk.create(unfinished, 0).await?;
        file.write(0, parts).await?;
        file.sync().await?;
        self.disk.rename(unfinished, target).await
    }

    /// A range of a file's bytes. `NotFound` if there is no such file, `Invalid` if the range passes its end.
    pub async fn get(&self, owner: ImageId, name: &str, range: Range<u64>) -> Result<Bytes> {
        check_name(name)?;
        let target = path(owner, name);
        let len = self.state.lock().files.get(&owner).and_then(|f| f.get(name)).copied();
        let len = len
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no local segment {target}")))?;
        if range.start > range.end || range.end > len {
            return Err(Error::invalid(format!(
                "bytes {range:?} of local segment {target}: it has {len} bytes"
            )));
        }
        let file = match self.take_open(owner, name) {
            Some(file) => file,
            None => self.disk.open(&target).await?,
        };
        let bytes = file.read(range.start, (range.end - range.start) as usize).await;
        self.keep_open(owner, name, file);
        bytes
    }

    fn take_open(&self, owner: ImageId, name: &str) -> Option<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        state.open.iter().find(|(o, n, _)| *o == owner && n == name).map(|(_, _, f)| f.clone())
    }

    fn keep_open(&self, owner: ImageId, name: &str, file: Arc<dyn DiskFile>) {
        let mut state = self.state.lock();
        let known = state.files.get(&owner).is_some_and(|f| f.contains_key(name));
        state.open.retain(|(o, n, _)| *o != owner || n != name);
        if known {
            state.open.push_back((owner, name.to_owned(), file));
        }
        if state.open.len() > OPEN_FILES {
            state.open.pop_front();
        }
    }

    /// An owner's files in byte order of their names.
    pub fn list(&self, owner: ImageId) -> Vec<SpoolFile> {
        let state = self.state.lock();
        let files = state.files.get(&owner).into_iter().flatten();
        files.map(|(name, len)| SpoolFile { name: name.clone(), len: *len }).collect()
    }

    /// Removes a file, durably. Removing what is absent succeeds.
    pub async fn remove(&self, owner: ImageId, name: &str) -> Result<()> {
        check_name(name)?;
        let _claim = self.claim(owner, name)?;
        self.disk.remove(&path(owner, name)).await?;
        let mut state = self.state.lock();
        let State { files, bytes, open, .. } = &mut *state;
        if let Some(of_owner) = files.get_mut(&owner) {
            *bytes -= of_owner.remove(name).unwrap_or(0);
            if of_owner.is_empty() {
                files.remove(&owner);
            }
        }
        open.retain(|(o, n, _)| *o != owner || n != name);
        Ok(())
    }

    /// The images that have files here.
    pub fn owners(&self) -> Vec<ImageId> {
        self.state.lock().files.keys().copied().collect()
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// The bytes of one image's files.
    pub fn bytes_of(&self, owner: ImageId) -> u64 {
        self.state.lock().files.get(&owner).map_or(0, |f| f.values().sum())
    }
}

#[cfg(test)]
mod tests;
