//! Basic header segments (RFC 7143 §11): where the fields are.

/// The length of a basic header segment, in bytes.
pub const HEADER: usize = 48;

/// The value of a task tag that names no task.
pub const NO_TAG: u32 = 0xffff_ffff;

#[allow(missing_docs)] // the standard's own names (RFC 7143 §11.2.1.2)
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC_MESSAGE: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// Why a PDU was rejected (RFC 7143 §11.17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum RejectReason {
    DataDigestError = 0x02,
    SnackReject = 0x03,
    ProtocolError = 0x04,
    CommandNotSupported = 0x05,
    TooManyImmediateCommands = 0x06,
    TaskInProgress = 0x07,
    InvalidPduField = 0x09,
    WaitingForLogout = 0x0c,
}

/// A basic header segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header(pub [u8; HEADER]);

impl Header {
    /// A header of zeroes with an opcode and the byte of flags behind it.
    pub fn new(opcode: u8, flags: u8) -> Header {
        let mut bytes = [0; HEADER];
        bytes[0] = opcode;
        bytes[1] = flags;
        Header(bytes)
    }

    /// The opcode without the immediate bit.
    pub fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// Whether it is for immediate delivery.
    pub fn immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// The flags of byte 1; the highest bit is F.
    pub fn flags(&self) -> u8 {
        self.0[1]
    }

    /// The F bit.
    pub fn is_final(&self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// TotalAHSLength, in bytes (at most 1,020).
    pub fn ahs_len(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// DataSegmentLength, in bytes, without padding.
    pub fn data_len(&self) -> usize {
        self.word(4) as usize & 0x00ff_ffff
    }

    /// Sets DataSegmentLength, in bytes.
    pub fn set_data_len(&mut self, len: usize) {
        debug_assert!(len < 1 << 24);
        self.0[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
    }

    /// The logical unit number as 8 bytes big-endian.
    pub fn lun(&self) -> u64 {
        u64::from(self.word(8)) << 32 | u64::from(self.word(12))
    }

    /// Sets the logical unit number.
    pub fn set_lun(&mut self, lun: u64) {
        self.0[8..16].copy_from_slice(&lun.to_be_bytes());
    }

    /// The initiator task tag.
    pub fn itt(&self) -> u32 {
        self.word(16)
    }

    /// The target transfer tag, in PDUs that have one.
    pub fn ttt(&self) -> u32 {
        self.word(20)
    }

    /// CmdSN, in PDUs that have one.
    pub fn cmd_sn(&self) -> u32 {
        self.word(24)
    }

    /// The big-endian word at byte `at`.
    pub fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    /// Sets the big-endian word at byte `at`.
    pub fn set_word(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Header({:#04x}, itt {:#x}, {} data bytes)", self.0[0], self.itt(), self.data_len())
    }
}

/// What the additional header segments of a SCSI command say (RFC 7143 §11.2.2).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Additional {
    /// What follows the first 16 bytes of the CDB.
    pub cdb: Vec<u8>,
    /// The expected bidirectional read data length, in bytes.
    pub read_len: Option<u32>,
}

/// Reads the additional header segments; `None` if they are malformed.
pub fn decode_additional(mut bytes: &[u8]) -> Option<Additional> {
    let mut out = Additional::default();
    while let [high, low, kind, _, rest @ ..] = bytes {
        // AHSLength counts what follows byte 2, that is, one byte of the fixed four.
        let len = usize::from(u16::from_be_bytes([*high, *low])).checked_sub(1)?;
        let body = rest.get(..len)?;
        match (kind & 0x3f, body.len()) {
            (1, _) => out.cdb = body.to_vec(),
            (2, 4) => out.read_len = Some(u32::from_be_bytes(body.try_into().ok()?)),
            _ => return None,
        }
        bytes = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    bytes.is_empty().then_some(out)
}

#[cfg(test)]
mod tests;
