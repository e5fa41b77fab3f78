use base::{Epoch, Error, ErrorKind, ImageId, Number, Result, Seq};
use bucket::{Attributes, Bucket, Key};
use bytes::Bytes;

use crate::checkpoint::Checkpoint;
use crate::codec::{Reader, Writer, check_len};
use crate::name;
use crate::reader::{Loaded, read_header};
use crate::segment::{Header, Position};

const PIN_MAGIC: &[u8; 8] = b"TGpinnd1";

/// What an image was made of when the loss of an owner's tail was accepted; garbage collection keeps all of it.
#[derive(Debug, Clone)]
pub struct Pin {
    /// The last member.
    pub head: Position,
    /// The last client record in it.
    pub last_seq: Seq,
    /// The image's size in sectors.
    pub size: u64,
    /// The checkpoint before it.
    pub root: Checkpoint,
    /// The members behind that.
    pub members: Vec<(Epoch, Number)>,
}

impl Pin {
    /// What was loaded.
    pub fn of(loaded: &Loaded) -> Pin {
        let last = loaded.chain.members.last();
        Pin {
            head: loaded.chain.head,
            last_seq: loaded.last_seq(),
            size: last.map_or(loaded.checkpoint.size, |h| h.size),
            root: loaded.checkpoint.clone(),
            members: loaded.chain.members.iter().map(|h| (h.position.epoch, h.position.number)).collect(),
        }
    }

    /// The sealed object.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new(PIN_MAGIC);
        self.head.write(&mut w);
        w.u64(self.last_seq.0);
        w.u64(self.size);
        w.blob(&self.root.encode());
        w.count(self.members.len());
        for (epoch, number) in &self.members {
            w.u64(epoch.0);
            w.u64(number.0);
        }
        w.seal().0
    }

    /// Reads a sealed object. `Corrupt` if anything about it is wrong.
    pub fn decode(data: &[u8]) -> Result<Pin> {
        let (mut r, _, len) = Reader::open("a pin", PIN_MAGIC, data)?;
        if len != data.len() {
            return Err(r.corrupt("it goes on behind its digest"));
        }
        let head = Position::read(&mut r)?;
        let (last_seq, size) = (Seq(r.u64()?), r.u64()?);
        let root = Checkpoint::decode(&r.blob()?)?;
        let n = r.count(16)?;
        let mut members = Vec::with_capacity(n);
        for _ in 0..n {
            members.push((Epoch(r.u64()?), Number(r.u64()?)));
        }
        r.end()?;
        Ok(Pin { head, last_seq, size, root, members })
    }

    /// Puts it. One that is there already is the same: nobody else puts a pin of that name. `Invalid` if it is too large to be read back.
    pub async fn put(&self, bucket: &dyn Bucket, key: &Key) -> Result<()> {
        let object = self.encode();
        check_len(&object).map_err(|e| e.within(format!("put {key}")))?;
        match bucket.create(key, &object.into(), &Attributes::default()).await {
            Err(e) if e.kind() == ErrorKind::Exists => Ok(()),
            other => other.map(drop),
        }
    }

    /// Reads one. `NotFound` if there is none of that name; `Corrupt` names the object.
    pub async fn read(bucket: &dyn Bucket, key: &Key) -> Result<Pin> {
        Pin::decode(&bucket.get(key, None).await?).map_err(|e| e.within(format!("{key} at offset 0")))
    }

    /// The headers of the members behind the checkpoint, checked to be the chain that leads to the head.
    pub async fn headers(&self, bucket: &dyn Bucket) -> Result<Vec<Header>> {
        let mut headers = Vec::with_capacity(self.members.len());
        let mut at = self.root.position;
        for (epoch, number) in &self.members {
            let header = read_header(bucket, self.root.image, *epoch, *number).await?;
            if header.previous != at {
                let key = name::segment(self.root.image, *epoch, *number);
                return Err(Error::corrupt(format!("{key} does not follow the segment before it")));
            }
            at = header.position;
            headers.push(header);
        }
        if at == self.head {
            Ok(headers)
        } else {
            Err(Error::corrupt(format!(
                "the pinned members of image {} do not lead to its head",
                self.root.image
            )))
        }
    }
}

/// The pins of an image, newest first, with the epochs whose owners accepted the loss and the clones they are for.
pub async fn list_pins(bucket: &dyn Bucket, image: ImageId) -> Result<Vec<(Key, Epoch, Option<ImageId>)>> {
    let mut pins = Vec::new();
    let mut after = None;
    loop {
        let page = bucket.list(&name::pins(image), after.as_ref(), 1000).await?;
        for object in &page {
            let (epoch, clone) = name::parse_pin(&object.key)?;
            pins.push((object.key.clone(), epoch, clone));
        }
        if page.len() < 1000 {
            return Ok(pins);
        }
        after = page.into_iter().next_back().map(|o| o.key);
    }
}
