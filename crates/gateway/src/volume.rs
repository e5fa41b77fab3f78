//! The life of one volume: opened when its bucket answers, shown as a target, closed in good order.

use std::sync::Arc;
use std::time::Duration;

use base::{Epoch, ErrorKind, ImageId, Result};
use futures_util::future::{AbortHandle, abortable};
use image::{Condition, Env, Image, OpenRequest, Status};
use parking_lot::Mutex;
use portal::Volume;
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::{IscsiName, Portals, TargetConfig, TargetRegistry};

use crate::catalog::VolumeRow;
use crate::disk::CacheDisk;
use crate::target::Access;
use crate::view::VolumeView;

/// The LUN of a volume in its target.
pub(crate) const LUN: u16 = 0;
/// Waits between attempts to open a volume whose bucket does not answer.
const RETRY: Duration = Duration::from_secs(5);

/// A volume in the catalog, at work or not.
pub(crate) struct VolumeTask {
    row: Mutex<VolumeRow>,
    env: Env,
    disk: Arc<CacheDisk>,
    targets: Arc<TargetRegistry>,
    state: Mutex<State>,
}

enum State {
    /// Not yet; why the last attempt failed.
    Opening(Option<String>),
    Open(Box<Opened>),
    /// It will not open by itself.
    Refused(String),
    /// It was closed or deleted.
    Ended,
}

#[derive(Clone)]
struct Opened {
    image: Image,
    unit: Arc<LogicalUnit>,
    device: Arc<TargetDevice>,
    _background: Arc<Background>,
}

/// Work that ends when this is dropped.
struct Background(AbortHandle);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl VolumeTask {
    pub fn new(
        row: VolumeRow,
        env: Env,
        disk: Arc<CacheDisk>,
        targets: Arc<TargetRegistry>,
    ) -> Arc<VolumeTask> {
        Arc::new(VolumeTask {
            row: Mutex::new(row),
            env,
            disk,
            targets,
            state: Mutex::new(State::Opening(None)),
        })
    }

    pub fn row(&self) -> VolumeRow {
        self.row.lock().clone()
    }

    pub fn image_id(&self) -> ImageId {
        self.row.lock().image
    }

