//! One logical unit: its state, and the way of a command through it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use base::{Error, ImageId, Result};
use bytes::Bytes;
use parking_lot::Mutex;

use super::attention::{Attention, Attentions};
use super::cdb::Cdb;
use super::copy::CopyRecords;
use super::inquiry::Subject;
use super::mode::ModePages;
use super::opcode::{self, Access, CommandKind, Operation as Op};
use super::ports::{AccessState, PortGroup};
use super::reservations::Reservations;
use super::sanitize::Sanitize;
use super::sense::{Failure, Sense, code};
use super::target::TargetDevice;
use super::under_way::UnderWay;
use super::{basic, inquiry, log, ports, turn};
use crate::medium::{Admission, BlockMedium, Geometry};
use crate::task::{Command, Nexus, Outcome, Status, Stop, TaskFunction};

/// The most that one command moves, in bytes (MAXIMUM TRANSFER LENGTH).
pub(crate) const MAX_TRANSFER: u32 = 16 << 20;
/// What moves best, in bytes (OPTIMAL TRANSFER LENGTH).
const OPTIMAL_TRANSFER: u32 = 1 << 20;
/// The most that one WRITE SAME fills, in blocks: what the 10-byte command can say, in whole physical blocks.
const MAX_WRITE_SAME: u64 = 0xfff8;
/// Ranges in one UNMAP.
const MAX_UNMAP_DESCRIPTORS: u32 = 1024;

/// Who a logical unit says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, at most 8 printable ASCII characters: "TIDEGATE".
    pub vendor: String,
    /// Product identification, at most 16 printable ASCII characters.
    pub product: String,
    /// Product revision level, at most 4 printable ASCII characters.
    pub revision: String,
    /// Unit serial number, printable ASCII, stable for the life of the volume.
    pub serial: String,
    /// NAA identifier (SPC-5 §7.7.6.6), unique and stable for the life of the volume. Of type 6h all 16 bytes are used,
    /// of other types the first 8.
    pub naa: [u8; 16],
}

impl Identity {
    /// The identity of a volume on an image: serial number and NAA 6h identifier follow from the image's id. The
    /// company id is a locally administered one (54-47 is "TG"), so that it cannot meet a registered one.
    pub fn of_image(image: ImageId, revision: &str) -> Identity {
        let mut naa = [0; 16];
        naa[..3].copy_from_slice(&[0x60, 0x25, 0x44]);
        naa[3] = 0x70 | image.0[0] & 0x0f;
        naa[4..].copy_from_slice(&image.0[1..13]);
        Identity {
            vendor: "TIDEGATE".into(),
            product: "VOLUME".into(),
            revision: revision.into(),
            serial: image.to_string(),
            naa,
        }
    }

    /// The bytes of the NAA designator.
    pub fn naa(&self) -> &[u8] {
        if self.naa[0] >> 4 == 6 { &self.naa } else { &self.naa[..8] }
    }
}

/// What one command may ask for, in blocks (VPD page B0h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub transfer: u32,
    pub optimal_transfer: u32,
    pub write_same: u64,
    pub atomic: u32,
    pub compare: u8,
    pub unmap_descriptors: u32,
}

/// What a command that succeeded gives back.
#[derive(Debug)]
pub(super) struct Answer {
    data_in: Vec<Bytes>,
    transfer: u64,
}

impl Answer {
    /// Nothing moves.
    pub fn done() -> Answer {
        Answer::moved(0)
    }

    /// A command with `transfer` bytes of data-out.
    pub fn moved(transfer: u64) -> Answer {
        Answer { data_in: Vec::new(), transfer }
    }

    /// Parameter data, cut to the allocation length (SPC-5 §4.2.5.6).
    pub fn data(mut data: Vec<u8>, allocation: u32) -> Answer {
        data.truncate(allocation as usize);
        Answer { transfer: data.len() as u64, data_in: vec![data.into()] }
    }

