//! iSCSI sessions and SCSI device servers, free of sockets, threads and clocks.

pub mod medium;
pub mod task;

/// SCSI device servers: what a logical unit does with a command.
pub mod device;
/// iSCSI (RFC 7143): PDUs, login, sessions.
pub mod iscsi;
