//! Targets of crate `pacman`: signatures and keyrings.

use std::sync::LazyLock;

use pacstore_pacman::Seal;
use pacstore_pacman::build::SigningKey;
use pacstore_pacman::openpgp::{Keyring, KeyringFile, Verdict};

const SIGNED: &[u8] = b"a database";
const TIME: u64 = 1_700_000_000;
const NOW: u64 = 1_800_000_000;

/// A key, the file of its public half, and what it signed; made once, always the same.
struct Signer {
    public: Vec<u8>,
    signature: Vec<u8>,
}

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let key = SigningKey::from_seed([5; 32], "Packager <packager@example.org>", TIME).expect("a key");
    Signer {
        public: key.public_key(),
        signature: key.sign(&mut &*SIGNED, TIME + 1).expect("a signature"),
    }
});

fn check(keyring: &Keyring, signature: &[u8], file: &[u8]) -> Verdict {
    keyring
        .verify(signature, &mut &*file, NOW)
        .expect("reading memory does not fail")
}

/// The content of a `.sig`: one that is good for some bytes is good for no others.
pub(crate) fn signature(bytes: &[u8]) {
    if let Some(seal) = Seal::read(bytes) {
        let _ = (seal.made(), seal.fit(|| Ok(SIGNED)));
    }
    let keys = [(KeyringFile::Keys, "keys.gpg", &SIGNER.public[..])];
    let keyring = Keyring::read(keys).expect("a keyring of ours");
    if check(&keyring, bytes, SIGNED).is_good() {
        assert!(
            !check(&keyring, bytes, b"other bytes").is_good(),
            "good for all bytes"
        );
    }
}

/// A signature of ours.
pub(crate) fn signature_seeds() -> Vec<Vec<u8>> {
    vec![SIGNER.signature.clone()]
}

const KINDS: [KeyringFile; 4] = [
    KeyringFile::Keys,
    KeyringFile::Trusted,
    KeyringFile::Revoked,
    KeyringFile::TrustDb,
];

/// A file of a keyring; the first byte says which. A good signature is looked at with it.
pub(crate) fn keyring(bytes: &[u8]) {
    let (kind, bytes) = bytes.split_first().unwrap_or((&0, bytes));
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let own = (kind != KeyringFile::Keys).then_some((KeyringFile::Keys, "own.gpg", &SIGNER.public[..]));
    if let Ok(keyring) = Keyring::read([(kind, "foreign", bytes)].into_iter().chain(own)) {
        assert!(!check(&keyring, &SIGNER.signature, b"other bytes").is_good());
        let _ = check(&keyring, &SIGNER.signature, SIGNED);
    }
}

/// Keys, a list of fingerprints, an empty trust database.
pub(crate) fn keyring_seeds() -> Vec<Vec<u8>> {
    let list = b"0123456789ABCDEF0123456789ABCDEF01234567:4:\n";
    let mut trust = vec![3, 1];
    trust.extend_from_slice(b"gpg\x03\x03\x01\x05\x01\0\0\0\x65\x53\xf1\0");
    trust.resize(161, 0);
    let kind = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![kind(0, &SIGNER.public), kind(1, list), kind(2, list), trust]
}
