//! Damage: the tests of `crates/image/tests/damage.rs`, which try a sample of the offsets, are told to try every one.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Instant;

use indicatif::ProgressBar;

use super::progress;
use crate::process::{run, shown, tail};
use crate::{Result, setup};

/// What each of them damages: objects; journal and local segments; the cache.
const TESTS: &[&str] = &["one_bit_in_the_bucket", "one_bit_on_the_cache_disk", "one_bit_in_the_cache"];
/// What their lines for us begin with.
const MARK: &str = "damage: ";

/// The verb `soak damage`.
pub fn main() -> Result {
    run(cargo().arg("--no-run"))?;
    let start = Instant::now();
    for test in TESTS {
        println!("{}", every_offset(test)?);
    }
    println!("no wrong data ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = setup::cargo();
    cargo.args(["test", "--quiet", "--release", "--package", "tidegate-image", "--test", "damage"]);
    // With a backtrace what failed would not be among the last lines.
    cargo.env("TIDEGATE_DAMAGE", "every").env("RUST_BACKTRACE", "0");
    cargo
}

/// Runs one of the tests; what it counted. It uses all processors by itself.
fn every_offset(test: &str) -> Result<String> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = cargo();
    command.args(["--", "--exact", test, "--nocapture"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen()?);
    let mut child = command.spawn().map_err(|e| format!("cannot run {}: {e}", shown(&command)))?;
    let bar = progress(0)?;
    bar.set_message(test.to_owned());
    let counted = child.stdout.take().map(|output| follow(output, &bar)).transpose()?.flatten();
    let status = child.wait()?;
    bar.finish_and_clear();
    match counted {
        Some(counted) if status.success() => Ok(counted),
        _ => Err(format!("{} failed: {status}\n{}", shown(&command), tail(log.path())).into()),
    }
}

/// Shows how far a test has come; gives what it says in the end.
fn follow(output: impl Read, bar: &ProgressBar) -> Result<Option<String>> {
    let mut counted = None;
    for line in BufReader::new(output).lines() {
        let line = line?;
        let Some((_, said)) = line.split_once(MARK) else { continue };
        let numbers = said.split_once(" of ").map(|(done, total)| (done.parse(), total.parse()));
        if let Some((Ok(done), Ok(total))) = numbers {
            bar.set_length(total);
            bar.set_position(done);
        } else {
            counted = Some(said.to_owned());
        }
    }
    Ok(counted)
}
