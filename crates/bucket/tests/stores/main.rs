//! Every store against the contract, and the decorators against stores that fail.

mod decorators;
mod faults;
mod local;
mod servers;

use std::sync::Arc;

use base::{Entropy, SeededEntropy};
use bucket::{Attributes, Bucket, Key, Payload, contract};
use bytes::Bytes;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn body(text: &str) -> Payload {
    Payload::from(Bytes::copy_from_slice(text.as_bytes()))
}

fn plain() -> Attributes {
    Attributes::default()
}

/// Runs the contract; the seed stands in the failure's message.
async fn holds(bucket: Arc<dyn Bucket>, seed: u64, large: usize) -> contract::Report {
    let entropy = SeededEntropy::new(seed);
    match contract::run(&bucket, &entropy as &dyn Entropy, contract::Scope { large }).await {
        Ok(report) => report,
        Err(e) => panic!("seed {seed}: {e}"),
    }
}

fn absent(report: &contract::Report) -> Vec<&'static str> {
    report.absent.iter().map(|(name, _)| *name).collect()
}
