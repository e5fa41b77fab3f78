//! Reading command descriptor blocks and parameter lists.

/// The fields of a command descriptor block; whatever lies behind its end reads as zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cdb<'a>(pub &'a [u8]);

impl Cdb<'_> {
    pub fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Whether any of `mask` is set in a byte.
    pub fn has(self, at: usize, mask: u8) -> bool {
        self.byte(at) & mask != 0
    }

    pub fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub fn u24(self, at: usize) -> u32 {
        u32::from(self.byte(at)) << 16 | u32::from(self.u16(at + 1))
    }

    pub fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub fn opcode(self) -> u8 {
        self.byte(0)
    }

    /// The service action of the operation codes that have one (SPC-5 §4.2.5.2).
    pub fn service_action(self) -> u8 {
        self.byte(1) & 0x1f
    }

    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.byte(at + i))
    }
}

/// What a medium-access command addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub lba: u64,
    pub blocks: u64,
}

impl Extent {
    /// The address and length of READ, WRITE and their kin (SBC-4 §5): where they stand depends on the group of the
    /// operation code, with three commands of their own shape.
    pub fn of(cdb: Cdb<'_>) -> Extent {
        let (lba, blocks) = match (cdb.opcode(), cdb.opcode() >> 5) {
            (0x89, _) => (cdb.u64(2), u64::from(cdb.byte(13))),
            (0x9c, _) => (cdb.u64(2), u64::from(cdb.u16(12))),
            (_, 0) => match cdb.byte(4) {
                0 => (u64::from(cdb.u24(1) & 0x1f_ffff), 256),
                n => (u64::from(cdb.u24(1) & 0x1f_ffff), u64::from(n)),
            },
            (_, 4) => (cdb.u64(2), u64::from(cdb.u32(10))),
            (_, 5) => (u64::from(cdb.u32(2)), u64::from(cdb.u32(6))),
            _ => (u64::from(cdb.u32(2)), u64::from(cdb.u16(7))),
        };
        Extent { lba, blocks }
    }
}
