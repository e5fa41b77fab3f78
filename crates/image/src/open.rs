//! Creating and opening images.
//!
//! Opening decides who may go on from what: an image that was closed opens anywhere; one that was not opens only where its
//! journal is, or by an operator who names the loss. Then an epoch is taken, the chain is read once more (the former owner may
//! have got further), a fence is put, and the epoch is checked; only then is anything served.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};

use base::{ByteSize, Epoch, Error, ErrorKind, ImageId, Result, Seq, UnixMillis};
use bucket::Bucket;
use bytes::Bytes;
use chain::{
    Continuation, EpochRecord, HeaderDraft, ImageRecord, Kind, Loaded, Ownership, Pin, Position, SegmentDraft,
};
use local::{Committed, Owner, Recovered};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::account::{RESTORED, accounted};
use crate::admission::Pacer;
use crate::budget::Budget;
use crate::collect::Collector;
use crate::compact::Compactor;
use crate::core::{Backlog, Core, Front, Hold, Image, SIZE_STATE, size_of};
use crate::destage::{Destager, Start};
use crate::dirty::{DirtyRecord, SpooledSegment, join};
use crate::env::{Env, Event, Severity};
use crate::fork::epoch_of;
use crate::layers::Layers;
use crate::outgoing::read_spooled;
use crate::pages::Runs;
use crate::park::{is_own, park};
use crate::status::{Condition, Progress};
use crate::table::SegmentTable;

/// What to open and with what.
#[derive(Debug)]
pub struct OpenRequest {
    /// The image.
    pub image: ImageId,
    /// What the journal held of it at start-up, in write order.
    pub recovered: Vec<Recovered>,
    /// The epoch whose unfinished tail, in another gateway's journal, may be given up.
    pub accept_loss: Option<Epoch>,
}

/// Creates an image in a bucket. `Exists` if the id is taken.
pub async fn create(
    bucket: &dyn Bucket,
    created: UnixMillis,
    image: ImageId,
    name: &str,
    size: ByteSize,
    block_size: u32,
) -> Result<()> {
    let record = ImageRecord { image, name: name.to_owned(), created, size, block_size };
    chain::create_image(bucket, &record).await
}

/// On what ground an image may be opened, and where this gateway's own unbroken run of epochs began.
struct Ground {
    continuation: Continuation,
    run_start: Epoch,
}

/// What lies on the local disk of the image.
struct Local {
    inherited: VecDeque<Arc<SpooledSegment>>,
    records: Vec<Recovered>,
    /// Segments that the bucket has.
    arrived: Vec<String>,
}

/// What the local disk has and need not keep, once it is certain that the image goes on in this store.
pub(crate) struct Spent {
    /// The last record that is elsewhere, too.
    upto: Seq,
    /// The last epoch of former runs.
    abandoned: Epoch,
    /// The local segments.
    segments: Vec<String>,
}

impl Spent {
    pub async fn let_go(self, core: &Core) -> Result<()> {
        if let Some(journal) = core.journal.get() {
            journal.abandon(self.abandoned);
            journal.release_abandoned(self.abandoned);
            journal.release(self.upto);
        }
        for name in self.segments {
            core.env.spool.remove(core.id, &name).await?;
        }
        Ok(())
    }
}

/// Why an image is not opened: it was not closed, and its journal is elsewhere. It is the cause of the error, for callers who can
/// say how their users accept the loss.
#[derive(Debug)]
pub struct Unclosed {
    /// The epoch whose newest writes would be lost, for [`OpenRequest::accept_loss`].
    pub epoch: Epoch,
}

impl Unclosed {
    /// The refusal of an image in an error, if it is that.
    pub fn find(error: &Error) -> Option<&Unclosed> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

impl fmt::Display for Unclosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "close it there, or, if that gateway or its cache disk is lost, give them up by naming them: accept-loss {}",
            self.epoch
        )
    }
}

impl std::error::Error for Unclosed {}

