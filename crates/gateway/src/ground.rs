//! What volumes stand on: cache disks and buckets, and what all volumes share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base::{Error, ErrorKind, GatewayId, Result};
use bucket::{Bucket, OpenOptions, RetryPolicy, Retrying, Switch};
use image::{DirtyMemory, Env, Options};
use parking_lot::Mutex;

use crate::catalog::{BucketRow, VolumeRow};
use crate::config::Config;
use crate::disk::CacheDisk;
use crate::disks::Disks;
use crate::event::EventLog;
use crate::gateway::Seams;
use crate::view::{BucketView, ProbeView};

/// The ground under the volumes of a gateway.
pub(crate) struct Ground {
    pub config: Config,
    pub seams: Seams,
    pub id: GatewayId,
    pub events: Arc<EventLog>,
    pub disks: Disks,
    pub memory: Arc<DirtyMemory>,
    buckets: Mutex<BTreeMap<String, Known>>,
}

/// A bucket of the catalog, or why it could not be opened the last time.
struct Known {
    url: String,
    bucket: Result<Arc<Switch>, String>,
    /// How often it began to move to another address, or came to one.
    moves: u64,
    /// It is being moved: nothing is opened in it.
    moving: bool,
}

/// What one volume stands on while it is opened.
pub(crate) struct Footing {
    pub env: Env,
    pub disk: Arc<CacheDisk>,
    pub place: Place,
}

/// Where a bucket was when an opening began. The opening stays there: what it read in one store must not be gone on from in another.
pub(crate) struct Place {
    bucket: String,
    moves: u64,
    /// What the opening uses.
    here: Arc<Switch>,
    /// What goes with the bucket wherever it moves.
    bucket_itself: Arc<Switch>,
}

/// While it lives, a bucket is being moved.
pub(crate) struct Moving {
    ground: Arc<Ground>,
    bucket: String,
}

impl Drop for Moving {
    fn drop(&mut self) {
        if let Some(known) = self.ground.buckets.lock().get_mut(&self.bucket) {
            known.moving = false;
        }
    }
}

impl Ground {
    pub fn new(config: Config, seams: Seams, id: GatewayId, events: Arc<EventLog>, disks: Disks) -> Ground {
        let memory = DirtyMemory::new(config.memory);
        Ground { config, seams, id, events, disks, memory, buckets: Mutex::default() }
    }

    /// Opens a bucket of the catalog. One that cannot be opened now is tried again whenever it is needed.
    pub fn know_bucket(&self, row: BucketRow) {
        let bucket = self.open_known(&row.url);
        self.buckets.lock().insert(row.name, Known { url: row.url, bucket, moves: 0, moving: false });
    }

    fn open_known(&self, url: &str) -> Result<Arc<Switch>, String> {
        let store = self.open_store(url, false);
        store.map(|store| Arc::new(Switch::new(self.patient(store)))).map_err(|e| e.to_string())
    }

    /// Takes a bucket in that was just added to the catalog, or has another URL now: who uses it goes on there.
    pub fn take_bucket(&self, row: BucketRow, bucket: Arc<dyn Bucket>) {
        let mut buckets = self.buckets.lock();
        let (moves, moving) =
            buckets.get(&row.name).map_or((0, false), |known| (known.moves + 1, known.moving));
        let switch = match buckets.remove(&row.name) {
            Some(Known { bucket: Ok(switch), .. }) => {
                switch.set(bucket);
                switch
            }
            _ => Arc::new(Switch::new(bucket)),
        };
        buckets.insert(row.name, Known { url: row.url, bucket: Ok(switch), moves, moving });
    }

    /// Begins to move a bucket: whoever is about to open something in it begins anew when that is over. One at a time.
    pub fn begin_move(self: &Arc<Self>, name: &str) -> Moving {
        if let Some(known) = self.buckets.lock().get_mut(name) {
            known.moves += 1;
            known.moving = true;
        }
        Moving { ground: self.clone(), bucket: name.to_owned() }
    }

