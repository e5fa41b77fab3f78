//! Text, Logout, NOP and Async Message (RFC 7143 §11.9 to §11.11, §11.14, §11.15, §11.18, §11.19, appendix C).

use std::net::SocketAddr;
use std::sync::Arc;

use base::buffer::ALIGN;

use super::Session;
use super::command::brought;
use crate::iscsi::config::TargetConfig;
use crate::iscsi::name::IscsiName;
use crate::iscsi::output::Output;
use crate::iscsi::params::Params;
use crate::iscsi::pdu::{Header, NO_TAG, RejectReason, opcode};
use crate::iscsi::receive::Landing;
use crate::iscsi::text::{Pairs, Text};

/// The most text of one exchange, in bytes.
const LONGEST_TEXT: usize = 64 << 10;

/// Tags of text exchanges and pings; task tags have their highest bit at 0 too, but travel in other PDUs.
const TEXT_TAG: u32 = 1;

/// What is left of a text exchange that takes several PDUs.
#[derive(Default)]
pub(super) struct TextExchange {
    request: Vec<u8>,
    response: Vec<u8>,
}

/// A logout whose response waits until all commands have ended.
pub(super) struct Logout {
    itt: u32,
    gate: u64,
}

impl Session {
    /// Takes a Text Request.
    pub(super) fn text_request(&mut self, header: &Header, landing: Landing, out: &mut Output) {
        let data = match &landing {
            Landing::Buffer(buf, _) => &buf[..],
            Landing::Discard => &[],
        };
        if header.ttt() == NO_TAG {
            self.text = TextExchange::default(); // a new exchange ends the old one
        } else if header.ttt() != TEXT_TAG {
            return self.reject(RejectReason::InvalidPduField, header, out);
        }
        if self.text.request.len() + data.len() > LONGEST_TEXT {
            self.text = TextExchange::default();
            return self.reject(RejectReason::InvalidPduField, header, out);
        }
        self.text.request.extend_from_slice(data);
        let continued = header.flags() & 0x40 != 0;
        if continued {
            return self.send_text(header, &[], false, false, out);
        }
        if self.text.response.is_empty() {
            let request = std::mem::take(&mut self.text.request);
            match Pairs::decode(&request) {
                Some(pairs) => self.text.response = self.answer_text(&pairs),
                None => return self.reject(RejectReason::ProtocolError, header, out),
            }
        }
        let most = self.params.send_segment as usize;
        let all = std::mem::take(&mut self.text.response);
        let (now, later) = all.split_at(most.min(all.len()));
        self.text.response = later.to_vec();
        self.send_text(header, now, later.is_empty(), !later.is_empty(), out);
    }

    fn send_text(&mut self, request: &Header, data: &[u8], last: bool, continues: bool, out: &mut Output) {
        let flags = if last { 0x80 } else { 0 } | if continues { 0x40 } else { 0 };
        let mut header = Header::new(opcode::TEXT_RESPONSE, flags);
        header.set_lun(request.lun());
        header.set_word(16, request.itt());
        header.set_word(20, if last { NO_TAG } else { TEXT_TAG });
        self.stamp_status(&mut header);
        out.put_copied(header, data);
    }

    fn answer_text(&mut self, pairs: &Pairs) -> Vec<u8> {
        let mut out = Text::default();
        for (key, value) in pairs.iter() {
            match key {
                "SendTargets" => self.send_targets(value, &mut out),
                // The only operational key that may change in the full feature phase (RFC 7143 §13.12).
                "MaxRecvDataSegmentLength" => self.params.answer(&self.limits, key, value, &mut out),
                _ if is_known(key) => out.push(key, "Reject"),
                _ => out.push(key, "NotUnderstood"),
            }
        }
        out.0
    }