    /// Blocks; `transfer` is what the command asked for, also where the initiator has no room for it.
    pub fn read(data_in: Vec<Bytes>, transfer: u64) -> Answer {
        Answer { data_in, transfer }
    }

    pub fn into_outcome(self) -> Outcome {
        Outcome { status: Status::Good, sense: Vec::new(), data_in: self.data_in, transfer: self.transfer }
    }
}

/// One command on its way.
pub(super) struct Task<'a> {
    pub nexus: &'a Nexus,
    pub target: &'a TargetDevice,
    pub command: Command,
    pub admission: Option<Admission>,
    /// That it is under way.
    pub entry: Option<Entry<'a>>,
}

impl Task<'_> {
    pub fn cdb(&self) -> Cdb<'_> {
        Cdb(&self.command.cdb)
    }

    /// Lets others have a turn between two pieces of a long command, and ends the command if its task was aborted.
    pub async fn breathe(&self) -> Result<(), Failure> {
        turn::pass().await;
        self.go_on()
    }

    /// Ends the command if its task was aborted, by its own session or by another nexus.
    pub fn go_on(&self) -> Result<(), Failure> {
        let stopped = self.command.stop.as_ref().is_some_and(Stop::asked);
        match stopped || self.entry.as_ref().is_some_and(Entry::aborted) {
            true => Err(Status::TaskAborted.into()),
            false => Ok(()),
        }
    }

    /// Waits for commands to end that this one, whose work is done, has aborted. Nobody waits for it meanwhile, and it
    /// waits no longer once it is aborted itself.
    pub async fn outlast(&self, mut aborted: Vec<u64>) -> Result<(), Failure> {
        let Some(entry) = &self.entry else { return Ok(()) };
        entry.unit.state.lock().under_way.step_aside(entry.number);
        poll_fn(|cx| {
            if let Some(stop) = &self.command.stop {
                stop.register(cx.waker());
            }
            if let Err(failure) = self.go_on() {
                return Poll::Ready(Err(failure));
            }
            entry.unit.state.lock().under_way.poll_ended(&mut aborted, cx).map(Ok)
        })
        .await
    }

    /// A parameter list of `length` bytes, all of which must have come.
    pub fn parameters(&self, length: usize) -> Result<Vec<u8>, Failure> {
        let mut list = self.command.data_out.concat();
        if list.len() < length {
            return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH).into());
        }
        list.truncate(length);
        Ok(list)
    }

    /// The blocks of data-out: as many as the command says, or as came if the initiator announced fewer. A part of a
    /// block is refused.
    pub fn blocks(&self, blocks: u64, geometry: Geometry) -> Result<Vec<Bytes>, Failure> {
        let size = u64::from(geometry.block_size);
        let came = super::read_write::length(&self.command.data_out);
        let mut left = blocks * size;
        if came < left && !came.is_multiple_of(size) {
            return Err(Failure::short_data(left));
        }
        let mut out = Vec::with_capacity(self.command.data_out.len());
        for part in &self.command.data_out {
            let now = left.min(part.len() as u64);
            if now > 0 {
                out.push(part.slice(..now as usize));
            }
            left -= now;
        }
        Ok(out)
    }

    /// The permission to write that came with the command, or a new one.
    pub async fn admit(&mut self, medium: &dyn BlockMedium, bytes: u64) -> Result<Admission> {
        match self.admission.take().or_else(|| medium.try_admit(bytes)) {
            Some(admission) => Ok(admission),
            None => medium.admit(bytes).await,
        }
    }
}

/// A nexus that can reach the logical unit.
#[derive(Debug)]
struct Presence {
    nexus: Nexus,
    attentions: Attentions,
}

