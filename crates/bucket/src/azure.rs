//! Azure Blob Storage: block blobs of one container.
//!
//! Azure's CRC-64 is the house's own (its polynomial 0x9A6C9329AC4BC9B5 is that of CRC-64/NVME, reflected), so bodies
//! are verified by the store without a second sum.

pub mod list;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use base::{BoxFuture, Error, ErrorKind, Result, checksum};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::PutPayload;
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};

use crate::object::outside;
use crate::open::{Checksum, ClassNames};
use crate::rest::{Site, answer, split, text, time, value};
use crate::s3::add_md5;
use crate::transport::{Answer, Transport};
use crate::{Access, Attributes, Bucket, Key, ObjectMeta, Payload, StorageClass};
use list::Markers;

/// The largest body that goes up in one request.
const SINGLE_LIMIT: u64 = 5000 << 20;

/// How many blocks are under way at once.
const PARALLEL: usize = 4;

/// Azure takes this many blocks at most.
const BLOCKS_LIMIT: u64 = 50_000;

const SUM: HeaderName = HeaderName::from_static("x-ms-content-crc64");
const TIER: HeaderName = HeaderName::from_static("x-ms-access-tier");
const COPY_STATUS: HeaderName = HeaderName::from_static("x-ms-copy-status");
const UNTYPED: &str = "application/octet-stream";

/// A container.
#[derive(Debug)]
pub struct Azure {
    transport: Transport,
    site: Site,
    account: String,
    credentials: Option<AzureCredentialProvider>,
    options: Options,
    markers: Markers,
}

/// How a container is used.
#[derive(Debug)]
pub struct Options {
    /// What guards bodies on their way.
    pub checksum: Checksum,
    /// Names of tiers, where they are not the usual ones.
    pub classes: ClassNames,
    /// Above this size bodies go up in blocks of this size.
    pub part_size: u64,
}

fn sum_value(crc64: u64) -> HeaderValue {
    HeaderValue::from_str(&BASE64_STANDARD.encode(crc64.to_le_bytes())).expect("base64 is ASCII")
}

impl Azure {
    /// The container `name` at `endpoint` (`https://account.blob.core.windows.net`).
    pub fn new(
        transport: Transport,
        endpoint: &str,
        name: &str,
        account: String,
        credentials: Option<AzureCredentialProvider>,
        options: Options,
    ) -> Result<Azure> {
        let site = Site::new("az", endpoint, name, true)?;
        let markers = Markers::default();
        Ok(Azure { transport, site, account, credentials, options, markers })
    }

    async fn send(
        &self,
        method: Method,
        key: Option<&Key>,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: &[Bytes],
    ) -> Result<Answer> {
        let payload = PutPayload::from_iter(body.iter().cloned());
        let len = payload.content_length();
        let body = if len == 0 { HttpRequestBody::empty() } else { HttpRequestBody::from(payload) };
        let mut request = HttpRequest::new(body);
        *request.uri_mut() = self.site.uri(key, query)?;
        *request.headers_mut() = headers;
        if method == Method::PUT {
            request.headers_mut().insert(http::header::CONTENT_LENGTH, value(&len.to_string())?);
        }
        *request.method_mut() = method;
        self.sign(&mut request).await?;
        self.transport.call(request).await
    }

    async fn sign(&self, request: &mut HttpRequest) -> Result<()> {
        // Without a signature the version still has to be told.
        let Some(provider) = &self.credentials else {
            request.headers_mut().insert("x-ms-version", HeaderValue::from_static("2023-11-03"));
            return Ok(());
        };
        let credential = provider.get_credential().await.map_err(|e| {
            let advice = "no Azure credentials: set AZURE_STORAGE_ACCOUNT_KEY, or those of a service principal, or give \
                          this machine an identity";
            Error::caused(ErrorKind::Unavailable, advice, e.to_string())
        })?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(request).map_err(|e| {
            Error::caused(ErrorKind::Denied, "the request cannot be signed: check the credentials", e)
        })
    }

