//! The product as its users meet it: the release binary, real initiators, and a kill in between.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{last_words, output_within, until};
use crate::product::{Demo, Layout, Serve};
use crate::{Result, guest, soak};

/// One story, told in a directory of its own.
pub struct Scenario {
    /// What it shows, with the requirement.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&Path) -> Result,
}

/// What needs libiscsi's programs only.
pub const HOST: &[Scenario] = &[
    Scenario { name: "libiscsi: discovery, inquiry, capacity (A1)", run: libiscsi_tools },
    Scenario { name: "demo: stopped and started, the disk is as it was (A2)", run: stopped_and_started },
    Scenario { name: "serve: refuses what it should, and says what to do", run: refusals },
    Scenario { name: "two gateways: taken over while it slept (A4)", run: taken_over },
    Scenario { name: "libiscsi over IPv6: discovery, login, data", run: over_ipv6 },
    Scenario { name: "CHAP: who guesses waits, and the log says so (X03)", run: guesses },
    Scenario { name: "CHAP: discovery without credentials is refused (B03)", run: discovery_chap },
    Scenario { name: "demo: what it leaves is its user's alone", run: private },
    Scenario { name: "serve: what listens everywhere is shown with an address that works", run: everywhere },
    Scenario { name: "demo: goes on without its cache disk when told to", run: cache_lost },
    Scenario { name: "strangers who take all connections stop nothing (A7, X06)", run: crowded_out },
    Scenario { name: "log and output that nobody takes are lost, and nothing else is", run: unheard },
];

/// What needs the Linux guest.
pub const GUEST: &[Scenario] = &[
    Scenario { name: "guest: discovery, login, inquiry (A2)", run: discovery },
    Scenario { name: "guest: CHAP one-way and mutual, at discovery and login (A2, B03)", run: chap },
    Scenario { name: "guest: ext4 and xfs keep what was synced (A2)", run: file_systems },
    Scenario { name: "guest: fio with crc32c (A2)", run: fio },
    Scenario { name: "guest: kill -9 under load, the session recovers (A2)", run: killed_under_load },
];

/// A guest's boot included.
const MINUTES: Duration = Duration::from_secs(300);

fn told(program: &str, words: &[&str]) -> Result<String> {
    let done = output_within(Command::new(program).args(words), Duration::from_secs(30))?;
    match done.status {
        Some(0) => Ok(done.text),
        status => Err(format!("{program} {} failed ({status:?}): {}", words.join(" "), done.text).into()),
    }
}

fn expect(text: &str, part: &str) -> Result {
    if text.contains(part) { Ok(()) } else { Err(format!("{part:?} is missing in:\n{text}").into()) }
}

fn libiscsi_tools(dir: &Path) -> Result {
    let mut demo = Demo::start(dir, "3GiB", None)?;
    let listed = told("iscsi-ls", &["-s", &format!("iscsi://{}", demo.portal())])?;
    expect(&listed, demo.target())?;
    expect(&listed, "Type:DIRECT_ACCESS")?;
    expect(&told("iscsi-inq", &[demo.url()])?, "Vendor:TIDEGATE")?;
    let capacity = told("iscsi-readcapacity16", &[demo.url()])?;
    expect(&capacity.to_lowercase(), &format!("{}", 3u64 << 30))?;
    if demo.status()?.is_null() {
        return Err("status --json is empty".into());
    }
    demo.stop()
}

fn stopped_and_started(dir: &Path) -> Result {
    let mut demo = Demo::start(dir, "1GiB", None)?;
    let (name, mut writer) = (demo.target().to_owned(), soak::Writer::new(dir, 7)?);
    for kill in [false, true, false] {
        writer.write_for(demo.url(), Duration::from_secs(2))?;
        if kill {
            demo.kill()?;
            demo.moved("elsewhere")?; // its bucket is in it
        } else {
            demo.stop()?
        }
        demo.again()?;
        if demo.target() != name {
            return Err(format!("the target's name changed from {name} to {}", demo.target()).into());
        }
        writer.verify(demo.url())?;
    }
    demo.stop()
}

