//! The client.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use gateway::{
    Access, AdoptVolume, BucketView, CreateVolume, ForkView, GatewayView, OpenFork, ProbeView, VolumeView,
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{AddBucket, ChangeBucket, Problem, Resize, WITH_FORKS, WITHOUT_BUCKET};

/// Talks to the gateway that listens on a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

const NOTHING: Option<&()> = None;

impl Client {
    /// For a socket, which need not exist yet.
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.to_owned() }
    }

    /// Everything.
    pub async fn status(&self) -> Result<GatewayView> {
        self.call(Method::GET, "/v1/status", NOTHING).await
    }

    /// All buckets.
    pub async fn buckets(&self) -> Result<Vec<BucketView>> {
        self.call(Method::GET, "/v1/buckets", NOTHING).await
    }

    /// Probes and adds a bucket.
    pub async fn add_bucket(&self, name: &str, url: &str) -> Result<ProbeView> {
        let body = AddBucket { name: name.into(), url: url.into() };
        self.call(Method::POST, "/v1/buckets", Some(&body)).await
    }

    /// Gives a bucket another URL.
    pub async fn change_bucket(&self, name: &str, url: &str) -> Result<ProbeView> {
        let body = ChangeBucket { url: url.into() };
        self.call(Method::PUT, &format!("/v1/buckets/{}", segment(name)), Some(&body)).await
    }

    /// Forgets a bucket that no volume is in.
    pub async fn remove_bucket(&self, name: &str) -> Result<()> {
        self.call(Method::DELETE, &format!("/v1/buckets/{}", segment(name)), NOTHING).await
    }

    /// Probes a bucket.
    pub async fn probe(&self, name: &str) -> Result<ProbeView> {
        self.call(Method::POST, &format!("/v1/buckets/{}/probe", segment(name)), NOTHING).await
    }

    /// All volumes.
    pub async fn volumes(&self) -> Result<Vec<VolumeView>> {
        self.call(Method::GET, "/v1/volumes", NOTHING).await
    }

    /// One volume.
    pub async fn volume(&self, name: &str) -> Result<VolumeView> {
        self.call(Method::GET, &format!("/v1/volumes/{}", segment(name)), NOTHING).await
    }

    /// Creates a volume.
    pub async fn create(&self, wanted: &CreateVolume) -> Result<VolumeView> {
        self.call(Method::POST, "/v1/volumes", Some(wanted)).await
    }

    /// Takes over a volume that is in a bucket.
    pub async fn adopt(&self, wanted: &AdoptVolume) -> Result<VolumeView> {
        self.call(Method::POST, "/v1/adopt", Some(wanted)).await
    }

    /// Changes a size; to a smaller one only if data may be lost.
    pub async fn resize(&self, name: &str, size: u64, may_lose: bool) -> Result<VolumeView> {
        let wanted = Resize { size, may_lose };
        self.call(Method::POST, &format!("/v1/volumes/{}/resize", segment(name)), Some(&wanted)).await
    }

    /// Changes who may use a volume.
    pub async fn set_access(&self, name: &str, access: &Access) -> Result<VolumeView> {
        self.call(Method::POST, &format!("/v1/volumes/{}/access", segment(name)), Some(access)).await
    }

    /// Waits until a volume's data is in its bucket.
    pub async fn drain(&self, name: &str) -> Result<VolumeView> {
        self.call(Method::POST, &format!("/v1/volumes/{}/drain", segment(name)), NOTHING).await
    }

    /// Lets go of a volume.
    pub async fn release(&self, name: &str) -> Result<()> {
        self.call(Method::POST, &format!("/v1/volumes/{}/release", segment(name)), NOTHING).await
    }

    /// Deletes a volume and its data; also the forks of it that the gateway keeps, if so told.
    pub async fn delete(&self, name: &str, with_forks: bool) -> Result<()> {
        let query = if with_forks { format!("?{WITH_FORKS}") } else { String::new() };
        self.call(Method::DELETE, &format!("/v1/volumes/{}{query}", segment(name)), NOTHING).await
    }

    /// Deletes what the gateway has of a volume whose bucket is lost.
    pub async fn delete_without_bucket(&self, name: &str) -> Result<()> {
        let path = format!("/v1/volumes/{}?{WITHOUT_BUCKET}", segment(name));
        self.call(Method::DELETE, &path, NOTHING).await
    }

    /// All forks.
    pub async fn forks(&self) -> Result<Vec<ForkView>> {
        self.call(Method::GET, "/v1/forks", NOTHING).await
    }

    /// Makes a fork a volume of its own.
    pub async fn open_fork(&self, fork: &str, wanted: &OpenFork) -> Result<VolumeView> {
        self.call(Method::POST, &format!("/v1/forks/{}/open", segment(fork)), Some(wanted)).await
    }

    /// Gives a fork up for good.
    pub async fn discard_fork(&self, fork: &str) -> Result<()> {
        self.call(Method::DELETE, &format!("/v1/forks/{}", segment(fork)), NOTHING).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let body = body.map_or(Ok(Vec::new()), serde_json::to_vec);
        let body =
            body.map_err(|e| Error::caused(ErrorKind::Internal, "the request cannot be written", e))?;
        let (ok, answer) = self.exchange(method, path, body.into()).await?;
        if ok {
            return serde_json::from_slice(&answer).map_err(|e| {
                Error::caused(
                    ErrorKind::Internal,
                    "the gateway's answer cannot be read; is it of another version?",
                    e,
                )
            });
        }
        Err(match serde_json::from_slice::<Problem>(&answer) {
            Ok(problem) => Error::new(kind(&problem.kind), problem.message),
            Err(_) => Error::internal(String::from_utf8_lossy(&answer).into_owned()),
        })
    }

    #[allow(clippy::disallowed_methods)] // the client is no part of the gateway's world
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(bool, Bytes)> {
        let away =
            || format!("no gateway answers on {}; start one with `tidegate serve`", self.socket.display());
        let broken = |e: hyper::Error| Error::caused(ErrorKind::Unavailable, "the gateway broke off", e);
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| Error::caused(ErrorKind::Unavailable, away(), e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tidegate")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| Error::caused(ErrorKind::Invalid, format!("{path} is no request"), e))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let ok = response.status().is_success();
        Ok((ok, response.into_body().collect().await.map_err(broken)?.to_bytes()))
    }
}

/// A name as a part of a path, whatever stands in it.
fn segment(name: &str) -> impl Display {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}

fn kind(word: &str) -> ErrorKind {
    use ErrorKind::*;
    let kinds = [NotFound, Exists, Invalid, Denied, NoSpace, Busy, Unavailable, Fenced, Corrupt, Internal];
    kinds.into_iter().find(|kind| kind.as_str() == word).unwrap_or(Internal)
}
