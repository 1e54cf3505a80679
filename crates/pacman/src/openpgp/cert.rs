//! One OpenPGP certificate: a primary key, what binds its subkeys, how long each may sign.
//!
//! - Invariant: a [`Signer`] was bound by signatures that were verified here.
//! - Invariant: of several self-signatures the newest one counts, so that a term may be prolonged and shortened.
//! - Not here: whether the certificate is trusted (`super::keyring`).
//! - Read first: RFC 9580, section 10.1.1 (what stands in a certificate) and 5.2.1 (kinds of signatures).

use data_encoding::HEXUPPER;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    Packet, PublicKey, PublicSubkey, Signature, SignatureConfig, SignatureType, SubpacketData, UserId,
};
use pgp::ser::Serialize;
use pgp::types::{Duration, Fingerprint, KeyDetails as _, KeyId, Tag, VerifyingKey};

/// Signatures on one key or user id that are looked at. Popular keys carry thousands by others.
const MAX_SIGNATURES: usize = 64;

/// A key that may have made a signature.
#[derive(Debug)]
pub(super) enum Key {
    Primary(PublicKey),
    Subkey(PublicSubkey),
}

/// A key of a certificate that has the right to sign.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) key: Key,
    /// Born then, in seconds since 1970.
    pub(super) born: u64,
    /// Valid until then; `None` is for ever.
    pub(super) until: Option<u64>,
    pub(super) revoked: bool,
}

impl Signer {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        match &self.key {
            Key::Primary(key) => key.fingerprint(),
            Key::Subkey(key) => key.fingerprint(),
        }
    }

    pub(super) fn key_id(&self) -> KeyId {
        match &self.key {
            Key::Primary(key) => key.legacy_key_id(),
            Key::Subkey(key) => key.legacy_key_id(),
        }
    }

    /// Whether it was valid at this time, in seconds since 1970.
    pub(super) fn lived(&self, time: u64) -> bool {
        self.born <= time && self.until.is_none_or(|until| time < until)
    }

    pub(super) fn verify(&self, signature: &Signature, hash: &[u8]) -> bool {
        let Some((config, bytes)) = signature.config().zip(signature.signature()) else {
            return false;
        };
        let begins = signature.signed_hash_value();
        if begins.as_ref().map(<[u8; 2]>::as_slice) != hash.get(..2) {
            return false;
        }
        let verified = match &self.key {
            Key::Primary(key) => key.verify(config.hash_alg, hash, bytes),
            Key::Subkey(key) => key.verify(config.hash_alg, hash, bytes),
        };
        verified.is_ok()
    }
}

/// A certification by another key, not verified yet.
#[derive(Debug)]
struct Vouched {
    user: UserId,
    by: Signature,
}

/// A certificate.
#[derive(Debug)]
pub(super) struct Cert {
    pub(super) primary: PublicKey,
    /// Upper-case hex of the primary key.
    pub(super) fingerprint: String,
    pub(super) signers: Vec<Signer>,
    /// Whether the owner revoked all of it.
    pub(super) revoked: bool,
    vouched: Vec<Vouched>,
}

/// A key or user id with the signatures that follow it.
#[derive(Debug)]
enum Part {
    Primary(PublicKey),
    User(UserId),
    Subkey(PublicSubkey),
    /// An attribute (a picture): its signatures are not those of a user id.
    Other,
}

/// Splits the packets of a keyring into certificates. What stands before the first primary key is ignored.
pub(super) fn certificates(packets: Vec<Packet>) -> Vec<Cert> {
    let mut certs = Vec::new();
    let mut parts: Vec<(Part, Vec<Signature>)> = Vec::new();
    for packet in packets {
        let part = match packet {
            Packet::PublicKey(key) => {
                certs.extend(Cert::new(std::mem::take(&mut parts)));
                Part::Primary(key)
            }
            Packet::UserId(user) => Part::User(user),
            Packet::PublicSubkey(key) => Part::Subkey(key),
            Packet::Signature(signature) => {
                if let Some((_, signatures)) = parts.last_mut() {
                    signatures.push(signature);
                }
                continue;
            }
            _ => Part::Other,
        };
        parts.push((part, Vec::new()));
    }
    certs.extend(Cert::new(parts));
    certs
}

impl Cert {
    /// `None` if the parts begin with no primary key.
    fn new(parts: Vec<(Part, Vec<Signature>)>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let (Part::Primary(primary), direct) = parts.next()? else {
            return None;
        };
        let mut revoked = false;
        let mut newest: Option<Signature> = None;
        let own = |s: &&Signature| is_by(s, &primary);
        for signature in direct.iter().filter(own).take(MAX_SIGNATURES) {
            if signature.verify_key(&primary).is_err() {
                continue;
            }
            match signature.typ() {
                Some(SignatureType::KeyRevocation) => revoked = true,
                _ => newer(&mut newest, signature),
            }
        }
        let mut vouched = Vec::new();
        let mut subkeys = Vec::new();
        for (part, signatures) in parts {
            match part {
                Part::User(user) => {
                    if let Some(latest) = user_binding(&primary, &user, &signatures) {
                        newer(&mut newest, &latest);
                        let others = signatures.into_iter().filter(|s| !is_by(s, &primary));
                        vouched.extend(others.map(|by| Vouched {
                            user: user.clone(),
                            by,
                        }));
                    }
                }
                Part::Subkey(key) => subkeys.push((key, signatures)),
                Part::Primary(_) | Part::Other => {}
            }
        }
        let mut signers = Vec::new();
        if let Some(own) = newest {
            let until = term(primary.created_at().as_secs(), &own);
            if may_sign(&own) {
                signers.push(Signer {
                    born: u64::from(primary.created_at().as_secs()),
                    until,
                    revoked,
                    key: Key::Primary(primary.clone()),
                });
            }
            let bound = subkeys.into_iter().filter_map(|(k, s)| bind(&primary, k, &s));
            signers.extend(bound.map(|mut signer| {
                signer.until = earlier(signer.until, until);
                signer.revoked |= revoked;
                signer
            }));
        }
        Some(Self {
            fingerprint: HEXUPPER.encode(primary.fingerprint().as_bytes()),
            primary,
            signers,
            revoked,
            vouched,
        })
    }

