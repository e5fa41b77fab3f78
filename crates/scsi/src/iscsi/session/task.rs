//! The tasks of one session.

use std::collections::VecDeque;
use std::sync::Arc;

use base::AlignedBuf;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::device::{Demand, MAX_TRANSFER};
use crate::iscsi::mailbox::Gate;
use crate::medium::Admission;
use crate::task::{Stop, TaskAttribute};

/// Names a task of one session; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId {
    slot: u16,
    generation: u32,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It came before its turn: a CmdSN is missing.
    Held,
    /// It waits for admission to the medium, for data, or both.
    Collecting,
    /// It waits to be run.
    Ready,
    /// The device runs it.
    Running,
}

/// Whether the medium has room for what a task writes.
pub(super) enum Admittance {
    /// Nobody asked yet.
    Open,
    /// None is needed.
    Unneeded,
    /// It was asked for.
    Asked,
    /// It was granted.
    Granted(Admission),
}

/// Why a task ends without being run, once its data is in.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A data segment's digest was wrong.
    Digest,
    /// Data came that nobody asked for.
    UnexpectedData,
    /// Data was too long, too short or out of order.
    IncorrectData,
    /// Data that was announced or asked for did not come.
    Late,
    /// There was no memory for its data.
    NoMemory,
    /// The medium refused admission.
    NotAdmitted(base::Error),
}

/// A run of data-out that is on its way: unsolicited (`ttt` is [`NO_TAG`](crate::iscsi::pdu::NO_TAG)) or asked for by
/// an R2T.
pub(super) struct Burst {
    pub(super) ttt: u32,
    /// Its place in the command's data, in bytes.
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) got: u32,
    /// The next DataSN.
    pub(super) data_sn: u32,
    /// Where it goes; taken out while a segment comes in.
    pub(super) buf: Option<AlignedBuf>,
    pub(super) patience: Patience,
}

/// How long a burst has been waited for, in ticks of the session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    /// All of them.
    pub(super) age: u8,
    /// Those without any of its data, in which the initiator could have sent some.
    pub(super) silent: u8,
}

impl Patience {
    /// The first tick may come at any time, so that two whole intervals have passed after the third.
    const SILENT: u8 = 3;
    /// Two minutes: by then initiators have given the command up.
    const AGE: u8 = 24;

    pub(super) fn is_over(self) -> bool {
        self.silent >= Patience::SILENT || self.age >= Patience::AGE
    }
}

/// How long a task has waited for memory, in ticks of the session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wait {
    /// All of them.
    age: u8,
    /// The last ones, in which nothing of the session has moved.
    still: u8,
    /// The session's count of moves at the beginning of these, once it waits.
    moves: Option<u64>,
}

impl Wait {
    /// The first tick may come at any time, so that two whole intervals have passed after the third.
    const STILL: u8 = 3;
    /// Less than half a minute: after that Linux gives a command up.
    const AGE: u8 = 5;

    pub(super) fn begin(&mut self, moves: u64) {
        self.moves.get_or_insert(moves);
    }

    pub(super) fn tick(&mut self, moves: u64) {
        self.age = self.age.saturating_add(1);
        self.still = if self.moves == Some(moves) { self.still.saturating_add(1) } else { 0 };
        self.moves = Some(moves);
    }

    pub(super) fn is_over(self) -> bool {
        self.still >= Wait::STILL || self.age >= Wait::AGE
    }
}

pub(super) struct Task {
    pub(super) itt: u32,
    pub(super) lun: u64,
    /// The place in the order of commands of the session; the last while it is held.
    pub(super) order: u64,
    pub(super) immediate: bool,
    pub(super) attribute: TaskAttribute,
    pub(super) cdb: Vec<u8>,
    pub(super) expected_in: u32,
    pub(super) expected_out: u32,
    /// What the command takes, which may be less than the initiator expects.
    pub(super) demand: Demand,
    pub(super) bidirectional: bool,
    pub(super) stage: Stage,
    pub(super) admittance: Admittance,
    pub(super) refusal: Option<Refusal>,
    pub(super) bursts: VecDeque<Burst>,
    /// Data-out up to here has come or was asked for, in bytes.
    pub(super) solicited: u32,
    pub(super) data: Vec<Bytes>,
    pub(super) r2t_sn: u32,
    /// Its transfer tags begin here.
    pub(super) first_tag: u32,
    /// Bytes of memory for data-out that it has.
    pub(super) reserved: usize,
    /// Whether that is enough for all that is to be asked for.
    pub(super) has_memory: bool,
    /// How long it has waited for memory.
    pub(super) wait: Wait,
    /// Bytes of the medium's room that it holds for data that has yet to come.
    pub(super) promised: usize,
    /// Set if it was aborted while running.
    pub(super) aborted: Option<Aborted>,
    /// How to make it end early, if it may take long.
    pub(super) stop: Option<Stop>,
}

/// A task that is aborted and still runs.
pub(super) struct Aborted {
    /// Dropped with the task: who waits for its end then knows.
    pub(super) tickets: Vec<Arc<Gate>>,
    pub(super) by: Aborter,
}

/// Who aborts a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aborter {
    /// The session itself: it gets no response for the task.
    Own,
    /// Another session of the target: the task ends with TASK ABORTED, as the control mode page's TAS bit says
    /// (SAM-5 §5.6).
    Other,
}

impl Task {
    /// Bytes of data-in that it may bring.
    pub(super) fn incoming(&self) -> usize {
        self.expected_in.min(MAX_TRANSFER) as usize
    }

    /// Whether it waits to be run and brings data.
    pub(super) fn is_reading(&self) -> bool {
        self.stage == Stage::Ready && self.expected_in > 0
    }

    /// Whether all the data-out that it takes has come.
    pub(super) fn is_complete(&self) -> bool {
        self.bursts.is_empty() && self.solicited >= self.demand.data_out
    }
}

struct Slot {
    generation: u32,
    task: Option<Box<Task>>,
}

/// A table with lookup by id and by initiator task tag.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u16>,
    by_tag: FxHashMap<u32, TaskId>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }

    /// Adds a task whose tag is not in use.
    pub(super) fn insert(&mut self, task: Box<Task>) -> TaskId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, task: None });
            (self.slots.len() - 1) as u16
        });
        let place = &mut self.slots[usize::from(slot)];
        place.generation = place.generation.wrapping_add(1);
        let id = TaskId { slot, generation: place.generation };
        self.by_tag.insert(task.itt, id);
        place.task = Some(task);
        id
    }

    pub(super) fn find(&self, itt: u32) -> Option<TaskId> {
        self.by_tag.get(&itt).copied()
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        let slot = self.slots.get(usize::from(id.slot))?;
        slot.task.as_deref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        let slot = self.slots.get_mut(usize::from(id.slot))?;
        slot.task.as_deref_mut().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Box<Task>> {
        let slot = self.slots.get_mut(usize::from(id.slot)).filter(|s| s.generation == id.generation)?;
        let task = slot.task.take()?;
        self.free.push(id.slot);
        self.by_tag.remove(&task.itt);
        Some(task)
    }

    /// All tasks, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| {
            let id = TaskId { slot: i as u16, generation: slot.generation };
            slot.task.as_deref().map(|task| (id, task))
        })
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.slots.iter_mut().filter_map(|slot| slot.task.as_deref_mut())
    }

    /// The tasks that a test selects, in order of arrival.
    pub(super) fn select(&self, wanted: impl Fn(&Task) -> bool) -> Vec<TaskId> {
        let mut found: Vec<_> = self.iter().filter(|(_, t)| wanted(t)).map(|(id, t)| (t.order, id)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }
}
