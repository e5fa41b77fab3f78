//! Names and lists.

use base::{ErrorKind, Result};

use super::{Outcome, Room, must, must_fail};

pub async fn odd(room: &Room) -> Result<Outcome> {
    let long = "n".repeat(255);
    let deep = "d/".repeat(150) + "end";
    let mut names = vec![
        " leading",
        "trailing ",
        "two  blanks",
        "plus+plus",
        "per%cent",
        "%41",
        "A",
        "a",
        "CaSe",
        "case",
        "..hidden",
        "...",
        ".tidegate",
        "quo\"te'",
        "<tag>&amp;",
        "que?ry=1&x#frag",
        "semi;colon",
        "a:b*c|d",
        "tilde~",
        "@1.2-3",
        "brace{}[]^`",
        "dot.",
        "-dash",
        "_",
        "comma,",
        "$dollar!",
        "(paren)",
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{65e5}\u{672c}",
        "\u{1f30a}",
        &long,
        &deep,
    ];
    for name in &names {
        room.create(&room.key(name), name.as_bytes())
            .await
            .map_err(|e| e.within(format!("create {name:?}")))?;
    }
    for name in &names {
        let read =
            room.bucket.get(&room.key(name), None).await.map_err(|e| e.within(format!("get {name:?}")))?;
        must(read == name.as_bytes(), || format!("{name:?} has the bytes of {read:?}"))?;
        room.bucket.head(&room.key(name)).await.map_err(|e| e.within(format!("head {name:?}")))?;
    }
    names.sort_unstable();
    let listed = room.names("").await?;
    must(listed == names, || format!("listed are {listed:?}, stored were {names:?}"))?;
    for name in &names {
        let alone = room.names(name).await?;
        must(alone.first().is_some_and(|n| n == name), || format!("the prefix {name:?} lists {alone:?}"))?;
        room.bucket.delete(&room.key(name)).await.map_err(|e| e.within(format!("delete {name:?}")))?;
    }
    let rest = room.names("").await?;
    must(rest.is_empty(), || format!("deleted, but still listed: {rest:?}"))?;
    Ok(Outcome::Passed)
}

pub async fn backslash(room: &Room) -> Result<Outcome> {
    let (back, forward) = (room.key("back\\slash"), room.key("back/slash"));
    room.create(&back, b"back").await?;
    match room.create(&forward, b"forward").await {
        Err(e) if e.kind() == ErrorKind::Exists => {
            return Ok(Outcome::Absent("the store takes \\ and / for the same".into()));
        }
        other => drop(other?),
    }
    must(room.names("").await? == ["back/slash", "back\\slash"], || {
        "names with \\ and / got mixed up".into()
    })?;
    must(&room.bucket.get(&back, None).await?[..] == b"back", || "the name with \\ has other bytes".into())?;
    Ok(Outcome::Passed)
}

pub async fn listing(room: &Room) -> Result<Outcome> {
    let mut names: Vec<String> =
        ["a-b", "a.b", "a/1", "a/b/2", "a/b-c", "a0", "aa", "b", "z/z"].map(String::from).into();
    names.extend((0..25).map(|n| format!("seg/{n:04}")));
    for name in names.iter().rev() {
        room.create(&room.key(name), b"x").await?;
    }
    names.sort_unstable();
    for limit in [1, 2, 7, 33, 34, 35, 1000] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = room.bucket.list(&room.prefix, after.as_ref(), limit).await?;
            must(page.len() <= limit, || format!("{} entries came for a limit of {limit}", page.len()))?;
            found.extend(page.iter().map(|m| m.key.as_str()[room.prefix.len()..].to_owned()));
            after = page.last().map(|m| m.key.clone()).or(after);
            if page.len() < limit {
                break;
            }
        }
        must(found == names, || format!("in pages of {limit} came {found:?} instead of {names:?}"))?;
    }
    for prefix in ["a", "a/", "a/b", "a/b/", "seg/00", "seg/0024", "seg/00240", "nothing", "b", "z"] {
        let found = room.names(prefix).await?;
        let wanted: Vec<_> = names.iter().filter(|n| n.starts_with(prefix)).cloned().collect();
        must(found == wanted, || format!("the prefix {prefix:?} lists {found:?}"))?;
        for after in ["a", "a-b", "a/b", "a/b/2", "seg/0010", "seg/00105", "zzz"] {
            let full = format!("{}{prefix}", room.prefix);
            let page = room.bucket.list(&full, Some(&room.key(after)), 1000).await?;
            let found: Vec<_> = page.iter().map(|m| &m.key.as_str()[room.prefix.len()..]).collect();
            let wanted: Vec<_> = wanted.iter().filter(|n| n.as_str() > after).collect();
            must(found == wanted, || format!("the prefix {prefix:?} behind {after:?} lists {found:?}"))?;
        }
    }
    let head = room.bucket.head(&room.key("b")).await?;
    let listed = room.bucket.list(&format!("{}b", room.prefix), None, 1).await?;
    must(listed[0].size == head.size && listed[0].etag == head.etag, || {
        format!("the list says {:?}, head says {head:?}", listed[0])
    })?;
    let none = room.bucket.list(&room.prefix, None, 0).await?;
    must(none.is_empty(), || "a limit of 0 lists something".into())?;
    Ok(Outcome::Passed)
}

pub async fn consistency(room: &Room) -> Result<Outcome> {
    for n in 0..20 {
        let name = format!("{n}");
        let key = room.key(&name);
        room.create(&key, b"x").await?;
        must(room.names("").await? == [name.clone()], || format!("round {n}: a new object is not listed"))?;
        room.bucket.delete(&key).await?;
        must(room.names("").await?.is_empty(), || format!("round {n}: a deleted object is listed"))?;
        must_fail(room.bucket.head(&key).await, ErrorKind::NotFound, "head after delete")?;
    }
    Ok(Outcome::Passed)
}

pub async fn nested(room: &Room) -> Result<Outcome> {
    for (first, second) in [("file", "file/below"), ("dir/below/deep", "dir/below"), ("dir2/below", "dir2")] {
        room.create(&room.key(first), b"first").await?;
        let result = room.create(&room.key(second), b"second").await;
        let read = room.bucket.get(&room.key(first), None).await?;
        must(&read[..] == b"first", || format!("{second} damaged {first}"))?;
        match result {
            Ok(_) => {
                let read = room.bucket.get(&room.key(second), None).await?;
                must(&read[..] == b"second", || format!("{first} damaged {second}"))?;
            }
            Err(e) if e.kind() == ErrorKind::Invalid => {
                must_fail(
                    room.bucket.get(&room.key(second), None).await,
                    ErrorKind::NotFound,
                    "what was refused",
                )?;
                room.bucket.delete(&room.key(second)).await?;
                room.bucket.delete(&room.key(first)).await?;
                room.create(&room.key(second), b"now free").await?;
            }
            // SeaweedFS takes its own directory for an object, and keeps it for a while.
            Err(e) if e.kind() == ErrorKind::Exists => {
                must_fail(
                    room.bucket.get(&room.key(second), None).await,
                    ErrorKind::NotFound,
                    "what was refused",
                )?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Outcome::Passed)
}
