//! What journals hold of images that are no volumes of this gateway: released where that is known to be safe, else kept and listed.

use std::sync::Arc;

use base::{ByteSize, Error, ErrorKind, ImageId, Result};
use image::Severity;

use crate::catalog::{Settled, VolumeRow};
use crate::disk::CacheDisk;
use crate::gateway::Gateway;
use crate::view::ForkView;

/// What the journal of one disk keeps of an image that no volume on that disk has.
pub(crate) struct Leftover {
    name: String,
    image: ImageId,
    disk_name: String,
    disk: Arc<CacheDisk>,
}

impl Gateway {
    /// Releases what the journals show at the start though it is known to be needed no more. Before any volume opens.
    ///
    /// A journal does not remember what was released: as long as a file is listed, a start finds all records in it and holds on to
    /// them until their image opens. Those of a volume that is gone would hold on to their files for ever, and one day no write
    /// would find room. So they are released here; and these are the reasons why nothing is that somebody may want:
    ///
    /// - That the catalog does not know an image proves nothing: the catalog may be new, or an older copy, and a volume being adopted
    ///   takes writes for a moment before it is entered. What releases is an entry in the catalog that says so. It is made in
    ///   the one transaction that takes the volume off the catalog, after the image was closed, deleted or lost, and only for a
    ///   journal in which by then everything of it had been released, by uploading it, keeping it as a fork, or deleting the image.
    /// - The entry names the journal, not the disk: another disk in the same place, or one that comes back after it was away, is
    ///   not meant by it.
    /// - It names the last epoch. Whoever opens the image again, adopted or from a fork, takes a higher one, and with one record of a
    ///   higher epoch nothing is released.
    /// - Nothing is released of a volume on that disk, be it open, waiting for its bucket, refused, or in the middle of being
    ///   released or deleted: it stands in the catalog until that is done. Forks belong to the image they were lost from; as long
    ///   as one is in the journal, there is no entry for its image.
    /// - A catalog that cannot be read stops the start before this.
    ///
    /// Whatever else is unknown is kept, listed with the forks and reported.
    pub(crate) fn sort_out_journals(&self, volumes: &[VolumeRow]) -> Result<()> {
        for (disk_name, disk) in &self.ground.disks.working() {
            self.sort_out_journal(disk_name, disk, volumes)?;
        }
        Ok(())
    }

    /// The same for one disk, before any volume on it opens.
    pub(crate) fn sort_out_journal(
        &self,
        disk_name: &str,
        disk: &Arc<CacheDisk>,
        volumes: &[VolumeRow],
    ) -> Result<()> {
        let settled = self.catalog.settled()?;
        let journal = disk.journal.id();
        let shown = disk.journal.owners();
        for image in &shown {
            if volumes.iter().any(|row| row.image == *image && row.disk == disk_name) {
                continue;
            }
            let newest = disk.journal.newest(*image);
            let size = ByteSize(disk.journal.usage_of(*image).bytes);
            if newest.is_some() && newest <= settled.get(&(journal, *image)).copied() {
                disk.give_up(*image);
                let text = format!(
                    "{size} in the journal of disk {disk_name} are free again: image {image} was released or deleted"
                );
                self.ground.events.note(Severity::Info, text);
            } else {
                let name = volumes.iter().find(|row| row.image == *image).map(|row| row.name.clone());
                let leftover = Leftover::new(name, *image, disk_name, disk);
                self.ground.events.note(Severity::Warning, leftover.text());
            }
        }
        // What is not shown any more never comes back.
        for (_, image) in settled.keys().filter(|(of, image)| *of == journal && !shown.contains(image)) {
            self.catalog.unsettle(journal, *image)?;
        }
        Ok(())
    }

    /// What the journals keep of images that no volume on their disk has. Not what is on its way out of them.
    pub(crate) fn leftovers(&self) -> Vec<Leftover> {
        let volumes = self.volumes.lock();
        let mut found = Vec::new();
        for (disk_name, disk) in &self.ground.disks.working() {
            for image in disk.journal.owners() {
                let row = volumes.values().map(|task| task.row()).find(|row| row.image == image);
                if row.as_ref().is_none_or(|row| row.disk != *disk_name) && !disk.journal.is_attached(image) {
                    found.push(Leftover::new(row.map(|row| row.name), image, disk_name, disk));
                }
            }
        }
        found
    }

    pub(crate) fn find_leftover(&self, name: &str) -> Option<Leftover> {
        self.leftovers().into_iter().find(|leftover| leftover.name == name)
    }

    /// Gives a leftover up for good.
    pub(crate) fn give_up(&self, leftover: &Leftover) -> Result<()> {
        let Leftover { image, disk, .. } = leftover;
        let settled: Settled = disk
            .journal
            .newest(*image)
            .map(|epoch| ((disk.journal.id(), *image), epoch))
            .into_iter()
            .collect();
        self.catalog.settle(&settled)?;
        disk.give_up(*image);
        Ok(())
    }
}

impl Leftover {
    fn new(volume: Option<String>, image: ImageId, disk_name: &str, disk: &Arc<CacheDisk>) -> Leftover {
        let volume = volume.unwrap_or_else(|| image.to_string());
        let name = format!("{volume}@journal-{disk_name}");
        Leftover { name, image, disk_name: disk_name.to_owned(), disk: disk.clone() }
    }

    fn size(&self) -> u64 {
        self.disk.journal.usage_of(self.image).bytes
    }

    pub fn view(&self) -> ForkView {
        ForkView {
            name: self.name.clone(),
            image: self.image.to_string(),
            disk: self.disk_name.clone(),
            size: self.size(),
        }
    }

    fn text(&self) -> String {
        let Leftover { name, image, disk_name, .. } = self;
        format!(
            "the journal of disk {disk_name} keeps {} of acknowledged writes of image {image}, which is no volume on that \
             disk: to have them, take it in with `tidegate volume adopt NAME --image {image} --disk {disk_name}` (release it \
             first, if it is a volume on another disk); to give them up, `tidegate volume discard-fork {name} --yes`",
            ByteSize(self.size())
        )
    }

    /// The answer to who would open it as a fork.
    pub fn is_no_fork(&self) -> Error {
        Error::new(ErrorKind::Invalid, format!("{:?} is no fork: {}", self.name, self.text()))
    }
}
