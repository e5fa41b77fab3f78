//! What an initiator sees of a bit that flipped in the bucket (A6; C05).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use scsi::iscsi::pdu::{HEADER, Header, opcode};

use super::*;

const TEST_UNIT_READY: u8 = 0x00;
const READ_10: u8 = 0x28;
const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;

/// A session of one command after the other.
struct Initiator {
    socket: TcpStream,
    commands: u32,
}

impl Initiator {
    fn login(address: SocketAddr, target: &str) -> Initiator {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut initiator = Initiator { socket, commands: 0 };
        let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
        header.0[8] = 0x80;
        header.set_word(24, 1);
        let keys = format!("InitiatorName=iqn.2026-01.org.example:t\0TargetName={target}\0");
        initiator.send(header, keys.as_bytes());
        let (answer, _) = initiator.receive();
        assert_eq!((answer.opcode(), answer.word(36) >> 16), (opcode::LOGIN_RESPONSE, 0));
        // The first command of a session meets the unit attention.
        assert_eq!(initiator.command(TEST_UNIT_READY, 0, 0).0, CHECK_CONDITION);
        initiator
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

    /// The status of a command, and its data, or the sense data.
    fn command(&mut self, operation: u8, lba: u32, blocks: u16) -> (u8, Vec<u8>) {
        self.commands += 1;
        let mut header = Header::new(opcode::SCSI_COMMAND, if blocks == 0 { 0x80 } else { 0xc0 });
        header.set_word(16, self.commands);
        header.set_word(20, u32::from(blocks) * 512);
        header.set_word(24, self.commands);
        header.0[32] = operation;
        header.set_word(34, lba);
        header.0[39..41].copy_from_slice(&blocks.to_be_bytes());
        self.send(header, &[]);
        let mut data = Vec::new();
        loop {
            let (answer, more) = self.receive();
            data.extend(more);
            let (is_response, has_status) =
                (answer.opcode() == opcode::SCSI_RESPONSE, answer.flags() & 1 != 0);
            assert!(is_response || answer.opcode() == opcode::DATA_IN, "{:x}", answer.opcode());
            if is_response || has_status {
                return (answer.0[3], data);
            }
        }
    }
}

/// The largest segment of a directory bucket, as a file and as an object: the one with the data.
fn largest_segment(bucket: &Path) -> (PathBuf, String) {
    let mut dirs = vec![bucket.join("images")];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let list = if entry.path().is_dir() { &mut dirs } else { &mut files };
            list.push(entry.path());
        }
    }
    let segments = files.into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "seg"));
    let path = segments.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let key = path.strip_prefix(bucket).unwrap().display().to_string();
    (path, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flipped_in_the_bucket_is_a_medium_error() {
    let scratch = Scratch::new("medium");
    let one = gateway(&scratch.0, "one", "200 ms").await;
    one.add_bucket("main", &scratch.url()).await.unwrap();
    one.create_volume(wanted("vol1", ByteSize::mib(64))).await.unwrap();
    write(&one, "vol1", 8, 7).await;
    one.release_volume("vol1").await.unwrap();
    one.stop(|_| ()).await.unwrap();

    let (path, key) = largest_segment(&scratch.0.join("bucket"));
    let sound = std::fs::read(&path).unwrap();
    let flipped = sound.len() - 1;
    let mut rotten = sound.clone();
    rotten[flipped] ^= 0x10;
    std::fs::write(&path, rotten).unwrap();

    // Another gateway has nothing of it in its cache.
    let two = gateway(&scratch.0, "two", "200 ms").await;
    two.add_bucket("main", &scratch.url()).await.unwrap();
    let target = two.adopt_volume(adopt("vol1", None)).await.unwrap().target;
    let mut initiator = Initiator::login(two.addresses()[0], &target);
    let (status, data) = initiator.command(READ_10, 8, 8);
    assert_eq!(status, CHECK_CONDITION);
    // Behind its length: fixed format, the first block that cannot be read, MEDIUM ERROR, UNRECOVERED READ ERROR.
    let sense = &data[2..];
    assert_eq!((sense[0] & 0x7f, &sense[3..7], sense[2] & 0xf), (0x70, &[0, 0, 0, 8][..], 3));
    assert_eq!(sense[12..14], [0x11, 0x00]);
    let names = |text: &str| {
        let offset = text.split_once(&format!("{key} at offset ")).map(|(_, rest)| rest.split(':').next());
        offset.flatten().is_some_and(|at| at.parse::<usize>().unwrap() <= flipped)
    };
    let events = two.view().events;
    assert!(events.iter().any(|e| e.severity == "error" && names(&e.text)), "{key} not in {events:?}");
    // Nothing else suffers, and what was restored is read again.
    assert_eq!(initiator.command(READ_10, 64, 8), (GOOD, vec![0; 4096]));
    std::fs::write(&path, sound).unwrap();
    assert_eq!(initiator.command(READ_10, 8, 8), (GOOD, vec![7; 4096]));
    drop(initiator);
    two.stop(|_| ()).await.unwrap();
}
