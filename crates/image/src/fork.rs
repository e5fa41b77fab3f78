//! What a gateway had acknowledged when another took the image over: kept, listed, never replayed over the other's writes.

use std::collections::{BTreeMap, BTreeSet};

use base::{ByteSize, Epoch, Error, ErrorKind, ImageId, Result, SECTOR, Seq};
use bucket::Bucket;
use chain::{
    Checkpoint, Continuation, EpochRecord, HeaderDraft, ImageRecord, Kind, Ownership, Pin, Position, Row,
    SegmentDraft, name,
};
use local::{Journal, Spool};

use crate::dirty::SpooledSegment;
use crate::env::Env;
use crate::fetch::fetch_page;
use crate::layers::{Layers, Standing};
use crate::outgoing::{read_spooled, reseal};
use crate::pages::{Held, Missing, Runs};
use crate::park::{Ending, Endings};
use crate::run::RunWriter;
use crate::table::SegmentTable;

/// One abandoned tail of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The image.
    pub image: ImageId,
    /// The epoch in which it was acknowledged.
    pub epoch: Epoch,
    /// Local segments that hold it.
    pub segments: usize,
    /// Bytes in them.
    pub size: ByteSize,
}

/// The forks of `image` that this disk holds, if `current` is the first epoch of the run that goes on.
pub fn forks(spool: &Spool, image: ImageId, current: Epoch) -> Vec<Fork> {
    let mut forks: BTreeMap<Epoch, Fork> = BTreeMap::new();
    for file in spool.list(image) {
        let Some(epoch) = epoch_of(&file.name).filter(|epoch| *epoch < current) else { continue };
        let fork =
            forks.entry(epoch).or_insert_with(|| Fork { image, epoch, segments: 0, size: ByteSize(0) });
        fork.segments += 1;
        fork.size.0 += file.len;
    }
    forks.into_values().collect()
}

/// Gives a fork up for good: the local segments of all its terms, and what the bucket keeps for it alone.
pub async fn discard_fork(
    bucket: &dyn Bucket,
    journal: &Journal,
    spool: &Spool,
    image: ImageId,
    epoch: Epoch,
) -> Result<()> {
    let endings = Endings::of_local(bucket, journal, spool, image, epoch).await?;
    let ending = endings.of(epoch);
    for file in spool.list(image) {
        let run = |of| of == epoch || (ending.is_some() && endings.of(of) == ending);
        if epoch_of(&file.name).is_some_and(run) {
            spool.remove(image, &file.name).await?;
        }
    }
    if let Some(ending) = ending {
        bucket.delete(&name::pin(image, ending.taken_by)).await?;
    }
    Ok(())
}

/// A fork about to become an image of its own.
struct Opening<'a> {
    env: &'a Env,
    parent: ImageRecord,
    clone: ImageId,
    own: Ownership,
    head: Position,
}

/// Makes the fork of `epoch` a new, closed image in the parent's bucket: what the parent held when the loss was accepted, and
/// on it what this disk kept. Returns what the new image is. The fork itself stays until it is discarded.
///
/// `NotFound` if this disk has no such fork or the bucket no longer has what it goes on from.
pub async fn open_fork(
    env: &Env,
    parent: ImageId,
    epoch: Epoch,
    clone: ImageId,
    name: &str,
) -> Result<ImageRecord> {
    let bucket = &*env.bucket;
    let parent = chain::read_image(bucket, parent).await?;
    let endings = Endings::of_local(bucket, &env.journal, &env.spool, parent.image, epoch).await?;
    let Some((ending, pin)) = pinned_at(bucket, parent.image, endings.of(epoch)).await? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "image {} has no pin for epoch {epoch}: its loss was never accepted, or the fork was discarded; \
                 `tidegate volume forks` lists what can be opened",
                parent.image
            ),
        ));
    };
    let tail = tail(env, parent.image, &endings, ending, pin.last_seq).await?;
    pin.put(bucket, &name::clone_pin(parent.image, ending.taken_by, clone)).await?;
    let term = EpochRecord {
        image: clone,
        epoch: Epoch(1),
        gateway: env.gateway,
        journal: env.journal.id(),
        start: env.journal.start(),
        created: env.clock.now(),
        continuation: Continuation::First,
        after: Epoch(0),
        owner: env.gateway_name.clone(),
    };
    let own = Ownership::take(env.bucket.clone(), &term).await?;
    let mut opening = Opening { env, parent, clone, own, head: Position::ROOT };
    opening.base(&pin).await?;
    let (last, size) = opening.segments(&tail, &pin).await?;
    opening.close(last, size).await?;
    opening.finish(name, size).await
}

