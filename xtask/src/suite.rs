//! `iscsi-test-cu`, libiscsi's conformance suite: every test in a process of its own, against a checked-in list.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::process::{Finished, output_within};
use crate::product::Demo;
use crate::{Result, setup};

mod verdict;

pub use verdict::{Verdict, judge};

const EXPECTATIONS: &str = include_str!("../../tests/iscsi-test-cu.toml");
/// How long one test may take; a verdict of its own, counted as a failure. Sanitize.Reset sleeps for a minute.
const LIMIT: Duration = Duration::from_secs(150);
/// The disk most tests run on.
const USUAL: &str = "1GiB";

/// Run every test of Debian's iscsi-test-cu and compare with tests/iscsi-test-cu.toml.
///
/// A test that fails, is skipped or passes against the list fails the run (A1).
#[derive(clap::Args)]
pub struct Arguments {
    /// The disk to test, iscsi://HOST:PORT/TARGET/LUN; its data is destroyed. A demo of its own, if not said.
    url: Option<String>,
    /// How often everything is run.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Only tests whose names contain this; the number of passes is then not checked.
    #[arg(long)]
    only: Option<String>,
    /// Show every verdict, not only those that differ from the list.
    #[arg(long)]
    verbose: bool,
}

/// The checked-in list. What is not named in it must pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectations {
    minimum_passed: usize,
    exception: Vec<Exception>,
    large: Large,
}

/// Tests that need a large disk, so that what they watch is not over too soon.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Large {
    size: String,
    tests: Vec<String>,
}

/// Tests that do not simply pass, and why that is right.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    kind: Kind,
    reason: String,
    /// The standard's section that proves it.
    section: String,
    tests: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Skip,
    /// A pass beside which something wrote `[FAILED]`.
    Complaint,
    Fail,
}

impl Kind {
    /// As verdicts have it.
    fn word(self) -> &'static str {
        match self {
            Kind::Skip => "skip",
            Kind::Complaint => "complaint",
            Kind::Fail => "fail",
        }
    }
}

impl Expectations {
    fn read() -> Result<Expectations> {
        toml::from_str(EXPECTATIONS).map_err(|e| format!("tests/iscsi-test-cu.toml: {e}").into())
    }

    /// By test: what is expected other than a pass.
    fn exceptions(&self) -> Result<BTreeMap<&str, Kind>> {
        let mut all = BTreeMap::new();
        for exception in &self.exception {
            if exception.reason.is_empty() || exception.section.is_empty() {
                return Err("tests/iscsi-test-cu.toml has an exception without reason or section".into());
            }
            for test in &exception.tests {
                if all.insert(test.as_str(), exception.kind).is_some() {
                    return Err(format!("tests/iscsi-test-cu.toml names {test} twice").into());
                }
            }
        }
        Ok(all)
    }
}

/// The verb `suite`.
pub fn main(arguments: &Arguments) -> Result {
    setup::packages(&["libiscsi-bin"])?;
    let dir = tempfile::tempdir()?;
    let (only, verbose) = (arguments.only.as_deref(), arguments.verbose);
    let demos = match &arguments.url {
        Some(_) => None,
        None => Some(Demos::start(dir.path())?),
    };
    for run in 1..=arguments.runs {
        let summary = match (&arguments.url, &demos) {
            (Some(url), _) => once([url, url], only, verbose)?,
            (None, Some(demos)) => once(demos.urls(), only, verbose)?,
            (None, None) => return Err("no disk to test".into()),
        };
        println!("iscsi-test-cu, run {run} of {}: {summary}", arguments.runs);
    }
    demos.map_or(Ok(()), Demos::stop)
}

/// The step of `test`: the whole suite on demos of its own.
pub fn step(dir: &Path) -> Result {
    let demos = Demos::start(dir)?;
    println!("{}", once(demos.urls(), None, false)?);
    demos.stop()
}

/// The disks of a run: the usual one and the large one.
struct Demos([Demo; 2]);

impl Demos {
    fn start(dir: &Path) -> Result<Demos> {
        let demo = |name: &str, size: &str| {
            let dir = dir.join(name);
            std::fs::create_dir(&dir)?;
            Demo::start(&dir, size, None)
        };
        Ok(Demos([demo("usual", USUAL)?, demo("large", &Expectations::read()?.large.size)?]))
    }

    fn urls(&self) -> [&str; 2] {
        self.0.each_ref().map(Demo::url)
    }

