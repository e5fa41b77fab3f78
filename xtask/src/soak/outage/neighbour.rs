//! Two volumes on one cache disk, and the bucket of one is dead: the other goes on at its speed (A5).

use std::path::Path;
use std::time::Duration;

use super::add_bucket;
use crate::Result;
use crate::bench::store::Store;
use crate::process::until;
use crate::product::{Layout, Serve};
use crate::soak::{Insisted, Writer, progress};
use crate::weather::{Proxy, Weather};

const DISK: &str = "journal = \"1 GiB\"\nlocal_segments = \"192 MiB\"";
/// What the dead volume may keep.
const SHARE: u64 = 192 << 20;
/// What is written to it, bytes per second, whether its bucket lives or not.
const RATE: u64 = 5_000_000;
/// One measurement.
const WINDOW: Duration = Duration::from_secs(10);
/// What is measured: small writes, several at a time.
const LOAD: [&str; 3] = ["randwrite", "4096", "8"];
const SPAN: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(180);
/// The least that must be left of the speed.
const LEAST: f64 = 0.90;

struct World {
    serve: Serve,
    proxy: Proxy,
    writer: Writer,
}

/// The live volume's speeds in one round, writes per second.
struct Round {
    beside_alive: f64,
    beside_filling: f64,
    beside_full: f64,
}

pub fn run(dir: &Path, rounds: usize) -> Result {
    let store = Store::start(dir)?;
    let (live, dead) = (Proxy::start(store.port())?, Proxy::start(store.port())?);
    let serve = Serve::with(dir, &Layout { disk: DISK, ..Layout::default() })?;
    for (name, proxy) in [("live", &live), ("dead", &dead)] {
        add_bucket(&serve, name, proxy.port(), name)?;
        serve.tell(&["volume", "create", name, "--size", "512MiB", "--bucket", name])?;
    }
    let mut world = World { serve, proxy: dead, writer: Writer::new(dir, 3)? };
    world.window("live", 0)?; // the first one writes where nothing is yet
    let bar = progress(rounds as u64)?;
    let mut done = Vec::new();
    for _ in 0..rounds {
        done.push(world.round()?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    world.writer.verify(&world.serve.url("dead"))?;
    world.serve.stop()?;
    judge(&done)
}

fn judge(rounds: &[Round]) -> Result {
    let speed = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
    let filling = median(rounds.iter().map(|r| r.beside_filling / r.beside_alive));
    let full = median(rounds.iter().map(|r| r.beside_full / r.beside_alive));
    println!(
        "a neighbour written to at {} MB/s: {:.0} writes/s beside one whose bucket lives; its bucket dead, {:.0} while its share \
         fills (ratio {filling:.2}) and {:.0} when that is full ({full:.2}); medians of {} rounds",
        RATE / 1_000_000,
        speed(|r| r.beside_alive),
        speed(|r| r.beside_filling),
        speed(|r| r.beside_full),
        rounds.len(),
    );
    match filling.min(full) >= LEAST {
        true => Ok(()),
        false => Err(format!("a dead bucket is felt by another volume: less than {LEAST} is left").into()),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl World {
    /// Alive, dead and filling, dead and full, alive again: what only time brings is on both sides.
    fn round(&mut self) -> Result<Round> {
        let before = self.beside_alive()?;
        self.proxy.set(Weather::Away);
        let (beside_filling, filling) = self.window("dead", RATE)?;
        until("a full neighbour", LIMIT, || {
            self.writer.insist(&self.serve.url("dead"), Duration::from_secs(2), 2 * RATE)?;
            let dirty = self.serve.volume("dead")?["dirty"].as_u64().unwrap_or_default();
            Ok((dirty > SHARE * 9 / 10).then_some(()))
        })?;
        let (beside_full, full) = self.window("dead", RATE)?;
        if self.serve.volume("dead")?["trouble"].is_null() || filling.bytes < full.bytes {
            return Err(format!("the neighbour's bucket was not dead: {filling:?}, then {full:?}").into());
        }
        self.proxy.set(Weather::Fair);
        self.serve.drained(None, LIMIT)?;
        let after = self.beside_alive()?;
        Ok(Round { beside_alive: (before + after) / 2.0, beside_filling, beside_full })
    }

    fn beside_alive(&mut self) -> Result<f64> {
        let (speed, alive) = self.window("dead", RATE)?;
        if alive.bytes < RATE * WINDOW.as_secs() * 8 / 10 || alive.full + alive.no_space > 0 {
            return Err(
                format!("the neighbour's writes are not done while its bucket lives: {alive:?}").into()
            );
        }
        self.serve.drained(Some("dead"), LIMIT)?;
        Ok(speed)
    }

    /// The live volume's speed, from a drained start, beside a neighbour that is written to at `rate`.
    fn window(&mut self, neighbour: &str, rate: u64) -> Result<(f64, Insisted)> {
        self.serve.drained(Some("live"), LIMIT)?;
        let around = Duration::from_secs(1);
        let beside = match rate {
            0 => None,
            _ => Some(self.writer.begin_insisting(&self.serve.url(neighbour), WINDOW + around, rate)?),
        };
        std::thread::sleep(around / 2);
        let load = self.writer.load(&self.serve.url("live"), LOAD, WINDOW, SPAN)?;
        let beside = beside.map_or_else(|| Ok(Insisted::default()), Writer::insisted)?;
        Ok((load["iops"].as_f64().ok_or("the load generator told no speed")?, beside))
    }
}
