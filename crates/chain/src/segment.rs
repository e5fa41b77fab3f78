use base::{Epoch, Error, ImageId, Number, Result, SECTOR, Seq, Span, UnixMillis, checksum};
use bucket::Payload;
use bytes::{Bytes, BytesMut};

use crate::codec::{Digest, PROLOGUE, Reader, Writer, sealed_len};
use crate::extent::Piece;

/// The most raw bytes in a frame.
pub const FRAME_BYTES: usize = 64 << 10;
/// The same in sectors.
pub const FRAME_SECTORS: u64 = FRAME_BYTES as u64 / SECTOR;

pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"TGsegmt1";

/// A place in a chain: which segment, and that it is really that one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its owner's term.
    pub epoch: Epoch,
    /// Its place.
    pub number: Number,
    /// The digest of its header.
    pub digest: Digest,
}

impl Position {
    /// Before the first segment.
    pub const ROOT: Position = Position { epoch: Epoch(0), number: Number(0), digest: [0; 32] };

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.epoch.0);
        w.u64(self.number.0);
        w.raw(&self.digest);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Position> {
        Ok(Position { epoch: Epoch(r.u64()?), number: Number(r.u64()?), digest: r.array()? })
    }
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client writes, copies, deletions.
    Data = 1,
    /// The first of an epoch.
    Fence = 2,
    /// The last of an epoch that ended in good order: nothing is outside the bucket.
    Close = 3,
}

/// How a frame is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One LZ4 block.
    Lz4 = 1,
}

impl Codec {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Codec> {
        match r.u8()? {
            0 => Ok(Codec::Raw),
            1 => Ok(Codec::Lz4),
            _ => Err(r.corrupt("a frame has an unknown codec")),
        }
    }
}

/// One frame of a segment's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// How it is stored.
    pub codec: Codec,
    /// Bytes in the object.
    pub stored: u32,
    /// Bytes when decoded; whole sectors.
    pub raw: u32,
    /// CRC-64/NVME of the stored bytes.
    pub crc64: u64,
}

impl Frame {
    pub(crate) fn check(&self, r: &Reader<'_>) -> Result<()> {
        let whole = self.raw >= SECTOR as u32
            && self.raw as usize <= FRAME_BYTES
            && u64::from(self.raw).is_multiple_of(SECTOR);
        let fits = match self.codec {
            Codec::Raw => self.stored == self.raw,
            Codec::Lz4 => self.stored < self.raw && self.stored > 0,
        };
        if whole && fits { Ok(()) } else { Err(r.corrupt("a frame has impossible lengths")) }
    }
}

/// Where an extent's data lie: inside one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Which frame.
    pub frame: u32,
    /// Sectors before it in the frame.
    pub skip: u8,
}

/// What an extent does to its sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// They hold data.
    Data(Placement),
    /// They hold zeroes that were written.
    Zero,
    /// They hold nothing.
    Hole,
    /// Their data was copied here, if the map still points at the source.
    Moved {
        /// Where the copy lies.
        at: Placement,
        /// The segment it was copied from.
        from: (Epoch, Number),
    },
}

/// One run of sectors of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The sectors.
    pub span: Span,
    /// What happens to them.
    pub kind: ExtentKind,
}

/// A small named value set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// Its name.
    pub name: String,
    /// Its new value; `None` removes it.
    pub value: Option<Bytes>,
}

/// A segment without its payload.
#[derive(Debug, Clone)]
pub struct Header {
    /// The image.
    pub image: ImageId,
    /// Its own place.
    pub position: Position,
    /// The member before it.
    pub previous: Position,
    /// What it is for.
    pub kind: Kind,
    /// When it was sealed.
    pub created: UnixMillis,
    /// The image's size in sectors from here on.
    pub size: u64,
    /// First client record covered.
    pub first_seq: Seq,
    /// Last client record covered.
    pub last_seq: Seq,
    /// The payload's frames.
    pub frames: Vec<Frame>,
    /// What it maps.
    pub extents: Vec<Extent>,
    /// Which values it sets.
    pub states: Vec<StateChange>,
    /// Segments that may be deleted once this one counts.
    pub deletions: Vec<(Epoch, Number)>,
    /// Where the payload begins in the object.
    pub payload_at: u32,
}