/// What changes while a logical unit is in use. One lock, never held across an await.
#[derive(Default)]
pub(super) struct UnitState {
    nexuses: BTreeMap<u64, Presence>,
    pub under_way: UnderWay,
    pub reservations: Reservations,
    /// Who holds a reservation of SPC-2's RESERVE.
    pub reserved_by: Option<u64>,
    pub modes: ModePages,
    pub sanitize: Sanitize,
    pub copies: CopyRecords,
    /// That somebody runs [`LogicalUnit::background`], and how to wake it.
    pub worker: Option<Option<Waker>>,
    /// Another gateway owns the volume; it is so for good.
    pub fenced: bool,
}

impl UnitState {
    /// Gives a unit attention condition to some nexuses.
    pub fn attend(&mut self, who: impl Fn(&Nexus) -> bool, attention: Attention) {
        let meant = self.nexuses.values_mut().filter(|presence| who(&presence.nexus));
        meant.for_each(|presence| presence.attentions.add(attention));
    }

    /// Gives one to all but the nexus that caused it.
    pub fn attend_others(&mut self, cause: &Nexus, attention: Attention) {
        self.attend(|nexus| nexus.id != cause.id, attention);
    }

    /// The most urgent condition that a nexus has not been told, which counts as told now.
    pub fn take_attention(&mut self, nexus: &Nexus) -> Option<Attention> {
        self.nexuses.get_mut(&nexus.id)?.attentions.take()
    }

    fn allows(&self, nexus: &Nexus, access: Access) -> bool {
        match self.reserved_by {
            Some(id) if id != nexus.id => matches!(access, Access::Free | Access::Own),
            Some(_) => true,
            None => self.reservations.allows(nexus, access),
        }
    }

    /// Everything that stands between a command and its execution.
    fn check(&mut self, nexus: &Nexus, kind: Option<&CommandKind>, cdb: Cdb<'_>) -> Result<(), Failure> {
        let operation = kind.map(|kind| kind.operation);
        // SPC-5 §5.15: these three neither report nor clear what is pending.
        let exempt = matches!(operation, Some(Op::Inquiry | Op::ReportLuns | Op::RequestSense));
        if !exempt && let Some(attention) = self.take_attention(nexus) {
            return Err(attention.sense().into());
        }
        let Some(kind) = kind else { return Ok(()) };
        if !self.allows(nexus, resolve(kind.access, cdb)) {
            return Err(Status::ReservationConflict.into());
        }
        if let Some(refusal) = self.sanitize.refusal().filter(|_| !self.sanitize.allows(kind.operation)) {
            return Err(refusal.into());
        }
        Ok(())
    }
}

/// Where the access a command needs depends on its CDB.
fn resolve(access: Access, cdb: Cdb<'_>) -> Access {
    match access {
        Access::FreeUnless(byte, mask) if cdb.has(usize::from(byte), mask) => Access::Write,
        Access::FreeUnless(..) => Access::Free,
        Access::FreeIfStart if cdb.has(4, 0x01) && !cdb.has(4, 0xf0) => Access::Free,
        Access::FreeIfStart => Access::Write,
        fixed => fixed,
    }
}

/// A command under way; dropping it says that it has ended.
pub(super) struct Entry<'a> {
    unit: &'a LogicalUnit,
    number: u64,
}

impl Entry<'_> {
    /// Whether it was aborted since it began.
    fn aborted(&self) -> bool {
        self.unit.state.lock().under_way.is_aborted(self.number)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.unit.state.lock().under_way.end(self.number);
    }
}

/// One logical unit: a volume's device server.
pub struct LogicalUnit {
    identity: Identity,
    pub(super) medium: Arc<dyn BlockMedium>,
    pub(super) state: Mutex<UnitState>,
    /// Held over changes that are stored before they count: reservations, mode pages, sanitize.
    pub(super) changes: futures_util::lock::Mutex<()>,
}

