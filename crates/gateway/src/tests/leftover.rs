//! What stays in journals: of volumes that are gone, nothing; acknowledged writes of any other, until somebody says what becomes of
//! them (C01).

use super::*;
use crate::catalog::Settled;

/// Images that the journal holds something of.
fn owners(gateway: &Gateway) -> usize {
    gateway.ground.disks.get("ssd").unwrap().journal.owners().len()
}

fn events(gateway: &Gateway, text: &str) -> usize {
    gateway.view().events.iter().filter(|event| event.text.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_are_gone_leave_the_journal() {
    let scratch = Scratch::new("gone");
    for round in 0..4 {
        let one = gateway(&scratch.0, "one", "200 ms").await;
        if round == 0 {
            one.add_bucket("main", &scratch.url()).await.unwrap();
        }
        assert_eq!((owners(&one), one.forks().len()), (0, 0), "round {round}");
        assert_eq!(events(&one, "are free again") > 0, round > 0, "round {round}");
        for name in ["deleted", "released"] {
            one.create_volume(wanted(&format!("{name}{round}"), ByteSize::mib(64))).await.unwrap();
            write(&one, &format!("{name}{round}"), 8, 7).await;
        }
        one.delete_volume(&format!("deleted{round}"), false).await.unwrap();
        one.release_volume(&format!("released{round}")).await.unwrap();
        assert_eq!(owners(&one), 0, "round {round}");
        one.stop(|_| ()).await.unwrap();
    }
    // What was settled is forgotten when the journal shows it no more, and a volume that comes back is there.
    let one = gateway(&scratch.0, "one", "200 ms").await;
    assert!(one.catalog.settled().unwrap().len() <= 8);
    one.adopt_volume(AdoptVolume { image: "released3".into(), ..adopt("back", None) }).await.unwrap();
    assert_eq!(byte(&one, "back", 8).await, 7);
    one.stop(|_| ()).await.unwrap();
}

/// A gateway that was killed with `vol1` open, which it had released and adopted again, and a write that is nowhere else; the
/// catalog does not know the volume.
async fn unknown(scratch: &Scratch) -> Arc<Gateway> {
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    one.release_volume("vol1").await.unwrap();
    assert_eq!(one.catalog.settled().unwrap().len(), 1);
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    write(&one, "vol1", 8, 9).await;
    // As if it had ended while the volume was open and not entered yet.
    one.catalog.remove_volume("vol1", &Settled::new()).unwrap();
    let task = one.volumes.lock()["vol1"].clone();
    task.hide();
    task.abandon_image().await;
    drop(task);
    one.stop(|_| ()).await.unwrap();
    drop(one);
    gateway(&scratch.0, "one", "1 h").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_an_unknown_image_are_kept_and_can_be_had() {
    let scratch = Scratch::new("unknown");
    let one = unknown(&scratch).await;
    assert!(one.volumes().is_empty());
    let kept = one.forks().pop().unwrap();
    assert_eq!((kept.name, kept.size > 0), (format!("{}@journal-ssd", kept.image), true));
    assert_eq!((owners(&one), events(&one, "of acknowledged writes of image")), (1, 1));
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    assert_eq!(byte(&one, "vol1", 8).await, 9);
    assert!(one.forks().is_empty());
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_an_unknown_image_are_given_up_by_name() {
    let scratch = Scratch::new("given-up");
    let one = unknown(&scratch).await;
    let name = one.forks().pop().unwrap().name;
    let refused = one.open_fork(&name, OpenFork { name: "x".into(), access: Access::default() }).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("tidegate volume adopt NAME --image"), "{refused}");
    one.discard_fork(&name).await.unwrap();
    assert_eq!((owners(&one), one.forks().len()), (0, 0));
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let one = gateway(&scratch.0, "one", "1 h").await;
    assert_eq!((owners(&one), one.forks().len()), (0, 0));
    one.stop(|_| ()).await.unwrap();
}

/// Without a catalog nothing is known, and nothing is released.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_catalog_releases_nothing() {
    let scratch = Scratch::new("lost-catalog");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 9).await;
    let task = one.volumes.lock()["vol1"].clone();
    task.abandon_image().await;
    drop(task);
    one.stop(|_| ()).await.unwrap();
    drop(one);
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(scratch.0.join("one/data").join(name));
    }
    let one = gateway(&scratch.0, "one", "1 h").await;
    assert_eq!((owners(&one), one.forks().len()), (1, 1));
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    assert_eq!(byte(&one, "vol1", 8).await, 9);
    one.stop(|_| ()).await.unwrap();
}

/// A volume is deleted without its bucket, the bucket is found again, the volume is adopted as the event advises, and the
/// gateway is killed before it is entered: its acknowledged writes must be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_after_a_deletion_without_bucket_is_kept() {
    let scratch = Scratch::new("g-settled");
    let (bucket, aside) = (scratch.0.join("bucket"), scratch.0.join("aside"));
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    std::fs::rename(&bucket, &aside).unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);

    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().reason.is_some()).await;
    one.delete_without_bucket("vol1").await.unwrap();
    std::fs::rename(&aside, &bucket).unwrap();
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    write(&one, "vol1", 8, 9).await;
    // As `leftover::unknown`: as if it had ended while the volume was open and not entered yet.
    one.catalog.remove_volume("vol1", &Settled::new()).unwrap();
    let task = one.volumes.lock()["vol1"].clone();
    task.hide();
    task.abandon_image().await;
    drop(task);
    one.stop(|_| ()).await.unwrap();
    drop(one);

    let one = gateway(&scratch.0, "one", "1 h").await;
    let (kept, events) = (one.forks(), one.view().events);
    one.stop(|_| ()).await.unwrap();
    assert_eq!(kept.len(), 1, "acknowledged writes were released: {events:#?}");
}