    /// Whether `other` certified one of this certificate's user ids, and did not take that back.
    pub(super) fn is_vouched_for_by(&self, other: &Self) -> bool {
        let by_user = |user: &UserId| {
            let newest = self
                .vouched
                .iter()
                .filter(|v| v.user == *user && is_by(&v.by, &other.primary) && is_strong(&v.by))
                .take(MAX_SIGNATURES)
                .filter(|v| {
                    v.by.verify_third_party_certification(&self.primary, &other.primary, Tag::UserId, user)
                        .is_ok()
                })
                .max_by_key(|v| v.by.created());
            newest.is_some_and(|v| v.by.typ() != Some(SignatureType::CertRevocation))
        };
        let mut users: Vec<&UserId> = self.vouched.iter().map(|v| &v.user).collect();
        users.dedup();
        users.into_iter().any(by_user)
    }
}

/// The newest certification of a user id by its own key, unless the owner revoked the user id later.
fn user_binding(primary: &PublicKey, user: &UserId, signatures: &[Signature]) -> Option<Signature> {
    let own = signatures
        .iter()
        .filter(|s| is_by(s, primary))
        .take(MAX_SIGNATURES)
        .filter(|s| s.verify_certification(primary, Tag::UserId, user).is_ok());
    let newest = own.max_by_key(|s| s.created())?;
    (newest.typ() != Some(SignatureType::CertRevocation)).then(|| newest.clone())
}

/// The subkey as a signer, if the primary key binds it with the right to sign and it agrees.
fn bind(primary: &PublicKey, key: PublicSubkey, signatures: &[Signature]) -> Option<Signer> {
    let mut newest = None;
    let mut revoked = false;
    for signature in signatures.iter().take(MAX_SIGNATURES) {
        if signature.verify_subkey_binding(primary, &key).is_err() {
            continue;
        }
        match signature.typ() {
            Some(SignatureType::SubkeyRevocation) => revoked = true,
            _ => newer(&mut newest, signature),
        }
    }
    let newest = newest?;
    let agrees = newest
        .embedded_signature()
        .is_some_and(|back| back.verify_primary_key_binding(&key, primary).is_ok());
    if !agrees || !newest.key_flags().sign() {
        return None;
    }
    Some(Signer {
        born: u64::from(key.created_at().as_secs()),
        until: term(key.created_at().as_secs(), &newest),
        revoked,
        key: Key::Subkey(key),
    })
}

/// Whether a signature says that this key made it; if it says nothing, it may be.
pub(super) fn is_by(signature: &Signature, key: &(impl VerifyingKey + Serialize)) -> bool {
    let (ids, prints) = (signature.issuer_key_id(), signature.issuer_fingerprint());
    if prints.is_empty() {
        ids.is_empty() || ids.contains(&&key.legacy_key_id())
    } else {
        prints.contains(&&key.fingerprint())
    }
}

/// Whether what a certification of somebody else says can be relied upon: collisions of SHA-1 are bought since 2019.
///
/// Source: GnuPG's `--allow-weak-key-signatures`, which draws the line at 2019-01-19.
fn is_strong(signature: &Signature) -> bool {
    const LINE: u32 = 1_547_856_000;
    match signature.hash_alg() {
        Some(HashAlgorithm::Md5) | None => false,
        Some(HashAlgorithm::Sha1) => signature.created().is_some_and(|made| made.as_secs() < LINE),
        Some(_) => true,
    }
}

/// Whether a self-signature gives the right to sign. One without flags, as before 2000, gives all.
fn may_sign(own: &Signature) -> bool {
    let mut flags = own
        .config()
        .into_iter()
        .flat_map(SignatureConfig::hashed_subpackets);
    let says = flags.any(|p| matches!(p.data, SubpacketData::KeyFlags(_)));
    !says || own.key_flags().sign()
}

fn term(born: u32, own: &Signature) -> Option<u64> {
    let seconds = own.key_expiration_time().map_or(0, Duration::as_secs);
    (seconds > 0).then(|| u64::from(born) + u64::from(seconds))
}

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn newer(newest: &mut Option<Signature>, candidate: &Signature) {
    if newest.as_ref().is_none_or(|n| n.created() < candidate.created()) {
        *newest = Some(candidate.clone());
    }
}
