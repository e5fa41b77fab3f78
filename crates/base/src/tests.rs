use crate::*;

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, bytes) in [
        ("4096", 4096),
        ("64 MiB", 64 << 20),
        ("100GiB", 100 << 30),
        ("1.5 kib", 1536),
        ("2TB", 2_000_000_000_000),
        ("1_000 b", 1000),
    ] {
        assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
    }
    for text in ["", "GiB", "1 XB", "-1", "99999999 PiB", "1.2.3 MiB", "nan"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    assert_eq!(ByteSize::mib(64).to_string(), "64 MiB");
    assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
}

#[test]
fn ids_survive_text() {
    let id = ImageId::generate(&SeededEntropy::new(1));
    assert_eq!(id.to_string().parse::<ImageId>().unwrap(), id);
    assert!("12".parse::<ImageId>().is_err());
    assert!("zz".repeat(16).parse::<ImageId>().is_err());
}

#[test]
fn checksums_have_their_published_check_values() {
    // The "check" of each algorithm is its value over the ASCII digits 1 to 9.
    let check: &[u8] = b"123456789";
    assert_eq!(checksum::crc64(check), 0xae8b_1486_0a79_9888);
    assert_eq!(checksum::crc64_xz_parts([check]), 0x995d_c9bb_df19_39fa);
    assert_eq!(checksum::crc32c(check), 0xe306_9283);
    assert_eq!(checksum::crc64_parts([&check[..4], &check[4..]]), checksum::crc64(check));
    let (a, b) = (checksum::crc64(&check[..4]), checksum::crc64(&check[4..]));
    assert_eq!(checksum::crc64_combine(a, b, 5), checksum::crc64(check));
}

#[test]
fn sums_of_parts_make_the_sum_of_the_whole() {
    let mut bytes = vec![0; 300_000];
    SeededEntropy::new(7).fill(&mut bytes);
    for (cut, end) in [(0, 0), (0, 5), (5, 5), (1, 2), (4096, 8192), (17, 65_553), (100_000, 300_000)] {
        let (a, b) = (checksum::crc64(&bytes[..cut]), checksum::crc64(&bytes[cut..end]));
        let whole = checksum::crc64(&bytes[..end]);
        assert_eq!(checksum::crc64_combine(a, b, (end - cut) as u64), whole, "{cut}, {end}");
    }
    // Lengths beyond what can be tried: two steps come to the same as one.
    let far = |sum, len| checksum::crc64_combine(sum, 0, len);
    assert_eq!(
        far(far(0x0123_4567_89ab_cdef, 1 << 62), (1 << 62) + 9),
        far(0x0123_4567_89ab_cdef, (1 << 63) + 9)
    );
}

#[test]
fn recycled_buffers_are_zeroed_when_asked_and_never_shared() {
    for len in [1, 4096, 4097, 100_000, 1 << 20, (4 << 20) + 1, 9 << 20] {
        let mut dirty = AlignedBuf::for_overwrite(len);
        dirty.fill(0xff);
        drop(dirty);
        let mut held: Vec<AlignedBuf> = (0..3).map(|_| AlignedBuf::zeroed(len)).collect();
        for (n, buf) in held.iter_mut().enumerate() {
            assert!(buf.len() == len && buf.iter().all(|b| *b == 0), "{len}");
            buf.fill(n as u8 + 1);
        }
        assert!(held.iter().enumerate().all(|(n, buf)| buf.iter().all(|b| *b == n as u8 + 1)), "{len}");
    }
    // Many threads at once: what one holds no other can write to.
    let work = |n: u8| {
        for round in 0..200 {
            let mut buf = AlignedBuf::for_overwrite(4096 << (round % 4));
            buf.fill(n);
            let bytes = buf.into_bytes();
            assert!(bytes.iter().all(|b| *b == n));
        }
    };
    std::thread::scope(|scope| (1..=4).for_each(|n| drop(scope.spawn(move || work(n)))));
}

#[test]
fn warmed_memory_reads_as_zero() {
    buffer::warm(6 << 20);
    let held: Vec<AlignedBuf> = (0..20).map(|_| AlignedBuf::zeroed(300 << 10)).collect();
    assert!(held.iter().all(|buf| buf.iter().all(|byte| *byte == 0)));
}

#[test]
fn memory_beyond_what_is_kept_goes_back_and_reads_as_zero() {
    buffer::keep(0);
    for len in [4096, 64 << 10, 4 << 20, 5 << 20] {
        let mut held: Vec<AlignedBuf> = (0..40).map(|_| AlignedBuf::for_overwrite(len)).collect();
        held.iter_mut().for_each(|buf| buf.fill(0xee));
        drop(held);
        let again: Vec<AlignedBuf> = (0..40).map(|_| AlignedBuf::zeroed(len)).collect();
        assert!(again.iter().all(|buf| buf.len() == len && buf.iter().all(|byte| *byte == 0)));
    }
    buffer::keep(128 << 20);
}

#[test]
fn aligned_buffers_are_aligned_shared_and_freed() {
    let mut buf = AlignedBuf::zeroed(10_000);
    assert!(buf.iter().all(|b| *b == 0));
    buf[9_999] = 7;
    assert_eq!(buf.as_ptr() as usize % buffer::ALIGN, 0);
    let bytes = buf.into_bytes();
    let tail = bytes.slice(9_000..);
    drop(bytes);
    assert_eq!(tail[999], 7);
    assert_eq!(&AlignedBuf::copy_of(b"abc")[..], b"abc");
    assert!(AlignedBuf::zeroed(0).is_empty());
}

#[test]
fn errors_show_their_causes_once() {
    let e = Error::caused(ErrorKind::Unavailable, "put seg/1", std::io::Error::other("reset"));
    let e = e.within("destage vol1");
    assert_eq!(e.to_string(), "destage vol1: put seg/1: reset");
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert_eq!(e.duplicate().to_string(), e.to_string());
}

#[test]
fn spans_intersect() {
    let a = Span::new(10, 10);
    assert_eq!(a.intersect(Span::new(15, 100)), Some(Span::new(15, 5)));
    assert_eq!(a.intersect(Span::new(20, 1)), None);
}

#[test]
fn chunks_hold_all_bytes_in_order_and_lie_aligned() {
    let rng = SeededEntropy::new(7);
    for round in 0..200 {
        let parts: Vec<bytes::Bytes> = (0..rng.below(9))
            .map(|_| {
                let mut bytes = vec![0; rng.below(20_000) as usize];
                rng.fill(&mut bytes);
                bytes::Bytes::from(bytes)
            })
            .collect();
        let (mut seen, mut lengths) = (Vec::new(), Vec::new());
        let size = buffer::ALIGN * (1 + round % 4);
        buffer::in_chunks(&parts, size, |at, chunk| {
            assert_eq!(at, seen.len() as u64);
            assert!((chunk.as_ptr() as usize).is_multiple_of(buffer::ALIGN));
            seen.extend_from_slice(chunk);
            lengths.push(chunk.len());
            Ok::<(), ()>(())
        })
        .expect("nothing fails");
        assert_eq!(seen, parts.concat());
        assert!(lengths.iter().rev().skip(1).all(|len| *len == size));
    }
}
