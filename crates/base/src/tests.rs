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
