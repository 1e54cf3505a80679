//! The keys that may sign, and whom they are trusted by.
//!
//! Trust is decided as GnuPG does it for pacman: the ultimate key of a GnuPG folder and the keys of a `-trusted` list are
//! valid; another key is valid if one valid key of full trust, or three of marginal trust, certified it. Where
//! nothing says whom to trust (a bare file of keys), every key in it may sign.
//!
//! - Invariant: a key that is revoked in any of the files is revoked.
//! - Not here: where the files lie, reading them.
//! - Read first: `pacman-key(8)`, "the keyring package"; GnuPG, "Key validity".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use data_encoding::HEXUPPER;
use pgp::packet::Signature;
use pgp::types::Tag;

use super::cert::{Cert, Signer, certificates};
use super::packets;

/// The most bytes of one file of a keyring; Arch's is 1.2 MiB.
pub const MAX_KEYRING: usize = 64 << 20;
/// The most certificates of a keyring; Arch's has about 200.
pub const MAX_CERTIFICATES: usize = 10_000;
/// The most packets of one file.
const MAX_PACKETS: usize = 1_000_000;
/// How many marginally trusted keys make another one valid; GnuPG's default.
const MARGINALS: usize = 3;
/// How long a chain of certifications may be; GnuPG's default.
const DEPTH: usize = 5;
/// Levels of owner trust, as in `gpg --export-ownertrust`.
const MARGINAL: u8 = 4;
const FULL: u8 = 5;
const ULTIMATE: u8 = 6;

/// What a file of a keyring's folder is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyringFile {
    /// Keys: `pubring.gpg`, `pubring.kbx`, `archlinux.gpg`, `key.asc`.
    Keys,
    /// Fingerprints of keys that are trusted to certify others: `archlinux-trusted`.
    Trusted,
    /// Fingerprints of keys that count no more: `archlinux-revoked`.
    Revoked,
    /// GnuPG's `trustdb.gpg`: owner trust, and keys that `pacman-key` disabled.
    TrustDb,
}

impl KeyringFile {
    /// By its name; `None` if it has nothing to tell.
    pub fn of(name: &str) -> Option<Self> {
        let ends = |ending: &str| name.strip_suffix(ending).is_some_and(|stem| !stem.is_empty());
        match name {
            "trustdb.gpg" => Some(Self::TrustDb),
            "secring.gpg" => None,
            _ if name.starts_with('.') => None,
            _ if [".gpg", ".kbx", ".asc", ".pgp"].into_iter().any(ends) => Some(Self::Keys),
            _ if ends("-trusted") => Some(Self::Trusted),
            _ if ends("-revoked") => Some(Self::Revoked),
            _ => None,
        }
    }
}

/// Why a keyring cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// A file is broken.
    #[error("`{file}` is no keyring: {why}")]
    Broken {
        /// Which.
        file: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A file, or all of them, hold more than we take.
    #[error("`{0}` is too large for a keyring")]
    TooLarge(String),
    /// There is no key that can sign.
    #[error("the keyring holds no key that can sign")]
    Empty,
}

/// A certificate and, once it was asked for, whether it is valid.
#[derive(Debug)]
struct Held {
    cert: Cert,
    valid: OnceLock<bool>,
}

/// The keys of a folder.
#[derive(Debug)]
pub struct Keyring {
    held: Vec<Held>,
    revoked: BTreeSet<String>,
    /// Valid keys whose word counts, with how much: certificate, level.
    introducers: Vec<(usize, u8)>,
    /// Whether every key is trusted, because nothing says which.
    open: bool,
}

