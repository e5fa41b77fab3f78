//! Tests of the gateway: its configuration, the life of volumes, and two gateways that want the same one (A4; B03, X06).
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{ByteSize, ErrorKind, Span};
use bytes::Bytes;
use image::Image;
use local::{OsEntropy, SystemClock, TokioSpawn};

mod buckets;
mod damage;
mod disks;
mod leaving;
mod leftover;
mod trouble;

use crate::{
    Access, AdoptVolume, ChapUser, Config, CreateVolume, Gateway, IscsiConfig, OpenFork, Program, Seams,
};

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("tidegate-gateway-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn url(&self) -> String {
        format!("dir://{}", self.0.join("bucket").display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(home: &Path, name: &str, age: &str) -> Config {
    let home = home.join(name).display().to_string();
    Config::parse(&format!(
        r#"
        name = "{name}"
        data = "{home}/data"
        stop_within = "5 s"
        memory = "16 MiB"
        [[disk]]
        name = "ssd"
        path = "{home}/ssd"
        journal = "128 MiB"
        cache = "64 MiB"
        [iscsi]
        listen = ["127.0.0.1:0"]
        threads = 1
        [upload]
        age = "{age}"
        "#
    ))
    .unwrap()
}

fn seams() -> Seams {
    Seams {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        spawn: Arc::new(TokioSpawn::new(tokio::runtime::Handle::current())),
    }
}

async fn gateway(home: &Path, name: &str, age: &str) -> Arc<Gateway> {
    start(config(home, name, age)).await.unwrap()
}

async fn start(config: Config) -> base::Result<Arc<Gateway>> {
    prepare(config).await.inspect(|gateway| gateway.open_volumes())
}

async fn prepare(config: Config) -> base::Result<Arc<Gateway>> {
    let seams = seams();
    // In one process the tasks of a gateway that was stopped may hold its directory for a moment longer.
    for _ in 0..100 {
        match Gateway::prepare(config.clone(), seams.clone()).await {
            Err(e) if e.kind() == ErrorKind::Busy => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(gateway) if gateway.view().disks.iter().any(is_held) => {
                gateway.stop(|_| ()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            started => return started,
        }
    }
    panic!("the directory of {} did not come free", config.name);
}

fn is_held(disk: &crate::view::DiskView) -> bool {
    disk.trouble.as_ref().is_some_and(|why| why.contains("in use by another process"))
}

fn wanted(name: &str, size: ByteSize) -> CreateVolume {
    CreateVolume {
        name: name.into(),
        size: size.0,
        bucket: None,
        disk: None,
        block_size: None,
        access: Access::default(),
    }
}

fn adopt(name: &str, accept_loss: Option<u64>) -> AdoptVolume {
    AdoptVolume {
        name: name.into(),
        image: "vol1".into(),
        bucket: None,
        disk: None,
        accept_loss,
        access: Access::default(),
    }
}

fn image(gateway: &Gateway, name: &str) -> Image {
    gateway.volumes.lock()[name].image().unwrap()
}

async fn write(gateway: &Gateway, name: &str, start: u64, byte: u8) {
    let image = image(gateway, name);
    let admission = image.admit(4096).await.unwrap();
    image.write(start, vec![Bytes::from(vec![byte; 4096])], false, admission).await.unwrap();
}

async fn byte(gateway: &Gateway, name: &str, sector: u64) -> u8 {
    image(gateway, name).read(Span::new(sector, 1)).await.unwrap()[0][0]
}

#[test]
fn configuration_is_checked() {
    let good = "name = 'a'\ndata = '/d'\n[[disk]]\nname = 's'\npath = '/s'\n";
    let config = Config::parse(good).unwrap();
    assert_eq!(config.disks[0].journal, ByteSize::gib(4));
    assert_eq!(config.upload.age, Duration::from_secs(2));
    let full = format!(
        "{good}journal = '1 GiB'\n[upload]\nsegment = '8 MiB'\nage = '500 ms'\ngrace = '10 min'\nparallel = 2\n"
    );
    let config = Config::parse(&full).unwrap();
    assert_eq!(config.disks[0].journal, ByteSize::gib(1));
    assert_eq!((config.upload.segment, config.upload.age), (ByteSize::mib(8), Duration::from_millis(500)));
    assert_eq!(config.upload.grace, Duration::from_secs(600));
    for (wrong, names) in [
        (format!("{good}jurnal = '1 GiB'\n"), "jurnal"),
        (format!("{good}[upload]\nsegments = '8 MiB'\n"), "segments"),
        (format!("colour = 'red'\n{good}"), "colour"),
        (format!("{good}journal = '1 parsec'\n"), "parsec"),
        (format!("{good}journal = 5\n"), "journal"),
        (format!("{good}[upload]\nage = '5 fortnights'\n"), "fortnights"),
        (format!("{good}[upload]\nage = '5'\n"), "no time"),
        (format!("{good}[upload]\nparallel = 0\n"), "parallel"),
        (format!("{good}[[disk]]\nname = 's'\npath = '/t'\n"), "names and paths must differ"),
        (format!("{good}journal = '256'\n"), "journal = \"256 B\" is too little: write at least \"64 MiB\""),
        (format!("{good}cache = '0 MiB'\n"), "cache = \"0 B\" is too little: write at least \"16 MiB\""),
        (format!("memory = '1 MiB'\n{good}"), "write at least \"16 MiB\""),
        (format!("{good}[iscsi]\nlisten = []\n"), "name at least one address"),
        (format!("{good}[iscsi]\nprefix = 'disks'\n"), "prefix = \"disks\""),
        (format!("{good}[iscsi]\nprefix = 'iqn.2026-13.org.x'\n"), "write it as in"),
        (format!("{good}[iscsi]\nprefix = 'iqn.2026-11.{}'\n", "x".repeat(150)), "too long"),
        (format!("{good}journal = '8 GiB'\nlocal_segments = '1023 MiB'\n"), "an eighth of journal"),
        (good.replace("name = 'a'", "name = 'A b'"), "1 to 64 characters"),
        (format!("{good}[iscsi]\nthreads = 100000\n"), "threads = 100000: at most 1024"),
        (format!("{good}[upload]\nparallel = 1000000\n"), "from 1 to 256"),
        (format!("memory = '9999 TiB'\n{good}"), " of memory that there are: write less"),
        (format!("read_memory = '9999 TiB'\n{good}"), "read_memory = "),
        (format!("{good}[[disk]]\nname = 't'\npath = 'cache'\n"), "write the whole path"),
        (format!("{good}[[disk]]\nname = 't'\npath = '/x/../t'\n"), "write the whole path"),
        (good.replace("data = '/", "data = '"), "write the whole path"),
        ("name = 'a'\ndata = '/d'\ndisk = []\n".into(), "at least one"),
    ] {
        let refused = Config::parse(&wrong).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains(names), "{wrong}: {refused}");
    }
}

#[test]
fn secrets_of_the_discovery_are_read_from_files() {
    let scratch = Scratch::new("discovery");
    let file = |name: &str, text: &str| {
        let path = scratch.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let chap = file("chap", "\nalice:a secret of length\n\nbob:another: of length\n");
    let own = file("own", "gateway:its very own secret\n");
    let discovery = |chap: Option<&PathBuf>, mutual: Option<&PathBuf>| {
        let (discovery_chap_file, discovery_mutual_file) = (chap.cloned(), mutual.cloned());
        IscsiConfig { discovery_chap_file, discovery_mutual_file, ..IscsiConfig::default() }.discovery()
    };
    assert!(!discovery(None, None).unwrap().authentication.is_required());
    for mutual in [None, Some(&own)] {
        assert!(discovery(Some(&chap), mutual).unwrap().authentication.is_required());
    }
    let (absent, empty) = (scratch.0.join("absent"), file("empty", "\n"));
    let (plain, short) = (file("plain", "no-colon"), file("short", "alice:short"));
    for (chap, mutual, says) in [
        (Some(&absent), None, "discovery_chap_file: cannot read"),
        (Some(&empty), None, "has no line user:secret"),
        (Some(&plain), None, "written as user:secret"),
        (Some(&short), None, "12"),
        (None, Some(&own), "needs CHAP users"),
        (Some(&own), Some(&own), "choose different ones"),
        (Some(&own), Some(&chap), "one line"),
    ] {
        let refused = discovery(chap, mutual).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains(says), "{says}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_could_read_is_shut_at_the_start() {
    let scratch = Scratch::new("private");
    let (data, disk) = (scratch.0.join("one/data"), scratch.0.join("one/ssd"));
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let others = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    for dir in [&data, &disk] {
        std::fs::create_dir_all(dir).unwrap();
        set(dir, 0o755);
    }
    let catalog = data.join("catalog.db");
    std::fs::write(&catalog, "").unwrap();
    set(&catalog, 0o644);
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    for path in [&data, &disk, &catalog, &data.join("catalog.db-wal"), &data.join("catalog.db-shm")] {
        assert_eq!(others(path), 0, "{}", path.display());
    }
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_volume() {
    let scratch = Scratch::new("life");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    let refused = one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap_err();
    assert!(refused.to_string().contains("tidegate bucket add"), "{refused}");
    one.add_bucket("main", &scratch.url()).await.unwrap();
    let view = one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    assert_eq!((view.state.as_str(), view.size), ("open", 64 << 20));
    let again = one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Exists);
    for (name, size) in [("Vol", 1 << 20), ("ok", 0), ("ok", 1000), ("ok", 512 << 40)] {
        let refused = one.create_volume(wanted(name, ByteSize(size))).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name} {size}");
    }

    write(&one, "vol1", 8, 7).await;
    assert_eq!(one.resize_volume("vol1", 128 << 20, false).await.unwrap().size, 128 << 20);
    assert_eq!(one.resize_volume("vol1", 256 << 20, false).await.unwrap().size, 256 << 20);
    let refused = one.resize_volume("vol1", 128 << 20, false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains("128 MiB instead of 256 MiB"), "{refused}");
    assert_eq!(one.show_volume("vol1").unwrap().size, 256 << 20);
    assert_eq!(one.resize_volume("vol1", 128 << 20, true).await.unwrap().size, 128 << 20);
    write(&one, "vol1", (100 << 20) / 512, 9).await;
    let user = ChapUser { user: "alice".into(), secret: "a secret of length".into() };
    let access = Access { chap: vec![user], ..Access::default() };
    assert_eq!(one.set_access("vol1", access).await.unwrap().chap_users, ["alice"]);
    let short = ChapUser { user: "alice".into(), secret: "short".into() };
    let refused = one.set_access("vol1", Access { chap: vec![short], ..Access::default() }).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);

    // Closed and started again, everything is as it was.
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let one = gateway(&scratch.0, "one", "200 ms").await;
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    let view = one.show_volume("vol1").unwrap();
    assert_eq!((view.size, view.chap_users.len()), (128 << 20, 1));
    assert_eq!(byte(&one, "vol1", 8).await, 7);

    // Let go of here, adopted there, and back.
    one.release_volume("vol1").await.unwrap();
    assert_eq!(one.show_volume("vol1").unwrap_err().kind(), ErrorKind::NotFound);
    let two = gateway(&scratch.0, "two", "200 ms").await;
    two.add_bucket("main", &scratch.url()).await.unwrap();
    two.adopt_volume(adopt("mine", None)).await.unwrap();
    assert_eq!(byte(&two, "mine", (100 << 20) / 512).await, 9);
    write(&two, "mine", 8, 8).await;
    two.release_volume("mine").await.unwrap();
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    assert_eq!(byte(&one, "vol1", 8).await, 8);
    assert_eq!(one.show_volume("vol1").unwrap().size, 128 << 20);

    one.delete_volume("vol1", false).await.unwrap();
    assert!(one.volumes().is_empty());
    assert_eq!(two.adopt_volume(adopt("vol1", None)).await.unwrap_err().kind(), ErrorKind::NotFound);
    one.stop(|_| ()).await.unwrap();
    two.stop(|_| ()).await.unwrap();
}

async fn until(done: impl Fn() -> bool) {
    for _ in 0..300 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it did not happen within 30 seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_leave_its_index_does_not_spoil_a_stop() {
    let scratch = Scratch::new("index");
    let first = gateway(&scratch.0, "one", "1 h").await;
    first.add_bucket("main", &scratch.url()).await.unwrap();
    first.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&first, "vol1", 8, 7).await;
    // Where the index would be written stands something that cannot be written over.
    let taken = scratch.0.join("one/ssd/cache/index.tmp");
    std::fs::create_dir_all(taken.join("in the way")).unwrap();
    first.stop(|_| ()).await.unwrap();
    drop(first);
    std::fs::remove_dir_all(taken).unwrap();
    let again = gateway(&scratch.0, "one", "1 h").await;
    until(|| again.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&again, "vol1", 8).await, 7);
    again.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_not_taken_over_from_its_own_gateway() {
    let scratch = Scratch::new("own");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 5).await;
    let twice = AdoptVolume { name: "again".into(), ..adopt("vol1", None) };
    for accept_loss in [None, Some(1)] {
        let refused = one.adopt_volume(AdoptVolume { accept_loss, ..twice.clone() }).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exists, "{refused}");
    }
    write(&one, "vol1", 16, 6).await;
    one.drain_volume("vol1").await.unwrap();
    assert_eq!((byte(&one, "vol1", 8).await, byte(&one, "vol1", 16).await), (5, 6));
    assert_eq!((one.volumes().len(), one.show_volume("vol1").unwrap().state.as_str()), (1, "open"));
    assert!(one.forks().is_empty());
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_is_one_gateways() {
    let scratch = Scratch::new("data");
    let first = gateway(&scratch.0, "one", "200 ms").await;
    let second = Gateway::start(config(&scratch.0, "one", "1 h"), seams()).await.map(drop).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Busy, "{second}");
    first.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_disk_that_is_not_mounted_is_no_new_one() {
    let scratch = Scratch::new("unmounted");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 0, 1).await;
    one.drain_volume("vol1").await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);

    let (disk, away) = (scratch.0.join("one/ssd"), scratch.0.join("away"));
    std::fs::rename(&disk, &away).unwrap();
    let start = async |new_disks: &[&str]| {
        let new_disks = new_disks.iter().map(|name| name.to_string()).collect();
        start(Config { new_disks, ..config(&scratch.0, "one", "1 h") }).await
    };
    // However often it is tried: nothing is made that would be taken for the disk.
    for _ in 0..2 {
        let refused = start(&[]).await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        let text = refused.to_string();
        assert!(text.contains("mounted?") && text.contains("--new-disk ssd"), "{text}");
    }
    assert_eq!(start(&["nvme"]).await.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    std::fs::rename(&disk, scratch.0.join("nothing")).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    one.stop(|_| ()).await.unwrap();
    drop(one);

    // Lost for good, and from then on the new one is the disk. The volume was closed: nothing of it was there only.
    std::fs::rename(&disk, &away).unwrap();
    start(&["ssd"]).await.unwrap().stop(|_| ()).await.unwrap();
    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&one, "vol1", 0).await, 1);
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_want_one_volume() {
    let scratch = Scratch::new("two");
    // The older one uploads by hand only.
    let old = gateway(&scratch.0, "old", "1 h").await;
    old.add_bucket("main", &scratch.url()).await.unwrap();
    old.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&old, "vol1", 0, 1).await;
    old.drain_volume("vol1").await.unwrap();
    write(&old, "vol1", 0, 2).await;
    write(&old, "vol1", 64, 2).await;

    let new = gateway(&scratch.0, "new", "200 ms").await;
    new.add_bucket("main", &scratch.url()).await.unwrap();
    let refused = new.adopt_volume(adopt("vol1", None)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(
        refused.to_string().contains("\"old\"") && refused.to_string().ends_with("accept-loss 1"),
        "{refused}"
    );
    // The disk of a demo is accepted by its next start; what it adopted beside that, by a verb.
    let demo = Config { program: Program::Demo { volume: "disk" }, ..config(&scratch.0, "demo", "1 h") };
    let data = demo.data.display().to_string();
    let demo = start(demo).await.unwrap();
    demo.add_bucket("main", &scratch.url()).await.unwrap();
    let image = old.show_volume("vol1").unwrap().image;
    let asked = demo.adopt_volume(adopt("again", None)).await.unwrap_err();
    // With the rules that were asked for.
    let words = "give them up for good: the same command again with --accept-loss 1";
    assert!(asked.to_string().ends_with(words), "{asked}");
    let at = format!("--bucket '{}'", scratch.url());
    for (name, words) in [
        ("disk", format!("tidegate demo --data {data} {at} --accept-loss 1")),
        ("again", format!("tidegate --data-dir {data} volume adopt again --image {image} --accept-loss 1")),
    ] {
        let row = crate::catalog::VolumeRow { name: name.into(), ..old.volumes.lock()["vol1"].row() };
        let refused =
            demo.task(crate::catalog::VolumeRow { disk: "ssd".into(), ..row }).open(None).await.unwrap_err();
        assert!(refused.to_string().ends_with(&words), "{refused}");
    }
    demo.stop(|_| ()).await.unwrap();
    assert_eq!(new.adopt_volume(adopt("vol1", Some(7))).await.unwrap_err().kind(), ErrorKind::Denied);
    new.adopt_volume(adopt("vol1", Some(1))).await.unwrap();
    assert_eq!((byte(&new, "vol1", 0).await, byte(&new, "vol1", 64).await), (1, 0));
    write(&new, "vol1", 0, 3).await;

    // The older one finds out though nobody asks it anything, and says what it still has.
    until(|| old.show_volume("vol1").unwrap().state == "fenced").await;
    until(|| old.view().forks.iter().any(|f| f.name == "vol1@lost-1" && f.size > 0)).await;
    assert_eq!(old.delete_volume("vol1", false).await.unwrap_err().kind(), ErrorKind::Fenced);
    let rescued = OpenFork { name: "rescued".into(), access: Access::default() };
    assert_eq!(old.open_fork("vol1@lost-9", rescued.clone()).await.unwrap_err().kind(), ErrorKind::NotFound);
    let view = old.open_fork("vol1@lost-1", rescued).await.unwrap();
    assert_eq!((view.state.as_str(), view.size), ("open", 64 << 20));
    assert_eq!((byte(&old, "rescued", 0).await, byte(&old, "rescued", 64).await), (2, 2));
    assert_eq!(byte(&new, "vol1", 0).await, 3);

    // What it was made from stays while it needs it.
    let refused = new.delete_volume("vol1", false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains(&view.image), "{refused}");
    old.discard_fork("vol1@lost-1").await.unwrap();
    assert!(old.forks().is_empty());
    old.release_volume("vol1").await.unwrap();
    old.delete_volume("rescued", false).await.unwrap();
    new.delete_volume("vol1", false).await.unwrap();
    old.stop(|_| ()).await.unwrap();
    new.stop(|_| ()).await.unwrap();
}