    async fn accepted(
        &self,
        method: Method,
        key: Option<&Key>,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: &[Bytes],
    ) -> Result<Answer> {
        let answer = self.send(method, key, query, headers, body).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer::error(&self.url(), key, &answer)) }
    }

    fn tier(&self, class: StorageClass) -> &str {
        self.options.classes.get(class).unwrap_or(match class {
            StorageClass::Standard => "Hot",
            StorageClass::Infrequent => "Cool",
            StorageClass::Archive | StorageClass::DeepArchive => "Archive",
        })
    }

    fn class(&self, tier: &str) -> StorageClass {
        self.options.classes.find(tier).unwrap_or(match tier {
            "Cool" | "Cold" => StorageClass::Infrequent,
            "Archive" => StorageClass::Archive,
            _ => StorageClass::Standard,
        })
    }

    fn announce(&self, headers: &mut HeaderMap, body: &Payload) -> Result<()> {
        match self.options.checksum {
            Checksum::Crc64 => drop(headers.insert(SUM, sum_value(body.crc64()))),
            Checksum::Md5 => {
                body.check()?;
                add_md5(headers, body)?;
            }
            Checksum::None => {}
        }
        Ok(())
    }

    fn describe(&self, attributes: &Attributes) -> Result<HeaderMap> {
        attributes.check()?;
        let mut headers = HeaderMap::new();
        let kind = attributes.content_type.as_deref().unwrap_or(UNTYPED);
        headers.insert("x-ms-blob-content-type", value(kind)?);
        for (name, text) in &attributes.metadata {
            // Azure allows no '-' in names, and ours have no '_'.
            let name = format!("x-ms-meta-{}", name.replace('-', "_"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| {
                Error::caused(ErrorKind::Invalid, "a metadata name cannot be sent: use a-z and '-'", e)
            })?;
            headers.insert(name, value(text)?);
        }
        if attributes.class != StorageClass::Standard {
            headers.insert(TIER, value(self.tier(attributes.class))?);
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
        headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
        self.announce(&mut headers, body)?;
        if only_new {
            headers.insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let answer = self.accepted(Method::PUT, Some(key), &[], headers, body.parts()).await?;
        Ok(self.stored(key, &answer.headers, body, attributes))
    }

    fn stored(&self, key: &Key, headers: &HeaderMap, body: &Payload, attributes: &Attributes) -> ObjectMeta {
        let class = self.class(self.tier(attributes.class));
        ObjectMeta {
            key: key.clone(),
            size: body.len(),
            etag: text(headers, &http::header::ETAG).trim_matches('"').to_owned(),
            modified: time(headers, &http::header::LAST_MODIFIED),
            attributes: Attributes { class, ..attributes.clone() },
            access: access(class, ""),
        }
    }

    async fn put_blocks(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        let parts = split(body, self.options.part_size.max(body.len().div_ceil(BLOCKS_LIMIT)))?;
        // Ids of this upload alone: another of the same object must not mix with it.
        let run = body.crc64();
        let mut puts: Vec<BoxFuture<'_, Result<String>>> = Vec::with_capacity(parts.len());
        for (n, part) in parts.iter().enumerate() {
            puts.push(Box::pin(self.put_block(key, part, format!("{run:016x}-{n:08}"))));
        }
        let ids: Vec<String> = stream::iter(puts).buffered(PARALLEL).try_collect().await?;
        let list =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{}</BlockList>", ids.concat());
        let headers = self.describe(attributes)?;
        let list = [Bytes::from(list)];
        let answer = self.accepted(Method::PUT, Some(key), &[("comp", "blocklist")], headers, &list).await?;
        Ok(self.stored(key, &answer.headers, body, attributes))
    }

    async fn put_block(&self, key: &Key, part: &Payload, id: String) -> Result<String> {
        let id = BASE64_STANDARD.encode(id);
        let mut headers = HeaderMap::new();
        self.announce(&mut headers, part)?;
        self.accepted(Method::PUT, Some(key), &[("comp", "block"), ("blockid", &id)], headers, part.parts())
            .await?;
        Ok(format!("<Latest>{id}</Latest>"))
    }

    async fn properties(&self, key: &Key) -> Result<HeaderMap> {
        Ok(self.accepted(Method::HEAD, Some(key), &[], HeaderMap::new(), &[]).await?.headers)
    }

    fn meta(&self, key: &Key, headers: &HeaderMap) -> Result<ObjectMeta> {
        let size = text(headers, &http::header::CONTENT_LENGTH).parse().map_err(|e| {
            Error::caused(
                ErrorKind::Unavailable,
                format!("{} gives no size of {key}: try again", self.url()),
                e,
            )
        })?;
        let class = self.class(text(headers, &TIER));
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-ms-meta-")?.replace('_', "-");
            Some((name, String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        let kind = text(headers, &http::header::CONTENT_TYPE);
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            etag: text(headers, &http::header::ETAG).trim_matches('"').to_owned(),
            modified: time(headers, &http::header::LAST_MODIFIED),
            attributes: Attributes {
                content_type: Some(kind.to_owned()).filter(|k| !k.is_empty() && k != UNTYPED),
                metadata: metadata.collect(),
                class,
            },
            access: access(class, text(headers, &HeaderName::from_static("x-ms-archive-status"))),
        })
    }

    async fn set_tier(&self, key: &Key, tier: &str, headers: HeaderMap) -> Result<()> {
        let mut headers = headers;
        headers.insert(TIER, value(tier)?);
        self.accepted(Method::PUT, Some(key), &[("comp", "tier")], headers, &[]).await.map(drop)
    }
}

fn access(class: StorageClass, archive_status: &str) -> Access {
    match class {
        StorageClass::Archive | StorageClass::DeepArchive if archive_status.is_empty() => Access::Archived,
        StorageClass::Archive | StorageClass::DeepArchive => Access::Restoring,
        StorageClass::Standard | StorageClass::Infrequent => Access::Ready,
    }
}

#[async_trait]
impl Bucket for Azure {
    fn url(&self) -> String {
        self.site.url()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let Some(range) = range else {
            let answer = self.accepted(Method::GET, Some(key), &[], HeaderMap::new(), &[]).await?;
            return match answer.headers.get(SUM) {
                Some(said) if *said != sum_value(checksum::crc64(&answer.body)) => {
                    Err(Error::corrupt("the bytes that came do not have Azure's CRC-64: read them again"))
                }
                _ => Ok(answer.body),
            };
        };
        if range.start >= range.end {
            return Err(outside(key, &range, None));
        }
        let mut headers = HeaderMap::new();
        headers.insert(http::header::RANGE, value(&format!("bytes={}-{}", range.start, range.end - 1))?);
        let answer = self.send(Method::GET, Some(key), &[], headers, &[]).await?;
        match answer.status {
            StatusCode::RANGE_NOT_SATISFIABLE => Err(outside(key, &range, None)),
            status if status.is_success() => answer::cut_range(key, &range, answer),
            _ => Err(answer::error(&self.url(), Some(key), &answer)),
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.meta(key, &self.properties(key).await?)
    }

    async fn create(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        if body.len() > SINGLE_LIMIT {
            return Err(Error::invalid(format!(
                "{key}: create-only bodies may have 5000 MiB at most: make smaller objects"
            )));
        }
        self.store(key, body, attributes, true).await
    }

    async fn put(&self, key: &Key, body: &Payload, attributes: &Attributes) -> Result<ObjectMeta> {
        if body.len() > self.options.part_size {
            self.put_blocks(key, body, attributes).await
        } else {
            self.store(key, body, attributes, false).await
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<ObjectMeta>> {
        list::list(self, prefix, after, limit).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-copy-source", value(&self.site.uri(Some(from), &[])?.to_string())?);
        let answer = self.send(Method::PUT, Some(to), &[], headers, &[]).await?;
        if !answer.status.is_success() {
            return Err(answer::error(&self.url(), Some(from), &answer));
        }
        let mut state = text(&answer.headers, &COPY_STATUS).to_owned();
        loop {
            match state.as_str() {
                "success" => return self.head(to).await,
                "pending" => tokio::time::sleep(Duration::from_millis(200)).await,
                other => {
                    let what =
                        format!("the copy of {from} to {to} in {} ended as {other:?}: try again", self.url());
                    return Err(Error::new(ErrorKind::Unavailable, what));
                }
            }
            state = text(&self.properties(to).await?, &COPY_STATUS).to_owned();
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-delete-snapshots", HeaderValue::from_static("include"));
        match self.accepted(Method::DELETE, Some(key), &[], headers, &[]).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    async fn set_class(&self, key: &Key, class: StorageClass) -> Result<()> {
        self.set_tier(key, self.tier(class), HeaderMap::new()).await
    }

    /// Azure has no restored copies: the blob moves back to the hot tier, for good, whatever `days` says.
    async fn restore(&self, key: &Key, _days: u32) -> Result<()> {
        match self.head(key).await?.access {
            Access::Ready | Access::Restored(_) => {
                Err(Error::invalid(format!("{key} is not archived: read it as it is")))
            }
            Access::Restoring => Ok(()),
            Access::Archived => {
                let mut headers = HeaderMap::new();
                headers.insert("x-ms-rehydrate-priority", HeaderValue::from_static("Standard"));
                self.set_tier(key, self.tier(StorageClass::Standard), headers).await
            }
        }
    }
}
