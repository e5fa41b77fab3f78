//! From a URL to a bucket.

mod credentials;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use base::{ByteSize, Clock, Error, Result};
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{RetryConfig, StaticCredentialProvider};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::azure::{self, Azure};
use crate::gcs::Gcs;
use crate::oss::Oss;
use crate::rest::{Rest, Site};
use crate::s3::S3;
use crate::transport::{CredentialClient, Transport};
use crate::{Bucket, Directory, Key, Memory, Prefixed, StorageClass};
use credentials::Env;

/// Who asks a store.
#[derive(Clone, Default)]
pub enum Credentials {
    /// What the cloud's own tools would use: environment variables, profile files, the machine's role.
    #[default]
    Environment,
    /// A key. For Azure, `id` is the account and `secret` its key.
    Keys {
        /// The public half.
        id: String,
        /// The secret half.
        secret: String,
        /// What goes with a short-lived key.
        token: Option<String>,
    },
    /// Nobody: a public bucket, read only as a rule.
    Anonymous,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::Environment => f.write_str("Environment"),
            Credentials::Keys { id, .. } => write!(f, "Keys({id})"),
            Credentials::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// What guards bodies on their way to a store. Google's is always CRC-32C.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// CRC-64/NVME, which Amazon, Azure and SeaweedFS verify and others pass over; on OSS its own, compared afterwards.
    #[default]
    Crc64,
    /// `Content-MD5`, which all verify; it costs time on this side.
    Md5,
    /// Nothing, for a store that refuses both.
    None,
}

/// A store's own names of storage classes, where they are not the usual ones.
#[derive(Debug, Clone, Default)]
pub struct ClassNames {
    /// Instead of STANDARD_IA, IA, Cool, NEARLINE.
    pub infrequent: Option<String>,
    /// Instead of GLACIER, Archive, COLDLINE.
    pub archive: Option<String>,
    /// Instead of DEEP_ARCHIVE, ColdArchive, ARCHIVE.
    pub deep_archive: Option<String>,
}

impl ClassNames {
    fn all(&self) -> [(StorageClass, &Option<String>); 3] {
        [
            (StorageClass::Infrequent, &self.infrequent),
            (StorageClass::Archive, &self.archive),
            (StorageClass::DeepArchive, &self.deep_archive),
        ]
    }

    pub(crate) fn get(&self, class: StorageClass) -> Option<&str> {
        self.all().into_iter().find(|(c, _)| *c == class).and_then(|(_, name)| name.as_deref())
    }

    pub(crate) fn find(&self, name: &str) -> Option<StorageClass> {
        self.all().into_iter().find(|(_, n)| n.as_deref() == Some(name)).map(|(class, _)| class)
    }
}

/// How to open a bucket. Its URL may say all but the credentials, the clock and `make_directory` as well, and then the
/// URL is right.
#[derive(Clone)]
pub struct OpenOptions {
    /// The time of day, for signatures.
    pub clock: Arc<dyn Clock>,
    /// Who asks.
    pub credentials: Credentials,
    /// The region (`region`).
    pub region: Option<String>,
    /// The store's address, as `http://127.0.0.1:8333` (`endpoint`).
    pub endpoint: Option<String>,
    /// The storage account, on Azure (`account`).
    pub account: Option<String>,
    /// A prefix of all names, before the one in the URL.
    pub prefix: Option<String>,
    /// More certificate authorities to trust, a PEM file (`ca_file`).
    pub ca_file: Option<PathBuf>,
    /// Whether the bucket stands in the path instead of the host name (`path_style`).
    pub path_style: Option<bool>,
    /// Above this size bodies go up in parts of this size (`part_size`); 5 MiB to 5 GiB.
    pub part_size: ByteSize,
    /// What guards bodies on their way (`checksum=crc64|md5|none`).
    pub checksum: Checksum,
    /// Names of classes (`class.infrequent`, `class.archive`, `class.deep_archive`).
    pub classes: ClassNames,
    /// Whether a directory is made a bucket if it is none yet; else it has to be one.
    pub make_directory: bool,
}

