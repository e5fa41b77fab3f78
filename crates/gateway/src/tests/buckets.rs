//! Buckets that are added, and what is found out about them then.

use bucket::{Fault, Faulty, Memory, Operation, Script};

use super::*;
use crate::catalog::BucketRow;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_would_not_last_are_refused() {
    let scratch = Scratch::new("relative");
    let one = gateway(&scratch.0, "one", "1 h").await;
    for url in ["dir://bucket", "file://./bucket", "bucket", "./bucket"] {
        let refused = one.add_bucket("main", url).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("write the whole path"), "{refused}");
    }
    let refused = one.add_bucket("main", "mem:").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("loses all disks"), "{refused}");
    assert!(one.buckets().is_empty() && !Path::new("bucket").exists());
    one.stop(|_| ()).await.unwrap();
}

/// Nobody listens there, and where the machine has no credentials of its own those are missing too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_told_at_once() {
    let scratch = Scratch::new("at-once");
    let one = gateway(&scratch.0, "one", "1 h").await;
    let begun = tokio::time::Instant::now();
    let refused = one.add_bucket("main", "s3://bucket?endpoint=http://127.0.0.1:1").await.unwrap_err();
    let took = begun.elapsed();
    assert!(refused.to_string().contains("s3://bucket cannot be reached"), "{refused}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(one.buckets().is_empty());
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_removed_when_no_volume_is_in_it() {
    let scratch = Scratch::new("removed");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    let refused = one.remove_bucket("main").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains("of this gateway: vol1;"), "{refused}");
    assert_eq!(one.remove_bucket("other").await.unwrap_err().kind(), ErrorKind::NotFound);
    write(&one, "vol1", 8, 7).await;
    one.release_volume("vol1").await.unwrap();
    one.remove_bucket("main").await.unwrap();
    assert!(one.buckets().is_empty());
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let one = gateway(&scratch.0, "one", "200 ms").await;
    assert!(one.buckets().is_empty());
    // What is in it stayed.
    one.add_bucket("again", &scratch.url()).await.unwrap();
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    one.stop(|_| ()).await.unwrap();
}

