//! COMPARE AND WRITE (SBC-4 §5.4), ORWRITE (§5.13), WRITE ATOMIC (§5.48): what others see done or not done.

use std::sync::Arc;

use base::ErrorKind;
use bytes::Bytes;
use parking_lot::Mutex;

use super::cdb::Extent;
use super::read_write::length;
use super::sense::{Failure, Key, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};
use crate::medium::{Change, Geometry};

const FUA: u8 = 0x08;

impl LogicalUnit {
    pub(super) async fn compare_and_write(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let (extent, geometry) = self.extent(task.cdb())?;
        // What was announced counts here: of that, the transport brings no more than the command takes.
        let announced = u64::from(task.command.expected_out);
        let no_blocks_for_data = extent.blocks == 0 && announced > 0;
        if no_blocks_for_data || extent.blocks > u64::from(self.limits().compare) {
            return Err(Sense::cdb_field(13).into());
        }
        self.check_writable()?;
        let bytes = (extent.blocks * u64::from(geometry.block_size)) as usize;
        if announced != 2 * bytes as u64 || length(&task.command.data_out) != announced {
            return Err(Failure::short_data(2 * bytes as u64));
        }
        if bytes == 0 {
            return Ok(Answer::done());
        }
        let mut expected = task.command.data_out.concat();
        let replacement = expected.split_off(bytes);
        let difference = Arc::new(Mutex::new(None));
        let found = Arc::clone(&difference);
        let change = move |data: &mut [u8]| {
            let first = data.iter().zip(&expected).position(|(a, b)| a != b);
            *found.lock() = first;
            if first.is_none() {
                data.copy_from_slice(&replacement);
            }
            first.is_none()
        };
        self.update(task, extent, geometry, Box::new(change)).await?;
        match difference.lock().take() {
            // The offset of the first byte that differs, in the data-out buffer.
            Some(at) => Err(Sense::new(Key::Miscompare, code::MISCOMPARE).with_information(at as u64).into()),
            None => Ok(Answer::moved(2 * bytes as u64)),
        }
    }

    pub(super) async fn or_write(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let (extent, geometry) = self.transfer_extent(task.cdb())?;
        self.check_writable()?;
        let data = task.blocks(extent.blocks, geometry)?;
        let came = Extent { lba: extent.lba, blocks: length(&data) / u64::from(geometry.block_size) };
        if came.blocks > 0 {
            self.update(task, came, geometry, Box::new(move |old| or(old, &data))).await?;
        }
        Ok(Answer::moved(extent.blocks * u64::from(geometry.block_size)))
    }

    pub(super) async fn write_atomic(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let (extent, geometry) = self.extent(cdb)?;
        let bytes = extent.blocks * u64::from(geometry.block_size);
        if cdb.u16(10) != 0 {
            return Err(Sense::cdb_field(10).into()); // MAXIMUM ATOMIC BOUNDARY SIZE is 0
        }
        if extent.blocks > u64::from(self.limits().atomic) {
            return Err(Sense::cdb_field(12).into());
        }
        let fua = cdb.has(1, FUA);
        self.check_writable()?;
        if length(&task.command.data_out) < bytes {
            return Err(Failure::short_data(bytes)); // half of it would not be what was asked for
        }
        self.write_data(task, extent, geometry, fua).await?;
        Ok(Answer::moved(bytes))
    }

    /// Changes an extent with nothing in between; durable on return if the command says FUA.
    async fn update(
        &self,
        task: &mut Task<'_>,
        extent: Extent,
        geometry: Geometry,
        change: Change,
    ) -> Result<(), Failure> {
        let blocks = extent.blocks as u32; // bounded by the limits of the caller
        let admission = task.admit(&*self.medium, extent.blocks * u64::from(geometry.block_size)).await?;
        match self.medium.update(extent.lba, blocks, admission, change).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Err(self.first_corrupt(extent.lba, blocks).await?)
            }
            Err(error) => Err(error.into()),
            // Also if the write cache is off by now: it may have been on when this had its place among the writes, and who
            // turned it off may still be waiting for it.
            Ok(()) if task.cdb().has(1, FUA) => Ok(self.medium.flush().await?),
            Ok(()) => Ok(()),
        }
    }
}

fn or(old: &mut [u8], data: &[Bytes]) -> bool {
    let new = data.iter().flat_map(|part| part.iter());
    old.iter_mut().zip(new).for_each(|(a, b)| *a |= b);
    true
}
