//! Sabotage: what keeps the data safe is taken out of a copy of the sources, one thing at a time, and the tests must
//! notice (A3). A test that cannot fail proves nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{failed_tests, output_within, run, shown, tail_of};
use crate::{Result, setup};

/// Break the sources on purpose, one thing at a time, and see whether the tests notice.
///
/// Works on a copy in the target directory. Fails if a sabotage goes unnoticed, or if its line is not there any more.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Only those whose names contain this.
    #[arg(long)]
    only: Option<String>,
}

/// One thing taken away.
struct Sabotage {
    name: &'static str,
    file: &'static str,
    /// A whole line, without its indentation, which the file has exactly once.
    line: &'static str,
    instead: &'static str,
    /// What should notice; one failing test in any of them is enough.
    tests: &'static [Tests],
}

/// A set of tests, as cargo is told.
type Tests = &'static [&'static str];

const JOURNAL: Tests = &["--package", "tidegate-local", "--lib", "journal::"];
const CACHE: Tests = &["--package", "tidegate-local", "--lib", "cache::"];
const CHAIN: Tests = &["--package", "tidegate-chain", "--lib"];
const DAMAGE: Tests = &["--package", "tidegate-image", "--test", "damage"];
const FORKS: Tests = &["--package", "tidegate-image", "--test", "forks"];
const COPIES: Tests = &["--package", "tidegate-image", "--test", "copies"];
const CHANCE: Tests = &["--package", "tidegate-scsi", "--lib", "chance::"];
const WORLDS: Tests = &["--package", "tidegate-sim", "--test", "worlds"];

const ALL: &[Sabotage] = &[
    Sabotage {
        name: "the memory of a command that ended stays taken",
        file: "crates/scsi/src/iscsi/session/mod.rs",
        line: "self.reserved -= task.reserved;",
        instead: "",
        tests: &[CHANCE],
    },
    Sabotage {
        name: "the journal is written but not synced",
        file: "crates/local/src/journal/commit.rs",
        line: "self.now.file.write_durable(offset, parts).await.map_err(|e| {",
        instead: "self.now.file.write(offset, parts).await.map_err(|e| {",
        tests: &[JOURNAL, WORLDS],
    },
    Sabotage {
        name: "writes are acknowledged before the sync",
        file: "crates/local/src/journal/commit.rs",
        line: "if let Err(e) = self.write(shared, batch.offset, &parts).await {",
        instead: "{ let at = batch.offset; self.publish(shared, batch, locations); tokio::task::yield_now().await; \
                  let written = self.write(shared, at, &parts).await; self.wrote_batch(shared, begun); return written; }\n\
                  #[allow(unreachable_code)] if let Err(e) = self.write(shared, batch.offset, &parts).await {",
        tests: &[JOURNAL, WORLDS],
    },
    Sabotage {
        name: "recovery takes a record without its checksum",
        file: "crates/local/src/journal/recover.rs",
        line: "base::checksum::crc64(payload) == r.crc64",
        instead: "payload.len() == r.payload_len as usize",
        tests: &[JOURNAL, WORLDS],
    },
    Sabotage {
        name: "a read from the journal is not checked",
        file: "crates/local/src/journal/mod.rs",
        line: "Ok(bytes) if base::checksum::crc64(&bytes) == location.crc64 => Ok(bytes),",
        instead: "Ok(bytes) if true => Ok(bytes),",
        tests: &[JOURNAL, DAMAGE, WORLDS],
    },
    Sabotage {
        name: "a read from the cache is not checked",
        file: "crates/local/src/cache/mod.rs",
        line: "bytes.chunks(BLOCK).zip(sums).all(|(block, sum)| base::checksum::crc32c(block) == *sum)",
        instead: "bytes.chunks(BLOCK).zip(sums).all(|(block, _)| block.len() <= BLOCK)",
        tests: &[CACHE, DAMAGE],
    },
    Sabotage {
        name: "a frame from the bucket is not checked",
        file: "crates/chain/src/segment.rs",
        line: "if checksum::crc64(&stored) != frame.crc64 {",
        instead: "if checksum::crc64(&stored) == frame.crc64.wrapping_add(1) {",
        tests: &[CHAIN, DAMAGE],
    },
    Sabotage {
        name: "the journal of a foreign epoch is replayed",
        file: "crates/image/src/open.rs",
        line: "recovered.iter().filter(|r| r.epoch >= run_start && r.seq >= next).copied().collect();",
        instead: "recovered.iter().filter(|r| r.epoch <= r.epoch.max(run_start) && r.seq >= next).copied().collect();",
        tests: &[FORKS, WORLDS],
    },
    Sabotage {
        name: "a copy of a cache disk is taken for its original",
        file: "crates/image/src/park.rs",
        line: "term.journal == journal.id() && journal.has_started(term.start)",
        instead: "term.journal == journal.id()",
        tests: &[COPIES, WORLDS],
    },
    Sabotage {
        name: "records behind the end of their run in the bucket are let go",
        file: "crates/image/src/account.rs",
        line: "Place::Until(last, why) if seq > *last => Some(why.clone()),",
        instead: "Place::Until(last, why) if seq > *last && why.is_empty() => None,",
        tests: &[COPIES, WORLDS],
    },
    Sabotage {
        name: "a segment counts without a look at the epoch",
        file: "crates/image/src/destage/count.rs",
        line: "self.check = Some(Box::pin(async move { (covers, own.check().await) }));",
        instead: "self.check = Some(Box::pin(async move { drop(own); (covers, Ok(())) }));",
        tests: &[FORKS, WORLDS],
    },
    Sabotage {
        name: "journal is released when it is put, not when that counts",
        file: "crates/image/src/destage/count.rs",
        line: "fn put_through(&self) -> Option<Number> {",
        instead: "fn put_through(&self) -> Option<Number> {\n\
                  if let Some(put) = self.outgoing.iter().rfind(|o| o.put == Put::Done) { self.release(put.header.last_seq); }",
        tests: &[FORKS, WORLDS],
    },
];

