//! When segments come to count: once the store has them and all before them, and its owner still is the owner.

use std::time::Duration;

use base::{Error, ErrorKind, Number, Result};
use chain::Header;
use tokio::time::Instant;

use super::{Destager, Durable};
use crate::core::Core;
use crate::layers::Standing;
use crate::outgoing::{Body, Outgoing, Put};

/// How long a segment may take to be mapped before other work goes first.
const MAPPED_WITHIN: Duration = Duration::from_secs(2);
/// When it is tried again.
const MAP_AGAIN: Duration = Duration::from_secs(3);

impl Destager {
    /// The last segment of the unbroken run that the store says it has.
    fn put_through(&self) -> Option<Number> {
        let done = self.outgoing.iter().take_while(|o| o.put == Put::Done);
        done.last().map(|o| o.header.position.number)
    }

    pub(super) fn start_check(&mut self) {
        let now = Instant::now();
        let through = self.put_through().filter(|_| now >= self.map_after);
        if self.check.is_some() || (through.is_none() && now < self.next_check) {
            return;
        }
        let own = self.own.clone();
        let covers = through.unwrap_or(self.durable.position.number);
        self.check = Some(Box::pin(async move { (covers, own.check().await) }));
    }

    /// Segments up to `covers` count now. One that cannot be mapped yet, because part of the map is in the bucket only and that
    /// does not answer, stays with those behind it for another time.
    pub(super) async fn count(&mut self, covers: Number) -> Result<()> {
        while let Some(out) = self.outgoing.front().filter(|o| o.header.position.number <= covers) {
            let standing = match standing(&self.core, &out.header).await {
                Ok(standing) => standing,
                Err(e) if e.kind() == ErrorKind::Fenced => return Err(e),
                Err(e) => {
                    self.map_after = Instant::now() + MAP_AGAIN;
                    self.next_check = self.map_after;
                    self.trouble(format!("cannot read the part of the map that was copied: {e}"));
                    return Ok(());
                }
            };
            let Some(out) = self.outgoing.pop_front() else { return Ok(()) };
            self.map(&out, &standing);
            self.counted(out).await?;
        }
        Ok(())
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

async fn standing(core: &Core, header: &Header) -> Result<Standing> {
    let slow = || Error::new(ErrorKind::Unavailable, "the bucket does not answer in time");
    tokio::time::timeout(MAPPED_WITHIN, core.standing(header)).await.unwrap_or_else(|_| Err(slow()))
}
