//! The cache disks of a gateway: those that work, those that do not and why, and a look at each every few seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::{ByteSize, Error, ErrorKind, Result};
use image::Severity;
use parking_lot::Mutex;

use crate::catalog::Catalog;
use crate::config::{Config, DiskConfig};
use crate::disk::{CacheDisk, CacheMemory, DiskRoom};
use crate::gateway::{Gateway, Seams, make_directory};
use crate::view::DiskView;

/// How often each disk is looked at, and one that cannot be used is tried again.
const LOOK: Duration = Duration::from_secs(5);
/// What has to be free, with the cache, for the next file of a journal or the next local segments.
const NEXT_FILES: ByteSize = ByteSize::mib(128);

/// The disks of the configuration, by name.
pub(crate) struct Disks(Mutex<State>);

struct State {
    disks: BTreeMap<String, Known>,
    /// The gateway stops: nothing is opened any more.
    ended: bool,
}

struct Known {
    config: DiskConfig,
    disk: Result<Arc<CacheDisk>, Unusable>,
    /// What the last look found.
    misplaced: Option<String>,
    short: Option<String>,
}

/// Why a disk cannot be used.
#[derive(Debug, Clone)]
struct Unusable {
    why: String,
    /// Whether trying again may help.
    passes: bool,
}

impl Unusable {
    fn new(e: &Error) -> Unusable {
        // What has rotted stays so until somebody repairs it.
        Unusable { why: e.to_string(), passes: !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) }
    }

    fn text(&self) -> String {
        let next = if self.passes {
            "it is tried again every few seconds"
        } else {
            "once that is repaired, restart the gateway"
        };
        format!("{}; {next}", self.why)
    }
}

impl Disks {
    /// Opens all. One that cannot be opened does not keep the others from their work; an error is that of the first, if none can.
    pub async fn open(config: &Config, seams: &Seams, catalog: &Catalog) -> Result<Disks> {
        let (mut disks, mut refused) = (BTreeMap::new(), None);
        for disk in &config.disks {
            let opened = open(config, disk, seams, catalog).await;
            let opened = opened.map_err(|e| {
                let unusable = Unusable::new(&e);
                refused.get_or_insert(e);
                unusable
            });
            let known = Known { config: disk.clone(), disk: opened, misplaced: None, short: None };
            disks.insert(disk.name.clone(), known);
        }
        match refused {
            Some(e) if disks.values().all(|known| known.disk.is_err()) => Err(e),
            _ => Ok(Disks(Mutex::new(State { disks, ended: false }))),
        }
    }

    /// Those that work, by name.
    pub fn working(&self) -> Vec<(String, Arc<CacheDisk>)> {
        let state = self.0.lock();
        let working =
            |(name, known): (&String, &Known)| Some((name.clone(), known.disk.as_ref().ok()?.clone()));
        state.disks.iter().filter_map(working).collect()
    }

    /// All of them. `Unavailable` if one cannot be used: what it holds is not known.
    pub fn all(&self) -> Result<Vec<Arc<CacheDisk>>> {
        let state = self.0.lock();
        state.disks.iter().map(|(name, known)| usable(name, known)).collect()
    }

