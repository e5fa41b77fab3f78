//! Where a bucket is, and how names stand in addresses.

use base::{Error, ErrorKind, Result};
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::Key;

/// All but what RFC 3986 §2.3 calls unreserved, as every signature scheme wants it.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same, keeping slashes.
const PATH: &AsciiSet = &STRICT.remove(b'/');

/// The address of a bucket.
#[derive(Debug, Clone)]
pub struct Site {
    /// The scheme of [`Site::url`].
    scheme: &'static str,
    bucket: String,
    /// `https://host[:port]` and, in path style, what the endpoint has behind that and `/bucket`.
    base: String,
    path_style: bool,
}

impl Site {
    /// The bucket at `endpoint` (`https://host[:port]`), by path or by host name.
    pub fn new(scheme: &'static str, endpoint: &str, bucket: &str, path_style: bool) -> Result<Site> {
        let wrong = || {
            Error::invalid(format!("{endpoint:?} is no endpoint: write it as in \"https://s3.example.com\""))
        };
        let url = Url::parse(endpoint).map_err(|e| wrong().within(e.to_string()))?;
        let host = url.host_str().ok_or_else(wrong)?;
        let path = url.path().trim_end_matches('/');
        let path_fits = path.is_empty() || path_style;
        if !matches!(url.scheme(), "http" | "https") || !path_fits || url.query().is_some() {
            return Err(wrong());
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if bucket.is_empty() || !bucket.bytes().all(fine) {
            return Err(Error::invalid(format!(
                "{bucket:?} is no bucket's name: use letters, digits, '-', '.' and '_'"
            )));
        }
        let port = url.port().map_or(String::new(), |p| format!(":{p}"));
        let base = match path_style {
            true => format!("{}://{host}{port}{path}/{bucket}", url.scheme()),
            false => format!("{}://{bucket}.{host}{port}", url.scheme()),
        };
        Ok(Site { scheme, bucket: bucket.to_owned(), base, path_style })
    }

    /// For messages.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.bucket)
    }

    /// The address of an object or of the bucket, with a query.
    pub fn uri(&self, key: Option<&Key>, query: &[(&str, &str)]) -> Result<Uri> {
        let mut text = self.base.clone();
        if key.is_some() || !self.path_style {
            text.push('/');
        }
        text.extend(key.map(|k| encode(k.as_str())));
        for (n, (name, value)) in query.iter().enumerate() {
            text.push(if n == 0 { '?' } else { '&' });
            text.extend(utf8_percent_encode(name, STRICT));
            text.push('=');
            text.extend(utf8_percent_encode(value, STRICT));
        }
        text.parse().map_err(|e| {
            Error::caused(
                ErrorKind::Invalid,
                format!("{text} is too long for an address: use shorter names"),
                e,
            )
        })
    }

    /// What names an object in a copy request.
    pub fn copy_source(&self, key: &Key) -> String {
        format!("/{}/{}", self.bucket, encode(key.as_str()))
    }
}

/// A name in a path.
pub fn encode(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}
