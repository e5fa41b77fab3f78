//! What a program that runs on and on says: a line that nobody takes is lost, and nothing else is.
//!
//! Whatever stdout and stderr lead to may fill up, go away or stand still while the gateway runs. None of that may end or hold up
//! a thread that serves disks, as `println!` and `eprintln!` would. Short-lived commands print through `show`.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a pipe that is ready takes at once, whoever else writes to it (POSIX's least `PIPE_BUF` is smaller; Linux has this).
const PIECE: usize = 4096;

/// Says something on stdout.
pub fn out(text: &str) {
    offer(&io::stdout().lock(), text.as_bytes());
}

/// Says something on stderr.
pub fn err(text: &str) {
    offer(&io::stderr().lock(), text.as_bytes());
}

/// Writes as much as is taken without waiting, past the buffers of the standard library.
fn offer(to: &impl AsFd, text: &[u8]) {
    for piece in text.chunks(PIECE) {
        let mut fds = [PollFd::new(to, PollFlags::OUT)];
        let ready = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n| n > 0);
        if !ready || !fds[0].revents().contains(PollFlags::OUT) {
            return;
        }
        if !matches!(rustix::io::write(to, piece), Ok(n) if n == piece.len()) {
            return;
        }
    }
}

/// Stderr for the log.
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        offer(&io::stderr().lock(), line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on a panic in whatever thread ends the process at once, after a word about it: the rest would go on with what the
/// thread left half-done, and say that all is well. The journal has every acknowledged write, so a restart is safe.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        err(&format!(
            "tidegate: a fault of ours in thread {name}: {panic}\n\
             The gateway ends here; every acknowledged write is in its journal. Start it again, and please report this.\n"
        ));
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests;
