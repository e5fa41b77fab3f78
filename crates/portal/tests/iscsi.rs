//! The portal over real sockets: a bare initiator written here, and libiscsi's tools where they are installed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base::SeededEntropy;
use local::TokioSpawn;
use portal::{Options, Portal};
use scsi::device::{Identity, LogicalUnit, TargetDevice};
use scsi::iscsi::pdu::{HEADER, Header, NO_TAG, opcode};
use scsi::iscsi::{Authentication, Credential, Limits, Secret, TargetConfig, TargetRegistry};
use scsi::medium::{Geometry, MemoryMedium};

const OPEN: &str = "iqn.2026-01.org.tidegate:open";
const CHAP: &str = "iqn.2026-01.org.tidegate:chap";

struct Served {
    runtime: tokio::runtime::Runtime,
    portal: Portal,
    registry: Arc<TargetRegistry>,
    medium: Arc<MemoryMedium>,
    address: SocketAddr,
}

fn serve(limits: Limits, options: Options) -> Served {
    serve_at(&["127.0.0.1:0"], limits, options)
}

fn serve_at(listen: &[&str], limits: Limits, options: Options) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _within = runtime.enter();
    let registry = TargetRegistry::new(Arc::new(SeededEntropy::new(3)), limits);
    let geometry = Geometry { block_size: 512, blocks: 131_072, physical_exponent: 3 };
    let medium = Arc::new(MemoryMedium::new(geometry));
    for name in [OPEN, CHAP] {
        let device = Arc::new(TargetDevice::new(name));
        let identity = Identity {
            vendor: "TIDEGATE".to_owned(),
            product: "TEST".to_owned(),
            revision: "1".to_owned(),
            serial: name.to_owned(),
            naa: *b"\x60123456789abcdef",
        };
        device.attach(0, runtime.block_on(LogicalUnit::new(identity, medium.clone())).unwrap());
        let mut config = TargetConfig::open(name.parse().unwrap(), device);
        if name == CHAP {
            let user = Credential::new("user", Secret::new(*b"secret of user")).unwrap();
            let own = Credential::new("disk", Secret::new(*b"secret of disk")).unwrap();
            config.authentication = Authentication::chap(vec![user], Some(own)).unwrap();
        }
        registry.add(config).unwrap();
    }
    let spawn = TokioSpawn::new(runtime.handle().clone());
    let listen: Vec<SocketAddr> = listen.iter().map(|address| address.parse().unwrap()).collect();
    let portal = Portal::start(&listen, registry.clone(), options, &spawn).unwrap();
    let address = portal.addresses()[0];
    Served { runtime, portal, registry, medium, address }
}

/// Logs in with nothing but the names, and returns the socket.
fn login(address: SocketAddr, isid: u8) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
    header.0[8] = 0x80;
    header.0[13] = isid;
    header.set_word(16, 1);
    send(
        &mut socket,
        header,
        format!("InitiatorName=iqn.2026-01.org.example:t\0TargetName={OPEN}\0").as_bytes(),
    );
    let (response, _) = receive(&mut socket);
    assert_eq!((response.opcode(), response.word(36) >> 16), (opcode::LOGIN_RESPONSE, 0));
    socket
}

fn send(socket: &mut TcpStream, mut header: Header, data: &[u8]) {
    header.set_data_len(data.len());
    let mut bytes = [&header.0[..], data].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    socket.write_all(&bytes).unwrap();
}

fn receive(socket: &mut TcpStream) -> (Header, Vec<u8>) {
    let mut header = Header([0; HEADER]);
    socket.read_exact(&mut header.0).unwrap();
    let mut data = vec![0; header.data_len().next_multiple_of(4)];
    socket.read_exact(&mut data).unwrap();
    data.truncate(header.data_len());
    (header, data)
}

/// Whether the other side has closed.
fn is_closed(socket: &mut TcpStream) -> bool {
    matches!(socket.read(&mut [0; 1]), Ok(0)) || socket.take_error().is_ok_and(|e| e.is_some())
}

fn ping(socket: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    header.set_word(16, 7);
    header.set_word(20, NO_TAG);
    send(socket, header, text);
    receive(socket).1
}

/// The path of a tool of libiscsi's, if it is installed.
fn tool(name: &str) -> Option<Command> {
    let found = Command::new(name).arg("--help").output().is_ok();
    if !found {
        eprintln!("{name} is not installed (Debian: libiscsi-bin): its part is left out");
    }
    found.then(|| Command::new(name))
}

