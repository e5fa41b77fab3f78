//! The stored part of the map: the runs of the newest checkpoint, in pages that are loaded as needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::Span;
use chain::{Page, PageRef, Piece, Run, Target};

/// Pages that must be loaded before a question can be answered.
pub(crate) type Missing = BTreeSet<PageRef>;

/// Pages that whoever asks holds itself: what is needed at a time may be more than is kept loaded.
pub(crate) type Held = BTreeMap<PageRef, Arc<Page>>;

/// A page that is loaded, and when it was last of use.
#[derive(Debug)]
struct Loaded {
    page: Arc<Page>,
    used: AtomicU64,
}

/// One run: its pages in order, each with what is loaded of it.
#[derive(Debug)]
struct Paged {
    places: Run,
    loaded: Vec<Option<Loaded>>,
    size: Size,
}

/// How large a run is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub pages: u64,
    pub bytes: u64,
    pub entries: u64,
    pub sectors: u64,
}

impl Size {
    /// Of all these pages.
    pub fn of(pages: &[PageRef]) -> Size {
        pages.iter().fold(Size::default(), |sum, page| {
            let (bytes, entries) = (page.len.into(), page.entries.into());
            sum.and(Size { pages: 1, bytes, entries, sectors: page.sectors })
        })
    }

    /// Both together.
    pub fn and(self, other: Size) -> Size {
        Size {
            pages: self.pages + other.pages,
            bytes: self.bytes + other.bytes,
            entries: self.entries + other.entries,
            sectors: self.sectors + other.sectors,
        }
    }
}

/// All runs, the newest first; what no entry of one covers shows what the next has.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: Vec<Paged>,
    loaded: usize,
    ticks: AtomicU64,
}

impl Runs {
    /// The runs of a checkpoint, nothing loaded.
    pub fn new(runs: &[Run]) -> Runs {
        let mut all = Runs { runs: Vec::new(), loaded: 0, ticks: AtomicU64::new(0) };
        all.replace(0, runs, &Held::new(), usize::MAX);
        all
    }

    /// The sizes of all runs.
    pub fn sizes(&self) -> Vec<Size> {
        self.runs.iter().map(|run| run.size).collect()
    }

    /// Where the pages of all runs are.
    pub fn places(&self) -> Vec<Run> {
        self.runs.iter().map(|run| run.places.clone()).collect()
    }

    /// The page itself, if loaded.
    pub fn page(&self, place: &PageRef) -> Option<Arc<Page>> {
        let loaded = self.runs.iter().find_map(|run| run.loaded[run.position(place)?].as_ref());
        loaded.map(|loaded| loaded.page.clone())
    }

    /// Walks `span` without gaps. What lies on a page that is neither loaded nor held is put into `missing`; what was visited is
    /// of no use then.
    pub fn walk(&self, span: Span, held: &Held, missing: &mut Missing, visit: &mut dyn FnMut(Span, Target)) {
        self.walk_below(0, span, held, missing, visit);
    }

    fn walk_below(
        &self,
        depth: usize,
        span: Span,
        held: &Held,
        missing: &mut Missing,
        visit: &mut dyn FnMut(Span, Target),
    ) {
        let Some(run) = self.runs.get(depth) else { return visit(span, Target::Hole) };
        let mut at = span.start;
        for (place, loaded) in run.overlapping(span) {
            if let Some(loaded) = loaded {
                loaded.used.store(self.tick(), Ordering::Relaxed);
            }
            let page = loaded.as_ref().map(|loaded| &loaded.page).or_else(|| held.get(place));
            let Some(page) = page else {
                missing.insert(*place);
                continue;
            };
            for (part, target) in within(page, span) {
                if part.start > at {
                    let gap = Span::new(at, part.start - at);
                    self.walk_below(depth + 1, gap, held, missing, visit);
                }
                visit(part, target);
                at = part.end();
            }
        }
        if at < span.end() {
            self.walk_below(depth + 1, Span::new(at, span.end() - at), held, missing, visit);
        }
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a page that was fetched, if it is still part of the map; drops long unused ones above `most`.
    pub fn install(&mut self, place: PageRef, page: Arc<Page>, most: usize) {
        let used = AtomicU64::new(self.tick());
        let Some((run, i)) = self.runs.iter_mut().find_map(|run| run.position(&place).map(|i| (run, i)))
        else {
            return;
        };
        self.loaded += usize::from(run.loaded[i].is_none());
        run.loaded[i] = Some(Loaded { page, used });
        self.evict(most);
    }

    fn evict(&mut self, most: usize) {
        if self.loaded <= most {
            return;
        }
        let all = self.runs.iter().flat_map(|run| run.loaded.iter().flatten());
        let mut ages: Vec<u64> = all.map(|loaded| loaded.used.load(Ordering::Relaxed)).collect();
        ages.sort_unstable();
        let drop_up_to =
            ages.get((ages.len() / 4).max(ages.len().saturating_sub(most))).copied().unwrap_or(u64::MAX);
        for loaded in self.runs.iter_mut().flat_map(|run| run.loaded.iter_mut()) {
            if loaded.as_ref().is_some_and(|loaded| loaded.used.load(Ordering::Relaxed) < drop_up_to) {
                *loaded = None;
                self.loaded -= 1;
            }
        }
    }

    /// Replaces the newest `taken` runs by others. Pages that both have stay loaded, and so do those of `hot`, `most` in all.
    pub fn replace(&mut self, taken: usize, new: &[Run], hot: &Held, most: usize) {
        let mut before = Held::new();
        for run in self.runs.drain(..taken) {
            let loaded = run.places.iter().zip(run.loaded);
            before.extend(loaded.filter_map(|(place, loaded)| Some((*place, loaded?.page))));
        }
        self.loaded -= before.len();
        let load = |place: &PageRef| {
            let page = before.get(place).or_else(|| hot.get(place))?.clone();
            Some(Loaded { page, used: AtomicU64::new(self.ticks.fetch_add(1, Ordering::Relaxed)) })
        };
        let new: Vec<Paged> = new.iter().map(|places| Paged::new(places.clone(), load)).collect();
        self.loaded += new.iter().flat_map(|run| run.loaded.iter().flatten()).count();
        self.runs.splice(0..0, new);
        self.evict(most);
    }
}

impl Paged {
    fn new(places: Run, load: impl Fn(&PageRef) -> Option<Loaded>) -> Paged {
        Paged { loaded: places.iter().map(load).collect(), size: Size::of(&places), places }
    }

    fn position(&self, place: &PageRef) -> Option<usize> {
        let i = self.places.binary_search_by_key(&place.start, |p| p.start).ok()?;
        (self.places[i] == *place).then_some(i)
    }

    /// The pages that may hold something of `span`, in order.
    fn overlapping(&self, span: Span) -> impl Iterator<Item = (&PageRef, &Option<Loaded>)> {
        let first = self.places.partition_point(|place| place.end <= span.start);
        let pages = self.places[first..].iter().zip(&self.loaded[first..]);
        pages.take_while(move |(place, _)| place.start < span.end())
    }
}

/// The entries of a page that overlap `span`, cut to it.
pub(crate) fn within(page: &Page, span: Span) -> impl Iterator<Item = (Span, Target)> {
    let first = page.entries.partition_point(|(entry, _)| entry.end() <= span.start);
    page.entries[first..].iter().map_while(move |(entry, target)| {
        let cut = entry.intersect(span)?;
        Some((cut, target.advance(cut.start - entry.start)))
    })
}

#[cfg(test)]
mod tests;
