//! The verb `fuzz`: the targets of `fuzz/`, for a while each.

use crate::process::run;
use crate::{Result, setup};

/// Fuzz the decoders of what comes from network, disk and bucket (A7).
///
/// Needs a compiler with sanitizers' coverage: the stable one does, told to by RUSTC_BOOTSTRAP. What is found is left in
/// fuzz/artifacts; put a small input that shows it into fuzz/corpus, where the tests replay it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this target.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// The targets: one program each in `fuzz/fuzz_targets`, one corpus each in `fuzz/corpus`.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(setup::root().join("fuzz/fuzz_targets"))?
        .map(|entry| {
            Ok(entry?.path().file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default())
        })
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The verb `fuzz`.
pub fn main(arguments: &Arguments) -> Result {
    let all = targets()?;
    let chosen: Vec<_> = match &arguments.target {
        None => all,
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => return Err(format!("there is no target {name}; there are {}", all.join(", ")).into()),
    };
    if !setup::cargo().args(["fuzz", "--version"]).output().is_ok_and(|o| o.status.success()) {
        run(setup::cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    for name in &chosen {
        println!("---- {name}, {} s", arguments.seconds);
        // New inputs go to a directory of their own; the checked-in corpus stays small.
        let (found, seeds) = (setup::target().join("fuzz-corpus").join(name), format!("fuzz/corpus/{name}"));
        std::fs::create_dir_all(&found)?;
        let mut fuzz = setup::cargo();
        fuzz.env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--sanitizer", "none", name])
            .arg(&found)
            .arg(seeds);
        fuzz.args(["--", "-max_len=65536", "-timeout=10", "-rss_limit_mb=2048"]);
        fuzz.arg(format!("-max_total_time={}", arguments.seconds));
        run(&mut fuzz)?;
    }
    println!("{} targets, nothing found", chosen.len());
    Ok(())
}
