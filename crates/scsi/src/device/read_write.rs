//! READ, WRITE, WRITE AND VERIFY, VERIFY, PRE-FETCH, SYNCHRONIZE CACHE (SBC-4 §5), and the checks that all commands
//! with an address share.

use base::{ErrorKind, Result};
use bytes::Bytes;

use super::cdb::{Cdb, Extent};
use super::sense::{Failure, Key, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};
use crate::medium::Geometry;

/// Bytes that a long command moves at a time.
pub(super) const CHUNK: u64 = 4 << 20;

const FUA: u8 = 0x08;

/// How VERIFY and WRITE AND VERIFY compare (SBC-4 table 147).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// The medium is read and its own checksums are checked.
    Nothing,
    /// With as much data-out.
    All,
    /// Every block with the one block of data-out.
    OneBlock,
}

impl LogicalUnit {
    /// Checks the protection field and where an extent lies. There is no protection information: RDPROTECT, WRPROTECT
    /// and VRPROTECT must be 0 (SBC-4 §4.21).
    pub(super) fn extent(&self, cdb: Cdb<'_>) -> Result<(Extent, Geometry), Failure> {
        if cdb.opcode() >> 5 != 0 && cdb.has(1, 0xe0) {
            return Err(Sense::cdb_bit(1, 7).into());
        }
        self.range(cdb)
    }

    /// Checks where an extent lies. One block behind the last is a fine place for no blocks.
    fn range(&self, cdb: Cdb<'_>) -> Result<(Extent, Geometry), Failure> {
        let extent = Extent::of(cdb);
        let geometry = self.medium.geometry();
        match extent.lba.checked_add(extent.blocks) {
            Some(end) if end <= geometry.blocks => Ok((extent, geometry)),
            _ => Err(Sense::illegal(code::LBA_OUT_OF_RANGE).with_information(extent.lba).into()),
        }
    }

    /// The same for commands that move the blocks: at most MAXIMUM TRANSFER LENGTH of them (SBC-4 §6.6.4).
    pub(super) fn transfer_extent(&self, cdb: Cdb<'_>) -> Result<(Extent, Geometry), Failure> {
        let (extent, geometry) = self.extent(cdb)?;
        if extent.blocks > u64::from(self.limits().transfer) {
            return Err(Sense::cdb_field(length_field(cdb)).into());
        }
        Ok((extent, geometry))
    }

    /// Refuses writes to a read-only medium or under software write protection.
    pub(super) fn check_writable(&self) -> Result<(), Failure> {
        if self.medium.read_only() {
            return Err(Sense::new(Key::DataProtect, code::WRITE_PROTECTED).into());
        }
        if self.state.lock().modes.current.write_protect {
            return Err(Sense::new(Key::DataProtect, code::SOFTWARE_WRITE_PROTECTED).into());
        }
        Ok(())
    }

    /// Reads from memory if it can be had without waiting.
    pub(super) fn try_read(&self, cdb: Cdb<'_>, expected_in: u32) -> Option<Answer> {
        let (extent, geometry) = self.transfer_extent(cdb).ok()?;
        let blocks = wanted_blocks(extent, geometry, expected_in);
        let data = if blocks == 0 { Vec::new() } else { self.medium.try_read(extent.lba, blocks)?.ok()? };
        Some(Answer::read(data, extent.blocks * u64::from(geometry.block_size)))
    }

    pub(super) async fn read(&self, task: &Task<'_>) -> Result<Answer, Failure> {
        let (extent, geometry) = self.transfer_extent(task.cdb())?;
        let blocks = wanted_blocks(extent, geometry, task.command.expected_in);
        let data = if blocks == 0 { Vec::new() } else { self.read_blocks(extent.lba, blocks).await? };
        Ok(Answer::read(data, extent.blocks * u64::from(geometry.block_size)))
    }

