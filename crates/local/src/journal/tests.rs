mod world;

use std::task::Context;

use super::*;
use base::Span;
use tokio::sync::oneshot;
use world::*;

use crate::{SimDisk, SimLatency};

fn image(n: u8) -> ImageId {
    ImageId([n; 16])
}

fn data(seq: u64, sectors: u64) -> Record {
    let mut payload = base::AlignedBuf::zeroed((sectors * 512) as usize);
    payload.fill(seq as u8);
    Record {
        epoch: Epoch(1),
        seq: Seq(seq),
        kind: RecordKind::Data,
        span: Span::new(seq, sectors),
        payload: Payload::new(vec![payload.into_bytes()]),
    }
}

/// Appends and waits until it is durable.
async fn write(handle: &OwnerHandle, record: Record) -> Result<()> {
    let (tx, rx) = oneshot::channel();
    handle.append(record, Some(tx))?;
    rx.await.expect("the journal answers")
}

/// C01, A3: whatever was acknowledged is found again, in order, unchanged, and nothing else, whenever the power goes off.
#[test]
fn acknowledged_records_survive_power_cuts() {
    let (mut appended, mut recovered) = (0, 0);
    for seed in 0..1500 {
        let world = block_on(lives(seed, small(), 6)).unwrap();
        appended += world.appended;
        recovered += world.recovered;
    }
    assert!(appended > 200_000 && recovered > 100_000, "{appended} appended, {recovered} recovered");
}

/// The same run, stopped at every single write, sync and change of a name.
#[test]
fn every_point_of_a_run_can_be_the_last() {
    let options = JournalOptions { mark_delay: Duration::from_millis(5), ..small() };
    let points = block_on(async {
        let mut world = World::new(77, options.clone());
        world.live(0, 120).await.unwrap();
        world.disk.counts().crash_points()
    });
    assert!(points > 60, "{points}");
    for point in 1..=points {
        for keep in 0..3 {
            block_on(async {
                let mut world = World::new(77, options.clone());
                world.disk = SimDisk::new(keep);
                world.live(point, 120).await.unwrap();
                // A second cut while it recovers.
                world.live(1 + point % 4, 3).await.unwrap();
                world.open().await.unwrap_or_else(|e| panic!("point {point}, {keep}: {e}"));
            });
        }
    }
}

/// A3: each rule is broken on purpose, and the checker notices.
#[test]
fn the_checker_notices_every_broken_rule() {
    let broken = |sabotage| JournalOptions { sabotage: Some(sabotage), ..small() };
    for sabotage in
        [Sabotage::SkipSync, Sabotage::AckBeforeSync, Sabotage::SkipCrc, Sabotage::IgnoreGeneration]
    {
        let noticed = (0..400).find_map(|seed| block_on(lives(seed, broken(sabotage), 8)).err());
        assert!(noticed.is_some(), "{sabotage:?} went unnoticed");
    }
}

/// A file that the newest durable header lists is not written over, even when nobody needs it any more. With a long table a header
/// spans sectors and can be torn; then the listed file is missed.
#[test]
fn a_listed_file_is_not_written_over() {
    let run = async |sabotage, cut: u64, keep: u64| -> Result<()> {
        let options = JournalOptions { capacity: 60 * (64 << 10), file_size: 64 << 10, sabotage, ..small() };
        let disk = SimDisk::new(keep);
        let (journal, _) = open(&disk, &options, 1).await?;
        let first = journal.attach(image(2), Arc::new(Seen::default()))?;
        let rest = journal.attach(image(1), Arc::new(Seen::default()))?;
        for seq in 1..=3 {
            write(&first, data(seq, 12)).await?; // they fill the first file
        }
        let mut seq = 0;
        while journal.usage().used < 25 * (40 << 10) {
            seq += 1;
            write(&rest, data(seq, 12)).await?;
        }
        first.release(Seq(3));
        disk.crash_at(cut);
        for _ in 0..20 {
            seq += 1;
            if write(&rest, data(seq, 12)).await.is_err() {
                break;
            }
        }
        disk.restart();
        let (_, recovery) = open(&disk, &options, 2).await?;
        assert!(recovery.owners[&image(1)].len() as u64 + 1 >= seq);
        Ok(())
    };
    let broken = |sabotage| {
        let runs = (1..20).flat_map(|cut| (0..4).map(move |keep| (cut, keep)));
        runs.filter(|(cut, keep)| block_on(run(sabotage, *cut, *keep)).is_err()).count()
    };
    assert_eq!(broken(None), 0);
    assert!(broken(Some(Sabotage::ReuseEarly)) > 0);
}

