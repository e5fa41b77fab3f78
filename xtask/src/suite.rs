//! `iscsi-test-cu`, libiscsi's conformance suite: every test in a process of its own, against a checked-in list.

use std::collections::BTreeMap;
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
/// How long one test may take; a verdict of its own, counted as a failure.
const LIMIT: Duration = Duration::from_secs(60);

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
    #[serde(default)]
    skip: Vec<Exception>,
    /// Passes on whose way the test wrote `[FAILED]`.
    #[serde(default)]
    complaint: Vec<Exception>,
    /// Failures need the standard's section that proves the test wrong.
    #[serde(default)]
    fail: Vec<Proven>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    reason: String,
    tests: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proven {
    reason: String,
    section: String,
    tests: Vec<String>,
}

impl Expectations {
    fn read() -> Result<Expectations> {
        toml::from_str(EXPECTATIONS).map_err(|e| format!("tests/iscsi-test-cu.toml: {e}").into())
    }

    /// By test: what is expected other than a pass, and why.
    fn exceptions(&self) -> Result<BTreeMap<&str, (&'static str, String)>> {
        let skips = self.skip.iter().flat_map(|e| e.tests.iter().map(|t| (t, "skip", e.reason.clone())));
        let fails = self
            .fail
            .iter()
            .flat_map(|e| e.tests.iter().map(|t| (t, "fail", format!("{} ({})", e.reason, e.section))));
        let mut all = BTreeMap::new();
        let complaints =
            self.complaint.iter().flat_map(|e| e.tests.iter().map(|t| (t, "complaint", e.reason.clone())));
        for (test, kind, reason) in skips.chain(complaints).chain(fails) {
            if all.insert(test.as_str(), (kind, reason)).is_some() {
                return Err(format!("tests/iscsi-test-cu.toml names {test} twice").into());
            }
        }
        Ok(all)
    }
}

/// The verb `suite`.
pub fn main(arguments: &Arguments) -> Result {
    setup::packages(&["libiscsi-bin"])?;
    let dir = tempfile::tempdir()?;
    let demo = match &arguments.url {
        Some(_) => None,
        None => Some(Demo::start(dir.path(), "1GiB", None)?),
    };
    let url = arguments.url.as_deref().or(demo.as_ref().map(Demo::url)).unwrap_or_default();
    for run in 1..=arguments.runs {
        let summary = once(url, arguments.only.as_deref(), arguments.verbose)?;
        println!("iscsi-test-cu, run {run} of {}: {summary}", arguments.runs);
    }
    Ok(())
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

/// Runs the suite once; an error names every test that went against the list.
pub fn once(url: &str, only: Option<&str>, verbose: bool) -> Result<String> {
    let expectations = Expectations::read()?;
    let exceptions = expectations.exceptions()?;
    let tests = list()?;
    if let Some(unknown) = exceptions.keys().find(|name| !tests.iter().any(|t| t == *name)) {
        return Err(
            format!("tests/iscsi-test-cu.toml names {unknown}, which iscsi-test-cu does not have").into()
        );
    }
    let tests: Vec<_> = tests.into_iter().filter(|t| only.is_none_or(|part| t.contains(part))).collect();
    let bar = ProgressBar::new(tests.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let (mut counts, mut wrong) = ([0usize; 3], Vec::new());
    for test in &tests {
        bar.set_message(test.clone());
        let verdict = one(test, url)?;
        if verbose {
            bar.suspend(|| println!("{:4} {test} {}", verdict.word(), verdict.why()));
        }
        counts[match verdict {
            Verdict::Passed | Verdict::Complained(_) => 0,
            Verdict::Skipped(_) => 1,
            Verdict::Failed(_) => 2,
        }] += 1;
        let expected = exceptions.get(test.as_str()).map_or("pass", |(kind, _)| kind);
        if verdict.word() != expected {
            let line = format!("{test}: {expected} expected, {} seen {}", verdict.word(), verdict.why());
            bar.suspend(|| println!("{line}"));
            wrong.push(line);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let [passed, skipped, failed] = counts;
    let summary = format!("{passed} passed, {skipped} skipped, {failed} failed");
    if !wrong.is_empty() {
        return Err(format!("{summary}; {} against the list:\n  {}", wrong.len(), wrong.join("\n  ")).into());
    }
    if only.is_none() && passed < expectations.minimum_passed {
        return Err(format!("{summary}; at least {} must pass", expectations.minimum_passed).into());
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