    /// One by name. `Unavailable` says why it cannot be used.
    pub fn get(&self, name: &str) -> Result<Arc<CacheDisk>> {
        let state = self.0.lock();
        let known = state.disks.get(name).ok_or_else(|| {
            let known: Vec<&str> = state.disks.keys().map(String::as_str).collect();
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "there is no cache disk {name:?} in the configuration, which has {}: name one of these, or add a \
                     [[disk]] to the file and restart",
                    known.join(", ")
                ),
            )
        })?;
        usable(name, known)
    }

    /// All, as operators see them.
    pub fn views(&self) -> Vec<DiskView> {
        let state = self.0.lock();
        let view = |known: &Known| match &known.disk {
            Ok(disk) => {
                DiskView { trouble: known.misplaced.clone(), warning: known.short.clone(), ..disk.view() }
            }
            Err(unusable) => DiskView {
                name: known.config.name.clone(),
                path: known.config.path.display().to_string(),
                cache_capacity: known.config.cache.0,
                trouble: Some(unusable.text()),
                ..DiskView::default()
            },
        };
        state.disks.values().map(view).collect()
    }

    /// Nothing is opened any more; these are to be closed.
    pub fn end(&self) -> Vec<Arc<CacheDisk>> {
        self.0.lock().ended = true;
        self.working().into_iter().map(|(_, disk)| disk).collect()
    }

    /// Takes in what came of another try. `false` if the gateway stops, so that nobody else will close it.
    fn retried(&self, name: &str, disk: Result<Arc<CacheDisk>, Unusable>) -> bool {
        let mut state = self.0.lock();
        let ended = state.ended;
        match state.disks.get_mut(name) {
            Some(known) if !ended => known.disk = disk,
            _ => return false,
        }
        true
    }

    /// The configuration of a disk that cannot be used, if it is worth another try.
    fn worth_a_try(&self, name: &str) -> Option<DiskConfig> {
        let state = self.0.lock();
        let known = state.disks.get(name).filter(|_| !state.ended)?;
        let passes = known.disk.as_ref().is_err_and(|unusable| unusable.passes);
        passes.then(|| known.config.clone())
    }

    fn has_ended(&self) -> bool {
        self.0.lock().ended
    }

    fn found(&self, name: &str, misplaced: Option<String>, short: Option<String>) -> Findings {
        let mut state = self.0.lock();
        let Some(known) = state.disks.get_mut(name) else { return Findings::default() };
        let before = Findings { misplaced: known.misplaced.take(), short: known.short.take() };
        (known.misplaced, known.short) = (misplaced, short);
        before
    }
}

/// What a look at a disk found.
#[derive(Debug, Default)]
struct Findings {
    misplaced: Option<String>,
    short: Option<String>,
}

fn usable(name: &str, known: &Known) -> Result<Arc<CacheDisk>> {
    known.disk.clone().map_err(|unusable| {
        let text = format!("cache disk {name:?} cannot be used: {}", unusable.text());
        Error::new(ErrorKind::Unavailable, text)
    })
}

async fn open(
    config: &Config,
    disk: &DiskConfig,
    seams: &Seams,
    catalog: &Catalog,
) -> Result<Arc<CacheDisk>> {
    make_directory(&disk.path)?;
    let known = if config.may_be_new(disk) { None } else { catalog.journal(&disk.name)? };
    let part = |all: ByteSize| all.0 / config.disks.len() as u64;
    let memory =
        CacheMemory { index: part(crate::memory::for_cache_indexes()), reads: part(config.read_memory) };
    let opened = CacheDisk::open(disk, seams, known, memory)
        .await
        .map_err(|e| e.within(format!("cache disk {}", disk.name)))?;
    if let Err(e) = catalog.set_journal(&disk.name, opened.journal.id()) {
        // Its directory is to be free for the next try.
        let _ = opened.close().await;
        return Err(e);
    }
    Ok(Arc::new(opened))
}

/// What is to be said of a disk whose file system is, or may become, too small for it and the others there.
fn shortage(own: DiskRoom, rooms: &[(String, DiskRoom)]) -> Option<String> {
    let together: Vec<_> = rooms.iter().filter(|(_, room)| room.device == own.device).collect();
    let sum =
        |what: fn(&DiskRoom) -> u64| together.iter().map(|(_, room)| what(room)).fold(0, u64::saturating_add);
    let (free, cache) = (ByteSize(own.free), sum(|room| room.cache));
    if own.free + cache < NEXT_FILES.0 {
        return Some(format!(
            "its file system is full ({free} free, and no cache left that could give way), so writes that its buckets do not take \
             at once wait or are refused: free space on it; to give local_segments or journal more would not help"
        ));
    }
    let (most, there) = (sum(|room| room.most), own.free + sum(|room| room.held));
    if most <= there {
        // Less than a hundredth is rounding.
        return (own.unused.0 > own.most / 100).then(|| {
            format!(
                "{} of its cache cannot be used: the machine has too little memory for the index, of which an eighth may be used, \
                 and a 256th of the cache would be needed; make `cache` smaller, or give the machine more memory",
                own.unused
            )
        });
    }
    let names: Vec<&str> = together.iter().map(|(name, _)| name.as_str()).collect();
    let whose = if names.len() > 1 { format!(" of {} together", names.join(" and ")) } else { String::new() };
    Some(format!(
        "journal, cache and local_segments (of one volume){whose} may take {}, and its file system has {} for them: once it is full \
         the cache gives way, and after that writes wait or are refused; make them smaller in the configuration, or the file \
         system larger",
        ByteSize(most),
        ByteSize(there)
    ))
}

