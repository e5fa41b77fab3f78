use std::sync::Arc;

use base::{
    ByteSize, Entropy, Epoch, ErrorKind, GatewayId, ImageId, JournalId, Number, SeededEntropy, Seq, Span,
    StartId,
};
use bucket::{Attributes, Bucket, Memory};
use bytes::Bytes;

use crate::*;

const IMAGE: ImageId = ImageId([7; 16]);

fn bytes(seed: u64, len: usize) -> Bytes {
    let mut v = vec![0; len];
    SeededEntropy::new(seed).fill(&mut v);
    v.into()
}

fn draft(epoch: u64, previous: Position, kind: Kind) -> HeaderDraft {
    HeaderDraft {
        image: IMAGE,
        epoch: Epoch(epoch),
        previous,
        kind,
        created: 1,
        size: 1 << 20,
        first_seq: Seq(1),
        last_seq: Seq(0),
    }
}

fn empty(epoch: u64, previous: Position, kind: Kind) -> Sealed {
    SegmentDraft::default().seal(draft(epoch, previous, kind))
}

async fn new_image() -> (Arc<Memory>, Arc<dyn Bucket>) {
    let memory = Arc::new(Memory::new());
    let bucket: Arc<dyn Bucket> = memory.clone();
    let record = ImageRecord {
        image: IMAGE,
        name: "vol1".into(),
        created: 1,
        size: ByteSize::mib(512),
        block_size: 512,
    };
    create_image(&*bucket, &record).await.unwrap();
    (memory, bucket)
}

async fn take(bucket: &Arc<dyn Bucket>, epoch: u64) -> base::Result<Ownership> {
    let record = EpochRecord {
        image: IMAGE,
        epoch: Epoch(epoch),
        gateway: GatewayId([epoch as u8; 16]),
        journal: JournalId([epoch as u8; 16]),
        start: StartId([epoch as u8; 16]),
        created: 1,
        continuation: Continuation::LossAccepted,
        after: Epoch(epoch - 1),
        owner: "a".into(),
    };
    Ownership::take(bucket.clone(), &record).await
}

async fn put(own: &Ownership, sealed: &Sealed) -> Position {
    match sealed.header.kind {
        // A sleeper's fence is put all the same; that it has lost its epoch it finds out afterwards.
        Kind::Fence => drop(own.put_fence(sealed).await),
        Kind::Data | Kind::Close => own.put_segment(sealed).await.unwrap(),
    }
    sealed.header.position
}

async fn head(bucket: &Arc<dyn Bucket>) -> Position {
    load(&**bucket, IMAGE).await.unwrap().chain.head
}

#[test]
fn a_segment_comes_back_as_it_was_sealed() {
    let mut content = SegmentDraft::default();
    content.data(100, bytes(1, 4096));
    content.data(128, bytes(2, 200 << 10));
    content.empty(Span::new(5000, 1 << 33), true);
    content.empty(Span::new(1 << 34, 10), false);
    content.state(StateChange { name: "pr".into(), value: Some(bytes(3, 100)) });
    content.state(StateChange { name: "gone".into(), value: None });
    content.delete(Epoch(1), Number(2));
    let sealed = content.seal(draft(3, Position::ROOT, Kind::Data));
    let object = sealed.payload.to_bytes();
    assert_eq!(
        sealed.payload.crc64(),
        base::checksum::crc64(&object),
        "the combined CRC is that of the whole object"
    );
    let header = Header::decode(&object).unwrap();
    assert_eq!(header.position, sealed.header.position);
    assert_eq!(header.extents, sealed.header.extents);
    assert_eq!(header.states.len(), 2);
    assert_eq!(header.deletions, [(Epoch(1), Number(2))]);
    // Large frames begin at multiples of 64 KiB.
    let whole = header.extents.iter().filter(|e| e.span.count == FRAME_SECTORS);
    assert!(whole.clone().count() == 3 && whole.clone().all(|e| e.span.start % FRAME_SECTORS == 0));
    let mut at = header.payload_at as usize;
    for frame in &header.frames {
        let stored = object.slice(at..at + frame.stored as usize);
        assert_eq!(decode_frame(frame, stored).unwrap().len(), frame.raw as usize);
        at += frame.stored as usize;
    }
    assert_eq!(at, object.len());
}

