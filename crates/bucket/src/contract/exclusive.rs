//! Create-only: what every guarantee of the product stands on.

use base::{ErrorKind, Result};
use futures_util::future::join_all;

use super::{Outcome, Room, must, must_fail};

pub async fn taken(room: &Room) -> Result<Outcome> {
    let key = room.key("taken");
    room.create(&key, b"mine").await?;
    // Never the same bytes: over an unreliable network those cannot be told from one's own.
    for body in [&b"your"[..], b"yours, longer", b""] {
        must_fail(room.create(&key, body).await, ErrorKind::Exists, "create of a taken name")?;
    }
    must(&room.bucket.get(&key, None).await?[..] == b"mine", || {
        "a refused create changed the object".into()
    })?;
    room.put(&key, b"put").await?;
    must_fail(room.create(&key, b"yours").await, ErrorKind::Exists, "create of a name taken by put")?;
    Ok(Outcome::Passed)
}

pub async fn race(room: &Room) -> Result<Outcome> {
    for round in 0..2 {
        let key = room.key(&format!("race-{round}"));
        let bodies: Vec<_> = (0..16).map(|n| format!("racer {n:02} of round {round}")).collect();
        let results = join_all(bodies.iter().map(|body| room.create(&key, body.as_bytes()))).await;
        let mut winners = Vec::new();
        for (body, result) in bodies.iter().zip(results) {
            match result {
                Ok(_) => winners.push(body),
                Err(e) if e.kind() == ErrorKind::Exists => {}
                Err(e) => return Err(e),
            }
        }
        must(winners.len() == 1, || {
            format!("{} of 16 were told that they created the object", winners.len())
        })?;
        let read = room.bucket.get(&key, None).await?;
        must(read == winners[0].as_bytes(), || format!("{:?} won, but {read:?} is stored", winners[0]))?;
    }
    Ok(Outcome::Passed)
}

pub async fn large(room: &Room) -> Result<Outcome> {
    let (key, bytes) = (room.key("large"), room.bytes(room.scope.large));
    room.create(&key, &bytes).await?;
    let other = room.bytes(room.scope.large - 1);
    must_fail(room.create(&key, &other).await, ErrorKind::Exists, "a second create of a large body")?;
    must(room.bucket.get(&key, None).await? == bytes, || "the bytes came back changed".into())?;
    Ok(Outcome::Passed)
}

pub async fn again(room: &Room) -> Result<Outcome> {
    let key = room.key("again");
    for body in ["one", "two", "three"] {
        room.create(&key, body.as_bytes()).await?;
        must(room.bucket.get(&key, None).await? == body.as_bytes(), || format!("{body} was not stored"))?;
        room.bucket.delete(&key).await?;
    }
    Ok(Outcome::Passed)
}
