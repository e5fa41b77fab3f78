//! The commands that a logical unit has under way: aborting some of them and waiting for their end.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use crate::task::Nexus;

/// Commands under way, by a number that grows from one to the next.
#[derive(Default)]
pub(super) struct UnderWay {
    begun: u64,
    commands: BTreeMap<u64, Running>,
    /// Who waits for commands to end, or to be aborted itself.
    waiting: Vec<Waker>,
}

struct Running {
    nexus: Nexus,
    aborted: bool,
    /// It only waits for others.
    aside: bool,
}

impl UnderWay {
    /// Takes a command in and numbers it.
    pub fn begin(&mut self, nexus: &Nexus) -> u64 {
        self.begun += 1;
        self.commands.insert(self.begun, Running { nexus: nexus.clone(), aborted: false, aside: false });
        self.begun
    }

    /// A command has ended.
    pub fn end(&mut self, number: u64) {
        self.commands.remove(&number);
        self.wake();
    }

    /// A command has done its work and does nothing from now on but wait for others to end. Nobody waits for it, so
    /// that no two wait for each other.
    pub fn step_aside(&mut self, number: u64) {
        if let Some(command) = self.commands.get_mut(&number) {
            command.aside = true;
            self.wake();
        }
    }

    /// Whether a command was aborted since it began.
    pub fn is_aborted(&self, number: u64) -> bool {
        self.commands.get(&number).is_some_and(|command| command.aborted)
    }

    /// Aborts what some nexuses have under way now and returns it: they end with TASK ABORTED. What they begin later is
    /// not meant.
    pub fn abort(&mut self, who: impl Fn(&Nexus) -> bool) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (number, command) in &mut self.commands {
            if who(&command.nexus) {
                command.aborted = true;
                numbers.push(*number);
            }
        }
        self.wake();
        numbers
    }

    /// All commands.
    pub fn numbers(&self) -> Vec<u64> {
        self.commands.keys().copied().collect()
    }

    /// Whether all of `numbers` have ended or stepped aside; those that have are taken out.
    pub fn poll_ended(&mut self, numbers: &mut Vec<u64>, cx: &Context<'_>) -> Poll<()> {
        numbers.retain(|number| self.commands.get(number).is_some_and(|command| !command.aside));
        if numbers.is_empty() {
            return Poll::Ready(());
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
