//! Journal and local segments full: a raw initiator sees what is answered, a Linux guest lives through it (A5).

use std::path::Path;
use std::time::{Duration, Instant};

use super::{PREFIX, add_bucket, stop_and_look_elsewhere};
use crate::bench::store::Store;
use crate::blackbox::script;
use crate::process::{last_words, until};
use crate::product::{Layout, Serve};
use crate::soak::{Insisted, Writer};
use crate::weather::{Proxy, Weather};
use crate::{Result, guest};

/// Two volumes' shares are more than half the journal, so that local segments are needed too.
const DISK: &str = "journal = \"128 MiB\"\nlocal_segments = \"32 MiB\"";
/// What one volume may keep: local segments and what the journal has of it together.
const SHARE: u64 = 32 << 20;

const LIMIT: Duration = Duration::from_secs(300);
/// No command may take longer, whatever its answer.
const LONGEST: u64 = 10_000;

pub fn run(dir: &Path) -> Result {
    let begun = Instant::now();
    let store = Store::start(dir)?;
    let proxy = Proxy::start(store.port())?;
    let serve = Serve::with(dir, &Layout { disk: DISK, more: super::KEPT, ..Layout::default() })?;
    add_bucket(&serve, "store", proxy.port(), PREFIX)?;
    serve.tell(&["volume", "create", "guest", "--size", "1GiB"])?;
    serve.tell(&["volume", "create", "raw", "--size", "64MiB"])?;
    let (url, mut writer) = (serve.url("raw"), Writer::new(dir, 9)?);
    let share = dir.join("share");
    std::fs::create_dir(&share)?;
    let text = script(&serve.portal(), &Serve::target("guest"), include_str!("full.sh"));
    let output = share.join("output");
    let plan = guest::Plan { share: &share, disks: &[], limit: LIMIT, output: Some(&output), command: &text };
    let mut guest = guest::Guest::boot(&plan)?;
    let mut wait_for = |what: &str| {
        until(&format!("the guest's {what:?}"), LIMIT, || {
            let done = share.join(what).exists();
            if !done && !guest.is_running()? {
                return Err(format!("the guest ended early: {}", last_words(&output)).into());
            }
            Ok(done.then_some(()))
        })
    };
    let fair = writer.insist(&url, Duration::from_secs(1), 4 << 20)?;
    if fair.full + fair.no_space > 0 {
        return Err(format!("writes were refused before there was an outage: {fair:?}").into());
    }
    wait_for("begun")?;

    proxy.set(Weather::Away);
    std::fs::write(share.join("away"), "")?;
    let told = fill(&serve, &mut writer)?;
    wait_for("refused")?;
    let full = serve.status()?;
    expect_full(&full)?;
    writer.verify(&url)?;

    proxy.set(Weather::Fair);
    std::fs::write(share.join("fair"), "")?;
    wait_for("again")?;
    until("writes that are taken again", LIMIT, || {
        let now = writer.insist(&url, Duration::from_secs(1), 1 << 20)?;
        Ok((now.full + now.no_space == 0).then_some(()))
    })?;
    let ended = guest.wait()?;
    if ended.status != 0 {
        return Err(format!("the guest ended with status {}: {}", ended.status, last_words(&output)).into());
    }
    serve.drained(None, LIMIT)?;
    writer.verify(&url)?;
    let segments = stop_and_look_elsewhere(dir, serve, &store, &["raw", "guest"], |other| {
        writer.verify(&other.url("raw"))?;
        let text = script(&other.portal(), &Serve::target("guest"), include_str!("full-check.sh"));
        guest::script(&share, &text, LIMIT).map(drop)
    })?;
    let refused = std::fs::read_to_string(share.join("refused"))?;
    println!(
        "second home full: {} writes answered TASK SET FULL, the first after {:.1} s of outage; DATA PROTECT, SPACE ALLOCATION \
         FAILED {:.1} s later; no command took longer than {:.1} s; the guest was told {:?}, its log shows no abort; reads \
         went on; writes came back by themselves; all acknowledged is in the bucket alone, in {segments} segments, each once \
         ({} s)",
        told.full,
        told.first_full_ms as f64 / 1e3,
        (told.first_no_space_ms - told.first_full_ms) as f64 / 1e3,
        told.longest_ms as f64 / 1e3,
        refused.trim().rsplit(": ").next().unwrap_or_default(),
        begun.elapsed().as_secs(),
    );
    Ok(())
}

/// Writes until writes are refused for want of space; reads all the while. Moments count from the call.
fn fill(serve: &Serve, writer: &mut Writer) -> Result<Insisted> {
    let (begun, url) = (Instant::now(), serve.url("raw"));
    let mut all = Insisted::default();
    while all.no_space == 0 {
        if begun.elapsed() > LIMIT {
            return Err(format!("there was room for everything: {all:?}, {}", serve.status()?).into());
        }
        let since = begun.elapsed().as_millis() as u64;
        let now = writer.insist(&url, Duration::from_secs(5), 0)?;
        let first = |before: u64, so_far: u64, n: u64, at: u64| match (so_far, n) {
            (0, 1..) => since + at,
            _ => before,
        };
        all = Insisted {
            first_full_ms: first(all.first_full_ms, all.full, now.full, now.first_full_ms),
            first_no_space_ms: first(
                all.first_no_space_ms,
                all.no_space,
                now.no_space,
                now.first_no_space_ms,
            ),
            bytes: all.bytes + now.bytes,
            longest_ms: all.longest_ms.max(now.longest_ms),
            full: all.full + now.full,
            no_space: all.no_space + now.no_space,
        };
        let reading = Instant::now();
        writer.verify(&url)?;
        if reading.elapsed() > Duration::from_secs(5) {
            return Err(format!("reading 64 MiB took {:?} beside a full volume", reading.elapsed()).into());
        }
    }
    let between = all.first_no_space_ms.saturating_sub(all.first_full_ms);
    if all.full == 0 || !(15_000..45_000).contains(&between) || all.longest_ms >= LONGEST {
        return Err(format!("not TASK SET FULL for half a minute, or something hung: {all:?}").into());
    }
    Ok(all)
}

/// The status says what is the matter: how much waits, where, and why.
fn expect_full(status: &serde_json::Value) -> Result {
    for volume in status["volumes"].as_array().into_iter().flatten() {
        let dirty = volume["dirty"].as_u64().unwrap_or_default();
        if volume["trouble"].is_null() || !(SHARE / 2..=SHARE).contains(&dirty) {
            return Err(format!("a full volume's status says neither why nor how much: {volume}").into());
        }
    }
    if status["disks"][0]["local_segments"] == 0 {
        return Err("the local segments hold nothing: it was not the second home that was full".into());
    }
    let events = status["events"].to_string();
    if !events.contains("no room for writes")
        || !events.contains("says whether it is full or local_segments is used up")
    {
        return Err(format!("the events do not say that there is no room: {events}").into());
    }
    Ok(())
}
