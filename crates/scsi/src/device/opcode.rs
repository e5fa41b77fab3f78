//! The commands of a disk: one table for dispatch, for reservations and for REPORT SUPPORTED OPERATION CODES.

use super::cdb::Cdb;
use super::sense::{Failure, Sense, code};
use super::unit::Answer;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    CompareAndWrite,
    ExtendedCopy,
    GetLbaStatus,
    Inquiry,
    LogSense,
    ModeSelect,
    ModeSense,
    OrWrite,
    PersistentReserveIn,
    PersistentReserveOut,
    Prefetch,
    PreventAllow,
    Read,
    ReadCapacity10,
    ReadCapacity16,
    ReadDefectData,
    ReceiveCopyStatus,
    ReceiveCopyParameters,
    ReceiveCopyFailure,
    Release,
    ReportLuns,
    ReportOpcodes,
    ReportPortGroups,
    ReportTaskFunctions,
    RequestSense,
    Reserve,
    Sanitize,
    StartStop,
    SynchronizeCache,
    TestUnitReady,
    Unmap,
    Verify,
    Write,
    WriteAndVerify,
    WriteAtomic,
    WriteSame,
}

/// What other nexuses' reservations mean for a command (SPC-5 table 67, SBC-4 table 13; RESERVE: SPC-2 §5.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Allowed whatever is reserved.
    Free,
    /// Allowed under persistent reservations, not under RESERVE.
    Query,
    /// Allowed under write exclusive reservations.
    Read,
    /// Conflicts with every reservation of others.
    Write,
    /// Like `Free` if this byte and mask of the CDB are clear, like `Write` if not.
    FreeUnless(u8, u8),
    /// START STOP UNIT: free if it starts the unit, else like `Write`.
    FreeIfStart,
    /// The command has rules of its own and checks them itself.
    Own,
}

/// One command.
#[derive(Debug)]
pub(super) struct CommandKind {
    pub service_action: Option<u8>,
    pub operation: Operation,
    pub access: Access,
    /// One bit for each bit of the CDB that is looked at, after the operation code itself. Its length is the CDB's.
    pub usage: &'static [u8],
}

impl CommandKind {
    pub fn opcode(&self) -> u8 {
        self.usage[0]
    }
}

const fn plain(operation: Operation, access: Access, usage: &'static [u8]) -> CommandKind {
    CommandKind { service_action: None, operation, access, usage }
}

const fn action(action: u8, operation: Operation, access: Access, usage: &'static [u8]) -> CommandKind {
    CommandKind { service_action: Some(action), operation, access, usage }
}

use Access::{Free, FreeIfStart, FreeUnless, Own, Query, Read, Write};
use Operation as Op;

