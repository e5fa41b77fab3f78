//! One bit flipped at one offset of one object or file, again and again, split over the processors.
//!
//! `TIDEGATE_DAMAGE` says where: a sample of the offsets if it is not set, `every` for all of them, or `NAME@OFFSET` for one.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// An object or a file.
pub struct Place {
    pub name: String,
    pub len: u64,
    /// Where it is tried if not everywhere, in order.
    pub sample: Vec<u64>,
    /// Where nothing was ever put; what lies in one of these is flipped together.
    pub holes: Vec<Range<u64>>,
}

impl Place {
    fn every(&self) -> Vec<Range<u64>> {
        let (mut all, mut at) = (Vec::new(), 0);
        for hole in self.holes.iter().cloned().chain(std::iter::once(self.len..self.len)) {
            all.extend((at..hole.start).map(|at| at..at + 1));
            at = hole.end;
            all.extend(Some(hole).filter(|hole| !hole.is_empty()));
        }
        all
    }
}

/// Which bit: so that neighbours, and the same field of entries that follow each other, lose different ones.
pub fn bit(at: u64) -> u8 {
    ((at + at / 8 + at / 64) % 8) as u8
}

enum Extent {
    Sample,
    Every,
    One(String, u64),
}

impl Extent {
    fn wanted() -> Extent {
        match std::env::var("TIDEGATE_DAMAGE").ok().as_deref() {
            None | Some("") => Extent::Sample,
            Some("every") => Extent::Every,
            Some(one) => {
                let (name, at) = one.rsplit_once('@').expect("TIDEGATE_DAMAGE is every or NAME@OFFSET");
                Extent::One(name.into(), at.parse().expect("an offset"))
            }
        }
    }

    fn of(&self, place: &Place) -> Vec<Range<u64>> {
        match self {
            Extent::Sample => place.sample.iter().map(|at| *at..at + 1).collect(),
            Extent::Every => place.every(),
            Extent::One(name, at) if *name == place.name => {
                place.every().into_iter().filter(|range| range.contains(at)).collect()
            }
            Extent::One(..) => Vec::new(),
        }
    }
}

/// How it went, in offsets.
#[derive(Default)]
pub struct Count {
    pub right: u64,
    pub refused: u64,
    told: u64,
}

impl Count {
    /// A run that meets no damage proves nothing. One that was told where to look is the word of who told it.
    pub fn assert_at_least(&self, right: u64, refused: u64) {
        let few = self.right < right || self.refused < refused;
        assert!(!few || matches!(Extent::wanted(), Extent::One(..)), "{} {}", self.right, self.refused);
    }
}

/// Tries every offset that is wanted: `trial` is given name and offsets, flips, and tells whether all was right or something was
/// refused; anything else it does not survive. `test` is its caller's name. `cargo xtask soak damage` reads what is printed.
pub fn each(test: &str, places: &[Place], trial: impl Fn(&str, Range<u64>) -> bool + Sync) -> Count {
    let extent = Extent::wanted();
    let flips: Vec<(&Place, Range<u64>)> =
        places.iter().flat_map(|place| extent.of(place).into_iter().map(move |at| (place, at))).collect();
    assert!(!flips.is_empty(), "there is no such offset");
    let length = |at: &Range<u64>| at.end - at.start;
    let total: u64 = flips.iter().map(|(_, at)| length(at)).sum();
    let (next, count) = (AtomicUsize::new(0), Mutex::new(Count::default()));
    let work = || {
        while let Some((place, at)) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tried = catch_unwind(AssertUnwindSafe(|| trial(&place.name, at.clone())));
            let right = tried.unwrap_or_else(|why| {
                // The others need not go on.
                next.store(flips.len(), Ordering::Relaxed);
                eprintln!(
                    "bit {} of {} at {} was flipped; again: TIDEGATE_DAMAGE='{}@{}' cargo test --package tidegate-image \
                     --test damage -- --exact {test}",
                    bit(at.start), place.name, at.start, place.name, at.start
                );
                resume_unwind(why)
            });
            let mut count = count.lock();
            *(if right { &mut count.right } else { &mut count.refused }) += length(at);
            let done = count.right + count.refused;
            if done * 1000 / total > count.told {
                count.told = done * 1000 / total;
                println!("damage: {done} of {total}");
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (1..processors).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let count = count.into_inner();
    println!(
        "damage: {test}: {total} offsets of {} objects or files: {} gave right data, {} an error that named object and offset",
        places.len(),
        count.right,
        count.refused
    );
    count
}
