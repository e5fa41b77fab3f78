//! SCSI Command PDUs (RFC 7143 §11.3).

use std::collections::VecDeque;

use base::AlignedBuf;
use base::buffer::ALIGN;
use bytes::Bytes;

use super::memory::in_buffer;
use super::task::{Admittance, Burst, Refusal, Stage, Task, TaskId, Wait};
use super::{Event, Session};
use crate::device::Demand;
use crate::iscsi::output::Output;
use crate::iscsi::pdu::{Additional, Header, NO_TAG, RejectReason, decode_additional};
use crate::iscsi::receive::Landing;
use crate::iscsi::registry::Counters;
use crate::task::TaskAttribute;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;

/// Immediate commands take no place in the window; more than so many at once are rejected.
const MOST_IMMEDIATE: usize = 32;

impl Session {
    /// Where immediate data goes: a buffer for all the unsolicited data of the command.
    pub(super) fn begin_command(&mut self, header: &Header) -> Landing {
        let (len, expected) = (header.data_len(), header.word(20) as usize);
        if header.flags() & WRITE == 0 || len > expected {
            return Landing::Discard;
        }
        let whole = match (header.is_final(), &self.device) {
            (false, Some(device)) => {
                let demand = device.demand(header.lun(), &header.0[32..48], header.word(20));
                (self.kept(header.word(20), demand) as usize).max(len)
            }
            _ => len,
        };
        let memory = in_buffer(whole);
        if !self.may_hold(memory, self.unasked_part()) {
            return Landing::Discard; // for `take_unsolicited` to see
        }
        self.landing = memory;
        self.reserved += memory;
        // Cut to what came before anybody sees it.
        Landing::Buffer(AlignedBuf::for_overwrite(whole), 0)
    }

    /// How much of the unsolicited data is kept until it is all here. What the command does not take is dropped, but the
    /// segment that goes beyond has to land in one piece.
    fn kept(&self, expected: u32, demand: Demand) -> u32 {
        let first = expected.min(self.params.first_burst);
        first.min(demand.data_out.saturating_add(self.limits.data_segment))
    }

    /// Makes a task of a command, unless it has to be rejected.
    pub(super) fn admit_command(
        &mut self,
        header: &Header,
        additional: &[u8],
        landing: Landing,
        stage: Stage,
        out: &mut Output,
    ) -> Option<TaskId> {
        let additional = match self.check_command(header, additional) {
            Ok(additional) => additional,
            Err(reason) => {
                self.reject(reason, header, out);
                return None;
            }
        };
        // The order is that of CmdSN: a command that came too early gets its place when its turn comes.
        let order = if stage == Stage::Held { u64::MAX } else { self.next_order };
        let mut task = Box::new(new_task(header, additional, stage, order));
        task.first_tag = self.next_tag;
        if let Some(device) = self.device.as_ref().filter(|_| task.expected_out > 0) {
            task.demand = device.demand(task.lun, &task.cdb, task.expected_out);
        }
        self.next_order += 1;
        self.take_unsolicited(&mut task, header, landing);
        self.reserved += task.reserved;
        if task.attribute == TaskAttribute::Ordered {
            self.ordered += 1;
        }
        if !task.immediate && stage != Stage::Held {
            self.windowed += 1;
        }
        let counters = self.counters();
        Counters::add(&counters.commands, 1);
        Counters::add(&counters.bytes_in, header.data_len() as u64);
        Some(self.tasks.insert(task))
    }

    fn check_command(&self, header: &Header, additional: &[u8]) -> Result<Additional, RejectReason> {
        if self.device.is_none() {
            return Err(RejectReason::CommandNotSupported);
        }
        if self.logout.is_some() {
            return Err(RejectReason::WaitingForLogout);
        }
        if self.tasks.find(header.itt()).is_some() {
            return Err(RejectReason::TaskInProgress);
        }
        if header.immediate() && self.tasks.len() >= self.windowed as usize + self.held.len() + MOST_IMMEDIATE
        {
            return Err(RejectReason::TooManyImmediateCommands);
        }
        match header.itt() {
            NO_TAG => Err(RejectReason::InvalidPduField),
            _ => decode_additional(additional).ok_or(RejectReason::InvalidPduField),
        }
    }

    /// Notes the immediate data that came with a command and the unsolicited data that it announces.
    fn take_unsolicited(&mut self, task: &mut Task, header: &Header, landing: Landing) {
        let len = header.data_len() as u32;
        let first = task.expected_out.min(self.params.first_burst);
        let more = !header.is_final() && len < first;
        if len > 0 && (!self.params.immediate_data || len > self.params.first_burst)
            || more && self.params.initial_r2t
        {
            task.refusal = Some(Refusal::UnexpectedData);
        }
        let mut buf = match landing {
            Landing::Buffer(buf, _) => Some(buf),
            Landing::Discard if len > task.expected_out => {
                task.refusal = Some(Refusal::IncorrectData);
                None
            }
            Landing::Discard => {
                if len > 0 {
                    task.refusal.get_or_insert(Refusal::NoMemory);
                }
                None
            }
        };
        let kept = if more { self.kept(task.expected_out, task.demand) as usize } else { len as usize };
        let kept = in_buffer(kept);
        if task.refusal.is_some() || !self.may_hold(kept, self.unasked_part()) {
            task.refusal.get_or_insert(Refusal::NoMemory);
            buf = None;
        } else {
            task.reserved = kept;
        }
        if more {
            task.solicited = first;
            task.bursts.push_back(Burst { got: len, buf, ..Burst::new(NO_TAG, 0, first) });
        } else if let Some(buf) = buf {
            task.solicited = len;
            task.data.push(brought(buf, len.min(task.demand.data_out)));
        }
    }

