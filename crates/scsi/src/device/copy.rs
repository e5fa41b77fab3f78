//! EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4 §6.5, §6.18): copies between the disks of one target.

use std::collections::VecDeque;

use super::cdb::Cdb;
use super::opcode::Access;
use super::sense::{Failure, Key, Sense, code};
use super::unit::{Answer, LogicalUnit, Task};

/// MAXIMUM TARGET DESCRIPTOR COUNT.
pub(super) const MAX_TARGETS: usize = 16;
/// MAXIMUM SEGMENT DESCRIPTOR COUNT.
pub(super) const MAX_SEGMENTS: usize = 64;
/// MAXIMUM DESCRIPTOR LIST LENGTH, in bytes.
pub(super) const MAX_DESCRIPTORS_LENGTH: usize = MAX_TARGETS * TARGET + MAX_SEGMENTS * SEGMENT;
/// Bytes read and written at a time.
const PIECE: u64 = 4 << 20;
/// Results kept for RECEIVE COPY RESULTS, over all nexuses.
const MAX_RECORDS: usize = 64;

const HEADER: usize = 16;
const TARGET: usize = 32;
const SEGMENT: usize = 28;
const IDENTIFICATION_TARGET: u8 = 0xe4;
const BLOCK_TO_BLOCK: u8 = 0x02;

/// How a copy command ended, kept until its nexus ends or too many newer ones came.
#[derive(Debug, Clone)]
pub(super) struct CopyRecord {
    nexus: u64,
    list_id: u8,
    segments: u16,
    bytes: u64,
    failure: Option<Sense>,
}

/// The results of copy commands.
#[derive(Debug, Default)]
pub(super) struct CopyRecords(VecDeque<CopyRecord>);

impl CopyRecords {
    fn put(&mut self, record: CopyRecord) {
        self.0.retain(|r| (r.nexus, r.list_id) != (record.nexus, record.list_id));
        self.0.push_back(record);
        if self.0.len() > MAX_RECORDS {
            self.0.pop_front();
        }
    }

    fn get(&self, nexus: u64, list_id: u8) -> Option<CopyRecord> {
        self.0.iter().find(|r| (r.nexus, r.list_id) == (nexus, list_id)).cloned()
    }

    pub fn forget(&mut self, nexus: u64) {
        self.0.retain(|r| r.nexus != nexus);
    }
}

/// A decoded parameter list.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    list_id: u8,
    keep_result: bool,
    targets: Vec<Designator>,
    segments: Vec<Segment>,
}

/// Who a copy target is (SPC-4 §6.4.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Designator {
    kind: u8,
    bytes: Vec<u8>,
    block_size: u32,
}

/// SPC-4 §6.4.7.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    source: usize,
    destination: usize,
    blocks: u64,
    from: u64,
    to: u64,
}

impl LogicalUnit {
    pub(super) async fn extended_copy(&self, task: &mut Task<'_>) -> Result<Answer, Failure> {
        let list = task.parameters(task.cdb().u32(10) as usize)?;
        if list.is_empty() {
            return Ok(Answer::done());
        }
        let request = decode(&list)?;
        let nexus = task.nexus.id;
        let mut record = CopyRecord { nexus, list_id: request.list_id, segments: 0, bytes: 0, failure: None };
        let result = self.copy_all(task, &request, &mut record).await;
        if let Err(failure) = &result {
            record.failure = failure.sense;
        }
        if request.keep_result {
            self.state.lock().copies.put(record);
        }
        result.map(|()| Answer::moved(list.len() as u64))
    }

