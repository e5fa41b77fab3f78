//! What a run of one test of `iscsi-test-cu` means.

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and was content.
    Passed,
    /// It was content, yet something wrote `[FAILED]`: the test on its way, or what tidies up after it. To be looked at.
    Complained(String),
    /// It did not run, for this reason.
    Skipped(String),
    /// It was not content, crashed or did not end.
    Failed(String),
}

impl Verdict {
    /// As the list has it.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Passed => "pass",
            Verdict::Complained(_) => "complaint",
            Verdict::Skipped(_) => "skip",
            Verdict::Failed(_) => "fail",
        }
    }

    /// The reason, if there is one.
    pub fn why(&self) -> &str {
        match self {
            Verdict::Passed => "",
            Verdict::Complained(why) | Verdict::Skipped(why) | Verdict::Failed(why) => why,
        }
    }
}

/// Judges what one test printed. `status` is `None` if a signal ended it.
///
/// A pass needs a summary that shows exactly one test run and none failed, for what says nothing has not passed; and no
/// `[FAILED]` anywhere, be it of set-up or tear-down.
pub fn judge(test: &str, status: Option<i32>, text: &str) -> Verdict {
    let Some(status) = status.filter(|s| *s < 128) else {
        return Verdict::Failed(format!("it crashed: {}", last_line(text)));
    };
    let summary = text.lines().find_map(summary_counts);
    let complaints: Vec<&str> =
        text.lines().filter(|l| l.contains("FAILED") || is_assertion(l)).map(str::trim).collect();
    let shown = || complaints.join(" | ").chars().take(300).collect();
    if summary.is_some_and(|[_, _, _, failed]| failed > 0) || text.lines().any(is_assertion) {
        return Verdict::Failed(shown());
    }
    // Every set-up clears reservations; only the tests of PERSISTENT RESERVE IN mean it when they skip it.
    let about_reserve_in = test.split('.').nth(1).is_some_and(|suite| suite.starts_with("Prin"));
    let body = text.split_once("Suite:").map_or(text, |(_, body)| body);
    let skip = body
        .lines()
        .filter_map(|l| l.split_once("[SKIPPED]"))
        .map(|(_, why)| why.trim())
        .rfind(|why| about_reserve_in || !why.starts_with("PERSISTENT RESERVE IN"));
    match (skip, summary) {
        (Some(why), _) => Verdict::Skipped(why.to_owned()),
        (None, Some([1, 1, 1, 0])) if complaints.is_empty() => Verdict::Passed,
        (None, Some([1, 1, 1, 0])) => Verdict::Complained(shown()),
        (None, _) => Verdict::Failed(format!("status {status} without a result: {}", last_line(text))),
    }
}

/// `tests  1  1  1  0`: total, ran, passed, failed.
fn summary_counts(line: &str) -> Option<[u32; 4]> {
    let mut words = line.split_whitespace();
    if words.next() != Some("tests") {
        return None;
    }
    let numbers: Vec<u32> = words.map_while(|w| w.parse().ok()).take(4).collect();
    numbers.try_into().ok()
}

/// CUnit lists assertions that failed as `   1. file.c:33  - text`.
fn is_assertion(line: &str) -> bool {
    let Some((number, rest)) = line.trim_start().split_once(". ") else { return false };
    line.starts_with(char::is_whitespace) && number.parse::<u32>().is_ok() && rest.contains("- ")
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it printed nothing").trim()
}
