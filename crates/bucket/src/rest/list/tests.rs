use proptest::prelude::*;

use super::*;
use crate::Key;

/// What a store with directories lists behind `start`, which it passes over together with a directory of that name.
fn listed<'a>(stored: &'a [String], prefix: &str, start: &str) -> Vec<&'a String> {
    let below = format!("{start}/");
    let is_behind = |n: &String| {
        start.is_empty() || (collated(n).gt(collated(start)) && !n.starts_with(&below) && n != start)
    };
    let mut kept: Vec<&String> = stored.iter().filter(|n| n.starts_with(prefix) && is_behind(n)).collect();
    kept.sort_by(|a, b| collated(a).cmp(collated(b)));
    kept
}

fn in_pages(stored: &[String], prefix: &str, after: &str, limit: usize, page: usize) -> Vec<String> {
    let all = listed(stored, prefix, earlier(prefix, after));
    let mut sorter = Sorter { prefix, after, limit, held: Vec::new(), last: String::new() };
    let mut pages: Vec<&[&String]> = all.chunks(page).collect();
    if pages.is_empty() {
        pages.push(&[]);
    }
    for (n, chunk) in pages.iter().enumerate() {
        let entries = chunk.iter().map(|name| Entry::named(name)).collect();
        if let Some(found) = sorter.take(entries, n + 1 == pages.len()).unwrap() {
            return found.into_iter().map(|e| e.name).collect();
        }
    }
    panic!("the last page ends the list")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn byte_order_comes_back_from_a_store_with_directories(
        mut names in prop::collection::btree_set("[ab./-]{1,6}", 0..40),
        prefix in "[ab/]{0,3}",
        after in "[ab./-]{0,6}",
        limit in 1usize..12,
        page in 1usize..6,
    ) {
        names.retain(|n| Key::new(n.as_str()).is_ok());
        // A store with directories has no name that is another's directory.
        let all = names.clone();
        names.retain(|n| !all.iter().any(|o| o.starts_with(&format!("{n}/"))));
        let names: Vec<String> = names.into_iter().collect();
        // Other names are turned away or widened before.
        let after = if after.starts_with(&prefix) { after } else { String::new() };
        let wanted: Vec<String> =
            names.iter().filter(|n| n.starts_with(&prefix) && **n > after).take(limit).cloned().collect();
        prop_assert_eq!(in_pages(&names, &prefix, &after, limit, page), wanted);
    }
}

#[test]
fn a_list_continues_near_where_it_was() {
    assert_eq!(earlier("", ""), "");
    assert_eq!(earlier("img/seg/", "img/seg/0019"), "img/seg/001");
    assert_eq!(earlier("docs/", "docs/2024/report.txt"), "docs/2024/repor");
    assert_eq!(earlier("docs/", "docs/-x"), "");
}

#[test]
fn what_is_in_no_order_is_refused() {
    let mut sorter = Sorter { prefix: "", after: "", limit: 9, held: Vec::new(), last: String::new() };
    let entries = ["b", "a"].map(Entry::named).into();
    assert!(sorter.take(entries, true).is_err());
}
