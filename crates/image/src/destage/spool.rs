//! Local segments, the second home of dirty data: where segments go when the bucket does not keep up, and when the image was lost to
//! another gateway.

use std::sync::Arc;
use std::time::Duration;

use base::{Epoch, ErrorKind, Result};
use tokio::time::Instant;

use super::Destager;
use crate::dirty::SpooledSegment;
use crate::env::Severity;
use crate::outgoing::{Body, Outgoing, Put, spool_name};
use crate::park::park;

/// A put under way for longer than this is late: a local disk would have taken the segment sooner.
const LATE: Duration = Duration::from_millis(500);
/// The part of [`Options::spool_above`] that a volume may fill of the journal while its bucket does not answer.
const DEAD_SHARE: f64 = 0.25;
/// How long an image that was lost looks for what the bucket has of it after all.
const SORTING: Duration = Duration::from_secs(10);
/// How long a local disk that took no file is left alone.
const FULL_DISK: Duration = Duration::from_secs(10);

impl Destager {
    /// Whether segments should go to the local disk: only if the bucket is slower than that would be. What waits for a bucket
    /// that does not answer leaves the journal early, because others need it too.
    pub(super) fn should_spool(&self) -> bool {
        let room = self.core.progress.lock().spooled_bytes < self.core.env.options.spool_limit.0;
        let any = self.outgoing.iter().any(Outgoing::in_memory);
        let now = Instant::now();
        let enough = self.core.env.options.spool_above;
        // One that is late says it of those behind it too.
        let most = self.outgoing.iter().filter_map(|o| match o.put {
            Put::Flying { failures: 1.., .. } | Put::Idle(_, 1..) => Some(enough * DEAD_SHARE),
            Put::Flying { since, .. } if now - since >= LATE => Some(enough),
            // It waits to be counted: a part of the map is slow to come, or out of reach.
            Put::Done if self.mapping_since.is_some_and(|since| now - since >= LATE) => Some(enough),
            _ => None,
        });
        // While it is held nothing is put.
        let most = most.chain((self.held > 0).then_some(enough));
        let late = most
            .min_by(f64::total_cmp)
            .is_some_and(|limit| self.journal_fullness() > limit || self.is_short());
        any && late && room && now >= self.spool_after
    }

    /// Whether sealed segments have taken all the memory that there is for them.
    fn is_short(&self) -> bool {
        self.core.env.memory.is_short(self.core.env.options.segment.0)
    }

    pub(super) async fn spool_under_pressure(&mut self) -> Result<()> {
        while self.should_spool() {
            self.spool_if_it_fits().await?;
        }
        Ok(())
    }

    /// The same as [`Destager::spool_oldest`], but a disk that takes no file now is not the end: what finds no room there stays in
    /// the journal.
    pub(super) async fn spool_if_it_fits(&mut self) -> Result<()> {
        match self.spool_oldest().await {
            Err(e) if matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::Busy) => {
                self.spool_after = Instant::now() + FULL_DISK;
                self.core.report(Severity::Warning, format!("no local segment now: {e}"));
                Ok(())
            }
            done => done,
        }
    }

    /// Gives the oldest segment that is in memory a home on the local disk, and frees its part of the journal.
    async fn spool_oldest(&mut self) -> Result<()> {
        let Some(at) = self.outgoing.iter().position(Outgoing::in_memory) else { return Ok(()) };
        let out = &mut self.outgoing[at];
        let Body::Memory(sealed, _) = &out.body else { return Ok(()) };
        let name = spool_name(&out.header);
        let spool = &self.core.env.spool;
        spool
            .put(self.core.id, &name, sealed.payload.parts())
            .await
            .map_err(|e| e.within("writing a local segment"))?;
        let header = out.header.clone();
        let offsets = header.offsets();
        let segment =
            Arc::new(SpooledSegment { image: self.core.id, name, header, offsets, bytes: out.size });
        self.core.layers.write().spooled(&segment);
        out.body = Body::Spooled(segment);
        let upto = out.header.last_seq;
        let (size, dirty) = (out.size, out.dirty);
        self.release(upto);
        let mut progress = self.core.progress.lock();
        progress.spooled_bytes += size;
        progress.freed(dirty);
        Ok(())
    }

    /// Moves everything that is acknowledged but does not count into local segments that the next start lists as a fork.
    pub(super) async fn keep_as_fork(&mut self) -> Result<()> {
        loop {
            let committed = self.core.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            {
                let front = self.core.front.lock();
                if front.committed.next() == front.next || self.core.env.journal.poisoned().is_some() {
                    break;
                }
            }
            committed.await;
        }
        while let Some(segment) = self.inherited.pop_front() {
            self.seal_inherited(segment).await?;
        }
        while !self.core.backlog.lock().queue.is_empty() {
            self.seal_records().await?;
        }
        while self.outgoing.iter().any(Outgoing::in_memory) {
            self.spool_oldest().await?;
        }
        // All that matters is kept now. What of it the bucket has after all is no fork; if not now, the next start finds that out.
        let sorting = park(&self.core.env, self.core.id, &[], Epoch(u64::MAX), 0);
        if let Ok(Err(e)) = tokio::time::timeout(SORTING, sorting).await {
            tracing::warn!("a fork of image {} may hold what the bucket has: {e}", self.core.id);
        }
        Ok(())
    }
}
