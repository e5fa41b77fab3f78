//! The living byte space of a volume: what was written is in the journal, then in a segment, then in the bucket, and a
//! read finds it wherever it is.
//!
//! One loop per image ([`destage`]) owns the chain; connection threads read and append around it through [`layers`].

mod account;
mod admission;
mod budget;
mod checkpoint;
mod collect;
mod compact;
mod core;
mod courtesy;
mod destage;
mod dirty;
mod env;
mod fetch;
mod fork;
mod gather;
mod layers;
mod lock;
mod merge;
mod open;
mod outgoing;
mod pages;
mod park;
mod readahead;
mod run;
mod status;
mod table;

pub use crate::core::{Hold, Image, Mapping};
pub use admission::Admission;
pub use dirty::DirtyMemory;
pub use env::{Env, Event, Events, Options, Severity};
pub use fork::{Fork, clones_of, discard_fork, forks, open_fork, unpin_clone};
pub use local::turn;
pub use open::{OpenRequest, Unclosed, create};
pub use park::is_own;
pub use status::{Condition, Status};

#[cfg(test)]
mod tests;
