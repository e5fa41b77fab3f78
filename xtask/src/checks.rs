//! The verbs `test` and `ci`: every check, one after the other, each told with its time, and a count at the end.

use std::path::Path;
use std::time::Instant;

use crate::process::run;
use crate::{Result, blackbox, guest, setup, soak, suite};

/// Install what is needed, then run every check and test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only steps whose names contain this.
    #[arg(long)]
    only: Option<String>,
}

/// Counts the steps that went well and keeps the names of those that did not.
struct Tally {
    only: Option<String>,
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    fn new(only: Option<String>) -> Tally {
        Tally { only, passed: 0, failed: Vec::new() }
    }

    /// Runs one step. A failure is told at once, and the following steps go on.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result) {
        if self.only.as_deref().is_some_and(|part| !name.contains(part)) {
            return;
        }
        println!("---- {name}");
        let start = Instant::now();
        let done = work();
        let took = start.elapsed().as_secs_f64();
        match done {
            Ok(()) => {
                println!("ok   {name} ({took:.1} s)");
                self.passed += 1;
            }
            Err(e) => {
                println!("FAIL {name} ({took:.1} s): {e}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// The last line of the run.
    fn close(self) -> Result {
        if self.only.is_some() && self.passed == 0 && self.failed.is_empty() {
            return Err("no step's name contains that: see the steps in docs/testing.md".into());
        }
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        if self.failed.is_empty() { Ok(()) } else { Err("the run failed".into()) }
    }
}

/// The verb `test`.
pub fn test(arguments: &Arguments) -> Result {
    let mut tally = Tally::new(arguments.only.clone());
    tally.step("install the real clients", || setup::packages(setup::CLIENT_PACKAGES));
    tally.step("install the test object stores", || setup::test_servers().map(drop));
    sources(&mut tally);
    tally.step("build the product for release", || setup::product().map(drop));
    tally.step("iscsi-test-cu", || in_directory(suite::step));
    for scenario in blackbox::HOST {
        tally.step(scenario.name, || in_directory(scenario.run));
    }
    tally.step("guest: boots and passes on output and status", guest::try_out);
    for scenario in blackbox::GUEST {
        tally.step(scenario.name, || in_directory(scenario.run));
    }
    tally.step("soak crash, 5 rounds", || soak::crash_rounds(5, 1));
    tally.close()
}

/// The verb `ci`.
pub fn ci() -> Result {
    let mut tally = Tally::new(None);
    sources(&mut tally);
    tally.close()
}

/// What needs no release binary: formatting, lints, cargo's tests.
fn sources(tally: &mut Tally) {
    tally.step("cargo fmt", || run(setup::cargo().args(["fmt", "--all", "--check"])));
    tally.step("cargo clippy", || {
        let mut clippy = setup::cargo();
        clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        run(&mut clippy)
    });
    tally.step("cargo tests", || {
        let bin = setup::test_servers()?;
        let nextest =
            setup::cargo().args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
        let mut tests = setup::cargo();
        tests.env("TIDEGATE_TEST_BIN", bin);
        if nextest {
            tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "fail"]);
        } else {
            tests.args(["test", "--quiet", "--workspace", "--no-fail-fast"]);
        }
        run(&mut tests)
    });
}

/// Runs a scenario in a directory that is thrown away if it goes well, and kept to be looked at if not.
fn in_directory(scenario: fn(&Path) -> Result) -> Result {
    let mut dir = tempfile::Builder::new().prefix("tidegate-test.").tempdir()?;
    scenario(dir.path()).map_err(|e| {
        dir.disable_cleanup(true);
        format!("{e}\n(its logs and data are kept in {})", dir.path().display()).into()
    })
}
