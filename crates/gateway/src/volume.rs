//! The life of one volume: opened when its bucket answers, shown as a target, closed in good order.

use std::sync::Arc;
use std::time::Duration;

use base::{Epoch, Error, ErrorKind, ImageId, Result};
use futures_util::future::{AbortHandle, abortable};
use image::{Condition, Hold, Image, OpenRequest, Severity, Status, Unclosed};
use parking_lot::Mutex;
use portal::Volume;
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::{IscsiName, Portals, TargetConfig, TargetRegistry};
use tokio::sync::watch;

use crate::catalog::VolumeRow;
use crate::config::Program;
use crate::disk::CacheDisk;
use crate::ground::{Footing, Ground, Place};
use crate::leave::is_fenced;
use crate::target::Access;
use crate::view::VolumeView;

/// The product revision level in INQUIRY: four characters hold no more of a version.
const REVISION: &str = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
/// The LUN of a volume in its target.
pub(crate) const LUN: u16 = 0;
/// Waits between attempts to open a volume whose bucket is away or does not answer.
const RETRY: Duration = Duration::from_secs(5);
/// How long a verb waits for a volume that is just being opened.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// How long an image may take to end without saving anything.
const HALT_WITHIN: Duration = Duration::from_secs(2);

/// A volume in the catalog, at work or not.
pub(crate) struct VolumeTask {
    row: Mutex<VolumeRow>,
    /// The catalog does not know it yet: it is entered when it is open, and who asked for it waits.
    is_new: bool,
    ground: Arc<Ground>,
    targets: Arc<TargetRegistry>,
    state: Mutex<State>,
}

enum State {
    /// Not yet; why the last attempt failed.
    Opening(Option<String>),
    Open(Box<Opened>),
    /// It is closed for good; the second half hangs up when that has come to an end.
    Releasing(Box<Opened>, watch::Receiver<()>),
    /// It will not open by itself; of what kind the reason is, and the reason.
    Refused(ErrorKind, String),
    /// It was closed or deleted.
    Ended,
}

