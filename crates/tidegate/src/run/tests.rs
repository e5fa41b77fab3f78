#![allow(clippy::unwrap_used)]

use super::{absolute, released};

#[test]
fn a_relative_path_is_made_whole_before_the_daemon_sees_it() {
    let here = std::env::current_dir().unwrap().display().to_string();
    for (given, sent) in [
        ("bucket", format!("{here}/bucket")),
        ("./a b", format!("{here}/a b")),
        ("dir://bucket/x", format!("dir://{here}/bucket/x")),
        ("file://bucket", format!("file://{here}/bucket")),
        ("dir:///srv/bucket", "dir:///srv/bucket".into()),
        ("/srv/bucket", "/srv/bucket".into()),
        ("s3://bucket/x?endpoint=http://h:1", "s3://bucket/x?endpoint=http://h:1".into()),
        ("dir://", "dir://".into()),
    ] {
        assert_eq!(absolute(given).unwrap(), sent);
    }
}

#[test]
fn what_is_almost_a_url_is_no_directory() {
    for almost in ["s3:/bucket/prefix", "s3:bucket", "dir:/srv/bucket", "nonsense:abc"] {
        let refused = absolute(almost).unwrap_err().to_string();
        assert!(refused.contains("://") && refused.contains(&format!("./{almost}")), "{refused}");
    }
}

#[test]
fn rules_that_a_release_forgets_are_told_of() {
    let bare = serde_json::json!({
        "name": "vol1", "image": "08", "bucket": "main", "disk": "ssd", "size": 1, "block_size": 512, "target": "iqn.x",
        "lun": 0, "state": "open", "reason": null, "epoch": 1, "dirty": 0, "oldest_dirty": null, "local_segments": 0,
        "uploaded": 0, "drain_rate": 0, "stored": 0, "live": 0, "trouble": null, "trouble_since": null,
        "chap_users": [], "mutual_chap": false, "initiators": [], "networks": [],
    });
    let text = |field: &str, value: serde_json::Value| {
        let mut view = bare.clone();
        view[field] = value;
        released(&serde_json::from_value(view).unwrap())
    };
    let lost = "give them again when it is adopted";
    let plain = text("state", "open".into());
    assert!(
        plain.contains("`tidegate volume adopt vol1 --image 08 --bucket main` takes it in again"),
        "{plain}"
    );
    assert!(!plain.contains(lost), "{plain}");
    let fenced = text("state", "fenced".into());
    assert!(fenced.contains("which another gateway has taken over") && !fenced.contains("adopt"), "{fenced}");
    for (field, value) in [
        ("chap_users", serde_json::json!(["alice"])),
        ("mutual_chap", true.into()),
        ("initiators", serde_json::json!(["iqn.y"])),
        ("networks", serde_json::json!(["10.0.0.0/8"])),
    ] {
        let told = text(field, value);
        assert!(told.contains(lost), "{field}: {told}");
    }
}
