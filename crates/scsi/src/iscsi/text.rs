//! Text keys and values (RFC 7143 §6.1).

use std::fmt::Display;

/// The longest key, in bytes.
const LONGEST_KEY: usize = 63;

/// Key=value pairs in the order in which they came; no key occurs twice.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Pairs<'a> {
    /// Reads pairs that end in NUL bytes; `None` if they are malformed or a key comes twice.
    pub fn decode(text: &'a [u8]) -> Option<Pairs<'a>> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in text.split(|b| *b == 0).filter(|pair| !pair.is_empty()) {
            let (key, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
            let fresh = pairs.iter().all(|(other, _)| *other != key);
            // A key takes at least two bytes of at most 64 KiB; the bound keeps the search above from being quadratic.
            if !fresh || key.is_empty() || key.len() > LONGEST_KEY || pairs.len() >= 256 {
                return None;
            }
            pairs.push((key, value));
        }
        Some(Pairs(pairs))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    /// All pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.0.iter().copied()
    }
}

/// Pairs on their way out.
#[derive(Debug, Default)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// Appends a pair.
    pub fn push(&mut self, key: &str, value: impl Display) {
        use std::io::Write;
        write!(self.0, "{key}={value}\0").expect("a Vec takes every write");
    }
}

/// A number in decimal or, with `0x`, in hex (RFC 7143 §6.1, numerical-value).
pub fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, radix).ok())?
}

/// A boolean-value.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// A binary-value of at most `most` bytes: hex with `0x`, base64 with `0b`.
pub fn binary(text: &str, most: usize) -> Option<Vec<u8>> {
    let prefix = text.get(..2)?;
    let digits = &text.as_bytes()[2..];
    if digits.is_empty() || digits.len() > most * 2 + 4 {
        return None;
    }
    let bytes = match prefix {
        "0x" | "0X" => hex(digits)?,
        "0b" | "0B" => base64(digits)?,
        _ => return None,
    };
    (bytes.len() <= most).then_some(bytes)
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |b: &u8| char::from(*b).to_digit(16).map(|d| d as u8);
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    let mut out = odd.iter().map(nibble).collect::<Option<Vec<u8>>>()?;
    for pair in pairs.chunks(2) {
        out.push(nibble(&pair[0])? << 4 | nibble(&pair[1])?);
    }
    Some(out)
}

fn base64(digits: &[u8]) -> Option<Vec<u8>> {
    let sextet = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let padding = digits.iter().rev().take_while(|b| **b == b'=').count();
    let data = &digits[..digits.len() - padding];
    if padding > 2 || data.len() % 4 == 1 || (padding > 0 && !digits.len().is_multiple_of(4)) {
        return None;
    }
    let mut out = Vec::with_capacity(data.len() * 3 / 4);
    for group in data.chunks(4) {
        let mut word = 0u32;
        for i in 0..4 {
            word = word << 6 | u32::from(group.get(i).map_or(Some(0), |b| sextet(*b))?);
        }
        out.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(out)
}

/// Bytes as a hex binary-value.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold("0x".to_owned(), |mut text, b| {
        write!(text, "{b:02x}").expect("a String takes every write");
        text
    })
}

#[cfg(test)]
mod tests;
