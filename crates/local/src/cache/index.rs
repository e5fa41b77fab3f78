//! The index that a clean stop leaves, so that the next start is warm. Layout: `docs/formats/cache.md`.

use base::{AlignedBuf, Error, ErrorKind, ImageId, Result};
use bytes::Bytes;
use parking_lot::Mutex;

use super::shard::{Held, Shard, Sums};
use super::{BLOCK, DIR, LINE, LineKey, MAX_LINES, SLAB_LINES};
use crate::disk::Disk;

const MAGIC: &[u8; 8] = b"TGCINDEX";
const VERSION: u32 = 2;
const HEADER: u64 = 4096;
const HEADER_CRC: usize = 40;
pub(super) const ENTRY: usize = 116;
/// Entries per write.
const CHUNK: usize = 16_384;

fn name() -> String {
    format!("{DIR}/index")
}

/// Reads the index and removes it, durably, before anything in the cache changes. `None` if there is none or it is damaged.
pub(super) async fn take(disk: &dyn Disk) -> Result<Option<Vec<(LineKey, Held)>>> {
    disk.remove(&format!("{}.tmp", name())).await?;
    let found = match disk.open(&name()).await {
        Ok(file) => match file.read(0, file.len() as usize).await {
            Ok(bytes) => decode(&bytes).ok(),
            Err(_) => None,
        },
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    disk.remove(&name()).await?;
    Ok(found)
}

/// Writes the index.
pub(super) async fn leave(disk: &dyn Disk, shards: &[Mutex<Shard>]) -> Result<()> {
    let unfinished = format!("{}.tmp", name());
    disk.remove(&unfinished).await?;
    let file = disk.create(&unfinished, 0).await?;
    let (mut at, mut crc, mut entries) = (HEADER, base::checksum::crc64(&[]), 0u64);
    for shard in shards {
        let lines: Vec<(LineKey, Held)> = shard.lock().lines().collect();
        for chunk in lines.chunks(CHUNK) {
            let mut body = Vec::with_capacity(chunk.len() * ENTRY);
            chunk.iter().for_each(|(key, held)| encode_entry(&mut body, key, held));
            crc = base::checksum::crc64_combine(crc, base::checksum::crc64(&body), body.len() as u64);
            let len = body.len() as u64;
            file.write(at, &[Bytes::from(body)]).await?;
            at += len;
            entries += chunk.len() as u64;
        }
    }
    file.write(0, &[header(entries, crc).into_bytes()]).await?;
    file.sync().await?;
    disk.rename(&unfinished, &name()).await
}

fn header(entries: u64, body_crc: u64) -> AlignedBuf {
    let mut b = AlignedBuf::zeroed(HEADER as usize);
    b[..8].copy_from_slice(MAGIC);
    b[8..12].copy_from_slice(&VERSION.to_le_bytes());
    b[12..16].copy_from_slice(&(LINE as u32).to_le_bytes());
    b[16..20].copy_from_slice(&SLAB_LINES.to_le_bytes());
    b[24..32].copy_from_slice(&entries.to_le_bytes());
    b[32..40].copy_from_slice(&body_crc.to_le_bytes());
    let crc = base::checksum::crc64(&b);
    b[HEADER_CRC..HEADER_CRC + 8].copy_from_slice(&crc.to_le_bytes());
    b
}

fn encode_entry(out: &mut Vec<u8>, key: &LineKey, held: &Held) {
    out.extend_from_slice(&key.image.0);
    for word in [key.epoch, key.number, key.content] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in [key.line, held.slot, held.len].into_iter().chain(held.sums) {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Reads an index from any bytes. `Corrupt` if it is not, in every respect, one that was left whole.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(LineKey, Held)>> {
    let wrong = || Error::corrupt("the cache's index is not valid: the cache starts empty");
    let head = bytes.get(..HEADER as usize).ok_or_else(wrong)?;
    let u64_at = |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
    let body = &bytes[HEADER as usize..];
    let same = header(u64_at(head, 24), u64_at(head, 32))[..] == *head;
    let whole = u64_at(head, 24).checked_mul(ENTRY as u64) == Some(body.len() as u64);
    if !same || !whole || base::checksum::crc64(body) != u64_at(head, 32) {
        return Err(wrong());
    }
    body.chunks_exact(ENTRY).map(|e| decode_entry(e).ok_or_else(wrong)).collect()
}

fn decode_entry(e: &[u8]) -> Option<(LineKey, Held)> {
    let u32_at = |at: usize| u32::from_le_bytes(e[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(e[at..at + 8].try_into().expect("eight bytes"));
    let key = LineKey {
        image: ImageId(e[..16].try_into().expect("sixteen bytes")),
        epoch: u64_at(16),
        number: u64_at(24),
        content: u64_at(32),
        line: u32_at(40),
    };
    let mut sums: Sums = [0; LINE / BLOCK];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = u32_at(52 + 4 * i);
    }
    let held = Held { slot: u32_at(44), len: u32_at(48), turn: 0, sums };
    (key.line < MAX_LINES && (1..=LINE as u32).contains(&held.len)).then_some((key, held))
}
