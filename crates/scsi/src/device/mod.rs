//! Device servers: what a logical unit does with a command (SAM-5, SPC-5, SBC-4).
//!
//! A [`TargetDevice`] holds the logical units of one target; a [`LogicalUnit`] is one volume and may be attached to
//! several targets, whose ports then need different relative target port identifiers. Nothing here waits for anything
//! but the medium.
//!
//! Task sets are per nexus (TST 001b), so the order of ORDERED and HEAD OF QUEUE tasks is the business of the session
//! that received them.

mod atomic;
mod attention;
mod basic;
mod cdb;
mod copy;
mod demand;
mod inquiry;
mod log;
mod mode;
mod opcode;
mod persistent;
mod ports;
mod provisioning;
mod read_write;
mod reservations;
mod sanitize;
mod sense;
mod target;
mod turn;
mod under_way;
mod unit;

#[cfg(test)]
mod tests;

pub use demand::Demand;
pub use opcode::may_take_long;
pub use target::TargetDevice;
pub(crate) use unit::MAX_TRANSFER;
pub use unit::{Identity, LogicalUnit};
