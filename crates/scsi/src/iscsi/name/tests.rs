use super::*;

#[test]
fn names_of_all_three_kinds_are_read_and_normalized() {
    // B26, B27, B28 with the founding documents' own examples.
    for (text, normal) in [
        ("iqn.2001-04.com.acme:storage.tape.sys1.xyz", "iqn.2001-04.com.acme:storage.tape.sys1.xyz"),
        ("IQN.2001-04.Com.Example", "iqn.2001-04.com.example"),
        ("iqn.1993-08.org.debian:01:abcdef", "iqn.1993-08.org.debian:01:abcdef"),
        ("iqn.2010-12.de.bücher:x", "iqn.2010-12.de.bücher:x"),
        ("eui.02004567A425678D", "eui.02004567a425678d"),
        ("naa.52004567BA64678D", "naa.52004567ba64678d"),
        ("naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"),
    ] {
        assert_eq!(text.parse::<IscsiName>().unwrap().as_str(), normal);
    }
}

#[test]
fn malformed_names_are_refused() {
    let long = format!("iqn.2001-04.com.acme:{}", "x".repeat(203));
    for text in [
        "",
        "iqn",
        "iqn.",
        "iqn.2001-04",
        "iqn.2001-04.",
        "iqn.2001-13.com.a",
        "iqn.2001-00.com.a",
        "iqn.201-04.com.a",
        "iqn.2001-4.com.a",
        "iqn.2001-04..a",
        "iqn.2001-04.com.a b",
        "iqn.2001-04.com.a:b_c",
        "iqn.2001-04.com.a:b/c",
        "eui.0200",
        "eui.02004567A425678G",
        "naa.5200",
        "naa.52004567BA64678D0",
        "disk",
        &long,
    ] {
        assert!(text.parse::<IscsiName>().is_err(), "{text}");
    }
}

#[test]
fn transport_ids_follow_spc() {
    let name: IscsiName = "iqn.2001-04.com.acme:x".parse().unwrap();
    let id = transport_id(&name, [0x80, 0, 0, 0, 0, 1]);
    assert_eq!(id[0], 0x45);
    assert_eq!(id.len() % 4, 0);
    assert_eq!(usize::from(u16::from_be_bytes([id[2], id[3]])), id.len() - 4);
    assert!(id[4..].starts_with(b"iqn.2001-04.com.acme:x,i,0x800000000001\0"));
}
