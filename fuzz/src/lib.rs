//! The fuzz targets as plain functions: cargo-fuzz runs them on what it makes up, the tests on the corpus.
//!
//! Checksums and digests are put right before a decoder sees its input: else no input would ever get past them, and what
//! lies behind, which a bug or an adversary with the key could reach, would never be tried.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{SeededEntropy, checksum};
use bytes::Bytes;
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::{Connection, Event, Limits, TargetConfig, TargetRegistry};
use scsi::medium::{Geometry, MemoryMedium};
use scsi::task::{Command, Nexus, TaskAttribute};

const TARGET: &str = "iqn.2026-11.org.tidegate:fuzz";
const BLOCKS: u64 = 4096;

/// Polls a future that nothing outside will wake.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        // Long commands pause now and then by waking themselves.
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

fn device() -> Arc<TargetDevice> {
    let medium = MemoryMedium::new(Geometry { block_size: 512, blocks: BLOCKS, physical_exponent: 3 });
    let identity = Identity {
        vendor: "TIDEGATE".to_owned(),
        product: "FUZZ".to_owned(),
        revision: "1".to_owned(),
        serial: "1".to_owned(),
        naa: *b"\x60fuzzfuzzfuzzfuz",
    };
    let unit = now(LogicalUnit::new(identity, Arc::new(medium))).expect("a medium in memory does not fail");
    let device = Arc::new(TargetDevice::new(TARGET));
    device.attach(0, unit);
    device
}

fn connection() -> Connection {
    let registry = TargetRegistry::new(Arc::new(SeededEntropy::new(1)), Limits::default());
    let name = TARGET.parse().expect("the name is a name");
    registry.add(TargetConfig::open(name, device())).expect("it is the first");
    let address = ([127, 0, 0, 1], 3260).into();
    Connection::new(registry, address, address, Duration::ZERO)
}

/// Does what a shell does with a connection, until nothing moves.
fn pump(connection: &mut Connection) {
    loop {
        connection.handle_notices();
        let mut moved = false;
        while let Some(event) = connection.poll_event() {
            moved = true;
            match event {
                Event::Execute(execution) => {
                    let (task, outcome) = now(execution.run());
                    connection.executed(task, outcome);
                }
                Event::Admit { task, bytes, medium } => connection.admitted(task, now(medium.admit(bytes))),
                Event::Abandon { .. } => {}
                Event::Function { number, device, nexus, lun, function } => {
                    now(device.task_function(&nexus, lun, function));
                    connection.function_done(number);
                }
            }
        }
        let pending = connection.output().pending();
        connection.sent(pending);
        if !moved && pending == 0 {
            return;
        }
    }
}

fn feed(connection: &mut Connection, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = connection.handle_input(Duration::ZERO, rest);
        pump(connection);
        if taken == 0 {
            return;
        }
        rest = &rest[taken..];
    }
}

fn login_request(text: &[u8]) -> Vec<u8> {
    let mut pdu = vec![0; 48];
    (pdu[0], pdu[1]) = (0x43, 0x87); // an immediate login request, from the operational to the full feature phase
    pdu[5..8].copy_from_slice(&(text.len() as u32).to_be_bytes()[1..]);
    pdu[8] = 0x80;
    pdu.extend_from_slice(text);
    pdu.resize(48 + text.len().next_multiple_of(4), 0);
    pdu
}

/// PDUs of a session that has logged in (RFC 7143 §11).
pub fn pdu(data: &[u8]) {
    let mut connection = connection();
    let text = format!("InitiatorName=iqn.2026-11.org.example:fuzz\0TargetName={TARGET}\0");
    feed(&mut connection, &login_request(text.as_bytes()));
    feed(&mut connection, data);
    if !connection.is_closing() {
        connection.handle_timeout(Duration::from_secs(3600));
        pump(&mut connection);
    }
}

/// The text of login requests (RFC 7143 §6), split over several where a byte 0xff stands.
pub fn login(data: &[u8]) {
    let mut connection = connection();
    for text in data.split(|b| *b == 0xff).take(16) {
        feed(&mut connection, &login_request(&text[..text.len().min(65536)]));
    }
}

