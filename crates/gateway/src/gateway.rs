//! The gateway: brings up disks, buckets, volumes and the portal, and carries out what its users ask for.

use std::collections::BTreeMap;
use std::fs::{File, Permissions, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, Clock, Entropy, Epoch, Error, ErrorKind, GatewayId, ImageId, Result, SECTOR, Spawn};
use bucket::Bucket;
use image::Severity;
use parking_lot::Mutex;
use portal::Portal;
use scsi::iscsi::{Guessing, TargetRegistry};
use tokio::sync::oneshot;

use crate::catalog::{Catalog, VolumeRow};
use crate::config::{Config, NAME_RULE, is_name, target_name};
use crate::disks::Disks;
use crate::event::EventLog;
use crate::ground::Ground;
use crate::target::Access;
use crate::view::{GatewayView, SessionView, VolumeView};
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
    /// The cache disk; if not said, the one whose journal has its newest writes, or else the one with the fewest volumes.
    pub disk: Option<String>,
    /// The epoch of another gateway whose newest writes, not yet uploaded, are given up.
    pub accept_loss: Option<u64>,
    /// Who may use it.
    #[serde(default)]
    pub access: Access,
}

/// The largest volume (L09).
const LARGEST: u64 = 256 << 40;

/// A running gateway.
pub struct Gateway {
    pub(crate) ground: Arc<Ground>,
    pub(crate) catalog: Catalog,
    pub(crate) volumes: Mutex<BTreeMap<String, Arc<VolumeTask>>>,
    targets: Arc<TargetRegistry>,
    portal: Mutex<Option<Portal>>,
    /// Keeps other gateways off the data directory until this one has stopped.
    lock: Mutex<Option<File>>,
    addresses: Vec<SocketAddr>,
    /// One change of the catalog at a time.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
}

/// How long a stop waits for a change under way.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);

impl Gateway {
    /// Brings everything up. Volumes whose bucket or cache disk is not there yet open later by themselves.
    pub async fn start(config: Config, seams: Seams) -> Result<Arc<Gateway>> {
        let gateway = Gateway::prepare(config, seams).await?;
        gateway.open_volumes();
        Ok(gateway)
    }

    /// Brings up everything but the volumes, which take nothing in their buckets until [`Gateway::open_volumes`]: where the buckets
    /// are can be settled before.
    pub async fn prepare(config: Config, seams: Seams) -> Result<Arc<Gateway>> {
        config.check()?;
        make_directory(&config.data)?;
        let lock = lock_directory(&config.data)?;
        let (catalog, id) =
            Catalog::open(&config.data.join("catalog.db"), GatewayId::generate(&*seams.entropy))?;
        let disks = Disks::open(&config, &seams, &catalog).await?;
        let events = EventLog::new(seams.clock.clone());
        let targets = TargetRegistry::new(seams.entropy.clone(), crate::memory::for_sessions());
        targets.set_discovery(config.iscsi.discovery()?);
        let log = events.clone();
        targets.on_guessing(move |guessing| log.note(Severity::Warning, guessed(guessing)));
        let threads = (config.iscsi.threads > 0).then_some(config.iscsi.threads);
        let files = local::open_files();
        if let Some(text) = crate::descriptors::shortage(files) {
            events.note(Severity::Warning, text);
        }
        let options = portal::Options { threads, connections: crate::descriptors::connections(files) };
        let portal = Portal::start(&config.iscsi.listen, targets.clone(), options, &*seams.spawn)?;
        crate::memory::prepare(config.memory, &*seams.spawn);
        let gateway = Arc::new(Gateway {
            addresses: portal.addresses().to_vec(),
            portal: Mutex::new(Some(portal)),
            lock: Mutex::new(Some(lock)),
            volumes: Mutex::default(),
            changing: Arc::default(),
            ground: Arc::new(Ground::new(config, seams, id, events, disks)),
            catalog,
            targets,
        });
        for row in gateway.catalog.buckets()? {
            gateway.ground.know_bucket(row);
        }
        let rows = gateway.catalog.volumes()?;
        gateway.sort_out_journals(&rows)?;
        gateway.keep_disks().await;
        for row in rows {
            gateway.task(row);
        }
        Ok(gateway)
    }

