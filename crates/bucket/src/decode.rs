//! The decoders of what a network or a disk hands in, under names that fuzz targets can call. None of them may do
//! anything but return.

use base::Result;

use crate::rest::answer;

/// A ListObjectsV2 answer; how many objects it lists.
pub fn list_answer(bytes: &[u8]) -> Result<usize> {
    answer::Page::decode(bytes).map(|page| page.entries.len())
}

/// A List Blobs answer of Azure's.
pub fn azure_list_answer(bytes: &[u8]) -> Result<()> {
    crate::azure::list::is_page(bytes)
}

/// An error document; its code, if it is one.
pub fn error_answer(bytes: &[u8]) -> Option<String> {
    answer::code(bytes)
}

/// The answer to the begin of a multipart upload; the upload's id.
pub fn upload_answer(bytes: &[u8]) -> Result<String> {
    answer::upload_id(bytes)
}

/// The attributes that a directory bucket keeps beside an object.
pub fn directory_attributes(bytes: &[u8]) -> Result<crate::Attributes> {
    crate::directory::attributes::decode(bytes)
}
