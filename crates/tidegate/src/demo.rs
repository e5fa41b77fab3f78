//! `tidegate demo`: one disk out of a directory.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{SOCKET, Server};
use base::{ByteSize, Error, ErrorKind, Result};
use gateway::{
    Access, AdoptVolume, Config, CreateVolume, DiskConfig, Gateway, IscsiConfig, Program, UploadConfig,
    VolumeView,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Demo;
use crate::run::{absolute, log_to_stderr, seams, stop, until_stopped};
use crate::say;
use crate::show::reachable;

const VOLUME: &str = "disk";
const BUCKET: &str = "bucket";
/// Of a disk whose size is not said.
const SIZE: ByteSize = ByteSize::gib(10);
/// How many volumes of others in its bucket are named.
const NAMED: usize = 4;
/// The least that each part of the cache disk gets.
const LEAST: ByteSize = ByteSize::mib(64);

/// Serves the disk until it is stopped.
pub async fn run(wanted: Demo) -> Result<()> {
    let data = std::path::absolute(&wanted.data)
        .map_err(|e| Error::caused(ErrorKind::Invalid, format!("{} is no path", wanted.data.display()), e))?;
    let terminal = std::io::stdout().is_terminal();
    if !terminal {
        log_to_stderr();
    }
    let bucket = match &wanted.bucket {
        Some(url) => absolute(url)?,
        None => data.join("bucket").display().to_string(),
    };
    let seams = seams();
    let gateway = Gateway::prepare(config(&data, wanted.iscsi), seams.clone()).await?;
    let served = async {
        open(&gateway, &bucket).await?;
        // Verbs open volumes, too.
        let api = Server::start(gateway.clone(), &data.join(SOCKET), &*seams.spawn)?;
        Ok((api, disk_of(&gateway, &wanted).await?))
    };
    let (_api, volume) = match served.await {
        Ok(served) => served,
        Err(e) => {
            // What was begun ends in good order before the reason is told.
            let _ = gateway.stop(|_| ()).await;
            return Err(e);
        }
    };
    if let Some(size) = wanted.size.filter(|size| size.0 != volume.size) {
        say::err(&size_hint(ByteSize(volume.size), size, &data));
    }
    let portal = gateway.addresses().first().copied().unwrap_or(wanted.iscsi);
    say::out(&greeting(&data.display().to_string(), &bucket, &volume, portal));
    watch(gateway.clone(), terminal).await?;
    stop(&gateway).await?;
    say::out(&format!("stopped; everything is kept in {}\n", data.display()));
    Ok(())
}

fn config(data: &Path, iscsi: SocketAddr) -> Config {
    Config {
        name: "demo".into(),
        data: data.to_owned(),
        disks: vec![disk(data.join("cache"))],
        iscsi: IscsiConfig { listen: vec![iscsi], ..IscsiConfig::default() },
        upload: UploadConfig::default(),
        memory: gateway::memory::for_dirty_data(),
        read_memory: gateway::memory::for_reads(),
        stop_within: Duration::from_secs(30),
        program: Program::Demo { volume: VOLUME },
        new_disks: Vec::new(),
    }
}

/// The cache disk: of a small file system it takes a quarter for each of its three parts, of a large one as much as a demo needs.
fn disk(path: PathBuf) -> DiskConfig {
    let room = free(&path).saturating_add(held(&path));
    let part = |most: ByteSize| ByteSize(most.0.min(room / 4).max(LEAST.0));
    DiskConfig {
        name: "cache".into(),
        path,
        journal: part(ByteSize::gib(4)),
        cache: part(ByteSize::gib(10)),
        local_segments: part(ByteSize::gib(16)),
    }
}

/// Free bytes of the file system that a path is, or will be, on; where that cannot be told, there is no limit.
fn free(path: &Path) -> u64 {
    let there = path.ancestors().find(|path| path.exists());
    let about = there.and_then(|there| rustix::fs::statvfs(there).ok());
    about.map_or(u64::MAX, |about| about.f_bavail.saturating_mul(about.f_frsize))
}

/// Bytes that the files in a directory take on their disk.
fn held(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => held(&entry.path()),
            Ok(about) => about.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Opens the volumes of a gateway that was prepared; not before it is settled where their bucket is: a copy of a demo would take the
/// disk away from the one it was copied from.
async fn open(gateway: &Arc<Gateway>, url: &str) -> Result<()> {
    settle(gateway, url).await?;
    gateway.open_volumes();
    Ok(())
}

/// Makes the bucket at the first start. At later ones, finds out whether what is at this URL is the same.
async fn settle(gateway: &Arc<Gateway>, url: &str) -> Result<()> {
    let buckets = gateway.buckets();
    let Some(known) = buckets.iter().find(|bucket| bucket.name == BUCKET).map(|bucket| bucket.url.as_str())
    else {
        gateway.add_bucket(BUCKET, url).await?;
        tell_of_others(gateway).await;
        return Ok(());
    };
    if gateway.has_bucket_at(BUCKET, url) {
        return Ok(());
    }
    // Its directory was moved, or the store has another address.
    say::err(&format!("the bucket was at {known}: looking whether it is the one at {url} now\n"));
    match gateway.change_bucket(BUCKET, url).await {
        Err(e) if e.kind() == ErrorKind::Unavailable && gateway.has_bucket_in_place(BUCKET, url) => {
            say::err(&format!(
                "{e}; the demo goes on with the parameters that the bucket had: once it can be reached with these, start again\n"
            ));
            Ok(())
        }
        changed => changed.map(drop).map_err(|e| {
            e.within(format!(
                "this demo's data is in {known}; give the same --bucket, or, if this is a copy of a demo that goes on there, \
                 another --data"
            ))
        }),
    }
}

/// Makes the volume at the first start, or where it was deleted; waits for it at later ones.
async fn disk_of(gateway: &Arc<Gateway>, demo: &Demo) -> Result<VolumeView> {
    if gateway.volumes().iter().all(|volume| volume.name != VOLUME) {
        let wanted = CreateVolume {
            name: VOLUME.into(),
            size: demo.size.unwrap_or(SIZE).0,
            bucket: Some(BUCKET.into()),
            disk: None,
            block_size: None,
            access: Access::default(),
        };
        return gateway.create_volume(wanted).await;
    }
    loop {
        let volume = gateway.show_volume(VOLUME)?;
        match (volume.state.as_str(), &volume.reason) {
            ("open", _) => return Ok(volume),
            ("opening", None) => tokio::time::sleep(Duration::from_millis(10)).await,
            ("opening", Some(why)) => {
                say::err(&format!("the disk waits for its bucket: {why}\n"));
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            ("refused", _) if demo.accept_loss.is_some() => {
                let (name, image) = (VOLUME.into(), volume.image);
                let (accept_loss, access) = (demo.accept_loss, Access::default());
                let bucket = Some(volume.bucket);
                let wanted = AdoptVolume { name, image, bucket, disk: None, accept_loss, access };
                return gateway.adopt_volume(wanted).await;
            }
            (state, why) => {
                let why = why.as_deref().unwrap_or("no reason is known");
                return Err(Error::new(ErrorKind::Unavailable, format!("the disk is {state}: {why}")));
            }
        }
    }
}

/// A bucket that is given again after the demo's directory was lost still holds its disk; one may be somebody else's, too.
async fn tell_of_others(gateway: &Gateway) {
    let others = match gateway.images_in(BUCKET).await {
        Ok(others) => others,
        // The demo's own disk does not depend on it.
        Err(e) => {
            say::err(&format!("whether the bucket holds volumes already cannot be told: {e}\n"));
            return;
        }
    };
    let Some((image, name)) = others.first() else { return };
    let mut all: Vec<String> = others.iter().map(|(image, name)| format!("{name} ({image})")).collect();
    if all.len() > NAMED {
        all.truncate(NAMED);
        all.push(format!("{} more", others.len() - NAMED));
    }
    say::err(&format!(
        "the bucket holds volumes already: {}. The demo makes a disk of its own beside them; to serve one of them too, if no other \
         gateway does: `tidegate --data-dir {} {}`\n",
        all.join(", "),
        gateway.config().data.display(),
        gateway::adopt_words(&format!("{name}-again"), &image.to_string(), None)
    ));
}

/// What to do about a size that the disk, made at an earlier start, does not have. To the byte: people's units are rounded.
fn size_hint(now: ByteSize, wanted: ByteSize, data: &Path) -> String {
    let (yes, lost) = if wanted < now { (" --yes", ", which loses what lies behind that") } else { ("", "") };
    format!(
        "the disk has {now}: change that with `tidegate --data-dir {} volume resize {VOLUME} --size {}{yes}`{lost}\n",
        data.display(),
        wanted.0
    )
}

fn greeting(data: &str, bucket: &str, volume: &VolumeView, listen: SocketAddr) -> String {
    let target = &volume.target;
    let portal = reachable(listen);
    let all = if portal == listen {
        String::new()
    } else {
        format!(" (of this machine's addresses, which all work: {listen})")
    };
    format!(
        "Tidegate serves a disk of {size}.

  bucket      {bucket}
  cache disk  {data}/cache
  target      {target}
  portal      {portal}{all}

URL for libiscsi and QEMU:
iscsi://{portal}/{target}/{lun}

Attach it to a Linux machine:
  iscsiadm -m discovery -t sendtargets -p {portal}
  iscsiadm -m node -T {target} -p {portal} --login
and detach it:
  iscsiadm -m node -T {target} -p {portal} --logout

See more with: tidegate --data-dir {data} status
Stop with Ctrl-C. Killed or stopped, the disk is as it was when it is started again.

",
        size = ByteSize(volume.size),
        lun = volume.lun,
    )
}

/// Shows what is dirty and what is in the bucket: live on a terminal, in a line when it changes elsewhere.
async fn watch(gateway: Arc<Gateway>, terminal: bool) -> Result<()> {
    let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    // It may be no terminal that a line can be changed on.
    let terminal = terminal && !bar.is_hidden();
    let show = async {
        let mut last = String::new();
        loop {
            let line = line(&gateway.show_volume(VOLUME)?);
            if terminal {
                bar.set_message(line.clone());
                bar.tick();
                tokio::time::sleep(Duration::from_millis(250)).await;
            } else {
                if line != last {
                    say::out(&format!("{line}\n"));
                    last = line;
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    };
    let done = tokio::select! {
        biased;
        stopped = until_stopped() => stopped,
        failed = show => failed,
    };
    bar.finish_and_clear();
    done
}

fn line(v: &VolumeView) -> String {
    let state = match (v.state.as_str(), &v.reason, &v.trouble) {
        ("open", _, None) => String::new(),
        ("open", _, Some(trouble)) => format!("; uploads wait: {trouble}"),
        (state, why, _) => format!("; {state}: {}", why.as_deref().unwrap_or_default()),
    };
    format!(
        "not yet in the bucket: {}; in the bucket: {} ({} in use){state}",
        ByteSize(v.dirty),
        ByteSize(v.stored),
        ByteSize(v.live)
    )
}

#[cfg(test)]
mod tests;
