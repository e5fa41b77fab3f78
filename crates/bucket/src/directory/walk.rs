//! Listing a tree in the byte order of full names.

use std::fs;
use std::path::Path;

use base::{ErrorKind, Result};

use super::{Shared, describe, failed, name};
use crate::{Attributes, Key, ObjectMeta};

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    found: Vec<ObjectMeta>,
}

/// Up to `limit` objects; see [`Bucket::list`](crate::Bucket::list).
pub fn list(shared: &Shared, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
    let mut walk = Walk { prefix, after: after.map_or("", Key::as_str), limit, found: Vec::new() };
    if limit > 0 {
        walk.descend(&shared.root, "")?;
    }
    shared.refuse_another()?;
    Ok(walk.found)
}

impl Walk<'_> {
    /// Lists the directory at `dir`, all of whose names begin with `above` (empty, or ending in `/`).
    fn descend(&mut self, dir: &Path, above: &str) -> Result<()> {
        let mut entries = match self.entries(dir, above) {
            // It was deleted while this walk went on.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        // A directory sorts as its name with the slash, which is how the names below it sort.
        entries.sort_unstable();
        for (full, file_name) in entries {
            if self.found.len() >= self.limit {
                break;
            }
            let path = dir.join(file_name);
            if full.ends_with('/') {
                self.descend(&path, &full)?;
            } else if let (Ok(key), Ok(meta)) = (Key::new(full), fs::symlink_metadata(&path)) {
                self.found.push(describe(key, &meta, Attributes::default()));
            }
        }
        Ok(())
    }

    /// Full name (directories with a slash behind) and file name of what may be or hold something wanted.
    fn entries(&self, dir: &Path, above: &str) -> Result<Vec<(String, String)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| failed("list", dir, e))? {
            let entry = entry.map_err(|e| failed("list", dir, e))?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let own = if above.is_empty() { name::decode_first(&file_name) } else { Some(file_name.clone()) };
            let Some(own) = own else { continue };
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(_) => continue, // deleted meanwhile
            };
            let full = format!("{above}{own}");
            if kind.is_file() && full.starts_with(self.prefix) && full.as_str() > self.after {
                entries.push((full, file_name));
            } else if kind.is_dir() {
                let full = format!("{full}/");
                let may_match = full.starts_with(self.prefix) || self.prefix.starts_with(&full);
                let may_follow = full.as_str() > self.after || self.after.starts_with(&full);
                if may_match && may_follow {
                    entries.push((full, file_name));
                }
            }
        }
        Ok(entries)
    }
}
