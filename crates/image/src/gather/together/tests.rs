use base::{Entropy, ImageId, Number, SeededEntropy, Seq};
use chain::{ExtentKind, HeaderDraft, Kind, Position, Sealed, decode_frame};

use super::*;

fn seal(draft: SegmentDraft) -> Sealed {
    let previous = Position { epoch: base::Epoch(1), number: Number(0), digest: [0; 32] };
    draft.seal(HeaderDraft {
        image: ImageId([1; 16]),
        epoch: base::Epoch(1),
        previous,
        kind: Kind::Data,
        created: 0,
        size: 1 << 20,
        first_seq: Seq(1),
        last_seq: Seq(1),
    })
}

/// Every sector of a segment, read as a reader would.
fn sectors(sealed: &Sealed) -> Vec<(u64, Bytes)> {
    let header = &sealed.header;
    let frames: Vec<Bytes> = header
        .frames
        .iter()
        .zip(&sealed.payload.parts()[1..])
        .map(|(frame, stored)| decode_frame(frame, stored.clone()).unwrap())
        .collect();
    let mut out = Vec::new();
    for extent in &header.extents {
        let ExtentKind::Data(at) = extent.kind else { panic!("only data was put in") };
        for n in 0..extent.span.count {
            let from = (u64::from(at.skip) + n) * base::SECTOR;
            out.push((
                extent.span.start + n,
                frames[at.frame as usize].slice(from as usize..(from + base::SECTOR) as usize),
            ));
        }
    }
    out
}

/// However neighbouring data is cut into records and parts, the same sectors come out.
#[test]
fn neighbours_are_put_together_whatever_their_borders() {
    for seed in 0..300 {
        let chance = SeededEntropy::new(seed);
        let draw = |below: u64| chance.next_u64() % below;
        let mut at = draw(300);
        let (mut together, mut draft, mut wanted) =
            (Together::default(), SegmentDraft::default(), Vec::new());
        for _ in 0..1 + draw(12) {
            at += if draw(3) == 0 { draw(200) } else { 0 };
            let mut parts = Vec::new();
            let start = at;
            for _ in 0..1 + draw(4) {
                let count = if draw(2) == 0 { 1 + draw(300) } else { 128 * (1 + draw(3)) };
                let mut bytes = vec![0; (count * base::SECTOR) as usize];
                chance.fill(&mut bytes);
                let bytes = Bytes::from(bytes);
                wanted.extend(
                    (0..count as usize).map(|n| (at + n as u64, bytes.slice(n * 512..(n + 1) * 512))),
                );
                // Initiators may send a write in pieces of any length.
                let cut = if draw(3) == 0 { draw(bytes.len() as u64 + 1) as usize } else { bytes.len() };
                parts.push(bytes.slice(..cut));
                parts.push(bytes.slice(cut..));
                at += count;
            }
            together.add(Span::new(start, at - start), parts, &mut draft);
        }
        together.flush(&mut draft);
        assert!(sectors(&seal(draft)) == wanted, "seed {seed}");
    }
}

/// Large parts go to the bucket from where they lie.
#[test]
fn whole_frames_are_not_copied() {
    let parts: Vec<Bytes> = (1..=4u8)
        .map(|n| {
            let mut bytes = vec![0; 256 << 10];
            SeededEntropy::new(n.into()).fill(&mut bytes);
            Bytes::from(bytes)
        })
        .collect();
    let (mut together, mut draft) = (Together::default(), SegmentDraft::default());
    together.add(Span::new(256, 2048), parts.clone(), &mut draft);
    together.flush(&mut draft);
    let sealed = seal(draft);
    let stored = &sealed.payload.parts()[1..];
    assert_eq!(stored.len(), 16);
    for (n, frame) in stored.iter().enumerate() {
        assert_eq!(frame.as_ptr(), parts[n / 4][n % 4 * (64 << 10)..].as_ptr());
    }
}
