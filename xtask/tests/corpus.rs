//! Replays the fuzz corpus on the stable compiler, and everything one changed byte away from it (A7).
#![allow(missing_docs)]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// A fuzz target: its name, and what it does with bytes.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("pdu", targets::pdu),
    ("login", targets::login),
    ("cdb", targets::cdb),
    ("segment_header", targets::segment_header),
    ("map_page", targets::map_page),
    ("checkpoint", targets::checkpoint),
    ("journal_batch", targets::journal_batch),
    ("journal_file", targets::journal_file),
];

fn fuzz() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz")
}

#[test]
fn the_corpus_brings_nothing_down() {
    for (name, target) in TARGETS {
        let inputs: Vec<_> = std::fs::read_dir(fuzz().join("corpus").join(name))
            .unwrap_or_else(|e| panic!("{name} has no corpus: {e}"))
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            target(&input);
            // Spread over the input, so that long ones do not take for ever.
            let step = (input.len() / 64).max(1);
            for at in (0..input.len()).step_by(step) {
                for change in [1, 0x80, 0xff] {
                    let mut changed = input.clone();
                    changed[at] ^= change;
                    target(&changed);
                }
                target(&input[..at]);
            }
        }
    }
}

#[test]
fn every_target_is_a_program_of_its_own() {
    let mut programs: Vec<_> = std::fs::read_dir(fuzz().join("fuzz_targets"))
        .unwrap()
        .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    programs.sort();
    let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    assert_eq!(programs, names);
}
