//! Which starts a journal has had: by these a disk tells its own terms of ownership from those of a copy of it (C05).
//!
//! A copy of a cache disk is the same journal by its id. What the two have in common are the starts before the copy was made; each start
//! after that draws an id of its own, and puts it into this list before anything is done in its name.

use std::sync::Arc;

use base::{AlignedBuf, Entropy, Error, ErrorKind, JournalId, Result, StartId};

use super::format::{BLOCK, Fields, check, not_valid, put, seal};
use crate::disk::{Disk, DiskFile};

const NAME: &str = "journal/starts";
const NAME_NEW: &str = "journal/starts.tmp";
const MAGIC: &[u8; 8] = b"TGJSTART";
const CRC: usize = 40;
const FIXED: usize = 64;
const ENTRY: usize = 16;
/// The most starts that are remembered: years of daily ones, days of a gateway that dies every five seconds.
const MOST: usize = 65_536;

/// One copy of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starts {
    /// The journal's id.
    pub journal: JournalId,
    /// How many starts there have been: the copy with more is the newer.
    pub count: u64,
    /// The newest of them, oldest first.
    pub ids: Vec<StartId>,
}

/// How long a copy is that has room for so many starts, in bytes.
fn len_for(starts: usize) -> u64 {
    ((FIXED + ENTRY * starts) as u64).next_multiple_of(BLOCK)
}

/// How many starts a copy of that length has room for.
fn room_in(len: u64) -> usize {
    (len as usize - FIXED) / ENTRY
}

impl Starts {
    /// A copy of `len` bytes, which has room for all.
    pub fn encode(&self, len: u64) -> AlignedBuf {
        let mut b = AlignedBuf::zeroed(len as usize);
        put(&mut b, 0, MAGIC);
        put(&mut b, 8, &super::format::VERSION.to_le_bytes());
        put(&mut b, 12, &(self.ids.len() as u32).to_le_bytes());
        put(&mut b, 16, &self.journal.0);
        put(&mut b, 32, &self.count.to_le_bytes());
        for (i, id) in self.ids.iter().enumerate() {
            put(&mut b, FIXED + ENTRY * i, &id.0);
        }
        seal(&mut b, CRC);
        b
    }

    /// Reads a copy. `Corrupt` if it is damaged, `Invalid` if it is of another version.
    pub fn decode(bytes: &[u8]) -> Result<Starts> {
        let what = "the list of the journal's starts";
        if bytes.len() < BLOCK as usize {
            return Err(not_valid(what, "it is cut off"));
        }
        check(bytes, MAGIC, CRC, what)?;
        let f = Fields(bytes);
        let n = f.u32(12) as usize;
        let (used, rest) = bytes[FIXED..].split_at_checked(ENTRY.saturating_mul(n)).unwrap_or_default();
        if used.len() != ENTRY * n || rest.iter().any(|b| *b != 0) || !f.zero(48..FIXED) {
            return Err(not_valid(what, "its length is not that of its entries"));
        }
        if f.u64(32) < n as u64 {
            return Err(not_valid(what, "it has more entries than there were starts"));
        }
        let ids = used.chunks_exact(ENTRY).map(|id| StartId(id.try_into().expect("sixteen bytes"))).collect();
        Ok(Starts { journal: JournalId(f.id(16)), count: f.u64(32), ids })
    }

    /// The start that the list was read at.
    pub fn current(&self) -> StartId {
        *self.ids.last().expect("a start is in the list before anybody sees it")
    }
}

/// Makes the list of a journal that is being made.
pub(super) async fn create(disk: &dyn Disk, journal: JournalId) -> Result<()> {
    write_new(disk, &Starts { journal, count: 0, ids: Vec::new() }, len_for(0)).await
}

/// Both copies, each with room for `len` bytes, in a file that takes the place of the one there is.
async fn write_new(disk: &dyn Disk, starts: &Starts, len: u64) -> Result<()> {
    disk.remove(NAME_NEW).await?;
    let file = disk.create(NAME_NEW, 2 * len).await?;
    let copy = starts.encode(len).into_bytes();
    file.write_durable(0, &[copy.clone(), copy]).await?;
    disk.rename(NAME_NEW, NAME).await
}

/// Enters a new start. When it returns that is durable.
pub(super) async fn begin(disk: &dyn Disk, journal: JournalId, entropy: &dyn Entropy) -> Result<Starts> {
    let (file, mut starts, newer) = read(disk).await.map_err(|e| e.within(NAME))?;
    if starts.journal != journal {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "{NAME} belongs to journal {}, this is journal {journal}: move the file back where it came from",
                starts.journal
            ),
        ));
    }
    starts.ids.push(StartId::generate(entropy));
    starts.count += 1;
    if starts.ids.len() > MOST {
        starts.ids.remove(0);
    }
    let len = file.len() / 2;
    if starts.ids.len() > room_in(len) {
        match write_new(disk, &starts, len_for(2 * room_in(len)).min(len_for(MOST))).await {
            // A full disk must not keep a gateway from starting: what it holds may be what is to leave it.
            Err(e) if e.kind() == ErrorKind::NoSpace => drop(starts.ids.remove(0)),
            other => return other.map(|()| starts),
        }
    }
    // The older copy first: a cut tears one of them at most.
    let copy = starts.encode(len).into_bytes();
    for half in [1 - newer, newer] {
        file.write_durable(half * len, std::slice::from_ref(&copy)).await?;
    }
    Ok(starts)
}

/// The file, the list, and in which half of the file the newer copy lies.
async fn read(disk: &dyn Disk) -> Result<(Arc<dyn DiskFile>, Starts, u64)> {
    let file = disk.open(NAME).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Error::corrupt(format!("it is missing on {}: restore the directory", disk.place()))
        }
        _ => e,
    })?;
    let len = file.len() / 2;
    if file.len() != 2 * len || len == 0 || !len.is_multiple_of(BLOCK) || len > len_for(MOST) {
        return Err(Error::corrupt(format!("{} bytes are not its length: restore it", file.len())));
    }
    let halves = file.read(0, file.len() as usize).await?;
    let (first, second) = halves.split_at(len as usize);
    let (starts, newer) = match (Starts::decode(first), Starts::decode(second)) {
        (Ok(a), Ok(b)) if b.count > a.count => (b, 1),
        (Ok(a), _) => (a, 0),
        (Err(_), Ok(b)) => (b, 1),
        (Err(e), Err(_)) => return Err(e.within("both copies are damaged: restore it")),
    };
    Ok((file, starts, newer))
}

#[cfg(test)]
mod tests;
