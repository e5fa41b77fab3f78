//! The rules of the house that a program can check: who may use whom, what pure crates must not know, how long files get.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floors, from the ground up; a crate uses only what stands on a lower one.
const FLOORS: &[&[&str]] = &[
    &["base"],
    &["local", "bucket", "scsi"],
    &["chain"],
    &["image"],
    &["portal"],
    &["gateway"],
    &["api"],
    &["tidegate"],
];
/// May use anything but the binary, and only tests use it.
const SIMULATION: &str = "sim";
/// Protocols as pure machines: no runtime, no sockets, no system calls.
const PURE: &[&str] = &["scsi", "base"];
const IMPURE: &[&str] =
    &["tokio", "libc", "rustix", "mio", "socket2", "async-std", "smol", "hyper", "rusqlite"];
/// Lines of production code in one file.
const LONGEST: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// By crate, the names of what it depends on in production.
fn crates() -> BTreeMap<String, Vec<String>> {
    let read = |entry: std::fs::DirEntry| {
        let manifest: toml::Table =
            std::fs::read_to_string(entry.path().join("Cargo.toml")).unwrap().parse().unwrap();
        let uses =
            manifest.get("dependencies").and_then(toml::Value::as_table).map(|t| t.keys().cloned().collect());
        (entry.file_name().into_string().unwrap(), uses.unwrap_or_default())
    };
    std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(read)
        .collect()
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&name))
}

#[test]
fn crates_use_only_what_stands_below_them() {
    let crates = crates();
    assert!(crates.len() >= 8, "the crates were not found");
    for (name, uses) in &crates {
        let ours = uses.iter().filter(|used| crates.contains_key(*used));
        if name == SIMULATION {
            assert!(!uses.contains(&"tidegate".to_owned()));
            continue;
        }
        let own = floor(name)
            .unwrap_or_else(|| panic!("{name} stands on no floor: give it one here and in ARCHITECTURE.md"));
        for used in ours {
            let below = floor(used).unwrap_or_else(|| panic!("{name} must not use {used}"));
            assert!(below < own, "{name} must not use {used}, which does not stand below it");
        }
    }
}

#[test]
fn only_portal_joins_protocols_and_engines() {
    for (name, uses) in crates() {
        let has = |wanted: &str| uses.iter().any(|used| used == wanted);
        if floor(&name) < floor("portal") {
            assert!(
                !(has("scsi") && (has("image") || has("chain") || has("local"))),
                "{name} joins both worlds"
            );
        }
    }
}

#[test]
fn protocols_are_pure() {
    let crates = crates();
    for name in PURE {
        for used in &crates[*name] {
            // Memory is no input or output: buffers are mapped. Nothing else of the kernel's is base's business.
            let memory = *name == "base" && used == "rustix" && base_uses_memory_only();
            assert!(memory || !IMPURE.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
}

fn base_uses_memory_only() -> bool {
    let mut files = Vec::new();
    sources(&root().join("crates/base/src"), &mut files);
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    text.contains("rustix::mm::") && text.matches("rustix::").count() == text.matches("rustix::mm::").count()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() && !matches!(name.as_str(), "tests" | "target" | "examples") {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_short_and_tests_stand_beside_them() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    sources(&root().join("xtask/src"), &mut files);
    assert!(files.len() > 80, "the sources were not found");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let is_test = file.file_name().unwrap() == "tests.rs" || file.file_name().unwrap() == "script.rs";
        let lines = text.lines().count();
        assert!(is_test || lines <= LONGEST, "{} has {lines} lines: split it", file.display());
        let inline = text.lines().any(|l| l.trim_start().starts_with("mod tests {"));
        assert!(!inline, "{} has its tests inside: put them into tests.rs beside it", file.display());
        for mark in ["FIX", "XX", "HA"].iter().zip(["ME", "X", "CK"]).map(|(a, b)| format!("{a}{b}")) {
            assert!(!text.contains(&mark), "{} holds the mark {mark}", file.display());
        }
    }
}

fn deny() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

fn strings(value: &toml::Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

#[test]
fn banned_crates_are_not_locked() {
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let locked: Vec<_> =
        lock["package"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
    let bans = deny()["bans"]["deny"].as_array().unwrap().clone();
    assert!(bans.len() > 2 && locked.len() > 50);
    for ban in bans {
        let name = ban["crate"].as_str().unwrap();
        assert!(!locked.iter().any(|l| l == name), "{name} is banned: {}", ban["reason"]);
    }
}

/// Whether a licence expression (SPDX) can be met by what is allowed: one side of each OR, every part of an AND.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let meets = |side: &str| {
        side.split(" AND ").all(|part| {
            let name = part.trim().split(" WITH ").next().unwrap_or_default();
            allowed.iter().any(|a| a == name)
        })
    };
    // With parentheses gone this is stricter than SPDX where an OR stands inside an AND: both sides are then asked for.
    expression.split(" OR ").any(meets)
}

#[test]
fn licences_are_allowed_ones() {
    let allowed = strings(&deny()["licenses"]["allow"]);
    assert!(is_allowed("MIT/Apache-2.0", &allowed) && !is_allowed("GPL-3.0", &allowed));
    assert!(!is_allowed("MIT AND GPL-3.0", &allowed));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let shown = std::process::Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence, &allowed), "{} has the licence {licence}", package["name"]);
    }
}