/// The pin of a run that ended so; `None` if it ended otherwise, or the fork was given up.
async fn pinned_at(
    bucket: &dyn Bucket,
    image: ImageId,
    ending: Option<Ending>,
) -> Result<Option<(Ending, Pin)>> {
    let Some(ending) = ending else { return Ok(None) };
    Ok(ending.pin(bucket, image).await?.map(|pin| (ending, pin)))
}

/// What this disk holds of the run with that ending behind record `base`, without a gap.
async fn tail(
    env: &Env,
    image: ImageId,
    endings: &Endings,
    ending: Ending,
    base: Seq,
) -> Result<Vec<SpooledSegment>> {
    let mut tail = Vec::new();
    for file in env.spool.list(image) {
        if epoch_of(&file.name).is_some_and(|epoch| endings.of(epoch) == Some(ending)) {
            let segment = read_spooled(&env.spool, image, file).await?;
            if segment.header.last_seq > base && segment.header.last_seq >= segment.header.first_seq {
                tail.push(segment);
            }
        }
    }
    if tail.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "this disk holds nothing of image {image} that the bucket had not at epoch {}; \
                 `tidegate volume forks` lists what can be opened",
                ending.taken_by
            ),
        ));
    }
    tail.sort_by_key(|s| s.header.first_seq);
    let mut next = base.next();
    for segment in &tail {
        if segment.header.first_seq != next {
            return Err(Error::corrupt(format!(
                "the fork of image {image} should go on with record {next}, but local segment {} begins with {}; \
                 if this disk was restored from an older copy, put the present one back",
                segment.name, segment.header.first_seq
            )));
        }
        next = segment.header.last_seq.next();
    }
    Ok(tail)
}