fn refusals(dir: &Path) -> Result {
    let mut serve = Serve::start(dir)?;
    let bucket = format!("dir://{}", dir.join("bucket").display());
    serve.tell(&["bucket", "add", "store", &bucket])?;
    let refused = |words: &[&str]| match serve.tell(words) {
        Ok(text) => Err(format!("tidegate {} was not refused: {text}", words.join(" "))),
        Err(e) => Ok(e.to_string()),
    };
    refused(&["volume", "create", "Not A Name", "--size", "1GiB"])?;
    refused(&["volume", "create", "weak", "--size", "1GiB", "--chap", "user:short"])?;
    serve.tell(&["volume", "create", "one", "--size", "1GiB"])?;
    expect(&refused(&["volume", "create", "one", "--size", "1GiB"])?, "choose another name")?;
    expect(&refused(&["bucket", "add", "store", &bucket])?, "choose another name")?;
    expect(&refused(&["volume", "show", "no/such one?"])?, "there is no volume \"no/such one?\"")?;
    refused(&["volume", "delete", "one"])?;
    expect(&serve.tell(&["volume", "list"])?, "one")?;
    serve.stop()?;
    serve.again()?;
    expect(&serve.tell(&["volume", "list"])?, "one")?;
    serve.tell(&["volume", "delete", "one", "--yes"])?;
    serve.stop()
}

/// Another gateway takes a volume over while its owner stands still: the owner finds out though nobody asks it anything, its
/// client is told, and what it had acknowledged is a fork that opens as a volume of its own.
fn taken_over(dir: &Path) -> Result {
    let bucket = format!("dir://{}", dir.join("bucket").display());
    let start = |name: &str| -> Result<Serve> {
        std::fs::create_dir(dir.join(name))?;
        let serve = Serve::start(&dir.join(name))?;
        serve.tell(&["bucket", "add", "store", &bucket])?;
        Ok(serve)
    };
    let (mut older, mut newer) = (start("older")?, start("newer")?);
    older.tell(&["volume", "create", "disk", "--size", "64MiB"])?;
    let mut writer = soak::Writer::new(dir, 11)?;
    writer.write_for(&older.url("disk"), Duration::from_secs(3))?;
    older.pause()?;
    newer.tell(&["volume", "adopt", "disk", "--accept-loss", "1"])?;
    writer.prefix(&newer.url("disk"))?;
    older.resume()?;
    let state = |serve: &Serve| -> Result<String> {
        Ok(serve.status()?["volumes"][0]["state"].as_str().unwrap_or_default().to_owned())
    };
    until("the older gateway's finding out", Duration::from_secs(20), || {
        Ok((state(&older)? == "fenced").then_some(()))
    })?;
    match writer.verify(&older.url("disk")) {
        Ok(_) => return Err("the older gateway still serves reads".into()),
        Err(e) => expect(&e.to_string(), "0x040c")?,
    }
    let lost = "disk@lost-1";
    until("the fork", Duration::from_secs(20), || {
        Ok(older.tell(&["volume", "forks"])?.contains(lost).then_some(()))
    })?;
    expect(&older.status()?["forks"].to_string(), lost)?;
    older.tell(&["volume", "open-fork", lost, "--as", "rescued"])?;
    writer.verify(&older.url("rescued"))?;
    if state(&newer)? != "open" {
        return Err("the newer gateway lost the volume".into());
    }
    older.stop()?;
    newer.stop()
}

fn over_ipv6(dir: &Path) -> Result {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("     (this machine has no IPv6: left out)");
        return Ok(());
    }
    let mut serve = Serve::with(dir, &Layout { host: "[::1]", ..Layout::default() })?;
    serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
    serve.tell(&["volume", "create", "six", "--size", "64MiB"])?;
    let listed = told("iscsi-ls", &["-s", &format!("iscsi://{}", serve.portal())])?;
    expect(&listed, &format!("Target:{} Portal:{},1", Serve::target("six"), serve.portal()))?;
    expect(&listed, "Type:DIRECT_ACCESS")?;
    expect(&told("iscsi-inq", &[&serve.url("six")])?, "Vendor:TIDEGATE")?;
    let mut writer = soak::Writer::new(dir, 13)?;
    writer.write_for(&serve.url("six"), Duration::from_secs(1))?;
    writer.verify(&serve.url("six"))?;
    expect(&serve.status()?["portals"].to_string(), "[::1]:")?;
    serve.stop()
}

