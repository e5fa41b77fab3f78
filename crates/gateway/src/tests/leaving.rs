//! Volumes that leave: released, while others go on and a stop does not wait; deleted, with or without their forks.

use bucket::{Fault, Faults, Faulty, Memory, Operation};

use super::*;

/// A gateway with `vol1`, whose bucket has just gone away, in the middle of a release that nobody waits for; and `vol2`.
async fn releasing(scratch: &Scratch) -> (Arc<Gateway>, PathBuf, PathBuf) {
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    let second = format!("dir://{}", scratch.0.join("second").display());
    one.add_bucket("second", &second).await.unwrap();
    for (name, bucket) in [("vol1", "main"), ("vol2", "second")] {
        let wanted = CreateVolume { bucket: Some(bucket.into()), ..wanted(name, ByteSize::mib(64)) };
        one.create_volume(wanted).await.unwrap();
        write(&one, name, 8, 7).await;
    }
    let (bucket, aside) = (scratch.0.join("bucket"), scratch.0.join("aside"));
    std::fs::rename(&bucket, &aside).unwrap();
    let begun = until(|| one.show_volume("vol1").unwrap().state == "releasing");
    tokio::select! {
        biased;
        done = one.release_volume("vol1") => panic!("released without its bucket: {done:?}"),
        // The command line that asked goes away.
        () = begun => {}
    }
    (one, bucket, aside)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_being_released_refuses_changes_and_goes_without_its_asker() {
    let scratch = Scratch::new("leaves");
    let (one, bucket, aside) = releasing(&scratch).await;
    let view = one.show_volume("vol1").unwrap();
    assert!(view.reason.unwrap().contains("whether or not the command that asked still waits"));
    let access = Access::default;
    let back = AdoptVolume { bucket: Some("main".into()), ..adopt("vol1", None) };
    let in_second = |name| CreateVolume { bucket: Some("second".into()), ..wanted(name, ByteSize::mib(64)) };
    for (what, refused) in [
        ("release", one.release_volume("vol1").await.map(drop)),
        ("delete", one.delete_volume("vol1", true).await),
        ("resize", one.resize_volume("vol1", 128 << 20, false).await.map(drop)),
        ("access", one.set_access("vol1", access()).await.map(drop)),
        ("adopt", one.adopt_volume(back.clone()).await.map(drop)),
        ("create", one.create_volume(in_second("vol1")).await.map(drop)),
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Busy, "{what}: {e}");
        assert!(e.to_string().contains("volume \"vol1\" is being released"), "{what}: {e}");
    }
    // Other volumes do not wait.
    let others = async {
        one.resize_volume("vol2", 128 << 20, false).await.unwrap();
        one.create_volume(in_second("vol4")).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(5), others).await.expect("others waited for the release");
    assert_eq!(one.show_volume("vol1").unwrap().state, "releasing");
    std::fs::rename(&aside, &bucket).unwrap();
    until(|| one.show_volume("vol1").is_err()).await;
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let again = gateway(&scratch.0, "one", "1 h").await;
    assert_eq!(again.volumes().iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["vol2", "vol4"]);
    again.adopt_volume(back).await.unwrap();
    assert_eq!(byte(&again, "vol1", 8).await, 7);
    again.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_release() {
    let scratch = Scratch::new("stops");
    let (one, bucket, aside) = releasing(&scratch).await;
    let limit = one.config().stop_within + Duration::from_secs(10);
    tokio::time::timeout(limit, one.stop(|_| ())).await.expect("the stop waited for the release").unwrap();
    assert_eq!(one.show_volume("vol1").unwrap().state, "closed");
    drop(one);
    std::fs::rename(&aside, &bucket).unwrap();
    // Nothing is lost, and the volume is this gateway's as before.
    let again = gateway(&scratch.0, "one", "1 h").await;
    until(|| again.volumes().iter().all(|v| v.state == "open")).await;
    assert_eq!((byte(&again, "vol1", 8).await, byte(&again, "vol2", 8).await), (7, 7));
    again.release_volume("vol1").await.unwrap();
    assert_eq!(again.volumes().len(), 1);
    again.stop(|_| ()).await.unwrap();
}

/// What is said when a volume is taken back holds: nobody may reach it whom the rules keep out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_taken_back_has_the_rules_it_is_given() {
    let scratch = Scratch::new("rules");
    let old = gateway(&scratch.0, "old", "200 ms").await;
    old.add_bucket("main", &scratch.url()).await.unwrap();
    old.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    old.resize_volume("vol1", 128 << 20, false).await.unwrap();
    old.drain_volume("vol1").await.unwrap();
    let new = gateway(&scratch.0, "new", "200 ms").await;
    new.add_bucket("main", &scratch.url()).await.unwrap();
    new.adopt_volume(adopt("vol1", Some(1))).await.unwrap();
    assert_eq!(new.catalog.volumes().unwrap()[0].size, ByteSize::mib(128), "not what it was created with");
    new.release_volume("vol1").await.unwrap();
    until(|| old.show_volume("vol1").unwrap().state == "fenced").await;
    let why = old.show_volume("vol1").unwrap().reason.unwrap();
    assert!(why.contains("volume forks") && why.contains("volume release"), "{why}");
    let found = old.volumes.lock()["vol1"].image();
    found.unwrap().ended().await;
    super::buckets::copy(&scratch.0.join("bucket"), &scratch.0.join("copy"));
    let copy = scratch.0.join("copy").display().to_string();
    old.add_bucket("other", &copy).await.unwrap();
    let from = |bucket: &str| AdoptVolume { bucket: Some(bucket.into()), ..adopt("vol1", None) };
    let refused = old.adopt_volume(from("other")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("in bucket \"main\""), "{refused}");
    let kept = old.delete_volume("vol1", false).await.unwrap_err();
    let words = format!(
        "volume adopt vol1 --image {} --bucket main --accept-loss",
        old.show_volume("vol1").unwrap().image
    );
    assert!(kept.to_string().contains(&words), "{kept}");
    let user = ChapUser { user: "alice".into(), secret: "a secret of length".into() };
    let only = "iqn.2026-01.org.example:one".to_owned();
    let access = Access { chap: vec![user], initiators: vec![only.clone()], ..Access::default() };
    let view = old.adopt_volume(AdoptVolume { access: access.clone(), ..from("main") }).await.unwrap();
    assert_eq!((view.chap_users, view.initiators), (vec!["alice".into()], vec![only]));
    assert_eq!(old.catalog.volumes().unwrap()[0].access, access);
    old.stop(|_| ()).await.unwrap();
    new.stop(|_| ()).await.unwrap();
}

