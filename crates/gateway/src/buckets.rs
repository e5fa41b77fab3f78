//! Buckets come, move to another address, and go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, ErrorKind, ImageId, Result};
use bucket::Bucket;
use image::{Hold, Image, Severity};

use crate::catalog::{BucketRow, VolumeRow};
use crate::gateway::{Gateway, check_name};
use crate::leave::is_fenced;
use crate::view::{BucketView, ProbeView, VolumeView};

/// How long a volume may take to answer that it is held: what it does at a time on its cache disk takes less.
const ANSWERS: Duration = Duration::from_secs(20);

impl Gateway {
    /// Adds a bucket, after a probe that refuses a store on which data would not be safe. A directory is made.
    pub async fn add_bucket(&self, name: &str, url: &str) -> Result<ProbeView> {
        check_name("bucket", name)?;
        self.catalog.refuse_bucket_twice(name)?;
        refuse_fleeting(url)?;
        refuse_relative(url)?;
        let store = self.ground.open_store(url, true)?;
        bucket::greet(&*store).await?;
        self.admit_bucket(name, url, self.ground.patient(store)).await
    }

    /// Probes a bucket and adds it. Other changes do not wait for the probe: a store that does not answer takes long.
    pub(crate) async fn admit_bucket(
        &self,
        name: &str,
        url: &str,
        store: Arc<dyn Bucket>,
    ) -> Result<ProbeView> {
        let probe = self.ground.probe(name, &store).await?;
        let _one = self.changing.lock().await;
        let row = BucketRow { name: name.to_owned(), url: url.to_owned() };
        self.catalog.add_bucket(&row)?;
        self.ground.take_bucket(row, store);
        Ok(probe)
    }

    /// The buckets. What keeps a volume from its bucket is told of the bucket, too.
    pub fn buckets(&self) -> Vec<BucketView> {
        let volumes = self.volumes();
        let why = |volume: &VolumeView| match volume.state.as_str() {
            "open" | "releasing" => volume.trouble.clone(),
            // If it does not wait for its cache disk, it waits for its bucket.
            "opening" if self.ground.disks.get(&volume.disk).is_ok() => volume.reason.clone(),
            _ => None,
        };
        let trouble = |name: &str| {
            let mut inside = volumes.iter().filter(|volume| volume.bucket == name);
            inside.find_map(|volume| Some(format!("volume {}: {}", volume.name, why(volume)?)))
        };
        let mut buckets = self.ground.bucket_views();
        for bucket in &mut buckets {
            bucket.trouble = bucket.trouble.take().or_else(|| trouble(&bucket.name));
        }
        buckets
    }

    /// What volumes a bucket holds, of whatever gateway: their images, and the names they were created under.
    pub async fn images_in(&self, bucket: &str) -> Result<Vec<(ImageId, String)>> {
        let all = chain::list_images(&*self.ground.bucket(bucket)?).await?;
        Ok(all.into_iter().filter_map(|(image, record)| Some((image, record.ok()?.name))).collect())
    }

    /// Whether a bucket is known, and under this very URL.
    pub fn has_bucket_at(&self, name: &str, url: &str) -> bool {
        self.ground.url_of(name).is_some_and(|known| known == url)
    }

    /// Whether a bucket is known, and this URL means the same place, though it may say otherwise how to use it.
    pub fn has_bucket_in_place(&self, name: &str, url: &str) -> bool {
        self.ground.url_of(name).is_some_and(|known| bucket::is_same_place(&known, url))
    }

    /// Probes a bucket again.
    pub async fn probe_bucket(&self, name: &str) -> Result<ProbeView> {
        self.ground.probe(name, &self.ground.bucket(name)?).await
    }

