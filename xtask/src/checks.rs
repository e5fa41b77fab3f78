//! The verbs `test` and `ci`: every check, each told with its time, and a count at the end.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use crate::process::{failed_tests, run_logged};
use crate::{Result, blackbox, guest, setup, soak, suite};

/// Install what is needed, then run every check and test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only steps whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// One step after the other, so that each has the machine for itself.
    #[arg(long)]
    serial: bool,
}

/// Counts the steps that went well and keeps the names of those that did not. Lanes share it.
struct Tally {
    only: Option<String>,
    start: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    fn new(only: Option<String>) -> Tally {
        Tally { only, start: Instant::now(), counts: Mutex::default() }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().expect("counting does not panic")
    }

    /// Runs one step. A failure is told at once, and the following steps go on.
    fn step(&self, name: &str, work: impl FnOnce() -> Result) {
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
                self.counts().passed += 1;
            }
            Err(e) => {
                println!("FAIL {name} ({took:.1} s): {e}");
                self.counts().failed.push(name.to_owned());
            }
        }
    }

    /// The last line of the run.
    fn close(self) -> Result {
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        let Counts { passed, failed } = &*self.counts();
        if self.only.is_some() && *passed == 0 && failed.is_empty() {
            return Err("no step's name contains that: see the steps in docs/testing.md".into());
        }
        for name in failed {
            println!("failed: {name}");
        }
        println!("{passed} passed, {} failed ({minutes:.1} min)", failed.len());
        if failed.is_empty() { Ok(()) } else { Err("the run failed".into()) }
    }
}

/// The verb `test`. Once the product is built, it is tested while cargo builds and runs its own tests: building uses
/// processors, initiators mostly wait.
pub fn test(arguments: &Arguments) -> Result {
    let tally = Tally::new(arguments.only.clone());
    tally.step("install the real clients", || setup::packages(setup::CLIENT_PACKAGES));
    tally.step("install the test object stores", || setup::test_servers().map(drop));
    tally.step("cargo fmt", || cargo(&["fmt", "--all", "--check"]));
    tally.step("build the product for release", || setup::product().map(drop));
    if arguments.serial {
        sources(&tally);
        product(&tally);
    } else {
        std::thread::scope(|scope| {
            scope.spawn(|| sources(&tally));
            product(&tally);
        });
    }
    tally.close()
}

/// The verb `ci`.
pub fn ci() -> Result {
    let tally = Tally::new(None);
    tally.step("cargo fmt", || cargo(&["fmt", "--all", "--check"]));
    sources(&tally);
    tally.close()
}

/// What needs the release binary. The gateways it starts end with its thread.
fn product(tally: &Tally) {
    tally.step("iscsi-test-cu", || in_directory(suite::step));
    for scenario in blackbox::HOST {
        tally.step(scenario.name, || in_directory(scenario.run));
    }
    tally.step("soak crash, 5 rounds", || soak::crash_rounds(5, 1));
    tally.step("guest: boots and passes on output and status", guest::try_out);
    for scenario in blackbox::GUEST {
        tally.step(scenario.name, || in_directory(scenario.run));
    }
}

/// What needs no release binary: lints, cargo's tests.
fn sources(tally: &Tally) {
    tally.step("cargo clippy", || {
        cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    tally.step("cargo tests", || {
        let nextest =
            setup::cargo().args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
        match nextest {
            true => cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "fail"]),
            false => cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"]),
        }
    });
}

/// Runs cargo with its output in a log, so that what runs at the same time is not mixed up.
fn cargo(arguments: &[&str]) -> Result {
    let mut command = setup::cargo();
    command.args(arguments).env("TIDEGATE_TEST_BIN", setup::test_servers()?);
    logged(&mut command, arguments[0])
}

fn logged(command: &mut Command, name: &str) -> Result {
    let dir = setup::target().join("xtask");
    std::fs::create_dir_all(&dir)?;
    let log = dir.join(format!("{name}.log"));
    run_logged(command, &log).map_err(|e| {
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let failed: String = failed_tests(&text).iter().map(|name| format!("\nfailed: {name}")).collect();
        format!("{e}{failed}\n(all of it: {})", log.display()).into()
    })
}

/// Runs a scenario in a directory that is thrown away if it goes well, and kept to be looked at if not.
fn in_directory(scenario: fn(&Path) -> Result) -> Result {
    let mut dir = tempfile::Builder::new().prefix("tidegate-test.").tempdir()?;
    scenario(dir.path()).map_err(|e| {
        dir.disable_cleanup(true);
        format!("{e}\n(its logs and data are kept in {})", dir.path().display()).into()
    })
}