fn guesses(dir: &Path) -> Result {
    let mut serve = Serve::start(dir)?;
    serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
    let user = "initiator:initiator-secret";
    serve.tell(&["volume", "create", "shut", "--size", "64MiB", "--chap", user])?;
    let login = |secret: &str| {
        let url = serve.url("shut").replace("iscsi://", &format!("iscsi://initiator%{secret}@"));
        let begun = Instant::now();
        (told("iscsi-inq", &[&url]), begun.elapsed())
    };
    let took: Vec<Duration> = ["one", "two", "three", "four", "five"]
        .iter()
        .map(|guess| match login(&format!("guess-number-{guess}")) {
            (Ok(text), _) => Err(format!("a wrong secret let somebody in: {text}")),
            (Err(_), took) => Ok(took),
        })
        .collect::<std::result::Result<_, _>>()?;
    let late = |n: usize, seconds: u64| took[n] >= Duration::from_secs(seconds);
    if late(2, 1) || !late(3, 1) || !late(4, 2) {
        return Err(format!("guesses were answered after {took:?}").into());
    }
    let (known, took) = login("initiator-secret");
    expect(&known?, "Vendor:TIDEGATE")?;
    if took > Duration::from_secs(1) {
        return Err(format!("who knows the secret had to wait {took:?}").into());
    }
    let events = serve.status()?["events"].to_string();
    if events.matches("failed to prove itself").count() != 1 {
        return Err(format!("the guesses are not told of once: {events}").into());
    }
    serve.stop()
}

fn discovery_chap(dir: &Path) -> Result {
    let (users, own) = (dir.join("users"), dir.join("own"));
    std::fs::write(&users, "operator:the-right-secret\n")?;
    std::fs::write(&own, "gateway:its-very-own-secret\n")?;
    let more = format!("discovery_chap_file = {users:?}\ndiscovery_mutual_file = {own:?}");
    let mut serve = Serve::with(dir, &Layout { more: &more, ..Layout::default() })?;
    serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
    serve.tell(&["volume", "create", "seen", "--size", "64MiB"])?;
    let list = |user: &str| told("iscsi-ls", &[&format!("iscsi://{user}{}", serve.portal())]);
    for user in ["", "operator%not-the-right-one@", "nobody%the-right-secret@"] {
        if let Ok(text) = list(user) {
            return Err(format!("discovery as {user:?} was not refused: {text}").into());
        }
    }
    expect(&list("operator%the-right-secret@")?, &Serve::target("seen"))?;
    serve.stop()
}

fn private(dir: &Path) -> Result {
    let mut demo = Demo::start(dir, "64MiB", None)?;
    soak::Writer::new(dir, 19)?.write_for(demo.url(), Duration::from_secs(1))?;
    demo.drained()?;
    let mut left = vec![demo.data().to_owned()];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let found = std::fs::symlink_metadata(&path)?;
        let mode = found.permissions().mode() & 0o777;
        if found.is_dir() {
            left.extend(
                std::fs::read_dir(&path)?.collect::<std::io::Result<Vec<_>>>()?.iter().map(|e| e.path()),
            );
        }
        files += u32::from(found.is_file());
        if mode != if found.is_dir() { 0o700 } else { 0o600 } {
            return Err(format!("{} has mode {mode:o}", path.display()).into());
        }
    }
    // Catalog, journal, cache and objects, at least.
    if files < 8 {
        return Err(format!("only {files} files were found").into());
    }
    demo.stop()
}

