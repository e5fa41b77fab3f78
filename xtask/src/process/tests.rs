//! Commands with a limit, and what is read from cargo's output.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{failed_tests, output_within, tail_of, until};

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

#[test]
fn what_a_command_started_ends_with_it() {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & echo $!; wait"]);
    let ended = output_within(&mut command, Duration::from_millis(300)).unwrap();
    assert!(ended.timed_out && ended.status.is_none());
    let gone = || !Path::new("/proc").join(ended.text.trim()).join("exe").exists();
    until("the end of what it started", Duration::from_secs(10), || Ok(gone().then_some(()))).unwrap();
}
