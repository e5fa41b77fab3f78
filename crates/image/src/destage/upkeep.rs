//! What keeps an image's bucket small and quick to open: checkpoints, compaction, deletion.

use std::time::Duration;

use base::{Epoch, ErrorKind, Number, Result, SECTOR};
use chain::{Kind, RowId, SegmentDraft};
use tokio::time::Instant;

use super::Destager;
use crate::checkpoint::{Depth, Made, Place, Plan};
use crate::compact::{Copies, Need, copy, report_damage};
use crate::env::{Options, Severity};
use crate::pages::Size;
use crate::status::Work;

/// The least time between two rounds of compaction of an image.
const COMPACT_EVERY: Duration = Duration::from_millis(500);
/// How long compaction rests after a failure.
const COMPACT_AGAIN: Duration = Duration::from_secs(60);
/// Bytes of a checkpoint for each entry of a run, each page and each row, about.
const COST: (u64, u64, u64) = (26, 40, 44);
/// Merging the whole map to let segments go must free, or be able to find, so many times what it costs.
const WORTH: u64 = 10;
/// The same while there is more garbage than there should be: only then will it be known what to empty next.
const WORTH_IN_EXCESS: u64 = 2;

/// A checkpoint that is being cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// The last segment in it.
    at: Number,
    depth: Depth,
    /// Segments that it takes in.
    segments: usize,
    price: Price,
}

/// What of a checkpoint is paid out of what is written.
#[derive(Debug, Clone, Copy)]
enum Price {
    All,
    /// What it takes at least is not: opening must not take longer and longer.
    AllBut(u64),
    /// Nothing: somebody asked for it, or it is the last, or what it frees is worth it.
    Free,
}

/// What the next checkpoint would cost in bytes.
struct Cost {
    /// The root, and a run of what has changed.
    least: u64,
    /// With all runs merged.
    whole: u64,
    /// Sectors that the runs above the base cover: it may be that so many of the base are hidden.
    hidden: u64,
}

impl Destager {
    pub(super) fn start_checkpoint(&mut self) {
        if self.checkpoint.is_some() || self.since_checkpoint == 0 || Instant::now() < self.checkpoint_after {
            return;
        }
        let Some(attempt) = self.next_checkpoint() else {
            // None is wanted, so none is late.
            return self.well(Work::Checkpoint);
        };
        let plan = Plan::freeze(&self.core, self.durable, attempt.depth, self.collector.newest());
        self.since_checkpoint = 0;
        self.attempt = Some(attempt);
        let (core, own) = (self.core.clone(), self.own.clone());
        self.checkpoint = Some(Box::pin(async move {
            let limits = core.env.options.limits();
            let place = Place { image: core.id, own: &own, layers: &core.layers, limits };
            plan.make(&place).await.map(Box::new)
        }));
    }

    /// The checkpoint to cut now, if one is due and paid for.
    fn next_checkpoint(&self) -> Option<Attempt> {
        let options = &self.core.env.options;
        let runs = self.core.layers.read().delta.len();
        let segments = self.since_checkpoint;
        let idle = self.outgoing.is_empty() && self.core.backlog.lock().queue.is_empty();
        let asked = self.waiters.iter().any(|w| w.checkpoint && w.upto <= self.durable.seq)
            || (self.closing.is_some() && idle && runs > 0);
        let many = |times| {
            runs >= times * options.checkpoint_runs || segments >= times * options.checkpoint_segments
        };
        if !asked && !many(1) && !idle {
            return None;
        }
        let cost = self.cost();
        let worth = |bytes, times| bytes > 0 && bytes >= times * cost.whole && !self.damaged_map;
        // What has been emptied pays for being let go; to look for what is hidden must be paid out of what is written.
        let enough = if self.compactor.exceeds(&self.core) { WORTH_IN_EXCESS } else { WORTH };
        let frees = self.compactor.need(&self.core).is_none() && worth(self.compactor.would_free(), enough);
        let pays = self.budget.pays_for(cost.whole);
        let finds =
            pays && worth(cost.hidden * SECTOR, WORTH) && self.compactor.suspects(&self.core, cost.hidden);
        let due = many(1) && self.budget.pays_for(cost.least);
        let price = match () {
            () if asked => Price::Free,
            () if frees && (due || idle || many(Options::PATIENCE)) => Price::Free,
            () if due || (idle && finds) => Price::All,
            () if many(Options::PATIENCE) => Price::AllBut(cost.least),
            () => return None,
        };
        let depth = match pays {
            _ if self.damaged_map => Depth::Flat,
            _ if frees || finds => Depth::Whole,
            true => Depth::ByCover,
            false => Depth::BySize,
        };
        let at = self.durable.position.number;
        // Another attempt at the same place must be the same, or its objects would contradict those of the first.
        let again = self.attempt.filter(|last| last.at == at && !self.damaged_map);
        Some(Attempt { at, depth: again.map_or(depth, |last| last.depth), segments, price })
    }

