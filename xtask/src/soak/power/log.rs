//! The log of the kernel's `dm-log-writes` (Documentation/admin-guide/device-mapper/log-writes.rst): a superblock, then
//! entries, each a sector of its own, followed by the data that were written. All numbers are little-endian.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::write_zeros;
use crate::Result;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const ENTRY: usize = 32;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// A recorded run.
pub struct Log {
    file: File,
    entries: u64,
    sector: u64,
}

/// Something that reached the disk, in the order in which it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    flags: u64,
    offset: u64,
    bytes: u64,
    data_at: u64,
    /// The text of a mark.
    pub mark: Option<String>,
}

impl Entry {
    /// Whether the disk promised here that everything before is durable.
    pub fn is_flush(&self) -> bool {
        self.flags & (FLUSH | FUA) != 0
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Log {
    /// Opens a log.
    pub fn open(path: &Path) -> Result<Log> {
        let file = File::open(path)?;
        let mut head = [0; 32];
        file.read_exact_at(&mut head, 0)?;
        if word(&head, 0) != MAGIC || word(&head, 8) != VERSION {
            return Err(format!("{} is no log of dm-log-writes", path.display()).into());
        }
        let sector = word(&head, 24) & 0xffff_ffff;
        if !(512..=65536).contains(&sector) || !sector.is_power_of_two() {
            return Err(format!("{} has sectors of {sector} bytes", path.display()).into());
        }
        Ok(Log { file, entries: word(&head, 16), sector })
    }

    /// All entries, in their order.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let (mut at, mut found) = (self.sector, Vec::new());
        let mut bytes = vec![0; self.sector as usize];
        for _ in 0..self.entries {
            self.file.read_exact_at(&mut bytes, at)?;
            let (flags, sectors) = (word(&bytes, 16), word(&bytes, 8));
            let text = bytes.get(ENTRY..ENTRY + word(&bytes, 24) as usize);
            let mark =
                (flags & MARK != 0).then(|| String::from_utf8_lossy(text.unwrap_or_default()).into_owned());
            let length = sectors.checked_mul(self.sector).ok_or("an entry is longer than any disk")?;
            let stored = if flags & (DISCARD | MARK) == 0 { length } else { 0 };
            let data_at = at + self.sector;
            found.push(Entry {
                flags,
                offset: word(&bytes, 0).saturating_mul(self.sector),
                bytes: length,
                data_at,
                mark,
            });
            at = data_at + stored;
        }
        Ok(found)
    }

    /// Does to a disk what was done to the recorded one.
    pub fn apply(&self, entry: &Entry, disk: &File) -> Result {
        if entry.mark.is_some() {
            return Ok(());
        }
        if entry.flags & DISCARD != 0 {
            return write_zeros(disk, entry.offset, entry.bytes);
        }
        let mut data = vec![0; entry.bytes as usize];
        self.file.read_exact_at(&mut data, entry.data_at)?;
        disk.write_all_at(&data, entry.offset)?;
        Ok(())
    }
}
