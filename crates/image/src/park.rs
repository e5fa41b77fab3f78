//! What the journal still holds of terms that another gateway ended: it becomes local segments, so that it is listed as a
//! fork and keeps no journal space.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Epoch, Error, ErrorKind, ImageId, Number, Result, Seq, Span};
use chain::{Continuation, HeaderDraft, Kind, Pin, Position, name};
use local::{RecordKind, Recovered};

use crate::core::SIZE_STATE;
use crate::dirty::{DirtyRecord, join};
use crate::env::Env;
use crate::fork::epoch_of;
use crate::gather::{gather, payload};
use crate::outgoing::read_spooled;

/// The most bytes of payload and records in one parked segment.
const SEGMENT: (u64, usize) = (16 << 20, 16_384);

/// Parks what `recovered` has of terms before `run_start` and the bucket has not. `size` (in sectors) is the image's at
/// that time as far as it is known. Returns how many records were parked; afterwards none of these terms needs the journal.
pub(crate) async fn park(
    env: &Env,
    image: ImageId,
    recovered: &[Recovered],
    run_start: Epoch,
    size: u64,
) -> Result<usize> {
    let mut terms: BTreeMap<Epoch, Vec<Recovered>> = BTreeMap::new();
    for record in recovered.iter().filter(|r| r.epoch < run_start) {
        terms.entry(record.epoch).or_default().push(*record);
    }
    let mut parked = 0;
    for (epoch, records) in terms {
        let Some(kept) = lost_behind(env, image, epoch, run_start).await? else { continue };
        let covered = covered(env, image, epoch).await?;
        let has =
            |seq: Seq| seq <= kept || covered.iter().any(|(first, last)| (*first..=*last).contains(&seq));
        let lost: Vec<Recovered> = records.into_iter().filter(|r| !has(r.seq)).collect();
        parked += lost.len();
        park_term(env, image, epoch, &lost, size).await?;
    }
    Ok(parked)
}

/// Whether another gateway ended the run of terms that `epoch` is in without its journal, and if so, the last record that
/// this gateway found in the bucket (0 if that cannot be told any more). `None` if nothing was lost.
async fn lost_behind(env: &Env, image: ImageId, epoch: Epoch, run_start: Epoch) -> Result<Option<Seq>> {
    let mut next = epoch.next();
    while next <= run_start {
        let record = match chain::read_epoch(&*env.bucket, image, next).await {
            Ok(record) => record,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let ours = record.journal == env.journal.id();
        // A term that somebody took without getting as far as a fence ended nothing.
        if !(ours && record.continuation == Continuation::OwnJournal) && fenced(env, image, next).await? {
            return match record.continuation {
                Continuation::LossAccepted => fork_base(env, image, epoch, next).await.map(Some),
                Continuation::First | Continuation::Clean | Continuation::OwnJournal => Ok(None),
            };
        }
        next = next.next();
    }
    Ok(None)
}

/// The last record in the bucket when the loss was accepted, as the pin says, or the new owner's fence.
async fn fork_base(env: &Env, image: ImageId, epoch: Epoch, taken_by: Epoch) -> Result<Seq> {
    match pin_of(env, image, epoch).await? {
        Some((at, pin)) if at < taken_by => Ok(pin.last_seq),
        _ => chain::fence_seq(&*env.bucket, image, taken_by).await,
    }
}

/// The pin from which a fork of `epoch` goes on: that of the last term of its run.
pub(crate) async fn pin_of(env: &Env, image: ImageId, epoch: Epoch) -> Result<Option<(Epoch, Pin)>> {
    let pins = chain::list_pins(&*env.bucket, image).await?;
    let own = pins.into_iter().filter(|(_, at, clone)| *at >= epoch && clone.is_none());
    let Some((key, at, _)) = own.min_by_key(|(_, at, _)| *at) else { return Ok(None) };
    Ok(Some((at, Pin::read(&*env.bucket, &key).await?)))
}

async fn fenced(env: &Env, image: ImageId, epoch: Epoch) -> Result<bool> {
    match env.bucket.head(&name::fence(image, epoch)).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The records that local segments of the term hold already.
async fn covered(env: &Env, image: ImageId, epoch: Epoch) -> Result<Vec<(Seq, Seq)>> {
    let mut covered = Vec::new();
    for file in env.spool.list(image) {
        if epoch_of(&file.name) == Some(epoch) {
            let header = read_spooled(&env.spool, image, file).await?.header;
            covered.push((header.first_seq, header.last_seq));
        }
    }
    Ok(covered)
}

async fn park_term(env: &Env, image: ImageId, epoch: Epoch, lost: &[Recovered], size: u64) -> Result<()> {
    let mut size = size;
    let mut rest = lost;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(one_segment(rest));
        rest = later;
        let records: Vec<Arc<DirtyRecord>> = now.iter().map(|r| dirty(env, r)).collect();
        for record in records.iter().filter(|r| r.kind == RecordKind::State) {
            size = size_in(&join(payload(&env.journal, record).await?)).unwrap_or(size);
        }
        let (first, last) = (now[0].seq, now[now.len() - 1].seq);
        let draft = HeaderDraft {
            image,
            epoch,
            previous: Position { epoch, number: Number(first.0), digest: [0; 32] },
            kind: Kind::Data,
            created: env.clock.now(),
            size,
            first_seq: first,
            last_seq: last,
        };
        let sealed = gather(&env.journal, &records).await?.seal(draft);
        let name = format!("{:016x}-r{:016x}.seg", epoch.0, first.0);
        env.spool
            .put(image, &name, sealed.payload.parts())
            .await
            .map_err(|e: Error| e.within("keeping what was lost to another gateway"))?;
    }
    Ok(())
}

/// How many of the records go into one segment: a dense run of them, up to its limits.
fn one_segment(records: &[Recovered]) -> usize {
    let mut bytes = 0;
    let mut n = 0;
    for record in records {
        let dense = n == 0 || record.seq == records[n - 1].seq.next();
        bytes += u64::from(record.payload_len);
        if n > 0 && (!dense || bytes > SEGMENT.0 || n >= SEGMENT.1) {
            break;
        }
        n += 1;
    }
    n
}

fn dirty(env: &Env, r: &Recovered) -> Arc<DirtyRecord> {
    let bytes = u64::from(r.payload_len);
    let span = if r.kind == RecordKind::State { Span::new(0, 0) } else { r.span };
    DirtyRecord::recovered(&env.memory, r.seq, r.kind, span, env.clock.now(), r.location, bytes)
}

/// The size that a state record sets, if it does.
fn size_in(payload: &[u8]) -> Option<u64> {
    let (name, value) = crate::core::decode_state(payload).ok()?;
    let value = value.filter(|_| name == SIZE_STATE)?;
    value.as_ref().try_into().ok().map(u64::from_le_bytes)
}
