//! One seed, one world: gateways with simulated disks on one simulated bucket, initiators that write and read, faults,
//! crashes and takeovers, and a checker that knows every acknowledged write.
//!
//! Everything runs on one thread under a paused clock, so that a seed always gives the same world.

mod checker;
mod gateway;
mod initiator;
mod rot;
mod scenario;
mod seams;

pub use checker::Checker;
pub use scenario::{Outcome, run};
pub use seams::{Process, SimClock};