/// Copies a directory.
pub(super) fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_gets_another_address_only_if_it_is_the_same_store() {
    let scratch = Scratch::new("moved");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    one.drain_volume("vol1").await.unwrap();
    let url = |name: &str| format!("dir://{}", scratch.0.join(name).display());
    let (bucket, old, new) = (scratch.0.join("bucket"), scratch.0.join("copy"), scratch.0.join("new"));
    copy(&bucket, &old);
    one.add_bucket("empty", &url("empty")).await.unwrap();
    for other in ["copy", "empty"] {
        let refused = one.change_bucket("main", &url(other)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied);
        assert!(refused.to_string().contains("is not the store of bucket \"main\""), "{refused}");
    }
    // No volume of it shows which one it was.
    assert_eq!(one.change_bucket("empty", &url("copy")).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(one.change_bucket("nobody", &url("copy")).await.unwrap_err().kind(), ErrorKind::NotFound);
    // The same one by another way.
    std::os::unix::fs::symlink(&bucket, scratch.0.join("link")).unwrap();
    one.change_bucket("main", &url("link")).await.unwrap();
    assert_eq!(one.buckets()[1].url, url("link"));
    write(&one, "vol1", 16, 8).await;
    one.drain_volume("vol1").await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);

    // It moved, and the volume was opened once more since the copy was made.
    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    // A copy of this very time, but for what was written since.
    copy(&bucket, &scratch.0.join("late"));
    write(&one, "vol1", 32, 10).await;
    one.drain_volume("vol1").await.unwrap();
    // All that counts is in this one, but not the checkpoint by which it will be read.
    copy(&bucket, &scratch.0.join("unchecked"));
    image(&one, "vol1").checkpoint().await.unwrap();
    std::fs::rename(&bucket, &new).unwrap();
    let earlier = "as it was at an earlier time";
    let others =
        [("copy", earlier), ("late", earlier), ("unchecked", earlier), ("empty", "vol1 is not there")];
    for (other, why) in others {
        let refused = one.change_bucket("main", &url(other)).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    one.change_bucket("main", &url("new")).await.unwrap();
    // The open volume goes on there.
    write(&one, "vol1", 24, 9).await;
    one.drain_volume("vol1").await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    for (sector, byte_there) in [(8, 7), (16, 8), (24, 9), (32, 10)] {
        assert_eq!(byte(&one, "vol1", sector).await, byte_there);
    }
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_found_again_though_another_lies_in_its_old_place() {
    let scratch = Scratch::new("old-place");
    let url = |name: &str| format!("dir://{}", scratch.0.join(name).display());
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    copy(&scratch.0.join("bucket"), &scratch.0.join("copy"));
    one.stop(|_| ()).await.unwrap();
    drop(one);
    // The copy is of an earlier time than this.
    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    write(&one, "vol1", 8, 7).await;
    image(&one, "vol1").halt().await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    std::fs::rename(scratch.0.join("bucket"), scratch.0.join("new")).unwrap();
    let two = gateway(&scratch.0, "two", "1 h").await;
    two.add_bucket("main", &scratch.url()).await.unwrap();
    two.stop(|_| ()).await.unwrap();

    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "refused").await;
    let refused = one.change_bucket("main", &url("copy")).await.unwrap_err();
    assert!(refused.to_string().contains("as it was at an earlier time"), "{refused}");
    one.change_bucket("main", &url("new")).await.unwrap();
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    one.stop(|_| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_bucket_is_lost_is_deleted_without_it() {
    let scratch = Scratch::new("lost");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    let refused = one.delete_without_bucket("vol1").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    std::fs::rename(scratch.0.join("bucket"), scratch.0.join("aside")).unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);

    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().reason.is_some()).await;
    assert_eq!(one.delete_volume("vol1", true).await.unwrap_err().kind(), ErrorKind::Unavailable);
    one.delete_without_bucket("vol1").await.unwrap();
    assert!(one.volumes().is_empty());
    let events = one.view().events;
    assert!(events.iter().any(|e| e.text.contains("stays there, below images/")), "{events:?}");
    one.remove_bucket("main").await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    // Nothing of it comes back.
    let one = gateway(&scratch.0, "one", "1 h").await;
    assert!(one.volumes().is_empty() && one.forks().is_empty() && one.buckets().is_empty());
    one.stop(|_| ()).await.unwrap();
}

/// Volumes that wait for the same bucket all go on at its new address.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_who_waited_for_a_bucket_move_with_it() {
    let scratch = Scratch::new("g-switch");
    let one = gateway(&scratch.0, "one", "1 h").await;
    let mut left = 0;
    for round in 0..50 {
        let (old, new) = (scratch.0.join(format!("old{round}")), scratch.0.join(format!("new{round}")));
        let row =
            |path: &Path| BucketRow { name: format!("b{round}"), url: format!("dir://{}", path.display()) };
        // As at a start while it is away.
        one.ground.know_bucket(row(&old));
        let made = scratch.0.join(format!("made{round}"));
        drop(one.ground.open_store(&row(&made).url, true).unwrap());
        std::fs::rename(&made, &old).unwrap();
        let barrier = Arc::new(std::sync::Barrier::new(4));
        let mut asked = Vec::new();
        for _ in 0..4 {
            let (ground, barrier) = (one.ground.clone(), barrier.clone());
            asked.push(tokio::task::spawn_blocking(move || {
                barrier.wait();
                ground.bucket(&format!("b{round}"))
            }));
        }
        let mut users = Vec::new();
        for asked in asked {
            users.push(asked.await.unwrap().unwrap());
        }
        let store = one.ground.open_store(&row(&new).url, true).unwrap();
        one.ground.take_bucket(row(&new), one.ground.patient(store));
        left += users.iter().filter(|user| !user.url().contains("/new")).count();
    }
    one.stop(|_| ()).await.unwrap();
    assert_eq!(left, 0, "of 200 users of buckets so many stayed at the old address");
}

/// A store that took an open volume's segments has what is nowhere else, though it has no record of the volume.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_took_segments_of_a_volume_is_not_left_behind() {
    let scratch = Scratch::new("took");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    // Another store answers at its address.
    let wrong = Arc::new(Memory::new());
    one.ground.take_bucket(BucketRow { name: "main".into(), url: scratch.url() }, wrong.clone());
    write(&one, "vol1", 8, 7).await;
    one.drain_volume("vol1").await.unwrap();
    let taken = wrong.objects();
    assert!(!taken.is_empty() && taken.iter().all(|(key, _)| !key.as_str().ends_with("/image")), "{taken:?}");
    std::os::unix::fs::symlink(scratch.0.join("bucket"), scratch.0.join("link")).unwrap();
    let link = format!("dir://{}", scratch.0.join("link").display());
    let refused = one.change_bucket("main", &link).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains("is not seen in the bucket as it is"), "{refused}");
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    one.stop(|_| ()).await.unwrap();
}

