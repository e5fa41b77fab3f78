//! Probes the bucket at a URL and runs the whole contract against it:
//! `cargo run -p tidegate-bucket --example contract -- 's3://bucket?endpoint=http://127.0.0.1:8333'`.
//! Credentials come from the cloud's own environment variables. It exits with 1 if anything fails.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use base::{Clock, Entropy, Error, ErrorKind, Result, SeededEntropy, UnixMillis};
use bucket::{Bucket, Metered, OpenOptions, contract, open, probe};

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // a program of its own has to take the time from somewhere
    fn now(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_millis() as u64)
    }
}

/// Names that no other run uses.
fn chance() -> Result<SeededEntropy> {
    let mut seed = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut seed))
        .map_err(|e| Error::caused(ErrorKind::Internal, "cannot read /dev/urandom: run this on Linux", e))?;
    Ok(SeededEntropy::new(u64::from_le_bytes(seed)))
}

async fn run(url: &str) -> Result<()> {
    let entropy = chance()?;
    let options = OpenOptions { make_directory: true, ..OpenOptions::new(Arc::new(SystemClock)) };
    let metered = Arc::new(Metered::new(open(url, &options)?));
    let bucket: Arc<dyn Bucket> = metered.clone();
    let report = probe(&bucket, &entropy as &dyn Entropy).await?;
    println!("probe: {report:?}");
    let report = contract::run(&bucket, &entropy as &dyn Entropy, contract::Scope::default()).await?;
    report.passed.iter().for_each(|name| println!("passed: {name}"));
    report.absent.iter().for_each(|(name, why)| println!("absent: {name}: {why}"));
    for (operation, stats) in metered.snapshot() {
        let (median, late) = (stats.latency.quantile(500), stats.latency.quantile(990));
        println!(
            "{}: {} calls, half within {median:?}, 99 % within {late:?}",
            operation.as_str(),
            stats.calls
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("usage: contract URL");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.expect("a runtime needs no more than a few descriptors").block_on(run(&url)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("failed: {e}");
            ExitCode::FAILURE
        }
    }
}
