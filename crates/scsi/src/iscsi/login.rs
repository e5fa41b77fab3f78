//! The login phase (RFC 7143 §6.3, §11.12, §11.13, §12).

use std::net::SocketAddr;
use std::sync::Arc;

use super::chap::{self, Algorithm};
use super::config::{Authentication, Chap, TargetConfig};
use super::name::{IscsiName, Isid};
use super::params::Params;
use super::pdu::{Header, opcode};
use super::registry::TargetRegistry;
use super::suspects::Door;
use super::text::{Pairs, Text, binary, to_hex};

/// The most login text of one request, continuations included, in bytes.
const LONGEST_TEXT: usize = 64 << 10;

/// The most login requests of one login: more is no negotiation but a siege.
const MOST_REQUESTS: u32 = 64;

/// Why a login failed: Status-Class and Status-Detail (RFC 7143 §11.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Failure {
    InitiatorError = 0x0200,
    Authentication = 0x0201,
    Forbidden = 0x0202,
    NotFound = 0x0203,
    UnsupportedVersion = 0x0205,
    TooManyConnections = 0x0206,
    MissingParameter = 0x0207,
    SessionTypeNotSupported = 0x0209,
    SessionDoesNotExist = 0x020a,
    InvalidDuringLogin = 0x020b,
    ServiceUnavailable = 0x0301,
    OutOfResources = 0x0302,
}

impl Failure {
    /// What the log says.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Failure::InitiatorError => {
                "the login text was malformed or broke the protocol, or gave a name of the initiator that is none: iqn., eui. or \
                 naa. names are"
            }
            Failure::Authentication => "the initiator did not authenticate: compare CHAP names and secrets",
            Failure::Forbidden => "the initiator's name or address is not on the allow-list",
            Failure::NotFound => "there is no target of the name asked for",
            Failure::UnsupportedVersion => "the initiator speaks no version of iSCSI that is known here",
            Failure::TooManyConnections => "a session has one connection only",
            Failure::MissingParameter => "the login lacked a key that it needs",
            Failure::SessionTypeNotSupported => "the session type is not known",
            Failure::SessionDoesNotExist => "the session to add a connection to does not exist",
            Failure::InvalidDuringLogin => "a login request did not fit the stage of the login",
            Failure::ServiceUnavailable => {
                "the target is not ready yet, or the commands of an older session took too long to end"
            }
            Failure::OutOfResources => {
                "there are too many sessions, or the login text was too long, or too many wrong proofs of the same \
                 address wait for their answers"
            }
        }
    }
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// What an accepted login has established.
#[derive(Clone)]
pub(super) struct Established {
    pub(super) initiator: IscsiName,
    pub(super) isid: Isid,
    pub(super) cid: u16,
    pub(super) cmd_sn: u32,
    /// `None` for discovery.
    pub(super) target: Option<Arc<TargetConfig>>,
    pub(super) params: Params,
}

/// What to do after a login request.
pub(super) enum Turn {
    /// Send this response and wait for the next request.
    Reply(Header, Vec<u8>),
    /// Send this response, made final by the caller (TSIH), and enter the full feature phase.
    Accept(Header, Vec<u8>, Box<Established>),
    /// Send this response and close.
    Fail(Header, Failure),
    /// The same, but the initiator's proof was wrong: it may have to wait for the response.
    Wrong(Header, Door),
}

/// Which session the login asks for, known since the first complete request.
struct Wish {
    initiator: IscsiName,
    /// `None` for discovery.
    target: Option<Arc<TargetConfig>>,
    authentication: Authentication,
}

impl Wish {
    /// What the initiator has to prove itself to.
    fn door(&self) -> Door {
        self.target.as_ref().map(|target| target.name.clone())
    }
}

enum Proof {
    /// Nothing was agreed yet.
    Open,
    /// AuthMethod=CHAP was agreed.
    Chosen,
    /// Our challenge is out.
    Challenged { algorithm: Algorithm, id: u8, challenge: Vec<u8> },
    /// The initiator proved itself, or does not have to.
    Given,
}

/// One login in progress.
pub(super) struct Login {
    registry: Arc<TargetRegistry>,
    peer: SocketAddr,
    /// ISID, ITT, CID and CmdSN of the first request: they never change.
    first: Option<Header>,
    stage: u8,
    text: Vec<u8>,
    requests: u32,
    wish: Option<Wish>,
    proof: Proof,
    params: Params,
    declared: bool,
    stat_sn: u32,
}

