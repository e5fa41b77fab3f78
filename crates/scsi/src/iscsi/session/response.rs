//! Data-In and SCSI Response PDUs (RFC 7143 §11.4, §11.7).

use bytes::Bytes;

use super::task::{Refusal, Task, TaskId};
use super::{Session, lun_number};
use crate::iscsi::output::Output;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::iscsi::registry::Counters;
use crate::task::{Outcome, Status};

const FINAL: u8 = 0x80;
const BIDI_OVERFLOW: u8 = 0x10;
const BIDI_UNDERFLOW: u8 = 0x08;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const STATUS: u8 = 0x01;

const ABORTED_COMMAND: u8 = 0x0b;

/// Flags and count of a residual: what was expected against what the command moves.
fn residual(expected: u64, moved: u64, overflow: u8, underflow: u8) -> (u8, u32) {
    match expected.cmp(&moved) {
        std::cmp::Ordering::Less => (overflow, u32::try_from(moved - expected).unwrap_or(u32::MAX)),
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (underflow, (expected - moved) as u32),
    }
}

/// A piece of data-in as one PDU takes it.
struct Cursor {
    parts: std::vec::IntoIter<Bytes>,
    rest: Bytes,
}

impl Cursor {
    /// The next `len` bytes, appended to `into` without copying.
    fn take(&mut self, mut len: usize, into: &mut Vec<Bytes>) {
        while len > 0 {
            if self.rest.is_empty() {
                match self.parts.next() {
                    Some(part) => self.rest = part,
                    None => return,
                }
            }
            let piece = self.rest.split_to(len.min(self.rest.len()));
            len -= piece.len();
            if !piece.is_empty() {
                into.push(piece);
            }
        }
    }
}

impl Session {
    /// Sends what a command has to say.
    pub(super) fn respond(&mut self, task: &Task, outcome: Outcome, out: &mut Output) {
        let brought: usize = outcome.data_in.iter().map(Bytes::len).sum();
        let len = brought.min(task.expected_in as usize);
        let (mut flags, mut count, mut bidi) = (0, 0, 0);
        if task.bidirectional {
            let (read_flag, read_count) =
                residual(u64::from(task.expected_in), brought as u64, BIDI_OVERFLOW, BIDI_UNDERFLOW);
            let (flag, n) = residual(u64::from(task.expected_out), outcome.transfer, OVERFLOW, UNDERFLOW);
            (flags, count, bidi) = (read_flag | flag, n, read_count);
        } else if task.expected_out > 0 {
            (flags, count) = residual(u64::from(task.expected_out), outcome.transfer, OVERFLOW, UNDERFLOW);
        } else if task.expected_in > 0 || outcome.transfer > 0 {
            (flags, count) = residual(u64::from(task.expected_in), outcome.transfer, OVERFLOW, UNDERFLOW);
        }
        let collapsed =
            len > 0 && outcome.status == Status::Good && outcome.sense.is_empty() && !task.bidirectional;
        let mut pdus = 0;
        if len > 0 {
            let status = collapsed.then_some((flags, count));
            pdus = self.send_data_in(task, outcome.data_in, len, status, out);
        }
        if !collapsed {
            let mut header = Header::new(opcode::SCSI_RESPONSE, FINAL | flags);
            header.0[3] = outcome.status as u8;
            header.set_word(16, task.itt);
            header.set_word(36, task.r2t_sn + pdus);
            header.set_word(40, bidi);
            header.set_word(44, count);
            self.stamp_status(&mut header);
            self.put_sense(header, &outcome.sense, out);
        }
    }

    fn put_sense(&mut self, header: Header, sense: &[u8], out: &mut Output) {
        match u16::try_from(sense.len()) {
            Ok(len @ 1..) => out.put_copied(header, &[&len.to_be_bytes()[..], sense].concat()),
            _ => out.put_copied(header, &[]),
        }
    }

    /// Sends `len` bytes as Data-In PDUs, the last with the status if there is nothing more to say, and returns their
    /// number.
    fn send_data_in(
        &mut self,
        task: &Task,
        data: Vec<Bytes>,
        len: usize,
        status: Option<(u8, u32)>,
        out: &mut Output,
    ) -> u32 {
        let mut cursor = Cursor { parts: data.into_iter(), rest: Bytes::new() };
        let mut parts = Vec::new();
        let (mut sent, mut data_sn, mut burst) = (0, 0, 0);
        while sent < len {
            let burst_left = self.params.max_burst as usize - burst;
            let n = (len - sent).min(self.params.send_segment as usize).min(burst_left);
            parts.clear();
            cursor.take(n, &mut parts);
            let last = sent + n == len;
            let ends_burst = last || n == burst_left;
            let mut header = Header::new(opcode::DATA_IN, if ends_burst { FINAL } else { 0 });
            header.set_lun(task.lun);
            header.set_word(16, task.itt);
            header.set_word(20, NO_TAG);
            header.set_word(36, data_sn);
            header.set_word(40, sent as u32);
            match status.filter(|_| last) {
                Some((flags, count)) => {
                    header.0[1] |= STATUS | flags;
                    header.set_word(44, count);
                    self.stamp_status(&mut header);
                }
                None => {
                    self.stamp(&mut header);
                    header.set_word(24, 0); // StatSN is reserved without status
                }
            }
            out.put(header, &parts);
            sent += n;
            data_sn += 1;
            burst = if ends_burst { 0 } else { burst + n };
        }
        Counters::add(&self.counters().bytes_out, len as u64);
        data_sn
    }

    /// Ends a task that was refused and that the device never saw.
    pub(super) fn refuse(&mut self, id: TaskId, out: &mut Output) {
        let Some(mut task) = self.remove(id) else { return };
        let outcome = match task.refusal.take() {
            Some(Refusal::Digest) => transfer_fault(0x47, 0x05),
            Some(Refusal::UnexpectedData) => transfer_fault(0x0c, 0x0c),
            Some(Refusal::IncorrectData | Refusal::Late) | None => transfer_fault(0x0c, 0x0d),
            // SAM-5 §5.3.1: BUSY where the nexus has no other command there.
            Some(Refusal::NoMemory) => {
                let unit = lun_number(task.lun);
                let other = self.tasks.iter().any(|(_, other)| lun_number(other.lun) == unit);
                bare(if other { Status::TaskSetFull } else { Status::Busy })
            }
            Some(Refusal::NotAdmitted(error)) => match &self.device {
                Some(device) => device.admission_failed(task.lun, &error),
                None => bare(Status::Busy),
            },
        };
        self.respond(&task, outcome, out);
        self.feed_starved(out);
    }

    /// Ends a task that another session has aborted.
    pub(super) fn respond_aborted(&mut self, task: &Task, out: &mut Output) {
        self.respond(task, bare(Status::TaskAborted), out);
    }
}

/// A status and nothing else.
fn bare(status: Status) -> Outcome {
    Outcome { status, sense: Vec::new(), data_in: Vec::new(), transfer: 0 }
}

/// ABORTED COMMAND with the codes of RFC 7143 §11.4.7.2.
fn transfer_fault(asc: u8, ascq: u8) -> Outcome {
    let sense = vec![0x70, 0, ABORTED_COMMAND, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
    Outcome { sense, ..bare(Status::CheckCondition) }
}
