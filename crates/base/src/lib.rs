//! The vocabulary of Tidegate: ids, byte units, seams for time, chance and tasks, errors and checksums.
//!
//! Nothing here does any input or output, and nothing here knows what a volume is.

pub mod buffer;
pub mod checksum;
mod entropy;
mod error;
mod id;
mod task;
mod time;
mod unit;

pub use buffer::AlignedBuf;
pub use entropy::{Entropy, SeededEntropy};
pub use error::{Error, ErrorKind, Result};
pub use id::{Epoch, GatewayId, ImageId, JournalId, Number, Seq, StartId};
pub use task::{BoxFuture, Spawn, Urgency};
pub use time::{Clock, ManualClock, UnixMillis};
pub use unit::{ByteSize, SECTOR, Span};

#[cfg(test)]
mod tests;
