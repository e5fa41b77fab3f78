//! What one owner has in the journal.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Epoch, Error, ImageId, Result, Seq};

use super::{Owner, OwnerUsage};

/// The records of one owner and one epoch in one batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub file: u64,
    pub epoch: Epoch,
    pub last: Seq,
    pub records: u64,
    pub bytes: u64,
}

/// One owner's account.
#[derive(Default)]
pub(super) struct Book {
    pub attached: Option<Arc<dyn Owner>>,
    last: Option<(Epoch, Seq)>,
    durable: Option<(Epoch, Seq)>,
    /// Unreleased extents in journal order.
    kept: VecDeque<Extent>,
    /// The same, set aside for a fork.
    aside: VecDeque<Extent>,
    bytes: u64,
    records: u64,
}

impl Book {
    /// Whether a record may follow what was appended before.
    pub fn check_next(&self, id: ImageId, epoch: Epoch, seq: Seq) -> Result<()> {
        let Some((last_epoch, last_seq)) = self.last else { return Ok(()) };
        if epoch > last_epoch || (epoch == last_epoch && seq == last_seq.next()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "image {id} appended record {seq} of epoch {epoch} after {last_seq} of {last_epoch}: a bug, report it"
        )))
    }

    pub fn appended(&mut self, epoch: Epoch, seq: Seq) {
        self.last = Some((epoch, seq));
    }

    /// Enters durable records.
    pub fn enter(&mut self, extent: Extent) {
        self.durable = Some((extent.epoch, extent.last));
        self.bytes += extent.bytes;
        self.records += extent.records;
        self.kept.push_back(extent);
    }

    pub fn durable(&self) -> Seq {
        self.durable.map_or(Seq(0), |(_, seq)| seq)
    }

    /// The epoch of what was appended last.
    pub fn newest(&self) -> Option<Epoch> {
        self.last.map(|(epoch, _)| epoch)
    }

    pub fn usage(&self) -> OwnerUsage {
        OwnerUsage { bytes: self.bytes, records: self.records, rank: None }
    }

    /// The generation of the oldest file it needs.
    pub fn oldest(&self) -> Option<u64> {
        let front = [self.kept.front(), self.aside.front()];
        front.into_iter().flatten().map(|e| e.file).min()
    }

    /// Its bytes in a file, if it has records there.
    pub fn bytes_in(&self, file: u64) -> Option<u64> {
        let inside = |q: &VecDeque<Extent>| {
            q.iter()
                .take_while(|e| e.file <= file)
                .filter(|e| e.file == file)
                .map(|e| e.bytes)
                .reduce(|a, b| a + b)
        };
        match (inside(&self.kept), inside(&self.aside)) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
        }
    }

    /// Each of these gives the file of every extent that was released.
    pub fn release(&mut self, upto: Seq) -> Vec<u64> {
        let n = self.kept.iter().take_while(|e| e.last <= upto).count();
        let gone: Vec<Extent> = self.kept.drain(..n).collect();
        self.leave(gone)
    }

    pub fn release_abandoned(&mut self, through: Epoch) -> Vec<u64> {
        let n = self.aside.iter().take_while(|e| e.epoch <= through).count();
        let gone: Vec<Extent> = self.aside.drain(..n).collect();
        self.leave(gone)
    }

    pub fn release_all(&mut self) -> Vec<u64> {
        let gone: Vec<Extent> = self.kept.drain(..).chain(self.aside.drain(..)).collect();
        self.leave(gone)
    }

    fn leave(&mut self, gone: Vec<Extent>) -> Vec<u64> {
        for extent in &gone {
            self.bytes -= extent.bytes;
            self.records -= extent.records;
        }
        gone.into_iter().map(|e| e.file).collect()
    }

    /// Sets the extents of epochs up to `through` aside.
    pub fn abandon(&mut self, through: Epoch) {
        let n = self.kept.iter().take_while(|e| e.epoch <= through).count();
        self.aside.extend(self.kept.drain(..n));
    }

    /// Whether nothing would be lost by forgetting the owner: nobody appends, and whatever was appended is durable by now and
    /// has been released.
    pub fn is_forgettable(&self) -> bool {
        self.attached.is_none() && self.records == 0 && self.last == self.durable
    }
}
