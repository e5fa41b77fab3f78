//! What stores answer: errors, lists, upload ids. Everything here survives any bytes.

use std::ops::Range;

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::object::{absent, archived, outside, taken};
use crate::transport::Answer;
use crate::{Access, Attributes, Key, ObjectMeta, StorageClass};

#[derive(Debug, Deserialize)]
#[serde(rename = "Error", rename_all = "PascalCase")]
struct Failure {
    code: String,
    #[serde(default)]
    message: String,
}

fn failure(body: &[u8]) -> Option<Failure> {
    let text = std::str::from_utf8(body).ok()?;
    let root = text.trim_start_matches('\u{feff}').trim_start();
    let root = root
        .strip_prefix("<?xml")
        .and_then(|r| r.split_once("?>"))
        .map_or(root, |(_, rest)| rest.trim_start());
    if root.starts_with("<Error") { quick_xml::de::from_str(root).ok() } else { None }
}

/// The code of an error document.
pub fn code(body: &[u8]) -> Option<String> {
    failure(body).map(|f| f.code)
}

/// What an answer that is no success means.
pub fn error(url: &str, key: Option<&Key>, answer: &Answer) -> Error {
    let failure = failure(&answer.body);
    // Azure, and answers without a body, tell the code in a header.
    let header = answer.headers.get("x-ms-error-code").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let code = failure.as_ref().map(|f| f.code.clone()).or(header).unwrap_or_default();
    let message = failure.map_or(String::new(), |f| f.message);
    let status = answer.status;
    let said = [status.as_str(), code.as_str(), &message].into_iter().filter(|s| !s.is_empty());
    let said = said.collect::<Vec<_>>().join(" ");
    let about = key.map_or(url.to_owned(), |k| format!("{url}, {k}"));
    let fault = |kind, advice: &str| Error::new(kind, format!("{about}: {said}: {advice}"));
    match (kind(status, &code), key) {
        (Meaning::Absent, Some(key)) => absent(url, key),
        (Meaning::Taken, Some(key)) => taken(url, key),
        (Meaning::Archived, Some(key)) => archived(url, key),
        (Meaning::Absent, None) => fault(ErrorKind::Invalid, "create the bucket, or correct its name"),
        (Meaning::NoBucket, _) => fault(ErrorKind::Invalid, "create the bucket, or correct its name"),
        (Meaning::Damaged, _) => fault(ErrorKind::Corrupt, "the body was damaged on the way, send it again"),
        (Meaning::Full, _) => fault(ErrorKind::NoSpace, "make room in the store or raise its quota"),
        (Meaning::Elsewhere, _) => {
            let region = answer
                .headers
                .get("x-amz-bucket-region")
                .and_then(|v| v.to_str().ok())
                .unwrap_or("another one");
            fault(
                ErrorKind::Invalid,
                &format!("the bucket is in region {region}: give that region and its endpoint"),
            )
        }
        (Meaning::Skewed, _) => fault(ErrorKind::Denied, "this machine's clock is wrong: set it by NTP"),
        (Meaning::Denied, _) => fault(ErrorKind::Denied, "check the credentials and what they may do"),
        (Meaning::Later, _) => fault(ErrorKind::Unavailable, "try again"),
        (Meaning::Wrong | Meaning::Taken | Meaning::Archived, _) => {
            fault(ErrorKind::Invalid, "the store does not take this request")
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Absent,
    NoBucket,
    Taken,
    Archived,
    Damaged,
    Full,
    Elsewhere,
    Skewed,
    Denied,
    Later,
    Wrong,
}

fn kind(status: StatusCode, code: &str) -> Meaning {
    match code {
        "NoSuchKey" | "BlobNotFound" | "SymlinkTargetNotExist" => return Meaning::Absent,
        "NoSuchBucket" | "ContainerNotFound" => return Meaning::NoBucket,
        "PreconditionFailed" | "FileAlreadyExists" | "BlobAlreadyExists" => return Meaning::Taken,
        "InvalidObjectState" | "BlobArchived" | "BlobBeingRehydrated" => return Meaning::Archived,
        "BadDigest" | "XAmzContentChecksumMismatch" | "InvalidDigest" | "Crc64Mismatch" | "Md5Mismatch" => {
            return Meaning::Damaged;
        }
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientAccountPermissions.Quota" => {
            return Meaning::Full;
        }
        "RequestTimeTooSkewed" => return Meaning::Skewed,
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "TemporaryRedirect" => {
            return Meaning::Elsewhere;
        }
        "RequestTimeout"
        | "IncompleteBody"
        | "SlowDown"
        | "ServerBusy"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "OperationTimedOut" => return Meaning::Later,
        _ => {}
    }
    match status.as_u16() {
        404 => Meaning::Absent,
        412 => Meaning::Taken,
        401 | 403 => Meaning::Denied,
        408 | 409 | 425 | 429 => Meaning::Later,
        507 => Meaning::Full,
        501 | 505 => Meaning::Wrong,
        500..=599 => Meaning::Later,
        300..=399 => Meaning::Elsewhere,
        _ => Meaning::Wrong,
    }
}

/// An error document that came with a success, as copies and completed uploads may bring.
pub fn refuse_hidden_error(url: &str, key: &Key, answer: &Answer) -> Result<()> {
    match failure(&answer.body) {
        None => Ok(()),
        Some(_) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let hidden = Answer { status, headers: answer.headers.clone(), body: answer.body.clone() };
            Err(error(url, Some(key), &hidden))
        }
    }
}

