//! File names of objects: the object's own, but for what would fall on our directory at the root.
//!
//! `.tidegate…` is written `%2Etidegate…`, and what looks so already gets one more `25` behind its `%`.

use super::OWN;

/// The relative path of an object.
pub fn encode(key: &str) -> String {
    match key {
        _ if key.starts_with(OWN) => format!("%2E{}", &key[1..]),
        _ if looks_escaped(key) => format!("%25{}", &key[1..]),
        _ => key.to_owned(),
    }
}

/// The name that an entry of the root stands for; `None` for our own directory.
pub fn decode_first(entry: &str) -> Option<String> {
    match entry {
        _ if entry.starts_with(OWN) => None,
        _ if !looks_escaped(entry) => Some(entry.to_owned()),
        _ if entry.starts_with("%2E") => Some(format!(".{}", &entry[3..])),
        _ => Some(format!("%{}", &entry[3..])),
    }
}

fn looks_escaped(name: &str) -> bool {
    let Some(mut rest) = name.strip_prefix('%') else { return false };
    while let Some(shorter) = rest.strip_prefix("25") {
        rest = shorter;
    }
    rest.starts_with("2Etidegate")
}
