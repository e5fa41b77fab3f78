use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn labelled(value: &str) -> Attributes {
    Attributes { metadata: [("label".into(), value.into())].into(), ..Attributes::default() }
}

fn body(text: &str) -> Payload {
    Payload::from(Bytes::copy_from_slice(text.as_bytes()))
}

fn shared(root: &Path, notes: bool) -> Shared {
    let mut shared = Arc::into_inner(Directory::make(root).unwrap().shared).unwrap();
    if notes {
        shared.attributes.use_notes();
    }
    shared
}

fn files_below(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.map(|e| e.unwrap().path()).map(|p| if p.is_dir() { files_below(&p) } else { 1 }).sum()
}

#[test]
fn objects_are_plain_files_under_their_own_names() {
    let root = tempfile::tempdir().unwrap();
    let s = shared(root.path(), false);
    s.store(&key("reports/50% of 2024?.txt"), &body("plain"), &Attributes::default(), true).unwrap();
    assert_eq!(fs::read(root.path().join("reports/50% of 2024?.txt")).unwrap(), b"plain");
    fs::create_dir(root.path().join("by-hand")).unwrap();
    fs::write(root.path().join("by-hand/a.txt"), "hand").unwrap();
    assert_eq!(&s.get(&key("by-hand/a.txt"), None).unwrap()[..], b"hand");
    assert_eq!(walk::list(&s, "by", None, 9).unwrap()[0].key, key("by-hand/a.txt"));
}

#[test]
fn our_own_directory_is_hidden_and_its_name_can_still_be_used() {
    let root = tempfile::tempdir().unwrap();
    let s = shared(root.path(), true);
    let names = [
        ".tidegate/temporary/x",
        ".tidegate2",
        "%2Etidegate",
        "%252Etidegate/y",
        "%25252Etidegate",
        "%25",
        "z/.tidegate",
    ];
    for name in names {
        s.store(&key(name), &body(name), &labelled("v"), true).unwrap();
    }
    let mut wanted = names.to_vec();
    wanted.sort_unstable();
    let listed = walk::list(&s, "", None, 100).unwrap();
    assert_eq!(listed.iter().map(|m| m.key.as_str()).collect::<Vec<_>>(), wanted);
    for name in names {
        assert_eq!(s.get(&key(name), None).unwrap(), name.as_bytes());
        s.delete(&key(name)).unwrap();
    }
    assert!(walk::list(&s, "", None, 100).unwrap().is_empty());
}

#[test]
fn a_killed_gateways_leftovers_go_and_a_living_ones_stay() {
    let root = tempfile::tempdir().unwrap();
    let living = shared(root.path(), false);
    let unfinished = living.workshop.start().unwrap();
    unfinished.write(&[Bytes::from_static(b"half")]).unwrap();
    let dir = root.path().join(OWN).join("temporary");
    fs::write(dir.join("999-0.lock"), "").unwrap();
    fs::write(dir.join("999-0.7"), "left by a killed process").unwrap();
    fs::write(dir.join("998-0.7"), "left without a lock").unwrap();
    let second = shared(root.path(), false);
    assert!(
        !dir.join("999-0.lock").exists() && !dir.join("999-0.7").exists() && !dir.join("998-0.7").exists()
    );
    unfinished.write(&[Bytes::from_static(b"whole")]).unwrap();
    let sealed = unfinished.seal().unwrap();
    assert_eq!(sealed.nlink(), 1, "the file still has its name");
    drop(unfinished);
    drop(living);
    drop(second);
    assert_eq!(files_below(&dir), 0);
}

#[test]
fn failed_and_refused_writes_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    for notes in [false, true] {
        let s = shared(root.path(), notes);
        let name = key(&format!("dir/{notes}"));
        s.store(&name, &body("first"), &labelled("1"), true).unwrap();
        let before = files_below(root.path());
        let refused = s.store(&name, &body("other"), &labelled("2"), true).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exists);
        let damaged = Payload::with_crc(vec![Bytes::from_static(b"x")], 1);
        assert_eq!(
            s.store(&key("other"), &damaged, &labelled("2"), true).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        let below = key(&format!("dir/{notes}/below"));
        assert_eq!(s.store(&below, &body("x"), &labelled("3"), true).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(
            s.store(&key("dir"), &body("x"), &labelled("3"), false).unwrap_err().kind(),
            ErrorKind::Invalid
        );
        assert_eq!(files_below(root.path()), before);
        assert_eq!(s.head(&name).unwrap().attributes, labelled("1"));
    }
}

#[test]
fn attributes_follow_their_object_with_and_without_extended_attributes() {
    let root = tempfile::tempdir().unwrap();
    for notes in [false, true] {
        let s = shared(root.path(), notes);
        let (a, b) = (key("x/a"), key("y/b"));
        // Same size, same tick of the clock: only the time of the file tells these notes apart.
        for n in 0..50 {
            s.store(&a, &body("same size"), &labelled(&n.to_string()), false).unwrap();
            assert_eq!(s.head(&a).unwrap().attributes, labelled(&n.to_string()));
        }
        s.store(&a, &body("same size"), &Attributes::default(), false).unwrap();
        assert_eq!(s.head(&a).unwrap().attributes, Attributes::default());
        s.store(&a, &body("same size"), &labelled("last"), false).unwrap();
        s.copy(&a, &b).unwrap();
        assert_eq!(s.head(&b).unwrap().attributes, labelled("last"));
        s.delete(&a).unwrap();
        s.delete(&b).unwrap();
        assert_eq!(files_below(&root.path().join(OWN).join("attributes")), 0);
        assert!(!root.path().join("x").exists(), "an empty directory stays");
    }
}

