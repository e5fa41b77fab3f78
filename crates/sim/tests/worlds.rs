//! A few hundred worlds in every test run; `cargo xtask soak sim` runs thousands.
#![allow(missing_docs)]

use std::collections::BTreeMap;

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("TIDEGATE_SEEDS").ok().and_then(|s| s.parse().ok());
    let first = first.unwrap_or(0);
    first..first + count.unwrap_or(150)
}

/// What must have happened in a hundred worlds; else they test less than they seem to.
const EXPECTED: &[&str] = &[
    "crash",
    "cut while closing: remove spool",
    "cut while closing: sync cache",
    "cut while closing: write cache",
    "cut while opening: create journal",
    "cut while opening: sync journal",
    "cut while opening: write journal",
    "cut while working: create journal",
    "cut while working: create spool",
    "cut while working: remove spool",
    "cut while working: sync journal",
    "cut while working: write cache",
    "cut while working: write journal",
    "cut while working: write spool",
    "disk lost",
    "fail-over",
    "failed sync: journal",
    "garbage collected under a sleeper",
    "hand-over",
    "machine copied",
    "rot: bucket, refused",
    "rot: bucket, whole",
    "rot: cache, whole",
    "rot: disk, refused",
    "rot: disk, whole",
    "takeover",
    "the original goes on behind its copy",
    "the original is refused for what only it has",
    "the original is refused for what only its copy has",
    "takeover from a sleeper",
];

#[test]
fn no_world_loses_an_acknowledged_write() {
    let mut totals = BTreeMap::<String, u32>::new();
    for seed in seeds() {
        match sim::run(seed) {
            Ok(outcome) => {
                outcome.happened.into_iter().for_each(|(what, n)| *totals.entry(what).or_default() += n)
            }
            Err(e) => panic!(
                "seed {seed}: {e}\nagain: TIDEGATE_SEED={seed} TIDEGATE_SEEDS=1 cargo test -p tidegate-sim --test worlds"
            ),
        }
    }
    println!("{totals:#?}");
    let missing: Vec<_> = EXPECTED.iter().filter(|what| !totals.contains_key(**what)).collect();
    assert!(seeds().count() < 100 || missing.is_empty(), "never happened: {missing:?} of {totals:#?}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..3 {
        assert_eq!(sim::run(seed).unwrap(), sim::run(seed).unwrap());
    }
}
