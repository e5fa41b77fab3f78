//! The local HTTP API: JSON over a socket in the gateway's data directory, and the client that the command line uses.
//!
//! Whoever may open the socket may do everything; it belongs to the user the gateway runs as and to nobody else.

mod client;
mod server;

pub use client::Client;
pub use server::Server;

use serde::{Deserialize, Serialize};

/// The socket's name in the data directory.
pub const SOCKET: &str = "api.sock";

/// The query of a request to delete a volume with the forks of it that the gateway keeps.
const WITH_FORKS: &str = "with_forks=true";

/// The query of a request to delete a volume whose bucket is lost.
const WITHOUT_BUCKET: &str = "without_bucket=true";

/// The body of an error answer.
#[derive(Debug, Serialize, Deserialize)]
struct Problem {
    /// The error's kind, as [`base::ErrorKind::as_str`] has it.
    kind: String,
    /// What is wrong and what to do next.
    message: String,
}

/// The body of a request to add a bucket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBucket {
    name: String,
    url: String,
}

/// The body of a request to change a bucket's URL.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBucket {
    url: String,
}

/// The body of a request to change a volume's size.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    size: u64,
    /// A smaller size is meant, though it loses data.
    #[serde(default)]
    may_lose: bool,
}

#[cfg(test)]
mod tests;
