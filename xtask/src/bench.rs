//! Measurements against the peers, side by side in one run: absolute figures of a shared machine mean little.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Subcommand;
use serde::Deserialize;

use crate::Result;
use crate::process::{output_within, run};

mod block;
mod drain;
pub mod store;
mod tgt;

/// The verbs of `bench`.
#[derive(Subcommand)]
pub enum Verb {
    /// An iSCSI disk against tuned tgtd on the same disk, interleaved (A8).
    Block(block::Arguments),
    /// How fast dirty data drains to SeaweedFS, against bare concurrent puts (A9).
    Drain(drain::Arguments),
}

/// The verb `bench`.
pub fn main(verb: &Verb) -> Result {
    match verb {
        Verb::Block(arguments) => block::main(arguments),
        Verb::Drain(arguments) => drain::main(arguments),
    }
}

/// What the load generator measured.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Measured {
    ios: u64,
    iops: f64,
    mb_per_s: f64,
    p99_us: f64,
}

/// A load: mode, bytes of a transfer, transfers at a time.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    mode: &'static str,
    bytes: u64,
    depth: u32,
}

impl Load {
    fn is_write(self) -> bool {
        self.mode.ends_with("write")
    }

    fn name(self) -> String {
        let size = if self.bytes >= 1 << 20 {
            format!("{}M", self.bytes >> 20)
        } else {
            format!("{}k", self.bytes >> 10)
        };
        format!("{size} {} QD{}", self.mode, self.depth)
    }
}

/// A directory of its own below `dir`, on a disk with room for what is measured there.
fn scratch(dir: &Path, name: &str) -> Result<(tempfile::TempDir, PathBuf)> {
    std::fs::create_dir_all(dir)?;
    let shown =
        output_within(Command::new("df").args(["--output=avail", "-B1"]).arg(dir), Duration::from_secs(60))?;
    let free: u64 = shown.text.split_whitespace().next_back().and_then(|word| word.parse().ok()).unwrap_or(0);
    if free < ROOM {
        let [free, room] = [free, ROOM].map(|bytes| bytes >> 30);
        return Err(format!(
            "{} has {free} GiB free: make room for {room} GiB, or name another --dir",
            dir.display()
        )
        .into());
    }
    let made = tempfile::Builder::new().prefix(&format!("bench-{name}.")).tempdir_in(dir)?;
    let path = made.path().canonicalize()?;
    Ok((made, path))
}

/// Waits until the disk has what was written to it, so that nobody pays for what another left behind.
fn settle(dir: &Path) -> Result {
    run(Command::new("sync").arg("--file-system").arg(dir))
}

/// Journal, cache and bucket of a demo, with what is not yet removed from that, and the peer's files.
const ROOM: u64 = 20 << 30;

/// The load generator.
pub struct Generator {
    program: PathBuf,
}

impl Generator {
    fn new() -> Result<Generator> {
        Ok(Generator { program: crate::setup::writer()? })
    }

    /// Loads a disk for so long; no seconds: its whole span once.
    fn disk(&self, url: &str, load: Load, seconds: u32, span: u64) -> Result<Measured> {
        self.call("load", url, load, "", seconds, span)
    }

    /// The same on a file, without a target.
    fn file(&self, file: &Path, load: Load, sync: bool, seconds: u32, span: u64) -> Result<Measured> {
        self.call("raw", &file.display().to_string(), load, if sync { "-sync" } else { "" }, seconds, span)
    }

    fn call(
        &self,
        verb: &str,
        on: &str,
        load: Load,
        suffix: &str,
        seconds: u32,
        span: u64,
    ) -> Result<Measured> {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg(on).arg(format!("{}{suffix}", load.mode));
        command.args([load.bytes, load.depth.into(), seconds.into(), span].map(|n| n.to_string()));
        let done = output_within(&mut command, Duration::from_secs(u64::from(seconds) + 300))?;
        match done.status {
            Some(0) => Ok(serde_json::from_str(&done.text)?),
            status => {
                Err(format!("the load {} failed ({status:?}): {}", load.name(), done.text.trim()).into())
            }
        }
    }
}

/// The middle of some figures.
fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = figures.into_iter().collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How far some figures lie apart: from the least to the greatest, as a part of the median.
fn spread(figures: impl IntoIterator<Item = f64>) -> f64 {
    let all: Vec<f64> = figures.into_iter().collect();
    let (least, greatest) =
        all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, g), f| (l.min(*f), g.max(*f)));
    (greatest - least) / median(all)
}

/// Where in some figures the `n` neighbours lie that are closest together, of those that count.
fn steadiest(figures: &[f64], n: usize, counts: impl Fn(usize) -> bool) -> Option<Range<usize>> {
    let of = |run: &Range<usize>| spread(figures[run.clone()].iter().copied());
    let runs = (n..=figures.len()).map(|end| end - n..end);
    runs.filter(|run| run.clone().all(&counts)).min_by(|a, b| of(a).total_cmp(&of(b)))
}

#[cfg(test)]
mod tests;
