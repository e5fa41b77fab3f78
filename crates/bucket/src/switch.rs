//! A bucket that can be put in the place of another while it is in use.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base::Result;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::{Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};

/// A bucket behind which another one may come, as when the same store has a new address. A call under way ends where it began.
#[derive(Debug)]
pub struct Switch(RwLock<Arc<dyn Bucket>>);

impl Switch {
    /// Begins with this one.
    pub fn new(bucket: Arc<dyn Bucket>) -> Switch {
        Switch(RwLock::new(bucket))
    }

    /// Goes on with another one.
    pub fn set(&self, bucket: Arc<dyn Bucket>) {
        *self.0.write() = bucket;
    }

    /// What is behind it at the moment.
    pub fn now(&self) -> Arc<dyn Bucket> {
        self.0.read().clone()
    }
}

#[async_trait]
impl Bucket for Switch {
    fn url(&self) -> String {
        self.now().url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        self.now().get(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.now().head(key).await
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        self.now().create(key, body, attributes).await
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        self.now().put(key, body, attributes).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        self.now().list(prefix, after, limit).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        self.now().copy(from, to).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.now().delete(key).await
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        self.now().set_class(key, class).await
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        self.now().restore(key, days).await
    }
}
