//! How volumes leave a gateway: released, they stay in their bucket; deleted, they are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{ByteSize, Epoch, Error, ErrorKind, ImageId, Result};
use bucket::Bucket;
use image::Severity;

use crate::catalog::Settled;
use crate::gateway::Gateway;
use crate::view::ForkView;
use crate::volume::{Departure, VolumeTask};

impl Gateway {
    /// Lets go of a volume in good order: it stays in its bucket, and any gateway may adopt it. One that another gateway owns
    /// is only forgotten here; its fork, if there is one, stays.
    ///
    /// It takes as long as the bucket does. Meanwhile the volume is shown as being released and refuses other changes, and other
    /// volumes' affairs go on. It is carried through though the caller may be gone; a stop before its end takes it back.
    pub async fn release_volume(self: &Arc<Self>, name: &str) -> Result<()> {
        self.let_open(name).await;
        let name = name.to_owned();
        let begin = |gateway: Arc<Gateway>| async move {
            let task = gateway.volume_to_change(&name)?;
            let departure = task.depart()?;
            if departure.is_none() {
                // Nothing of it is at work here, or it is another gateway's.
                let newest = task.image().map(|image| image.epoch());
                task.hide();
                task.abandon_image().await;
                gateway.forget(&task, newest)?;
            }
            Ok(departure.map(|departure| (task, departure)))
        };
        self.change_then("release-volume", begin, |gateway, departing| async move {
            match departing {
                Some((task, departure)) => gateway.see_off(&task, departure).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Closes a volume that is being released, and forgets it.
    async fn see_off(&self, task: &VolumeTask, departure: Departure) -> Result<()> {
        let name = task.row().name;
        let newest = task.image().map(|image| image.epoch());
        let left = match task.close_for_good().await {
            Ok(()) => self.forget(task, newest),
            Err(e) => Err(e),
        };
        match &left {
            Ok(()) => self.ground.events.note(Severity::Info, format!("volume {name} is released")),
            Err(e) => {
                let text =
                    format!("volume {name} was not released: {e}; release it again once that is settled");
                self.ground.events.note(Severity::Error, text);
            }
        }
        task.departed(departure, left.is_ok());
        left
    }

    /// Takes a volume off the catalog, then off the list: its name is free when both are done. `newest` is the last epoch in which
    /// it was open here, as far as that is known. Of journals that need nothing of it any more it is noted that they do not:
    /// the next start may find its records there all the same.
    fn forget(&self, task: &VolumeTask, newest: Option<Epoch>) -> Result<()> {
        let row = task.row();
        let mut settled = Settled::new();
        for (_, disk) in
            self.ground.disks.working().iter().filter(|(_, disk)| disk.journal.is_settled(row.image))
        {
            if let Some(epoch) = newest.max(disk.newest_recovered(row.image)) {
                settled.insert((disk.journal.id(), row.image), epoch);
            }
        }
        self.catalog.remove_volume(&row.name, &settled)?;
        // Before the name is free, and with it the target's.
        task.forget_target();
        self.volumes.lock().remove(&row.name);
        Ok(())
    }

    /// Deletes a volume and all its data, here and in the bucket. `Fenced` if another gateway owns it; `Denied` while
    /// volumes that were made from it exist, and, unless told `with_forks`, while this gateway keeps forks of it.
    pub async fn delete_volume(self: &Arc<Self>, name: &str, with_forks: bool) -> Result<()> {
        self.let_open(name).await;
        let name = name.to_owned();
        let delete = move |gateway: Arc<Gateway>| async move { gateway.delete(&name, with_forks).await };
        self.change("delete-volume", delete).await
    }

    async fn delete(&self, name: &str, with_forks: bool) -> Result<()> {
        let task = self.volume(name)?;
        task.settled()?;
        let row = task.row();
        self.ground.disks.get(&row.disk)?;
        // Any of them may keep forks of it.
        let disks = self.ground.disks.all()?;
        let store = self.ground.bucket(&row.bucket)?;
        if self.is_foreign(&task, &*store).await? {
            return Err(Error::fenced(format!(
                "volume {name:?} was last written with a journal that this gateway does not have. If another gateway has it now, \
                 delete it there, or take it off this one with `tidegate volume release {name}`; if this gateway lost its cache disk, \
                 take it over first with `tidegate {} --accept-loss EPOCH`",
                self.ground.adopt_words(&row)
            )));
        }
        if let Some(clone) = image::clones_of(&*store, row.image).await?.first() {
            return Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "volume {name:?} holds data of image {clone}, which was made from it: delete that one first"
                ),
            ));
        }
        let forks = self.forks_of(row.image);
        if !forks.is_empty() && !with_forks {
            return Err(keeps_forks(name, &forks));
        }
        let parents = parents(&*store, row.image).await?;
        task.hide();
        task.abandon_image().await;
        delete_image(&*store, row.image).await?;
        image::unpin_clone(&*store, &parents, row.image).await?;
        // Its newest writes are on its own disk; forks may be on others.
        for disk in &disks {
            for file in disk.spool.list(row.image) {
                disk.spool.remove(row.image, &file.name).await?;
            }
            disk.cache.invalidate_image(row.image);
            disk.give_up(row.image);
        }
        // No image ever has this id again.
        self.forget(&task, Some(Epoch(u64::MAX)))
    }

    /// Takes a volume off this gateway whose bucket is lost for good: all that it has of it here is deleted, what may be in the
    /// bucket stays there. `Invalid` if the bucket has the volume after all.
    pub async fn delete_without_bucket(self: &Arc<Self>, name: &str) -> Result<()> {
        let name = name.to_owned();
        let delete = move |gateway: Arc<Gateway>| async move { gateway.drop_volume(&name).await };
        self.change("delete-volume", delete).await
    }

    async fn drop_volume(&self, name: &str) -> Result<()> {
        let task = self.volume_to_change(name)?;
        let row = task.row();
        let disks = self.ground.disks.all()?;
        if let Ok(store) = self.ground.bucket(&row.bucket)
            && chain::read_image(&*store, row.image).await.is_ok()
        {
            return Err(Error::invalid(format!(
                "bucket {:?} has volume {name:?}: delete it without --without-bucket, or release it",
                row.bucket
            )));
        }
        // The image may be found again, and adopted: then what is written in a later epoch is not meant.
        let shown = disks
            .iter()
            .flat_map(|disk| [disk.journal.newest(row.image), disk.newest_recovered(row.image)])
            .max();
        let newest = shown.flatten().max(task.image().map(|image| image.epoch()));
        task.hide();
        task.abandon_image().await;
        let mut lost = 0;
        for disk in &disks {
            lost += disk.journal.usage_of(row.image).bytes + disk.spool.bytes_of(row.image);
            for file in disk.spool.list(row.image) {
                disk.spool.remove(row.image, &file.name).await?;
            }
            disk.cache.invalidate_image(row.image);
            disk.give_up(row.image);
        }
        self.forget(&task, newest)?;
        let text = format!(
            "volume {name} was deleted here with {} that were not uploaded; whatever bucket {} still has of it stays there, below \
             {}: if the bucket is found again, delete that with the store's own tools, or take it in with `tidegate {}`",
            ByteSize(lost),
            row.bucket,
            chain::name::prefix(row.image),
            self.ground.adopt_words(&row)
        );
        self.ground.events.note(Severity::Warning, text);
        Ok(())
    }

    /// Whether another gateway's journal may hold what the volume's newest writes are.
    async fn is_foreign(&self, task: &VolumeTask, store: &dyn Bucket) -> Result<bool> {
        if let Some(image) = task.image() {
            return Ok(is_fenced(&image));
        }
        match chain::load(store, task.image_id()).await {
            Ok(loaded) => Ok(!loaded.chain.clean
                && loaded.last_owner.is_some_and(|last| {
                    self.ground.disks.working().iter().all(|(_, disk)| !image::is_own(&disk.journal, &last))
                })),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn keeps_forks(name: &str, forks: &[ForkView]) -> Error {
    let each: Vec<String> =
        forks.iter().map(|fork| format!("{} ({})", fork.name, ByteSize(fork.size))).collect();
    Error::new(
        ErrorKind::Denied,
        format!(
            "this gateway keeps writes of volume {name:?} that are nowhere else: {}; look at them with `tidegate volume \
             open-fork`, or say --with-forks to delete them too",
            each.join(", ")
        ),
    )
}

/// Whether another gateway has taken an image over.
pub(crate) fn is_fenced(image: &image::Image) -> bool {
    image.usable().is_err_and(|e| e.kind() == ErrorKind::Fenced)
}

/// The images whose segments an image points at.
async fn parents(store: &dyn Bucket, image: ImageId) -> Result<BTreeSet<ImageId>> {
    match chain::load(store, image).await {
        Ok(loaded) => Ok(loaded
            .checkpoint
            .table
            .values()
            .map(|row| row.origin)
            .filter(|origin| *origin != image)
            .collect()),
        // What is gone or damaged is deleted all the same.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(BTreeSet::new()),
        Err(e) => Err(e),
    }
}

/// Deletes every object of an image, what it is first, so that nobody finds half of it.
async fn delete_image(store: &dyn Bucket, image: ImageId) -> Result<()> {
    store.delete(&chain::name::image(image)).await?;
    loop {
        let page = store.list(&chain::name::prefix(image), None, 1000).await?;
        if page.is_empty() {
            return Ok(());
        }
        for object in page {
            store.delete(&object.key).await?;
        }
    }
}
