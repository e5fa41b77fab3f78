//! Cutting a checkpoint: the delta is frozen and written as a run, merged with those below it that are not much larger, and then
//! their root is put.

use std::sync::Arc;

use base::{Error, ErrorKind, ImageId, Result, Seq};
use chain::{Checkpoint, ExtentMap, Ownership, Position, Run, Target, name};
use parking_lot::RwLock;

use crate::collect::{Garbage, Kept};
use crate::core::Core;
use crate::layers::Layers;
use crate::merge::Merge;
use crate::pages::{Held, Size};
use crate::run::{Limits, RunWriter};
use crate::table::Hidden;

/// The base is merged when it has at most so many times the entries of all above it: then each entry is written at most once more,
/// and so many others with it. It is what bounds the garbage that no count shows, because what a run hides is only seen when the
/// two are merged.
const BASE: u64 = 3;

/// How far down a checkpoint merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Nothing: a page of the map is damaged, and what has changed must be kept all the same.
    Flat,
    /// Runs that are not larger than what is merged above them: each entry is written O(log) times.
    BySize,
    /// The same, and the base also when what lies above it covers so many sectors that much of it must be hidden.
    ByCover,
    /// Everything.
    Whole,
}

impl Depth {
    /// How many of `runs`, newest first, to merge with what has changed.
    pub fn reach(self, changed: Size, runs: &[Size]) -> usize {
        let Some((base, upper)) = runs.split_last() else { return 0 };
        let above = upper.iter().fold(changed, |sum, run| sum.and(*run));
        let few = base.entries <= BASE * above.entries;
        let covered = base.sectors <= BASE * above.sectors;
        match self {
            Depth::Flat => 0,
            Depth::Whole => runs.len(),
            _ if few || (covered && self == Depth::ByCover) => runs.len(),
            _ => {
                let mut sum = changed;
                let small = |run: &&Size| {
                    let small = run.entries <= sum.entries;
                    sum = sum.and(**run);
                    small
                };
                upper.iter().take_while(small).count()
            }
        }
    }
}

/// What a checkpoint works with.
pub(crate) struct Place<'a> {
    pub image: ImageId,
    pub own: &'a Ownership,
    pub layers: &'a RwLock<Layers>,
    pub limits: Limits,
}

/// How far an image is in the bucket: the last segment that counts, the last client record in it, and the image's size in sectors
/// as of that record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Durable {
    pub position: Position,
    pub seq: Seq,
    pub size: u64,
}

/// A checkpoint about to be made: the image as it was when it was frozen.
pub(crate) struct Plan {
    delta: Arc<ExtentMap<Target>>,
    root: Checkpoint,
    depth: Depth,
    /// The checkpoint before it: together they say what is garbage.
    older: Option<Arc<Kept>>,
}

/// A checkpoint in the bucket.
pub(crate) struct Made {
    pub root: Checkpoint,
    pub kept: Kept,
    /// What may go now, if that could be found out.
    pub garbage: Result<Garbage>,
    /// Whether all runs were merged into one: then every count is exact.
    pub whole: bool,
    /// Bytes put for it.
    pub bytes: u64,
    /// How many of the newest runs it replaces, by what, and the pages of that which were in use.
    taken: usize,
    run: Option<Run>,
    hot: Held,
    hidden: Hidden,
}

impl Plan {
    /// Freezes the delta. Everything in it counts, up to `durable`.
    pub fn freeze(core: &Core, durable: Durable, depth: Depth, older: Option<Arc<Kept>>) -> Plan {
        let mut root = Checkpoint::empty(core.id, durable.size);
        (root.position, root.last_seq) = (durable.position, durable.seq);
        root.states = core.durable_states.lock().clone();
        Plan::of(&mut core.layers.write(), root, depth, older)
    }

    /// The same, with all of the root but what comes from the layers.
    pub fn of(layers: &mut Layers, root: Checkpoint, depth: Depth, older: Option<Arc<Kept>>) -> Plan {
        assert!(layers.frozen.is_none(), "one checkpoint at a time");
        let delta = Arc::new(std::mem::take(&mut layers.delta));
        layers.frozen = Some(delta.clone());
        let root = Checkpoint { table: layers.table.rows().clone(), runs: layers.runs.places(), ..root };
        Plan { delta, root, depth, older }
    }

    /// Writes it. Nothing refers to it before the root is put, and the root is put last. The layers are as they were.
    pub async fn make(mut self, place: &Place<'_>) -> Result<Made> {
        let (own, at) = (place.own, self.root.position);
        let sizes: Vec<Size> = self.root.runs.iter().map(|run| Size::of(run)).collect();
        let taken = self.depth.reach(size_of(&self.delta), &sizes);
        let below = self.root.runs.split_off(taken);
        let merge = Merge::new(place, &self.root.table, &self.delta, &self.root.runs, below.is_empty());
        let whole = below.is_empty();
        let writer = RunWriter::new(own, place.image, at, taken, place.limits);
        let (written, hidden) = merge.run(writer).await?;
        hidden.take_off(&mut self.root.table)?;
        let run: Option<Run> = (!written.pages.is_empty()).then(|| Arc::new(written.pages));
        self.root.runs = run.iter().cloned().chain(below).collect();
        let key = name::checkpoint(place.image, own.epoch(), at.number);
        let root = self.root.encode();
        let bytes = written.bytes + root.len() as u64;
        own.put_object(&key, root).await.map_err(cut_twice)?;
        own.check().await?;
        let kept = Kept::of(&self.root);
        let garbage = match &self.older {
            Some(older) => Garbage::find(&**own.bucket(), place.image, older, &kept).await,
            None => Ok(Garbage::default()),
        };
        Ok(Made { root: self.root, kept, garbage, whole, bytes, taken, run, hot: written.hot, hidden })
    }
}

fn size_of(delta: &ExtentMap<Target>) -> Size {
    let sectors = delta.iter().map(|(span, _)| span.count).sum();
    Size { entries: delta.len() as u64, sectors, ..Size::default() }
}

impl Made {
    /// Makes it what the delta lies on.
    pub fn install(&self, layers: &mut Layers, limits: Limits) {
        layers.runs.replace(self.taken, self.run.as_slice(), &self.hot, limits.pages);
        layers.frozen = None;
        layers.table.merged(&self.hidden);
    }
}

/// A name of a checkpoint is taken by other bytes, which only this owner can have put.
pub(crate) fn cut_twice(e: Error) -> Error {
    match e.kind() {
        ErrorKind::Corrupt => Error::internal(format!("a checkpoint was cut twice at one place: {e}")),
        _ => e,
    }
}

#[cfg(test)]
mod tests;
