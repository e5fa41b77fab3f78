//! Operational parameters and their negotiation (RFC 7143 §13).

use super::config::Limits;
use super::text::{Text, boolean, number};

/// What was agreed, starting from the standard's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) discovery: bool,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    pub(super) initial_r2t: bool,
    pub(super) immediate_data: bool,
    /// The longest data segment that the initiator takes.
    pub(super) send_segment: u32,
    pub(super) max_burst: u32,
    pub(super) first_burst: u32,
    pub(super) outstanding_r2t: u32,
    pub(super) time2wait: u32,
    pub(super) time2retain: u32,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            discovery: false,
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            send_segment: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// The largest value of the 24-bit length keys.
const LONGEST: u64 = (1 << 24) - 1;

impl Params {
    /// Answers one operational key. Keys that it does not know are answered NotUnderstood.
    pub(super) fn answer(&mut self, limits: &Limits, key: &str, value: &str, out: &mut Text) {
        if value == "NotUnderstood" || value == "Irrelevant" || value == "Reject" {
            return; // an answer to a key of ours, all of which have defaults
        }
        if self.discovery && is_irrelevant_in_discovery(key) {
            return out.push(key, "Irrelevant");
        }
        match key {
            "HeaderDigest" => {
                self.header_digest = answer_digest(key, value, out).unwrap_or(self.header_digest)
            }
            "DataDigest" => self.data_digest = answer_digest(key, value, out).unwrap_or(self.data_digest),
            "MaxRecvDataSegmentLength" => match ranged(value, 512, LONGEST) {
                // Declared, not negotiated: nothing is answered to a right value.
                Some(n) => self.send_segment = n,
                None => out.push(key, "Reject"),
            },
            "MaxBurstLength" => {
                let most = limits.burst.min(LONGEST as u32);
                set(&mut self.max_burst, answer_number(key, value, 512..=LONGEST, |n| n.min(most), out));
                self.first_burst = self.first_burst.min(self.max_burst);
            }
            "FirstBurstLength" => {
                let most = limits.first_burst.min(self.max_burst);
                set(&mut self.first_burst, answer_number(key, value, 512..=LONGEST, |n| n.min(most), out));
            }
            "InitialR2T" => set(&mut self.initial_r2t, answer_boolean(key, value, |theirs| theirs, out)),
            "ImmediateData" => {
                set(&mut self.immediate_data, answer_boolean(key, value, |theirs| theirs, out))
            }
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                answer_boolean(key, value, |_| true, out);
            }
            "MaxOutstandingR2T" => {
                let most = limits.outstanding_r2t;
                set(&mut self.outstanding_r2t, answer_number(key, value, 1..=65_535, |n| n.min(most), out));
            }
            "DefaultTime2Wait" => {
                set(&mut self.time2wait, answer_number(key, value, 0..=3600, |n| n.max(2), out))
            }
            // Nothing is kept for a lost connection: ErrorRecoveryLevel is 0.
            "DefaultTime2Retain" => {
                set(&mut self.time2retain, answer_number(key, value, 0..=3600, |_| 0, out))
            }
            "MaxConnections" => {
                answer_number(key, value, 1..=65_535, |_| 1, out);
            }
            "ErrorRecoveryLevel" => {
                answer_number(key, value, 0..=2, |_| 0, out);
            }
            "iSCSIProtocolLevel" => {
                answer_number(key, value, 0..=31, |n| n.min(1), out);
            }
            "TaskReporting" => answer_choice(key, value, &["RFC3720"], out),
            // Obsolete, but never NotUnderstood (RFC 7143 §13.25).
            "IFMarker" | "OFMarker" | "RDMAExtensions" => out.push(key, "No"),
            "IFMarkInt" | "OFMarkInt" => out.push(key, "Reject"),
            _ => out.push(key, "NotUnderstood"),
        }
    }
}

/// RFC 7143 §13: keys whose "Irrelevant when" names SessionType=Discovery.
fn is_irrelevant_in_discovery(key: &str) -> bool {
    matches!(
        key,
        "MaxConnections"
            | "InitialR2T"
            | "ImmediateData"
            | "MaxBurstLength"
            | "FirstBurstLength"
            | "MaxOutstandingR2T"
            | "DataPDUInOrder"
            | "DataSequenceInOrder"
            | "TaskReporting"
    )
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn ranged(value: &str, least: u64, most: u64) -> Option<u32> {
    number(value).filter(|n| (least..=most).contains(n)).map(|n| n as u32)
}

fn answer_number(
    key: &str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
    result: impl Fn(u32) -> u32,
    out: &mut Text,
) -> Option<u32> {
    let agreed = ranged(value, *range.start(), *range.end()).map(result);
    match agreed {
        Some(n) => out.push(key, n),
        None => out.push(key, "Reject"),
    }
    agreed
}

fn answer_boolean(key: &str, value: &str, result: impl Fn(bool) -> bool, out: &mut Text) -> Option<bool> {
    let agreed = boolean(value).map(result);
    out.push(
        key,
        match agreed {
            Some(true) => "Yes",
            Some(false) => "No",
            None => "Reject",
        },
    );
    agreed
}

/// Takes the first of the initiator's list that is known.
fn answer_choice(key: &str, value: &str, known: &[&str], out: &mut Text) {
    out.push(key, value.split(',').find(|v| known.contains(v)).unwrap_or("Reject"));
}

fn answer_digest(key: &str, value: &str, out: &mut Text) -> Option<bool> {
    let chosen = value.split(',').find(|v| matches!(*v, "CRC32C" | "None"));
    out.push(key, chosen.unwrap_or("Reject"));
    chosen.map(|v| v == "CRC32C")
}

#[cfg(test)]
mod tests;
