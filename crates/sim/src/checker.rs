//! What was written, what was acknowledged, and what a disk may therefore show.
//!
//! Every write fills its sectors with its own number, so that each sector read back names the write that made it. Writes
//! that are under way at the same time never overlap, so that each sector has one order of writes.

use base::{SECTOR, Span};
use bytes::Bytes;

/// One write, zeroing or discard.
#[derive(Debug, Clone, Copy)]
struct Operation {
    span: Span,
    /// Whether its sectors read as zeroes afterwards.
    zero: bool,
    /// The step at which it was sent, and at which it was acknowledged.
    sent: u64,
    acknowledged: Option<u64>,
}

/// The initiators' memory of one volume.
#[derive(Debug, Clone)]
pub struct Checker {
    operations: Vec<Operation>,
    /// For each sector the operations on it, in order.
    history: Vec<Vec<usize>>,
    step: u64,
}

/// The number of an operation.
pub type OperationId = usize;

impl Checker {
    /// A volume of so many sectors that read as zeroes.
    pub fn new(sectors: u64) -> Checker {
        Checker { operations: Vec::new(), history: vec![Vec::new(); sectors as usize], step: 0 }
    }

    /// Takes note that a write (or, with `zero`, a zeroing) is being sent.
    pub fn send(&mut self, span: Span, zero: bool) -> OperationId {
        self.step += 1;
        let id = self.operations.len();
        self.operations.push(Operation { span, zero, sent: self.step, acknowledged: None });
        for sector in span.start..span.end() {
            self.history[sector as usize].push(id);
        }
        id
    }

    /// Takes note that it was acknowledged.
    pub fn acknowledge(&mut self, id: OperationId) {
        self.step += 1;
        self.operations[id].acknowledged = Some(self.step);
    }

    /// What an operation writes.
    pub fn data(id: OperationId, span: Span) -> Bytes {
        let mut data = vec![0; span.bytes() as usize];
        for (i, sector) in data.chunks_mut(SECTOR as usize).enumerate() {
            let address = span.start + i as u64;
            for (j, word) in sector.chunks_mut(16).enumerate() {
                word[..8].copy_from_slice(&(id as u64 + 1).to_le_bytes());
                word[8..].copy_from_slice(&(address ^ ((j as u64) << 40)).to_le_bytes());
            }
        }
        data.into()
    }

    /// How many operations of the sector's history are visible in `content`: 0 for none.
    fn depth(&self, sector: u64, content: &[u8]) -> Result<Vec<usize>, String> {
        let history = &self.history[sector as usize];
        if content.iter().all(|b| *b == 0) {
            let zeroed =
                history.iter().enumerate().filter(|(_, id)| self.operations[**id].zero).map(|(i, _)| i + 1);
            return Ok(std::iter::once(0).chain(zeroed).collect());
        }
        let id = u64::from_le_bytes(content[..8].try_into().map_err(|e| format!("{e}"))?) as usize;
        let whole = id >= 1 && Checker::data(id - 1, Span::new(sector, 1)) == content;
        match history.iter().position(|h| *h + 1 == id) {
            Some(at) if whole => Ok(vec![at + 1]),
            _ => Err(format!(
                "sector {sector} holds bytes that nobody wrote there (looks like write {id}, history {history:?})"
            )),
        }
    }

    /// Checks one read: every acknowledged operation or a later one must show.
    pub fn check_read(&self, span: Span, content: &[u8]) -> Result<(), String> {
        for (sector, bytes) in (span.start..span.end()).zip(content.chunks(SECTOR as usize)) {
            let depths = self.depth(sector, bytes)?;
            let least = self.acknowledged_depth(sector);
            if depths.iter().all(|d| *d < least) {
                return Err(format!(
                    "sector {sector}: acknowledged operation {} is gone; depth {depths:?} of {:?} shows",
                    self.history[sector as usize][least - 1],
                    self.history[sector as usize]
                ));
            }
        }
        Ok(())
    }

    fn acknowledged_depth(&self, sector: u64) -> usize {
        let history = &self.history[sector as usize];
        history.iter().rposition(|id| self.operations[*id].acknowledged.is_some()).map_or(0, |at| at + 1)
    }

    /// After a crash with the journal: every acknowledged operation shows; of the others each shows as a whole or not
    /// at all. From now on what shows is what was written.
    pub fn settle_after_crash(&mut self, content: &[u8]) -> Result<(), String> {
        let sectors = self.history.len() as u64;
        self.check_read(Span::new(0, sectors), content)?;
        let (shows, _) = self.judge(content)?;
        self.forget_invisible(&shows);
        Ok(())
    }