impl Image {
    /// Opens an image.
    ///
    /// `Denied` if it was not closed and its journal is elsewhere (the message names the owner and the word that accepts the loss);
    /// `Fenced` if another gateway opened it at the same moment; `Corrupt`, naming the object, if the chain cannot be read.
    pub async fn open(env: Env, request: OpenRequest) -> Result<Image> {
        let (image, _) = Image::open_held(env, request).await?;
        Ok(image)
    }

    /// The same, and the image is held from its beginning ([`Image::hold`]). If it is halted while that lives, all that the local
    /// disk had of it is still there (some of it as forks): it can be opened anew, in another store, too.
    pub async fn open_held(env: Env, request: OpenRequest) -> Result<(Image, Hold)> {
        let image = request.image;
        if env.journal.is_attached(image) {
            // Another epoch would fence the handle that this very gateway serves it by.
            return Err(Error::new(
                ErrorKind::Exists,
                format!("image {image} is open here already; close that first"),
            ));
        }
        let before = chain::load(&*env.bucket, image).await?;
        let ground = match ground(&env, &before, request.accept_loss).await {
            Ok(ground) => ground,
            Err(e) => return Err(refused(&env, &before, &request.recovered, e).await),
        };
        // Who is refused takes no epoch: the next attempt must find what this one found.
        let (run_start, sure) = (ground.run_start, before.last_seq());
        let arrived = accounted(&env, &before, &request.recovered, run_start).await?;
        let on_disk = local(&env, image, &request.recovered, run_start, sure).await?;
        let own = take_epoch(&env, &before, ground.continuation).await?;
        let loaded = chain::load(&*env.bucket, image).await?;
        if loaded.chain.head.epoch != before.chain.head.epoch {
            return Err(Error::fenced(format!(
                "another gateway opened image {image} at the same moment; try again"
            )));
        }
        for (key, why) in &loaded.passed_over {
            tracing::warn!("checkpoint {key} was passed over: {why}");
        }
        let last_seq = loaded.last_seq();
        let size = loaded.chain.members.last().map_or(loaded.checkpoint.size, |h| h.size);
        let parked = park(&env, image, &request.recovered, run_start, size).await?;
        let local = match last_seq == sure {
            true => on_disk,
            // More has arrived meanwhile.
            false => local(&env, image, &request.recovered, run_start, last_seq).await?,
        };
        if ground.continuation == Continuation::LossAccepted {
            Pin::of(&loaded).put(&*env.bucket, &chain::name::pin(image, own.epoch())).await?;
        }
        let fence = put_fence(&env, &own, &loaded, last_seq).await?;
        if let Err(e) = drop_void_pins(&*env.bucket, image).await {
            // They keep garbage until the next opening, and harm nothing.
            tracing::warn!("pins of image {image} that nobody needs stay for now: {e}");
        }
        let (core, requests) = core(&env, &own, &loaded, run_start, last_seq);
        replay(&core, &loaded).await?;
        let start = Start {
            head: fence,
            last_seq,
            size,
            requests,
            since_checkpoint: loaded.chain.members.iter().filter(|h| h.has_content()).count(),
            collector: Collector::new(&loaded.checkpoint),
            compactor: Compactor::new(image, &loaded.checkpoint.table),
            budget: Budget::new(loaded.chain.members.iter().map(|h| h.object_len()).sum()),
            inherited: local.inherited.clone(),
            spent: Spent {
                upto: local.inherited.back().map_or(last_seq, |s| s.header.last_seq),
                abandoned: Epoch(run_start.0.saturating_sub(1)),
                segments: arrived.into_iter().chain(local.arrived.iter().cloned()).collect(),
            },
            own,
        };
        adopt(&core, local, last_seq, request.recovered.len()).await?;
        report_parked(&env, image, parked);
        core.progress.lock().durable = fence.number;
        core.progress.lock().checkpoint = loaded.checkpoint.position.number;
        let destager = Destager::new(core.clone(), start);
        env.spawn.spawn("destage", Box::pin(destager.run()));
        let hold = Hold::on(&core);
        Ok((Image { core }, hold))
    }
}

