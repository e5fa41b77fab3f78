//! SANITIZE (SBC-4 §5.30, §4.11).
//!
//! What a sanitize operation promises here is that no initiator can read the old data through this logical unit any
//! more. Older segments in the bucket are the business of garbage collection and of snapshots, which keep them.
//!
//! An operation goes on through resets, lost sessions and restarts. One that was started with IMMED or interrupted by a
//! restart is carried out by [`LogicalUnit::background`].

use std::future::poll_fn;
use std::task::Poll;

use base::{Error, ErrorKind, Result};
use bytes::Bytes;

use super::opcode;
use super::read_write::CHUNK;
use super::sense::{Failure, Key, Sense, code};
use super::turn;
use super::unit::{Answer, LogicalUnit, Task};
use crate::task::{Status, Stop};

/// The name under which an unfinished operation is kept beside the blocks.
const STATE: &str = "scsi.sanitize";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    method: Method,
    /// AUSE: after a failure, EXIT FAILURE MODE is allowed.
    exit_allowed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Method {
    /// Block erase and cryptographic erase: everything becomes deallocated.
    Erase,
    /// Every block is written with a pattern, `passes` times, inverted in between if `invert`.
    Overwrite { pattern: Bytes, passes: u8, invert: bool },
}

/// Where the logical unit stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Sanitize {
    /// In normal use.
    #[default]
    Idle,
    /// At work; nothing but a few commands is allowed.
    Running {
        job: Job,
        /// Whether somebody carries it out.
        claimed: bool,
        /// Blocks done, over all passes, since this process took it up.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// An operation failed; a new one must succeed first.
    Failed { exit_allowed: bool },
}

impl Sanitize {
    /// What other commands are told, if they must not run.
    pub fn refusal(&self) -> Option<Sense> {
        match self {
            Sanitize::Idle => None,
            Sanitize::Running { done, total, .. } => {
                let progress = (u128::from(*done) << 16) / u128::from(*total).max(1);
                let progress = u16::try_from(progress).unwrap_or(u16::MAX);
                Some(Sense::new(Key::NotReady, code::SANITIZE_IN_PROGRESS).with_progress(progress))
            }
            Sanitize::Failed { .. } => Some(Sense::new(Key::MediumError, code::SANITIZE_FAILED)),
        }
    }

    /// Whether a command may run in this state (SBC-4 §4.11.3, §4.11.4).
    pub fn allows(&self, operation: opcode::Operation) -> bool {
        use opcode::Operation as Op;
        let always = matches!(
            operation,
            Op::Inquiry
                | Op::ReportLuns
                | Op::RequestSense
                | Op::LogSense
                | Op::ReportPortGroups
                | Op::ReportOpcodes
        );
        match self {
            Sanitize::Idle => true,
            Sanitize::Running { .. } => always,
            Sanitize::Failed { .. } => always || operation == Op::Sanitize,
        }
    }

    fn encode(&self) -> Option<Bytes> {
        let mut out = vec![1];
        match self {
            Sanitize::Idle => return None,
            Sanitize::Failed { exit_allowed } => out.extend([0, u8::from(*exit_allowed)]),
            Sanitize::Running { job, .. } => {
                let exit_allowed = u8::from(job.exit_allowed);
                match &job.method {
                    Method::Erase => out.extend([1, exit_allowed]),
                    Method::Overwrite { pattern, passes, invert } => {
                        out.extend([2, exit_allowed, *passes, u8::from(*invert)]);
                        out.extend(pattern);
                    }
                }
            }
        }
        Some(out.into())
    }

    /// What was left when the process ended.
    pub fn decode(bytes: &[u8]) -> Result<Sanitize> {
        let running = |method, exit_allowed: u8| Sanitize::Running {
            job: Job { method, exit_allowed: exit_allowed != 0 },
            claimed: false,
            done: 0,
            total: 1,
        };
        match bytes {
            [1, 0, exit_allowed] => Ok(Sanitize::Failed { exit_allowed: *exit_allowed != 0 }),
            [1, 1, exit_allowed] => Ok(running(Method::Erase, *exit_allowed)),
            [1, 2, exit_allowed, passes @ 1..=31, invert, pattern @ ..] if !pattern.is_empty() => {
                let pattern = Bytes::copy_from_slice(pattern);
                let method = Method::Overwrite { pattern, passes: *passes, invert: *invert != 0 };
                Ok(running(method, *exit_allowed))
            }
            _ => Err(Error::corrupt(format!(
                "the state of a sanitize operation ({STATE}, {} bytes) cannot be read; remove it and sanitize again",
                bytes.len()
            ))),
        }
    }
}

