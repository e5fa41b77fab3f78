use base::{Epoch, Number};

use super::*;

fn page(entries: &[(u64, u64, Target)], part: u32) -> (PageRef, Arc<Page>) {
    let entries = entries.iter().map(|(start, count, target)| (Span::new(*start, *count), *target)).collect();
    let page = Page { entries };
    (page.place(&page.encode(), (Number(1), Epoch(1), part), 0), Arc::new(page))
}

fn walk(runs: &Runs, span: Span, held: &Held) -> (Vec<(u64, u64, Target)>, Missing) {
    let (mut found, mut missing) = (Vec::new(), Missing::new());
    runs.walk(span, held, &mut missing, &mut |part, target| found.push((part.start, part.count, target)));
    (found, missing)
}

#[test]
fn a_newer_run_hides_and_shows_what_lies_below() {
    let (upper, upper_page) = page(&[(10, 5, Target::Hole), (30, 5, Target::Zero)], 1);
    let (lower, lower_page) = page(&[(0, 20, Target::Zero)], 2);
    let mut runs = Runs::new(&[Arc::new(vec![upper]), Arc::new(vec![lower])]);
    let all = Span::new(0, 40);
    assert_eq!(
        walk(&runs, all, &Held::new()).1,
        Missing::from([upper, lower]),
        "pages of all runs at a time"
    );
    assert_eq!(
        walk(&runs, Span::new(20, 5), &Held::new()).1,
        Missing::from([upper]),
        "what no page covers needs none"
    );
    assert!(walk(&runs, Span::new(36, 4), &Held::new()).1.is_empty());
    let (zero, hole) = (Target::Zero, Target::Hole);
    let expected =
        vec![(0, 10, zero), (10, 5, hole), (15, 5, zero), (20, 10, hole), (30, 5, zero), (35, 5, hole)];
    let held = Held::from([(upper, upper_page.clone()), (lower, lower_page.clone())]);
    assert_eq!(walk(&runs, all, &held), (expected.clone(), Missing::new()));
    runs.install(upper, upper_page, 9);
    runs.install(lower, lower_page, 9);
    assert_eq!(walk(&runs, all, &Held::new()), (expected, Missing::new()));
}

#[test]
fn what_is_loaded_stays_bounded_over_all_runs() {
    let pages: Vec<_> = (0..20u64).map(|i| page(&[(i * 10, 5, Target::Zero)], i as u32)).collect();
    let runs: Vec<Run> =
        pages.chunks(5).map(|run| Arc::new(run.iter().map(|(place, _)| *place).collect())).collect();
    let mut all = Runs::new(&runs);
    let loaded = |all: &Runs| pages.iter().filter(|(place, _)| all.page(place).is_some()).count();
    for (place, page) in &pages {
        all.install(*place, page.clone(), 8);
        assert!(loaded(&all) <= 8 && all.page(place).is_some());
    }
    let last = pages[19].0;
    all.replace(2, &[], &Held::new(), 8);
    assert_eq!((all.places().len(), all.sizes()[1].entries), (2, 5));
    assert!(all.page(&last).is_some(), "a page of a run that stays");
    let hot: Held = pages[..10].iter().cloned().collect();
    all.replace(0, &runs[..2], &hot, 8);
    assert!(loaded(&all) <= 8, "{} are loaded", loaded(&all));
    all.install(pages[0].0, pages[0].1.clone(), 0);
    assert_eq!(loaded(&all), 0);
}
