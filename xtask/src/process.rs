//! Programs that are run, watched and killed.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// How often something is looked at that cannot be waited for.
const GLANCE: Duration = Duration::from_millis(5);

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command on this terminal; anything but success is an error.
pub fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", shown(command)).into()) }
}

/// Runs a command with its output going to a file; an error shows the file's end.
pub fn run_logged(command: &mut Command, log: &Path) -> Result {
    let file = File::create(log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
    let words = shown(command);
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
    let status = status.map_err(|e| format!("cannot run {words}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{words} failed: {status}\n{}", tail(log)).into()) }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    tail_of(&String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()))
}

/// The last lines of what was printed.
pub fn tail_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// What a script in a guest printed, for an error: the last line, where it says why it failed, comes first, as what
/// shows the error may show its beginning only.
pub fn last_words(output: &Path) -> String {
    let tail = tail(output);
    let last = tail.lines().last().unwrap_or("it printed nothing");
    format!("{last}\nBefore that it printed:\n{tail}")
}

/// The tests that failed, from what cargo printed: libtest heads the output of each with `---- NAME stdout ----`,
/// cargo-nextest has a line `FAIL [time] (n/m) BINARY NAME`.
pub fn failed_tests(text: &str) -> Vec<&str> {
    let mut names: Vec<&str> = text.lines().filter_map(failed_test).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn failed_test(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "----" if line.ends_with(" stdout ----") => words.next(),
        "FAIL" => words.next_back(),
        _ => None,
    }
}

/// How a command ended that had a limit.
pub struct Finished {
    /// Its exit status; `None` if it was killed at its limit or by a signal.
    pub status: Option<i32>,
    /// Whether the limit ended it.
    pub timed_out: bool,
    /// What it printed on both streams.
    pub text: String,
}

/// Runs a command for at most `limit`, collecting what it prints. At the limit it is killed with all that it started.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Finished> {
    // In memory: on a full disk a command that fails could not even say so.
    let file = tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new())?;
    // Both streams append, so that neither overwrites the other.
    let out = File::options().append(true).open(file.path())?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut child = command.spawn().map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    let status = wait_within(&mut child, limit)?;
    if status.is_none() {
        kill_tree(child.id());
        child.wait()?;
    }
    let text = String::from_utf8_lossy(&std::fs::read(file.path())?).into_owned();
    Ok(Finished { status: status.and_then(|s| s.code()), timed_out: status.is_none(), text })
}

/// Kills a process and all that it started. It may have ended meanwhile, so nothing is said of what could not be killed.
fn kill_tree(id: u32) {
    let signal =
        |name: &str| Command::new("kill").args([name, &id.to_string()]).stderr(Stdio::null()).status();
    // It stands still while its children are counted, so that it starts no more.
    let _ = signal("-STOP");
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let _ = signal("-KILL");
    children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(kill_tree);
}

fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(GLANCE);
    }
}

/// Looks again and again until there is something, or the limit has passed.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            return Err(format!("{what} did not come within {} s", limit.as_secs()).into());
        }
        std::thread::sleep(GLANCE);
    }
}

/// A server that ends when this is dropped, or when this process ends in whatever way.
pub struct Server {
    child: Child,
    /// What it prints.
    pub log: PathBuf,
}

impl Server {
    /// Starts a command with its output going to `log`. To be called from the main thread: the server ends with the
    /// thread that started it.
    pub fn start(command: &Command, log: PathBuf) -> Result<Server> {
        let file = File::create(&log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(name, value),
                None => bound.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            bound.current_dir(dir);
        }
        bound.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = bound.spawn().map_err(|e| format!("cannot start {}: {e}", shown(command)))?;
        Ok(Server { child, log })
    }

    /// Fails with the log's end if it does not run any more.
    pub fn check(&mut self) -> Result {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the server ended ({status}):\n{}", tail(&self.log)).into()),
        }
    }

    /// Kills it as `kill -9` does, and waits for its end.
    pub fn kill(&mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends it a signal, by its name without SIG.
    pub fn signal(&mut self, name: &str) -> Result {
        run(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]))
    }

    /// Asks it to stop by SIGTERM; an error if it does not end well within the limit.
    pub fn stop(&mut self, limit: Duration) -> Result {
        self.signal("TERM")?;
        match wait_within(&mut self.child, limit)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the server stopped badly ({status}):\n{}", tail(&self.log)).into()),
            None => Err(format!("the server did not stop within {} s", limit.as_secs()).into()),
        }
    }

    /// Seconds of processor time it has taken so far, user and system.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold blanks; utime and stime are the 12th and 13th words after it.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: Vec<f64> =
            after.split_whitespace().skip(11).take(2).filter_map(|w| w.parse().ok()).collect();
        // The kernel shows 100 ticks a second to user space on every platform Debian has (USER_HZ).
        if let [user, system] = ticks[..] {
            Ok((user + system) / 100.0)
        } else {
            Err("/proc has no times".into())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests;