    fn stop(self) -> Result {
        self.0.into_iter().try_for_each(|mut demo| demo.stop())
    }
}

fn list() -> Result<Vec<String>> {
    let listed = output_within(Command::new("iscsi-test-cu").arg("--list"), LIMIT)?;
    let tests: Vec<_> = listed
        .text
        .split_whitespace()
        .filter(|word| word.starts_with("ALL.") && word.matches('.').count() == 2)
        .map(str::to_owned)
        .collect();
    if tests.is_empty() { Err("iscsi-test-cu --list lists no tests".into()) } else { Ok(tests) }
}

/// Runs the suite once, on the usual and the large disk; an error names every test that went against the list.
fn once(urls: [&str; 2], only: Option<&str>, verbose: bool) -> Result<String> {
    let expectations = Expectations::read()?;
    let exceptions = expectations.exceptions()?;
    let tests = list()?;
    let named = exceptions.keys().copied().chain(expectations.large.tests.iter().map(String::as_str));
    for name in named {
        if !tests.iter().any(|t| t == name) {
            return Err(
                format!("tests/iscsi-test-cu.toml names {name}, which iscsi-test-cu does not have").into()
            );
        }
    }
    let chosen = tests.into_iter().filter(|t| only.is_none_or(|part| t.contains(part)));
    let (large, usual): (Vec<_>, Vec<_>) = chosen.partition(|t| expectations.large.tests.contains(t));
    let bar = ProgressBar::new((usual.len() + large.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let ended = |test: &str, verdict: &Verdict| {
        bar.inc(1);
        if verbose {
            bar.suspend(|| println!("{:4} {test} {}", verdict.word(), verdict.why()));
        }
    };
    // The disks are of two gateways, so the long tests of the large one need not be waited for.
    let verdicts = std::thread::scope(|scope| -> std::result::Result<_, String> {
        let run = |tests: Vec<String>, url: &str| -> std::result::Result<Vec<_>, String> {
            let one = |test: String| {
                bar.set_message(test.clone());
                let verdict = one(&test, url).map_err(|e| format!("{test}: {e}"))?;
                ended(&test, &verdict);
                Ok((test, verdict))
            };
            tests.into_iter().map(one).collect()
        };
        let large = scope.spawn(move || run(large, urls[1]));
        let mut verdicts = run(usual, urls[0])?;
        verdicts.extend(large.join().expect("judging does not panic")?);
        Ok(verdicts)
    })?;
    bar.finish_and_clear();
    weigh(&verdicts, &exceptions, only.is_none().then_some(expectations.minimum_passed))
}

/// Compares verdicts with the list; gives the counts.
fn weigh(
    verdicts: &[(String, Verdict)],
    exceptions: &BTreeMap<&str, Kind>,
    minimum: Option<usize>,
) -> Result<String> {
    let count = |word: &str| verdicts.iter().filter(|(_, v)| v.word() == word).count();
    let complaints = count(Kind::Complaint.word());
    let passed = count("pass") + complaints;
    let summary = format!(
        "{passed} passed ({complaints} of them with a complaint on the list), {} skipped, {} failed",
        count(Kind::Skip.word()),
        count(Kind::Fail.word())
    );
    let mut wrong = Vec::new();
    for (test, verdict) in verdicts {
        let expected = exceptions.get(test.as_str()).map_or("pass", |kind| kind.word());
        if verdict.word() != expected {
            wrong.push(format!("{test}: {expected} expected, {} seen {}", verdict.word(), verdict.why()));
        }
    }
    if !wrong.is_empty() {
        return Err(format!("{summary}; {} against the list:\n  {}", wrong.len(), wrong.join("\n  ")).into());
    }
    if let Some(minimum) = minimum.filter(|minimum| passed < *minimum) {
        return Err(format!("{summary}; at least {minimum} must pass").into());
    }
    Ok(summary)
}

/// One test in a process of its own. The URL is given twice, so that tests with two paths or initiators run as well.
fn one(test: &str, url: &str) -> Result<Verdict> {
    let mut command = Command::new("iscsi-test-cu");
    command.args(["-d", "-S", "-v", "-g", "-t", test, url, url]);
    let Finished { status, timed_out, text } = output_within(&mut command, LIMIT)?;
    if timed_out {
        return Ok(Verdict::Failed(format!("no end within {} s", LIMIT.as_secs())));
    }
    Ok(judge(test, status, &text))
}

#[cfg(test)]
mod tests;
