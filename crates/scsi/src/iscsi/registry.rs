//! The targets of this gateway and the sessions on them: the only state that connections share.
//!
//! No lock here is taken per command, and the pool of memory is touched in steps. Sessions act on each other by leaving notices in
//! mailboxes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Entropy, Error, ErrorKind, Result};
use parking_lot::{Mutex, RwLock};

use super::config::{AllowList, Authentication, Limits, TargetConfig};
use super::mailbox::{Gate, Mailbox, Notice};
use super::name::{IscsiName, Isid};
use super::pool::Pool;
use super::suspects::{Guessing, Suspects};
use crate::device::TargetDevice;

/// All targets, changeable while in use.
pub struct TargetRegistry {
    targets: RwLock<BTreeMap<IscsiName, Arc<Target>>>,
    /// Those that are of this gateway, whether they can be shown now or not.
    expected: RwLock<BTreeSet<IscsiName>>,
    discovery: RwLock<Arc<Discovery>>,
    sessions: Mutex<BTreeMap<u64, Arc<SessionHandle>>>,
    next_session: AtomicU64,
    pub(super) suspects: Arc<Suspects>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) limits: Limits,
    /// Memory for data on its way to media, and from them.
    pub(super) pool_out: Arc<Pool>,
    pub(super) pool_in: Arc<Pool>,
}

/// Who may ask which targets there are.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// How they authenticate.
    pub authentication: Authentication,
    /// Who may ask at all; each target's own list decides further.
    pub allow: AllowList,
}

/// One target. Its configuration is replaced as a whole.
pub(super) struct Target {
    config: RwLock<Arc<TargetConfig>>,
}

impl Target {
    pub(super) fn config(&self) -> Arc<TargetConfig> {
        self.config.read().clone()
    }
}

/// One session, as others see it.
pub(super) struct SessionHandle {
    pub(super) id: u64,
    pub(super) initiator: IscsiName,
    pub(super) isid: Isid,
    pub(super) target: Option<IscsiName>,
    pub(super) peer: SocketAddr,
    pub(super) device: Option<Arc<TargetDevice>>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Counters,
}

/// What a session has moved. Only its own connection writes, so plain stores suffice.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commands: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) digest_errors: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}

/// A session, for status displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// The nexus id.
    pub id: u64,
    /// Who is logged in.
    pub initiator: IscsiName,
    /// The initiator's session id.
    pub isid: Isid,
    /// To which target; `None` for discovery.
    pub target: Option<IscsiName>,
    /// From where.
    pub peer: SocketAddr,
    /// SCSI commands that came.
    pub commands: u64,
    /// Bytes of data-out that came.
    pub bytes_in: u64,
    /// Bytes of data-in that went.
    pub bytes_out: u64,
    /// Data segments whose digest was wrong.
    pub digest_errors: u64,
}

/// What a connection has to say to open a session.
pub(super) struct Opening {
    pub(super) initiator: IscsiName,
    pub(super) isid: Isid,
    pub(super) peer: SocketAddr,
    pub(super) target: Option<Arc<TargetConfig>>,
    pub(super) mailbox: Arc<Mailbox>,
}

/// A session's place in the registry, given back when dropped.
pub(super) struct Seat {
    pub(super) handle: Arc<SessionHandle>,
    registry: Arc<TargetRegistry>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.sessions.lock().remove(&self.handle.id);
    }
}

impl TargetRegistry {
    /// Without targets.
    pub fn new(entropy: Arc<dyn Entropy>, limits: Limits) -> Arc<TargetRegistry> {
        Arc::new(TargetRegistry {
            targets: RwLock::default(),
            expected: RwLock::default(),
            discovery: RwLock::default(),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            suspects: Arc::default(),
            entropy,
            pool_out: Pool::new(limits.common_bytes / 2),
            pool_in: Pool::new(limits.common_bytes / 2),
            limits,
        })
    }

    /// Says that a target of this name belongs here. Until it is shown, who asks for it is told to come back: many an
    /// initiator gives up for good on a target that it is told not to exist.
    pub fn expect(&self, name: IscsiName) {
        self.expected.write().insert(name);
    }

    /// Takes that back.
    pub fn forget(&self, name: &IscsiName) {
        self.expected.write().remove(name);
    }

    pub(super) fn is_expected(&self, name: &IscsiName) -> bool {
        self.expected.read().contains(name)
    }

    /// Shows a target. `Exists` if there is one of that name.
    pub fn add(&self, config: TargetConfig) -> Result<()> {
        let name = config.name.clone();
        let mut targets = self.targets.write();
        if targets.contains_key(&name) {
            let text = format!("there is a target {name} already: choose another name or change that one");
            return Err(Error::new(ErrorKind::Exists, text));
        }
        targets.insert(name, Arc::new(Target { config: RwLock::new(Arc::new(config)) }));
        Ok(())
    }

