//! 1,024 sessions that all write and read back at once, several commands each, on a volume with a real disk and a bucket behind it
//! (acceptance line A7; requirements X06, B12): every byte is right, memory stays within what the limits say, though the
//! sessions ask for twice as much, and the slowest answers are printed.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use base::{ByteSize, GatewayId, ImageId, SeededEntropy, Spawn};
use bucket::Directory;
use futures_util::future::join_all;
use image::{DirtyMemory, Env, Event, Events, Image, OpenRequest, Options};
use local::{
    Cache, CacheOptions, Journal, JournalOptions, OsDisk, OsEntropy, Spool, SystemClock, TokioSpawn,
};
use portal::{Portal, Volume};
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::pdu::{HEADER, Header, opcode};
use scsi::iscsi::{Limits, TargetConfig, TargetRegistry};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

const TARGET: &str = "iqn.2026-01.org.tidegate:crowd";
const SESSIONS: usize = 1024;
const CLIENTS: usize = 4;
/// What a session writes with one command, and how many of these it has outstanding; it reads each twice.
const SIZES: [usize; 4] = [8 << 10, 64 << 10, 128 << 10, 256 << 10];
const DEPTH: usize = 4;
const READS: usize = 2 * DEPTH;
/// Bytes that each session has for itself.
const OWN: usize = DEPTH * (256 << 10);

/// No command may be refused for ever.
const ENOUGH: Duration = Duration::from_secs(180);

const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;

const SEGMENT: u32 = 32 << 10;
const DIRTY: u64 = 16 << 20;
const JOURNAL_QUEUE: u64 = 32 << 20;
const KEPT: usize = 32 << 20;
const UPLOAD: u64 = 4 << 20;
const PUTS: usize = 2;

/// So that 1,024 sessions want more than they may have. What is left out is as in a gateway.
fn limits() -> Limits {
    Limits {
        sessions: SESSIONS,
        data_segment: SEGMENT,
        first_burst: SEGMENT,
        own_bytes: 32 << 10,
        common_bytes: 64 << 20,
        // These clients know no pings.
        idle_time: 2 * ENOUGH,
        ..Limits::default()
    }
}

/// What all of this may add to the process: what sessions may hold, what the volume may hold behind them, and for each session
/// the bytes that are read at once and 32 KiB of both sides' state.
fn most_memory() -> u64 {
    let limits = limits();
    let sessions = limits.common_bytes + SESSIONS * (2 * limits.own_bytes + (64 << 10) + (32 << 10));
    // A segment is collected, packed and put; records are in memory while they are dirty and while they are queued.
    let volume = DIRTY + JOURNAL_QUEUE + KEPT as u64 + (PUTS as u64 + 2) * 2 * UPLOAD;
    sessions as u64 + volume
}

/// What the sessions want to be held for them at once, if they were let.
fn wanted() -> u64 {
    (SESSIONS / SIZES.len() * READS * SIZES.iter().sum::<usize>()) as u64
}

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
    let store = Arc::new(Directory::make(path.join("bucket")).unwrap());
    let id = ImageId([0x33; 16]);
    let size = ByteSize((SESSIONS * OWN) as u64);
    image::create(&*store, 0, id, "crowd", size, 512).await.unwrap();
    let disk = OsDisk::open(path.join("disk")).unwrap();
    let options = JournalOptions {
        capacity: 2 << 30,
        max_reserved: JOURNAL_QUEUE,
        ahead: 64 << 20,
        ..JournalOptions::default()
    };
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
        memory: DirtyMemory::new(ByteSize(DIRTY)),
        gateway: GatewayId([1; 16]),
        gateway_name: "crowd".into(),
        events: Arc::new(Silent),
        options: Options {
            segment: ByteSize(UPLOAD),
            puts: PUTS,
            // A slow disk is no error here.
            admit_within: Duration::from_secs(300),
            ..Options::default()
        },
    };
    Image::open(env, OpenRequest { image: id, recovered: vec![], accept_loss: None }).await.unwrap()
}

/// A line of what the kernel says of this process, in bytes.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The bytes of a session at a multiple of 8 from the beginning of its own.
fn fill(session: u32, at: usize, into: &mut [u8]) {
    for (n, word) in into.chunks_exact_mut(8).enumerate() {
        let place = u64::from(session) << 32 | (at / 8 + n) as u64;
        let mixed = (place ^ place >> 7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&(mixed ^ mixed >> 29).to_le_bytes());
    }
}

struct Session {
    socket: TcpStream,
    number: u32,
    size: usize,
    next: u32,
    last: u32,
    /// When each was sent first.
    begun: Vec<Option<Instant>>,
    refused: usize,
    times: Vec<Duration>,
}

