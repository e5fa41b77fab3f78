//! The directory and the memory.

use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, ManualClock};
use bucket::{Access, Attributes, Bucket, Directory, Memory, Prefixed, StorageClass};

use crate::{absent, body, holds, key, plain};

const LARGE: usize = 3_000_001;

#[tokio::test(start_paused = true)]
async fn memory_keeps_the_contract() {
    let memory = Arc::new(Memory::new());
    let report = holds(memory.clone(), 1, LARGE).await;
    assert!(absent(&report).is_empty(), "the model offers everything: {report:?}");
    assert!(memory.objects().is_empty(), "the suite cleans up");
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::make(root.path()).unwrap());
    let report = holds(directory.clone(), 2, LARGE).await;
    assert_eq!(absent(&report), ["storage classes", "archive and restore"]);
    drop(directory);
    let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".tidegate"], "the suite cleans up");
}

#[tokio::test(start_paused = true)]
async fn a_prefix_of_a_bucket_keeps_the_contract_and_to_itself() {
    let memory = Arc::new(Memory::new());
    memory.create(&key("other"), &body("x"), &plain()).await.unwrap();
    memory.create(&key("site1"), &body("x"), &plain()).await.unwrap();
    let part = Arc::new(Prefixed::new(memory.clone(), "site1/disks/").unwrap());
    assert_eq!(part.url(), "mem:/site1/disks");
    holds(part.clone(), 3, LARGE).await;
    part.create(&key("a"), &body("x"), &plain()).await.unwrap();
    let names: Vec<_> = memory.objects().into_iter().map(|(k, _)| k.to_string()).collect();
    assert_eq!(names, ["other", "site1", "site1/disks/a"]);
    assert!(Prefixed::new(memory, "a//b").is_err());
}

#[tokio::test]
async fn two_gateways_on_one_directory_see_each_other() {
    let root = tempfile::tempdir().unwrap();
    let one = Directory::make(root.path()).unwrap();
    let two = Directory::open(root.path()).unwrap();
    one.create(&key("epoch/1"), &body("one"), &plain()).await.unwrap();
    let refused = two.create(&key("epoch/1"), &body("two"), &plain()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    assert_eq!(two.list("epoch/", None, 10).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn memory_restores_in_its_own_time_and_shows_the_clock() {
    let clock = Arc::new(ManualClock::at(1_000));
    let memory = Memory::new().with_clock(clock.clone()).with_restore_time(Duration::from_secs(3600));
    let cold = Attributes { class: StorageClass::DeepArchive, ..plain() };
    let meta = memory.create(&key("tape"), &body("cold"), &cold).await.unwrap();
    assert_eq!((meta.modified, meta.access), (1_000, Access::Archived));
    memory.restore(&key("tape"), 1).await.unwrap();
    assert_eq!(memory.head(&key("tape")).await.unwrap().access, Access::Restoring);
    assert_eq!(memory.get(&key("tape"), None).await.unwrap_err().kind(), ErrorKind::Invalid);
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert_eq!(&memory.get(&key("tape"), None).await.unwrap()[..], b"cold");
}

#[tokio::test]
async fn memory_can_be_spoilt_and_forked() {
    let memory = Memory::new();
    memory.create(&key("a"), &body("abc"), &plain()).await.unwrap();
    let before = memory.digest();
    let fork = memory.fork();
    assert!(memory.corrupt(&key("a"), 1, 0x20));
    assert!(!memory.corrupt(&key("a"), 3, 1) && !memory.corrupt(&key("b"), 0, 1));
    assert_eq!(&memory.get(&key("a"), None).await.unwrap()[..], b"aBc");
    assert_ne!(memory.digest(), before);
    assert!(memory.lose(&key("a")) && !memory.lose(&key("a")));
    assert_eq!((fork.digest(), fork.bytes()), (before, 3));
}