/// The same seed is the same world, to the byte on the disk.
#[test]
fn a_seed_is_a_world() {
    let digest = |seed| {
        let world = block_on(lives(seed, small(), 4)).unwrap();
        let files = world.disk.names().into_iter().map(|n| world.disk.contents(&n).unwrap());
        files.map(|f| base::checksum::crc64(&f)).collect::<Vec<_>>()
    };
    assert_eq!(digest(5), digest(5));
    assert_ne!(digest(5), digest(6));
}

/// Rot below the durable mark is reported with file and offset; a power cut's torn tail is not.
#[test]
fn rot_of_what_was_durable_is_refused_and_named() {
    block_on(async {
        let options = JournalOptions { capacity: 1 << 20, ..small() };
        let disk = SimDisk::new(3);
        let (journal, recovery) = open(&disk, &options, 1).await.unwrap();
        assert!(recovery.created && recovery.owners.is_empty());
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        for seq in 1..=30 {
            write(&handle, data(seq, 8)).await.unwrap();
        }
        journal.close().await.unwrap();
        drop((journal, handle));
        let (mut refused, mut harmless) = (0, 0);
        let used: Vec<String> = disk.names().into_iter().filter(|n| n.ends_with(".log")).collect();
        for name in &used {
            let before = disk.contents(name).unwrap();
            for at in (0..before.len()).step_by(509) {
                let copy = disk.fork(9);
                copy.rot(name, at as u64);
                match open(&copy, &options, 2).await {
                    Ok((_, recovery)) => {
                        // Nothing that was written can have been hit, unless it is the padding between or the last mark.
                        assert_eq!(recovery.owners[&image(1)].len(), 30, "{name} at {at}");
                        harmless += 1;
                    }
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                        assert!(
                            e.to_string().contains(name.as_str()) && e.to_string().contains("at "),
                            "{e}"
                        );
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 400 && harmless > 0, "{refused} refused, {harmless} harmless");
    });
}

/// A7: whatever bytes the files hold, opening answers, and what it gives out is what was written.
#[test]
fn any_damage_is_survived() {
    block_on(async {
        let disk = SimDisk::new(3);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        for seq in 1..=30 {
            write(&handle, data(seq, 1 + seq % 9)).await.unwrap();
        }
        journal.close().await.unwrap();
        let names: Vec<String> = disk.names();
        let rng = base::SeededEntropy::new(8);
        let mut opened = 0;
        for round in 0..400 {
            let copy = disk.fork(round);
            let name = &names[rng.below(names.len() as u64) as usize];
            let file = copy.mount().open(name).await.unwrap();
            for _ in 0..1 + rng.below(3) {
                // Whole blocks moved within a file are the hardest: every checksum in them is right.
                let (from, to) = (rng.below(file.len() / 4096) * 4096, rng.below(file.len() / 4096) * 4096);
                let mut block = file.read(from, 4096).await.unwrap().to_vec();
                match rng.below(3) {
                    0 => base::Entropy::fill(&rng, &mut block),
                    1 => block[rng.below(4096) as usize] ^= 1 << rng.below(8),
                    _ => {}
                }
                file.write_durable(to, &[Bytes::from(block)]).await.unwrap();
            }
            if rng.chance(1, 8) {
                let len = rng.below(file.len());
                file.set_len(len).await.unwrap();
            }
            if let Ok((journal, recovery)) = open(&copy, &small(), 2).await {
                opened += 1;
                for r in recovery.owners.get(&image(1)).into_iter().flatten() {
                    assert_eq!(
                        journal.read(r.location).await.unwrap(),
                        vec![r.seq.0 as u8; r.payload_len as usize]
                    );
                }
            }
        }
        assert!(opened > 20 && opened < 380, "{opened}");
    });
}

/// Without the mark that an idle journal writes, rot of the newest batch would pass for a torn tail.
#[test]
fn an_idle_journal_marks_what_is_durable() {
    block_on(async {
        for (idle, outcome) in
            [(Duration::from_millis(1), None), (Duration::from_millis(100), Some(ErrorKind::Corrupt))]
        {
            let disk = SimDisk::new(1);
            let (journal, _) = open(&disk, &small(), 1).await.unwrap();
            let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
            write(&handle, data(1, 8)).await.unwrap();
            tokio::time::sleep(idle).await;
            let location_of_payload = format::FILE_HEADER + format::BLOCK;
            let copy = disk.fork(2);
            copy.rot("journal/00000000.log", location_of_payload + 100);
            let opened = open(&copy, &small(), 2).await;
            assert_eq!(opened.as_ref().err().map(|e| e.kind()), outcome);
            if let Ok((_, recovery)) = opened {
                assert!(recovery.owners.is_empty() && recovery.torn_bytes == 8192);
            }
        }
    });
}

#[test]
fn a_failed_sync_poisons_the_journal() {
    block_on(async {
        for fail_write in [false, true] {
            let disk = SimDisk::new(1);
            let time = Duration::from_millis(1);
            disk.set_latency(SimLatency { sync: time, write: time, ..Default::default() });
            let (journal, _) = open(&disk, &small(), 1).await.unwrap();
            let seen = Arc::new(Seen::default());
            let handle = journal.attach(image(1), seen.clone()).unwrap();
            write(&handle, data(1, 1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let syncs = disk.counts().syncs;
            if fail_write {
                disk.fail_writes(1)
            } else {
                disk.fail_syncs(1)
            }
            let (first, second) = (oneshot::channel(), oneshot::channel());
            handle.append(data(2, 1), Some(first.0)).unwrap();
            if !fail_write {
                tokio::task::yield_now().await; // the first is being written when the second comes
            }
            handle.append(data(3, 1), Some(second.0)).unwrap();
            let waits = journal.clone();
            let waiter = tokio::join!(first.1, second.1, waits.reserve(1 << 30));
            assert_eq!(waiter.0.unwrap().unwrap_err().kind(), ErrorKind::Internal);
            assert_eq!(waiter.1.unwrap().unwrap_err().kind(), ErrorKind::Internal);
            assert!(waiter.2.is_err());
            assert_eq!(handle.append(data(4, 1), None).unwrap_err().kind(), ErrorKind::Internal);
            assert!(journal.try_reserve(512).is_none() && journal.poisoned().is_some());
            assert!(seen.poisoned.lock().as_ref().unwrap().contains("restart the gateway"));
            assert_eq!(seen.committed.lock().len(), 1);
            assert_eq!(journal.close().await.unwrap_err().kind(), ErrorKind::Internal);
            assert!(disk.counts().syncs <= syncs + 1, "a failed sync is never tried again");
        }
    });
}

/// A6: what has rotted since it was written is never handed out, and the error says where it is.
#[test]
fn a_rotten_payload_is_not_read() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let seen = Arc::new(Seen::default());
        let handle = journal.attach(image(1), seen.clone()).unwrap();
        write(&handle, data(1, 8)).await.unwrap();
        let (_, _, location) = seen.committed.lock()[0];
        assert_eq!(journal.read(location).await.unwrap(), vec![1; 4096]);
        let name = journal.shared().name_of(location.file);
        disk.rot(&name, location.offset + 100);
        for read in [journal.read(location).await, journal.try_read(location).map(Option::unwrap_or_default)]
        {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = error.to_string();
            assert!(text.contains(&name) && text.contains(&location.offset.to_string()), "{text}");
        }
    });
}

/// The same when a client's thread writes for itself: then too, nothing is written behind what failed, not even a mark.
#[test]
fn a_failed_sync_on_a_clients_thread_poisons_the_journal() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let seen = Arc::new(Seen::default());
        let handle = journal.attach(image(1), seen.clone()).unwrap();
        let alone = |seq| {
            let (tx, rx) = oneshot::channel();
            turn(true, || handle.append(data(seq, 1), Some(tx)).unwrap());
            rx
        };
        for seq in 1..=20 {
            alone(seq).await.unwrap().unwrap();
        }
        disk.fail_syncs(1);
        let mut failed = alone(21);
        let before = disk.counts();
        assert_eq!(failed.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Internal, "not on this thread");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let after = disk.counts();
        assert_eq!((after.writes, after.syncs), (before.writes, before.syncs));
        assert_eq!(seen.committed.lock().len(), 20);
        assert!(seen.poisoned.lock().is_some());
        assert_eq!(journal.close().await.unwrap_err().kind(), ErrorKind::Internal);
    });
}

