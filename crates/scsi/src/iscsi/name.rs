//! iSCSI names: RFC 7143 §4.2.7, RFC 3980 for `naa.`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base::Error;

/// The longest name, in bytes (RFC 7143 §4.2.7.2).
const LONGEST: usize = 223;

/// The name of an initiator or target: `iqn.yyyy-mm.reversed.domain[:text]` (B26), `eui.` with 16 hex digits (B27) or
/// `naa.` with 16 or 32 (B28). Two names that differ in case alone are the same; this type holds the lower-case form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(Arc<str>);

impl IscsiName {
    /// The normalized text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IscsiName {
    type Err = Error;

    fn from_str(text: &str) -> Result<IscsiName, Error> {
        let name = text.to_lowercase();
        if name.len() > LONGEST {
            return Err(Error::invalid(format!(
                "an iSCSI name of {} bytes is too long: at most {LONGEST} are allowed",
                name.len()
            )));
        }
        let valid = match name.split_once('.') {
            Some(("iqn", rest)) => is_qualified(rest),
            Some(("eui", rest)) => is_hex(rest) && rest.len() == 16,
            Some(("naa", rest)) => is_hex(rest) && matches!(rest.len(), 16 | 32),
            _ => false,
        };
        match valid {
            true => Ok(IscsiName(name.into())),
            false => Err(Error::invalid(format!(
                "{text:?} is no iSCSI name: write iqn.yyyy-mm.reversed.domain:text, eui. and 16 hex digits, or naa. and 16 or 32 hex digits"
            ))),
        }
    }
}

/// What follows `iqn.`: a month, a reversed domain, and perhaps a colon and any text of permitted characters.
fn is_qualified(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let (domain, text) = authority.split_once(':').unwrap_or((authority, ""));
    is_month(date)
        && !domain.is_empty()
        && domain.split('.').all(|label| !label.is_empty() && label.chars().all(is_permitted))
        && text.chars().all(|c| c == ':' || c == '.' || is_permitted(c))
}

fn is_month(date: &str) -> bool {
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    year.len() == 4
        && month.len() == 2
        && digits(year)
        && digits(month)
        && month.parse().is_ok_and(|m: u8| (1..=12).contains(&m))
}

/// RFC 3722 §6.2 leaves, of ASCII, letters, digits, `-`, `.` and `:`; other letters and digits of Unicode pass.
fn is_permitted(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
        false => c.is_alphanumeric(),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The initiator session id that an initiator port chooses (RFC 7143 §11.12.5).
pub type Isid = [u8; 6];

/// The TransportID of an iSCSI initiator port (SPC-5 §7.6.4.6, format 01b).
pub(super) fn transport_id(name: &IscsiName, isid: Isid) -> Arc<[u8]> {
    let mut id = vec![0x45, 0, 0, 0];
    id.extend_from_slice(name.as_str().as_bytes());
    id.extend_from_slice(b",i,0x");
    isid.iter().for_each(|b| id.extend_from_slice(format!("{b:02x}").as_bytes()));
    id.push(0);
    id.resize(id.len().next_multiple_of(4).max(24), 0);
    let additional = (id.len() - 4) as u16;
    id[2..4].copy_from_slice(&additional.to_be_bytes());
    id.into()
}

#[cfg(test)]
mod tests;
