//! Buckets and disks that are away, stores that do not answer, and names that are taken.

use base::Error;
use bucket::{Bucket, Faulty, Memory, Outage};

use super::*;

/// A gateway stopped with one volume, whose bucket's directory was then moved away from under its path.
async fn bucket_moved_away(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let first = gateway(&scratch.0, "one", "200 ms").await;
    first.add_bucket("main", &scratch.url()).await.unwrap();
    first.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&first, "vol1", 8, 7).await;
    first.stop(|_| ()).await.unwrap();
    let (bucket, aside) = (scratch.0.join("bucket"), scratch.0.join("aside"));
    std::fs::rename(&bucket, &aside).unwrap();
    (bucket, aside)
}

fn unavailable<T>(refused: base::Result<T>, names: &str) {
    let e = refused.map(drop).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert!(e.to_string().contains("\"vol1\" is not open") && e.to_string().contains(names), "{e}");
}

/// The file system of a directory bucket is not mounted at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_bucket_comes_late_is_shown_and_started_then() {
    let scratch = Scratch::new("late");
    let (bucket, aside) = bucket_moved_away(&scratch).await;
    std::fs::create_dir(&bucket).unwrap();
    let again = gateway(&scratch.0, "one", "200 ms").await;
    let away = "is its file system mounted?";
    until(|| again.show_volume("vol1").unwrap().reason.is_some()).await;
    for view in [again.volumes(), again.view().volumes, vec![again.show_volume("vol1").unwrap()]] {
        let [v] = &view[..] else { panic!("{view:?}") };
        assert_eq!((v.name.as_str(), v.size, v.bucket.as_str()), ("vol1", 64 << 20, "main"));
        assert_eq!(v.state, "opening");
        assert!(v.reason.as_ref().is_some_and(|why| why.contains(away)), "{:?}", v.reason);
    }
    assert!(again.buckets()[0].trouble.as_ref().is_some_and(|why| why.contains(away)));
    unavailable(again.delete_volume("vol1", true).await, away);
    unavailable(again.release_volume("vol1").await, away);
    unavailable(again.resize_volume("vol1", 128 << 20, false).await, away);
    let taken = again.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Exists, "{taken}");
    assert_eq!(std::fs::read_dir(&bucket).unwrap().count(), 0, "a bucket was made at the mount point");
    std::fs::remove_dir(&bucket).unwrap();
    std::fs::rename(&aside, &bucket).unwrap();
    until(|| again.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&again, "vol1", 8).await, 7);
    assert_eq!(again.buckets()[0].trouble, None);
    again.stop(|_| ()).await.unwrap();
}

/// Verbs that come while a volume is being opened at the start wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_right_after_the_start_finds_the_volume_open() {
    let scratch = Scratch::new("right-after");
    let first = gateway(&scratch.0, "one", "200 ms").await;
    first.add_bucket("main", &scratch.url()).await.unwrap();
    first.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    first.stop(|_| ()).await.unwrap();
    drop(first);
    let again = gateway(&scratch.0, "one", "200 ms").await;
    assert_eq!(again.resize_volume("vol1", 128 << 20, false).await.unwrap().size, 128 << 20);
    again.stop(|_| ()).await.unwrap();
    drop(again);
    let last = gateway(&scratch.0, "one", "200 ms").await;
    last.delete_volume("vol1", false).await.unwrap();
    assert!(last.volumes().is_empty());
    last.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_stops_while_a_volume_waits_for_its_bucket() {
    let scratch = Scratch::new("waits");
    let (bucket, aside) = bucket_moved_away(&scratch).await;
    let waiting = gateway(&scratch.0, "one", "200 ms").await;
    let task = waiting.volumes.lock()["vol1"].clone();
    until(|| task.view().reason.is_some()).await;
    waiting.stop(|_| ()).await.unwrap();
    std::fs::rename(&aside, &bucket).unwrap();
    let late = task.open(None).await.unwrap_err();
    assert_eq!((late.kind(), task.view().state.as_str()), (ErrorKind::Unavailable, "closed"), "{late}");
    drop((task, waiting));
    let again = gateway(&scratch.0, "one", "200 ms").await;
    until(|| again.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&again, "vol1", 8).await, 7);
    again.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_disk_is_not_configured_says_so() {
    let scratch = Scratch::new("disk");
    let (bucket, aside) = bucket_moved_away(&scratch).await;
    std::fs::rename(&aside, &bucket).unwrap();
    let mut other = config(&scratch.0, "one", "200 ms");
    other.disks[0].name = "hdd".into();
    other.disks[0].path = scratch.0.join("hdd");
    let started = start(other).await.unwrap();
    until(|| started.show_volume("vol1").unwrap().state == "refused").await;
    let why = started.show_volume("vol1").unwrap().reason.unwrap();
    assert!(why.contains("no cache disk \"ssd\"") && why.contains("hdd"), "{why}");
    let refused = started.delete_volume("vol1", false).await.unwrap_err();
    assert_eq!(refused.to_string(), why);
    started.stop(|_| ()).await.unwrap();
    drop(started);
    let again = gateway(&scratch.0, "one", "200 ms").await;
    until(|| again.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&again, "vol1", 8).await, 7);
    again.stop(|_| ()).await.unwrap();
}

