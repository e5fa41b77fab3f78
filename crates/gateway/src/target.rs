//! Who may use a volume's target.

use std::path::Path;
use std::str::FromStr;

use base::{Error, ErrorKind, Result};
use scsi::iscsi::{AllowList, Authentication, Credential, IscsiName, Network, Secret};
use serde::{Deserialize, Serialize};

/// Who may use a volume, as the operator said it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// CHAP users that may log in, with their secrets; none: no CHAP is asked for.
    pub chap: Vec<ChapUser>,
    /// How the target proves itself to initiators that ask (mutual CHAP).
    pub mutual: Option<ChapUser>,
    /// Initiator names that may log in; empty: all.
    pub initiators: Vec<String>,
    /// Addresses or networks that may connect, as `10.0.0.0/8`; empty: all.
    pub networks: Vec<String>,
}

/// A CHAP name and its secret of 12 to 255 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChapUser {
    /// The CHAP name.
    pub user: String,
    /// The secret.
    pub secret: String,
}

impl std::fmt::Debug for ChapUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChapUser({:?}, secret hidden)", self.user)
    }
}

impl FromStr for ChapUser {
    type Err = Error;

    /// Reads `user:secret`.
    fn from_str(text: &str) -> Result<ChapUser> {
        let (user, secret) = text
            .split_once(':')
            .ok_or_else(|| Error::invalid("a CHAP user and its secret are written as user:secret"))?;
        Ok(ChapUser { user: user.to_owned(), secret: secret.to_owned() })
    }
}

impl ChapUser {
    /// Reads a file with lines `user:secret`. `Invalid` if it has none: an empty file must not let everybody in.
    pub fn read_file(path: &Path) -> Result<Vec<ChapUser>> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::caused(ErrorKind::Invalid, format!("cannot read {}", path.display()), e))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let users = lines.map(str::parse).collect::<Result<Vec<_>>>();
        let users = users.map_err(|e| e.within(path.display().to_string()))?;
        if users.is_empty() {
            return Err(Error::invalid(format!("{} has no line user:secret: write one", path.display())));
        }
        Ok(users)
    }

    fn credential(&self) -> Result<Credential> {
        Credential::new(&self.user, Secret::new(self.secret.as_bytes().to_vec()))
    }
}

impl Access {
    /// The text kept in the catalog.
    pub(crate) fn to_text(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::caused(ErrorKind::Invalid, "access rules cannot be stored", e))
    }

    /// The reverse.
    pub(crate) fn parse(text: &str) -> Result<Access> {
        toml::from_str(text).map_err(|e| Error::caused(ErrorKind::Corrupt, "access rules in the catalog", e))
    }

    /// CHAP as the target asks for it. `Invalid` for secrets that are too short or the same both ways.
    pub(crate) fn authentication(&self) -> Result<Authentication> {
        if self.chap.is_empty() {
            return match self.mutual {
                None => Ok(Authentication::none()),
                Some(_) => Err(Error::invalid("mutual CHAP needs CHAP users too")),
            };
        }
        let users = self.chap.iter().map(ChapUser::credential).collect::<Result<_>>()?;
        Authentication::chap(users, self.mutual.as_ref().map(ChapUser::credential).transpose()?)
    }

    /// The allow-list.
    pub(crate) fn allow(&self) -> Result<AllowList> {
        let names: Result<std::collections::BTreeSet<IscsiName>> =
            self.initiators.iter().map(|n| n.parse()).collect();
        let networks: Result<Vec<Network>> = self.networks.iter().map(|n| n.parse()).collect();
        let names = names?;
        Ok(AllowList { initiators: (!names.is_empty()).then_some(names), networks: networks? })
    }
}
