//! Forks: what this gateway had acknowledged when another took a volume over.

use std::sync::Arc;
use std::time::Duration;

use base::{Epoch, Error, ErrorKind, ImageId, Result};
use bucket::Bucket;

use crate::catalog::VolumeRow;
use crate::disk::CacheDisk;
use crate::gateway::{Gateway, check_name};
use crate::target::Access;
use crate::view::{ForkView, VolumeView};
use crate::volume::VolumeTask;

/// A fork to be made a volume.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFork {
    /// The new volume's name.
    pub name: String,
    /// Who may use it.
    #[serde(default)]
    pub access: Access,
}

/// A fork and where it is.
struct Found {
    name: String,
    fork: image::Fork,
    disk_name: String,
    disk: Arc<CacheDisk>,
    /// The bucket of the volume, if the volume is still known here.
    bucket: Option<String>,
}

/// How long a command about a fork waits for it to be whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

impl Gateway {
    /// All forks on this gateway's disks, and what journals keep of volumes that it does not have.
    pub fn forks(&self) -> Vec<ForkView> {
        let view = |found: Found| ForkView {
            name: found.name,
            image: found.fork.image.to_string(),
            disk: found.disk_name,
            size: found.fork.size.0,
        };
        let mut forks: Vec<ForkView> = self.found_forks().into_iter().map(view).collect();
        forks.extend(self.leftovers().into_iter().map(|leftover| leftover.view()));
        forks
    }

    /// The forks of one image.
    pub(crate) fn forks_of(&self, image: ImageId) -> Vec<ForkView> {
        let image = image.to_string();
        self.forks().into_iter().filter(|fork| fork.image == image).collect()
    }

    fn found_forks(&self) -> Vec<Found> {
        let volumes = self.volumes.lock();
        let mut found = Vec::new();
        for (disk_name, disk) in &self.ground.disks.working() {
            for image in disk.spool.owners() {
                let task = volumes.values().find(|task| task.image_id() == image);
                // Of a volume that is not open yet it is not known what will go on and what is a fork.
                if task.is_some_and(|task| task.image().is_none() && !task.is_refused()) {
                    continue;
                }
                let name = task.map_or_else(|| image.to_string(), |task| task.row().name);
                let current = task.and_then(|task| task.image()).and_then(|image| image.run_start());
                for fork in image::forks(&disk.spool, image, current.unwrap_or(Epoch(u64::MAX))) {
                    found.push(Found {
                        name: format!("{name}@lost-{}", fork.epoch),
                        fork,
                        disk_name: disk_name.clone(),
                        disk: disk.clone(),
                        bucket: task.map(|task| task.row().bucket),
                    });
                }
            }
        }
        found
    }

    fn find_fork(&self, name: &str) -> Result<Found> {
        self.found_forks().into_iter().find(|found| found.name == name).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no fork {name:?}; `tidegate volume forks` lists them"),
            )
        })
    }

    /// Waits until all of a fork is there: a volume that was lost a moment ago is still moving it out of the journal.
    async fn whole(&self, found: &Found) -> Result<()> {
        let task = self.volumes.lock().values().find(|task| task.image_id() == found.fork.image).cloned();
        let Some(image) = task.and_then(|task| task.image()).filter(|image| image.run_start().is_none())
        else {
            return Ok(());
        };
        tokio::time::timeout(WHOLE_WITHIN, image.ended()).await.map_err(|e| {
            let text =
                format!("fork {} is still being moved out of the journal; try again in a moment", found.name);
            Error::caused(ErrorKind::Busy, text, e)
        })
    }

    /// The bucket a fork's volume lives in.
    async fn bucket_of(&self, found: &Found) -> Result<(String, Arc<dyn Bucket>)> {
        if let Some(name) = &found.bucket {
            return Ok((name.clone(), self.ground.bucket(name)?));
        }
        for name in self.ground.bucket_names() {
            let Ok(bucket) = self.ground.bucket(&name) else { continue };
            match chain::read_image(&*bucket, found.fork.image).await {
                Ok(_) => return Ok((name, bucket)),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e.within(format!("looking for the volume in bucket {name}"))),
            }
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "no bucket of this gateway holds image {}; add the one it lives in with `tidegate bucket add NAME URL`",
                found.fork.image
            ),
        ))
    }

    /// Makes a fork a volume of its own, which opens at once. The fork stays until it is discarded.
    pub async fn open_fork(self: &Arc<Self>, fork: &str, wanted: OpenFork) -> Result<VolumeView> {
        let fork = fork.to_owned();
        let make = |gateway: Arc<Gateway>| async move { gateway.make_volume(&fork, wanted).await };
        self.change_then("open-fork", make, |gateway, task| gateway.bring_up(task, None)).await
    }

    /// The volume that a fork becomes, in the catalog and not yet open.
    async fn make_volume(&self, fork: &str, wanted: OpenFork) -> Result<Arc<VolumeTask>> {
        check_name("volume", &wanted.name)?;
        wanted.access.authentication()?;
        wanted.access.allow()?;
        let clone = ImageId::generate(&*self.ground.seams.entropy);
        self.refuse_twice(&wanted.name, clone)?;
        if let Some(leftover) = self.find_leftover(fork) {
            return Err(leftover.is_no_fork());
        }
        let found = self.find_fork(fork)?;
        self.whole(&found).await?;
        let (bucket_name, bucket) = self.bucket_of(&found).await?;
        let env = self.ground.env(&found.disk, bucket);
        let record = image::open_fork(&env, found.fork.image, found.fork.epoch, clone, &wanted.name).await?;
        let row = VolumeRow {
            image: clone,
            bucket: bucket_name,
            disk: found.disk_name,
            size: record.size,
            block_size: record.block_size,
            target: self.target_name(&wanted.name),
            access: wanted.access,
            name: wanted.name,
        };
        self.catalog.add_volume(&row)?;
        Ok(self.task(row))
    }

    /// Gives a fork up for good, or what a journal keeps of a volume that this gateway does not have.
    pub async fn discard_fork(self: &Arc<Self>, fork: &str) -> Result<()> {
        let fork = fork.to_owned();
        self.change("discard-fork", |gateway| async move {
            if let Some(leftover) = gateway.find_leftover(&fork) {
                return gateway.give_up(&leftover);
            }
            let found = gateway.find_fork(&fork)?;
            gateway.whole(&found).await?;
            let (_, bucket) = gateway.bucket_of(&found).await?;
            let disk = &found.disk;
            image::discard_fork(&*bucket, &disk.journal, &disk.spool, found.fork.image, found.fork.epoch)
                .await
        })
        .await
    }
}
