//! The full feature phase of one session (which has one connection): what is outstanding and what happens next.
//!
//! A write goes through these stations: the command comes (`command`), the medium is asked for room (`progress`), memory is
//! found (`memory`), data is solicited and comes (`data_out`), the task is ready and is run when ordering allows (`dispatch`), its response
//! goes (`response`). Initiators are slowed by leaving out the R2T and by not opening the command window.

mod command;
mod control;
mod data_out;
mod function;
mod memory;
mod response;
mod task;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use base::AlignedBuf;

use super::config::Limits;
use super::login::Established;
use super::mailbox::{Gate, Mailbox, Notice};
use super::name::transport_id;
use super::output::Output;
use super::params::Params;
use super::pdu::{Header, NO_TAG, RejectReason, opcode};
use super::pool::{Part, Share};
use super::receive::Landing;
use super::registry::{Counters, Seat, SessionHandle, TargetRegistry};
use crate::device::{TargetDevice, may_take_long};
use crate::medium::{Admission, BlockMedium};
use crate::task::{Command, Nexus, Outcome, Stop, TaskAttribute, TaskFunction};

use memory::in_buffer;
pub use task::TaskId;
use task::{Aborted, Aborter, Stage, Task, Tasks};
use window::{Place, Window};

/// What the shell around a connection has to do for it.
pub enum Event {
    /// Wait for `medium.admit(bytes)`, then call [`super::Connection::admitted`].
    Admit {
        /// Whose admission it is.
        task: TaskId,
        /// How much is asked for.
        bytes: u64,
        /// Whom to ask.
        medium: Arc<dyn BlockMedium>,
    },
    /// Stop waiting for this task's admission.
    Abandon {
        /// Whose admission it was.
        task: TaskId,
    },
    /// Run `device.execute`, to its end, then call [`super::Connection::executed`].
    Execute(Execution),
    /// Run `device.task_function`, then call [`super::Connection::function_done`].
    Function {
        /// Names the function in the answer.
        number: u64,
        /// The device.
        device: Arc<TargetDevice>,
        /// Who asked.
        nexus: Nexus,
        /// Which logical unit.
        lun: u64,
        /// Which function.
        function: TaskFunction,
    },
}

/// A command to run.
pub struct Execution {
    /// Names the task in the answer.
    pub task: TaskId,
    /// The device that runs it.
    pub device: Arc<TargetDevice>,
    /// Who asked.
    pub nexus: Nexus,
    /// Which logical unit.
    pub lun: u64,
    /// The command with its data.
    pub command: Command,
    /// Permission to write.
    pub admission: Option<Admission>,
}

impl Execution {
    /// Runs it.
    pub async fn run(self) -> (TaskId, Outcome) {
        (self.task, self.device.execute(&self.nexus, self.lun, self.command, self.admission).await)
    }
}

/// The initiator broke the protocol in a way that leaves nothing to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fatal(pub(super) &'static str);

/// A PDU that came before its turn.
enum Held {
    Task(TaskId),
    Other(Header, Landing),
}

pub(super) struct Session {
    seat: Seat,
    registry: Arc<TargetRegistry>,
    mailbox: Arc<Mailbox>,
    local: SocketAddr,
    cid: u16,
    device: Option<Arc<TargetDevice>>,
    nexus: Nexus,
    params: Params,
    limits: Limits,

