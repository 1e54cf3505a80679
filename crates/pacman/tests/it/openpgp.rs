//! Detached signatures against keyrings: keys of our own making, and a real distribution's.

use crate::skip;
use pacstore_pacman::build::SigningKey;
use pacstore_pacman::openpgp::{Check, Keyring, KeyringError, KeyringFile, MAX_SIGNATURE, Verdict};
use std::path::Path;

const BORN: u64 = 1_744_500_000;
const NOW: u64 = BORN + 1_000_000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32], "Somebody <somebody@example.org>", BORN).unwrap()
}

fn ring(files: &[(&str, &[u8])]) -> Keyring {
    read(files).unwrap()
}

fn read(files: &[(&str, &[u8])]) -> Result<Keyring, KeyringError> {
    let known = files
        .iter()
        .filter_map(|(name, bytes)| Some((KeyringFile::of(name)?, *name, *bytes)));
    Keyring::read(known)
}

fn verify(ring: &Keyring, signature: &[u8], bytes: &[u8]) -> Verdict {
    ring.verify(signature, &mut &bytes[..], NOW).unwrap()
}

#[test]
fn a_good_signature_names_its_key_and_time() {
    let key = key(1);
    let ring = ring(&[("own.gpg", &key.public_key())]);
    let bytes = vec![7; 300_000];
    let signature = key.sign(&mut &bytes[..], BORN + 5).unwrap();
    match verify(&ring, &signature, &bytes) {
        Verdict::Good(signed) => {
            assert_eq!(
                (signed.key, signed.made, signed.key_until),
                (key.fingerprint(), BORN + 5, None)
            );
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_changed_byte_an_unknown_key_and_a_date_before_the_key_are_told_apart() {
    let (mine, other) = (key(1), key(2));
    let ring = ring(&[("own.gpg", &mine.public_key())]);
    let signature = mine.sign(&mut &b"package"[..], BORN).unwrap();
    assert_eq!(
        verify(&ring, &signature, b"packagf"),
        Verdict::Bad {
            key: mine.fingerprint()
        }
    );
    assert!(verify(&ring, &signature, b"package").is_good());
    let foreign = other.sign(&mut &b"package"[..], BORN).unwrap();
    assert_eq!(
        verify(&ring, &foreign, b"package"),
        Verdict::Unknown {
            issuer: other.fingerprint()
        }
    );
    let early = mine.sign(&mut &b"package"[..], BORN - 1).unwrap();
    assert_eq!(
        verify(&ring, &early, b"package"),
        Verdict::KeyExpired {
            key: mine.fingerprint(),
            until: BORN
        }
    );
}

#[test]
fn of_two_signatures_the_worse_one_counts() {
    let (mine, other) = (key(1), key(2));
    let ring = ring(&[("own.gpg", &mine.public_key())]);
    let mut both = mine.sign(&mut &b"x"[..], BORN).unwrap();
    both.extend(other.sign(&mut &b"x"[..], BORN).unwrap());
    assert_eq!(
        verify(&ring, &both, b"x"),
        Verdict::Unknown {
            issuer: other.fingerprint()
        }
    );
}

#[test]
fn lists_revoke_and_limit_whom_is_trusted() {
    let (mine, other) = (key(1), key(2));
    let mut keys = mine.public_key();
    keys.extend(other.public_key());
    let signature = |key: &SigningKey| key.sign(&mut &b"x"[..], BORN).unwrap();

    let revoked = format!("# gone\n{}\n", mine.fingerprint().to_lowercase());
    let ring1 = ring(&[("a.gpg", &keys), ("a-revoked", revoked.as_bytes())]);
    assert_eq!(
        verify(&ring1, &signature(&mine), b"x"),
        Verdict::Revoked {
            key: mine.fingerprint()
        }
    );
    assert!(verify(&ring1, &signature(&other), b"x").is_good());

    let trusted = format!("{}:4:\n", mine.fingerprint());
    let ring2 = ring(&[("a.gpg", &keys), ("a-trusted", trusted.as_bytes())]);
    assert!(verify(&ring2, &signature(&mine), b"x").is_good());
    assert_eq!(
        verify(&ring2, &signature(&other), b"x"),
        Verdict::Untrusted {
            key: other.fingerprint()
        }
    );
}

#[test]
fn what_is_no_signature_is_malformed_whatever_it_is() {
    let key = key(1);
    let ring = ring(&[("own.gpg", &key.public_key())]);
    let signature = key.sign(&mut &b"x"[..], BORN).unwrap();
    let page = b"<html>not found</html>".to_vec();
    for bad in [
        vec![],
        page,
        vec![0xff; 500],
        vec![0x88; MAX_SIGNATURE + 1],
        key.public_key(),
    ] {
        let verdict = verify(&ring, &bad, b"x");
        assert!(matches!(verdict, Verdict::Malformed(_)), "{verdict}");
    }
    for cut in 0..signature.len() {
        let verdict = verify(&ring, &signature[..cut], b"x");
        assert!(!verdict.is_good(), "cut at {cut}: {verdict}");
    }
    for at in 0..signature.len() * 8 {
        let mut bent = signature.clone();
        bent[at / 8] ^= 1 << (at % 8);
        // Not signed: the subpacket with the key id, a hint that nobody looks at beside the fingerprint, and in how
        // many bits the two numbers of the signature are written.
        let hints = [(39, 49), (51, 53), (85, 87)];
        let is_hint = hints.iter().any(|(from, to)| (*from..*to).contains(&(at / 8)));
        let verdict = verify(&ring, &bent, b"x");
        assert!(!verdict.is_good() || is_hint, "bit {at}: {verdict}");
    }
}

#[test]
fn a_keyring_of_foreign_bytes_is_an_error_and_never_a_panic() {
    assert!(matches!(read(&[]), Err(KeyringError::Empty)));
    assert!(matches!(read(&[("x.gpg", b"")]), Err(KeyringError::Empty)));
    assert!(matches!(
        read(&[("x.gpg", b"hello")]),
        Err(KeyringError::Broken { .. })
    ));
    let key = key(1).public_key();
    for cut in 1..key.len() {
        // A key without its own certification is no key.
        assert!(read(&[("x.gpg", &key[..cut])]).is_err(), "cut at {cut}");
    }
    for at in 0..key.len() {
        let mut bent = key.clone();
        bent[at] ^= 0x55;
        let _ = read(&[("x.gpg", &bent)]);
        let _ = Check::new(&bent);
    }
    let mut box_of = b"\0\0\0\x20\x01\x01\0\x02KBXf".to_vec();
    box_of.resize(32, 0);
    box_of.extend(b"\xff\xff\xff\xff\x02\x01\0\0\0\0\0\0\0\0\0\x09");
    assert!(matches!(
        read(&[("pubring.kbx", &box_of)]),
        Err(KeyringError::Broken { .. })
    ));
}

/// Every signature of the last real update, by a key that has expired since.
#[test]
fn a_real_repository_verifies_with_a_key_that_expired_after_signing() {
    const FIXTURE: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/arcolinux-testing"
    );
    let fixture = Path::new(FIXTURE);
    if !fixture.is_dir() {
        return skip("../shared/fixtures/arcolinux-testing is not there");
    }
    let file = |name: &str| std::fs::read(fixture.join("keys").join(name)).unwrap();
    let (keys, trusted, revoked) = (
        file("arcolinux.gpg"),
        file("arcolinux-trusted"),
        file("arcolinux-revoked"),
    );
    let ring = ring(&[
        ("arcolinux.gpg", &keys),
        ("arcolinux-trusted", &trusted),
        ("arcolinux-revoked", &revoked),
    ]);
    let newest = std::fs::read_dir(fixture.join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max()
        .unwrap();
    let manifest = std::fs::read_to_string(newest.join("manifest")).unwrap();
    let mut blobs = std::collections::BTreeMap::new();
    for line in manifest.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        if columns[5] == "present" {
            blobs.insert(columns[0], columns[1]);
        }
    }
    let blob = |name: &str| std::fs::read(fixture.join("blobs").join(blobs[name])).unwrap();
    let mut seen = 0;
    for name in blobs.keys() {
        let Some(signed) = name
            .strip_suffix(".sig")
            .filter(|signed| blobs.contains_key(signed))
        else {
            continue;
        };
        // In 2030, long after the key's term.
        let verdict = ring
            .verify(&blob(name), &mut &blob(signed)[..], 1_900_000_000)
            .unwrap();
        match verdict {
            Verdict::Good(good) => {
                let until = good.key_until.unwrap();
                assert!(good.made < until && until < 1_800_000_000, "{signed}: {good:?}");
            }
            other => panic!("{signed}: {other}"),
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen} signatures");
}