/// Taken back without rules a volume has those it had; with some, it has these alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_stay_until_others_are_given() {
    let scratch = Scratch::new("same-rules");
    let old = gateway(&scratch.0, "old", "200 ms").await;
    old.add_bucket("main", &scratch.url()).await.unwrap();
    let new = gateway(&scratch.0, "new", "200 ms").await;
    new.add_bucket("main", &scratch.url()).await.unwrap();
    let had = Access {
        initiators: vec!["iqn.2026-01.org.example:one".into()],
        networks: vec!["10.0.0.0/8".into()],
        ..Access::default()
    };
    let create = CreateVolume { access: had.clone(), ..wanted("vol1", ByteSize::mib(64)) };
    old.create_volume(create).await.unwrap();
    let user = ChapUser { user: "alice".into(), secret: "a secret of length".into() };
    let others = Access { chap: vec![user], ..Access::default() };
    for (given, then) in [(Access::default(), had), (others.clone(), others)] {
        let epoch = old.show_volume("vol1").unwrap().epoch;
        new.adopt_volume(adopt("vol1", Some(epoch))).await.unwrap();
        new.release_volume("vol1").await.unwrap();
        until(|| old.show_volume("vol1").unwrap().state == "fenced").await;
        image(&old, "vol1").ended().await;
        old.adopt_volume(AdoptVolume { access: given, ..adopt("vol1", None) }).await.unwrap();
        let row = old.volumes.lock()["vol1"].row();
        assert_eq!((&row.access, &old.catalog.volumes().unwrap()[0].access), (&then, &then));
    }
    old.stop(|_| ()).await.unwrap();
    new.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forks_are_deleted_only_when_told_so() {
    let scratch = Scratch::new("forks");
    let old = gateway(&scratch.0, "old", "1 h").await;
    old.add_bucket("main", &scratch.url()).await.unwrap();
    old.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    old.drain_volume("vol1").await.unwrap();
    write(&old, "vol1", 0, 2).await;
    let new = gateway(&scratch.0, "new", "200 ms").await;
    new.add_bucket("main", &scratch.url()).await.unwrap();
    new.adopt_volume(adopt("vol1", Some(1))).await.unwrap();
    new.release_volume("vol1").await.unwrap();
    let fork = "vol1@lost-1";
    until(|| old.forks().iter().any(|f| f.name == fork && f.size > 0)).await;
    let found = old.volumes.lock()["vol1"].image();
    found.unwrap().ended().await;
    // It comes back, and what was lost when it went is still here.
    old.adopt_volume(adopt("vol1", None)).await.unwrap();
    assert_eq!(byte(&old, "vol1", 0).await, 0);
    let refused = old.delete_volume("vol1", false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains(fork) && refused.to_string().contains("--with-forks"), "{refused}");
    assert_eq!((old.show_volume("vol1").unwrap().state.as_str(), old.forks().len()), ("open", 1));
    let rescued = OpenFork { name: "rescued".into(), access: Access::default() };
    old.open_fork(fork, rescued).await.unwrap();
    assert_eq!(byte(&old, "rescued", 0).await, 2);
    old.delete_volume("rescued", false).await.unwrap();
    old.delete_volume("vol1", true).await.unwrap();
    assert!(old.forks().is_empty() && old.volumes().is_empty());
    old.stop(|_| ()).await.unwrap();
    new.stop(|_| ()).await.unwrap();
}

