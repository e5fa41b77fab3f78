//! The bootstrap file: where things are and how much they may use. What users create lives in the catalog.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use base::{ByteSize, Error, ErrorKind, Result};
use scsi::iscsi::{Discovery, IscsiName};
use serde::{Deserialize, Deserializer};

use crate::target::{Access, ChapUser};

/// The bootstrap file. Unknown keys are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The gateway's name, for people and for its targets' names.
    pub name: String,
    /// The directory of the catalog and of the API's socket.
    pub data: PathBuf,
    /// The cache disks, at least one.
    #[serde(rename = "disk")]
    pub disks: Vec<DiskConfig>,
    /// The iSCSI service.
    #[serde(default)]
    pub iscsi: IscsiConfig,
    /// How data goes to the buckets.
    #[serde(default)]
    pub upload: UploadConfig,
    /// Memory for dirty data of all volumes, and as much again for segments on their way; by default an eighth of the
    /// machine's, from 64 MiB to 4 GiB. Once used it is kept for the next burst of writes.
    #[serde(default = "crate::memory::for_dirty_data", deserialize_with = "size")]
    pub memory: ByteSize,
    /// Memory for what is read again from the cache disks, shared out evenly among them; by default a sixteenth of the
    /// machine's, from 64 MiB to 2 GiB. With 0 the page cache of the system alone serves them, which takes more of the processors.
    #[serde(default = "crate::memory::for_reads", deserialize_with = "size")]
    pub read_memory: ByteSize,
    /// How long a stop waits for dirty data to reach the buckets before it leaves it in the journal.
    #[serde(default = "default_stop", deserialize_with = "duration")]
    pub stop_within: Duration,
    /// What runs the gateway.
    #[serde(skip)]
    pub program: Program,
    /// Cache disks that were lost: a directory without their journal is taken for a new one.
    #[serde(skip)]
    pub new_disks: Vec<String>,
}

/// Which program runs the gateway, for advice that its users can follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Program {
    /// The daemon, with the verbs of its command line.
    #[default]
    Serve,
    /// A demonstration, which ends if its own volume does not open.
    Demo {
        /// The name of that volume.
        volume: &'static str,
    },
}

/// One cache disk: a directory on it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Its name in the catalog.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
    /// What the journal may hold. On the disk it can be three files more (of a sixteenth of this, at least 8 and at most 64 MiB).
    #[serde(default = "default_journal", deserialize_with = "size")]
    pub journal: ByteSize,
    /// The most that clean cache may take.
    #[serde(default = "default_cache", deserialize_with = "size")]
    pub cache: ByteSize,
    /// The most that local segments of one volume may take while its bucket does not keep up; at least an eighth of the
    /// journal, so that no volume has to leave there what others need room for.
    #[serde(default = "default_spool", deserialize_with = "size")]
    pub local_segments: ByteSize,
}

/// The iSCSI service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IscsiConfig {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// What targets' names begin with; `:name` of the volume follows.
    pub prefix: String,
    /// Threads for connections; 0 means one for each processor.
    pub threads: usize,
    /// A file with lines `user:secret`: who may ask which targets there are. Without it everybody may.
    pub discovery_chap_file: Option<PathBuf>,
    /// A file with one line `user:secret`: how the gateway proves itself to those (mutual CHAP).
    pub discovery_mutual_file: Option<PathBuf>,
}

/// The least room that a journal works with: one file.
const LEAST_JOURNAL: ByteSize = ByteSize::mib(64);
/// The least that is worth being called a cache.
const LEAST_CACHE: ByteSize = ByteSize::mib(16);
/// The least memory in which a segment is put together.
const LEAST_MEMORY: ByteSize = ByteSize::mib(16);

/// The most threads for connections, and segments of one volume uploaded at a time: more are a mistyped number.
const MOST_THREADS: usize = 1024;
const MOST_PARALLEL: usize = 256;

fn at_least(key: &str, size: ByteSize, least: ByteSize) -> Result<()> {
    if size >= least {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{key} = \"{size}\" is too little: write at least \"{least}\" (a number without a unit means bytes)"
    )))
}

