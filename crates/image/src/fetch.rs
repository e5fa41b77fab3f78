//! Bringing bytes from wherever they are, each checked before use.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{Error, ErrorKind, ImageId, Result, Span, checksum};
use bucket::Bucket;
use bytes::Bytes;
use chain::{Codec, Extent, Page, PageRef, RowId, Sealed, decode_frame, name};
use futures_util::{StreamExt, TryStreamExt, stream};
use local::{LineKey, Lookup};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::Core;
use crate::dirty::{DirtyRecord, SpooledSegment, slice_parts};
use crate::env::Severity;
use crate::gather::payload;
use crate::layers::{Layers, Source, Standing, StoredFrame, push_frame, push_zeroes};
use crate::pages::{Held, Missing};

/// The most bytes of neighbouring frames that one get brings.
const RUN_BYTES: u64 = 2 << 20;
/// Gets at a time for one read.
const GETS: usize = 8;
/// Who waited so long for another's fetch that failed does not begin one of its own: one answer has ten seconds in all.
const JOINED: Duration = Duration::from_secs(1);
/// What a prefetch fetches at a time, in sectors.
const PREFETCH_STEP: u64 = (4 << 20) / base::SECTOR;
/// Extents that the map is asked about at a time.
pub(crate) const AT_A_TIME: usize = 64;
/// How often a read starts over because what it found was not there, or damaged.
const TRIES: usize = 5;
/// For how long it does because that was moved meanwhile.
const MOVING: Duration = Duration::from_secs(5);

/// Frames that are being fetched, so that two readers do not fetch one twice.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    frames: Mutex<BTreeMap<LineKey, Coming>>,
}

impl StoredFrame {
    pub fn key(&self) -> LineKey {
        LineKey {
            image: self.origin,
            epoch: self.epoch.0,
            number: self.number.0,
            line: self.index,
            content: self.frame.crc64,
        }
    }

    fn place(&self) -> String {
        format!("{} at offset {}", name::segment(self.origin, self.epoch, self.number), self.offset)
    }
}

impl Core {
    /// Everything from memory or page cache, or `None`.
    pub fn try_read(self: &Arc<Self>, span: Span) -> Option<Result<Vec<Bytes>>> {
        if let Err(e) = self.usable().and_then(|()| self.check_span(span)) {
            return Some(Err(e));
        }
        let pieces = self.layers.read().resolve(span, &Held::new()).ok()?;
        let mut out = Vec::with_capacity(pieces.len());
        for (run, source) in pieces {
            match source {
                Source::Hole | Source::Zero => push_zeroes(&mut out, run.count),
                Source::Record { record, skip } => {
                    if !record.slice(skip * base::SECTOR, run.bytes(), &mut out) {
                        return None;
                    }
                }
                Source::Spooled { .. } | Source::Unknown(_) => return None,
                Source::Stored { frame, skip } => {
                    let offset = (skip * base::SECTOR) as usize;
                    match self.env.cache.try_read(frame.key(), offset, run.bytes() as usize) {
                        Lookup::Hit(bytes) => out.push(bytes),
                        Lookup::Miss | Lookup::WouldBlock => return None,
                    }
                }
            }
        }
        self.follow(span);
        Some(Ok(out))
    }

    fn follow(self: &Arc<Self>, span: Span) {
        if let Some(ahead) = self.readahead.observe(span) {
            let size = self.size.load(std::sync::atomic::Ordering::Relaxed);
            if let Some(ahead) = ahead.intersect(Span::new(0, size)) {
                self.spawn_prefetch(ahead);
            }
        }
    }

    /// Where every sector of `span` is; loads map pages as needed.
    pub async fn resolve(&self, span: Span) -> Result<Vec<(Span, Source)>> {
        self.ask(|layers, held| layers.resolve(span, held)).await
    }

    /// Asks the layers something, and loads the pages that the answer needs.
    pub async fn ask<T>(&self, ask: impl Fn(&Layers, &Held) -> Result<T, Missing>) -> Result<T> {
        let mut held = Held::new();
        loop {
            let missing = match ask(&self.layers.read(), &held) {
                Ok(answer) => return Ok(answer),
                Err(missing) => missing,
            };
            // Those of all runs at a time: otherwise a look through many would take as many round trips.
            let load = stream::iter(missing).map(|place| async move { (place, self.load(place).await) });
            let mut failure = None;
            let before = held.len();
            for (place, page) in load.buffer_unordered(GETS).collect::<Vec<_>>().await {
                match page {
                    Ok(page) => drop(held.insert(place, page)),
                    Err(e) => failure = Some(e),
                }
            }
            // What the pages that did come hide of the one that did not is not needed.
            if let Some(e) = failure.filter(|_| held.len() == before) {
                return Err(e);
            }
        }
    }

