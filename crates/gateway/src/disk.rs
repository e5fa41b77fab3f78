//! A cache disk at work: one journal, one spool, one cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Epoch, Error, ErrorKind, ImageId, JournalId, Result};
use local::{Cache, CacheOptions, Disk, Journal, JournalOptions, OsDisk, Recovered, Spool};
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
    /// What the journal held at start-up, by image, until its volume opens.
    recovered: Mutex<BTreeMap<ImageId, Vec<Recovered>>>,
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

impl CacheDisk {
    /// Opens it and recovers its journal. `Corrupt` names a file and offset that has rotted. `Denied` if it had the journal `known`
    /// before, and has not now.
    pub async fn open(config: &DiskConfig, seams: &Seams, known: Option<JournalId>) -> Result<CacheDisk> {
        let disk: Arc<dyn Disk> = OsDisk::open(&config.path)?;
        // A journal that does not say which it is, is dealt with below.
        if let (Some(known), Ok(found)) = (known, Journal::find(&*disk).await)
            && found != Some(known)
        {
            return Err(not_the_disk(config, found));
        }
        let options = JournalOptions { capacity: config.journal.0, ..JournalOptions::default() };
        let (journal, recovery) =
            Journal::open(disk.clone(), options, seams.spawn.clone(), seams.entropy.clone()).await?;
        let spool = Arc::new(Spool::open(disk.clone()).await?);
        let options = CacheOptions { capacity: config.cache.0, ..CacheOptions::default() };
        let cache = Cache::open(disk, options, seams.spawn.clone()).await?;
        let recovered = Mutex::new(recovery.owners);
        Ok(CacheDisk { config: config.clone(), journal, spool, cache, recovered })
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
            cache_capacity: self.config.cache.0,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
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