/// A segment that waited on a local disk must come out as it was sealed, deletions included: the digest of the next one
/// was taken from it.
#[test]
fn sealing_again_at_the_same_place_gives_the_same_bytes() {
    let mut content = SegmentDraft::default();
    content.data(100, bytes(1, 4096));
    content.empty(Span::new(300, 5), true);
    content.state(StateChange { name: "pr".into(), value: Some(bytes(3, 100)) });
    content.delete(Epoch(1), Number(2));
    let place = draft(3, Position::ROOT, Kind::Data);
    let sealed = content.seal(place);
    let again = Sealed::again(&sealed.header, &sealed.payload.to_bytes(), place).unwrap();
    assert_eq!(again.payload.to_bytes(), sealed.payload.to_bytes());
    let moved =
        Sealed::again(&sealed.header, &sealed.payload.to_bytes(), draft(4, Position::ROOT, Kind::Data))
            .unwrap();
    assert_eq!(moved.header.extents, sealed.header.extents);
    assert_ne!(moved.header.position.digest, sealed.header.position.digest);
}

#[test]
fn small_neighbours_share_a_frame_and_an_extent() {
    let mut content = SegmentDraft::default();
    for i in 0..16 {
        content.data(i * 8, bytes(i, 4096));
    }
    let sealed = content.seal(draft(1, Position::ROOT, Kind::Data));
    assert_eq!(sealed.header.frames.len(), 1);
    assert_eq!(sealed.header.extents.len(), 1);
}

#[test]
fn compressible_frames_shrink_and_random_ones_stay() {
    let (frame, stored) = encode_frame(Bytes::from(vec![5; FRAME_BYTES]));
    assert_eq!(frame.codec, Codec::Lz4);
    assert!(stored.len() < 1000);
    assert_eq!(decode_frame(&frame, stored).unwrap(), vec![5; FRAME_BYTES]);
    let (frame, stored) = encode_frame(bytes(1, FRAME_BYTES));
    assert_eq!((frame.codec, stored.len()), (Codec::Raw, FRAME_BYTES));
}

