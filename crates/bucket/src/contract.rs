//! What every store has to do, as one suite of checks that runs against any [`Bucket`].
//!
//! It works below `tidegate-contract/<chance>/`, needs the rights of the product itself, and cleans up behind it.

mod content;
mod exclusive;
mod names;

use std::sync::Arc;

use base::{BoxFuture, Entropy, Error, ErrorKind, Result};
use bytes::Bytes;

use crate::{Attributes, Bucket, Key, Payload};

/// How thorough the suite is.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The size of the large body, in bytes: above two of the store's parts, so that it goes up in three.
    pub large: usize,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope { large: (40 << 20) + 12_345 }
    }
}

/// What the suite found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The checks that passed, in order.
    pub passed: Vec<&'static str>,
    /// What the store does not offer, and may not: check and reason.
    pub absent: Vec<(&'static str, String)>,
}

/// How a check ended that did not fail.
enum Outcome {
    Passed,
    Absent(String),
}

type Check = for<'a> fn(&'a Room) -> BoxFuture<'a, Result<Outcome>>;

/// One check's part of the bucket.
struct Room {
    bucket: Arc<dyn Bucket>,
    prefix: String,
    seed: u64,
    scope: Scope,
}

const CHECKS: [(&str, Check); 20] = [
    ("bodies of all sizes come back", |r| Box::pin(content::bodies(r))),
    ("ranges are cut at the end and refused behind it", |r| Box::pin(content::ranges(r))),
    ("put replaces and changes the tag", |r| Box::pin(content::replace(r))),
    ("attributes come back and are replaced with the object", |r| Box::pin(content::attributes(r))),
    ("copy keeps bytes and attributes", |r| Box::pin(content::copy(r))),
    ("absent objects are not found and deleted in peace", |r| Box::pin(content::absence(r))),
    ("a large body goes up whole", |r| Box::pin(content::large(r))),
    ("a damaged body is refused", |r| Box::pin(content::damaged(r))),
    ("many at once do not disturb each other", |r| Box::pin(content::concurrent(r))),
    ("storage classes", |r| Box::pin(content::classes(r))),
    ("archive and restore", |r| Box::pin(content::archive(r))),
    ("odd names are kept apart and listed as they are", |r| Box::pin(names::odd(r))),
    ("names with a backslash", |r| Box::pin(names::backslash(r))),
    ("lists are in byte order, paged and filtered", |r| Box::pin(names::listing(r))),
    ("lists show every change at once", |r| Box::pin(names::consistency(r))),
    ("an object below an object works or is refused", |r| Box::pin(names::nested(r))),
    ("create refuses a taken name", |r| Box::pin(exclusive::taken(r))),
    ("one of sixteen racing creators wins", |r| Box::pin(exclusive::race(r))),
    ("a large body is created once", |r| Box::pin(exclusive::large(r))),
    ("a deleted name is free again", |r| Box::pin(exclusive::again(r))),
];

/// Runs all checks; the first that fails ends it with an error that names it. `Unavailable` and `Denied` keep their kind,
/// anything else is `Invalid`: the store is not fit.
pub async fn run(bucket: &Arc<dyn Bucket>, entropy: &dyn Entropy, scope: Scope) -> Result<Report> {
    let top = format!("tidegate-contract/{:016x}/", entropy.next_u64());
    let mut report = Report::default();
    let mut failure = None;
    for (n, (name, check)) in CHECKS.iter().enumerate() {
        let prefix = format!("{top}{n}/");
        let room = Room { bucket: bucket.clone(), prefix, seed: entropy.next_u64(), scope: scope.clone() };
        match check(&room).await {
            Ok(Outcome::Passed) => report.passed.push(name),
            Ok(Outcome::Absent(why)) => report.absent.push((name, why)),
            Err(e) => {
                failure = Some(e.within(format!("{} fails the check that {name}", bucket.url())));
                break;
            }
        }
    }
    let cleaned = remove_all(bucket.as_ref(), &top).await;
    match failure {
        Some(e) => Err(e),
        None => cleaned.map(|()| report),
    }
}

/// Deletes everything below `prefix`.
pub(crate) async fn remove_all(bucket: &dyn Bucket, prefix: &str) -> Result<()> {
    loop {
        let page = bucket.list(prefix, None, 1000).await?;
        for object in &page {
            bucket.delete(&object.key).await?;
        }
        if page.len() < 1000 {
            return Ok(());
        }
    }
}

impl Room {
    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}{name}", self.prefix)).expect("the checks use proper names")
    }

    async fn create(&self, key: &Key, body: &[u8]) -> Result<crate::ObjectMeta> {
        self.bucket.create(key, &payload(body), &Attributes::default()).await
    }

    async fn put(&self, key: &Key, body: &[u8]) -> Result<crate::ObjectMeta> {
        self.bucket.put(key, &payload(body), &Attributes::default()).await
    }

    /// All names below this room and `prefix`, without the room's own.
    async fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let found = self.bucket.list(&format!("{}{prefix}", self.prefix), None, 10_000).await?;
        Ok(found.iter().map(|m| m.key.as_str()[self.prefix.len()..].to_owned()).collect())
    }

    /// Bytes that depend on the seed and cannot be compressed.
    fn bytes(&self, len: usize) -> Bytes {
        let mut bytes = vec![0; len];
        base::SeededEntropy::new(self.seed ^ len as u64).fill(&mut bytes);
        bytes.into()
    }
}

fn payload(body: &[u8]) -> Payload {
    Payload::from(Bytes::copy_from_slice(body))
}

/// Fails with `what` unless it is so.
fn must(so: bool, what: impl FnOnce() -> String) -> Result<()> {
    if so { Ok(()) } else { Err(Error::invalid(what())) }
}

/// Fails unless `result` is an error of `kind`.
fn must_fail<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Result<()> {
    match result {
        Err(e) if e.kind() == kind => Ok(()),
        Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Denied) => {
            Err(e.within(what.to_owned()))
        }
        Err(e) => Err(Error::invalid(format!("{what}: expected {}, got {e:?}", kind.as_str()))),
        Ok(_) => Err(Error::invalid(format!("{what}: expected {}, but it succeeded", kind.as_str()))),
    }
}
