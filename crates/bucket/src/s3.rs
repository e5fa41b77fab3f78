//! Amazon S3 and those that speak as it does: Ceph RGW, SeaweedFS, MinIO, moto.

pub mod profile;

use async_trait::async_trait;
use base::{Error, ErrorKind, Result, checksum};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use md5::{Digest, Md5};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::HttpRequest;

use crate::open::{Checksum, ClassNames};
use crate::rest::{Dialect, text, value};
use crate::{Key, Payload, StorageClass};

const SUM: &str = "x-amz-checksum-crc64nvme";
const TYPE: &str = "x-amz-checksum-type";
const FULL: HeaderValue = HeaderValue::from_static("FULL_OBJECT");

/// How Amazon S3 differs.
#[derive(Debug)]
pub struct S3 {
    /// Who signs; `None` for a public bucket.
    pub credentials: Option<AwsCredentialProvider>,
    /// The region that goes into signatures.
    pub region: String,
    /// What guards bodies on their way.
    pub checksum: Checksum,
    /// Names of classes, where they are not Amazon's.
    pub classes: ClassNames,
}

/// A CRC-64/NVME as Amazon writes it.
fn sum_value(crc64: u64) -> HeaderValue {
    HeaderValue::from_str(&BASE64_STANDARD.encode(crc64.to_be_bytes())).expect("base64 is ASCII")
}

/// The CRC-64/NVME that headers tell; `None` for what cannot be one (moto gives a CRC-32 under its name).
fn told(headers: &HeaderMap) -> Option<u64> {
    let bytes = BASE64_STANDARD.decode(headers.get(SUM)?.as_bytes()).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Adds `Content-MD5`, which every store of this shape verifies.
pub fn add_md5(headers: &mut HeaderMap, body: &Payload) -> Result<()> {
    let mut md5 = Md5::new();
    body.parts().iter().for_each(|part| md5.update(part));
    headers.insert("content-md5", value(&BASE64_STANDARD.encode(md5.finalize()))?);
    Ok(())
}

#[async_trait]
impl Dialect for S3 {
    fn prefix(&self) -> &'static str {
        "x-amz-"
    }

    async fn sign(&self, request: &mut HttpRequest, _key: Option<&Key>) -> Result<()> {
        let Some(provider) = &self.credentials else { return Ok(()) };
        let credential = provider.get_credential().await.map_err(|e| {
            let advice = "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give \
                          this machine a role";
            Error::caused(ErrorKind::Unavailable, advice, e.to_string())
        })?;
        // The body is guarded by its checksum and, over https, by TLS: SHA-256 of it would cost more than all the rest.
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region).with_sign_payload(false);
        authorizer.try_authorize(request, None).map_err(|e| {
            Error::caused(ErrorKind::Denied, "the request cannot be signed: check the credentials", e)
        })
    }

    fn create_only(&self, headers: &mut HeaderMap) {
        headers.insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    }

    fn announce(&self, headers: &mut HeaderMap, body: &Payload) -> Result<()> {
        match self.checksum {
            Checksum::Crc64 => drop(headers.insert(SUM, sum_value(body.crc64()))),
            Checksum::Md5 => {
                body.check()?;
                add_md5(headers, body)?;
            }
            Checksum::None => {}
        }
        Ok(())
    }

    fn check_stored(&self, headers: &HeaderMap, body: &Payload) -> Result<()> {
        match told(headers) {
            Some(said) if self.checksum == Checksum::Crc64 && said != body.crc64() => {
                Err(Error::corrupt("the store has other bytes than were sent: send them again"))
            }
            _ => Ok(()),
        }
    }

    fn ask_checksum(&self, headers: &mut HeaderMap) {
        if self.checksum == Checksum::Crc64 {
            headers.insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
        }
    }

    fn check_read(&self, headers: &HeaderMap, body: &Bytes) -> Result<()> {
        let is_whole = text(headers, &http::HeaderName::from_static(TYPE)) != "COMPOSITE";
        match told(headers) {
            Some(said) if is_whole && said != checksum::crc64(body) => {
                Err(Error::corrupt("the bytes that came do not have the store's CRC-64: read them again"))
            }
            _ => Ok(()),
        }
    }

    fn begin_parts(&self, headers: &mut HeaderMap) {
        if self.checksum == Checksum::Crc64 {
            headers.insert("x-amz-checksum-algorithm", HeaderValue::from_static("CRC64NVME"));
            headers.insert(TYPE, FULL);
        }
    }

    fn end_parts(&self, headers: &mut HeaderMap, body: &Payload) {
        if self.checksum == Checksum::Crc64 {
            headers.insert(SUM, sum_value(body.crc64()));
            headers.insert(TYPE, FULL);
        }
    }

    fn part_element(&self, part: &Payload) -> String {
        match self.checksum {
            Checksum::Crc64 => {
                let sum = BASE64_STANDARD.encode(part.crc64().to_be_bytes());
                format!("<ChecksumCRC64NVME>{sum}</ChecksumCRC64NVME>")
            }
            Checksum::Md5 | Checksum::None => String::new(),
        }
    }

    fn class_name(&self, class: StorageClass) -> &str {
        self.classes.get(class).unwrap_or(match class {
            StorageClass::Standard => "STANDARD",
            StorageClass::Infrequent => "STANDARD_IA",
            StorageClass::Archive => "GLACIER",
            StorageClass::DeepArchive => "DEEP_ARCHIVE",
        })
    }

    fn class(&self, name: &str) -> StorageClass {
        self.classes.find(name).unwrap_or(match name {
            "STANDARD_IA" | "ONEZONE_IA" | "GLACIER_IR" => StorageClass::Infrequent,
            "GLACIER" => StorageClass::Archive,
            "DEEP_ARCHIVE" => StorageClass::DeepArchive,
            _ => StorageClass::Standard,
        })
    }

    fn is_closed(&self, class: StorageClass) -> bool {
        matches!(class, StorageClass::Archive | StorageClass::DeepArchive)
    }

    fn restore_request(&self, days: u32) -> Option<String> {
        Some(format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{days}</Days>\
             <GlacierJobParameters><Tier>Standard</Tier></GlacierJobParameters></RestoreRequest>"
        ))
    }
}
