//! Writing and reading the sealed envelope and the integers inside it.

use base::{Error, Result};
use bytes::Bytes;

/// Length of the digest that ends an envelope.
pub(crate) const DIGEST: usize = 32;
/// Bytes before the body.
pub(crate) const PROLOGUE: usize = 16;
/// The largest body a reader accepts, and so the largest that may be put.
const MAX_BODY: usize = 1 << 30;

/// `Invalid` if no reader would accept the sealed object: then the older ones must stay, which can be read.
pub(crate) fn check_len(object: &[u8]) -> Result<()> {
    let body = object.len().saturating_sub(PROLOGUE + DIGEST);
    if body <= MAX_BODY {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "an index of {} MiB is larger than any reader takes ({} MiB): the volume has too many segments; copy its data to several smaller volumes",
        body >> 20,
        MAX_BODY >> 20
    )))
}

/// A BLAKE3-256 digest.
pub type Digest = [u8; DIGEST];

/// Builds the body of a sealed object.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(magic: &[u8; 8]) -> Writer {
        let mut v = Vec::with_capacity(512);
        v.extend_from_slice(magic);
        v.extend_from_slice(&[0; 8]);
        Writer(v)
    }

    pub(crate) fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    pub(crate) fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// As few bytes as hold it, seven bits in each (LEB128).
    pub(crate) fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }
    pub(crate) fn raw(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }
    pub(crate) fn count(&mut self, n: usize) {
        self.u32(u32::try_from(n).expect("lists in metadata stay far below 2^32 entries"));
    }
    pub(crate) fn text(&mut self, s: &str) {
        let len = u16::try_from(s.len()).expect("names are checked to be short where they enter");
        self.raw(&len.to_le_bytes());
        self.raw(s.as_bytes());
    }
    pub(crate) fn blob(&mut self, b: &[u8]) {
        self.count(b.len());
        self.raw(b);
    }

    /// Fills in the length, appends the digest and returns both.
    pub(crate) fn seal(mut self) -> (Bytes, Digest) {
        let body = u32::try_from(self.0.len() - PROLOGUE).expect("bodies stay far below 4 GiB");
        self.0[8..12].copy_from_slice(&body.to_le_bytes());
        let digest = *blake3::hash(&self.0).as_bytes();
        self.0.extend_from_slice(&digest);
        (Bytes::from(self.0), digest)
    }
}

/// How long the sealed object is that begins with `prologue`; `None` if it begins with something else.
pub(crate) fn sealed_len(magic: &[u8; 8], prologue: &[u8]) -> Option<usize> {
    let p = prologue.get(..PROLOGUE)?;
    let body = u32::from_le_bytes([p[8], p[9], p[10], p[11]]) as usize;
    (&p[..8] == magic && body <= MAX_BODY && p[12..16] == [0; 4]).then_some(PROLOGUE + body + DIGEST)
}

/// Reads the body of a sealed object; every step is checked.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Checks the envelope at the start of `data`; bytes behind it are the caller's.
    pub(crate) fn open(
        what: &'static str,
        magic: &[u8; 8],
        data: &'a [u8],
    ) -> Result<(Reader<'a>, Digest, usize)> {
        let corrupt = |why: &str| Error::corrupt(format!("{what}: {why}"));
        let len = sealed_len(magic, data).ok_or_else(|| corrupt("it does not begin as one"))?;
        let sealed = data.get(..len).ok_or_else(|| corrupt("it is cut short"))?;
        let (content, digest) = sealed.split_at(len - DIGEST);
        let found = *blake3::hash(content).as_bytes();
        if found != digest {
            return Err(corrupt("its digest does not match"));
        }
        Ok((Reader { rest: &content[PROLOGUE..], what }, found, len))
    }

    pub(crate) fn corrupt(&self, why: &str) -> Error {
        Error::corrupt(format!("{}: {why}", self.what))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if self.rest.len() < n {
            return Err(self.corrupt("a field lies behind its end"));
        }
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut a = [0; N];
        a.copy_from_slice(self.take(N)?);
        Ok(a)
    }
    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The reverse of [`Writer::varint`]; a longer form than needed is refused.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                break;
            }
            v |= bits << shift;
            if byte < 0x80 {
                return Ok(v);
            }
        }
        Err(self.corrupt("an integer has no proper form"))
    }
    /// The same for what fits into 32 bits.
    pub(crate) fn varint32(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|e| self.corrupt(&format!("an integer is too large ({e})")))
    }

    /// A list's length, refused if its entries of at least `each` bytes could not follow.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize> {
        let n = self.u32()? as usize;
        if n.saturating_mul(each) > self.rest.len() {
            return Err(self.corrupt("a list is longer than what follows"));
        }
        Ok(n)
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let len = u16::from_le_bytes(self.array()?) as usize;
        let bytes = self.take(len)?.to_vec();
        String::from_utf8(bytes).map_err(|e| self.corrupt(&format!("a name is not UTF-8 ({e})")))
    }
    pub(crate) fn blob(&mut self) -> Result<Bytes> {
        let len = self.count(1)?;
        Ok(Bytes::copy_from_slice(self.take(len)?))
    }

    /// The body must end here.
    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.corrupt("bytes are left over behind its last field"))
        }
    }
}
