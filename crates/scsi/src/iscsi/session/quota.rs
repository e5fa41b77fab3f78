//! What a session may hold of what all sessions have in common.

use std::sync::Arc;

use super::Session;
use super::task::TaskId;
use crate::iscsi::commons::Share;
use crate::iscsi::config::Limits;
use crate::iscsi::mailbox::Mailbox;
use crate::iscsi::output::Output;
use crate::iscsi::params::Params;
use crate::iscsi::registry::AllCommons;

/// While it is quiet a session may send so many commands at once, if there is memory for what they may bring.
const READY_FOR: u32 = 16;

/// What counts for a command that brings no data unasked, in bytes.
const LEAST: usize = 512;

/// Output beside the data that is brought, in bytes: some thousand responses.
pub(in crate::iscsi) const MOST_BESIDE: usize = 64 << 10;

/// A session's shares.
pub(super) struct Quota {
    /// Memory for data that may come unasked: for so many commands, outstanding or yet to come.
    unasked: Share,
    /// What one command may bring unasked, in bytes.
    each: usize,
    /// The most commands that may be outstanding.
    depth: u32,
    /// Memory for data that is asked for or brought.
    pub(super) data: Share,
    /// Room on the media for data that has yet to come.
    promised: Share,
}

impl Quota {
    pub(super) fn new(
        commons: &AllCommons,
        limits: &Limits,
        params: &Params,
        mailbox: &Arc<Mailbox>,
    ) -> Quota {
        let each = match (params.initial_r2t, params.immediate_data) {
            (true, false) => LEAST,
            (true, true) => params.first_burst.min(limits.data_segment) as usize,
            (false, _) => params.first_burst as usize,
        };
        // Those of one session must fit its own budget too, but a few are always allowed.
        let fitting = u32::try_from(limits.session_bytes / each).unwrap_or(u32::MAX);
        let depth = fitting.clamp(limits.queue_depth.min(READY_FOR), limits.queue_depth);
        let own = limits.own_commands.clamp(1, depth) as usize * each;
        Quota {
            unasked: Share::new(&commons.unasked, mailbox, own),
            each,
            depth,
            data: Share::new(&commons.data, mailbox, limits.own_bytes),
            promised: Share::new(&commons.promised, mailbox, 0),
        }
    }

    /// How many commands may come at first.
    pub(super) fn first_window(&mut self) -> u32 {
        self.afford(0, self.depth.min(READY_FOR))
    }

    /// For how many commands there is memory, of `wanted` that are more than `now`: at least one more, if there is any.
    fn afford(&mut self, now: u32, wanted: u32) -> u32 {
        if !self.unasked.reach(wanted as usize * self.each) {
            self.unasked.reach((now + 1) as usize * self.each);
        }
        wanted.min((self.unasked.total() / self.each) as u32)
    }
}

impl Session {
    /// Opens the command window as far as there is memory for what commands may bring, and no further than the initiator is
    /// likely to want: what it was promised cannot be taken back.
    pub(super) fn open_window(&mut self) {
        let busy = self.windowed + self.urgent;
        let now = busy + self.window.free();
        let wanted = (busy + (busy / 2).max(READY_FOR)).min(self.quota.depth);
        if wanted > now {
            let depth = self.quota.afford(now, wanted);
            self.window.open(depth.saturating_sub(busy));
        }
        let (busy, each) = (self.windowed + self.urgent, self.quota.each);
        self.quota.unasked.settle((busy + self.window.free()) as usize * each);
    }

    /// Whether there is memory for one more command beside the window that brings data.
    pub(super) fn may_take_urgent(&mut self) -> bool {
        let commands = self.windowed + self.urgent + self.window.free() + 1;
        self.quota.unasked.reach(commands as usize * self.quota.each)
    }

    /// Bytes that are asked for or brought.
    fn data_held(&self, pending: usize) -> usize {
        self.solicited + self.running_in + pending
    }

    /// Whether a command may bring so much; if not, it is its turn later.
    pub(super) fn may_bring(&mut self, bytes: usize, out: &Output) -> bool {
        let backlog = out.pending() + self.running_in;
        // One command may exceed the session's budget.
        (backlog == 0 || backlog + bytes <= self.limits.session_bytes)
            && self.quota.data.reach_or_wait(self.data_held(out.pending()) + bytes)
    }

    /// Whether a task may ask for all its data; if not, it is its turn later.
    pub(super) fn may_solicit(&mut self, id: TaskId, bytes: usize, out: &Output) -> bool {
        if self.tasks.get(id).is_none_or(|task| task.to_solicit > 0) {
            return true;
        }
        let may = self.quota.data.reach_or_wait(self.data_held(out.pending()) + bytes);
        if may && let Some(task) = self.tasks.get_mut(id) {
            task.to_solicit = bytes;
            self.solicited += bytes;
        }
        may
    }

    /// Whether a task may hold `more` bytes of room on the medium for data that has yet to come.
    pub(super) fn may_promise(&mut self, more: usize) -> bool {
        self.quota.promised.reach(self.promised + more)
    }

    /// Gives back what is of no use at the moment.
    pub(in crate::iscsi) fn settle(&mut self, pending: usize) {
        self.quota.data.settle(self.data_held(pending));
        self.quota.promised.settle(self.promised);
    }

    /// The most output that may wait while input is taken: data that is brought has its memory already, and what the initiator
    /// makes us say beside it must not grow without end.
    pub(in crate::iscsi) fn most_pending(&self) -> usize {
        self.quota.data.total() + MOST_BESIDE
    }

    /// Output was sent.
    pub(in crate::iscsi) fn sent(&mut self, out: &mut Output) {
        if out.pending() == 0 {
            self.feed_starved(out);
        }
    }
}
