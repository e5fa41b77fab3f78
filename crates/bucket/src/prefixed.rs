use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base::Result;
use bytes::Bytes;

use crate::{Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};

/// The part of a bucket whose names begin with a prefix, shown without it.
#[derive(Debug)]
pub struct Prefixed {
    inner: Arc<dyn Bucket>,
    prefix: String,
}

impl Prefixed {
    /// The objects of `inner` below `prefix` (one `/` at its end is added or taken as given). `Invalid` if `prefix`
    /// cannot begin a name.
    pub fn new(inner: Arc<dyn Bucket>, prefix: &str) -> Result<Prefixed> {
        let prefix = prefix.trim_matches('/');
        Key::new(prefix).map_err(|e| e.within("a bucket prefix has to be a name, as in \"site1/disks\""))?;
        Ok(Prefixed { inner, prefix: format!("{prefix}/") })
    }

    fn inward(&self, key: &Key) -> Result<Key> {
        Key::new(format!("{}{key}", self.prefix))
    }

    /// `None` for a foreign name that is no [`Key`] once the prefix is gone.
    fn outward(&self, meta: ObjectMeta) -> Option<ObjectMeta> {
        let key = Key::new(meta.key.as_str().strip_prefix(&self.prefix)?).ok()?;
        Some(ObjectMeta { key, ..meta })
    }

    fn renamed(meta: ObjectMeta, key: &Key) -> ObjectMeta {
        ObjectMeta { key: key.clone(), ..meta }
    }
}

#[async_trait]
impl Bucket for Prefixed {
    fn url(&self) -> String {
        format!("{}/{}", self.inner.url().trim_end_matches('/'), self.prefix.trim_end_matches('/'))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        self.inner.get(&self.inward(key)?, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        Ok(Self::renamed(self.inner.head(&self.inward(key)?).await?, key))
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        Ok(Self::renamed(self.inner.create(&self.inward(key)?, body, attributes).await?, key))
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        Ok(Self::renamed(self.inner.put(&self.inward(key)?, body, attributes).await?, key))
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        let full = format!("{}{prefix}", self.prefix);
        let mut after = after.map(|k| self.inward(k)).transpose()?;
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let page = self.inner.list(&full, after.as_ref(), wanted).await?;
            let is_last = page.len() < wanted;
            after = page.last().map(|m| m.key.clone());
            found.extend(page.into_iter().filter_map(|m| self.outward(m)));
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        Ok(Self::renamed(self.inner.copy(&self.inward(from)?, &self.inward(to)?).await?, to))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(&self.inward(key)?).await
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        self.inner.set_class(&self.inward(key)?, class).await
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        self.inner.restore(&self.inward(key)?, days).await
    }
}