    async fn load(&self, place: PageRef) -> Result<Arc<Page>> {
        let page = Arc::new(self.fetch_page(place).await?);
        self.layers.write().runs.install(place, page.clone(), self.env.options.pages);
        Ok(page)
    }

    /// Which copies in a segment count, as the map is now. Where the map is damaged none does: the sectors stay in the damaged
    /// page, and reading them says so.
    pub async fn standing(&self, header: &chain::Header) -> Result<Standing> {
        let mut standing = Standing::default();
        for extents in header.extents.chunks(AT_A_TIME) {
            match self.standing_of(header.image, extents).await {
                Err(e) if is_damage(&e) => {
                    for extent in extents {
                        match self.standing_of(header.image, std::slice::from_ref(extent)).await {
                            Err(e) if is_damage(&e) => {}
                            found => standing.0.extend(found?),
                        }
                    }
                }
                found => standing.0.extend(found?),
            }
        }
        Ok(standing)
    }

    async fn standing_of(&self, image: ImageId, extents: &[Extent]) -> Result<Vec<Span>> {
        let found = self.ask(|layers, held| {
            let mut missing = Missing::new();
            let found = layers.standing(image, extents, held, &mut missing);
            if missing.is_empty() { Ok(found) } else { Err(missing) }
        });
        found.await
    }

    async fn fetch_page(&self, place: PageRef) -> Result<Page> {
        let read = fetch_page(&*self.env.bucket, self.id, place).await;
        if let Err(e) = &read
            && e.kind() == ErrorKind::Corrupt
        {
            self.report(
                Severity::Error,
                format!("stored data is damaged: part of the map cannot be read: {e}"),
            );
        }
        read
    }

    /// Reads from wherever the bytes are, waiting as needed.
    pub async fn read(self: &Arc<Self>, span: Span) -> Result<Vec<Bytes>> {
        self.follow(span);
        let (begun, mut tries) = (Instant::now(), 0);
        loop {
            self.usable()?;
            self.check_span(span)?;
            let (error, pieces) = match self.resolve(span).await {
                Ok(pieces) => match self.collect(&pieces).await {
                    Ok(parts) => return Ok(parts),
                    Err(e) => (e, Some(pieces)),
                },
                // Part of the map is gone, as when another gateway has the image and this one has not found out.
                Err(e) if e.kind() == ErrorKind::NotFound => (e, None),
                Err(e) => return Err(e),
            };
            if !is_damage(&error) {
                return Err(error);
            }
            // The place may have been given up between looking and fetching; then the map has a new one.
            let stays = match &pieces {
                Some(pieces) => self.same_places(span, pieces).await.ok(),
                None => None,
            };
            match (error.kind(), stays) {
                // One of many places after the other may be given up, as while local segments drain: that is no damage.
                (ErrorKind::NotFound, Some(false)) if begun.elapsed() < MOVING => {}
                (ErrorKind::NotFound, Some(false)) => return Err(moving(span, error)),
                (ErrorKind::Corrupt, Some(true)) if tries > 0 => return Err(self.damaged(error)),
                _ if tries == TRIES => return Err(self.damaged(error)),
                _ => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(1 << tries)).await;
        }
    }

    async fn same_places(&self, span: Span, before: &[(Span, Source)]) -> Result<bool> {
        let now = self.resolve(span).await?;
        let same = |a: &Source, b: &Source| match (a, b) {
            (Source::Record { record: a, .. }, Source::Record { record: b, .. }) => a.seq == b.seq,
            (Source::Spooled { segment: a, .. }, Source::Spooled { segment: b, .. }) => Arc::ptr_eq(a, b),
            (Source::Stored { frame: a, .. }, Source::Stored { frame: b, .. }) => a == b,
            (Source::Unknown(a), Source::Unknown(b)) => a == b,
            (Source::Hole, Source::Hole) | (Source::Zero, Source::Zero) => true,
            _ => false,
        };
        Ok(now.len() == before.len() && now.iter().zip(before).all(|((s, a), (t, b))| s == t && same(a, b)))
    }

    fn damaged(&self, error: Error) -> Error {
        self.report(Severity::Error, format!("stored data is damaged and no other copy was found: {error}"));
        match error.kind() {
            ErrorKind::Corrupt => error,
            _ => Error::caused(ErrorKind::Corrupt, "stored data is missing", error),
        }
    }