    /// Takes a task on as far as it goes: admission, data, readiness.
    pub(super) fn progress(&mut self, id: TaskId, out: &mut Output) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        if task.stage != Stage::Collecting {
            return;
        }
        let place = (task.order, id);
        self.wants_room.remove(&place);
        self.wants_memory.remove(&place);
        let Some(task) = self.tasks.get_mut(id) else { return };
        if task.refusal.is_some() {
            // The initiator may still be sending; the status waits until it has ended (RFC 7143 §7.8).
            if task.bursts.is_empty() {
                self.refuse(id, out);
            }
            return;
        }
        if !self.seek_admission(id) {
            return;
        }
        self.solicit(id, out);
        let Some(task) = self.tasks.get_mut(id) else { return };
        if task.is_complete() {
            task.stage = Stage::Ready;
            let kept = std::mem::take(&mut task.promised);
            match task.attribute {
                TaskAttribute::HeadOfQueue => self.ready.push_front(id),
                _ => self.ready.push_back(id),
            }
            if kept > 0 {
                self.promised -= kept;
                self.feed_starved(out);
            }
        }
    }

    /// Whether a task may write; if that is not known at once, an event asks.
    fn seek_admission(&mut self, id: TaskId) -> bool {
        let (Some(task), Some(device)) = (self.tasks.get_mut(id), &self.device) else { return false };
        match task.admittance {
            Admittance::Asked => return false,
            Admittance::Unneeded | Admittance::Granted(_) => return true,
            Admittance::Open => {}
        }
        let order = task.order;
        let bytes = u64::from(task.demand.admission);
        let unit = if bytes > 0 { device.unit(task.lun) } else { None };
        let Some(unit) = unit else {
            task.admittance = Admittance::Unneeded;
            return true;
        };
        if !self.may_promise(id) {
            self.wants_room.insert((order, id));
            self.begin_wait(id);
            return false;
        }
        match unit.medium().try_admit(bytes) {
            Some(admission) => {
                self.grant(id, admission);
                true
            }
            None => {
                if let Some(task) = self.tasks.get_mut(id) {
                    task.admittance = Admittance::Asked;
                }
                self.events.push_back(Event::Admit { task: id, bytes, medium: unit.medium().clone() });
                false
            }
        }
    }

    /// Whether a task may hold room on the medium. Room is common to all sessions: none may hold much of it for data that
    /// it has yet to send.
    fn may_promise(&self, id: TaskId) -> bool {
        self.tasks.get(id).is_some_and(|task| {
            let more = task.demand.admission as usize;
            task.is_complete()
                // None for a task that would have to wait for memory then.
                || self.promised + more <= self.limits.promised_bytes && self.wants_memory.is_empty()
                || self.is_oldest(task.order)
        })
    }

    fn grant(&mut self, id: TaskId, admission: crate::medium::Admission) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.admittance = Admittance::Granted(admission);
        if !task.is_complete() {
            task.promised = task.demand.admission as usize;
            self.promised += task.promised;
        }
    }

    /// The medium has answered.
    pub(crate) fn admitted(
        &mut self,
        id: TaskId,
        answer: base::Result<crate::medium::Admission>,
        out: &mut Output,
    ) {
        let may_promise = self.may_promise(id);
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.is_asked()) else { return };
        task.admittance = Admittance::Open;
        match answer {
            Ok(admission) if may_promise => self.grant(id, admission),
            // Others were granted so much meanwhile that this one has to wait.
            Ok(_) => {}
            Err(error) => {
                task.admittance = Admittance::Unneeded;
                task.refusal.get_or_insert(Refusal::NotAdmitted(error));
            }
        }
        self.progress(id, out);
    }
}

/// The first `len` bytes of a buffer. A few of a large one are copied: they may be kept for long.
pub(super) fn brought(mut buf: AlignedBuf, len: u32) -> Bytes {
    let len = len as usize;
    if len <= buf.len() / 2 && buf.len() > ALIGN {
        return AlignedBuf::copy_of(&buf[..len]).into_bytes();
    }
    buf.truncate(len);
    buf.into_bytes()
}

impl Task {
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.admittance, Admittance::Asked)
    }

    pub(super) fn take_admission(&mut self) -> Option<crate::medium::Admission> {
        match std::mem::replace(&mut self.admittance, Admittance::Unneeded) {
            Admittance::Granted(admission) => Some(admission),
            _ => None,
        }
    }
}

fn new_task(header: &Header, additional: Additional, stage: Stage, order: u64) -> Task {
    let flags = header.flags();
    let (reads, writes) = (flags & READ != 0, flags & WRITE != 0);
    let expected = header.word(20);
    let mut cdb = Vec::with_capacity(16 + additional.cdb.len());
    cdb.extend_from_slice(&header.0[32..48]);
    cdb.extend_from_slice(&additional.cdb);
    Task {
        itt: header.itt(),
        lun: header.lun(),
        order,
        immediate: header.immediate(),
        attribute: match flags & 7 {
            2 => TaskAttribute::Ordered,
            3 => TaskAttribute::HeadOfQueue,
            4 => TaskAttribute::Aca,
            _ => TaskAttribute::Simple,
        },
        cdb,
        expected_in: match (reads, writes) {
            (true, true) => additional.read_len.unwrap_or(0),
            (true, false) => expected,
            _ => 0,
        },
        expected_out: if writes { expected } else { 0 },
        demand: Demand::default(),
        bidirectional: reads && writes,
        stage,
        admittance: Admittance::Open,
        refusal: None,
        bursts: VecDeque::new(),
        solicited: 0,
        data: Vec::new(),
        r2t_sn: 0,
        first_tag: 0,
        reserved: 0,
        has_memory: false,
        wait: Wait::default(),
        promised: 0,
        aborted: None,
        stop: None,
    }
}