/// A6: no flipped bit of any sealed object goes unnoticed.
#[test]
fn every_flipped_bit_of_metadata_is_noticed() {
    let mut content = SegmentDraft::default();
    content.data(0, bytes(1, 1024));
    content.state(StateChange { name: "pr".into(), value: Some(bytes(3, 10)) });
    let sealed = content.seal(draft(3, Position::ROOT, Kind::Data));
    let header = sealed.payload.parts()[0].clone();
    let mut root = Checkpoint::empty(IMAGE, 100);
    let page = page().encode();
    root.runs = vec![Run::new(vec![self::page().place(&page, (Number(1), Epoch(1), 0), 0)])];
    let root = root.encode();
    for (what, object) in [("header", header), ("page", page), ("root", root)] {
        for bit in 0..object.len() * 8 {
            let mut damaged = object.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let noticed = match what {
                "header" => Header::decode(&damaged).is_err(),
                "page" => Page::decode(&damaged).is_err(),
                _ => Checkpoint::decode(&damaged).is_err(),
            };
            assert!(noticed, "{what}: bit {bit}");
        }
    }
    let frame = sealed.header.frames[0];
    let stored = sealed.payload.parts()[1].clone();
    for bit in 0..stored.len() * 8 {
        let mut damaged = stored.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_frame(&frame, damaged.into()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// Bytes with a right digest but a wrong body must be refused too, not believed or panicked on.
#[test]
fn resealed_nonsense_is_refused_or_harmless() {
    let mut content = SegmentDraft::default();
    content.data(0, bytes(1, 9000 / 512 * 512));
    content.empty(Span::new(64, 8), true);
    content.state(StateChange { name: "pr".into(), value: Some(bytes(3, 10)) });
    content.delete(Epoch(1), Number(1));
    let object = content.seal(draft(3, Position::ROOT, Kind::Data)).payload.parts()[0].to_vec();
    let chance = SeededEntropy::new(42);
    for _ in 0..20_000 {
        let mut damaged = object.clone();
        for _ in 0..=chance.below(4) {
            let at = 16 + chance.below(damaged.len() as u64 - 48) as usize;
            damaged[at] = chance.next_u64() as u8;
        }
        let end = damaged.len() - 32;
        let digest = *blake3::hash(&damaged[..end]).as_bytes();
        damaged[end..].copy_from_slice(&digest);
        if let Ok(header) = Header::decode(&damaged) {
            assert_eq!(header.offsets().len(), header.frames.len());
        }
    }
}

/// A page with every kind of entry, two of them in one frame.
fn page() -> Page {
    let raw = Frame { codec: Codec::Raw, stored: 8192, raw: 8192, crc64: 0x1122_3344_5566_7788 };
    let packed = Frame { codec: Codec::Lz4, stored: 300, raw: 4096, crc64: 9 };
    let at = |row, index, offset, frame, skip| Target::Frame { row, index, offset, frame, skip };
    Page {
        entries: vec![
            (Span::new(300, 8), at(7, 2, 1000, raw, 0)),
            (Span::new(308, 1), Target::Zero),
            (Span::new(310, 4), at(7, 2, 1000, raw, 10)),
            (Span::new(320, 1 << 40), Target::Hole),
            (Span::new((1 << 41) + 1, 8), at(500, 0, 90, packed, 0)),
        ],
    }
}

/// The body of a page and of a root's runs, byte by byte as `docs/formats/image-log.md` has it.
#[test]
fn a_page_is_what_the_format_says() {
    let bytes = page().encode();
    let hex: String = bytes[16..bytes.len() - 32].iter().map(|b| format!("{b:02x}")).collect();
    let entries = [
        "05000000",
        "ac02 08 02 07 02 e807 20 8877665544332211 00", // 16 sectors, not packed
        "00 01 01",
        "01 04 03 0a",
        "06 808080808020 00",
        // Its stored length is there because it is packed.
        "c1fdffffff1f 08 02 f403 00 5a 11 ac02 0900000000000000 00",
    ];
    assert_eq!(hex, entries.join("").replace(' ', ""));
    assert_eq!(Page::decode(&bytes).unwrap(), page());

    let mut place = page().place(&bytes, (Number(3), Epoch(2), 1 << 20), 77);
    place.crc64 = 5;
    assert_eq!((place.entries, place.holes, place.sectors), (5, 1, (1 << 40) + 21));
    let next =
        PageRef { start: place.end + 1, end: place.end + 9, entries: 1, holes: 0, sectors: 8, ..place };
    let mut root = Checkpoint::empty(IMAGE, 100);
    let empty = root.encode().len();
    root.runs = vec![Run::new(vec![place, next]), Run::new(vec![next])];
    let encoded = root.encode();
    let hex: String =
        encoded[empty - 32 - 4..encoded.len() - 32].iter().map(|b| format!("{b:02x}")).collect();
    let rest = format!("03 02 808040 4d {:02x} 0500000000000000", bytes.len());
    let runs = [
        "02000000 02000000",
        "ac02 ddfdffffff3f 05 01 958080808020",
        &rest,
        "01 08 01 00 08",
        &rest,
        "01000000 8a80808080 40 08 01 00 08",
        &rest,
    ];
    assert_eq!(hex, runs.join("").replace(' ', ""));
    assert_eq!(Checkpoint::decode(&encoded).unwrap().runs, root.runs);
}

/// The same for pages and roots: what is decoded keeps its rules, and is what its bytes say, in the only way they can.
#[test]
fn resealed_nonsense_in_the_map_is_refused_or_harmless() {
    let mut root = Checkpoint::empty(IMAGE, 100);
    let place = page().place(&page().encode(), (Number(3), Epoch(2), 0), 0);
    root.runs = vec![Run::new(vec![place]), Run::new(vec![place])];
    let chance = SeededEntropy::new(43);
    let mut whole = 0;
    for (object, is_page) in [(page().encode(), true), (root.encode(), false)] {
        for _ in 0..20_000 {
            let mut damaged = object.to_vec();
            for _ in 0..=chance.below(3) {
                let at = 16 + chance.below(damaged.len() as u64 - 48) as usize;
                damaged[at] = chance.next_u64() as u8;
            }
            let end = damaged.len() - 32;
            let digest = *blake3::hash(&damaged[..end]).as_bytes();
            damaged[end..].copy_from_slice(&digest);
            if is_page {
                let Ok(page) = Page::decode(&damaged) else { continue };
                assert!(page.entries.iter().all(|(span, _)| !span.is_empty()));
                assert!(page.entries.windows(2).all(|pair| pair[0].0.end() <= pair[1].0.start));
                whole += 1;
            } else if let Ok(root) = Checkpoint::decode(&damaged) {
                let ordered = |run: &Run| run.windows(2).all(|pair| pair[0].end <= pair[1].start);
                assert!(root.runs.iter().all(|run| !run.is_empty() && ordered(run)));
                assert_eq!(root.encode(), damaged);
                whole += 1;
            }
        }
    }
    assert!(whole > 1000, "{whole}");
    // An integer in more bytes than it needs, and one of more than 64 bits.
    for body in ["0100000080000101", "01000000ffffffffffffffffff020101", "010000000080808080808080808002"] {
        let body: Vec<u8> =
            (0..body.len() / 2).map(|i| u8::from_str_radix(&body[2 * i..2 * i + 2], 16).unwrap()).collect();
        let mut object = b"TGpages2".to_vec();
        object.extend_from_slice(&(body.len() as u64).to_le_bytes());
        object.extend_from_slice(&body);
        let digest = *blake3::hash(&object).as_bytes();
        object.extend_from_slice(&digest);
        assert!(Page::decode(&object).unwrap_err().to_string().contains("proper form"), "{body:?}");
    }
}

#[tokio::test]
async fn members_follow_and_gaps_end_the_chain() {
    let (_, bucket) = new_image().await;
    assert_eq!(head(&bucket).await, Position::ROOT);
    let own = take(&bucket, 1).await.unwrap();
    let fence = put(&own, &empty(1, Position::ROOT, Kind::Fence)).await;
    let two = empty(1, fence, Kind::Data);
    let three = empty(1, two.header.position, Kind::Data);
    put(&own, &three).await;
    let chain = load(&*bucket, IMAGE).await.unwrap().chain;
    assert_eq!((chain.head, chain.orphans), (fence, vec![(Number(3), Epoch(1))]));
    put(&own, &two).await;
    assert_eq!(head(&bucket).await, three.header.position);
    let close = put(&own, &empty(1, three.header.position, Kind::Close)).await;
    let chain = load(&*bucket, IMAGE).await.unwrap().chain;
    assert!(chain.clean && chain.head == close && chain.members.len() == 4);
}

/// A4: the older owner's late puts neither count nor disturb; it finds out by its check.
#[tokio::test]
async fn a_later_epoch_fences_and_late_puts_are_orphans() {
    let (_, bucket) = new_image().await;
    let first = take(&bucket, 1).await.unwrap();
    let one = put(&first, &empty(1, Position::ROOT, Kind::Fence)).await;
    first.check().await.unwrap();
    let second = take(&bucket, 2).await.unwrap();
    assert_eq!(first.check().await.unwrap_err().kind(), ErrorKind::Fenced);
    // The same place in both epochs, the older one's put arriving late.
    let fence = put(&second, &empty(2, one, Kind::Fence)).await;
    put(&first, &empty(1, one, Kind::Data)).await;
    let chain = load(&*bucket, IMAGE).await.unwrap().chain;
    assert_eq!((chain.head, chain.members.len()), (fence, 2));
    assert_eq!(chain.orphans, [(Number(2), Epoch(1))]);
    let loaded = load(&*bucket, IMAGE).await.unwrap();
    assert_eq!((loaded.newest_epoch, loaded.last_owner.unwrap().epoch), (Epoch(2), Epoch(2)));
}

/// An owner that slept between taking its epoch and its fence wakes up after a later owner has written on.
#[tokio::test]
async fn a_fence_that_comes_late_changes_nothing() {
    let (_, bucket) = new_image().await;
    let first = take(&bucket, 1).await.unwrap();
    let one = put(&first, &empty(1, Position::ROOT, Kind::Fence)).await;
    let sleeper = take(&bucket, 2).await.unwrap();
    let two = put(&first, &empty(1, one, Kind::Data)).await;
    let third = take(&bucket, 3).await.unwrap();
    assert_eq!(head(&bucket).await, two, "what arrived before the third owner looked is a member for it");
    let fence = put(&third, &empty(3, two, Kind::Fence)).await;
    put(&sleeper, &empty(2, one, Kind::Fence)).await;
    assert_eq!(sleeper.check().await.unwrap_err().kind(), ErrorKind::Fenced);
    let chain = load(&*bucket, IMAGE).await.unwrap().chain;
    assert_eq!((chain.head, chain.members.len()), (fence, 3));
}

#[tokio::test]
async fn two_takers_of_one_epoch_one_wins() {
    let (_, bucket) = new_image().await;
    take(&bucket, 1).await.unwrap();
    // The same bytes again are the same owner's retried put; other bytes are another owner.
    take(&bucket, 1).await.unwrap();
    let other = EpochRecord {
        image: IMAGE,
        epoch: Epoch(1),
        gateway: GatewayId([9; 16]),
        journal: JournalId([9; 16]),
        start: StartId([9; 16]),
        created: 1,
        continuation: Continuation::First,
        after: Epoch(0),
        owner: "b".into(),
    };
    assert_eq!(Ownership::take(bucket.clone(), &other).await.unwrap_err().kind(), ErrorKind::Fenced);
}

/// A6: a damaged member is reported by name, never skipped as if it were an orphan.
#[tokio::test]
async fn a_damaged_member_stops_the_load_and_is_named() {
    let (memory, bucket) = new_image().await;
    let own = take(&bucket, 1).await.unwrap();
    let mut at = Position::ROOT;
    for kind in [Kind::Fence, Kind::Data, Kind::Data] {
        at = put(&own, &empty(1, at, kind)).await;
    }
    for number in 1..=3 {
        let key = name::segment(IMAGE, Epoch(1), Number(number));
        assert!(memory.corrupt(&key, 40, 1));
        let e = load(&*bucket, IMAGE).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert!(e.to_string().contains(key.as_str()), "{e}");
        assert!(memory.corrupt(&key, 40, 1));
    }
    assert_eq!(head(&bucket).await, at);
}

#[tokio::test]
async fn checkpoints_of_lost_owners_and_damaged_ones_are_passed_over() {
    let (memory, bucket) = new_image().await;
    let first = take(&bucket, 1).await.unwrap();
    let one = put(&first, &empty(1, Position::ROOT, Kind::Fence)).await;
    let stray = empty(1, one, Kind::Data).header.position;
    let second = take(&bucket, 2).await.unwrap();
    let fence = put(&second, &empty(2, one, Kind::Fence)).await;
    let good = Checkpoint { position: fence, ..Checkpoint::empty(IMAGE, 9) };
    let key = name::checkpoint(IMAGE, fence.epoch, fence.number);
    second.put_object(&key, good.encode()).await.unwrap();
    // The older owner, asleep, checkpoints a segment that never became a member.
    let bad = Checkpoint { position: Position { number: Number(9), ..stray }, ..Checkpoint::empty(IMAGE, 1) };
    let bad_key = name::checkpoint(IMAGE, Epoch(1), Number(9));
    first.put_object(&bad_key, bad.encode()).await.unwrap();
    let last = put(&second, &empty(2, fence, Kind::Data)).await;
    let last = put(&second, &empty(2, last, Kind::Data)).await;
    let loaded = load(&*bucket, IMAGE).await.unwrap();
    assert_eq!((loaded.checkpoint.size, loaded.chain.head), (9, last));
    assert!(memory.corrupt(&key, 50, 1));
    let loaded = load(&*bucket, IMAGE).await.unwrap();
    assert_eq!((loaded.checkpoint.position, loaded.chain.head), (Position::ROOT, last));
    assert!(loaded.passed_over.iter().any(|(k, _)| *k == key));
}

#[tokio::test]
async fn images_are_listed_without_walking_their_objects() {
    let (_, bucket) = new_image().await;
    let other = ImageRecord {
        image: ImageId([8; 16]),
        name: "vol2".into(),
        created: 1,
        size: ByteSize::gib(1),
        block_size: 4096,
    };
    create_image(&*bucket, &other).await.unwrap();
    assert_eq!(
        create_image(&*bucket, &ImageRecord { created: 2, ..other.clone() }).await.unwrap_err().kind(),
        ErrorKind::Exists
    );
    take(&bucket, 1).await.unwrap();
    let broken = bucket::Key::new(format!("images/{}/image", ImageId([9; 16]))).unwrap();
    bucket.create(&broken, &bytes(1, 40).into(), &Attributes::default()).await.unwrap();
    // What others have there is passed over, names that sort in the middle of ours and before or behind all ASCII too.
    let (id, long) = (ImageId([8; 16]), "a".repeat(255));
    let names = ["!", "08", "0808/x", "cat.png", "holiday/1.jpg", "holiday/ü", "zoo", "ü/ü", &long];
    let names = names.iter().map(|name| name.to_string()).chain([format!("{id}/ü"), format!("{id}0")]);
    for name in names {
        let foreign = bucket::Key::new(format!("images/{name}")).unwrap();
        bucket.create(&foreign, &bytes(1, 40).into(), &Attributes::default()).await.unwrap();
    }
    let found = list_images(&*bucket).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[1].1.as_ref().unwrap(), &other);
    assert_eq!(found[2].1.as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn files_of_others_among_the_images_cost_few_calls() {
    let (_, bucket) = new_image().await;
    for n in 0..10_000 {
        for name in [format!("images/{n}.jpg"), format!("images/holiday/{n}.jpg")] {
            let foreign = bucket::Key::new(name).unwrap();
            bucket.create(&foreign, &bytes(1, 4).into(), &Attributes::default()).await.unwrap();
        }
    }
    let metered = bucket::Metered::new(bucket);
    assert_eq!(list_images(&metered).await.unwrap().len(), 1);
    let calls = metered.of(bucket::Operation::List).calls;
    assert!(calls <= 15, "{calls} calls");
}

#[derive(Debug, Clone, PartialEq)]
struct Mark(u64);

impl Piece for Mark {
    fn advance(&self, sectors: u64) -> Mark {
        Mark(self.0 + sectors)
    }
}

/// The extent map against an array, one sector at a time.
#[test]
fn an_extent_map_is_an_array() {
    for seed in 0..300 {
        let chance = SeededEntropy::new(seed);
        let mut map = ExtentMap::new();
        let mut model = [None; 64];
        for step in 0..60 {
            let start = chance.below(64);
            let span = Span::new(start, chance.below(64 - start + 1));
            let mut displaced = 0;
            let mut count = |cut: Span, old: Mark| {
                for i in 0..cut.count {
                    assert_eq!(model[(cut.start + i) as usize], Some(old.0 + i));
                }
                displaced += cut.count;
            };
            let covered = (span.start..span.end()).filter(|s| model[*s as usize].is_some()).count() as u64;
            let value = 1000 * (step + 1);
            if chance.chance(1, 4) {
                map.remove(span, &mut count);
                (span.start..span.end()).for_each(|s| model[s as usize] = None);
            } else {
                map.insert(span, Mark(value), &mut count);
                (span.start..span.end()).for_each(|s| model[s as usize] = Some(value + s - span.start));
            }
            assert_eq!(displaced, covered);
            let mut at = 0;
            map.walk(Span::new(0, 64), |run, value| {
                assert_eq!(run.start, at);
                for i in 0..run.count {
                    assert_eq!(model[(at + i) as usize], value.as_ref().map(|v| v.0 + i), "seed {seed}");
                }
                at = run.end();
            });
            assert_eq!(at, 64);
            let probe = chance.below(64);
            let next = map.next_from(probe).map(|(run, _)| run.start.max(probe));
            let first = (probe..64).find(|s| model[*s as usize].is_some());
            assert_eq!(next, first);
        }
    }
}

/// An index that no reader would take is not put: the older ones, which can be read, would be deleted for it.
#[tokio::test]
async fn what_cannot_be_read_back_is_not_put() {
    let (memory, bucket) = new_image().await;
    let own = take(&bucket, 1).await.unwrap();
    let key = name::checkpoint(IMAGE, Epoch(1), Number(1));
    // Memory that nobody touches costs nothing.
    let refused = own.put_object(&key, vec![0; (1 << 30) + 4096].into()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(memory.objects().iter().all(|(k, _)| *k != key));
    own.put_object(&key, vec![0; 4096].into()).await.unwrap();
}
