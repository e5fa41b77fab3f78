//! Sense data and how a command fails.

use base::{Error, ErrorKind};

use crate::task::Status;

/// Sense keys (SPC-5 §4.4.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Key {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    CopyAborted = 0xa,
    Miscompare = 0xe,
}

/// Additional sense codes with their qualifiers (SPC-5 annex F), ASC in the high byte.
pub(super) mod code {
    pub const NONE: u16 = 0x0000;
    pub const BECOMING_READY: u16 = 0x0401;
    pub const PORT_UNAVAILABLE: u16 = 0x040c;
    pub const SANITIZE_IN_PROGRESS: u16 = 0x041b;
    pub const UNREACHABLE_COPY_TARGET: u16 = 0x0804;
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: u16 = 0x0e03;
    pub const UNRECOVERED_READ_ERROR: u16 = 0x1100;
    pub const PARAMETER_LIST_LENGTH: u16 = 0x1a00;
    pub const MISCOMPARE: u16 = 0x1d00;
    pub const INVALID_OPERATION_CODE: u16 = 0x2000;
    pub const LBA_OUT_OF_RANGE: u16 = 0x2100;
    pub const INVALID_FIELD_IN_CDB: u16 = 0x2400;
    pub const UNIT_NOT_SUPPORTED: u16 = 0x2500;
    pub const INVALID_FIELD_IN_PARAMETERS: u16 = 0x2600;
    pub const INVALID_RELEASE: u16 = 0x2604;
    pub const TOO_MANY_TARGETS: u16 = 0x2606;
    pub const UNSUPPORTED_TARGET_TYPE: u16 = 0x2607;
    pub const TOO_MANY_SEGMENTS: u16 = 0x2608;
    pub const UNSUPPORTED_SEGMENT_TYPE: u16 = 0x2609;
    pub const WRITE_PROTECTED: u16 = 0x2700;
    pub const SOFTWARE_WRITE_PROTECTED: u16 = 0x2702;
    pub const SPACE_ALLOCATION_FAILED: u16 = 0x2707;
    pub const SANITIZE_FAILED: u16 = 0x3103;
    pub const SAVING_NOT_SUPPORTED: u16 = 0x3900;
    pub const INTERNAL_TARGET_FAILURE: u16 = 0x4400;
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: u16 = 0x5504;
}

/// What stands in the sense-key specific bytes (SPC-5 §4.4.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Specific {
    None,
    Field { in_cdb: bool, byte: u16, bit: Option<u8> },
    Progress(u16),
}

/// Why a command ended in CHECK CONDITION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sense {
    pub key: Key,
    pub code: u16,
    pub information: Option<u64>,
    specific: Specific,
}

impl Sense {
    pub const fn new(key: Key, code: u16) -> Sense {
        Sense { key, code, information: None, specific: Specific::None }
    }

