#![allow(clippy::unwrap_used)]

use super::absolute;

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
    for almost in ["s3:/bucket/prefix", "s3:bucket", "dir:/srv/bucket"] {
        let refused = absolute(almost).unwrap_err().to_string();
        assert!(refused.contains("://") && refused.contains(&format!("./{almost}")), "{refused}");
    }
}