/// A waker that carries something out on the thread that wakes.
struct Wakes(Mutex<Box<dyn FnMut() + Send>>);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        (self.0.lock())()
    }
}

fn on_wake(work: impl FnMut() + Send + 'static) -> std::task::Waker {
    Arc::new(Wakes(Mutex::new(Box::new(work)))).into()
}

/// Whoever waits for the committer when a write fails finds it gone and the journal stopped: it must not write the next batch in
/// the failed one's place. Of this thread's write and of the journal's own (C01).
#[test]
fn nobody_commits_behind_a_failed_write() {
    for alone in [true, false] {
        let disk = SimDisk::new(1);
        let found = block_on(async {
            let (journal, _) = open(&disk, &small(), 1).await.unwrap();
            let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
            let append = |seq| {
                let (tx, rx) = oneshot::channel();
                turn(alone, || handle.append(data(seq, 1), Some(tx)).unwrap());
                rx
            };
            for seq in 1..=20 {
                append(seq).await.unwrap().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            disk.fail_syncs(1);
            // Told of the failure, while the committer is still held, somebody queues for it; and looks when it comes free.
            let found = Arc::new(Mutex::new(None));
            let shared = journal.shared().clone();
            let free = {
                let (shared, found) = (shared.clone(), found.clone());
                on_wake(move || {
                    let stopped = matches!(shared.state.lock().phase, Phase::Poisoned(_));
                    found.lock().get_or_insert(stopped);
                })
            };
            let next: Arc<Mutex<Option<base::BoxFuture<'static, bool>>>> = Arc::default();
            let told = {
                let (next, free) = (next.clone(), free.clone());
                on_wake(move || {
                    let shared = shared.clone();
                    let mut lock: base::BoxFuture<'static, bool> =
                        Box::pin(async move { shared.committer.lock().await.is_none() });
                    assert!(lock.as_mut().poll(&mut Context::from_waker(&free)).is_pending(), "it is held");
                    *next.lock() = Some(lock);
                })
            };
            let (tx, mut failed) = oneshot::channel();
            assert!(std::pin::Pin::new(&mut failed).poll(&mut Context::from_waker(&told)).is_pending());
            turn(alone, || handle.append(data(21, 1), Some(tx)).unwrap());
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(failed.try_recv().unwrap().unwrap_err().kind(), ErrorKind::Internal);
            let next = next.lock().take().expect("somebody was told");
            let gone = next.await;
            let stopped = found.lock().take();
            (stopped, gone)
        });
        assert_eq!(found, (Some(true), true), "alone: {alone}");
    }
}

#[test]
fn records_queued_together_share_one_sync() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &JournalOptions::default(), 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        let other = journal.attach(image(2), Arc::new(Seen::default())).unwrap();
        let before = disk.counts();
        let mut waiting = Vec::new();
        for seq in 1..=32 {
            for handle in [&handle, &other] {
                let (tx, rx) = oneshot::channel();
                handle.append(data(seq, 8), Some(tx)).unwrap();
                waiting.push(rx);
            }
        }
        for rx in waiting {
            rx.await.unwrap().unwrap();
        }
        let after = disk.counts();
        assert_eq!((after.syncs - before.syncs, after.writes - before.writes), (1, 1));
        // Two header blocks and 64 payloads of a block each: nothing is padded or written twice.
        assert_eq!(after.bytes_written - before.bytes_written, (2 + 64) * 4096);
        assert_eq!(handle.durable(), Seq(32));
        assert_eq!(handle.usage(), OwnerUsage { bytes: 32 * 4096, records: 32, rank: Some(0) });
    });
}

