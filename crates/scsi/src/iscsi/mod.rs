//! The iSCSI protocol machine.
