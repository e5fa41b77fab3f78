//! A cache disk at work: one journal, one spool, one cache.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use base::{ByteSize, Epoch, Error, ErrorKind, ImageId, JournalId, Result};
use local::{
    Cache, CacheOptions, Disk, Journal, JournalOptions, OsDisk, Recovered, Recovery, Spool, Yielding,
};
use parking_lot::Mutex;

use crate::config::DiskConfig;
use crate::gateway::Seams;
use crate::view::DiskView;

/// What a gateway keeps on one disk.
pub(crate) struct CacheDisk {
    pub config: DiskConfig,
    pub journal: Journal,
    pub spool: Arc<Spool>,
    pub cache: Cache,
    /// What its clean cache may hold: as much as is configured, or as there is memory for.
    cache_most: ByteSize,
    disk: Arc<dyn Disk>,
    /// The file system it is on.
    device: u64,
    /// What the journal held at start-up, by image, until its volume opens.
    recovered: Mutex<BTreeMap<ImageId, Vec<Recovered>>>,
}

/// Free bytes of a cache disk that the cache does not grow into: dirty data has them without having to wait.
const SPARE: ByteSize = ByteSize::mib(256);

/// How much room a cache disk has and may come to take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskRoom {
    /// The file system.
    pub device: u64,
    pub free: u64,
    /// Bytes of clean cache.
    pub cache: u64,
    /// Bytes of all that the gateway has there.
    pub held: u64,
    /// Clean cache that is configured and cannot be used, for want of memory for its index.
    pub unused: ByteSize,
    /// What that may come to.
    pub most: u64,
}

/// Journal and local segments, on a disk on which the cache gives way.
async fn open_rest(
    config: &DiskConfig,
    seams: &Seams,
    disk: Arc<dyn Disk>,
) -> Result<(Journal, Recovery, Arc<Spool>)> {
    let options = JournalOptions::of(config.journal.0);
    let spool = Arc::new(Spool::open(disk.clone()).await?);
    let (journal, recovery) =
        Journal::open(disk, options, seams.spawn.clone(), seams.entropy.clone()).await?;
    Ok((journal, recovery, spool))
}

/// An empty directory is not taken for a used disk: the volumes on it would have to give up what only its journal has.
fn not_the_disk(config: &DiskConfig, found: Option<JournalId>) -> Error {
    let (name, path) = (&config.name, config.path.display());
    let what = match found {
        None => format!("there is no journal in {path}, and there was one"),
        Some(other) => format!("in {path} is journal {other}, and there was another"),
    };
    Error::new(
        ErrorKind::Denied,
        format!(
            "{what}: is the disk mounted? If it is lost for good, start once with `tidegate serve --new-disk {name}`; the volumes on \
             it then say how what was not uploaded is given up"
        ),
    )
}

/// The bytes of memory that the clean cache of a disk may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheMemory {
    /// For its index.
    pub index: u64,
    /// For what is read again.
    pub reads: u64,
}

impl CacheDisk {
    /// Opens it and recovers its journal. `Corrupt` names a file and offset that has rotted. `Denied` if it had the journal `known`
    /// before, and has not now.
    pub async fn open(
        config: &DiskConfig,
        seams: &Seams,
        known: Option<JournalId>,
        memory: CacheMemory,
    ) -> Result<CacheDisk> {
        let disk: Arc<dyn Disk> = OsDisk::open(&config.path)?;
        // A journal that does not say which it is, is dealt with below.
        if let (Some(known), Ok(found)) = (known, Journal::find(&*disk).await)
            && found != Some(known)
        {
            return Err(not_the_disk(config, found));
        }
        let device = std::fs::metadata(&config.path).map_or(0, |about| about.dev());
        let options = CacheOptions {
            capacity: config.cache.0,
            index_budget: memory.index,
            memory: memory.reads,
            spare: SPARE.0,
            ..CacheOptions::default()
        };
        let cache_most = ByteSize(options.most());
        let cache = Cache::open(disk.clone(), options, seams.spawn.clone()).await?;
        // Where there is no room for what follows, the cache gives way.
        let roomy = Yielding::new(disk.clone(), cache.clone());
        let (journal, recovery, spool) = match open_rest(config, seams, roomy).await {
            Ok(rest) => rest,
            Err(e) => {
                // Its directory is to be free for the next try. An index that cannot be left costs fetches.
                let _ = cache.close().await;
                return Err(e);
            }
        };
        let recovered = Mutex::new(recovery.owners);
        Ok(CacheDisk { config: config.clone(), journal, spool, cache, cache_most, disk, device, recovered })
    }

