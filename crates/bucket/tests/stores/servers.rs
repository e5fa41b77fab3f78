//! Real servers of the S3 interface, started by the test: SeaweedFS and moto. `cargo xtask test` installs them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use base::{Clock, ErrorKind, SeededEntropy, UnixMillis};
use bucket::{
    Access, Attributes, Bucket, Credentials, OpenOptions, RetryPolicy, Retrying, StorageClass, open, probe,
};

use crate::{absent, body, holds, key, plain};

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // real servers look at the real time
    fn now(&self) -> UnixMillis {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
    }
}

/// Finds a program in `TIDEGATE_TEST_BIN` or on the path; without it the test fails, it is not passed over.
fn program(name: &str) -> PathBuf {
    let own = std::env::var_os("TIDEGATE_TEST_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        own.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|p| p.exists());
    found.unwrap_or_else(|| {
        panic!("{name} is not installed: run the tests by `cargo xtask test`, or name its directory in TIDEGATE_TEST_BIN")
    })
}

/// A server with a bucket `tide`; it ends with the test.
struct Server {
    child: Child,
    endpoint: String,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The next port to look at: tests run at once and must not find the same one free.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// `n` ports that were free a moment ago, low enough that a gRPC port 10000 above them exists.
fn free_ports(n: usize) -> Vec<u16> {
    let base = 20_000 + (std::process::id() % 10_000) as u16;
    let is_free =
        |port: &u16| [*port, port + 10_000].into_iter().all(|p| TcpListener::bind(("127.0.0.1", p)).is_ok());
    std::iter::repeat_with(|| base + NEXT_PORT.fetch_add(1, Ordering::Relaxed))
        .filter(is_free)
        .take(n)
        .collect()
}

fn request(port: u16, line: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Server {
    fn start(name: &str, port: u16, arguments: impl Fn(&Path) -> Vec<String>) -> Server {
        let data = tempfile::tempdir().unwrap();
        let log = File::create(data.path().join("log")).unwrap();
        let child = Command::new(program(name))
            .args(arguments(data.path()))
            .current_dir(data.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server { child, endpoint: format!("http://127.0.0.1:{port}"), _data: data };
        server.make_bucket(port);
        server
    }

    #[allow(clippy::disallowed_methods)] // waits for a real server
    fn make_bucket(&mut self, port: u16) {
        let start = Instant::now();
        loop {
            let answer = request(port, "PUT /tide");
            if answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 200")) {
                return;
            }
            let log = std::fs::read_to_string(self._data.path().join("log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(20).collect();
            assert!(self.child.try_wait().unwrap().is_none(), "the server ended: {tail:#?}");
            assert!(start.elapsed() < Duration::from_secs(90), "no bucket after 90 s: {answer:?}: {tail:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn seaweedfs() -> Server {
        let ports = free_ports(4);
        let [s3, master, volume, filer] = ports[..] else { unreachable!("four were asked for") };
        Server::start("weed", s3, |data| {
            let flags = [
                format!("-dir={}", data.display()),
                format!("-s3.port={s3}"),
                format!("-master.port={master}"),
                format!("-volume.port={volume}"),
                format!("-filer.port={filer}"),
            ];
            let fixed =
                ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-master.telemetry=false", "-volume.max=400"];
            let more = ["-master.volumeSizeLimitMB=64", "-s3.iam=false"];
            std::iter::once("server".to_owned())
                .chain(flags)
                .chain(fixed.into_iter().chain(more).map(str::to_owned))
                .collect()
        })
    }

    fn moto() -> Server {
        let port = free_ports(1)[0];
        Server::start("moto_server", port, |_| {
            ["-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned).to_vec()
        })
    }

    fn bucket(&self, rest: &str) -> Arc<dyn Bucket> {
        let credentials = Credentials::Keys { id: "any".into(), secret: "any".into(), token: None };
        let options = OpenOptions { credentials, ..OpenOptions::new(Arc::new(SystemClock)) };
        let mark = if rest.contains('?') { '&' } else { '?' };
        open(&format!("s3://tide{rest}{mark}endpoint={}", self.endpoint), &options).unwrap()
    }
}

/// Above two parts of the default size.
const LARGE: usize = (40 << 20) + 12_345;

#[tokio::test]
async fn seaweedfs_keeps_the_contract() {
    let server = Server::seaweedfs();
    let bucket = server.bucket("/site1");
    let report = probe(&bucket, &SeededEntropy::new(1)).await.unwrap();
    assert!(report.verifies_uploads, "SeaweedFS compares CRC64NVME (C05): {report:?}");
    let retrying = Retrying::new(bucket.clone(), RetryPolicy::default(), Arc::new(SeededEntropy::new(1)));
    let report = holds(Arc::new(retrying), 1, LARGE).await;
    assert_eq!(absent(&report), ["archive and restore", "names with a backslash"]);
    // The other guard of bodies, and small parts.
    holds(server.bucket("/md5?checksum=md5&part_size=5MiB"), 2, 12 << 20).await;
}

#[tokio::test]
async fn moto_keeps_the_contract_and_archives() {
    let server = Server::moto();
    let bucket = server.bucket("");
    let report = probe(&bucket, &SeededEntropy::new(1)).await.unwrap();
    assert!(!report.verifies_uploads, "moto stores checksums and compares nothing: {report:?}");
    let report = holds(bucket.clone(), 1, LARGE).await;
    assert_eq!(absent(&report), ["a damaged body is refused"]);
    let cold = Attributes { class: StorageClass::DeepArchive, ..plain() };
    bucket.create(&key("tape"), &body("cold"), &cold).await.unwrap();
    assert_eq!(bucket.head(&key("tape")).await.unwrap().access, Access::Archived);
    assert_eq!(bucket.get(&key("tape"), None).await.unwrap_err().kind(), ErrorKind::Invalid);
    bucket.restore(&key("tape"), 2).await.unwrap();
    let access = bucket.head(&key("tape")).await.unwrap().access;
    assert!(matches!(access, Access::Restored(Some(_))), "{access:?}");
    assert_eq!(&bucket.get(&key("tape"), None).await.unwrap()[..], b"cold");
}

#[tokio::test]
async fn what_operators_get_wrong_is_told_plainly() {
    let server = Server::moto();
    let credentials = Credentials::Keys { id: "any".into(), secret: "any".into(), token: None };
    let options = OpenOptions { credentials, ..OpenOptions::new(Arc::new(SystemClock)) };
    let url = |bucket: &str, endpoint: &str| format!("s3://{bucket}?endpoint={endpoint}");
    let missing = open(&url("nosuchbucket", &server.endpoint), &options).unwrap();
    let e = probe(&missing, &SeededEntropy::new(1)).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Invalid && e.to_string().contains("create the bucket"), "{e}");
    let nobody = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let away = open(&url("tide", &nobody), &options).unwrap();
    let e = away.head(&key("a")).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("refused"), "{e}");
    // https spoken to a server that speaks http: never falls back.
    let tls = server.endpoint.replace("http:", "https:");
    let e = open(&url("tide", &tls), &options).unwrap().head(&key("a")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
}