#[test]
fn reservations_are_kept_and_files_come_round() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut seq = 0;
        // Reserve everything there is, then use it in records of the worst kind: none may be refused.
        for _ in 0..40 {
            let mut held = Vec::new();
            loop {
                while let Some(r) = journal.try_reserve(4096) {
                    held.push(r);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                if journal.usage().available < Journal::cost(4096) {
                    break;
                }
            }
            assert!(held.len() > 5, "{}", held.len());
            let full = handle.append(data(seq + 1, 8), None).unwrap_err();
            assert_eq!(full.kind(), ErrorKind::NoSpace);
            for room in held {
                seq += 1;
                let (tx, rx) = oneshot::channel();
                handle.append_reserved(data(seq, 8), room, Some(tx)).unwrap();
                rx.await.unwrap().unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await; // a mark for each
            }
            assert_eq!(journal.usage().pinned_by, Some(image(1)));
            // Control records still fit: they are what empties a full journal.
            seq += 1;
            let state = Record {
                kind: RecordKind::State,
                payload: Payload::new(vec![Bytes::from(vec![1; 4096])]),
                ..data(seq, 0)
            };
            write(&handle, state).await.unwrap();
            handle.release(Seq(seq));
            assert_eq!(handle.usage(), OwnerUsage::default());
        }
        assert!(seq > 300);
        let files = disk.names().iter().filter(|name| name.ends_with(".log")).count();
        assert!(files <= 4 + 2, "{files} files");
    });
}

