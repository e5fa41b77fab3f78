//! Segments on their way to the bucket.

use std::sync::Arc;

use base::{Error, ImageId, Result};
use bytes::Bytes;
use chain::{Header, HeaderDraft, Sealed};
use local::{Spool, SpoolFile};
use tokio::time::Instant;

use crate::core::Core;
use crate::dirty::{Accepted, SealedRoom, SpooledSegment};

/// Where the bytes of a sealed segment are until it counts.
#[derive(Debug)]
pub(crate) enum Body {
    /// In memory only; the journal has the records. Each image may have one without taking room that others could use.
    Memory(Arc<Sealed>, Option<SealedRoom>),
    /// In a local segment, which may have been sealed in an earlier epoch.
    Spooled(Arc<SpooledSegment>),
}

/// How far the put of a segment is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Put {
    /// Not under way; not before the moment, after so many failures.
    Idle(Option<Instant>, u32),
    /// Under way, after so many failures.
    Flying { since: Instant, failures: u32 },
    /// The store says it has it.
    Done,
}

/// A sealed segment that does not count yet.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub header: Header,
    pub draft: HeaderDraft,
    pub body: Body,
    pub put: Put,
    /// Payload bytes of the client records in it.
    pub dirty: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<Accepted>,
    /// Bytes of the object.
    pub size: u64,
}

impl Outgoing {
    pub fn in_memory(&self) -> bool {
        matches!(self.body, Body::Memory(..))
    }

    /// Whether the last attempt to put it failed.
    pub fn is_failing(&self) -> bool {
        matches!(self.put, Put::Idle(_, 1..) | Put::Flying { failures: 1.., .. })
    }

    /// The segment ready to be put.
    pub async fn load(core: &Core, body: BodyRef, draft: HeaderDraft) -> Result<Arc<Sealed>> {
        let segment = match body {
            BodyRef::Memory(sealed) => return Ok(sealed),
            BodyRef::Spooled(segment) => segment,
        };
        let object = core.env.spool.get(segment.image, &segment.name, 0..segment.bytes).await?;
        reseal(&segment, &object, draft).map(Arc::new)
    }

    pub fn body_ref(&self) -> BodyRef {
        match &self.body {
            Body::Memory(sealed, _) => BodyRef::Memory(sealed.clone()),
            Body::Spooled(segment) => BodyRef::Spooled(segment.clone()),
        }
    }
}

/// A handle on a body that a put in flight can hold.
pub(crate) enum BodyRef {
    Memory(Arc<Sealed>),
    Spooled(Arc<SpooledSegment>),
}

/// The content of a local segment at its place in the present epoch's chain. Sealing is deterministic, so that one sealed
/// in this epoch comes out as it was.
pub(crate) fn reseal(segment: &SpooledSegment, object: &Bytes, draft: HeaderDraft) -> Result<Sealed> {
    Sealed::again(&segment.header, object, draft)
        .map_err(|e| e.within(format!("local segment {}", segment.name)))
}

/// The name of a local segment.
pub(crate) fn spool_name(header: &Header) -> String {
    format!("{:016x}-{:016x}.seg", header.position.epoch.0, header.position.number.0)
}

/// Reads a local segment's header back. `Corrupt` if it is damaged.
pub(crate) async fn read_spooled(spool: &Spool, image: ImageId, file: SpoolFile) -> Result<SpooledSegment> {
    let SpoolFile { name, len } = file;
    let object = spool.get(image, &name, 0..len).await?;
    let header =
        Header::decode(&object).map_err(|e| e.within(format!("local segment {name} at offset 0")))?;
    if header.image != image {
        return Err(Error::corrupt(format!("local segment {name} belongs to image {}", header.image)));
    }
    let offsets = header.offsets();
    Ok(SpooledSegment { image, name, header, offsets, bytes: len })
}