fn output(mut command: Command, arguments: &[&str]) -> (bool, String) {
    let output = command.args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn libiscsi_finds_and_inspects_the_disk() {
    let served = serve(Limits::default(), Options::default());
    let portal = format!("iscsi://{}", served.address);
    if let Some(ls) = tool("iscsi-ls") {
        // B33
        let (_, text) = output(ls, &[&portal]);
        assert!(text.contains(&format!("Target:{OPEN} Portal:{},1", served.address)), "{text}");
    }
    if let Some(inq) = tool("iscsi-inq") {
        let (good, text) = output(inq, &[&format!("{portal}/{OPEN}/0")]);
        assert!(good && text.contains("Vendor:TIDEGATE"), "{text}");
    }
}

/// X06: IPv6 as well, in the notation of RFC 7143 §13.8.
#[test]
fn libiscsi_finds_and_inspects_the_disk_over_ipv6() {
    let served = serve_at(&["[::1]:0"], Limits::default(), Options::default());
    let portal = format!("iscsi://{}", served.address);
    assert!(portal.starts_with("iscsi://[::1]:"), "{portal}");
    if let Some(ls) = tool("iscsi-ls") {
        let (_, text) = output(ls, &["-s", &portal]);
        assert!(text.contains(&format!("Target:{OPEN} Portal:{},1", served.address)), "{text}");
        assert!(text.contains("Type:DIRECT_ACCESS"), "it logs in where it was told to: {text}");
    }
    if let Some(inq) = tool("iscsi-inq") {
        let (good, text) = output(inq, &[&format!("{portal}/{OPEN}/0")]);
        assert!(good && text.contains("Vendor:TIDEGATE"), "{text}");
    }
    let mut socket = login(served.address, 1);
    assert_eq!(ping(&mut socket, b"over six"), b"over six");
}

/// `[::]` serves both; beside an IPv4 address of the same port it keeps to its own.
#[test]
fn all_addresses_of_both_families() {
    let served = serve_at(&["[::]:0"], Limits::default(), Options::default());
    let port = served.address.port();
    for host in ["127.0.0.1", "[::1]"] {
        login(format!("{host}:{port}").parse().unwrap(), 1);
        let Some(ls) = tool("iscsi-ls") else { continue };
        let (_, text) = output(ls, &["-s", &format!("iscsi://{host}:{port}")]);
        assert!(text.contains(&format!("Portal:{host}:{port},1")), "{text}");
        assert!(text.contains("Type:DIRECT_ACCESS"), "{text}");
    }
    drop(served);
    for first in ["0.0.0.0", "[::]"] {
        let second = if first == "[::]" { "0.0.0.0" } else { "[::]" };
        let free = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
        let listen = [format!("{first}:{free}"), format!("{second}:{free}")];
        let served = serve_at(&listen.each_ref().map(String::as_str), Limits::default(), Options::default());
        assert_eq!(served.portal.addresses().len(), 2);
        for host in ["127.0.0.1", "[::1]"] {
            login(format!("{host}:{free}").parse().unwrap(), 1);
        }
    }
}

/// One login with a wrong proof: what came of it, and when.
fn guess(address: SocketAddr) -> (u32, Duration) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut step = |flags: u8, text: &str| {
        let mut header = Header::new(opcode::LOGIN | 0x40, flags);
        header.0[8] = 0x80;
        header.set_word(16, 1);
        send(&mut socket, header, text.as_bytes());
        receive(&mut socket).0.word(36) >> 16
    };
    let names = format!("InitiatorName=iqn.2026-01.org.example:t\0TargetName={CHAP}\0AuthMethod=CHAP\0");
    assert_eq!((step(0, &names), step(0, "CHAP_A=5\0")), (0, 0));
    let sent = tokio::time::Instant::now();
    let status = step(0x81, "CHAP_N=user\0CHAP_R=0x00112233445566778899aabbccddeeff\0");
    (status, sent.elapsed())
}

