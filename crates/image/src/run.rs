//! Writing a run: entries in order become pages, pages become objects.

use std::sync::Arc;

use base::{ImageId, Result, Span};
use bytes::Bytes;
use chain::{Ownership, Page, PageRef, Piece, Position, Target, name};

use crate::checkpoint::cut_twice;
use crate::pages::Held;

/// The size at which an object of pages is put.
const OBJECT: usize = 8 << 20;
/// The last bits of a part's number count the objects of one run; the others say how many runs were merged into it. So another
/// attempt at the same place, which merges more or fewer, never means the same object.
const PART_BITS: u32 = 20;

/// Limits of pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most entries of a page.
    pub entries: usize,
    /// The most pages that stay loaded.
    pub pages: usize,
}

/// A run in the bucket.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub pages: Vec<PageRef>,
    /// Pages that somebody used lately, in memory.
    pub hot: Held,
    /// Bytes put.
    pub bytes: u64,
}

/// Collects entries into pages and pages into objects.
pub(crate) struct RunWriter<'a> {
    own: &'a Ownership,
    image: ImageId,
    at: Position,
    limits: Limits,
    /// Entries that are in no page yet, and whether what they came from was in use.
    pending: Vec<(Span, Target)>,
    hot: bool,
    part: u32,
    object: Vec<u8>,
    written: Written,
}

impl<'a> RunWriter<'a> {
    /// A run of the checkpoint at `at`, out of `merged` older ones.
    pub fn new(
        own: &'a Ownership,
        image: ImageId,
        at: Position,
        merged: usize,
        limits: Limits,
    ) -> RunWriter<'a> {
        let part = (merged as u32) << PART_BITS;
        let (pending, object, written) = (Vec::new(), Vec::new(), Written::default());
        RunWriter { own, image, at, limits, pending, hot: false, part, object, written }
    }

    /// The next entry. One that goes on where the last one ended becomes part of it.
    pub async fn push(&mut self, span: Span, target: Target, hot: bool) -> Result<()> {
        self.hot |= hot;
        if let Some((last, before)) = self.pending.last_mut()
            && last.end() == span.start
            && before.advance(last.count) == target
        {
            last.count += span.count;
            return Ok(());
        }
        self.pending.push((span, target));
        // With two pages' worth at hand, none comes out nearly empty.
        if self.pending.len() >= 2 * self.limits.entries {
            self.page(self.limits.entries).await?;
        }
        Ok(())
    }

    /// Whether a page of another run may become part of this one as it is: if neither it nor what is before it would stay small.
    pub fn takes_over(&self, place: &PageRef) -> bool {
        let few = self.limits.entries / 4;
        place.entries as usize >= few && (self.pending.is_empty() || self.pending.len() >= few)
    }

    /// Takes a page of another run.
    pub async fn take_over(&mut self, place: PageRef) -> Result<()> {
        self.pages().await?;
        self.written.pages.push(place);
        Ok(())
    }

    /// Makes pages of all that is pending.
    async fn pages(&mut self) -> Result<()> {
        if self.pending.len() > self.limits.entries {
            self.page(self.pending.len() / 2).await?;
        }
        if !self.pending.is_empty() {
            self.page(self.pending.len()).await?;
        }
        self.hot = false;
        Ok(())
    }

    async fn page(&mut self, entries: usize) -> Result<()> {
        let rest = self.pending.split_off(entries);
        let page = Page { entries: std::mem::replace(&mut self.pending, rest) };
        let bytes = page.encode();
        let object = (self.at.number, self.own.epoch(), self.part);
        let place = page.place(&bytes, object, self.object.len() as u32);
        self.object.extend_from_slice(&bytes);
        self.written.pages.push(place);
        if self.hot && self.written.hot.len() < self.limits.pages {
            self.written.hot.insert(place, Arc::new(page));
        }
        self.hot &= !self.pending.is_empty();
        if self.object.len() >= OBJECT {
            self.put().await?;
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn put(&mut self) -> Result<()> {
        if self.object.is_empty() {
            return Ok(());
        }
        let key = name::pages(self.image, self.own.epoch(), self.at.number, self.part);
        let body = Bytes::from(std::mem::take(&mut self.object));
        self.part += 1;
        self.written.bytes += body.len() as u64;
        self.own.put_object(&key, body).await.map_err(cut_twice)
    }

    /// Puts what is left.
    pub async fn finish(mut self) -> Result<Written> {
        self.pages().await?;
        self.put().await?;
        Ok(self.written)
    }
}