impl LogicalUnit {
    /// The operation that was going on when the process ended.
    pub(super) async fn load_sanitize(medium: &dyn crate::medium::BlockMedium) -> Result<Sanitize> {
        match medium.load_state(STATE).await? {
            Some(bytes) => Sanitize::decode(&bytes),
            None => Ok(Sanitize::Idle),
        }
    }

    pub(super) async fn sanitize(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        if cdb.has(1, 0x40) {
            return Err(Sense::cdb_bit(1, 6).into()); // ZNR: this is no zoned device
        }
        if let Some(reserved) = (2..7).find(|at| cdb.byte(*at) != 0) {
            return Err(Sense::cdb_field(reserved as u16).into()); // no command destroys more: take no chances
        }
        let (immediate, exit_allowed) = (cdb.has(1, 0x80), cdb.has(1, 0x20));
        let length = cdb.u16(7);
        if cdb.service_action() != 0x01 && length != 0 {
            return Err(Sense::cdb_field(7).into());
        }
        self.check_writable()?;
        let method = match cdb.service_action() {
            0x1f => return self.exit_failure_mode().await,
            0x01 => {
                overwrite_method(&task.parameters(usize::from(length))?, self.medium.geometry().block_size)?
            }
            _ => Method::Erase,
        };
        let job = Job { method, exit_allowed };
        self.begin_sanitize(&job, immediate).await?;
        // Ending this command does not end the operation, so whoever waits for this nexus's tasks need not wait for it.
        task.entry = None;
        let in_background = immediate && self.state.lock().worker.is_some();
        if !in_background && !self.carry_out(&job, task.command.stop.as_ref()).await? {
            return Err(Status::TaskAborted.into());
        }
        Ok(Answer::moved(u64::from(length)))
    }

    async fn exit_failure_mode(&self) -> Result<Answer, Failure> {
        let _turn = self.changes.lock().await;
        let now = self.state.lock().sanitize.clone();
        match now {
            Sanitize::Failed { exit_allowed: false } => Err(Sense::cdb_bit(1, 4).into()),
            Sanitize::Failed { exit_allowed: true } => {
                self.medium.store_state(STATE, None).await?;
                self.state.lock().sanitize = Sanitize::Idle;
                Ok(Answer::done())
            }
            _ => Ok(Answer::done()),
        }
    }

    /// From here on everybody else is refused, also after a restart.
    async fn begin_sanitize(&self, job: &Job, immediate: bool) -> Result<(), Failure> {
        let _turn = self.changes.lock().await;
        let running = {
            let state = self.state.lock();
            if let Sanitize::Running { .. } = state.sanitize {
                return Err(state.sanitize.refusal().expect("a running operation refuses").into());
            }
            let claimed = !(immediate && state.worker.is_some());
            Sanitize::Running { job: job.clone(), claimed, done: 0, total: 1 }
        };
        self.medium.store_state(STATE, running.encode()).await?;
        let mut state = self.state.lock();
        state.sanitize = running;
        if let Some(Some(waker)) = &state.worker {
            waker.wake_by_ref();
        }
        Ok(())
    }

