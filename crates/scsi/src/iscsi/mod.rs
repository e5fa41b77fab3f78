//! iSCSI targets (RFC 7143) without sockets, threads or clocks.
//!
//! A [`Connection`] is a machine that bytes and time are put into and that bytes, events and deadlines come out of.
//! Connections share a [`TargetRegistry`], which holds the targets and knows the sessions, and nothing else; what one
//! session wants of another goes through mailboxes, so that no lock is taken per command.
//!
//! ErrorRecoveryLevel is 0 and a session has one connection.

mod chap;
mod config;
mod connection;
mod login;
mod mailbox;
mod name;
mod output;
mod params;
pub mod pdu;
mod pool;
mod receive;
mod registry;
mod session;
mod suspects;
mod text;

pub use chap::Secret;
pub use config::{
    AllowList, Authentication, Credential, Limits, Network, Portals, SHORTEST_SECRET, TargetConfig,
};
pub use connection::Connection;
pub use name::{IscsiName, Isid};
pub use output::Output;
pub use registry::{Discovery, SessionView, TargetRegistry};
pub use session::{Event, Execution, TaskId};
pub use suspects::Guessing;
