//! One connection: bytes and time in; bytes, events and deadlines out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use base::AlignedBuf;

use super::login::{Established, Failure, Login, Turn};
use super::mailbox::{Gate, Mailbox, Notice};
use super::output::Output;
use super::pdu::{Header, opcode};
use super::receive::{Landing, Receiver, Step};
use super::registry::{Opening, Seat, TargetRegistry};
use super::session::{Event, Session, TaskId};
use super::suspects::Outstanding;
use crate::medium::Admission;
use crate::task::Outcome;

/// The longest data segment of the login phase, in bytes: MaxRecvDataSegmentLength before it is declared.
const LOGIN_SEGMENT: usize = 8192;

/// After a logout or a refused login the initiator closes the connection; if it does not within this time, we do.
const PARTING: Duration = Duration::from_secs(1);

/// An initiator that takes less of what waits for it, in bytes in [`Limits::ping_time`](super::Limits), is taken for dead. What it
/// takes shows only when the kernel has room again for more, of a send buffer that may have some MiB.
const SLOWEST: usize = 64 << 10;

/// Ticks of a session in [`Limits::data_time`](super::Limits).
const TICKS: u32 = 2;

/// The number of the gate that a login waits at; sessions count from 1.
const LOGIN_GATE: u64 = 0;

enum Phase {
    Login(Box<Login>),
    /// The login is granted, but an older session of the same initiator port has commands running.
    Waiting(Box<Granted>),
    /// The login is refused, but the initiator was wrong too often to be told so at once.
    Late(Box<Late>),
    Full(Box<Session>),
    Over,
}

struct Granted {
    login: Login,
    request: Header,
    response: Header,
    text: Vec<u8>,
    established: Established,
    seat: Seat,
}

struct Late {
    response: Header,
    due: Duration,
    _outstanding: Outstanding,
}

/// An iSCSI connection without its socket. Time is counted from any fixed moment, the same for all of a registry.
///
/// The shell reads into [`Connection::input_space`], takes events until there are none, writes
/// [`Connection::output`], and keeps the deadline of [`Connection::poll_timeout`]. When [`Connection::is_closing`], it
/// sends what is left and calls [`Connection::disconnect`]; it keeps running what runs until [`Connection::is_finished`].
pub struct Connection {
    registry: Arc<TargetRegistry>,
    mailbox: Arc<Mailbox>,
    peer: SocketAddr,
    local: SocketAddr,
    receiver: Receiver,
    output: Output,
    phase: Phase,
    refused: bool,
    closing: bool,
    disconnected: bool,
    reason: Option<&'static str>,
    /// When the login began, then when the last PDU came.
    heard: Duration,
    /// When a silent initiator was asked whether it lives.
    ping: Option<Duration>,
    /// What it has taken since then, in bytes.
    taken: usize,
    next_ping: u32,
    /// When the session is next told that time passes, if it has tasks.
    tick: Duration,
}

impl Connection {
    /// A connection just accepted at `local` from `peer`.
    pub fn new(
        registry: Arc<TargetRegistry>,
        peer: SocketAddr,
        local: SocketAddr,
        now: Duration,
    ) -> Connection {
        Connection {
            phase: Phase::Login(Box::new(Login::new(registry.clone(), peer))),
            registry,
            mailbox: Arc::default(),
            peer,
            local,
            receiver: Receiver::new(),
            output: Output::default(),
            refused: false,
            closing: false,
            disconnected: false,
            reason: None,
            heard: now,
            ping: None,
            taken: 0,
            next_ping: 0,
            tick: now,
        }
    }

    /// Where the next bytes from the socket go; `None` while nothing should be read.
    pub fn input_space(&mut self) -> Option<&mut [u8]> {
        let open = !self.is_closing() && self.listens();
        let room = match &self.phase {
            Phase::Full(session) => session.has_room_for_answers(&self.output),
            _ => true,
        };
        (open && room).then(|| self.receiver.space())
    }

    /// Whether what comes in is looked at now.
    fn listens(&self) -> bool {
        !matches!(self.phase, Phase::Waiting(_) | Phase::Late(_))
    }

