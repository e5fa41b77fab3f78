//! Device servers: what a logical unit does with a command (SAM-5, SPC-5, SBC-4).
//!
//! A [`TargetDevice`] holds the logical units of one target; a [`LogicalUnit`] is one volume and may be attached to
//! several targets. Nothing here waits for anything but the medium.

mod target;
mod unit;

pub use target::TargetDevice;
pub use unit::{Identity, LogicalUnit};
