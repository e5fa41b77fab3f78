use std::collections::{BTreeMap, BTreeSet};

use base::{Epoch, Error, ErrorKind, ImageId, Number, Result};
use bucket::{Bucket, Key};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::checkpoint::Checkpoint;
use crate::epoch::{EpochRecord, ImageRecord};
use crate::name;
use crate::segment::{Header, Kind, Position};
use crate::writer::read_image;

/// Objects asked for in one listing call.
const LISTING: usize = 1000;
/// Headers fetched at a time.
const FETCHES: usize = 16;

/// The members of a chain behind a checkpoint.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Their headers in order.
    pub members: Vec<Header>,
    /// The last member.
    pub head: Position,
    /// Whether the last member is a close, so that nothing is outside the bucket.
    pub clean: bool,
    /// Segments that are no members: number and epoch.
    pub orphans: Vec<(Number, Epoch)>,
}

/// All there is to know of an image before it is opened.
#[derive(Debug)]
pub struct Loaded {
    /// What it is.
    pub record: ImageRecord,
    /// The newest term of ownership that was taken, whether or not its owner got as far as a fence; 0 before the first.
    pub newest_epoch: Epoch,
    /// The last owner that added to the chain, hence the only one that can have acknowledged what is not in it.
    pub last_owner: Option<EpochRecord>,
    /// The newest usable checkpoint.
    pub checkpoint: Checkpoint,
    /// Checkpoints that were passed over and why: unreadable ones and those of owners that had lost their epoch.
    pub passed_over: Vec<(Key, String)>,
    /// What follows it.
    pub chain: Chain,
}

/// Reads an image's state from the bucket alone, changing nothing.
///
/// `NotFound` if there is no such image; `Corrupt`, naming the object, if a member of the chain cannot be read.
pub async fn load(bucket: &dyn Bucket, image: ImageId) -> Result<Loaded> {
    let record = read_image(bucket, image).await?;
    let newest_epoch = newest_epoch(bucket, image).await?;
    let mut passed_over = Vec::new();
    for key in list_all(bucket, &name::checkpoints(image), None).await? {
        let checkpoint = match read_checkpoint(bucket, image, &key).await {
            Ok(checkpoint) => checkpoint,
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                passed_over.push((key, e.to_string()));
                continue;
            }
            Err(e) => return Err(e),
        };
        match chain_from(bucket, image, checkpoint.position).await? {
            Some(chain) => {
                let last_owner = read_epoch(bucket, image, chain.head.epoch).await?;
                return Ok(Loaded { record, newest_epoch, last_owner, checkpoint, passed_over, chain });
            }
            None => passed_over.push((key, "its writer had lost its epoch".into())),
        }
    }
    let checkpoint = Checkpoint::empty(image, record.size.0 / base::SECTOR);
    let chain = chain_from(bucket, image, Position::ROOT).await?.ok_or_else(|| {
        Error::corrupt(format!("image {image} has segments but no readable checkpoint leads to them: {passed_over:?}"))
    })?;
    let last_owner = read_epoch(bucket, image, chain.head.epoch).await?;
    Ok(Loaded { record, newest_epoch, last_owner, checkpoint, passed_over, chain })
}

async fn read_checkpoint(bucket: &dyn Bucket, image: ImageId, key: &Key) -> Result<Checkpoint> {
    let (number, epoch) = name::parse_checkpoint(key)?;
    let checkpoint =
        Checkpoint::decode(&bucket.get(key, None).await?).map_err(|e| e.within(format!("{key}")))?;
    let itself = (checkpoint.image, checkpoint.position.number, checkpoint.position.epoch);
    if itself == (image, number, epoch) {
        Ok(checkpoint)
    } else {
        Err(Error::corrupt(format!("{key} holds another checkpoint than its name says")))
    }
}

async fn list_all(bucket: &dyn Bucket, prefix: &str, mut after: Option<Key>) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    loop {
        let page = bucket.list(prefix, after.as_ref(), LISTING).await?;
        let full = page.len() == LISTING;
        keys.extend(page.into_iter().map(|o| o.key));
        if !full {
            return Ok(keys);
        }
        after = keys.last().cloned();
    }
}

async fn newest_epoch(bucket: &dyn Bucket, image: ImageId) -> Result<Epoch> {
    let keys = list_all(bucket, &name::epochs(image), None).await?;
    keys.last().map_or(Ok(Epoch(0)), name::parse_epoch)
}

async fn read_epoch(bucket: &dyn Bucket, image: ImageId, epoch: Epoch) -> Result<Option<EpochRecord>> {
    if epoch == Epoch(0) {
        return Ok(None);
    }
    let key = name::epoch(image, epoch);
    let record = EpochRecord::decode(&bucket.get(&key, None).await?).map_err(|e| e.within(format!("{key}")))?;
    if (record.image, record.epoch) == (image, epoch) {
        Ok(Some(record))
    } else {
        Err(Error::corrupt(format!("{key} holds another epoch than its name says")))
    }
}