/// An image that is another gateway's now: what this one's journal has of it is kept as a fork, and its room comes free.
async fn refused(env: &Env, loaded: &Loaded, recovered: &[Recovered], why: Error) -> Error {
    let image = loaded.record.image;
    let foreign = loaded.last_owner.as_ref().is_some_and(|last| !is_own(&env.journal, last));
    if !foreign || (recovered.is_empty() && env.spool.list(image).is_empty()) {
        return why;
    }
    let arrived = match accounted(env, loaded, recovered, loaded.newest_epoch.next()).await {
        Ok(arrived) => arrived,
        Err(e) => return e,
    };
    let parked = async {
        let parked = park(env, image, recovered, loaded.newest_epoch, loaded.checkpoint.size).await?;
        for name in arrived {
            env.spool.remove(image, &name).await?;
        }
        Ok::<_, Error>(parked)
    };
    match parked.await {
        Ok(parked) => {
            env.journal.release_owner(image);
            report_parked(env, image, parked);
        }
        Err(e) => env.events.event(Event {
            severity: Severity::Error,
            image,
            text: format!("what was lost to the other gateway stays in the journal: {e}"),
        }),
    }
    why
}

fn report_parked(env: &Env, image: ImageId, records: usize) {
    if records > 0 {
        let text = format!(
            "{records} records that another gateway's takeover left behind are kept as a fork; `tidegate volume forks` lists it"
        );
        env.events.event(Event { severity: Severity::Warning, image, text });
    }
}

async fn ground(env: &Env, loaded: &Loaded, accept_loss: Option<Epoch>) -> Result<Ground> {
    let Some(last) = &loaded.last_owner else {
        return Ok(Ground { continuation: Continuation::First, run_start: loaded.newest_epoch.next() });
    };
    if loaded.chain.clean {
        return Ok(Ground { continuation: Continuation::Clean, run_start: loaded.newest_epoch.next() });
    }
    if is_own(&env.journal, last) {
        let run_start = run_start(env, loaded, last).await?;
        return Ok(Ground { continuation: Continuation::OwnJournal, run_start });
    }
    if accept_loss == Some(last.epoch) {
        return Ok(Ground {
            continuation: Continuation::LossAccepted,
            run_start: loaded.newest_epoch.next(),
        });
    }
    let (name, owner) = (&loaded.record.name, &last.owner);
    let why = if last.journal == env.journal.id() {
        format!(
            "volume {name:?} is open at gateway {owner:?} on a copy of this cache disk or was not closed there, and its newest writes may be \
             only on that"
        )
    } else {
        format!(
            "volume {name:?} is open at gateway {owner:?} or was not closed by it, and its newest writes may be in that gateway's journal"
        )
    };
    Err(Error::caused(ErrorKind::Denied, why, Unclosed { epoch: last.epoch }))
}

/// The first epoch of the unbroken run in which this journal went on.
async fn run_start(env: &Env, loaded: &Loaded, last: &EpochRecord) -> Result<Epoch> {
    let mut record = last.clone();
    while record.continuation == Continuation::OwnJournal {
        record = chain::read_epoch(&*env.bucket, loaded.record.image, record.after).await?;
    }
    Ok(record.epoch)
}

async fn take_epoch(env: &Env, loaded: &Loaded, continuation: Continuation) -> Result<Ownership> {
    let record = EpochRecord {
        image: loaded.record.image,
        epoch: loaded.newest_epoch.next(),
        gateway: env.gateway,
        journal: env.journal.id(),
        start: env.journal.start(),
        created: env.clock.now(),
        continuation,
        after: loaded.last_owner.as_ref().map_or(Epoch(0), |last| last.epoch),
        owner: env.gateway_name.clone(),
    };
    Ownership::take(env.bucket.clone(), &record).await
}

