//! Bad weather for buckets while clients write (A5): the bucket is gone, refuses every second call, or its answers get lost; the
//! room for what it does not take is used up; and a neighbour's bucket is dead.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::store::Store;
use crate::blackbox::script;
use crate::process::{last_words, until};
use crate::product::{Layout, Serve};
use crate::soak::{Writer, progress};
use crate::weather::{Proxy, Weather};
use crate::{Result, guest};

mod full;
mod listing;
mod neighbour;

/// The verb `soak outage`.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long the weather is bad, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// How often the speed beside a dead neighbour is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only this one.
    #[arg(long)]
    scenario: Option<Scenario>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// The bucket is gone.
    Away,
    /// It answers every second call with 503.
    Refusing,
    /// Its answers get lost.
    Deaf,
    /// It is gone until journal and local segments are full.
    Full,
    /// It is dead for one volume; another one's goes on.
    Neighbour,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { minutes: 10, rounds: 5, scenario: None }
    }
}

pub fn main(arguments: &Arguments) -> Result {
    use Scenario::{Away, Deaf, Full, Neighbour, Refusing};
    let time = Duration::from_secs(arguments.minutes * 60);
    let wanted = |one: &Scenario| arguments.scenario.is_none_or(|only| only == *one);
    for scenario in [Away, Refusing, Deaf, Full, Neighbour].into_iter().filter(wanted) {
        let mut dir = tempfile::Builder::new().prefix("tidegate-outage.").tempdir()?;
        let done = match scenario {
            Away => weathered(dir.path(), Weather::Away, time),
            Refusing => weathered(dir.path(), Weather::Refusing, time),
            Deaf => weathered(dir.path(), Weather::Deaf, time),
            Full => full::run(dir.path()),
            Neighbour => neighbour::run(dir.path(), arguments.rounds),
        };
        done.map_err(|e| {
            dir.disable_cleanup(true);
            format!("{scenario:?}: {e}\n(logs and data are kept in {})", dir.path().display())
        })?;
    }
    Ok(())
}

/// Nothing is deleted for want of use meanwhile, so that every segment put can be accounted for.
const KEPT: &str = "[upload]\ngrace = \"24 h\"";

/// How long the load goes on before and after the bad weather.
const AROUND: Duration = Duration::from_secs(15);

/// Adds a bucket of the store; one that has only just started may be too slow for the probe at first.
fn add_bucket(serve: &Serve, name: &str, port: u16, prefix: &str) -> Result {
    let url = format!("s3://tide/{prefix}?endpoint=http://127.0.0.1:{port}");
    let add = || serve.tell(&["bucket", "add", name, &url]).map(drop);
    add().or_else(|_| add()).or_else(|_| add())
}

/// The prefix of everything in the store.
const PREFIX: &str = "outage";