    fn cost(&self) -> Cost {
        let layers = self.core.layers.read();
        let sizes = layers.runs.sizes();
        let upper = sizes.iter().rev().skip(1).fold(Size::default(), |sum, run| sum.and(*run));
        let runs = sizes.last().map_or(upper, |base| upper.and(*base));
        let (entry, page, row) = COST;
        let root = runs.pages * page + layers.table.rows().len() as u64 * row;
        let least = root + layers.delta.len() as u64 * entry;
        Cost { least, whole: least + runs.bytes, hidden: upper.sectors }
    }

    pub(super) fn checkpointed(&mut self, made: Result<Box<Made>>) -> Result<()> {
        let attempt = self.attempt;
        match made {
            Ok(made) => {
                self.well(Work::Checkpoint);
                made.install(&mut self.core.layers.write(), self.core.env.options.limits());
                self.core.progress.lock().checkpoint = made.root.position.number;
                match attempt.map(|attempt| attempt.price) {
                    Some(Price::All) => self.budget.spent(made.bytes),
                    Some(Price::AllBut(least)) => self.budget.spent(made.bytes.saturating_sub(least)),
                    Some(Price::Free) | None => {}
                }
                self.compactor.checkpointed(&made.root.table, made.whole);
                let garbage = made.garbage.unwrap_or_else(|e| {
                    self.core.report(Severity::Warning, format!("cannot look for garbage for now: {e}"));
                    Default::default()
                });
                let due = Instant::now() + self.core.env.options.grace;
                let victims = self.collector.checkpointed(made.kept, garbage, due, self.worth_deleting());
                self.delete(victims);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::Fenced => Err(e),
            Err(e) => {
                self.checkpoint_failed();
                self.checkpoint_after = Instant::now() + Duration::from_secs(10);
                if e.kind() == ErrorKind::Corrupt {
                    self.damaged_map = true;
                    self.core.report(
                        Severity::Error,
                        format!("part of the map cannot be read, and checkpoints go around it until the volume is opened again: {e}"),
                    );
                }
                self.trouble(Work::Checkpoint, format!("cannot write a checkpoint: {e}"));
                Ok(())
            }
        }
    }

    /// What was to be in it belongs to the next one.
    pub(super) fn checkpoint_failed(&mut self) {
        self.core.layers.write().thaw();
        self.since_checkpoint += self.attempt.map_or(1, |attempt| attempt.segments);
    }

    /// Begins to empty segments that are mostly dead, when there is time for it or it has become urgent.
    pub(super) fn start_copying(&mut self) {
        let now = Instant::now();
        let busy = self.copying.is_some() || self.checkpoint.is_some() || self.closing.is_some();
        let troubled = !self.core.progress.lock().troubles.is_empty() || self.pressed();
        if busy || troubled || now < self.compact_after || self.outgoing.len() > self.core.env.options.puts {
            return;
        }
        let Some(need) = self.compactor.need(&self.core) else { return };
        let at_work = self.courtesy.makes_way(self.crowding(), self.waited(), now) || self.outgoing.len() > 1;
        if at_work && need != Need::Urgent {
            return;
        }
        let segment = self.core.env.options.segment.0;
        let Some(victims) = self.compactor.take(&self.core.layers.read().table, segment) else { return };
        self.compact_after = now + COMPACT_EVERY;
        let ids = victims.ids();
        let work = copy(self.core.clone(), victims);
        self.copying = Some(Box::pin(async move { (ids, work.await.map(Box::new)) }));
    }

    pub(super) fn copied(&mut self, victims: Vec<RowId>, copied: Result<Box<Copies>>) {
        match copied {
            Ok(copies) => {
                let copies = *copies;
                self.compactor.emptied(&copies.from);
                self.compactor.put_back(copies.rest);
                for (id, why) in copies.damaged {
                    report_damage(&self.core, self.core.layers.read().table.get(id), &why);
                    self.compactor.pass_over(id);
                }
                if !copies.content.is_empty() {
                    let draft = self.draft(Kind::Data, self.sealed_seq.next(), self.sealed_seq);
                    self.push(copies.content.seal(draft), draft, 0, None);
                }
            }
            Err(e) => {
                self.compactor.put_back(victims);
                self.compact_after = Instant::now() + COMPACT_AGAIN;
                self.core.report(Severity::Warning, format!("cannot compact for now: {e}"));
            }
        }
    }

    /// Less garbage than this may stay a while.
    fn worth_deleting(&self) -> u64 {
        self.core.env.options.segment.0 / 64
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
