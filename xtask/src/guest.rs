//! A Linux guest with the kernel's own iSCSI initiator, up in seconds, without virtualization.
//!
//! Debian's `user-mode-linux` kernel runs as an ordinary process on a cached Debian root. The guest has no loopback
//! address of its own and routes 127.0.0.0/8 to this machine over a tap device, so that every address a target hands
//! out is right as it stands. When the command ends the guest goes off as in a power cut; only `/share` is kept.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use crate::process::{last_words, run, run_logged, tail};
use crate::{Result, setup};

const PACKAGES: &[&str] = &[
    "busybox-static",
    "mount",
    "iproute2",
    "kmod",
    "udev",
    "procps",
    "netbase",
    "open-iscsi",
    "libiscsi-bin",
    "lsscsi",
    "sg3-utils",
    "multipath-tools",
    "dmsetup",
    "fio",
    "e2fsprogs",
    "xfsprogs",
];
/// To be raised when the way the root is built changes.
const RECIPE: u32 = 1;
const KERNEL: &str = "/usr/bin/linux.uml";
/// The limit is enforced by `timeout`, which then answers with 124 or, having killed, 137.
const TIMED_OUT: i32 = 124;
/// The guest itself failed.
const BROKEN: u8 = 125;

/// Run a command as root in a Linux guest whose 127.0.0.0/8 is this machine's loopback.
///
/// The command starts in /share, which is the current directory of this machine. Everything else is thrown away
/// afterwards. The exit status is the command's own; 124 when the time is up, 125 when the guest failed.
#[derive(clap::Args)]
pub struct Arguments {
    /// Show the guest's kernel log afterwards.
    #[arg(long)]
    kernel_log: bool,
    /// Seconds after which the guest is killed.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Another directory for /share.
    #[arg(long)]
    share: Option<PathBuf>,
    /// A file to be one of the guest's disks, /dev/ubda and so on; may be given again.
    #[arg(long)]
    disk: Vec<PathBuf>,
    /// The command, for bash; without one the guest's root is only prepared.
    #[arg(last = true)]
    command: Vec<String>,
}

/// The verb `guest`.
pub fn main(arguments: &Arguments) -> ExitCode {
    match go(arguments) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::from(BROKEN)
        }
    }
}

fn go(arguments: &Arguments) -> Result<u8> {
    let root = prepare()?;
    if arguments.command.is_empty() {
        println!("the guest's root is ready in {}", root.display());
        return Ok(0);
    }
    let share = arguments.share.clone().map_or_else(std::env::current_dir, Ok)?;
    let command = arguments.command.join(" ");
    let guest = Guest::boot(&Plan {
        share: &share,
        disks: &arguments.disk,
        limit: Duration::from_secs(arguments.timeout),
        output: None,
        command: &command,
    })?;
    let ended = guest.wait()?;
    if arguments.kernel_log {
        eprintln!("{}", ended.kernel_log);
    }
    Ok(u8::try_from(ended.status).unwrap_or(BROKEN))
}

/// Installs the packages and builds the guest's root, if that was not done yet; gives the root.
pub fn prepare() -> Result<PathBuf> {
    if !setup::is_root() {
        return Err("the guest needs root, for its network device: run as root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(
            "there is no /dev/net/tun: load the module tun, or allow the device to this container".into()
        );
    }
    setup::packages(&["user-mode-linux", "mmdebstrap", "iproute2", "util-linux"])?;
    let cache = setup::cache()?;
    let lock = File::create(cache.join("guest.lock"))?;
    lock.lock()?;
    let (root, stamp) = (cache.join("guest"), cache.join("guest.stamp"));
    let wanted = format!("{RECIPE} {} {} {}", suite()?, kernel_version()?, PACKAGES.join(" "));
    if std::fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(root);
    }
    println!("building the guest's root in {} (a minute or two, once)", root.display());
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    build(&root, &cache.join("guest.log"))?;
    std::fs::write(&stamp, wanted)?;
    Ok(root)
}

/// The code name of this machine's Debian: host and guest share programs.
fn suite() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release")?;
    let name = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    name.map(|n| n.trim_matches('"').to_owned())
        .ok_or_else(|| "/etc/os-release names no VERSION_CODENAME: the guest needs Debian".into())
}

fn kernel_version() -> Result<String> {
    let shown = Command::new("dpkg-query").args(["-W", "-f", "${Version}", "user-mode-linux"]).output()?;
    Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
}

