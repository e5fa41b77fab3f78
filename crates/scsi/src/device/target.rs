//! The logical units of one target.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Error;
use parking_lot::RwLock;

use super::attention::Attention;
use super::cdb::Cdb;
use super::demand::Demand;
use super::inquiry;
use super::opcode::{self, Operation as Op};
use super::sense::{Failure, Key, Sense, code};
use super::unit::{self, Answer, LogicalUnit};
use crate::medium::Admission;
use crate::task::{Command, Nexus, Outcome, TaskFunction};

/// The well known logical unit that answers REPORT LUNS (SAM-5 §4.7.7.5.1, SPC-5 §8.2).
const REPORT_LUNS_UNIT: u64 = 0xc101_0000_0000_0000;

/// A SCSI target device: its logical units by number. They may come and go while it is in use.
pub struct TargetDevice {
    name: String,
    inventory: RwLock<Inventory>,
}

#[derive(Default)]
struct Inventory {
    units: BTreeMap<u16, Arc<LogicalUnit>>,
    nexuses: BTreeMap<u64, Nexus>,
}

impl TargetDevice {
    /// A target without logical units. `target_name` is its iSCSI name.
    pub fn new(target_name: &str) -> TargetDevice {
        TargetDevice { name: target_name.to_owned(), inventory: RwLock::default() }
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shows a logical unit under a number below 16,384, in place of what was there. Open nexuses learn of it by the
    /// unit attention REPORTED LUNS DATA HAS CHANGED.
    pub fn attach(&self, lun: u16, unit: Arc<LogicalUnit>) {
        let mut inventory = self.inventory.write();
        inventory.nexuses.values().for_each(|nexus| unit.open(nexus));
        let before = inventory.units.insert(lun, unit);
        inventory.left(before);
        inventory.tell();
    }

    /// Takes a logical unit away.
    pub fn detach(&self, lun: u16) {
        let mut inventory = self.inventory.write();
        let before = inventory.units.remove(&lun);
        inventory.left(before);
        inventory.tell();
    }

    /// The logical unit that an 8-byte LUN addresses.
    pub fn unit(&self, lun: u64) -> Option<Arc<LogicalUnit>> {
        self.inventory.read().units.get(&number(lun)?).cloned()
    }

    /// What a command takes of `expected_out` bytes that the initiator announced. One for no logical unit takes nothing.
    pub fn demand(&self, lun: u64, cdb: &[u8], expected_out: u32) -> Demand {
        self.unit(lun).map_or(Demand::default(), |unit| unit.demand(Cdb(cdb), expected_out))
    }

    /// What an initiator is told when that admission was refused.
    pub fn admission_failed(&self, lun: u64, error: &Error) -> Outcome {
        match self.unit(lun) {
            Some(unit) => unit.failure(error),
            None => failed(Sense::illegal(code::UNIT_NOT_SUPPORTED).into()),
        }
    }

    /// Runs a command at once, if that needs no waiting.
    pub fn try_execute(&self, nexus: &Nexus, lun: u64, command: &Command) -> Option<Outcome> {
        self.unit(lun)?.try_execute(nexus, command)
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
            Some(unit) => unit.execute(self, nexus, command, admission).await,
            None => self.without_unit(nexus, lun, &command).map_or_else(failed, Answer::into_outcome),
        }
    }

    /// A session has logged in: each logical unit has a unit attention for it (POWER ON OCCURRED).
    pub fn nexus_opened(&self, nexus: &Nexus) {
        let mut inventory = self.inventory.write();
        inventory.nexuses.insert(nexus.id, nexus.clone());
        inventory.units.values().for_each(|unit| unit.open(nexus));
    }

    /// A session has ended.
    pub fn nexus_closed(&self, nexus: &Nexus) {
        let mut inventory = self.inventory.write();
        inventory.nexuses.remove(&nexus.id);
        inventory.units.values().for_each(|unit| unit.close(nexus));
    }

    /// What a task management function does to logical units; the transport itself ends the tasks. Tasks of other
    /// nexuses that a reset ends get TASK ABORTED (TAS is 1).
    pub async fn task_function(&self, _nexus: &Nexus, lun: u64, function: TaskFunction) {
        if !unit::resets(function) {
            return;
        }
        let units: Vec<_> = match function {
            TaskFunction::LogicalUnitReset => self.unit(lun).into_iter().collect(),
            _ => self.inventory.read().units.values().cloned().collect(),
        };
        for unit in units {
            unit.reset().await;
        }
    }

