//! What an operator decides about a target: who may connect, how they prove who they are, what they see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, Result};

use super::chap::Secret;
use super::name::IscsiName;
use crate::device::TargetDevice;

/// The shortest CHAP secret, in bytes: 96 bits (RFC 7143 §9.2.1).
pub const SHORTEST_SECRET: usize = 12;

/// A CHAP name and its secret.
#[derive(Debug, Clone)]
pub struct Credential {
    pub(super) name: String,
    pub(super) secret: Secret,
}

impl Credential {
    /// A name and a secret of at least [`SHORTEST_SECRET`] bytes.
    pub fn new(name: &str, secret: Secret) -> Result<Credential> {
        if name.is_empty() || name.len() > 255 || name.contains('\0') {
            return Err(Error::invalid("a CHAP name needs 1 to 255 bytes without NUL: choose another name"));
        }
        if secret.len() < SHORTEST_SECRET || secret.len() > 255 {
            return Err(Error::invalid(format!(
                "the CHAP secret of {name:?} has {} bytes: choose one of {SHORTEST_SECRET} to 255",
                secret.len()
            )));
        }
        Ok(Credential { name: name.to_owned(), secret })
    }
}

/// How the two sides prove who they are.
#[derive(Debug, Clone, Default)]
pub struct Authentication(pub(super) Option<Chap>);

/// CHAP with these credentials.
#[derive(Debug, Clone)]
pub(super) struct Chap {
    pub(super) initiators: BTreeMap<String, Secret>,
    pub(super) target: Option<Credential>,
}

impl Authentication {
    /// Nobody proves anything.
    pub fn none() -> Authentication {
        Authentication(None)
    }

    /// Initiators prove that they know one of `initiators` (X02). With `target`, this side proves itself to initiators
    /// that ask for it (mutual CHAP, X03); its secret must differ from all of theirs, or an initiator's own answer
    /// could be reflected.
    pub fn chap(initiators: Vec<Credential>, target: Option<Credential>) -> Result<Authentication> {
        if initiators.is_empty() {
            return Err(Error::invalid("CHAP without any initiator's secret admits nobody: add one"));
        }
        if let Some(own) = &target
            && let Some(twin) = initiators.iter().find(|c| c.secret.is_same(&own.secret))
        {
            return Err(Error::invalid(format!(
                "the secret of initiator {:?} and the target's own are the same: choose different ones",
                twin.name
            )));
        }
        let initiators = initiators.into_iter().map(|c| (c.name, c.secret)).collect();
        Ok(Authentication(Some(Chap { initiators, target })))
    }

    /// Whether initiators have to authenticate.
    pub fn is_required(&self) -> bool {
        self.0.is_some()
    }
}

/// A range of IP addresses, as `10.0.0.0/8`, `fd00::/8` or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address belongs to it. IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Network, Error> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is no network: write an address, or one with a prefix as in 10.0.0.0/8"
            ))
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else { return Err(wrong()) };
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.map(str::parse) {
            None => widest,
            Some(Ok(prefix)) if prefix <= widest => prefix,
            Some(_) => return Err(wrong()),
        };
        Ok(Network { address, prefix })
    }
}

/// Who may see and use a target (X06).
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    /// Initiators by name; `None` admits every name.
    pub initiators: Option<BTreeSet<IscsiName>>,
    /// Networks that initiators may come from; empty admits every address.
    pub networks: Vec<Network>,
}

impl AllowList {
    /// Whether an initiator at an address is admitted.
    pub fn admits(&self, initiator: &IscsiName, address: IpAddr) -> bool {
        self.initiators.as_ref().is_none_or(|names| names.contains(initiator))
            && (self.networks.is_empty() || self.networks.iter().any(|n| n.contains(address)))
    }
}

/// Where initiators are told to connect (SendTargets, B33); empty means the address that they used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portals(pub Vec<SocketAddr>);

/// One target, as the operator wants it. Replaced as a whole to change it.
#[derive(Clone)]
pub struct TargetConfig {
    /// The target's name.
    pub name: IscsiName,
    /// A text for people (TargetAlias), at most 255 bytes.
    pub alias: Option<String>,
    /// How initiators of this target authenticate.
    pub authentication: Authentication,
    /// Who may use it.
    pub allow: AllowList,
    /// What SendTargets says.
    pub portals: Portals,
    /// The logical units that an initiator sees unless it stands in `views`.
    pub device: Arc<TargetDevice>,
    /// Initiators that see other logical units (LUN mapping, B32): a device of its own that holds some of the units.
    pub views: BTreeMap<IscsiName, Arc<TargetDevice>>,
}

impl TargetConfig {
    /// A target that everybody may use.
    pub fn open(name: IscsiName, device: Arc<TargetDevice>) -> TargetConfig {
        TargetConfig {
            name,
            alias: None,
            authentication: Authentication::none(),
            allow: AllowList::default(),
            portals: Portals::default(),
            device,
            views: BTreeMap::new(),
        }
    }

    /// What an initiator sees.
    pub fn device_for(&self, initiator: &IscsiName) -> &Arc<TargetDevice> {
        self.views.get(initiator).unwrap_or(&self.device)
    }
}

/// Bounds on what initiators may ask for and hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest data segment we take, in bytes (MaxRecvDataSegmentLength).
    pub data_segment: u32,
    /// The longest burst, in bytes (MaxBurstLength).
    pub burst: u32,
    /// The most data sent without being asked for, in bytes (FirstBurstLength).
    pub first_burst: u32,
    /// R2Ts outstanding for one command (MaxOutstandingR2T).
    pub outstanding_r2t: u32,
    /// Commands of one session that may be outstanding.
    pub queue_depth: u32,
    /// Data of one session held for commands, and data waiting to be sent to it, each in bytes. One command may
    /// exceed it.
    pub session_bytes: usize,
    /// Data that a session may always hold, in bytes, and as much that waits to be sent to it. A command that is alone in
    /// its session and, rounded up to whole buffers, no longer than this is never refused for lack of memory.
    pub own_bytes: usize,
    /// What all sessions together may hold beyond that, in bytes: half of it for each direction. They may exceed it by answers
    /// that carry no data of a medium, and one alone by a single command.
    pub common_bytes: usize,
    /// Room on the media that one session holds for data it has yet to send, in bytes: a part of what a cache disk gives
    /// to all (the journal's `max_reserved`). One command may exceed it.
    pub promised_bytes: usize,
    /// Time for data that was announced or asked for, while the initiator lives and sends other things than data.
    pub data_time: Duration,
    /// Time for a login from the first byte to the full feature phase.
    pub login_time: Duration,
    /// A silent initiator is asked whether it lives after this time.
    pub idle_time: Duration,
    /// Time for its answer. Generous, for a host may be paused for a minute (a snapshot of a virtual machine, a client that
    /// sleeps between commands); one that has really gone and comes back replaces its session at once.
    pub ping_time: Duration,
    /// Sessions of all targets together.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            data_segment: 256 << 10,
            burst: 16 << 20,
            first_burst: 16 << 20,
            outstanding_r2t: 8,
            queue_depth: 128,
            session_bytes: 64 << 20,
            own_bytes: 128 << 10,
            common_bytes: 1 << 30,
            promised_bytes: 32 << 20,
            data_time: Duration::from_secs(10),
            login_time: Duration::from_secs(15),
            idle_time: Duration::from_secs(15),
            ping_time: Duration::from_secs(60),
            sessions: 4096,
        }
    }
}

#[cfg(test)]
mod tests;