/// How long tests may take; one that hangs has not noticed.
const LIMIT: Duration = Duration::from_secs(900);

/// The verb `sabotage`.
pub fn main(arguments: &Arguments) -> Result {
    let chosen: Vec<_> =
        ALL.iter().filter(|s| arguments.only.as_ref().is_none_or(|part| s.name.contains(part))).collect();
    if chosen.is_empty() {
        return Err("no sabotage has that in its name".into());
    }
    let tree = Tree::copy()?;
    // Tests that fail anyway would notice everything.
    let sets: BTreeSet<Tests> = chosen.iter().flat_map(|s| s.tests).copied().collect();
    for tests in sets {
        if let Some(failed) = tree.failures(tests)? {
            return Err(format!("cargo test {} fails without any sabotage: {failed}", tests.join(" ")).into());
        }
    }
    let mut unnoticed = Vec::new();
    for sabotage in &chosen {
        let start = Instant::now();
        match tree.try_on(sabotage).map_err(|e| format!("{}: {e}", sabotage.name))? {
            Some(by) => {
                println!("noticed: {} ({:.0} s) by {by}", sabotage.name, start.elapsed().as_secs_f64());
            }
            None => {
                println!("UNNOTICED: {}", sabotage.name);
                unnoticed.push(sabotage.name);
            }
        }
    }
    match unnoticed.is_empty() {
        true => {
            println!("{} sabotages, all noticed", chosen.len());
            Ok(())
        }
        false => Err(format!("unnoticed: {}", unnoticed.join("; ")).into()),
    }
}

/// The sabotaged text; an error unless the line is there exactly once.
fn sabotaged(text: &str, sabotage: &Sabotage) -> Result<String> {
    let found = text.lines().filter(|l| l.trim_start() == sabotage.line).count();
    if found != 1 {
        return Err(format!(
            "{} has {found} lines {:?}: correct the sabotage {:?} in xtask/src/sabotage.rs",
            sabotage.file, sabotage.line, sabotage.name
        )
        .into());
    }
    Ok(text
        .lines()
        .map(|l| if l.trim_start() == sabotage.line { sabotage.instead } else { l })
        .fold(String::new(), |text, line| text + line + "\n"))
}

/// A copy of the sources. It is built in a place of its own: in the target directory of the originals, cargo would take what
/// was built here, sabotaged, for theirs.
struct Tree(PathBuf);

impl Tree {
    fn copy() -> Result<Tree> {
        let (root, tree) = (setup::root(), Tree(setup::target().join("sabotage")));
        let mut git = Command::new("git");
        git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = output_within(&mut git, LIMIT)?;
        if listed.status != Some(0) {
            return Err(format!("git cannot list the sources: {}", listed.text).into());
        }
        for name in listed.text.split('\0').filter(|name| !name.is_empty()) {
            let from = root.join(name);
            // What is listed may have been deleted a moment ago.
            if from.is_file() {
                tree.write(Path::new(name), &std::fs::read(from)?)?;
            }
        }
        Ok(tree)
    }

    /// Leaves a file alone that is right already, so that cargo need not build it again.
    fn write(&self, name: &Path, content: &[u8]) -> Result {
        let to = self.0.join(name);
        if std::fs::read(&to).is_ok_and(|there| there == content) {
            return Ok(());
        }
        let dir = to.parent().ok_or("a file without a directory")?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(&to, content).map_err(|e| format!("cannot write {}: {e}", to.display()).into())
    }

    /// Which tests noticed, if any did.
    fn try_on(&self, sabotage: &Sabotage) -> Result<Option<String>> {
        let file = Path::new(sabotage.file);
        // The copy's own: the originals may be edited meanwhile.
        let sound = std::fs::read_to_string(self.0.join(file))?;
        self.write(file, sabotaged(&sound, sabotage)?.as_bytes())?;
        let tried = || {
            for tests in sabotage.tests {
                if let Some(failed) = self.failures(tests)? {
                    return Ok(Some(failed));
                }
            }
            Ok(None)
        };
        let noticed = tried();
        self.write(file, sound.as_bytes())?;
        noticed
    }

    /// The tests that fail. What cannot be built is an error: a compiler's refusal is no test's.
    fn failures(&self, tests: Tests) -> Result<Option<String>> {
        let cargo = |more: &[&str]| {
            let mut cargo = setup::cargo();
            cargo.current_dir(&self.0).env("CARGO_TARGET_DIR", self.0.join("target"));
            cargo.args(["test", "--quiet"]).args(tests).args(more);
            cargo
        };
        run(&mut cargo(&["--no-run"]))?;
        let mut command = cargo(&[]);
        let ended = output_within(&mut command, LIMIT)?;
        if ended.timed_out {
            return Err(format!("{} did not end within {} s", shown(&command), LIMIT.as_secs()).into());
        }
        let names = failed_tests(&ended.text);
        match (ended.status, names.is_empty()) {
            (Some(0), true) if ended.text.contains("test result: ok. 0 passed") => {
                Err(format!("{} runs no test", shown(&command)).into())
            }
            (Some(0), true) => Ok(None),
            (_, false) => Ok(Some(names.join(", "))),
            (status, true) => Err(format!(
                "{} ended with {status:?} without a failing test:\n{}",
                shown(&command),
                tail_of(&ended.text)
            )
            .into()),
        }
    }
}

#[cfg(test)]
mod tests;
