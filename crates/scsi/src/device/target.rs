//! The logical units of one target.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::LogicalUnit;
use crate::medium::Admission;
use crate::task::{Command, Nexus, Outcome, Status, TaskFunction};

/// A SCSI target device: its logical units by number. They may come and go while it is in use.
pub struct TargetDevice {
    name: String,
    units: RwLock<BTreeMap<u16, Arc<LogicalUnit>>>,
}

impl TargetDevice {
    /// A target without logical units. `target_name` is its iSCSI name.
    pub fn new(target_name: &str) -> TargetDevice {
        TargetDevice { name: target_name.to_owned(), units: RwLock::new(BTreeMap::new()) }
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shows a logical unit under a number below 16,384.
    pub fn attach(&self, lun: u16, unit: Arc<LogicalUnit>) {
        self.units.write().insert(lun, unit);
    }

    /// Takes a logical unit away.
    pub fn detach(&self, lun: u16) {
        self.units.write().remove(&lun);
    }

    /// The logical unit that an 8-byte LUN addresses.
    pub fn unit(&self, lun: u64) -> Option<Arc<LogicalUnit>> {
        self.units.read().get(&number(lun)?).cloned()
    }

    /// How many bytes of the medium's admission a command needs before its data-out is asked for; 0 for none.
    pub fn admission(&self, _lun: u64, _cdb: &[u8], expected_out: u32) -> u64 {
        u64::from(expected_out)
    }

    /// Runs a command at once, if that needs no waiting.
    pub fn try_execute(&self, _nexus: &Nexus, _lun: u64, _command: &Command) -> Option<Outcome> {
        None
    }

    /// Runs a command. The future may be dropped half-way only if the command is a read.
    pub async fn execute(
        &self,
        nexus: &Nexus,
        lun: u64,
        command: Command,
        admission: Option<Admission>,
    ) -> Outcome {
        match self.unit(lun) {
            Some(unit) => unit.execute(nexus, command, admission).await,
            None => Outcome { status: Status::Busy, sense: Vec::new(), data_in: Vec::new(), transfer: 0 },
        }
    }

    /// A session has logged in.
    pub fn nexus_opened(&self, _nexus: &Nexus) {}

    /// A session has ended.
    pub fn nexus_closed(&self, _nexus: &Nexus) {}

    /// What a task management function does to logical units; the transport itself ends the tasks.
    pub async fn task_function(&self, _nexus: &Nexus, _lun: u64, _function: TaskFunction) {}
}

/// SAM-5 §4.7: peripheral and flat addressing.
fn number(lun: u64) -> Option<u16> {
    let first = (lun >> 48) as u16;
    match (first >> 14, lun << 16) {
        (0b00, 0) if first < 256 => Some(first),
        (0b01, 0) => Some(first & 0x3fff),
        _ => None,
    }
}