    /// The bytes of all pieces, one behind the other; a piece in the bucket comes in one part.
    pub async fn collect(self: &Arc<Self>, pieces: &[(Span, Source)]) -> Result<Vec<Bytes>> {
        // Local segments and the journal first: what is there may be given up soon, what is in the bucket stays for minutes.
        let mut local = Vec::new();
        for (_, source) in pieces {
            match source {
                Source::Record { record, .. } => local.push(self.record_data(record).await?),
                Source::Spooled { segment, frame, .. } => {
                    local.push(vec![self.spooled_frame(segment, *frame).await?]);
                }
                _ => {}
            }
        }
        // From the cache just what is asked for; from the bucket whole frames, all at a time.
        let mut hits = Vec::with_capacity(pieces.len());
        let mut absent = Vec::new();
        for (run, source) in pieces {
            let (frame, skip) = match source {
                Source::Stored { frame, skip } => (frame, skip),
                Source::Unknown(row) => return Err(unknown(*run, *row)),
                _ => continue,
            };
            let (offset, len) = ((skip * base::SECTOR) as usize, run.bytes() as usize);
            let hit = self.env.cache.read(frame.key(), offset, len).await;
            if hit.is_none() {
                absent.push(*frame);
            }
            hits.push(hit);
        }
        if let Some((last, _)) = pieces.last().filter(|_| !absent.is_empty()) {
            self.readahead.missed(last.end());
        }
        let (mut hits, mut frames) = (hits.into_iter(), self.fetch(absent).await?.into_iter());
        let mut local = local.into_iter();
        let mut out = Vec::with_capacity(pieces.len());
        for (run, source) in pieces {
            match source {
                Source::Hole | Source::Zero => push_zeroes(&mut out, run.count),
                Source::Record { skip, .. } | Source::Spooled { skip, .. } => {
                    let parts = local.next().expect("each was read");
                    slice_parts(&parts, skip * base::SECTOR, run.bytes(), &mut out);
                }
                Source::Stored { skip, .. } => match hits.next().expect("the cache was asked for each") {
                    Some(bytes) => out.push(bytes),
                    None => {
                        let raw = frames.next().expect("one frame comes back for each asked for");
                        push_frame(&mut out, raw, *skip, run.count);
                    }
                },
                Source::Unknown(row) => return Err(unknown(*run, *row)),
            }
        }
        Ok(out)
    }

    /// The payload of a record, from memory or from the journal.
    pub async fn record_data(&self, record: &DirtyRecord) -> Result<Vec<Bytes>> {
        payload(&self.env.journal, record).await
    }

    async fn spooled_frame(&self, segment: &SpooledSegment, frame: u32) -> Result<Bytes> {
        let at = u64::from(segment.offsets[frame as usize]);
        let frame = &segment.header.frames[frame as usize];
        let range = at..at + u64::from(frame.stored);
        let stored = self.env.spool.get(segment.image, &segment.name, range).await?;
        decode_frame(frame, stored)
            .map_err(|e| e.within(format!("local segment {} at offset {at}", segment.name)))
    }

    /// Decoded frames from the bucket, in the order asked for, neighbours in one get.
    async fn fetch(self: &Arc<Self>, absent: Vec<StoredFrame>) -> Result<Vec<Bytes>> {
        if absent.is_empty() {
            return Ok(Vec::new());
        }
        let runs = stream::iter(group(absent.clone())).map(|run| {
            let core = self.clone();
            async move { core.fetch_once(run).await }
        });
        let fetched: Vec<Vec<(LineKey, Bytes)>> = runs.buffer_unordered(GETS).try_collect().await?;
        let fetched: BTreeMap<LineKey, Bytes> = fetched.into_iter().flatten().collect();
        Ok(absent.iter().map(|frame| fetched[&frame.key()].clone()).collect())
    }

    /// Fetches what nobody else is fetching already, then takes the rest from those who do; nobody waits before its own
    /// part is done, so nobody waits in a ring.
    async fn fetch_once(&self, run: Vec<StoredFrame>) -> Result<Vec<(LineKey, Bytes)>> {
        let begun = Instant::now();
        let mut out = Vec::with_capacity(run.len());
        let (claims, others) = self.claim(&run);
        for part in group(claims.mine.iter().map(|(frame, _)| *frame).collect()) {
            out.extend(self.fetch_run(&part).await?);
        }
        claims.tell(&out);
        drop(claims);
        for (frame, mut other) in others {
            let told = other.wait_for(Option::is_some).await.ok().and_then(|bytes| bytes.clone());
            match told {
                Some(bytes) => out.push((frame.key(), bytes)),
                // The other gave up after a long time, and so it would be again.
                None if begun.elapsed() > JOINED => return Err(gave_up(&frame)),
                // It had no luck.
                None => out.extend(self.fetch_run(&[frame]).await?),
            }
        }
        Ok(out)
    }