/// Deletes the pins of gateways that accepted a loss and never came to serve: no fork is theirs.
async fn drop_void_pins(bucket: &dyn Bucket, image: ImageId) -> Result<()> {
    let pins = chain::list_pins(bucket, image).await?;
    let Some(oldest) = pins.iter().map(|(_, taken_by, _)| *taken_by).min() else { return Ok(()) };
    let terms = chain::terms(bucket, image, oldest).await?;
    let Some(newest) = terms.last().map(|term| term.epoch) else { return Ok(()) };
    for (key, taken_by, clone) in pins {
        let member = terms.iter().any(|term| term.epoch == taken_by);
        // A later one may be on its way to its fence.
        if !member && clone.is_none() && taken_by < newest {
            bucket.delete(&key).await?;
        }
    }
    Ok(())
}

async fn put_fence(env: &Env, own: &Ownership, loaded: &Loaded, last_seq: Seq) -> Result<Position> {
    let size = loaded.chain.members.last().map_or(loaded.checkpoint.size, |h| h.size);
    let draft = HeaderDraft {
        image: loaded.record.image,
        epoch: own.epoch(),
        previous: loaded.chain.head,
        kind: Kind::Fence,
        created: env.clock.now(),
        size,
        first_seq: last_seq.next(),
        last_seq,
    };
    let fence = SegmentDraft::default().seal(draft);
    own.put_fence(&fence).await?;
    Ok(fence.header.position)
}

/// Sorts what the disk holds into what goes on and what a former run left behind, which stays as it is: a fork.
async fn local(
    env: &Env,
    image: ImageId,
    recovered: &[Recovered],
    run_start: Epoch,
    last_seq: Seq,
) -> Result<Local> {
    let (mut inherited, mut arrived) = (Vec::new(), Vec::new());
    for file in env.spool.list(image) {
        if epoch_of(&file.name).is_none_or(|epoch| epoch < run_start) {
            continue;
        }
        let segment = read_spooled(&env.spool, image, file).await?;
        if segment.header.last_seq <= last_seq {
            arrived.push(segment.name);
        } else {
            inherited.push(Arc::new(segment));
        }
    }
    inherited.sort_by_key(|s| s.header.first_seq);
    let mut next = last_seq.next();
    for segment in &inherited {
        if segment.header.first_seq != next {
            return Err(gap(image, next, segment.header.first_seq));
        }
        next = segment.header.last_seq.next();
    }
    let records: Vec<Recovered> =
        recovered.iter().filter(|r| r.epoch >= run_start && r.seq >= next).copied().collect();
    for record in &records {
        if record.seq != next {
            return Err(gap(image, next, record.seq));
        }
        next = next.next();
    }
    Ok(Local { inherited: inherited.into(), records, arrived })
}

fn gap(image: ImageId, wanted: Seq, found: Seq) -> Error {
    Error::corrupt(format!(
        "image {image}: the local disk should go on with record {wanted} but has {found}; records between them are missing. {RESTORED}"
    ))
}

fn core(
    env: &Env,
    own: &Ownership,
    loaded: &Loaded,
    run_start: Epoch,
    last: Seq,
) -> (Arc<Core>, mpsc::UnboundedReceiver<crate::destage::Request>) {
    let (requests, receiver) = mpsc::unbounded_channel();
    let table = SegmentTable::new(loaded.record.image, loaded.checkpoint.table.clone());
    let layers = Layers::new(Runs::new(&loaded.checkpoint.runs), table);
    let states = loaded.checkpoint.states.clone();
    let core = Core {
        id: loaded.record.image,
        env: env.clone(),
        epoch: own.epoch(),
        run_start,
        block_size: loaded.record.block_size,
        layers: RwLock::new(layers),
        journal: OnceLock::new(),
        front: Mutex::new(Front::new(last)),
        backlog: Mutex::new(Backlog::default()),
        states: Mutex::new(states.clone()),
        durable_states: Mutex::new(states),
        size: AtomicU64::new(loaded.checkpoint.size),
        condition: RwLock::new(Condition::Open),
        locks: Arc::default(),
        in_flight: Default::default(),
        prefetching: AtomicBool::new(false),
        readahead: Default::default(),
        write_cache: AtomicBool::new(false),
        wake: Notify::new(),
        committed: Notify::new(),
        requests,
        progress: Mutex::new(Progress::new()),
        pacer: Pacer::default(),
        ended: watch::Sender::new(false),
    };
    (Arc::new(core), receiver)
}

