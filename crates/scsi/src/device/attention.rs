//! Unit attention conditions (SAM-5 §5.14).

use std::collections::BTreeSet;

use super::sense::{Key, Sense};

/// What a nexus has to be told before its next command, the most urgent first (SAM-5 table 63).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attention {
    PowerOn,
    DeviceReset,
    CapacityChanged,
    LunsChanged,
    ModeChanged,
    ReservationsPreempted,
    ReservationsReleased,
    RegistrationsPreempted,
}

impl Attention {
    pub fn sense(self) -> Sense {
        let code = match self {
            // POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: what a new nexus cannot tell apart (SAM-5 §6.2). The narrower
            // 2901h is unknown to libiscsi's tools, which ask again after this one only.
            Attention::PowerOn => 0x2900,
            Attention::DeviceReset => 0x2903,
            Attention::CapacityChanged => 0x2a09,
            Attention::LunsChanged => 0x3f0e,
            Attention::ModeChanged => 0x2a01,
            Attention::ReservationsPreempted => 0x2a03,
            Attention::ReservationsReleased => 0x2a04,
            Attention::RegistrationsPreempted => 0x2a05,
        };
        Sense::new(Key::UnitAttention, code)
    }
}

/// The conditions pending for one nexus, each at most once.
#[derive(Debug, Default)]
pub(super) struct Attentions(BTreeSet<Attention>);

impl Attentions {
    /// Adds one. A reset or power on makes all that came before moot.
    pub fn add(&mut self, attention: Attention) {
        if matches!(attention, Attention::PowerOn | Attention::DeviceReset) {
            self.0.retain(|a| *a == Attention::PowerOn);
        }
        self.0.insert(attention);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the most urgent one: it is reported once.
    pub fn take(&mut self) -> Option<Attention> {
        self.0.pop_first()
    }

    pub fn remove(&mut self, attention: Attention) {
        self.0.remove(&attention);
    }
}