impl Header {
    /// Whether it changes what the image holds: fences, closes and deletions of garbage alone do not.
    pub fn has_content(&self) -> bool {
        !self.extents.is_empty() || !self.states.is_empty()
    }

    /// How many bytes the header of an object takes, told from its first 16. `Corrupt` if it is no segment.
    pub fn len_from(prologue: &[u8]) -> Result<usize> {
        sealed_len(SEGMENT_MAGIC, prologue)
            .ok_or_else(|| Error::corrupt("a segment: it does not begin as one"))
    }

    /// The bytes to ask for when nothing is known yet.
    pub const FIRST_GET: u64 = 32 << 10;
    /// The fewest bytes [`Header::len_from`] needs.
    pub const PROLOGUE: usize = PROLOGUE;

    /// Reads the header at the start of `data`. `Corrupt` if anything about it is wrong.
    pub fn decode(data: &[u8]) -> Result<Header> {
        let (mut r, digest, len) = Reader::open("a segment", SEGMENT_MAGIC, data)?;
        let image = ImageId(r.array()?);
        let (epoch, number) = (Epoch(r.u64()?), Number(r.u64()?));
        let previous = Position::read(&mut r)?;
        let kind = match r.u8()? {
            1 => Kind::Data,
            2 => Kind::Fence,
            3 => Kind::Close,
            _ => return Err(r.corrupt("unknown kind")),
        };
        let (created, size) = (r.u64()?, r.u64()?);
        let (first_seq, last_seq) = (Seq(r.u64()?), Seq(r.u64()?));
        if number.0 != previous.number.0.wrapping_add(1) || first_seq.0 > last_seq.0.saturating_add(1) {
            return Err(r.corrupt("its numbers do not follow"));
        }
        let frames = read_frames(&mut r)?;
        let extents = read_extents(&mut r, &frames)?;
        let states = read_states(&mut r)?;
        let mut deletions = Vec::with_capacity(r.count(16)?);
        for _ in 0..deletions.capacity() {
            deletions.push((Epoch(r.u64()?), Number(r.u64()?)));
        }
        r.end()?;
        let position = Position { epoch, number, digest };
        let payload_at = len as u32;
        Ok(Header {
            image,
            position,
            previous,
            kind,
            created,
            size,
            first_seq,
            last_seq,
            frames,
            extents,
            states,
            deletions,
            payload_at,
        })
    }

    /// How many bytes the whole object has.
    pub fn object_len(&self) -> u64 {
        u64::from(self.payload_at) + self.frames.iter().map(|frame| u64::from(frame.stored)).sum::<u64>()
    }

    /// Where each frame is stored in the object.
    pub fn offsets(&self) -> Vec<u32> {
        let mut at = self.payload_at;
        self.frames
            .iter()
            .map(|f| {
                let here = at;
                at += f.stored;
                here
            })
            .collect()
    }
}

fn read_frames(r: &mut Reader<'_>) -> Result<Vec<Frame>> {
    let n = r.count(17)?;
    let mut total = 0u64;
    let mut frames = Vec::with_capacity(n);
    for _ in 0..n {
        let frame = Frame { codec: Codec::read(r)?, stored: r.u32()?, raw: r.u32()?, crc64: r.u64()? };
        frame.check(r)?;
        total += u64::from(frame.stored);
        frames.push(frame);
    }
    if total > 1 << 31 {
        return Err(r.corrupt("its payload is over 2 GiB"));
    }
    Ok(frames)
}

fn read_placement(r: &mut Reader<'_>, frames: &[Frame], sectors: u64) -> Result<Placement> {
    let at = Placement { frame: r.u32()?, skip: r.u8()? };
    let inside = frames
        .get(at.frame as usize)
        .is_some_and(|f| u64::from(at.skip) + sectors <= u64::from(f.raw) / SECTOR);
    if inside { Ok(at) } else { Err(r.corrupt("an extent lies outside its frame")) }
}

