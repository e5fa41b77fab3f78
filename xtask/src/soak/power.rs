//! Power cuts. A run in the guest is recorded by the kernel's `dm-log-writes`, which keeps every write to the cache disk
//! and where the flushes were. Then the disk is built as it would have been found after a cut at a flush, the gateway is
//! started on it, and every write that had been acknowledged by then must be there, and nothing out of order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::guest::{Guest, Plan};
use crate::process::{last_words, run};
use crate::{Result, setup};

mod log;

use log::{Entry, Log};

/// The disk under the gateway: its journal and its bucket.
const DISK: u64 = 2 << 30;
const LOG: u64 = 8 << 30;
/// Their flushes, some 220, take a quarter of an hour to recover from.
const ROUNDS: u32 = 4;
/// Points a guest recovers from in one boot.
const BATCH: usize = 6;
/// Guests at a time.
const GUESTS: usize = 2;
const LIMIT: Duration = Duration::from_secs(600);

/// Record a run in the guest, cut the power at every one of its flushes and recover.
#[derive(clap::Args)]
pub struct Arguments {
    /// How often the writer pauses; what it has written by then is known to be acknowledged.
    #[arg(long, default_value_t = ROUNDS)]
    rounds: u32,
    /// For a quick look: recover from so many flushes only, spread evenly; 0: from every one.
    #[arg(long, default_value_t = 0)]
    points: usize,
    /// Where the disks are built: a directory with some GiB.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { rounds: ROUNDS, points: 0, dir: "target".into() }
    }
}

/// One cut: after so many entries of the log, with so many rounds acknowledged.
#[derive(Debug, Clone, Copy)]
struct Cut {
    entries: usize,
    round: u32,
}

/// The verb `soak power`.
pub fn main(arguments: &Arguments) -> Result {
    std::fs::create_dir_all(&arguments.dir)?;
    let mut dir = tempfile::Builder::new().prefix("soak-power.").tempdir_in(&arguments.dir)?;
    let root = dir.path().canonicalize()?;
    let done = record(&root, arguments.rounds).and_then(|log| replay(&root, &log, arguments.points));
    done.map_err(|e| {
        dir.disable_cleanup(true);
        format!("{e}\n(logs and disks are kept in {})", root.display()).into()
    })
}

fn sparse(path: &Path, bytes: u64) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(bytes)?;
    Ok(file)
}

/// A guest that runs a script with the gateway's words before it.
struct Run {
    guest: Guest,
    output: PathBuf,
}

impl Run {
    /// Boots it. What it says goes to `output` in its share.
    fn start(share: &Path, output: &str, disks: &[PathBuf], script: &str) -> Result<Run> {
        let output = share.join(output);
        let text = format!("{}\n{script}", include_str!("power/gateway.sh"));
        let plan = Plan { share, disks, limit: LIMIT, output: Some(&output), command: &text };
        Ok(Run { guest: Guest::boot(&plan)?, output })
    }

    fn wait(self) -> Result {
        match self.guest.wait()?.status {
            0 => Ok(()),
            status => {
                Err(format!("the guest ended with status {status}: {}", last_words(&self.output)).into())
            }
        }
    }
}

/// Runs gateway and writer in the guest; gives what the kernel recorded.
fn record(root: &Path, rounds: u32) -> Result<Log> {
    let (share, disk, log) = (root.join("share"), root.join("disk"), root.join("log"));
    std::fs::create_dir(&share)?;
    std::fs::copy(setup::product()?, share.join("tidegate"))?;
    std::fs::copy(setup::writer()?, share.join("writer"))?;
    sparse(&disk, DISK)?;
    sparse(&log, LOG)?;
    println!("recording {rounds} rounds");
    let script = format!("ROUNDS={rounds}\n{}", include_str!("power/record.sh"));
    Run::start(&share, "output", &[disk, log.clone()], &script)?.wait()?;
    Log::open(&log)
}

