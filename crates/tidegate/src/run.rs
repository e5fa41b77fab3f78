//! Running the daemon, and carrying out commands through its API.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{Client, SOCKET, Server};
use base::{ByteSize, Error, ErrorKind, Result};
use gateway::{Access, AdoptVolume, ChapUser, Config, CreateVolume, Gateway, OpenFork, Seams, VolumeView};
use indicatif::{ProgressBar, ProgressStyle};
use local::{OsEntropy, SystemClock, TokioSpawn};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Arguments, Bucket, Command, Rules, Volume};
use crate::{demo, say, show};

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> Result<()> {
    if matches!(arguments.command, Command::Demo(_) | Command::Serve { .. }) {
        say::end_on_panic();
        // Journals, caches and buckets in directories hold the disks, and the catalog holds secrets: they are nobody else's.
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // The threads that clients wait for are others, which the gateway starts from this one.
    builder.enable_all().on_thread_start(local::make_way);
    let runtime = builder.build().map_err(|e| {
        Error::caused(ErrorKind::Internal, "no runtime; raise the limits on threads and files", e)
    })?;
    let told = arguments.data_dir.is_some();
    let data_dir = arguments.data_dir.or_else(|| std::env::var_os("TIDEGATE_DATA").map(PathBuf::from));
    let socket = data_dir.unwrap_or_else(|| PathBuf::from("/var/lib/tidegate")).join(SOCKET);
    runtime.block_on(async {
        match arguments.command {
            Command::Demo(_) | Command::Serve { .. } if told => {
                Err(Error::invalid("--data-dir is for commands to a running gateway: give `demo` its --data, `serve` its --config"))
            }
            Command::Demo(wanted) => demo::run(wanted).await,
            Command::Serve { config, new_disk } => {
                serve(Config { new_disks: new_disk, ..Config::load(&config)? }).await
            }
            Command::Volume { verb } => volume(&Client::new(&socket), verb).await,
            Command::Bucket { verb } => bucket(&Client::new(&socket), verb).await,
            Command::Status { json } => {
                let status = Client::new(&socket).status().await?;
                if json { show::json(&status) } else { show::status(&status) }
            }
        }
    })
}

/// The seams of production.
pub fn seams() -> Seams {
    Seams {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        spawn: Arc::new(TokioSpawn::new(tokio::runtime::Handle::current())),
    }
}

/// The log goes to stderr.
pub fn log_to_stderr() {
    let log =
        tracing_subscriber::fmt().with_writer(|| say::Log).with_target(false).log_internal_errors(false);
    let log = log.with_ansi(std::io::stderr().is_terminal()).with_max_level(tracing::Level::INFO);
    // A second call changes nothing.
    let _ = log.try_init();
}

async fn serve(config: Config) -> Result<()> {
    log_to_stderr();
    let seams = seams();
    let socket = config.data.join(SOCKET);
    let gateway = Gateway::start(config, seams.clone()).await?;
    let _api = Server::start(gateway.clone(), &socket, &*seams.spawn)?;
    for address in gateway.addresses() {
        tracing::info!("iSCSI listens on {address}");
    }
    tracing::info!("the API listens on {}", socket.display());
    until_stopped().await?;
    stop(&gateway).await
}

/// Waits for SIGINT, SIGTERM, or, unless `nohup` or the like has it ignored, SIGHUP.
pub async fn until_stopped() -> Result<()> {
    let failed = |e| Error::caused(ErrorKind::Internal, "signals cannot be received", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    // To listen for it would undo that it is ignored.
    let mut hangup = match hangup_is_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup()).map_err(failed)?),
    };
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hung_up => {}
    }
    Ok(())
}

/// Whether the process was started with SIGHUP ignored, as the kernel tells.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Ends the gateway in good order, showing how much is still to be uploaded. A second signal ends it at once.
pub async fn stop(gateway: &Gateway) -> Result<()> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message("stopping");
    let stopping = gateway.stop(|left| {
        bar.set_message(format!(
            "stopping: {} still to upload (^C leaves them in the journal)",
            ByteSize(left)
        ));
        bar.tick();
    });
    let done = tokio::select! {
        biased;
        done = stopping => done,
        again = until_stopped() => again,
    };
    bar.finish_and_clear();
    done
}

