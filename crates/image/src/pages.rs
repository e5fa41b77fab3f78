//! The paged part of the map: what the newest checkpoint holds, loaded as needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::Span;
use chain::{Page, PageRef, Piece, Target};

/// One page: loaded, stored, or both.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Where it is stored; the first page of a new image is nowhere.
    pub place: Option<PageRef>,
    page: Option<Arc<Page>>,
    used: AtomicU64,
}

/// All pages by their first sector. There is always one at 0.
#[derive(Debug)]
pub(crate) struct PageIndex {
    slots: BTreeMap<u64, Slot>,
    loaded: usize,
    ticks: AtomicU64,
}

impl PageIndex {
    /// The index of a checkpoint.
    pub fn new(refs: &[PageRef]) -> PageIndex {
        let mut index = PageIndex { slots: BTreeMap::new(), loaded: 0, ticks: AtomicU64::new(0) };
        if refs.first().is_none_or(|first| first.start != 0) {
            index.set(0, None, Some(Arc::new(Page::default())));
        }
        for place in refs {
            index.set(place.start, Some(*place), None);
        }
        index
    }

    fn set(&mut self, start: u64, place: Option<PageRef>, page: Option<Arc<Page>>) {
        self.loaded += usize::from(page.is_some());
        let used = AtomicU64::new(self.ticks.fetch_add(1, Ordering::Relaxed));
        self.slots.insert(start, Slot { place, page, used });
    }

    /// The page that covers `sector`: its first sector, the sector behind its last, and itself.
    pub fn find(&self, sector: u64) -> (u64, u64, &Slot) {
        let (start, slot) = self.slots.range(..=sector).next_back().expect("there is always a page at 0");
        let end = self.slots.range(sector + 1..).next().map_or(u64::MAX, |(s, _)| *s);
        (*start, end, slot)
    }

    /// Walks `span` without gaps: runs and, as `None`, holes. `Err` names the first page that is not loaded.
    pub fn walk(&self, span: Span, mut visit: impl FnMut(Span, Option<Target>)) -> Result<(), PageRef> {
        let mut at = span.start;
        while at < span.end() {
            let (_, end, slot) = self.find(at);
            let part = Span::new(at, end.min(span.end()) - at);
            match (&slot.page, slot.place) {
                (Some(page), _) => walk_page(page, part, &mut visit),
                (None, Some(place)) => return Err(place),
                (None, None) => visit(part, None),
            }
            slot.used.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
            at = part.end();
        }
        Ok(())
    }

    /// Puts in a page that was fetched, if its place is still what the index says; drops long unused ones above `most`.
    pub fn install(&mut self, place: PageRef, page: Arc<Page>, most: usize) {
        let Some(slot) = self.slots.get_mut(&place.start).filter(|s| s.place == Some(place)) else { return };
        self.loaded += usize::from(slot.page.is_none());
        slot.page = Some(page);
        slot.used.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        if self.loaded > most {
            self.evict(most);
        }
    }

    fn evict(&mut self, most: usize) {
        let mut ages: Vec<u64> = self
            .slots
            .values()
            .filter(|s| s.page.is_some() && s.place.is_some())
            .map(|s| s.used.load(Ordering::Relaxed))
            .collect();
        ages.sort_unstable();
        let drop_up_to =
            ages.get((ages.len() / 4).max(ages.len().saturating_sub(most))).copied().unwrap_or(0);
        for slot in self.slots.values_mut() {
            if slot.place.is_some() && slot.page.is_some() && slot.used.load(Ordering::Relaxed) < drop_up_to {
                slot.page = None;
                self.loaded -= 1;
            }
        }
    }

    /// Where all stored pages are.
    pub fn places(&self) -> Vec<PageRef> {
        self.slots.values().filter_map(|s| s.place).collect()
    }

    /// The page itself, if loaded.
    pub fn page(&self, start: u64) -> Option<Arc<Page>> {
        self.slots.get(&start).and_then(|s| s.page.clone())
    }

    /// Replaces the pages that begin inside `covered` by new ones.
    pub fn replace(&mut self, covered: Span, new: Vec<(PageRef, Arc<Page>)>) {
        let old: Vec<u64> = self.slots.range(covered.start..covered.end()).map(|(s, _)| *s).collect();
        for start in old {
            if self.slots.remove(&start).is_some_and(|s| s.page.is_some()) {
                self.loaded -= 1;
            }
        }
        for (place, page) in new {
            self.set(place.start, Some(place), Some(page));
        }
        if !self.slots.contains_key(&0) {
            self.set(0, None, Some(Arc::new(Page::default())));
        }
    }
}

fn walk_page(page: &Page, span: Span, visit: &mut impl FnMut(Span, Option<Target>)) {
    let mut at = span.start;
    let first = page.runs.partition_point(|(run, _)| run.end() <= span.start);
    for (run, target) in &page.runs[first..] {
        let Some(cut) = run.intersect(span) else { break };
        if cut.start > at {
            visit(Span::new(at, cut.start - at), None);
        }
        visit(cut, Some(target.advance(cut.start - run.start)));
        at = cut.end();
    }
    if at < span.end() {
        visit(Span::new(at, span.end() - at), None);
    }
}