/// Recovers from cuts at the log's flushes: at every one, or at so many of them.
fn replay(root: &Path, log: &Log, points: usize) -> Result {
    let entries = log.entries()?;
    let all = cuts(&entries);
    if all.is_empty() {
        return Err("the recorded run holds no flush: the gateway syncs nothing".into());
    }
    let step = if points == 0 { 1 } else { all.len().div_ceil(points) };
    // The last flush is always among them.
    let chosen: Vec<Cut> = all.iter().rev().step_by(step).rev().copied().collect();
    println!("{} writes and {} flushes recorded; recovering from {}", entries.len(), all.len(), chosen.len());
    let disk = root.join("replayed");
    let file = sparse(&disk, DISK)?;
    let (mut applied, mut done) = (0, 0);
    for group in chosen.chunks(GUESTS * BATCH) {
        let mut running = Vec::new();
        for (n, batch) in group.chunks(BATCH).enumerate() {
            let mut disks = Vec::new();
            for cut in batch {
                for entry in &entries[applied..cut.entries] {
                    log.apply(entry, &file)?;
                }
                applied = cut.entries;
                let copy = root.join(format!("cut-{n}-{}", disks.len()));
                run(Command::new("cp").arg("--sparse=always").arg(&disk).arg(&copy))?;
                disks.push(copy);
            }
            running.push((batch, recover(root, n, batch, &disks)?));
        }
        for (batch, guest) in running {
            guest.wait().map_err(|e| format!("cuts {batch:?} of {} entries: {e}", entries.len()))?;
            done += batch.len();
        }
        println!("{done} of {}", chosen.len());
    }
    show_that_it_can_fail(root, log, &entries, &all)?;
    println!("{done} power cuts: every acknowledged write was there, in order");
    Ok(())
}

/// A guest, the `n`th of those at a time, that recovers from cuts, whose disks are given in their order.
fn recover(root: &Path, n: usize, cuts: &[Cut], disks: &[PathBuf]) -> Result<Run> {
    let rounds: Vec<String> = cuts.iter().map(|cut| cut.round.to_string()).collect();
    let script = format!("GUEST={n}\nCUTS=({})\n{}", rounds.join(" "), include_str!("power/recover.sh"));
    Run::start(&root.join("share"), &format!("output-{n}"), disks, &script)
}

/// A check that cannot fail proves nothing: a disk cut after the first round must not pass for one that has acknowledged
/// the last.
fn show_that_it_can_fail(root: &Path, log: &Log, entries: &[Entry], all: &[Cut]) -> Result {
    let (Some(last), Some(early)) = (all.last(), all.iter().find(|cut| cut.round == 1)) else {
        return Err("the recorded run is too short: it has no flush after its first round".into());
    };
    let disk = root.join("early");
    let file = sparse(&disk, DISK)?;
    for entry in &entries[..early.entries] {
        log.apply(entry, &file)?;
    }
    let late = Cut { round: last.round, ..*early };
    match recover(root, 0, &[late], &[disk])?.wait() {
        Ok(()) => Err("a disk of the first round passed for one of the last: this test cannot fail".into()),
        Err(e) if e.to_string().contains("FAIL: cut 0, after round") => Ok(()),
        Err(e) => Err(format!("the disk of the first round could not be looked at: {e}").into()),
    }
}

/// Every flush since the volume was there, which the first mark tells.
fn cuts(entries: &[Entry]) -> Vec<Cut> {
    let (mut round, mut found) = (None, Vec::new());
    for (at, entry) in entries.iter().enumerate() {
        if let Some(mark) = &entry.mark {
            round = mark.strip_prefix("round-").and_then(|n| n.parse().ok()).or(round);
        } else if let (true, Some(round)) = (entry.is_flush(), round) {
            found.push(Cut { entries: at + 1, round });
        }
    }
    found
}

/// Fills a range of a disk. What is long becomes a hole, which costs nothing to copy.
fn write_zeros(file: &File, at: u64, bytes: u64) -> Result {
    if bytes <= 1 << 20 {
        return Ok(file.write_all_at(&vec![0; bytes as usize], at)?);
    }
    let mut hole = Command::new("fallocate");
    hole.args(["--punch-hole", "--offset", &at.to_string(), "--length", &bytes.to_string(), "/dev/stdin"]);
    run(hole.stdin(file.try_clone()?))
}

#[cfg(test)]
mod tests;
