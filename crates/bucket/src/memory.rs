use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, Error, Result, UnixMillis, checksum};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::object::{absent, archived, cut, taken};
use crate::{Access, Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};

/// A bucket in memory: the model of what a store does, and the store of simulations.
///
/// It does what it is told at once and in order, checks the CRC-64 of every body as Amazon does, and keeps archived
/// objects closed until they are restored. Nothing in it depends on chance or on the time of day.
pub struct Memory {
    name: String,
    clock: Option<Arc<dyn Clock>>,
    restore_time: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// How many changes there were: the next object's tag, and its time where there is no clock.
    changes: u64,
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    attributes: Attributes,
    tag: u64,
    modified: UnixMillis,
    readable: Option<Instant>,
}

impl Memory {
    /// An empty bucket; `modified` counts changes.
    pub fn new() -> Memory {
        Memory::named("")
    }

    /// An empty bucket whose URL is `mem:name`.
    pub fn named(name: &str) -> Memory {
        Memory { name: name.into(), clock: None, restore_time: Duration::ZERO, state: Mutex::default() }
    }

    /// Takes `modified` from `clock`.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Memory {
        Memory { clock: Some(clock), ..self }
    }

    /// Lets a restored object become readable only after `time`.
    pub fn with_restore_time(self, time: Duration) -> Memory {
        Memory { restore_time: time, ..self }
    }

    /// Another bucket with the same content, as it is now: what a disaster would leave.
    pub fn fork(&self) -> Memory {
        Memory {
            name: self.name.clone(),
            clock: self.clock.clone(),
            restore_time: self.restore_time,
            state: Mutex::new(self.state.lock().clone()),
        }
    }

    /// All names and bodies, in order.
    pub fn objects(&self) -> Vec<(Key, Bytes)> {
        let state = self.state.lock();
        state.objects.iter().map(|(k, o)| (stored_key(k), o.body.clone())).collect()
    }

    /// How many bytes all bodies have.
    pub fn bytes(&self) -> u64 {
        self.state.lock().objects.values().map(|o| o.body.len() as u64).sum()
    }

    /// One number for the whole content (names and bodies), to compare two runs.
    pub fn digest(&self) -> u64 {
        let state = self.state.lock();
        let lengths: Vec<_> = state
            .objects
            .iter()
            .map(|(k, o)| [(k.len() as u64).to_le_bytes(), (o.body.len() as u64).to_le_bytes()].concat())
            .collect();
        checksum::crc64_parts(
            state.objects.iter().zip(&lengths).flat_map(|((k, o), l)| [&l[..], k.as_bytes(), &o.body[..]]),
        )
    }

    /// Lets a byte rot: flips the bits of `mask` at `offset`. `false` if there is no such byte.
    pub fn corrupt(&self, key: &Key, offset: u64, mask: u8) -> bool {
        let mut state = self.state.lock();
        let Some(object) = state.objects.get_mut(key.as_str()) else { return false };
        let mut bytes = object.body.to_vec();
        let Some(byte) = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at)) else { return false };
        *byte ^= mask;
        object.body = bytes.into();
        true
    }

    /// Loses an object. `false` if it was not there.
    pub fn lose(&self, key: &Key) -> bool {
        self.state.lock().objects.remove(key.as_str()).is_some()
    }

    fn store(&self, key: &Key, body: Bytes, attributes: Attributes, only_new: bool) -> Result<ObjectMeta> {
        let mut state = self.state.lock();
        if only_new && state.objects.contains_key(key.as_str()) {
            return Err(taken(&self.url(), key));
        }
        state.changes += 1;
        let tag = state.changes;
        let modified = self.clock.as_ref().map_or(tag, |c| c.now());
        let object = Object { body, attributes, tag, modified, readable: None };
        let meta = object.meta(key.clone());
        state.objects.insert(key.as_str().to_owned(), object);
        Ok(meta)
    }

    fn find<T>(&self, key: &Key, look: impl FnOnce(&mut Object) -> Result<T>) -> Result<T> {
        match self.state.lock().objects.get_mut(key.as_str()) {
            Some(object) => look(object),
            None => Err(absent(&self.url(), key)),
        }
    }
}

fn stored_key(name: &str) -> Key {
    Key::new(name).expect("only checked names are stored")
}

impl Object {
    fn access(&self) -> Access {
        match (self.attributes.class, self.readable) {
            (StorageClass::Standard | StorageClass::Infrequent, _) => Access::Ready,
            (_, None) => Access::Archived,
            (_, Some(at)) if at > Instant::now() => Access::Restoring,
            (_, Some(_)) => Access::Restored(None),
        }
    }

    fn readable(&self) -> bool {
        matches!(self.access(), Access::Ready | Access::Restored(_))
    }

    fn meta(&self, key: Key) -> ObjectMeta {
        ObjectMeta {
            key,
            size: self.body.len() as u64,
            etag: format!("{:x}", self.tag),
            modified: self.modified,
            attributes: self.attributes.clone(),
            access: self.access(),
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({}, {} objects)", self.url(), self.state.lock().objects.len())
    }
}

#[async_trait]
impl Bucket for Memory {
    fn url(&self) -> String {
        format!("mem:{}", self.name)
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        self.find(key, |o| {
            if !o.readable() {
                return Err(archived(&self.url(), key));
            }
            match range {
                None => Ok(o.body.clone()),
                Some(r) => {
                    cut(key, r, o.body.len() as u64).map(|r| o.body.slice(r.start as usize..r.end as usize))
                }
            }
        })
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.find(key, |o| Ok(o.meta(key.clone())))
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        attributes.check()?;
        body.check()?;
        self.store(key, body.to_bytes(), attributes.clone(), true)
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        attributes.check()?;
        body.check()?;
        self.store(key, body.to_bytes(), attributes.clone(), false)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        let from = match after.map(Key::as_str) {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let state = self.state.lock();
        let found = state.objects.range::<str, _>((from, Bound::Unbounded));
        Ok(found
            .take_while(|(k, _)| k.starts_with(prefix))
            .take(limit)
            .map(|(k, o)| o.meta(stored_key(k)))
            .collect())
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let (body, attributes) = self.find(from, |o| {
            if o.readable() {
                Ok((o.body.clone(), o.attributes.clone()))
            } else {
                Err(archived(&self.url(), from))
            }
        })?;
        self.store(to, body, attributes, false)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let mut state = self.state.lock();
        state.changes += 1;
        state.objects.remove(key.as_str());
        Ok(())
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        self.find(key, |o| {
            if !o.readable() {
                return Err(archived(&self.url(), key));
            }
            o.attributes.class = class;
            o.readable = None;
            Ok(())
        })
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        if days == 0 {
            return Err(Error::invalid(format!("{key} cannot be restored for 0 days: ask for 1 at least")));
        }
        self.find(key, |o| match o.access() {
            Access::Ready => Err(Error::invalid(format!("{key} is not archived: read it as it is"))),
            Access::Archived => {
                o.readable = Some(Instant::now() + self.restore_time);
                Ok(())
            }
            Access::Restoring | Access::Restored(_) => Ok(()),
        })
    }
}
