//! The names of an image's objects.

use base::{Epoch, Error, ImageId, Number, Result};
use bucket::Key;

fn key(name: String) -> Key {
    Key::new(name).expect("names made here hold hex digits and slashes only")
}

/// The prefix of everything that belongs to an image.
pub fn prefix(image: ImageId) -> String {
    format!("images/{image}/")
}

/// The object that says what the image is.
pub fn image(image: ImageId) -> Key {
    key(format!("images/{image}/image"))
}

/// A term of ownership.
pub fn epoch(image: ImageId, epoch: Epoch) -> Key {
    key(format!("images/{image}/epoch/{:016x}", !epoch.0))
}

/// Where a term's part of the chain begins.
pub fn fence(image: ImageId, epoch: Epoch) -> Key {
    key(format!("images/{image}/fence/{:016x}", !epoch.0))
}

/// The prefix of all fences; the newest lists first.
pub fn fences(image: ImageId) -> String {
    format!("images/{image}/fence/")
}

/// The prefix of all terms of ownership; the newest lists first.
pub fn epochs(image: ImageId) -> String {
    format!("images/{image}/epoch/")
}

/// A segment.
pub fn segment(image: ImageId, epoch: Epoch, number: Number) -> Key {
    key(format!("images/{image}/seg/{:016x}-{:016x}", number.0, epoch.0))
}

/// The prefix of all segments.
pub fn segments(image: ImageId) -> String {
    format!("images/{image}/seg/")
}

/// A name that sorts behind every segment up to `number` and before those that follow.
pub fn behind_segment(image: ImageId, number: Number) -> Key {
    key(format!("images/{image}/seg/{:016x}-~", number.0))
}

/// An object of checkpoint pages.
pub fn pages(image: ImageId, epoch: Epoch, number: Number, part: u32) -> Key {
    key(format!("images/{image}/map/{:016x}-{:016x}-{part:08x}", number.0, epoch.0))
}

/// The prefix of all objects of checkpoint pages.
pub fn all_pages(image: ImageId) -> String {
    format!("images/{image}/map/")
}

/// The root of a checkpoint.
pub fn checkpoint(image: ImageId, epoch: Epoch, number: Number) -> Key {
    key(format!("images/{image}/ckpt/{:016x}-{:016x}", !number.0, epoch.0))
}

/// The prefix of all checkpoint roots; the newest lists first.
pub fn checkpoints(image: ImageId) -> String {
    format!("images/{image}/ckpt/")
}

/// What the bucket had when the owner of `epoch` accepted the loss of the tail before it.
pub fn pin(image: ImageId, epoch: Epoch) -> Key {
    key(format!("images/{image}/pin/{:016x}", !epoch.0))
}

/// The same, kept for an image that was made from it.
pub fn clone_pin(image: ImageId, epoch: Epoch, clone: ImageId) -> Key {
    key(format!("images/{image}/pin/{:016x}-{clone}", !epoch.0))
}

/// The prefix of all pins; those of the newest epoch list first.
pub fn pins(image: ImageId) -> String {
    format!("images/{image}/pin/")
}

fn hex16(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn foreign(key: &Key) -> Error {
    Error::corrupt(format!("{key} is not a name this gateway gives; move it out of the image's prefix"))
}

/// The epoch a key of [`epochs`] or [`fences`] names.
pub fn parse_epoch(key: &Key) -> Result<Epoch> {
    key.as_str().rsplit('/').next().and_then(hex16).map(|e| Epoch(!e)).ok_or_else(|| foreign(key))
}

/// The epoch of a key of [`pins`], whose owner accepted the loss, and the clone it is kept for.
pub fn parse_pin(key: &Key) -> Result<(Epoch, Option<ImageId>)> {
    let last = key.as_str().rsplit('/').next().unwrap_or_default();
    let (epoch, clone) = last.split_once('-').map_or((last, None), |(epoch, clone)| (epoch, Some(clone)));
    let epoch = hex16(epoch).map(|e| Epoch(!e)).ok_or_else(|| foreign(key))?;
    Ok((epoch, clone.map(str::parse).transpose()?))
}

/// Number and epoch of a key of [`segments`].
pub fn parse_segment(key: &Key) -> Result<(Number, Epoch)> {
    let pair = key.as_str().rsplit('/').next().and_then(|n| n.split_once('-'));
    pair.and_then(|(n, e)| Some((Number(hex16(n)?), Epoch(hex16(e)?)))).ok_or_else(|| foreign(key))
}

/// Number and epoch of a key of [`checkpoints`].
pub fn parse_checkpoint(key: &Key) -> Result<(Number, Epoch)> {
    parse_segment(key).map(|(inverted, epoch)| (Number(!inverted.0), epoch))
}

/// Number, epoch and part of a key of [`all_pages`].
pub fn parse_pages(key: &Key) -> Result<(Number, Epoch, u32)> {
    let last = key.as_str().rsplit('/').next().unwrap_or_default();
    let mut parts = last.splitn(3, '-');
    let parsed = (|| {
        let number = Number(hex16(parts.next()?)?);
        let epoch = Epoch(hex16(parts.next()?)?);
        Some((number, epoch, u32::from_str_radix(parts.next()?, 16).ok()?))
    })();
    parsed.ok_or_else(|| foreign(key))
}

/// A name that sorts behind everything of the image, or of whatever else a key below `images/` belongs to, and before all other images.
pub fn behind_image(key: &Key) -> Key {
    let owner = key.as_str().split('/').nth(1).unwrap_or_default();
    // '0' is next to '/', and no longer name of hex digits sorts before it. What is too long for that is passed over one by one.
    Key::new(format!("images/{owner}0")).unwrap_or_else(|_| key.clone())
}

/// The image a key below `images/` belongs to.
pub fn parse_image(key: &Key) -> Result<ImageId> {
    key.as_str().split('/').nth(1).ok_or_else(|| foreign(key))?.parse()
}