impl OpenOptions {
    /// Everything as usual.
    pub fn new(clock: Arc<dyn Clock>) -> OpenOptions {
        OpenOptions {
            clock,
            credentials: Credentials::default(),
            region: None,
            endpoint: None,
            account: None,
            prefix: None,
            ca_file: None,
            path_style: None,
            part_size: ByteSize::mib(16),
            checksum: Checksum::default(),
            classes: ClassNames::default(),
            make_directory: false,
        }
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<()> {
        let text = Some(value.to_owned());
        match name {
            "region" => self.region = text,
            "endpoint" => self.endpoint = text,
            "account" => self.account = text,
            "ca_file" => self.ca_file = Some(value.into()),
            "part_size" => self.part_size = value.parse()?,
            "class.infrequent" => self.classes.infrequent = text,
            "class.archive" => self.classes.archive = text,
            "class.deep_archive" => self.classes.deep_archive = text,
            "path_style" => {
                self.path_style = Some(value.parse().map_err(|_e: std::str::ParseBoolError| {
                    Error::invalid(format!("path_style={value} is neither true nor false: write one of them"))
                })?);
            }
            "checksum" => {
                self.checksum = match value {
                    "crc64" => Checksum::Crc64,
                    "md5" => Checksum::Md5,
                    "none" => Checksum::None,
                    _ => {
                        return Err(Error::invalid(format!(
                            "checksum={value} is unknown: use crc64, md5 or none"
                        )));
                    }
                };
            }
            _ => {
                return Err(Error::invalid(format!(
                    "a bucket's URL has no setting {name:?}: use region, endpoint, account, ca_file, path_style, \
                     part_size, checksum, class.infrequent, class.archive or class.deep_archive"
                )));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (region, endpoint, prefix) = (&self.region, &self.endpoint, &self.prefix);
        write!(f, "OpenOptions({:?}, {region:?}, {endpoint:?}, {prefix:?})", self.credentials)
    }
}

/// Opens the bucket at `url`:
///
/// | | |
/// |---|---|
/// | `/path`, `dir:///path`, `file:///path` | a directory; see [`OpenOptions::make_directory`] |
/// | `mem:` | memory: empty, new at every call |
/// | `s3://bucket/prefix?endpoint=http://127.0.0.1:8333&region=eu-west-1` | Amazon S3 and those that speak as it does |
/// | `oss://bucket/prefix?region=cn-hangzhou` | Alibaba Cloud OSS |
/// | `az://container/prefix?account=name` | Azure Blob Storage |
/// | `gs://bucket/prefix` | Google Cloud Storage |
///
/// Nothing is sent to the store yet: [`probe`](crate::probe) finds out whether it is there and fit. `Invalid` says what
/// to correct.
pub fn open(url: &str, options: &OpenOptions) -> Result<Arc<dyn Bucket>> {
    open_with(url, options, &|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
}

/// The path in a URL that names a directory.
pub fn directory_of(url: &str) -> Option<&str> {
    let path = ["dir://", "file://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    path.or_else(|| (!url.contains("://") && !is_in_memory(url)).then_some(url))
}

/// Whether a URL names a bucket in memory.
pub fn is_in_memory(url: &str) -> bool {
    url.starts_with("mem:")
}

/// Whether two URLs mean the same place in the same store, though they may say otherwise how to talk to it. `false` where that cannot
/// be told.
pub fn is_same_place(one: &str, other: &str) -> bool {
    matches!((identity(one), identity(other)), (Some(one), Some(other)) if one == other)
}

/// What of a URL says which store it means, and where in it.
fn identity(url: &str) -> Option<Vec<String>> {
    if let Some(path) = directory_of(url) {
        return Some(vec!["dir".into(), path.trim_end_matches('/').into()]);
    }
    let url = Url::parse(url).ok().filter(Url::has_host)?;
    let scheme = match url.scheme() {
        "azure" => "az",
        "gcs" => "gs",
        other => other,
    };
    let setting = |wanted: &str| {
        // The last one counts, as in opening.
        let found = url.query_pairs().filter(|(name, _)| name == wanted).last();
        found.map(|(_, value)| value.trim_end_matches('/').to_owned()).unwrap_or_default()
    };
    let endpoint = setting("endpoint");
    // Without an endpoint the store's address is made of the region.
    let region = if endpoint.is_empty() { setting("region") } else { String::new() };
    let prefix = percent_decode_str(url.path().trim_matches('/')).decode_utf8_lossy().into_owned();
    let bucket = url.host_str().unwrap_or_default().to_owned();
    Some(vec![scheme.to_owned(), bucket, prefix, endpoint, region, setting("account")])
}

fn open_with(url: &str, options: &OpenOptions, env: Env<'_>) -> Result<Arc<dyn Bucket>> {
    if let Some(name) = url.strip_prefix("mem:") {
        return prefixed(Arc::new(Memory::named(name)), options.prefix.as_deref(), "");
    }
    if let Some(path) = directory_of(url) {
        if path.is_empty() {
            return Err(Error::invalid(
                "a directory's URL needs a path: write it as in \"dir:///srv/bucket\"",
            ));
        }
        let directory = if options.make_directory { Directory::make(path) } else { Directory::open(path) }?;
        return prefixed(Arc::new(directory), options.prefix.as_deref(), "");
    }
    let place = Place::parse(url, options)?;
    let bucket: Arc<dyn Bucket> = match place.scheme.as_str() {
        "s3" => place.s3(env)?,
        "oss" => place.oss(env)?,
        "az" | "azure" => place.azure(env)?,
        "gs" | "gcs" => place.gcs()?,
        other => {
            return Err(Error::invalid(format!(
                "{other}:// is no kind of bucket: use dir, s3, oss, az or gs"
            )));
        }
    };
    prefixed(bucket, place.options.prefix.as_deref(), &place.prefix)
}

fn prefixed(bucket: Arc<dyn Bucket>, first: Option<&str>, second: &str) -> Result<Arc<dyn Bucket>> {
    let parts = [first.unwrap_or("").trim_matches('/'), second.trim_matches('/')];
    let whole = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
    if whole.is_empty() { Ok(bucket) } else { Ok(Arc::new(Prefixed::new(bucket, &whole)?)) }
}

/// A URL taken apart, and the options as it changed them.
struct Place {
    scheme: String,
    bucket: String,
    prefix: String,
    options: OpenOptions,
}

impl Place {
    fn parse(url: &str, options: &OpenOptions) -> Result<Place> {
        let parsed = Url::parse(url).map_err(|e| {
            Error::invalid(format!("{url:?} is no bucket's URL ({e}): write it as in \"s3://bucket/prefix\""))
        })?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(Error::invalid(
                "a bucket's URL carries no secrets: set the cloud's environment variables instead",
            ));
        }
        let mut options = options.clone();
        for (name, value) in parsed.query_pairs() {
            options.apply(&name, &value)?;
        }
        if !(5 << 20..=5 << 30).contains(&options.part_size.0) {
            return Err(Error::invalid(format!("part_size={} is out of 5 MiB to 5 GiB", options.part_size)));
        }
        let bucket = parsed.host_str().unwrap_or("").to_owned();
        if bucket.is_empty() {
            return Err(Error::invalid(format!(
                "{url:?} names no bucket: write it as in \"s3://bucket/prefix\""
            )));
        }
        let prefix = percent_decode_str(parsed.path().trim_matches('/')).decode_utf8_lossy().into_owned();
        if !prefix.is_empty() {
            Key::new(prefix.clone())
                .map_err(|e| e.within("the prefix in a bucket's URL has to be a name"))?;
        }
        Ok(Place { scheme: parsed.scheme().to_owned(), bucket, prefix, options })
    }

    fn transport(&self) -> Result<Transport> {
        Transport::new(self.options.ca_file.as_deref())
    }

    fn s3(&self, env: Env<'_>) -> Result<Arc<dyn Bucket>> {
        let options = &self.options;
        let transport = self.transport()?;
        let found = credentials::aws(&options.credentials, env)?;
        let region = options.region.clone().or(found.region).unwrap_or_else(|| "us-east-1".into());
        let custom = options.endpoint.clone().or(found.endpoint);
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let endpoint = custom.clone().unwrap_or_else(|| format!("https://s3.{region}.{domain}"));
        // A name with dots does not fit the certificates of host-style addresses.
        let path_style = options.path_style.unwrap_or(custom.is_some() || self.bucket.contains('.'));
        let site = Site::new("s3", &endpoint, &self.bucket, path_style)?;
        let credentials = match (found.key, &options.credentials) {
            (_, Credentials::Anonymous) => None,
            (Some(key), _) => {
                let key = AwsCredential { key_id: key.id, secret_key: key.secret, token: key.token };
                Some(Arc::new(StaticCredentialProvider::new(key)) as _)
            }
            (None, _) => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(&self.bucket).with_region(&region);
                let builder =
                    builder.with_retry(patience()).with_http_connector(CredentialClient(transport.clone()));
                let store = builder.build().map_err(|e| credentials::unusable("AWS", e))?;
                Some(store.credentials().clone())
            }
        };
        let dialect =
            S3 { credentials, region, checksum: options.checksum, classes: options.classes.clone() };
        Ok(Rest::new(transport, site, dialect, options.part_size.0))
    }

    fn oss(&self, env: Env<'_>) -> Result<Arc<dyn Bucket>> {
        let options = &self.options;
        let found = credentials::alibaba(&options.credentials, env)?;
        let region = options.region.clone().or(found.region).ok_or_else(|| {
            Error::invalid(
                "OSS needs the bucket's region: add ?region=cn-hangzhou to its URL, or set OSS_REGION",
            )
        })?;
        let region = region.strip_prefix("oss-").unwrap_or(&region).to_owned();
        let endpoint =
            options.endpoint.clone().unwrap_or_else(|| format!("https://oss-{region}.aliyuncs.com"));
        let site = Site::new("oss", &endpoint, &self.bucket, options.path_style.unwrap_or(false))?;
        let dialect = Oss {
            key: found.key,
            region,
            bucket: self.bucket.clone(),
            checksum: options.checksum,
            classes: options.classes.clone(),
            clock: options.clock.clone(),
        };
        Ok(Rest::new(self.transport()?, site, dialect, options.part_size.0))
    }

    fn azure(&self, env: Env<'_>) -> Result<Arc<dyn Bucket>> {
        let options = &self.options;
        let transport = self.transport()?;
        let named = options.account.clone().or_else(|| match &options.credentials {
            Credentials::Keys { id, .. } => Some(id.clone()),
            _ => env("AZURE_STORAGE_ACCOUNT_NAME").or_else(|| env("AZURE_STORAGE_ACCOUNT")),
        });
        let account = named.ok_or_else(|| {
            Error::invalid("Azure needs a storage account: add ?account=NAME to the URL, or set AZURE_STORAGE_ACCOUNT_NAME")
        })?;
        let endpoint =
            options.endpoint.clone().unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
        let credentials = match &options.credentials {
            Credentials::Anonymous => None,
            given => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_account(&account)
                    .with_container_name(&self.bucket)
                    .with_retry(patience())
                    .with_http_connector(CredentialClient(transport.clone()));
                let key = env("AZURE_STORAGE_ACCOUNT_KEY").or_else(|| env("AZURE_STORAGE_KEY"));
                if let Credentials::Keys { secret, .. } = given {
                    builder = builder.with_access_key(secret);
                } else if let Some(key) = key {
                    builder = builder.with_access_key(key);
                }
                let store = builder.build().map_err(|e| credentials::unusable("Azure", e))?;
                Some(store.credentials().clone())
            }
        };
        let how = azure::Options {
            checksum: options.checksum,
            classes: options.classes.clone(),
            part_size: options.part_size.0,
        };
        Ok(Arc::new(Azure::new(transport, &endpoint, &self.bucket, account, credentials, how)?))
    }

    fn gcs(&self) -> Result<Arc<dyn Bucket>> {
        let options = &self.options;
        let transport = self.transport()?;
        let endpoint = options.endpoint.clone().unwrap_or_else(|| "https://storage.googleapis.com".into());
        let site = Site::new("gs", &endpoint, &self.bucket, options.path_style.unwrap_or(true))?;
        let credentials = match &options.credentials {
            Credentials::Anonymous => None,
            Credentials::Keys { .. } => {
                return Err(Error::invalid(
                    "Google Cloud Storage takes no key pairs here: name a service account's key file in \
                     GOOGLE_APPLICATION_CREDENTIALS",
                ));
            }
            Credentials::Environment => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&self.bucket);
                let builder =
                    builder.with_retry(patience()).with_http_connector(CredentialClient(transport.clone()));
                let store = builder.build().map_err(|e| credentials::unusable("Google", e))?;
                Some(store.credentials().clone())
            }
        };
        let dialect = Gcs { credentials, classes: options.classes.clone() };
        Ok(Rest::new(transport, site, dialect, options.part_size.0))
    }
}

/// The fetching of credentials is tried once: the request that needs them is tried again anyway, where somebody has patience.
fn patience() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        retry_timeout: std::time::Duration::from_secs(10),
        ..RetryConfig::default()
    }
}
