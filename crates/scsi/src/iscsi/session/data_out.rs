//! Soliciting and taking data (RFC 7143 §11.7, §11.8).

use base::AlignedBuf;

use super::Session;
use super::command::brought;
use super::task::{Burst, Patience, Refusal, Stage, Task, TaskId};
use crate::iscsi::output::Output;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::iscsi::receive::Landing;
use crate::iscsi::registry::Counters;

/// Target transfer tags count round in these bits: none is the reserved tag.
const TAGS: u32 = 0x7fff_ffff;

impl Session {
    /// Sends R2Ts for a task as far as agreement and memory allow.
    pub(super) fn solicit(&mut self, id: TaskId, out: &mut Output) {
        if !self.seek_memory(id, out) {
            return;
        }
        loop {
            let Some(task) = self.tasks.get(id) else { return };
            let left = task.demand.data_out.saturating_sub(task.solicited);
            let unsolicited = task.bursts.front().is_some_and(|burst| burst.ttt == NO_TAG);
            if left == 0 || unsolicited || task.bursts.len() >= self.params.outstanding_r2t as usize {
                return;
            }
            self.send_r2t(id, left.min(self.params.max_burst), out);
        }
    }

    /// Whether no task is older than the one with this place in the order.
    pub(super) fn is_oldest(&self, order: u64) -> bool {
        !self.tasks.iter().any(|(_, other)| other.order < order)
    }

