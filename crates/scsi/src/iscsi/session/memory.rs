//! Memory for data on its way: what the session has of its own, and what it has of the pool (requirement X06).

use super::Session;
use super::task::{Admittance, Refusal, TaskId};
use crate::iscsi::output::Output;

/// Ticks of the session that a task may wait for memory: the first may come at any time.
const LONGEST_WAIT: u8 = 2;

impl Session {
    /// Whether the session may hold so much more data-out.
    pub(super) fn may_hold(&mut self, more: usize, out: &Output) -> bool {
        let own = self.limits.own_bytes;
        let data_out = self.reserved + more;
        data_out <= own
            || self.share.reach(beyond(data_out, own) + beyond(self.running_in + out.pending(), own))
    }

    /// Whether the session may hold so much more data-in.
    pub(super) fn may_bring(&mut self, more: usize, out: &Output) -> bool {
        let own = self.limits.own_bytes;
        let data_in = self.running_in + out.pending() + more;
        data_in <= own || self.share.reach(beyond(self.reserved, own) + beyond(data_in, own))
    }

    /// Gives back what is held no more.
    pub(super) fn settle(&mut self, out: &Output) {
        let own = self.limits.own_bytes;
        self.share.settle(beyond(self.reserved, own) + beyond(self.running_in + out.pending(), own));
    }

    /// Whether there is room for answers to what may come in. If not, nothing more is read until some have gone.
    pub(in crate::iscsi) fn has_room_for_answers(&self, out: &Output) -> bool {
        let pending = out.pending();
        pending <= self.limits.own_bytes || pending <= self.limits.session_bytes && !self.share.is_overdrawn()
    }

    /// Whether a task has memory for all its data, before it asks for any: one that had a part of it and waited for the rest
    /// might wait for another like it. If there is none now, it waits, or is refused.
    pub(super) fn seek_memory(&mut self, id: TaskId, out: &mut Output) -> bool {
        let Some(task) = self.tasks.get(id) else { return false };
        let (order, wanted) = (task.order, task.demand.data_out as usize);
        let more = wanted.saturating_sub(task.reserved);
        if more == 0 || task.is_complete() {
            return true;
        }
        let after = self.reserved + more;
        // Younger ones wait for those older that wait, so that small ones do not keep a large one waiting for ever.
        let in_turn = !self.starved.iter().any(|id| self.tasks.get(*id).is_some_and(|t| t.order < order));
        let free = after <= self.limits.own_bytes || after <= self.limits.session_bytes && in_turn;
        if (free || self.is_oldest(order)) && self.may_hold(more, out) {
            self.reserved = after;
            if let Some(task) = self.tasks.get_mut(id) {
                task.reserved += more;
            }
            return true;
        }
        // The oldest never waits, so that what waits for it is never what it waits for.
        if self.is_oldest(order) {
            self.refuse_for_memory(id, out);
        } else {
            self.starve(id);
        }
        false
    }

    /// Refuses a task for which there is no memory, as soon as its initiator sends no more of its data.
    pub(super) fn refuse_for_memory(&mut self, id: TaskId, out: &mut Output) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.refusal.get_or_insert(Refusal::NoMemory);
        if task.bursts.is_empty() {
            self.refuse(id, out);
        }
    }

    /// Refuses tasks that have waited for memory so long that their initiators may give them up: one before them may take
    /// hours.
    pub(super) fn refuse_who_waited(&mut self, out: &mut Output) {
        for id in self.starved.clone() {
            let Some(task) = self.tasks.get_mut(id) else { continue };
            if matches!(task.admittance, Admittance::Open) {
                continue; // it waits for room on the medium
            }
            task.waited = task.waited.saturating_add(1);
            if task.waited >= LONGEST_WAIT {
                self.refuse_for_memory(id, out);
            }
        }
    }
}

/// What is held of `bytes` beyond one's own.
fn beyond(bytes: usize, own: usize) -> usize {
    bytes.saturating_sub(own)
}
