//! Merging what has changed with the newest runs into one: page by page, whatever their size.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Error, ErrorKind, Result, Span};
use chain::{ExtentMap, Page, PageRef, Run, Table, Target};

use crate::checkpoint::Place;
use crate::fetch::{fetch_page, fetch_pages};
use crate::pages::within;
use crate::run::{RunWriter, Written};
use crate::table::Hidden;

/// The most bytes of pages that one get brings.
const AHEAD: u32 = 256 << 10;

/// One of the runs to merge.
struct Input {
    places: Run,
    /// The first page that is not used up.
    next: usize,
    /// That page and some behind it, if fetched.
    ahead: VecDeque<Arc<Page>>,
}

/// See the module.
pub(crate) struct Merge<'a> {
    place: &'a Place<'a>,
    /// Rows that entries may name.
    rows: &'a Table,
    delta: &'a ExtentMap<Target>,
    /// Newest first.
    inputs: Vec<Input>,
    /// Whether nothing lies below what comes out.
    base: bool,
    hidden: Hidden,
}

/// What to do next.
enum Step {
    /// Take the next page of this input as it is.
    TakeOver(usize),
    /// Lay these sectors of all inputs over one another.
    Overlay(Span),
}

impl<'a> Merge<'a> {
    pub fn new(
        place: &'a Place<'a>,
        rows: &'a Table,
        delta: &'a ExtentMap<Target>,
        runs: &[Run],
        base: bool,
    ) -> Merge<'a> {
        let input = |places: &Run| Input { places: places.clone(), next: 0, ahead: VecDeque::new() };
        let inputs = runs.iter().map(input).collect();
        Merge { place, rows, delta, inputs, base, hidden: Hidden::default() }
    }

    /// Writes the run. Returns it, and what of the inputs is not in it because something newer hides it.
    pub async fn run(mut self, mut writer: RunWriter<'_>) -> Result<(Written, Hidden)> {
        let mut at = 0;
        let mut steps = 0u32;
        while let Some(step) = self.step(at, &writer) {
            steps += 1;
            if steps.is_multiple_of(256) {
                tokio::task::yield_now().await;
            }
            match step {
                Step::TakeOver(i) => {
                    let place = self.inputs[i].places[self.inputs[i].next];
                    writer.take_over(place).await?;
                    at = place.end;
                }
                Step::Overlay(span) => {
                    self.overlay(span, &mut writer).await?;
                    at = span.end();
                }
            }
            self.inputs.iter_mut().for_each(|input| input.pass(at));
        }
        Ok((writer.finish().await?, self.hidden))
    }

    /// What comes at or behind `at`.
    fn step(&self, at: u64, writer: &RunWriter<'_>) -> Option<Step> {
        let changed = self.delta.next_from(at).map(|(span, _)| span);
        let pages = || self.inputs.iter().filter_map(Input::place);
        let starts = pages().map(|place| place.start).chain(changed.map(|span| span.start));
        let start = starts.min()?.max(at);
        // Up to where at most one page of each run is needed.
        let borders = pages().map(|place| if place.start <= start { place.end } else { place.start });
        let mut end = borders.min().unwrap_or(u64::MAX);
        let mut here = self
            .inputs
            .iter()
            .enumerate()
            .filter(|(_, input)| input.place().is_some_and(|place| place.start <= start));
        match here.next() {
            Some((i, input)) => {
                let place = input.place()?;
                let holes = self.base && place.holes > 0;
                if !holes && writer.takes_over(place) && !self.touched(i, place) {
                    return Some(Step::TakeOver(i));
                }
            }
            None => end = end.min(changed?.end()),
        }
        Some(Step::Overlay(Span::new(start, end - start)))
    }

    async fn overlay(&mut self, span: Span, writer: &mut RunWriter<'_>) -> Result<()> {
        let mut map = ExtentMap::new();
        let mut hot = self.inputs.iter().all(|input| input.place().is_none_or(|p| p.start >= span.end()));
        for i in (0..self.inputs.len()).rev() {
            if self.inputs[i].place().is_none_or(|place| place.start >= span.end()) {
                continue;
            }
            let (page, loaded) = self.page(i).await?;
            hot |= loaded;
            for (cut, target) in within(&page, span) {
                map.insert(cut, target, |cut, old| self.hidden.add(cut, old));
            }
        }
        for (cut, target) in self.delta.overlapping(span) {
            map.insert(cut, target, |cut, old| self.hidden.add(cut, old));
        }
        for (span, target) in map.iter() {
            match target {
                Target::Hole if self.base => continue,
                Target::Frame { row, .. } if !self.rows.contains_key(row) => {
                    return Err(Error::internal(format!(
                        "the map names row {row}, which is not in the segment table"
                    )));
                }
                target => writer.push(span, *target, hot).await?,
            }
        }
        Ok(())
    }

    /// Whether the delta or another run overlaps a page of input `i`.
    fn touched(&self, i: usize, page: &PageRef) -> bool {
        let changed = self.delta.next_from(page.start).is_some_and(|(span, _)| span.start < page.end);
        let mut others =
            self.inputs.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, input)| &input.places);
        changed
            || others.any(|run| {
                let next = run.partition_point(|other| other.end <= page.start);
                run.get(next).is_some_and(|other| other.start < page.end)
            })
    }

    /// The next page of input `i`, and whether it was loaded already because somebody used it.
    async fn page(&mut self, i: usize) -> Result<(Arc<Page>, bool)> {
        let input = &self.inputs[i];
        let place = input.places[input.next];
        if let Some(page) = self.place.layers.read().runs.page(&place) {
            return Ok((page, true));
        }
        if input.ahead.is_empty() {
            let places = input.places.clone();
            let places = &places[input.next..][..self.neighbours(i)];
            self.inputs[i].ahead = fetch(self.place, places).await?;
        }
        let page = self.inputs[i].ahead.front().cloned();
        Ok((page.ok_or_else(|| Error::internal("a page was not fetched"))?, false))
    }

    /// How many pages of input `i` to fetch in one get: the next one, and those behind it that will be needed and lie there.
    fn neighbours(&self, i: usize) -> usize {
        let rest = &self.inputs[i].places[self.inputs[i].next..];
        let end = |page: &PageRef| (page.number, page.epoch, page.part, page.offset + page.len);
        let place = |page: &PageRef| (page.number, page.epoch, page.part, page.offset);
        let near = |page: &PageRef| page.offset + page.len - rest[0].offset <= AHEAD;
        let more = rest.windows(2).take_while(|pair| {
            end(&pair[0]) == place(&pair[1]) && near(&pair[1]) && self.touched(i, &pair[1])
        });
        1 + more.count()
    }
}

/// Fetches neighbouring pages. `Corrupt` if the first of them is damaged or gone.
async fn fetch(place: &Place<'_>, places: &[PageRef]) -> Result<VecDeque<Arc<Page>>> {
    let bucket = &**place.own.bucket();
    let fetched = match fetch_pages(bucket, place.image, places).await {
        // One of them is damaged, or the way was: it may not be the one that is needed now.
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            fetch_page(bucket, place.image, places[0]).await.map(|page| vec![page])
        }
        other => other,
    };
    let fetched = fetched.map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::caused(ErrorKind::Corrupt, "part of the map is missing", e),
        _ => e,
    })?;
    Ok(fetched.into_iter().map(Arc::new).collect())
}

impl Input {
    /// The page that is next.
    fn place(&self) -> Option<&PageRef> {
        self.places.get(self.next)
    }

    /// Everything before `at` has been dealt with.
    fn pass(&mut self, at: u64) {
        while self.place().is_some_and(|place| place.end <= at) {
            self.next += 1;
            self.ahead.pop_front();
        }
    }
}
