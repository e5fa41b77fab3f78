//! The gateway: brings up disks, buckets, volumes and the portal, and carries out what its users ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, Clock, Entropy, Epoch, Error, ErrorKind, GatewayId, ImageId, Result, SECTOR, Spawn};
use bucket::{Bucket, OpenOptions, RetryPolicy, Retrying};
use image::{DirtyMemory, Env, Options, Severity};
use parking_lot::Mutex;
use portal::Portal;
use scsi::iscsi::{Guessing, Limits, TargetRegistry};

use crate::catalog::{BucketRow, Catalog, VolumeRow};
use crate::config::{Config, NAME_RULE, is_name};
use crate::disk::CacheDisk;
use crate::event::EventLog;
use crate::target::Access;
use crate::view::{BucketView, GatewayView, ProbeView, SessionView, VolumeView};
use crate::volume::VolumeTask;

/// The seams a gateway stands on.
#[derive(Clone)]
pub struct Seams {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// How work is started.
    pub spawn: Arc<dyn Spawn>,
}

/// What is asked for in a new volume.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Bytes, a multiple of the block size.
    pub size: u64,
    /// The bucket; needed if there are several.
    pub bucket: Option<String>,
    /// The cache disk; the one with the fewest volumes, if not said.
    pub disk: Option<String>,
    /// 512 (the default) or 4,096.
    pub block_size: Option<u32>,
    /// Who may use it.
    #[serde(default)]
    pub access: Access,
}

/// A volume that is in a bucket already.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptVolume {
    /// Its name here.
    pub name: String,
    /// Its image's id, or the name it was created under.
    pub image: String,
    /// The bucket.
    pub bucket: Option<String>,
    /// The cache disk.
    pub disk: Option<String>,
    /// The epoch of another gateway whose newest writes, not yet uploaded, are given up.
    pub accept_loss: Option<u64>,
    /// Who may use it.
    #[serde(default)]
    pub access: Access,
}

/// A bucket, or why it cannot be used.
pub(crate) type OpenBucket = Result<Arc<dyn Bucket>, String>;

/// The largest volume (L09).
const LARGEST: u64 = 256 << 40;

/// A running gateway.
pub struct Gateway {
    config: Config,
    pub(crate) seams: Seams,
    id: GatewayId,
    pub(crate) catalog: Catalog,
    events: Arc<EventLog>,
    pub(crate) disks: BTreeMap<String, Arc<CacheDisk>>,
    pub(crate) buckets: Mutex<BTreeMap<String, OpenBucket>>,
    pub(crate) volumes: Mutex<BTreeMap<String, Arc<VolumeTask>>>,
    memory: Arc<DirtyMemory>,
    targets: Arc<TargetRegistry>,
    portal: Mutex<Option<Portal>>,
    /// Keeps other gateways off the data directory until this one has stopped.
    lock: Mutex<Option<File>>,
    addresses: Vec<SocketAddr>,
    /// One change of the catalog at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// How often a volume is tried again whose bucket could not be opened at the start.
const LAUNCH_AGAIN: Duration = Duration::from_secs(5);
/// How long a stop waits for a change under way.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);

impl Gateway {
    /// Brings everything up. Volumes whose bucket does not answer yet open later by themselves.
    pub async fn start(config: Config, seams: Seams) -> Result<Arc<Gateway>> {
        config.check()?;
        make_directory(&config.data)?;
        let lock = lock_directory(&config.data)?;
        let (catalog, id) =
            Catalog::open(&config.data.join("catalog.db"), GatewayId::generate(&*seams.entropy))?;
        let mut disks = BTreeMap::new();
        for disk in &config.disks {
            make_directory(&disk.path)?;
            let opened = CacheDisk::open(disk, &seams)
                .await
                .map_err(|e| e.within(format!("cache disk {}", disk.name)))?;
            disks.insert(disk.name.clone(), Arc::new(opened));
        }
        let events = EventLog::new(seams.clock.clone());
        let targets = TargetRegistry::new(seams.entropy.clone(), Limits::default());
        let log = events.clone();
        targets.on_guessing(move |guessing| log.note(Severity::Warning, guessed(guessing)));
        let threads = (config.iscsi.threads > 0).then_some(config.iscsi.threads);
        let options = portal::Options { threads, ..portal::Options::default() };
        let portal = Portal::start(&config.iscsi.listen, targets.clone(), options, &*seams.spawn)?;
        crate::memory::prepare(config.memory, &*seams.spawn);
        let gateway = Arc::new(Gateway {
            memory: DirtyMemory::new(config.memory),
            events,
            addresses: portal.addresses().to_vec(),
            portal: Mutex::new(Some(portal)),
            lock: Mutex::new(Some(lock)),
            buckets: Mutex::default(),
            volumes: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            config,
            seams,
            id,
            catalog,
            disks,
            targets,
        });
        for row in gateway.catalog.buckets()? {
            let opened = gateway.open_bucket(&row.url).map_err(|e| e.to_string());
            gateway.buckets.lock().insert(row.name, opened);
        }
        for row in gateway.catalog.volumes()? {
            if let Err(e) = gateway.clone().launch(row.clone(), None) {
                gateway.clone().launch_later(row, &e);
            }
        }
        Ok(gateway)
    }

