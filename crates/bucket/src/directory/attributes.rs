//! Where content type and metadata of an object stand: in an extended attribute of its file, or, where the file system
//! has none, in a note `.tidegate/attributes/<name>/@<mtime>-<size>`, which a copy that keeps times (`cp -a`) carries along.

use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use super::temporary::{Temporary, Workshop};
use super::{failed, name, sync_dir, unsynced};
use crate::{Attributes, Key};

const XATTR: &str = "user.tidegate.attributes";

/// Larger than any [`Attributes`] that passed their check.
const LIMIT: usize = 8192;

/// How this bucket keeps attributes.
#[derive(Debug)]
pub struct AttributeStore {
    notes: PathBuf,
    extended: bool,
}

impl AttributeStore {
    /// Finds out whether the file system has extended attributes.
    pub fn open(own: &Path, workshop: &Workshop) -> Result<AttributeStore> {
        let trial = workshop.start()?;
        let extended = fsetxattr(trial.file(), XATTR, b"trial", XattrFlags::empty()).is_ok();
        let notes = own.join("attributes");
        if !extended {
            fs::create_dir_all(&notes).map_err(|e| failed("make", &notes, e))?;
            sync_dir(own)?;
        }
        Ok(AttributeStore { notes, extended })
    }

    /// Keeps notes though there are extended attributes.
    #[cfg(test)]
    pub fn use_notes(&mut self) {
        self.extended = false;
    }

    /// Writes `attributes` so that they appear together with the file, and are durable with it. The file has all its
    /// bytes already.
    pub fn attach(&self, key: &Key, file: &Temporary, attributes: &Attributes) -> Result<Note> {
        if !self.extended {
            return self.write_note(key, file.file(), &encode(attributes));
        }
        if *attributes != Attributes::default() {
            fsetxattr(file.file(), XATTR, &encode(attributes), XattrFlags::empty()).map_err(|e| {
                let kind = if matches!(e, Errno::NOSPC | Errno::DQUOT) {
                    ErrorKind::NoSpace
                } else {
                    ErrorKind::Invalid
                };
                Error::caused(
                    kind,
                    format!("{key}: the file system did not take its metadata: keep less of it"),
                    e,
                )
            })?;
        }
        Ok(Note { path: None })
    }

    /// The attributes of an open file; `None` if it has none.
    pub fn read(&self, key: &Key, file: &File, meta: &Metadata) -> Result<Option<Attributes>> {
        let mut buffer = vec![0; LIMIT];
        match fgetxattr(file, XATTR, &mut buffer[..]) {
            Ok(len) => return decode(&buffer[..len]).map(Some),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(failed("read the attributes of", Path::new(key.as_str()), e.into())),
        }
        let path = self.note_path(key, meta);
        match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map(Some),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(failed("read", &path, e)),
        }
    }

    /// Removes the note of an object that is gone, if it had one. One that stays does no harm.
    pub fn forget(&self, key: &Key, gone: &Metadata) {
        let path = self.note_path(key, gone);
        if fs::remove_file(&path).is_ok() {
            path.ancestors().skip(1).take_while(|p| *p != self.notes).all(|p| fs::remove_dir(p).is_ok());
        }
    }

    fn note_path(&self, key: &Key, meta: &Metadata) -> PathBuf {
        let stamp = format!("@{}.{:09}-{}", meta.mtime(), meta.mtime_nsec(), meta.len());
        self.notes.join(name::encode(key.as_str())).join(stamp)
    }

    /// Every object has a note here, and its time is moved on until the note's name is free: so no object ever finds
    /// the note of another that had its name before.
    fn write_note(&self, key: &Key, file: &File, bytes: &[u8]) -> Result<Note> {
        loop {
            let meta = file.metadata().map_err(|e| failed("look at", &self.notes, e))?;
            let path = self.note_path(key, &meta);
            let dir = path.parent().expect("a note lies in the notes' directory");
            fs::create_dir_all(dir).map_err(|e| failed("make", dir, e))?;
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut out) => {
                    let note = Note { path: Some(path.clone()) };
                    out.write_all(bytes).map_err(|e| failed("write", &path, e))?;
                    out.sync_all().map_err(|e| unsynced(&path, e))?;
                    for above in path.ancestors().skip(1).take_while(|p| p.starts_with(&self.notes)) {
                        sync_dir(above)?;
                    }
                    return Ok(note);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let next = meta.modified().map(|t| t + Duration::from_nanos(1));
                    next.and_then(|t| file.set_times(FileTimes::new().set_modified(t)))
                        .map_err(|e| failed("set the time of", &path, e))?;
                }
                // Another's delete took the directory away.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed("make", &path, e)),
            }
        }
    }
}

/// A note that goes away unless its object appears.
#[derive(Debug)]
pub struct Note {
    path: Option<PathBuf>,
}

impl Note {
    /// The object is there.
    pub fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // One that stays does no harm.
            drop(fs::remove_file(path));
        }
    }
}

/// Lines of `name: value`; the content type has the empty name.
fn encode(attributes: &Attributes) -> Vec<u8> {
    let kind = attributes.content_type.iter().map(|c| (String::new(), c.clone()));
    let all = kind.chain(attributes.metadata.clone());
    all.map(|(name, value)| format!("{name}: {value}\n")).collect::<String>().into_bytes()
}

/// The reverse of [`encode`]; `Corrupt` for anything it cannot have written.
pub fn decode(bytes: &[u8]) -> Result<Attributes> {
    let wrong =
        |what| Error::corrupt(format!("an object's attributes are damaged ({what}): store the object again"));
    let text = std::str::from_utf8(bytes).map_err(|e| wrong("no text").within(e.to_string()))?;
    let mut attributes = Attributes::default();
    for line in text.lines() {
        let (name, value) = line.split_once(": ").ok_or_else(|| wrong("a line without a name"))?;
        if name.is_empty() {
            attributes.content_type = Some(value.to_owned());
        } else {
            attributes.metadata.insert(name.to_owned(), value.to_owned());
        }
    }
    attributes.check().map_err(|e| wrong("not what is ever stored").within(e.to_string()))?;
    Ok(attributes)
}