/// Of memory nobody can give more than there is.
fn at_most_all(key: &str, size: ByteSize) -> Result<()> {
    let all = crate::memory::of_machine();
    if size <= all || all == ByteSize(0) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{key} = \"{size}\" is more than the {all} of memory that there are: write less"
    )))
}

/// A place that does not depend on where the gateway was started, or it would begin anew elsewhere without a word.
fn fixed(key: &str, path: &Path) -> Result<()> {
    if path.is_absolute() && !path.components().any(|part| part == Component::ParentDir) {
        return Ok(());
    }
    Err(Error::invalid(format!("{key} = {path:?}: write the whole path, from \"/\" on and without \"..\"")))
}

impl IscsiConfig {
    /// Whether it makes sense. The longest name that a volume can have must give a target's name.
    fn check(&self, gateway: &str) -> Result<()> {
        if self.listen.is_empty() {
            return Err(Error::invalid(
                "[iscsi] listen = []: nobody could connect; name at least one address, as \"127.0.0.1:3260\", or leave the key out",
            ));
        }
        if self.threads > MOST_THREADS {
            return Err(Error::invalid(format!(
                "[iscsi] threads = {}: at most {MOST_THREADS}, and 0 for one for each processor",
                self.threads
            )));
        }
        let target = target_name(&self.prefix, gateway, &"v".repeat(LONGEST_NAME));
        target.parse::<IscsiName>().map(drop).map_err(|e| {
            let advice = "write it as in \"iqn.2026-11.org.example\", short enough that a gateway's and a volume's name fit behind";
            e.within(format!("[iscsi] prefix = {:?} gives no names for targets ({advice})", self.prefix))
        })
    }

    /// Who may ask which targets there are. It reads the files.
    pub(crate) fn discovery(&self) -> Result<Discovery> {
        let read = |key: &str, file: &Option<PathBuf>| match file {
            None => Ok(Vec::new()),
            Some(file) => ChapUser::read_file(file).map_err(|e| e.within(format!("[iscsi] {key}"))),
        };
        let chap = read("discovery_chap_file", &self.discovery_chap_file)?;
        let mut mutual = read("discovery_mutual_file", &self.discovery_mutual_file)?;
        if mutual.len() > 1 {
            return Err(Error::invalid("[iscsi] discovery_mutual_file: it must have one line user:secret"));
        }
        let access = Access { chap, mutual: mutual.pop(), ..Access::default() };
        let authentication = access.authentication();
        let authentication = authentication.map_err(|e| e.within("[iscsi] CHAP of the discovery"))?;
        Ok(Discovery { authentication, ..Discovery::default() })
    }
}

impl Default for IscsiConfig {
    fn default() -> IscsiConfig {
        IscsiConfig {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 3260))],
            prefix: "iqn.2026-11.org.tidegate".into(),
            threads: 0,
            discovery_chap_file: None,
            discovery_mutual_file: None,
        }
    }
}

/// How data goes to the buckets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UploadConfig {
    /// The size at which a segment is uploaded.
    #[serde(deserialize_with = "size")]
    pub segment: ByteSize,
    /// The age at which it is uploaded though smaller.
    #[serde(deserialize_with = "duration")]
    pub age: Duration,
    /// Segments of one volume uploaded at a time.
    pub parallel: usize,
    /// How long a segment that nothing points at is kept.
    #[serde(deserialize_with = "duration")]
    pub grace: Duration,
}

impl Default for UploadConfig {
    fn default() -> UploadConfig {
        UploadConfig {
            segment: ByteSize::mib(16),
            age: Duration::from_secs(2),
            parallel: 4,
            grace: Duration::from_secs(600),
        }
    }
}

fn default_stop() -> Duration {
    Duration::from_secs(30)
}
fn default_journal() -> ByteSize {
    ByteSize::gib(4)
}
fn default_cache() -> ByteSize {
    ByteSize::gib(20)
}
fn default_spool() -> ByteSize {
    ByteSize::gib(32)
}

fn size<'de, D: Deserializer<'de>>(d: D) -> Result<ByteSize, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

