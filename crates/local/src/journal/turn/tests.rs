use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{AlignedBuf, Epoch, Error, ImageId, Seq, Span};
use tokio::sync::oneshot;

use super::*;
use crate::{
    Committed, Journal, JournalOptions, OsDisk, OsEntropy, Owner, OwnerHandle, Payload, Record, RecordKind,
    Reservation, TokioSpawn,
};

const IMAGE: ImageId = ImageId([6; 16]);

/// Counts the records that were committed by the thread that made it.
struct Here(std::thread::ThreadId, AtomicU64);

impl Owner for Here {
    fn committed(&self, batch: Vec<Committed>) {
        if std::thread::current().id() == self.0 {
            self.1.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
    }
    fn poisoned(&self, error: &Error) {
        panic!("{error}");
    }
}

fn append(handle: &OwnerHandle, seq: u64, room: Reservation) -> oneshot::Receiver<base::Result<()>> {
    let (done, committed) = oneshot::channel();
    let mut payload = AlignedBuf::zeroed(4096);
    payload.fill(seq as u8);
    let record = Record {
        epoch: Epoch(1),
        seq: Seq(seq),
        kind: RecordKind::Data,
        span: Span::new(seq * 8, 8),
        payload: Payload::new(vec![payload.into_bytes()]),
    };
    handle.append_reserved(record, room, Some(done)).unwrap();
    committed
}

/// Room may have to be waited for: the next file is made ready beside the writing.
async fn reserve(journal: &Journal) -> Reservation {
    journal.reserve(4096).await.unwrap()
}

/// C01: who is alone writes with its own thread, through changes of files too; what was acknowledged is there afterwards.
#[test]
fn who_is_alone_writes_itself() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { capacity: 8 << 20, file_size: 1 << 20, ..JournalOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let spawn = Arc::new(TokioSpawn::new(runtime.handle().clone()));
    let open = async || {
        // Threads of the journal before may hold the disk for a moment longer.
        let disk = loop {
            match OsDisk::open(dir.path()) {
                Err(e) if e.kind() == base::ErrorKind::Busy => {
                    tokio::time::sleep(Duration::from_millis(10)).await
                }
                opened => break opened.unwrap(),
            }
        };
        Journal::open(disk, options.clone(), spawn.clone(), Arc::new(OsEntropy)).await.unwrap()
    };
    runtime.block_on(async {
        let (journal, _) = open().await;
        let here = Arc::new(Here(std::thread::current().id(), AtomicU64::new(0)));
        let handle = journal.attach(IMAGE, here.clone()).unwrap();
        for seq in 1..=100 {
            let room = reserve(&journal).await;
            turn(false, || append(&handle, seq, room)).await.unwrap().unwrap();
        }
        assert_eq!(here.1.load(Ordering::Relaxed), 0, "others would have to wait");
        for seq in 101..=400 {
            let room = reserve(&journal).await;
            let mut committed = turn(true, || append(&handle, seq, room));
            let at_once = committed.try_recv().is_ok();
            if !at_once {
                committed.await.unwrap().unwrap();
            }
        }
        assert!(here.1.load(Ordering::Relaxed) > 10, "{:?}", here.1);
        let alone = here.1.load(Ordering::Relaxed);
        // Several records go together, and not with this thread.
        let (room, more) = (reserve(&journal).await, reserve(&journal).await);
        let (one, two) = turn(true, || (append(&handle, 401, room), append(&handle, 402, more)));
        one.await.unwrap().unwrap();
        two.await.unwrap().unwrap();
        assert_eq!(here.1.load(Ordering::Relaxed), alone);
        journal.close().await.unwrap();
    });
    runtime.block_on(async {
        let (journal, recovery) = open().await;
        let found = &recovery.owners[&IMAGE];
        assert_eq!(found.len(), 402);
        for r in found {
            assert!(journal.read(r.location).await.unwrap().iter().all(|b| *b == r.seq.0 as u8));
        }
    });
}
