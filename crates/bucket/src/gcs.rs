//! Google Cloud Storage, by its XML interface.

use async_trait::async_trait;
use base::{Error, ErrorKind, Result, checksum};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use object_store::client::HttpRequest;
use object_store::gcp::GcpCredentialProvider;

use crate::open::ClassNames;
use crate::rest::{Dialect, value};
use crate::{Key, Payload, StorageClass};

const HASH: &str = "x-goog-hash";

/// How Google differs.
#[derive(Debug)]
pub struct Gcs {
    /// Who asks; `None` for a public bucket.
    pub credentials: Option<GcpCredentialProvider>,
    /// Names of classes, where they are not the usual ones.
    pub classes: ClassNames,
}

/// A CRC-32C as Google writes it.
fn sum_text(crc: u32) -> String {
    format!("crc32c={}", BASE64_STANDARD.encode(crc.to_be_bytes()))
}

/// `Corrupt` if the headers tell another CRC-32C than `crc`.
fn compare(headers: &HeaderMap, crc: u32) -> Result<()> {
    // Several hashes come in several headers or in one, with commas between.
    let said = headers.get_all(HASH).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    match said.map(str::trim).find(|h| h.starts_with("crc32c=")) {
        Some(said) if said != sum_text(crc) => Err(Error::corrupt(
            "the store's CRC-32C is another than that of the bytes here: transfer them again",
        )),
        _ => Ok(()),
    }
}

#[async_trait]
impl Dialect for Gcs {
    fn prefix(&self) -> &'static str {
        "x-goog-"
    }

    async fn sign(&self, request: &mut HttpRequest, _key: Option<&Key>) -> Result<()> {
        let Some(provider) = &self.credentials else { return Ok(()) };
        let credential = provider.get_credential().await.map_err(|e| {
            let advice = "no Google credentials: name a service account's key file in GOOGLE_APPLICATION_CREDENTIALS, or \
                          give this machine a service account";
            Error::caused(ErrorKind::Unavailable, advice, e.to_string())
        })?;
        let mut bearer = value(&format!("Bearer {}", credential.bearer))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        Ok(())
    }

    fn create_only(&self, headers: &mut HeaderMap) {
        headers.insert("x-goog-if-generation-match", HeaderValue::from_static("0"));
    }

    fn announce(&self, headers: &mut HeaderMap, body: &Payload) -> Result<()> {
        // The sum that came along is not one that Google knows: it is checked here, and Google's made of the same bytes.
        body.check()?;
        let crc = checksum::crc32c_parts(body.parts().iter().map(|p| &p[..]));
        headers.insert(HASH, value(&sum_text(crc))?);
        Ok(())
    }

    fn check_stored(&self, headers: &HeaderMap, body: &Payload) -> Result<()> {
        compare(headers, checksum::crc32c_parts(body.parts().iter().map(|p| &p[..])))
    }

    fn check_read(&self, headers: &HeaderMap, body: &Bytes) -> Result<()> {
        compare(headers, checksum::crc32c(body))
    }

    fn class_name(&self, class: StorageClass) -> &str {
        self.classes.get(class).unwrap_or(match class {
            StorageClass::Standard => "STANDARD",
            StorageClass::Infrequent => "NEARLINE",
            StorageClass::Archive => "COLDLINE",
            StorageClass::DeepArchive => "ARCHIVE",
        })
    }

    fn class(&self, name: &str) -> StorageClass {
        self.classes.find(name).unwrap_or(match name {
            "NEARLINE" => StorageClass::Infrequent,
            "COLDLINE" => StorageClass::Archive,
            "ARCHIVE" => StorageClass::DeepArchive,
            _ => StorageClass::Standard,
        })
    }

    fn is_closed(&self, _class: StorageClass) -> bool {
        false
    }

    fn restore_request(&self, _days: u32) -> Option<String> {
        None
    }
}
