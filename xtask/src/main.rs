//! Tidegate's chores. `cargo xtask --help` lists them; `docs/testing.md` tells what each proves.
#![allow(clippy::disallowed_methods, reason = "chores drive real programs, whose time is the real one")]

mod bench;
mod blackbox;
mod checks;
mod fuzz;
mod guest;
mod process;
mod product;
mod sabotage;
mod setup;
mod soak;
mod suite;
mod weather;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a chore returns; an error is told to the user as it stands.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tidegate's chores: everything that is run besides the product itself.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install the real clients, then run every check and test. Needs root and a network the first time.
    Test(checks::Arguments),
    /// The quick part of `test`: formatting, lints and cargo's tests; installs nothing but the test servers.
    Ci,
    /// Run a command as root in a Linux guest whose 127.0.0.0/8 is this machine's.
    Guest(guest::Arguments),
    /// Run every test of iscsi-test-cu and compare with the checked-in expectations.
    Suite(suite::Arguments),
    /// Long runs that try to lose data.
    #[command(subcommand)]
    Soak(soak::Verb),
    /// Break what keeps data safe, in a copy of the sources, and see whether the tests notice.
    Sabotage(sabotage::Arguments),
    /// Measure against the peers.
    #[command(subcommand)]
    Bench(bench::Verb),
    /// Fuzz the decoders of what comes from network, disk and bucket.
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Test(arguments) => checks::test(&arguments),
        Verb::Ci => checks::ci(),
        Verb::Guest(arguments) => return guest::main(&arguments),
        Verb::Suite(arguments) => suite::main(&arguments),
        Verb::Soak(verb) => soak::main(&verb),
        Verb::Sabotage(arguments) => sabotage::main(&arguments),
        Verb::Bench(verb) => bench::main(&verb),
        Verb::Fuzz(arguments) => fuzz::main(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}