/// Fetches and checks one header. `NotFound` if absent; `Corrupt`, with the object's name, if it is not that segment.
pub(crate) async fn read_header(bucket: &dyn Bucket, image: ImageId, epoch: Epoch, number: Number) -> Result<Header> {
    let key = name::segment(image, epoch, number);
    let read = async {
        let mut data = bucket.get(&key, Some(0..Header::FIRST_GET)).await?;
        let len = Header::len_from(&data)?;
        if len > data.len() {
            data = bucket.get(&key, Some(0..len as u64)).await?;
        }
        let header = Header::decode(&data)?;
        let itself = (header.image, header.position.epoch, header.position.number);
        if itself == (image, epoch, number) {
            Ok(header)
        } else {
            Err(Error::corrupt("it holds another segment than its name says"))
        }
    };
    read.await.map_err(|e: Error| match e.kind() {
        ErrorKind::Invalid => Error::caused(ErrorKind::Corrupt, format!("{key} is shorter than a segment"), e),
        _ => e.within(format!("{key}")),
    })
}

/// The members behind `base`, or `None` if the chain does not go through `base`.
async fn chain_from(bucket: &dyn Bucket, image: ImageId, base: Position) -> Result<Option<Chain>> {
    let after = name::behind_segment(image, base.number);
    let mut by_epoch: BTreeMap<Epoch, Vec<Number>> = BTreeMap::new();
    for key in list_all(bucket, &name::segments(image), Some(after)).await? {
        let (number, epoch) = name::parse_segment(&key)?;
        by_epoch.entry(epoch).or_default().push(number);
    }
    let Some((&newest, _)) = by_epoch.last_key_value() else {
        return Ok(Some(Chain { members: Vec::new(), head: base, clean: is_close(bucket, image, base).await?, orphans: vec![] }));
    };
    if newest < base.epoch {
        return Ok(Some(Chain {
            members: Vec::new(),
            head: base,
            clean: is_close(bucket, image, base).await?,
            orphans: all(&by_epoch),
        }));
    }
    let mut headers = fetch_all(bucket, image, &by_epoch).await?;
    // The newest epoch's own part: from its lowest segment upwards, while numbers and digests follow.
    let numbers = &by_epoch[&newest];
    let mut at = if newest == base.epoch { base.number.next() } else { numbers[0] };
    let mut own = Vec::new();
    while let Some(header) = headers.get(&(newest, at)) {
        let follows = own.last().map_or(newest != base.epoch || header.previous == base, |last: &Header| {
            header.previous == last.position
        });
        if !follows {
            return Err(Error::corrupt(format!(
                "{} does not follow the segment before it",
                name::segment(image, newest, at)
            )));
        }
        own.push(header.clone());
        at = at.next();
    }
    let Some(members) = back_to(image, base, own, &mut headers)? else { return Ok(None) };
    let head = members.last().map_or(base, |h| h.position);
    let clean = members.last().map(|h| h.kind == Kind::Close);
    let clean = match clean {
        Some(clean) => clean,
        None => is_close(bucket, image, base).await?,
    };
    let known: BTreeSet<_> = members.iter().map(|h| (h.position.number, h.position.epoch)).collect();
    let orphans = all(&by_epoch).into_iter().filter(|place| !known.contains(place)).collect();
    Ok(Some(Chain { members, head, clean, orphans }))
}

fn all(by_epoch: &BTreeMap<Epoch, Vec<Number>>) -> Vec<(Number, Epoch)> {
    by_epoch.iter().flat_map(|(e, numbers)| numbers.iter().map(|n| (*n, *e))).collect()
}

/// Whether the checkpoint's own position ended an epoch in good order.
async fn is_close(bucket: &dyn Bucket, image: ImageId, position: Position) -> Result<bool> {
    if position == Position::ROOT {
        return Ok(false);
    }
    let header = read_header(bucket, image, position.epoch, position.number).await?;
    Ok(header.kind == Kind::Close)
}

async fn fetch_all(
    bucket: &dyn Bucket,
    image: ImageId,
    by_epoch: &BTreeMap<Epoch, Vec<Number>>,
) -> Result<BTreeMap<(Epoch, Number), Header>> {
    stream::iter(all(by_epoch))
        .map(|(number, epoch)| async move {
            let header = read_header(bucket, image, epoch, number).await?;
            Ok(((epoch, number), header))
        })
        .buffer_unordered(FETCHES)
        .try_collect()
        .await
}

/// Extends `own` backwards to `base` by the `previous` fields; `None` if it passes `base` by.
fn back_to(
    image: ImageId,
    base: Position,
    own: Vec<Header>,
    headers: &mut BTreeMap<(Epoch, Number), Header>,
) -> Result<Option<Vec<Header>>> {
    let Some(first) = own.first() else { return Ok(Some(own)) };
    let mut before = Vec::new();
    let mut want = first.previous;
    while want != base {
        if want.number <= base.number {
            return Ok(None);
        }
        let header = headers.remove(&(want.epoch, want.number)).filter(|h| h.position == want).ok_or_else(|| {
            Error::corrupt(format!(
                "{} is missing or changed, but the chain goes through it",
                name::segment(image, want.epoch, want.number)
            ))
        })?;
        want = header.previous;
        before.push(header);
    }
    before.reverse();
    before.extend(own);
    Ok(Some(before))
}
