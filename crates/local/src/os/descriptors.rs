//! How many files the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files, sockets included, this process may have open at once, after raising that as far as the system allows without
/// being asked: shells and systemd start programs with 1,024, for the sake of old ones, and allow many more.
pub fn open_files() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // It works or it does not: then it is what it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