/// An upload that fails is a matter of the bucket, not of one volume alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_volume_from_its_bucket_is_told_of_the_bucket() {
    let scratch = Scratch::new("told");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    assert_eq!(one.buckets()[0].trouble, None);
    let (bucket, aside) = (scratch.0.join("bucket"), scratch.0.join("aside"));
    std::fs::rename(&bucket, &aside).unwrap();
    write(&one, "vol1", 8, 7).await;
    until(|| one.buckets()[0].trouble.as_ref().is_some_and(|why| why.contains("volume vol1: "))).await;
    std::fs::rename(&aside, &bucket).unwrap();
    until(|| one.buckets()[0].trouble.is_none()).await;
    one.stop(|_| ()).await.unwrap();
}

/// A store that does not answer keeps a volume from opening, and the bucket says so as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_volume_from_opening_is_told_of_the_bucket() {
    let scratch = Scratch::new("unopened");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    let store = Faulty::new(Arc::new(Memory::new()), 1);
    let faults = store.faults();
    one.admit_bucket("main", "mem:unopened", Arc::new(store)).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    let row = one.volumes.lock()["vol1"].row();
    one.release_volume("vol1").await.unwrap();
    faults.set_outage(Outage::Refusing);
    let task = one.task(row);
    let found = |_| std::future::ready(Ok(task));
    let opening = one.change_then("adopt-volume", found, |gateway, task| gateway.bring_up(task, None));
    let told = until(|| one.buckets()[0].trouble.as_ref().is_some_and(|why| why.contains("volume vol1: ")));
    tokio::select! {
        biased;
        done = opening => panic!("opened without its bucket: {done:?}"),
        () = told => {}
    }
    faults.clear();
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(one.buckets()[0].trouble, None);
    one.stop(|_| ()).await.unwrap();
}