fn build(root: &Path, log: &Path) -> Result {
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--mode=root", "--variant=apt", "--dpkgopt=force-unsafe-io"]);
    bootstrap.arg("--aptopt=APT::Install-Recommends \"false\"");
    bootstrap.args(["man", "doc", "locale"].map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")));
    bootstrap.arg(format!("--include={}", PACKAGES.join(","))).arg(suite()?).arg(root);
    run_logged(&mut bootstrap, log)?;
    for dir in ["lib/modules", "share", "disk"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    run(Command::new("cp").args(["-a", "/usr/lib/uml/modules/.", "-t"]).arg(root.join("lib/modules")))?;
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    // Every SCSI disk becomes a multipath map as soon as a test starts multipathd.
    std::fs::write(root.join("etc/multipath.conf"), "defaults {\n  find_multipaths no\n}\n")?;
    // There is no systemd in the guest: iscsiadm starts iscsid by itself.
    let conf = root.join("etc/iscsi/iscsid.conf");
    let text: Vec<_> = std::fs::read_to_string(&conf)?
        .lines()
        .map(|l| {
            if l.starts_with("iscsid.startup") { "iscsid.startup = /usr/sbin/iscsid" } else { l }.to_owned()
        })
        .collect();
    std::fs::write(&conf, text.join("\n") + "\n")?;
    let init = root.join("init");
    std::fs::write(&init, include_str!("guest/init.sh"))?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What a guest is to do.
pub struct Plan<'a> {
    /// The directory that is its /share, and where its command starts.
    pub share: &'a Path,
    /// Files that are its disks: /dev/ubda, /dev/ubdb and so on.
    pub disks: &'a [PathBuf],
    /// When it is killed.
    pub limit: Duration,
    /// A file for what the command prints on both streams; this process's own streams, if there is none.
    pub output: Option<&'a Path>,
    /// The command, for bash.
    pub command: &'a str,
}

/// How a guest ended.
pub struct Ended {
    /// The command's status, or 124 when the time was up.
    pub status: i32,
    /// What its kernel said.
    pub kernel_log: String,
}

/// The guest's network device: its number is held by a lock, and it goes with this.
struct Tap {
    number: u8,
    _lock: File,
}

impl Tap {
    fn name(&self) -> String {
        format!("tidegate{}", self.number)
    }

    /// Addresses out of 198.18.0.0/15, which is set aside for tests (RFC 2544).
    fn address(&self, end: u8) -> String {
        format!("198.19.{}.{end}", self.number)
    }

    fn new() -> Result<Tap> {
        for number in 0..64 {
            let lock = File::create(format!("/run/tidegate-guest.{number}"))?;
            if lock.try_lock().is_ok() {
                let tap = Tap { number, _lock: lock };
                tap.set_up()?;
                return Ok(tap);
            }
        }
        Err("64 guests are running already: wait for one to end".into())
    }

    fn set_up(&self) -> Result {
        let name = self.name();
        self.remove(); // a killed run may have left it
        run(Command::new("ip").args(["tuntap", "add", "dev", &name, "mode", "tap"]))?;
        run(Command::new("ip").args(["addr", "add", &format!("{}/30", self.address(1)), "dev", &name]))?;
        run(Command::new("ip").args(["link", "set", &name, "up"]))?;
        // The guest's 127.0.0.0/8 comes in here.
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1\n")?;
        Ok(())
    }

    fn remove(&self) {
        // Mostly it is not there; what remains is found when it is made.
        drop(Command::new("ip").args(["link", "del", &self.name()]).stderr(Stdio::null()).status());
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A guest that runs; dropped, it is killed.
pub struct Guest {
    kernel: Child,
    /// They carry the guest's consoles, which cannot write to files themselves.
    carriers: Vec<Child>,
    dir: tempfile::TempDir,
    _tap: Tap,
}

impl Guest {
    /// Boots a guest. To be called from the main thread: the guest ends with the thread that started it.
    pub fn boot(plan: &Plan<'_>) -> Result<Guest> {
        let root = prepare()?;
        let tap = Tap::new()?;
        let dir = tempfile::Builder::new().prefix("tidegate-guest.").tempdir()?;
        symlink(plan.share.canonicalize()?, dir.path().join("share"))?;
        std::fs::write(dir.path().join("command"), format!("{}\n", plan.command))?;
        let mut carriers = Vec::new();
        let own = || -> Result<Option<File>> {
            Ok(plan.output.map(|path| File::options().append(true).create(true).open(path)).transpose()?)
        };
        let log = File::create(dir.path().join("kernel.log"))?;
        for (pipe, sink) in [("log", Some(log)), ("out", own()?), ("err", own()?)] {
            run(Command::new("mkfifo").arg(dir.path().join(pipe)))?;
            let sink = match (sink, pipe) {
                (Some(file), _) => Stdio::from(file),
                (None, "err") => Stdio::from(std::io::stderr()),
                (None, _) => Stdio::inherit(),
            };
            // The pipes are opened by a shell, as opening one waits for its other end.
            let mut carrier = Command::new("sh");
            carrier.args(["-c", &format!("exec cat <{pipe}")]).current_dir(dir.path()).stdout(sink);
            carriers.push(carrier.spawn()?);
        }
        let kernel = kernel(&root, dir.path(), &tap, plan).spawn()?;
        Ok(Guest { kernel, carriers, dir, _tap: tap })
    }

    /// Whether its command is still going on.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.kernel.try_wait()?.is_none())
    }

    /// Waits for its end. An error if it ended without its command having done so.
    pub fn wait(mut self) -> Result<Ended> {
        let ended = self.kernel.wait()?;
        for carrier in &mut self.carriers {
            carrier.wait()?;
        }
        let log = self.dir.path().join("kernel.log");
        let kernel_log = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let status = std::fs::read_to_string(self.dir.path().join("status")).ok();
        match (status.and_then(|s| s.trim().parse().ok()), ended.code()) {
            (Some(status), _) => Ok(Ended { status, kernel_log }),
            (None, Some(124 | 137) | None) => Ok(Ended { status: TIMED_OUT, kernel_log }),
            (None, Some(code)) => {
                let own = tail(&self.dir.path().join("kernel.out"));
                Err(format!(
                    "the guest ended without a status (the kernel's: {code}):\n{own}\n{}",
                    tail(&log)
                )
                .into())
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Those that have ended already need nothing.
        for child in std::iter::once(&mut self.kernel).chain(&mut self.carriers) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The kernel's command line. Its unknown words become the environment of the guest's process 1.
fn kernel(root: &Path, dir: &Path, tap: &Tap, plan: &Plan<'_>) -> Command {
    let (d, seconds) = (dir.display(), plan.limit.as_secs());
    // A PID namespace makes all of the kernel's processes end with its first; pdeathsig makes that end with us.
    let launch = format!(
        "exec timeout -s KILL {seconds} setpriv --pdeathsig KILL \
         unshare --pid --fork --kill-child {KERNEL} \"$@\" 3>log 4>out 5>err >kernel.out 2>&1"
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "sh", "-c", &launch, "sh"]).current_dir(dir).stdin(Stdio::null());
    // The guest's memory is a file there: a tmpfs spares the disk.
    command.env("TMPDIR", "/dev/shm");
    command.args(["mem=768M", "root=/dev/root", "rootfstype=hostfs", "ro", "init=/init"]);
    command.arg(format!("uml_dir={d}/")).arg(format!("rootflags={}", root.display()));
    command.arg(format!("vec0:transport=tap,ifname={},depth=128,gro=1", tap.name()));
    command.args(["con=null", "con0=null,fd:3", "con1=null,fd:4", "con2=null,fd:5"]);
    command.arg(format!("tidegate_dir={d}"));
    command
        .arg(format!("tidegate_ip={}", tap.address(2)))
        .arg(format!("tidegate_gateway={}", tap.address(1)));
    for (letter, disk) in ('a'..='h').zip(plan.disks) {
        command.arg(format!("ubd{letter}={}", disk.display()));
    }
    command
}

/// Runs a script to its end in a guest; an error unless it succeeds. Gives what it printed.
pub fn script(share: &Path, text: &str, limit: Duration) -> Result<String> {
    let output = share.join("output");
    let plan = Plan { share, disks: &[], limit, output: Some(&output), command: text };
    let ended = Guest::boot(&plan)?.wait()?;
    let printed = String::from_utf8_lossy(&std::fs::read(&output)?).into_owned();
    if ended.status == 0 {
        return Ok(printed);
    }
    Err(format!("the guest's script ended with status {}: {}", ended.status, last_words(&output)).into())
}

/// Whether the guest can be had at all: boots one, and compares what comes back.
pub fn try_out() -> Result {
    let share = tempfile::tempdir()?;
    let text = script(share.path(), "echo ready; uname -s; touch /share/here", Duration::from_secs(120))?;
    if text != "ready\nLinux\n" || !share.path().join("here").exists() {
        return Err(format!("the guest answered {text:?}").into());
    }
    // The status must come through as well, else no test in a guest could fail.
    let plan = Plan {
        share: share.path(),
        disks: &[],
        limit: Duration::from_secs(120),
        output: Some(&share.path().join("output")),
        command: "exit 42",
    };
    let status = Guest::boot(&plan)?.wait()?.status;
    if status != 42 {
        return Err(format!("the guest passed on status {status} instead of 42").into());
    }
    Ok(())
}
