//! The one binary: the daemon, its command line, and a demonstration.

mod cli;
mod demo;
mod run;
mod say;
mod show;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match run::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // If nobody can be told, the exit status still tells.
            let _ = writeln!(std::io::stderr(), "tidegate: {e}");
            ExitCode::FAILURE
        }
    }
}