impl LogicalUnit {
    /// A logical unit over a medium, with what was saved on it: persistent reservations with APTPL, mode pages, an
    /// unfinished sanitize operation.
    pub async fn new(identity: Identity, medium: Arc<dyn BlockMedium>) -> Result<Arc<LogicalUnit>> {
        let size = medium.geometry().block_size;
        if !matches!(size, 512 | 4096) {
            return Err(Error::invalid(format!("a block size of {size} is not served; choose 512 or 4096")));
        }
        let saved = Self::load_settings(&*medium).await?;
        let state = UnitState {
            reservations: Self::load_reservations(&*medium).await?,
            modes: ModePages { current: saved, saved },
            sanitize: Self::load_sanitize(&*medium).await?,
            ..UnitState::default()
        };
        medium.set_write_cache(saved.write_cache);
        let (state, changes) = (Mutex::new(state), futures_util::lock::Mutex::new(()));
        Ok(Arc::new(LogicalUnit { identity, medium, state, changes }))
    }

    /// What it stands on.
    pub fn medium(&self) -> &Arc<dyn BlockMedium> {
        &self.medium
    }

    /// Who it says it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tells every nexus that the capacity has changed (unit attention CAPACITY DATA HAS CHANGED).
    pub fn capacity_changed(&self) {
        self.state.lock().attend(|_| true, Attention::CapacityChanged);
    }

    /// Tells an initiator about an error that came before the command could run, such as an admission refused.
    pub fn failure(&self, error: &Error) -> Outcome {
        self.outcome(Err(error.kind().into()))
    }

    pub(super) fn limits(&self) -> Limits {
        let size = self.medium.geometry().block_size;
        let atomic = (self.medium.atomic_bytes() / size).min(MAX_TRANSFER / size);
        Limits {
            transfer: MAX_TRANSFER / size,
            optimal_transfer: OPTIMAL_TRANSFER / size,
            write_same: MAX_WRITE_SAME,
            atomic,
            compare: u8::try_from(atomic).unwrap_or(u8::MAX),
            unmap_descriptors: MAX_UNMAP_DESCRIPTORS,
        }
    }

    /// Its names in VPD page 83h.
    pub(super) fn designators(&self) -> [(u8, Vec<u8>); 2] {
        inquiry::designators(&self.identity)
    }

    /// A nexus can reach it from now on.
    pub(super) fn open(&self, nexus: &Nexus) {
        let mut attentions = Attentions::default();
        attentions.add(Attention::PowerOn);
        let presence = Presence { nexus: nexus.clone(), attentions };
        self.state.lock().nexuses.entry(nexus.id).or_insert(presence);
    }

    /// A nexus is lost: its reservation of SPC-2 and its copy results go with it, persistent reservations do not.
    pub(super) fn close(&self, nexus: &Nexus) {
        let mut state = self.state.lock();
        state.nexuses.remove(&nexus.id);
        state.copies.forget(nexus.id);
        if state.reserved_by == Some(nexus.id) {
            state.reserved_by = None;
        }
    }

    /// Gives a nexus a unit attention condition.
    pub(super) fn attend(&self, nexus: &Nexus, attention: Attention) {
        self.state.lock().attend(|n| n.id == nexus.id, attention);
    }

    /// The inventory of logical units was read, so there is no need to tell that it has changed.
    pub(super) fn luns_reported(&self, nexus: &Nexus) {
        if let Some(presence) = self.state.lock().nexuses.get_mut(&nexus.id) {
            presence.attentions.remove(Attention::LunsChanged);
        }
    }

    /// Logical unit reset (SAM-5 §6.3.3): the reservation of SPC-2 ends, mode pages return to what was saved, every
    /// nexus is told. Persistent reservations and a sanitize operation stay.
    pub(super) async fn reset(&self) {
        let _turn = self.changes.lock().await;
        let saved = {
            let mut state = self.state.lock();
            state.reserved_by = None;
            state.attend(|_| true, Attention::DeviceReset);
            state.modes.saved
        };
        // If what was volatile cannot be flushed, the next flush or write through will say so to the initiator.
        let applied = self.apply_settings(ModePages { current: saved, saved }).await;
        self.note(applied.as_ref().err());
    }