/// X03: the answer to a guess waits, and on the one thread of the portal nothing else does.
#[test]
fn guesses_are_answered_late_and_nobody_waits_with_them() {
    let options = Options { threads: Some(1), ..Options::default() };
    let served = serve_at(&["[::]:0"], Limits::default(), options);
    let port = served.address.port();
    let v4: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let v6: SocketAddr = format!("[::1]:{port}").parse().unwrap();
    for _ in 0..3 {
        assert_eq!(guess(v4).0, 0x0201);
    }
    let mut beside = login(v4, 1);
    let mut slowest = Duration::ZERO;
    let (status, took) = std::thread::scope(|scope| {
        let late = scope.spawn(|| guess(v4));
        while !late.is_finished() {
            let sent = tokio::time::Instant::now();
            assert_eq!(ping(&mut beside, b"still quick"), b"still quick");
            slowest = slowest.max(sent.elapsed());
        }
        late.join().unwrap()
    });
    assert_eq!(status, 0x0201);
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    assert!(slowest < took / 2, "{slowest:?} of {took:?}: a session beside it waited too");
    let (status, took) = guess(v6);
    assert_eq!(status, 0x0201);
    assert!(took < Duration::from_millis(900), "another address is answered at once: {took:?}");
}

#[test]
fn libiscsi_authenticates_or_stays_outside() {
    // X02, X03
    let served = serve(Limits::default(), Options::default());
    let address = served.address;
    for (user, admitted) in [
        ("", false),
        ("user%another secret@", false),
        ("other%secret of user@", false),
        ("user%secret of user@", true),
    ] {
        let Some(inq) = tool("iscsi-inq") else { return };
        let (good, text) = output(inq, &[&format!("iscsi://{user}{address}/{CHAP}/0")]);
        assert_eq!(good && text.contains("Vendor:TIDEGATE"), admitted, "{user}: {text}");
    }
    for (own, admitted) in [("secret of disk", true), ("no such secret", false)] {
        let Some(inq) = tool("iscsi-inq") else { return };
        let url =
            format!("iscsi://user%secret of user@{address}/{CHAP}/0?target_user=disk&target_password={own}");
        let (good, text) = output(inq, &[&url]);
        assert_eq!(good && text.contains("Vendor:TIDEGATE"), admitted, "{own}: {text}");
    }
}

#[test]
fn the_conformance_suite_passes_on_the_transport() {
    let served = serve(Limits::default(), Options::default());
    let url = format!("iscsi://{}/{OPEN}/0", served.address);
    for test in [
        "iSCSIcmdsn.iSCSICmdSnTooHigh",
        "iSCSIcmdsn.iSCSICmdSnTooLow",
        "iSCSIdatasn.iSCSIDataSnInvalid",
        "iSCSIResiduals.Read10Invalid",
        "iSCSIResiduals.Read10Residuals",
        "iSCSIResiduals.Write10Residuals",
        "iSCSIResiduals.WriteVerify16Residuals",
        "iSCSITMF.AbortTaskSimpleAsync",
        "Read10.Simple",
        "Write10.Simple",
        "MultipathIO.Simple",
    ] {
        let Some(suite) = tool("iscsi-test-cu") else { return };
        let (_, text) = output(suite, &["-d", "-t", &format!("ALL.{test}"), &url, &url]);
        let line = text.lines().find(|line| line.trim_start().starts_with("tests ")).unwrap_or_default();
        let counts: Vec<_> = line.split_whitespace().collect();
        // "tests", total, ran, passed, failed
        assert_eq!(counts.get(1..5), Some(&["1", "1", "1", "0"][..]), "{test}: {text}");
    }
}

#[test]
fn data_goes_there_and_back_in_long_segments() {
    let served = serve(Limits::default(), Options::default());
    let mut socket = login(served.address, 1);
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut header = Header::new(opcode::SCSI_COMMAND, 0x80);
    header.set_word(16, 1);
    send(&mut socket, header, &[]); // clears the unit attention
    receive(&mut socket);
    let command = |operation: u8, flags: u8, sn: u32| {
        let mut header = Header::new(opcode::SCSI_COMMAND, flags);
        header.set_word(16, sn);
        header.set_word(20, 1 << 20);
        header.set_word(24, sn);
        header.0[32] = operation;
        header.0[39..41].copy_from_slice(&2048u16.to_be_bytes());
        header
    };
    send(&mut socket, command(0x2a, 0xa0, 1), &data[..65_536]);
    let mut at = 65_536;
    loop {
        let (r2t, _) = receive(&mut socket);
        if r2t.opcode() == opcode::SCSI_RESPONSE {
            assert_eq!(r2t.0[3], 0);
            break;
        }
        assert_eq!((r2t.opcode(), r2t.word(40) as usize), (opcode::R2T, at));
        let end = at + r2t.word(44) as usize;
        let mut sn = 0;
        while at < end {
            let n = (end - at).min(200_000);
            let mut header = Header::new(opcode::DATA_OUT, if at + n == end { 0x80 } else { 0 });
            header.set_word(16, 1);
            header.set_word(20, r2t.ttt());
            header.set_word(36, sn);
            header.set_word(40, at as u32);
            send(&mut socket, header, &data[at..at + n]);
            at += n;
            sn += 1;
        }
    }
    assert_eq!(at, data.len());
    send(&mut socket, command(0x28, 0xc0, 2), &[]);
    let mut back = Vec::new();
    while back.len() < data.len() {
        let (header, part) = receive(&mut socket);
        assert_eq!((header.opcode(), header.word(40) as usize), (opcode::DATA_IN, back.len()));
        back.extend(part);
    }
    assert!(back == data);
}