#[test]
fn waiting_for_room_is_first_come_first_served() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) =
            open(&disk, &JournalOptions { max_reserved: 32 << 10, ..small() }, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let held = journal.try_reserve(8 << 10).unwrap();
        let order = Mutex::new(Vec::new());
        let waiter = |n: u32, payload| {
            let (journal, order) = (&journal, &order);
            async move {
                let r = journal.reserve(payload).await.unwrap();
                order.lock().push(n);
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop(r);
            }
        };
        let freeing = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(journal.try_reserve(512).is_none(), "nobody overtakes those who wait");
            drop(held);
        };
        tokio::join!(waiter(1, 12 << 10), waiter(2, 512), waiter(3, 12 << 10), freeing);
        assert_eq!(*order.lock(), [1, 2, 3]);
        assert!(journal.reserve(1 << 20).await.is_err(), "longer than a record can be");
    });
}

#[test]
fn one_owners_old_records_pin_only_their_file() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let stuck = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        let busy = journal.attach(image(2), Arc::new(Seen::default())).unwrap();
        write(&stuck, data(1, 8)).await.unwrap();
        for seq in 1..=300 {
            let room = journal.reserve(4096).await.unwrap();
            let (tx, rx) = oneshot::channel();
            busy.append_reserved(data(seq, 8), room, Some(tx)).unwrap();
            rx.await.unwrap().unwrap();
            if seq >= 4 {
                busy.release(Seq(seq - 3));
            }
        }
        assert_eq!((stuck.usage().rank, journal.usage().pinned_by), (Some(0), Some(image(1))));
        assert!(busy.usage().rank.unwrap() >= 1);
        journal.close().await.unwrap();
        let (journal, recovery) = open(&disk, &small(), 2).await.unwrap();
        assert_eq!(recovery.owners[&image(1)].len(), 1);
        let found = &recovery.owners[&image(2)];
        assert_eq!(found.last().unwrap().seq, Seq(300));
        assert!(found.windows(2).all(|w| w[1].seq == w[0].seq.next()), "what lies before a gap is dropped");
        assert_eq!(journal.owners(), [image(1), image(2)]);
        journal.release_owner(image(1));
        journal.release_owner(image(2));
        assert!(journal.owners().is_empty() && journal.usage().used == 0);
    });
}

#[test]
fn records_set_aside_are_freed_only_by_name() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        for seq in 1..=5 {
            write(&handle, data(seq, 1)).await.unwrap();
        }
        handle.abandon(Epoch(1));
        let again = Record { epoch: Epoch(2), ..data(3, 1) };
        write(&handle, again).await.unwrap();
        handle.release(Seq(100));
        assert_eq!(handle.usage().records, 5);
        handle.release_abandoned(Epoch(1));
        assert_eq!(handle.usage().records, 0);
    });
}