impl Login {
    pub(super) fn new(registry: Arc<TargetRegistry>, peer: SocketAddr) -> Login {
        Login {
            registry,
            peer,
            first: None,
            stage: SECURITY,
            text: Vec::new(),
            requests: 0,
            wish: None,
            proof: Proof::Open,
            params: Params::default(),
            declared: false,
            stat_sn: 0,
        }
    }

    /// The StatSN of the next response.
    pub(super) fn stat_sn(&self) -> u32 {
        self.stat_sn
    }

    /// Takes a login request.
    pub(super) fn request(&mut self, header: &Header, data: &[u8]) -> Turn {
        match self.consider(header, data) {
            Ok(turn) => turn,
            Err(failure @ Failure::Authentication) if matches!(self.proof, Proof::Challenged { .. }) => {
                let door = self.wish.as_ref().and_then(Wish::door);
                Turn::Wrong(self.refusal(header, failure), door)
            }
            Err(failure) => Turn::Fail(self.refusal(header, failure), failure),
        }
    }

    /// A response that ends the login.
    pub(super) fn refusal(&mut self, header: &Header, failure: Failure) -> Header {
        let mut response = self.response(header, header.flags() & 0x0c);
        response.set_word(36, u32::from(failure as u16) << 16);
        response
    }

    fn response(&mut self, request: &Header, flags: u8) -> Header {
        let mut response = Header::new(opcode::LOGIN_RESPONSE, flags);
        response.0[8..16].copy_from_slice(&request.0[8..16]);
        response.set_word(16, request.itt());
        response.set_word(24, self.stat_sn);
        response.set_word(28, request.cmd_sn());
        response.set_word(32, request.cmd_sn());
        self.stat_sn = self.stat_sn.wrapping_add(1);
        response
    }

    fn consider(&mut self, header: &Header, data: &[u8]) -> Result<Turn, Failure> {
        self.check_header(header)?;
        self.text.extend_from_slice(data);
        if self.text.len() > LONGEST_TEXT {
            return Err(Failure::OutOfResources);
        }
        let flags = header.flags();
        if flags & 0x40 != 0 {
            // More text follows: an empty response asks for it (RFC 7143 §6.2).
            return Ok(Turn::Reply(self.response(header, flags & 0x0c), Vec::new()));
        }
        let text = std::mem::take(&mut self.text);
        let pairs = Pairs::decode(&text).ok_or(Failure::InitiatorError)?;
        let mut out = Text::default();
        if self.wish.is_none() {
            self.wish = Some(self.read_wish(header, &pairs, &mut out)?);
        }
        match self.stage {
            SECURITY => self.negotiate_security(&pairs, &mut out)?,
            _ => self.negotiate_operation(&pairs, &mut out),
        }
        self.finish_turn(header, out)
    }

    /// RFC 7143 §11.12: what must stay the same, and what stages may follow each other.
    fn check_header(&mut self, header: &Header) -> Result<(), Failure> {
        let flags = header.flags();
        let (current, next) = (flags >> 2 & 3, flags & 3);
        let transit = flags & 0x80 != 0;
        match &self.first {
            None => {
                if header.0[3] > 0 {
                    return Err(Failure::UnsupportedVersion);
                }
                self.stat_sn = header.word(28);
                self.stage = current;
                self.first = Some(*header);
            }
            Some(first) => {
                let same = first.0[8..14] == header.0[8..14] && first.itt() == header.itt();
                if !same || first.word(20) != header.word(20) {
                    return Err(Failure::InvalidDuringLogin);
                }
            }
        }
        self.requests += 1;
        let stages_fit = current == self.stage
            && matches!(current, SECURITY | OPERATIONAL)
            && (!transit || (next > current && matches!(next, OPERATIONAL | FULL_FEATURE)))
            && !(transit && flags & 0x40 != 0);
        match stages_fit && self.requests <= MOST_REQUESTS {
            true => Ok(()),
            false => Err(Failure::InvalidDuringLogin),
        }
    }

