//! Whether a bucket and a cache disk belong together: all that the disk has of an image must go on from what the bucket has, be in
//! it, or be a fork. Else one of the two is an older copy, or somebody went on with a copy, and nothing is served before the right
//! one is back (C01, C05).

use std::collections::BTreeMap;

use base::{Epoch, Error, ErrorKind, ImageId, Result, Seq, StartId};
use chain::{Continuation, EpochRecord, Header, Loaded};
use local::Recovered;

use crate::env::Env;
use crate::fork::epoch_of;
use crate::outgoing::read_spooled;
use crate::park::{Endings, is_own};

/// What to do where bucket and cache disk do not belong together.
pub(crate) const RESTORED: &str = "If the bucket or this cache disk was restored from an older copy, put the present one back; to give up what \
     only this disk has, adopt the volume at another gateway";

/// Where the records of one epoch are, besides on this disk.
#[derive(Clone)]
enum Place {
    /// Nowhere else as far as is known: they are of the run that goes on, or are a fork.
    Open,
    /// In the bucket, up to that one; and what ended it there.
    Until(Seq, String),
    /// Nowhere, and the bucket says why.
    Foreign(String),
}

impl Place {
    /// Why it has no room for a record.
    fn refuses(&self, seq: Seq) -> Option<String> {
        match self {
            Place::Until(last, why) if seq > *last => Some(why.clone()),
            Place::Foreign(why) => Some(why.clone()),
            Place::Open | Place::Until(..) => None,
        }
    }
}

/// `Corrupt` if the bucket does not account for all that the disk has of an image. `run_start` is the first epoch of the run that
/// goes on. Returns the local segments of former runs that the bucket has.
pub(crate) async fn accounted(
    env: &Env,
    loaded: &Loaded,
    recovered: &[Recovered],
    run_start: Epoch,
) -> Result<Vec<String>> {
    let image = loaded.record.image;
    let spooled = env.spool.list(image);
    let epochs = recovered.iter().map(|r| r.epoch).chain(spooled.iter().filter_map(|f| epoch_of(&f.name)));
    let Some(oldest) = epochs.min() else { return Ok(Vec::new()) };
    let endings = Endings::from(&*env.bucket, &env.journal, image, oldest).await?;
    if endings.newest().is_none() && loaded.last_owner.as_ref().is_some_and(|last| last.epoch >= oldest) {
        return Err(Error::corrupt(format!(
            "image {image}: objects of its epochs since {oldest} are missing in the bucket"
        )));
    }
    let mut account = Account { env, loaded, run_start, endings, places: BTreeMap::new() };
    for record in recovered {
        let place = account.place(record.epoch, Some(record.start)).await?;
        if let Some(why) = place.refuses(record.seq) {
            return Err(refused(image, record.epoch, record.seq, &why));
        }
    }
    let mut arrived = Vec::new();
    for file in spooled {
        let Some(epoch) = epoch_of(&file.name).filter(|epoch| account.is_this_journals(*epoch)) else {
            continue;
        };
        let place = account.place(epoch, None).await?;
        if matches!(place, Place::Open) {
            continue;
        }
        let name = file.name.clone();
        let header = match read_spooled(&env.spool, image, file).await {
            Ok(segment) => segment.header,
            Err(e) => {
                // It stays where it is, and is listed with the forks.
                tracing::warn!(
                    "whether the bucket has local segment {name} of image {image} cannot be told: {e}"
                );
                continue;
            }
        };
        let why = match place.refuses(header.last_seq) {
            None => account.other_segment(&header).await?,
            why => why,
        };
        if let Some(why) = why {
            return Err(refused(image, epoch, header.last_seq, &why));
        }
        arrived.push(name);
    }
    Ok(arrived)
}

fn refused(image: ImageId, epoch: Epoch, seq: Seq, why: &str) -> Error {
    Error::corrupt(format!(
        "image {image}: the local disk has record {seq} of epoch {epoch}, which has no place in the bucket: {why}. {RESTORED}"
    ))
}

struct Account<'a> {
    env: &'a Env,
    loaded: &'a Loaded,
    run_start: Epoch,
    endings: Endings,
    places: BTreeMap<(Epoch, Option<StartId>), Place>,
}

impl Account<'_> {
    /// Of records written in `epoch`, by that start of the gateway if it is known.
    async fn place(&mut self, epoch: Epoch, start: Option<StartId>) -> Result<Place> {
        if let Some(place) = self.places.get(&(epoch, start)) {
            return Ok(place.clone());
        }
        let place = self.find(epoch, start).await?;
        self.places.insert((epoch, start), place.clone());
        Ok(place)
    }

    async fn find(&self, epoch: Epoch, start: Option<StartId>) -> Result<Place> {
        let last_seq = self.loaded.last_seq();
        let Some(owner) = self.endings.owner(epoch) else {
            // Its fence was in the bucket before the first of its records was acknowledged. That the journal could go on from what there is
            // now would hold only until the next opening took the same epoch again.
            return Ok(Place::Foreign("nobody ever served it there in that epoch".into()));
        };
        if !is_own(&self.env.journal, owner) {
            return Ok(Place::Foreign(format!("there that epoch was {}", self.whose(owner))));
        }
        // One number can be two epochs: one in this bucket, and one in an older copy of it that served for a while.
        if start.is_some_and(|start| start != owner.start) {
            return Ok(Place::Foreign("there that epoch was another start of this gateway".into()));
        }
        let Some(ended_by) = self.endings.ended_by(epoch) else {
            return Ok(match epoch < self.run_start {
                true => Place::Until(last_seq, format!("which ends well with record {last_seq}")),
                false => Place::Open,
            });
        };
        if ended_by.continuation == Continuation::LossAccepted {
            return Ok(Place::Open);
        }
        let fence = chain::read_fence(&*self.env.bucket, self.loaded.record.image, ended_by.epoch).await?;
        let (who, last) = (self.whose(ended_by), fence.last_seq);
        Ok(Place::Until(
            last,
            format!("epoch {}, which was {who}, went on from record {last}", ended_by.epoch),
        ))
    }

    /// Whether the bucket has another segment in the place of this local one, whose epoch can be another one of the same number; a segment
    /// that it has no more it did not miss.
    async fn other_segment(&self, header: &Header) -> Result<Option<String>> {
        let (image, position) = (header.image, header.position);
        match chain::read_header(&*self.env.bucket, image, position.epoch, position.number).await {
            Ok(there) if there.position == position => Ok(None),
            Ok(_) => Ok(Some(format!("there segment {} of that epoch is another one", position.number))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn whose(&self, term: &EpochRecord) -> String {
        let owner = &term.owner;
        if term.journal == self.env.journal.id() && !is_own(&self.env.journal, term) {
            format!("gateway {owner:?}'s on a copy of this disk")
        } else {
            format!("gateway {owner:?}'s")
        }
    }

    /// Whether that epoch was this journal's, or a copy's. What others left on this disk, as the journal before it, is listed with the
    /// forks.
    fn is_this_journals(&self, epoch: Epoch) -> bool {
        self.endings.owner(epoch).is_some_and(|owner| owner.journal == self.env.journal.id())
    }
}
