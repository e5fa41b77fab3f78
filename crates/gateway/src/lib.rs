//! What a gateway has and does: the catalog of what its users want, the life of what they get, and what happened.
//!
//! Everything here is plain views and commands; how they travel is for the crates above.

mod buckets;
mod catalog;
mod config;
mod descriptors;
mod disk;
mod disks;
mod event;
mod fork;
mod gateway;
mod ground;
mod leave;
mod leftover;
pub mod memory;
mod target;
mod view;
mod volume;

pub use bucket::directory_of;
pub use config::{Config, DiskConfig, IscsiConfig, Program, UploadConfig};
pub use event::EventView;
pub use fork::OpenFork;
pub use gateway::{AdoptVolume, CreateVolume, Gateway, Seams};
pub use ground::adopt_words;
pub use target::{Access, ChapUser};
pub use view::{BucketView, DiskView, ForkView, GatewayView, ProbeView, SessionView, VolumeView};

#[cfg(test)]
mod tests;
