use std::sync::Arc;

use base::{Epoch, Error, ErrorKind, ImageId, Result};
use bucket::{Attributes, Bucket, Key, Payload};
use bytes::Bytes;

use crate::codec::check_len;
use crate::epoch::{EpochRecord, FenceRecord, ImageRecord};
use crate::name;
use crate::segment::{Header, Sealed};

/// Puts an object that only this caller can mean. If the name is taken, what is there decides: the same bytes are our own
/// earlier put whose answer was lost, anything else is somebody else's.
async fn put_once(bucket: &dyn Bucket, key: &Key, body: &Payload) -> Result<()> {
    match bucket.create(key, body, &Attributes::default()).await {
        Err(e) if e.kind() == ErrorKind::Exists => {
            let found = bucket.get(key, None).await?;
            if found == body.to_bytes() { Ok(()) } else { Err(e) }
        }
        other => other.map(drop),
    }
}

/// Creates an image: from now on it can be opened.
///
/// `Exists` if the id is taken by another image.
pub async fn create_image(bucket: &dyn Bucket, record: &ImageRecord) -> Result<()> {
    put_once(bucket, &name::image(record.image), &record.encode().into()).await
}

/// What an image is. `NotFound` if there is none of that id.
pub async fn read_image(bucket: &dyn Bucket, image: ImageId) -> Result<ImageRecord> {
    let key = name::image(image);
    let record = ImageRecord::decode(&bucket.get(&key, None).await?)
        .map_err(|e| e.within(format!("{key} at offset 0")))?;
    if record.image == image {
        Ok(record)
    } else {
        Err(Error::corrupt(format!(
            "{key} describes image {}: objects were moved between images",
            record.image
        )))
    }
}

/// How many names a listing asks for at a time: as many as stores give.
const PAGE: usize = 1000;

/// All images of a bucket, with what could not be read in place of their records. What others have there is passed over, and there may
/// be very much of it.
pub async fn list_images(bucket: &dyn Bucket) -> Result<Vec<(ImageId, Result<ImageRecord>)>> {
    let mut images = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = bucket.list("images/", after.as_ref(), PAGE).await?;
        if page.is_empty() {
            return Ok(images);
        }
        for found in page {
            // More of what was dealt with at its first name.
            if after.as_ref().is_some_and(|after| found.key <= *after) {
                continue;
            }
            if let Ok(image) = name::parse_image(&found.key) {
                images.push((image, read_image(bucket, image).await));
            }
            after = Some(name::behind_image(&found.key));
        }
    }
}

/// The right to add to an image's chain, until somebody takes the next epoch.
#[derive(Debug, Clone)]
pub struct Ownership {
    bucket: Arc<dyn Bucket>,
    image: ImageId,
    epoch: Epoch,
}

impl Ownership {
    /// Takes the epoch that `record` names. `Fenced` if another gateway was faster.
    pub async fn take(bucket: Arc<dyn Bucket>, record: &EpochRecord) -> Result<Ownership> {
        let key = name::epoch(record.image, record.epoch);
        put_once(&*bucket, &key, &record.encode().into()).await.map_err(|e| match e.kind() {
            ErrorKind::Exists => {
                Error::caused(ErrorKind::Fenced, format!("another gateway took {key} at the same moment"), e)
            }
            _ => e.within(format!("taking {key}")),
        })?;
        Ok(Ownership { bucket, image: record.image, epoch: record.epoch })
    }

    /// The epoch owned.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The bucket.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// Whether the image is still ours. A put counts only after a check that began after it succeeded.
    ///
    /// `Fenced` if not; `Unavailable` and others if it could not be found out.
    pub async fn check(&self) -> Result<()> {
        let key = name::epoch(self.image, self.epoch.next());
        match self.bucket.head(&key).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err(Error::fenced(format!("{key} exists: another gateway owns the image now"))),
        }
    }

    /// Puts a segment. `Corrupt` if its place holds other bytes, which nobody but this owner may write.
    pub async fn put_segment(&self, sealed: &Sealed) -> Result<()> {
        let key = name::segment(self.image, self.epoch, sealed.header.position.number);
        put_once(&*self.bucket, &key, &sealed.payload).await.map_err(|e| taken(e, &key))
    }

    /// Puts the first segment of this owner and what leads readers to it, then checks; on success the image may be served.
    pub async fn put_fence(&self, sealed: &Sealed) -> Result<()> {
        self.put_segment(sealed).await?;
        let Header { position, last_seq, .. } = sealed.header;
        let record = FenceRecord { image: self.image, position, last_seq };
        self.put_object(&name::fence(self.image, self.epoch), record.encode()).await?;
        self.check().await
    }

    /// Puts an object of a checkpoint (pages, or the root when all pages are there). `Invalid` if it is too large to be read back.
    pub async fn put_object(&self, key: &Key, body: Bytes) -> Result<()> {
        check_len(&body).map_err(|e| e.within(format!("put {key}")))?;
        put_once(&*self.bucket, key, &body.into()).await.map_err(|e| taken(e, key))
    }
}

fn taken(e: Error, key: &Key) -> Error {
    match e.kind() {
        ErrorKind::Exists => Error::caused(
            ErrorKind::Corrupt,
            format!("{key} holds other bytes than this owner wrote; something else writes into the bucket"),
            e,
        ),
        _ => e.within(format!("put {key}")),
    }
}