fn read_extents(r: &mut Reader<'_>, frames: &[Frame]) -> Result<Vec<Extent>> {
    let n = r.count(13)?;
    let mut extents: Vec<Extent> = Vec::with_capacity(n);
    let mut end = 0;
    for _ in 0..n {
        let tag = r.u8()?;
        let span = Span::new(r.u64()?, u64::from(r.u32()?));
        if span.is_empty() || span.start < end || span.start.checked_add(span.count).is_none() {
            return Err(r.corrupt("its extents are out of order"));
        }
        end = span.end();
        let kind = match tag {
            1 => ExtentKind::Data(read_placement(r, frames, span.count)?),
            2 => ExtentKind::Zero,
            3 => ExtentKind::Hole,
            4 => ExtentKind::Moved {
                at: read_placement(r, frames, span.count)?,
                from: (Epoch(r.u64()?), Number(r.u64()?)),
            },
            _ => return Err(r.corrupt("an extent has an unknown kind")),
        };
        extents.push(Extent { span, kind });
    }
    Ok(extents)
}

pub(crate) fn read_states(r: &mut Reader<'_>) -> Result<Vec<StateChange>> {
    let n = r.count(3)?;
    let mut states = Vec::with_capacity(n);
    for _ in 0..n {
        let name = r.text()?;
        let value = match r.u8()? {
            0 => None,
            1 => Some(r.blob()?),
            _ => return Err(r.corrupt("a state is neither set nor removed")),
        };
        states.push(StateChange { name, value });
    }
    Ok(states)
}

pub(crate) fn write_states<'a>(
    w: &mut Writer,
    states: impl ExactSizeIterator<Item = (&'a str, Option<&'a Bytes>)>,
) {
    w.count(states.len());
    for (name, value) in states {
        w.text(name);
        match value {
            None => w.u8(0),
            Some(value) => {
                w.u8(1);
                w.blob(value);
            }
        }
    }
}

/// What goes into a header besides the content.
#[derive(Debug, Clone, Copy)]
pub struct HeaderDraft {
    /// The image.
    pub image: ImageId,
    /// The owner's term.
    pub epoch: Epoch,
    /// The member before it.
    pub previous: Position,
    /// What it is for.
    pub kind: Kind,
    /// When it is sealed.
    pub created: UnixMillis,
    /// The image's size in sectors from here on.
    pub size: u64,
    /// First client record covered.
    pub first_seq: Seq,
    /// Last client record covered; `first_seq - 1` for none.
    pub last_seq: Seq,
}

/// The content of a segment while it is put together. Extents must come in address order.
#[derive(Debug, Default)]
pub struct SegmentDraft {
    frames: Vec<Frame>,
    stored: Vec<Bytes>,
    extents: Vec<Extent>,
    states: Vec<StateChange>,
    deletions: Vec<(Epoch, Number)>,
    /// Small pieces on their way into a shared frame, whose index will be `frames.len()`.
    packing: Vec<Bytes>,
    packed: usize,
}

/// A segment whose bytes are settled for good.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its header, decoded.
    pub header: Header,
    /// The whole object.
    pub payload: Payload,
}

impl SegmentDraft {
    /// Adds the data of a run of whole sectors.
    pub fn data(&mut self, start: u64, data: Bytes) {
        self.place(start, data, None);
    }

    /// Adds a copy of data that the map has in segment `from`.
    pub fn moved(&mut self, start: u64, data: Bytes, from: (Epoch, Number)) {
        self.place(start, data, Some(from));
    }

    /// Large pieces get frames of their own, which begin at multiples of 64 KiB; small ones share frames.
    fn place(&mut self, mut start: u64, mut data: Bytes, from: Option<(Epoch, Number)>) {
        while !data.is_empty() {
            let room = (FRAME_SECTORS - start % FRAME_SECTORS) * SECTOR;
            let piece = data.split_to(data.len().min(room as usize));
            let sectors = piece.len() as u64 / SECTOR;
            if piece.len() == FRAME_BYTES {
                self.flush_packing();
                self.extent(start, sectors, 0, from);
                self.frame(piece);
            } else {
                if self.packed + piece.len() > FRAME_BYTES {
                    self.flush_packing();
                }
                self.extent(start, sectors, self.packed as u64 / SECTOR, from);
                self.packed += piece.len();
                self.packing.push(piece);
            }
            start += sectors;
        }
    }

    fn extent(&mut self, start: u64, sectors: u64, skip: u64, from: Option<(Epoch, Number)>) {
        let at = Placement { frame: self.frames.len() as u32, skip: skip as u8 };
        if let (None, Some(Extent { span, kind: ExtentKind::Data(last) })) = (from, self.extents.last_mut())
            && span.end() == start
            && last.frame == at.frame
            && u64::from(last.skip) + span.count == skip
        {
            span.count += sectors;
            return;
        }
        let kind = match from {
            None => ExtentKind::Data(at),
            Some(from) => ExtentKind::Moved { at, from },
        };
        self.extents.push(Extent { span: Span::new(start, sectors), kind });
    }