    /// Reads, and on corruption says which block is the first that is lost.
    pub(super) async fn read_blocks(&self, lba: u64, blocks: u32) -> Result<Vec<Bytes>, Failure> {
        match self.medium.read(lba, blocks).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => Err(self.first_corrupt(lba, blocks).await?),
            other => Ok(other?),
        }
    }

    /// Halves the range until one block is left. The medium repairs what it can, so the error may also be gone by now:
    /// then the last block looked at is blamed and the initiator's next read will tell.
    pub(super) async fn first_corrupt(&self, lba: u64, blocks: u32) -> Result<Failure, Failure> {
        let (mut lba, mut blocks) = (lba, blocks);
        while blocks > 1 {
            let half = blocks / 2;
            match self.medium.read(lba, half).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => blocks = half,
                Err(error) => return Err(error.into()),
                Ok(_) => (lba, blocks) = (lba + u64::from(half), blocks - half),
            }
        }
        Ok(Sense::new(Key::MediumError, code::UNRECOVERED_READ_ERROR).with_information(lba).into())
    }

    pub(super) async fn write(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let (extent, geometry) = self.transfer_extent(task.cdb())?;
        self.check_writable()?;
        let fua = task.cdb().opcode() != 0x0a && task.cdb().has(1, FUA);
        self.write_data(task, extent, geometry, fua).await?;
        Ok(Answer::moved(extent.blocks * u64::from(geometry.block_size)))
    }

    /// Writes as many whole blocks as came.
    pub(super) async fn write_data(
        &self,
        task: &mut Task<'_>,
        extent: Extent,
        geometry: Geometry,
        fua: bool,
    ) -> Result<(), Failure> {
        let data = task.blocks(extent.blocks, geometry)?;
        let bytes = length(&data);
        if bytes > 0 {
            let admission = task.admit(&*self.medium, bytes).await?;
            self.medium.write(extent.lba, data, fua, admission).await?;
        }
        Ok(())
    }

    pub(super) async fn write_and_verify(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let compare = match cdb.byte(1) >> 1 & 0x03 {
            0 => Compare::Nothing,
            1 => Compare::All,
            _ => return Err(Sense::cdb_bit(1, 2).into()),
        };
        let (extent, geometry) = self.transfer_extent(cdb)?;
        self.check_writable()?;
        self.write_data(task, extent, geometry, true).await?;
        let data = task.blocks(extent.blocks, geometry)?;
        let written = Extent { lba: extent.lba, blocks: length(&data) / u64::from(geometry.block_size) };
        self.compare(task, written, geometry, compare, &data).await?;
        Ok(Answer::moved(extent.blocks * u64::from(geometry.block_size)))
    }

    pub(super) async fn verify(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let size = |geometry: Geometry, blocks: u64| blocks * u64::from(geometry.block_size);
        match cdb.byte(1) >> 1 & 0x03 {
            0 => {
                let (extent, geometry) = self.extent(cdb)?;
                self.compare(task, extent, geometry, Compare::Nothing, &[]).await?;
                Ok(Answer::moved(0))
            }
            1 => {
                let (extent, geometry) = self.transfer_extent(cdb)?;
                let data = task.blocks(extent.blocks, geometry)?;
                let sent = Extent { lba: extent.lba, blocks: length(&data) / u64::from(geometry.block_size) };
                self.compare(task, sent, geometry, Compare::All, &data).await?;
                Ok(Answer::moved(size(geometry, extent.blocks)))
            }
            3 => {
                let (extent, geometry) = self.extent(cdb)?;
                let data = task.blocks(1, geometry)?;
                if extent.blocks > 0 && !data.is_empty() {
                    self.compare(task, extent, geometry, Compare::OneBlock, &data).await?;
                }
                Ok(Answer::moved(size(geometry, 1)))
            }
            _ => Err(Sense::cdb_bit(1, 2).into()),
        }
    }

    /// Reads an extent piece by piece and compares it.
    async fn compare(
        &self,
        task: &Task<'_>,
        extent: Extent,
        geometry: Geometry,
        how: Compare,
        with: &[Bytes],
    ) -> Result<(), Failure> {
        let size = u64::from(geometry.block_size);
        let expected = if how == Compare::Nothing { Vec::new() } else { with.concat() };
        let mut done = 0;
        while done < extent.blocks {
            let blocks = (extent.blocks - done).min(CHUNK / size);
            let found = self.read_blocks(extent.lba + done, blocks as u32).await?.concat();
            let matches = |index: usize, block: &[u8]| match how {
                Compare::Nothing => true,
                Compare::All => {
                    let from = (done as usize + index) * block.len();
                    expected.get(from..from + block.len()) == Some(block)
                }
                Compare::OneBlock => expected == block,
            };
            let mut blocks_found = found.chunks(size as usize).enumerate();
            if let Some((index, _)) = blocks_found.find(|(index, block)| !matches(*index, block)) {
                let lba = extent.lba + done + index as u64;
                return Err(Sense::new(Key::Miscompare, code::MISCOMPARE).with_information(lba).into());
            }
            done += blocks;
            if done < extent.blocks {
                task.breathe().await?;
            }
        }
        Ok(())
    }

    /// A hint: GOOD, because nobody promises that it will all fit into the cache (SBC-4 §5.15).
    pub(super) fn prefetch(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        let (extent, geometry) = self.range(cdb)?;
        let blocks = if extent.blocks == 0 { geometry.blocks - extent.lba } else { extent.blocks };
        self.medium.prefetch(extent.lba, blocks);
        Ok(Answer::done())
    }

    pub(super) async fn synchronize_cache(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        self.range(cdb)?;
        self.medium.flush().await?;
        Ok(Answer::done())
    }
}

/// Bytes in all parts.
pub(super) fn length(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// As many blocks as the initiator will take bytes of.
fn wanted_blocks(extent: Extent, geometry: Geometry, expected_in: u32) -> u32 {
    let room = u64::from(expected_in.div_ceil(geometry.block_size));
    extent.blocks.min(room) as u32 // both are far below 2^32
}

/// Where the length stands in a CDB of READ or WRITE.
pub(super) fn length_field(cdb: Cdb<'_>) -> u16 {
    match (cdb.opcode(), cdb.opcode() >> 5) {
        (0x89, _) => 13,
        (0x9c, _) => 12,
        (_, 0) => 4,
        (_, 4) => 10,
        (_, 5) => 6,
        _ => 7,
    }
}
