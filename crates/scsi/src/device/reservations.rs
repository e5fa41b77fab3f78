//! Persistent reservations (SPC-5 §5.14) as a pure state machine: who is registered, who holds what, and what a
//! PERSISTENT RESERVE OUT makes of it.

mod stored;

use std::sync::Arc;

use super::attention::Attention;
use super::opcode::Access;
use super::sense::{Failure, Key, Sense, code};
use crate::task::{Nexus, Status};

/// Registrations of one logical unit at most.
pub(super) const MAX_REGISTRATIONS: usize = 1024;

/// Reservation types (SPC-5 table 208).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    WriteExclusive = 0x1,
    ExclusiveAccess = 0x3,
    WriteExclusiveRegistrants = 0x5,
    ExclusiveAccessRegistrants = 0x6,
    WriteExclusiveAll = 0x7,
    ExclusiveAccessAll = 0x8,
}

impl Kind {
    pub fn decode(code: u8) -> Option<Kind> {
        Some(match code {
            0x1 => Kind::WriteExclusive,
            0x3 => Kind::ExclusiveAccess,
            0x5 => Kind::WriteExclusiveRegistrants,
            0x6 => Kind::ExclusiveAccessRegistrants,
            0x7 => Kind::WriteExclusiveAll,
            0x8 => Kind::ExclusiveAccessAll,
            _ => return None,
        })
    }

    /// Every registrant is a holder.
    pub fn all_registrants(self) -> bool {
        matches!(self, Kind::WriteExclusiveAll | Kind::ExclusiveAccessAll)
    }

    /// Registrants may do what the holder may: the "registrants only" and "all registrants" types.
    fn shared(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }

    fn write_exclusive(self) -> bool {
        matches!(self, Kind::WriteExclusive | Kind::WriteExclusiveRegistrants | Kind::WriteExclusiveAll)
    }
}

/// An initiator port seen through one target port, or through all of them (ALL_TG_PT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub transport_id: Arc<[u8]>,
    pub target_port: Option<u16>,
}

impl Path {
    pub fn of(nexus: &Nexus) -> Path {
        Path { transport_id: Arc::clone(&nexus.transport_id), target_port: Some(nexus.target_port) }
    }

    /// Whether a nexus is (one of) the meant.
    pub fn covers(&self, nexus: &Nexus) -> bool {
        self.transport_id == nexus.transport_id
            && self.target_port.is_none_or(|port| port == nexus.target_port)
    }

    fn overlaps(&self, other: &Path) -> bool {
        let same_port = match (self.target_port, other.target_port) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.transport_id == other.transport_id && same_port
    }
}

/// One registered path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub path: Path,
    pub key: u64,
}

/// The persistent reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reservation {
    pub kind: Kind,
    /// Whose it is; for the all-registrants types whoever reserved, which means nothing.
    pub holder: Path,
}

/// A decoded PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub action: Action,
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
}

/// Service actions (SPC-5 table 233).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Register { ignore_key: bool, aptpl: bool, all_ports: bool, others: Option<Vec<Path>> },
    Reserve(Kind),
    Release(Kind),
    Clear,
    Preempt { kind: Kind, abort: bool },
    Move { to: Path, unregister: bool, aptpl: bool },
}

/// What has to be told to others after a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub attentions: Vec<(Path, Attention)>,
    /// Whose tasks must end before the command does (PREEMPT AND ABORT).
    pub aborted: Vec<Path>,
}

/// All there is to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reservations {
    /// PRGENERATION.
    pub generation: u32,
    /// Whether it survives a loss of power.
    pub aptpl: bool,
    pub registrations: Vec<Registration>,
    pub reservation: Option<Reservation>,
}

impl Reservations {
    /// The registration of a nexus.
    pub fn registration(&self, nexus: &Nexus) -> Option<&Registration> {
        self.registrations.iter().find(|r| r.path.covers(nexus))
    }

