//! One simulated file: what is durable, what reads show, and the versions in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::SeededEntropy;

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// The stamp of a write that has not finished: no sync covers it.
const UNFINISHED: u64 = u64::MAX;
/// Of more unsynced versions of a sector than this, the oldest is not found after a crash.
const MAX_VERSIONS: usize = 8;

type Page = Arc<[u8; PAGE as usize]>;
type Sector = [u8; SECTOR as usize];

/// What a power cut keeps of the unsynced versions.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    Nothing,
    All,
    /// Those finished up to this stamp.
    Before(u64),
    /// Each with so many chances in 100.
    Chance(u64),
}

/// Sparse contents with copy-on-write pages.
#[derive(Clone, Default)]
struct Contents {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

impl Contents {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let n = (PAGE as usize - within).min(buf.len() - done);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => buf[done..done + n].copy_from_slice(&page[within..within + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let n = (PAGE as usize - within).min(data.len() - done);
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[within..within + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    fn sector(&self, sector: u64) -> Sector {
        let mut buf = [0; SECTOR as usize];
        self.read(sector * SECTOR, &mut buf);
        buf
    }

    /// Zeroes what lies behind `len` and forgets it.
    fn cut(&mut self, len: u64) {
        self.pages.split_off(&len.div_ceil(PAGE));
        if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
            Arc::make_mut(page)[(len % PAGE) as usize..].fill(0);
        }
        self.len = len;
    }
}

struct Version {
    ticket: u64,
    stamp: u64,
    data: Sector,
}

/// One file.
pub(super) struct Node {
    durable: Contents,
    current: Contents,
    /// Unsynced versions of sectors, the oldest first.
    sectors: BTreeMap<u64, Vec<Version>>,
    /// Unsynced lengths, the oldest first.
    lengths: Vec<(u64, u64)>,
}

impl Node {
    pub(super) fn zeroed(len: u64) -> Node {
        let contents = Contents { len, pages: BTreeMap::new() };
        Node { durable: contents.clone(), current: contents, sectors: BTreeMap::new(), lengths: Vec::new() }
    }

    pub(super) fn durable_copy(&self) -> Node {
        Node {
            durable: self.durable.clone(),
            current: self.durable.clone(),
            sectors: BTreeMap::new(),
            lengths: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.current.len
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        self.current.read(offset, buf);
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8], ticket: u64) {
        if data.is_empty() {
            return;
        }
        let old_len = self.current.len;
        self.current.write(offset, data);
        let end = offset + data.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let data = self.current.sector(sector);
            let versions = self.sectors.entry(sector).or_default();
            if versions.len() >= MAX_VERSIONS {
                versions.remove(0);
            }
            versions.push(Version { ticket, stamp: UNFINISHED, data });
        }
        if self.current.len != old_len {
            self.lengths.push((UNFINISHED - 1 - ticket, self.current.len));
        }
    }

    /// The write of `len` bytes at `offset` has finished.
    pub(super) fn finish(&mut self, ticket: u64, stamp: u64, offset: u64, len: u64) {
        for (_, versions) in self.sectors.range_mut(offset / SECTOR..(offset + len).div_ceil(SECTOR)) {
            for version in versions.iter_mut().filter(|v| v.ticket == ticket) {
                version.stamp = stamp;
            }
        }
        for length in self.lengths.iter_mut().filter(|l| l.0 == UNFINISHED - 1 - ticket) {
            length.0 = stamp;
        }
    }

    /// Everything that was being written has been: who asked for it has ended, the disk has not.
    pub(super) fn finish_all(&mut self, stamp: u64) {
        let unfinished =
            self.sectors.values_mut().flatten().map(|v| &mut v.stamp).filter(|s| **s == UNFINISHED);
        unfinished.for_each(|s| *s = stamp);
        self.lengths.iter_mut().filter(|(s, _)| *s > stamp).for_each(|(s, _)| *s = stamp);
    }

    pub(super) fn set_len(&mut self, len: u64, stamp: u64) {
        if len < self.current.len {
            let first = len / SECTOR;
            let last = self.current.len.div_ceil(SECTOR);
            let before = self.current.clone();
            self.current.cut(len);
            for sector in first..last {
                let data = self.current.sector(sector);
                if data != before.sector(sector) {
                    self.sectors.entry(sector).or_default().push(Version { ticket: u64::MAX, stamp, data });
                }
            }
        }
        self.current.len = len;
        self.lengths.push((stamp, len));
    }

    /// Makes everything finished up to `covered` durable.
    pub(super) fn sync(&mut self, covered: u64) {
        let Node { durable, sectors, lengths, .. } = self;
        if let Some(last) = lengths.iter().rposition(|(stamp, _)| *stamp <= covered) {
            settle_len(durable, lengths[last].1);
            lengths.drain(..=last);
        }
        let len = durable.len;
        sectors.retain(|sector, versions| {
            if let Some(last) = versions.iter().rposition(|v| v.stamp <= covered) {
                write_within(durable, len, *sector, &versions[last].data);
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
    }

    /// Makes one finished write durable, and nothing else; the length with it.
    pub(super) fn sync_write(&mut self, ticket: u64, covered: u64) {
        let Node { durable, current, sectors, lengths, .. } = self;
        if current.len > durable.len {
            settle_len(durable, current.len);
            lengths.retain(|(stamp, _)| *stamp > covered);
        }
        let len = durable.len;
        sectors.retain(|sector, versions| {
            if let Some(own) = versions.iter().rposition(|v| v.ticket == ticket) {
                write_within(durable, len, *sector, &versions[own].data);
                versions.drain(..=own);
            }
            !versions.is_empty()
        });
    }

    /// A failed sync: any version may have become durable, none is pending any more, reads still show them all.
    pub(super) fn fail_sync(&mut self, rng: &SeededEntropy) {
        let current = self.current.clone();
        self.crash(Keep::Chance(50), rng);
        self.current = current;
    }

    /// From now on reads show what is durable, and what may still become so; not what a failed sync has lost.
    pub(super) fn forget_lost(&mut self) {
        self.current = self.durable.clone();
        if let Some((_, len)) = self.lengths.last() {
            settle_len(&mut self.current, *len);
        }
        let len = self.current.len;
        for (sector, versions) in &self.sectors {
            if let Some(version) = versions.last() {
                write_within(&mut self.current, len, *sector, &version.data);
            }
        }
    }

    pub(super) fn crash(&mut self, keep: Keep, rng: &SeededEntropy) {
        let kept = |stamp: u64| match keep {
            Keep::Nothing => false,
            Keep::All => true,
            Keep::Before(limit) => stamp <= limit,
            Keep::Chance(percent) => rng.chance(percent, 100),
        };
        for (stamp, len) in std::mem::take(&mut self.lengths) {
            if kept(stamp) {
                settle_len(&mut self.durable, len);
            }
        }
        let len = self.durable.len;
        for (sector, versions) in std::mem::take(&mut self.sectors) {
            for version in versions {
                if kept(version.stamp) {
                    write_within(&mut self.durable, len, sector, &version.data);
                }
            }
        }
        self.current = self.durable.clone();
    }

    pub(super) fn rot(&mut self, offset: u64, mask: u8) {
        for contents in [&mut self.durable, &mut self.current] {
            if offset < contents.len {
                let mut byte = [0];
                contents.read(offset, &mut byte);
                contents.write(offset, &[byte[0] ^ mask]);
            }
        }
    }
}

fn settle_len(contents: &mut Contents, len: u64) {
    if len < contents.len {
        contents.cut(len);
    }
    contents.len = len;
}

/// Writes a sector as far as it lies within the file.
fn write_within(contents: &mut Contents, len: u64, sector: u64, data: &Sector) {
    let at = sector * SECTOR;
    if at < len {
        let n = (len - at).min(SECTOR) as usize;
        contents.write(at, &data[..n]);
    }
}
