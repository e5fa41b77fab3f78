//! SeaweedFS on this machine, as the store that dirty data drains to; and bare puts to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Server, free_port, until};
use crate::{Result, setup};

/// A SeaweedFS with a bucket `tide`.
pub struct Store {
    _server: Server,
    port: u16,
}

impl Store {
    /// Starts it in `dir`.
    pub fn start(dir: &Path) -> Result<Store> {
        let data = dir.join("seaweedfs");
        std::fs::create_dir(&data)?;
        // Each service also listens 10,000 above its port, so that must be free as well.
        let ports: Vec<u16> = std::iter::repeat_with(free_port)
            .filter_map(Result::ok)
            .filter(|p| *p < 55_000 && std::net::TcpListener::bind(("127.0.0.1", p + 10_000)).is_ok())
            .take(4)
            .collect();
        let mut weed = Command::new(setup::test_servers()?.join("weed"));
        weed.arg("server").arg(format!("-dir={}", data.display()));
        for (service, port) in ["s3", "master", "volume", "filer"].iter().zip(&ports) {
            weed.arg(format!("-{service}.port={port}"));
        }
        weed.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.iam=false", "-master.telemetry=false"]);
        // These have ports of their own, which two runs at a time would both want.
        weed.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        weed.args(["-volume.max=400", "-master.volumeSizeLimitMB=64"]);
        weed.current_dir(&data);
        let mut server = Server::start(&weed, dir.join("seaweedfs.log"))?;
        let port = ports[0];
        until("a bucket on SeaweedFS", Duration::from_secs(90), || {
            server.check()?;
            std::thread::sleep(Duration::from_millis(200));
            Ok(put(port, "/tide", &[]).ok())
        })?;
        Ok(Store { _server: server, port })
    }

    /// Where its S3 service listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bucket, as Tidegate names it.
    pub fn url(&self) -> String {
        format!("s3://tide/bench?endpoint=http://127.0.0.1:{}", self.port)
    }

    /// Puts so many objects of `body`'s size, some at a time, each with content of its own.
    pub fn put_all(&self, run: u32, objects: u64, at_a_time: u64, body: &[u8]) -> Result {
        let errors: Vec<String> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_a_time)
                .map(|worker| {
                    scope.spawn(move || -> std::result::Result<(), String> {
                        let mut own = body.to_vec();
                        for object in (worker..objects).step_by(at_a_time as usize) {
                            own[..8].copy_from_slice(&object.to_le_bytes());
                            let name = format!("/tide/bare/{run}/{object}");
                            put(self.port, &name, &own).map_err(|e| format!("put of {name}: {e}"))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().filter_map(|w| w.join().expect("putting does not panic").err()).collect()
        });
        match errors.first() {
            None => Ok(()),
            Some(e) => Err(e.clone().into()),
        }
    }
}

fn put(port: u16, path: &str, body: &[u8]) -> Result {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(answer.lines().next().unwrap_or("no answer").into())
    }
}