impl Opening<'_> {
    fn draft(&self, kind: Kind, size: u64, first: Seq, last: Seq) -> HeaderDraft {
        HeaderDraft {
            image: self.clone,
            epoch: self.own.epoch(),
            previous: self.head,
            kind,
            created: self.env.clock.now(),
            size,
            first_seq: first,
            last_seq: last,
        }
    }

    /// The fence, and behind it a checkpoint of what the pin names.
    async fn base(&mut self, pin: &Pin) -> Result<()> {
        let draft = self.draft(Kind::Fence, pin.size, pin.last_seq.next(), pin.last_seq);
        let fence = SegmentDraft::default().seal(draft);
        self.own.put_fence(&fence).await?;
        self.head = fence.header.position;
        let (layers, states) = self.pinned(pin).await?;
        let mut writer = RunWriter::new(&self.own, self.clone, self.head, 0, self.env.options.limits());
        for (span, target) in layers.delta.iter() {
            writer.push(span, *target, false).await?;
        }
        let pages = writer.finish().await?.pages;
        let root = Checkpoint {
            image: self.clone,
            position: self.head,
            last_seq: pin.last_seq,
            size: pin.size,
            states,
            table: layers
                .table
                .rows()
                .iter()
                .filter(|(_, row)| row.live > 0)
                .map(|(id, row)| (*id, *row))
                .collect(),
            runs: (!pages.is_empty()).then(|| pages.into()).into_iter().collect(),
        };
        let key = name::checkpoint(self.clone, self.own.epoch(), self.head.number);
        self.own.put_object(&key, root.encode()).await
    }

    /// The whole map and the states that the pin names, as the parent had them.
    async fn pinned(&self, pin: &Pin) -> Result<(Layers, BTreeMap<String, bytes::Bytes>)> {
        let bucket = &*self.env.bucket;
        let rows = pin.root.table.iter().map(|(id, row)| (*id, Row { live: 0, ..*row })).collect();
        let table = SegmentTable::new(self.parent.image, rows);
        let mut layers = Layers::new(Runs::new(&[]), table);
        for place in pin.root.runs.iter().rev().flat_map(|run| run.iter()) {
            for (span, target) in fetch_page(bucket, self.parent.image, *place).await?.entries {
                layers.map(span, target);
            }
        }
        let mut states = pin.root.states.clone();
        for header in pin.headers(bucket).await? {
            // All of the map is in the delta: there is no page to be missed.
            let none = &mut Missing::new();
            let standing = layers.standing(header.image, &header.extents, &Held::new(), none);
            layers.map_segment(&header, &Standing(standing));
            for change in header.states {
                match change.value {
                    Some(value) => states.insert(change.name, value),
                    None => states.remove(&change.name),
                };
            }
        }
        // In a layer that lies on nothing, a hole is what is not there.
        let holes: Vec<_> =
            layers.delta.iter().filter(|(_, t)| matches!(t, chain::Target::Hole)).map(|(s, _)| s).collect();
        holes.into_iter().for_each(|span| layers.delta.remove(span, |_, _| ()));
        Ok((layers, states))
    }

    /// What was lost to the other gateway, sealed anew. Returns the last record and the size.
    async fn segments(&mut self, tail: &[SpooledSegment], pin: &Pin) -> Result<(Seq, u64)> {
        let (mut last, mut size) = (pin.last_seq, pin.size);
        for segment in tail {
            let header = &segment.header;
            let draft = self.draft(Kind::Data, header.size, header.first_seq, header.last_seq);
            let object = self.env.spool.get(segment.image, &segment.name, 0..segment.bytes).await?;
            let sealed = reseal(segment, &object, draft)?;
            self.own.put_segment(&sealed).await?;
            self.head = sealed.header.position;
            (last, size) = (header.last_seq, header.size);
        }
        Ok((last, size))
    }

    async fn close(&mut self, last: Seq, size: u64) -> Result<()> {
        let close = SegmentDraft::default().seal(self.draft(Kind::Close, size, last.next(), last));
        self.own.put_segment(&close).await?;
        self.own.check().await
    }

    /// Says what the image is; before that nobody finds it.
    async fn finish(self, name: &str, size: u64) -> Result<ImageRecord> {
        let record = ImageRecord {
            image: self.clone,
            name: name.to_owned(),
            created: self.env.clock.now(),
            size: ByteSize(size * SECTOR),
            block_size: self.parent.block_size,
        };
        chain::create_image(&*self.env.bucket, &record).await?;
        Ok(record)
    }
}

/// The images made from this one that still exist: while there are any, it must not be deleted.
pub async fn clones_of(bucket: &dyn Bucket, image: ImageId) -> Result<BTreeSet<ImageId>> {
    let mut clones = BTreeSet::new();
    for (_, _, clone) in chain::list_pins(bucket, image).await? {
        let Some(clone) = clone else { continue };
        match bucket.head(&name::image(clone)).await {
            Ok(_) => drop(clones.insert(clone)),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(clones)
}

/// Takes back the pins that images hold for `clone`, which is gone.
pub async fn unpin_clone(bucket: &dyn Bucket, parents: &BTreeSet<ImageId>, clone: ImageId) -> Result<()> {
    for parent in parents {
        for (key, _, of) in chain::list_pins(bucket, *parent).await? {
            if of == Some(clone) {
                bucket.delete(&key).await?;
            }
        }
    }
    Ok(())
}

/// The epoch in a local segment's name.
pub(crate) fn epoch_of(name: &str) -> Option<Epoch> {
    let hex = name.split('-').next()?;
    u64::from_str_radix(hex, 16).ok().map(Epoch)
}
