#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::{end_on_panic, offer};

#[test]
fn what_is_taken_arrives_whole() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let text = "line\n".repeat(3000);
    offer(&writer, text.as_bytes());
    drop(writer);
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert!(read == text, "{} of {} bytes", read.len(), text.len());
}

#[test]
fn what_is_not_taken_is_lost_without_harm() {
    offer(&File::options().write(true).open("/dev/full").unwrap(), b"line");
    offer(&File::open("/dev/null").unwrap(), b"this cannot be written to");
    let (reader, writer) = std::io::pipe().unwrap();
    // Nobody reads it: without care the third would wait for ever.
    for _ in 0..3 {
        offer(&writer, &[b'x'; 64 << 10]);
    }
    drop(reader);
    offer(&writer, b"line");
}

/// In the process of its own that the test below starts.
const CHILD: &str = "TIDEGATE_TEST_PANIC";

#[test]
fn a_panic_in_any_thread_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        end_on_panic();
        let thread = std::thread::Builder::new().name("worker".into());
        let _ = thread.spawn(|| panic!("something is wrong")).unwrap().join();
        return;
    }
    let run = |stderr: Stdio| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "say::tests::a_panic_in_any_thread_ends_the_process"]).env(CHILD, "1");
        command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap().wait_with_output().unwrap()
    };
    let heard = run(Stdio::piped());
    let said = String::from_utf8_lossy(&heard.stderr);
    assert!(said.contains("in thread worker") && said.contains("something is wrong"), "{said}");
    let unheard = run(File::options().write(true).open("/dev/full").unwrap().into());
    for status in [heard.status, unheard.status] {
        assert_eq!(status.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{status}");
    }
}
