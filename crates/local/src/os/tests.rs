#![allow(clippy::disallowed_methods)] // real time and threads are what is tested here

use std::sync::Arc;
use std::time::Duration;

use base::{AlignedBuf, Clock, Entropy, ErrorKind, ImageId, Seq, Spawn, Urgency};
use bytes::Bytes;

use super::*;
use crate::{
    Cache, CacheOptions, Journal, JournalOptions, LineKey, Lookup, Payload, Record, RecordKind, Spool,
};

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f)
}

fn bytes(byte: u8, len: usize) -> Bytes {
    let mut buf = AlignedBuf::zeroed(len);
    buf.fill(byte);
    buf.into_bytes()
}

#[test]
fn files_are_made_written_read_renamed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let disk = OsDisk::open(dir.path().join("deep/er")).unwrap();
        let file = disk.create("a/b/c", 1 << 20).await.unwrap();
        assert_eq!((file.len(), &file.read(0, 1 << 20).await.unwrap()[..]), (1 << 20, &vec![0; 1 << 20][..]));
        assert_eq!(disk.create("a/b/c", 1).await.unwrap_err().kind(), ErrorKind::Exists);
        // Aligned past the cache, odd through it, mixed, and overlapping: one file all the same.
        file.write_durable(8192, &[bytes(1, 4096), bytes(2, 8192)]).await.unwrap();
        file.write(8192 + 100, &[bytes(3, 10), Bytes::from_static(b"xyz")]).await.unwrap();
        file.write_warm(16384, &[bytes(4, 4096)]).await.unwrap();
        file.sync().await.unwrap();
        file.settle().await.unwrap();
        // A long one, of odd pieces, longer than the file was.
        let long = disk.create("long", 0).await.unwrap();
        let pieces: Vec<Bytes> = (0..300).map(|i| bytes(i as u8, 5000 + i)).collect();
        long.write(4096, &pieces).await.unwrap();
        long.sync().await.unwrap();
        assert_eq!(long.len(), 4096 + pieces.concat().len() as u64);
        assert_eq!(long.read(4096, pieces.concat().len()).await.unwrap(), pieces.concat());
        let read = file.read(8192, 12288).await.unwrap();
        assert_eq!(
            (read[99], read[100], &read[110..113], read[113], read[4096], read[8192]),
            (1, 3, &b"xyz"[..], 1, 2, 4)
        );
        let mut buf = [0; 3];
        assert!(
            file.try_read(8192 + 110, &mut buf).unwrap() && &buf == b"xyz",
            "what was just read is in memory"
        );
        assert_eq!(file.read((1 << 20) - 1, 2).await.unwrap_err().kind(), ErrorKind::Corrupt);
        let many: Vec<Bytes> = (0..3000).map(|i| Bytes::from(vec![i as u8; 7])).collect();
        file.write_durable(1, &many).await.unwrap();
        assert_eq!(file.read(1 + 7 * 2999, 7).await.unwrap(), vec![2999u32 as u8; 7]);
        disk.rename("a/b/c", "x/c").await.unwrap();
        assert_eq!(disk.list("a/b").await.unwrap(), []);
        assert_eq!(disk.list("x").await.unwrap(), [("c".to_owned(), 1 << 20)]);
        assert_eq!(disk.list_dirs("").await.unwrap(), ["a", "x"]);
        assert_eq!(disk.list("none").await.unwrap(), []);
        let again = disk.open("x/c").await.unwrap();
        again.set_len(10).await.unwrap();
        again.set_len(5000).await.unwrap();
        assert_eq!(again.read(10, 4990).await.unwrap(), vec![0; 4990]);
        again.write(4990, &[bytes(9, 20)]).await.unwrap();
        assert_eq!(again.len(), 5010);
        disk.remove("x/c").await.unwrap();
        disk.remove("x/c").await.unwrap();
        assert_eq!(disk.open("x/c").await.unwrap_err().kind(), ErrorKind::NotFound);
        for bad in ["", "/etc/passwd", "../x", "a//b", "a/./b"] {
            assert_eq!(disk.open(bad).await.unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert!(disk.free().await.unwrap() > 0);
    });
}

#[test]
fn one_process_uses_a_directory_and_leftovers_go() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let disk = OsDisk::open(dir.path()).unwrap();
        assert_eq!(OsDisk::open(dir.path()).unwrap_err().kind(), ErrorKind::Busy);
        disk.create("d/whole", 10).await.unwrap();
        drop(disk);
        std::fs::write(dir.path().join("d/half.creating"), b"x").unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        assert_eq!(disk.list("d").await.unwrap(), [("whole".to_owned(), 10)]);
        assert_eq!(disk.list("").await.unwrap(), []);
        assert!(!dir.path().join("d/half.creating").exists());
    });
}

