//! The small commands: TEST UNIT READY, REQUEST SENSE, READ CAPACITY, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, READ
//! DEFECT DATA.

use super::attention::Attention;
use super::cdb::Cdb;
use super::sense::{Failure, Key, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};

impl LogicalUnit {
    /// TEST UNIT READY (SPC-5 §6.47).
    pub(super) fn test_unit_ready(&self) -> Result<Answer, Failure> {
        match self.state.lock().fenced {
            true => Err(base::ErrorKind::Fenced.into()),
            false => Ok(Answer::done()),
        }
    }

    /// REQUEST SENSE (SPC-5 §6.41): what is pending for the nexus, as data; reported attentions are cleared.
    pub(super) fn request_sense(&self, task: &Task<'_>) -> Answer {
        let mut state = self.state.lock();
        let pending = state.take_attention(task.nexus);
        let sense = pending.map(Attention::sense).or_else(|| state.sanitize.refusal());
        let sense = sense.unwrap_or(Sense::new(Key::NoSense, code::NONE));
        let cdb = task.cdb();
        Answer::data(sense.encode(cdb.has(1, 0x01)), u32::from(cdb.byte(4)))
    }

    /// READ CAPACITY (10) (SBC-4 §5.20).
    pub(super) fn read_capacity_10(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        if !cdb.has(8, 0x01) && cdb.u32(2) != 0 {
            return Err(Sense::cdb_field(2).into());
        }
        let geometry = self.medium.geometry();
        let last = u32::try_from(geometry.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        let mut out = last.to_be_bytes().to_vec();
        out.extend(geometry.block_size.to_be_bytes());
        Ok(Answer::data(out, 8))
    }

    /// READ CAPACITY (16) (SBC-4 §5.21): LBPME and LBPRZ, no protection information.
    pub(super) fn read_capacity_16(&self, cdb: Cdb<'_>) -> Answer {
        let geometry = self.medium.geometry();
        let mut out = geometry.blocks.saturating_sub(1).to_be_bytes().to_vec();
        out.extend(geometry.block_size.to_be_bytes());
        out.extend([0, geometry.physical_exponent.min(15), 0x80 | 0x40, 0]);
        out.resize(32, 0);
        Answer::data(out, cdb.u32(10))
    }

    /// START STOP UNIT (SBC-4 §5.31). Nothing turns, and one initiator must not take the disk from another: stopping
    /// makes everything durable and changes nothing else.
    pub(super) async fn start_stop(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        if cdb.has(4, 0xf0) {
            return Err(Sense::cdb_bit(4, 7).into()); // power conditions
        }
        if cdb.has(4, 0x02) {
            return Err(Sense::cdb_bit(4, 1).into()); // LOEJ: the medium cannot be removed
        }
        if !cdb.has(4, 0x01) && !cdb.has(4, 0x04) {
            self.medium.flush().await?;
        }
        Ok(Answer::done())
    }
}

/// PREVENT ALLOW MEDIUM REMOVAL (SBC-4 §5.16): the medium cannot be removed anyway.
pub(super) fn prevent_allow(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    match cdb.has(4, 0x02) {
        true => Err(Sense::cdb_bit(4, 1).into()),
        false => Ok(Answer::done()),
    }
}

/// READ DEFECT DATA (SBC-4 §5.22): both lists are empty, in the format that is asked for.
pub(super) fn read_defect_data(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    Ok(match cdb.opcode() {
        0x37 => Answer::data(vec![0, cdb.byte(2) & 0x1f, 0, 0], u32::from(cdb.u16(7))),
        _ => Answer::data(vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0], cdb.u32(6)),
    })
}