fn weathered(dir: &Path, weather: Weather, time: Duration) -> Result {
    let store = Store::start(dir)?;
    let proxy = Proxy::start(store.port())?;
    let serve = Serve::with(dir, &Layout { more: KEPT, ..Layout::default() })?;
    add_bucket(&serve, "store", proxy.port(), PREFIX)?;
    serve.tell(&["volume", "create", "guest", "--size", "2GiB"])?;
    serve.tell(&["volume", "create", "checked", "--size", "256MiB"])?;
    let mut writer = Writer::new(dir, 5)?;
    let share = dir.join("share");
    std::fs::create_dir(&share)?;
    let seconds = (time + 2 * AROUND).as_secs();
    let text = format!("SECONDS_OF_LOAD={seconds}\n{}", include_str!("outage/load.sh"));
    let text = script(&serve.portal(), &Serve::target("guest"), &text);
    let output = share.join("output");
    let limit = time * 2 + Duration::from_secs(600);
    let plan = guest::Plan { share: &share, disks: &[], limit, output: Some(&output), command: &text };
    let mut guest = guest::Guest::boot(&plan)?;
    let (mut reason, mut most, mut before, mut behind) = (None, 0, None, 0);
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
        most = most.max(sum(&serve, "dirty")?);
        if bad {
            behind = sum(&serve, "uploaded")?;
            before.get_or_insert(behind);
        }
        if !guest.is_running()? {
            return Err(format!("the guest ended early: {}", last_words(&output)).into());
        }
        bar.set_position(elapsed.as_secs());
        std::thread::sleep(Duration::from_secs(3));
    }
    proxy.set(Weather::Fair);
    let fair = Instant::now();
    let ended = guest.wait()?;
    if ended.status != 0 {
        return Err(format!("the guest ended with status {}: {}", ended.status, last_words(&output)).into());
    }
    writer.verify(&serve.url("checked"))?;
    serve.drained(None, limit)?;
    bar.finish_and_clear();
    let drained = fair.elapsed().as_secs();
    writer.verify(&serve.url("checked"))?;
    let segments = stop_and_look_elsewhere(dir, serve, &store, &["checked", "guest"], |other| {
        writer.verify(&other.url("checked")).map(drop)
    })?;
    let uploaded = behind - before.unwrap_or_default();
    // A store that can be had at all must get on with it; retries see to that, and there is nothing to complain of.
    match (weather, &reason) {
        (Weather::Away, None) => return Err("status never said what was wrong with the bucket".into()),
        (Weather::Away, Some(_)) => {}
        _ if uploaded > time.as_secs() * 2_000_000 => {}
        _ => return Err(format!("only {uploaded} bytes were uploaded in bad weather").into()),
    }
    println!(
        "{weather:?} for {} s at 20 MB/s: no command took 10 s, nothing in the guest's log; {} MB uploaded meanwhile, at most \
         {} MB waited; {} s after the load everything was in the bucket: {segments} segments, each once; {} of {} calls hurt; \
         the status said: {}",
        time.as_secs(),
        uploaded / 1_000_000,
        most / 1_000_000,
        drained,
        proxy.hurt(),
        proxy.calls(),
        reason.as_deref().unwrap_or("nothing, for uploads went on"),
    );
    Ok(())
}

/// Stops a gateway that has drained; then all of it must be in the bucket, once and right: no number twice or left out, and another
/// gateway, which has nothing else, goes on behind the last of them and says the same. Gives how many segments there are.
fn stop_and_look_elsewhere(
    dir: &Path,
    mut serve: Serve,
    store: &Store,
    volumes: &[&str],
    look: impl FnOnce(&mut Serve) -> Result,
) -> Result<u64> {
    let image = |name: &str| -> Result<String> {
        Ok(serve.volume(name)?["image"].as_str().unwrap_or_default().to_owned())
    };
    let images = volumes.iter().map(|name| image(name)).collect::<Result<Vec<_>>>()?;
    serve.stop()?;
    let counts = images
        .iter()
        .map(|image| listing::one_owner(store.port(), PREFIX, image))
        .collect::<Result<Vec<u64>>>()?;
    let other = dir.join("other");
    std::fs::create_dir(&other)?;
    let mut serve = Serve::with(&other, &Layout { more: KEPT, ..Layout::default() })?;
    add_bucket(&serve, "store", store.port(), PREFIX)?;
    for name in volumes {
        serve.tell(&["volume", "adopt", name])?;
    }
    look(&mut serve)?;
    serve.stop()?;
    for (image, count) in images.iter().zip(&counts) {
        listing::next_owner(store.port(), PREFIX, image, *count)?;
    }
    Ok(counts.iter().sum())
}

fn trouble(serve: &Serve) -> Result<Option<String>> {
    Ok(serve.volumes()?.iter().find_map(|v| v["trouble"].as_str().map(str::to_owned)))
}

/// A number of all volumes together.
fn sum(serve: &Serve, what: &str) -> Result<u64> {
    Ok(serve.volumes()?.iter().filter_map(|v| v[what].as_u64()).sum())
}
