//! Soliciting and taking data (RFC 7143 §11.7, §11.8).

use base::AlignedBuf;

use super::Session;
use super::task::{Burst, Refusal, Stage, TaskId};
use crate::iscsi::output::Output;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::iscsi::receive::Landing;
use crate::iscsi::registry::Counters;

impl Session {
    /// Sends R2Ts for a task as far as agreement and budget allow.
    pub(super) fn solicit(&mut self, id: TaskId, out: &mut Output) {
        loop {
            let Some(task) = self.tasks.get(id) else { return };
            let left = task.expected_out - task.solicited;
            let unsolicited = task.bursts.front().is_some_and(|burst| burst.ttt == NO_TAG);
            if left == 0 || unsolicited || task.bursts.len() >= self.params.outstanding_r2t as usize {
                return;
            }
            let len = left.min(self.params.max_burst);
            if !self.has_budget(id, len as usize) {
                if !self.starved.contains(&id) {
                    self.starved.push_back(id);
                }
                return;
            }
            self.send_r2t(id, len, out);
        }
    }

    /// Whether more data may be asked for. The oldest task may always go on, so that what waits for it is never what
    /// it waits for.
    fn has_budget(&self, id: TaskId, len: usize) -> bool {
        self.reserved + len <= self.limits.session_bytes
            || self
                .tasks
                .get(id)
                .is_some_and(|task| !self.tasks.iter().any(|(_, other)| other.order < task.order))
    }

    fn send_r2t(&mut self, id: TaskId, len: u32, out: &mut Output) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let mut header = Header::new(opcode::R2T, 0x80);
        let ttt = id.transfer_tag(task.r2t_sn);
        header.set_lun(task.lun);
        header.set_word(16, task.itt);
        header.set_word(20, ttt);
        header.set_word(36, task.r2t_sn);
        header.set_word(40, task.solicited);
        header.set_word(44, len);
        task.bursts.push_back(Burst { ttt, start: task.solicited, len, got: 0, data_sn: 0, buf: None });
        task.r2t_sn += 1;
        task.solicited += len;
        task.reserved += len as usize;
        self.reserved += len as usize;
        self.stamp(&mut header);
        out.put_copied(header, &[]);
    }

    /// Lets tasks go on that waited for budget.
    pub(super) fn feed_starved(&mut self, out: &mut Output) {
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { return };
            if self.tasks.get(id).is_some_and(|task| task.refusal.is_none()) {
                self.solicit(id, out);
            }
        }
    }

    /// Where a Data-Out's data goes. What does not fit what was agreed lands nowhere; [`Session::data_out`] sees that.
    pub(super) fn begin_data_out(&mut self, header: &Header) -> Landing {
        let Some(task) = self.tasks.find(header.itt()).and_then(|id| self.tasks.get_mut(id)) else {
            return Landing::Discard;
        };
        let refused = task.refusal.is_some();
        match task.bursts.front_mut() {
            Some(burst) if !refused && burst.fits(header) => {
                let buf = burst.buf.take().unwrap_or_else(|| AlignedBuf::for_overwrite(burst.len as usize));
                Landing::Buffer(buf, burst.got as usize)
            }
            _ => Landing::Discard,
        }
    }

    /// Takes a Data-Out. One for a task that is no more is discarded: the initiator sent it before it knew.
    pub(super) fn data_out(&mut self, header: &Header, landing: Landing, intact: bool, out: &mut Output) {
        let Some(id) = self.tasks.find(header.itt()) else { return };
        Counters::add(&self.counters().bytes_in, header.data_len() as u64);
        let Some(task) = self.tasks.get_mut(id) else { return };
        if !matches!(task.stage, Stage::Collecting | Stage::Held) {
            return; // all was here already; the status says what came of it
        }
        let Some(at) = task.bursts.iter().position(|burst| burst.ttt == header.ttt()) else {
            task.refusal.get_or_insert(Refusal::UnexpectedData);
            self.progress(id, out);
            return;
        };
        let burst = &mut task.bursts[at];
        // An empty Data-Out may end a burst; it has nothing to land.
        let landed = match landing {
            Landing::Buffer(buf, _) => {
                burst.buf = Some(buf);
                intact
            }
            Landing::Discard => header.data_len() == 0 && at == 0 && burst.fits(header),
        };
        if landed {
            burst.got += header.data_len() as u32;
            burst.data_sn += 1;
        } else {
            task.refusal.get_or_insert(if intact { Refusal::IncorrectData } else { Refusal::Digest });
        }
        if header.is_final() {
            let burst = task.bursts.remove(at).expect("position() found it");
            task.end_burst(burst);
        }
        self.progress(id, out);
    }
}

impl Burst {
    /// Whether a Data-Out is the next of this burst: offset, DataSN and length.
    fn fits(&self, header: &Header) -> bool {
        let len = header.data_len() as u64;
        header.ttt() == self.ttt
            && header.word(36) == self.data_sn
            && header.word(40) == self.start + self.got
            && u64::from(self.got) + len <= u64::from(self.len)
    }
}

impl super::task::Task {
    /// A burst has ended with the F bit. Unsolicited data may be shorter than announced: the rest is solicited.
    fn end_burst(&mut self, burst: Burst) {
        if self.refusal.is_some() {
            return;
        }
        if burst.got < burst.len {
            if burst.ttt != NO_TAG {
                self.refusal = Some(Refusal::IncorrectData);
                return;
            }
            self.solicited = burst.start + burst.got;
        }
        if let Some(mut buf) = burst.buf {
            buf.truncate(burst.got as usize);
            self.data.push(buf.into_bytes());
        }
    }
}