    fn send_r2t(&mut self, id: TaskId, len: u32, out: &mut Output) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let mut header = Header::new(opcode::R2T, 0x80);
        let ttt = self.next_tag;
        self.next_tag = (ttt + 1) & TAGS;
        header.set_lun(task.lun);
        header.set_word(16, task.itt);
        header.set_word(20, ttt);
        header.set_word(36, task.r2t_sn);
        header.set_word(40, task.solicited);
        header.set_word(44, len);
        task.bursts.push_back(Burst::new(ttt, task.solicited, len));
        task.r2t_sn += 1;
        task.solicited += len;
        self.stamp(&mut header);
        out.put_copied(header, &[]);
    }

    /// Lets tasks go on that waited for room or memory.
    pub(super) fn feed_starved(&mut self, out: &mut Output) {
        // What was given back is the pool's: who gets it is decided anew.
        self.settle(out);
        if self.wants_memory.is_empty() && self.wants_room.is_empty() {
            return;
        }
        let waiting: Vec<_> = self.wants_memory.iter().chain(&self.wants_room).map(|(_, id)| *id).collect();
        waiting.into_iter().for_each(|id| self.progress(id, out));
    }

    /// A tick: time has passed. Tasks whose data does not come are ended, for they hold room that others need.
    ///
    /// RFC 7143 has no such limit. It lets a status wait for the data of all R2Ts (§7.8), which here would never come; the
    /// other way is to close the connection, but that would end innocent tasks too. An initiator that gets the status
    /// forgets the R2Ts and repeats the command (Linux, on ABORTED COMMAND), and what it still sends is dropped.
    pub(in crate::iscsi) fn time_passed(&mut self, out: &mut Output) {
        let (heard, took_data) = (std::mem::take(&mut self.heard), std::mem::take(&mut self.took_data));
        self.moves += u64::from(took_data);
        // An initiator that says nothing at all may be paused: that is for the ping to find out. One that sends other
        // data is at work, and one whose answers have not all gone may not know yet that it was asked.
        let silent = heard && !took_data && out.pending() == 0;
        let collecting = |task: &&mut Task| task.stage == Stage::Collecting;
        for burst in self.tasks.iter_mut().filter(collecting).flat_map(|task| &mut task.bursts) {
            burst.patience.age = burst.patience.age.saturating_add(1);
            burst.patience.silent = burst.patience.silent.saturating_add(u8::from(silent));
        }
        for id in self.tasks.select(|task| task.bursts.iter().any(|burst| burst.patience.is_over())) {
            if let Some(task) = self.tasks.get_mut(id) {
                task.refusal.get_or_insert(Refusal::Late);
                self.refuse(id, out);
            }
        }
        self.tell_waiting(out);
    }

    /// Where a Data-Out's data goes. What does not fit what was agreed lands nowhere; [`Session::data_out`] sees that.
    pub(super) fn begin_data_out(&mut self, header: &Header) -> Landing {
        let Some(task) = self.tasks.find(header.itt()).and_then(|id| self.tasks.get_mut(id)) else {
            return Landing::Discard;
        };
        let refused = task.refusal.is_some();
        let (wanted, segment) = (task.demand.data_out, self.limits.data_segment);
        match task.bursts.front_mut() {
            Some(burst) if !refused && burst.fits(header) && burst.next() < wanted => {
                let room = burst.len.min((wanted - burst.start).saturating_add(segment));
                let buf = burst.buf.take().unwrap_or_else(|| AlignedBuf::for_overwrite(room as usize));
                // One that was made while the logical unit was another may be too short.
                match buf.len() >= burst.got as usize + header.data_len() {
                    true => Landing::Buffer(buf, burst.got as usize),
                    false => Landing::Discard,
                }
            }
            _ => Landing::Discard,
        }
    }

    /// Takes a Data-Out. One for a task that is no more is discarded: the initiator sent it before it knew.
    pub(super) fn data_out(&mut self, header: &Header, landing: Landing, intact: bool, out: &mut Output) {
        let Some(id) = self.tasks.find(header.itt()) else { return };
        Counters::add(&self.counters().bytes_in, header.data_len() as u64);
        // Also of what is dropped: the initiator is at work.
        self.took_data |= header.data_len() > 0;
        let Some(task) = self.tasks.get_mut(id) else { return };
        if !matches!(task.stage, Stage::Collecting | Stage::Held) {
            return; // all was here already; the status says what came of it
        }
        let Some(at) = task.bursts.iter().position(|burst| burst.ttt == header.ttt()) else {
            if task.is_older(header.ttt()) {
                return; // for an R2T of an ended task that had the same initiator task tag
            }
            task.refusal.get_or_insert(Refusal::UnexpectedData);
            self.progress(id, out);
            return;
        };
        let wanted = task.demand.data_out;
        let burst = &mut task.bursts[at];
        let landed = match landing {
            Landing::Buffer(buf, _) => {
                burst.buf = Some(buf);
                intact
            }
            // An empty Data-Out may end a burst; it has nothing to land. Nor has what the command does not take.
            Landing::Discard => {
                (header.data_len() == 0 || burst.next() >= wanted) && at == 0 && burst.fits(header)
            }
        };
        if landed {
            burst.got += header.data_len() as u32;
            burst.data_sn += 1;
            burst.patience.silent = 0;
        } else {
            task.refusal.get_or_insert(if intact { Refusal::IncorrectData } else { Refusal::Digest });
        }
        if header.is_final() {
            let burst = task.bursts.remove(at).expect("position() found it");
            task.end_burst(burst);
        }
        let waited = !self.wants_memory.is_empty();
        self.progress(id, out);
        if waited && self.wants_memory.is_empty() {
            self.feed_starved(out); // who waits for room waits for those who wait for memory
        }
    }
}

impl Burst {
    /// One of which nothing has come.
    pub(super) fn new(ttt: u32, start: u32, len: u32) -> Burst {
        Burst { ttt, start, len, got: 0, data_sn: 0, buf: None, patience: Patience::default() }
    }

    /// Where in the command's data the next byte belongs.
    fn next(&self) -> u32 {
        self.start + self.got
    }

    /// Whether a Data-Out is the next of this burst: offset, DataSN and length.
    fn fits(&self, header: &Header) -> bool {
        let len = header.data_len() as u64;
        header.ttt() == self.ttt
            && header.word(36) == self.data_sn
            && header.word(40) == self.next()
            && u64::from(self.got) + len <= u64::from(self.len)
    }
}

impl Task {
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
            self.solicited = burst.next();
        }
        if let Some(buf) = burst.buf {
            let wanted = self.demand.data_out.saturating_sub(burst.start);
            self.data.push(brought(buf, burst.got.min(wanted)));
        }
    }

    /// Whether a transfer tag was given out before this task came.
    fn is_older(&self, ttt: u32) -> bool {
        ttt != NO_TAG && ttt.wrapping_sub(self.first_tag) & TAGS > TAGS / 2
    }
}
