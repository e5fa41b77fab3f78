use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result, UnixMillis, checksum};
use bytes::{Bytes, BytesMut};

/// The name of an object inside a bucket: `/`-separated, no empty, `.` or `..` component, at most 900 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks and takes a name. `Invalid` if a store or a directory could not hold it.
    pub fn new(name: impl Into<String>) -> Result<Key> {
        let name = name.into();
        let fine = !name.is_empty()
            && name.len() <= 900
            && !name.bytes().any(|b| b < 0x20 || b == 0x7f)
            && name
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255);
        if fine { Ok(Key(name)) } else { Err(Error::invalid(format!("{name:?} cannot name an object"))) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A body to be stored, in one or more pieces, with the CRC-64/NVME of the whole.
#[derive(Debug, Clone)]
pub struct Payload {
    parts: Vec<Bytes>,
    len: u64,
    crc64: u64,
}

impl Payload {
    /// Takes the pieces and computes their sum.
    pub fn new(parts: Vec<Bytes>) -> Payload {
        let crc64 = checksum::crc64_parts(parts.iter().map(|p| &p[..]));
        Payload::with_crc(parts, crc64)
    }

    /// Takes the pieces with a sum that is known already.
    pub fn with_crc(parts: Vec<Bytes>, crc64: u64) -> Payload {
        let len = parts.iter().map(|p| p.len() as u64).sum();
        Payload { parts, len, crc64 }
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// CRC-64/NVME of the whole.
    pub fn crc64(&self) -> u64 {
        self.crc64
    }

    /// Computes the sum anew: `Corrupt` if the bytes are not those the sum was made of.
    pub fn check(&self) -> Result<()> {
        self.check_sum(checksum::crc64_parts(self.parts.iter().map(|p| &p[..])))
    }

    /// The same for a sum that somebody has made of the bytes while copying them.
    pub fn check_sum(&self, found: u64) -> Result<()> {
        if found == self.crc64 {
            Ok(())
        } else {
            Err(Error::corrupt(format!(
                "the body has CRC-64 {found:016x} where {:016x} was announced: it was damaged on the way, send it again",
                self.crc64
            )))
        }
    }

    /// Whether its bytes are exactly `other`.
    pub fn equals(&self, other: &[u8]) -> bool {
        let mut rest = other;
        self.len == other.len() as u64
            && self.parts.iter().all(|part| {
                let (head, tail) = rest.split_at(part.len());
                rest = tail;
                head == &part[..]
            })
    }

    /// The whole in one piece (copies unless there is one piece).
    pub fn to_bytes(&self) -> Bytes {
        match &self.parts[..] {
            [one] => one.clone(),
            parts => {
                let mut all = BytesMut::with_capacity(self.len as usize);
                parts.iter().for_each(|p| all.extend_from_slice(p));
                all.freeze()
            }
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::new(vec![bytes])
    }
}

/// Where a store keeps an object, in the words all stores share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StorageClass {
    /// The store's ordinary class.
    #[default]
    Standard,
    /// Cheaper to keep, dearer to read, readable at once (STANDARD_IA, IA, Cool, Nearline).
    Infrequent,
    /// Must be restored before it is read (GLACIER, Archive).
    Archive,
    /// The same, slower and cheaper (DEEP_ARCHIVE, ColdArchive).
    DeepArchive,
}

/// What goes with an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// The MIME type, if one is to be told.
    pub content_type: Option<String>,
    /// User metadata: lower-case ASCII names, printable ASCII values.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// The storage class.
    pub class: StorageClass,
}

/// The bytes of names and values that [`Attributes::metadata`] may hold in all: Amazon's limit, the smallest of the stores.
pub const METADATA_LIMIT: usize = 2048;

impl Attributes {
    /// `Invalid` unless every store can keep them: metadata names of lower-case letters, digits and `-`, beginning with
    /// a letter; values of printable ASCII without blanks at the ends; at most [`METADATA_LIMIT`] bytes in all.
    pub fn check(&self) -> Result<()> {
        let printable = |s: &str| s.bytes().all(|b| (0x20..0x7f).contains(&b)) && s.trim() == s;
        let name_fine = |n: &str| {
            n.starts_with(|c: char| c.is_ascii_lowercase())
                && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if let Some(kind) =
            self.content_type.as_deref().filter(|c| c.is_empty() || c.len() > 255 || !printable(c))
        {
            return Err(Error::invalid(format!(
                "{kind:?} is no content type: write one as in \"text/plain\""
            )));
        }
        if let Some((name, value)) = self.metadata.iter().find(|(n, v)| !name_fine(n) || !printable(v)) {
            return Err(Error::invalid(format!(
                "metadata {name:?}: {value:?} cannot be kept: use names of a-z, 0-9 and '-', and printable ASCII values"
            )));
        }
        let size: usize = self.metadata.iter().map(|(n, v)| n.len() + v.len()).sum();
        if size > METADATA_LIMIT {
            return Err(Error::invalid(format!(
                "{size} bytes of metadata are too many: stores keep {METADATA_LIMIT}"
            )));
        }
        Ok(())
    }
}

/// Whether an object's bytes can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// At once.
    #[default]
    Ready,
    /// Not before [`Bucket::restore`] was asked for and has finished.
    Archived,
    /// [`Bucket::restore`] was asked for and has not finished.
    Restoring,
    /// At once, until the copy that was restored expires (`None`: the store does not say when).
    Restored(Option<UnixMillis>),
}

/// What a store says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// The store's version tag, compared for equality only.
    pub etag: String,
    /// When it was stored last.
    pub modified: UnixMillis,
    /// What goes with it; listings may leave it at the default.
    pub attributes: Attributes,
    /// Whether it can be read now; listings may leave it at the default.
    pub access: Access,
}