    async fn copy_all(
        &self,
        task: &Task<'_>,
        request: &Request,
        record: &mut CopyRecord,
    ) -> Result<(), Failure> {
        let units: Vec<_> =
            request.targets.iter().map(|d| (task.target.designated(d.kind, &d.bytes), d)).collect();
        for segment in &request.segments {
            let [source, destination] = [segment.source, segment.destination].map(|index| {
                let (unit, designator) = units.get(index)?;
                let unit = unit.clone()?;
                let size = unit.medium.geometry().block_size;
                (designator.block_size == 0 || designator.block_size == size).then_some(unit)
            });
            let unreachable = || Sense::new(Key::CopyAborted, code::UNREACHABLE_COPY_TARGET);
            let (source, destination) = source.zip(destination).ok_or_else(unreachable)?;
            let allowed =
                source.allows(task.nexus, Access::Read) && destination.allows(task.nexus, Access::Write);
            if !allowed {
                return Err(unreachable().into());
            }
            record.bytes += copy(task, &source, &destination, *segment).await?;
            record.segments += 1;
        }
        Ok(())
    }

    pub(super) fn copy_status(&self, task: &Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let record = self.state.lock().copies.get(task.nexus.id, cdb.byte(2)).ok_or(Sense::cdb_field(2))?;
        let mut out = vec![0, 0, 0, 8];
        out.push(if record.failure.is_some() { 0x02 } else { 0x01 });
        out.extend(record.segments.to_be_bytes());
        // TRANSFER COUNT in bytes while they fit, else in MiB (SPC-4 table 155).
        let (unit, count) = match u32::try_from(record.bytes) {
            Ok(bytes) => (0, bytes),
            Err(_) => (2, u32::try_from(record.bytes >> 20).unwrap_or(u32::MAX)),
        };
        out.push(unit);
        out.extend(count.to_be_bytes());
        Ok(Answer::data(out, cdb.u32(10)))
    }

    /// Failed segment details: the sense data of a copy that ended in CHECK CONDITION (SPC-4 §6.18.5).
    pub(super) fn copy_failure(&self, task: &Task<'_>) -> Result<Answer, Failure> {
        let cdb = task.cdb();
        let record = self.state.lock().copies.get(task.nexus.id, cdb.byte(2)).ok_or(Sense::cdb_field(2))?;
        let sense = record.failure.ok_or(Sense::cdb_field(2))?.encode(false);
        let mut out = vec![0; 60];
        out[56] = 0x02; // EXTENDED COPY COMMAND STATUS: CHECK CONDITION
        out[58..60].copy_from_slice(&(sense.len() as u16).to_be_bytes());
        out.extend(sense);
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Answer::data(out, cdb.u32(10)))
    }

    /// Operating parameters (SPC-4 §6.18.4).
    pub(super) fn copy_parameters(&self, cdb: Cdb<'_>) -> Answer {
        let mut out = vec![0; 44];
        let mut put = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put(8, (MAX_TARGETS as u32) << 16 | MAX_SEGMENTS as u32);
        put(12, MAX_DESCRIPTORS_LENGTH as u32);
        put(16, 0xffff * 4096); // MAXIMUM SEGMENT LENGTH: what 16 bits of the largest blocks can say
        out[4] = 0x01; // SNLID: list identifiers may be left out
        out[34] = 1; // TOTAL CONCURRENT COPIES: 256
        out[36] = 0xff; // MAXIMUM CONCURRENT COPIES
        out[37] = self.medium.geometry().block_size.trailing_zeros() as u8; // DATA SEGMENT GRANULARITY
        out[43] = 2;
        out.extend([BLOCK_TO_BLOCK, IDENTIFICATION_TARGET]);
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        Answer::data(out, cdb.u32(10))
    }
}

/// Copies one segment and returns its length in bytes. Where the ranges overlap, the order is such that the copy is
/// what the source was.
async fn copy(
    task: &Task<'_>,
    source: &LogicalUnit,
    destination: &LogicalUnit,
    segment: Segment,
) -> Result<u64, Failure> {
    let (geometry, other) = (source.medium.geometry(), destination.medium.geometry());
    let inside = |start: u64, blocks: u64| start.checked_add(segment.blocks).is_some_and(|end| end <= blocks);
    let fits = inside(segment.from, geometry.blocks) && inside(segment.to, other.blocks);
    if !fits || geometry.block_size != other.block_size {
        return Err(Sense::new(Key::CopyAborted, code::NONE).into());
    }
    destination.check_writable()?;
    let step = PIECE / u64::from(geometry.block_size);
    let backwards = segment.to > segment.from;
    let mut left = segment.blocks;
    while left > 0 {
        let now = step.min(left);
        let offset = if backwards { left - now } else { segment.blocks - left };
        let data = source.read_blocks(segment.from + offset, now as u32).await?;
        let admission = destination.medium.admit(now * u64::from(geometry.block_size)).await?;
        destination.medium.write(segment.to + offset, data, false, admission).await?;
        left -= now;
        if left > 0 {
            task.breathe().await?;
        }
    }
    Ok(segment.blocks * u64::from(geometry.block_size))
}