#[test]
fn wrong_records_are_refused_at_once() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        assert_eq!(
            journal.attach(image(1), Arc::new(Seen::default())).unwrap_err().kind(),
            ErrorKind::Exists
        );
        handle.append(data(7, 1), None).unwrap();
        let refused = [
            data(9, 1),
            data(7, 1),
            Record { epoch: Epoch(0), ..data(8, 1) },
            Record { kind: RecordKind::Zero, ..data(8, 1) },
            Record { span: Span::new(0, 2), ..data(8, 1) },
            Record { span: Span::new(u64::MAX, 1), ..data(8, 1) },
            data(8, 200),
        ];
        for record in refused {
            assert_eq!(handle.append(record, None).unwrap_err().kind(), ErrorKind::Invalid);
        }
        handle.append(data(8, 1), None).unwrap();
        journal.close().await.unwrap();
        assert_eq!(handle.append(data(9, 1), None).unwrap_err().kind(), ErrorKind::Unavailable);
        handle.detach();
    });
}

#[test]
fn a_foreign_cut_or_homeless_file_is_refused() {
    block_on(async {
        let make = async |seed| {
            let disk = SimDisk::new(seed);
            let (journal, _) = open(&disk, &small(), seed).await.unwrap();
            let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
            write(&handle, data(1, 1)).await.unwrap();
            journal.close().await.unwrap();
            disk
        };
        let (a, b) = (make(1).await, make(2).await);
        let put = async |disk: &SimDisk, name: &str, bytes: Vec<u8>| {
            let mount = disk.mount();
            mount.remove(name).await.unwrap();
            let file = mount.create(name, bytes.len() as u64).await.unwrap();
            file.write_durable(0, &[Bytes::from(bytes)]).await.unwrap();
        };
        let log = "journal/00000000.log";
        let foreign = a.fork(1);
        put(&foreign, log, b.contents(log).unwrap()).await;
        assert_eq!(open(&foreign, &small(), 3).await.unwrap_err().kind(), ErrorKind::Denied);
        let moved = a.fork(1);
        put(&moved, "journal/00000007.log", a.contents(log).unwrap()).await;
        assert_eq!(open(&moved, &small(), 3).await.unwrap_err().kind(), ErrorKind::Corrupt);
        let cut = a.fork(1);
        put(&cut, log, a.contents(log).unwrap()[..50_000].to_vec()).await;
        assert_eq!(open(&cut, &small(), 3).await.unwrap_err().kind(), ErrorKind::Corrupt);
        for needed in ["journal/identity", "journal/starts"] {
            let homeless = a.fork(1);
            homeless.mount().remove(needed).await.unwrap();
            assert_eq!(
                open(&homeless, &small(), 3).await.unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{needed}"
            );
        }
        let gone = a.fork(1);
        gone.mount().remove(log).await.unwrap();
        assert!(
            open(&gone, &small(), 3).await.is_ok_and(|(_, r)| r.owners.is_empty()),
            "the only file there was"
        );
    });
}

/// A full file system shows up as a refusal to promise, never as a failed write.
#[test]
fn a_full_disk_refuses_room_and_does_not_poison() {
    block_on(async {
        let disk = SimDisk::new(1);
        disk.set_capacity(3 * (96 << 10) + 3 * 4096);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
        let mut seq = 0;
        for round in 1..200 {
            while let Some(room) = journal.try_reserve(2048) {
                seq += 1;
                handle.append_reserved(data(seq, 4), room, None).unwrap();
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(journal.poisoned().is_none());
            handle.release(Seq(seq));
            assert!(seq > round, "it goes on in the files it has");
        }
    });
}

/// Nothing is taken while it refuses, whoever waits is told, and what was there before can be read and released.
#[test]
fn a_journal_that_refuses_takes_nothing_until_it_is_told_to() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk, &small(), 1).await.unwrap();
        let seen = Arc::new(Seen::default());
        let handle = journal.attach(image(1), seen).unwrap();
        write(&handle, data(1, 4)).await.unwrap();
        let mut held = Vec::new();
        while let Some(room) = journal.try_reserve(2048) {
            held.push(room);
        }
        let gone = async {
            tokio::task::yield_now().await;
            journal.refuse(Some(Error::new(ErrorKind::Denied, "the disk is gone")));
        };
        let (waited, ()) = tokio::join!(journal.reserve(2048), gone);
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(journal.refusal().unwrap().kind(), ErrorKind::Denied);
        // With room of its own, with room that it was given before, and for what needs none.
        let barrier = Record { kind: RecordKind::Barrier, ..data(2, 0) };
        for refused in [
            handle.append(data(2, 4), None),
            handle.append_reserved(data(2, 4), held.pop().unwrap(), None),
            handle.append(barrier, None),
        ] {
            assert!(refused.unwrap_err().to_string().contains("the disk is gone"));
        }
        held.clear();
        assert!(journal.try_reserve(2048).is_none());
        journal.refuse(None);
        assert!(journal.refusal().is_none());
        write(&handle, data(2, 4)).await.unwrap();
    });
}

