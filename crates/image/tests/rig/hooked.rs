use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use base::Result;
use bucket::{Attributes, Bucket, Key, Memory, ObjectMeta, Payload, StorageClass};
use bytes::Bytes;

/// A call of a bucket that is about to be made.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    Get(&'a Key),
    Create(&'a Key, &'a Payload),
    List(&'a str),
    Delete(&'a Key),
    /// Any of the others, none of which an image makes but `head`.
    Other(&'a Key),
}

/// What comes before each call: it may look, wait, or fail the call.
#[async_trait::async_trait]
pub trait Hook: Debug + Send + Sync {
    async fn before(&self, call: Call<'_>) -> Result<()>;
}

/// A bucket in memory with a hook before it.
#[derive(Debug)]
pub struct Hooked<H> {
    pub inner: Arc<Memory>,
    pub hook: H,
}

impl<H: Hook> Hooked<H> {
    pub fn new(hook: H) -> Arc<Hooked<H>> {
        Hooked::before(Arc::new(Memory::new()), hook)
    }

    pub fn before(inner: Arc<Memory>, hook: H) -> Arc<Hooked<H>> {
        Arc::new(Hooked { inner, hook })
    }
}

#[async_trait::async_trait]
impl<H: Hook> Bucket for Hooked<H> {
    fn url(&self) -> String {
        self.inner.url()
    }
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        self.hook.before(Call::Get(key)).await?;
        self.inner.get(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.hook.before(Call::Other(key)).await?;
        self.inner.head(key).await
    }
    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        self.hook.before(Call::Create(key, body)).await?;
        self.inner.create(key, body, attributes).await
    }
    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        self.hook.before(Call::Other(key)).await?;
        self.inner.put(key, body, attributes).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        self.hook.before(Call::List(prefix)).await?;
        self.inner.list(prefix, after, limit).await
    }
    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        self.hook.before(Call::Other(to)).await?;
        self.inner.copy(from, to).await
    }
    async fn delete(&self, key: &Key) -> Result<()> {
        self.hook.before(Call::Delete(key)).await?;
        self.inner.delete(key).await
    }
    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        self.hook.before(Call::Other(key)).await?;
        self.inner.set_class(key, class).await
    }
    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        self.hook.before(Call::Other(key)).await?;
        self.inner.restore(key, days).await
    }
}
