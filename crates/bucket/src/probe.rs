//! Whether a store may be trusted, found out at start.

use std::sync::Arc;
use std::time::Duration;

use base::{Entropy, Error, ErrorKind, Result, SeededEntropy};
use bytes::Bytes;
use futures_util::future::join_all;

use crate::contract::remove_all;
use crate::{Attributes, Bucket, Key, Payload};

/// How long a first word may take to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a store that may be gone is asked whether it is another one.
const KNOWN_WITHIN: Duration = Duration::from_secs(4);

/// How many creators race for one name.
const RACERS: usize = 16;

/// What a store turned out to do. One that lacks what the product stands on gets an error instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The store.
    pub url: String,
    /// Whether bodies with a wrong CRC-64 were refused; where not, damage on the way up shows when it is read.
    pub verifies_uploads: bool,
    /// How long one small object took to be stored, in milliseconds.
    pub create_millis: u64,
}

/// Stores, reads, lists and deletes a few small objects below `tidegate-probe/`, and lets sixteen creators race for one
/// name. `Invalid` names the store and what it gets wrong; `Denied` says which right is missing; `Unavailable` that it
/// did not answer. Whatever it stored it deletes again.
pub async fn probe(bucket: &Arc<dyn Bucket>, entropy: &dyn Entropy) -> Result<ProbeReport> {
    let top = format!("tidegate-probe/{:016x}/", entropy.next_u64());
    let body = {
        let mut bytes = vec![0; 10_000];
        SeededEntropy::new(entropy.next_u64()).fill(&mut bytes);
        Bytes::from(bytes)
    };
    let trial = Trial { bucket: bucket.as_ref(), url: bucket.url(), top, body };
    let outcome = trial.run().await;
    let cleaned = remove_all(trial.bucket, &trial.top).await;
    let report = outcome?;
    cleaned.map_err(|e| trial.lacking("delete", e))?;
    Ok(report)
}

/// The first word with a store that nobody has used yet: one small call, tried once, so that missing credentials or an address where
/// nobody listens are told at once. For a store without retries around it.
pub async fn greet(bucket: &dyn Bucket) -> Result<()> {
    let said = tokio::time::timeout(PATIENCE, bucket.list("tidegate-probe/", None, 1)).await;
    let said = said.unwrap_or_else(|_elapsed| {
        let text = format!("no answer within {} s: check the address and the network", PATIENCE.as_secs());
        Err(Error::new(ErrorKind::Unavailable, text))
    });
    match said {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::Denied => Err(e.within(format!(
            "the credentials may not list objects below {}: grant that (docs/buckets.md lists the rights)",
            bucket.url()
        ))),
        Err(e) => Err(e.within(format!("{} cannot be reached", bucket.url()))),
    }
}

/// Whether two buckets are the same store: what is written to `other` is seen in `known`. What was written is deleted again.
pub async fn is_same_store(known: &dyn Bucket, other: &dyn Bucket, entropy: &dyn Entropy) -> Result<bool> {
    let key = Key::new(format!("tidegate-probe/{:016x}/same", entropy.next_u64()))?;
    let body = Payload::from(Bytes::from(entropy.next_u64().to_le_bytes().to_vec()));
    other.create(&key, &body, &Attributes::default()).await?;
    let seen = match tokio::time::timeout(KNOWN_WITHIN, known.get(&key, None)).await {
        Ok(Ok(bytes)) => Ok(body.equals(&bytes)),
        Ok(Err(e)) if e.kind() == ErrorKind::NotFound => Ok(false),
        Ok(Err(e)) => Err(e),
        Err(e) => Err(Error::caused(ErrorKind::Unavailable, format!("{} does not answer", known.url()), e)),
    };
    other.delete(&key).await?;
    seen
}

struct Trial<'a> {
    bucket: &'a dyn Bucket,
    url: String,
    top: String,
    body: Bytes,
}

