//! Neighbouring records as one run of data.

use base::Span;
use bytes::Bytes;
use chain::SegmentDraft;

use crate::dirty::join;

/// The bytes of a frame.
const FRAME: u64 = chain::FRAME_SECTORS * base::SECTOR;

/// Neighbouring runs put together, so that a sequential writer of small blocks gets large frames.
#[derive(Default)]
pub(super) struct Together {
    start: u64,
    parts: Vec<Bytes>,
    bytes: u64,
}

impl Together {
    /// Takes the next run, in address order.
    pub(super) fn add(&mut self, span: Span, parts: Vec<Bytes>, draft: &mut SegmentDraft) {
        let follows = self.start + self.bytes / base::SECTOR == span.start;
        // One large part that is contiguous anyway is best taken as it is.
        if !self.parts.is_empty()
            && (!follows || self.bytes >= 1 << 20 || self.bytes.is_multiple_of(64 << 10))
        {
            self.flush(draft);
        }
        if self.parts.is_empty() {
            self.start = span.start;
        }
        self.bytes += span.bytes();
        self.parts.extend(parts);
    }

    /// Hands on what was put together. Parts are copied only where a frame reaches over their border: frames end at
    /// multiples of their length.
    pub(super) fn flush(&mut self, draft: &mut SegmentDraft) {
        let mut start = self.start;
        let mut frame = Vec::new();
        for mut part in self.parts.drain(..) {
            let at = start * base::SECTOR + frame.iter().map(Bytes::len).sum::<usize>() as u64;
            let end = at + part.len() as u64;
            if !frame.is_empty() && end >= at.next_multiple_of(FRAME) {
                frame.push(part.split_to((at.next_multiple_of(FRAME) - at) as usize));
                draft.data(start, join(std::mem::take(&mut frame)));
                start = at.next_multiple_of(FRAME) / base::SECTOR;
            }
            let whole = (end / FRAME * FRAME).saturating_sub(start * base::SECTOR).min(part.len() as u64);
            if frame.is_empty() && whole > 0 {
                draft.data(start, part.split_to(whole as usize));
                start += whole / base::SECTOR;
            }
            if !part.is_empty() {
                frame.push(part);
            }
        }
        if !frame.is_empty() {
            draft.data(start, join(frame));
        }
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
