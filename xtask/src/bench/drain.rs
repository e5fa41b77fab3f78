//! `bench drain`: how fast dirty data reaches SeaweedFS, against bare puts of the same size and number.

use std::io::Read;
use std::time::Instant;

use super::store::Store;
use super::{Generator, Load, median, scratch, settle};
use crate::Result;
use crate::product::Demo;

/// The size of a segment, and how many go up at a time, as `tidegate demo` has them.
const SEGMENT: u64 = 16 << 20;
const PARALLEL: u64 = 4;
/// The bar (A9).
const WANTED: f64 = 0.80;

/// Measure how fast dirty data drains to SeaweedFS, against bare concurrent puts of the same size and number (A9).
#[derive(clap::Args)]
pub struct Arguments {
    /// MiB written in each round; what is dirty must fit the demo's journal.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How often both are measured, in turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The disk to measure on: a directory.
    #[arg(long, default_value = "target")]
    dir: std::path::PathBuf,
}

/// The verb `bench drain`.
pub fn main(arguments: &Arguments) -> Result {
    let (_made, dir) = scratch(&arguments.dir, "drain")?;
    let store = Store::start(&dir)?;
    let generator = Generator::new()?;
    let bytes = (arguments.mib << 20) / SEGMENT * SEGMENT;
    let mut demo = Demo::start(&dir, "4GiB", Some(store.url()))?;
    let mut noise = vec![0; SEGMENT as usize];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    let (mut drained, mut whole, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        settle(&dir)?;
        let start = Instant::now();
        store.put_all(round, bytes / SEGMENT, PARALLEL, &noise)?;
        let puts = bytes as f64 / start.elapsed().as_secs_f64();
        settle(&dir)?;
        let start = Instant::now();
        let load = Load { mode: "seqwrite", bytes: 1 << 20, depth: 8 };
        generator.disk(demo.url(), load, 0, bytes)?;
        let (written, dirty) = (Instant::now(), demo.dirty()?);
        demo.drained()?;
        let rate = dirty as f64 / written.elapsed().as_secs_f64();
        let both = bytes as f64 / start.elapsed().as_secs_f64();
        println!(
            "round {}: drained {:.0} MB/s ({:.0} MB), written and drained {:.0} MB/s, bare puts {:.0} MB/s",
            round + 1,
            rate / 1e6,
            dirty as f64 / 1e6,
            both / 1e6,
            puts / 1e6
        );
        drained.push(rate);
        whole.push(both);
        bare.push(puts);
    }
    demo.stop()?;
    let [drained, whole, bare] = [drained, whole, bare].map(median);
    let (ratio, with_writing) = (drained / bare, whole / bare);
    println!(
        "medians: drained {:.0} MB/s, bare puts {:.0} MB/s, ratio {ratio:.2} (wanted {WANTED}); \
         with the time of the writing {with_writing:.2}",
        drained / 1e6,
        bare / 1e6
    );
    if ratio < WANTED { Err("dirty data drains too slowly".into()) } else { Ok(()) }
}