impl Gateway {
    /// Looks at each disk now, and then every few seconds for as long as the gateway lives.
    pub(crate) async fn keep_disks(self: &Arc<Gateway>) {
        for disk in self.ground.disks.views() {
            if let Some(why) = disk.trouble {
                let text = format!("cache disk {} cannot be used: {why}; its volumes wait for it", disk.name);
                self.ground.events.note(Severity::Error, text);
            } else {
                self.look_at_disk(&disk.name).await;
            }
            let work = keep(Arc::downgrade(self), disk.name);
            self.ground.seams.spawn.spawn("cache-disk", Box::pin(work));
        }
    }

    async fn look_at_disk(&self, name: &str) {
        let disks = &self.ground.disks;
        let Ok(disk) = disks.get(name) else { return self.retry_disk(name).await };
        let misplaced = disk.misplaced().await;
        let mut rooms = Vec::new();
        for (other, disk) in disks.working() {
            rooms.extend(disk.room().await.ok().map(|room| (other, room)));
        }
        let own = rooms.iter().find(|(other, _)| other == name).map(|(_, room)| *room);
        let short = own.and_then(|own| shortage(own, &rooms));
        let before = disks.found(name, misplaced.clone(), short.clone());
        let note =
            |severity, text: String| self.ground.events.note(severity, format!("cache disk {name}: {text}"));
        match (&before.misplaced, misplaced) {
            (None, Some(what)) => note(Severity::Error, what),
            (Some(_), None) => note(Severity::Info, "it is where it was again".to_owned()),
            _ => {}
        }
        // The figures change with every look; the kind of trouble does not.
        let kind = |text: &String| text.split(['(', ',']).next().map(str::to_owned);
        if let Some(text) = short
            && before.short.as_ref().and_then(kind) != kind(&text)
        {
            note(Severity::Warning, text);
        }
    }

    /// Tries a disk again that could not be used. Its volumes, which wait for it, open by themselves.
    async fn retry_disk(&self, name: &str) {
        let (ground, disks) = (&self.ground, &self.ground.disks);
        let Some(config) = disks.worth_a_try(name) else { return };
        let opened = open(&ground.config, &config, &ground.seams, &self.catalog).await;
        let disk = match opened {
            Ok(disk) => disk,
            Err(e) => {
                disks.retried(name, Err(Unusable::new(&e)));
                return;
            }
        };
        let _one = self.changing.lock().await;
        let sorted = match self.catalog.volumes() {
            Ok(rows) => self.sort_out_journal(name, &disk, &rows),
            Err(e) => Err(e),
        };
        let taken = match &sorted {
            Ok(()) => disks.retried(name, Ok(disk.clone())),
            Err(e) => {
                disks.retried(name, Err(Unusable::new(e)));
                false
            }
        };
        if taken {
            ground.events.note(Severity::Info, format!("cache disk {name} can be used now"));
        } else if let Err(e) = disk.close().await {
            tracing::warn!("cache disk {name} was not closed in good order: {e}");
        }
    }
}

/// Keeps an eye on one disk until the gateway is gone.
async fn keep(gateway: Weak<Gateway>, name: String) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(gateway) = gateway.upgrade().filter(|gateway| !gateway.ground.disks.has_ended()) else {
            return;
        };
        gateway.look_at_disk(&name).await;
    }
}
