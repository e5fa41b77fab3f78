//! Garbage: objects that neither of the two newest checkpoints, nor any replay from them, can need.
//!
//! What is garbage is computed from durable checkpoints, its deletion is written into the chain, and it is deleted only
//! after that counts and a grace has passed, so that readers who looked just before are not disturbed. A deletion that
//! comes late, even from an owner that has lost its epoch meanwhile, hits nothing that a later owner can need.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use base::{Epoch, ErrorKind, ImageId, Number, Result};
use bucket::{Bucket, Key, ObjectMeta};
use chain::{Checkpoint, Header, Ownership, Pin, name};
use tokio::time::Instant;

use crate::core::Core;

const LISTING: usize = 1000;

/// What a checkpoint needs to stay readable.
#[derive(Debug)]
pub(crate) struct Kept {
    number: Number,
    segments: BTreeSet<(Epoch, Number)>,
    pages: BTreeSet<(Number, Epoch, u32)>,
}

impl Kept {
    pub fn of(root: &Checkpoint) -> Kept {
        let own = root.table.values().filter(|row| row.origin == root.image);
        Kept {
            number: root.position.number,
            segments: own.map(|row| (row.epoch, row.number)).collect(),
            pages: root.runs.iter().flat_map(|run| run.iter()).map(|p| (p.number, p.epoch, p.part)).collect(),
        }
    }
}

/// What may go.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    /// With their lengths in bytes.
    segments: Vec<((Epoch, Number), u64)>,
    /// Older checkpoints and their pages.
    indexes: Vec<Key>,
}

impl Garbage {
    /// Lists what only checkpoints before `older` could need.
    pub async fn find(bucket: &dyn Bucket, image: ImageId, older: &Kept, newer: &Kept) -> Result<Garbage> {
        let mut garbage = Garbage::default();
        let pinned = pinned(bucket, image).await?;
        each(bucket, &name::segments(image), |object| {
            let (number, epoch) = name::parse_segment(&object.key)?;
            let place = (epoch, number);
            if number <= older.number
                && !older.segments.contains(&place)
                && !newer.segments.contains(&place)
                && !pinned.segments.contains(&place)
            {
                garbage.segments.push((place, object.size));
            }
            Ok(number <= older.number)
        })
        .await?;
        let mut indexes = Vec::new();
        each(bucket, &name::checkpoints(image), |object| {
            if name::parse_checkpoint(&object.key)?.0 < older.number {
                indexes.push(object.key.clone());
            }
            Ok(true)
        })
        .await?;
        each(bucket, &name::all_pages(image), |object| {
            let place = name::parse_pages(&object.key)?;
            if place.0 < older.number
                && !older.pages.contains(&place)
                && !newer.pages.contains(&place)
                && !pinned.pages.contains(&place)
            {
                indexes.push(object.key.clone());
            }
            Ok(true)
        })
        .await?;
        garbage.indexes = indexes;
        Ok(garbage)
    }
}

/// What the pins of an image keep. An unreadable pin stops the collection: what it names is not known.
async fn pinned(bucket: &dyn Bucket, image: ImageId) -> Result<Kept> {
    let mut all = Kept { number: Number(0), segments: BTreeSet::new(), pages: BTreeSet::new() };
    for (key, _, _) in chain::list_pins(bucket, image).await? {
        let pin = match Pin::read(bucket, &key).await {
            Ok(pin) => pin,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let kept = Kept::of(&pin.root);
        all.segments.extend(kept.segments);
        all.segments.extend(pin.members);
        all.pages.extend(kept.pages);
    }
    Ok(all)
}

/// Shows every object below a prefix to `visit`, until it says that it has seen enough.
async fn each(
    bucket: &dyn Bucket,
    prefix: &str,
    mut visit: impl FnMut(&ObjectMeta) -> Result<bool>,
) -> Result<()> {
    let mut after = None;
    loop {
        let page = bucket.list(prefix, after.as_ref(), LISTING).await?;
        for object in &page {
            if !visit(object)? {
                return Ok(());
            }
        }
        if page.len() < LISTING {
            return Ok(());
        }
        after = page.into_iter().next_back().map(|o| o.key);
    }
}

/// Deletions under way.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    newest: Option<Arc<Kept>>,
    /// In the chain or on the way there, and not yet deleted.
    announced: BTreeSet<(Epoch, Number)>,
    due: VecDeque<Due>,
}

/// What may be deleted when its time has come.
#[derive(Debug)]
struct Due {
    at: Instant,
    keys: Vec<Key>,
    /// The segments among them.
    segments: Vec<(Epoch, Number)>,
}

impl Collector {
    /// Starts from the checkpoint that the image was opened from.
    pub fn new(root: &Checkpoint) -> Collector {
        let newest = (root.position.number > Number(0)).then(|| Arc::new(Kept::of(root)));
        Collector { newest, ..Collector::default() }
    }

    /// The newest durable checkpoint.
    pub fn newest(&self) -> Option<Arc<Kept>> {
        self.newest.clone()
    }

    /// Takes in a new checkpoint; says which deletions to write into the chain: none while they would free less than
    /// `worth` bytes, for the segment that announces them is garbage itself one day. Older checkpoints are not part of
    /// the chain: they go without a word in it, after `due`.
    pub fn checkpointed(
        &mut self,
        kept: Kept,
        garbage: Garbage,
        due: Instant,
        worth: u64,
    ) -> Vec<(Epoch, Number)> {
        self.newest = Some(Arc::new(kept));
        let Garbage { mut segments, indexes } = garbage;
        let waiting: BTreeSet<&Key> = self.due.iter().flat_map(|due| &due.keys).collect();
        let indexes: Vec<Key> = indexes.into_iter().filter(|key| !waiting.contains(key)).collect();
        if !indexes.is_empty() {
            self.due.push_back(Due { at: due, keys: indexes, segments: Vec::new() });
        }
        segments.retain(|(place, _)| !self.announced.contains(place));
        if segments.iter().map(|(_, len)| len).sum::<u64>() < worth {
            return Vec::new();
        }
        let fresh: Vec<_> = segments.into_iter().map(|(place, _)| place).collect();
        self.announced.extend(fresh.iter().copied());
        fresh
    }

    /// A segment counts: what it announces may go after `due`.
    pub fn counted(&mut self, header: &Header, due: Instant) {
        if header.deletions.is_empty() {
            return;
        }
        let segments = header.deletions.to_vec();
        let key = |(epoch, number): &(Epoch, Number)| name::segment(header.image, *epoch, *number);
        self.due.push_back(Due { at: due, keys: segments.iter().map(key).collect(), segments });
    }

    /// Starts the deletions whose time has come, off the loop.
    pub fn delete_due(&mut self, core: &Arc<Core>, own: &Ownership) {
        while self.due.front().is_some_and(|due| due.at <= Instant::now()) {
            let Some(Due { keys, segments, .. }) = self.due.pop_front() else { return };
            // Should a deletion fail, a later checkpoint finds the segment again and announces it anew.
            for place in segments {
                self.announced.remove(&place);
            }
            let bucket = own.bucket().clone();
            let work = async move {
                for key in keys {
                    if let Err(e) = bucket.delete(&key).await {
                        tracing::warn!("garbage {key} stays for now: {e}");
                    }
                }
            };
            core.env.spawn.spawn("garbage", Box::pin(work));
        }
    }
}
