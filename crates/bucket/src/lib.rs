//! Object stores behind one narrow trait.
//!
//! [`Bucket`] is the trait, [`Directory`] and [`Memory`] keep objects on this machine, and the decorators [`Retrying`],
//! [`Throttled`], [`Metered`], [`Faulty`] and [`Prefixed`] go around any of them. [`contract`] says in code what every
//! store has to do.

pub mod contract;
mod directory;
mod faulty;
mod memory;
mod object;
mod operation;
mod prefixed;
mod retrying;

pub use directory::Directory;
pub use faulty::{Fault, FaultPlan, Faults, Faulty, Outage, Script};
pub use memory::Memory;
pub use object::{Access, Attributes, Bucket, Key, METADATA_LIMIT, ObjectMeta, Payload, StorageClass};
pub use operation::Operation;
pub use prefixed::Prefixed;
pub use retrying::{RetryPolicy, Retrying};
