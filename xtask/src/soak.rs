//! Long runs that try to lose data: kills, power cuts, flipped bits and thousands of simulated worlds.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use crate::process::{output_within, run, run_logged, shown, until};
use crate::product::{Demo, Serve};
use crate::{Result, sabotage, setup};

mod damage;
mod outage;
mod power;

/// The verbs of `soak`.
#[derive(Subcommand)]
pub enum Verb {
    /// All that follow, each with its defaults, and the sabotage: what A3 asks for. Takes hours.
    All,
    /// kill -9 at random moments under a checking writer, then the bucket alone (A3).
    Crash {
        /// How often it is killed.
        #[arg(long, default_value_t = 200)]
        rounds: u32,
        /// Another seed kills at other moments.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Power cuts: every flush of a recorded run is replayed and recovered from, in the guest (A3).
    Power(power::Arguments),
    /// One bit flipped at every offset of every object of a small image, of its journal, its local segments and its cache: right
    /// data, or an error that names object and offset (A6).
    Damage,
    /// The bucket gone, refusing, or deaf for ten minutes each, while a guest writes; the room for it used up; and a
    /// neighbour whose bucket is dead (A5).
    Outage(outage::Arguments),
    /// Simulated worlds, one for each seed (A3).
    Sim {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
}

/// The verb `soak`.
pub fn main(verb: &Verb) -> Result {
    match verb {
        Verb::All => {
            crash_rounds(200, 1)?;
            power::main(&power::Arguments::default())?;
            damage::main()?;
            outage::main(&outage::Arguments::default())?;
            sim(0, 10_000)?;
            sabotage::main(&sabotage::Arguments::default())
        }
        Verb::Crash { rounds, seed } => crash_rounds(*rounds, *seed),
        Verb::Power(arguments) => power::main(arguments),
        Verb::Damage => damage::main(),
        Verb::Outage(arguments) => outage::main(arguments),
        Verb::Sim { seeds, first } => sim(*first, *seeds),
    }
}

/// The checking writer, with what it knows of the disk.
pub struct Writer {
    program: PathBuf,
    dir: PathBuf,
    seed: u64,
}

/// How an insisting writer fared. Moments count from its start.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Insisted {
    /// Bytes that were answered GOOD.
    pub bytes: u64,
    /// The longest any command took, whatever its answer.
    pub longest_ms: u64,
    /// Answers TASK SET FULL.
    pub full: u64,
    /// Answers DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
    pub no_space: u64,
    /// When the first of each came.
    pub first_full_ms: u64,
    /// See above.
    pub first_no_space_ms: u64,
}

/// The writer's status when the connection went away under it.
const LOST: i32 = 3;

impl Writer {
    /// A writer that knows of nothing written yet, and keeps its books in `dir`.
    pub fn new(dir: &Path, seed: u64) -> Result<Writer> {
        let dir = dir.join("writer");
        std::fs::create_dir_all(&dir)?;
        Ok(Writer { program: setup::writer()?, dir, seed })
    }

    fn command(&self, verb: &str, url: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg(url).arg(&self.dir).arg(self.seed.to_string());
        command
    }

    fn call(&self, command: &mut Command) -> Result<String> {
        let done = output_within(command, Duration::from_secs(120))?;
        match done.status {
            Some(0) => Ok(done.text),
            status => Err(format!("{} failed ({status:?}): {}", shown(command), done.text.trim()).into()),
        }
    }

    /// Writes for a while.
    pub fn write_for(&mut self, url: &str, time: Duration) -> Result<String> {
        self.call(self.command("write", url).arg(time.as_secs_f64().to_string()))
    }

    /// Writes at a rate (0: as fast as it goes) and goes on when writes are refused for want of room; to be ended with
    /// [`Writer::insisted`].
    pub fn begin_insisting(&mut self, url: &str, time: Duration, rate: u64) -> Result<Child> {
        let mut command = self.command("insist", url);
        command.arg(time.as_secs_f64().to_string()).arg(rate.to_string());
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?)
    }

    /// How an insisting writer fared.
    pub fn insisted(child: Child) -> Result<Insisted> {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.success() {
            true => Ok(serde_json::from_str(&text)?),
            false => Err(format!("the insisting writer ended with {}: {text}", output.status).into()),
        }
    }

    /// Insists for so long.
    pub fn insist(&mut self, url: &str, time: Duration, rate: u64) -> Result<Insisted> {
        Writer::insisted(self.begin_insisting(url, time, rate)?)
    }

    /// Runs the load generator: its mode, the bytes of each command, how many at a time, and the bytes of disk they go to.
    pub fn load(&self, url: &str, words: [&str; 3], time: Duration, span: u64) -> Result<serde_json::Value> {
        let mut command = Command::new(&self.program);
        command.arg("load").arg(url).args(words).arg(time.as_secs_f64().to_string()).arg(span.to_string());
        Ok(serde_json::from_str(&self.call(&mut command)?)?)
    }

