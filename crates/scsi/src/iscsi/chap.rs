//! CHAP (RFC 1994; RFC 7143 §12.1.3): digests, secrets and comparison.

use std::fmt;

use md5::{Digest, Md5};
use sha2::Sha256;

/// The longest challenge and response we take, in bytes (RFC 7143 §12.1.3).
pub(super) const LONGEST: usize = 1024;

/// The length of the challenges we make, in bytes.
pub(super) const CHALLENGE: usize = 32;

/// The digest algorithms of CHAP that we know (RFC 7143 §12.1.3, IANA "PPP Authentication Algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Md5 = 5,
    Sha256 = 7,
}

impl Algorithm {
    /// The first of the initiator's list that we know.
    pub(super) fn choose(list: &str) -> Option<Algorithm> {
        list.split(',').find_map(|name| match name.trim() {
            "5" => Some(Algorithm::Md5),
            "7" => Some(Algorithm::Sha256),
            _ => None,
        })
    }

    /// The response to a challenge: the digest over identifier, secret and challenge.
    pub(super) fn response(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        match self {
            Algorithm::Md5 => digest::<Md5>(id, secret, challenge),
            Algorithm::Sha256 => digest::<Sha256>(id, secret, challenge),
        }
    }
}

fn digest<D: Digest>(id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
    D::new().chain_update([id]).chain_update(&secret.0).chain_update(challenge).finalize().to_vec()
}

/// Whether two byte strings are equal, in a time that depends on their lengths alone.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |acc, (x, y)| std::hint::black_box(acc | (x ^ y)));
    a.len() == b.len() && differing == 0
}

/// A secret that no log shows and that leaves no copy in memory when dropped.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the secret's bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_same(&self, other: &Secret) -> bool {
        same(&self.0, &other.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from leaving the fill out as useless.
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests;
