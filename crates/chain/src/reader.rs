use std::collections::{BTreeMap, BTreeSet};

use base::{Epoch, Error, ErrorKind, ImageId, Number, Result, Seq};
use bucket::{Bucket, Key};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::checkpoint::Checkpoint;
use crate::epoch::{EpochRecord, FenceRecord, ImageRecord};
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

impl Loaded {
    /// The last client record that the bucket has.
    pub fn last_seq(&self) -> Seq {
        self.chain.members.last().map_or(self.checkpoint.last_seq, |h| h.last_seq)
    }
}

/// Reads an image's state from the bucket alone, changing nothing.
///
/// `NotFound` if there is no such image; `Corrupt`, naming the object, if a member of the chain cannot be read.
pub async fn load(bucket: &dyn Bucket, image: ImageId) -> Result<Loaded> {
    let record = read_image(bucket, image).await?;
    let newest_epoch = newest_epoch(bucket, image).await?;
    let Some(fence) = newest_fence(bucket, image).await? else {
        let checkpoint = Checkpoint::empty(image, record.size.0 / base::SECTOR);
        let chain = Chain { members: vec![], head: Position::ROOT, clean: false, orphans: vec![] };
        return Ok(Loaded { record, newest_epoch, last_owner: None, checkpoint, passed_over: vec![], chain });
    };
    let last_owner = Some(read_epoch(bucket, image, fence.epoch).await?);
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
        match chain_from(bucket, image, checkpoint.position, fence).await? {
            Some(chain) => {
                return Ok(Loaded { record, newest_epoch, last_owner, checkpoint, passed_over, chain });
            }
            None => passed_over.push((key, "its writer had lost its epoch".into())),
        }
    }
    let checkpoint = Checkpoint::empty(image, record.size.0 / base::SECTOR);
    let chain = chain_from(bucket, image, Position::ROOT, fence).await?.ok_or_else(|| {
        Error::corrupt(format!(
            "image {image} has segments but no readable checkpoint leads to them: {passed_over:?}"
        ))
    })?;
    Ok(Loaded { record, newest_epoch, last_owner, checkpoint, passed_over, chain })
}

async fn read_checkpoint(bucket: &dyn Bucket, image: ImageId, key: &Key) -> Result<Checkpoint> {
    let (number, epoch) = name::parse_checkpoint(key)?;
    let checkpoint = Checkpoint::decode(&bucket.get(key, None).await?)
        .map_err(|e| e.within(format!("{key} at offset 0")))?;
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
    let newest = bucket.list(&name::epochs(image), None, 1).await?;
    newest.first().map_or(Ok(Epoch(0)), |object| name::parse_epoch(&object.key))
}

async fn newest_fence(bucket: &dyn Bucket, image: ImageId) -> Result<Option<Position>> {
    let newest = bucket.list(&name::fences(image), None, 1).await?;
    let Some(object) = newest.first() else { return Ok(None) };
    let fence = read_fence(bucket, image, name::parse_epoch(&object.key)?).await?;
    Ok(Some(fence.position))
}

/// Reads where the part of a term in the chain begins. `NotFound` if its owner never came to serve; `Corrupt` if the object is damaged.
pub async fn read_fence(bucket: &dyn Bucket, image: ImageId, epoch: Epoch) -> Result<FenceRecord> {
    let key = name::fence(image, epoch);
    let record = FenceRecord::decode(&bucket.get(&key, None).await?)
        .map_err(|e| e.within(format!("{key} at offset 0")))?;
    if (record.image, record.position.epoch) == (image, epoch) {
        Ok(record)
    } else {
        Err(Error::corrupt(format!("{key} holds another fence than its name says")))
    }
}

/// Reads one term of ownership. `NotFound` if it was never taken; `Corrupt` if its object is damaged.
pub async fn read_epoch(bucket: &dyn Bucket, image: ImageId, epoch: Epoch) -> Result<EpochRecord> {
    let key = name::epoch(image, epoch);
    let record = EpochRecord::decode(&bucket.get(&key, None).await?)
        .map_err(|e| e.within(format!("{key} at offset 0")))?;
    if (record.image, record.epoch) == (image, epoch) {
        Ok(record)
    } else {
        Err(Error::corrupt(format!("{key} holds another epoch than its name says")))
    }
}

/// The terms from `from` on that the image's chain goes through, oldest first: the newest that has a fence, and from each the
/// one that it went on from. Any other was taken by somebody who never came to serve, whatever he left in the bucket.
pub async fn terms(bucket: &dyn Bucket, image: ImageId, from: Epoch) -> Result<Vec<EpochRecord>> {
    let Some(fence) = newest_fence(bucket, image).await? else { return Ok(vec![]) };
    let mut terms: Vec<EpochRecord> = stream::iter((from.0..=fence.epoch.0).rev())
        .map(|epoch| read_epoch(bucket, image, Epoch(epoch)))
        .buffered(FETCHES)
        .try_collect()
        .await?;
    let mut next = fence.epoch;
    terms.retain(|term| {
        let member = term.epoch == next;
        if member {
            next = term.after;
        }
        member
    });
    terms.reverse();
    Ok(terms)
}