    /// Fetches neighbouring frames of one segment in one get.
    async fn fetch_run(&self, run: &[StoredFrame]) -> Result<Vec<(LineKey, Bytes)>> {
        let (first, last) = (run[0], run[run.len() - 1]);
        let key = name::segment(first.origin, first.epoch, first.number);
        let start = u64::from(first.offset);
        let end = u64::from(last.offset) + u64::from(last.frame.stored);
        let bytes = self.env.bucket.get(&key, Some(start..end)).await.map_err(|e| match e.kind() {
            ErrorKind::Invalid => Error::caused(ErrorKind::Corrupt, first.place(), e),
            _ => e.within(first.place()),
        })?;
        let mut out = Vec::with_capacity(run.len());
        for frame in run {
            let at = (frame.offset - first.offset) as usize;
            let stored =
                bytes.slice(at.min(bytes.len())..(at + frame.frame.stored as usize).min(bytes.len()));
            let raw = match decode_frame(&frame.frame, stored) {
                Ok(raw) => raw,
                Err(_) => self.fetch_again(frame).await?,
            };
            self.env.cache.insert(frame.key(), raw.clone());
            out.push((frame.key(), raw));
        }
        Ok(out)
    }

    /// A second get tells a fault on the way from damage in the store.
    async fn fetch_again(&self, frame: &StoredFrame) -> Result<Bytes> {
        let key = name::segment(frame.origin, frame.epoch, frame.number);
        let start = u64::from(frame.offset);
        let stored = self.env.bucket.get(&key, Some(start..start + u64::from(frame.frame.stored))).await?;
        decode_frame(&frame.frame, stored).map_err(|e| e.within(frame.place()))
    }

    /// Takes on the frames that nobody is fetching; the others come with who will bring them.
    fn claim(&self, run: &[StoredFrame]) -> (Claims<'_>, Vec<(StoredFrame, Coming)>) {
        let mut frames = self.in_flight.frames.lock();
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for frame in run {
            match frames.entry(frame.key()) {
                Entry::Occupied(other) => others.push((*frame, other.get().clone())),
                Entry::Vacant(free) => {
                    let (bring, coming) = watch::channel(None);
                    free.insert(coming);
                    mine.push((*frame, bring));
                }
            }
        }
        (Claims { core: self, mine }, others)
    }

    /// Fetches what of `span` is in the bucket only, in the background.
    pub fn spawn_prefetch(self: &Arc<Self>, span: Span) {
        let core = self.clone();
        self.env.spawn.spawn(
            "readahead",
            Box::pin(async move {
                if core.prefetch(span).await == Some(0) {
                    core.readahead.is_there(span);
                }
            }),
        );
    }

    /// Fetches a span that a client names, of any length: in steps, one such span at a time, and no more than the cache can keep.
    pub fn spawn_prefetch_all(self: &Arc<Self>, span: Span) {
        if self.prefetching.swap(true, Ordering::Relaxed) {
            return;
        }
        let core = self.clone();
        let work = async move {
            let mut room = core.env.cache.stats().room as usize;
            for at in (span.start..span.end()).step_by(PREFETCH_STEP as usize) {
                let step = Span::new(at, PREFETCH_STEP.min(span.end() - at));
                room = room.saturating_sub(core.prefetch(step).await.unwrap_or(0));
                if room == 0 || core.usable().is_err() {
                    break;
                }
            }
            core.prefetching.store(false, Ordering::Relaxed);
        };
        self.env.spawn.spawn("prefetch", Box::pin(work));
    }

    /// How many frames it fetched; `None` if it could not.
    async fn prefetch(self: &Arc<Self>, span: Span) -> Option<usize> {
        let pieces = self.resolve(span).await.ok()?;
        let wanted = pieces.into_iter().filter_map(|(_, source)| match source {
            Source::Stored { frame, .. } if !self.env.cache.contains(&frame.key()) => Some(frame),
            _ => None,
        });
        // What cannot be fetched now will be reported when it is read.
        self.fetch(wanted.collect()).await.ok().map(|frames| frames.len())
    }

