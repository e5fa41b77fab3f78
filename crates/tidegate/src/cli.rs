//! The words of the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use base::ByteSize;
use clap::{Args, Parser, Subcommand};

/// A cloud storage gateway: iSCSI disks whose bytes live in object storage.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
pub struct Arguments {
    /// The gateway's data directory, where its API listens [default: that of TIDEGATE_DATA, or /var/lib/tidegate].
    #[arg(long, global = true)]
    pub data_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one disk out of a directory, to try it out: no account, no root.
    Demo(Demo),
    /// Run the gateway.
    Serve {
        /// The configuration file.
        #[arg(long, default_value = "tidegate.toml")]
        config: PathBuf,
        /// A cache disk that is lost for good: an empty directory may take its place. For one start; may be given again.
        #[arg(long, value_name = "NAME")]
        new_disk: Vec<String>,
    },
    /// Volumes: disks in buckets.
    Volume {
        /// What to do with them.
        #[command(subcommand)]
        verb: Volume,
    },
    /// Buckets: where volumes live.
    Bucket {
        /// What to do with them.
        #[command(subcommand)]
        verb: Bucket,
    },
    /// Show everything about a running gateway.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A disk to try out.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where everything is kept.
    #[arg(long, default_value = "./tidegate-demo")]
    pub data: PathBuf,
    /// The bucket; a directory below --data, if not said. As s3://bucket/prefix?endpoint=http://HOST:PORT.
    #[arg(long)]
    pub bucket: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:3260", value_parser = portal)]
    pub iscsi: SocketAddr,
    /// The disk's size, when it is first made [default: 10GiB].
    #[arg(long, value_parser = size)]
    pub size: Option<ByteSize>,
    /// Give up what a lost cache disk had not uploaded: its epoch, as the refusal names it.
    #[arg(long, value_name = "EPOCH")]
    pub accept_loss: Option<u64>,
}

/// Who may use a volume.
#[derive(Debug, Args)]
pub struct Rules {
    /// A CHAP user and secret (12 bytes or more) that may log in, as user:secret; may be given again.
    #[arg(long, value_name = "USER:SECRET")]
    pub chap: Vec<String>,
    /// A file with lines user:secret, kept out of the process list.
    #[arg(long, value_name = "FILE")]
    pub chap_file: Option<PathBuf>,
    /// How the target proves itself to initiators (mutual CHAP), as user:secret.
    #[arg(long, value_name = "USER:SECRET")]
    pub mutual: Option<String>,
    /// An initiator name that may log in; may be given again.
    #[arg(long, value_name = "NAME")]
    pub initiator: Vec<String>,
    /// An address or network that may connect, as 10.0.0.0/8; may be given again.
    #[arg(long, value_name = "NETWORK")]
    pub network: Vec<String>,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Create a volume.
    Create {
        /// Its name.
        name: String,
        /// Its size, as 100GiB.
        #[arg(long, value_parser = size)]
        size: ByteSize,
        /// The bucket; needed if there are several.
        #[arg(long)]
        bucket: Option<String>,
        /// The cache disk.
        #[arg(long)]
        disk: Option<String>,
        /// Bytes in a logical block: 512 or 4096.
        #[arg(long)]
        block_size: Option<u32>,
        /// Who may use it.
        #[command(flatten)]
        rules: Rules,
    },
    /// Take over a volume that is in a bucket, after another gateway let go of it or was lost.
    ///
    /// One that this gateway has already is taken back with the rules it has. If rules are given, they replace all of these.
    Adopt {
        /// Its name here.
        name: String,
        /// Its id, or the name it was created under.
        #[arg(long)]
        image: Option<String>,
        /// The bucket.
        #[arg(long)]
        bucket: Option<String>,
        /// The cache disk [default: the one that has its newest writes, or else the one with the fewest volumes].
        #[arg(long)]
        disk: Option<String>,
        /// Give up what the lost gateway had not uploaded: its epoch, as the refusal names it.
        #[arg(long, value_name = "EPOCH")]
        accept_loss: Option<u64>,
        /// Who may use it.
        #[command(flatten)]
        rules: Rules,
    },
    /// List all volumes.
    List,
    /// Show one volume.
    Show {
        /// Its name.
        name: String,
    },
    /// Change a volume's size.
    Resize {
        /// Its name.
        name: String,
        /// The new size. What lies behind a smaller one is lost.
        #[arg(long, value_parser = size)]
        size: ByteSize,
        /// Do it though it is smaller.
        #[arg(long)]
        yes: bool,
    },
    /// Change who may use a volume. What is not said is cleared.
    Access {
        /// Its name.
        name: String,
        /// Who may use it.
        #[command(flatten)]
        rules: Rules,
    },
    /// Wait until everything written so far is in the bucket.
    Drain {
        /// Its name.
        name: String,
    },
    /// Let go of a volume: it stays in its bucket, and any gateway may adopt it. It goes on if this command is interrupted.
    Release {
        /// Its name.
        name: String,
    },
    /// List forks: what this gateway had acknowledged when another one took a volume over.
    Forks,
    /// Make a fork a volume of its own: what the volume was when it was taken over, and on it what this gateway kept.
    OpenFork {
        /// The fork, as `volume forks` names it: NAME@lost-EPOCH.
        fork: String,
        /// The new volume's name.
        #[arg(long = "as", value_name = "NAME")]
        new_name: String,
        /// Who may use it.
        #[command(flatten)]
        rules: Rules,
    },
    /// Give a fork up for good, or what a journal keeps of a volume that this gateway does not have.
    DiscardFork {
        /// The fork, as `volume forks` names it: NAME@lost-EPOCH or NAME@journal-DISK.
        fork: String,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
    /// Delete a volume and all its data. Refused while this gateway keeps forks of it.
    Delete {
        /// Its name.
        name: String,
        /// Do it.
        #[arg(long)]
        yes: bool,
        /// Delete the forks of it too: writes that are nowhere else.
        #[arg(long)]
        with_forks: bool,
        /// Its bucket is lost for good: delete only what is here, forks included.
        #[arg(long, conflicts_with = "with_forks")]
        without_bucket: bool,
    },
}

/// What to do with buckets.
#[derive(Debug, Subcommand)]
pub enum Bucket {
    /// Probe a bucket and add it. A directory is made if it is absent.
    Add {
        /// Its name here.
        name: String,
        /// Where it is: s3://bucket/prefix?region=…&endpoint=…, oss://…, az://…, gs://…, dir:///path.
        url: String,
    },
    /// List all buckets.
    List,
    /// Give a bucket another URL: the same store under a new address, or with other parameters.
    Change {
        /// Its name.
        name: String,
        /// Where it is now.
        url: String,
    },
    /// Forget a bucket that none of this gateway's volumes is in. What is in it stays.
    Remove {
        /// Its name.
        name: String,
    },
    /// Probe a bucket again.
    Probe {
        /// Its name.
        name: String,
    },
}

fn portal(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|e| format!("{e}: an address and a port are wanted, as 127.0.0.1:3260 or [::1]:3260"))
}

fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|e: base::Error| e.to_string())
}