    /// Forgets a bucket; what is in it stays there. `Denied` while volumes of this gateway are in it.
    pub async fn remove_bucket(self: &Arc<Self>, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.change("remove-bucket", |gateway| async move {
            gateway.ground.refuse_unknown_bucket(&name)?;
            let users: Vec<String> = gateway.users_of(&name).into_iter().map(|row| row.name).collect();
            if !users.is_empty() {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!(
                        "bucket {name:?} holds volumes of this gateway: {}; release or delete them first (if the bucket is lost for \
                         good, with `tidegate volume delete NAME --without-bucket`)",
                        users.join(", ")
                    ),
                ));
            }
            gateway.catalog.remove_bucket(&name)?;
            gateway.ground.forget_bucket(&name);
            Ok(())
        })
        .await
    }

    fn users_of(&self, bucket: &str) -> Vec<VolumeRow> {
        let volumes = self.volumes.lock();
        volumes.values().map(|task| task.row()).filter(|row| row.bucket == bucket).collect()
    }

    /// Gives a bucket another URL: the same store under a new address, or with other credentials. Open volumes go on there at once.
    /// `Denied` if it is another store.
    pub async fn change_bucket(self: &Arc<Self>, name: &str, url: &str) -> Result<ProbeView> {
        self.ground.refuse_unknown_bucket(name)?;
        refuse_fleeting(url)?;
        refuse_relative(url)?;
        let store = self.ground.open_store(url, false)?;
        bucket::greet(&*store).await?;
        let store = self.ground.patient(store);
        let probe = self.ground.probe(name, &store).await?;
        let row = BucketRow { name: name.to_owned(), url: url.to_owned() };
        self.change("change-bucket", |gateway| async move {
            gateway.ground.refuse_unknown_bucket(&row.name)?;
            // What opens meanwhile does so afterwards, at the new address.
            let moving = gateway.ground.begin_move(&row.name);
            // What only a wrong store at the old address has must not come to count by a look at the new one.
            let held = gateway.hold(&row.name).await?;
            gateway.refuse_another_store(&row.name, &store).await?;
            gateway.catalog.set_url(&row)?;
            let text = format!("bucket {} is at {} now", row.name, store.url());
            gateway.ground.take_bucket(row.clone(), store);
            drop((held, moving));
            gateway.ground.events.note(Severity::Info, text);
            gateway.open_missing(&row.name);
            Ok(())
        })
        .await?;
        Ok(probe)
    }

    /// Keeps the open volumes of a bucket from putting anything there, and from counting what they did. `Busy` if one does not
    /// answer.
    async fn hold(&self, bucket: &str) -> Result<Vec<Hold>> {
        let mut held = Vec::new();
        for row in self.users_of(bucket) {
            // One that was lost puts nothing more, though it may still be moving what it had into a fork.
            let Some(image) = self.image_of(&row.name).filter(|image| !is_fenced(image)) else { continue };
            match tokio::time::timeout(ANSWERS, image.hold()).await {
                Ok(Ok(hold)) => held.push(hold),
                // One that has ended puts nothing more.
                Ok(Err(_)) => {}
                Err(_) => {
                    let (volume, disk) = (&row.name, &row.disk);
                    let text = format!(
                        "volume {volume} does not answer, so it cannot be told that its bucket changes: see to cache disk {disk}, and \
                         try again"
                    );
                    return Err(Error::new(ErrorKind::Busy, text));
                }
            }
        }
        Ok(held)
    }

    fn image_of(&self, volume: &str) -> Option<Image> {
        self.volumes.lock().get(volume).and_then(|task| task.image())
    }

    /// Tries the volumes of a bucket again that were not found where it was. Others that refused stay so until somebody asks for them:
    /// another gateway that has one may only be at rest.
    pub(crate) fn open_missing(&self, bucket: &str) {
        let rows = self.catalog.volumes().unwrap_or_else(|e| {
            // The bucket is at its new address all the same.
            let text = format!(
                "volumes that were not found in bucket {bucket} before are not tried again: {e}; restart the gateway once that is settled"
            );
            self.ground.events.note(Severity::Warning, text);
            Vec::new()
        });
        let missing = |row: &VolumeRow| self.volume(&row.name).is_ok_and(|task| task.is_missing());
        for row in rows.into_iter().filter(|row| row.bucket == bucket && missing(row)) {
            self.open_by_itself(self.task(row));
        }
    }

    /// What is written to a store must be seen in the bucket as it is known. If that does not answer any more, or is another one by now, the
    /// store must hold each of its volumes, and not as they were at an earlier time, as in a copy.
    async fn refuse_another_store(&self, name: &str, store: &Arc<dyn Bucket>) -> Result<()> {
        let users = self.users_of(name);
        if let Ok(known) = self.ground.bucket(name) {
            match bucket::is_same_store(&*known, &**store, &*self.ground.seams.entropy).await {
                Ok(true) => return Ok(()),
                // It was moved, and another one lies in its old place.
                Ok(false) if has_none(&*known, &users).await => {
                    tracing::info!(
                        "bucket {name} is not where it was: there is another one without its volumes"
                    );
                }
                Ok(false) => {
                    return Err(another(
                        name,
                        "what was written there just now is not seen in the bucket as it is",
                    ));
                }
                // It is away: that may be why it is to be changed.
                Err(e) => tracing::info!("bucket {name} does not answer where it was: {e}"),
            }
        }
        for row in users {
            let volume = &row.name;
            let loaded = match chain::load(&**store, row.image).await {
                Ok(loaded) => loaded,
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(another(name, &format!("volume {volume} is not there")));
                }
                Err(e) => return Err(e.within(format!("looking for volume {volume} at {}", store.url()))),
            };
            let image = self.image_of(volume);
            let here = image.as_ref().map(Image::epoch);
            let disk = self.ground.disks.get(&row.disk).ok();
            let known = here.max(disk.and_then(|disk| disk.newest_recovered(row.image)));
            // What counts for an image that was opened, and be it that it has failed since, is nowhere else any more; and its newest
            // checkpoint takes the place of older ones.
            let lacks = image.map(|image| image.status()).is_some_and(|status| {
                loaded.chain.head.number < status.durable
                    || loaded.checkpoint.position.number < status.checkpoint
            });
            if lacks || loaded.last_owner.as_ref().map(|owner| owner.epoch) < known {
                return Err(another(name, &format!("volume {volume} is there as it was at an earlier time")));
            }
        }
        Ok(())
    }
}