    /// Whether a nexus may reach the medium for a copy by another logical unit.
    pub(super) fn allows(&self, nexus: &Nexus, access: Access) -> bool {
        let state = self.state.lock();
        state.allows(nexus, access) && state.sanitize == Sanitize::Idle
    }

    /// Runs a command at once, if it is one of the commonest and nothing stands in its way.
    pub(super) fn try_execute(&self, nexus: &Nexus, command: &Command) -> Option<Outcome> {
        let cdb = Cdb(&command.cdb);
        let kind = opcode::find(cdb).ok()?;
        if !matches!(kind.operation, Op::Read | Op::TestUnitReady) {
            return None;
        }
        {
            let state = self.state.lock();
            let told = state.nexuses.get(&nexus.id).is_none_or(|presence| presence.attentions.is_empty());
            let free = told && !state.fenced && state.sanitize == Sanitize::Idle;
            if !free || !state.allows(nexus, kind.access) {
                return None;
            }
        }
        let answer = match kind.operation {
            Op::Read => self.try_read(cdb, command.expected_in)?,
            _ => Answer::done(),
        };
        Some(answer.into_outcome())
    }

    /// Runs a command to its end.
    pub(super) async fn execute(
        &self,
        target: &TargetDevice,
        nexus: &Nexus,
        command: Command,
        admission: Option<Admission>,
    ) -> Outcome {
        let kind = opcode::find(Cdb(&command.cdb));
        let entry = match self.enter(nexus, kind.as_ref().ok().copied(), Cdb(&command.cdb)) {
            Ok(entry) => entry,
            Err(failure) => return self.outcome(Err(failure)),
        };
        let mut task = Task { nexus, target, command, admission, entry: Some(entry) };
        let result = match kind {
            Ok(kind) => self.run(kind.operation, &mut task).await,
            Err(failure) => Err(failure),
        };
        // TAS is set: what another nexus aborted ends with TASK ABORTED (SAM-5 §5.6).
        match task.entry.take().is_some_and(|entry| entry.aborted()) {
            true => self.outcome(Err(Status::TaskAborted.into())),
            false => self.outcome(result),
        }
    }

