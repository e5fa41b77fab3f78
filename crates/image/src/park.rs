//! What the journal still holds of terms that another gateway ended: it becomes local segments, so that it is listed as a
//! fork and keeps no journal space.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Epoch, Error, ErrorKind, ImageId, Number, Result, Seq, Span};
use bucket::Bucket;
use chain::{Continuation, HeaderDraft, Kind, Pin, Position, name};
use local::{RecordKind, Recovered};

use crate::core::size_in;
use crate::dirty::DirtyRecord;
use crate::env::Env;
use crate::fork::epoch_of;
use crate::gather::gather;
use crate::outgoing::read_spooled;

/// The most bytes of payload and records in one parked segment.
const SEGMENT: (u64, usize) = (16 << 20, 16_384);

/// Parks what `recovered` has of terms before `run_start` and the bucket has not. `size` (in sectors) is the image's at
/// that time as far as it is known. Returns how many records were parked; afterwards none of these terms needs the journal. Local
/// segments of these terms that the bucket has after all are removed.
pub(crate) async fn park(
    env: &Env,
    image: ImageId,
    recovered: &[Recovered],
    run_start: Epoch,
    size: u64,
) -> Result<usize> {
    let mut ends: BTreeMap<Epoch, Option<End>> = BTreeMap::new();
    let spooled = env.spool.list(image);
    let terms = recovered.iter().map(|r| r.epoch).chain(spooled.iter().filter_map(|f| epoch_of(&f.name)));
    for epoch in terms.filter(|epoch| *epoch < run_start).collect::<BTreeSet<_>>() {
        ends.insert(epoch, end_of(env, image, epoch, run_start).await?);
    }
    let mut covered: BTreeMap<Epoch, Vec<(Seq, Seq)>> = BTreeMap::new();
    for file in spooled {
        if let Some(Some(end)) = epoch_of(&file.name).and_then(|epoch| ends.get(&epoch)) {
            let name = file.name.clone();
            let header = read_spooled(&env.spool, image, file).await?.header;
            if header.last_seq <= end.kept {
                // Its put arrived though nobody was told: what the bucket has is no fork.
                env.spool.remove(image, &name).await?;
                continue;
            }
            covered.entry(end.taken_by).or_default().push((header.first_seq, header.last_seq));
        }
    }
    // A run of terms is one fork: what was appended in one of them may have been sealed in a later one.
    let mut lost: BTreeMap<Epoch, Vec<Recovered>> = BTreeMap::new();
    for record in recovered {
        let Some(Some(end)) = ends.get(&record.epoch) else { continue };
        let segments = covered.get(&end.taken_by).map_or(&[][..], Vec::as_slice);
        if record.seq > end.kept && !segments.iter().any(|(a, z)| (*a..=*z).contains(&record.seq)) {
            lost.entry(end.taken_by).or_default().push(*record);
        }
    }
    for records in lost.values() {
        park_run(env, image, records, size).await?;
    }
    Ok(lost.values().map(Vec::len).sum())
}

/// How a run of terms was ended by a gateway that had not its journal.
#[derive(Debug, Clone, Copy)]
struct End {
    /// That gateway's term.
    taken_by: Epoch,
    /// The last record that it found in the bucket.
    kept: Seq,
}

/// How the run that `epoch` is in ended; `None` if nothing was lost, or what was lost has been given up.
async fn end_of(env: &Env, image: ImageId, epoch: Epoch, run_start: Epoch) -> Result<Option<End>> {
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
                Continuation::LossAccepted => {
                    let kept = fork_base(env, image, epoch, next).await?;
                    Ok(kept.map(|kept| End { taken_by: next, kept }))
                }
                Continuation::First | Continuation::Clean | Continuation::OwnJournal => Ok(None),
            };
        }
        next = next.next();
    }
    Ok(None)
}

/// The last record in the bucket when the loss was accepted, as the pin says. The pin was there before the fence that ended the
/// run, and goes only with the fork (`discard_fork`): without it the fork was given up, and what a journal still shows of
/// it, released or not, must not come back as one that nobody could open.
async fn fork_base(env: &Env, image: ImageId, epoch: Epoch, taken_by: Epoch) -> Result<Option<Seq>> {
    match Run::of(&*env.bucket, image, epoch).await? {
        Some(run) if run.last < taken_by => {
            Ok(Some(Pin::read(&*env.bucket, &name::pin(image, run.last)).await?.last_seq))
        }
        _ => Ok(None),
    }
}

/// The terms that make up one fork, as the pins tell: after `after`, up to `last`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    after: Epoch,
    /// The term whose loss was accepted; the pin bears its name.
    pub last: Epoch,
}

impl Run {
    /// The run that `epoch` is in; `None` if no pin says that its loss was accepted.
    pub async fn of(bucket: &dyn Bucket, image: ImageId, epoch: Epoch) -> Result<Option<Run>> {
        let pins = chain::list_pins(bucket, image).await?;
        let after = pins.iter().map(|(_, at, _)| *at).filter(|at| *at < epoch).max().unwrap_or(Epoch(0));
        let own = pins.iter().filter(|(_, at, clone)| *at >= epoch && clone.is_none());
        Ok(own.map(|(_, at, _)| *at).min().map(|last| Run { after, last }))
    }

    /// Whether a term is one of it.
    pub fn has(&self, epoch: Epoch) -> bool {
        epoch > self.after && epoch <= self.last
    }
}

async fn fenced(env: &Env, image: ImageId, epoch: Epoch) -> Result<bool> {
    match env.bucket.head(&name::fence(image, epoch)).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

async fn park_run(env: &Env, image: ImageId, lost: &[Recovered], size: u64) -> Result<()> {
    let mut size = size;
    let mut rest = lost;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(one_segment(rest));
        rest = later;
        let records: Vec<Arc<DirtyRecord>> = now.iter().map(|r| dirty(env, r)).collect();
        let content = gather(&env.journal, &records).await?;
        size = size_in(content.states()).unwrap_or(size);
        let (epoch, first, last) = (now[0].epoch, now[0].seq, now[now.len() - 1].seq);
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
        let sealed = content.seal(draft);
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
