//! Object stores behind one narrow trait.
//!
//! [`Bucket`] is the trait, and [`open`] makes one of a URL: a [`Directory`], [`Memory`], or a cloud's. The decorators
//! [`Retrying`], [`Throttled`], [`Metered`], [`Faulty`] and [`Prefixed`] go around any of them. [`probe`] finds out at
//! start whether a store can be trusted; [`contract`] says in code what every store has to do.

mod azure;
pub mod contract;
pub mod decode;
mod directory;
mod faulty;
mod gcs;
mod memory;
mod metered;
mod object;
mod open;
mod operation;
mod oss;
mod prefixed;
mod probe;
mod rest;
mod retrying;
mod s3;
mod switch;
mod throttled;
mod transport;

pub use directory::Directory;
pub use faulty::{Fault, FaultPlan, Faults, Faulty, Outage, Script};
pub use memory::Memory;
pub use metered::{Histogram, LATENCY_CLASSES, Metered, OperationStats};
pub use object::{Access, Attributes, Bucket, Key, METADATA_LIMIT, ObjectMeta, Payload, StorageClass};
pub use open::{
    Checksum, ClassNames, Credentials, OpenOptions, directory_of, is_in_memory, is_same_place, open,
};
pub use operation::Operation;
pub use prefixed::Prefixed;
pub use probe::{ProbeReport, greet, is_same_store, probe};
pub use retrying::{RetryPolicy, Retrying};
pub use switch::Switch;
pub use throttled::{Limits, Throttled};