/// An opening that has to wait holds nothing up, and goes on without the command that asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adoption_that_waits_goes_on_without_its_asker() {
    let scratch = Scratch::new("adopts");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    let row = one.volumes.lock()["vol1"].row();
    one.release_volume("vol1").await.unwrap();
    one.create_volume(wanted("vol2", ByteSize::mib(64))).await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let (bucket, aside) = (scratch.0.join("bucket"), scratch.0.join("aside"));
    std::fs::rename(&bucket, &aside).unwrap();
    let one = gateway(&scratch.0, "one", "200 ms").await;
    // As if the bucket had gone away between the search for the volume and its opening.
    let task = one.task(row);
    let waits = until(|| task.view().reason.is_some());
    let opening = task.clone();
    let found = |_| std::future::ready(Ok(opening));
    let adopt_task = one.change_then("adopt-volume", found, |gateway, task| gateway.bring_up(task, None));
    tokio::select! {
        biased;
        done = adopt_task => panic!("opened without its bucket: {done:?}"),
        () = waits => {}
    }
    let refused = one.adopt_volume(adopt("vol1", None)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    let other = one.refuse_twice("vol3", task.image_id()).unwrap_err();
    assert!(other.to_string().contains("\"vol1\" is not open"), "{other}");
    let access = tokio::time::timeout(Duration::from_secs(5), one.set_access("vol2", Access::default()));
    access.await.expect("a change waited for the opening").unwrap();
    std::fs::rename(&aside, &bucket).unwrap();
    until(|| one.catalog.volumes().unwrap().len() == 2).await;
    assert_eq!((one.show_volume("vol1").unwrap().state.as_str(), byte(&one, "vol1", 8).await), ("open", 7));
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_does_not_answer_its_probe_holds_nothing_up() {
    let scratch = Scratch::new("deaf");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    let deaf = Faulty::new(Arc::new(Memory::new()), 1);
    let faults = deaf.faults();
    faults.set_outage(Outage::Hanging);
    let store: Arc<dyn Bucket> = Arc::new(deaf);
    let adding = |name: &'static str| one.admit_bucket(name, "mem:deaf", store.clone());
    let change = async {
        until(|| faults.calls() > 0).await;
        tokio::time::timeout(Duration::from_secs(5), one.resize_volume("vol1", 128 << 20, false)).await
    };
    tokio::select! {
        biased;
        done = adding("main") => panic!("a deaf store was probed: {done:?}"),
        changed = change => {
            assert_eq!(changed.expect("the change waited for the probe").unwrap().size, 128 << 20);
        }
    }
    // What a slow probe finds free at first may be taken when it ends.
    faults.set_outage(Outage::None);
    let late = adding("main").await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Exists, "{late}");
    assert_eq!(one.buckets().len(), 1);
    adding("second").await.unwrap();
    assert_eq!(one.buckets().iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["main", "second"]);
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_taken_or_unknown_are_told_in_our_words() {
    let scratch = Scratch::new("words");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    for name in ["vol1", "vol2"] {
        one.create_volume(wanted(name, ByteSize::mib(64))).await.unwrap();
    }
    let told = |what: &str, e: Error, kind: ErrorKind, next: &str| {
        let text = e.to_string();
        assert_eq!(e.kind(), kind, "{what}: {text}");
        assert!(text.contains(next), "{what}: {text}");
        for foreign in ["UNIQUE", "constraint", "catalog", "images/"] {
            assert!(!text.contains(foreign), "{what}: {text}");
        }
    };
    use ErrorKind::{Exists, NotFound};
    let elsewhere = format!("dir://{}", scratch.0.join("elsewhere").display());
    let twice = one.add_bucket("main", &elsewhere).await.unwrap_err();
    told("a bucket twice", twice, Exists, "choose another name");
    assert!(!scratch.0.join("elsewhere").exists(), "a bucket that was refused was made");
    let twice = one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap_err();
    told("a volume twice", twice, Exists, "choose another name");
    let held = one.adopt_volume(adopt("vol2", None)).await.unwrap_err();
    told("another's name", held, Exists, "choose another name");
    let held = one.adopt_volume(adopt("vol3", None)).await.unwrap_err();
    told("an image twice", held, Exists, "\"vol1\"");
    let unknown = AdoptVolume { image: "00112233445566778899aabbccddeeff".into(), ..adopt("vol3", None) };
    told("an unknown id", one.adopt_volume(unknown).await.unwrap_err(), NotFound, "--bucket");
    let unknown = AdoptVolume { image: "vol9".into(), ..adopt("vol3", None) };
    told("an unknown name", one.adopt_volume(unknown).await.unwrap_err(), NotFound, "--bucket");
    let nowhere = CreateVolume { bucket: Some("other".into()), ..wanted("vol3", ByteSize::mib(64)) };
    told("no such bucket", one.create_volume(nowhere).await.unwrap_err(), NotFound, "bucket add");
    let nowhere = CreateVolume { disk: Some("other".into()), ..wanted("vol3", ByteSize::mib(64)) };
    told("no such disk", one.create_volume(nowhere).await.unwrap_err(), NotFound, "ssd");
    told("no such volume", one.show_volume("vol9").unwrap_err(), NotFound, "volume list");
    told("no such fork", one.discard_fork("vol1@lost-9").await.unwrap_err(), NotFound, "volume forks");
    let images = std::fs::read_dir(scratch.0.join("bucket/images")).unwrap().count();
    assert_eq!(images, 2, "a refused volume left an image");
    one.stop(|_| ()).await.unwrap();
}