/// Fetches and checks one header. `NotFound` if absent; `Corrupt`, with the object's name, if it is not that segment.
pub async fn read_header(
    bucket: &dyn Bucket,
    image: ImageId,
    epoch: Epoch,
    number: Number,
) -> Result<Header> {
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
        ErrorKind::Invalid => {
            Error::caused(ErrorKind::Corrupt, format!("{key} is shorter than a segment"), e)
        }
        ErrorKind::Corrupt => e.within(format!("{key} at offset 0")),
        _ => e.within(format!("{key}")),
    })
}

/// The members behind `base`, or `None` if the chain does not go through `base`. `fence` is the newest owner's first.
async fn chain_from(
    bucket: &dyn Bucket,
    image: ImageId,
    base: Position,
    fence: Position,
) -> Result<Option<Chain>> {
    let own_base = base.epoch == fence.epoch && base.number >= fence.number;
    if !own_base && base.number >= fence.number {
        return Ok(None);
    }
    let after = name::behind_segment(image, base.number);
    let mut by_epoch: BTreeMap<Epoch, Vec<Number>> = BTreeMap::new();
    for key in list_all(bucket, &name::segments(image), Some(after)).await? {
        let (number, epoch) = name::parse_segment(&key)?;
        by_epoch.entry(epoch).or_default().push(number);
    }
    let mut headers = fetch_all(bucket, image, &by_epoch).await?;
    // The newest owner's own part: upwards while numbers are contiguous.
    let mut own: Vec<Header> = Vec::new();
    let mut at = if own_base { base.number.next() } else { fence.number };
    while let Some(header) = headers.remove(&(fence.epoch, at)) {
        let header = header?;
        let follows = match own.last() {
            Some(last) => header.previous == last.position,
            None if own_base => header.previous == base,
            None => header.position == fence,
        };
        if !follows {
            let key = name::segment(image, fence.epoch, at);
            return Err(Error::corrupt(format!("{key} does not follow the segment before it")));
        }
        own.push(header);
        at = at.next();
    }
    if !own_base && own.is_empty() {
        let key = name::segment(image, fence.epoch, fence.number);
        return Err(Error::corrupt(format!("{key} is missing, but the newest owner's chain begins with it")));
    }
    let Some(members) = back_to(image, base, own, &mut headers)? else { return Ok(None) };
    let head = members.last().map_or(base, |h| h.position);
    let clean = match members.last() {
        Some(last) => last.kind == Kind::Close,
        None => read_header(bucket, image, base.epoch, base.number).await?.kind == Kind::Close,
    };
    let known: BTreeSet<_> = members.iter().map(|h| (h.position.number, h.position.epoch)).collect();
    let orphans = all(&by_epoch).into_iter().filter(|place| !known.contains(place)).collect();
    Ok(Some(Chain { members, head, clean, orphans }))
}

fn all(by_epoch: &BTreeMap<Epoch, Vec<Number>>) -> Vec<(Number, Epoch)> {
    by_epoch.iter().flat_map(|(e, numbers)| numbers.iter().map(|n| (*n, *e))).collect()
}

/// Headers by place. A damaged one matters only if the chain turns out to go through it.
type Headers = BTreeMap<(Epoch, Number), Result<Header>>;

async fn fetch_all(
    bucket: &dyn Bucket,
    image: ImageId,
    by_epoch: &BTreeMap<Epoch, Vec<Number>>,
) -> Result<Headers> {
    stream::iter(all(by_epoch))
        .map(|(number, epoch)| async move {
            match read_header(bucket, image, epoch, number).await {
                Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => Err(e),
                header => Ok(((epoch, number), header)),
            }
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
    headers: &mut Headers,
) -> Result<Option<Vec<Header>>> {
    let Some(first) = own.first() else { return Ok(Some(own)) };
    let mut before = Vec::new();
    let mut want = first.previous;
    while want != base {
        if want.number <= base.number {
            return Ok(None);
        }
        let header = headers.remove(&(want.epoch, want.number)).transpose()?;
        let header = header.filter(|h| h.position == want).ok_or_else(|| {
            let key = name::segment(image, want.epoch, want.number);
            Error::corrupt(format!("{key} is missing or changed, but the chain goes through it"))
        })?;
        want = header.previous;
        before.push(header);
    }
    before.reverse();
    before.extend(own);
    Ok(Some(before))
}
