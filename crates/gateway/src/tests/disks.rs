//! Cache disks that cannot be used, go away, or are smaller than what they were given.

use super::*;

/// A configuration with a second cache disk, `hdd`.
fn two_disks(scratch: &Scratch) -> Config {
    let mut config = config(&scratch.0, "one", "1 h");
    let path = scratch.0.join("one/hdd");
    config.disks.push(crate::DiskConfig { name: "hdd".into(), path, ..config.disks[0].clone() });
    config
}

fn trouble(gateway: &Gateway, disk: &str) -> Option<String> {
    gateway.view().disks.into_iter().find(|view| view.name == disk).unwrap().trouble
}

fn said(gateway: &Gateway, what: &str) -> usize {
    gateway.view().events.iter().filter(|event| event.text.contains(what)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_disk_that_cannot_be_used_does_not_keep_the_others_from_serving() {
    let scratch = Scratch::new("one-of-two");
    let one = start(two_disks(&scratch)).await.unwrap();
    one.add_bucket("main", &scratch.url()).await.unwrap();
    for (name, disk) in [("vol1", "ssd"), ("vol2", "hdd")] {
        let wanted = CreateVolume { disk: Some(disk.into()), ..wanted(name, ByteSize::mib(64)) };
        one.create_volume(wanted).await.unwrap();
        write(&one, name, 8, 7).await;
    }
    one.stop(|_| ()).await.unwrap();
    drop(one);

    let (disk, away) = (scratch.0.join("one/hdd"), scratch.0.join("away"));
    std::fs::rename(&disk, &away).unwrap();
    let one = start(two_disks(&scratch)).await.unwrap();
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    until(|| one.show_volume("vol2").unwrap().reason.is_some()).await;
    let waiting = one.show_volume("vol2").unwrap();
    assert_eq!(waiting.state, "opening");
    for why in [waiting.reason.unwrap(), trouble(&one, "hdd").unwrap()] {
        assert!(why.contains("mounted?") && why.contains("tried again"), "{why}");
    }
    assert_eq!((trouble(&one, "ssd"), said(&one, "cache disk hdd cannot be used")), (None, 1));
    assert_eq!(one.buckets()[0].trouble, None, "it is no matter of the bucket");
    // New volumes go to the other one, and nothing is deleted whose forks cannot be looked for.
    assert_eq!(one.create_volume(wanted("vol3", ByteSize::mib(64))).await.unwrap().disk, "ssd");
    let there = CreateVolume { disk: Some("hdd".into()), ..wanted("vol4", ByteSize::mib(64)) };
    assert_eq!(one.create_volume(there).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(one.delete_volume("vol3", false).await.unwrap_err().kind(), ErrorKind::Unavailable);

    // It comes back, and what was written to it is there.
    std::fs::remove_dir_all(&disk).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    until(|| one.show_volume("vol2").unwrap().state == "open").await;
    assert_eq!((byte(&one, "vol2", 8).await, trouble(&one, "hdd")), (7, None));
    assert_eq!(said(&one, "cache disk hdd can be used now"), 1);
    one.delete_volume("vol3", false).await.unwrap();
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_disk_whose_directory_goes_away_takes_no_writes_until_it_is_back() {
    let scratch = Scratch::new("goes");
    let one = start(two_disks(&scratch)).await.unwrap();
    one.add_bucket("main", &scratch.url()).await.unwrap();
    for (name, disk) in [("vol1", "ssd"), ("vol2", "hdd")] {
        let wanted = CreateVolume { disk: Some(disk.into()), ..wanted(name, ByteSize::mib(64)) };
        one.create_volume(wanted).await.unwrap();
        write(&one, name, 8, 7).await;
    }
    let (disk, away) = (scratch.0.join("one/hdd"), scratch.0.join("away"));
    std::fs::rename(&disk, &away).unwrap();
    until(|| trouble(&one, "hdd").is_some_and(|why| why.contains("is empty or gone"))).await;
    // C01: nothing is acknowledged that would be lost with the process, registrations and the size neither (C05).
    let hurt = image(&one, "vol2");
    for refused in [
        hurt.admit(4096).await.map(drop),
        hurt.zero(Span::new(8, 1), true).await,
        hurt.set_state("pr", Some(Bytes::from_static(b"key"))).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.kind() == ErrorKind::Denied && refused.to_string().contains("writes are refused"));
    }
    assert!(hurt.try_admit(4096).is_none());
    // What was acknowledged before is read, and reaches the bucket.
    assert_eq!(byte(&one, "vol2", 8).await, 7);
    one.drain_volume("vol2").await.unwrap();
    write(&one, "vol1", 8, 8).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((said(&one, "is empty or gone"), trouble(&one, "ssd")), (1, None));
    std::fs::rename(&away, &disk).unwrap();
    until(|| trouble(&one, "hdd").is_none()).await;
    assert_eq!(said(&one, "it is where it was again"), 1);
    write(&one, "vol2", 8, 9).await;
    assert_eq!(byte(&one, "vol2", 8).await, 9);
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_disk_that_was_given_more_than_there_is_is_said_at_the_start() {
    let scratch = Scratch::new("promised");
    let mut config = two_disks(&scratch);
    for disk in &mut config.disks {
        disk.local_segments = ByteSize::mib(64);
    }
    let one = start(config.clone()).await.unwrap();
    assert_eq!(one.view().disks[1].warning, None);
    one.stop(|_| ()).await.unwrap();
    drop(one);
    config.disks[1].local_segments = ByteSize(1 << 60);
    let one = start(config).await.unwrap();
    for disk in one.view().disks {
        let warning = disk.warning.unwrap();
        assert!(warning.contains("of hdd and ssd together may take"), "{warning}");
        assert!(warning.contains("smaller in the configuration"), "{warning}");
    }
    assert_eq!(said(&one, "cache disk ssd: journal, cache and local_segments"), 1);
    one.stop(|_| ()).await.unwrap();
}

/// The catalog is damaged, and what it says is done: a volume that was not closed goes on where its newest writes are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_catalog_a_volume_finds_its_disk() {
    let scratch = Scratch::new("no-catalog");
    let one = start(two_disks(&scratch)).await.unwrap();
    one.add_bucket("main", &scratch.url()).await.unwrap();
    // Of two disks without volumes, the other one would be chosen.
    let there = CreateVolume { disk: Some("ssd".into()), ..wanted("vol1", ByteSize::mib(64)) };
    one.create_volume(there).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    let task = one.volumes.lock()["vol1"].clone();
    task.abandon_image().await;
    drop(task);
    one.stop(|_| ()).await.unwrap();
    drop(one);

    let data = scratch.0.join("one/data");
    std::fs::write(data.join("catalog.db"), [b'x'; 8192]).unwrap();
    let refused = start(two_disks(&scratch)).await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    for what in ["catalog.db-wal and catalog.db-shm", "--chap, --initiator, --network", "open to everybody"] {
        assert!(refused.to_string().contains(what), "{refused}");
    }
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::rename(data.join(name), scratch.0.join(name));
    }
    let one = start(two_disks(&scratch)).await.unwrap();
    one.add_bucket("main", &scratch.url()).await.unwrap();
    assert_eq!(one.adopt_volume(adopt("vol1", None)).await.unwrap().disk, "ssd");
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    one.stop(|_| ()).await.unwrap();
}

/// A cache disk that comes back while the catalog cannot be written for a moment is used once it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_comes_back_survives_a_busy_catalog() {
    let scratch = Scratch::new("g-disk");
    let one = start(two_disks(&scratch)).await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let (disk, away) = (scratch.0.join("one/hdd"), scratch.0.join("away"));
    std::fs::rename(&disk, &away).unwrap();
    let one = start(two_disks(&scratch)).await.unwrap();
    assert!(trouble(&one, "hdd").unwrap().contains("mounted?"));
    let other = rusqlite::Connection::open(scratch.0.join("one/data/catalog.db")).unwrap();
    other.execute_batch("begin immediate").unwrap();
    std::fs::remove_dir_all(&disk).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    until(|| trouble(&one, "hdd").is_some_and(|why| !why.contains("mounted?"))).await;
    other.execute_batch("rollback").unwrap();
    drop(other);
    until(|| trouble(&one, "hdd").is_none()).await;
    one.stop(|_| ()).await.unwrap();
}