/// Reads `"500 ms"`, `"2s"`, `"10 min"`, `"1 h"`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::invalid(format!("{text:?} is no time: write a number and a unit, as in \"2 s\" or \"10 min\""))
    };
    let t = text.trim();
    let digits = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let number: u64 =
        t[..digits].parse().map_err(|e| Error::caused(ErrorKind::Invalid, wrong().to_string(), e))?;
    let millis = match t[digits..].trim() {
        "ms" => 1,
        "s" => 1000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

impl Config {
    /// Reads a file. `Invalid` names the key that is wrong.
    pub fn load(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::caused(ErrorKind::Invalid, format!("cannot read {}", path.display()), e))?;
        Config::parse(&text).map_err(|e| e.within(format!("{}", path.display())))
    }

    /// Reads text.
    pub fn parse(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text)
            .map_err(|e| Error::caused(ErrorKind::Invalid, "the configuration is wrong", e))?;
        config.check()?;
        fixed("data", &config.data)?;
        for disk in &config.disks {
            fixed(&format!("disk {:?}: path", disk.name), &disk.path)?;
        }
        Ok(config)
    }

    /// Whether a cache disk begins anew if its journal is not there. A demonstration's lies beside the catalog and is not mounted.
    pub(crate) fn may_be_new(&self, disk: &DiskConfig) -> bool {
        matches!(self.program, Program::Demo { .. }) || self.new_disks.contains(&disk.name)
    }

    /// Whether it makes sense.
    pub fn check(&self) -> Result<()> {
        if !is_name(&self.name) {
            return Err(Error::invalid(format!("name = {:?}: {NAME_RULE}", self.name)));
        }
        if self.disks.is_empty() {
            return Err(Error::invalid("there must be at least one [[disk]] with a name and a path"));
        }
        for (i, disk) in self.disks.iter().enumerate() {
            if !is_name(&disk.name)
                || self.disks[..i].iter().any(|d| d.name == disk.name || d.path == disk.path)
            {
                return Err(Error::invalid(format!(
                    "disk {:?}: names and paths must differ; {NAME_RULE}",
                    disk.name
                )));
            }
            for (key, size, least) in
                [("journal", disk.journal, LEAST_JOURNAL), ("cache", disk.cache, LEAST_CACHE)]
            {
                let key = format!("disk {:?}: {key}", disk.name);
                at_least(&key, size, least)?;
            }
            if disk.local_segments.0 < disk.journal.0 / 8 {
                return Err(Error::invalid(format!(
                    "disk {:?}: local_segments = {:?} must be at least an eighth of journal = {:?}",
                    disk.name,
                    disk.local_segments.to_string(),
                    disk.journal.to_string()
                )));
            }
        }
        if let Some(name) = self.new_disks.iter().find(|name| self.disks.iter().all(|d| d.name != **name)) {
            return Err(Error::invalid(format!(
                "--new-disk {name}: the configuration has no [[disk]] of that name"
            )));
        }
        at_least("memory", self.memory, LEAST_MEMORY)?;
        at_most_all("memory", self.memory)?;
        at_most_all("read_memory", self.read_memory)?;
        self.iscsi.check(&self.name)?;
        if !(1..=MOST_PARALLEL).contains(&self.upload.parallel)
            || self.upload.segment < ByteSize::mib(1)
            || self.upload.segment > ByteSize::gib(1)
        {
            return Err(Error::invalid(format!(
                "[upload]: parallel must be from 1 to {MOST_PARALLEL} and segment from 1 MiB to 1 GiB"
            )));
        }
        Ok(())
    }
}

/// The name of a volume's target.
pub(crate) fn target_name(prefix: &str, gateway: &str, volume: &str) -> String {
    format!("{prefix}:{gateway}.{volume}")
}

/// The longest name of a gateway, disk, bucket or volume.
const LONGEST_NAME: usize = 64;

/// What names must be.
pub(crate) const NAME_RULE: &str =
    "a name has 1 to 64 characters out of a-z, 0-9, '-' and '.', and begins and ends with a letter or digit";

/// Whether a name can be part of a target's name, a path and a command line.
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=LONGEST_NAME).contains(&bytes.len())
        && bytes.iter().all(|b| inner(*b) || matches!(b, b'-' | b'.'))
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}
