//! An image as a block medium.

use async_trait::async_trait;
use base::{Result, SECTOR, Span};
use bytes::Bytes;
use image::{Image, Mapping};
use scsi::medium::{Admission, BlockMedium, Change, Geometry, Provisioning};

/// An open image behind a disk's device server.
pub struct Volume {
    image: Image,
    /// Sectors in a logical block.
    sectors: u64,
}

impl Volume {
    /// The medium of an image.
    pub fn new(image: Image) -> Volume {
        let sectors = u64::from(image.block_size()) / SECTOR;
        Volume { image, sectors }
    }

    fn span(&self, lba: u64, blocks: u64) -> Span {
        Span::new(lba * self.sectors, blocks * self.sectors)
    }
}

/// What an admission of ours holds inside; one of another medium holds no room and needs none here.
fn unpack(admission: Admission) -> image::Admission {
    admission
        .downcast::<image::Admission>()
        .map_or_else(|_| image::Admission::default(), |admission| *admission)
}

#[async_trait]
impl BlockMedium for Volume {
    fn geometry(&self) -> Geometry {
        let block_size = self.image.block_size();
        // Writes of 4 KiB at multiples of 4 KiB go to the journal without being copied.
        let physical_exponent = if block_size == 512 { 3 } else { 0 };
        Geometry { block_size, blocks: self.image.sectors() / self.sectors, physical_exponent }
    }

    fn try_admit(&self, bytes: u64) -> Option<Admission> {
        Some(Box::new(self.image.try_admit(bytes)?))
    }

    async fn admit(&self, bytes: u64) -> Result<Admission> {
        Ok(Box::new(self.image.admit(bytes).await?))
    }

    fn try_read(&self, lba: u64, blocks: u32) -> Option<Result<Vec<Bytes>>> {
        self.image.try_read(self.span(lba, blocks.into()))
    }

    async fn read(&self, lba: u64, blocks: u32) -> Result<Vec<Bytes>> {
        self.image.read(self.span(lba, blocks.into())).await
    }

    async fn write(&self, lba: u64, data: Vec<Bytes>, fua: bool, admission: Admission) -> Result<()> {
        self.image.write(lba * self.sectors, data, fua, unpack(admission)).await
    }

    async fn zero(&self, lba: u64, blocks: u64, unmap: bool) -> Result<()> {
        self.image.zero(self.span(lba, blocks), unmap).await
    }

    async fn update(&self, lba: u64, blocks: u32, admission: Admission, change: Change) -> Result<()> {
        self.image.update(self.span(lba, blocks.into()), unpack(admission), change).await
    }

    async fn flush(&self) -> Result<()> {
        self.image.flush().await
    }

    fn prefetch(&self, lba: u64, blocks: u64) {
        self.image.prefetch(self.span(lba, blocks));
    }

    async fn provisioning(&self, lba: u64, most: u64) -> Result<(Provisioning, u64)> {
        let (mapping, sectors) = self.image.mapping(lba * self.sectors, most * self.sectors).await?;
        let state = match mapping {
            Mapping::Data => Provisioning::Mapped,
            Mapping::Zero => Provisioning::Anchored,
            Mapping::Hole => Provisioning::Deallocated,
        };
        Ok((state, (sectors / self.sectors).max(1)))
    }

    fn set_write_cache(&self, on: bool) {
        self.image.set_write_cache(on);
    }

    async fn load_state(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.image.state(name))
    }

    async fn store_state(&self, name: &str, value: Option<Bytes>) -> Result<()> {
        self.image.set_state(name, value).await
    }
}
