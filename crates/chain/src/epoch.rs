use base::{ByteSize, Epoch, GatewayId, ImageId, JournalId, Result, Seq, StartId, UnixMillis};
use bytes::Bytes;

use crate::codec::{Reader, Writer};
use crate::segment::Position;

/// On what ground an owner began its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Continuation {
    /// The first epoch.
    First = 1,
    /// The chain ended in a close: nothing was outside the bucket.
    Clean = 2,
    /// The same journal goes on, with what it holds.
    OwnJournal = 3,
    /// Another journal's tail was given up, by an operator's word.
    LossAccepted = 4,
}

/// One term of ownership of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// The image owned.
    pub image: ImageId,
    /// Which term.
    pub epoch: Epoch,
    /// Who owns it.
    pub gateway: GatewayId,
    /// The journal that holds what is not yet in the bucket.
    pub journal: JournalId,
    /// Which start of that journal: a copy of its disk has others.
    pub start: StartId,
    /// When it was taken.
    pub created: UnixMillis,
    /// On what ground.
    pub continuation: Continuation,
    /// The term whose chain it goes on from; 0 if there was none. Terms between the two never came to serve.
    pub after: Epoch,
    /// The owner's name, for people.
    pub owner: String,
}

const EPOCH_MAGIC: &[u8; 8] = b"TGepoch3";
const IMAGE_MAGIC: &[u8; 8] = b"TGimage1";

impl EpochRecord {
    /// The sealed object.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(EPOCH_MAGIC);
        w.raw(&self.image.0);
        w.u64(self.epoch.0);
        w.raw(&self.gateway.0);
        w.raw(&self.journal.0);
        w.raw(&self.start.0);
        w.u64(self.created);
        w.u8(self.continuation as u8);
        w.u64(self.after.0);
        w.text(&self.owner);
        w.seal().0
    }

    /// Reads a sealed object. `Corrupt` if it is not exactly one.
    pub fn decode(data: &[u8]) -> Result<EpochRecord> {
        let (mut r, _, len) = Reader::open("an epoch object", EPOCH_MAGIC, data)?;
        let record = EpochRecord {
            image: ImageId(r.array()?),
            epoch: Epoch(r.u64()?),
            gateway: GatewayId(r.array()?),
            journal: JournalId(r.array()?),
            start: StartId(r.array()?),
            created: r.u64()?,
            continuation: match r.u8()? {
                1 => Continuation::First,
                2 => Continuation::Clean,
                3 => Continuation::OwnJournal,
                4 => Continuation::LossAccepted,
                _ => return Err(r.corrupt("unknown continuation")),
            },
            after: Epoch(r.u64()?),
            owner: r.text()?,
        };
        if len != data.len() {
            return Err(r.corrupt("it goes on behind its digest"));
        }
        if record.after >= record.epoch {
            return Err(r.corrupt("it goes on from a later term"));
        }
        r.end()?;
        Ok(record)
    }
}

/// What an image is, written once at its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its id.
    pub image: ImageId,
    /// The name it was created under.
    pub name: String,
    /// When.
    pub created: UnixMillis,
    /// Its size at creation.
    pub size: ByteSize,
    /// Bytes in a logical block: 512 or 4,096.
    pub block_size: u32,
}

impl ImageRecord {
    /// The sealed object.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(IMAGE_MAGIC);
        w.raw(&self.image.0);
        w.text(&self.name);
        w.u64(self.created);
        w.u64(self.size.0);
        w.u32(self.block_size);
        w.seal().0
    }

    /// Reads a sealed object. `Corrupt` if it is not exactly one.
    pub fn decode(data: &[u8]) -> Result<ImageRecord> {
        let (mut r, _, len) = Reader::open("an image object", IMAGE_MAGIC, data)?;
        let record = ImageRecord {
            image: ImageId(r.array()?),
            name: r.text()?,
            created: r.u64()?,
            size: ByteSize(r.u64()?),
            block_size: r.u32()?,
        };
        if len != data.len() {
            return Err(r.corrupt("it goes on behind its digest"));
        }
        r.end()?;
        Ok(record)
    }
}

/// Where an owner's part of the chain begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceRecord {
    /// The image.
    pub image: ImageId,
    /// The fence segment.
    pub position: Position,
    /// The last client record before it: what the chain had when its owner took over.
    pub last_seq: Seq,
}

const FENCE_MAGIC: &[u8; 8] = b"TGfence2";

impl FenceRecord {
    /// The sealed object.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(FENCE_MAGIC);
        w.raw(&self.image.0);
        self.position.write(&mut w);
        w.u64(self.last_seq.0);
        w.seal().0
    }

    /// Reads a sealed object. `Corrupt` if it is not exactly one.
    pub fn decode(data: &[u8]) -> Result<FenceRecord> {
        let (mut r, _, len) = Reader::open("a fence object", FENCE_MAGIC, data)?;
        let record = FenceRecord {
            image: ImageId(r.array()?),
            position: Position::read(&mut r)?,
            last_seq: Seq(r.u64()?),
        };
        if len != data.len() {
            return Err(r.corrupt("it goes on behind its digest"));
        }
        r.end()?;
        Ok(record)
    }
}