impl Session {
    async fn login(address: SocketAddr, number: u32) -> Session {
        let socket = TcpSocket::new_v4().unwrap();
        // What waits shall wait in the process, not in the kernel.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let socket = socket.connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let size = SIZES[number as usize % SIZES.len()];
        let mut session = Session {
            socket,
            number,
            size,
            next: 1,
            last: 1,
            begun: vec![None; READS],
            refused: 0,
            times: Vec::new(),
        };
        let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
        header.0[8] = 0x80;
        header.0[12..14].copy_from_slice(&(number as u16).to_be_bytes());
        header.set_word(16, 1);
        header.set_word(24, 1);
        let keys = format!(
            "InitiatorName=iqn.2026-01.org.example:crowd\0TargetName={TARGET}\0\
             MaxRecvDataSegmentLength={SEGMENT}\0FirstBurstLength={SEGMENT}\0MaxBurstLength=262144\0"
        );
        let mut text = keys.into_bytes();
        header.set_data_len(text.len());
        text.resize(text.len().next_multiple_of(4), 0);
        session.write_all(&header.0).await;
        session.write_all(&text).await;
        let answer = session.header().await;
        assert_eq!((answer.opcode(), answer.word(36) >> 16), (opcode::LOGIN_RESPONSE, 0));
        session.skip(answer.data_len()).await;
        // The first command of a session meets the unit attention.
        session.command(0, &[0; 16], 0x80, 0, 0).await;
        let answer = session.header().await;
        session.skip(answer.data_len()).await;
        session.times.clear();
        session
    }

    async fn write_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.socket.writable().await.unwrap();
            match self.socket.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    async fn read_exact(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            self.socket.readable().await.unwrap();
            match self.socket.try_read(bytes) {
                Ok(0) => panic!("session {} was closed", self.number),
                Ok(n) => bytes = &mut bytes[n..],
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    /// The next PDU's header, and what it says of the command window.
    async fn header(&mut self) -> Header {
        let mut header = Header([0; HEADER]);
        self.read_exact(&mut header.0).await;
        if header.opcode() != opcode::LOGIN_RESPONSE {
            self.last = header.word(32);
        }
        header
    }

    async fn skip(&mut self, len: usize) {
        let mut rest = vec![0; len.next_multiple_of(4)];
        self.read_exact(&mut rest).await;
    }

    /// Sends a command with so much immediate data of the session's bytes from `at` on.
    async fn command(&mut self, tag: u32, cdb: &[u8; 16], flags: u8, at: usize, immediate: usize) {
        let mut header = Header::new(opcode::SCSI_COMMAND, flags);
        header.set_word(16, tag);
        header.set_word(20, if flags == 0x80 { 0 } else { self.size as u32 });
        header.set_word(24, self.next);
        header.0[32..48].copy_from_slice(cdb);
        header.set_data_len(immediate);
        self.next += 1;
        self.begun[tag as usize].get_or_insert_with(Instant::now);
        self.write_all(&header.0).await;
        self.send_own(at, immediate).await;
    }

    async fn send_own(&mut self, at: usize, len: usize) {
        let mut piece = [0; 4096];
        for from in (at..at + len).step_by(piece.len()) {
            fill(self.number, from, &mut piece);
            self.write_all(&piece).await;
        }
    }

    async fn answer(&mut self, r2t: Header) {
        let (start, len) = (r2t.word(40) as usize, r2t.word(44) as usize);
        let at = r2t.itt() as usize * self.size;
        for (sn, from) in (start..start + len).step_by(SEGMENT as usize).enumerate() {
            let now = (start + len - from).min(SEGMENT as usize);
            let mut header = Header::new(opcode::DATA_OUT, if from + now == start + len { 0x80 } else { 0 });
            header.set_word(16, r2t.itt());
            header.set_word(20, r2t.ttt());
            header.set_word(36, sn as u32);
            header.set_word(40, from as u32);
            header.set_data_len(now);
            self.write_all(&header.0).await;
            self.send_own(at + from, now).await;
        }
    }

    async fn verify(&mut self, data_in: Header) {
        let tag = data_in.itt() as usize % DEPTH;
        let (at, len) = (tag * self.size + data_in.word(40) as usize, data_in.data_len());
        let (mut piece, mut right) = ([0; 4096], [0; 4096]);
        for from in (at..at + len).step_by(4096) {
            let now = (at + len - from).min(4096);
            self.read_exact(&mut piece[..now]).await;
            fill(self.number, from, &mut right[..now]);
            assert!(piece[..now] == right[..now], "session {} read other bytes at {from}", self.number);
        }
    }

    /// Has so many commands outstanding as soon as the window lets it, and sees them through: one that finds no memory is
    /// sent again.
    async fn run(&mut self, operation: u8, commands: usize) {
        let mut waiting: VecDeque<usize> = (0..commands).collect();
        let mut done = 0;
        while done < commands {
            while !waiting.is_empty() && self.next.wrapping_sub(self.last) as i32 <= 0 {
                let Some(tag) = waiting.pop_front() else { break };
                let at = tag % DEPTH * self.size;
                let lba = (self.number as usize * OWN + at) / 512;
                let mut cdb = [0; 16];
                cdb[0] = operation;
                cdb[2..6].copy_from_slice(&(lba as u32).to_be_bytes());
                cdb[7..9].copy_from_slice(&((self.size / 512) as u16).to_be_bytes());
                let writes = operation == 0x2a;
                let immediate = if writes { self.size.min(SEGMENT as usize) } else { 0 };
                self.command(tag as u32, &cdb, if writes { 0xa0 } else { 0xc0 }, at, immediate).await;
            }
            let header = self.header().await;
            let ends = match header.opcode() {
                opcode::R2T => {
                    self.answer(header).await;
                    false
                }
                opcode::DATA_IN => {
                    self.verify(header).await;
                    header.flags() & 1 != 0
                }
                opcode::SCSI_RESPONSE if matches!(header.0[3], BUSY | TASK_SET_FULL) => {
                    self.refused += 1;
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    waiting.push_back(header.itt() as usize);
                    false
                }
                other => {
                    assert_eq!((other, header.0[3]), (opcode::SCSI_RESPONSE, 0), "{}", self.number);
                    true
                }
            };
            if ends {
                let begun = self.begun[header.itt() as usize].take().unwrap();
                self.times.push(begun.elapsed());
                done += 1;
            }
        }
    }
}

/// Ends the process if a client panics: the others would wait for it.
struct Together;

impl Drop for Together {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::exit(101);
        }
    }
}