/// Whether a bucket answers that it has nothing at all of these volumes, and there are some. Without their records it may still have
/// taken segments of those that are open, which are nowhere else.
async fn has_none(bucket: &dyn Bucket, volumes: &[VolumeRow]) -> bool {
    for row in volumes {
        match bucket.list(&chain::name::prefix(row.image), None, 1).await {
            Ok(found) if found.is_empty() => {}
            _ => return false,
        }
    }
    !volumes.is_empty()
}

fn another(name: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::Denied,
        format!(
            "this is not the store of bucket {name:?}: {why}; check the URL, prefix included, or add it as a bucket of its own with \
             `tidegate bucket add`"
        ),
    )
}

/// What is uploaded into memory is gone when the gateway ends, and then the journal does not have it either.
fn refuse_fleeting(url: &str) -> Result<()> {
    if !bucket::is_in_memory(url) {
        return Ok(());
    }
    Err(Error::invalid(
        "a bucket in memory loses all disks when the gateway ends: name a directory, as in \"dir:///srv/bucket\"",
    ))
}

/// A path that is relative would mean a place below the directory in which the gateway happens to run.
fn refuse_relative(url: &str) -> Result<()> {
    match bucket::directory_of(url) {
        Some(path) if !Path::new(path).is_absolute() => Err(Error::invalid(format!(
            "{url:?} is relative to nothing that is known here: write the whole path, as in \"dir:///srv/bucket\""
        ))),
        _ => Ok(()),
    }
}