    pub const fn illegal(code: u16) -> Sense {
        Sense::new(Key::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB that points at a byte.
    pub const fn cdb_field(byte: u16) -> Sense {
        let specific = Specific::Field { in_cdb: true, byte, bit: None };
        Sense { key: Key::IllegalRequest, code: code::INVALID_FIELD_IN_CDB, information: None, specific }
    }

    /// INVALID FIELD IN CDB that points at the most significant bit of a field.
    pub const fn cdb_bit(byte: u16, bit: u8) -> Sense {
        let specific = Specific::Field { in_cdb: true, byte, bit: Some(bit) };
        Sense { key: Key::IllegalRequest, code: code::INVALID_FIELD_IN_CDB, information: None, specific }
    }

    /// INVALID FIELD IN PARAMETER LIST that points at a byte.
    pub fn parameter_field(byte: usize) -> Sense {
        Sense::illegal(code::INVALID_FIELD_IN_PARAMETERS).at_parameter(byte)
    }

    /// The same error, pointing at a byte of the parameter list.
    pub fn at_parameter(self, byte: usize) -> Sense {
        let byte = u16::try_from(byte).unwrap_or(u16::MAX);
        Sense { specific: Specific::Field { in_cdb: false, byte, bit: None }, ..self }
    }

    pub const fn with_information(self, information: u64) -> Sense {
        Sense { information: Some(information), ..self }
    }

    /// Done so far, in 1/65,536 of the whole.
    pub const fn with_progress(self, progress: u16) -> Sense {
        Sense { specific: Specific::Progress(progress), ..self }
    }

    /// Current sense data in fixed (SPC-5 §4.4.3) or descriptor (§4.4.2) format.
    pub fn encode(self, descriptor: bool) -> Vec<u8> {
        let [asc, ascq] = self.code.to_be_bytes();
        let specific = self.specific.encode();
        if !descriptor {
            let mut out = vec![0x70, 0, self.key as u8, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
            if let Some(Ok(short)) = self.information.map(u32::try_from) {
                out[0] |= 0x80;
                out[3..7].copy_from_slice(&short.to_be_bytes());
            }
            out[15..18].copy_from_slice(&specific.unwrap_or_default());
            return out;
        }
        let mut out = vec![0x72, self.key as u8, asc, ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            out.extend([0x00, 0x0a, 0x80, 0]);
            out.extend(information.to_be_bytes());
        }
        if let Some([a, b, c]) = specific {
            out.extend([0x02, 0x06, 0, 0, a, b, c, 0]);
        }
        out[7] = (out.len() - 8) as u8;
        out
    }
}

impl Specific {
    fn encode(self) -> Option<[u8; 3]> {
        let (first, value) = match self {
            Specific::None => return None,
            Specific::Field { in_cdb, byte, bit } => {
                (u8::from(in_cdb) << 6 | bit.map_or(0, |bit| 0x08 | (bit & 7)), byte)
            }
            Specific::Progress(progress) => (0, progress),
        };
        let [hi, lo] = value.to_be_bytes();
        Some([0x80 | first, hi, lo])
    }
}

/// A command that did not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub status: Status,
    pub sense: Option<Sense>,
    /// What the residual is counted against. 0 unless the failure is about the length itself: an initiator that sees
    /// everything as not transferred believes no byte of its buffer.
    pub transfer: u64,
}

impl Failure {
    /// The data-out is not as long as the command says it must be; `transfer` bytes were asked for.
    pub fn short_data(transfer: u64) -> Failure {
        let sense = Sense::illegal(code::INVALID_FIELD_IN_INFORMATION_UNIT);
        Failure { status: Status::CheckCondition, sense: Some(sense), transfer }
    }
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Failure {
        Failure { status: Status::CheckCondition, sense: Some(sense), transfer: 0 }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure { status, sense: None, transfer: 0 }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::from(error.kind())
    }
}

/// What initiators are told about each kind of error; there is no other place that decides it.
///
/// `Unavailable` is NOT READY, IN PROCESS OF BECOMING READY: Linux repeats such a command after a delay for up to three
/// minutes without starting its error handler, Windows and ESXi repeat it too, while ABORTED COMMAND is repeated five
/// times at once and then becomes an I/O error, and HARDWARE ERROR is not repeated at all.
/// `Fenced` is NOT READY, TARGET PORT IN UNAVAILABLE STATE: nobody repeats it here, and multipath goes to the gateway
/// that owns the volume now.
impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Failure {
        let sense = match kind {
            ErrorKind::Busy => return Status::TaskSetFull.into(),
            ErrorKind::Unavailable => Sense::new(Key::NotReady, code::BECOMING_READY),
            ErrorKind::Fenced => Sense::new(Key::NotReady, code::PORT_UNAVAILABLE),
            ErrorKind::Corrupt => Sense::new(Key::MediumError, code::UNRECOVERED_READ_ERROR),
            ErrorKind::NoSpace => Sense::new(Key::DataProtect, code::SPACE_ALLOCATION_FAILED),
            ErrorKind::Denied => Sense::new(Key::DataProtect, code::WRITE_PROTECTED),
            // The range was checked; a medium can only find it wrong if it has shrunk since.
            ErrorKind::Invalid => Sense::illegal(code::LBA_OUT_OF_RANGE),
            ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Internal => {
                Sense::new(Key::HardwareError, code::INTERNAL_TARGET_FAILURE)
            }
        };
        sense.into()
    }
}