    /// What is wrong with the place it was opened in. Files that are open go on working when their directory is gone, and nobody would
    /// find them again: then the journal takes no more writes, until they are back.
    pub async fn misplaced(&self) -> Option<String> {
        let path = self.config.path.display();
        let what = match Journal::find(&*self.disk).await {
            Ok(Some(id)) if id == self.journal.id() => {
                self.journal.refuse(None);
                return None;
            }
            Ok(Some(other)) => format!("{path} holds journal {other} now, which is another disk's"),
            Ok(None) => format!(
                "{path} is empty or gone: the directory was removed, or the disk is not mounted any more"
            ),
            // That says nothing of where the files are.
            Err(e) => return Some(format!("{path} cannot be looked at: {e}")),
        };
        let text = format!(
            "{what}; writes are refused, since they would not outlive this process, and reads and uploads go on: drain the volumes on \
             it with `tidegate volume drain`, stop the gateway, bring the disk back, and start again"
        );
        self.journal.refuse(Some(Error::new(ErrorKind::Denied, text.clone())));
        Some(text)
    }

    /// What is free on its file system, what it holds of that, and the most it may come to hold.
    pub async fn room(&self) -> Result<DiskRoom> {
        let (journal, cache) = (self.journal.usage(), self.cache.stats());
        Ok(DiskRoom {
            device: self.device,
            free: self.disk.free().await?,
            cache: cache.on_disk,
            held: journal.on_disk + cache.on_disk + self.spool.bytes(),
            unused: ByteSize(self.config.cache.0.saturating_sub(self.cache_most.0)),
            most: [self.cache_most.0, self.config.local_segments.0.max(self.spool.bytes())]
                .into_iter()
                .fold(journal.most_on_disk.max(journal.on_disk), u64::saturating_add),
        })
    }

    /// What the journal held of an image at start-up.
    pub fn recovered(&self, image: ImageId) -> Vec<Recovered> {
        self.recovered.lock().get(&image).cloned().unwrap_or_default()
    }

    /// The newest epoch of what the journal held of an image at start-up and nobody has in hands.
    pub fn newest_recovered(&self, image: ImageId) -> Option<Epoch> {
        self.recovered.lock().get(&image)?.iter().map(|r| r.epoch).max()
    }

    /// The journal need not keep anything of an image.
    pub fn give_up(&self, image: ImageId) {
        self.journal.release_owner(image);
        self.adopted(image);
    }

    /// That is in hands now.
    pub fn adopted(&self, image: ImageId) {
        self.recovered.lock().remove(&image);
    }

    pub fn view(&self) -> DiskView {
        let (journal, cache) = (self.journal.usage(), self.cache.stats());
        DiskView {
            name: self.config.name.clone(),
            path: self.config.path.display().to_string(),
            journal_capacity: journal.capacity,
            journal_used: journal.used,
            local_segments: self.spool.bytes(),
            cache_used: cache.lines * (64 << 10),
            cache_capacity: self.cache_most.0,
            cache_in_memory: cache.in_memory,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            trouble: None,
            warning: None,
        }
    }

    /// Ends it in good order. A cache that cannot leave its index, on a full disk for instance, starts cold the next time; nothing is
    /// lost by that.
    pub async fn close(&self) -> Result<()> {
        if let Err(e) = self.cache.close().await {
            tracing::warn!("the cache on disk {} will start empty: {e}", self.config.name);
        }
        self.journal.close().await
    }
}