fn everywhere(dir: &Path) -> Result {
    for (n, host) in ["0.0.0.0", "[::]"].into_iter().enumerate() {
        if std::net::TcpListener::bind(format!("{host}:0")).is_err() {
            println!("     (this machine has no IPv6: left out)");
            continue;
        }
        let dir = dir.join(n.to_string());
        std::fs::create_dir(&dir)?;
        let mut serve = Serve::with(&dir, &Layout { host, ..Layout::default() })?;
        serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
        let shown = serve.tell(&["volume", "create", "one", "--size", "64MiB"])?;
        let url = shown.lines().find(|line| line.starts_with("iscsi://")).ok_or("no URL is shown")?;
        if url.contains(&serve.portal()) {
            return Err(format!("{url} is nobody's address").into());
        }
        expect(&told("iscsi-inq", &[url])?, "Vendor:TIDEGATE")?;
        serve.stop()?;
    }
    Ok(())
}

/// The whole cache disk goes, then the journal alone, as the advice about a damaged one says; each time everything is in the bucket.
fn cache_lost(dir: &Path) -> Result {
    let mut demo = Demo::start(dir, "64MiB", None)?;
    let mut writer = soak::Writer::new(dir, 23)?;
    for lost in ["cache", "cache/journal"] {
        writer.write_for(demo.url(), Duration::from_secs(1))?;
        demo.drained()?;
        demo.kill()?;
        std::fs::remove_dir_all(demo.data().join(lost))?;
        let said = demo.refused()?;
        let words = format!("tidegate demo --data {} --accept-loss ", demo.data().display());
        expect(&said, &words)?;
        let epoch = said.split(&words).nth(1).and_then(|rest| rest.split_whitespace().next());
        demo.again_with(&["--accept-loss", epoch.ok_or("no epoch is named")?])?;
        writer.verify(demo.url())?;
    }
    demo.kill()?;
    demo.again()?;
    writer.verify(demo.url())?;
    demo.stop()
}

/// Whatever stdout and stderr lead to fills up or goes away.
fn unheard(dir: &Path) -> Result {
    for (n, output) in [">/dev/full 2>&1", "> >(head -n 1 >/dev/null) 2>&1"].into_iter().enumerate() {
        let dir = dir.join(n.to_string());
        std::fs::create_dir(&dir)?;
        let mut serve = Serve::with(&dir, &Layout { output, ..Layout::default() })?;
        serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
        serve.tell(&["volume", "create", "shut", "--size", "64MiB", "--chap", "user:the-right-secret"])?;
        let login = |secret: &str| {
            told("iscsi-inq", &[&serve.url("shut").replace("//", &format!("//user%{secret}@"))])
        };
        // A line of the log for each of them, on each of the threads.
        for _ in 0..2 {
            if let Ok(text) = login("not-the-right-one") {
                return Err(format!("a wrong secret let somebody in: {text}").into());
            }
        }
        for _ in 0..8 {
            expect(&login("the-right-secret")?, "Vendor:TIDEGATE")?;
        }
        serve.stop()?;
        let mut demo = Demo::heard_by(output, &dir, "64MiB")?;
        let mut writer = soak::Writer::new(&dir, 17)?;
        writer.write_for(demo.url(), Duration::from_secs(1))?;
        writer.verify(demo.url())?;
        demo.stop()?;
    }
    Ok(())
}

/// More connections than files may be open, held by clients that say nothing: they do not take what the gateway itself needs, and who
/// was there before goes on.
fn crowded_out(dir: &Path) -> Result {
    let limits = "ulimit -n 512";
    let mut serve = Serve::with(dir, &Layout { limits, ..Layout::default() })?;
    serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
    serve.tell(&["volume", "create", "disk", "--size", "64MiB"])?;
    expect(&serve.log()?, "only 512 files may be open at once: 256 iSCSI connections")?;
    let mut writer = soak::Writer::new(dir, 19)?;
    let client = writer.begin_insisting(&serve.url("disk"), Duration::from_secs(12), 20 << 20)?;
    std::thread::sleep(Duration::from_secs(1));
    let end = Instant::now() + Duration::from_secs(8);
    let mut strangers = Vec::new();
    while Instant::now() < end {
        while strangers.len() < 600 {
            strangers.push(std::net::TcpStream::connect(serve.portal())?);
        }
        let status = serve.status()?;
        let (volume, disk) = (&status["volumes"][0], &status["disks"][0]);
        if volume["state"] != "open" || !volume["trouble"].is_null() || !disk["trouble"].is_null() {
            return Err(format!("strangers are felt: {status}").into());
        }
        strangers.drain(..300);
    }
    drop(strangers);
    let insisted = soak::Writer::insisted(client)?;
    if insisted.full + insisted.no_space > 0 || insisted.longest_ms > 10_000 {
        return Err(format!("who was there before was in trouble: {insisted:?}").into());
    }
    serve.drained(None, Duration::from_secs(60))?;
    writer.verify(&serve.url("disk"))?;
    serve.stop()
}

