//! What the journal still holds of terms that another gateway ended: it becomes local segments, so that it is listed as a
//! fork and keeps no journal space.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Epoch, Error, ErrorKind, ImageId, Number, Result, Seq, Span};
use bucket::Bucket;
use chain::{Continuation, EpochRecord, HeaderDraft, Kind, Pin, Position, name};
use local::{Journal, RecordKind, Recovered, Spool};
use tokio::time::Instant;

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
    let spooled = env.spool.list(image);
    let terms = recovered.iter().map(|r| r.epoch).chain(spooled.iter().filter_map(|f| epoch_of(&f.name)));
    let terms: BTreeSet<Epoch> = terms.filter(|epoch| *epoch < run_start).collect();
    let Some(oldest) = terms.first() else { return Ok(0) };
    let endings = Endings::from(&*env.bucket, &env.journal, image, *oldest).await?;
    // The last record that the bucket had of each run that may be kept.
    let mut kept: BTreeMap<Ending, Seq> = BTreeMap::new();
    for ending in terms.iter().filter_map(|epoch| endings.of(*epoch)).collect::<BTreeSet<_>>() {
        if let Some(pin) = ending.pin(&*env.bucket, image).await? {
            kept.insert(ending, pin.last_seq);
        }
    }
    let ended = |epoch: Epoch| {
        if epoch >= run_start {
            return None;
        }
        let ending = endings.of(epoch)?;
        kept.get(&ending).map(|kept| (ending, *kept))
    };
    let mut covered: BTreeMap<Ending, Vec<(Seq, Seq)>> = BTreeMap::new();
    for file in spooled {
        if let Some((ending, kept)) = epoch_of(&file.name).and_then(ended) {
            let name = file.name.clone();
            let header = read_spooled(&env.spool, image, file).await?.header;
            if header.last_seq <= kept {
                // Its put arrived though nobody was told: what the bucket has is no fork.
                env.spool.remove(image, &name).await?;
                continue;
            }
            covered.entry(ending).or_default().push((header.first_seq, header.last_seq));
        }
    }
    // A run of terms is one fork: what was appended in one of them may have been sealed in a later one.
    let mut lost: BTreeMap<Ending, Vec<Recovered>> = BTreeMap::new();
    for record in recovered {
        let Some((ending, kept)) = ended(record.epoch) else { continue };
        let segments = covered.get(&ending).map_or(&[][..], Vec::as_slice);
        if record.seq > kept && !segments.iter().any(|(a, z)| (*a..=*z).contains(&record.seq)) {
            lost.entry(ending).or_default().push(*record);
        }
    }
    for records in lost.values() {
        park_run(env, image, records, size).await?;
    }
    Ok(lost.values().map(Vec::len).sum())
}

/// How a run of terms ended: an operator accepted the loss of its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ending {
    /// The term of the gateway that took the image over; the pin bears its name.
    pub taken_by: Epoch,
}

impl Ending {
    /// What the bucket had then. The pin was there before the fence that ended the run, and goes only with the fork
    /// (`discard_fork`): without it the fork was given up, and what a journal still shows of it, released or not, must not come
    /// back as one that nobody could open.
    pub async fn pin(self, bucket: &dyn Bucket, image: ImageId) -> Result<Option<Pin>> {
        match Pin::read(bucket, &name::pin(image, self.taken_by)).await {
            Ok(pin) => Ok(Some(pin)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Whether a term of ownership was that of this very journal, and not of another one or of a copy of its disk.
pub fn is_own(journal: &Journal, term: &EpochRecord) -> bool {
    term.journal == journal.id() && journal.has_started(term.start)
}

/// How the runs of an image's terms ended. A run is what one journal went on with, start after start: one fork.
#[derive(Debug)]
pub(crate) struct Endings {
    terms: Vec<EpochRecord>,
    journal: Journal,
}

impl Endings {
    /// Reads those of the terms from `from` on.
    pub async fn from(
        bucket: &dyn Bucket,
        journal: &Journal,
        image: ImageId,
        from: Epoch,
    ) -> Result<Endings> {
        let terms = match chain::terms(bucket, image, from).await {
            // The image is being deleted.
            Err(e) if e.kind() == ErrorKind::NotFound => vec![],
            terms => terms?,
        };
        Ok(Endings { terms, journal: journal.clone() })
    }

    /// Those of `epoch` and of all terms that a disk has local segments of.
    pub async fn of_local(
        bucket: &dyn Bucket,
        journal: &Journal,
        spool: &Spool,
        image: ImageId,
        epoch: Epoch,
    ) -> Result<Endings> {
        let files = spool.list(image);
        let first = files.iter().filter_map(|file| epoch_of(&file.name)).fold(epoch, Epoch::min);
        Endings::from(bucket, journal, image, first).await
    }

    /// Who had the image in `epoch`, as far as anybody served it then.
    pub fn owner(&self, epoch: Epoch) -> Option<&EpochRecord> {
        self.terms.iter().find(|term| term.epoch == epoch)
    }

    /// The newest term of all.
    pub fn newest(&self) -> Option<&EpochRecord> {
        self.terms.last()
    }

    /// The term that ended the run that `epoch` is in; `None` if that goes on.
    pub fn ended_by(&self, epoch: Epoch) -> Option<&EpochRecord> {
        // A copy of this disk goes on with what that has, not with what is here.
        let copys =
            |term: &EpochRecord| term.journal == self.journal.id() && !self.journal.has_started(term.start);
        let mut later = self.terms.iter().filter(|term| term.epoch > epoch);
        later.find(|term| term.continuation != Continuation::OwnJournal || copys(term))
    }

    /// How the run that `epoch` is in ended; `None` if it goes on or nothing was lost.
    pub fn of(&self, epoch: Epoch) -> Option<Ending> {
        let ended_by = self.ended_by(epoch)?;
        let lost = ended_by.continuation == Continuation::LossAccepted;
        lost.then_some(Ending { taken_by: ended_by.epoch })
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
    DirtyRecord::recovered(&env.memory, r.seq, r.kind, span, Instant::now(), r.location, bytes)
}