/// A gateway with `vol1`, which another one took over while this one was stopped: here it is refused.
async fn refused_for_another(scratch: &Scratch) -> (Arc<Gateway>, Arc<Gateway>) {
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let two = gateway(&scratch.0, "two", "1 h").await;
    two.add_bucket("main", &scratch.url()).await.unwrap();
    two.adopt_volume(adopt("vol1", None)).await.unwrap();
    let one = gateway(&scratch.0, "one", "1 h").await;
    until(|| one.show_volume("vol1").unwrap().state == "refused").await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_address_takes_no_volume_from_a_gateway_at_rest() {
    let scratch = Scratch::new("at-rest");
    let (one, two) = refused_for_another(&scratch).await;
    two.stop(|_| ()).await.unwrap();
    std::os::unix::fs::symlink(scratch.0.join("bucket"), scratch.0.join("link")).unwrap();
    let before = one.volumes.lock()["vol1"].clone();
    one.change_bucket("main", &format!("dir://{}", scratch.0.join("link").display())).await.unwrap();
    assert!(Arc::ptr_eq(&before, &one.volumes.lock()["vol1"]), "it was tried again");
    assert_eq!(before.view().state, "refused");
    // Asked for, it comes.
    one.adopt_volume(adopt("vol1", None)).await.unwrap();
    one.stop(|_| ()).await.unwrap();
}

/// What was looked for at the old address while the bucket moved is looked for at the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_the_move_of_its_bucket_overtakes_goes_on_there() {
    let scratch = Scratch::new("overtaken");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let one = prepare(config(&scratch.0, "one", "1 h")).await.unwrap();
    let empty = Faulty::new(Arc::new(Memory::new()), 1);
    let faults = empty.faults();
    let (operation, prefix) = (Some(Operation::Get), "images/".into());
    let fault = Fault::Slow(Duration::from_secs(3));
    faults.script(Script { operation, prefix, skip: 0, times: 1, fault });
    let row = BucketRow { name: "main".into(), url: scratch.url() };
    let there = one.ground.open_store(&scratch.url(), false).unwrap();
    one.ground.take_bucket(row.clone(), Arc::new(empty));
    one.open_volumes();
    until(|| faults.injected().contains_key("slow")).await;
    let task = one.volumes.lock()["vol1"].clone();
    one.ground.take_bucket(row, there);
    one.open_missing("main");
    until(|| task.view().state != "opening").await;
    assert_eq!(task.view().state, "open", "{:?}", task.view().reason);
    assert_eq!(byte(&one, "vol1", 8).await, 7);
    one.stop(|_| ()).await.unwrap();
}

/// A store that answers only now and then moves, as a copy: what is being opened at its old address meanwhile is not served from both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_succeeds_at_the_old_address_is_made_anew_at_the_new_one() {
    let scratch = Scratch::new("both");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    image(&one, "vol1").halt().await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    copy(&scratch.0.join("bucket"), &scratch.0.join("copy"));

    let one = prepare(config(&scratch.0, "one", "200 ms")).await.unwrap();
    let old = Faulty::new(one.ground.open_store(&scratch.url(), false).unwrap(), 1);
    let faults = old.faults();
    let script = |prefix: &str, fault| Script {
        operation: Some(Operation::Get),
        prefix: prefix.into(),
        skip: 0,
        times: 1,
        fault,
    };
    faults.script(script("images/", Fault::Slow(Duration::from_secs(3))));
    // It does not tell whether it is the same store.
    faults.script(script("tidegate-probe/", Fault::Refused));
    one.ground.take_bucket(BucketRow { name: "main".into(), url: scratch.url() }, Arc::new(old));
    one.open_volumes();
    until(|| faults.injected().contains_key("slow")).await;
    one.change_bucket("main", &format!("dir://{}", scratch.0.join("copy").display())).await.unwrap();
    assert_eq!(one.show_volume("vol1").unwrap().state, "opening", "the move was to overtake it");
    until(|| one.show_volume("vol1").unwrap().state == "open").await;
    write(&one, "vol1", 16, 8).await;
    one.drain_volume("vol1").await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    // All is in the copy: no journal is needed.
    let two = gateway(&scratch.0, "two", "1 h").await;
    two.add_bucket("main", &format!("dir://{}", scratch.0.join("copy").display())).await.unwrap();
    two.adopt_volume(adopt("vol1", None)).await.unwrap();
    assert_eq!((byte(&two, "vol1", 8).await, byte(&two, "vol1", 16).await), (7, 8));
    two.stop(|_| ()).await.unwrap();
}

/// Nothing is opened in a bucket that is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_waits_while_its_bucket_moves() {
    let scratch = Scratch::new("on-its-way");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    one.stop(|_| ()).await.unwrap();
    drop(one);
    let one = prepare(config(&scratch.0, "one", "1 h")).await.unwrap();
    let moving = one.ground.begin_move("main");
    one.open_volumes();
    let view = || one.show_volume("vol1").unwrap();
    until(|| view().reason.is_some_and(|why| why.contains("is getting another address"))).await;
    assert_eq!(view().state, "opening");
    drop(moving);
    until(|| view().state == "open").await;
    one.stop(|_| ()).await.unwrap();
}

/// The bucket has moved whether or not the volumes can be looked up after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_does_not_fail_for_what_comes_after_it() {
    let scratch = Scratch::new("after-it");
    let one = gateway(&scratch.0, "one", "1 h").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    let catalog = rusqlite::Connection::open(scratch.0.join("one/data/catalog.db")).unwrap();
    assert_eq!(catalog.execute("update volume set image = 'nonsense'", []).unwrap(), 1);
    std::os::unix::fs::symlink(scratch.0.join("bucket"), scratch.0.join("link")).unwrap();
    let link = format!("dir://{}", scratch.0.join("link").display());
    one.change_bucket("main", &link).await.unwrap();
    assert_eq!(one.buckets()[0].url, link);
    let events = one.view().events;
    assert!(events.iter().any(|e| e.text.contains("are not tried again")), "{events:?}");
    one.stop(|_| ()).await.unwrap();
}