    /// The logical unit that a designator of VPD page 83h names, for copies (association: logical unit).
    pub(super) fn designated(&self, kind: u8, designator: &[u8]) -> Option<Arc<LogicalUnit>> {
        let inventory = self.inventory.read();
        let named = |unit: &&Arc<LogicalUnit>| {
            unit.designators().iter().any(|(k, d)| (*k, &d[..]) == (kind, designator))
        };
        inventory.units.values().find(named).cloned()
    }

    /// REPORT LUNS (SPC-5 §6.33).
    pub(super) fn report_luns(&self, nexus: &Nexus, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        let inventory = self.inventory.read();
        let ordinary = inventory.units.keys().map(|lun| encode(*lun));
        let list: Vec<u64> = match cdb.byte(2) {
            0x00 => ordinary.collect(),
            0x01 => vec![REPORT_LUNS_UNIT],
            0x02 => ordinary.chain([REPORT_LUNS_UNIT]).collect(),
            _ => return Err(Sense::cdb_field(2).into()),
        };
        inventory.units.values().for_each(|unit| unit.luns_reported(nexus));
        let mut out = ((list.len() * 8) as u32).to_be_bytes().to_vec();
        out.extend([0; 4]);
        out.extend(list.iter().flat_map(|lun| lun.to_be_bytes()));
        Ok(Answer::data(out, cdb.u32(6)))
    }

    /// What a number without a logical unit, or the well known one, answers (SPC-5 §6.7.2, SAM-5 §5.11).
    fn without_unit(&self, nexus: &Nexus, lun: u64, command: &Command) -> Result<Answer, Failure> {
        let cdb = Cdb(&command.cdb);
        let well_known = lun == REPORT_LUNS_UNIT;
        let unsupported = Sense::illegal(code::UNIT_NOT_SUPPORTED);
        match (opcode::find(cdb).map(|kind| kind.operation), well_known) {
            (Ok(Op::ReportLuns), _) => self.report_luns(nexus, cdb),
            (Ok(Op::Inquiry), true) => inquiry::well_known(cdb),
            (Ok(Op::Inquiry), false) => inquiry::absent(cdb),
            (Ok(Op::RequestSense), _) => {
                let sense = if well_known { Sense::new(Key::NoSense, code::NONE) } else { unsupported };
                Ok(Answer::data(sense.encode(cdb.has(1, 0x01)), u32::from(cdb.byte(4))))
            }
            (Ok(Op::TestUnitReady), true) => Ok(Answer::done()),
            (_, true) => Err(Sense::illegal(code::INVALID_OPERATION_CODE).into()),
            (_, false) => Err(unsupported.into()),
        }
    }
}

impl Inventory {
    /// Ends what the nexuses of this target have with a logical unit that is not shown any more.
    fn left(&self, unit: Option<Arc<LogicalUnit>>) {
        let gone = unit.filter(|unit| !self.units.values().any(|other| Arc::ptr_eq(other, unit)));
        if let Some(unit) = gone {
            self.nexuses.values().for_each(|nexus| unit.close(nexus));
        }
    }

    fn tell(&self) {
        for unit in self.units.values() {
            self.nexuses.values().for_each(|nexus| unit.attend(nexus, Attention::LunsChanged));
        }
    }
}

fn failed(failure: Failure) -> Outcome {
    let sense = failure.sense.map_or_else(Vec::new, |sense| sense.encode(false));
    Outcome { status: failure.status, sense, data_in: Vec::new(), transfer: failure.transfer }
}

/// SAM-5 §4.7: peripheral (bus 0) and flat addressing of one level.
fn number(lun: u64) -> Option<u16> {
    let first = (lun >> 48) as u16;
    match (first >> 14, lun << 16) {
        (0b00, 0) if first < 256 => Some(first),
        (0b01, 0) => Some(first & 0x3fff),
        _ => None,
    }
}

/// The shorter form where it does.
fn encode(lun: u16) -> u64 {
    let first = if lun < 256 { lun } else { 0x4000 | lun & 0x3fff };
    u64::from(first) << 48
}