/// Commands (SBC-4, SPC-5): a byte for the length of the CDB, the CDB, a byte for the length of its data, the data.
pub fn cdb(mut data: &[u8]) {
    let device = device();
    let nexus = Nexus { id: 1, transport_id: Arc::from(&b"fuzz"[..]), target_port: 1 };
    let mut take = |most: usize| {
        let (length, rest) = data.split_first()?;
        let (taken, rest) = rest.split_at(usize::from(*length).min(most).min(rest.len()));
        data = rest;
        Some(taken)
    };
    for _ in 0..32 {
        let Some(cdb) = take(32) else { return };
        let out = take(255).unwrap_or_default();
        let mut cdb = cdb.to_vec();
        cdb.resize(cdb.len().max(16), 0);
        let command = Command {
            cdb,
            data_out: vec![Bytes::copy_from_slice(out)],
            expected_out: out.len() as u32,
            expected_in: 65536,
            attribute: TaskAttribute::Simple,
            stop: None,
        };
        now(device.execute(&nexus, 0, command, None));
    }
}

/// Puts a body into the envelope of `docs/formats/image-log.md`.
fn sealed(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

/// Headers of segments.
pub fn segment_header(data: &[u8]) {
    drop(chain::fuzzing::Header::decode(data));
    if let Ok(header) = chain::fuzzing::Header::decode(&sealed(b"TGsegmt1", data)) {
        drop(format!("{header:?}"));
    }
}

/// Pages of the map.
pub fn map_page(data: &[u8]) {
    drop(chain::fuzzing::Page::decode(data));
    drop(chain::fuzzing::Page::decode(&sealed(b"TGpages2", data)));
}

/// Roots of checkpoints.
pub fn checkpoint(data: &[u8]) {
    drop(chain::fuzzing::Checkpoint::decode(data));
    drop(chain::fuzzing::Checkpoint::decode(&sealed(b"TGckptr2", data)));
}

/// Puts magic, version and checksum of `docs/formats/journal.md` into a block; the checksum covers all but itself.
fn checked(magic: &[u8; 8], crc_at: usize, bytes: &mut [u8]) {
    bytes[..8].copy_from_slice(magic);
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    bytes[crc_at..crc_at + 8].fill(0);
    let crc = checksum::crc64(bytes);
    bytes[crc_at..crc_at + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Headers of batches, with their tables of records.
pub fn journal_batch(data: &[u8]) {
    use local::journal::format::{BatchHeader, batch_header_len};
    drop(BatchHeader::decode(data));
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(4096), 0);
    let records = u32::from_le_bytes([bytes[68], bytes[69], 0, 0]) % 600;
    let length = batch_header_len(records as usize);
    bytes.resize(length as usize, 0);
    bytes[68..72].copy_from_slice(&records.to_le_bytes());
    bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
    checked(b"TGBATCH1", 80, &mut bytes);
    if let Ok(header) = BatchHeader::decode(&bytes) {
        let mut again = vec![0; length as usize];
        header.encode_into(&mut again);
        assert_eq!(BatchHeader::decode(&again).ok().as_ref(), Some(&header), "what was read can be written");
    }
}

/// Headers of journal files, the journal's identity, and the list of its starts.
pub fn journal_file(data: &[u8]) {
    use local::journal::format::{FILE_HEADER, FileHeader, Identity};
    use local::journal::starts::Starts;
    drop(FileHeader::decode(data));
    drop(Identity::decode(data));
    let mut bytes = data.to_vec();
    bytes.resize(FILE_HEADER as usize, 0);
    checked(b"TGJFILE1", 72, &mut bytes);
    if let Ok(header) = FileHeader::decode(&bytes) {
        assert_eq!(
            FileHeader::decode(&header.encode()).ok().as_ref(),
            Some(&header),
            "what was read can be written"
        );
    }
    checked(b"TGJIDENT", 40, &mut bytes[..4096]);
    drop(Identity::decode(&bytes));
    checked(b"TGJSTART", 40, &mut bytes);
    if let Ok(starts) = Starts::decode(&bytes) {
        assert_eq!(
            Starts::decode(&starts.encode(FILE_HEADER)).ok(),
            Some(starts),
            "what was read can be written"
        );
    }
}
