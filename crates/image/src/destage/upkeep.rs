//! What keeps an image's bucket small and quick to open: checkpoints, compaction, deletion.

use std::time::Duration;

use base::{Epoch, ErrorKind, Number, Result};
use chain::{Kind, SegmentDraft};
use tokio::time::Instant;

use super::Destager;
use crate::checkpoint::{Made, Plan};
use crate::compact::{Copies, copy};
use crate::env::Severity;

/// The least time between two rounds of compaction of an image.
const COMPACT_EVERY: Duration = Duration::from_millis(500);

impl Destager {
    pub(super) fn start_checkpoint(&mut self) {
        if self.checkpoint.is_some() || self.since_checkpoint == 0 || Instant::now() < self.checkpoint_after {
            return;
        }
        let options = &self.core.env.options;
        let runs = self.core.layers.read().delta.len();
        let idle = self.outgoing.is_empty() && self.core.backlog.lock().queue.is_empty();
        let asked = self.waiters.iter().any(|w| w.checkpoint && w.upto <= self.durable_seq)
            || (self.closing.is_some() && idle && runs > 0);
        let due = runs >= options.checkpoint_runs
            || self.since_checkpoint >= options.checkpoint_segments
            || (idle && self.compactor.waits_for_checkpoint());
        if !due && !asked {
            return;
        }
        let plan = Plan::freeze(&self.core, self.durable, self.durable_seq, self.collector.newest());
        self.since_checkpoint = 0;
        let (core, own) = (self.core.clone(), self.own.clone());
        self.checkpoint = Some(Box::pin(async move { plan.make(&core, &own).await.map(Box::new) }));
    }

    pub(super) fn checkpointed(&mut self, made: Result<Box<Made>>) -> Result<()> {
        match made {
            Ok(made) => {
                let made = *made;
                made.install(&self.core);
                self.core.progress.lock().checkpoint = made.root.position.number;
                self.compactor.checkpointed();
                let victims = self.collector.checkpointed(made.kept, made.garbage);
                self.delete(victims);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::Fenced => Err(e),
            Err(e) => {
                // The frozen delta stays where it is and readers use it; the next attempt takes both.
                Plan::thaw(&self.core);
                self.since_checkpoint = self.since_checkpoint.max(1);
                self.checkpoint_after = Instant::now() + Duration::from_secs(10);
                self.trouble(format!("cannot write a checkpoint: {e}"));
                Ok(())
            }
        }
    }

    /// Begins to empty segments that are mostly dead, when there is time for it or it has become urgent.
    pub(super) fn start_copying(&mut self) {
        let now = Instant::now();
        let busy = self.copying.is_some() || self.checkpoint.is_some() || self.closing.is_some();
        let troubled = self.core.progress.lock().trouble.is_some() || self.pressed();
        if busy || troubled || now < self.compact_after || self.outgoing.len() > self.core.env.options.puts {
            return;
        }
        let at_work = self.courtesy.makes_way(self.fullness(), self.waited(), now) || self.outgoing.len() > 1;
        let Some(victims) = self.compactor.victims(&self.core) else { return };
        self.compact_after = now + COMPACT_EVERY;
        if victims.urgent || !at_work {
            self.copying = Some(Box::pin(copy(self.core.clone(), victims)));
        }
    }

    pub(super) fn copied(&mut self, copied: Result<Copies>) {
        match copied {
            Ok(copies) => {
                self.compactor.emptied(&copies.from);
                if !copies.content.is_empty() {
                    let draft = self.draft(Kind::Data, self.sealed_seq.next(), self.sealed_seq);
                    self.push(copies.content.seal(draft), draft, 0, None);
                }
            }
            Err(e) => {
                self.compact_after = Instant::now() + Duration::from_secs(60);
                self.core.report(Severity::Warning, format!("cannot compact for now: {e}"));
            }
        }
    }

    /// Puts the names of segments that nothing needs into the chain; they are deleted once that counts, after a grace.
    fn delete(&mut self, victims: Vec<(Epoch, Number)>) {
        for chunk in victims.chunks(4096) {
            let mut content = SegmentDraft::default();
            chunk.iter().for_each(|(epoch, number)| content.delete(*epoch, *number));
            let draft = self.draft(Kind::Data, self.sealed_seq.next(), self.sealed_seq);
            self.push(content.seal(draft), draft, 0, None);
        }
    }
}