    window: Window,
    held: BTreeMap<u32, Held>,
    tasks: Tasks,
    next_order: u64,
    /// Tasks that take a place in the command window.
    windowed: u32,
    /// Tasks with the ORDERED attribute.
    ordered: u32,
    ready: VecDeque<TaskId>,
    /// Ready, but an ORDERED task is in the way.
    blocked: Vec<TaskId>,
    /// Waiting for others to give back the medium's room that they hold, or memory for data-out, by their place in the order.
    wants_room: BTreeSet<(u64, TaskId)>,
    wants_memory: BTreeSet<(u64, TaskId)>,
    /// Waiting for memory for what they bring.
    reads: VecDeque<TaskId>,
    /// Bytes of memory for data-out: of tasks, and of what is coming in.
    reserved: usize,
    /// Those of the PDU that is coming in.
    landing: usize,
    /// What the session has of the memory that all share, for each direction.
    share_out: Share,
    share_in: Share,
    /// Bytes of the media's room held for data-out that has yet to come.
    promised: usize,
    next_tag: u32,
    /// Whether a PDU has come, and whether data-out has, since the last tick.
    heard: bool,
    took_data: bool,
    /// How often a task was given memory or has ended, and in how many ticks data has come or gone.
    moves: u64,
    /// What waited to be sent the last time.
    pending: usize,
    /// Bytes of data-in that running commands may bring.
    running_in: usize,

    events: VecDeque<Event>,
    functions: Vec<function::Function>,
    next_gate: u64,
    text: control::TextExchange,
    logout: Option<control::Logout>,
    logged_out: bool,
    closing: bool,
    /// Dropped with the session, when every command has ended.
    tickets: Vec<Arc<Gate>>,
}

impl Session {
    pub(super) fn new(
        registry: Arc<TargetRegistry>,
        seat: Seat,
        login: &Established,
        local: SocketAddr,
        stat_sn: u32,
    ) -> Session {
        let handle: &SessionHandle = &seat.handle;
        let nexus = Nexus {
            id: handle.id,
            transport_id: transport_id(&handle.initiator, handle.isid),
            target_port: 1,
        };
        let device = handle.device.clone();
        if let Some(device) = &device {
            device.nexus_opened(&nexus);
        }
        let limits = registry.limits.clone();
        let depth = window_depth(&limits, &login.params);
        Session {
            mailbox: handle.mailbox.clone(),
            local,
            cid: login.cid,
            device,
            nexus,
            params: login.params.clone(),
            window: Window::new(login.cmd_sn, stat_sn, depth),
            held: BTreeMap::new(),
            tasks: Tasks::default(),
            next_order: 0,
            windowed: 0,
            ordered: 0,
            ready: VecDeque::new(),
            blocked: Vec::new(),
            wants_room: BTreeSet::new(),
            wants_memory: BTreeSet::new(),
            reads: VecDeque::new(),
            reserved: 0,
            landing: 0,
            share_out: Share::new(registry.pool_out.clone()),
            share_in: Share::new(registry.pool_in.clone()),
            promised: 0,
            next_tag: 0,
            heard: false,
            took_data: false,
            moves: 0,
            pending: 0,
            running_in: 0,
            events: VecDeque::new(),
            functions: Vec::new(),
            next_gate: 1,
            text: control::TextExchange::default(),
            logout: None,
            logged_out: false,
            closing: false,
            tickets: Vec::new(),
            limits,
            registry,
            seat,
        }
    }

    fn counters(&self) -> &Counters {
        &self.seat.handle.counters
    }

    /// Whether the connection is to be closed when the output is gone.
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether it is closed because the initiator wanted it.
    pub(super) fn is_logged_out(&self) -> bool {
        self.logged_out
    }

    /// Whether commands still run.
    pub(super) fn is_running(&self) -> bool {
        self.tasks.len() > 0
    }

    /// Where the data segment of a PDU goes.
    pub(super) fn begin(&mut self, header: &Header) -> Landing {
        let len = header.data_len();
        match header.opcode() {
            _ if len == 0 => Landing::Discard,
            opcode::SCSI_COMMAND => self.begin_command(header),
            opcode::DATA_OUT => self.begin_data_out(header),
            opcode::TEXT | opcode::NOP_OUT => {
                self.landing = in_buffer(len);
                self.reserved += self.landing;
                Landing::Buffer(AlignedBuf::zeroed(len), 0)
            }
            _ => Landing::Discard,
        }
    }