    /// Whether a nexus holds the reservation (SPC-5 §5.14.10).
    pub fn holds(&self, nexus: &Nexus) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| match reservation.kind.all_registrants() {
            true => self.registration(nexus).is_some(),
            false => reservation.holder.covers(nexus),
        })
    }

    /// Whether a path holds it, for READ FULL STATUS.
    pub fn is_holder(&self, path: &Path) -> bool {
        self.reservation.as_ref().is_some_and(|r| r.kind.all_registrants() || r.holder == *path)
    }

    /// The key of the reservation as it is reported: 0 for the all-registrants types.
    pub fn reservation_key(&self) -> u64 {
        let holder = self.reservation.as_ref().filter(|r| !r.kind.all_registrants()).map(|r| &r.holder);
        holder.and_then(|h| self.registrations.iter().find(|r| r.path == *h)).map_or(0, |r| r.key)
    }

    /// Whether the reservation lets a nexus do something (SPC-5 table 67).
    pub fn allows(&self, nexus: &Nexus, access: Access) -> bool {
        let Some(reservation) = &self.reservation else { return true };
        let registered = || self.registration(nexus).is_some();
        match access {
            Access::Write => self.holds(nexus) || reservation.kind.shared() && registered(),
            Access::Read => {
                reservation.kind.write_exclusive()
                    || self.holds(nexus)
                    || reservation.kind.shared() && registered()
            }
            _ => true,
        }
    }

    /// Whether RESERVE and RELEASE of SPC-2 from this nexus do nothing and succeed (SPC-5 §5.14.3, CRH): the holder and
    /// registrants of the shared types may go on as if they had reserved. `None`: no registration stands in the way.
    pub fn tolerates_legacy(&self, nexus: &Nexus) -> Option<bool> {
        if self.registrations.is_empty() {
            return None;
        }
        let shared = self.reservation.as_ref().is_some_and(|r| r.kind.shared());
        Some(self.holds(nexus) || shared && self.registration(nexus).is_some())
    }

    /// Carries out a request; on failure nothing has changed.
    pub fn apply(&mut self, nexus: &Nexus, request: &Request) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        if let Action::Register { ignore_key, aptpl, all_ports, others } = &request.action {
            self.register(nexus, request, *ignore_key, *all_ports, others.as_deref(), &mut effects)?;
            self.aptpl = *aptpl;
            self.generation = self.generation.wrapping_add(1);
            return Ok(effects);
        }
        let own = self.registration(nexus).cloned().filter(|r| r.key == request.key);
        let own = own.ok_or(Failure::from(Status::ReservationConflict))?;
        match &request.action {
            Action::Register { .. } => unreachable!("handled above"),
            Action::Reserve(kind) => self.reserve(nexus, own, *kind)?,
            Action::Release(kind) => self.release(nexus, *kind, &mut effects)?,
            Action::Clear => self.clear(nexus, &mut effects),
            Action::Preempt { kind, abort } => {
                self.preempt(nexus, &own, *kind, request.action_key, &mut effects)?;
                if *abort {
                    let gone =
                        effects.attentions.iter().filter(|(_, a)| *a == Attention::RegistrationsPreempted);
                    effects.aborted = gone.map(|(path, _)| path.clone()).collect();
                }
            }
            Action::Move { to, unregister, aptpl } => {
                self.move_to(nexus, &own, to, request.action_key, *unregister)?;
                self.aptpl = *aptpl;
            }
        }
        if !matches!(request.action, Action::Reserve(_) | Action::Release(_)) {
            self.generation = self.generation.wrapping_add(1);
        }
        Ok(effects)
    }

    /// SPC-5 §5.14.7.
    fn register(
        &mut self,
        nexus: &Nexus,
        request: &Request,
        ignore_key: bool,
        all_ports: bool,
        others: Option<&[Path]>,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let registered = self.registration(nexus).cloned();
        let known_key = registered.as_ref().map_or(0, |r| r.key);
        if !ignore_key && request.key != known_key {
            return Err(Status::ReservationConflict.into());
        }
        if others.is_some() && (registered.is_some() || ignore_key) {
            return Err(Sense::parameter_field(20).into()); // SPEC_I_PT is for a first registration
        }
        match (registered, request.action_key) {
            (Some(own), 0) => self.unregister(&own.path, effects),
            (None, 0) => {}
            (Some(own), key) => {
                self.registrations.iter_mut().filter(|r| r.path == own.path).for_each(|r| r.key = key);
            }
            (None, key) => {
                let scope =
                    |path: Path| Path { target_port: path.target_port.filter(|_| !all_ports), ..path };
                let others = others.unwrap_or_default().iter().cloned().map(scope);
                let paths: Vec<Path> = std::iter::once(scope(Path::of(nexus))).chain(others).collect();
                if paths[1..].iter().any(|path| self.registrations.iter().any(|r| r.path.overlaps(path))) {
                    return Err(Status::ReservationConflict.into());
                }
                self.add(&paths, key)?;
            }
        }
        Ok(())
    }

    /// Registers paths; what they overlap with is theirs now.
    fn add(&mut self, paths: &[Path], key: u64) -> Result<(), Failure> {
        let mut all = self.registrations.clone();
        for path in paths {
            all.retain(|r| !r.path.overlaps(path));
            all.push(Registration { path: path.clone(), key });
        }
        if all.len() > MAX_REGISTRATIONS {
            return Err(Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES).into());
        }
        self.registrations = all;
        Ok(())
    }

    /// SPC-5 §5.14.11.3: what the holder reserved goes with it; an all-registrants reservation goes with the last.
    fn unregister(&mut self, path: &Path, effects: &mut Effects) {
        let held = self.reservation.as_ref().is_some_and(|r| !r.kind.all_registrants() && r.holder == *path);
        self.registrations.retain(|r| r.path != *path);
        if held
            && let Some(released) = self.reservation.take()
            && released.kind.shared()
        {
            self.tell_all(|_| true, Attention::ReservationsReleased, effects);
        }
        if self.registrations.is_empty() {
            self.reservation = None;
        }
    }

    /// SPC-5 §5.14.9.
    fn reserve(&mut self, nexus: &Nexus, own: Registration, kind: Kind) -> Result<(), Failure> {
        match &self.reservation {
            None => self.reservation = Some(Reservation { kind, holder: own.path }),
            Some(reservation) if self.holds(nexus) && reservation.kind == kind => {}
            Some(_) => return Err(Status::ReservationConflict.into()),
        }
        Ok(())
    }

    /// SPC-5 §5.14.11.2.
    fn release(&mut self, nexus: &Nexus, kind: Kind, effects: &mut Effects) -> Result<(), Failure> {
        let Some(reservation) = self.reservation.clone().filter(|_| self.holds(nexus)) else { return Ok(()) };
        if reservation.kind != kind {
            return Err(Sense::new(Key::IllegalRequest, code::INVALID_RELEASE).into());
        }
        self.reservation = None;
        if kind.shared() {
            self.tell_all(|path| !path.covers(nexus), Attention::ReservationsReleased, effects);
        }
        Ok(())
    }

    /// SPC-5 §5.14.11.5.
    fn clear(&mut self, nexus: &Nexus, effects: &mut Effects) {
        self.tell_all(|path| !path.covers(nexus), Attention::ReservationsPreempted, effects);
        self.registrations.clear();
        self.reservation = None;
    }

    /// SPC-5 §5.14.11.4.
    fn preempt(
        &mut self,
        nexus: &Nexus,
        own: &Registration,
        kind: Kind,
        victim: u64,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let before = self.reservation.clone();
        let takes_over = match &before {
            Some(reservation) if reservation.kind.all_registrants() => victim == 0,
            Some(_) => victim != 0 && victim == self.reservation_key(),
            None => false,
        };
        if victim == 0 && !takes_over {
            return Err(Sense::parameter_field(8).into());
        }
        let all = takes_over && victim == 0;
        let is_victim = |r: &Registration| (all || r.key == victim) && !(takes_over && r.path == own.path);
        let found = self.registrations.iter().any(|r| all || r.key == victim);
        if !found && !takes_over {
            return Err(Status::ReservationConflict.into());
        }
        let (gone, left) = std::mem::take(&mut self.registrations).into_iter().partition(is_victim);
        let gone: Vec<Registration> = gone;
        self.registrations = left;
        let told = gone.into_iter().filter(|r| !r.path.covers(nexus));
        effects.attentions.extend(told.map(|r| (r.path, Attention::RegistrationsPreempted)));
        if takes_over {
            let changed = before.is_some_and(|b| b.kind != kind && b.kind.shared());
            self.reservation = Some(Reservation { kind, holder: own.path.clone() });
            if changed {
                self.tell_all(|path| *path != own.path, Attention::ReservationsReleased, effects);
            }
        } else if self.registrations.is_empty() {
            self.reservation = None;
        }
        Ok(())
    }

    /// SPC-5 §5.14.8.
    fn move_to(
        &mut self,
        nexus: &Nexus,
        own: &Registration,
        to: &Path,
        key: u64,
        unregister: bool,
    ) -> Result<(), Failure> {
        let kind = match &self.reservation {
            Some(r) if self.holds(nexus) && !r.kind.all_registrants() => r.kind,
            _ => return Err(Status::ReservationConflict.into()),
        };
        if key == 0 {
            return Err(Sense::parameter_field(8).into());
        }
        if to.overlaps(&own.path) {
            return Err(Sense::parameter_field(24).into());
        }
        self.add(std::slice::from_ref(to), key)?;
        self.reservation = Some(Reservation { kind, holder: to.clone() });
        if unregister {
            self.registrations.retain(|r| r.path != own.path);
        }
        Ok(())
    }

    fn tell_all(&self, who: impl Fn(&Path) -> bool, attention: Attention, effects: &mut Effects) {
        let paths = self.registrations.iter().map(|r| &r.path).filter(|path| who(path));
        effects.attentions.extend(paths.map(|path| (path.clone(), attention)));
    }
}

#[cfg(test)]
mod tests;