    /// Tries again and again to start a volume whose bucket or disk is not there.
    fn launch_later(self: Arc<Self>, row: VolumeRow, why: &Error) {
        self.events.note(Severity::Error, format!("volume {} cannot be started yet: {why}", row.name));
        let gateway = Arc::downgrade(&self);
        let spawn = self.seams.spawn.clone();
        let work = async move {
            loop {
                tokio::time::sleep(LAUNCH_AGAIN).await;
                let Some(gateway) = gateway.upgrade() else { return };
                if gateway.is_stopping() {
                    return;
                }
                gateway.open_bucket_again(&row.bucket);
                if gateway.clone().launch(row.clone(), None).is_ok() {
                    gateway.events.note(Severity::Info, format!("volume {} is started now", row.name));
                    return;
                }
            }
        };
        spawn.spawn("launch-volume", Box::pin(work));
    }

    /// Whether it has let go of its clients.
    fn is_stopping(&self) -> bool {
        self.portal.lock().is_none()
    }

    /// A bucket that could not be opened at the start may be there now.
    fn open_bucket_again(&self, name: &str) {
        let missing = self.buckets.lock().get(name).is_some_and(Result::is_err);
        let rows = self.catalog.buckets().unwrap_or_default();
        if let Some(row) = rows.into_iter().find(|row| missing && row.name == name) {
            let opened = self.open_bucket(&row.url).map_err(|e| e.to_string());
            self.buckets.lock().insert(row.name, opened);
        }
    }