    /// Takes a whole PDU.
    pub(super) fn finish(
        &mut self,
        header: &Header,
        additional: &[u8],
        landing: Landing,
        intact: bool,
        out: &mut Output,
    ) -> Result<(), Fatal> {
        self.heard = true;
        // From here on it counts as the task's, if one comes of it; until `settle` it is drawn.
        self.reserved -= std::mem::take(&mut self.landing);
        if !intact {
            Counters::add(&self.counters().digest_errors, 1);
            self.reject(RejectReason::DataDigestError, header, out);
            if header.opcode() != opcode::DATA_OUT {
                return Ok(()); // as if it never came (RFC 7143 §7.8); the initiator starts the session anew
            }
        }
        match header.opcode() {
            opcode::DATA_OUT => self.data_out(header, landing, intact, out),
            opcode::SNACK => self.reject(RejectReason::SnackReject, header, out),
            opcode::LOGIN => return Err(Fatal("a login request in the full feature phase")),
            opcode::SCSI_COMMAND
            | opcode::TASK_MANAGEMENT
            | opcode::TEXT
            | opcode::LOGOUT
            | opcode::NOP_OUT => self.numbered(header, additional, landing, out),
            _ => self.reject(RejectReason::CommandNotSupported, header, out),
        }
        Ok(())
    }

    /// Takes a PDU that carries a CmdSN, in its turn.
    fn numbered(&mut self, header: &Header, additional: &[u8], landing: Landing, out: &mut Output) {
        if header.immediate() {
            self.handle(header, additional, landing, out);
            return;
        }
        match self.window.place(header.cmd_sn()) {
            Place::Outside => {}
            Place::Next => {
                self.window.advance();
                self.handle(header, additional, landing, out);
                self.release_held(out);
            }
            Place::Ahead if self.held.contains_key(&header.cmd_sn()) => {}
            Place::Ahead => {
                let held = match header.opcode() {
                    opcode::SCSI_COMMAND => {
                        self.admit_command(header, additional, landing, Stage::Held, out).map(Held::Task)
                    }
                    _ if self.may_hold(landing.bytes(), Part::Session) => {
                        self.reserved += landing.bytes();
                        Some(Held::Other(*header, landing))
                    }
                    // Without memory for its data, it is taken without.
                    _ => Some(Held::Other(*header, Landing::Discard)),
                };
                if let Some(held) = held {
                    self.held.insert(header.cmd_sn(), held);
                }
            }
        }
    }

    fn release_held(&mut self, out: &mut Output) {
        while let Some(held) = self.held.remove(&self.window.expected()) {
            self.window.advance();
            match held {
                Held::Other(header, landing) => {
                    self.reserved -= landing.bytes();
                    self.handle(&header, &[], landing, out);
                }
                Held::Task(id) => {
                    if let Some(task) = self.tasks.get_mut(id) {
                        task.stage = Stage::Collecting;
                        task.order = self.next_order;
                        self.next_order += 1;
                        self.windowed += 1;
                        self.progress(id, out);
                    }
                }
            }
        }
    }

    fn handle(&mut self, header: &Header, additional: &[u8], landing: Landing, out: &mut Output) {
        match header.opcode() {
            opcode::SCSI_COMMAND => {
                if let Some(id) = self.admit_command(header, additional, landing, Stage::Collecting, out) {
                    self.progress(id, out);
                }
            }
            opcode::TASK_MANAGEMENT => self.function(header, out),
            opcode::TEXT => self.text_request(header, landing, out),
            opcode::LOGOUT => self.logout(header, out),
            _ => self.nop_out(header, landing, out),
        }
    }

