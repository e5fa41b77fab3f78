//! REPORT TARGET PORT GROUPS (SPC-5 §6.39): asymmetric access.

use super::cdb::Cdb;
use super::sense::{Failure, Sense};
use super::unit::Answer;

/// Asymmetric access states (SPC-5 table 301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessState {
    ActiveOptimized = 0x0,
    /// Another gateway owns the volume now.
    Unavailable = 0x3,
}

/// The one group that the ports of a gateway form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortGroup {
    pub id: u16,
    pub state: AccessState,
}

/// Answers for the group with the port that asks.
pub(super) fn report(group: PortGroup, target_port: u16, cdb: Cdb<'_>) -> Result<Answer, Failure> {
    let extended = match cdb.byte(1) >> 5 {
        0 => false,
        1 => true,
        _ => return Err(Sense::cdb_bit(1, 7).into()),
    };
    let mut out = vec![0; 4];
    if extended {
        out.extend([0x10, 0, 0, 0]); // format 001b, no implicit transition time given
    }
    let supported = 0x08 | 0x01; // U_SUP, AO_SUP
    let [id_hi, id_lo] = group.id.to_be_bytes();
    let [port_hi, port_lo] = target_port.to_be_bytes();
    out.extend([group.state as u8, supported, id_hi, id_lo, 0, 0x02, 0, 1]); // status 02h: implicit
    out.extend([0, 0, port_hi, port_lo]);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(Answer::data(out, cdb.u32(6)))
}