    /// Where iSCSI listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn open_bucket(&self, url: &str) -> Result<Arc<dyn Bucket>> {
        let store = bucket::open(url, &OpenOptions::new(self.seams.clock.clone()))?;
        let retrying = Retrying::new(store, RetryPolicy::background(), self.seams.entropy.clone());
        Ok(Arc::new(retrying.with_reading(RetryPolicy::foreground())))
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<dyn Bucket>> {
        match self.buckets.lock().get(name) {
            Some(Ok(bucket)) => Ok(bucket.clone()),
            Some(Err(why)) => {
                Err(Error::new(ErrorKind::Unavailable, format!("bucket {name:?} cannot be used: {why}")))
            }
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no bucket {name:?}; add it with `tidegate bucket add {name} URL`"),
            )),
        }
    }

    /// Starts a volume's task; it opens in the background.
    fn launch(self: Arc<Self>, row: VolumeRow, accept_loss: Option<Epoch>) -> Result<Arc<VolumeTask>> {
        let task = self.task(row)?;
        let opening = task.clone();
        let work = async move {
            // What is wrong stands in the volume's view and in the log.
            let _ = opening.open(accept_loss).await;
        };
        self.seams.spawn.spawn("open-volume", Box::pin(work));
        Ok(task)
    }

    pub(crate) fn task(&self, row: VolumeRow) -> Result<Arc<VolumeTask>> {
        let disk = self.disks.get(&row.disk).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no cache disk {:?} in the configuration", row.disk),
            )
        })?;
        let env = self.env(&disk, self.bucket(&row.bucket)?);
        let name = row.name.clone();
        let task = VolumeTask::new(row, env, disk, self.targets.clone());
        self.volumes.lock().insert(name, task.clone());
        Ok(task)
    }

    /// What an image on a disk and in a bucket stands on.
    pub(crate) fn env(&self, disk: &CacheDisk, bucket: Arc<dyn Bucket>) -> Env {
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

    fn volume(&self, name: &str) -> Result<Arc<VolumeTask>> {
        self.volumes.lock().get(name).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no volume {name:?}; `tidegate volume list` shows all"),
            )
        })
    }

    /// Adds a bucket, after a probe that refuses a store on which data would not be safe.
    pub async fn add_bucket(&self, name: &str, url: &str) -> Result<ProbeView> {
        let _one = self.changing.lock().await;
        check_name("bucket", name)?;
        let store = self.open_bucket(url)?;
        let probe = probe(name, &store, &self.seams).await?;
        self.catalog.add_bucket(&BucketRow { name: name.to_owned(), url: url.to_owned() })?;
        self.buckets.lock().insert(name.to_owned(), Ok(store));
        Ok(probe)
    }

    /// The buckets.
    pub fn buckets(&self) -> Result<Vec<BucketView>> {
        let open = self.buckets.lock();
        let trouble = |name: &str| open.get(name).and_then(|b| b.as_ref().err().cloned());
        let rows = self.catalog.buckets()?.into_iter();
        Ok(rows
            .map(|row| BucketView { trouble: trouble(&row.name), name: row.name, url: hide_query(&row.url) })
            .collect())
    }

    /// Probes a bucket again.
    pub async fn probe_bucket(&self, name: &str) -> Result<ProbeView> {
        probe(name, &self.bucket(name)?, &self.seams).await
    }

    /// Creates a volume and opens it.
    pub async fn create_volume(self: &Arc<Self>, wanted: CreateVolume) -> Result<VolumeView> {
        let _one = self.changing.lock().await;
        check_name("volume", &wanted.name)?;
        let block_size = wanted.block_size.unwrap_or(512);
        check_size(wanted.size, block_size)?;
        wanted.access.authentication()?;
        wanted.access.allow()?;
        let bucket = self.choose_bucket(wanted.bucket.as_deref())?;
        let row = VolumeRow {
            image: ImageId::generate(&*self.seams.entropy),
            disk: self.choose_disk(wanted.disk.as_deref())?,
            size: ByteSize(wanted.size),
            block_size,
            target: self.target_name(&wanted.name),
            access: wanted.access,
            bucket,
            name: wanted.name,
        };
        self.refuse_duplicate(&row.name)?;
        let store = self.bucket(&row.bucket)?;
        let now = self.seams.clock.now();
        image::create(&*store, now, row.image, &row.name, row.size, row.block_size).await?;
        self.catalog.add_volume(&row)?;
        let task = self.task(row)?;
        task.open(None).await?;
        Ok(task.view())
    }

    /// Takes over a volume that is in a bucket already.
    pub async fn adopt_volume(self: &Arc<Self>, wanted: AdoptVolume) -> Result<VolumeView> {
        let _one = self.changing.lock().await;
        check_name("volume", &wanted.name)?;
        wanted.access.authentication()?;
        wanted.access.allow()?;
        let bucket = self.choose_bucket(wanted.bucket.as_deref())?;
        let store = self.bucket(&bucket)?;
        let record = find_image(&*store, &wanted.image).await?;
        let row = VolumeRow {
            image: record.image,
            disk: self.choose_disk(wanted.disk.as_deref())?,
            size: record.size,
            block_size: record.block_size,
            target: self.target_name(&wanted.name),
            access: wanted.access,
            bucket,
            name: wanted.name,
        };
        let accept_loss = wanted.accept_loss.map(Epoch);
        let known = self.volumes.lock().get(&row.name).cloned();
        if let Some(known) = known {
            // The same volume, refused at first, is tried again with the loss accepted.
            if known.image_id() != row.image || known.image().is_some_and(|image| image.usable().is_ok()) {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("a volume named {:?} exists already", row.name),
                ));
            }
            known.hide();
            known.abandon_image().await;
            let task = self.task(known.row())?;
            task.open(accept_loss).await?;
            return Ok(task.view());
        }
        if let Some(same) = self.catalog.volumes()?.iter().find(|known| known.image == row.image) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{} is volume {:?} of this gateway already", wanted.image, same.name),
            ));
        }
        let task = self.task(row.clone())?;
        if let Err(e) = task.open(accept_loss).await {
            self.volumes.lock().remove(&row.name);
            return Err(e);
        }
        self.catalog.add_volume(&row)?;
        Ok(task.view())
    }

    pub(crate) fn refuse_duplicate(&self, name: &str) -> Result<()> {
        match self.volumes.lock().contains_key(name) {
            true => Err(Error::new(ErrorKind::Exists, format!("a volume named {name:?} exists already"))),
            false => Ok(()),
        }
    }

    pub(crate) fn target_name(&self, volume: &str) -> String {
        format!("{}:{}.{volume}", self.config.iscsi.prefix, self.config.name)
    }

    fn choose_bucket(&self, wanted: Option<&str>) -> Result<String> {
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

    fn choose_disk(&self, wanted: Option<&str>) -> Result<String> {
        if let Some(name) = wanted {
            let known = self.disks.contains_key(name);
            let unknown = || {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no cache disk {name:?} in the configuration"),
                )
            };
            return if known { Ok(name.to_owned()) } else { Err(unknown()) };
        }
        let volumes = self.volumes.lock();
        let load = |disk: &&String| volumes.values().filter(|v| v.row().disk == **disk).count();
        let least = self.disks.keys().min_by_key(load);
        least.cloned().ok_or_else(|| Error::invalid("the configuration has no cache disk"))
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<VolumeView> {
        self.volumes.lock().values().map(|task| task.view()).collect()
    }

    /// One volume.
    pub fn show_volume(&self, name: &str) -> Result<VolumeView> {
        Ok(self.volume(name)?.view())
    }

    /// Changes a volume's size.
    pub async fn resize_volume(&self, name: &str, size: u64) -> Result<VolumeView> {
        let _one = self.changing.lock().await;
        let task = self.volume(name)?;
        check_size(size, task.row().block_size)?;
        task.resize(size / SECTOR).await?;
        self.catalog.set_size(name, ByteSize(size))?;
        Ok(task.view())
    }

    /// Changes who may use a volume.
    pub async fn set_access(&self, name: &str, access: Access) -> Result<VolumeView> {
        let _one = self.changing.lock().await;
        access.authentication()?;
        access.allow()?;
        let task = self.volume(name)?;
        task.set_access(access.clone())?;
        self.catalog.set_access(name, &access)?;
        Ok(task.view())
    }

    /// Waits until everything acknowledged by now is in the bucket.
    pub async fn drain_volume(&self, name: &str) -> Result<VolumeView> {
        let task = self.volume(name)?;
        let image = task.image().ok_or_else(|| crate::volume::not_open(name))?;
        image.drain().await?;
        Ok(task.view())
    }

    /// Lets go of a volume in good order: it stays in its bucket, and any gateway may adopt it. One that another gateway owns
    /// is only forgotten here; its fork, if there is one, stays.
    pub async fn release_volume(&self, name: &str) -> Result<()> {
        let one = self.changing.lock().await;
        let task = self.volume(name)?;
        match task.image() {
            Some(image) if is_fenced(&image) => {
                task.hide();
                task.abandon_image().await;
            }
            Some(image) => {
                task.hide();
                // It takes as long as the bucket does: other volumes' affairs, and a stop, do not wait for that.
                drop(one);
                image.close().await?;
            }
            None if task.is_refused() => {}
            None => return Err(crate::volume::not_open(name)),
        }
        self.volumes.lock().remove(name);
        self.catalog.remove_volume(name)
    }

    /// Deletes a volume and all its data, here and in the bucket. `Fenced` if another gateway owns it; `Denied` while
    /// volumes that were made from it exist.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        let _one = self.changing.lock().await;
        let task = self.volume(name)?;
        let row = task.row();
        let store = self.bucket(&row.bucket)?;
        if self.is_foreign(&task, &*store).await? {
            return Err(Error::fenced(format!(
                "volume {name:?} belongs to another gateway now: delete it there, or take it off this one with \
                 `tidegate volume release {name}`"
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
        let parents = parents(&*store, row.image).await?;
        task.hide();
        task.abandon().await;
        delete_image(&*store, row.image).await?;
        image::unpin_clone(&*store, &parents, row.image).await?;
        if let Some(disk) = self.disks.get(&row.disk) {
            for file in disk.spool.list(row.image) {
                disk.spool.remove(row.image, &file.name).await?;
            }
            disk.cache.invalidate_image(row.image);
        }
        self.volumes.lock().remove(name);
        self.catalog.remove_volume(name)
    }

    /// Whether another gateway's journal may hold what the volume's newest writes are.
    async fn is_foreign(&self, task: &VolumeTask, store: &dyn Bucket) -> Result<bool> {
        if let Some(image) = task.image() {
            return Ok(is_fenced(&image));
        }
        match chain::load(store, task.image_id()).await {
            Ok(loaded) => Ok(!loaded.chain.clean
                && loaded
                    .last_owner
                    .is_some_and(|last| self.disks.values().all(|disk| disk.journal.id() != last.journal))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Everything an operator sees.
    pub fn view(&self) -> Result<GatewayView> {
        Ok(GatewayView {
            name: self.config.name.clone(),
            id: self.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            portals: self.addresses.iter().map(SocketAddr::to_string).collect(),
            disks: self.disks.values().map(|disk| disk.view()).collect(),
            buckets: self.buckets()?,
            volumes: self.volumes(),
            forks: self.forks(),
            sessions: self.targets.sessions().into_iter().map(session).collect(),
            events: self.events.newest(50),
        })
    }

    /// Ends everything in good order: initiators are asked to go, volumes are closed as far as the time set allows, and
    /// what does not reach the buckets stays in the journals. `progress` hears how many bytes are still to go.
    pub async fn stop(&self, progress: impl Fn(u64)) -> Result<()> {
        // A change under way is let finish if it is quick; one that waits for a bucket must not hold up a stop.
        let _one = tokio::time::timeout(CHANGE_WITHIN, self.changing.lock()).await;
        let portal = self.portal.lock().take();
        if let Some(portal) = portal {
            portal.stop(Duration::from_secs(2)).await;
        }
        let tasks: Vec<_> = self.volumes.lock().values().cloned().collect();
        let limit = self.config.stop_within;
        let closing = async {
            let mut closings = tokio::task::JoinSet::new();
            for task in &tasks {
                let task = task.clone();
                closings.spawn(async move { task.close(limit).await });
            }
            while closings.join_next().await.is_some() {}
        };
        tokio::pin!(closing);
        loop {
            tokio::select! {
                biased;
                () = &mut closing => break,
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    progress(tasks.iter().map(|task| task.view().dirty).sum());
                }
            }
        }
        for disk in self.disks.values() {
            disk.close().await?;
        }
        self.lock.lock().take();
        Ok(())
    }
}

/// Catalog and API socket are one gateway's. `Busy` if another process has them.
fn lock_directory(data: &Path) -> Result<File> {
    let path = data.join("gateway.lock");
    let failed = |e: std::io::Error| {
        Error::caused(
            ErrorKind::Denied,
            format!("cannot lock {}: make it writable for the gateway", path.display()),
            e,
        )
    };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{} belongs to a gateway that runs: stop that one, or use another data directory",
                data.display()
            ),
        )),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

fn guessed(Guessing { address, times }: Guessing) -> String {
    format!(
        "{address} failed to prove itself by CHAP {times} times in a row and is answered late now: compare names and \
         secrets, or keep it out with --network"
    )
}

fn session(s: scsi::iscsi::SessionView) -> SessionView {
    SessionView {
        initiator: s.initiator.to_string(),
        peer: s.peer.to_string(),
        target: s.target.map(|t| t.to_string()),
        commands: s.commands,
        bytes_in: s.bytes_in,
        bytes_out: s.bytes_out,
    }
}

async fn probe(name: &str, store: &Arc<dyn Bucket>, seams: &Seams) -> Result<ProbeView> {
    let report = bucket::probe(store, &*seams.entropy).await?;
    Ok(ProbeView { name: name.to_owned(), findings: findings(&report) })
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

fn is_fenced(image: &image::Image) -> bool {
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

async fn find_image(store: &dyn Bucket, wanted: &str) -> Result<chain::ImageRecord> {
    if let Ok(id) = wanted.parse::<ImageId>() {
        return chain::read_image(store, id).await;
    }
    let mut found: Vec<chain::ImageRecord> = Vec::new();
    for (_, record) in chain::list_images(store).await? {
        found.extend(record.ok().filter(|record| record.name == wanted));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::new(
            ErrorKind::NotFound,
            format!("the bucket has no volume that was created as {wanted:?}"),
        )),
        _ => {
            let ids: Vec<String> = found.iter().map(|r| r.image.to_string()).collect();
            Err(Error::invalid(format!(
                "several volumes were created as {wanted:?}; say which by id: {}",
                ids.join(", ")
            )))
        }
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

pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if is_name(name) {
        Ok(())
    } else {
        Err(Error::invalid(format!("{name:?} cannot name a {what}: {NAME_RULE}")))
    }
}

fn check_size(size: u64, block_size: u32) -> Result<()> {
    if !matches!(block_size, 512 | 4096) {
        return Err(Error::invalid(format!("block size {block_size}: it must be 512 or 4096")));
    }
    if size == 0 || size > LARGEST || !size.is_multiple_of(u64::from(block_size)) {
        return Err(Error::invalid(format!(
            "size {size}: it must be a multiple of {block_size} bytes, above 0 and at most 256 TiB"
        )));
    }
    Ok(())
}

/// A bucket's URL without its parameters, which may hold what not everybody should see.
fn hide_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| {
        Error::caused(ErrorKind::Denied, format!("cannot make the directory {}", path.display()), e)
    })
}
