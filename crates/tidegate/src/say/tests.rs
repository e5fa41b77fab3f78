#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;

use super::offer;

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
