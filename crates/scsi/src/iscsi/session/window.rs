//! StatSN, ExpCmdSN and MaxCmdSN (RFC 7143 §4.2.2).

use crate::iscsi::pdu::Header;

/// What the command window says of a CmdSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next one.
    Next,
    /// It is in the window, behind missing ones.
    Ahead,
    /// It is outside: the PDU is ignored.
    Outside,
}

/// Whether `a` is before `b` in serial number arithmetic (RFC 1982).
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

pub(super) struct Window {
    expected: u32,
    last: u32,
    stat_sn: u32,
    depth: u32,
}

impl Window {
    pub(super) fn new(cmd_sn: u32, stat_sn: u32, depth: u32) -> Window {
        Window { expected: cmd_sn, last: cmd_sn.wrapping_add(depth).wrapping_sub(1), stat_sn, depth }
    }

    pub(super) fn expected(&self) -> u32 {
        self.expected
    }

    pub(super) fn last(&self) -> u32 {
        self.last
    }

    pub(super) fn place(&self, cmd_sn: u32) -> Place {
        if cmd_sn == self.expected && !before(self.last, cmd_sn) {
            Place::Next
        } else if before(cmd_sn, self.expected) || before(self.last, cmd_sn) {
            Place::Outside
        } else {
            Place::Ahead
        }
    }

    /// The next CmdSN has come.
    pub(super) fn advance(&mut self) {
        self.expected = self.expected.wrapping_add(1);
    }

    /// Opens the window as far as `outstanding` commands allow. It never closes again: what was promised stays.
    pub(super) fn open(&mut self, outstanding: u32) {
        let free = self.depth.saturating_sub(outstanding);
        let last = self.expected.wrapping_add(free).wrapping_sub(1);
        if before(self.last, last) {
            self.last = last;
        }
    }

    /// Writes the three numbers into a PDU that carries no status: StatSN is the next one.
    pub(super) fn stamp(&self, header: &mut Header) {
        header.set_word(24, self.stat_sn);
        header.set_word(28, self.expected);
        header.set_word(32, self.last);
    }

    /// Writes the three numbers into a PDU that carries status.
    pub(super) fn stamp_status(&mut self, header: &mut Header) {
        self.stamp(header);
        self.stat_sn = self.stat_sn.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests;