    /// `n` bytes were read into the space.
    pub fn received(&mut self, now: Duration, n: usize) {
        self.receiver.received(n);
        self.advance(now);
    }

    /// Takes bytes from anywhere, for shells that cannot read in place. Returns how many it took: all, unless
    /// [`Connection::input_space`] says that nothing should be read.
    pub fn handle_input(&mut self, now: Duration, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let Some(space) = self.input_space() else { break };
            let n = space.len().min(bytes.len() - taken);
            space[..n].copy_from_slice(&bytes[taken..taken + n]);
            taken += n;
            self.received(now, n);
        }
        taken
    }

    /// What is to be sent.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The first `n` bytes of the output were sent.
    pub fn sent(&mut self, n: usize) {
        self.taken += n;
        self.output.consume(n);
        // What is read next may need what this gave back.
        if let Phase::Full(session) = &mut self.phase {
            session.settle(&self.output);
        }
    }

    /// Runs what can be run at once, and returns what the shell has to do. Called until it returns `None`, after every
    /// other call.
    pub fn poll_event(&mut self) -> Option<Event> {
        match &mut self.phase {
            Phase::Full(session) => session.poll_event(&mut self.output),
            _ => None,
        }
    }

    /// A command has ended.
    pub fn executed(&mut self, task: TaskId, outcome: Outcome) {
        if let Phase::Full(session) = &mut self.phase {
            session.complete(task, outcome, &mut self.output);
        }
    }

    /// The medium has answered to an admission.
    pub fn admitted(&mut self, task: TaskId, answer: base::Result<Admission>) {
        if let Phase::Full(session) = &mut self.phase {
            session.admitted(task, answer, &mut self.output);
        }
    }

    /// A task management function has ended at the device.
    pub fn function_done(&mut self, number: u64) {
        if let Phase::Full(session) = &mut self.phase {
            session.function_done(number, &mut self.output);
        }
        self.handle_notices(); // after a cold reset there is one
    }

    /// Says who is to be woken when another session or the operator wants something of this one.
    pub fn register(&self, waker: &Waker) {
        self.mailbox.register(waker);
    }

    /// Does what other sessions or the operator want of this one.
    pub fn handle_notices(&mut self) {
        loop {
            let notices = self.mailbox.take();
            if notices.is_empty() {
                return;
            }
            for notice in notices {
                match &mut self.phase {
                    // Whoever logs in anew has no use for answers to its old session.
                    Phase::Full(_) if matches!(notice, Notice::Close { ticket: Some(_) }) => {
                        self.take_over(notice);
                    }
                    Phase::Full(session) => session.notice(notice, &mut self.output),
                    Phase::Waiting(_) => self.notice_waiting(notice),
                    Phase::Login(_) | Phase::Late(_) | Phase::Over => {}
                }
            }
        }
    }

    fn take_over(&mut self, notice: Notice) {
        if let Phase::Full(session) = &mut self.phase {
            session.notice(notice, &mut self.output);
        }
        self.disconnect_for("the initiator has logged in anew");
    }

    fn notice_waiting(&mut self, notice: Notice) {
        match notice {
            Notice::Opened(LOGIN_GATE) => self.enter(),
            Notice::Close { .. } => self.close("the session was replaced while it was opened"),
            _ => {}
        }
    }

    /// The next moment at which [`Connection::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let limits = &self.registry.limits;
        match (&self.phase, &self.ping) {
            _ if self.disconnected => None,
            _ if self.is_parting() => Some(self.heard + PARTING),
            // Time to send what is left.
            _ if self.is_closing() => Some(self.heard + limits.login_time),
            (Phase::Login(_) | Phase::Waiting(_), _) => Some(self.heard + limits.login_time),
            (Phase::Late(late), _) => Some(late.due),
            (Phase::Full(session), asked) => {
                let silence = asked.map_or(self.heard + limits.idle_time, |asked| asked + limits.ping_time);
                Some(if session.is_running() { silence.min(self.tick) } else { silence })
            }
            (Phase::Over, _) => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.tell_time(now);
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if self.is_parting() {
            return self.disconnect();
        }
        if self.is_closing() {
            return self.disconnect_for("the last answer could not be sent");
        }
        match (&mut self.phase, &self.ping) {
            (Phase::Full(session), None) => {
                let tag = self.next_ping & 0x7fff_ffff;
                self.next_ping = self.next_ping.wrapping_add(1);
                session.ping(tag, &mut self.output);
                (self.ping, self.taken) = (Some(now), 0);
            }
            (Phase::Waiting(granted), _) => {
                let request = granted.request;
                let refusal = granted.login.refusal(&request, Failure::ServiceUnavailable);
                self.output.put_copied(refusal, &[]);
                self.close("the commands of an older session took too long to end");
            }
            (Phase::Login(_), _) => self.disconnect_for("the login took too long"),
            (Phase::Late(late), _) => {
                let response = late.response;
                self.heard = now;
                self.refuse(response, Failure::Authentication);
            }
            // It takes its answers, if slowly: the question may not have got there yet.
            _ if self.taken >= SLOWEST && self.output.pending() > 0 => {
                (self.ping, self.taken) = (Some(now), 0)
            }
            _ => self.disconnect_for("the initiator did not answer"),
        }
    }

    /// Tells the session at intervals that time has passed. Called for input too, so that nobody can put it off by
    /// never being silent.
    fn tell_time(&mut self, now: Duration) {
        if now < self.tick || self.is_closing() {
            return;
        }
        if let Phase::Full(session) = &mut self.phase {
            self.tick = now + self.registry.limits.data_time / TICKS;
            session.time_passed(&mut self.output);
        }
    }

    /// Whether the socket is to be closed once the output is sent.
    pub fn is_closing(&self) -> bool {
        self.closing || matches!(&self.phase, Phase::Full(session) if session.is_closing())
    }

    /// Whether the initiator has logged out, or was refused, and may close the socket itself. An initiator that finds it
    /// closed while it still tidies up (Linux) reports an error that is none.
    pub fn is_parting(&self) -> bool {
        self.refused || matches!(&self.phase, Phase::Full(session) if session.is_logged_out())
    }

    /// Whether the socket is of no more use.
    pub fn is_disconnected(&self) -> bool {
        self.disconnected
    }

    /// Whether the connection can be dropped.
    pub fn is_finished(&self) -> bool {
        self.disconnected && !matches!(&self.phase, Phase::Full(session) if session.is_running())
    }

    /// Why this side closed it, if it did.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    /// The socket is gone, or was closed after the last output.
    pub fn disconnect(&mut self) {
        self.disconnected = true;
        self.closing = true;
        self.output = Output::default();
        match &mut self.phase {
            Phase::Full(session) => session.close(),
            _ => self.phase = Phase::Over,
        }
    }

    fn disconnect_for(&mut self, reason: &'static str) {
        self.reason.get_or_insert(reason);
        self.disconnect();
    }

    fn close(&mut self, reason: &'static str) {
        self.closing = true;
        self.reason.get_or_insert(reason);
        match &mut self.phase {
            Phase::Full(session) => session.close(),
            _ => self.phase = Phase::Over,
        }
    }

    /// Takes as many PDUs as have come.
    fn advance(&mut self, now: Duration) {
        self.tell_time(now);
        while !self.is_closing() && self.listens() {
            match self.receiver.step() {
                Step::Idle => break,
                Step::BadHeader => return self.disconnect_for("a header digest was wrong"),
                Step::Header(header) => self.begin(&header),
                Step::Pdu { header, landing, intact } => {
                    if matches!(self.phase, Phase::Full(_)) {
                        // Any whole PDU is a sign of life, the answer to a ping or not.
                        self.heard = now;
                        self.ping = None;
                    }
                    self.finish(now, &header, landing, intact);
                    if self.refused {
                        self.heard = now;
                    }
                }
            }
        }
        self.handle_notices();
    }

    fn begin(&mut self, header: &Header) {
        let len = header.data_len();
        let (landing, most) = match &mut self.phase {
            Phase::Full(session) => {
                let most = self.registry.limits.data_segment as usize;
                (if len <= most { session.begin(header) } else { Landing::Discard }, most)
            }
            _ => (Landing::Discard, LOGIN_SEGMENT),
        };
        if len > most {
            return self.disconnect_for("a data segment was longer than allowed");
        }
        match &self.phase {
            Phase::Login(_) if header.opcode() != opcode::LOGIN => {
                self.disconnect_for("a PDU other than a login request came before the login");
            }
            Phase::Login(_) => self.receiver.land(Landing::Buffer(AlignedBuf::zeroed(len), 0)),
            _ => self.receiver.land(landing),
        }
    }

    fn finish(&mut self, now: Duration, header: &Header, landing: Landing, intact: bool) {
        let fatal = match &mut self.phase {
            Phase::Full(session) => {
                session.finish(header, self.receiver.additional(), landing, intact, &mut self.output).err()
            }
            Phase::Login(login) => {
                let turn = match &landing {
                    Landing::Buffer(data, _) => login.request(header, data),
                    Landing::Discard => login.request(header, &[]),
                };
                self.take_turn(now, header, turn);
                None
            }
            _ => None,
        };
        if let Some(fatal) = fatal {
            self.disconnect_for(fatal.0);
        }
    }

    fn take_turn(&mut self, now: Duration, request: &Header, turn: Turn) {
        match turn {
            Turn::Reply(response, text) => self.output.put_copied(response, &text),
            Turn::Fail(response, failure) => self.refuse(response, failure),
            Turn::Wrong(response, door) => match self.registry.suspects.wrong(self.peer.ip(), &door, now) {
                None => self.refuse(response, Failure::Authentication),
                Some((late, outstanding)) => {
                    let late = Late { response, due: now + late, _outstanding: outstanding };
                    self.phase = Phase::Late(Box::new(late));
                }
            },
            Turn::Accept(response, text, established) => self.grant(*request, response, text, *established),
        }
    }

    /// Ends the login with a response that says why.
    fn refuse(&mut self, response: Header, failure: Failure) {
        self.output.put_copied(response, &[]);
        self.refused = true;
        self.close(failure.reason());
    }

    /// Opens the session, which waits until an older one of the same initiator port has ended.
    fn grant(&mut self, request: Header, response: Header, text: Vec<u8>, established: Established) {
        let Phase::Login(login) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        let mut login = *login;
        let gate = Gate::new(&self.mailbox, LOGIN_GATE);
        let opening = Opening {
            initiator: established.initiator.clone(),
            isid: established.isid,
            peer: self.peer,
            target: established.target.clone(),
            mailbox: self.mailbox.clone(),
        };
        match self.registry.open(opening, &gate) {
            Some(seat) => {
                let granted = Granted { login, request, response, text, established, seat };
                self.phase = Phase::Waiting(Box::new(granted));
            }
            None => {
                let refusal = login.refusal(&request, Failure::OutOfResources);
                self.output.put_copied(refusal, &[]);
                self.close("there are too many sessions");
            }
        }
    }

    /// The full feature phase begins.
    fn enter(&mut self) {
        let Phase::Waiting(granted) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        let Granted { login, mut response, text, established, seat, .. } = *granted;
        response.0[14..16].copy_from_slice(&seat.handle.tsih().to_be_bytes());
        self.output.put_copied(response, &text);
        self.receiver.enlarge();
        self.receiver.header_digest = established.params.header_digest;
        self.receiver.data_digest = established.params.data_digest;
        self.output.header_digest = established.params.header_digest;
        self.output.data_digest = established.params.data_digest;
        let session = Session::new(self.registry.clone(), seat, &established, self.local, login.stat_sn());
        self.phase = Phase::Full(Box::new(session));
        self.advance(self.heard); // what an eager initiator has sent behind its login
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

#[cfg(test)]
pub(super) mod script;
#[cfg(test)]
mod tests;