/// The bytes of a range from an answer to it; from the whole object, where the store took no notice of the range.
pub fn cut_range(key: &Key, range: &Range<u64>, answer: Answer) -> Result<Bytes> {
    let len = answer.body.len() as u64;
    if answer.status != StatusCode::PARTIAL_CONTENT {
        return crate::object::cut(key, range.clone(), len)
            .map(|r| answer.body.slice(r.start as usize..r.end as usize));
    }
    let shown = answer.headers.get(http::header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let begins =
        shown.strip_prefix("bytes ").and_then(|s| s.split_once('-')).and_then(|(b, _)| b.trim().parse().ok());
    let wanted = range.end - range.start;
    if len == 0 {
        return Err(outside(key, range, None));
    }
    let total = shown.rsplit_once('/').and_then(|(_, t)| t.parse::<u64>().ok());
    let whole = len == wanted || total.is_some_and(|t| range.start + len == t && len < wanted);
    if begins != Some(range.start) || !whole {
        let what = format!("{key}: bytes {range:?} were asked and {len} bytes of {shown:?} came: try again");
        return Err(Error::new(ErrorKind::Unavailable, what));
    }
    Ok(answer.body)
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// What it lists.
    pub entries: Vec<Entry>,
    /// Where the next begins, if there is one.
    pub next: Option<String>,
}

/// One object of a list.
#[derive(Debug)]
pub struct Entry {
    /// Its name, which need not be a [`Key`].
    pub name: String,
    /// The store's name of its class.
    pub class: String,
    size: u64,
    etag: String,
    modified: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawPage {
    #[serde(default)]
    contents: Vec<RawEntry>,
    #[serde(default)]
    is_truncated: String,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEntry {
    key: String,
    size: String,
    #[serde(rename = "ETag", default)]
    etag: String,
    #[serde(default)]
    last_modified: String,
    #[serde(default)]
    storage_class: String,
}

impl Page {
    /// Reads a ListObjectsV2 answer. `Unavailable` if it is none.
    pub fn decode(body: &[u8]) -> Result<Page> {
        let raw: RawPage = parse(body, "list")?;
        let encoded = raw.encoding_type.as_deref() == Some("url");
        let entries = raw.contents.into_iter().map(|e| {
            let name = if encoded { decode_name(&e.key)? } else { e.key };
            let size = e.size.trim().parse().map_err(|e| unreadable("list", e))?;
            let modified = chrono::DateTime::parse_from_rfc3339(e.last_modified.trim())
                .map_or(0, |d| d.timestamp_millis().max(0) as u64);
            let etag = e.etag.trim_matches('"').to_owned();
            Ok(Entry { name, class: e.storage_class, size, etag, modified })
        });
        let entries = entries.collect::<Result<Vec<_>>>()?;
        let next = raw.next_continuation_token.filter(|_| raw.is_truncated.trim() == "true");
        if raw.is_truncated.trim() == "true" && next.is_none() {
            return Err(unreadable("list", "it goes on, but does not say where"));
        }
        Ok(Page { entries, next })
    }
}

impl Entry {
    /// An object of which nothing is known but its name.
    #[cfg(test)]
    pub fn named(name: &str) -> Entry {
        Entry { name: name.into(), class: String::new(), size: 0, etag: String::new(), modified: 0 }
    }

    /// `None` for a foreign object whose name is no [`Key`] (`folder/`).
    pub fn meta(self, class: StorageClass, access: Access) -> Option<ObjectMeta> {
        let key = Key::new(self.name).ok()?;
        let attributes = Attributes { class, ..Attributes::default() };
        Some(ObjectMeta {
            key,
            size: self.size,
            etag: self.etag,
            modified: self.modified,
            attributes,
            access,
        })
    }
}

/// The error of a store whose lists are not in byte order.
pub fn disorder(url: &str, first: &str, second: &str) -> Error {
    Error::invalid(format!(
        "{url} lists {first:?} before {second:?}: it does not list in byte order and cannot be used; \
         use a general-purpose bucket"
    ))
}

/// The id of an upload that began.
pub fn upload_id(body: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Begun {
        upload_id: String,
    }
    parse::<Begun>(body, "begun upload").map(|b| b.upload_id)
}

/// The tag of an upload that was completed.
pub fn etag(body: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Completed {
        #[serde(rename = "ETag")]
        etag: String,
    }
    parse::<Completed>(body, "completed upload").map(|c| c.etag)
}

/// Reads an XML document of the store's.
pub fn parse<T: serde::de::DeserializeOwned>(body: &[u8], what: &str) -> Result<T> {
    let text = std::str::from_utf8(body).map_err(|e| unreadable(what, e))?;
    quick_xml::de::from_str(text).map_err(|e| unreadable(what, e))
}

fn unreadable(what: &str, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::caused(
        ErrorKind::Unavailable,
        format!("the store's answer is no {what}: try again, or check the endpoint"),
        e,
    )
}

/// Names in lists are encoded as in a form: `+` is a blank.
fn decode_name(text: &str) -> Result<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|s| s.into_owned())
        .map_err(|e| unreadable("list of names", e))
}
