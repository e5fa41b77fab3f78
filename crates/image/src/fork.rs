//! What a gateway had acknowledged when another took the image over: kept, listed, never replayed over the other's writes.

use std::collections::BTreeMap;

use base::{ByteSize, Epoch, ImageId, Result};

use local::Spool;

/// One abandoned tail of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The image.
    pub image: ImageId,
    /// The epoch in which it was acknowledged.
    pub epoch: Epoch,
    /// Local segments that hold it.
    pub segments: usize,
    /// Bytes in them.
    pub size: ByteSize,
}

/// The forks of `image` that this disk holds, if `current` is the first epoch of the run that goes on.
pub fn forks(spool: &Spool, image: ImageId, current: Epoch) -> Vec<Fork> {
    let mut forks: BTreeMap<Epoch, Fork> = BTreeMap::new();
    for file in spool.list(image) {
        let Some(epoch) = epoch_of(&file.name).filter(|epoch| *epoch < current) else { continue };
        let fork =
            forks.entry(epoch).or_insert_with(|| Fork { image, epoch, segments: 0, size: ByteSize(0) });
        fork.segments += 1;
        fork.size.0 += file.len;
    }
    forks.into_values().collect()
}

/// Gives a fork up for good.
pub async fn discard_fork(spool: &Spool, image: ImageId, epoch: Epoch) -> Result<()> {
    for file in spool.list(image) {
        if epoch_of(&file.name) == Some(epoch) {
            spool.remove(image, &file.name).await?;
        }
    }
    Ok(())
}

/// The epoch in a local segment's name.
pub(crate) fn epoch_of(name: &str) -> Option<Epoch> {
    let hex = name.split('-').next()?;
    u64::from_str_radix(hex, 16).ok().map(Epoch)
}
