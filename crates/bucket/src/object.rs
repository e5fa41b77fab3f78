use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use base::{Error, Result, UnixMillis, checksum};
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
}

/// An object store's bucket, or a prefix of one.
///
/// Every method may fail with `Unavailable` (no answer, time-out, 5xx, throttled): then it is unknown whether it took
/// effect. `Denied` is final until an operator acts; `Corrupt` says that bytes were damaged on the way or in the store.
#[async_trait]
pub trait Bucket: Send + Sync + Debug {
    /// Where it is, for messages (`s3://backups/site1`); never a secret.
    fn url(&self) -> String;

    /// The bytes of `range` (all, if `None`). `NotFound` if absent; `Invalid` if the range begins behind the end; a
    /// range that ends behind the end is cut.
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