impl Trial<'_> {
    async fn run(&self) -> Result<ProbeReport> {
        let start = tokio::time::Instant::now();
        let key = self.key("first");
        let stored =
            self.bucket.create(&key, &Payload::from(self.body.clone()), &Attributes::default()).await;
        stored.map_err(|e| self.lacking("write", e))?;
        let create_millis = start.elapsed().as_millis() as u64;
        self.reading(&key).await?;
        self.listing(&key).await?;
        self.exclusive(&key).await?;
        self.race().await?;
        let verifies_uploads = self.verifies().await?;
        self.deleting(&key).await?;
        Ok(ProbeReport { url: self.url.clone(), verifies_uploads, create_millis })
    }

    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}{name}", self.top)).expect("the probe uses proper names")
    }

    fn unfit(&self, why: &str) -> Error {
        Error::invalid(format!(
            "{} cannot be used: {why}; use another store (docs/buckets.md lists what was tried)",
            self.url
        ))
    }

    /// An error of the store's, with what it means here.
    fn lacking(&self, act: &str, e: Error) -> Error {
        let what = match e.kind() {
            ErrorKind::Denied => format!(
                "the credentials may not {act} objects below {}: grant that (docs/buckets.md lists the rights)",
                self.url
            ),
            _ => format!("{} failed its trial when told to {act} an object", self.url),
        };
        e.within(what)
    }

    async fn reading(&self, key: &Key) -> Result<()> {
        let lacking = |e| self.lacking("read", e);
        if self.bucket.get(key, None).await.map_err(lacking)? != self.body {
            return Err(self.unfit("it gave back other bytes than it was given"));
        }
        if self.bucket.get(key, Some(4096..8192)).await.map_err(lacking)? != self.body.slice(4096..8192) {
            return Err(self.unfit("it gave other bytes than the range it was asked for"));
        }
        if self.bucket.head(key).await.map_err(lacking)?.size != self.body.len() as u64 {
            return Err(self.unfit("it reports a wrong size"));
        }
        Ok(())
    }

    async fn listing(&self, key: &Key) -> Result<()> {
        // A store that keeps directories puts a/x before a-c.
        let names = ["list/b", "list/a/x", "list/a-c"];
        for name in names {
            let body = Payload::from(Bytes::from_static(b"x"));
            let stored = self.bucket.create(&self.key(name), &body, &Attributes::default()).await;
            stored.map_err(|e| self.lacking("write", e))?;
        }
        let lacking = |e| self.lacking("list", e);
        let found = self.bucket.list(&self.top, None, 100).await.map_err(lacking)?;
        let mut wanted: Vec<_> = names.iter().map(|n| self.key(n)).chain([key.clone()]).collect();
        wanted.sort();
        if !found.iter().map(|m| &m.key).eq(&wanted) {
            return Err(self.unfit("its lists are late or out of order"));
        }
        let found = self.bucket.list(&self.top, Some(&wanted[1]), 1).await.map_err(lacking)?;
        if !found.iter().map(|m| &m.key).eq(&wanted[2..3]) {
            return Err(self.unfit("its lists do not continue where they were asked to"));
        }
        Ok(())
    }

    async fn exclusive(&self, key: &Key) -> Result<()> {
        let other = Payload::from(Bytes::from_static(b"a second owner"));
        match self.bucket.create(key, &other, &Attributes::default()).await {
            Err(e) if e.kind() == ErrorKind::Exists => {}
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Denied) => {
                return Err(self.lacking("write", e));
            }
            Err(e) => {
                return Err(self
                    .unfit("it answers a create-only put of a taken name with another error")
                    .within(e.to_string()));
            }
            Ok(_) => {
                return Err(self.unfit(
                    "it overwrote an object that was to be created only if absent, so two gateways could own one volume \
                     (on OSS: switch versioning of the bucket off)",
                ));
            }
        }
        if self.bucket.get(key, None).await.map_err(|e| self.lacking("read", e))? != self.body {
            return Err(self.unfit("it refused a create-only put of a taken name, but changed the object"));
        }
        Ok(())
    }

    async fn race(&self) -> Result<()> {
        let key = self.key("race");
        let bodies: Vec<_> = (0..RACERS).map(|n| Bytes::from(format!("racer {n}"))).collect();
        let results = join_all(bodies.iter().map(async |body| {
            self.bucket.create(&key, &Payload::from(body.clone()), &Attributes::default()).await
        }))
        .await;
        let mut winners = Vec::new();
        for (body, result) in bodies.iter().zip(results) {
            match result {
                Ok(_) => winners.push(body),
                Err(e) if e.kind() == ErrorKind::Exists => {}
                Err(e) => return Err(self.lacking("write", e)),
            }
        }
        let stored = self.bucket.get(&key, None).await.map_err(|e| self.lacking("read", e))?;
        match &winners[..] {
            [winner] if **winner == stored => Ok(()),
            [_] => Err(self.unfit("the object of a create-only race is not the winner's")),
            _ => Err(self.unfit(&format!(
                "{} of {RACERS} creators that raced for one name were told that they won, so two gateways could own one volume",
                winners.len()
            ))),
        }
    }

    async fn verifies(&self) -> Result<bool> {
        let wrong =
            Payload::with_crc(vec![Bytes::from_static(b"not what was summed")], 0x0123_4567_89ab_cdef);
        match self.bucket.create(&self.key("damaged"), &wrong, &Attributes::default()).await {
            Ok(_) => Ok(false),
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(true),
            Err(e) => Err(self.lacking("write", e)),
        }
    }

    async fn deleting(&self, key: &Key) -> Result<()> {
        let lacking = |e| self.lacking("delete", e);
        self.bucket.delete(key).await.map_err(lacking)?;
        self.bucket.delete(key).await.map_err(lacking)?;
        match self.bucket.head(key).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if e.kind() == ErrorKind::Denied => {
                let what = "an absent object is answered as forbidden: grant the right to list too";
                return Err(self.lacking("list", e).within(what));
            }
            Err(e) => return Err(self.lacking("read", e)),
            Ok(_) => return Err(self.unfit("it shows a deleted object")),
        }
        if self.bucket.list(&self.top, None, 100).await.map_err(lacking)?.iter().any(|m| m.key == *key) {
            return Err(self.unfit("its lists show a deleted object"));
        }
        Ok(())
    }
}
