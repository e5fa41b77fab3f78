//! The bucket format of images: segments, frames, epochs, checkpoints, and the chain they form.
//!
//! `docs/formats/image-log.md` is the specification. Nothing here knows of local disks, so that a rescue tool or a
//! link between sites depends on nothing more.

mod checkpoint;
mod codec;
mod epoch;
mod extent;
pub mod name;
mod page;
mod pin;
mod reader;
mod segment;
mod writer;

pub use checkpoint::{Checkpoint, Row, RowId, Table};
pub use epoch::{Continuation, EpochRecord, FenceRecord, ImageRecord};
pub use extent::{ExtentMap, Piece};
pub use page::{Page, PageRef, Run};
pub use pin::{Pin, list_pins};
pub use reader::{Chain, Loaded, load, read_epoch, read_fence, read_header, terms};
pub use segment::{
    Codec, Extent, ExtentKind, FRAME_BYTES, FRAME_SECTORS, Frame, Header, HeaderDraft, Kind, Placement,
    Position, Sealed, SegmentDraft, StateChange, Target, decode_frame, encode_frame,
};
pub use writer::{Ownership, create_image, list_images, read_image};

/// The decoders that read bytes from a bucket, for fuzzing.
pub mod fuzzing {
    pub use crate::checkpoint::Checkpoint;
    pub use crate::page::Page;
    pub use crate::pin::Pin;
    pub use crate::segment::Header;
}

#[cfg(test)]
mod tests;
