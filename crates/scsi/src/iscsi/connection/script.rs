//! A scripted initiator and a world for it: both ends in memory.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{Result, SeededEntropy, checksum};

use crate::device::{Identity, LogicalUnit, TargetDevice};
use crate::iscsi::pdu::{HEADER, Header, NO_TAG, opcode};
use crate::iscsi::{Connection, Event, IscsiName, Limits, TargetConfig, TargetRegistry, TaskId};
use crate::medium::{Admission, Geometry, MemoryMedium};
use crate::task::Outcome;

pub const TARGET: &str = "iqn.2026-01.org.tidegate:disk";
pub const INITIATOR: &str = "iqn.2026-01.org.example:host";

/// Polls a future that nothing outside will wake.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future has to wait"),
    }
}

/// A target with one disk of 64 MiB in memory.
pub struct World {
    pub registry: Arc<TargetRegistry>,
    pub medium: Arc<MemoryMedium>,
    pub config: TargetConfig,
    connections: Cell<u8>,
}

impl World {
    pub fn new() -> World {
        World::with(Limits::default())
    }

    pub fn with(limits: Limits) -> World {
        let medium =
            Arc::new(MemoryMedium::new(Geometry { block_size: 512, blocks: 131_072, physical_exponent: 3 }));
        let identity = Identity {
            vendor: "TIDEGATE".to_owned(),
            product: "DISK".to_owned(),
            revision: "1".to_owned(),
            serial: "1".to_owned(),
            naa: *b"\x60123456789abcdef",
        };
        let unit = now(LogicalUnit::new(identity, medium.clone())).unwrap();
        let device = Arc::new(TargetDevice::new(TARGET));
        device.attach(0, unit);
        let registry = TargetRegistry::new(Arc::new(SeededEntropy::new(1)), limits);
        let config = TargetConfig::open(TARGET.parse::<IscsiName>().unwrap(), device);
        registry.add(config.clone()).unwrap();
        World { registry, medium, config, connections: Cell::new(0) }
    }

    /// A connection that has not logged in, with an ISID of its own.
    pub fn connect(&self) -> Initiator {
        self.connect_from("192.0.2.7:50000")
    }

    /// The same, from another address.
    pub fn connect_from(&self, peer: &str) -> Initiator {
        self.connections.set(self.connections.get() + 1);
        let peer: SocketAddr = peer.parse().unwrap();
        let local: SocketAddr = "192.0.2.1:3260".parse().unwrap();
        Initiator {
            connection: Connection::new(self.registry.clone(), peer, local, Duration::ZERO),
            time: Duration::ZERO,
            isid: [0x80, 0, 0, 0, 0, self.connections.get()],
            cmd_sn: 10,
            deaf: false,
            header_digest: false,
            data_digest: false,
            running: Vec::new(),
            admissions: Vec::new(),
            functions: Vec::new(),
            abandoned: Vec::new(),
            received: Vec::new(),
        }
    }

    /// One that has, and whose unit attention is cleared.
    pub fn login(&self, keys: &[(&str, &str)]) -> Initiator {
        let mut initiator = self.connect();
        initiator.login(keys);
        initiator.settle();
        initiator
    }
}

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub struct Initiator {
    pub connection: Connection,
    pub time: Duration,
    pub isid: [u8; 6],
    pub cmd_sn: u32,
    /// Takes no answers for now; it listens again when nothing more is taken from it.
    pub deaf: bool,
    pub header_digest: bool,
    pub data_digest: bool,
    running: Vec<Work<(TaskId, Outcome)>>,
    admissions: Vec<(TaskId, Work<Result<Admission>>)>,
    functions: Vec<Work<u64>>,
    pub abandoned: Vec<TaskId>,
    received: Vec<u8>,
}

/// A PDU from the target.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn text(&self) -> String {
        String::from_utf8(self.data.clone()).unwrap().replace('\0', "\n")
    }

    /// Status-Class and Status-Detail of a login response.
    pub fn login_status(&self) -> u32 {
        assert_eq!(self.header.opcode(), opcode::LOGIN_RESPONSE);
        self.header.word(36) >> 16
    }

    pub fn scsi_status(&self) -> u8 {
        assert!(matches!(self.header.opcode(), opcode::SCSI_RESPONSE | opcode::DATA_IN), "{self:?}");
        self.header.0[3]
    }

    /// Sense key, additional code and qualifier.
    pub fn sense(&self) -> (u8, u8, u8) {
        let sense = &self.data[2..];
        (sense[2] & 15, sense[12], sense[13])
    }
}

