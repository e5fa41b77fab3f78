//! Large bodies in parts, each with a checksum of its own (C06).

use base::{BoxFuture, Error, ErrorKind, Result, checksum};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, Method};

use super::{Dialect, Rest, answer, text};
use crate::{Attributes, Key, ObjectMeta, Payload};

/// How many parts are under way at once.
const PARALLEL: usize = 4;

/// Stores take this many parts at most.
const PARTS_LIMIT: u64 = 10_000;

impl<D: Dialect> Rest<D> {
    /// Stores a body in parts. One that fails is taken back; what even that leaves behind is for the bucket's lifecycle
    /// rule (F42).
    pub(super) async fn put_parts(
        &self,
        key: &Key,
        body: &Payload,
        attributes: &Attributes,
    ) -> Result<ObjectMeta> {
        let parts = split(body, self.part_size.max(body.len().div_ceil(PARTS_LIMIT)))?;
        let mut headers = self.describe(attributes)?;
        self.dialect.begin_parts(&mut headers);
        let answer = self.send(Method::POST, Some(key), &[("uploads", "")], headers, &[]).await?;
        let upload = answer::upload_id(&self.accept(answer, Some(key))?.body)?;
        match self.fill_upload(key, body, &parts, &upload).await {
            Ok(headers) => Ok(self.stored(key, &headers, body, attributes)),
            Err(e) => {
                // Best effort: the upload's failure is what the caller has to hear.
                drop(
                    self.send(Method::DELETE, Some(key), &[("uploadId", &upload)], HeaderMap::new(), &[])
                        .await,
                );
                Err(e)
            }
        }
    }

    async fn fill_upload(
        &self,
        key: &Key,
        body: &Payload,
        parts: &[Payload],
        upload: &str,
    ) -> Result<HeaderMap> {
        let mut puts: Vec<BoxFuture<'_, Result<String>>> = Vec::with_capacity(parts.len());
        for (n, part) in parts.iter().enumerate() {
            puts.push(Box::pin(self.put_part(key, part, n + 1, upload)));
        }
        let elements: Vec<String> = stream::iter(puts).buffered(PARALLEL).try_collect().await?;
        let list = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", elements.concat());
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        self.dialect.end_parts(&mut headers, body);
        let answer = self
            .send(Method::POST, Some(key), &[("uploadId", upload)], headers, &[Bytes::from(list)])
            .await?;
        let mut answer = self.accept(answer, Some(key))?;
        answer::refuse_hidden_error(&self.site.url(), key, &answer)?;
        self.dialect.check_stored(&answer.headers, body)?;
        let tag = answer::etag(&answer.body)?;
        answer.headers.insert(http::header::ETAG, super::value(&tag)?);
        Ok(answer.headers)
    }

    async fn put_part(&self, key: &Key, part: &Payload, number: usize, upload: &str) -> Result<String> {
        let mut headers = HeaderMap::new();
        self.dialect.announce(&mut headers, part)?;
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let answer =
            self.accept(self.send(Method::PUT, Some(key), &query, headers, part.parts()).await?, Some(key))?;
        self.dialect.check_stored(&answer.headers, part)?;
        let tag = text(&answer.headers, &http::header::ETAG).replace('&', "&amp;").replace('<', "&lt;");
        if tag.is_empty() {
            let what = format!("{} gave no tag of part {number} of {key}: try again", self.site.url());
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        let sum = self.dialect.part_element(part);
        Ok(format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag>{sum}</Part>"))
    }
}

/// Cuts a body in parts of `size` bytes without copying. `Corrupt` if their sums do not add up to the body's.
pub fn split(body: &Payload, size: u64) -> Result<Vec<Payload>> {
    let mut parts = Vec::new();
    let (mut pieces, mut room) = (Vec::new(), size);
    for piece in body.parts() {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            let taken = rest.split_to(rest.len().min(room as usize));
            room -= taken.len() as u64;
            pieces.push(taken);
            if room == 0 {
                parts.push(Payload::new(std::mem::take(&mut pieces)));
                room = size;
            }
        }
    }
    if !pieces.is_empty() {
        parts.push(Payload::new(pieces));
    }
    let whole = parts
        .iter()
        .map(|p| (p.crc64(), p.len()))
        .reduce(|(a, al), (b, bl)| (checksum::crc64_combine(a, b, bl), al + bl));
    match whole {
        Some((sum, _)) if sum != body.crc64() => {
            Err(Error::corrupt("the body's parts do not have its CRC-64: send it again"))
        }
        _ => Ok(parts),
    }
}