    /// Changes the target of that name. Sessions that the new configuration would not admit, or that would see other
    /// logical units, are closed; changed secrets count from the next login on.
    pub fn update(&self, config: TargetConfig) -> Result<()> {
        let target = self.target(&config.name).ok_or_else(|| absent(&config.name))?;
        let config = Arc::new(config);
        *target.config.write() = config.clone();
        for session in self.sessions_on(&config.name) {
            let same = session
                .device
                .as_ref()
                .is_some_and(|d| Arc::ptr_eq(d, config.device_for(&session.initiator)));
            if !same || !config.allow.admits(&session.initiator, session.peer.ip()) {
                session.mailbox.post(Notice::Close { ticket: None });
            }
        }
        Ok(())
    }

    /// Takes a target away and closes its sessions.
    pub fn remove(&self, name: &IscsiName) -> Result<()> {
        self.targets.write().remove(name).ok_or_else(|| absent(name))?;
        for session in self.sessions_on(name) {
            session.mailbox.post(Notice::Close { ticket: None });
        }
        Ok(())
    }

    /// The present configuration of a target.
    pub fn config(&self, name: &IscsiName) -> Option<Arc<TargetConfig>> {
        self.target(name).map(|t| t.config())
    }

    /// Decides who may discover targets.
    pub fn set_discovery(&self, discovery: Discovery) {
        *self.discovery.write() = Arc::new(discovery);
    }

    /// Has somebody told of addresses that keep proving themselves wrongly: of each once a minute. Called from data
    /// paths: it must not wait.
    pub fn on_guessing(&self, witness: impl Fn(Guessing) + Send + Sync + 'static) {
        self.suspects.watch(Box::new(witness));
    }

    /// The sessions of this moment, oldest first.
    pub fn sessions(&self) -> Vec<SessionView> {
        self.sessions.lock().values().map(|s| s.view()).collect()
    }

    /// Bytes that all sessions hold now for data on its way, beyond what each may always hold.
    pub fn common_bytes(&self) -> usize {
        self.pool_out.taken() + self.pool_in.taken()
    }

    /// Asks every initiator to log out, because service ends in `within_seconds`.
    pub fn request_logout(&self, within_seconds: u16) {
        for session in self.sessions.lock().values() {
            session.mailbox.post(Notice::RequestLogout { within_seconds });
        }
    }

    pub(super) fn discovery(&self) -> Arc<Discovery> {
        self.discovery.read().clone()
    }

    pub(super) fn target(&self, name: &IscsiName) -> Option<Arc<Target>> {
        self.targets.read().get(name).cloned()
    }

    /// The targets that an initiator may see.
    pub(super) fn visible_to(&self, initiator: &IscsiName, peer: SocketAddr) -> Vec<Arc<TargetConfig>> {
        let targets = self.targets.read();
        targets.values().map(|t| t.config()).filter(|c| c.allow.admits(initiator, peer.ip())).collect()
    }

    /// Opens a session. One of the same initiator port on the same target is closed first (session reinstatement,
    /// RFC 7143 §6.3.5): `gate` opens when all its commands have ended. `None`: too many sessions.
    pub(super) fn open(self: &Arc<Self>, opening: Opening, gate: &Arc<Gate>) -> Option<Seat> {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(SessionHandle {
            id,
            device: opening.target.as_ref().map(|t| t.device_for(&opening.initiator).clone()),
            target: opening.target.map(|t| t.name.clone()),
            initiator: opening.initiator,
            isid: opening.isid,
            peer: opening.peer,
            mailbox: opening.mailbox,
            counters: Counters::default(),
        });
        let mut sessions = self.sessions.lock();
        let older = sessions.values().filter(|s| {
            s.target.is_some()
                && s.target == handle.target
                && s.initiator == handle.initiator
                && s.isid == handle.isid
        });
        let mut replaced = 0;
        for older in older {
            older.mailbox.post(Notice::Close { ticket: Some(gate.clone()) });
            replaced += 1;
        }
        if sessions.len() - replaced >= self.limits.sessions {
            return None;
        }
        sessions.insert(id, handle.clone());
        drop(sessions);
        Some(Seat { handle, registry: self.clone() })
    }

    /// The sessions on a target.
    pub(super) fn sessions_on(&self, target: &IscsiName) -> Vec<Arc<SessionHandle>> {
        self.sessions.lock().values().filter(|s| s.target.as_ref() == Some(target)).cloned().collect()
    }
}

impl SessionHandle {
    /// The target session identifying handle: never 0.
    pub(super) fn tsih(&self) -> u16 {
        ((self.id - 1) % 0xffff) as u16 + 1
    }

    fn view(&self) -> SessionView {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SessionView {
            id: self.id,
            initiator: self.initiator.clone(),
            isid: self.isid,
            target: self.target.clone(),
            peer: self.peer,
            commands: read(&self.counters.commands),
            bytes_in: read(&self.counters.bytes_in),
            bytes_out: read(&self.counters.bytes_out),
            digest_errors: read(&self.counters.digest_errors),
        }
    }
}

fn absent(name: &IscsiName) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no target {name}: list the targets to see their names"))
}