pub fn cdb10(operation: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = operation;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

impl Initiator {
    /// Encodes and sends one PDU; `sabotage` may spoil the bytes.
    pub fn send_spoiled(&mut self, mut header: Header, data: &[u8], sabotage: impl Fn(&mut Vec<u8>)) {
        header.set_data_len(data.len());
        let mut bytes = header.0.to_vec();
        if self.header_digest {
            bytes.extend_from_slice(&checksum::crc32c(&header.0).to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(data);
        bytes.resize(start + data.len().next_multiple_of(4), 0);
        if self.data_digest && !data.is_empty() {
            let digest = checksum::crc32c(&bytes[start..]).to_le_bytes();
            bytes.extend_from_slice(&digest);
        }
        sabotage(&mut bytes);
        self.send_bytes(&bytes);
    }

    /// Sends bytes, as far as they are taken.
    pub fn send_bytes(&mut self, mut bytes: &[u8]) {
        loop {
            let taken = self.connection.handle_input(self.time, bytes);
            bytes = &bytes[taken..];
            self.deaf &= taken > 0 || bytes.is_empty();
            let heard = self.pump();
            if bytes.is_empty() || taken == 0 && !heard {
                return;
            }
        }
    }

    pub fn send(&mut self, header: Header, data: &[u8]) {
        self.send_spoiled(header, data, |_| ());
    }

    /// Does what a shell does, until nothing moves; says whether anything was heard.
    pub fn pump(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let before = self.received.len();
        loop {
            let mut moved = false;
            self.connection.handle_notices();
            while let Some(event) = self.connection.poll_event() {
                moved = true;
                match event {
                    Event::Execute(execution) => self.running.push(Box::pin(execution.run())),
                    Event::Admit { task, bytes, medium } => {
                        self.admissions.push((task, Box::pin(async move { medium.admit(bytes).await })));
                    }
                    Event::Abandon { task } => {
                        self.admissions.retain(|(other, _)| *other != task);
                        self.abandoned.push(task);
                    }
                    Event::Function { number, device, nexus, lun, function } => {
                        self.functions.push(Box::pin(async move {
                            device.task_function(&nexus, lun, function).await;
                            number
                        }));
                    }
                }
            }
            let connection = &mut self.connection;
            self.running.retain_mut(|work| match work.as_mut().poll(cx) {
                Poll::Ready((task, outcome)) => {
                    connection.executed(task, outcome);
                    moved = true;
                    false
                }
                Poll::Pending => true,
            });
            self.admissions.retain_mut(|(task, work)| match work.as_mut().poll(cx) {
                Poll::Ready(answer) => {
                    connection.admitted(*task, answer);
                    moved = true;
                    false
                }
                Poll::Pending => true,
            });
            self.functions.retain_mut(|work| match work.as_mut().poll(cx) {
                Poll::Ready(number) => {
                    connection.function_done(number);
                    moved = true;
                    false
                }
                Poll::Pending => true,
            });
            let pending = self.connection.output().pending();
            if pending > 0 && !self.deaf {
                let mut slices = [std::io::IoSlice::new(&[]); 16];
                let used = self.connection.output().slices(&mut slices);
                let bytes: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
                self.connection.sent(bytes.len());
                self.received.extend_from_slice(&bytes);
                moved = true;
            }
            if !moved {
                return self.received.len() > before;
            }
        }
    }

    /// Answers an admission that waits, in the medium's place.
    pub fn answer_admission(&mut self, answer: Result<Admission>) {
        let (task, _) = self.admissions.remove(0);
        self.connection.admitted(task, answer);
        self.pump();
    }

    pub fn waiting_admissions(&self) -> usize {
        self.admissions.len()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// All PDUs that have come.
    pub fn receive(&mut self) -> Vec<Pdu> {
        self.pump();
        let mut pdus = Vec::new();
        while self.received.len() >= HEADER {
            let header = Header(self.received[..HEADER].try_into().unwrap());
            let digest = |on: bool| if on { 4 } else { 0 };
            let start = HEADER + digest(self.header_digest);
            let padded = header.data_len().next_multiple_of(4);
            let end = start + padded + digest(self.data_digest && padded > 0);
            assert!(self.received.len() >= end, "half a PDU");
            let data = self.received[start..start + header.data_len()].to_vec();
            if self.header_digest {
                assert_eq!(self.received[HEADER..start], checksum::crc32c(&header.0).to_le_bytes());
            }
            if self.data_digest && padded > 0 {
                let digest = checksum::crc32c(&self.received[start..start + padded]).to_le_bytes();
                assert_eq!(self.received[start + padded..end], digest);
            }
            self.received.drain(..end);
            pdus.push(Pdu { header, data });
        }
        assert!(self.received.is_empty(), "half a header");
        pdus
    }

    /// The one PDU that has come.
    pub fn one(&mut self) -> Pdu {
        let mut pdus = self.receive();
        assert_eq!(pdus.len(), 1, "{pdus:?}");
        pdus.remove(0)
    }

    pub fn login_request(&mut self, flags: u8, text: &[u8]) {
        let mut header = Header::new(opcode::LOGIN | 0x40, flags);
        header.0[8..14].copy_from_slice(&self.isid);
        header.set_word(16, 0x77);
        header.set_word(24, self.cmd_sn);
        self.send(header, text);
    }

    /// Sends a login request and returns the response.
    pub fn login_step(&mut self, flags: u8, keys: &[(&str, &str)]) -> Pdu {
        let text: String = keys.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
        self.login_request(flags, text.as_bytes());
        self.one()
    }

    /// Logs in without authentication, by one request in the operational stage.
    pub fn login(&mut self, keys: &[(&str, &str)]) -> Pdu {
        let mut all = vec![("InitiatorName", INITIATOR), ("TargetName", TARGET)];
        all.extend_from_slice(keys);
        let response = self.login_step(0x87, &all);
        assert_eq!(response.login_status(), 0);
        self.header_digest = keys.contains(&("HeaderDigest", "CRC32C"));
        self.data_digest = keys.contains(&("DataDigest", "CRC32C"));
        response
    }

    /// Clears unit attentions.
    pub fn settle(&mut self) {
        for _ in 0..5 {
            self.command(0x80, 1, 0, [0; 16], &[]);
            if self.one().scsi_status() == 0 {
                return;
            }
        }
        panic!("the unit attentions never end");
    }

    /// Sends a SCSI command with immediate data.
    pub fn command(&mut self, flags: u8, itt: u32, expected: u32, cdb: [u8; 16], data: &[u8]) {
        let sn = self.cmd_sn;
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.command_numbered(sn, flags, itt, expected, cdb, data);
    }

    pub fn command_numbered(
        &mut self,
        sn: u32,
        flags: u8,
        itt: u32,
        expected: u32,
        cdb: [u8; 16],
        data: &[u8],
    ) {
        let mut header = Header::new(opcode::SCSI_COMMAND, flags);
        header.set_word(16, itt);
        header.set_word(20, expected);
        header.set_word(24, sn);
        header.0[32..48].copy_from_slice(&cdb);
        self.send(header, data);
    }

    pub fn read(&mut self, itt: u32, lba: u32, blocks: u16) {
        self.command(0xc0, itt, u32::from(blocks) * 512, cdb10(0x28, lba, blocks), &[]);
    }

    /// A write whose data, if it is not immediate, is to be solicited.
    pub fn write(&mut self, itt: u32, lba: u32, blocks: u16, immediate: &[u8]) {
        self.command(0xa0, itt, u32::from(blocks) * 512, cdb10(0x2a, lba, blocks), immediate);
    }

    pub fn data_out(&mut self, itt: u32, ttt: u32, last: bool, data_sn: u32, offset: u32, data: &[u8]) {
        let mut header = Header::new(opcode::DATA_OUT, if last { 0x80 } else { 0 });
        header.set_word(16, itt);
        header.set_word(20, ttt);
        header.set_word(36, data_sn);
        header.set_word(40, offset);
        self.send(header, data);
    }

    /// An immediate task management function.
    pub fn function(&mut self, code: u8, itt: u32, referenced: u32, ref_cmd_sn: u32) {
        let mut header = Header::new(opcode::TASK_MANAGEMENT | 0x40, 0x80 | code);
        header.set_word(16, itt);
        header.set_word(20, referenced);
        header.set_word(24, self.cmd_sn);
        header.set_word(32, ref_cmd_sn);
        self.send(header, &[]);
    }

    pub fn ping(&mut self, itt: u32, data: &[u8]) {
        let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
        header.set_word(16, itt);
        header.set_word(20, NO_TAG);
        header.set_word(24, self.cmd_sn);
        self.send(header, data);
    }

    pub fn text(&mut self, itt: u32, ttt: u32, text: &[u8]) {
        let mut header = Header::new(opcode::TEXT | 0x40, 0x80);
        header.set_word(16, itt);
        header.set_word(20, ttt);
        header.set_word(24, self.cmd_sn);
        self.send(header, text);
    }

    pub fn logout(&mut self, itt: u32) {
        let mut header = Header::new(opcode::LOGOUT | 0x40, 0x80);
        header.set_word(16, itt);
        header.set_word(24, self.cmd_sn);
        self.send(header, &[]);
    }

    pub fn pass(&mut self, seconds: u64) {
        self.time += Duration::from_secs(seconds);
        self.connection.handle_timeout(self.time);
        self.pump();
    }
}

impl Initiator {
    /// Answers an R2T with one Data-Out after another of at most 256 KiB, from `data`, the whole command's.
    pub fn write_burst(&mut self, r2t: &Pdu, data: &[u8]) {
        assert_eq!(r2t.header.opcode(), opcode::R2T);
        let (start, len) = (r2t.header.word(40) as usize, r2t.header.word(44) as usize);
        let pieces: Vec<_> = data[start..start + len].chunks(262_144).collect();
        let mut at = start;
        for (sn, piece) in pieces.iter().enumerate() {
            self.data_out(
                r2t.header.itt(),
                r2t.header.ttt(),
                sn + 1 == pieces.len(),
                sn as u32,
                at as u32,
                piece,
            );
            at += piece.len();
        }
    }
}
