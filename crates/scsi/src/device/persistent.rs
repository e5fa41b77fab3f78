//! PERSISTENT RESERVE IN (SPC-5 §6.15), PERSISTENT RESERVE OUT (§6.16), and RESERVE and RELEASE of SPC-2 (§7.20, §7.16).

use std::sync::Arc;

use super::cdb::Cdb;
use super::reservations::{Action, Kind, MAX_REGISTRATIONS, Path, Request, Reservations};
use super::sense::{Failure, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};
use crate::medium::{BlockMedium, MAX_STATE};
use crate::task::{Nexus, Status};

/// The name under which reservations with APTPL are kept beside the blocks.
const STATE: &str = "scsi.persistent-reservations";

impl LogicalUnit {
    /// The reservations that were to survive a loss of power.
    pub(super) async fn load_reservations(medium: &dyn BlockMedium) -> base::Result<Reservations> {
        match medium.load_state(STATE).await? {
            Some(bytes) => Reservations::decode(&bytes),
            None => Ok(Reservations::default()),
        }
    }

    pub(super) fn persistent_reserve_in(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        let state = self.state.lock();
        let now = &state.reservations;
        let list = match cdb.service_action() {
            0x00 => now.registrations.iter().flat_map(|r| r.key.to_be_bytes()).collect(),
            0x01 => reservation(now),
            0x02 => return Ok(Answer::data(capabilities(now), u32::from(cdb.u16(7)))),
            _ => full_status(now),
        };
        let mut out = now.generation.to_be_bytes().to_vec();
        out.extend((list.len() as u32).to_be_bytes());
        out.extend(list);
        Ok(Answer::data(out, u32::from(cdb.u16(7))))
    }

    pub(super) async fn persistent_reserve_out(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let length = task.cdb().u32(5) as usize;
        let most = 24 + 4 + MAX_REGISTRATIONS * 256;
        if length > most {
            return Err(Sense::cdb_field(5).into());
        }
        let list = task.parameters(length)?;
        let request = decode(task.cdb(), &list, task.nexus)?;
        let aborted = {
            let _turn = self.changes.lock().await;
            task.go_on()?; // whoever was preempted while it waited for its turn changes nothing any more
            let before = {
                let state = self.state.lock();
                if state.reserved_by.is_some() {
                    return Err(Status::ReservationConflict.into());
                }
                state.reservations.clone()
            };
            let mut after = before.clone();
            let effects = after.apply(task.nexus, &request)?;
            // Durable before it counts; a change nobody may lose is not told to anybody before.
            if after.aptpl || before.aptpl {
                let value = after.aptpl.then(|| after.encode());
                if value.as_ref().is_some_and(|v| v.len() > MAX_STATE) {
                    return Err(Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES).into());
                }
                self.medium.store_state(STATE, value).await?;
            }
            let mut state = self.state.lock();
            state.reservations = after;
            for (path, attention) in &effects.attentions {
                state.attend(|nexus| path.covers(nexus), *attention);
            }
            let preempted = |nexus: &Nexus| effects.aborted.iter().any(|path| path.covers(nexus));
            match effects.aborted.is_empty() {
                true => Vec::new(),
                false => state.under_way.abort(|nexus| nexus.id != task.nexus.id && preempted(nexus)),
            }
        };
        if !aborted.is_empty() {
            task.outlast(aborted).await?;
        }
        Ok(Answer::moved(length as u64))
    }

    /// RESERVE(6) and (10): for the nexus alone, until it releases, is lost or the unit is reset.
    pub(super) async fn reserve(&self, task: &Task<'_>) -> Result<Answer, Failure> {
        if task.cdb().has(1, 0x11) {
            return Err(Sense::cdb_bit(1, 4).into()); // third party and extents: obsolete
        }
        let _turn = self.changes.lock().await;
        let mut state = self.state.lock();
        match state.reservations.tolerates_legacy(task.nexus) {
            Some(true) => return Ok(Answer::done()),
            Some(false) => return Err(Status::ReservationConflict.into()),
            None => {}
        }
        match state.reserved_by {
            Some(id) if id != task.nexus.id => Err(Status::ReservationConflict.into()),
            _ => {
                state.reserved_by = Some(task.nexus.id);
                Ok(Answer::done())
            }
        }
    }

    /// RELEASE(6) and (10): GOOD also if another nexus reserved, without effect.
    pub(super) async fn release(&self, task: &Task<'_>) -> Result<Answer, Failure> {
        let _turn = self.changes.lock().await;
        let mut state = self.state.lock();
        if state.reservations.tolerates_legacy(task.nexus) == Some(false) {
            return Err(Status::ReservationConflict.into());
        }
        if state.reserved_by == Some(task.nexus.id) {
            state.reserved_by = None;
        }
        Ok(Answer::done())
    }
}

