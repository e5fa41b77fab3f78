//! CHAP as it passes over the wire (X02, X03); the rest of the login is tested with the connection.

use crate::iscsi::chap::{Algorithm, Secret};
use crate::iscsi::connection::script::{INITIATOR, Initiator, Pdu, TARGET, World};
use crate::iscsi::text::{binary, to_hex};
use crate::iscsi::{Authentication, Credential, Discovery, TargetConfig};

const USER: &[u8] = b"initiator-secret";
const OWN: &[u8] = b"target-own-secret";

fn chap(mutual: bool) -> Authentication {
    let user = Credential::new("user", Secret::new(USER)).unwrap();
    let own = mutual.then(|| Credential::new("disk", Secret::new(OWN)).unwrap());
    Authentication::chap(vec![user], own).unwrap()
}

fn world(mutual: bool) -> World {
    let world = World::new();
    world.registry.update(TargetConfig { authentication: chap(mutual), ..world.config.clone() }).unwrap();
    world
}

fn value(pdu: &Pdu, key: &str) -> Option<String> {
    pdu.text().lines().find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned))
}

/// Goes as far as the target's challenge; returns its identifier and challenge.
fn challenged(i: &mut Initiator, algorithm: &str) -> (u8, Vec<u8>) {
    challenged_by(TARGET, i, algorithm)
}

fn challenged_by(target: &str, i: &mut Initiator, algorithm: &str) -> (u8, Vec<u8>) {
    let names = [("InitiatorName", INITIATOR), ("TargetName", target), ("AuthMethod", "CHAP,None")];
    let response = i.login_step(0x00, &names);
    assert_eq!((response.login_status(), value(&response, "AuthMethod").as_deref()), (0, Some("CHAP")));
    let response = i.login_step(0x00, &[("CHAP_A", algorithm)]);
    assert_eq!(response.login_status(), 0);
    let id = value(&response, "CHAP_I").unwrap().parse().unwrap();
    (id, binary(&value(&response, "CHAP_C").unwrap(), 1024).unwrap())
}

fn digest(algorithm: Algorithm, id: u8, secret: &[u8], challenge: &[u8]) -> String {
    to_hex(&algorithm.response(id, &Secret::new(secret), challenge))
}

#[test]
fn one_way_chap_admits_who_knows_the_secret() {
    for (list, algorithm) in [("5", Algorithm::Md5), ("8,7,6,5", Algorithm::Sha256)] {
        let world = world(false);
        let mut i = world.connect();
        let (id, challenge) = challenged(&mut i, list);
        let proof = digest(algorithm, id, USER, &challenge);
        let response = i.login_step(0x81, &[("CHAP_N", "user"), ("CHAP_R", &proof)]);
        assert_eq!((response.login_status(), response.header.flags()), (0, 0x81));
        let response = i.login_step(0x87, &[("ImmediateData", "Yes")]);
        assert_eq!((response.login_status(), response.header.flags()), (0, 0x87));
        i.settle();
    }
}

#[test]
fn who_does_not_prove_it_stays_outside() {
    let world = world(false);
    for (name, secret) in [("user", &b"another secret"[..]), ("nobody", USER), ("", USER)] {
        let mut i = world.connect();
        let (id, challenge) = challenged(&mut i, "5");
        let proof = digest(Algorithm::Md5, id, secret, &challenge);
        assert_eq!(
            i.login_step(0x81, &[("CHAP_N", name), ("CHAP_R", &proof)]).login_status(),
            0x0201,
            "{name}"
        );
        assert_eq!(world.registry.sessions().len(), 0);
    }
    let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    for (flags, keys) in [
        (0x00, &[("AuthMethod", "None")][..]),
        (0x87, &[("AuthMethod", "None")]),
        (0x83, &[]),
        (0x81, &[]),
        (0x87, &[]),
    ] {
        let mut i = world.connect();
        let status = i.login_step(flags, &[&names[..], keys].concat()).login_status();
        assert_eq!(status, 0x0201, "{flags:#x} {keys:?}");
    }
    let mut i = world.connect();
    i.login_step(0x00, &[&names[..], &[("AuthMethod", "CHAP")]].concat());
    assert_eq!(i.login_step(0x00, &[("CHAP_A", "56")]).login_status(), 0x0201);
}

