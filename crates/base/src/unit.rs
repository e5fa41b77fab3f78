use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The unit of image addresses, in bytes.
pub const SECTOR: u64 = 512;

/// A number of bytes, read and written as people do: `"64 MiB"`, `"100GiB"`, `"1.5 TB"`, `"4096"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 12] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("b", 1),
    ("", 1),
];

impl ByteSize {
    /// `n` KiB.
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }
    /// `n` MiB.
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }
    /// `n` GiB.
    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n << 30)
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(s: &str) -> Result<ByteSize, Error> {
        let wrong = || {
            Error::invalid(format!(
                "{s:?} is no size: write a number and a unit, as in \"64 MiB\" or \"100GiB\""
            ))
        };
        let t = s.trim().to_ascii_lowercase();
        let digits = t.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(t.len());
        let unit = t[digits..].trim();
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let number = t[..digits].replace('_', "");
        let bytes = match number.split_once('.') {
            None => number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)),
            Some(_) => number
                .parse::<f64>()
                .ok()
                .map(|n| n * factor as f64)
                .filter(|n| *n >= 0.0 && *n < 9.0e18)
                .map(|n| n.round() as u64),
        };
        bytes.map(ByteSize).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        let (name, unit) = match n {
            _ if n >= 1 << 50 => ("PiB", 1u64 << 50),
            _ if n >= 1 << 40 => ("TiB", 1 << 40),
            _ if n >= 1 << 30 => ("GiB", 1 << 30),
            _ if n >= 1 << 20 => ("MiB", 1 << 20),
            _ if n >= 1 << 10 => ("KiB", 1 << 10),
            _ => return write!(f, "{n} B"),
        };
        if n.is_multiple_of(unit) {
            write!(f, "{} {name}", n / unit)
        } else {
            write!(f, "{:.1} {name}", n as f64 / unit as f64)
        }
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of sectors of an image: `start` and `count` in units of [`SECTOR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first sector.
    pub start: u64,
    /// How many sectors.
    pub count: u64,
}

impl Span {
    /// `count` sectors from `start`.
    pub fn new(start: u64, count: u64) -> Span {
        Span { start, count }
    }

    /// The first sector behind it.
    pub fn end(self) -> u64 {
        self.start + self.count
    }

    /// Its length in bytes.
    pub fn bytes(self) -> u64 {
        self.count * SECTOR
    }

    /// Whether it covers no sector.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// What both cover, if anything.
    pub fn intersect(self, other: Span) -> Option<Span> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Span::new(start, end - start))
    }
}
