//! Listening sockets and data-path threads: where protocols meet engines.
//!
//! [`Portal`] serves the targets of a [`scsi::iscsi::TargetRegistry`]. Each connection lives on one of a few threads, all
//! its work (socket, protocol, hot reads) is done there, and threads share nothing per command.

mod driver;
mod iscsi;
mod patience;
mod volume;

pub use iscsi::{Options, Portal};
pub use volume::Volume;