/// The guest's words for a portal and a target, before a script that uses them.
pub fn script(portal: &str, target: &str, text: &str) -> String {
    format!(
        "set -euo pipefail\nPORTAL={portal}\nTARGET={target}\n{}\n{text}",
        include_str!("blackbox/session.sh")
    )
}

fn on_a_demo(dir: &Path, text: &str) -> Result {
    let mut demo = Demo::start(dir, "2GiB", None)?;
    let share = dir.join("share");
    std::fs::create_dir(&share)?;
    guest::script(&share, &script(&demo.portal(), demo.target(), text), MINUTES)?;
    demo.stop()
}

fn discovery(dir: &Path) -> Result {
    on_a_demo(dir, include_str!("blackbox/discovery.sh"))
}

fn file_systems(dir: &Path) -> Result {
    on_a_demo(dir, include_str!("blackbox/file-systems.sh"))
}

fn fio(dir: &Path) -> Result {
    on_a_demo(dir, include_str!("blackbox/fio.sh"))
}

fn chap(dir: &Path) -> Result {
    let mut serve = Serve::start(dir)?;
    serve.tell(&["bucket", "add", "store", &format!("dir://{}", dir.join("bucket").display())])?;
    let (user, own) = ("initiator:initiator-secret", "target:target-own-secret");
    let secrets = dir.join("secrets");
    std::fs::write(&secrets, format!("{user}\n"))?;
    let secrets = secrets.to_string_lossy();
    serve.tell(&["volume", "create", "one-way", "--size", "1GiB", "--chap", user])?;
    serve.tell(&[
        "volume",
        "create",
        "mutual",
        "--size",
        "1GiB",
        "--chap-file",
        &secrets,
        "--mutual",
        own,
    ])?;
    let share = dir.join("share");
    std::fs::create_dir(&share)?;
    let target = "iqn.2026-11.org.tidegate:test";
    guest::script(&share, &script(&serve.portal(), target, include_str!("blackbox/chap.sh")), MINUTES)?;
    serve.stop()
}

fn killed_under_load(dir: &Path) -> Result {
    let mut demo = Demo::start(dir, "2GiB", None)?;
    let share = dir.join("share");
    std::fs::create_dir(&share)?;
    // The guest counts the files it has synced: the kills come after so many, and the gateway stays away so many seconds.
    let kills = [(3, 0), (8, 3)];
    let text = format!("KILLS={}\n{}", kills.len(), include_str!("blackbox/killed.sh"));
    let text = script(&demo.portal(), demo.target(), &text);
    let output = share.join("output");
    let plan =
        guest::Plan { share: &share, disks: &[], limit: MINUTES, output: Some(&output), command: &text };
    let mut guest = guest::Guest::boot(&plan)?;
    for (count, pause) in kills {
        until("the guest's load", MINUTES, || {
            if !guest.is_running()? {
                return Err(format!("the guest ended early: {}", last_words(&output)).into());
            }
            let synced = std::fs::read_to_string(share.join("synced")).unwrap_or_default();
            Ok((synced.lines().count() >= count).then_some(()))
        })?;
        demo.kill()?;
        std::thread::sleep(Duration::from_secs(pause));
        demo.again()?;
    }
    std::fs::write(share.join("enough"), "")?;
    let ended = guest.wait()?;
    if ended.status != 0 {
        return Err(format!("status {}: {}", ended.status, last_words(&output)).into());
    }
    demo.stop()
}
