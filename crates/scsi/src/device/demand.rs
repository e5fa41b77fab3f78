//! How much data-out a command takes, whatever the initiator announces.

use super::cdb::{Cdb, Extent};
use super::opcode::{self, Operation as Op};
use super::unit::LogicalUnit;

/// The longest parameter list that is taken, in bytes: more than any command here can use. Longer ones are not, and then
/// the command finds its list too short.
const LONGEST_LIST: u64 = 512 << 10;

/// What a command asks for before it can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Bytes of data-out; what the initiator sends beyond is of no use.
    pub data_out: u32,
    /// Bytes of the medium's admission, to be had before the data-out is asked for; 0 for none.
    pub admission: u32,
}

impl LogicalUnit {
    /// What a command demands if the initiator announced `expected_out` bytes. It follows from the CDB alone, so it is
    /// the same when the command runs.
    pub(super) fn demand(&self, cdb: Cdb<'_>, expected_out: u32) -> Demand {
        let Ok(kind) = opcode::find(cdb) else { return Demand::default() };
        let (data_out, admission) = match kind.operation {
            Op::Write | Op::WriteAndVerify | Op::WriteAtomic | Op::OrWrite => {
                let bytes = self.transfer_bytes(cdb);
                (bytes, bytes)
            }
            // What is compared, then what is written.
            Op::CompareAndWrite => (2 * self.transfer_bytes(cdb), self.transfer_bytes(cdb)),
            Op::Verify => match cdb.byte(1) >> 1 & 0x03 {
                1 => (self.transfer_bytes(cdb), 0),
                3 => (self.block_bytes(), 0),
                _ => (0, 0),
            },
            Op::WriteSame if cdb.opcode() == 0x93 && cdb.has(1, 0x01) => (0, 0),
            Op::WriteSame => (self.block_bytes(), 0),
            _ => (list_length(kind.operation, cdb), 0),
        };
        let bounded = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).min(expected_out);
        Demand { data_out: bounded(data_out), admission: bounded(admission) }
    }

    /// The bytes of the blocks that are moved; none if there are so many that the command will be refused.
    fn transfer_bytes(&self, cdb: Cdb<'_>) -> u64 {
        let blocks = Extent::of(cdb).blocks;
        if blocks <= u64::from(self.limits().transfer) { blocks * self.block_bytes() } else { 0 }
    }

    fn block_bytes(&self) -> u64 {
        u64::from(self.medium.geometry().block_size)
    }
}

/// The length of the parameter list of a command that has one.
fn list_length(operation: Op, cdb: Cdb<'_>) -> u64 {
    let length = match operation {
        Op::ModeSelect if cdb.opcode() == 0x15 => u64::from(cdb.byte(4)),
        Op::ModeSelect | Op::Unmap | Op::Sanitize => u64::from(cdb.u16(7)),
        Op::PersistentReserveOut => u64::from(cdb.u32(5)),
        Op::ExtendedCopy => u64::from(cdb.u32(10)),
        _ => 0,
    };
    if length <= LONGEST_LIST { length } else { 0 }
}
