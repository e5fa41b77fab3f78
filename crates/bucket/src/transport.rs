//! HTTP and HTTPS to object stores: one connection pool, certificates always checked (X01), no redirects.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    HttpClient, HttpConnector as ClientFactory, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take to begin, apart from the request's bytes: copies inside a store take minutes. Callers
/// with less patience give up earlier.
const ANSWER: Duration = Duration::from_secs(300);

/// The slowest upload that is waited for, in bytes per second.
const SLOWEST: u64 = 32 << 10;

/// How long a body may stand still before the connection counts as broken.
const STALL: Duration = Duration::from_secs(20);

/// How long the service that gives a machine its role may take.
const METADATA: Duration = Duration::from_secs(2);

/// The largest answer that is not an object's bytes.
const ANSWER_LIMIT: usize = 16 << 20;

/// A pool of connections.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client<HttpsConnector<HttpConnector>, HttpRequestBody>,
}

/// An answer whose body was read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Transport {
    /// A pool that trusts the system's certificate authorities and those in `ca_file` (PEM).
    pub fn new(ca_file: Option<&Path>) -> Result<Transport> {
        let mut roots = rustls::RootCertStore::empty();
        // What the system holds and cannot be read is reported when a connection needs it.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            for certificate in read_authorities(path)? {
                roots.add(certificate).map_err(|e| {
                    let file = path.display();
                    Error::caused(
                        ErrorKind::Invalid,
                        format!("{file} holds no usable certificate authority"),
                        e,
                    )
                })?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::caused(ErrorKind::Internal, "TLS could not be set up: report this", e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Ok(Transport { client })
    }

    /// Sends a request and reads the whole answer. `Unavailable` if any of it failed.
    pub async fn call(&self, request: HttpRequest) -> Result<Answer> {
        let is_get = request.method() == http::Method::GET;
        let has_range = request.headers().contains_key(http::header::RANGE);
        let time = ANSWER + Duration::from_secs(request.body().content_length() as u64 / SLOWEST);
        let response = match timeout(time, self.client.request(request)).await {
            Ok(response) => response.map_err(|e| broken(&e))?,
            Err(_) => {
                return Err(Error::new(ErrorKind::Unavailable, "no answer for minutes: check the network"));
            }
        };
        let (parts, body) = response.into_parts();
        let is_object = is_get && (has_range || parts.status == StatusCode::OK);
        let limit = if is_object && parts.status.is_success() { usize::MAX } else { ANSWER_LIMIT };
        let body = collect(body, limit).await?;
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

/// Reads a body; in one piece already if it came in one frame.
async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes> {
    let expected = hyper::body::Body::size_hint(&body).exact();
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut total = 0;
    loop {
        let frame = match timeout(STALL, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(|e| broken(&e))?,
            Ok(None) => break,
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the answer stood still for 20 s: check the network",
                ));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > limit {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the answer is far too long: is this an object store?",
            ));
        }
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            earlier => {
                if let Some(earlier) = earlier {
                    let size = expected.unwrap_or(0).min(1 << 30) as usize;
                    rest.reserve(size.max(earlier.len() + data.len()));
                    rest.extend_from_slice(&earlier);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |e: rustls::pki_types::pem::Error| {
        let advice =
            format!("{} cannot be read as PEM: name a file of certificate authorities", path.display());
        Error::caused(ErrorKind::Invalid, advice, e)
    };
    CertificateDer::pem_file_iter(path).map_err(wrong)?.map(|c| c.map_err(wrong)).collect()
}

/// A call that got no answer. A certificate that is refused will be refused again: an operator has to act.
fn broken(error: &(dyn StdError + 'static)) -> Error {
    let mut text = error.to_string();
    let mut refused = false;
    let mut cause = error.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        let inner = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let tls = inner.and_then(|i| i.downcast_ref()).or_else(|| e.downcast_ref());
        refused |= matches!(tls, Some(rustls::Error::InvalidCertificate(_)));
        cause = e.source();
    }
    if refused {
        let advice = "the store's certificate is not trusted: install its authority in the system, or name it in ca_file";
        Error::caused(ErrorKind::Denied, advice, text)
    } else {
        Error::new(ErrorKind::Unavailable, format!("no answer: {text}"))
    }
}

/// The same pool for the library that fetches short-lived credentials.
#[derive(Debug, Clone)]
pub struct CredentialClient(pub Transport);

#[async_trait]
impl HttpService for CredentialClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // A machine's own service answers at once, or there is none.
        let local = request.uri().host().is_some_and(|host| host.starts_with("169.254."));
        let time = if local { METADATA } else { STALL };
        let call = self.0.call(request);
        let answer = match timeout(time, call).await {
            Ok(answer) => answer.map_err(|e| HttpError::new(HttpErrorKind::Connect, e))?,
            Err(e) => return Err(HttpError::new(HttpErrorKind::Timeout, e)),
        };
        let mut response = http::Response::new(HttpResponseBody::from(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

impl ClientFactory for CredentialClient {
    fn connect(&self, _options: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
