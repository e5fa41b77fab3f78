//! What a gateway keeps on its own disks.

mod disk;

pub use disk::{Disk, DiskFile};
