//! Task management (RFC 7143 §11.5, §11.6).
//!
//! A function ends tasks in this session and, where its scope says so, asks the other sessions of the target to end
//! theirs. Each task that the device runs holds a ticket until it has ended; when the last ticket is gone the device
//! does its part, and then the response goes.

use std::sync::Arc;

use super::task::{Aborter, TaskId};
use super::{Event, Held, Session, lun_number};
use crate::iscsi::mailbox::{Gate, Notice};
use crate::iscsi::output::Output;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::task::TaskFunction;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Answer {
    Complete = 0,
    NoSuchTask = 1,
    NoSuchUnit = 2,
    ReassignmentNotSupported = 4,
    NotSupported = 5,
    Rejected = 255,
}

/// A function under way.
pub(super) struct Function {
    number: u64,
    itt: u32,
    lun: u64,
    kind: TaskFunction,
}

impl Session {
    /// Takes a Task Management Function Request.
    pub(super) fn function(&mut self, header: &Header, out: &mut Output) {
        let kind = match header.flags() & 0x7f {
            1 => TaskFunction::AbortTask,
            2 => TaskFunction::AbortTaskSet,
            4 => TaskFunction::ClearTaskSet,
            5 => TaskFunction::LogicalUnitReset,
            6 => TaskFunction::TargetWarmReset,
            7 => TaskFunction::TargetColdReset,
            8 => return self.answer_function(header.itt(), Answer::ReassignmentNotSupported, out),
            // CLEAR ACA: there is never an ACA condition, NACA is refused by the device.
            3 => return self.answer_function(header.itt(), Answer::NotSupported, out),
            _ => return self.answer_function(header.itt(), Answer::Rejected, out),
        };
        let Some(device) = &self.device else {
            return self.answer_function(header.itt(), Answer::NotSupported, out);
        };
        let whole_target = matches!(kind, TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset);
        if !whole_target && device.unit(header.lun()).is_none() {
            return self.answer_function(header.itt(), Answer::NoSuchUnit, out);
        }
        let (number, gate) = self.new_gate();
        let function = Function { number, itt: header.itt(), lun: header.lun(), kind };
        match kind {
            TaskFunction::AbortTask => match self.abort_one(header, &gate) {
                Answer::Complete => {}
                other => return self.answer_function(header.itt(), other, out),
            },
            TaskFunction::AbortTaskSet | TaskFunction::ClearAca => {
                let lun = lun_number(header.lun());
                self.abort_all(&gate, |task| lun_number(task.lun) == lun);
            }
            TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset => {
                self.abort_everywhere(Some(lun_number(header.lun())), &gate);
            }
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => {
                self.abort_everywhere(None, &gate)
            }
        }
        self.functions.push(function);
        self.feed_starved(out);
        // With the last ticket gone, a notice says so; it is often this one.
        drop(gate);
    }

    /// ABORT TASK (RFC 7143 §11.6.1).
    fn abort_one(&mut self, header: &Header, gate: &Arc<Gate>) -> Answer {
        let (tag, cmd_sn) = (header.ttt(), header.word(32));
        let id: Option<TaskId> = self.tasks.find(tag);
        let of_unit = |id: &TaskId| {
            self.tasks.get(*id).is_some_and(|task| lun_number(task.lun) == lun_number(header.lun()))
        };
        if let Some(id) = id.filter(of_unit) {
            drop(self.abort(id, Aborter::Own, gate));
            return Answer::Complete;
        }
        // A command that is still missing counts as received and aborted: its place in the order is filled.
        let missing = !super::window::before(cmd_sn, self.window.expected())
            && super::window::before(cmd_sn, header.cmd_sn())
            && !super::window::before(self.window.last(), cmd_sn);
        if missing && id.is_none() {
            let mut nothing = Header::new(opcode::NOP_OUT, 0x80);
            nothing.set_word(16, NO_TAG);
            self.held.entry(cmd_sn).or_insert(Held::Other(nothing, crate::iscsi::receive::Landing::Discard));
            return Answer::Complete;
        }
        Answer::NoSuchTask
    }

    /// Ends the tasks of one logical unit, or of all, in every session of the target.
    fn abort_everywhere(&mut self, lun: Option<u16>, gate: &Arc<Gate>) {
        self.abort_all(gate, |task| lun.is_none_or(|lun| lun_number(task.lun) == lun));
        let Some(target) = &self.seat.handle.target else { return };
        for other in self.registry.sessions_on(target) {
            if other.id != self.seat.handle.id {
                other.mailbox.post(Notice::Abort { lun, ticket: gate.clone() });
            }
        }
    }

    /// All tasks that a function ends have ended: the device's part comes next.
    pub(super) fn opened(&mut self, number: u64, out: &mut Output) {
        if self.finish_logout(number, out) {
            return;
        }
        let Some(at) = self.functions.iter().position(|f| f.number == number) else { return };
        let Function { lun, kind, .. } = self.functions[at];
        match &self.device {
            Some(device) if kind != TaskFunction::AbortTask => self.events.push_back(Event::Function {
                number,
                device: device.clone(),
                nexus: self.nexus.clone(),
                lun,
                function: kind,
            }),
            _ => self.function_done(number, out),
        }
    }

    /// The device has done its part.
    pub(crate) fn function_done(&mut self, number: u64, out: &mut Output) {
        let Some(at) = self.functions.iter().position(|f| f.number == number) else { return };
        let function = self.functions.swap_remove(at);
        // Places filled for aborted commands may have opened the way for later ones.
        self.release_held(out);
        self.answer_function(function.itt, Answer::Complete, out);
        if function.kind == TaskFunction::TargetColdReset {
            self.close_all_sessions();
        }
    }

    /// A cold reset ends every session (RFC 7143 §11.5.1), this one after its response.
    fn close_all_sessions(&mut self) {
        if let Some(target) = &self.seat.handle.target {
            for session in self.registry.sessions_on(target) {
                session.mailbox.post(Notice::Close { ticket: None });
            }
        }
    }

    fn answer_function(&mut self, itt: u32, answer: Answer, out: &mut Output) {
        let mut header = Header::new(opcode::TASK_MANAGEMENT_RESPONSE, 0x80);
        header.0[2] = answer as u8;
        header.set_word(16, itt);
        self.stamp_status(&mut header);
        out.put_copied(header, &[]);
    }
}
