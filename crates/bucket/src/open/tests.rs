use std::collections::BTreeMap;

use base::{ErrorKind, ManualClock};

use super::*;

fn options() -> OpenOptions {
    OpenOptions::new(Arc::new(ManualClock::at(0)))
}

fn opened(url: &str, vars: &[(&str, &str)]) -> Result<Arc<dyn Bucket>> {
    let vars: BTreeMap<String, String> =
        vars.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    open_with(url, &options(), &|name| vars.get(name).cloned())
}

const AWS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hidden")];

#[test]
fn urls_name_buckets_and_prefixes() {
    assert_eq!(opened("mem:x", &[]).unwrap().url(), "mem:x");
    assert_eq!(opened("s3://b/site1/disks/", &AWS).unwrap().url(), "s3://b/site1/disks");
    let oss = [("OSS_ACCESS_KEY_ID", "id"), ("OSS_ACCESS_KEY_SECRET", "hidden")];
    assert_eq!(opened("oss://b?region=cn-hangzhou", &oss).unwrap().url(), "oss://b");
    let root = tempfile::tempdir().unwrap();
    for url in [format!("dir://{}", root.path().display()), root.path().display().to_string()] {
        let bucket = open_with(&url, &OpenOptions { make_directory: true, ..options() }, &|_| None).unwrap();
        assert_eq!(opened(&url, &[]).unwrap().url(), bucket.url());
        assert_eq!(bucket.url(), format!("dir://{}", root.path().canonicalize().unwrap().display()));
    }
    let both = OpenOptions { prefix: Some("top".into()), ..options() };
    let bucket = open_with("s3://b/below", &both, &|n| {
        AWS.iter().find(|(m, _)| *m == n).map(|(_, v)| (*v).to_owned())
    });
    assert_eq!(bucket.unwrap().url(), "s3://b/top/below");
}

#[test]
fn what_identifies_a_store_says_whether_urls_mean_the_same_place() {
    for (one, other, same) in [
        ("/srv/b", "/srv/b", true),
        ("/srv/b", "dir:///srv/b/", true),
        ("file:///srv/b", "/srv/c", false),
        ("/srv/b?region=a", "/srv/b?region=b", false),
        ("mem:x", "mem:x", false),
        ("s3://", "s3://", false),
        ("s3://b/p", "s3://b/p/", true),
        ("s3://b/p", "s3://b", false),
        ("s3://b/p", "s3://c/p", false),
        ("s3://b", "oss://b", false),
        ("s3://b", "/b", false),
        ("gcs://b", "gs://b", true),
        ("azure://c?account=x", "az://c?account=x", true),
        ("az://c?account=x", "az://c?account=y", false),
        ("az://c?account=x", "az://c", false),
        ("s3://b?endpoint=http://x:1", "s3://b?endpoint=http://x:1/", true),
        ("s3://b?endpoint=http://x:1", "s3://b?endpoint=http://y:1", false),
        ("s3://b?endpoint=http://x:1", "s3://b", false),
        ("s3://b?endpoint=http://y&endpoint=http://x", "s3://b?endpoint=http://x", true),
        ("s3://b?endpoint=http://x&region=a", "s3://b?region=b&endpoint=http://x", true),
        ("s3://b?region=eu-west-1", "s3://b?region=cn-north-1", false),
        (
            "s3://b?endpoint=http://x&checksum=md5",
            "s3://b?ca_file=/f&endpoint=http://x&path_style=true",
            true,
        ),
        ("oss://b?region=x&part_size=8MiB", "oss://b?class.archive=Y&region=x", true),
    ] {
        assert_eq!(is_same_place(one, other), same, "{one} {other}");
        assert_eq!(is_same_place(other, one), same, "{other} {one}");
    }
}

#[test]
fn mistakes_are_told_and_nothing_secret_is_shown() {
    for (url, vars, hint) in [
        ("ftp://b", &AWS[..], "no kind of bucket"),
        ("s3://", &AWS, "names no bucket"),
        ("s3://b?regoin=x", &AWS, "no setting \"regoin\""),
        ("s3://b?checksum=sha1", &AWS, "use crc64, md5 or none"),
        ("s3://b?part_size=1MiB", &AWS, "out of 5 MiB to 5 GiB"),
        ("s3://b?endpoint=nowhere", &AWS, "no endpoint"),
        ("s3://id:secret@b", &AWS, "carries no secrets"),
        ("s3://b/a//b", &AWS, "has to be a name"),
        ("s3://b", &AWS[..1], "without AWS_SECRET_ACCESS_KEY"),
        (
            "oss://b",
            &[("OSS_ACCESS_KEY_ID", "i"), ("OSS_ACCESS_KEY_SECRET", "s")],
            "needs the bucket's region",
        ),
        ("oss://b?region=x", &[], "no Alibaba Cloud credentials"),
        ("az://c", &[], "needs a storage account"),
        ("dir://", &[], "needs a path"),
    ] {
        let e = opened(url, vars).unwrap_err();
        assert!(e.to_string().contains(hint), "{url}: {e}");
        assert!(matches!(e.kind(), ErrorKind::Invalid | ErrorKind::Denied));
    }
    let keys = Credentials::Keys { id: "id".into(), secret: "hidden".into(), token: Some("hidden".into()) };
    assert_eq!(format!("{keys:?}"), "Keys(id)");
    let bucket = opened("s3://b", &AWS).unwrap();
    assert!(!format!("{bucket:?}").contains("hidden"), "{bucket:?}");
}

#[test]
fn profiles_are_read_as_the_clouds_own_tools_do() {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        ".aws/credentials",
        "[default]\naws_access_key_id = one\naws_secret_access_key=s1\n# x = y\n[work]\nAWS_ACCESS_KEY_ID=two\naws_secret_access_key = s=2\naws_session_token=t\n",
    );
    write(
        ".aws/config",
        "[default]\nregion = eu-west-1\n[profile work]\nregion=cn-north-1\ns3 =\n  endpoint_url = x\n[profile sso]\nsso_session = y\n",
    );
    write(
        ".aliyun/config.json",
        r#"{"current":"d","profiles":[{"name":"d","mode":"AK","access_key_id":"ali","access_key_secret":"s","region_id":"cn-beijing"}]}"#,
    );
    let home = home.path().display().to_string();
    let look = |profile: Option<&str>| {
        let profile = profile.map(str::to_owned);
        let env = |name: &str| match name {
            "HOME" => Some(home.clone()),
            "AWS_PROFILE" => profile.clone(),
            _ => None,
        };
        credentials::aws(&Credentials::Environment, &env)
    };
    let default = look(None).unwrap();
    assert_eq!((default.key.unwrap().id.as_str(), default.region.as_deref()), ("one", Some("eu-west-1")));
    let work = look(Some("work")).unwrap();
    assert_eq!((work.region.as_deref(), work.endpoint), (Some("cn-north-1"), None));
    let key = work.key.unwrap();
    assert_eq!((key.id.as_str(), key.secret.as_str(), key.token.as_deref()), ("two", "s=2", Some("t")));
    assert!(look(Some("sso")).unwrap_err().to_string().contains("aws configure export-credentials"));
    assert!(look(Some("none")).unwrap_err().to_string().contains("no AWS profile"));
    let env = |name: &str| (name == "HOME").then(|| home.clone());
    let found = credentials::alibaba(&Credentials::Environment, &env).unwrap();
    assert_eq!((found.key.unwrap().id.as_str(), found.region.as_deref()), ("ali", Some("cn-beijing")));
}
