//! A file under its signature, piece by piece.
//!
//! - Invariant: a file with several signatures is good only if all are; the worst one is the answer.
//! - Not here: whom to trust (`super::keyring`).

use std::fmt;
use std::io::{self, Read};

use data_encoding::HEXUPPER;
use md5::digest::DynDigest;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Packet, Signature, SignatureType};
use pgp::types::{Duration, Tag};

use super::keyring::Keyring;
use super::packets;
use super::{Signed, Verdict};

/// The largest `.sig` that is read, in bytes; pacman's own limit.
pub const MAX_SIGNATURE: usize = 16 << 10;
/// Signatures in one `.sig`.
const MAX_SIGNERS: usize = 8;
/// Bytes that are hashed at a time.
const PIECE: usize = 64 << 10;

/// A file being checked: feed it with [`Check::update`], then ask [`Check::finish`].
pub struct Check {
    signatures: Vec<(Signature, Box<dyn DynDigest + Send>)>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signatures: Vec<&Signature> = self.signatures.iter().map(|(s, _)| s).collect();
        f.debug_tuple("Check").field(&signatures).finish()
    }
}

impl Check {
    /// Reads a detached signature, binary or armoured.
    ///
    /// # Errors
    /// [`Verdict::Malformed`] if it is none, is over [`MAX_SIGNATURE`], or uses what cannot be relied upon (MD5).
    pub fn new(signature: &[u8]) -> Result<Self, Verdict> {
        if signature.len() > MAX_SIGNATURE {
            return Err(Verdict::Malformed("it is over 16 KiB"));
        }
        if signature.is_empty() {
            return Err(Verdict::Malformed("it is empty"));
        }
        let packets = packets::read(signature, &[Tag::Signature], MAX_SIGNERS + 1)
            .map_err(|broken| Verdict::Malformed(broken.text()))?;
        if packets.len() > MAX_SIGNERS {
            return Err(Verdict::Malformed("it holds more than 8 signatures"));
        }
        let mut signatures = Vec::new();
        for packet in packets {
            if let Packet::Signature(signature) = packet {
                let hasher = hasher(&signature)?;
                signatures.push((signature, hasher));
            }
        }
        if signatures.is_empty() {
            return Err(Verdict::Malformed("it holds no signature"));
        }
        Ok(Self { signatures })
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.signatures {
            hasher.update(bytes);
        }
    }

    /// The answer, after the last byte. `now` in seconds since 1970 matters only for signatures with a term.
    pub fn finish(self, keyring: &Keyring, now: u64) -> Verdict {
        let verdicts = self
            .signatures
            .into_iter()
            .map(|(signature, hasher)| judge(&signature, hasher, keyring, now));
        verdicts
            .max_by_key(Verdict::rank)
            .unwrap_or(Verdict::Malformed("it holds no signature"))
    }
}

impl Keyring {
    /// Checks all of `file` against its detached `signature`, in one pass and one buffer.
    ///
    /// # Errors
    /// That `file` cannot be read.
    pub fn verify(&self, signature: &[u8], file: &mut impl Read, now: u64) -> io::Result<Verdict> {
        let mut check = match Check::new(signature) {
            Ok(check) => check,
            Err(verdict) => return Ok(verdict),
        };
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(check.finish(self, now)),
                Ok(len) => check.update(piece.get(..len).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn hasher(signature: &Signature) -> Result<Box<dyn DynDigest + Send>, Verdict> {
    let config = signature
        .config()
        .ok_or(Verdict::Malformed("its version is not known"))?;
    if config.typ() != SignatureType::Binary {
        return Err(Verdict::Malformed("it is not a signature over binary data"));
    }
    if config.hash_alg == HashAlgorithm::Md5 {
        return Err(Verdict::Malformed("it uses MD5"));
    }
    if config.created().is_none() {
        return Err(Verdict::Malformed("it does not say when it was made"));
    }
    let mut hasher = config
        .hash_alg
        .new_hasher()
        .map_err(|_| Verdict::Malformed("its hash is not known"))?;
    if let pgp::packet::SignatureVersionSpecific::V6 { salt } = &config.version_specific {
        if config.hash_alg.salt_len() != Some(salt.len()) {
            return Err(Verdict::Malformed("its salt has the wrong length"));
        }
        hasher.update(salt);
    }
    Ok(hasher)
}

fn judge(
    signature: &Signature,
    mut hasher: Box<dyn DynDigest + Send>,
    keyring: &Keyring,
    now: u64,
) -> Verdict {
    let Some((config, made)) = signature.config().zip(signature.created()) else {
        return Verdict::Malformed("it does not say when it was made");
    };
    let made = u64::from(made.as_secs());
    let trailer = config
        .hash_signature_data(&mut hasher)
        .and_then(|len| config.trailer(len));
    let Ok(trailer) = trailer else {
        return Verdict::Malformed("it demands what is not known");
    };
    hasher.update(&trailer);
    let hash = hasher.finalize();

    let candidates = keyring.signers(signature);
    let Some((first, _)) = candidates.first() else {
        return Verdict::Unknown {
            issuer: issuer(signature),
        };
    };
    let mine: Vec<_> = candidates
        .iter()
        .filter(|(_, signer)| signer.verify(signature, &hash))
        .collect();
    // A key may stand in several files: one that revokes it is enough, one that prolongs it, too.
    let revoked = mine
        .iter()
        .find(|(cert, s)| s.revoked || keyring.is_revoked(cert));
    let in_term = mine.iter().find(|(_, signer)| signer.lived(made));
    let Some((cert, signer)) = revoked.or(in_term).or(mine.first()) else {
        return Verdict::Bad {
            key: first.fingerprint.clone(),
        };
    };
    let key = cert.fingerprint.clone();
    if revoked.is_some() {
        return Verdict::Revoked { key };
    }
    if !signer.lived(made) {
        let until = signer.until.unwrap_or(signer.born);
        return Verdict::KeyExpired { key, until };
    }
    let term = signature.signature_expiration_time().map_or(0, Duration::as_secs);
    let until = made + u64::from(term);
    if term > 0 && until <= now {
        return Verdict::SignatureExpired { key, until };
    }
    if !keyring.trusts(cert) {
        return Verdict::Untrusted { key };
    }
    Verdict::Good(Signed {
        key,
        made,
        key_until: signer.until,
    })
}

/// Whom a signature names, in hex.
fn issuer(signature: &Signature) -> String {
    let print = signature
        .issuer_fingerprint()
        .first()
        .map(|print| HEXUPPER.encode(print.as_bytes()));
    let id = || {
        signature
            .issuer_key_id()
            .first()
            .map(|id| HEXUPPER.encode(id.as_ref()))
    };
    print.or_else(id).unwrap_or_default()
}