    /// Runs for as long as the logical unit is served: it carries out sanitize operations that outlive their command.
    /// Without it they are carried out before the command ends, and one that a restart interrupted waits for it.
    pub async fn background(&self) {
        let _present = Worker::new(self);
        loop {
            let job = poll_fn(|cx| {
                let mut state = self.state.lock();
                if let Sanitize::Running { job, claimed: claimed @ false, .. } = &mut state.sanitize {
                    *claimed = true;
                    return Poll::Ready(job.clone());
                }
                state.worker = Some(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
            // Its failure is in the state, where the next command finds it.
            self.carry_out(&job, None).await.ok();
        }
    }

    /// Carries out the operation, and returns whether it is done: when its command is stopped, the operation goes on in
    /// the background where there is one.
    async fn carry_out(&self, job: &Job, stop: Option<&Stop>) -> Result<bool, Failure> {
        let mut claim = Claim { unit: self, settled: false };
        self.quiet().await;
        let result = self.wipe(job, stop).await;
        if let Ok(false) = result {
            return Ok(false);
        }
        let failed = Sanitize::Failed { exit_allowed: job.exit_allowed };
        let after = if result.is_ok() { Sanitize::Idle } else { failed.clone() };
        let _turn = self.changes.lock().await;
        let stored = self.medium.store_state(STATE, after.encode()).await;
        claim.settled = true;
        // While the medium remembers the operation, a restart would begin it anew: nothing may be written until then.
        let done = result.is_ok() && stored.is_ok();
        self.state.lock().sanitize = if done { Sanitize::Idle } else { failed };
        match done {
            true => Ok(true),
            false => Err(Sense::new(Key::MediumError, code::SANITIZE_FAILED).into()),
        }
    }

    /// `false` if it was stopped before its end.
    async fn wipe(&self, job: &Job, stop: Option<&Stop>) -> Result<bool> {
        match &job.method {
            Method::Erase => self.medium.zero(0, self.medium.geometry().blocks, true).await?,
            Method::Overwrite { pattern, passes, invert } => {
                if !self.overwrite(pattern, *passes, *invert, stop).await? {
                    return Ok(false);
                }
            }
        }
        self.medium.flush().await?;
        Ok(true)
    }

    async fn overwrite(&self, pattern: &[u8], passes: u8, invert: bool, stop: Option<&Stop>) -> Result<bool> {
        let geometry = self.medium.geometry();
        let size = geometry.block_size as usize;
        let block: Vec<u8> = pattern.iter().copied().cycle().take(size).collect();
        let plain = Bytes::from(block.repeat(CHUNK as usize / size));
        let inverted: Bytes = plain.iter().map(|byte| !byte).collect();
        let total = geometry.blocks * u64::from(passes);
        while let Some(done) = self.advance(0, total) {
            let (pass, lba) = (done / geometry.blocks, done % geometry.blocks);
            // The last pass leaves the pattern as it was given.
            let content = if invert && (u64::from(passes) - 1 - pass) % 2 == 1 { &inverted } else { &plain };
            let now = (geometry.blocks - lba).min(CHUNK / size as u64);
            match self.put(lba, content.slice(..now as usize * size)).await {
                Ok(()) => self.advance(now, total),
                // No room for ten seconds or more; there is all the time in the world.
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::NoSpace) => None,
                Err(error) => return Err(error),
            };
            turn::pass().await;
            if stop.is_some_and(Stop::asked) && self.state.lock().worker.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Counts blocks as done and returns where to go on, if there is anything left.
    fn advance(&self, blocks: u64, all: u64) -> Option<u64> {
        match &mut self.state.lock().sanitize {
            Sanitize::Running { done, total, .. } => {
                *total = all;
                *done += blocks;
                Some(*done).filter(|done| *done < all)
            }
            _ => None,
        }
    }
}

/// Says that `background` is running.
struct Worker<'a>(&'a LogicalUnit);

impl Worker<'_> {
    fn new(unit: &LogicalUnit) -> Worker<'_> {
        unit.state.lock().worker = Some(None);
        Worker(unit)
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.0.state.lock().worker = None;
    }
}

/// Whoever carries out the operation; if dropped half-way, somebody else may go on.
struct Claim<'a> {
    unit: &'a LogicalUnit,
    settled: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut state = self.unit.state.lock();
        if let Sanitize::Running { claimed, .. } = &mut state.sanitize {
            *claimed = false;
        }
        if let Some(Some(waker)) = &state.worker {
            waker.wake_by_ref();
        }
    }
}

/// The parameter list of the overwrite service action (SBC-4 table 129).
fn overwrite_method(list: &[u8], block_size: u32) -> Result<Method, Failure> {
    if list.len() < 5 || list.len() > 4 + block_size as usize {
        return Err(Sense::cdb_field(7).into());
    }
    let passes = list[0] & 0x1f;
    let length = usize::from(u16::from_be_bytes([list[2], list[3]]));
    if list[0] & 0x60 != 0 || passes == 0 {
        return Err(Sense::parameter_field(0).into());
    }
    if length == 0 || length != list.len() - 4 {
        return Err(Sense::parameter_field(2).into());
    }
    Ok(Method::Overwrite { pattern: Bytes::copy_from_slice(&list[4..]), passes, invert: list[0] & 0x80 != 0 })
}
