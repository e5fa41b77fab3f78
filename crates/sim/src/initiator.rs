//! Who uses a volume, and remembers what was answered.

use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, SeededEntropy, Span};
use bytes::Bytes;
use image::Image;
use local::{Journal, SimDisk};
use parking_lot::Mutex;

use crate::checker::{Checker, OperationId};

/// Somebody who writes, zeroes, discards, reads and flushes in one part of the volume.
pub(crate) struct Initiator {
    pub image: Image,
    pub journal: Journal,
    pub disk: SimDisk,
    pub checker: Arc<Mutex<Checker>>,
    pub chance: SeededEntropy,
    pub part: Span,
    /// Whether another gateway will take the image over meanwhile: what the older one needs may then be collected before it
    /// finds out.
    pub overtaken: bool,
}

impl Initiator {
    /// Goes on until the machine loses its power.
    pub async fn run(self) -> Result<(), String> {
        while !self.disk.is_off() {
            match self.chance.below(12) {
                0..=6 => self.write().await?,
                7 => self.empty().await?,
                8 => self.flush().await?,
                9 => tokio::time::sleep(Duration::from_millis(self.chance.below(1_000))).await,
                _ => self.read().await?,
            }
        }
        Ok(())
    }

    fn span(&self) -> Span {
        let long = if self.chance.chance(1, 6) { 120 } else { 16 };
        let count = 1 + self.chance.below(long);
        let start = self.part.start + self.chance.below(self.part.count - count);
        Span::new(start, count)
    }

    async fn write(&self) -> Result<(), String> {
        let (span, stopped) = (self.span(), self.stopped());
        let admission = match self.image.admit(span.bytes()).await {
            Ok(admission) => admission,
            Err(e) => return self.refused(e).await,
        };
        let id = self.checker.lock().send(span, false);
        let data = vec![Checker::data(id, span)];
        match self.image.write(span.start, data, false, admission).await {
            Ok(()) => self.acknowledged(id, stopped),
            Err(e) => self.refused(e).await,
        }
    }

    async fn empty(&self) -> Result<(), String> {
        let (span, stopped) = (self.span(), self.stopped());
        let id = self.checker.lock().send(span, true);
        match self.image.zero(span, self.chance.chance(1, 2)).await {
            Ok(()) => self.acknowledged(id, stopped),
            Err(e) => self.refused(e).await,
        }
    }

    async fn flush(&self) -> Result<(), String> {
        let stopped = self.stopped();
        match self.image.flush().await {
            Ok(()) if stopped => Err("a flush was answered after a failed sync".into()),
            Ok(()) => Ok(()),
            Err(e) => self.refused(e).await,
        }
    }

    /// Whether nothing may be acknowledged that is sent from now on.
    fn stopped(&self) -> bool {
        self.journal.poisoned().is_some()
    }

    fn acknowledged(&self, id: OperationId, stopped: bool) -> Result<(), String> {
        if stopped {
            return Err(format!("operation {id} was acknowledged after a failed sync"));
        }
        self.checker.lock().acknowledge(id);
        Ok(())
    }

    async fn read(&self) -> Result<(), String> {
        let span = self.span();
        match self.image.read(span).await {
            Ok(parts) => {
                let content: Vec<u8> = parts.iter().flat_map(|p: &Bytes| p.iter().copied()).collect();
                self.checker.lock().check_read(span, &content).map_err(|e| format!("while working: {e}"))
            }
            Err(e) => self.refused(e).await,
        }
    }

    /// Which errors an initiator may meet: no room, the store away, the image lost, and any where the disk has failed.
    async fn refused(&self, e: base::Error) -> Result<(), String> {
        let failed = self.disk.is_off() || self.disk.failed_sync().is_some();
        match e.kind() {
            ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::NoSpace | ErrorKind::Fenced => {}
            ErrorKind::Internal if failed => {}
            ErrorKind::Corrupt if self.overtaken => {}
            _ => return Err(format!("an initiator got {e:?}")),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    }
}
