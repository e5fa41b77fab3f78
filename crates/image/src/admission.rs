//! Letting writes in no faster than the gateway can keep them.
//!
//! While there is plenty of room every write is admitted at once. When less than a third is left, writes are paced
//! towards the rate at which room comes back, so that a reserve is left when an outage ends and no write ever waits long; with
//! no room left a write is refused as busy, which the initiator is told as TASK SET FULL: it tries again. When nothing at all could be
//! admitted for half a minute, writes are refused for want of space instead, before initiators give up by themselves and
//! without a reason (Windows after a minute, Linux after three).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use local::Reservation;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::core::Core;
use crate::env::Severity;

/// Permission for one write, with the journal space it will take.
#[derive(Debug, Default)]
pub struct Admission {
    pub(crate) reservation: Option<Reservation>,
}

impl Admission {
    /// For small records that must never wait for room: they use the journal's extra reserve.
    pub(crate) fn control() -> Admission {
        Admission { reservation: None }
    }
}

/// When the next paced write may go, and whether any can.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    next: Mutex<Option<Instant>>,
    famine: Mutex<Option<Famine>>,
    /// Whether there is one: every write looks.
    starving: AtomicBool,
}

/// A time in which writes wait for room and none gets any.
#[derive(Debug)]
struct Famine {
    since: Instant,
    lasting: bool,
}

/// Fullness from which on writes are paced.
pub(crate) const PACED_FROM: f64 = 0.7;
/// Fullness that is never passed: the rest is for what is on its way.
const FULL: f64 = 0.95;
/// The slowest pace, bytes per second: a reserve that is nearly gone lasts a little longer.
const SLOWEST: f64 = 256.0 * 1024.0;
/// How long a write that waits for room does so before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long writes are refused as busy before they are refused for want of space.
const PATIENCE: Duration = Duration::from_secs(30);

impl Core {
    /// How full the scarcer of the journal and the image's own local space is, 0 to 1.
    ///
    /// The image's own space holds all that it has not uploaded, wherever that lies now: so whatever it has in the journal can
    /// move to local segments when others need the room, and an image whose bucket is dead comes to its own limit, never theirs.
    pub fn fullness(&self) -> f64 {
        let journal = self.env.journal.room();
        let own_limit = self.env.options.spool_limit.0.max(journal.capacity / 8).max(1);
        let unsealed = self.backlog.lock().bytes;
        let dirty = self.progress.lock().dirty_bytes + unsealed;
        journal.fullness().max(dirty as f64 / own_limit as f64)
    }

    fn writable(&self) -> Result<()> {
        self.usable()?;
        self.env.journal.refusal().map_or(Ok(()), Err)
    }