/// A thread with its share of the sessions; the times of all answers, and how many commands found no memory.
fn client(address: SocketAddr, numbers: std::ops::Range<u32>, ready: &Barrier) -> (Vec<Duration>, usize) {
    let _together = Together;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sessions = runtime.block_on(join_all(numbers.map(|number| Session::login(address, number))));
    ready.wait();
    ready.wait();
    let mut all = |operation, commands| {
        let all = join_all(sessions.iter_mut().map(|session| session.run(operation, commands)));
        runtime.block_on(async {
            tokio::time::timeout(ENOUGH, all).await.expect("some command never comes to an end")
        })
    };
    all(0x2a, DEPTH);
    ready.wait();
    all(0x28, READS);
    ready.wait();
    let refused = sessions.iter().map(|session| session.refused).sum();
    (sessions.into_iter().flat_map(|session| session.times).collect(), refused)
}

#[test]
fn a_thousand_sessions_at_once() {
    let scratch = Scratch(std::env::temp_dir().join(format!("tidegate-crowd-{}", std::process::id())));
    std::fs::create_dir_all(scratch.0.join("disk")).unwrap();
    base::buffer::keep(KEPT);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _within = runtime.enter();
    let spawn = Arc::new(TokioSpawn::new(runtime.handle().clone()));
    let image = runtime.block_on(volume(&scratch.0, spawn.clone()));
    let registry = TargetRegistry::new(Arc::new(SeededEntropy::new(3)), limits());
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
    let before = memory("VmRSS:");
    // From now on the peak is counted (proc(5), clear_refs).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();

    let ready = Barrier::new(CLIENTS + 1);
    let share = (SESSIONS / CLIENTS) as u32;
    let (mut times, refused, peaks) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u32)
            .map(|i| (i, &ready))
            .map(|(i, ready)| scope.spawn(move || client(address, i * share..(i + 1) * share, ready)))
            .collect();
        ready.wait();
        assert_eq!(registry.sessions().len(), SESSIONS, "all are there at once");
        let peaks: Vec<u64> = (0..3)
            .map(|_| {
                let peak = memory("VmHWM:");
                ready.wait();
                peak
            })
            .collect();
        let ended = clients.into_iter().map(|client| client.join().unwrap());
        let (times, refused): (Vec<Vec<Duration>>, Vec<usize>) = ended.unzip();
        (times.concat(), refused.iter().sum::<usize>(), peaks)
    });
    let peak = memory("VmHWM:");
    times.sort_unstable();
    let (grown, most) = (peak.saturating_sub(before), most_memory());
    println!(
        "{SESSIONS} sessions, {} commands of 8 to 256 KiB, {DEPTH} writes, then {READS} reads outstanding: median {:?}, p99 {:?}, \
         longest {:?}; {refused} refused and sent again; memory grew by {} MiB at most ({} for logins, {} while writing), of {} MiB allowed and {} MiB \
         wanted",
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
        grown >> 20,
        peaks[0].saturating_sub(before) >> 20,
        peaks[2].saturating_sub(before) >> 20,
        most >> 20,
        wanted() >> 20,
    );
    assert_eq!(times.len(), SESSIONS * (DEPTH + READS));
    assert!(most < wanted() * 2 / 3 && refused > 0, "the bound would not be noticed");
    assert!(grown < most, "{} MiB for {SESSIONS} sessions", grown >> 20);
    runtime.block_on(image.drain()).unwrap();
    runtime.block_on(portal.stop(Duration::from_secs(1)));
}
