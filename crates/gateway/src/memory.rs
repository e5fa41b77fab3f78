//! How much memory this machine has for dirty data and for what is read again, where nobody has said it.

use base::{ByteSize, Spawn, Urgency};
use scsi::iscsi::Limits;

/// The part of the machine's memory that dirty data may take, and sealed segments again.
const DIRTY: u64 = 8;
const MOST_DIRTY: ByteSize = ByteSize::gib(4);
/// The part that what is read again may take, and sessions too.
const PART: u64 = 16;
const LEAST: ByteSize = ByteSize::mib(64);
const MOST: ByteSize = ByteSize::gib(2);
/// The most that is taken from the kernel before it is needed.
const WARM: ByteSize = ByteSize::mib(256);

/// Prepares memory for buffers: some is there from the start, more is taken from the kernel before a burst of writes comes to need
/// it, and what it took is kept for the next one. On a virtual machine the first use of memory can be slower than the disk.
pub(crate) fn prepare(dirty: ByteSize, spawn: &dyn Spawn) {
    base::buffer::keep(dirty.0.max(SPARE.0) as usize);
    let warm = (dirty.0 / 2).min(WARM.0) as usize;
    spawn.spawn_thread(
        "memory",
        Urgency::Background,
        Box::pin(async move {
            base::buffer::warm(warm);
            base::buffer::keep_ready().await;
        }),
    );
}

/// Memory for buffers that is kept when nothing is dirty, at least.
const SPARE: ByteSize = ByteSize::mib(128);

/// An eighth of what the machine, or the control group the gateway runs in, has: from 64 MiB to 4 GiB.
pub fn for_dirty_data() -> ByteSize {
    ByteSize((of_machine().0 / DIRTY).clamp(LEAST.0, MOST_DIRTY.0))
}

/// A sixteenth of it, for parts of the clean caches that are read again: from 64 MiB to 2 GiB.
pub fn for_reads() -> ByteSize {
    ByteSize((of_machine().0 / PART).clamp(LEAST.0, MOST.0))
}

/// What the indexes of all clean caches may take: an eighth of it, and 128 MiB on any machine.
pub(crate) fn for_cache_indexes() -> ByteSize {
    ByteSize((of_machine().0 / 8).max(ByteSize::mib(128).0))
}

/// What iSCSI sessions may hold: in common a sixteenth of it, from 128 MiB to 1 GiB. There may be as many as have no more than
/// that of their own, for both directions together.
pub(crate) fn for_sessions() -> Limits {
    limits(of_machine())
}

fn limits(machine: ByteSize) -> Limits {
    let limits = Limits::default();
    let common = (machine.0 / PART).clamp(128 << 20, 1 << 30) as usize;
    let sessions = (common / (2 * limits.own_bytes)).min(limits.sessions);
    Limits { common_bytes: common, sessions, ..limits }
}

/// What the machine, or the control group, has; 0 if that cannot be read.
pub(crate) fn of_machine() -> ByteSize {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    smaller(&read("/proc/meminfo"), &read("/sys/fs/cgroup/memory.max"))
}

/// The smaller of machine and control group; nothing if it cannot be read.
fn smaller(meminfo: &str, group: &str) -> ByteSize {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let machine = kib.map_or(0, |kib| kib << 10);
    let limit = group.trim().parse().unwrap_or(u64::MAX);
    ByteSize(machine.min(limit))
}

#[cfg(test)]
mod tests;