#[test]
fn steps_of_the_exchange_cannot_be_left_out_or_repeated() {
    let world = world(true);
    let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    let mut i = world.connect();
    let early = [&names[..], &[("CHAP_N", "user"), ("CHAP_R", "0x00")]].concat();
    assert_eq!(i.login_step(0x00, &early).login_status(), 0x0200);
    let mut i = world.connect();
    let (id, challenge) = challenged(&mut i, "5");
    let proof = digest(Algorithm::Md5, id, USER, &challenge);
    assert_eq!(i.login_step(0x00, &[("CHAP_A", "5"), ("CHAP_R", &proof)]).login_status(), 0x0200);
    // A response to one challenge is no response to another.
    let mut i = world.connect();
    let (other_id, other) = challenged(&mut i, "5");
    assert_ne!((id, &challenge), (other_id, &other));
    assert_eq!(i.login_step(0x81, &[("CHAP_N", "user"), ("CHAP_R", &proof)]).login_status(), 0x0201);
}

#[test]
fn mutual_chap_proves_the_target_too() {
    let world = world(true);
    let mut i = world.connect();
    let (id, challenge) = challenged(&mut i, "7,5");
    let proof = digest(Algorithm::Sha256, id, USER, &challenge);
    let keys = [
        ("CHAP_N", "user"),
        ("CHAP_R", proof.as_str()),
        ("CHAP_I", "9"),
        ("CHAP_C", "0x000102030405060708090a0b0c0d0e0f"),
    ];
    let response = i.login_step(0x87, &keys);
    assert_eq!(response.login_status(), 0x020b, "the stage was 0, not 1");
    let mut i = world.connect();
    let (id, challenge) = challenged(&mut i, "7,5");
    let proof = digest(Algorithm::Sha256, id, USER, &challenge);
    let keys = [
        ("CHAP_N", "user"),
        ("CHAP_R", proof.as_str()),
        ("CHAP_I", "9"),
        ("CHAP_C", "0x000102030405060708090a0b0c0d0e0f"),
    ];
    let response = i.login_step(0x81, &keys);
    assert_eq!(response.login_status(), 0);
    let ours: Vec<u8> = (0..16).collect();
    assert_eq!(value(&response, "CHAP_N").as_deref(), Some("disk"));
    assert_eq!(value(&response, "CHAP_R"), Some(digest(Algorithm::Sha256, 9, OWN, &ours)));
}

#[test]
fn a_reflected_challenge_gets_no_answer() {
    let world = world(true);
    let mut i = world.connect();
    let (id, challenge) = challenged(&mut i, "5");
    let proof = digest(Algorithm::Md5, id, USER, &challenge);
    let reflected = to_hex(&challenge);
    let keys = [("CHAP_N", "user"), ("CHAP_R", &proof), ("CHAP_I", "1"), ("CHAP_C", &reflected)];
    let response = i.login_step(0x81, &keys);
    assert_eq!(response.login_status(), 0x0201);
    assert_eq!(value(&response, "CHAP_R"), None);
    // Nor does a challenge to a target that has no name of its own.
    let world = self::world(false);
    let mut i = world.connect();
    let (id, challenge) = challenged(&mut i, "5");
    let proof = digest(Algorithm::Md5, id, USER, &challenge);
    let keys = [("CHAP_N", "user"), ("CHAP_R", proof.as_str()), ("CHAP_I", "1"), ("CHAP_C", "0x0102")];
    assert_eq!(i.login_step(0x81, &keys).login_status(), 0x0201);
}

#[test]
fn discovery_has_secrets_of_its_own() {
    let world = World::new();
    world.registry.set_discovery(Discovery { authentication: chap(false), ..Discovery::default() });
    let mut i = world.connect();
    let keys = [("InitiatorName", INITIATOR), ("SessionType", "Discovery"), ("AuthMethod", "None")];
    assert_eq!(i.login_step(0x81, &keys).login_status(), 0x0201);
    let mut i = world.connect();
    let keys = [("InitiatorName", INITIATOR), ("SessionType", "Discovery"), ("AuthMethod", "CHAP")];
    assert_eq!(i.login_step(0x00, &keys).login_status(), 0);
    let response = i.login_step(0x00, &[("CHAP_A", "5")]);
    let id = value(&response, "CHAP_I").unwrap().parse().unwrap();
    let challenge = binary(&value(&response, "CHAP_C").unwrap(), 1024).unwrap();
    let proof = digest(Algorithm::Md5, id, USER, &challenge);
    let response = i.login_step(0x83, &[("CHAP_N", "user"), ("CHAP_R", &proof)]);
    assert_eq!(
        (response.login_status(), response.header.flags()),
        (0, 0x83),
        "straight to the full feature phase"
    );
    i.text(1, crate::iscsi::pdu::NO_TAG, b"SendTargets=All\0");
    assert!(i.one().text().contains(TARGET));
}

