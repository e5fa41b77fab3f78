//! `cargo xtask test`.

use std::process::Command;

use crate::clients::{self, run};

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

/// Everything that must pass.
pub fn run_everything() -> Result<(), String> {
    clients::debian()?;
    let stores = clients::stores()?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo(&["test", "--workspace"]).env("TIDEGATE_TEST_BIN", stores))
}
