//! A bench: one disk in memory behind one target, two initiators.

mod basics;
mod blocks;
mod hostile;
mod persistent;
mod states;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base::BoxFuture;
use bytes::Bytes;

use super::{Identity, LogicalUnit, TargetDevice};
use crate::medium::{Geometry, MemoryMedium};
use crate::task::{Command, Nexus, Outcome, Status, TaskAttribute};

const NAME: &str = "iqn.2026-01.example:disk";

fn poll_once<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a future that waits for nothing but its turn.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        if let Poll::Ready(value) = poll_once(future.as_mut()) {
            return value;
        }
    }
    panic!("it waits although nothing holds it up");
}

struct Bench {
    medium: Arc<MemoryMedium>,
    unit: Arc<LogicalUnit>,
    target: TargetDevice,
    a: Nexus,
    b: Nexus,
}

fn nexus(id: u64, initiator: &str) -> Nexus {
    let text = format!("{initiator},i,0x8000000000{id:02x}");
    let mut transport_id = vec![0x45, 0, 0, 0];
    transport_id.extend(text.as_bytes());
    transport_id.push(0);
    transport_id.resize(transport_id.len().next_multiple_of(4), 0);
    transport_id[3] = (transport_id.len() - 4) as u8;
    Nexus { id, transport_id: transport_id.into(), target_port: 1 }
}

fn identity() -> Identity {
    Identity {
        vendor: "TIDEGATE".into(),
        product: "VOLUME".into(),
        revision: "0.1".into(),
        serial: "0123456789abcdef".into(),
        naa: *b"\x60\x25\x44\x70abcdefghijkl",
    }
}

fn medium(block_size: u32, blocks: u64) -> Arc<MemoryMedium> {
    Arc::new(MemoryMedium::new(Geometry { block_size, blocks, physical_exponent: 3 }))
}

impl Bench {
    fn new() -> Bench {
        Bench::on(medium(512, 1024))
    }

    /// Both initiators have been told POWER ON OCCURRED.
    fn on(medium: Arc<MemoryMedium>) -> Bench {
        let bench = Bench::fresh(medium);
        for nexus in [&bench.a, &bench.b] {
            assert_eq!(bench.sense(nexus, &[0, 0, 0, 0, 0, 0], &[]), (6, 0x2900));
        }
        bench
    }

    fn fresh(medium: Arc<MemoryMedium>) -> Bench {
        let unit = now(LogicalUnit::new(identity(), medium.clone())).unwrap();
        let target = TargetDevice::new(NAME);
        target.attach(0, unit.clone());
        let (a, b) = (nexus(1, "iqn.2026-01.example:a"), nexus(2, "iqn.2026-01.example:b"));
        target.nexus_opened(&a);
        target.nexus_opened(&b);
        Bench { medium, unit, target, a, b }
    }

    /// The same disk after a restart.
    fn restarted(self) -> Bench {
        Bench::on(self.medium)
    }

    fn begin<'a>(&'a self, nexus: &'a Nexus, cdb: &[u8], out: &[u8]) -> BoxFuture<'a, Outcome> {
        Box::pin(self.target.execute(nexus, 0, command(cdb, out), None))
    }

    fn run(&self, nexus: &Nexus, cdb: &[u8], out: &[u8]) -> Outcome {
        now(self.begin(nexus, cdb, out))
    }

    /// The data-in of a command that must succeed.
    fn good(&self, nexus: &Nexus, cdb: &[u8], out: &[u8]) -> Vec<u8> {
        let outcome = self.run(nexus, cdb, out);
        assert_eq!((outcome.status, &outcome.sense[..]), (Status::Good, &[][..]), "{cdb:02x?}");
        outcome.data_in.concat()
    }

    /// Sense key and code of a command that must end in CHECK CONDITION.
    fn sense(&self, nexus: &Nexus, cdb: &[u8], out: &[u8]) -> (u8, u16) {
        sense(&self.run(nexus, cdb, out))
    }

    fn status(&self, nexus: &Nexus, cdb: &[u8], out: &[u8]) -> Status {
        self.run(nexus, cdb, out).status
    }

    fn write(&self, lba: u32, data: &[u8]) {
        self.good(&self.a, &write10(lba, (data.len() / self.size()) as u16), data);
    }

    fn read(&self, lba: u32, blocks: u16) -> Vec<u8> {
        self.good(&self.a, &read10(lba, blocks), &[])
    }

    fn size(&self) -> usize {
        self.unit.medium().geometry().block_size as usize
    }
}

/// Data-out comes in odd pieces, as it does from a socket.
fn command(cdb: &[u8], out: &[u8]) -> Command {
    let mut padded = cdb.to_vec();
    padded.resize(cdb.len().max(16), 0);
    Command {
        cdb: padded,
        data_out: out.chunks(1000).map(Bytes::copy_from_slice).collect(),
        expected_out: out.len() as u32,
        expected_in: u32::MAX,
        attribute: TaskAttribute::Simple,
        stop: None,
    }
}

fn sense(outcome: &Outcome) -> (u8, u16) {
    assert_eq!(outcome.status, Status::CheckCondition, "{outcome:?}");
    assert!(outcome.data_in.is_empty());
    let s = &outcome.sense;
    match s[0] & 0x7f {
        0x70 => (s[2] & 0x0f, u16::from_be_bytes([s[12], s[13]])),
        0x72 => (s[1] & 0x0f, u16::from_be_bytes([s[2], s[3]])),
        other => panic!("sense of format {other:02x}"),
    }
}

/// INFORMATION of fixed format sense data.
fn information(outcome: &Outcome) -> u32 {
    assert_eq!(outcome.sense[0], 0xf0, "no valid information");
    u32::from_be_bytes(outcome.sense[3..7].try_into().unwrap())
}

fn ten(opcode: u8, flags: u8, lba: u32, length: u16) -> [u8; 10] {
    let (l, n) = (lba.to_be_bytes(), length.to_be_bytes());
    [opcode, flags, l[0], l[1], l[2], l[3], 0, n[0], n[1], 0]
}

fn sixteen(opcode: u8, flags: u8, lba: u64, length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&length.to_be_bytes());
    cdb
}

fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    ten(0x28, 0, lba, blocks)
}

fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    ten(0x2a, 0, lba, blocks)
}

fn compare_and_write(lba: u64, blocks: u8) -> [u8; 16] {
    sixteen(0x89, 0, lba, u32::from(blocks))
}

const TEST_UNIT_READY: [u8; 6] = [0; 6];
