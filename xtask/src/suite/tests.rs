//! The judge must not be fooled by what surrounds a test.

use super::{Expectations, Verdict, judge};

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
fn complaints_on_the_way_to_a_pass_are_told_but_those_of_tear_down_are_not() {
    let own = PASSED.replace("...passed", "...    [FAILED] WRITE10 command failed\npassed");
    assert!(matches!(judge("ALL.X.Y", Some(0), &own), Verdict::Complained(w) if w.contains("WRITE10")));
    let after = PASSED.replace("...passed", "...passed    [FAILED] PRIN command: failed with sense.");
    assert_eq!(judge("ALL.X.Y", Some(0), &after), Verdict::Passed);
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
    let exceptions = list.exceptions().unwrap();
    assert!(exceptions.values().all(|(_, reason)| reason.len() > 20));
    assert!(list.minimum_passed >= 212, "A1");
}