    /// After the loss of the local disk: what shows must be a prefix of the write order. If an operation shows, then so does
    /// every operation that had been acknowledged before that one was sent. Returns how many acknowledged ones are lost.
    pub fn settle_after_loss(&mut self, content: &[u8]) -> Result<usize, String> {
        let (_, lost) = self.judge(content)?;
        self.rebase(content);
        Ok(lost)
    }

    /// What can be told of each operation, and how many acknowledged ones are missing; an error if the rest is no prefix.
    fn judge(&self, content: &[u8]) -> Result<(Vec<Option<bool>>, usize), String> {
        let mut depth = Vec::with_capacity(self.history.len());
        for (sector, bytes) in content.chunks(SECTOR as usize).enumerate() {
            depth.push(self.depth(sector as u64, bytes)?);
        }
        let shows = self.verdicts(&mut depth)?;
        let visible = self.operations.iter().zip(&shows).filter(|(_, shows)| **shows == Some(true));
        let latest_sent = visible.map(|(operation, _)| operation.sent).max();
        let mut lost = 0;
        for (id, operation) in self.operations.iter().enumerate() {
            if shows[id] == Some(false) {
                lost += usize::from(operation.acknowledged.is_some());
                if operation.acknowledged.is_some_and(|at| latest_sent.is_some_and(|sent| at < sent)) {
                    return Err(format!(
                        "operation {id} ({operation:?}) is missing though a later one shows: no prefix"
                    ));
                }
            }
        }
        Ok((shows, lost))
    }

    /// What can be told of each operation. Zeroes may come from several operations; those that are missing elsewhere
    /// explain none.
    fn verdicts(&self, depth: &mut [Vec<usize>]) -> Result<Vec<Option<bool>>, String> {
        loop {
            let shows = self.visible(depth)?;
            let mut changed = false;
            for (history, depths) in self.history.iter().zip(depth.iter_mut()) {
                let before = depths.len();
                depths.retain(|d| *d == 0 || shows[history[*d - 1]] != Some(false));
                changed |= depths.len() != before;
            }
            if !changed {
                return Ok(shows);
            }
        }
    }

    /// What is missing never happened, and what shows counts as acknowledged.
    fn forget_invisible(&mut self, shows: &[Option<bool>]) {
        for history in &mut self.history {
            history.retain(|id| shows[*id] != Some(false));
        }
        self.step += 1;
        for (operation, shows) in self.operations.iter_mut().zip(shows) {
            if *shows == Some(true) && operation.acknowledged.is_none() {
                operation.acknowledged = Some(self.step);
            }
        }
    }

    /// From now on what shows is all that was ever written, and was acknowledged.
    fn rebase(&mut self, content: &[u8]) {
        self.step += 1;
        for (history, bytes) in self.history.iter_mut().zip(content.chunks(SECTOR as usize)) {
            let id = u64::from_le_bytes([
                bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
            ]);
            history.clear();
            if let Some(id) = id.checked_sub(1) {
                history.push(id as usize);
                self.operations[id as usize].acknowledged = Some(self.step);
            }
        }
    }

    /// For each operation: shows for certain, is missing for certain, or cannot be told (all overwritten, or zeroes).
    fn visible(&self, depth: &[Vec<usize>]) -> Result<Vec<Option<bool>>, String> {
        let mut shows = vec![None; self.operations.len()];
        for (id, operation) in self.operations.iter().enumerate() {
            let mut verdict = None;
            for sector in operation.span.start..operation.span.end() {
                let history = &self.history[sector as usize];
                let Some(at) = history.iter().position(|h| *h == id) else { continue };
                let depths = &depth[sector as usize];
                let here = if depths.iter().all(|d| *d <= at) {
                    Some(false)
                } else if depths.len() == 1 && depths[0] == at + 1 {
                    Some(true)
                } else {
                    None
                };
                match (verdict, here) {
                    (_, None) => {}
                    (None, here) => verdict = here,
                    (Some(a), Some(b)) if a != b => {
                        return Err(format!(
                            "operation {id} ({operation:?}) is torn: sector {sector} disagrees"
                        ));
                    }
                    _ => {}
                }
            }
            shows[id] = verdict;
        }
        Ok(shows)
    }

    /// How many operations were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|o| o.acknowledged.is_some()).count()
    }

    /// Operations sent so far.
    pub fn sent(&self) -> usize {
        self.operations.len()
    }
}
