//! Memory for data on its way: what the session has of its own, and what it has of the pools (requirement X06).
//!
//! A command gets memory for all its data at once: a write before it asks for any, a read before it runs. Until there is
//! enough, it waits for what its session holds; nothing waits for another session. The oldest write, and a read that no other
//! read is before, never wait, so that what waits for them is never what they wait for: they are refused.

use base::buffer::ALIGN;

use super::Session;
use super::task::{Refusal, Stage, TaskId};
use crate::iscsi::output::Output;
use crate::iscsi::pool::Part;

impl Session {
    /// Whether the session may hold so much more data-out.
    pub(super) fn may_hold(&mut self, more: usize, part: Part) -> bool {
        let held = self.reserved + more;
        more == 0 || held <= self.limits.own_bytes || self.share_out.reach(self.beyond(held), part)
    }

    /// Which part of the pool a command may have whose data comes unasked.
    pub(super) fn unasked_part(&self) -> Part {
        if self.tasks.len() == 0 { Part::Command } else { Part::Unasked }
    }

    /// Whether the session may bring so much more data-in.
    fn may_bring(&mut self, more: usize, out: &Output) -> bool {
        let held = self.running_in + out.pending() + more;
        let first = self.has_no_backlog(out);
        let part = if first { Part::Command } else { Part::Session };
        (first || held <= self.limits.session_bytes)
            && (held <= self.limits.own_bytes || self.share_in.reach(self.beyond(held), part))
    }

    /// Whether no read is before the next one. Short answers, of which there may always be some, are none.
    fn has_no_backlog(&self, out: &Output) -> bool {
        self.running_in == 0 && out.pending() <= self.limits.own_bytes
    }

    /// What is held of `bytes` beyond the session's own.
    fn beyond(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.limits.own_bytes)
    }

    /// Gives back to the pools what is held no more.
    pub(in crate::iscsi) fn settle(&mut self, out: &Output) {
        let pending = out.pending();
        self.moves += u64::from(pending < self.pending);
        self.pending = pending;
        self.share_out.settle(self.beyond(self.reserved));
        self.share_in.settle(self.beyond(self.running_in + pending));
    }

    /// Whether there is room for answers to what may come in. If not, nothing more is read until some have gone.
    pub(in crate::iscsi) fn has_room_for_answers(&self, out: &Output) -> bool {
        let pending = out.pending();
        pending <= self.limits.own_bytes
            || pending <= self.limits.session_bytes && !self.share_in.is_overdrawn()
    }

    /// Whether a task has memory for the data that it has to ask for. If there is none now, it waits, or is refused.
    pub(super) fn seek_memory(&mut self, id: TaskId, out: &mut Output) -> bool {
        let Some(task) = self.tasks.get(id) else { return false };
        if task.has_memory {
            return true;
        }
        let order = task.order;
        let more = in_bursts(task.demand.data_out.saturating_sub(task.solicited), self.params.max_burst);
        if more == 0 {
            return true;
        }
        let after = self.reserved + more;
        // Younger ones wait for those older that wait, so that small ones do not keep a large one waiting for ever.
        let in_turn = self.wants_memory.first().is_none_or(|(first, _)| *first > order);
        let free = after <= self.limits.own_bytes || after <= self.limits.session_bytes && in_turn;
        if !(free && self.may_hold(more, Part::Session)) {
            if !self.is_oldest(order) {
                self.wants_memory.insert((order, id));
                self.begin_wait(id);
                return false;
            }
            if !self.may_hold(more, Part::Command) {
                self.refuse_for_memory(id, out);
                return false;
            }
        }
        self.moves += 1;
        self.reserved = after;
        if let Some(task) = self.tasks.get_mut(id) {
            task.has_memory = true;
            task.reserved += more;
        }
        true
    }

    /// The first of the reads that wait to be run, if there is memory for what it brings.
    pub(super) fn next_read(&mut self, out: &mut Output) -> Option<TaskId> {
        while let Some(&id) = self.reads.front() {
            let incoming = self.tasks.get(id).map(|task| task.incoming());
            let fits = incoming.map(|incoming| self.may_bring(incoming, out));
            // What is short enough for the session's own waits for short answers too.
            let short =
                incoming.is_some_and(|incoming| incoming <= self.limits.own_bytes) && out.pending() > 0;
            if fits == Some(false) && (short || !self.has_no_backlog(out)) {
                return None; // that will go
            }
            self.reads.pop_front();
            match fits {
                Some(true) => return Some(id),
                Some(false) => self.refuse_for_memory(id, out),
                None => {} // it was aborted
            }
        }
        None
    }

    /// Notes when a task began to wait for memory.
    pub(super) fn begin_wait(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.wait.begin(self.moves);
        }
    }

    /// A tick: tasks that wait for memory, or behind those that do, go on if other sessions have given some back, or are refused
    /// before their initiators give them up: one that is before them may take hours.
    pub(super) fn tell_waiting(&mut self, out: &mut Output) {
        self.feed_starved(out);
        let writes = self.wants_memory.iter().chain(&self.wants_room).map(|(_, id)| *id);
        let waiting: Vec<_> = writes.chain(self.reads.iter().copied()).collect();
        for id in waiting {
            // Others that were refused may have given it what it waited for.
            let Some(task) = self.tasks.get_mut(id) else { continue };
            let place = (task.order, id);
            if task.is_reading() || self.wants_memory.contains(&place) || self.wants_room.contains(&place) {
                task.wait.tick(self.moves);
                if task.wait.is_over() {
                    self.refuse_for_memory(id, out);
                }
            }
        }
    }

    /// Refuses a task that has not run, because there is no memory for it: as soon as its initiator sends no more of its data.
    fn refuse_for_memory(&mut self, id: TaskId, out: &mut Output) {
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.stage != Stage::Running) else { return };
        task.refusal.get_or_insert(Refusal::NoMemory);
        if task.bursts.is_empty() {
            self.refuse(id, out);
        }
    }
}

/// The memory that so many bytes take in a buffer.
pub(super) fn in_buffer(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// The memory that so many bytes take in bursts with a buffer each.
fn in_bursts(bytes: u32, burst: u32) -> usize {
    let (bytes, burst) = (bytes as usize, burst.max(1) as usize);
    bytes / burst * in_buffer(burst) + in_buffer(bytes % burst)
}
