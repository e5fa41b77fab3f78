//! The REST interface that Amazon S3 gave its shape, and Alibaba OSS and Google's XML API share but for header names,
//! signatures, checksums and a few words: those differences are a [`Dialect`].

pub mod answer;
mod list;
mod multipart;
mod site;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result, UnixMillis};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::PutPayload;
use object_store::client::{HttpRequest, HttpRequestBody};

use crate::object::outside;
use crate::transport::{Answer, Transport};
use crate::{Access, Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};
pub use multipart::split;
pub use site::{Site, encode};

/// The largest body that stores take in one request: above it goes up in parts.
const SINGLE_LIMIT: u64 = 5 << 30;

/// What an object without a content type is stored as, and what stores make of none.
const UNTYPED: [&str; 2] = ["application/octet-stream", "binary/octet-stream"];

/// Where a store departs from the common shape.
#[async_trait]
pub trait Dialect: Send + Sync + Debug + 'static {
    /// How its own headers begin, as `x-amz-`.
    fn prefix(&self) -> &'static str;

    /// Signs the request, which is complete but for that.
    async fn sign(&self, request: &mut HttpRequest, key: Option<&Key>) -> Result<()>;

    /// Asks that a put fail if the name is taken.
    fn create_only(&self, headers: &mut HeaderMap);

    /// Announces the checksum of a body in a put of a whole object or of a part.
    fn announce(&self, headers: &mut HeaderMap, body: &Payload) -> Result<()>;

    /// Compares what the store says it stored: `Corrupt` if it is something else.
    fn check_stored(&self, headers: &HeaderMap, body: &Payload) -> Result<()>;

    /// Asks for the checksum of an object that is read whole.
    fn ask_checksum(&self, _headers: &mut HeaderMap) {}

    /// Compares an object that was read whole with the store's checksum, if it came: `Corrupt` if they differ.
    fn check_read(&self, headers: &HeaderMap, body: &Bytes) -> Result<()>;

    /// What a multipart upload has to be told at its begin.
    fn begin_parts(&self, _headers: &mut HeaderMap) {}

    /// What it has to be told at its end, about the whole.
    fn end_parts(&self, _headers: &mut HeaderMap, _body: &Payload) {}

    /// The element about a part's checksum in the list of parts.
    fn part_element(&self, _part: &Payload) -> String {
        String::new()
    }

    /// The store's name of a class.
    fn class_name(&self, class: StorageClass) -> &str;

    /// The class of a store's name.
    fn class(&self, name: &str) -> StorageClass;

    /// Whether objects of a class have to be restored before they are read.
    fn is_closed(&self, class: StorageClass) -> bool;

    /// The body that asks for a restore; `None` where there is no such thing.
    fn restore_request(&self, days: u32) -> Option<String>;
}

/// A bucket of such a store.
#[derive(Debug)]
pub struct Rest<D> {
    transport: Transport,
    site: Site,
    dialect: D,
    part_size: u64,
    order: list::Order,
}

impl<D: Dialect> Rest<D> {
    /// The bucket at `site`; bodies above `part_size` bytes go up in parts.
    pub fn new(transport: Transport, site: Site, dialect: D, part_size: u64) -> Arc<Rest<D>> {
        Arc::new(Rest { transport, site, dialect, part_size, order: list::Order::default() })
    }

    fn name(&self, suffix: &str) -> HeaderName {
        let name = format!("{}{suffix}", self.dialect.prefix());
        HeaderName::from_bytes(name.as_bytes()).expect("prefixes and suffixes are header names")
    }

