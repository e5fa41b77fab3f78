//! What checkpoints may cost: a tenth of what is written anyway.

/// One byte for a checkpoint for so many bytes of segments.
const SHARE: u64 = 10;

/// Bytes of segments that came to count, and bytes put for checkpoints out of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Budget {
    written: u64,
    spent: u64,
}

impl Budget {
    /// What there is at the start: the segments behind the last checkpoint are paid for and not yet used.
    pub fn new(written: u64) -> Budget {
        Budget { written, spent: 0 }
    }

    /// A segment came to count.
    pub fn written(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// A checkpoint was put.
    pub fn spent(&mut self, bytes: u64) {
        self.spent += bytes;
    }

    /// Whether another `bytes` keep within it.
    pub fn pays_for(&self, bytes: u64) -> bool {
        self.spent.saturating_add(bytes) <= self.written / SHARE
    }
}