/// All commands, those of one operation code next to each other.
#[rustfmt::skip] // a table
pub(super) static COMMANDS: &[CommandKind] = &[
    plain(Op::TestUnitReady, Query, &[0x00, 0, 0, 0, 0, 0]),
    plain(Op::RequestSense, Free, &[0x03, 0x01, 0, 0, 0xff, 0]),
    plain(Op::Read, Read, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0]),
    plain(Op::Write, Write, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0]),
    plain(Op::Inquiry, Free, &[0x12, 0x01, 0xff, 0xff, 0xff, 0]),
    plain(Op::ModeSelect, Write, &[0x15, 0x11, 0, 0, 0xff, 0]),
    plain(Op::Reserve, Own, &[0x16, 0, 0, 0, 0, 0]),
    plain(Op::Release, Own, &[0x17, 0, 0, 0, 0, 0]),
    plain(Op::ModeSense, Write, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0]),
    plain(Op::StartStop, FreeIfStart, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0]),
    plain(Op::PreventAllow, FreeUnless(4, 0x03), &[0x1e, 0, 0, 0, 0x03, 0]),
    plain(Op::ReadCapacity10, Free, &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0]),
    plain(Op::Read, Read, &[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::Write, Write, &[0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::WriteAndVerify, Write, &[0x2e, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::Verify, Read, &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::Prefetch, Read, &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::SynchronizeCache, Write, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::ReadDefectData, Read, &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0]),
    plain(Op::WriteSame, Write, &[0x41, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
    plain(Op::Unmap, Write, &[0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x01, Op::Sanitize, Write, &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x02, Op::Sanitize, Write, &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x03, Op::Sanitize, Write, &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x1f, Op::Sanitize, Write, &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    plain(Op::LogSense, Free, &[0x4d, 0x01, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    plain(Op::ModeSelect, Write, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    plain(Op::Reserve, Own, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    plain(Op::Release, Own, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    plain(Op::ModeSense, Write, &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x00, Op::PersistentReserveIn, Query, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x01, Op::PersistentReserveIn, Query, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x02, Op::PersistentReserveIn, Query, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x03, Op::PersistentReserveIn, Query, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    action(0x00, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x01, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x02, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x03, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x04, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x05, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x06, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x07, Op::PersistentReserveOut, Own, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]),
    action(0x00, Op::ExtendedCopy, Write, &[0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x00, Op::ReceiveCopyStatus, Write, &[0x84, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x03, Op::ReceiveCopyParameters, Write, &[0x84, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x04, Op::ReceiveCopyFailure, Write, &[0x84, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::Read, Read, &[0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::CompareAndWrite, Write, &[0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0]),
    plain(Op::Write, Write, &[0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::OrWrite, Write, &[0x8b, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::WriteAndVerify, Write, &[0x8e, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::Verify, Read, &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::Prefetch, Read, &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::SynchronizeCache, Write, &[0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::WriteSame, Write, &[0x93, 0x19, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::WriteAtomic, Write, &[0x9c, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x10, Op::ReadCapacity16, Free, &[0x9e, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x12, Op::GetLbaStatus, Read, &[0x9e, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::ReportLuns, Free, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x0a, Op::ReportPortGroups, Query, &[0xa3, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x0c, Op::ReportOpcodes, Query, &[0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    action(0x0d, Op::ReportTaskFunctions, Query, &[0xa3, 0x1f, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::Read, Read, &[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::Write, Write, &[0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::WriteAndVerify, Write, &[0xae, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::Verify, Read, &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    plain(Op::ReadDefectData, Read, &[0xb7, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
];

/// Where the commands of an operation code begin in [`COMMANDS`]; `NONE` if there are none.
static FIRST: [u8; 256] = {
    let mut first = [NONE; 256];
    let mut i = COMMANDS.len();
    while i > 0 {
        i -= 1;
        first[COMMANDS[i].usage[0] as usize] = i as u8;
    }
    first
};
const NONE: u8 = 0xff;

fn of_opcode(opcode: u8) -> &'static [CommandKind] {
    let first = usize::from(FIRST[usize::from(opcode)]);
    let from = COMMANDS.get(first..).unwrap_or_default();
    let count = from.iter().take_while(|kind| kind.opcode() == opcode).count();
    &from[..count]
}

/// The command that a CDB asks for (SPC-5 §4.2).
pub(super) fn find(cdb: Cdb<'_>) -> Result<&'static CommandKind, Failure> {
    let kinds = of_opcode(cdb.opcode());
    let kind = match kinds.first() {
        None => return Err(Sense::illegal(code::INVALID_OPERATION_CODE).into()),
        Some(CommandKind { service_action: None, .. }) => &kinds[0],
        Some(_) => {
            let wanted = Some(cdb.service_action());
            kinds.iter().find(|kind| kind.service_action == wanted).ok_or(Sense::cdb_bit(1, 4))?
        }
    };
    let last = kind.usage.len() - 1;
    match cdb.0.len() > last {
        // NACA: no ACA here (NORMACA in the standard INQUIRY data is clear).
        true if cdb.has(last, 0x04) => Err(Sense::cdb_bit(last as u16, 2).into()),
        true => Ok(kind),
        false => Err(Sense::cdb_field(cdb.0.len() as u16).into()),
    }
}

/// Whether a command may take so long that its task should be given a [`Stop`](crate::task::Stop).
pub fn may_take_long(cdb: &[u8]) -> bool {
    let operation = find(Cdb(cdb)).map(|kind| kind.operation);
    matches!(
        operation,
        Ok(Op::Sanitize | Op::ExtendedCopy | Op::Verify | Op::WriteAndVerify | Op::WriteSame)
            // PREEMPT AND ABORT waits for the commands of others.
            | Ok(Op::PersistentReserveOut)
    )
}

/// Recommended time-out in seconds; 0 for "as long as it takes".
fn timeout(operation: Operation) -> u32 {
    match operation {
        Op::Sanitize | Op::ExtendedCopy | Op::Verify => 0,
        _ => 60,
    }
}

fn timeouts(kind: &CommandKind, out: &mut Vec<u8>) {
    out.extend([0x00, 0x0a, 0, 0, 0, 0, 0, 0]);
    out.extend(timeout(kind.operation).to_be_bytes());
}

/// REPORT SUPPORTED OPERATION CODES (SPC-5 §6.36).
pub(super) fn report(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    let with_timeouts = cdb.has(2, 0x80);
    let (opcode, wanted) = (cdb.byte(3), cdb.u16(4));
    let kinds = of_opcode(opcode);
    let has_actions = kinds.first().is_some_and(|kind| kind.service_action.is_some());
    let by_action = || kinds.iter().find(|kind| kind.service_action.map(u16::from) == Some(wanted));
    let data = match cdb.byte(2) & 0x07 {
        0 => all(with_timeouts),
        1 if has_actions => return Err(Sense::cdb_bit(2, 2).into()),
        1 => one(kinds.first(), with_timeouts),
        2 if !has_actions && !kinds.is_empty() => return Err(Sense::cdb_bit(2, 2).into()),
        2 => one(by_action(), with_timeouts),
        3 if has_actions => one(by_action(), with_timeouts),
        3 => one(kinds.first().filter(|_| wanted == 0), with_timeouts),
        _ => return Err(Sense::cdb_bit(2, 2).into()),
    };
    Ok(Answer::data(data, cdb.u32(6)))
}

fn all(with_timeouts: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    for kind in COMMANDS {
        let flags = u8::from(with_timeouts) << 1 | u8::from(kind.service_action.is_some());
        out.extend([
            kind.opcode(),
            0,
            0,
            kind.service_action.unwrap_or(0),
            0,
            flags,
            0,
            kind.usage.len() as u8,
        ]);
        if with_timeouts {
            timeouts(kind, &mut out);
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn one(kind: Option<&CommandKind>, with_timeouts: bool) -> Vec<u8> {
    let Some(kind) = kind else { return vec![0, 0x01, 0, 0] };
    let mut out = vec![0, u8::from(with_timeouts) << 7 | 0x03, 0, kind.usage.len() as u8];
    out.extend(kind.usage);
    if let Some(action) = kind.service_action {
        // The service action is reported as it must be sent, not as a mask.
        out[5] = out[5] & 0xe0 | action;
    }
    if with_timeouts {
        timeouts(kind, &mut out);
    }
    out
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-5 §6.37): abort task, abort task set, clear task set, logical unit
/// reset.
pub(super) fn report_task_functions(cdb: Cdb<'_>) -> Result<Answer, Failure> {
    if cdb.u32(6) < 4 {
        return Err(Sense::cdb_field(6).into());
    }
    let functions = 0x80 | 0x40 | 0x10 | 0x08;
    let data = if cdb.has(2, 0x80) {
        vec![functions, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    } else {
        vec![functions, 0, 0, 0]
    };
    Ok(Answer::data(data, cdb.u32(6)))
}
