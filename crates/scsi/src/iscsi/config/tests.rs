use super::*;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes())
}

#[test]
fn secrets_that_would_weaken_chap_are_refused() {
    // X03: short secrets fall to a dictionary, equal ones to reflection.
    assert!(Credential::new("u", secret("elevenbytes")).is_err());
    assert!(Credential::new("", secret("twelve bytes")).is_err());
    let user = || Credential::new("user", secret("initiator secret")).unwrap();
    assert!(Authentication::chap(vec![], None).is_err());
    assert!(
        Authentication::chap(vec![user()], Credential::new("target", secret("initiator secret")).ok())
            .is_err()
    );
    let mutual =
        Authentication::chap(vec![user()], Credential::new("target", secret("the target's own")).ok())
            .unwrap();
    assert!(mutual.is_required());
    let shown = format!("{mutual:?}");
    assert!(!shown.contains("secret\"") && !shown.contains("own"), "{shown}");
}

#[test]
fn networks_hold_their_addresses() {
    let holds = |net: &str, ip: &str| net.parse::<Network>().unwrap().contains(ip.parse().unwrap());
    assert!(holds("10.0.0.0/8", "10.200.3.4") && !holds("10.0.0.0/8", "11.0.0.1"));
    assert!(
        holds("0.0.0.0/0", "1.2.3.4")
            && holds("192.168.1.7", "192.168.1.7")
            && !holds("192.168.1.7", "192.168.1.6")
    );
    assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1") && holds("::/0", "::1"));
    assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1") && !holds("::/0", "10.1.1.1"));
    for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "a/1", "10.0.0.0/-1", "10.0.0.0/"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

#[test]
fn both_name_and_address_have_to_be_admitted() {
    let name: IscsiName = "iqn.2001-04.com.acme:a".parse().unwrap();
    let other: IscsiName = "iqn.2001-04.com.acme:b".parse().unwrap();
    let list =
        AllowList { initiators: Some([name.clone()].into()), networks: vec!["10.0.0.0/8".parse().unwrap()] };
    let (inside, outside) = ("10.1.1.1".parse().unwrap(), "11.1.1.1".parse().unwrap());
    assert!(list.admits(&name, inside));
    assert!(!list.admits(&name, outside) && !list.admits(&other, inside));
    assert!(AllowList::default().admits(&other, outside));
}
