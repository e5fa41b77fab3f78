use base::{Entropy, SeededEntropy, StartId};
use proptest::prelude::*;

use super::*;

fn batch(entropy: &SeededEntropy, records: usize) -> BatchHeader {
    let header = batch_header_len(records);
    let entry = |i: usize| RecordEntry {
        owner: ImageId::generate(entropy),
        epoch: Epoch(entropy.next_u64()),
        seq: Seq(entropy.next_u64()),
        kind: RecordKind::from_code(1 + (i % 6) as u8).unwrap(),
        span: Span::new(entropy.below(1 << 50), entropy.below(1 << 20)),
        payload_offset: header as u32 + 8 * i as u32,
        payload_len: 8,
        crc64: entropy.next_u64(),
    };
    BatchHeader {
        journal: JournalId::generate(entropy),
        generation: entropy.next_u64(),
        salt: entropy.next_u64(),
        number: entropy.next_u64(),
        offset: entropy.below(1 << 30) * BLOCK,
        len: (header + (8 * records as u64).next_multiple_of(BLOCK)) as u32,
        durable: entropy.next_u64(),
        records: (0..records).map(entry).collect(),
    }
}

fn encoded(batch: &BatchHeader) -> Vec<u8> {
    let mut bytes = vec![0; batch_header_len(batch.records.len()) as usize];
    batch.encode_into(&mut bytes);
    bytes
}

#[test]
fn headers_survive_encoding() {
    let entropy = SeededEntropy::new(1);
    for records in [0, 1, 55, 56, 512, MAX_RECORDS] {
        let b = batch(&entropy, records);
        assert_eq!(BatchHeader::decode(&encoded(&b)).unwrap(), b);
    }
    let identity = Identity { journal: JournalId::generate(&entropy), file_size: 64 << 20 };
    assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
    let header = FileHeader {
        journal: identity.journal,
        generation: 1000,
        salt: 7,
        slot: 3,
        first_batch: 9,
        file_size: 64 << 20,
        start: StartId::generate(&entropy),
        live: (0..MAX_LIVE as u32)
            .map(|i| LiveFile { generation: 1 + u64::from(i), slot: i, end: 4096 })
            .collect(),
    };
    assert_eq!(FileHeader::decode(&header.encode()).unwrap(), header);
}

#[test]
fn the_layout_is_the_documented_one() {
    let b = batch(&SeededEntropy::new(2), 2);
    let bytes = encoded(&b);
    assert_eq!(&bytes[..8], b"TGBATCH1");
    assert_eq!(bytes[12..16], 4096u32.to_le_bytes());
    assert_eq!(bytes[48..56], b.number.to_le_bytes());
    assert_eq!(bytes[72..80], b.durable.to_le_bytes());
    assert_eq!(bytes[96..112], b.records[0].owner.0);
    assert_eq!(bytes[96 + 72 + 24..96 + 72 + 32], b.records[1].seq.0.to_le_bytes());
    assert_eq!(bytes[96 + 72 + 64], 2);
    let mut zeroed = bytes.clone();
    zeroed[80..88].fill(0);
    assert_eq!(bytes[80..88], base::checksum::crc64(&zeroed).to_le_bytes());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = encoded(&batch(&SeededEntropy::new(3), 3));
    for at in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(BatchHeader::decode(&bad).is_err(), "bit {at}");
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let mut bytes = encoded(&batch(&SeededEntropy::new(4), 1));
    bytes[8] = 2;
    seal(&mut bytes, BATCH_CRC);
    let error = BatchHeader::decode(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("version 2"));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..20_000), start in 0..3usize) {
        let mut bytes = bytes;
        let magic = [IDENTITY_MAGIC, FILE_MAGIC, BATCH_MAGIC][start];
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(magic);
        }
        prop_assert!(Identity::decode(&bytes).is_err() && FileHeader::decode(&bytes).is_err());
        prop_assert!(BatchHeader::decode(&bytes).is_err());
    }

    /// With a right checksum over wrong fields the decoder must still not panic, and what it accepts must be sane.
    #[test]
    fn any_fields_under_a_right_checksum_are_survived(seed: u64, records in 0..60usize, flips in prop::collection::vec((0..4096usize, any::<u8>()), 1..8)) {
        let mut bytes = encoded(&batch(&SeededEntropy::new(seed), records));
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        seal(&mut bytes, BATCH_CRC);
        if let Ok(b) = BatchHeader::decode(&bytes) {
            for r in b.records.iter().filter(|r| r.payload_len > 0) {
                prop_assert!(r.payload_offset as u64 + r.payload_len as u64 <= b.len as u64);
            }
        }
        let header = FileHeader { journal: JournalId([1; 16]), generation: 9, salt: 1, slot: 0, first_batch: 1, file_size: 1 << 20,
            start: StartId([2; 16]), live: vec![LiveFile { generation: 3, slot: 1, end: 4096 }] };
        let mut file = header.encode().to_vec();
        file[12..12 + 60].copy_from_slice(&bytes[..60]);
        seal(&mut file, FILE_CRC);
        let _ = FileHeader::decode(&file);
    }
}
