//! Lists. Azure continues a list only from a marker of its own, so the marker that belongs to a page's last name is
//! kept for the caller who comes back with that name; a name without one is reached by reading the list up to it.

use std::collections::VecDeque;

use base::Result;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{Azure, access};
use crate::rest::answer;
use crate::{Attributes, Bucket, Key, ObjectMeta};

/// How many markers are kept.
const KEPT: usize = 64;

/// The largest page that Azure gives.
const PAGE: usize = 5000;

/// Prefix and last name of pages, with where the next begins.
#[derive(Debug, Default)]
pub struct Markers(Mutex<VecDeque<(String, String, String)>>);

impl Markers {
    fn find(&self, prefix: &str, after: &str) -> Option<String> {
        let kept = self.0.lock();
        kept.iter().find(|(p, a, _)| p == prefix && a == after).map(|(_, _, marker)| marker.clone())
    }

    fn keep(&self, prefix: &str, after: &str, marker: &str) {
        let mut kept = self.0.lock();
        kept.retain(|(p, a, _)| p != prefix || a != after);
        kept.push_front((prefix.to_owned(), after.to_owned(), marker.to_owned()));
        kept.truncate(KEPT);
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    blobs: Blobs,
    #[serde(default)]
    next_marker: String,
}

#[derive(Debug, Deserialize)]
struct Blobs {
    #[serde(rename = "Blob", default)]
    blob: Vec<Blob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    properties: Properties,
}

#[derive(Debug, Deserialize)]
struct Name {
    #[serde(rename = "@Encoded", default)]
    encoded: bool,
    #[serde(rename = "$text", default)]
    text: String,
}

#[derive(Debug, Deserialize)]
struct Properties {
    #[serde(rename = "Last-Modified", default)]
    modified: String,
    #[serde(rename = "Etag", default)]
    etag: String,
    #[serde(rename = "Content-Length", default)]
    size: u64,
    #[serde(rename = "AccessTier", default)]
    tier: String,
    #[serde(rename = "ArchiveStatus", default)]
    archive_status: String,
}

impl Blob {
    fn name(&self) -> String {
        match self.name.encoded {
            true => percent_decode_str(&self.name.text).decode_utf8_lossy().into_owned(),
            false => self.name.text.clone(),
        }
    }

    /// `None` for a foreign blob whose name is no [`Key`].
    fn meta(self, azure: &Azure) -> Option<ObjectMeta> {
        let class = azure.class(&self.properties.tier);
        let modified = chrono::DateTime::parse_from_rfc2822(&self.properties.modified);
        Some(ObjectMeta {
            key: Key::new(self.name()).ok()?,
            size: self.properties.size,
            etag: self.properties.etag.trim_matches('"').to_owned(),
            modified: modified.map_or(0, |d| d.timestamp_millis().max(0) as u64),
            attributes: Attributes { class, ..Attributes::default() },
            access: access(class, &self.properties.archive_status),
        })
    }
}

/// Whether bytes are a list of Azure's.
pub fn is_page(body: &[u8]) -> Result<()> {
    answer::parse::<Page>(body, "list").map(drop)
}

/// See [`Bucket::list`].
pub async fn list(azure: &Azure, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
    let mut last = after.map_or(String::new(), |k| k.as_str().to_owned());
    let mut marker = azure.markers.find(prefix, &last).unwrap_or_default();
    // Before a name that no marker belongs to, pages are read as large as they come.
    let mut skipping = marker.is_empty() && !last.is_empty();
    let mut previous = String::new();
    let mut found = Vec::new();
    while found.len() < limit {
        let size = if skipping { PAGE } else { (limit - found.len()).min(PAGE) }.to_string();
        let query = [
            ("restype", "container"),
            ("comp", "list"),
            ("prefix", prefix),
            ("maxresults", &size),
            ("marker", &marker),
        ];
        let query = if marker.is_empty() { &query[..4] } else { &query[..] };
        let answer = azure.accepted(Method::GET, None, query, HeaderMap::new(), &[]).await?;
        let page: Page = answer::parse(&answer.body, "list")?;
        for blob in page.blobs.blob {
            let name = blob.name();
            if name <= previous {
                return Err(answer::disorder(&azure.url(), &previous, &name));
            }
            previous.clone_from(&name);
            if name > last && found.len() < limit {
                skipping = false;
                last = name;
                found.extend(blob.meta(azure));
            }
        }
        marker = page.next_marker;
        if marker.is_empty() {
            break;
        }
        if last == previous {
            azure.markers.keep(prefix, &last, &marker);
        }
    }
    Ok(found)
}