    /// Runs what is ready, and says what is to be done outside.
    pub(super) fn poll_event(&mut self, out: &mut Output) -> Option<Event> {
        self.settle(out);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let id = self.next_to_run(out)?;
            if let Some(event) = self.start(id, out) {
                return Some(event);
            }
        }
    }

    fn next_to_run(&mut self, out: &mut Output) -> Option<TaskId> {
        loop {
            if let Some(id) = self.next_read(out) {
                return Some(id);
            }
            let id = self.ready.pop_front()?;
            let Some(task) = self.tasks.get(id) else { continue };
            if !self.may_start(task) {
                self.blocked.push(id);
            } else if task.expected_in > 0 {
                match task.attribute {
                    TaskAttribute::HeadOfQueue => self.reads.push_front(id),
                    _ => self.reads.push_back(id),
                }
                self.begin_wait(id);
            } else {
                return Some(id);
            }
        }
    }

    /// Runs a task at once, or makes it an event.
    fn start(&mut self, id: TaskId, out: &mut Output) -> Option<Event> {
        let task = self.tasks.get_mut(id)?;
        let device = self.device.as_ref()?;
        let mut command = Command {
            cdb: std::mem::take(&mut task.cdb),
            data_out: std::mem::take(&mut task.data),
            expected_out: task.expected_out,
            expected_in: task.expected_in,
            attribute: task.attribute,
            stop: None,
        };
        if let Some(outcome) = device.try_execute(&self.nexus, task.lun, &command) {
            self.complete(id, outcome, out);
            return None;
        }
        task.stage = Stage::Running;
        task.stop = may_take_long(&command.cdb).then(Stop::default);
        command.stop = task.stop.clone();
        self.running_in += task.incoming();
        Some(Event::Execute(Execution {
            task: id,
            device: device.clone(),
            nexus: self.nexus.clone(),
            lun: task.lun,
            command,
            admission: task.take_admission(),
        }))
    }

    /// Whether the task attributes let a ready task start (SAM-5 §8.9), among the tasks of this session.
    fn may_start(&self, task: &Task) -> bool {
        if self.ordered == 0 {
            return true;
        }
        let older = |other: &Task| other.order < task.order && lun_number(other.lun) == lun_number(task.lun);
        match task.attribute {
            TaskAttribute::HeadOfQueue | TaskAttribute::Aca => true,
            TaskAttribute::Ordered => !self.tasks.iter().any(|(_, other)| older(other)),
            TaskAttribute::Simple => {
                !self.tasks.iter().any(|(_, other)| other.attribute == TaskAttribute::Ordered && older(other))
            }
        }
    }

    /// A task has ended.
    pub(super) fn complete(&mut self, id: TaskId, outcome: Outcome, out: &mut Output) {
        let Some(task) = self.remove(id) else { return };
        match task.aborted.as_ref().map(|aborted| aborted.by) {
            _ if self.closing => {}
            None => self.respond(&task, outcome, out),
            Some(Aborter::Own) => {}
            Some(Aborter::Other) => self.respond_aborted(&task, out),
        }
        self.feed_starved(out);
    }

    /// Takes a task off the table and gives back what it held.
    fn remove(&mut self, id: TaskId) -> Option<Box<Task>> {
        let mut task = self.tasks.remove(id)?;
        if task.stage == Stage::Running {
            self.running_in -= task.incoming();
        }
        if !task.immediate && task.stage != Stage::Held {
            self.windowed -= 1;
        }
        if task.attribute == TaskAttribute::Ordered {
            self.ordered -= 1;
        }
        self.reserved -= task.reserved;
        self.promised -= task.promised;
        self.wants_room.remove(&(task.order, id));
        self.wants_memory.remove(&(task.order, id));
        self.moves += 1;
        if task.is_asked() {
            self.events.push_back(Event::Abandon { task: id });
        }
        drop(task.take_admission());
        self.ready.extend(self.blocked.drain(..));
        Some(task)
    }

    /// Ends a task: at once, or, if the device runs it, when it has ended; `ticket` lasts till then. Returns a task
    /// that has ended.
    fn abort(&mut self, id: TaskId, by: Aborter, ticket: &Arc<Gate>) -> Option<Box<Task>> {
        match self.tasks.get_mut(id) {
            Some(task) if task.stage == Stage::Running => {
                task.stop.iter().for_each(Stop::ask);
                let aborted = task.aborted.get_or_insert(Aborted { tickets: Vec::new(), by });
                aborted.tickets.push(ticket.clone());
                if by == Aborter::Own {
                    aborted.by = by;
                }
                None
            }
            _ => self.remove(id),
        }
    }

    /// Ends all tasks that a test selects, for the session itself.
    fn abort_all(&mut self, ticket: &Arc<Gate>, wanted: impl Fn(&Task) -> bool) {
        for id in self.tasks.select(wanted) {
            drop(self.abort(id, Aborter::Own, ticket));
        }
    }

    /// Ends all tasks of a logical unit, or of all, for another session.
    fn abort_for_other(&mut self, lun: Option<u16>, ticket: &Arc<Gate>, out: &mut Output) {
        for id in self.tasks.select(|task| lun.is_none_or(|lun| lun_number(task.lun) == lun)) {
            if let Some(task) = self.abort(id, Aborter::Other, ticket)
                && !self.closing
            {
                self.respond_aborted(&task, out);
            }
        }
    }

    fn new_gate(&mut self) -> (u64, Arc<Gate>) {
        let number = self.next_gate;
        self.next_gate += 1;
        (number, Gate::new(&self.mailbox, number))
    }

    /// Takes a notice from outside.
    pub(super) fn notice(&mut self, notice: Notice, out: &mut Output) {
        match notice {
            Notice::Abort { lun, ticket } => {
                self.abort_for_other(lun, &ticket, out);
                self.feed_starved(out);
            }
            Notice::Opened(number) => self.opened(number, out),
            Notice::Close { ticket } => {
                self.tickets.extend(ticket);
                self.close();
            }
            Notice::RequestLogout { within_seconds } => self.request_logout(within_seconds, out),
        }
    }

    /// Ends what can be ended; running commands go on to their end.
    pub(super) fn close(&mut self) {
        self.closing = true;
        let (_, ticket) = self.new_gate();
        self.abort_all(&ticket, |_| true);
        for held in std::mem::take(&mut self.held).into_values() {
            if let Held::Other(_, landing) = held {
                self.reserved -= landing.bytes();
            }
        }
        self.functions.clear();
    }

    fn reject(&mut self, reason: RejectReason, rejected: &Header, out: &mut Output) {
        let mut header = Header::new(opcode::REJECT, 0x80);
        header.0[2] = reason as u8;
        header.set_word(16, NO_TAG);
        self.stamp_status(&mut header);
        out.put_copied(header, &rejected.0);
    }

    fn stamp(&mut self, header: &mut Header) {
        self.window.open(self.windowed);
        self.window.stamp(header);
    }

    fn stamp_status(&mut self, header: &mut Header) {
        self.window.open(self.windowed);
        self.window.stamp_status(header);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            device.nexus_closed(&self.nexus);
        }
    }
}

/// Each command yet to come may bring a first burst unasked; together they must fit what a session may hold, but a few
/// commands are always allowed. For what does not fit what all may hold, there is no memory when it comes.
fn window_depth(limits: &Limits, params: &Params) -> u32 {
    let may_hold =
        limits.session_bytes.min(limits.own_bytes + limits.common_bytes / 2 / Part::Session as usize);
    let unasked = match (params.initial_r2t, params.immediate_data) {
        (true, false) => 1,
        (true, true) => params.first_burst.min(limits.data_segment),
        (false, _) => params.first_burst,
    };
    let fitting = may_hold / unasked.max(1) as usize;
    (fitting as u32).clamp(limits.queue_depth.min(8), limits.queue_depth)
}

/// The number of a logical unit in peripheral or flat addressing (SAM-5 §4.7).
fn lun_number(lun: u64) -> u16 {
    (lun >> 48) as u16 & 0x3fff
}