    /// Who asks for what: InitiatorName, SessionType, TargetName; and whether that is allowed (X06).
    fn read_wish(&mut self, header: &Header, pairs: &Pairs, out: &mut Text) -> Result<Wish, Failure> {
        let initiator = pairs.get("InitiatorName").ok_or(Failure::MissingParameter)?;
        let initiator: IscsiName = initiator.parse().or(Err(Failure::InitiatorError))?;
        let wish = match pairs.get("SessionType").unwrap_or("Normal") {
            "Discovery" => {
                let discovery = self.registry.discovery();
                if !discovery.allow.admits(&initiator, self.peer.ip()) {
                    return Err(Failure::Forbidden);
                }
                self.params.discovery = true;
                Wish { initiator, target: None, authentication: discovery.authentication.clone() }
            }
            "Normal" => {
                let name = pairs.get("TargetName").ok_or(Failure::MissingParameter)?;
                let name: IscsiName = name.parse().or(Err(Failure::NotFound))?;
                let target = match self.registry.target(&name) {
                    Some(target) => target.config(),
                    None if self.registry.is_expected(&name) => return Err(Failure::ServiceUnavailable),
                    None => return Err(Failure::NotFound),
                };
                if !target.allow.admits(&initiator, self.peer.ip()) {
                    return Err(Failure::Forbidden);
                }
                out.push("TargetPortalGroupTag", 1);
                if let Some(alias) = &target.alias {
                    out.push("TargetAlias", alias);
                }
                Wish { initiator, authentication: target.authentication.clone(), target: Some(target) }
            }
            _ => return Err(Failure::SessionTypeNotSupported),
        };
        self.check_tsih(header, &wish)?;
        if !wish.authentication.is_required() {
            self.proof = Proof::Given;
        }
        Ok(wish)
    }

    /// A TSIH names a session to add a connection to, and sessions have one connection.
    fn check_tsih(&self, header: &Header, wish: &Wish) -> Result<(), Failure> {
        let tsih = u16::from_be_bytes([header.0[14], header.0[15]]);
        if tsih == 0 {
            return Ok(());
        }
        let known = wish.target.as_ref().is_some_and(|target| {
            let sessions = self.registry.sessions_on(&target.name);
            sessions.iter().any(|s| s.tsih() == tsih && s.initiator == wish.initiator)
        });
        Err(if known { Failure::TooManyConnections } else { Failure::SessionDoesNotExist })
    }

    fn negotiate_security(&mut self, pairs: &Pairs, out: &mut Text) -> Result<(), Failure> {
        let Some(wish) = &self.wish else { return Err(Failure::MissingParameter) };
        let (chap, door) = (wish.authentication.0.clone(), wish.door());
        if let Some(offered) = pairs.get("AuthMethod") {
            let wanted = if chap.is_some() { "CHAP" } else { "None" };
            if !offered.split(',').any(|method| method.trim() == wanted) {
                return Err(Failure::Authentication);
            }
            out.push("AuthMethod", wanted);
            if chap.is_some() {
                self.proof = Proof::Chosen;
            }
        }
        if let Some(chap) = chap {
            self.negotiate_chap(&chap, &door, pairs, out)?;
        } else if pairs.iter().any(|(key, _)| key.starts_with("CHAP_")) {
            return Err(Failure::InitiatorError);
        }
        // Operational keys may come in this stage too when no CHAP exchange is under way; their answer is due.
        let security = ["AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"];
        let others = pairs.iter().filter(|(key, _)| !security.contains(key) && !is_declaration(key));
        others.for_each(|(key, value)| self.params.answer(&self.registry.limits, key, value, out));
        Ok(())
    }

    fn negotiate_chap(
        &mut self,
        chap: &Chap,
        door: &Door,
        pairs: &Pairs,
        out: &mut Text,
    ) -> Result<(), Failure> {
        match (&self.proof, pairs.get("CHAP_A"), pairs.get("CHAP_R")) {
            (Proof::Chosen, Some(list), None) => {
                let algorithm = Algorithm::choose(list).ok_or(Failure::Authentication)?;
                let mut random = vec![0; chap::CHALLENGE + 1];
                self.registry.entropy.fill(&mut random);
                let id = random.pop().unwrap_or_default();
                out.push("CHAP_A", algorithm as u8);
                out.push("CHAP_I", id);
                out.push("CHAP_C", to_hex(&random));
                self.proof = Proof::Challenged { algorithm, id, challenge: random };
                Ok(())
            }
            (Proof::Challenged { algorithm, id, challenge }, None, Some(response)) => {
                let name = pairs.get("CHAP_N").ok_or(Failure::MissingParameter)?;
                if self.registry.suspects.is_crowded(self.peer.ip()) {
                    return Err(Failure::OutOfResources);
                }
                verify(chap, *algorithm, *id, challenge, name, response)?;
                answer_challenge(chap, *algorithm, *id, challenge, pairs, out)?;
                self.proof = Proof::Given;
                self.registry.suspects.right(self.peer.ip(), door);
                Ok(())
            }
            (_, None, None) => Ok(()),
            _ => Err(Failure::InitiatorError),
        }
    }

