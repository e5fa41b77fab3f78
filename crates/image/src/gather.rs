//! The content of a segment out of journal records.

mod together;

use std::sync::Arc;

use base::{Error, Result, Span};
use bytes::Bytes;
use chain::{ExtentMap, Piece, SegmentDraft, StateChange};
use local::{Journal, RecordKind};

use crate::core::decode_state;
use crate::dirty::{DirtyRecord, join, slice_parts};
use together::Together;

/// The payload of a record, from memory or from the journal.
pub(crate) async fn payload(journal: &Journal, record: &DirtyRecord) -> Result<Vec<Bytes>> {
    if let Some(parts) = record.data() {
        return Ok(parts);
    }
    let location =
        record.location().ok_or_else(|| Error::internal("a record is neither in memory nor placed"))?;
    Ok(vec![journal.read(location).await?])
}

/// The whole effect of a run of records: later ones replace what they cover of earlier ones.
pub(crate) async fn gather(journal: &Journal, records: &[Arc<DirtyRecord>]) -> Result<SegmentDraft> {
    let mut effect: ExtentMap<Effect> = ExtentMap::new();
    let mut draft = SegmentDraft::default();
    for record in records {
        match record.kind {
            RecordKind::Data => effect.insert(record.span, Effect::Data(record.clone(), 0), |_, _| ()),
            RecordKind::Zero => effect.insert(record.span, Effect::Zero, |_, _| ()),
            RecordKind::Discard => effect.insert(record.span, Effect::Hole, |_, _| ()),
            RecordKind::State => {
                let payload = join(payload(journal, record).await?);
                let (name, value) = decode_state(&payload)?;
                draft.state(StateChange { name, value });
            }
            RecordKind::Namespace | RecordKind::Barrier => {}
        }
    }
    let runs: Vec<(Span, Effect)> = effect.iter().map(|(span, e)| (span, e.clone())).collect();
    let mut together = Together::default();
    for (span, effect) in runs {
        match effect {
            Effect::Data(record, skip) => {
                let parts = payload(journal, &record).await?;
                let mut cut = Vec::with_capacity(parts.len());
                slice_parts(&parts, skip * base::SECTOR, span.bytes(), &mut cut);
                together.add(span, cut, &mut draft);
            }
            Effect::Zero | Effect::Hole => {
                together.flush(&mut draft);
                draft.empty(span, matches!(effect, Effect::Zero));
            }
        }
    }
    together.flush(&mut draft);
    Ok(draft)
}

/// What a run of sectors becomes.
#[derive(Clone)]
enum Effect {
    Data(Arc<DirtyRecord>, u64),
    Zero,
    Hole,
}

impl Piece for Effect {
    fn advance(&self, sectors: u64) -> Effect {
        match self {
            Effect::Data(record, skip) => Effect::Data(record.clone(), skip + sectors),
            other => other.clone(),
        }
    }
}