    /// RFC 7143 appendix C. `All` in a normal session names that session's own target and no other.
    fn send_targets(&self, value: &str, out: &mut Text) {
        let handle = &self.seat.handle;
        let visible = self.registry.visible_to(&handle.initiator, handle.peer);
        let own = |config: &&Arc<TargetConfig>| handle.target.as_ref().is_none_or(|own| config.name == *own);
        let listed: Vec<_> = match (value, value.parse::<IscsiName>()) {
            ("All", _) => visible.iter().filter(own).collect(),
            ("", _) if handle.target.is_some() => visible.iter().filter(own).collect(),
            (_, Ok(name)) => visible.iter().filter(own).filter(|config| config.name == name).collect(),
            (_, Err(_)) => return out.push("SendTargets", "Reject"),
        };
        for config in listed {
            out.push("TargetName", &config.name);
            let portals = match config.portals.0.is_empty() {
                true => std::slice::from_ref(&self.local),
                false => &config.portals.0[..],
            };
            for portal in portals {
                // Brackets around IPv6 come with SocketAddr's own notation; B33 asks for `IP:3260,1`.
                let portal = SocketAddr::new(portal.ip().to_canonical(), portal.port());
                out.push("TargetAddress", format_args!("{portal},1"));
            }
        }
    }

    /// Takes a NOP-Out that asks for an answer; answers to our own pings are the connection's business.
    pub(super) fn nop_out(&mut self, header: &Header, landing: Landing, out: &mut Output) {
        if header.itt() == NO_TAG {
            return;
        }
        let mut answer = Header::new(opcode::NOP_IN, 0x80);
        answer.set_lun(header.lun());
        answer.set_word(16, header.itt());
        answer.set_word(20, NO_TAG);
        self.stamp_status(&mut answer);
        match landing {
            Landing::Buffer(buf, _) => {
                let len = buf.len().min(self.params.send_segment as usize);
                match len {
                    ..ALIGN => out.put_copied(answer, &buf[..len]),
                    _ => out.put(answer, &[brought(buf, len as u32)]),
                }
            }
            Landing::Discard => out.put_copied(answer, &[]),
        }
    }

    /// Asks the initiator whether it lives.
    pub(in crate::iscsi) fn ping(&mut self, tag: u32, out: &mut Output) {
        let mut header = Header::new(opcode::NOP_IN, 0x80);
        header.set_word(16, NO_TAG);
        header.set_word(20, tag);
        self.stamp(&mut header);
        out.put_copied(header, &[]);
    }

    /// Takes a Logout Request (RFC 7143 §11.14).
    pub(super) fn logout(&mut self, header: &Header, out: &mut Output) {
        let cid = (header.word(20) >> 16) as u16;
        match header.flags() & 0x7f {
            0 => {}
            1 if cid == self.cid => {}
            1 => return self.answer_logout(header.itt(), 1, out),
            _ => return self.answer_logout(header.itt(), 2, out),
        }
        if self.logout.is_some() {
            return self.reject(RejectReason::ProtocolError, header, out);
        }
        let (gate, ticket) = self.new_gate();
        self.logout = Some(Logout { itt: header.itt(), gate });
        self.abort_all(&ticket, |_| true);
    }

    /// Sends the logout's response if that is what the gate stood for.
    pub(super) fn finish_logout(&mut self, gate: u64, out: &mut Output) -> bool {
        match self.logout.take_if(|logout| logout.gate == gate) {
            None => false,
            Some(logout) => {
                self.answer_logout(logout.itt, 0, out);
                self.logged_out = true;
                self.close();
                true
            }
        }
    }

    fn answer_logout(&mut self, itt: u32, answer: u8, out: &mut Output) {
        let mut header = Header::new(opcode::LOGOUT_RESPONSE, 0x80);
        header.0[2] = answer;
        header.set_word(16, itt);
        header.set_word(40, self.params.time2wait << 16 | self.params.time2retain);
        self.stamp_status(&mut header);
        out.put_copied(header, &[]);
    }

    /// Asks the initiator to log out (Async Message, AsyncEvent 1).
    pub(super) fn request_logout(&mut self, within_seconds: u16, out: &mut Output) {
        let mut header = Header::new(opcode::ASYNC_MESSAGE, 0x80);
        header.set_word(16, NO_TAG);
        self.stamp_status(&mut header);
        header.0[36] = 1;
        header.set_word(40, u32::from(within_seconds)); // Parameter2 (reserved here) and Parameter3
        out.put_copied(header, &[]);
    }
}

/// Keys that belong to the login phase.
fn is_known(key: &str) -> bool {
    let mut out = Text::default();
    Params::default().answer(&crate::iscsi::Limits::default(), key, "", &mut out);
    !out.0.ends_with(b"=NotUnderstood\0")
        || matches!(key, "AuthMethod" | "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType")
}