    /// Goes with the bucket from now on. `Busy` if that has begun to move since.
    pub fn settle(&self, place: &Place) -> Result<()> {
        let buckets = self.buckets.lock();
        if buckets.get(&place.bucket).is_none_or(|known| known.moves != place.moves) {
            return Err(is_moving(&place.bucket));
        }
        place.here.set(place.bucket_itself.clone());
        Ok(())
    }

    /// How often a bucket began to move, or came to another address, since the start.
    pub fn moves_of(&self, name: &str) -> u64 {
        self.buckets.lock().get(name).map_or(0, |known| known.moves)
    }

    /// Forgets a bucket that nobody uses.
    pub fn forget_bucket(&self, name: &str) {
        self.buckets.lock().remove(name);
    }

    /// `NotFound` if there is no such bucket.
    pub fn refuse_unknown_bucket(&self, name: &str) -> Result<()> {
        if self.buckets.lock().contains_key(name) { Ok(()) } else { Err(unknown_bucket(name)) }
    }

    /// The store at a URL as it is; one in a directory is made first, if it is `new`.
    pub fn open_store(&self, url: &str, new: bool) -> Result<Arc<dyn Bucket>> {
        let options = OpenOptions { make_directory: new, ..OpenOptions::new(self.seams.clock.clone()) };
        bucket::open(url, &options)
    }

    /// A store whose calls are tried again while they fail for reasons that pass.
    pub fn patient(&self, store: Arc<dyn Bucket>) -> Arc<dyn Bucket> {
        let retrying = Retrying::new(store, RetryPolicy::background(), self.seams.entropy.clone());
        Arc::new(retrying.with_reading(RetryPolicy::foreground()))
    }

    /// A bucket by name; one that could not be opened before may be there by now. `Unavailable` says why it still cannot.
    pub fn bucket(&self, name: &str) -> Result<Arc<dyn Bucket>> {
        Ok(self.switch(name)?)
    }

    fn switch(&self, name: &str) -> Result<Arc<Switch>> {
        let url = match self.buckets.lock().get(name) {
            Some(Known { bucket: Ok(bucket), .. }) => return Ok(bucket.clone()),
            Some(known) => known.url.clone(),
            None => return Err(unknown_bucket(name)),
        };
        let opened = self.open_known(&url);
        let mut buckets = self.buckets.lock();
        let known = buckets.get_mut(name).ok_or_else(|| unknown_bucket(name))?;
        // All who use it have the same one: another address reaches them all. So the first counts.
        if known.bucket.is_err() && known.url == url {
            known.bucket = opened;
        }
        let trouble = |why: &String| {
            Error::new(ErrorKind::Unavailable, format!("bucket {name:?} cannot be used: {why}"))
        };
        Ok(known.bucket.as_ref().map_err(trouble)?.clone())
    }

    /// The names of all buckets.
    pub fn bucket_names(&self) -> Vec<String> {
        self.buckets.lock().keys().cloned().collect()
    }

    /// All buckets, as users see them.
    pub fn bucket_views(&self) -> Vec<BucketView> {
        let view = |(name, known): (&String, &Known)| BucketView {
            name: name.clone(),
            url: hide_query(&known.url),
            trouble: known.bucket.as_ref().err().cloned(),
        };
        self.buckets.lock().iter().map(view).collect()
    }

    /// The whole URL of a bucket, secrets included.
    pub fn url_of(&self, name: &str) -> Option<String> {
        self.buckets.lock().get(name).map(|known| known.url.clone())
    }

    /// The bucket a new volume goes to.
    pub fn choose_bucket(&self, wanted: Option<&str>) -> Result<String> {
        let buckets = self.buckets.lock();
        match (wanted, buckets.len()) {
            (Some(name), _) => Ok(name.to_owned()),
            (None, 1) => Ok(buckets.keys().next().cloned().unwrap_or_default()),
            (None, 0) => {
                Err(Error::invalid("there is no bucket yet; add one with `tidegate bucket add NAME URL`"))
            }
            (None, _) => Err(Error::invalid("there are several buckets; say which with --bucket NAME")),
        }
    }

