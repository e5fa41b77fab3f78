//! The judge must not be fooled by what surrounds a test.

use super::{Expectations, Kind, Verdict, judge, weigh};

const PASSED: &str = "    [SKIPPED] set-up could not\nSuite: Read10\n  Test: Simple ...passed\n\
Run Summary:    Type  Total    Ran Passed Failed Inactive\n   suites      1      1    n/a      0        0\n   \
   tests      1      1      1      0        0\n";

#[test]
fn a_pass_needs_a_summary_with_one_test() {
    assert_eq!(judge("ALL.Read10.Simple", Some(0), PASSED), Verdict::Passed);
    for cut in ["", "Suite: Read10\n  Test: Simple ...passed\n"] {
        assert!(matches!(judge("ALL.Read10.Simple", Some(0), cut), Verdict::Failed(_)), "{cut:?}");
    }
    let none = PASSED.replace("1      1      1      0", "0      0      0      0");
    assert!(matches!(judge("ALL.Read10.Simple", Some(0), &none), Verdict::Failed(_)));
}

#[test]
fn failures_and_crashes_are_seen() {
    let failed = PASSED.replace("1      1      1      0", "1      1      0      1");
    assert!(matches!(judge("ALL.Read10.Simple", Some(0), &failed), Verdict::Failed(_)));
    let listed = failed.replace("...passed", "...FAILED\n    1. test_read10.c:40  - ret == 0");
    assert!(
        matches!(judge("ALL.Read10.Simple", Some(0), &listed), Verdict::Failed(w) if w.contains("ret == 0"))
    );
    assert!(matches!(judge("ALL.Read10.Simple", None, PASSED), Verdict::Failed(_)));
    assert!(matches!(judge("ALL.Read10.Simple", Some(139), PASSED), Verdict::Failed(_)));
}

#[test]
fn complaints_are_told_wherever_they_stand() {
    let own = PASSED.replace("...passed", "...    [FAILED] WRITE10 command failed\npassed");
    assert!(matches!(judge("ALL.X.Y", Some(0), &own), Verdict::Complained(w) if w.contains("WRITE10")));
    let after = PASSED.replace("...passed", "...passed    [FAILED] PRIN command: failed with sense.");
    assert!(matches!(judge("ALL.X.Y", Some(0), &after), Verdict::Complained(w) if w.contains("PRIN")));
    let before = format!("    [FAILED] MODESENSE6 command failed\n{PASSED}");
    assert!(matches!(judge("ALL.X.Y", Some(0), &before), Verdict::Complained(_)));
}

#[test]
fn skips_count_only_inside_the_test() {
    let skipped = PASSED.replace("...passed", "...    [SKIPPED] WRITESAME10 is not implemented.\npassed");
    assert_eq!(
        judge("ALL.WriteSame10.Simple", Some(0), &skipped),
        Verdict::Skipped("WRITESAME10 is not implemented.".into())
    );
    let reserve =
        PASSED.replace("...passed", "...    [SKIPPED] PERSISTENT RESERVE IN is not implemented.\npassed");
    assert_eq!(judge("ALL.Read10.Simple", Some(0), &reserve), Verdict::Passed);
    assert!(matches!(judge("ALL.PrinReadKeys.Simple", Some(0), &reserve), Verdict::Skipped(_)));
}

#[test]
fn every_exception_has_its_reason() {
    let list = Expectations::read().unwrap();
    assert!(!list.exceptions().unwrap().is_empty());
    assert!(list.exception.iter().all(|e| e.reason.len() > 20 && e.section.contains('§')));
    assert!(list.minimum_passed >= 212, "A1");
}

/// What goes against the list fails the run, the unexpected pass too.
#[test]
fn the_list_is_binding() {
    let exceptions = [("a", Kind::Fail), ("b", Kind::Skip), ("c", Kind::Complaint)].into();
    let word = || "why".to_owned();
    let as_listed = [
        ("a".to_owned(), Verdict::Failed(word())),
        ("b".to_owned(), Verdict::Skipped(word())),
        ("c".to_owned(), Verdict::Complained(word())),
        ("d".to_owned(), Verdict::Passed),
    ];
    let summary = weigh(&as_listed, &exceptions, Some(2)).unwrap();
    assert_eq!(summary, "2 passed (1 of them with a complaint on the list), 1 skipped, 1 failed");
    assert!(weigh(&as_listed, &exceptions, Some(3)).is_err(), "too few pass");
    let others =
        [Verdict::Failed(word()), Verdict::Skipped(word()), Verdict::Complained(word()), Verdict::Passed];
    for at in 0..as_listed.len() {
        for other in others.iter().filter(|other| **other != as_listed[at].1) {
            let mut verdicts = as_listed.clone();
            verdicts[at].1 = other.clone();
            assert!(weigh(&verdicts, &exceptions, None).is_err(), "{} with {other:?}", verdicts[at].0);
        }
    }
}
