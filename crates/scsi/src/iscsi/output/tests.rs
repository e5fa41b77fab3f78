use super::*;
use crate::iscsi::pdu::opcode;
use base::{Entropy, SeededEntropy};

fn all(output: &mut Output, step: impl Fn() -> usize) -> Vec<u8> {
    let mut sent = Vec::new();
    while output.pending() > 0 {
        let mut slices = [IoSlice::new(&[]); 5];
        let used = output.slices(&mut slices);
        let bytes: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
        let n = step().clamp(1, bytes.len());
        sent.extend_from_slice(&bytes[..n]);
        output.consume(n);
    }
    sent
}

#[test]
fn what_goes_in_comes_out_however_it_is_sent() {
    let chance = SeededEntropy::new(7);
    let mut output = Output { header_digest: true, data_digest: true, ..Output::default() };
    let mut expected = Vec::new();
    let mut sent = Vec::new();
    for i in 0..2000u32 {
        let mut header = Header::new(opcode::DATA_IN, 0);
        header.set_word(16, i);
        let parts: Vec<Bytes> = (0..chance.below(3))
            .map(|_| Bytes::from(vec![chance.next_u64() as u8; chance.below(2000) as usize]))
            .collect();
        output.put(header, &parts);
        let data = parts.concat();
        header.set_data_len(data.len());
        expected.extend_from_slice(&header.0);
        expected.extend_from_slice(&checksum::crc32c(&header.0).to_le_bytes());
        let mut padded = data.clone();
        padded.resize(data.len().next_multiple_of(4), 0);
        expected.extend_from_slice(&padded);
        if !data.is_empty() {
            expected.extend_from_slice(&checksum::crc32c(&padded).to_le_bytes());
        }
        if chance.chance(1, 3) {
            let mut slices = [IoSlice::new(&[]); 3];
            let used = output.slices(&mut slices);
            let bytes: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
            let n = 1 + chance.below(bytes.len() as u64) as usize;
            sent.extend_from_slice(&bytes[..n]);
            output.consume(n);
        }
        assert!(output.arena.len() < output.pending() + 2 * SLACK, "the arena gives back what was sent");
    }
    sent.extend(all(&mut output, || 1 + chance.below(9000) as usize));
    assert!(sent == expected);
    assert!(output.arena.is_empty());
}

#[test]
fn the_digest_is_that_of_the_standard() {
    // RFC 7143 §13.1: 32 bytes of zeroes have the digest aa 36 91 8a on the wire.
    let mut output = Output { data_digest: true, ..Output::default() };
    output.put_copied(Header::new(opcode::NOP_IN, 0x80), &[0; 32]);
    let sent = all(&mut output, || usize::MAX);
    assert_eq!(sent[80..], [0xaa, 0x36, 0x91, 0x8a]);
}
