use super::*;

#[test]
fn digests_are_over_identifier_secret_and_challenge() {
    // RFC 1994 §4.1 defines it as H(id ‖ secret ‖ challenge); the digests' own published vectors are for "abc" and
    // "message digest" (RFC 1321 §A.5, FIPS 180-2 §B.1).
    let secret = Secret::new(*b"b");
    assert_eq!(
        super::super::text::to_hex(&Algorithm::Md5.response(b'a', &secret, b"c")),
        "0x900150983cd24fb0d6963f7d28e17f72"
    );
    let secret = Secret::new(*b"essage ");
    assert_eq!(
        super::super::text::to_hex(&Algorithm::Md5.response(b'm', &secret, b"digest")),
        "0xf96b697d7cb7938d525a2f31aaf161d0"
    );
    let secret = Secret::new(*b"b");
    assert_eq!(
        super::super::text::to_hex(&Algorithm::Sha256.response(b'a', &secret, b"c")),
        "0xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn the_initiators_first_known_algorithm_is_chosen() {
    assert_eq!(Algorithm::choose("5"), Some(Algorithm::Md5));
    assert_eq!(Algorithm::choose("8,7,6,5"), Some(Algorithm::Sha256));
    assert_eq!(Algorithm::choose("5,7"), Some(Algorithm::Md5));
    for none in ["", "6", "56", "8", "x"] {
        assert_eq!(Algorithm::choose(none), None, "{none}");
    }
}

#[test]
fn comparison_is_exact_and_secrets_do_not_show() {
    assert!(same(b"abc", b"abc") && !same(b"abc", b"abd") && !same(b"abc", b"ab") && same(b"", b""));
    assert!(!format!("{:?}", Secret::new(*b"hunter2hunter2")).contains("hunter"));
}