    /// Writes until the connection is lost; to be ended with [`Writer::lost`].
    fn write_on(&mut self, url: &str) -> Result<Child> {
        let mut command = self.command("write", url);
        Ok(command.arg("0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// Waits until a writer has seen that its connection is gone.
    fn lost(mut child: Child) -> Result {
        let status = until("the end of the writer", Duration::from_secs(30), || Ok(child.try_wait()?))?;
        match status.code() {
            Some(LOST) => Ok(()),
            _ => Err(format!("the writer ended with {status} before its connection was lost").into()),
        }
    }

    /// Checks that every block is what was acknowledged or was on its way.
    pub fn verify(&mut self, url: &str) -> Result<String> {
        self.call(&mut self.command("verify", url))
    }

    /// Checks that the disk is a prefix of the order of writes.
    pub fn prefix(&self, url: &str) -> Result<String> {
        self.call(&mut self.command("prefix", url))
    }
}

/// SplitMix64: moments out of a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn progress(rounds: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::new(rounds);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);
    Ok(bar)
}

/// Kills a gateway under the checking writer again and again, sometimes while it recovers; in the end its cache disk is
/// lost, and the bucket alone must open to a prefix of the order of writes.
pub fn crash_rounds(rounds: u32, seed: u64) -> Result {
    let mut dir = tempfile::Builder::new().prefix("tidegate-crash.").tempdir()?;
    let done = crash(dir.path(), rounds, seed);
    done.map_err(|e| {
        dir.disable_cleanup(true);
        format!("seed {seed}: {e}\n(logs and data are kept in {})", dir.path().display()).into()
    })
}

fn crash(dir: &Path, rounds: u32, seed: u64) -> Result {
    let mut chance = Chance(seed);
    let mut demo = Demo::start(dir, "256MiB", None)?;
    let mut writer = Writer::new(dir, seed)?;
    let bar = progress(rounds.into())?;
    for round in 1..=rounds {
        let writing = writer.write_on(demo.url())?;
        std::thread::sleep(Duration::from_millis(50 + chance.below(1500)));
        demo.kill()?;
        Writer::lost(writing)?;
        for _ in 0..chance.below(3) {
            demo.again_but_killed(Duration::from_millis(chance.below(60)))?;
        }
        demo.again()?;
        let found = writer.verify(demo.url()).map_err(|e| format!("round {round}: {e}"))?;
        bar.set_message(found.trim().to_owned());
        bar.inc(1);
    }
    // Once more under load, so that some of it has not reached the bucket when the cache disk is lost.
    let writing = writer.write_on(demo.url())?;
    std::thread::sleep(Duration::from_secs(5));
    demo.kill()?;
    Writer::lost(writing)?;
    bar.finish_and_clear();
    let found = bucket_alone(dir, &demo.data().join("bucket"), &writer)?;
    println!(
        "{rounds} kills: nothing lost, torn or resurrected; the bucket alone is a prefix: {}",
        found.trim()
    );
    Ok(())
}

/// Opens the volume from its bucket on another gateway, as after the loss of the first.
fn bucket_alone(dir: &Path, bucket: &Path, writer: &Writer) -> Result<String> {
    let other = dir.join("other");
    std::fs::create_dir(&other)?;
    let mut serve = Serve::start(&other)?;
    serve.tell(&["bucket", "add", "left", &bucket.display().to_string()])?;
    let refusal = match serve.tell(&["volume", "adopt", "disk"]) {
        Ok(_) => return Err("a volume that was not closed was adopted without asking for its journal".into()),
        Err(e) => e.to_string(),
    };
    let epoch = refusal
        .split("accept-loss")
        .nth(1)
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).find(|w| !w.is_empty()))
        .ok_or_else(|| format!("the refusal names no epoch to accept the loss of: {refusal}"))?;
    serve.tell(&["volume", "adopt", "disk", "--accept-loss", epoch])?;
    let url = format!("iscsi://{}/iqn.2026-11.org.tidegate:test.disk/0", serve.portal());
    let found = writer.prefix(&url)?;
    let newest = serde_json::from_str::<serde_json::Value>(&found)?["newest"].as_u64();
    if newest == Some(0) {
        return Err("the bucket holds no write at all: nothing was uploaded".into());
    }
    serve.stop()?;
    Ok(found)
}

/// Runs the simulation over many seeds, in slices, so that its progress shows.
fn sim(first: u64, seeds: u64) -> Result {
    const SLICE: u64 = 500;
    let test = |first: u64, seeds: u64| {
        let mut cargo = setup::cargo();
        cargo.args(["test", "--quiet", "--release", "--package", "tidegate-sim", "--test", "worlds"]);
        cargo.env("TIDEGATE_SEED", first.to_string()).env("TIDEGATE_SEEDS", seeds.to_string());
        cargo
    };
    run(test(first, 1).arg("--no-run"))?;
    let (bar, start) = (progress(seeds)?, Instant::now());
    let log = tempfile::NamedTempFile::new()?;
    let mut at = first;
    while at < first + seeds {
        let slice = SLICE.min(first + seeds - at);
        run_logged(&mut test(at, slice), log.path())?;
        bar.inc(slice);
        at += slice;
    }
    bar.finish_and_clear();
    println!(
        "{seeds} worlds from seed {first} on, none lost a write ({:.0} s)",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
