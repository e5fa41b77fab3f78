//! What is read from cargo's output.

use super::{failed_tests, tail_of};

#[test]
fn failing_tests_are_known_by_name() {
    let libtest =
        "running 2 tests\ntest a::good ... ok\ntest a::bad ... FAILED\n---- a::bad stdout ----\nwhy\n";
    assert_eq!(failed_tests(libtest), ["a::bad"]);
    let nextest = "        FAIL [   2.764s] ( 74/299) tidegate-gateway tests::a_volume\n        FAIL [   2.7s] x tests::a_volume";
    assert_eq!(failed_tests(nextest), ["tests::a_volume"]);
    assert!(failed_tests("test a::good ... ok\nPASS [ 1s] x y\n").is_empty());
}

#[test]
fn the_tail_is_the_end() {
    let text: String = (0..100).map(|n| format!("{n}\n")).collect();
    assert!(tail_of(&text).starts_with("70\n") && tail_of(&text).ends_with("\n99"));
    assert_eq!(tail_of("one"), "one");
}
