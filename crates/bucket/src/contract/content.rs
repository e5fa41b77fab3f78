//! Bytes, attributes and classes.

use std::time::Duration;

use base::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{Outcome, Room, must, must_fail, payload};
use crate::{Access, Attributes, Payload, StorageClass};

pub async fn bodies(room: &Room) -> Result<Outcome> {
    for len in [0, 1, 511, 4096, 65_537, (1 << 20) + 1] {
        let key = room.key(&format!("body-{len}"));
        let bytes = room.bytes(len);
        // In three uneven pieces, one of them empty.
        let parts = vec![bytes.slice(..len / 3), Bytes::new(), bytes.slice(len / 3..)];
        let stored = room.bucket.create(&key, &Payload::new(parts), &Attributes::default()).await?;
        let head = room.bucket.head(&key).await?;
        must(stored.size == len as u64 && head.size == len as u64, || {
            format!("{len} bytes were stored, the answers say {} and {}", stored.size, head.size)
        })?;
        must(stored.etag == head.etag && !head.etag.is_empty(), || {
            format!("the tag was {:?} when stored and {:?} when asked for", stored.etag, head.etag)
        })?;
        must(head.key == key && head.modified > 0, || format!("head says {head:?}"))?;
        let read = room.bucket.get(&key, None).await?;
        must(read == bytes, || format!("{len} bytes came back changed ({} bytes)", read.len()))?;
    }
    Ok(Outcome::Passed)
}

pub async fn ranges(room: &Room) -> Result<Outcome> {
    let (key, bytes) = (room.key("ranged"), room.bytes(10_000));
    room.create(&key, &bytes).await?;
    for (from, to) in [(0, 1), (0, 10_000), (1, 9_999), (9_999, 10_000), (4_096, 8_192), (9_000, 20_000)] {
        let read = room.bucket.get(&key, Some(from..to)).await?;
        let wanted = bytes.slice(from as usize..to.min(10_000) as usize);
        must(read == wanted, || format!("bytes {from}..{to} came back wrong ({} bytes)", read.len()))?;
    }
    let reversed = std::ops::Range { start: 7, end: 6 };
    for range in [10_000..10_001, 20_000..30_000, 5..5, reversed] {
        let what = format!("bytes {range:?} of 10000");
        must_fail(room.bucket.get(&key, Some(range)).await, ErrorKind::Invalid, &what)?;
    }
    let empty = room.key("empty");
    room.create(&empty, b"").await?;
    must_fail(room.bucket.get(&empty, Some(0..1)).await, ErrorKind::Invalid, "a range of nothing")?;
    must_fail(
        room.bucket.get(&room.key("none"), Some(0..1)).await,
        ErrorKind::NotFound,
        "a range of no object",
    )?;
    Ok(Outcome::Passed)
}

pub async fn replace(room: &Room) -> Result<Outcome> {
    let key = room.key("replaced");
    let first = room.put(&key, b"first").await?;
    let second = room.put(&key, b"second, longer").await?;
    let third = room.put(&key, b"third, as long").await?;
    must(first.etag != second.etag && second.etag != third.etag, || {
        "the tag stayed while the bytes changed".into()
    })?;
    must(room.bucket.head(&key).await?.etag == third.etag, || "head shows an older tag".into())?;
    let read = room.bucket.get(&key, None).await?;
    must(&read[..] == b"third, as long", || format!("an older body came back: {read:?}"))?;
    Ok(Outcome::Passed)
}

fn example(n: u32) -> Attributes {
    let metadata = [
        ("uid".to_owned(), n.to_string()),
        ("file-mode".to_owned(), "100644".to_owned()),
        ("note".to_owned(), "a b=\"c\"; d, e: f/%41+~".to_owned()),
    ];
    Attributes {
        content_type: Some("text/x-tide".into()),
        metadata: metadata.into(),
        class: StorageClass::Standard,
    }
}

