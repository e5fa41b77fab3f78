//! Cutting a checkpoint: the delta is frozen, merged into the pages it touches, and the new pages and their root are put.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Error, ErrorKind, ImageId, Result, Seq, Span, checksum};
use bytes::Bytes;
use chain::{Checkpoint, ExtentMap, Ownership, Page, PageRef, Position, RowId, Table, Target, name};

use crate::collect::{Garbage, Kept};
use crate::core::Core;
use crate::layers::unlink;

/// The most runs in a page; a fuller one is split.
const PAGE_RUNS: usize = 1024;
/// The size at which an object of pages is put.
const OBJECT: usize = 8 << 20;

/// A checkpoint about to be made: the image as it was when it was frozen.
pub(crate) struct Plan {
    delta: Arc<ExtentMap<Target>>,
    root: Checkpoint,
    /// The checkpoint before it: together they say what is garbage.
    older: Option<Arc<Kept>>,
}

/// Pages that replace those which began inside a span.
struct Replacement {
    covered: Span,
    pages: Vec<(PageRef, Arc<Page>)>,
}

/// A checkpoint in the bucket.
pub(crate) struct Made {
    pub root: Checkpoint,
    pub kept: Kept,
    pub garbage: Garbage,
    replacements: Vec<Replacement>,
    /// What merging displaced: live sectors to take off rows.
    unlinked: BTreeMap<RowId, u32>,
}

impl Plan {
    /// Freezes the delta. Everything in it counts; `position` is the last segment in it.
    pub fn freeze(core: &Core, position: Position, last_seq: Seq, older: Option<Arc<Kept>>) -> Plan {
        let mut layers = core.layers.write();
        assert!(layers.frozen.is_none(), "one checkpoint at a time");
        let delta = Arc::new(std::mem::take(&mut layers.delta));
        layers.frozen = Some(delta.clone());
        let root = Checkpoint {
            image: core.id,
            position,
            last_seq,
            size: core.size.load(std::sync::atomic::Ordering::Acquire),
            states: core.durable_states.lock().clone(),
            table: layers.table.clone(),
            pages: layers.pages.places(),
        };
        Plan { delta, root, older }
    }

    /// Puts a frozen delta back below the present one, after a checkpoint that failed.
    pub fn thaw(core: &Core) {
        let mut guard = core.layers.write();
        let layers = &mut *guard;
        let Some(frozen) = layers.frozen.take() else { return };
        let newer = std::mem::replace(&mut layers.delta, ExtentMap::clone(&frozen));
        for (span, target) in newer.iter() {
            let table = &mut layers.table;
            layers.delta.insert(span, *target, |cut, old| unlink(table, cut, old));
        }
    }

    /// Writes it. Nothing refers to it before the root is put, and the root is put last.
    pub async fn make(mut self, core: &Core, own: &Ownership) -> Result<Made> {
        let mut writer = PageWriter::new(own, core.id, self.root.position);
        let mut replacements = Vec::new();
        let mut unlinked = BTreeMap::new();
        let mut at = 0;
        while let Some((next, _)) = self.delta.next_from(at) {
            let (covered, page) = load(core, next.start.max(at)).await?;
            let runs = merge(&page, &self.delta, covered, &mut self.root.table, &mut unlinked);
            replacements.push(Replacement { covered, pages: writer.pages(covered.start, runs).await? });
            at = covered.end();
            if at == u64::MAX {
                break;
            }
        }
        writer.flush().await?;
        self.root.pages = new_places(&self.root.pages, &replacements);
        self.root.table.retain(|_, row| row.live > 0);
        let key = name::checkpoint(core.id, own.epoch(), self.root.position.number);
        own.put_object(&key, self.root.encode()).await?;
        own.check().await?;
        let kept = Kept::of(&self.root);
        let garbage = match &self.older {
            Some(older) => Garbage::find(&**own.bucket(), core.id, older, &kept).await?,
            None => Garbage::default(),
        };
        Ok(Made { root: self.root, kept, garbage, replacements, unlinked })
    }
}

impl Made {
    /// Makes it the base of the map.
    pub fn install(&self, core: &Core) {
        let mut guard = core.layers.write();
        let layers = &mut *guard;
        for replacement in &self.replacements {
            layers.pages.replace(replacement.covered, replacement.pages.clone());
        }
        layers.frozen = None;
        for (row, sectors) in &self.unlinked {
            if let Some(row) = layers.table.get_mut(row) {
                row.live = row.live.saturating_sub(*sectors);
            }
        }
        let root: &Table = &self.root.table;
        layers.table.retain(|id, row| row.live > 0 || root.contains_key(id));
    }
}

