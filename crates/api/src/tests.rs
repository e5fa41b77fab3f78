//! Names and switches as they travel between client and server.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base::ErrorKind;
use gateway::{Config, Gateway, Seams};
use local::{OsEntropy, SystemClock, TokioSpawn};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Client, SOCKET, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_name_looks_like_the_answer_is_about_it() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().display();
    let config = Config::parse(&format!(
        "name = 'gw'\ndata = '{at}/data'\nmemory = '16 MiB'\n[[disk]]\nname = 'ssd'\npath = '{at}/ssd'\n\
         journal = '64 MiB'\ncache = '16 MiB'\n[iscsi]\nlisten = ['127.0.0.1:0']\nthreads = 1\n"
    ));
    let seams = Seams {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        spawn: Arc::new(TokioSpawn::new(tokio::runtime::Handle::current())),
    };
    let gateway = Gateway::start(config.unwrap(), seams.clone()).await.unwrap();
    let socket = home.path().join("data").join(SOCKET);
    let _server = Server::start(gateway.clone(), &socket, &*seams.spawn).unwrap();
    let client = Client::new(&socket);
    for name in ["vol1", "a/b", "a b", "ä?x#y", "100%", "..", "adopt", "forks"] {
        for answer in [client.volume(name).await.map(drop), client.delete(name, true).await] {
            let e = answer.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound, "{name}: {e}");
            assert!(e.to_string().contains(&format!("there is no volume {name:?}")), "{name}: {e}");
        }
    }
    let e = client.volume("").await.unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains("check the name"), "{e}");
    for (request, says) in [
        ("POST /v1/volumes", "the body of the request is wrong"),
        ("POST /v1/volumes/%ff/drain", "the name of the request is wrong"),
        ("GET /v1/nothing", "the gateway has no GET"),
    ] {
        for body in ["", "{", "{\"name\": 5}", "\u{0}"] {
            let answer = raw(&socket, request, body).await;
            let (head, problem) = answer.split_once("\r\n\r\n").unwrap();
            let problem: crate::Problem = serde_json::from_str(problem).unwrap();
            assert!(head.starts_with("HTTP/1.1 40") && problem.message.contains(says), "{request}: {answer}");
        }
    }
    gateway.stop(|_| ()).await.unwrap();
}

/// What is answered to a request as no client of ours sends it.
async fn raw(socket: &std::path::Path, request: &str, body: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