/// Logs in with a wrong secret; gives the response, if there is one yet.
fn guess(world: &World, peer: &str) -> (Initiator, Option<u32>) {
    let mut i = world.connect_from(peer);
    let (id, challenge) = challenged(&mut i, "5");
    let proof = digest(Algorithm::Md5, id, b"a wrong guess", &challenge);
    i.login_request(0x81, format!("CHAP_N=user\0CHAP_R={proof}\0").as_bytes());
    let status = i.receive().first().map(Pdu::login_status);
    (i, status)
}

#[test]
fn who_guesses_waits_and_nobody_else_does() {
    // X03
    let world = world(false);
    let (attacker, neighbour) = ("192.0.2.66:1000", "192.0.2.7:1000");
    let told = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = told.clone();
    world.registry.on_guessing(move |guessing| heard.lock().push(guessing));
    for _ in 0..3 {
        assert_eq!(guess(&world, attacker).1, Some(0x0201));
    }
    for late in [1, 2, 4, 8, 8] {
        let (mut i, status) = guess(&world, attacker);
        assert_eq!(status, None);
        assert!(i.connection.input_space().is_none() && !i.connection.is_closing());
        i.pass(late - 1);
        assert!(i.receive().is_empty(), "not before {late} s");
        i.pass(1);
        assert_eq!(i.one().login_status(), 0x0201);
        assert!(i.connection.is_closing() && i.connection.is_parting());
        i.pass(1);
        assert!(i.connection.is_finished(), "it is closed as after every refusal");
    }
    assert_eq!(told.lock().iter().map(|g| g.address.to_string()).collect::<Vec<_>>(), ["192.0.2.66"]);

    // Others are answered at once, and so is the one who knows the secret, from the same address too.
    assert_eq!(guess(&world, neighbour).1, Some(0x0201));
    let mut i = world.connect_from(attacker);
    let (id, challenge) = challenged(&mut i, "5");
    let proof = digest(Algorithm::Md5, id, USER, &challenge);
    assert_eq!(i.login_step(0x81, &[("CHAP_N", "user"), ("CHAP_R", &proof)]).login_status(), 0);
    assert_eq!(guess(&world, attacker).1, Some(0x0201), "the right proof has wiped the slate clean");
}

#[test]
fn an_account_at_one_target_does_not_help_to_guess_at_another() {
    // X03: a guess at the one volume, a login at one's own, and so on.
    let world = world(false);
    let peer = "192.0.2.66:1000";
    let login = |name: &str, secret: &[u8], target: &str| {
        let mut i = world.connect_from(peer);
        let (id, challenge) = challenged_by(target, &mut i, "5");
        let proof = digest(Algorithm::Md5, id, secret, &challenge);
        i.login_request(0x81, format!("CHAP_N={name}\0CHAP_R={proof}\0").as_bytes());
        i.receive().first().map(Pdu::login_status)
    };
    let own = "iqn.2026-01.org.tidegate:own";
    let config = TargetConfig { name: own.parse().unwrap(), ..world.config.clone() };
    let mine = Credential::new("mine", Secret::new(b"my very own secret")).unwrap();
    let authentication = Authentication::chap(vec![mine], None).unwrap();
    world.registry.add(TargetConfig { authentication, ..config }).unwrap();
    let guesses = [1, 2, 3, 4, 5].map(|_| {
        let guessed = login("user", b"a wrong guess", TARGET);
        assert_eq!(login("mine", b"my very own secret", own), Some(0), "the right proof is answered at once");
        guessed
    });
    assert_eq!(guesses, [Some(0x0201), Some(0x0201), Some(0x0201), None, None]);
}

#[test]
fn guessing_on_many_connections_is_turned_away_unseen() {
    let world = world(false);
    let attacker = "192.0.2.66:1000";
    let waiting: Vec<_> = (0..11).map(|_| guess(&world, attacker)).filter(|(_, s)| s.is_none()).collect();
    assert_eq!(waiting.len(), 8);
    let right = |peer: &str| {
        let mut i = world.connect_from(peer);
        let (id, challenge) = challenged(&mut i, "5");
        let proof = digest(Algorithm::Md5, id, USER, &challenge);
        i.login_step(0x81, &[("CHAP_N", "user"), ("CHAP_R", &proof)]).login_status()
    };
    assert_eq!(guess(&world, attacker).1, Some(0x0302), "too many: tried again later");
    assert_eq!(right(attacker), 0x0302, "right or wrong, so that nothing is learned");
    assert_eq!(right("192.0.2.7:1000"), 0);
    drop(waiting);
    assert_eq!(right(attacker), 0);
}
