use super::*;
use proptest::prelude::*;

#[test]
fn pairs_are_read_in_order_and_once() {
    let pairs = Pairs::decode(b"A=1\0B=x=y\0C=\0\0\0").unwrap();
    assert_eq!(pairs.iter().collect::<Vec<_>>(), [("A", "1"), ("B", "x=y"), ("C", "")]);
    assert_eq!(pairs.get("B"), Some("x=y"));
    assert_eq!(pairs.get("D"), None);
    for wrong in [&b"A"[..], b"=1\0", b"A=1\0A=2\0", b"A=\xff\0", &[b'k'; 70]] {
        assert_eq!(Pairs::decode(wrong), None);
    }
    let mut text = Text::default();
    text.push("A", 1);
    text.push("B", "x");
    assert_eq!(text.0, b"A=1\0B=x\0");
}

#[test]
fn values_are_read_strictly() {
    assert_eq!(number("262144"), Some(262_144));
    assert_eq!(number("0x40000"), Some(0x40000));
    for wrong in ["", "0x", "+1", "-1", "1a", "99999999999999999999", " 1"] {
        assert_eq!(number(wrong), None, "{wrong}");
    }
    assert_eq!((boolean("Yes"), boolean("No"), boolean("yes")), (Some(true), Some(false), None));
}

#[test]
fn binary_values_come_in_hex_and_base64() {
    assert_eq!(binary("0x0102fF", 16), Some(vec![1, 2, 255]));
    assert_eq!(binary("0x123", 16), Some(vec![1, 0x23]));
    // RFC 4648 §10.
    for (text, plain) in [
        ("0bZg==", "f"),
        ("0bZm8=", "fo"),
        ("0bZm9v", "foo"),
        ("0bZm9vYg==", "foob"),
        ("0bZm9vYmFy", "foobar"),
    ] {
        assert_eq!(binary(text, 16).as_deref(), Some(plain.as_bytes()), "{text}");
    }
    for wrong in ["", "0x", "0b", "12", "0xzz", "0bZ", "0bZg=", "0b====", "0x0102030405", "é0"] {
        assert_eq!(binary(wrong, 4), None, "{wrong}");
    }
    assert_eq!(to_hex(&[0, 0xab]), "0x00ab");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Some(pairs) = Pairs::decode(&bytes) {
            for (_, value) in pairs.iter() {
                let _ = (number(value), binary(value, 64));
            }
        }
    }

    #[test]
    fn hex_survives(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        prop_assert_eq!(binary(&to_hex(&bytes), 64), Some(bytes));
    }
}
