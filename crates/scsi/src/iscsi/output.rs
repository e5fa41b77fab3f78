//! PDUs on their way out: headers in one arena, data shared, everything ready for one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use base::checksum;
use bytes::{Buf, Bytes};

use super::pdu::{HEADER, Header};

/// Data up to this length is copied behind its header: cheaper than another element of the vectored write.
const COPIED: usize = 512;

/// When so much of the arena lies behind the first unsent byte, it is moved together.
const SLACK: usize = 128 << 10;

/// The queue of bytes to send.
#[derive(Default)]
pub struct Output {
    arena: Vec<u8>,
    /// The position, counted from the beginning of the connection's arena, of `arena[0]`.
    base: u64,
    pieces: VecDeque<Piece>,
    pending: usize,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
}

enum Piece {
    Arena { start: u64, end: u64 },
    Shared(Bytes),
}

impl Output {
    /// How many bytes wait.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Fills `into` with the first bytes to send, and says how many of its places are used.
    pub fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(match piece {
                Piece::Arena { start, end } => self.arena_slice(*start, *end),
                Piece::Shared(bytes) => bytes,
            });
            used += 1;
        }
        used
    }

    /// Forgets the first `n` bytes: they were sent.
    pub fn consume(&mut self, mut n: usize) {
        self.pending -= n;
        while n > 0 {
            let Some(front) = self.pieces.front_mut() else { return };
            let len = match front {
                Piece::Arena { start, end } => (*end - *start) as usize,
                Piece::Shared(bytes) => bytes.len(),
            };
            if n >= len {
                self.pieces.pop_front();
                n -= len;
                continue;
            }
            match front {
                Piece::Arena { start, .. } => *start += n as u64,
                Piece::Shared(bytes) => bytes.advance(n),
            }
            n = 0;
        }
        self.compact();
    }

    /// Appends a PDU whose data segment is the concatenation of `parts`; sets its DataSegmentLength.
    pub(super) fn put(&mut self, mut header: Header, parts: &[Bytes]) {
        let len: usize = parts.iter().map(Bytes::len).sum();
        header.set_data_len(len);
        self.put_header(&header);
        for part in parts {
            if part.len() <= COPIED {
                self.append(part);
            } else {
                self.pieces.push_back(Piece::Shared(part.clone()));
                self.pending += part.len();
            }
        }
        self.put_trailer(len, || parts.iter().map(|p| &p[..]));
    }

    /// Appends a PDU with a copy of a short data segment.
    pub(super) fn put_copied(&mut self, mut header: Header, data: &[u8]) {
        header.set_data_len(data.len());
        self.put_header(&header);
        self.append(data);
        self.put_trailer(data.len(), || std::iter::once(data));
    }

    fn put_header(&mut self, header: &Header) {
        self.append(&header.0);
        if self.header_digest {
            self.append(&checksum::crc32c(&header.0).to_le_bytes());
        }
    }

    fn put_trailer<'a, I: Iterator<Item = &'a [u8]>>(&mut self, len: usize, parts: impl Fn() -> I) {
        let padding = &[0; 3][..len.next_multiple_of(4) - len];
        self.append(padding);
        if self.data_digest && len > 0 {
            let digest = checksum::crc32c_parts(parts().chain([padding]));
            self.append(&digest.to_le_bytes());
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.base + self.arena.len() as u64;
        let until = start + bytes.len() as u64;
        self.arena.extend_from_slice(bytes);
        self.pending += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Arena { end, .. }) if *end == start => *end = until,
            _ => self.pieces.push_back(Piece::Arena { start, end: until }),
        }
    }

    fn arena_slice(&self, start: u64, end: u64) -> &[u8] {
        &self.arena[(start - self.base) as usize..(end - self.base) as usize]
    }

    /// Gives back the part of the arena that was sent.
    fn compact(&mut self) {
        if self.pieces.is_empty() {
            self.base += self.arena.len() as u64;
            self.arena.clear();
            self.arena.shrink_to(2 * SLACK);
            return;
        }
        // The first arena piece is never far behind the front: shared pieces are followed by a header.
        let first = self.pieces.iter().find_map(|piece| match piece {
            Piece::Arena { start, .. } => Some(*start),
            Piece::Shared(_) => None,
        });
        let sent = first.map_or(self.arena.len(), |start| (start - self.base) as usize);
        if sent >= SLACK {
            self.arena.drain(..sent);
            self.base += sent as u64;
        }
    }
}

const _: () = assert!(HEADER < COPIED);

#[cfg(test)]
mod tests;