    fn negotiate_operation(&mut self, pairs: &Pairs, out: &mut Text) {
        for (key, value) in pairs.iter().filter(|(key, _)| !is_declaration(key)) {
            self.params.answer(&self.registry.limits, key, value, out);
        }
        if !self.declared {
            self.declared = true;
            out.push("MaxRecvDataSegmentLength", self.registry.limits.data_segment);
        }
    }

    fn finish_turn(&mut self, header: &Header, out: Text) -> Result<Turn, Failure> {
        let flags = header.flags();
        let transit = flags & 0x80 != 0;
        let proven = matches!(self.proof, Proof::Given);
        if self.stage == OPERATIONAL && !proven {
            return Err(Failure::Authentication);
        }
        if !transit || !proven {
            // An initiator that asks to go on without any attempt to prove itself is refused, not led in circles.
            if transit && matches!(self.proof, Proof::Open) {
                return Err(Failure::Authentication);
            }
            return Ok(Turn::Reply(self.response(header, flags & 0x0c), out.0));
        }
        let next = flags & 3;
        let response = self.response(header, flags & 0x8f);
        if next != FULL_FEATURE {
            self.stage = next;
            return Ok(Turn::Reply(response, out.0));
        }
        let (Some(wish), Some(first)) = (&self.wish, &self.first) else {
            return Err(Failure::MissingParameter);
        };
        let established = Established {
            initiator: wish.initiator.clone(),
            isid: first.0[8..14].try_into().expect("six bytes"),
            cid: (first.word(20) >> 16) as u16,
            cmd_sn: first.cmd_sn(),
            target: wish.target.clone(),
            params: self.params.clone(),
        };
        Ok(Turn::Accept(response, out.0, Box::new(established)))
    }
}

/// Keys that say something and ask for no answer.
fn is_declaration(key: &str) -> bool {
    matches!(
        key,
        "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType" | "TargetAlias" | "TargetAddress"
    )
}

/// Whether the initiator knows the secret of the name it gives. An unknown name takes the same path.
fn verify(
    chap: &Chap,
    algorithm: Algorithm,
    id: u8,
    challenge: &[u8],
    name: &str,
    response: &str,
) -> Result<(), Failure> {
    let response = binary(response, chap::LONGEST).ok_or(Failure::InitiatorError)?;
    let known = chap.initiators.get(name);
    let nobody = chap::Secret::new(challenge);
    let expected = algorithm.response(id, known.unwrap_or(&nobody), challenge);
    match chap::same(&expected, &response) && known.is_some() {
        true => Ok(()),
        false => Err(Failure::Authentication),
    }
}

/// Mutual CHAP: answers the initiator's challenge, if it made one. Its challenge must not be ours, or our answer could
/// serve as an answer to ourselves (RFC 7143 §9.2.1).
fn answer_challenge(
    chap: &Chap,
    algorithm: Algorithm,
    our_id: u8,
    ours: &[u8],
    pairs: &Pairs,
    out: &mut Text,
) -> Result<(), Failure> {
    let (id, theirs) = match (pairs.get("CHAP_I"), pairs.get("CHAP_C")) {
        (None, None) => return Ok(()),
        (Some(id), Some(theirs)) => (id, theirs),
        _ => return Err(Failure::MissingParameter),
    };
    let id = super::text::number(id).and_then(|n| u8::try_from(n).ok()).ok_or(Failure::InitiatorError)?;
    let theirs = binary(theirs, chap::LONGEST).ok_or(Failure::InitiatorError)?;
    let own = chap.target.as_ref().ok_or(Failure::Authentication)?;
    if theirs.is_empty() || chap::same(&theirs, ours) || (id == our_id && theirs.starts_with(ours)) {
        return Err(Failure::Authentication);
    }
    out.push("CHAP_N", &own.name);
    out.push("CHAP_R", to_hex(&algorithm.response(id, &own.secret, &theirs)));
    Ok(())
}

#[cfg(test)]
mod tests;
