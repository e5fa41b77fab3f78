//! How reservations with APTPL lie beside the blocks: version 1, then big-endian fields.

use std::sync::Arc;

use base::{Error, Result};
use bytes::Bytes;

use super::{Kind, MAX_REGISTRATIONS, Path, Registration, Reservation, Reservations};

const VERSION: u8 = 1;
/// Target port of a registration through all ports; a relative port identifier is never 0.
const ALL_PORTS: u16 = 0;

impl Reservations {
    /// Version, kind of reservation (0: none), index of its holder, number of registrations; for each: key, target
    /// port, length of the TransportID, TransportID.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        let kind = self.reservation.as_ref().map_or(0, |r| r.kind as u8);
        let holder = self.reservation.as_ref().map(|r| &r.holder);
        let index = self.registrations.iter().position(|r| Some(&r.path) == holder).unwrap_or(0);
        out.push(kind);
        out.extend((index as u16).to_be_bytes());
        out.extend((self.registrations.len() as u16).to_be_bytes());
        for registration in &self.registrations {
            let id = &registration.path.transport_id;
            out.extend(registration.key.to_be_bytes());
            out.extend(registration.path.target_port.unwrap_or(ALL_PORTS).to_be_bytes());
            out.extend((id.len() as u16).to_be_bytes());
            out.extend(id.iter());
        }
        out.into()
    }

    /// What was stored. PRGENERATION starts at 0 after a loss of power (SPC-5 §5.14.2).
    pub fn decode(bytes: &[u8]) -> Result<Reservations> {
        parse(bytes).ok_or_else(|| {
            Error::corrupt(format!(
                "the stored persistent reservations ({} bytes) cannot be read; remove that state to open the volume \
                 without them, after making sure that no cluster relies on them",
                bytes.len()
            ))
        })
    }
}

fn parse(bytes: &[u8]) -> Option<Reservations> {
    let mut rest = bytes;
    let [version, kind] = take(&mut rest)?;
    let holder = usize::from(u16::from_be_bytes(take(&mut rest)?));
    let count = usize::from(u16::from_be_bytes(take(&mut rest)?));
    if version != VERSION || count > MAX_REGISTRATIONS {
        return None;
    }
    let mut registrations = Vec::new();
    for _ in 0..count {
        let key = u64::from_be_bytes(take(&mut rest)?);
        let port = u16::from_be_bytes(take(&mut rest)?);
        let length = usize::from(u16::from_be_bytes(take(&mut rest)?));
        let id = rest.get(..length)?;
        rest = &rest[length..];
        let path = Path { transport_id: Arc::from(id), target_port: Some(port).filter(|p| *p != ALL_PORTS) };
        registrations.push(Registration { path, key });
    }
    let reservation = match kind {
        0 => None,
        code => {
            Some(Reservation { kind: Kind::decode(code)?, holder: registrations.get(holder)?.path.clone() })
        }
    };
    rest.is_empty().then_some(Reservations { generation: 0, aptpl: true, registrations, reservation })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}
