//! How much memory this machine has for dirty data, where nobody has said it.

use base::ByteSize;

/// The part of the machine's memory that dirty data may take, and sealed segments again.
const PART: u64 = 16;
const LEAST: ByteSize = ByteSize::mib(64);
const MOST: ByteSize = ByteSize::gib(1);

/// A sixteenth of what the machine, or the control group the gateway runs in, has: from 64 MiB to 1 GiB.
pub fn for_dirty_data() -> ByteSize {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    share(&read("/proc/meminfo"), &read("/sys/fs/cgroup/memory.max"))
}

fn share(meminfo: &str, group: &str) -> ByteSize {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let machine = kib.map_or(0, |kib| kib << 10);
    let limit = group.trim().parse().unwrap_or(u64::MAX);
    ByteSize((machine.min(limit) / PART).clamp(LEAST.0, MOST.0))
}

#[cfg(test)]
mod tests;