/// Begins a change, and drops it once the store holds it up, as an API call is whose client hangs up.
async fn hang_up<T: std::fmt::Debug>(faults: &Faults, held: Operation, change: impl Future<Output = T>) {
    let before = faults.injected().get("slow").copied().unwrap_or_default();
    faults.next(held, Fault::Slow(Duration::from_secs(1)));
    let is_held = async {
        while faults.injected().get("slow").copied().unwrap_or_default() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        biased;
        () = is_held => {}
        done = change => panic!("it was through before its client hung up: {done:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_carried_through_without_their_asker() {
    let scratch = Scratch::new("hangs-up");
    let one = gateway(&scratch.0, "one", "1 h").await;
    let store = Faulty::new(Arc::new(Memory::new()), 1);
    let faults = store.faults();
    one.admit_bucket("main", "mem:held", Arc::new(store)).await.unwrap();
    hang_up(&faults, Operation::Create, one.create_volume(wanted("vol1", ByteSize::mib(64)))).await;
    assert!(one.volumes().is_empty());
    until(|| one.show_volume("vol1").is_ok_and(|view| view.state == "open")).await;
    write(&one, "vol1", 8, 7).await;
    hang_up(&faults, Operation::Create, one.release_volume("vol1")).await;
    assert_eq!(one.catalog.volumes().unwrap().len(), 1);
    until(|| one.volumes().is_empty()).await;
    assert!(one.catalog.volumes().unwrap().is_empty());
    // A read holds up the opening, which nothing else waits for.
    hang_up(&faults, Operation::List, one.adopt_volume(adopt("vol1", None))).await;
    until(|| one.show_volume("vol1").is_ok_and(|view| view.state == "open")).await;
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    hang_up(&faults, Operation::Delete, one.delete_volume("vol1", false)).await;
    assert_eq!(one.catalog.volumes().unwrap().len(), 1);
    until(|| one.volumes().is_empty()).await;
    assert_eq!(one.adopt_volume(adopt("vol1", None)).await.unwrap_err().kind(), ErrorKind::NotFound);
    one.stop(|_| ()).await.unwrap();
}

/// The tail goes before the size is changed: one without the other would be a disk that lost data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_is_made_smaller_though_its_asker_hangs_up() {
    let scratch = Scratch::new("smaller");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", (60 << 20) / 512, 7).await;
    // Polled once it has begun. Where this thread is kept from its processor, it may be through by then.
    drop(tokio::time::timeout(Duration::ZERO, one.resize_volume("vol1", 32 << 20, true)).await);
    until(|| one.show_volume("vol1").unwrap().size == 32 << 20).await;
    until(|| one.catalog.volumes().unwrap()[0].size == ByteSize::mib(32)).await;
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_made_one_at_a_time() {
    let scratch = Scratch::new("one-change");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let first = one.change("first", |_| async move {
        begun.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(tokio::time::Instant::now())
    });
    let second = async {
        has_begun.await.unwrap();
        one.change("second", |_| async { Ok(tokio::time::Instant::now()) }).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.unwrap() <= second.unwrap());
    one.stop(|_| ()).await.unwrap();
}
