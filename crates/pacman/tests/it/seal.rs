//! Signatures without keys.

use pacstore_pacman::build::SigningKey;
use pacstore_pacman::{Fit, Seal};

#[test]
fn a_signature_tells_its_time_and_of_which_bytes_it_is() {
    let key = SigningKey::from_seed([7; 32], "Nobody <nobody@example.org>", 1_700_000_000).unwrap();
    let made = key.sign(&mut &b"the database"[..], 1_700_000_123).unwrap();
    let seal = Seal::read(&made).expect("a signature");
    assert_eq!(seal.made(), Some(1_700_000_123));
    let fit = |data: &[u8]| seal.fit(|| Ok(data)).unwrap();
    assert_eq!(fit(b"the database"), Fit::Fits);
    // Two bytes of a digest: of 20 other texts at most one looks as if it fitted.
    let others = (0..20).filter(|n| fit(format!("other {n}").as_bytes()) == Fit::Other);
    assert!(others.count() >= 19);
}

#[test]
fn what_is_no_signature_is_not_read() {
    for bytes in [
        vec![],
        b"<html>not found</html>".to_vec(),
        vec![0x88; 3],
        vec![0xff; 4096],
        vec![0x88; 100_000],
    ] {
        assert!(Seal::read(&bytes).is_none(), "{} bytes", bytes.len());
    }
    let key = SigningKey::from_seed([7; 32], "Nobody <nobody@example.org>", 1_700_000_000).unwrap();
    // A key is no signature, and a cut one is none.
    assert!(Seal::read(&key.public_key()).is_none());
    let made = key.sign(&mut &b"x"[..], 1_700_000_123).unwrap();
    assert!(Seal::read(&made[..made.len() - 5]).is_none());
}

#[test]
fn the_beginning_of_a_signature_is_told_from_other_things() {
    let key = SigningKey::from_seed([7; 32], "Nobody <nobody@example.org>", 1_700_000_000).unwrap();
    let made = key.sign(&mut &b"x"[..], 1_700_000_123).unwrap();
    for len in 0..made.len() {
        assert!(Seal::is_cut(&made[..len]), "{len} of {} bytes", made.len());
    }
    // gpg's have the header of old, and of a length of two octets; that of four is allowed.
    let headers: [&[u8]; 5] = [
        &[0x88, 200],
        &[0x89, 0, 200],
        &[0x8a, 0, 0, 0, 200],
        &[0xc2, 192, 8],
        &[0xc2, 255, 0, 0, 0, 200],
    ];
    for header in headers {
        let whole = [header, &[4; 200]].concat();
        for len in 0..whole.len() {
            assert!(Seal::is_cut(&whole[..len]), "{header:x?}, {len} bytes");
        }
        assert!(!Seal::is_cut(&whole), "{header:x?}");
    }
    let others = [
        made,
        b"<html>".to_vec(),
        b"-----BEGIN PGP SIGNATURE-----".to_vec(),
        key.public_key(),
    ];
    for bytes in others {
        assert!(!Seal::is_cut(&bytes), "{:?}", &bytes[..5]);
    }
}