    /// Keeps a segment of our own that is being uploaded as clean cache.
    pub async fn keep(&self, sealed: &Sealed) {
        let (header, stored) = (&sealed.header, &sealed.payload.parts()[1..]);
        for (index, (frame, bytes)) in header.frames.iter().zip(stored).enumerate() {
            let key = LineKey {
                image: self.id,
                epoch: header.position.epoch.0,
                number: header.position.number.0,
                line: index as u32,
                content: frame.crc64,
            };
            let raw = match frame.codec {
                Codec::Raw => bytes.clone(),
                Codec::Lz4 => match decode_frame(frame, bytes.clone()) {
                    Ok(raw) => raw,
                    Err(_) => continue,
                },
            };
            self.env.cache.insert_in_turn(key, raw).await;
        }
    }
}

/// A frame that somebody is fetching; closed without one if that failed.
type Coming = watch::Receiver<Option<Bytes>>;

/// Frames that one reader fetches, for itself and for all who want them meanwhile.
struct Claims<'a> {
    core: &'a Core,
    mine: Vec<(StoredFrame, watch::Sender<Option<Bytes>>)>,
}

impl Claims<'_> {
    fn tell(&self, fetched: &[(LineKey, Bytes)]) {
        for (key, bytes) in fetched {
            if let Some((_, bring)) = self.mine.iter().find(|(frame, _)| frame.key() == *key) {
                bring.send_replace(Some(bytes.clone()));
            }
        }
    }
}

/// Fetches a page of a map. `Corrupt`, naming object and offset, if a second get gives no better bytes either.
pub(crate) async fn fetch_page(bucket: &dyn Bucket, image: ImageId, place: PageRef) -> Result<Page> {
    let page = match fetch_pages(bucket, image, &[place]).await {
        Err(e) if e.kind() == ErrorKind::Corrupt => fetch_pages(bucket, image, &[place]).await,
        other => other,
    };
    page?.pop().ok_or_else(|| Error::internal("no page came back for the one asked for"))
}

/// Fetches pages that lie one behind the other in one object, in one get.
pub(crate) async fn fetch_pages(
    bucket: &dyn Bucket,
    image: ImageId,
    places: &[PageRef],
) -> Result<Vec<Page>> {
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(Vec::new()) };
    let key = name::pages(image, first.epoch, first.number, first.part);
    let range = u64::from(first.offset)..u64::from(last.offset) + u64::from(last.len);
    let bytes = bucket.get(&key, Some(range)).await.map_err(|e| match e.kind() {
        ErrorKind::Invalid => Error::caused(ErrorKind::Corrupt, format!("{key} is too short"), e),
        _ => e.within(format!("{key} at offset {}", first.offset)),
    })?;
    let page = |place: &PageRef| {
        let from = ((place.offset - first.offset) as usize).min(bytes.len());
        let stored = bytes.slice(from..(from + place.len as usize).min(bytes.len()));
        let page = match checksum::crc64(&stored) == place.crc64 {
            true => Page::decode(&stored),
            false => Err(Error::corrupt("a map page's CRC-64 does not match its bytes")),
        };
        page.map_err(|e| e.within(format!("{key} at offset {}", place.offset)))
    };
    places.iter().map(page).collect()
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        let mut frames = self.core.in_flight.frames.lock();
        self.mine.iter().for_each(|(frame, _)| {
            frames.remove(&frame.key());
        });
    }
}

fn gave_up(frame: &StoredFrame) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the bucket did not give {}: try again later", frame.place()))
}

fn moving(span: Span, why: Error) -> Error {
    let text = format!(
        "sectors {} to {} were moved each time they were looked up: try again",
        span.start,
        span.end()
    );
    Error::caused(ErrorKind::Unavailable, text, why)
}

/// Whether something is damaged or missing in the bucket, which another try will not change.
fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

fn unknown(run: Span, row: RowId) -> Error {
    Error::corrupt(format!(
        "the map has sector {} in row {row} of a segment table without that row",
        run.start
    ))
}

/// Puts frames that lie side by side in one segment together.
fn group(mut frames: Vec<StoredFrame>) -> Vec<Vec<StoredFrame>> {
    frames.sort_by_key(|f| (f.origin, f.epoch, f.number, f.offset));
    frames.dedup();
    let mut runs: Vec<Vec<StoredFrame>> = Vec::new();
    for frame in frames {
        match runs.last_mut() {
            Some(run) if joins(run, &frame) => run.push(frame),
            _ => runs.push(vec![frame]),
        }
    }
    runs
}

fn joins(run: &[StoredFrame], next: &StoredFrame) -> bool {
    let (first, last) = (&run[0], &run[run.len() - 1]);
    (first.origin, first.epoch, first.number) == (next.origin, next.epoch, next.number)
        && last.offset + last.frame.stored == next.offset
        && u64::from(next.offset - first.offset) < RUN_BYTES
}