    /// The words that take a volume in from its bucket. By its image: it may have been created under another name.
    pub fn adopt_words(&self, row: &VolumeRow) -> String {
        let several = self.bucket_names().len() > 1;
        adopt_words(&row.name, &row.image.to_string(), several.then_some(&*row.bucket))
    }

    /// The words that tell a demo where its bucket is, if it is not where it looks by itself. With all parameters: it would be another
    /// place without them.
    pub fn demo_bucket_words(&self, row: &VolumeRow) -> String {
        let url = self.url_of(&row.bucket).unwrap_or_default();
        let usual = self.config.data.join("bucket");
        if bucket::directory_of(&url).is_some_and(|path| usual == Path::new(path)) {
            return String::new();
        }
        format!(" --bucket '{url}'")
    }

    /// What a volume stands on. `Unavailable` while its bucket or its cache disk is away, `Busy` while the bucket is being moved.
    pub fn footing(&self, row: &VolumeRow) -> Result<Footing> {
        let disk = self.disks.get(&row.disk)?;
        let place = self.place(&row.bucket)?;
        Ok(Footing { env: self.env(&disk, place.here.clone()), disk, place })
    }

    fn place(&self, name: &str) -> Result<Place> {
        let bucket_itself = self.switch(name)?;
        let buckets = self.buckets.lock();
        let known = buckets.get(name).ok_or_else(|| unknown_bucket(name))?;
        if known.moving {
            return Err(is_moving(name));
        }
        let here = Arc::new(Switch::new(bucket_itself.now()));
        Ok(Place { bucket: name.to_owned(), moves: known.moves, here, bucket_itself })
    }

    /// What an image on a disk and in a bucket stands on.
    pub fn env(&self, disk: &CacheDisk, bucket: Arc<dyn Bucket>) -> Env {
        let upload = &self.config.upload;
        Env {
            clock: self.seams.clock.clone(),
            spawn: self.seams.spawn.clone(),
            bucket,
            journal: disk.journal.clone(),
            spool: disk.spool.clone(),
            cache: disk.cache.clone(),
            memory: self.memory.clone(),
            gateway: self.id,
            gateway_name: self.config.name.clone(),
            events: self.events.clone(),
            options: Options {
                segment: upload.segment,
                segment_age: upload.age,
                puts: upload.parallel,
                grace: upload.grace,
                spool_limit: disk.config.local_segments,
                ..Options::default()
            },
        }
    }

    /// Finds out whether a bucket may be trusted.
    pub async fn probe(&self, name: &str, bucket: &Arc<dyn Bucket>) -> Result<ProbeView> {
        let report = bucket::probe(bucket, &*self.seams.entropy).await?;
        Ok(ProbeView { name: name.to_owned(), findings: findings(&report) })
    }
}

/// The words behind `tidegate` that take a volume in from a bucket, which has to be named where there are several.
pub fn adopt_words(name: &str, image: &str, bucket: Option<&str>) -> String {
    let bucket = bucket.map_or_else(String::new, |bucket| format!(" --bucket {bucket}"));
    format!("volume adopt {name} --image {image}{bucket}")
}

fn is_moving(name: &str) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!("bucket {name:?} is getting another address: the volume is opened after that"),
    )
}

fn unknown_bucket(name: &str) -> Error {
    let text = format!(
        "there is no bucket {name:?}; add it with `tidegate bucket add {name} URL`, or name one of `tidegate bucket list`"
    );
    Error::new(ErrorKind::NotFound, text)
}

fn findings(report: &bucket::ProbeReport) -> Vec<String> {
    let sums = if report.verifies_uploads {
        "bodies with a wrong CRC-64 are refused by the store"
    } else {
        "the store does not verify CRC-64s; damage on the way up shows when it is read"
    };
    vec![
        format!("{}: create-only puts are right, also in a race of 16", report.url),
        sums.to_owned(),
        format!("one small object took {} ms to be stored", report.create_millis),
    ]
}

/// A bucket's URL without its parameters, which may hold what not everybody should see.
fn hide_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}