impl Keyring {
    /// Reads the files of a keyring: what each is, its name (for errors), its bytes.
    ///
    /// # Errors
    /// [`KeyringError`] if a file is broken or too large, or no key is in them.
    pub fn read<'a>(
        files: impl IntoIterator<Item = (KeyringFile, &'a str, &'a [u8])>,
    ) -> Result<Self, KeyringError> {
        let mut certs = Vec::new();
        let mut revoked = BTreeSet::new();
        let mut owners = BTreeMap::new();
        let mut roots = BTreeSet::new();
        for (kind, name, bytes) in files {
            if bytes.len() > MAX_KEYRING {
                return Err(KeyringError::TooLarge(name.to_owned()));
            }
            match kind {
                KeyringFile::Keys => certs.extend(keys(name, bytes)?),
                KeyringFile::Revoked => revoked.extend(list(bytes).map(|(print, _)| print)),
                KeyringFile::Trusted => {
                    for (print, level) in list(bytes) {
                        roots.insert(print.clone());
                        owners.insert(print, level.unwrap_or(MARGINAL));
                    }
                }
                KeyringFile::TrustDb => {
                    for (print, trust) in trust_records(bytes) {
                        if trust.disabled {
                            revoked.insert(print.clone());
                        }
                        if trust.level == ULTIMATE {
                            roots.insert(print.clone());
                        }
                        owners.insert(print, trust.level);
                    }
                }
            }
            if certs.len() > MAX_CERTIFICATES {
                return Err(KeyringError::TooLarge(name.to_owned()));
            }
        }
        revoked.extend(certs.iter().filter(|c| c.revoked).map(|c| c.fingerprint.clone()));
        if !certs.iter().any(|c| !c.signers.is_empty()) {
            return Err(KeyringError::Empty);
        }
        let held = certs.into_iter().map(|cert| Held {
            cert,
            valid: OnceLock::new(),
        });
        let mut keyring = Self {
            held: held.collect(),
            revoked,
            introducers: Vec::new(),
            open: !owners.values().any(|level| *level >= MARGINAL),
        };
        keyring.introduce(&owners, &roots);
        Ok(keyring)
    }

    /// How many certificates there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Never, because such a keyring is not read.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Finds the valid keys whose word counts, from the roots on.
    fn introduce(&mut self, owners: &BTreeMap<String, u8>, roots: &BTreeSet<String>) {
        let mut waiting: Vec<(usize, u8)> = Vec::new();
        for (at, held) in self.held.iter().enumerate() {
            let level = owners.get(&held.cert.fingerprint).copied().unwrap_or_default();
            let root = roots.contains(&held.cert.fingerprint);
            if self.revoked.contains(&held.cert.fingerprint) {
                continue;
            }
            if root {
                let _ = held.valid.set(true);
            }
            if root && level >= MARGINAL {
                self.introducers.push((at, level));
            } else if level >= MARGINAL {
                waiting.push((at, level));
            }
        }
        for _ in 0..DEPTH {
            let (valid, still): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|(at, _)| self.held.get(*at).is_some_and(|h| self.is_introduced(&h.cert)));
            waiting = still;
            if valid.is_empty() {
                break;
            }
            self.introducers.extend(valid);
        }
    }

    /// Whether enough of those whose word counts certified it.
    fn is_introduced(&self, cert: &Cert) -> bool {
        let mut marginal = BTreeSet::new();
        for (at, level) in &self.introducers {
            let Some(by) = self.held.get(*at) else { continue };
            if !cert.is_vouched_for_by(&by.cert) {
                continue;
            }
            if *level >= FULL {
                return true;
            }
            marginal.insert(&by.cert.fingerprint);
        }
        marginal.len() >= MARGINALS
    }

    /// Whether the certificate is revoked, by its owner in any copy or by a list.
    pub(super) fn is_revoked(&self, cert: &Cert) -> bool {
        self.revoked.contains(&cert.fingerprint)
    }

    /// Whether the certificate is valid: see the head of this file.
    pub(super) fn trusts(&self, cert: &Cert) -> bool {
        if self.open {
            return true;
        }
        let same = self
            .held
            .iter()
            .filter(|h| h.cert.fingerprint == cert.fingerprint);
        same.into_iter()
            .any(|h| *h.valid.get_or_init(|| self.is_introduced(&h.cert)))
    }

    /// The keys that the signature names, and may have made it.
    pub(super) fn signers(&self, signature: &Signature) -> Vec<(&Cert, &Signer)> {
        let (prints, ids) = (signature.issuer_fingerprint(), signature.issuer_key_id());
        let named = |signer: &&Signer| {
            if prints.is_empty() {
                ids.contains(&&signer.key_id())
            } else {
                prints.contains(&&signer.fingerprint())
            }
        };
        let certs = self.held.iter().map(|h| &h.cert);
        certs
            .flat_map(|cert| cert.signers.iter().filter(named).map(move |s| (cert, s)))
            .collect()
    }
}

fn keys(name: &str, bytes: &[u8]) -> Result<Vec<Cert>, KeyringError> {
    const WANTED: [Tag; 5] = [
        Tag::PublicKey,
        Tag::PublicSubkey,
        Tag::UserId,
        Tag::UserAttribute,
        Tag::Signature,
    ];
    let broken = |broken: packets::Broken| KeyringError::Broken {
        file: name.to_owned(),
        why: broken.text(),
    };
    if !packets::is_key_box(bytes) {
        let packets = packets::read(bytes, &WANTED, MAX_PACKETS).map_err(broken)?;
        return Ok(certificates(packets));
    }
    let mut certs = Vec::new();
    for block in packets::key_blocks(bytes).map_err(broken)? {
        let packets = packets::read(block, &WANTED, MAX_PACKETS).map_err(broken)?;
        certs.extend(certificates(packets));
    }
    Ok(certs)
}

/// Lines of `FINGERPRINT`, or `FINGERPRINT:LEVEL:`; what is neither is a comment.
fn list(bytes: &[u8]) -> impl Iterator<Item = (String, Option<u8>)> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let lines: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.trim().split(':');
            let print = columns.next()?.to_ascii_uppercase();
            let is_print = matches!(print.len(), 40 | 64) && print.bytes().all(|b| b.is_ascii_hexdigit());
            let level = columns.next().and_then(|level| level.trim().parse().ok());
            is_print.then_some((print, level))
        })
        .collect();
    lines.into_iter()
}

/// One key's record in `trustdb.gpg`.
struct OwnerTrust {
    level: u8,
    disabled: bool,
}

/// The trust records of a `trustdb.gpg`; nothing if it is none.
///
/// Source: GnuPG `g10/tdbio.c`: records of 40 bytes; type 12 is a key's trust: a reserved byte, its fingerprint
/// (20), then owner trust, whose low four bits are the level and whose highest bit says that it is disabled.
fn trust_records(bytes: &[u8]) -> Vec<(String, OwnerTrust)> {
    const RECORD: usize = 40;
    const TRUST: u8 = 12;
    let is_db = bytes.get(..4) == Some(&[1, b'g', b'p', b'g']);
    let records = bytes
        .chunks_exact(RECORD)
        .filter(|r| is_db && r.first() == Some(&TRUST));
    records
        .filter_map(|record| {
            let print = HEXUPPER.encode(record.get(2..22)?);
            let trust = *record.get(22)?;
            let trust = OwnerTrust {
                level: trust & 15,
                disabled: trust & 128 != 0,
            };
            Some((print, trust))
        })
        .collect()
}