    fn frame(&mut self, raw: Bytes) {
        let (frame, stored) = encode_frame(raw);
        self.frames.push(frame);
        self.stored.push(stored);
    }

    fn flush_packing(&mut self) {
        let raw = match &mut self.packing[..] {
            [] => return,
            [one] => std::mem::take(one),
            many => {
                let mut all = BytesMut::with_capacity(self.packed);
                many.iter().for_each(|p| all.extend_from_slice(p));
                all.freeze()
            }
        };
        self.packing.clear();
        self.packed = 0;
        self.frame(raw);
    }

    /// Adds a run of zeroes (`written`) or of nothing.
    pub fn empty(&mut self, span: Span, written: bool) {
        let mut at = span;
        while !at.is_empty() {
            let part = Span::new(at.start, at.count.min(u64::from(u32::MAX)));
            let kind = if written { ExtentKind::Zero } else { ExtentKind::Hole };
            self.extents.push(Extent { span: part, kind });
            at = Span::new(part.end(), at.count - part.count);
        }
    }

    /// Sets or removes a value.
    pub fn state(&mut self, change: StateChange) {
        self.states.push(change);
    }

    /// The values set and removed so far, in order.
    pub fn states(&self) -> &[StateChange] {
        &self.states
    }

    /// Says that a segment may be deleted once this one counts.
    pub fn delete(&mut self, epoch: Epoch, number: Number) {
        self.deletions.push((epoch, number));
    }

    /// Stored bytes so far.
    pub fn len(&self) -> usize {
        self.stored.iter().map(Bytes::len).sum::<usize>() + self.packed
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.states.is_empty() && self.deletions.is_empty()
    }

    /// Settles the bytes.
    pub fn seal(mut self, draft: HeaderDraft) -> Sealed {
        self.flush_packing();
        let mut w = Writer::new(SEGMENT_MAGIC);
        w.raw(&draft.image.0);
        w.u64(draft.epoch.0);
        w.u64(draft.previous.number.0 + 1);
        draft.previous.write(&mut w);
        w.u8(draft.kind as u8);
        w.u64(draft.created);
        w.u64(draft.size);
        w.u64(draft.first_seq.0);
        w.u64(draft.last_seq.0);
        w.count(self.frames.len());
        for f in &self.frames {
            w.u8(f.codec as u8);
            w.u32(f.stored);
            w.u32(f.raw);
            w.u64(f.crc64);
        }
        w.count(self.extents.len());
        self.extents.iter().for_each(|e| write_extent(&mut w, e));
        write_states(&mut w, self.states.iter().map(|s| (s.name.as_str(), s.value.as_ref())));
        w.count(self.deletions.len());
        for (epoch, number) in &self.deletions {
            w.u64(epoch.0);
            w.u64(number.0);
        }
        let (bytes, digest) = w.seal();
        self.finish(draft, bytes, digest)
    }

    fn finish(self, draft: HeaderDraft, head: Bytes, digest: Digest) -> Sealed {
        let position = Position { epoch: draft.epoch, number: draft.previous.number.next(), digest };
        let crc = self.frames.iter().fold(checksum::crc64(&head), |crc, f| {
            checksum::crc64_combine(crc, f.crc64, u64::from(f.stored))
        });
        let header = Header {
            image: draft.image,
            position,
            previous: draft.previous,
            kind: draft.kind,
            created: draft.created,
            size: draft.size,
            first_seq: draft.first_seq,
            last_seq: draft.last_seq,
            frames: self.frames,
            extents: self.extents,
            states: self.states,
            deletions: self.deletions,
            payload_at: head.len() as u32,
        };
        let mut parts = Vec::with_capacity(1 + self.stored.len());
        parts.push(head);
        parts.extend(self.stored);
        Sealed { header, payload: Payload::with_crc(parts, crc) }
    }
}

