//! A few hundred worlds in every test run; `cargo xtask soak sim` runs thousands.
#![allow(missing_docs)]

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("TIDEGATE_SEEDS").ok().and_then(|s| s.parse().ok());
    let first = first.unwrap_or(0);
    first..first + count.unwrap_or(150)
}

#[test]
fn no_world_loses_an_acknowledged_write() {
    let mut totals = [0u32; 3];
    for seed in seeds() {
        match sim::run(seed) {
            Ok(outcome) => outcome.events.iter().zip(&mut totals).for_each(|(n, total)| *total += n),
            Err(e) => panic!(
                "seed {seed}: {e}\nagain: TIDEGATE_SEED={seed} TIDEGATE_SEEDS=1 cargo test -p tidegate-sim --test worlds"
            ),
        }
    }
    assert!(seeds().count() < 100 || totals.iter().all(|n| *n > 10), "too little happened: {totals:?}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..3 {
        assert_eq!(sim::run(seed).unwrap(), sim::run(seed).unwrap());
    }
}