#[test]
fn attributes_survive_a_copy_of_the_tree() {
    for notes in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let s = shared(root.path(), notes);
        s.store(&key("a/b"), &body("text"), &labelled("kept"), true).unwrap();
        let source = format!("{}/.", root.path().display());
        let done = std::process::Command::new("cp").args(["-a", &source]).arg(copy.path()).status().unwrap();
        assert!(done.success());
        assert_eq!(shared(copy.path(), false).head(&key("a/b")).unwrap().attributes, labelled("kept"));
    }
}

#[test]
fn a_bucket_that_is_not_mounted_is_not_empty() {
    let root = tempfile::tempdir().unwrap();
    let s = shared(root.path(), false);
    s.store(&key("a"), &body("x"), &Attributes::default(), true).unwrap();
    fs::remove_dir_all(root.path()).unwrap();
    fs::create_dir(root.path()).unwrap();
    assert_eq!(s.get(&key("a"), None).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(s.delete(&key("a")).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(walk::list(&s, "", None, 10).unwrap_err().kind(), ErrorKind::Unavailable);
    let refused = s.store(&key("b"), &body("x"), &Attributes::default(), true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

/// A bucket is renamed while it is open, and another one is made in its place.
#[test]
fn another_bucket_at_the_same_path_is_not_written_to() {
    let above = tempfile::tempdir().unwrap();
    let (root, aside) = (above.path().join("bucket"), above.path().join("aside"));
    for notes in [false, true] {
        let ours = shared(&root, notes);
        ours.store(&key("a"), &body("ours"), &labelled("v"), true).unwrap();
        fs::rename(&root, &aside).unwrap();
        let other = shared(&root, notes);
        other.store(&key("a"), &body("another's"), &labelled("v"), true).unwrap();
        let before = files_below(&root);
        let refused = |done: Result<()>| {
            let e = done.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
        };
        for only_new in [true, false] {
            refused(ours.store(&key("b"), &body("x"), &labelled("v"), only_new).map(drop));
        }
        refused(ours.copy(&key("a"), &key("c")).map(drop));
        refused(ours.delete(&key("a")));
        // What is there is not its own either.
        refused(ours.get(&key("a"), None).map(drop));
        refused(ours.head(&key("a")).map(drop));
        refused(walk::list(&ours, "", None, 10).map(drop));
        assert_eq!(files_below(&root), before);
        assert_eq!(&other.get(&key("a"), None).unwrap()[..], b"another's");
        drop(other);
        // Back in its place it goes on.
        fs::remove_dir_all(&root).unwrap();
        fs::rename(&aside, &root).unwrap();
        ours.store(&key("b"), &body("x"), &labelled("v"), true).unwrap();
        drop(ours);
        fs::remove_dir_all(&root).unwrap();
    }
}

/// The one that was opened before goes away without taking from the other what that one lives by.
#[test]
fn another_bucket_at_the_same_path_goes_on_when_the_first_is_dropped() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("bucket");
    let ours = shared(&root, true);
    fs::rename(&root, above.path().join("aside")).unwrap();
    let other = shared(&root, true);
    drop(ours);
    other.store(&key("a"), &body("another's"), &labelled("v"), true).unwrap();
    assert_eq!(&other.get(&key("a"), None).unwrap()[..], b"another's");
    assert!(
        Workshop::open(&root.join(OWN).join("temporary")).is_ok() && other.workshop.is_there(),
        "it holds its lock"
    );
}

#[test]
fn only_making_makes_a_bucket() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("mounted/here");
    let refused = |why: &str| {
        let e = Directory::open(&root).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{why}: {e}");
        assert!(e.to_string().contains("is its file system mounted?"), "{why}: {e}");
    };
    refused("nothing is there");
    assert!(!above.path().join("mounted").exists(), "the opening made something");
    fs::create_dir_all(&root).unwrap();
    refused("an empty mount point");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "the opening made something");
    drop(Directory::make(&root).unwrap());
    drop(Directory::open(&root).unwrap());
    drop(Directory::make(&root).unwrap());
    fs::rename(&root, above.path().join("aside")).unwrap();
    fs::write(&root, "a file").unwrap();
    refused("a file");
}

#[test]
fn links_that_lead_out_of_the_bucket_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    let s = shared(root.path(), false);
    std::os::unix::fs::symlink(secret.path(), root.path().join("link")).unwrap();
    assert_eq!(s.get(&key("link"), None).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(walk::list(&s, "", None, 10).unwrap().is_empty());
}

#[test]
fn a_full_disk_is_no_space() {
    let e = failed("write", Path::new("x"), io::Error::from(io::ErrorKind::StorageFull));
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    // /dev/full answers every write as a full disk does.
    let real =
        fs::OpenOptions::new().write(true).open("/dev/full").map(|mut f| io::Write::write_all(&mut f, b"x"));
    assert_eq!(failed("write", Path::new("x"), real.unwrap().unwrap_err()).kind(), ErrorKind::NoSpace);
}

#[test]
fn creators_and_deleters_of_one_directory_do_not_trip_over_each_other() {
    let root = tempfile::tempdir().unwrap();
    let s = shared(root.path(), true);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let s = &s;
            scope.spawn(move || {
                for n in 0..50 {
                    let name = key(&format!("deep/er/{t}-{n}"));
                    s.store(&name, &body("x"), &labelled("v"), true).unwrap();
                    s.delete(&name).unwrap();
                }
            });
        }
    });
    assert!(walk::list(&s, "", None, 10).unwrap().is_empty());
}

proptest! {
    #[test]
    fn any_attribute_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(attributes::decode(&bytes));
    }

    #[test]
    fn names_are_reversible(name in "[%25E.]{0,12}(tidegate)?[a-z/]{1,5}") {
        let file = name::encode(&name);
        prop_assert_eq!(name::decode_first(&file), Some(name));
    }
}
