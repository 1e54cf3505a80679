//! Detached OpenPGP signatures: did a key of this keyring sign these bytes?
//!
//! A [`Keyring`] is read from the files of a folder such as `/etc/pacman.d/gnupg` or
//! `/usr/share/pacman/keyrings`; a [`Check`] takes the bytes of a file piece by piece, so that a file of
//! any size needs one buffer; a [`Verdict`] tells apart what a person would do differently about it.
//!
//! - Invariant: only a key that is bound by its own signatures signs: a subkey needs a binding and a back-signature,
//!   a primary key a certification by itself; each needs the right to sign.
//! - Invariant: a key counts if it was valid when the signature was made, whatever happened to its term since. A revoked
//!   one never counts, because whoever stole it writes any date.
//! - Not here: reading files, making signatures (`crate::build::SigningKey`), caching answers (crate `import`).
//! - Read first: RFC 9580, sections 5.2 and 10.1; `pacman-key(8)`.

mod cert;
mod check;
mod keyring;
mod packets;

use std::fmt;

pub use check::{Check, MAX_SIGNATURE};
pub use keyring::{Keyring, KeyringError, KeyringFile, MAX_CERTIFICATES, MAX_KEYRING};

/// What is to be thought of one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A key of the keyring made it, was valid then, and the bytes are the signed ones.
    Good(Signed),
    /// The bytes are not the signed ones, or the signature is made up.
    Bad {
        /// The key (fingerprint in hex) that is said to have made it.
        key: String,
    },
    /// No key of the keyring made it.
    Unknown {
        /// Fingerprint or key id in hex, as the signature gives it; empty if it gives none.
        issuer: String,
    },
    /// The key is in the keyring, but nobody whom the keyring trusts vouches for it.
    Untrusted {
        /// Its fingerprint in hex.
        key: String,
    },
    /// The key was revoked by its owner, or stands in a list of revoked ones.
    Revoked {
        /// Its fingerprint in hex.
        key: String,
    },
    /// The key had expired, or was not born, when the signature was made.
    KeyExpired {
        /// Its fingerprint in hex.
        key: String,
        /// Until when it was valid, in seconds since 1970.
        until: u64,
    },
    /// The signature itself has a term, and that is over.
    SignatureExpired {
        /// The key's fingerprint in hex.
        key: String,
        /// Until when it was valid, in seconds since 1970.
        until: u64,
    },
    /// This is no detached signature that we can read.
    Malformed(&'static str),
}

/// A good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The fingerprint of the primary key, in upper-case hex.
    pub key: String,
    /// When it was made, in seconds since 1970, as the signer says.
    pub made: u64,
    /// When the key expires or expired, in seconds since 1970.
    pub key_until: Option<u64>,
}

impl Verdict {
    /// Whether the bytes may be taken.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Good(_))
    }

    /// Sorts verdicts: of several signatures in one file the worst one counts, as with pacman.
    fn rank(&self) -> u8 {
        match self {
            Self::Good(_) => 0,
            Self::Untrusted { .. } => 1,
            Self::Unknown { .. } => 2,
            Self::SignatureExpired { .. } => 3,
            Self::KeyExpired { .. } => 4,
            Self::Revoked { .. } => 5,
            Self::Malformed(_) => 6,
            Self::Bad { .. } => 7,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(signed) => write!(f, "signed by {}", signed.key),
            Self::Bad { key } => write!(f, "the signature of {key} is not over these bytes"),
            Self::Unknown { issuer } if issuer.is_empty() => write!(f, "signed by no key of the keyring"),
            Self::Unknown { issuer } => write!(f, "signed by {issuer}, which is not in the keyring"),
            Self::Untrusted { key } => {
                write!(
                    f,
                    "signed by {key}, which no trusted key of the keyring vouches for"
                )
            }
            Self::Revoked { key } => write!(f, "signed by {key}, which is revoked"),
            Self::KeyExpired { key, until } => {
                write!(f, "signed by {key}, which was valid until {until} only")
            }
            Self::SignatureExpired { key, until } => {
                write!(f, "the signature of {key} was valid until {until} only")
            }
            Self::Malformed(why) => write!(f, "the signature cannot be read: {why}"),
        }
    }
}