pub async fn attributes(room: &Room) -> Result<Outcome> {
    let key = room.key("attributed");
    for (n, only_new) in [(1, true), (2, false)] {
        let wanted = example(n);
        match only_new {
            true => room.bucket.create(&key, &payload(b"x"), &wanted).await?,
            false => room.bucket.put(&key, &payload(b"x"), &wanted).await?,
        };
        let found = room.bucket.head(&key).await?.attributes;
        must(found == wanted, || format!("{wanted:?} came back as {found:?}"))?;
    }
    room.put(&key, b"x").await?;
    let found = room.bucket.head(&key).await?.attributes;
    must(found.metadata.is_empty(), || format!("metadata outlived its object: {:?}", found.metadata))?;
    let refused =
        [("Upper", "x"), ("", "x"), ("uml\u{e4}ut", "x"), ("fine", "line\nbreak"), ("fine", " blank ")];
    for (name, value) in refused {
        let wrong = Attributes { metadata: [(name.into(), value.into())].into(), ..Attributes::default() };
        let result = room.bucket.put(&key, &payload(b"x"), &wrong).await;
        must_fail(result, ErrorKind::Invalid, &format!("metadata {name:?}={value:?}"))?;
    }
    Ok(Outcome::Passed)
}

pub async fn copy(room: &Room) -> Result<Outcome> {
    let (from, to) = (room.key("from it's here+there"), room.key("to"));
    room.bucket.create(&from, &payload(b"copied"), &example(3)).await?;
    room.put(&to, b"in the way").await?;
    let answer = room.bucket.copy(&from, &to).await?;
    let head = room.bucket.head(&to).await?;
    must(answer.size == 6 && head.size == 6, || format!("6 bytes were copied, head says {}", head.size))?;
    must(answer.key == to && head.attributes == example(3), || {
        format!("attributes were copied as {:?}", head.attributes)
    })?;
    must(&room.bucket.get(&to, None).await?[..] == b"copied", || "the copy has other bytes".into())?;
    must_fail(room.bucket.copy(&room.key("none"), &to).await, ErrorKind::NotFound, "a copy of nothing")?;
    Ok(Outcome::Passed)
}

pub async fn absence(room: &Room) -> Result<Outcome> {
    let key = room.key("nothing/here");
    must_fail(room.bucket.get(&key, None).await, ErrorKind::NotFound, "get of nothing")?;
    must_fail(room.bucket.head(&key).await, ErrorKind::NotFound, "head of nothing")?;
    room.bucket.delete(&key).await?;
    room.create(&key, b"x").await?;
    room.bucket.delete(&key).await?;
    room.bucket.delete(&key).await?;
    must_fail(room.bucket.get(&key, None).await, ErrorKind::NotFound, "get after delete")?;
    must_fail(room.bucket.head(&key).await, ErrorKind::NotFound, "head after delete")?;
    Ok(Outcome::Passed)
}

pub async fn large(room: &Room) -> Result<Outcome> {
    let (key, bytes) = (room.key("large"), room.bytes(room.scope.large));
    // Pieces that never end where a part does.
    let pieces = bytes.chunks(1_000_003).map(|c| bytes.slice_ref(c)).collect();
    room.bucket.put(&key, &Payload::new(pieces), &example(4)).await?;
    let head = room.bucket.head(&key).await?;
    must(head.size == bytes.len() as u64, || format!("{} of {} bytes are there", head.size, bytes.len()))?;
    must(head.attributes == example(4), || format!("attributes came back as {:?}", head.attributes))?;
    must(room.bucket.get(&key, None).await? == bytes, || "the bytes came back changed".into())?;
    let middle = bytes.len() as u64 / 2;
    let read = room.bucket.get(&key, Some(middle..middle + 70_000)).await?;
    must(read == bytes.slice(middle as usize..middle as usize + 70_000), || {
        "a range came back changed".into()
    })?;
    Ok(Outcome::Passed)
}

