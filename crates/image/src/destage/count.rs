//! When segments come to count: once the store has them and all before them, and its owner still is the owner.
//!
//! Where copies are to count, the map is asked which of them still stand, and part of it may be in the bucket only. That is
//! worked out beside the loop, for the oldest segment alone. What was found stays true until then: only a segment that counts
//! changes what the map says, and a checkpoint cut meanwhile says the same in another place.

use std::time::Duration;

use base::{ErrorKind, Number, Result};
use chain::{ExtentKind, Header};
use tokio::time::Instant;

use super::{Destager, Durable};
use crate::layers::Standing;
use crate::outgoing::{Body, Outgoing, Put};
use crate::status::Work;

/// When a segment that could not be mapped is tried again.
const MAP_AGAIN: Duration = Duration::from_secs(3);

impl Destager {
    /// The last segment of the unbroken run that the store says it has.
    fn put_through(&self) -> Option<Number> {
        let done = self.outgoing.iter().take_while(|o| o.put == Put::Done);
        done.last().map(|o| o.header.position.number)
    }

    pub(super) fn start_check(&mut self) {
        let now = Instant::now();
        let through = self.put_through().filter(|number| *number > self.owned);
        if self.check.is_some() || (through.is_none() && now < self.next_check) {
            return;
        }
        let own = self.own.clone();
        let covers = through.unwrap_or(self.durable.position.number);
        self.check = Some(Box::pin(async move { (covers, own.check().await) }));
    }

    /// Segments that the store has and a check has covered count now, in order. One with copies stays, with those behind it, until
    /// it is known which of them stand.
    pub(super) async fn count(&mut self) -> Result<()> {
        while self.standing.is_none()
            && let Some(out) = self.outgoing.front().filter(|o| o.header.position.number <= self.owned)
        {
            if has_copies(&out.header) {
                if Instant::now() >= self.map_after {
                    let (core, header) = (self.core.clone(), out.header.clone());
                    self.mapping_since.get_or_insert_with(Instant::now);
                    self.standing = Some(Box::pin(async move { core.standing(&header).await }));
                }
                return Ok(());
            }
            self.count_oldest(&Standing::default()).await?;
        }
        Ok(())
    }

    /// It is known which copies of the oldest segment stand. If not, because part of the map is in the bucket only and that
    /// does not answer, it is asked again another time.
    pub(super) async fn mapped(&mut self, standing: Result<Standing>) -> Result<()> {
        match standing {
            Ok(standing) => {
                self.mapping_since = None;
                self.well(Work::Map);
                self.count_oldest(&standing).await
            }
            Err(e) if e.kind() == ErrorKind::Fenced => Err(e),
            Err(e) => {
                self.map_after = Instant::now() + MAP_AGAIN;
                self.trouble(Work::Map, format!("cannot read the part of the map that was copied: {e}"));
                Ok(())
            }
        }
    }

    async fn count_oldest(&mut self, standing: &Standing) -> Result<()> {
        let Some(out) = self.outgoing.pop_front() else { return Ok(()) };
        self.map(&out, standing);
        self.counted(out).await
    }

    async fn counted(&mut self, out: Outgoing) -> Result<()> {
        self.durable = Durable {
            position: out.header.position,
            seq: self.durable.seq.max(out.header.last_seq),
            size: out.header.size,
        };
        self.release(self.durable.seq);
        // Fences, closes and deletions alone are no reason to cut another checkpoint.
        self.since_checkpoint += usize::from(out.header.has_content());
        self.budget.written(out.size);
        if let Body::Spooled(segment) = &out.body {
            self.core.env.spool.remove(segment.image, &segment.name).await?;
        }
        self.collector.counted(&out.header, Instant::now() + self.core.env.options.grace);
        let mut progress = self.core.progress.lock();
        progress.durable = self.durable.position.number;
        match &out.body {
            Body::Spooled(segment) => {
                progress.spooled_bytes = progress.spooled_bytes.saturating_sub(segment.bytes);
                progress.freed(0);
            }
            Body::Memory(..) => progress.freed(out.dirty),
        }
        Ok(())
    }

    fn map(&self, out: &Outgoing, standing: &Standing) {
        let hidden = self.core.layers.read().superseded(self.core.id, &out.header);
        self.core.layers.write().apply(&out.header, standing);
        // What was written over would only take the room of what may be read, and the memory of the kernel.
        hidden.iter().for_each(|frame| self.core.env.cache.forget(&frame.key()));
        let mut states = self.core.durable_states.lock();
        for change in &out.header.states {
            match &change.value {
                Some(value) => states.insert(change.name.clone(), value.clone()),
                None => states.remove(&change.name),
            };
        }
    }
}

fn has_copies(header: &Header) -> bool {
    header.extents.iter().any(|extent| matches!(extent.kind, ExtentKind::Moved { .. }))
}