    /// Tries until the volume is open or refuses for a reason that waiting does not change.
    pub async fn open(&self, accept_loss: Option<Epoch>) -> Result<()> {
        loop {
            match self.try_open(accept_loss).await {
                Ok(()) => return Ok(()),
                Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Busy) => {
                    tracing::warn!("volume {} waits: {e}", self.row.lock().name);
                    let mut state = self.state.lock();
                    if !matches!(*state, State::Opening(_)) {
                        return Ok(());
                    }
                    *state = State::Opening(Some(e.to_string()));
                }
                Err(e) => {
                    tracing::error!("volume {} does not open: {e}", self.row.lock().name);
                    *self.state.lock() = State::Refused(e.to_string());
                    return Err(e);
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_open(&self, accept_loss: Option<Epoch>) -> Result<()> {
        let row = self.row();
        let recovered = self.disk.recovered(row.image);
        let request = OpenRequest { image: row.image, recovered, accept_loss };
        let image = Image::open(self.env.clone(), request).await?;
        self.disk.adopted(row.image);
        let unit = LogicalUnit::new(
            Identity::of_image(row.image, env!("CARGO_PKG_VERSION")),
            Arc::new(Volume::new(image.clone())),
        )
        .await?;
        let device = Arc::new(TargetDevice::new(&row.target));
        device.attach(LUN, unit.clone());
        let background = Arc::new(self.keep_up(unit.clone()));
        self.targets.add(target(&row, device.clone())?)?;
        *self.state.lock() = State::Open(Box::new(Opened { image, unit, device, _background: background }));
        Ok(())
    }

    /// Carries on the unit's own work until the result is dropped: the work holds the image, which would never end otherwise.
    fn keep_up(&self, unit: Arc<LogicalUnit>) -> Background {
        let (work, handle) = abortable(async move { unit.background().await });
        self.env.spawn.spawn("logical-unit", Box::pin(async move { work.await.unwrap_or_default() }));
        Background(handle)
    }

    fn opened(&self) -> Option<Opened> {
        match &*self.state.lock() {
            State::Open(opened) => Some(Opened::clone(opened)),
            _ => None,
        }
    }

    /// Whether it will not open by itself.
    pub fn is_refused(&self) -> bool {
        matches!(*self.state.lock(), State::Refused(_))
    }

    /// The image, if it is open.
    pub fn image(&self) -> Option<Image> {
        self.opened().map(|opened| opened.image)
    }

    /// Changes the size, tells initiators.
    pub async fn resize(&self, sectors: u64) -> Result<()> {
        let Some(opened) = self.opened() else { return Err(not_open(&self.row.lock().name)) };
        opened.image.resize(sectors).await?;
        opened.unit.capacity_changed();
        self.row.lock().size = base::ByteSize(sectors * base::SECTOR);
        Ok(())
    }

    /// Changes who may use it; sessions that may no longer are closed.
    pub fn set_access(&self, access: Access) -> Result<()> {
        let mut row = self.row();
        row.access = access;
        if let Some(opened) = self.opened() {
            self.targets.update(target(&row, opened.device)?)?;
        }
        *self.row.lock() = row;
        Ok(())
    }

    /// Takes the target away; initiators are logged out.
    pub fn hide(&self) {
        if let Some(opened) = self.opened()
            && let Ok(name) = self.row.lock().target.parse::<IscsiName>()
        {
            // It may be gone already; then there is nothing to hide.
            let _ = self.targets.remove(&name);
            opened.device.detach(LUN);
        }
    }

    /// Closes the image in good order within `limit`; what does not reach the bucket by then stays in the journal.
    pub async fn close(&self, limit: Duration) -> bool {
        let Some(opened) = self.opened() else { return true };
        let closed = match tokio::time::timeout(limit, opened.image.close()).await {
            Ok(Ok(())) => true,
            Ok(Err(e)) => {
                tracing::warn!("volume {} was not closed: {e}", self.row.lock().name);
                false
            }
            Err(_) => {
                let left = opened.image.status().dirty;
                tracing::warn!(
                    "volume {}: {left} stay in the journal until the next start",
                    self.row.lock().name
                );
                false
            }
        };
        if !closed {
            // It ends either way; an image that failed has nobody left to answer.
            let _ = tokio::time::timeout(Duration::from_secs(2), opened.image.halt()).await;
        }
        *self.state.lock() = State::Ended;
        closed
    }

    /// Ends it without saving anything, before it is deleted.
    pub async fn abandon(&self) {
        self.abandon_image().await;
        self.disk.journal.release_owner(self.image_id());
    }

    /// Ends its background work; what the journal holds stays.
    pub async fn abandon_image(&self) {
        if let Some(opened) = self.opened() {
            let _ = tokio::time::timeout(Duration::from_secs(2), opened.image.halt()).await;
        }
        *self.state.lock() = State::Ended;
    }

    pub fn view(&self) -> VolumeView {
        let row = self.row();
        let (state, reason, status) = match &*self.state.lock() {
            State::Opening(why) => ("opening", why.clone(), None),
            State::Refused(why) => ("refused", Some(why.clone()), None),
            State::Ended => ("closed", None, None),
            State::Open(opened) => {
                let status = opened.image.status();
                let (state, reason) = condition(&status);
                (state, reason, Some(status))
            }
        };
        view(row, state, reason, status)
    }
}

fn condition(status: &Status) -> (&'static str, Option<String>) {
    match &status.condition {
        Condition::Open => ("open", None),
        Condition::Closed => ("closed", None),
        Condition::Fenced(why) => ("fenced", Some(why.clone())),
        Condition::Failed(_, why) => ("failed", Some(why.clone())),
    }
}

fn view(row: VolumeRow, state: &str, reason: Option<String>, status: Option<Status>) -> VolumeView {
    let at = |f: fn(&Status) -> u64| status.as_ref().map_or(0, f);
    VolumeView {
        image: row.image.to_string(),
        bucket: row.bucket,
        disk: row.disk,
        size: status.as_ref().map_or(row.size.0, |s| s.size.0),
        block_size: row.block_size,
        target: row.target,
        lun: LUN,
        state: state.to_owned(),
        reason,
        epoch: at(|s| s.epoch.0),
        dirty: at(|s| s.dirty.0),
        oldest_dirty: status.as_ref().and_then(|s| s.oldest_dirty),
        local_segments: at(|s| s.spooled.0),
        uploaded: at(|s| s.uploaded.0),
        drain_rate: at(|s| s.drain_rate as u64),
        stored: at(|s| s.sectors.0 * base::SECTOR),
        live: at(|s| s.sectors.1 * base::SECTOR),
        trouble: status.as_ref().and_then(|s| s.trouble.clone()).map(|(_, text)| text),
        trouble_since: status.as_ref().and_then(|s| s.trouble.as_ref()).map(|(since, _)| *since),
        chap: !row.access.chap.is_empty(),
        name: row.name,
    }
}

pub(crate) fn not_open(name: &str) -> base::Error {
    base::Error::new(
        ErrorKind::Unavailable,
        format!("volume {name:?} is not open; `tidegate volume show {name}` says why"),
    )
}

fn target(row: &VolumeRow, device: Arc<TargetDevice>) -> Result<TargetConfig> {
    let mut config = TargetConfig::open(row.target.parse()?, device);
    config.alias = Some(row.name.clone());
    config.authentication = row.access.authentication()?;
    config.allow = row.access.allow()?;
    config.portals = Portals::default();
    Ok(config)
}
