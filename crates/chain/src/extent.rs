use std::collections::BTreeMap;

use base::Span;

/// What a run of sectors maps to; it can be cut at any sector.
pub trait Piece: Clone {
    /// The same thing from `sectors` further on.
    #[must_use]
    fn advance(&self, sectors: u64) -> Self;
}

/// A sorted map of disjoint runs of sectors; a newer run replaces what it covers.
#[derive(Debug, Clone)]
pub struct ExtentMap<T> {
    runs: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for ExtentMap<T> {
    fn default() -> Self {
        ExtentMap { runs: BTreeMap::new() }
    }
}

impl<T: Piece> ExtentMap<T> {
    /// An empty map.
    pub fn new() -> ExtentMap<T> {
        ExtentMap::default()
    }

    /// How many runs it holds.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Maps `span` to `value`; what it covered before is handed to `displaced`, cut to size.
    pub fn insert(&mut self, span: Span, value: T, displaced: impl FnMut(Span, T)) {
        self.remove(span, displaced);
        if !span.is_empty() {
            self.runs.insert(span.start, (span.count, value));
        }
    }

    /// Unmaps `span`; what was there is handed to `displaced`, cut to size.
    pub fn remove(&mut self, span: Span, mut displaced: impl FnMut(Span, T)) {
        if span.is_empty() {
            return;
        }
        // The one run that may reach into the span from before it.
        if let Some((&start, (count, value))) = self.runs.range_mut(..span.start).next_back()
            && start + *count > span.start
        {
            let tail = Span::new(span.start, start + *count - span.start);
            let tail_value = value.advance(span.start - start);
            *count = span.start - start;
            self.cut_head(tail, tail_value, span, &mut displaced);
        }
        while let Some((&start, _)) = self.runs.range(span.start..span.end()).next() {
            let (count, value) = self.runs.remove(&start).expect("the key was just seen");
            self.cut_head(Span::new(start, count), value, span, &mut displaced);
        }
    }

    /// Hands out the part of a removed run that `span` covers and puts back what lies behind it.
    fn cut_head(&mut self, run: Span, value: T, span: Span, displaced: &mut impl FnMut(Span, T)) {
        if run.end() > span.end() {
            let keep = Span::new(span.end(), run.end() - span.end());
            self.runs.insert(keep.start, (keep.count, value.advance(keep.start - run.start)));
            displaced(Span::new(run.start, span.end() - run.start), value);
        } else {
            displaced(run, value);
        }
    }

    /// The runs that overlap `span`, cut to it, in order.
    pub fn overlapping(&self, span: Span) -> impl Iterator<Item = (Span, T)> + '_ {
        let first = self
            .runs
            .range(..span.start)
            .next_back()
            .filter(|(start, (count, _))| **start + count > span.start)
            .map_or(span.start, |(start, _)| *start);
        self.runs.range(first..span.end().max(first)).filter_map(move |(&start, (count, value))| {
            let cut = Span::new(start, *count).intersect(span)?;
            Some((cut, value.advance(cut.start - start)))
        })
    }

    /// Walks `span` without gaps: each run as above, and `None` for what no run covers.
    pub fn walk(&self, span: Span, mut visit: impl FnMut(Span, Option<T>)) {
        let mut at = span.start;
        for (run, value) in self.overlapping(span) {
            if run.start > at {
                visit(Span::new(at, run.start - at), None);
            }
            at = run.end();
            visit(run, Some(value));
        }
        if at < span.end() {
            visit(Span::new(at, span.end() - at), None);
        }
    }

    /// All runs in order.
    pub fn iter(&self) -> impl Iterator<Item = (Span, &T)> + '_ {
        self.runs.iter().map(|(&start, (count, value))| (Span::new(start, *count), value))
    }

    /// The first run that ends behind `sector`.
    pub fn next_from(&self, sector: u64) -> Option<(Span, &T)> {
        let before =
            self.runs.range(..=sector).next_back().filter(|(start, (count, _))| **start + count > sector);
        before
            .or_else(|| self.runs.range(sector..).next())
            .map(|(&start, (count, value))| (Span::new(start, *count), value))
    }
}
