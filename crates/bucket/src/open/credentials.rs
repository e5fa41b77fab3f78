//! Keys from where each cloud's own tools look for them.

use std::path::PathBuf;

use base::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::Credentials;
use crate::oss::AccessKey;
use crate::s3::profile;

/// The seam for environment variables.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What was found; no key means that the machine's role has to provide one.
#[derive(Debug, Default)]
pub struct Found {
    /// The key.
    pub key: Option<AccessKey>,
    /// The region.
    pub region: Option<String>,
    /// The endpoint.
    pub endpoint: Option<String>,
}

fn given(credentials: &Credentials) -> Option<AccessKey> {
    match credentials {
        Credentials::Keys { id, secret, token } => {
            Some(AccessKey { id: id.clone(), secret: secret.clone(), token: token.clone() })
        }
        Credentials::Environment | Credentials::Anonymous => None,
    }
}

/// As the AWS command line looks for them: environment, then profile.
pub fn aws(credentials: &Credentials, env: Env<'_>) -> Result<Found> {
    let mut found = Found {
        key: given(credentials),
        region: env("AWS_REGION").or_else(|| env("AWS_DEFAULT_REGION")),
        endpoint: env("AWS_ENDPOINT_URL_S3").or_else(|| env("AWS_ENDPOINT_URL")),
    };
    if !matches!(credentials, Credentials::Environment) {
        return Ok(found);
    }
    if let Some(id) = env("AWS_ACCESS_KEY_ID") {
        let Some(secret) = env("AWS_SECRET_ACCESS_KEY") else {
            return Err(Error::invalid("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY: set both"));
        };
        found.key = Some(AccessKey { id, secret, token: env("AWS_SESSION_TOKEN") });
        return Ok(found);
    }
    let mut profile = profile::load(env)?;
    let key = (profile.remove("aws_access_key_id"), profile.remove("aws_secret_access_key"));
    if let (Some(id), Some(secret)) = key {
        found.key = Some(AccessKey { id, secret, token: profile.remove("aws_session_token") });
    }
    found.region = found.region.or_else(|| profile.remove("region"));
    found.endpoint = found.endpoint.or_else(|| profile.remove("endpoint_url"));
    Ok(found)
}

#[derive(Deserialize)]
struct AlibabaConfig {
    #[serde(default)]
    current: String,
    #[serde(default)]
    profiles: Vec<AlibabaProfile>,
}

#[derive(Deserialize)]
struct AlibabaProfile {
    name: String,
    #[serde(default)]
    access_key_id: String,
    #[serde(default)]
    access_key_secret: String,
    #[serde(default)]
    sts_token: String,
    #[serde(default)]
    region_id: String,
}

/// As `aliyun` and `ossutil` look for them: environment, then `~/.aliyun/config.json`.
pub fn alibaba(credentials: &Credentials, env: Env<'_>) -> Result<Found> {
    let region = env("OSS_REGION").or_else(|| env("ALIBABA_CLOUD_REGION_ID"));
    let mut found = Found { key: given(credentials), region, endpoint: None };
    if !matches!(credentials, Credentials::Environment) {
        return Ok(found);
    }
    for (id, secret, token) in [
        ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"),
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"),
    ] {
        if let Some(id_value) = env(id) {
            let Some(secret) = env(secret) else {
                return Err(Error::invalid(format!("{id} is set without {secret}: set both")));
            };
            found.key = Some(AccessKey { id: id_value, secret, token: env(token) });
            return Ok(found);
        }
    }
    let path = env("HOME").map(PathBuf::from).unwrap_or_default().join(".aliyun/config.json");
    let profile = match std::fs::read(&path) {
        Ok(bytes) => alibaba_profile(&bytes, env("ALIBABA_CLOUD_PROFILE"))
            .map_err(|e| e.within(format!("cannot use {}", path.display())))?,
        Err(_) => None,
    };
    let Some(profile) = profile.filter(|p| !p.access_key_id.is_empty()) else {
        return Err(Error::new(
            ErrorKind::Denied,
            "no Alibaba Cloud credentials: set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or run `aliyun configure`",
        ));
    };
    found.key = Some(AccessKey {
        id: profile.access_key_id,
        secret: profile.access_key_secret,
        token: Some(profile.sts_token).filter(|t| !t.is_empty()),
    });
    found.region = found.region.or(Some(profile.region_id)).filter(|r| !r.is_empty());
    Ok(found)
}

fn alibaba_profile(bytes: &[u8], name: Option<String>) -> Result<Option<AlibabaProfile>> {
    let config: AlibabaConfig = serde_json::from_slice(bytes)
        .map_err(|e| Error::caused(ErrorKind::Invalid, "it is damaged: run `aliyun configure`", e))?;
    let name = name.unwrap_or(config.current);
    Ok(config.profiles.into_iter().find(|p| p.name == name))
}

/// The error of credentials that a cloud's library does not take.
pub fn unusable(cloud: &str, e: object_store::Error) -> Error {
    Error::caused(
        ErrorKind::Invalid,
        format!("the {cloud} credentials in the environment cannot be used: correct them"),
        e,
    )
}
