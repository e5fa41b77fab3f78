//! tgtd, the peer, tuned: its defaults of 8 KiB segments handicap it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Server, free_port, run, until};
use crate::{Result, setup};

const TARGET: &str = "iqn.2026-11.org.tidegate:peer";
const SETTINGS: &[(&str, &str)] = &[
    ("MaxRecvDataSegmentLength", "262144"),
    ("MaxXmitDataSegmentLength", "262144"),
    ("MaxBurstLength", "1048576"),
    ("FirstBurstLength", "262144"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
];

/// A tgtd that serves one file.
pub struct Tgt {
    /// The process.
    pub server: Server,
    /// The disk.
    pub url: String,
}

impl Tgt {
    /// Serves `file`, which exists; `sync` makes every write durable before its answer.
    pub fn start(dir: &Path, name: &str, file: &Path, sync: bool) -> Result<Tgt> {
        setup::packages(&["tgt"])?;
        std::fs::create_dir_all("/run/tgtd")?;
        let port = free_port()?;
        // The control port, at most 32767, names a socket in /run/tgtd: another tgtd must not be spoken to.
        let control = (port % 32_768).to_string();
        let mut command = Command::new("tgtd");
        command.args(["-f", "-C", &control, "--iscsi", &format!("portal=127.0.0.1:{port}")]);
        let mut server = Server::start(&command, dir.join(format!("{name}.log")))?;
        let admin = |mode: &str, words: &[&str]| {
            let mut tgtadm = Command::new("tgtadm");
            tgtadm.args(["-C", &control, "--lld", "iscsi", "--mode", mode]).args(words);
            tgtadm.stderr(std::process::Stdio::null());
            run(&mut tgtadm)
        };
        until("tgtd's answer", Duration::from_secs(20), || {
            server.check()?;
            Ok(admin("target", &["--op", "new", "--tid", "1", "-T", TARGET]).ok())
        })?;
        let file = file.display().to_string();
        let mut unit = vec!["--op", "new", "--tid", "1", "--lun", "1", "-b", &file];
        if sync {
            unit.extend(["--bsoflags", "sync"]);
        }
        admin("logicalunit", &unit)?;
        for (name, value) in SETTINGS {
            admin("target", &["--op", "update", "--tid", "1", "--name", name, "--value", value])?;
        }
        admin("target", &["--op", "bind", "--tid", "1", "-I", "ALL"])?;
        Ok(Tgt { server, url: format!("iscsi://127.0.0.1:{port}/{TARGET}/1") })
    }
}
