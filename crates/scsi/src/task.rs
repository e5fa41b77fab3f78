//! What passes between a transport and a logical unit: commands, outcomes, nexuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// An I_T nexus: one initiator port logged in to one target port (SAM-5 §4.6.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexus {
    /// A number that the transport gives to each session and never uses again while the process lives.
    pub id: u64,
    /// The initiator port's TransportID (SPC-5 §7.6.4; for iSCSI the name with `,i,0x` and the ISID).
    pub transport_id: Arc<[u8]>,
    /// The relative target port identifier, from 1.
    pub target_port: u16,
}

/// SAM-5 §8.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskAttribute {
    /// May be reordered with other simple tasks.
    Simple,
    /// After all older, before all newer tasks.
    Ordered,
    /// Before all others.
    HeadOfQueue,
    /// Contingent allegiance is auto-cleared here, so it is treated as head of queue.
    Aca,
}

/// A command ready to run: all its data-out has arrived.
#[derive(Debug)]
pub struct Command {
    /// The command descriptor block as it came; 6 to 260 bytes.
    pub cdb: Vec<u8>,
    /// What came for it, in order.
    pub data_out: Vec<Bytes>,
    /// How many bytes the initiator said it would send (iSCSI: expected data transfer length of a write).
    pub expected_out: u32,
    /// How many bytes the initiator is ready to take.
    pub expected_in: u32,
    /// How it may be ordered.
    pub attribute: TaskAttribute,
    /// How to make it end early, for commands that may take long.
    pub stop: Option<Stop>,
}

/// Asks a command under way to end at its next stopping point, because its task was aborted. Commands that are over soon
/// pay no heed; see [`device::may_take_long`](crate::device::may_take_long).
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    asked: AtomicBool,
    waiting: AtomicWaker,
}

impl Stop {
    /// Asks for it.
    pub fn ask(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.waiting.wake();
    }

    /// Whether it was asked for.
    pub fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Says whom to wake when it is asked for; to be called before looking whether it was.
    pub fn register(&self, waker: &Waker) {
        self.0.waiting.register(waker);
    }
}

/// SAM-5 §5.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the standard's own names
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    AcaActive = 0x30,
    TaskAborted = 0x40,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The status byte.
    pub status: Status,
    /// Sense data (fixed or descriptor format, as the control mode page asks), empty if there is none.
    pub sense: Vec<u8>,
    /// Data for the initiator, in order; the transport cuts it to `expected_in` and reports the residual.
    pub data_in: Vec<Bytes>,
    /// How many data-in or data-out bytes the command itself would move, for the residual count.
    pub transfer: u64,
}

/// SAM-5 §7.1, as iSCSI numbers them (RFC 7143 §11.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TaskFunction {
    AbortTask,
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    LogicalUnitReset,
    TargetWarmReset,
    TargetColdReset,
}