/// READ RESERVATION (SPC-5 table 224).
fn reservation(now: &Reservations) -> Vec<u8> {
    let Some(reservation) = &now.reservation else { return Vec::new() };
    let mut out = now.reservation_key().to_be_bytes().to_vec();
    out.extend([0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
    out
}

/// REPORT CAPABILITIES (SPC-5 table 226): CRH, SIP_C, ATP_C, PTPL_C; TMV with all six types; PTPL_A.
fn capabilities(now: &Reservations) -> Vec<u8> {
    vec![0, 8, 0x10 | 0x08 | 0x04 | 0x01, 0x80 | u8::from(now.aptpl), 0xea, 0x01, 0, 0]
}

/// READ FULL STATUS (SPC-5 table 229).
fn full_status(now: &Reservations) -> Vec<u8> {
    let mut out = Vec::new();
    for registration in &now.registrations {
        let holds = now.is_holder(&registration.path);
        let kind = now.reservation.as_ref().filter(|_| holds).map_or(0, |r| r.kind as u8);
        let all_ports = registration.path.target_port.is_none();
        let id = &registration.path.transport_id;
        out.extend(registration.key.to_be_bytes());
        out.extend([0, 0, 0, 0, u8::from(all_ports) << 1 | u8::from(holds), kind, 0, 0, 0, 0]);
        out.extend(registration.path.target_port.unwrap_or(0).to_be_bytes());
        out.extend((id.len() as u32).to_be_bytes());
        out.extend(id.iter());
    }
    out
}

/// The CDB and parameter list of PERSISTENT RESERVE OUT (SPC-5 tables 232, 235, 236).
pub(super) fn decode(cdb: Cdb<'_>, list: &[u8], nexus: &Nexus) -> Result<Request, Failure> {
    let wrong_length = || Failure::from(Sense::illegal(code::PARAMETER_LIST_LENGTH));
    if list.len() < 24 {
        return Err(wrong_length());
    }
    let fields = Cdb(list);
    let kind = || -> Result<Kind, Failure> {
        if cdb.byte(2) >> 4 != 0 {
            return Err(Sense::cdb_bit(2, 7).into()); // the scope is always the logical unit
        }
        Ok(Kind::decode(cdb.byte(2) & 0x0f).ok_or(Sense::cdb_bit(2, 3))?)
    };
    let (spec_i_pt, all_ports, aptpl) = (fields.has(20, 0x08), fields.has(20, 0x04), fields.has(20, 0x01));
    let ignore_key = cdb.service_action() == 0x06;
    let plain = list.len() == 24;
    let action = match cdb.service_action() {
        0x07 => move_action(list)?,
        0x00 if spec_i_pt => Action::Register {
            ignore_key,
            aptpl,
            all_ports,
            others: Some(named_paths(list, nexus.target_port)?),
        },
        _ if !plain => return Err(wrong_length()),
        0x00 | 0x06 if spec_i_pt => return Err(Sense::parameter_field(20).into()),
        0x00 | 0x06 => Action::Register { ignore_key, aptpl, all_ports, others: None },
        0x01 => Action::Reserve(kind()?),
        0x02 => Action::Release(kind()?),
        0x03 => Action::Clear,
        0x04 => Action::Preempt { kind: kind()?, abort: false },
        0x05 => Action::Preempt { kind: kind()?, abort: true },
        _ => return Err(Sense::cdb_bit(1, 4).into()),
    };
    Ok(Request { action, key: fields.u64(0), action_key: fields.u64(8) })
}

/// REGISTER AND MOVE.
fn move_action(list: &[u8]) -> Result<Action, Failure> {
    let fields = Cdb(list);
    let length = fields.u32(20) as usize;
    let id = list.get(24..).filter(|rest| rest.len() == length);
    let id = id.ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH))?;
    let port = fields.u16(18);
    if port == 0 {
        return Err(Sense::parameter_field(18).into());
    }
    let (transport_id, used) = transport_id(id).ok_or(Sense::parameter_field(24))?;
    if used != length {
        return Err(Sense::parameter_field(20).into());
    }
    let to = Path { transport_id, target_port: Some(port) };
    Ok(Action::Move { to, unregister: fields.has(17, 0x02), aptpl: fields.has(17, 0x01) })
}

/// The TransportIDs behind the parameter list (SPEC_I_PT).
fn named_paths(list: &[u8], target_port: u16) -> Result<Vec<Path>, Failure> {
    let wrong_length = Sense::illegal(code::PARAMETER_LIST_LENGTH);
    let length = list.get(24..28).map(|_| Cdb(list).u32(24) as usize).ok_or(wrong_length)?;
    let mut rest = list.get(28..).filter(|rest| rest.len() == length).ok_or(wrong_length)?;
    let mut paths = Vec::new();
    while !rest.is_empty() {
        let (transport_id, used) =
            transport_id(rest).ok_or(Sense::parameter_field(list.len() - rest.len()))?;
        paths.push(Path { transport_id, target_port: Some(target_port) });
        rest = &rest[used..];
    }
    Ok(paths)
}

/// An iSCSI TransportID with an ISID (SPC-5 §7.6.4.6, format 01b) as the transport makes it, and its length here. The
/// name is compared in lower case and padded as short as may be. Format 00b names no initiator port, and a path is one.
pub(super) fn transport_id(bytes: &[u8]) -> Option<(Arc<[u8]>, usize)> {
    let header = bytes.first_chunk::<4>()?;
    let used = 4 + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let text = bytes.get(4..used).filter(|_| used >= 24 && used.is_multiple_of(4))?;
    let end = text.iter().position(|b| *b == 0)?;
    let name = &text[..end];
    let has_isid = name.len() > 17 && name[..name.len() - 12].ends_with(b",i,0x");
    if header[0] != 0x45 || !has_isid || !name.is_ascii() {
        return None;
    }
    let mut out = vec![0x45, 0, 0, 0];
    out.extend(name.to_ascii_lowercase());
    out.push(0);
    out.resize(out.len().next_multiple_of(4).max(24), 0);
    let length = (out.len() - 4) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    Some((out.into(), used))
}
