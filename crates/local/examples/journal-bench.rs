//! How fast the journal makes writes durable, beside the raw disk.
//!
//! `cargo run --release -p tidegate-local --example journal-bench -- [DIR]`
#![allow(clippy::disallowed_methods)] // a benchmark measures real time on a runtime of its own

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{AlignedBuf, Epoch, ImageId, Seq, Span};
use bytes::Bytes;
use local::{
    Committed, Disk, Journal, JournalOptions, OsDisk, OsEntropy, Owner, OwnerHandle, Payload, Record,
    RecordKind, TokioSpawn,
};
use parking_lot::Mutex;

const TIME: Duration = Duration::from_secs(3);

/// Releases what is durable at once, as if it had been uploaded.
#[derive(Default)]
struct Uploaded {
    newest: AtomicU64,
}

impl Owner for Uploaded {
    fn committed(&self, batch: Vec<Committed>) {
        if let Some(last) = batch.last() {
            self.newest.store(last.record.seq.0, Ordering::Relaxed);
        }
    }
    fn poisoned(&self, error: &base::Error) {
        eprintln!("{error}");
    }
}

struct Client {
    journal: Journal,
    handle: OwnerHandle,
    owner: Arc<Uploaded>,
    next: Mutex<u64>,
}

impl Client {
    async fn write(&self, payload: &Bytes) -> base::Result<()> {
        let room = self.journal.reserve(payload.len() as u64).await?;
        let (tx, rx) = tokio::sync::oneshot::channel();
        {
            let mut next = self.next.lock();
            *next += 1;
            let record = Record {
                epoch: Epoch(1),
                seq: Seq(*next),
                kind: RecordKind::Data,
                span: Span::new(0, payload.len() as u64 / 512),
                payload: Payload::new(vec![payload.clone()]),
            };
            self.handle.append_reserved(record, room, Some(tx))?;
        }
        let done = rx.await.unwrap_or_else(|_| Err(base::Error::internal("the journal is gone")));
        self.handle.release(Seq(self.owner.newest.load(Ordering::Relaxed)));
        done
    }
}

fn payload(len: usize) -> Bytes {
    let mut buf = AlignedBuf::zeroed(len);
    base::Entropy::fill(&OsEntropy, &mut buf);
    buf.into_bytes()
}

fn report(what: &str, times: &mut [Duration], len: usize, taken: Duration) {
    times.sort();
    let p = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    let rate = times.len() as f64 / taken.as_secs_f64();
    let mb = rate * len as f64 / 1e6;
    println!("{what:<38} {rate:>9.0}/s {mb:>8.1} MB/s   p50 {:>6} µs   p99 {:>6} µs", p(50), p(99));
}

fn raw(path: &Path, len: usize) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc_direct_sync()).open(path)?;
    let data = payload(len);
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIME {
        let at = (times.len() as u64 * len as u64) % (256 << 20);
        let begin = Instant::now();
        file.write_all_at(&data, at)?;
        times.push(begin.elapsed());
    }
    report(&format!("raw O_DIRECT|O_DSYNC, {} KiB", len >> 10), &mut times, len, start.elapsed());
    Ok(())
}

fn libc_direct_sync() -> i32 {
    (rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC).bits() as i32
}

async fn run(client: &Arc<Client>, len: usize, depth: usize) -> base::Result<()> {
    let data = payload(len);
    let start = Instant::now();
    let tasks: Vec<_> = (0..depth)
        .map(|_| {
            let (client, data) = (client.clone(), data.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < TIME {
                    let begin = Instant::now();
                    client.write(&data).await?;
                    times.push(begin.elapsed());
                }
                base::Result::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a writer does not panic")?);
    }
    report(&format!("journal, {} KiB, {depth} at a time", len >> 10), &mut times, len, start.elapsed());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = tempfile::tempdir_in(".")?;
    let dir = std::env::args().nth(1).map_or(own.path().to_owned(), Into::into);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let disk = OsDisk::open(&dir)?;
        disk.remove("raw").await?;
        disk.create("raw", 257 << 20).await?;
        let spawn = Arc::new(TokioSpawn::new(runtime.handle().clone()));
        let options = JournalOptions { capacity: 1 << 30, ..JournalOptions::default() };
        let (journal, _) = Journal::open(disk.clone(), options, spawn, Arc::new(OsEntropy)).await?;
        let owner = Arc::new(Uploaded::default());
        let handle = journal.attach(ImageId::generate(&OsEntropy), owner.clone())?;
        let client = Arc::new(Client { journal: journal.clone(), handle, owner, next: Mutex::new(0) });
        for _ in 0..2 {
            raw(&dir.join("raw"), 4096)?;
            run(&client, 4096, 1).await?;
            run(&client, 4096, 32).await?;
            raw(&dir.join("raw"), 1 << 20)?;
            run(&client, 1 << 20, 1).await?;
            run(&client, 1 << 20, 8).await?;
        }
        journal.release_owner(client.handle.id());
        journal.close().await?;
        disk.remove("raw").await?;
        Ok(())
    })
}