/// Brings the map from the checkpoint to the head of the chain.
async fn replay(core: &Core, loaded: &Loaded) -> Result<()> {
    for header in &loaded.chain.members {
        let standing = core.standing(header).await?;
        core.layers.write().map_segment(header, &standing);
        core.size.store(header.size, std::sync::atomic::Ordering::Release);
        let mut states = core.states.lock();
        for change in &header.states {
            set(&mut states, &change.name, change.value.clone());
        }
    }
    *core.durable_states.lock() = core.states.lock().clone();
    Ok(())
}

fn set(states: &mut BTreeMap<String, Bytes>, name: &str, value: Option<Bytes>) {
    match value {
        Some(value) => states.insert(name.to_owned(), value),
        None => states.remove(name),
    };
}

/// How the journal reaches an image without keeping it: what nobody holds any more is found again by the next start.
struct Tap(Weak<Core>);

impl Owner for Tap {
    fn committed(&self, batch: Vec<Committed>) {
        if let Some(core) = self.0.upgrade() {
            core.committed(batch);
        }
    }

    fn poisoned(&self, error: &Error) {
        if let Some(core) = self.0.upgrade() {
            core.poisoned(error);
        }
    }
}

/// Takes over what the local disk holds behind the head of the chain, and begins to accept writes.
async fn adopt(core: &Arc<Core>, local: Local, last_seq: Seq, recovered: usize) -> Result<()> {
    let mut last = last_seq;
    let mut spooled = 0;
    for segment in &local.inherited {
        core.layers.write().recover_spooled(segment);
        for change in &segment.header.states {
            set(&mut core.states.lock(), &change.name, change.value.clone());
        }
        core.size.store(segment.header.size, std::sync::atomic::Ordering::Release);
        last = segment.header.last_seq;
        spooled += segment.bytes;
    }
    core.progress.lock().spooled_bytes = spooled;
    let now = Instant::now();
    for r in &local.records {
        let bytes = u64::from(r.payload_len);
        let record = DirtyRecord::recovered(&core.env.memory, r.seq, r.kind, r.span, now, r.location, bytes);
        if r.kind == local::RecordKind::State {
            core.set_state_now(&join(core.record_data(&record).await?));
        }
        core.layers.write().publish(&record);
        let mut backlog = core.backlog.lock();
        backlog.bytes += bytes;
        backlog.queue.push_back(record);
        last = r.seq;
    }
    *core.front.lock() = Front::new(last);
    if let Some(size) = core.states.lock().get(SIZE_STATE).and_then(|v| size_of(v)) {
        core.size.store(size, std::sync::atomic::Ordering::Release);
    }
    let journal = core.env.journal.attach(core.id, Arc::new(Tap(Arc::downgrade(core))))?;
    // As many as there were at the start: none came since that this knows nothing of, and none that it goes on with was let go of.
    let held = journal.usage().records;
    if held > recovered as u64 || held < local.records.len() as u64 {
        journal.detach();
        return Err(Error::new(
            ErrorKind::Denied,
            "the journal's acknowledged writes of the volume are not those that were found at the start; restart the gateway to recover them",
        ));
    }
    if core.journal.set(journal).is_err() {
        return Err(Error::internal("an image was attached to its journal twice"));
    }
    if !local.records.is_empty() || !local.inherited.is_empty() {
        let (records, segments) = (local.records.len(), local.inherited.len());
        core.report(
            Severity::Info,
            format!("recovered {records} journal records and {segments} local segments"),
        );
    }
    Ok(())
}