    /// Opens the volumes of a gateway that was prepared. Once.
    pub fn open_volumes(&self) {
        let tasks: Vec<_> = self.volumes.lock().values().cloned().collect();
        tasks.into_iter().for_each(|task| self.open_by_itself(task));
    }

    /// Opens a volume of the catalog that nobody waits for.
    pub(crate) fn open_by_itself(&self, task: Arc<VolumeTask>) {
        let work = async move {
            // What is wrong stands in the volume's view and in the log.
            let _ = task.open(None).await;
        };
        self.ground.seams.spawn.spawn("open-volume", Box::pin(work));
    }

    /// Where iSCSI listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.ground.config
    }

    /// The task of a volume in the catalog, which is not open yet.
    pub(crate) fn task(&self, row: VolumeRow) -> Arc<VolumeTask> {
        self.begin(row, false)
    }

    fn begin(&self, row: VolumeRow, is_new: bool) -> Arc<VolumeTask> {
        let name = row.name.clone();
        let task = VolumeTask::new(row, is_new, self.ground.clone(), self.targets.clone());
        self.volumes.lock().insert(name, task.clone());
        task
    }

    pub(crate) fn volume(&self, name: &str) -> Result<Arc<VolumeTask>> {
        self.volumes.lock().get(name).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no volume {name:?}; `tidegate volume list` shows all"),
            )
        })
    }

    /// A volume that is to be changed. `Busy` if it is on its way out.
    pub(crate) fn volume_to_change(&self, name: &str) -> Result<Arc<VolumeTask>> {
        let task = self.volume(name)?;
        task.changeable()?;
        Ok(task)
    }

    /// Waits a little for a volume that is just being opened. Not while others wait for their changes.
    pub(crate) async fn let_open(&self, name: &str) {
        if let Ok(task) = self.volume(name) {
            task.opens_soon().await;
        }
    }

    /// Makes a change when it is its turn, and carries it through though the caller may be gone, as one is whose client hangs up:
    /// half a change is worse than one that nobody waits for. What nobody waits for any more before its turn is not begun.
    pub(crate) async fn change<T, F>(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(Arc<Gateway>) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.change_then(what, work, |_, done| std::future::ready(Ok(done))).await
    }

    /// The same for a change with a `rest` that may take long and that other changes do not wait for.
    pub(crate) async fn change_then<P, T, F, G>(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(Arc<Gateway>) -> F + Send + 'static,
        rest: impl FnOnce(Arc<Gateway>, P) -> G + Send + 'static,
    ) -> Result<T>
    where
        P: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<P>> + Send + 'static,
        G: Future<Output = Result<T>> + Send + 'static,
    {
        let one = self.changing.clone().lock_owned().await;
        let (tell, told) = oneshot::channel();
        let gateway = self.clone();
        let all = async move {
            let changed = work(gateway.clone()).await;
            drop(one);
            let done = match changed {
                Ok(changed) => rest(gateway, changed).await,
                Err(e) => Err(e),
            };
            // Who asked may be gone.
            let _ = tell.send(done);
        };
        self.ground.seams.spawn.spawn(what, Box::pin(all));
        told.await.unwrap_or_else(|e| {
            let text =
                "the gateway stopped in the middle of this: see after the next start what has come of it";
            Err(Error::caused(ErrorKind::Unavailable, text, e))
        })
    }

    /// Creates a volume and opens it.
    pub async fn create_volume(self: &Arc<Self>, wanted: CreateVolume) -> Result<VolumeView> {
        let create = |gateway: Arc<Gateway>| async move { gateway.create(wanted).await };
        self.change_then("create-volume", create, |gateway, task| gateway.bring_up(task, None)).await
    }

    async fn create(&self, wanted: CreateVolume) -> Result<Arc<VolumeTask>> {
        check_name("volume", &wanted.name)?;
        let block_size = wanted.block_size.unwrap_or(512);
        check_size(wanted.size, block_size)?;
        wanted.access.authentication()?;
        wanted.access.allow()?;
        let bucket = self.ground.choose_bucket(wanted.bucket.as_deref())?;
        let row = VolumeRow {
            image: ImageId::generate(&*self.ground.seams.entropy),
            disk: self.choose_disk(wanted.disk.as_deref())?,
            size: ByteSize(wanted.size),
            block_size,
            target: self.target_name(&wanted.name),
            access: wanted.access,
            bucket,
            name: wanted.name,
        };
        self.refuse_twice(&row.name, row.image)?;
        let store = self.ground.bucket(&row.bucket)?;
        let now = self.ground.seams.clock.now();
        image::create(&*store, now, row.image, &row.name, row.size, row.block_size).await?;
        self.catalog.add_volume(&row)?;
        Ok(self.task(row))
    }

    /// Takes over a volume that is in a bucket already.
    pub async fn adopt_volume(self: &Arc<Self>, wanted: AdoptVolume) -> Result<VolumeView> {
        let accept_loss = wanted.accept_loss.map(Epoch);
        let adopt = |gateway: Arc<Gateway>| async move { gateway.adopt(wanted).await };
        self.change_then("adopt-volume", adopt, move |gateway, task| gateway.bring_up(task, accept_loss))
            .await
    }

    async fn adopt(&self, wanted: AdoptVolume) -> Result<Arc<VolumeTask>> {
        check_name("volume", &wanted.name)?;
        wanted.access.authentication()?;
        wanted.access.allow()?;
        if let Ok(known) = self.volume(&wanted.name) {
            known.settled()?;
        }
        let bucket = self.ground.choose_bucket(wanted.bucket.as_deref())?;
        let store = self.ground.bucket(&bucket)?;
        let record = find_image(&bucket, &*store, &wanted.image).await?;
        let known = self.volumes.lock().get(&wanted.name).cloned();
        if let Some(known) = known.filter(|known| known.image_id() == record.image) {
            // The same volume, refused at first, is tried again with the loss accepted.
            return self.adopt_again(&known, &bucket, wanted.disk.as_deref(), wanted.access).await;
        }
        self.refuse_twice(&wanted.name, record.image)?;
        let row = VolumeRow {
            image: record.image,
            disk: self.disk_to_adopt_on(&*store, record.image, wanted.disk.as_deref()).await?,
            size: record.size,
            block_size: record.block_size,
            target: self.target_name(&wanted.name),
            access: wanted.access,
            bucket,
            name: wanted.name,
        };
        // Its epochs need not be later than those of a life here that ended: its bucket may be an older copy.
        let disk = self.ground.disks.get(&row.disk)?;
        self.catalog.unsettle(disk.journal.id(), row.image)?;
        Ok(self.begin(row, true))
    }

    /// Opens a volume, as the end of a change. Nothing else waits for it: a bucket may be away for long. One that is new to the
    /// catalog is entered when it is open, and forgotten if it refuses.
    pub(crate) async fn bring_up(
        self: Arc<Self>,
        task: Arc<VolumeTask>,
        accept_loss: Option<Epoch>,
    ) -> Result<VolumeView> {
        let opened = task.open(accept_loss).await;
        self.enter(&task, opened).await?;
        Ok(task.view())
    }

    /// Enters a volume into the catalog whose opening has come to an end, unless it stands there already.
    async fn enter(&self, task: &Arc<VolumeTask>, opened: Result<()>) -> Result<()> {
        let _one = self.changing.lock().await;
        // As it is found; the record of its creation may be older than its size.
        let row = VolumeRow { size: ByteSize(task.view().size), ..task.row() };
        let known = self.catalog.volumes()?.iter().any(|known| known.image == row.image);
        // Once it was open it may have been released or deleted again.
        let here = self.volumes.lock().get(&row.name).is_some_and(|here| Arc::ptr_eq(here, task));
        if known || !here {
            return opened;
        }
        let entered = opened.and_then(|()| self.catalog.add_volume(&row));
        if entered.is_err() {
            task.hide();
            task.abandon_image().await;
            task.forget_target();
            self.volumes.lock().remove(&row.name);
        }
        entered
    }

    /// A new task for a volume of this gateway that refused to open, or was lost to another gateway.
    /// Without new rules, those it has stay.
    async fn adopt_again(
        &self,
        known: &VolumeTask,
        bucket: &str,
        disk: Option<&str>,
        access: Access,
    ) -> Result<Arc<VolumeTask>> {
        let mut row = known.row();
        if row.bucket != bucket || disk.is_some_and(|disk| disk != row.disk) {
            return Err(Error::invalid(format!(
                "volume {:?} is in bucket {:?} and on cache disk {:?} here: leave --bucket and --disk out, or give these",
                row.name, row.bucket, row.disk
            )));
        }
        if known.image().is_some_and(|image| image.usable().is_ok()) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("volume {:?} is open on this gateway already: just use it", row.name),
            ));
        }
        if access != Access::default() {
            self.catalog.set_access(&row.name, &access)?;
            row.access = access;
        }
        known.hide();
        known.abandon_image().await;
        Ok(self.task(row))
    }

    /// Refuses a new volume whose name, image or target one of this gateway has already.
    pub(crate) fn refuse_twice(&self, name: &str, image: ImageId) -> Result<()> {
        let known = self.volumes.lock().values().find(|task| task.is_or_has(name, image)).cloned();
        if let Some(known) = &known {
            known.changeable()?;
        }
        self.catalog.refuse_volume_twice(name, image, &self.target_name(name))?;
        // What is being adopted is not in the catalog yet.
        known.map_or(Ok(()), |known| Err(crate::volume::not_open(&known)))
    }

    pub(crate) fn target_name(&self, volume: &str) -> String {
        target_name(&self.config().iscsi.prefix, &self.config().name, volume)
    }

    fn choose_disk(&self, wanted: Option<&str>) -> Result<String> {
        if let Some(name) = wanted {
            return self.ground.disks.get(name).map(|_| name.to_owned());
        }
        let volumes = self.volumes.lock();
        let load = |disk: &&String| volumes.values().filter(|v| v.row().disk == **disk).count();
        let names: Vec<String> = self.ground.disks.working().into_iter().map(|(name, _)| name).collect();
        let least = names.iter().min_by_key(load);
        least.cloned().ok_or_else(|| {
            let text = "no cache disk can be used: `tidegate status` says why";
            Error::new(ErrorKind::Unavailable, text)
        })
    }

    /// The cache disk for a volume that comes from a bucket. One that was not closed goes on without a loss only where the journal of
    /// its last owner is, and the catalog that knew the disk may be lost.
    async fn disk_to_adopt_on(
        &self,
        store: &dyn Bucket,
        image: ImageId,
        wanted: Option<&str>,
    ) -> Result<String> {
        let disks = self.ground.disks.working();
        if wanted.is_none() && disks.len() > 1 {
            let loaded = chain::load(store, image).await?;
            let last = loaded.last_owner.filter(|_| !loaded.chain.clean);
            let is_lasts = |disk: &crate::disk::CacheDisk| {
                last.as_ref().is_some_and(|last| image::is_own(&disk.journal, last))
            };
            if let Some((name, _)) = disks.into_iter().find(|(_, disk)| is_lasts(disk)) {
                return Ok(name);
            }
        }
        self.choose_disk(wanted)
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<VolumeView> {
        self.volumes.lock().values().map(|task| task.view()).collect()
    }

    /// One volume.
    pub fn show_volume(&self, name: &str) -> Result<VolumeView> {
        Ok(self.volume(name)?.view())
    }

    /// Changes a volume's size. A smaller one loses what lies behind it: `Denied` unless told `may_lose`.
    pub async fn resize_volume(
        self: &Arc<Self>,
        name: &str,
        size: u64,
        may_lose: bool,
    ) -> Result<VolumeView> {
        self.let_open(name).await;
        let name = name.to_owned();
        self.change("resize-volume", move |gateway| async move {
            let task = gateway.volume_to_change(&name)?;
            check_size(size, task.row().block_size)?;
            let now = task.view().size;
            if size < now && !may_lose {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!(
                        "this makes volume {name:?} smaller, {} instead of {}: what lies behind is lost for good; say --yes to do it",
                        ByteSize(size),
                        ByteSize(now)
                    ),
                ));
            }
            task.resize(size / SECTOR).await?;
            gateway.catalog.set_size(&name, ByteSize(size))?;
            Ok(task.view())
        })
        .await
    }

    /// Changes who may use a volume.
    pub async fn set_access(&self, name: &str, access: Access) -> Result<VolumeView> {
        let _one = self.changing.lock().await;
        access.authentication()?;
        access.allow()?;
        let task = self.volume_to_change(name)?;
        task.set_access(access.clone())?;
        self.catalog.set_access(name, &access)?;
        Ok(task.view())
    }

    /// Waits until everything acknowledged by now is in the bucket.
    pub async fn drain_volume(&self, name: &str) -> Result<VolumeView> {
        self.let_open(name).await;
        let task = self.volume(name)?;
        let image = task.image().ok_or_else(|| crate::volume::not_open(&task))?;
        image.drain().await?;
        Ok(task.view())
    }

    /// Everything an operator sees.
    pub fn view(&self) -> GatewayView {
        GatewayView {
            name: self.config().name.clone(),
            id: self.ground.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            portals: self.addresses.iter().map(SocketAddr::to_string).collect(),
            disks: self.ground.disks.views(),
            buckets: self.buckets(),
            volumes: self.volumes(),
            forks: self.forks(),
            sessions: self.targets.sessions().into_iter().map(session).collect(),
            events: self.ground.events.newest(50),
        }
    }

    /// Ends everything in good order: initiators are asked to go, volumes are closed as far as the time set allows, and
    /// what does not reach the buckets stays in the journals. `progress` hears how many bytes are still to go.
    pub async fn stop(&self, progress: impl Fn(u64)) -> Result<()> {
        let disks = self.ground.disks.end();
        // A change under way is let finish if it is quick; one that waits for a bucket must not hold up a stop.
        let _one = tokio::time::timeout(CHANGE_WITHIN, self.changing.lock()).await;
        let portal = self.portal.lock().take();
        if let Some(portal) = portal {
            portal.stop(Duration::from_secs(2)).await;
        }
        let tasks: Vec<_> = self.volumes.lock().values().cloned().collect();
        let limit = self.config().stop_within;
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
        let mut closed = Ok(());
        for disk in disks {
            closed = closed.and(disk.close().await);
        }
        self.lock.lock().take();
        closed
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
        "{address} failed to prove itself by CHAP {times} times and is answered late now: compare names and \
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

/// An image of a bucket, by its id or the name it was created under.
async fn find_image(bucket: &str, store: &dyn Bucket, wanted: &str) -> Result<chain::ImageRecord> {
    let unknown = |what: &str| {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "bucket {bucket:?} has no volume {what} {wanted:?}: check that, or say --bucket NAME for another"
            ),
        )
    };
    if let Ok(id) = wanted.parse::<ImageId>() {
        return match chain::read_image(store, id).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(unknown("with the image")),
            found => found,
        };
    }
    let mut found: Vec<chain::ImageRecord> = Vec::new();
    for (_, record) in chain::list_images(store).await? {
        found.extend(record.ok().filter(|record| record.name == wanted));
    }
    if found.len() > 1 {
        let ids: Vec<String> = found.iter().map(|r| r.image.to_string()).collect();
        return Err(Error::invalid(format!(
            "several volumes were created as {wanted:?}; say which by id: {}",
            ids.join(", ")
        )));
    }
    found.pop().ok_or_else(|| unknown("that was created as"))
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

/// Makes a directory that is the gateway's, and keeps all others out of it. One that is everybody's, as `/tmp` is, stays so.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    let failed =
        |e| Error::caused(ErrorKind::Denied, format!("cannot make the directory {}", path.display()), e);
    std::fs::create_dir_all(path).map_err(failed)?;
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0
        && mode & 0o1000 == 0
        && let Err(e) = std::fs::set_permissions(path, Permissions::from_mode(0o700))
    {
        let path = path.display();
        tracing::warn!("other users may look into {path} ({e}): give it to the user the gateway runs as");
    }
    Ok(())
}
