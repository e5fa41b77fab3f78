//! Bad weather: the bucket is gone, or refuses every second call, or its answers get lost, while a Linux guest writes (A5).

use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::store::Store;
use crate::blackbox::script;
use crate::process::{tail, until};
use crate::product::Serve;
use crate::soak::{Writer, progress};
use crate::weather::{Proxy, Weather};
use crate::{Result, guest};

/// The verb `soak outage`.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long the weather is bad, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only this weather: away, refusing or deaf.
    #[arg(long)]
    weather: Option<Weather>,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { minutes: 10, weather: None }
    }
}

pub fn main(arguments: &Arguments) -> Result {
    let all = [Weather::Away, Weather::Refusing, Weather::Deaf];
    for weather in all.into_iter().filter(|w| arguments.weather.is_none_or(|only| only == *w)) {
        let mut dir = tempfile::Builder::new().prefix("tidegate-outage.").tempdir()?;
        one(dir.path(), weather, Duration::from_secs(arguments.minutes * 60)).map_err(|e| {
            dir.disable_cleanup(true);
            format!("{weather:?}: {e}\n(logs and data are kept in {})", dir.path().display())
        })?;
    }
    Ok(())
}

/// How long the load goes on before and after the bad weather.
const AROUND: Duration = Duration::from_secs(15);

fn one(dir: &Path, weather: Weather, time: Duration) -> Result {
    let store = Store::start(dir)?;
    let proxy = Proxy::start(store.port())?;
    let mut serve = Serve::start(dir)?;
    serve.tell(&[
        "bucket",
        "add",
        "store",
        &format!("s3://tide/outage?endpoint=http://127.0.0.1:{}", proxy.port()),
    ])?;
    serve.tell(&["volume", "create", "guest", "--size", "2GiB"])?;
    serve.tell(&["volume", "create", "checked", "--size", "256MiB"])?;
    let mut writer = Writer::new(dir, 5)?;
    let share = dir.join("share");
    std::fs::create_dir(&share)?;
    let seconds = (time + 2 * AROUND).as_secs();
    let text = format!("SECONDS_OF_LOAD={seconds}\n{}", include_str!("outage.sh"));
    let text = script(&serve.portal(), &Serve::target("guest"), &text);
    let output = share.join("output");
    let limit = time * 2 + Duration::from_secs(600);
    let plan = guest::Plan { share: &share, disks: &[], limit, output: Some(&output), command: &text };
    let mut guest = guest::Guest::boot(&plan)?;
    let mut reason = None;
    until("the guest's load", Duration::from_secs(120), || Ok(share.join("begun").exists().then_some(())))?;
    let begun = Instant::now();
    let bar = progress(seconds)?;
    bar.set_message(format!("{weather:?}"));
    while begun.elapsed().as_secs() < seconds {
        let elapsed = begun.elapsed();
        let bad = elapsed > AROUND && elapsed < AROUND + time;
        proxy.set(if bad { weather } else { Weather::Fair });
        writer.write_for(&serve.url("checked"), Duration::from_millis(200))?;
        reason = reason.or(trouble(&serve)?);
        if !guest.is_running()? {
            return Err(format!("the guest ended early:\n{}", tail(&output)).into());
        }
        bar.set_position(elapsed.as_secs());
        std::thread::sleep(Duration::from_secs(3));
    }
    proxy.set(Weather::Fair);
    let ended = guest.wait()?;
    if ended.status != 0 {
        return Err(format!("the guest ended with status {}:\n{}", ended.status, tail(&output)).into());
    }
    writer.verify(&serve.url("checked"))?;
    until("an empty journal", limit, || {
        std::thread::sleep(Duration::from_millis(500));
        Ok((dirty(&serve)? == 0).then_some(()))
    })?;
    bar.finish_and_clear();
    let drained = begun.elapsed().as_secs();
    writer.verify(&serve.url("checked"))?;
    serve.stop()?;
    elsewhere(dir, &store, &mut writer)?;
    let reason = reason.ok_or("status never said what was wrong with the bucket")?;
    println!(
        "{weather:?} for {} s: no command took 10 s, nothing in the guest's log; drained after {drained} s; {} calls hurt; \
         the status said: {reason}",
        time.as_secs(),
        proxy.hurt()
    );
    Ok(())
}

/// All of it is in the bucket, once and right: another gateway, which has nothing else, says the same.
fn elsewhere(dir: &Path, store: &Store, writer: &mut Writer) -> Result {
    let other = dir.join("other");
    std::fs::create_dir(&other)?;
    let mut serve = Serve::start(&other)?;
    let url = format!("s3://tide/outage?endpoint=http://127.0.0.1:{}", store.port());
    serve.tell(&["bucket", "add", "store", &url])?;
    serve.tell(&["volume", "adopt", "checked"])?;
    writer.verify(&serve.url("checked"))?;
    serve.stop()
}

fn volumes(serve: &Serve) -> Result<Vec<serde_json::Value>> {
    let status = serve.status()?;
    Ok(status["volumes"].as_array().cloned().unwrap_or_default())
}

fn trouble(serve: &Serve) -> Result<Option<String>> {
    Ok(volumes(serve)?.iter().find_map(|v| v["trouble"].as_str().map(str::to_owned)))
}

fn dirty(serve: &Serve) -> Result<u64> {
    Ok(volumes(serve)?.iter().filter_map(|v| v["dirty"].as_u64()).sum())
}