pub async fn damaged(room: &Room) -> Result<Outcome> {
    let key = room.key("damaged");
    let wrong = Payload::with_crc(vec![Bytes::from_static(b"not what was summed")], 0x1234_5678_9abc_def0);
    match room.bucket.create(&key, &wrong, &Attributes::default()).await {
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            must_fail(room.bucket.head(&key).await, ErrorKind::NotFound, "an object that was refused")?;
            Ok(Outcome::Passed)
        }
        Err(e) => Err(e.within("a body with a wrong sum was answered with another error than corrupt")),
        Ok(_) => Ok(Outcome::Absent("the store does not compare CRC-64 of bodies".into())),
    }
}

pub async fn concurrent(room: &Room) -> Result<Outcome> {
    let bodies: Vec<_> = (0..64).map(|n| room.bytes(10_000 + n)).collect();
    try_join_all(bodies.iter().enumerate().map(async |(n, body)| {
        let key = room.key(&format!("many/{n:02}"));
        room.create(&key, body).await?;
        must(room.bucket.get(&key, None).await? == *body, || format!("object {n} of 64 came back changed"))
    }))
    .await?;
    let names = room.names("many/").await?;
    must(names.len() == 64, || format!("64 objects were stored, {} are listed", names.len()))?;
    Ok(Outcome::Passed)
}

pub async fn classes(room: &Room) -> Result<Outcome> {
    let key = room.key("classed");
    room.bucket.create(&key, &payload(b"cool"), &example(5)).await?;
    match room.bucket.set_class(&key, StorageClass::Infrequent).await {
        Err(e) if e.kind() == ErrorKind::Invalid => return Ok(Outcome::Absent(e.to_string())),
        other => other?,
    }
    let wanted = Attributes { class: StorageClass::Infrequent, ..example(5) };
    let found = room.bucket.head(&key).await?.attributes;
    must(found == wanted, || format!("after the change of class the object is {found:?}"))?;
    must(&room.bucket.get(&key, None).await?[..] == b"cool", || "the bytes changed with the class".into())?;
    let born = room.key("born-cool");
    room.bucket.create(&born, &payload(b"cool"), &wanted).await?;
    let found = room.bucket.head(&born).await?.attributes;
    must(found == wanted, || format!("an object created in a class is {found:?}"))?;
    Ok(Outcome::Passed)
}

pub async fn archive(room: &Room) -> Result<Outcome> {
    let key = room.key("archived");
    room.bucket.create(&key, &payload(b"cold"), &example(6)).await?;
    match room.bucket.set_class(&key, StorageClass::Archive).await {
        Err(e) if e.kind() == ErrorKind::Invalid => return Ok(Outcome::Absent(e.to_string())),
        other => other?,
    }
    let head = room.bucket.head(&key).await?;
    must(head.attributes.class == StorageClass::Archive, || {
        format!("it went to class {:?}", head.attributes.class)
    })?;
    if head.access == Access::Ready {
        return Ok(Outcome::Absent("archived objects stay readable".into()));
    }
    match room.bucket.get(&key, None).await {
        Ok(_) => {
            return Ok(Outcome::Absent(
                "archive classes are names only: objects in them stay readable".into(),
            ));
        }
        refused => must_fail(refused, ErrorKind::Invalid, "get of an archived object")?,
    }
    match room.bucket.restore(&key, 1).await {
        Err(e) if e.kind() == ErrorKind::Invalid => return Ok(Outcome::Absent(e.to_string())),
        other => other?,
    }
    // Real stores take hours; those that take seconds are waited for.
    for _ in 0..50 {
        if let Access::Restored(_) | Access::Ready = room.bucket.head(&key).await?.access {
            let read = room.bucket.get(&key, None).await?;
            must(&read[..] == b"cold", || "the restored bytes are others".into())?;
            return Ok(Outcome::Passed);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(Outcome::Absent("restoring was accepted and takes longer than this suite waits".into()))
}
