//! Bytes to PDUs. The receiver knows where the next bytes from the socket belong, so that long data segments are read
//! straight into the buffer that goes to the medium.

use base::buffer::ALIGN;
use base::{AlignedBuf, checksum};

use super::pdu::{HEADER, Header};

/// The staging buffer's size before and after login, in bytes.
const SMALL: usize = 8 << 10;
const LARGE: usize = 64 << 10;

/// While long data segments come, so few bytes are staged at a time that most of a segment is read in place.
const SHORT_READ: usize = 2 << 10;

/// A data segment of at least this length is long.
const LONG_SEGMENT: usize = 16 << 10;

/// Where a data segment lands.
#[derive(Debug)]
pub(super) enum Landing {
    /// Nowhere.
    Discard,
    /// In this buffer, from this offset on; there is room.
    Buffer(AlignedBuf, usize),
}

impl Landing {
    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Landing::Discard => 0,
            Landing::Buffer(buf, _) => buf.len().next_multiple_of(ALIGN),
        }
    }
}

/// What the receiver has found.
pub(super) enum Step {
    /// More bytes are needed.
    Idle,
    /// A header; it must be answered with [`Receiver::land`].
    Header(Header),
    /// A whole PDU; `intact` says whether its data digest was right.
    Pdu { header: Header, landing: Landing, intact: bool },
    /// A header's digest is wrong: nothing that follows can be read.
    BadHeader,
}

enum State {
    Header,
    /// A header was handed out; where its data goes is not known yet.
    Landing(Header),
    Data {
        header: Header,
        landing: Landing,
        got: usize,
    },
}

pub(super) struct Receiver {
    staging: Vec<u8>,
    start: usize,
    end: usize,
    state: State,
    additional: Vec<u8>,
    read_short: bool,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
}

impl Receiver {
    pub(super) fn new() -> Receiver {
        Receiver {
            staging: vec![0; SMALL],
            start: 0,
            end: 0,
            state: State::Header,
            additional: Vec::new(),
            read_short: false,
            header_digest: false,
            data_digest: false,
        }
    }

    /// Makes room for the full feature phase.
    pub(super) fn enlarge(&mut self) {
        self.staging.resize(LARGE, 0);
    }

    /// The additional header segments of the header last handed out.
    pub(super) fn additional(&self) -> &[u8] {
        &self.additional
    }

    /// Where the next bytes from the socket go; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if let State::Data { header, landing: Landing::Buffer(buf, at), got } = &mut self.state
            && *got < header.data_len()
            && self.start == self.end
        {
            return &mut buf[*at + *got..*at + header.data_len()];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.staging.len() {
            self.staging.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.staging.len() - self.end;
        let most = if self.read_short { room.min(SHORT_READ) } else { room };
        &mut self.staging[self.end..self.end + most]
    }

    /// Says that `n` bytes were put where [`Receiver::space`] said.
    pub(super) fn received(&mut self, n: usize) {
        match &mut self.state {
            State::Data { header, landing: Landing::Buffer(..), got }
                if *got < header.data_len() && self.start == self.end =>
            {
                *got += n;
            }
            _ => self.end += n,
        }
    }

    /// Takes the next step.
    pub(super) fn step(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => self.step_header(),
            State::Data { header, landing, got } => self.step_data(header, landing, got),
            State::Landing(header) => {
                self.state = State::Landing(header);
                Step::Idle
            }
        }
    }

    /// Says where the data of the header just handed out goes.
    pub(super) fn land(&mut self, landing: Landing) {
        if let State::Landing(header) = self.state {
            if let Landing::Buffer(buf, at) = &landing {
                debug_assert!(buf.len() - at >= header.data_len());
            }
            self.read_short = header.data_len() >= LONG_SEGMENT;
            self.state = State::Data { header, landing, got: 0 };
        }
    }

    fn staged(&self) -> &[u8] {
        &self.staging[self.start..self.end]
    }

    fn step_header(&mut self) -> Step {
        let staged = self.staged();
        let Some(bytes) = staged.first_chunk::<HEADER>() else { return Step::Idle };
        let header = Header(*bytes);
        let end = HEADER + header.ahs_len();
        let digest = if self.header_digest { 4 } else { 0 };
        if staged.len() < end + digest {
            return Step::Idle;
        }
        if self.header_digest && checksum::crc32c(&staged[..end]).to_le_bytes() != staged[end..end + 4] {
            return Step::BadHeader;
        }
        self.additional.clear();
        self.additional.extend_from_slice(&self.staging[self.start + HEADER..self.start + end]);
        self.start += end + digest;
        self.state = State::Landing(header);
        Step::Header(header)
    }

    fn step_data(&mut self, header: Header, mut landing: Landing, mut got: usize) -> Step {
        let len = header.data_len();
        let take = (self.end - self.start).min(len - got);
        if let Landing::Buffer(buf, at) = &mut landing {
            let from = *at + got;
            buf[from..from + take].copy_from_slice(&self.staging[self.start..self.start + take]);
        }
        // A digest over data that lands nowhere is not checked: nothing depends on it.
        self.start += take;
        got += take;
        let padding = len.next_multiple_of(4) - len;
        let digest = if self.data_digest && len > 0 { 4 } else { 0 };
        if got < len || self.end - self.start < padding + digest {
            self.state = State::Data { header, landing, got };
            return Step::Idle;
        }
        let trailer = &self.staging[self.start..self.start + padding + digest];
        let intact = match &landing {
            Landing::Buffer(buf, at) if digest > 0 => {
                checksum::crc32c_parts([&buf[*at..*at + len], &trailer[..padding]]).to_le_bytes()
                    == trailer[padding..]
            }
            _ => true,
        };
        self.start += padding + digest;
        Step::Pdu { header, landing, intact }
    }
}