async fn volume(client: &Client, verb: Volume) -> Result<()> {
    match verb {
        Volume::Create { name, size, bucket, disk, block_size, rules } => {
            let access = rules.access()?;
            let wanted = CreateVolume { name, size: size.0, bucket, disk, block_size, access };
            show::volume(&client.create(&wanted).await?, &client.status().await?.portals)
        }
        Volume::Adopt { name, image, bucket, disk, accept_loss, rules } => {
            let access = rules.access()?;
            let image = image.unwrap_or_else(|| name.clone());
            let wanted = AdoptVolume { name, image, bucket, disk, accept_loss, access };
            show::volume(&client.adopt(&wanted).await?, &client.status().await?.portals)
        }
        Volume::List => show::volumes(&client.volumes().await?),
        Volume::Show { name } => show::volume(&client.volume(&name).await?, &client.status().await?.portals),
        Volume::Resize { name, size, yes } => {
            show::volume(&client.resize(&name, size.0, yes).await?, &client.status().await?.portals)
        }
        Volume::Access { name, rules } => {
            show::volume(&client.set_access(&name, &rules.access()?).await?, &client.status().await?.portals)
        }
        Volume::Drain { name } => drain(client, &name).await,
        Volume::Release { name } => release(client, &name).await,
        Volume::Forks => show::forks(&client.forks().await?),
        Volume::OpenFork { fork, new_name, rules } => {
            let wanted = OpenFork { name: new_name, access: rules.access()? };
            show::volume(&client.open_fork(&fork, &wanted).await?, &client.status().await?.portals)
        }
        Volume::DiscardFork { fork, yes: true } => client.discard_fork(&fork).await,
        Volume::DiscardFork { fork, yes: false } => Err(Error::invalid(format!(
            "this gives up {fork:?}, acknowledged writes that are nowhere else; say --yes to do it"
        ))),
        Volume::Delete { name, yes: true, without_bucket: true, .. } => {
            client.delete_without_bucket(&name).await
        }
        Volume::Delete { name, yes: true, with_forks, .. } => client.delete(&name, with_forks).await,
        Volume::Delete { name, yes: false, without_bucket: true, .. } => Err(Error::invalid(format!(
            "this deletes all that the gateway has of volume {name:?}, also what is not in its bucket yet and its forks, and leaves in the \
             bucket whatever is there; say --yes to do it"
        ))),
        Volume::Delete { name, yes: false, .. } => Err(Error::invalid(format!(
            "this deletes volume {name:?} and all its data, also in the bucket; say --yes to do it"
        ))),
    }
}

/// Lets go of a volume, and says how it is found again.
async fn release(client: &Client, name: &str) -> Result<()> {
    let volume = client.volume(name).await?;
    client.release(name).await?;
    say::out(&released(&volume));
    Ok(())
}

/// Where a volume is that was just released, and what it takes to have it again.
fn released(volume: &VolumeView) -> String {
    let VolumeView { name, bucket, image, .. } = volume;
    let now = if volume.state == "fenced" {
        "which another gateway has taken over".to_owned()
    } else {
        format!("`tidegate {}` takes it in again", gateway::adopt_words(name, image, Some(bucket)))
    };
    let had_rules = volume.mutual_chap
        || [&volume.chap_users, &volume.initiators, &volume.networks].iter().any(|rules| !rules.is_empty());
    let mut text = format!("volume {name} is in bucket {bucket} as image {image}: {now}\n");
    if had_rules {
        text += "the rules on who may use it (--chap, --mutual, --initiator, --network) are not kept: give them again when it is \
                 adopted, or everybody may use it\n";
    }
    text
}

/// Waits until a volume is in its bucket, and shows meanwhile how much is not, and why it is not getting less.
async fn drain(client: &Client, name: &str) -> Result<()> {
    let bar = ProgressBar::new_spinner();
    let show = async {
        let mut told = None;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // One look that fails is not the end of the draining.
            let Ok(volume) = client.volume(name).await else { continue };
            let why = volume.trouble.map_or_else(String::new, |why| format!("; uploads wait: {why}"));
            bar.set_message(format!("{} still to upload{why}", ByteSize(volume.dirty)));
            bar.tick();
            if bar.is_hidden() && !why.is_empty() && told.as_ref() != Some(&why) {
                say::err(&format!("{name}: {} still to upload{why}\n", ByteSize(volume.dirty)));
                told = Some(why);
            }
        }
    };
    let done = tokio::select! {
        biased;
        drained = client.drain(name) => drained.map(drop),
        never = show => never,
    };
    bar.finish_and_clear();
    done
}

async fn bucket(client: &Client, verb: Bucket) -> Result<()> {
    match verb {
        Bucket::Add { name, url } => show::probe(&client.add_bucket(&name, &absolute(&url)?).await?),
        Bucket::Change { name, url } => show::probe(&client.change_bucket(&name, &absolute(&url)?).await?),
        Bucket::Remove { name } => client.remove_bucket(&name).await,
        Bucket::List => show::buckets(&client.buckets().await?),
        Bucket::Probe { name } => show::probe(&client.probe(&name).await?),
    }
}

/// A path, plain or behind `dir://` or `file://`, means the same to the daemon as it does here.
pub fn absolute(url: &str) -> Result<String> {
    // A scheme that was mistyped must not become a directory.
    let almost = url.split_once(':').filter(|(word, rest)| {
        !rest.starts_with("//") && *word != "mem" && word.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if almost.is_some() {
        return Err(Error::invalid(format!(
            "{url:?} is no URL: write s3://…, oss://…, az://…, gs://… or dir://…, or ./{url} if you mean a directory of that name"
        )));
    }
    let Some(path) = gateway::directory_of(url).filter(|path| !path.is_empty()) else {
        return Ok(url.to_owned());
    };
    let whole = std::path::absolute(Path::new(path))
        .map_err(|e| Error::caused(ErrorKind::Invalid, format!("{url:?} is no path"), e))?;
    let scheme = url.strip_suffix(path).unwrap_or_default();
    Ok(format!("{scheme}{}", whole.display()))
}

impl Rules {
    /// The rules as the gateway takes them.
    fn access(self) -> Result<Access> {
        let mut chap = self.chap.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>()?;
        if let Some(file) = self.chap_file {
            chap.extend(ChapUser::read_file(&file)?);
        }
        Ok(Access {
            chap,
            mutual: self.mutual.map(|text| text.parse()).transpose()?,
            initiators: self.initiator,
            networks: self.network,
        })
    }
}

#[cfg(test)]
mod tests;