/// Restarted again and again while full, with nothing released, it still opens and takes control records.
#[test]
fn a_full_journal_can_be_restarted_many_times() {
    block_on(async {
        let disk = SimDisk::new(1);
        let mut seq = 0;
        for life in 0..12 {
            let (journal, recovery) = open(&disk, &small(), life).await.unwrap();
            let found = recovery.owners.get(&image(1)).map_or(0, Vec::len) as u64;
            assert_eq!(found, seq);
            let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            while let Some(room) = journal.try_reserve(4096) {
                seq += 1;
                handle
                    .append_reserved(Record { epoch: Epoch(life + 1), ..data(seq, 8) }, room, None)
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seq += 1;
            let barrier = Record { kind: RecordKind::Barrier, epoch: Epoch(life + 1), ..data(seq, 0) };
            write(&handle, barrier).await.unwrap();
            disk.crash();
        }
        let (journal, _) = open(&disk, &small(), 99).await.unwrap();
        journal.release_owner(image(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(journal.try_reserve(4096).is_some(), "{:?}", journal.usage());
    });
}

/// Restarted again and again, with everything released each time, it keeps to its files and takes as much as ever. A start knows of no release
/// before the images are open, so the first header of each run lists all that there is.
#[test]
fn restarts_alone_use_no_files_up() {
    block_on(async {
        let disk = SimDisk::new(1);
        let (mut seq, mut most) = (0, 0);
        for life in 0..200 {
            let (journal, _) = open(&disk, &small(), life).await.unwrap();
            let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
            handle.release(Seq(seq));
            // In some runs more than the file holds that the run begins with.
            for _ in 0..if life % 20 == 19 { 60 } else { 1 } {
                seq += 1;
                let room = journal.reserve(8192).await.unwrap();
                let (done, written) = oneshot::channel();
                let record = Record { epoch: Epoch(life + 1), ..data(seq, 16) };
                handle.append_reserved(record, room, Some(done)).unwrap();
                written.await.unwrap().unwrap();
                handle.release(Seq(seq));
            }
            most = most.max(journal.usage().on_disk);
            if life % 3 == 0 {
                disk.crash();
            } else {
                handle.detach();
                journal.close().await.unwrap();
            }
        }
        let (journal, _) = open(&disk, &small(), 999).await.unwrap();
        let usage = journal.usage();
        assert!(most <= usage.most_on_disk + 3 * small().file_size, "{most}: {usage:?}");
    });
}

/// Files that must be kept are room that is gone, however little is in them: whoever asks how full the journal is must see it.
#[test]
fn a_file_with_one_needed_record_is_used_up() {
    block_on(async {
        let disk = SimDisk::new(1);
        for life in 0..3 {
            let (journal, _) = open(&disk, &small(), life).await.unwrap();
            let handle = journal.attach(image(1), Arc::new(Seen::default())).unwrap();
            write(&handle, Record { epoch: Epoch(life + 1), ..data(1, 8) }).await.unwrap();
            disk.crash();
        }
        let (journal, _) = open(&disk, &small(), 9).await.unwrap();
        let Room { used, capacity } = journal.room();
        assert!(used >= capacity / 4 * 3, "{used} of {capacity}, which are four files");
        journal.release_owner(image(1));
        assert_eq!(journal.room().used, 0);
    });
}
