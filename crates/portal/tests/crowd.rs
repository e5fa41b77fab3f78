//! 1,024 sessions that all write and read back at once, on a volume with a real disk and a bucket behind it (acceptance line A7;
//! requirements X06, B12): every byte is right, memory stays bounded, and the slowest answers are printed.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{ByteSize, GatewayId, ImageId, SeededEntropy, Spawn};
use bucket::Memory;
use image::{DirtyMemory, Env, Event, Events, Image, OpenRequest, Options};
use local::{
    Cache, CacheOptions, Journal, JournalOptions, OsDisk, OsEntropy, Spool, SystemClock, TokioSpawn,
};
use portal::{Portal, Volume};
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::pdu::{HEADER, Header, opcode};
use scsi::iscsi::{Limits, TargetConfig, TargetRegistry};

const TARGET: &str = "iqn.2026-01.org.tidegate:crowd";
const SESSIONS: usize = 1024;
const CLIENTS: usize = 8;
const ROUNDS: u32 = 6;
/// Blocks of 512 bytes in one command, and blocks that each session has for itself.
const BLOCKS: u16 = 8;
const OWN: u32 = 64;
/// What all these sessions and their data may add to the process, clients included.
const MOST_MEMORY: u64 = 256 << 20;

struct Silent;

impl Events for Silent {
    fn event(&self, event: Event) {
        eprintln!("{:?}: {}", event.severity, event.text);
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn volume(path: &std::path::Path, spawn: Arc<dyn Spawn>) -> Image {
    let store = Arc::new(Memory::new());
    let id = ImageId([0x33; 16]);
    image::create(&*store, 0, id, "crowd", ByteSize::mib(64), 512).await.unwrap();
    let disk = OsDisk::open(path).unwrap();
    let options = JournalOptions { capacity: 64 << 20, file_size: 8 << 20, ..JournalOptions::default() };
    let (journal, _) =
        Journal::open(disk.clone(), options, spawn.clone(), Arc::new(OsEntropy)).await.unwrap();
    let cache = CacheOptions { capacity: 64 << 20, ..CacheOptions::default() };
    let env = Env {
        clock: Arc::new(SystemClock),
        bucket: store,
        journal,
        spool: Arc::new(Spool::open(disk.clone()).await.unwrap()),
        cache: Cache::open(disk, cache, spawn.clone()).await.unwrap(),
        spawn,
        memory: DirtyMemory::new(ByteSize::mib(16)),
        gateway: GatewayId([1; 16]),
        gateway_name: "crowd".into(),
        events: Arc::new(Silent),
        options: Options { segment: ByteSize::mib(4), ..Options::default() },
    };
    Image::open(env, OpenRequest { image: id, recovered: vec![], accept_loss: None }).await.unwrap()
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

struct Session {
    socket: TcpStream,
    number: u32,
    sn: u32,
    sent: Instant,
}

impl Session {
    fn login(address: SocketAddr, number: u32) -> Session {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut session = Session { socket, number, sn: 1, sent: now() };
        let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
        header.0[8] = 0x80;
        header.0[12..14].copy_from_slice(&(number as u16).to_be_bytes());
        header.set_word(16, 1);
        header.set_word(24, 1);
        let keys = format!("InitiatorName=iqn.2026-01.org.example:crowd\0TargetName={TARGET}\0");
        session.send(header, keys.as_bytes());
        let (answer, _) = session.receive();
        assert_eq!((answer.opcode(), answer.word(36) >> 16), (opcode::LOGIN_RESPONSE, 0));
        // The first command of a session meets the unit attention.
        session.command(0x00, 0x80, 0, &[]);
        session.receive();
        session
    }

    fn send(&mut self, mut header: Header, data: &[u8]) {
        header.set_data_len(data.len());
        let mut bytes = [&header.0[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.socket.write_all(&bytes).unwrap();
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        let mut header = Header([0; HEADER]);
        self.socket.read_exact(&mut header.0).unwrap();
        let mut data = vec![0; header.data_len().next_multiple_of(4)];
        self.socket.read_exact(&mut data).unwrap();
        data.truncate(header.data_len());
        (header, data)
    }

    fn command(&mut self, operation: u8, flags: u8, lba: u32, data: &[u8]) {
        let mut header = Header::new(opcode::SCSI_COMMAND, flags);
        header.set_word(16, self.sn);
        header.set_word(20, if operation == 0 { 0 } else { u32::from(BLOCKS) * 512 });
        header.set_word(24, self.sn);
        header.0[32] = operation;
        if operation != 0 {
            header.0[34..38].copy_from_slice(&lba.to_be_bytes());
            header.0[39..41].copy_from_slice(&BLOCKS.to_be_bytes());
        }
        self.sn += 1;
        self.sent = now();
        self.send(header, data);
    }

    fn lba(&self, round: u32) -> u32 {
        self.number * OWN + round * u32::from(BLOCKS) % OWN
    }

    fn data(&self, round: u32) -> Vec<u8> {
        let mut state = u64::from(self.number) << 32 | u64::from(round) << 8 | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..usize::from(BLOCKS) * 512).map(|_| next()).collect()
    }
}

#[allow(clippy::disallowed_methods)] // a load generator measures real time
fn now() -> Instant {
    Instant::now()
}

/// A client's sessions, all with a command outstanding at once; the times of all answers.
fn client(address: SocketAddr, numbers: std::ops::Range<u32>, ready: &std::sync::Barrier) -> Vec<Duration> {
    let mut sessions: Vec<Session> = numbers.map(|number| Session::login(address, number)).collect();
    let mut times = Vec::new();
    ready.wait();
    for round in 0..ROUNDS {
        for session in &mut sessions {
            let (lba, data) = (session.lba(round), session.data(round));
            session.command(0x2a, 0xa0, lba, &data);
        }
        for session in &mut sessions {
            let (answer, _) = session.receive();
            assert_eq!(
                (answer.opcode(), answer.0[3]),
                (opcode::SCSI_RESPONSE, 0),
                "write {}",
                session.number
            );
            times.push(session.sent.elapsed());
        }
        for session in &mut sessions {
            let lba = session.lba(round);
            session.command(0x28, 0xc0, lba, &[]);
        }
        for session in &mut sessions {
            let (answer, data) = session.receive();
            assert_eq!((answer.opcode(), answer.0[3]), (opcode::DATA_IN, 0), "read {}", session.number);
            assert!(data == session.data(round), "session {} read other bytes", session.number);
            times.push(session.sent.elapsed());
        }
    }
    ready.wait();
    times
}

#[test]
fn a_thousand_sessions_at_once() {
    let scratch = Scratch(std::env::temp_dir().join(format!("tidegate-crowd-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _within = runtime.enter();
    let spawn = Arc::new(TokioSpawn::new(runtime.handle().clone()));
    let image = runtime.block_on(volume(&scratch.0, spawn.clone()));
    let registry = TargetRegistry::new(
        Arc::new(SeededEntropy::new(3)),
        Limits { sessions: SESSIONS, ..Limits::default() },
    );
    let device = Arc::new(TargetDevice::new(TARGET));
    let medium = Arc::new(Volume::new(image.clone()));
    let unit = LogicalUnit::new(Identity::of_image(image.id(), "1"), medium);
    device.attach(0, runtime.block_on(unit).unwrap());
    registry.add(TargetConfig::open(TARGET.parse().unwrap(), device)).unwrap();
    let portal = Portal::start(
        &["127.0.0.1:0".parse().unwrap()],
        registry.clone(),
        portal::Options::default(),
        &*spawn,
    )
    .unwrap();
    let address = portal.addresses()[0];
    let before = resident();

    let ready = std::sync::Barrier::new(CLIENTS + 1);
    let share = (SESSIONS / CLIENTS) as u32;
    let (mut times, after) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u32)
            .map(|i| (i, &ready))
            .map(|(i, ready)| scope.spawn(move || client(address, i * share..(i + 1) * share, ready)))
            .collect();
        ready.wait();
        assert_eq!(registry.sessions().len(), SESSIONS, "all are there at once");
        ready.wait();
        let after = resident();
        let times: Vec<Duration> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        (times, after)
    });
    times.sort_unstable();
    let grown = after.saturating_sub(before);
    println!(
        "{SESSIONS} sessions, {} commands: median {:?}, p99 {:?}, longest {:?}; memory grew by {} MiB",
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
        grown >> 20
    );
    assert_eq!(times.len(), SESSIONS * ROUNDS as usize * 2);
    assert!(grown < MOST_MEMORY, "{} MiB for {SESSIONS} sessions", grown >> 20);
    runtime.block_on(image.drain()).unwrap();
    runtime.block_on(portal.stop(Duration::from_secs(1)));
}