/// What is left of `range` in an object of `size` bytes: `Invalid` if it is empty or begins at or behind the end.
pub(crate) fn cut(key: &Key, range: Range<u64>, size: u64) -> Result<Range<u64>> {
    if range.start < range.end && range.start < size {
        Ok(range.start..range.end.min(size))
    } else {
        Err(outside(key, &range, Some(size)))
    }
}

/// The error of a range that holds no byte of the object.
pub(crate) fn outside(key: &Key, range: &Range<u64>, size: Option<u64>) -> Error {
    let size = size.map_or("fewer".to_owned(), |s| s.to_string());
    Error::invalid(format!(
        "{key}: bytes {}..{} were asked of {size}: ask for a range inside",
        range.start, range.end
    ))
}

/// The error of an absent object.
pub(crate) fn absent(url: &str, key: &Key) -> Error {
    Error::new(ErrorKind::NotFound, format!("{url} has no object {key}"))
}

/// The error of a create-only request that came second.
pub(crate) fn taken(url: &str, key: &Key) -> Error {
    Error::new(ErrorKind::Exists, format!("{url} has an object {key} already"))
}

/// The error of reading an archived object.
pub(crate) fn archived(url: &str, key: &Key) -> Error {
    Error::invalid(format!("{key} in {url} is archived: restore it, wait until that is done, then read it"))
}

/// An object store's bucket, or a prefix of one.
///
/// Every method may fail with `Unavailable` (no answer, time-out, 5xx, throttled): then it is unknown whether it took
/// effect. `Denied` is final until an operator acts; `Corrupt` says that bytes were damaged on the way or in the store.
#[async_trait]
pub trait Bucket: Send + Sync + Debug {
    /// Where it is, for messages (`s3://backups/site1`); never a secret.
    fn url(&self) -> String;

    /// The bytes of `range` (all, if `None`). `NotFound` if absent; `Invalid` if the range is empty or begins at or
    /// behind the end, or if the object is archived; a range that ends behind the end is cut.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes>;

    /// What the store says about the object. `NotFound` if absent.
    async fn head(&self, key: &Key) -> Result<ObjectMeta>;

    /// Stores an object that must not exist yet; of several racing callers exactly one succeeds and the others get
    /// `Exists`. The body's CRC-64 is verified by the store where it can. Durable on return.
    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta>;

    /// Stores an object, replacing what is there. Bodies above the store's part size go up in parts, each with a
    /// CRC-64 of its own (C06). Durable on return.
    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta>;

    /// Up to `limit` objects whose names begin with `prefix`, in byte order of their names, behind `after`. Strongly
    /// consistent: what was stored before the call is in the answer. Fewer than `limit` means the end.
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>>;

    /// Copies inside the bucket. `NotFound` if the source is absent.
    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta>;

    /// Deletes; deleting what is absent succeeds.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Moves an object to another class, keeping bytes and metadata. `Invalid` where the store has no classes.
    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()>;

    /// Asks for an archived object to become readable for `days`. `Invalid` where the store has no such thing.
    async fn restore(&self, key: &Key, days: u32) -> Result<()>;
}