#[test]
fn pings_are_answered_while_commands_wait() {
    let served = serve(Limits::default(), Options::default());
    let mut socket = login(served.address, 1);
    served.medium.set_cold(true);
    served.medium.pause();
    for sn in 0..4 {
        let mut header = Header::new(opcode::SCSI_COMMAND, 0xc0);
        header.set_word(16, sn);
        header.set_word(20, 512);
        header.set_word(24, sn);
        (header.0[32], header.0[40]) = (0x28, 1);
        send(&mut socket, header, &[]);
    }
    let unit_attention = receive(&mut socket).0;
    assert_eq!(unit_attention.0[3], 2);
    assert_eq!(ping(&mut socket, b"there?"), b"there?");
    served.medium.resume();
    for _ in 0..3 {
        let (header, data) = receive(&mut socket);
        assert_eq!((header.opcode(), header.0[3], data.len()), (opcode::DATA_IN, 0, 512));
    }
}

#[test]
fn many_sessions_live_side_by_side() {
    let served = serve(Limits::default(), Options { threads: Some(2), ..Options::default() });
    let mut sockets: Vec<_> = (1..=100).map(|isid| login(served.address, isid)).collect();
    assert_eq!((served.portal.connections(), served.registry.sessions().len()), (100, 100));
    for socket in &mut sockets {
        assert_eq!(ping(socket, b"x"), b"x");
    }
    drop(login(served.address, 1)); // reinstates the first
    assert!(is_closed(&mut sockets[0]));
    drop(sockets);
    served.runtime.block_on(async {
        while served.portal.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(served.registry.sessions().len(), 0);
}

#[test]
fn half_open_and_surplus_connections_are_closed() {
    // A7
    let limits = Limits { login_time: Duration::from_millis(300), ..Limits::default() };
    let served = serve(limits, Options { connections: 2, ..Options::default() });
    let mut silent = TcpStream::connect(served.address).unwrap();
    let mut dripping = TcpStream::connect(served.address).unwrap();
    dripping.write_all(&[0x43, 0x87]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut surplus = TcpStream::connect(served.address).unwrap();
    for socket in [&mut surplus, &mut silent, &mut dripping] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(is_closed(socket));
    }
}

#[test]
fn stopping_asks_for_logouts_and_lets_running_commands_end() {
    let Served { runtime, portal, registry, medium, address } = serve(Limits::default(), Options::default());
    let mut socket = login(address, 1);
    let mut header = Header::new(opcode::SCSI_COMMAND, 0x80);
    header.set_word(16, 1);
    send(&mut socket, header, &[]);
    receive(&mut socket);
    let mut header = Header::new(opcode::SCSI_COMMAND, 0xa0);
    header.set_word(16, 2);
    header.set_word(20, 512);
    header.set_word(24, 1);
    (header.0[32], header.0[40]) = (0x2a, 1);
    send(&mut socket, header, &[]);
    let (r2t, _) = receive(&mut socket);
    medium.pause();
    let mut header = Header::new(opcode::DATA_OUT, 0x80);
    header.set_word(16, 2);
    header.set_word(20, r2t.ttt());
    send(&mut socket, header, &[9; 512]);
    assert_eq!(ping(&mut socket, b"x"), b"x");
    let stopping = runtime.spawn(portal.stop(Duration::from_millis(200)));
    let (message, _) = receive(&mut socket);
    assert_eq!((message.opcode(), message.0[36]), (opcode::ASYNC_MESSAGE, 1));
    assert!(is_closed(&mut socket));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!stopping.is_finished(), "a write is under way");
    assert!(TcpStream::connect(address).is_err(), "nobody is let in any more");
    medium.resume();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), stopping).await })
        .unwrap()
        .unwrap();
    assert_eq!(medium.count(scsi::medium::Operation::Write), 1);
    assert_eq!(registry.sessions().len(), 0);
}