/// The parameter list of EXTENDED COPY(LID1) (SPC-4 table 108).
fn decode(list: &[u8]) -> Result<Request, Failure> {
    let too_short = Sense::illegal(code::PARAMETER_LIST_LENGTH);
    if list.len() < HEADER {
        return Err(too_short.into());
    }
    let fields = Cdb(list);
    let targets = usize::from(fields.u16(2));
    let segments = fields.u32(8) as usize;
    if targets.saturating_add(segments) > MAX_DESCRIPTORS_LENGTH {
        return Err(too_short.into());
    }
    if fields.u32(12) != 0 {
        return Err(Sense::parameter_field(12).into()); // no inline data
    }
    let body = list.get(HEADER..HEADER + targets + segments).ok_or(too_short)?;
    let (target_list, segment_list) = body.split_at(targets);
    let targets = decode_targets(target_list)?;
    let segments = decode_segments(segment_list, HEADER + target_list.len())?;
    let usage = list[1] >> 3 & 0x03;
    if usage == 0x01 || usage == 0x03 && list[0] != 0 {
        return Err(Sense::parameter_field(1).into());
    }
    Ok(Request { list_id: list[0], keep_result: usage != 0x03, targets, segments })
}

fn decode_targets(list: &[u8]) -> Result<Vec<Designator>, Failure> {
    if list.len() > MAX_TARGETS * TARGET {
        return Err(Sense::illegal(code::TOO_MANY_TARGETS).into());
    }
    let mut out = Vec::new();
    for (index, descriptor) in list.chunks(TARGET).enumerate() {
        let at = HEADER + index * TARGET;
        if descriptor[0] != IDENTIFICATION_TARGET {
            return Err(Sense::illegal(code::UNSUPPORTED_TARGET_TYPE).at_parameter(at).into());
        }
        let fields = Cdb(descriptor);
        let length = usize::from(fields.byte(7));
        let bytes = descriptor.get(8..8 + length).filter(|_| length <= 20 && descriptor.len() == TARGET);
        let bytes = bytes.ok_or(Sense::parameter_field(at + 7))?.to_vec();
        if fields.byte(5) & 0x30 != 0 {
            return Err(Sense::parameter_field(at + 5).into()); // must name a logical unit
        }
        out.push(Designator { kind: fields.byte(5) & 0x0f, bytes, block_size: fields.u24(29) });
    }
    Ok(out)
}

fn decode_segments(list: &[u8], base: usize) -> Result<Vec<Segment>, Failure> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < list.len() {
        if list[at] != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(code::UNSUPPORTED_SEGMENT_TYPE).at_parameter(base + at).into());
        }
        if out.len() == MAX_SEGMENTS {
            return Err(Sense::illegal(code::TOO_MANY_SEGMENTS).into());
        }
        let descriptor = list.get(at..at + SEGMENT).ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH))?;
        let fields = Cdb(descriptor);
        if usize::from(fields.u16(2)) != SEGMENT - 4 {
            return Err(Sense::parameter_field(base + at + 2).into());
        }
        out.push(Segment {
            source: usize::from(fields.u16(4)),
            destination: usize::from(fields.u16(6)),
            blocks: u64::from(fields.u16(10)),
            from: fields.u64(12),
            to: fields.u64(20),
        });
        at += SEGMENT;
    }
    Ok(out)
}