struct Quiet;
impl crate::Owner for Quiet {
    fn committed(&self, _: Vec<crate::Committed>) {}
    fn poisoned(&self, _: &Error) {}
}

/// Threads that have said their last word may hold the disk for a moment longer.
async fn open_again(dir: &Path) -> Arc<OsDisk> {
    for _ in 0..1000 {
        match OsDisk::open(dir) {
            Err(e) if e.kind() == ErrorKind::Busy => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("{} did not come free", dir.display());
}

/// The whole of this crate on a real file system, with real threads, over a restart.
#[test]
fn journal_spool_and_cache_work_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let image = ImageId([5; 16]);
    let options = JournalOptions { capacity: 8 << 20, file_size: 1 << 20, ..JournalOptions::default() };
    let key = LineKey { image, epoch: 1, number: 1, line: 0, content: 0 };
    let cache_options = CacheOptions { capacity: 64 << 20, ..CacheOptions::default() };
    block_on(async {
        let disk: Arc<dyn Disk> = OsDisk::open(dir.path()).unwrap();
        let spawn = Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
        let (journal, _) =
            Journal::open(disk.clone(), options.clone(), spawn.clone(), Arc::new(OsEntropy)).await.unwrap();
        let handle = journal.attach(image, Arc::new(Quiet)).unwrap();
        for seq in 1..=600u64 {
            let room = journal.reserve(4096).await.unwrap();
            let (tx, rx) = tokio::sync::oneshot::channel();
            let payload =
                if seq % 3 == 0 { Bytes::from(vec![seq as u8; 4096]) } else { bytes(seq as u8, 4096) };
            let record = Record {
                epoch: base::Epoch(1),
                seq: Seq(seq),
                kind: RecordKind::Data,
                span: base::Span::new(seq * 8, 8),
                payload: Payload::new(vec![payload]),
            };
            handle.append_reserved(record, room, Some(tx)).unwrap();
            rx.await.unwrap().unwrap();
            if seq % 100 == 0 {
                handle.release(Seq(seq - 40));
            }
        }
        let spool = Spool::open(disk.clone()).await.unwrap();
        spool.put(image, "1-1.seg", &[bytes(7, 5000)]).await.unwrap();
        let cache = Cache::open(disk.clone(), cache_options.clone(), spawn).await.unwrap();
        assert!(cache.insert(key, bytes(8, 65536)));
        cache.close().await.unwrap();
        journal.close().await.unwrap();
    });
    block_on(async {
        let disk: Arc<dyn Disk> = open_again(dir.path()).await;
        let spawn = Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
        let (journal, recovery) =
            Journal::open(disk.clone(), options, spawn.clone(), Arc::new(OsEntropy)).await.unwrap();
        let found = &recovery.owners[&image];
        assert!(found.len() >= 40 && found.last().unwrap().seq == Seq(600));
        for r in found {
            assert_eq!(journal.read(r.location).await.unwrap(), vec![r.seq.0 as u8; 4096]);
        }
        let spool = Spool::open(disk.clone()).await.unwrap();
        assert_eq!(spool.get(image, "1-1.seg", 4990..5000).await.unwrap(), vec![7; 10]);
        let cache = Cache::open(disk, cache_options, spawn).await.unwrap();
        assert_eq!(cache.read(key, 65000, 536).await.unwrap(), vec![8; 536]);
        assert!(matches!(cache.try_read(key, 0, 100), Lookup::Hit(_) | Lookup::WouldBlock));
    });
}

#[test]
fn clock_entropy_and_threads_are_real() {
    assert!(SystemClock.now() > 1_700_000_000_000);
    assert_ne!(OsEntropy.next_u64(), OsEntropy.next_u64());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let spawn = TokioSpawn::new(runtime.handle().clone());
    let here = std::thread::current().id();
    let (tx, rx) = std::sync::mpsc::channel();
    let own = rustix::process::nice(0).unwrap();
    for (urgency, nice) in [(Urgency::Clients, own), (Urgency::Background, (own + 10).min(19))] {
        let (other, told) = std::sync::mpsc::channel();
        spawn.spawn_thread(
            "apart",
            urgency,
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let thread = std::thread::current();
                let nice = rustix::process::nice(0).unwrap();
                let _ = other.send((thread.id(), thread.name().map(str::to_owned), nice));
            }),
        );
        let (thread, name, found) = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(thread != here && name.as_deref() == Some("apart"));
        assert_eq!(found, nice, "{urgency:?}");
    }
    spawn.spawn(
        "task",
        Box::pin(async move {
            let _ = tx.send(std::thread::current().id());
        }),
    );
    runtime.block_on(tokio::task::yield_now());
    assert_eq!(rx.recv_timeout(Duration::from_secs(10)).unwrap(), here);
}
