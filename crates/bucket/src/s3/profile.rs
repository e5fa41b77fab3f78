//! The profile files of the AWS command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base::{Error, Result};

/// What one profile says.
pub type Profile = BTreeMap<String, String>;

/// Reads the profile that `AWS_PROFILE` names (or `default`) from the credentials and the configuration file. Empty if
/// there are no such files.
pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Profile> {
    let name = env("AWS_PROFILE").unwrap_or_else(|| "default".into());
    let home = env("HOME").map(PathBuf::from).unwrap_or_default();
    let file =
        |var: &str, default: &str| env(var).map_or_else(|| home.join(".aws").join(default), PathBuf::from);
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    let mut profile = Profile::new();
    // What the credentials file says goes before the configuration file's.
    for (path, section) in [(config, format!("profile {name}")), (credentials, name.clone())] {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                let advice = format!("cannot read {}: make it readable for the gateway", path.display());
                return Err(Error::caused(base::ErrorKind::Denied, advice, e));
            }
        };
        let mut sections = parse(&text);
        let own = sections.remove(&section).or_else(|| sections.remove(&name).filter(|_| name == "default"));
        profile.extend(own.unwrap_or_default());
    }
    if profile.is_empty() && env("AWS_PROFILE").is_some() {
        return Err(Error::invalid(format!(
            "there is no AWS profile {name:?}: correct AWS_PROFILE, or unset it"
        )));
    }
    if !profile.contains_key("aws_access_key_id") {
        for way in ["sso_session", "sso_start_url", "role_arn", "credential_process"] {
            if profile.contains_key(way) {
                return Err(Error::invalid(format!(
                    "the AWS profile {name:?} uses {way}, which is not supported: set the keys that \
                     `aws configure export-credentials --profile {name} --format env` prints"
                )));
            }
        }
    }
    Ok(profile)
}

/// Sections of `name = value` lines; anything else is passed over.
fn parse(text: &str) -> BTreeMap<String, Profile> {
    let mut sections = BTreeMap::<String, Profile>::new();
    let mut current = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(title) = trimmed.strip_prefix('[').and_then(|t| t.split_once(']')) {
            current = Some(title.0.split_whitespace().collect::<Vec<_>>().join(" "));
        } else if let (Some(section), Some((name, value))) = (&current, trimmed.split_once('=')) {
            // Indented lines are nested settings, comments are no settings.
            if !line.starts_with([' ', '\t', '#', ';']) {
                let own = sections.entry(section.clone()).or_default();
                own.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
    }
    sections
}
