//! What the store itself says it holds of an image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::Result;

/// The numbers of an image's segments, by the epoch that put them.
type Segments = BTreeMap<u64, BTreeSet<u64>>;

/// An image that had one owner only: every number from 1 on is there once. Gives how many there are.
pub fn one_owner(port: u16, prefix: &str, image: &str) -> Result<u64> {
    let segments = segments(port, prefix, image)?;
    let Some(first) = segments.get(&1).filter(|_| segments.len() == 1) else {
        let epochs: Vec<_> = segments.keys().collect();
        return Err(format!("image {image} had one owner, but segments of the epochs {epochs:?}").into());
    };
    unbroken(image, first, 1)
}

/// The next owner found every segment of the first to be part of the chain: its own numbers go on where those end.
pub fn next_owner(port: u16, prefix: &str, image: &str, count: u64) -> Result {
    let segments = segments(port, prefix, image)?;
    let (Some(first), Some(second), 2) = (segments.get(&1), segments.get(&2), segments.len()) else {
        return Err(format!("image {image} had two owners: {:?}", segments.keys()).into());
    };
    if unbroken(image, first, 1)? != count {
        return Err(format!("image {image}: the first owner's segments have changed").into());
    }
    unbroken(image, second, count + 1).map(drop)
}

fn unbroken(image: &str, numbers: &BTreeSet<u64>, from: u64) -> Result<u64> {
    let count = numbers.len() as u64;
    match (numbers.first(), numbers.last()) {
        (Some(first), Some(last)) if *first == from && *last == from + count - 1 => Ok(count),
        ends => Err(format!("image {image}: {count} segments from {from} on, but they are {ends:?}").into()),
    }
}

fn segments(port: u16, prefix: &str, image: &str) -> Result<Segments> {
    let within = format!("{prefix}/images/{image}/seg/");
    let mut segments = Segments::new();
    for key in keys(port, &within)? {
        let parsed = key.strip_prefix(&within).and_then(|name| {
            let (number, epoch) = name.split_once('-')?;
            Some((u64::from_str_radix(number, 16).ok()?, u64::from_str_radix(epoch, 16).ok()?))
        });
        let (number, epoch) = parsed.ok_or_else(|| format!("{key} is no segment's name"))?;
        if !segments.entry(epoch).or_default().insert(number) {
            return Err(format!("the store lists {key} twice").into());
        }
    }
    Ok(segments)
}

/// All keys under a prefix, as S3's second kind of listing has them.
fn keys(port: u16, prefix: &str) -> Result<Vec<String>> {
    let (mut keys, mut token) = (Vec::new(), None::<String>);
    loop {
        let more = token.map_or(String::new(), |t| format!("&continuation-token={}", escaped(&t)));
        let page = get(port, &format!("/tide?list-type=2&prefix={}{more}", escaped(prefix)))?;
        keys.extend(elements(&page, "Key").map(str::to_owned));
        token = elements(&page, "NextContinuationToken").next().map(str::to_owned);
        if token.is_none() {
            return Ok(keys);
        }
    }
}

fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (inside, behind) = after.split_once(&close)?;
        rest = behind;
        Some(inside)
    })
}

fn escaped(text: &str) -> String {
    let escape = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// HTTP/1.0, so that the answer comes in one piece.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(format!("listing {path}: {}", answer.lines().next().unwrap_or("no answer")).into()),
    }
}