    /// Sends a request. Any answer is returned, whatever its status.
    async fn send(
        &self,
        method: Method,
        key: Option<&Key>,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: &[Bytes],
    ) -> Result<Answer> {
        let uri = self.site.uri(key, query)?;
        let payload = HttpRequestBody::from(PutPayload::from_iter(body.iter().cloned()));
        let empty = payload.content_length() == 0;
        let mut request = HttpRequest::new(if empty { HttpRequestBody::empty() } else { payload });
        let needs_length = empty && matches!(method, Method::PUT | Method::POST);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if needs_length {
            request.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        self.dialect.sign(&mut request, key).await?;
        self.transport.call(request).await
    }

    /// The answer if it is a success, else what it means.
    fn accept(&self, answer: Answer, key: Option<&Key>) -> Result<Answer> {
        if answer.status.is_success() { Ok(answer) } else { Err(answer::error(&self.url(), key, &answer)) }
    }

    fn describe(&self, attributes: &Attributes) -> Result<HeaderMap> {
        attributes.check()?;
        let mut headers = HeaderMap::new();
        let kind = attributes.content_type.as_deref().unwrap_or(UNTYPED[0]);
        headers.insert(http::header::CONTENT_TYPE, value(kind)?);
        for (name, text) in &attributes.metadata {
            headers.insert(self.name(&format!("meta-{name}")), value(text)?);
        }
        if attributes.class != StorageClass::Standard {
            headers.insert(self.name("storage-class"), value(self.dialect.class_name(attributes.class))?);
        }
        Ok(headers)
    }

    async fn store(
        &self,
        key: &Key,
        body: &Payload,
        attributes: &Attributes,
        only_new: bool,
    ) -> Result<ObjectMeta> {
        let mut headers = self.describe(attributes)?;
        self.dialect.announce(&mut headers, body)?;
        if only_new {
            self.dialect.create_only(&mut headers);
        }
        let answer =
            self.accept(self.send(Method::PUT, Some(key), &[], headers, body.parts()).await?, Some(key))?;
        if let Err(damaged) = self.dialect.check_stored(&answer.headers, body) {
            // It is this call's own object and nobody can use it: a later try needs the name free.
            if only_new {
                self.delete(key).await?;
            }
            return Err(damaged);
        }
        Ok(self.stored(key, &answer.headers, body, attributes))
    }

    fn stored(&self, key: &Key, headers: &HeaderMap, body: &Payload, attributes: &Attributes) -> ObjectMeta {
        let archived = self.dialect.is_closed(attributes.class);
        ObjectMeta {
            key: key.clone(),
            size: body.len(),
            etag: text(headers, &http::header::ETAG).trim_matches('"').to_owned(),
            modified: time(headers, &http::header::DATE),
            attributes: attributes.clone(),
            access: if archived { Access::Archived } else { Access::Ready },
        }
    }

    fn meta(&self, key: &Key, headers: &HeaderMap) -> Result<ObjectMeta> {
        let stored = text(headers, &self.name("stored-content-length"));
        let size = if stored.is_empty() { text(headers, &http::header::CONTENT_LENGTH) } else { stored };
        let size = size.parse().map_err(|e| {
            Error::caused(
                ErrorKind::Unavailable,
                format!("{} gives no size of {key}: try again", self.url()),
                e,
            )
        })?;
        let class = self.dialect.class(text(headers, &self.name("storage-class")));
        let kind = text(headers, &http::header::CONTENT_TYPE);
        let begin = self.name("meta-");
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(begin.as_str())?;
            Some((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            etag: text(headers, &http::header::ETAG).trim_matches('"').to_owned(),
            modified: time(headers, &http::header::LAST_MODIFIED),
            attributes: Attributes {
                content_type: Some(kind.to_owned())
                    .filter(|k| !k.is_empty() && !UNTYPED.contains(&k.as_str())),
                metadata: metadata.collect(),
                class,
            },
            access: self.access(class, text(headers, &self.name("restore"))),
        })
    }

    /// `restore` reads `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
    fn access(&self, class: StorageClass, restore: &str) -> Access {
        if !self.dialect.is_closed(class) {
            return Access::Ready;
        }
        if restore.contains("ongoing-request=\"true\"") {
            return Access::Restoring;
        }
        if !restore.contains("ongoing-request=\"false\"") {
            return Access::Archived;
        }
        let expiry = restore.split_once("expiry-date=\"").and_then(|(_, rest)| rest.split_once('"'));
        let parsed = expiry.and_then(|(date, _)| chrono::DateTime::parse_from_rfc2822(date).ok());
        Access::Restored(parsed.map(|d| d.timestamp_millis().max(0) as u64))
    }

    /// Copies with `headers` to say how; stores answer some failures with 200 and an error in the body.
    async fn copy_with(&self, from: &Key, to: &Key, mut headers: HeaderMap) -> Result<()> {
        headers.insert(self.name("copy-source"), value(&self.site.copy_source(from))?);
        let answer = self.send(Method::PUT, Some(to), &[], headers, &[]).await?;
        let answer = self.accept(answer, Some(from))?;
        answer::refuse_hidden_error(&self.url(), from, &answer)
    }
}

#[async_trait]
impl<D: Dialect> Bucket for Rest<D> {
    fn url(&self) -> String {
        self.site.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let mut headers = HeaderMap::new();
        match &range {
            Some(r) if r.start >= r.end => return Err(outside(key, r, None)),
            Some(r) => {
                drop(headers.insert(http::header::RANGE, value(&format!("bytes={}-{}", r.start, r.end - 1))?))
            }
            None => self.dialect.ask_checksum(&mut headers),
        }
        let answer = self.send(Method::GET, Some(key), &[], headers, &[]).await?;
        let Some(range) = range else {
            let answer = self.accept(answer, Some(key))?;
            self.dialect.check_read(&answer.headers, &answer.body)?;
            return Ok(answer.body);
        };
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(outside(key, &range, None));
        }
        answer::cut_range(key, &range, self.accept(answer, Some(key))?)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let answer =
            self.accept(self.send(Method::HEAD, Some(key), &[], HeaderMap::new(), &[]).await?, Some(key))?;
        self.meta(key, &answer.headers)
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        if body.len() > SINGLE_LIMIT {
            return Err(Error::invalid(format!(
                "{key}: create-only bodies may have 5 GiB at most: make smaller objects"
            )));
        }
        self.store(key, body, attributes, true).await
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        if body.len() > self.part_size {
            self.put_parts(key, body, attributes).await
        } else {
            self.store(key, body, attributes, false).await
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        self.list_in_order(prefix, after.map_or("", Key::as_str), limit).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        self.copy_with(from, to, HeaderMap::new()).await?;
        self.head(to).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let answer = self.send(Method::DELETE, Some(key), &[], HeaderMap::new(), &[]).await?;
        match self.accept(answer, Some(key)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert(self.name("storage-class"), value(self.dialect.class_name(class))?);
        headers.insert(self.name("metadata-directive"), HeaderValue::from_static("COPY"));
        match self.copy_with(key, key, headers).await {
            Err(e) if e.kind() == ErrorKind::Invalid => {}
            other => return other,
        }
        // SeaweedFS copies an object onto itself only if its metadata are sent again.
        let attributes = self.head(key).await?.attributes;
        let mut headers = self.describe(&attributes)?;
        headers.insert(self.name("storage-class"), value(self.dialect.class_name(class))?);
        headers.insert(self.name("metadata-directive"), HeaderValue::from_static("REPLACE"));
        self.copy_with(key, key, headers).await
    }

    async fn restore(&self, key: &Key, days: u32) -> Result<()> {
        if days == 0 {
            return Err(Error::invalid(format!("{key} cannot be restored for 0 days: ask for 1 at least")));
        }
        let Some(body) = self.dialect.restore_request(days) else {
            return Err(Error::invalid(format!(
                "{} has nothing to restore: {key} can be read as it is",
                self.url()
            )));
        };
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        let answer =
            self.send(Method::POST, Some(key), &[("restore", "")], headers, &[Bytes::from(body)]).await?;
        if answer::code(&answer.body).as_deref() == Some("RestoreAlreadyInProgress") {
            return Ok(());
        }
        self.accept(answer, Some(key)).map(drop)
    }
}

/// A header's value; `Invalid` for what no header can carry.
pub fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| {
        Error::caused(ErrorKind::Invalid, format!("{text:?} cannot be sent: use printable ASCII"), e)
    })
}

/// A header as text; empty if it is absent.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// A date header; 0 if there is none.
pub fn time(headers: &HeaderMap, name: &HeaderName) -> UnixMillis {
    chrono::DateTime::parse_from_rfc2822(text(headers, name))
        .map_or(0, |d| d.timestamp_millis().max(0) as u64)
}
