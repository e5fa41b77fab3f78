//! UNMAP (SBC-4 §5.35), WRITE SAME (§5.50), GET LBA STATUS (§5.6): what a thin volume holds and gives up.

use bytes::Bytes;

use super::cdb::{Cdb, Extent};
use super::read_write::{CHUNK, length, length_field};
use super::sense::{Failure, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};
use crate::medium::{Geometry, Provisioning};

/// Descriptors in one answer of GET LBA STATUS, whatever room there is.
const MAX_STATUS_DESCRIPTORS: usize = 256;

impl LogicalUnit {
    pub(super) async fn unmap(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let anchor = cdb.has(1, 0x01);
        let list = task.parameters(usize::from(cdb.u16(7)))?;
        self.check_writable()?;
        let ranges = unmap_ranges(&list, self.medium.geometry(), self.limits().unmap_descriptors)?;
        for (lba, blocks) in ranges.into_iter().filter(|(_, blocks)| *blocks > 0) {
            self.medium.zero(lba, blocks, !anchor).await?;
        }
        Ok(Answer::moved(list.len() as u64))
    }

    pub(super) async fn write_same(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let (anchor, unmap) = (cdb.has(1, 0x10), cdb.has(1, 0x08));
        let no_data = cdb.opcode() == 0x93 && cdb.has(1, 0x01);
        if cdb.has(1, 0x06) || cdb.opcode() == 0x41 && cdb.has(1, 0x01) {
            return Err(Sense::cdb_bit(1, 2).into()); // PBDATA, LBDATA, RELADR: obsolete
        }
        if anchor && !unmap {
            return Err(Sense::cdb_bit(1, 4).into());
        }
        let (extent, geometry) = self.extent(cdb)?;
        // WSNZ is 1: "no blocks" does not mean "all to the end" here.
        if extent.blocks == 0 || extent.blocks > self.limits().write_same {
            return Err(Sense::cdb_field(length_field(cdb)).into());
        }
        self.check_writable()?;
        let size = if no_data { 0 } else { u64::from(geometry.block_size) };
        // The transport brings no more than a block, but one that announces more means something else.
        if u64::from(task.command.expected_out) != size || length(&task.command.data_out) != size {
            return Err(Failure::short_data(size));
        }
        let block = task.command.data_out.concat();
        // What is read afterwards is what was sent, UNMAP or not: only zeroes can be had by unmapping (LBPRZ).
        if block.iter().all(|b| *b == 0) {
            self.medium.zero(extent.lba, extent.blocks, unmap && !anchor).await?;
        } else {
            self.fill(task, extent, &block).await?;
        }
        Ok(Answer::moved(size))
    }

    /// Writes one block's content over a range, piece by piece.
    async fn fill(&self, task: &Task<'_>, extent: Extent, block: &[u8]) -> Result<(), Failure> {
        let piece = (CHUNK / block.len() as u64).min(extent.blocks);
        let content = Bytes::from(block.repeat(piece as usize));
        let mut done = 0;
        while done < extent.blocks {
            let now = piece.min(extent.blocks - done);
            self.put(extent.lba + done, content.slice(..now as usize * block.len())).await?;
            done += now;
            if done < extent.blocks {
                task.breathe().await?;
            }
        }
        Ok(())
    }

    /// Writes content of our own.
    pub(super) async fn put(&self, lba: u64, content: Bytes) -> base::Result<()> {
        let admission = self.medium.admit(content.len() as u64).await?;
        self.medium.write(lba, vec![content], false, admission).await
    }

    pub(super) async fn lba_status(&self, cdb: Cdb<'_>) -> Result<Answer, Failure> {
        let (start, allocation) = (cdb.u64(2), cdb.u32(10));
        let blocks = self.medium.geometry().blocks;
        if start >= blocks {
            return Err(Sense::illegal(code::LBA_OUT_OF_RANGE).with_information(start).into());
        }
        let room = (allocation.saturating_sub(8) as usize / 16).clamp(1, MAX_STATUS_DESCRIPTORS);
        let mut out = vec![0; 8];
        let mut at = start;
        while at < blocks && out.len() < 8 + 16 * room {
            let (kind, count) = self.medium.provisioning(at, (blocks - at).min(u64::from(u32::MAX))).await?;
            let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
            let status = match kind {
                Provisioning::Mapped => 0,
                Provisioning::Deallocated => 1,
                Provisioning::Anchored => 2,
            };
            out.extend(at.to_be_bytes());
            out.extend(count.to_be_bytes());
            out.extend([status, 0, 0, 0]);
            at += u64::from(count);
        }
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Answer::data(out, allocation))
    }
}

/// The ranges of an UNMAP parameter list (SBC-4 table 137), all checked before the first is unmapped.
fn unmap_ranges(list: &[u8], geometry: Geometry, most: u32) -> Result<Vec<(u64, u64)>, Failure> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    if list.len() < 8 {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH).into());
    }
    let length = usize::from(Cdb(list).u16(2)).min(list.len() - 8);
    let descriptors = list[8..8 + length].chunks_exact(16);
    if descriptors.len() > most as usize {
        return Err(Sense::parameter_field(2).into());
    }
    descriptors
        .map(|descriptor| {
            let (lba, blocks) = (Cdb(descriptor).u64(0), u64::from(Cdb(descriptor).u32(8)));
            match lba.checked_add(blocks) {
                Some(end) if end <= geometry.blocks => Ok((lba, blocks)),
                _ => Err(Sense::illegal(code::LBA_OUT_OF_RANGE).with_information(lba).into()),
            }
        })
        .collect()
}