/// The page that covers `sector`, loaded, and what it covers.
async fn load(core: &Core, sector: u64) -> Result<(Span, Arc<Page>)> {
    loop {
        let place = {
            let layers = core.layers.read();
            let (start, end, slot) = layers.pages.find(sector);
            match (layers.pages.page(start), slot.place) {
                (Some(page), _) => return Ok((Span::new(start, end - start), page)),
                (None, Some(place)) => place,
                (None, None) => return Err(Error::internal("a map page is neither loaded nor stored")),
            }
        };
        core.load_page(place).await?;
    }
}

fn merge(
    page: &Page,
    delta: &ExtentMap<Target>,
    covered: Span,
    table: &mut Table,
    unlinked: &mut BTreeMap<RowId, u32>,
) -> Vec<(Span, Target)> {
    let mut map = ExtentMap::new();
    for (span, target) in &page.runs {
        map.insert(*span, *target, |_, _| ());
    }
    for (span, target) in delta.overlapping(covered) {
        let displaced = |cut: Span, old: Target| {
            unlink(table, cut, old);
            if let Target::Frame { row, .. } = old {
                *unlinked.entry(row).or_default() += cut.count as u32;
            }
        };
        match target {
            Target::Hole => map.remove(span, displaced),
            target => map.insert(span, target, displaced),
        }
    }
    page_runs(&map)
}

/// The runs as page entries: a run of zeroes can be longer than an entry can say.
pub(crate) fn page_runs(map: &ExtentMap<Target>) -> Vec<(Span, Target)> {
    let mut runs = Vec::with_capacity(map.len());
    for (span, target) in map.iter() {
        let mut left = span;
        while !left.is_empty() {
            let part = Span::new(left.start, left.count.min(u64::from(u32::MAX)));
            runs.push((part, *target));
            left = Span::new(part.end(), left.count - part.count);
        }
    }
    runs
}

fn new_places(old: &[PageRef], replacements: &[Replacement]) -> Vec<PageRef> {
    let mut places: BTreeMap<u64, PageRef> = old.iter().map(|p| (p.start, *p)).collect();
    for r in replacements {
        places.retain(|start, _| !(r.covered.start..r.covered.end()).contains(start));
        places.extend(r.pages.iter().map(|(place, _)| (place.start, *place)));
    }
    places.into_values().collect()
}

/// Collects encoded pages into objects.
pub(crate) struct PageWriter<'a> {
    own: &'a Ownership,
    image: ImageId,
    place: Position,
    part: u32,
    object: Vec<u8>,
}

impl<'a> PageWriter<'a> {
    pub fn new(own: &'a Ownership, image: ImageId, place: Position) -> PageWriter<'a> {
        PageWriter { own, image, place, part: 0, object: Vec::new() }
    }

    pub async fn pages(
        &mut self,
        start: u64,
        runs: Vec<(Span, Target)>,
    ) -> Result<Vec<(PageRef, Arc<Page>)>> {
        let mut pages = Vec::new();
        for (i, chunk) in runs.chunks(PAGE_RUNS * 3 / 4).enumerate() {
            let first = if i == 0 { start } else { chunk[0].0.start };
            let page = Page { runs: chunk.to_vec() };
            let bytes = page.encode();
            let place = PageRef {
                start: first,
                number: self.place.number,
                epoch: self.own.epoch(),
                part: self.part,
                offset: self.object.len() as u32,
                len: bytes.len() as u32,
                crc64: checksum::crc64(&bytes),
            };
            self.object.extend_from_slice(&bytes);
            pages.push((place, Arc::new(page)));
            if self.object.len() >= OBJECT {
                self.flush().await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(pages)
    }

    pub async fn flush(&mut self) -> Result<()> {
        if self.object.is_empty() {
            return Ok(());
        }
        let key = name::pages(self.image, self.own.epoch(), self.place.number, self.part);
        let body = Bytes::from(std::mem::take(&mut self.object));
        self.part += 1;
        self.own.put_object(&key, body).await.map_err(|e| match e.kind() {
            ErrorKind::Corrupt => Error::internal(format!("a checkpoint was cut twice at one place: {e}")),
            _ => e,
        })
    }
}
