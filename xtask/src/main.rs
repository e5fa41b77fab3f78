//! What is done to the project rather than by it: `cargo xtask test` and its kin.

mod clients;
mod test;

use std::process::ExitCode;

const HELP: &str = "usage: cargo xtask VERB

  test    everything that must pass; installs the clients it drives
";

fn main() -> ExitCode {
    let verb = std::env::args().nth(1);
    let done = match verb.as_deref() {
        Some("test" | "ci") => test::run_everything(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