/// A release under way. Dropped, it has come to an end.
pub(crate) struct Departure(#[expect(dead_code, reason = "who waits notices its end")] watch::Sender<()>);

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
        is_new: bool,
        ground: Arc<Ground>,
        targets: Arc<TargetRegistry>,
    ) -> Arc<VolumeTask> {
        if let Ok(name) = row.target.parse::<IscsiName>() {
            targets.expect(name);
        }
        Arc::new(VolumeTask {
            row: Mutex::new(row),
            is_new,
            ground,
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
        let mut waited = false;
        loop {
            let moves = self.bucket_moves();
            match self.try_open(accept_loss).await {
                Ok(()) if waited => {
                    self.note(Severity::Info, "is open now");
                    return Ok(());
                }
                Ok(()) => return Ok(()),
                Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Busy) => {
                    if !self.wait_for(&e) {
                        return Err(e);
                    }
                    waited = true;
                }
                Err(e) if self.refuse(&e, moves) => return Err(e),
                // It was looked for where its bucket was before.
                Err(_) => continue,
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Notes why the volume is not open yet; `false` if nobody wants it open any more.
    fn wait_for(&self, why: &Error) -> bool {
        let why = why.to_string();
        let mut state = self.state.lock();
        let State::Opening(known) = &mut *state else { return false };
        let news = known.as_ref() != Some(&why);
        *known = Some(why.clone());
        drop(state);
        if news {
            self.note(Severity::Warning, &format!("is not open yet: {why}"));
        }
        true
    }

    /// It will not open by itself; `false` if its bucket has moved since `moves` was asked for: at the new address it may.
    fn refuse(&self, why: &Error, moves: u64) -> bool {
        // Who moves a bucket looks for volumes that were not found afterwards: they are refused by then, or see the move here.
        let mut state = self.state.lock();
        if self.bucket_moves() != moves {
            tracing::info!("volume {} did not open where its bucket was: {why}", self.row.lock().name);
            return false;
        }
        self.note(Severity::Error, &format!("does not open: {why}"));
        if matches!(*state, State::Opening(_)) {
            *state = State::Refused(why.kind(), why.to_string());
        }
        true
    }

    fn bucket_moves(&self) -> u64 {
        self.ground.moves_of(&self.row.lock().bucket)
    }

    fn note(&self, severity: Severity, what: &str) {
        self.ground.events.note(severity, format!("volume {} {what}", self.row.lock().name));
    }

    async fn try_open(&self, accept_loss: Option<Epoch>) -> Result<()> {
        if !self.is_opening() {
            return Err(unwanted());
        }
        let row = self.row();
        let Footing { env, disk, place } = self.ground.footing(&row)?;
        let recovered = disk.recovered(row.image);
        let request = OpenRequest { image: row.image, recovered, accept_loss };
        // Nothing is put or counts before it is shown: its bucket could move meanwhile, unknown to this one.
        let (image, hold) = Image::open_held(env, request).await.map_err(|e| self.advised(e))?;
        let unit =
            LogicalUnit::new(Identity::of_image(row.image, REVISION), Arc::new(Volume::new(image.clone())));
        let unit = match unit.await {
            Ok(unit) => unit,
            Err(e) => {
                give_back(&image).await;
                return Err(e);
            }
        };
        let mut hold = Some(hold);
        let shown = self.show(&image, &mut hold, unit, &place, &disk);
        if shown.is_err() {
            give_back(&image).await;
        }
        shown
    }

    /// A refusal for fear of a loss, with the words that accept it.
    fn advised(&self, e: Error) -> Error {
        let Some(Unclosed { epoch }) = Unclosed::find(&e) else { return e };
        let text = format!(
            "{}: close it there, or, if that gateway or its cache disk is lost, give them up for good: {} --accept-loss {epoch}",
            e.context(),
            self.words()
        );
        Error::new(e.kind(), text)
    }

    /// What a user says to open it, before what is accepted.
    fn words(&self) -> String {
        // Only that command knows the rules and the disk it is to have.
        if self.is_new {
            return "the same command again with".into();
        }
        let (row, config) = (self.row(), &self.ground.config);
        let adopt = self.ground.adopt_words(&row);
        let data = config.data.display();
        match config.program {
            Program::Serve => format!("tidegate {adopt}"),
            Program::Demo { volume } if row.name == volume => {
                format!("tidegate demo --data {data}{}", self.ground.demo_bucket_words(&row))
            }
            // The demo goes on without this one, and takes it when it is told so.
            Program::Demo { .. } => format!("tidegate --data-dir {data} {adopt}"),
        }
    }

    /// Lets initiators in and takes the hold away, unless the volume was ended while it opened, or its bucket moved.
    fn show(
        &self,
        image: &Image,
        hold: &mut Option<Hold>,
        unit: Arc<LogicalUnit>,
        place: &Place,
        disk: &CacheDisk,
    ) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(*state, State::Opening(_)) {
            return Err(unwanted());
        }
        // Who moves a bucket holds the volumes that are open by then: this one is among them, or is not opened here.
        self.ground.settle(place)?;
        let row = self.row();
        let device = Arc::new(TargetDevice::new(&row.target));
        device.attach(LUN, unit.clone());
        self.targets.add(target(&row, device.clone())?)?;
        disk.adopted(row.image);
        // From here on it may be written to.
        let background = Arc::new(self.keep_up(unit.clone()));
        *state =
            State::Open(Box::new(Opened { image: image.clone(), unit, device, _background: background }));
        // Before anybody else can hold it.
        hold.take();
        Ok(())
    }

    /// Carries on the unit's own work until the result is dropped: the work holds the image, which would never end otherwise.
    fn keep_up(&self, unit: Arc<LogicalUnit>) -> Background {
        let (work, handle) = abortable(async move { unit.background().await });
        self.ground
            .seams
            .spawn
            .spawn("logical-unit", Box::pin(async move { work.await.unwrap_or_default() }));
        Background(handle)
    }

    fn opened(&self) -> Option<Opened> {
        match &*self.state.lock() {
            State::Open(opened) | State::Releasing(opened, _) => Some(Opened::clone(opened)),
            State::Opening(_) | State::Refused(..) | State::Ended => None,
        }
    }

    /// Waits a little for a volume that is just being opened, as at the start, and has met with no trouble so far: whoever names
    /// it means one that is open.
    pub async fn opens_soon(&self) {
        let begun = tokio::time::Instant::now();
        while matches!(*self.state.lock(), State::Opening(None)) && begun.elapsed() < OPENS_WITHIN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `Busy` while it is being released, `Unavailable` while it is being opened.
    pub fn settled(&self) -> Result<()> {
        self.changeable()?;
        if self.is_opening() { Err(not_open(self)) } else { Ok(()) }
    }

    /// Whether it is not open yet, and tries.
    fn is_opening(&self) -> bool {
        matches!(*self.state.lock(), State::Opening(_))
    }

    /// `Busy` while it is being released.
    pub fn changeable(&self) -> Result<()> {
        let releasing = matches!(*self.state.lock(), State::Releasing(..));
        if releasing { Err(leaving(&self.row.lock().name)) } else { Ok(()) }
    }

    /// Whether it has one of these.
    pub fn is_or_has(&self, name: &str, image: ImageId) -> bool {
        let own = self.row.lock();
        own.name == name || own.image == image
    }

    /// Whether it will not open by itself.
    pub fn is_refused(&self) -> bool {
        matches!(*self.state.lock(), State::Refused(..))
    }

    /// Whether it will not open by itself because it was not found.
    pub fn is_missing(&self) -> bool {
        matches!(*self.state.lock(), State::Refused(ErrorKind::NotFound, _))
    }

    /// The image, if it is open.
    pub fn image(&self) -> Option<Image> {
        self.opened().map(|opened| opened.image)
    }

    /// Changes the size, tells initiators.
    pub async fn resize(&self, sectors: u64) -> Result<()> {
        let Some(opened) = self.opened() else { return Err(not_open(self)) };
        opened.image.resize(sectors).await?;
        opened.unit.capacity_changed();
        self.row.lock().size = base::ByteSize(sectors * base::SECTOR);
        Ok(())
    }

    /// Changes who may use it; sessions that may no longer are closed.
    pub fn set_access(&self, access: Access) -> Result<()> {
        // Who opens it shows it, with the rules that there are, under this lock.
        let state = self.state.lock();
        let mut row = self.row();
        row.access = access;
        if let State::Open(opened) | State::Releasing(opened, _) = &*state {
            self.targets.update(target(&row, opened.device.clone())?)?;
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

    /// Begins its release and takes its target away. `None` if there is nothing to close: it refused to open, or another
    /// gateway owns it. `Unavailable` if what it may have here cannot be told yet.
    pub fn depart(&self) -> Result<Option<Departure>> {
        let mut state = self.state.lock();
        let opened = match &*state {
            State::Refused(..) => return Ok(None),
            State::Open(opened) if is_fenced(&opened.image) => return Ok(None),
            State::Open(opened) => opened.clone(),
            State::Releasing(..) => return Err(leaving(&self.row.lock().name)),
            State::Opening(_) | State::Ended => {
                drop(state);
                return Err(not_open(self));
            }
        };
        let (departure, over) = watch::channel(());
        *state = State::Releasing(opened, over);
        drop(state);
        self.hide();
        Ok(Some(Departure(departure)))
    }

    /// Closes the image in good order, however long that takes; then the journal knows it no more.
    pub async fn close_for_good(&self) -> Result<()> {
        let Some(Opened { image, .. }) = self.opened() else { return Err(not_open(self)) };
        image.close().await?;
        image.ended().await;
        Ok(())
    }

    /// The release has come to an end: the volume is gone, or is what its image has become.
    pub fn departed(&self, departure: Departure, gone: bool) {
        let mut state = self.state.lock();
        *state = match std::mem::replace(&mut *state, State::Ended) {
            State::Releasing(opened, _) if !gone => State::Open(opened),
            State::Releasing(..) => State::Ended,
            // A stop was quicker.
            other => other,
        };
        drop(state);
        drop(departure);
    }

    /// The volume is not this gateway's any more: nobody who asks for its target is to come back.
    pub fn forget_target(&self) {
        if let Ok(name) = self.row.lock().target.parse::<IscsiName>() {
            self.targets.forget(&name);
        }
    }

    /// Closes it in good order within `limit`, because the gateway stops; what does not reach the bucket by then stays in the
    /// journal. A volume that is being released has as long to get away; then it is this gateway's again at the next start.
    pub async fn close(&self, limit: Duration) {
        let (opened, release) = {
            let mut state = self.state.lock();
            match &*state {
                State::Open(opened) => (opened.clone(), None),
                State::Releasing(opened, over) => (opened.clone(), Some(over.clone())),
                State::Opening(_) | State::Refused(..) | State::Ended => {
                    *state = State::Ended;
                    return;
                }
            }
        };
        let closing = async {
            match release {
                None => opened.image.close().await,
                Some(mut over) => {
                    // Nothing is ever sent: it hangs up.
                    let _ = over.changed().await;
                    match self.opened() {
                        None => Ok(()),
                        Some(kept) => kept.image.close().await,
                    }
                }
            }
        };
        let closed = tokio::time::timeout(limit, closing).await;
        if !matches!(closed, Ok(Ok(()))) {
            let why = match closed {
                Ok(Err(e)) => e.to_string(),
                _ => format!("{} stay in the journal until the next start", opened.image.status().dirty),
            };
            self.note(Severity::Warning, &format!("was not closed: {why}"));
            // It ends either way; an image that failed has nobody left to answer.
            let _ = tokio::time::timeout(HALT_WITHIN, opened.image.halt()).await;
        }
        *self.state.lock() = State::Ended;
    }

    /// Ends its background work; what the journal holds stays.
    pub async fn abandon_image(&self) {
        if let Some(Opened { image, .. }) = self.opened() {
            give_back(&image).await;
        }
        *self.state.lock() = State::Ended;
    }

    pub fn view(&self) -> VolumeView {
        let row = self.row();
        let (state, reason, status) = match &*self.state.lock() {
            State::Opening(why) => ("opening", why.clone(), None),
            State::Refused(_, why) => ("refused", Some(why.clone()), None),
            State::Ended => ("closed", None, None),
            State::Releasing(opened, _) => ("releasing", Some(LEAVING.into()), Some(opened.image.status())),
            State::Open(opened) => {
                let status = opened.image.status();
                let (state, reason) = condition(&status);
                (state, reason, Some(status))
            }
        };
        view(row, state, reason, status)
    }
}

/// Ends an image, saving nothing. What the local disk has of it stays: if nobody has written, another try to open it can begin with
/// what was recovered, as this one did.
async fn give_back(image: &Image) {
    let ended = async {
        // One that failed, or that another gateway owns, has ended already, or is about to.
        let _ = image.halt().await;
        image.ended().await;
    };
    let _ = tokio::time::timeout(HALT_WITHIN, ended).await;
}

fn condition(status: &Status) -> (&'static str, Option<String>) {
    match &status.condition {
        Condition::Open => ("open", None),
        Condition::Closed => ("closed", None),
        Condition::Fenced(why) => ("fenced", Some(format!("{why}; {FENCED}"))),
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
        chap_users: row.access.chap.iter().map(|user| user.user.clone()).collect(),
        mutual_chap: row.access.mutual.is_some(),
        initiators: row.access.initiators,
        networks: row.access.networks,
        name: row.name,
    }
}

/// What can be done with a volume that another gateway has taken over.
const FENCED: &str = "what was not uploaded is kept here as a fork (`tidegate volume forks`, once it is whole), and `tidegate volume release` lets go of \
                      the rest";

/// What a user is told of a volume that is being released.
const LEAVING: &str = "it leaves this gateway as soon as all of it is in its bucket, whether or not the command that asked still \
                       waits; a restart of the gateway before that takes it back";

fn leaving(name: &str) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!("volume {name:?} is being released, so nothing else can be done with it: {LEAVING}"),
    )
}

/// Why nothing can be done with a volume that is not open.
pub(crate) fn not_open(task: &VolumeTask) -> Error {
    let view = task.view();
    let name = view.name;
    let text = match view.reason {
        Some(why) => format!("volume {name:?} is not open: {why}"),
        None => format!("volume {name:?} is not open but {}: try again in a moment", view.state),
    };
    Error::new(ErrorKind::Unavailable, text)
}

/// The answer to an opening that nobody waits for any more.
fn unwanted() -> Error {
    Error::new(ErrorKind::Unavailable, "the volume was ended while it was being opened: see what it is now")
}

fn target(row: &VolumeRow, device: Arc<TargetDevice>) -> Result<TargetConfig> {
    let mut config = TargetConfig::open(row.target.parse()?, device);
    config.alias = Some(row.name.clone());
    config.authentication = row.access.authentication()?;
    config.allow = row.access.allow()?;
    config.portals = Portals::default();
    Ok(config)
}
