//! Files that may be open at once, shared out between the gateway and its clients.

/// Files that the gateway has for itself (journals, caches, local segments, buckets, the API), where there are enough.
const OWN: u64 = 1024;

/// How many iSCSI connections there may be if so many files can be open: whatever clients do, the gateway can open its own. A
/// journal has one open for each 64 MiB.
pub(crate) fn connections(files: u64) -> usize {
    let most = portal::Options::default().connections;
    let own = OWN.min(files / 2);
    usize::try_from(files - own).map_or(most, |rest| rest.min(most))
}

/// What is to be said about fewer connections than there could be.
pub(crate) fn shortage(files: u64) -> Option<String> {
    let connections = connections(files);
    (connections < portal::Options::default().connections).then(|| {
        format!(
            "only {files} files may be open at once: {connections} iSCSI connections are taken at most, those that log in included; \
             raise the limit (`ulimit -Hn`, LimitNOFILE= of a systemd unit) for more"
        )
    })
}

#[cfg(test)]
mod tests;
