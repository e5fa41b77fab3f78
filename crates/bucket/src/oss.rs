//! Alibaba Cloud OSS, by its own interface: signature version 4, create-only by `x-oss-forbid-overwrite`, CRC-64/XZ.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, Error, Result, UnixMillis, checksum};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::client::HttpRequest;
use ring::{digest, hmac};

use crate::open::{Checksum, ClassNames};
use crate::rest::{Dialect, encode, text, value};
use crate::s3::add_md5;
use crate::{Key, Payload, StorageClass};

const ALGORITHM: &str = "OSS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const SUM: HeaderName = HeaderName::from_static("x-oss-hash-crc64ecma");

/// An access key of Alibaba Cloud's.
#[derive(Clone)]
pub struct AccessKey {
    /// Its public half.
    pub id: String,
    /// Its secret half.
    pub secret: String,
    /// The token that goes with a short-lived one.
    pub token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.id)
    }
}

/// How Alibaba OSS differs.
pub struct Oss {
    /// Who signs; `None` for a public bucket.
    pub key: Option<AccessKey>,
    /// The region that goes into signatures, as `cn-hangzhou`.
    pub region: String,
    /// The bucket, which goes into signatures too.
    pub bucket: String,
    /// What guards bodies on their way, besides the CRC-64/XZ that is compared afterwards.
    pub checksum: Checksum,
    /// Names of classes, where they are not the usual ones.
    pub classes: ClassNames,
    /// The time of day for signatures.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Oss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Oss({}, {})", self.bucket, self.region)
    }
}

/// `Corrupt` if the headers tell another CRC-64/XZ than that of `parts`.
fn compare<'a>(headers: &HeaderMap, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    match text(headers, &SUM).parse::<u64>() {
        Ok(said) if said != checksum::crc64_xz_parts(parts) => {
            Err(Error::corrupt("OSS has another CRC-64 than the bytes here: transfer them again"))
        }
        _ => Ok(()),
    }
}

impl Oss {
    /// Signs as "Use the V4 signature algorithm in the header" of Alibaba's developer reference says.
    fn sign_at(&self, request: &mut HttpRequest, key: Option<&Key>, now: UnixMillis) -> Result<()> {
        let Some(access) = &self.key else { return Ok(()) };
        let seconds = i64::try_from(now / 1000).unwrap_or(i64::MAX);
        let Some(date) = chrono::DateTime::from_timestamp(seconds, 0) else {
            return Err(Error::internal("the clock shows no date: set it"));
        };
        let stamp = date.format("%Y%m%dT%H%M%SZ").to_string();
        let headers = request.headers_mut();
        headers.insert("x-oss-content-sha256", HeaderValue::from_static(UNSIGNED));
        headers.insert("x-oss-date", value(&stamp)?);
        if let Some(token) = &access.token {
            headers.insert("x-oss-security-token", value(token)?);
        }
        let scope = format!("{}/{}/oss/aliyun_v4_request", &stamp[..8], self.region);
        let canonical = self.canonical(request, key);
        let hashed = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let signed = format!("{ALGORITHM}\n{stamp}\n{scope}\n{hashed}");
        let secret = format!("aliyun_v4{}", access.secret);
        let steps = [&stamp[..8], &self.region, "oss", "aliyun_v4_request", &signed];
        let signature = steps.iter().fold(secret.into_bytes(), |key, step| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            hmac::sign(&key, step.as_bytes()).as_ref().to_vec()
        });
        let line = format!("{ALGORITHM} Credential={}/{scope},Signature={}", access.id, hex(&signature));
        let mut line = value(&line)?;
        line.set_sensitive(true);
        request.headers_mut().insert(http::header::AUTHORIZATION, line);
        Ok(())
    }

    fn canonical(&self, request: &HttpRequest, key: Option<&Key>) -> String {
        let path = key.map_or(String::new(), |k| encode(k.as_str()));
        let mut query: Vec<_> =
            request.uri().query().unwrap_or("").split('&').filter(|p| !p.is_empty()).collect();
        query.sort_unstable_by_key(|pair| pair.split('=').next());
        // A parameter without a value stands without its sign.
        let query: Vec<_> = query.iter().map(|pair| pair.strip_suffix('=').unwrap_or(pair)).collect();
        let mut lines: Vec<_> = request
            .headers()
            .iter()
            .filter(|(n, _)| {
                n.as_str().starts_with("x-oss-") || matches!(n.as_str(), "content-type" | "content-md5")
            })
            .map(|(n, v)| format!("{n}:{}\n", String::from_utf8_lossy(v.as_bytes()).trim()))
            .collect();
        lines.sort_unstable();
        let method = request.method();
        let (bucket, query, lines) = (&self.bucket, query.join("&"), lines.concat());
        format!("{method}\n/{bucket}/{path}\n{query}\n{lines}\n\n{UNSIGNED}")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[async_trait]
impl Dialect for Oss {
    fn prefix(&self) -> &'static str {
        "x-oss-"
    }

    async fn sign(&self, request: &mut HttpRequest, key: Option<&Key>) -> Result<()> {
        self.sign_at(request, key, self.clock.now())
    }

    fn create_only(&self, headers: &mut HeaderMap) {
        headers.insert("x-oss-forbid-overwrite", HeaderValue::from_static("true"));
    }

    fn announce(&self, headers: &mut HeaderMap, body: &Payload) -> Result<()> {
        // OSS reports its sum only afterwards, and it is another one: this one is checked here.
        body.check()?;
        if self.checksum == Checksum::Md5 { add_md5(headers, body) } else { Ok(()) }
    }

    fn check_stored(&self, headers: &HeaderMap, body: &Payload) -> Result<()> {
        compare(headers, body.parts().iter().map(|p| &p[..]))
    }

    fn check_read(&self, headers: &HeaderMap, body: &Bytes) -> Result<()> {
        compare(headers, [&body[..]])
    }

    fn class_name(&self, class: StorageClass) -> &str {
        self.classes.get(class).unwrap_or(match class {
            StorageClass::Standard => "Standard",
            StorageClass::Infrequent => "IA",
            StorageClass::Archive => "Archive",
            StorageClass::DeepArchive => "ColdArchive",
        })
    }

    fn class(&self, name: &str) -> StorageClass {
        self.classes.find(name).unwrap_or(match name {
            "IA" => StorageClass::Infrequent,
            "Archive" => StorageClass::Archive,
            "ColdArchive" | "DeepColdArchive" => StorageClass::DeepArchive,
            _ => StorageClass::Standard,
        })
    }

    fn is_closed(&self, class: StorageClass) -> bool {
        matches!(class, StorageClass::Archive | StorageClass::DeepArchive)
    }

    fn restore_request(&self, days: u32) -> Option<String> {
        Some(format!("<RestoreRequest><Days>{days}</Days></RestoreRequest>"))
    }
}