fn write_extent(w: &mut Writer, e: &Extent) {
    let (tag, at, from) = match e.kind {
        ExtentKind::Data(at) => (1, Some(at), None),
        ExtentKind::Zero => (2, None, None),
        ExtentKind::Hole => (3, None, None),
        ExtentKind::Moved { at, from } => (4, Some(at), Some(from)),
    };
    w.u8(tag);
    w.u64(e.span.start);
    w.u32(e.span.count as u32);
    if let Some(at) = at {
        w.u32(at.frame);
        w.u8(at.skip);
    }
    if let Some((epoch, number)) = from {
        w.u64(epoch.0);
        w.u64(number.0);
    }
}

impl Sealed {
    /// The same content at another place of a chain: for segments that waited on a local disk across a change of epoch.
    ///
    /// `payload` is the whole old object.
    pub fn again(header: &Header, payload: &Bytes, draft: HeaderDraft) -> Result<Sealed> {
        let mut at = header.payload_at as usize;
        let mut stored = Vec::with_capacity(header.frames.len());
        for frame in &header.frames {
            let end = at + frame.stored as usize;
            if end > payload.len() {
                return Err(Error::corrupt("a segment is shorter than its header says"));
            }
            let bytes = payload.slice(at..end);
            if checksum::crc64(&bytes) != frame.crc64 {
                return Err(Error::corrupt(format!("the frame at offset {at} does not match its CRC-64")));
            }
            stored.push(bytes);
            at = end;
        }
        let content = SegmentDraft {
            frames: header.frames.clone(),
            stored,
            extents: header.extents.clone(),
            states: header.states.clone(),
            deletions: header.deletions.clone(),
            packing: Vec::new(),
            packed: 0,
        };
        Ok(content.seal(draft))
    }
}

/// How much of a frame is tried first: what does not shrink there is stored as it is.
const SAMPLE: usize = 4096;

/// Compresses one frame if that saves a sixteenth or more.
pub fn encode_frame(raw: Bytes) -> (Frame, Bytes) {
    let worth = |part: &[u8]| {
        let packed = lz4_flex::block::compress(part);
        (packed.len() + part.len() / 16 <= part.len()).then_some(packed)
    };
    let sample = &raw[raw.len() / 2..][..SAMPLE.min(raw.len() - raw.len() / 2)];
    let packed = worth(sample).and_then(|_| worth(&raw));
    let (codec, stored) = match packed {
        Some(packed) => (Codec::Lz4, Bytes::from(packed)),
        None => (Codec::Raw, raw.clone()),
    };
    let frame =
        Frame { codec, stored: stored.len() as u32, raw: raw.len() as u32, crc64: checksum::crc64(&stored) };
    (frame, stored)
}

/// Checks and decodes one frame. `Corrupt` if its bytes are not what was stored.
pub fn decode_frame(frame: &Frame, stored: Bytes) -> Result<Bytes> {
    if stored.len() != frame.stored as usize {
        return Err(Error::corrupt(format!("a frame of {} bytes came as {}", frame.stored, stored.len())));
    }
    if checksum::crc64(&stored) != frame.crc64 {
        return Err(Error::corrupt("a frame's CRC-64 does not match its bytes"));
    }
    match frame.codec {
        Codec::Raw => Ok(stored),
        Codec::Lz4 => {
            let raw = lz4_flex::block::decompress(&stored, frame.raw as usize)
                .map_err(|e| Error::caused(base::ErrorKind::Corrupt, "a frame does not decompress", e))?;
            if raw.len() == frame.raw as usize {
                Ok(Bytes::from(raw))
            } else {
                Err(Error::corrupt("a frame decompresses to another length"))
            }
        }
    }
}

/// What the map says of a run of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing is there; in a delta it hides what an older layer has.
    Hole,
    /// Zeroes that were written.
    Zero,
    /// Data in a frame of a segment.
    Frame {
        /// The segment's row in the image's table.
        row: u32,
        /// Which frame of it.
        index: u32,
        /// Where the frame is stored in the object.
        offset: u32,
        /// The frame itself.
        frame: Frame,
        /// Sectors before the run in the frame.
        skip: u8,
    },
}

impl Piece for Target {
    fn advance(&self, sectors: u64) -> Target {
        match *self {
            Target::Frame { row, index, offset, frame, skip } => {
                Target::Frame { row, index, offset, frame, skip: skip + sectors as u8 }
            }
            other => other,
        }
    }
}
