//! Object stores behind one narrow trait.

mod object;

pub use object::{Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};