    /// Checks what stands in a command's way and counts it as under way.
    fn enter<'a>(
        &'a self,
        nexus: &Nexus,
        kind: Option<&CommandKind>,
        cdb: Cdb<'_>,
    ) -> Result<Entry<'a>, Failure> {
        let mut state = self.state.lock();
        state.check(nexus, kind, cdb)?;
        Ok(Entry { unit: self, number: state.under_way.begin(nexus) })
    }

    /// Waits until every command that is under way now has ended.
    pub(super) async fn quiet(&self) {
        let mut numbers = self.state.lock().under_way.numbers();
        poll_fn(|cx| self.state.lock().under_way.poll_ended(&mut numbers, cx)).await;
    }

    async fn run(&self, operation: Op, task: &mut Task<'_>) -> Result<Answer, Failure> {
        match operation {
            Op::Read => self.read(task).await,
            Op::Write => self.write(task).await,
            // The rarer ones do not make the commonest two carry their state around.
            other => Box::pin(self.run_rare(other, task)).await,
        }
    }

    async fn run_rare(&self, operation: Op, task: &mut Task<'_>) -> Result<Answer, Failure> {
        match operation {
            Op::Read => self.read(task).await,
            Op::Write => self.write(task).await,
            Op::CompareAndWrite => self.compare_and_write(task).await,
            Op::ExtendedCopy => self.extended_copy(task).await,
            Op::GetLbaStatus => self.lba_status(task.cdb()).await,
            Op::Inquiry => inquiry::inquiry(&self.subject(task), task.cdb()),
            Op::LogSense => log::sense(task.cdb()),
            Op::ModeSelect => self.mode_select(task).await,
            Op::ModeSense => self.mode_sense(task.cdb()),
            Op::OrWrite => self.or_write(task).await,
            Op::PersistentReserveIn => self.persistent_reserve_in(task.cdb()),
            Op::PersistentReserveOut => self.persistent_reserve_out(task).await,
            Op::Prefetch => self.prefetch(task.cdb()),
            Op::PreventAllow => basic::prevent_allow(task.cdb()),
            Op::ReadCapacity10 => self.read_capacity_10(task.cdb()),
            Op::ReadCapacity16 => Ok(self.read_capacity_16(task.cdb())),
            Op::ReadDefectData => basic::read_defect_data(task.cdb()),
            Op::ReceiveCopyStatus => self.copy_status(task),
            Op::ReceiveCopyParameters => Ok(self.copy_parameters(task.cdb())),
            Op::ReceiveCopyFailure => self.copy_failure(task),
            Op::Release => self.release(task).await,
            Op::ReportLuns => task.target.report_luns(task.nexus, task.cdb()),
            Op::ReportOpcodes => opcode::report(task.cdb()),
            Op::ReportPortGroups => ports::report(self.port_group(), task.nexus.target_port, task.cdb()),
            Op::ReportTaskFunctions => opcode::report_task_functions(task.cdb()),
            Op::RequestSense => Ok(self.request_sense(task)),
            Op::Reserve => self.reserve(task).await,
            Op::Sanitize => self.sanitize(task).await,
            Op::StartStop => self.start_stop(task.cdb()).await,
            Op::SynchronizeCache => self.synchronize_cache(task.cdb()).await,
            Op::TestUnitReady => self.test_unit_ready(),
            Op::Unmap => self.unmap(task).await,
            Op::Verify => self.verify(task).await,
            Op::WriteAndVerify => self.write_and_verify(task).await,
            Op::WriteAtomic => self.write_atomic(task).await,
            Op::WriteSame => self.write_same(task).await,
        }
    }

    fn outcome(&self, result: Result<Answer, Failure>) -> Outcome {
        let failure = match result {
            Ok(answer) => return answer.into_outcome(),
            Err(failure) => failure,
        };
        let mut state = self.state.lock();
        state.fenced |= failure.sense.is_some_and(|sense| sense.code == code::PORT_UNAVAILABLE);
        let descriptor = state.modes.current.descriptor_sense;
        let sense = failure.sense.map_or_else(Vec::new, |sense| sense.encode(descriptor));
        Outcome { status: failure.status, sense, data_in: Vec::new(), transfer: failure.transfer }
    }

    /// Remembers what an error without a command to report it means for the state.
    fn note(&self, error: Option<&Error>) {
        if error.is_some_and(|error| error.kind() == base::ErrorKind::Fenced) {
            self.state.lock().fenced = true;
        }
    }

    fn port_group(&self) -> PortGroup {
        let fenced = self.state.lock().fenced;
        PortGroup {
            id: 1,
            state: if fenced { AccessState::Unavailable } else { AccessState::ActiveOptimized },
        }
    }

    fn subject<'a>(&'a self, task: &'a Task<'_>) -> Subject<'a> {
        Subject {
            identity: &self.identity,
            geometry: self.medium.geometry(),
            limits: self.limits(),
            target_name: task.target.name(),
            target_port: task.nexus.target_port,
            group_id: self.port_group().id,
        }
    }
}

/// What a task management function leaves to the device once the transport has ended the tasks.
pub(super) fn resets(function: TaskFunction) -> bool {
    match function {
        TaskFunction::LogicalUnitReset | TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => {
            true
        }
        // Task sets are per nexus: ending one's own tasks concerns nobody else.
        TaskFunction::AbortTask
        | TaskFunction::AbortTaskSet
        | TaskFunction::ClearAca
        | TaskFunction::ClearTaskSet => false,
    }
}