    pub fn try_admit(&self, bytes: u64) -> Option<Admission> {
        if self.fullness() >= PACED_FROM {
            return None;
        }
        let mut room: Option<Reservation> = None;
        for part in self.record_sizes(bytes) {
            let more = self.env.journal.try_reserve(part)?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        self.admitted();
        Some(Admission { reservation: room })
    }

    /// Waits for a permission. `Busy` when there was none within the time set; `NoSpace` when there has been none for
    /// anybody for so long that trying again is of no use.
    pub async fn admit(&self, bytes: u64) -> Result<Admission> {
        self.writable()?;
        if let Some(admission) = self.try_admit(bytes) {
            return Ok(admission);
        }
        let (begun, limit) = (Instant::now(), self.env.options.admit_within);
        match tokio::time::timeout(limit, self.admit_paced(bytes)).await {
            Ok(admission) => {
                let admission = admission?;
                self.admitted();
                Ok(admission)
            }
            Err(_) => {
                self.writable()?;
                Err(self.no_room(begun))
            }
        }
    }

    /// A write that began to wait at that moment got no room.
    fn no_room(&self, begun: Instant) -> Error {
        let mut slot = self.pacer.famine.lock();
        self.pacer.starving.store(true, Ordering::Relaxed);
        let is_new = slot.is_none();
        let famine = slot.get_or_insert(Famine { since: begun, lasting: false });
        let lasts = famine.since.elapsed() >= PATIENCE;
        let grew = lasts && !famine.lasting;
        famine.lasting = lasts;
        drop(slot);
        const WHY: &str = "no room for writes: the bucket does not take data and the room for it on the cache disk is used up";
        const HELP: &str = "see to the bucket, or to the cache disk: `tidegate status` says whether it is full or local_segments is used up";
        if is_new {
            self.report(Severity::Warning, format!("{WHY}; initiators are told to try again"));
        }
        if grew {
            self.report(
                Severity::Error,
                format!("{WHY}; initiators are told so as an error from now on: {HELP}"),
            );
        }
        let kind = if lasts { ErrorKind::NoSpace } else { ErrorKind::Busy };
        Error::new(kind, format!("{WHY}: {HELP}"))
    }

    /// A write was admitted, so there is room.
    fn admitted(&self) {
        if !self.pacer.starving.load(Ordering::Relaxed) {
            return;
        }
        let mut slot = self.pacer.famine.lock();
        self.pacer.starving.store(false, Ordering::Relaxed);
        let famine = slot.take();
        drop(slot);
        if let Some(Famine { since, .. }) = famine {
            let seconds = since.elapsed().as_secs();
            self.report(Severity::Info, format!("there is room for writes again, after {seconds} s without"));
        }
    }

    async fn admit_paced(&self, bytes: u64) -> Result<Admission> {
        loop {
            self.writable()?;
            let fullness = self.fullness();
            if fullness < FULL
                && let Some(turn) = self.pace(bytes, fullness)
            {
                self.await_turn(turn).await;
                return self.reserve(bytes).await;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for a turn, or until so much room has come meanwhile that nothing is paced any more.
    async fn await_turn(&self, turn: Instant) {
        while Instant::now() < turn {
            if self.fullness() < PACED_FROM {
                *self.pacer.next.lock() = None;
                return;
            }
            tokio::time::sleep_until(turn.min(Instant::now() + LOOK_AGAIN)).await;
        }
    }

    async fn reserve(&self, bytes: u64) -> Result<Admission> {
        let mut room: Option<Reservation> = None;
        for part in self.record_sizes(bytes) {
            let more = self.env.journal.reserve(part).await?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        Ok(Admission { reservation: room })
    }

    /// The records that a write of `bytes` takes; one for none.
    fn record_sizes(&self, bytes: u64) -> impl Iterator<Item = u64> + use<> {
        let most = self.env.journal.max_record();
        let whole = (bytes / most) as usize;
        let rest = (!bytes.is_multiple_of(most) || whole == 0).then_some(bytes % most);
        std::iter::repeat_n(most, whole).chain(rest)
    }

    /// The moment at which a write of `bytes` may go: the fuller, the closer to the rate at which room comes back. `None`
    /// while that is too far off: turns given to writes that give up waiting would be lost to those that come later.
    ///
    /// What carries no data, as an unmap, goes at once: one command may hold many of these, and has ten seconds in all.
    fn pace(&self, bytes: u64, fullness: f64) -> Option<Instant> {
        let now = Instant::now();
        if bytes == 0 {
            return Some(now);
        }
        let slack = ((FULL - fullness) / (FULL - PACED_FROM)).clamp(0.0, 1.0);
        let drain = self.progress.lock().rate();
        // Far above that rate while there is slack, as fast as room comes back at 0.4 of it, half as fast at its end.
        let pace = 0.5 + 0.75 * slack / (1.0 - slack).max(0.001);
        let rate = (drain * pace).max(SLOWEST) + 64e6 * slack * slack;
        let mut next = self.pacer.next.lock();
        let turn = next.map_or(now, |next| next.max(now));
        if turn > now + self.env.options.admit_within / 2 {
            return None;
        }
        *next = Some(turn + Duration::from_secs_f64(bytes as f64 / rate));
        Some(turn)
    }
}
