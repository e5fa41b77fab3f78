//! Who proves itself wrongly again and again is answered late (X03): guessing a secret over the wire becomes slow.
//!
//! Only refusals are late; who knows the secret is let in at once. An address has a few late answers outstanding at most:
//! while it has them, its further proofs are turned away unseen, so that guessing on many connections gains nothing and
//! keeps no more connections open than that. One address never costs another anything.
//!
//! All wrong proofs of an address count together, and the right one forgives those made at the same target (discovery is one
//! too): who may use one volume is no freer than others to guess at the next.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::name::IscsiName;

/// Wrong proofs that are answered at once: people mistype, and two volumes may have two secrets.
const AT_ONCE: u32 = 3;
/// How late the first late answer is, in seconds; each further one is twice as late.
const FIRST: u64 = 1;
/// The latest. Initiators wait fifteen seconds for a login.
const LATEST: u64 = 8;
/// Late answers to one address at a time.
const OUTSTANDING: u32 = 8;
/// Addresses remembered; the one that was wrong the longest ago is forgotten for another.
const REMEMBERED: usize = 1024;
/// Targets of one address whose wrong proofs are counted apart. Those at further ones are counted together, and only time
/// forgives them: whoever is forgotten could begin anew.
const APART: usize = 16;
/// An address that was not wrong for so long is forgiven.
const FORGIVEN: Duration = Duration::from_secs(600);
/// How often an address is told of.
const TOLD: Duration = Duration::from_secs(60);

/// An address that keeps proving itself wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guessing {
    /// The address; of IPv6 the first 64 bits, for a host may use all addresses of its network.
    pub address: IpAddr,
    /// How often, not counting what was forgiven.
    pub times: u32,
}

type Witness = Box<dyn Fn(Guessing) + Send + Sync>;

/// The addresses that were wrong lately.
#[derive(Default)]
pub(super) struct Suspects {
    by_address: Mutex<BTreeMap<IpAddr, Suspect>>,
    witness: OnceLock<Witness>,
}

/// What a proof is made to: a target, or discovery.
pub(super) type Door = Option<IscsiName>;

#[derive(Default)]
struct Suspect {
    /// Wrong proofs by what they were made to.
    at: BTreeMap<Door, u32>,
    /// Those at doors that found no place in there.
    elsewhere: u32,
    last: Duration,
    told: Option<Duration>,
    outstanding: u32,
}

impl Suspect {
    fn times(&self) -> u32 {
        self.at.values().fold(self.elsewhere, |sum, n| sum.saturating_add(*n))
    }

    fn count(&mut self, door: &Door) {
        let full = self.at.len() >= APART;
        let counter = match self.at.get_mut(door) {
            Some(counter) => counter,
            None if full => &mut self.elsewhere,
            None => self.at.entry(door.clone()).or_default(),
        };
        *counter = counter.saturating_add(1);
    }

    fn forgive_all(&mut self) {
        self.at.clear();
        self.elsewhere = 0;
    }
}

/// One late answer that is still to go.
pub(super) struct Outstanding {
    suspects: Arc<Suspects>,
    address: IpAddr,
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        if let Some(suspect) = self.suspects.by_address.lock().get_mut(&self.address) {
            suspect.outstanding = suspect.outstanding.saturating_sub(1);
        }
    }
}

/// What one host counts as.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

impl Suspects {
    /// Who hears of guessing: of each address once a minute. The first one told to hear does.
    pub(super) fn watch(&self, witness: Witness) {
        // A second witness would be a mistake of the program; the first stays.
        let _ = self.witness.set(witness);
    }

    /// Whether an address has as many answers outstanding as it may.
    pub(super) fn is_crowded(&self, address: IpAddr) -> bool {
        self.by_address.lock().get(&host(address)).is_some_and(|s| s.outstanding >= OUTSTANDING)
    }

    /// An address has proved itself at a door.
    pub(super) fn right(&self, address: IpAddr, door: &Door) {
        let address = host(address);
        let mut known = self.by_address.lock();
        if let Some(suspect) = known.get_mut(&address) {
            suspect.at.remove(door);
            if suspect.outstanding == 0 && suspect.times() == 0 {
                known.remove(&address);
            }
        }
    }

    /// An address was wrong at a door: how late it is to be told so, if it is.
    pub(super) fn wrong(
        self: &Arc<Self>,
        address: IpAddr,
        door: &Door,
        now: Duration,
    ) -> Option<(Duration, Outstanding)> {
        let address = host(address);
        let mut known = self.by_address.lock();
        if !known.contains_key(&address) && known.len() >= REMEMBERED {
            forget_one(&mut known);
        }
        let suspect = known.entry(address).or_default();
        if now.saturating_sub(suspect.last) > FORGIVEN {
            suspect.forgive_all();
        }
        suspect.count(door);
        suspect.last = now;
        let times = suspect.times();
        let late = times.checked_sub(AT_ONCE + 1)?;
        suspect.outstanding += 1;
        let tell = suspect.told.is_none_or(|at| now.saturating_sub(at) >= TOLD);
        if tell {
            suspect.told = Some(now);
        }
        drop(known);
        if tell && let Some(witness) = self.witness.get() {
            witness(Guessing { address, times });
        }
        let seconds = (FIRST << late.min(16)).min(LATEST);
        Some((Duration::from_secs(seconds), Outstanding { suspects: self.clone(), address }))
    }
}

/// Forgets the address that was wrong the longest ago, of those without an answer outstanding if there are any.
fn forget_one(known: &mut BTreeMap<IpAddr, Suspect>) {
    let oldest = known.iter().min_by_key(|(_, s)| (s.outstanding > 0, s.last)).map(|(address, _)| *address);
    if let Some(address) = oldest {
        known.remove(&address);
    }
}

#[cfg(test)]
mod tests;
