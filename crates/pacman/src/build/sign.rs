//! OpenPGP signatures as pacman wants them: detached, binary, by a key that any GnuPG of the last ten years takes.
//!
//! The key is Ed25519 in the old form (version 4, EdDSA), because GnuPG before 2.5 does not read the new one.
//!
//! - Invariant: same seed, user id and times give the same key, fingerprint and signatures.
//! - Invariant: signing streams; a file of any size needs one buffer.
//! - Not here: checking foreign signatures, keyrings.
//! - Read first: RFC 9580, sections 5.2 and 10.

use data_encoding::HEXUPPER;
use pgp::composed::{DetachedSignature, SignedKeyDetails, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::crypto::{ed25519, eddsa_legacy};
use pgp::packet::{
    KeyFlags, PacketTrait as _, PubKeyInner, PublicKey, SecretKey, SignatureConfig, SignatureType, Subpacket,
    SubpacketData, UserId,
};
use pgp::ser::Serialize as _;
use pgp::types::{
    EddsaLegacyPublicParams, KeyDetails as _, KeyVersion, Password, PlainSecretParams, PublicParams,
    SecretParams, Timestamp,
};
use ring::rand::SecureRandom as _;
use std::fmt;
use std::io::Read;

/// Why a key or a signature could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The system gives no random bytes.
    #[error("no random bytes for a key")]
    NoRandom,
    /// OpenPGP counts seconds in 32 bits.
    #[error("{0} s after 1970 is no time for OpenPGP")]
    Time(u64),
    /// The OpenPGP library refused, or the data could not be read.
    #[error("cannot sign")]
    Pgp(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<pgp::errors::Error> for SignError {
    fn from(error: pgp::errors::Error) -> Self {
        Self::Pgp(Box::new(error))
    }
}

/// A key that signs packages and databases.
pub struct SigningKey {
    secret: SecretKey,
    public: SignedPublicKey,
}

impl SigningKey {
    /// A new key. `time` (seconds since 1970) is its birth; GnuPG refuses signatures and clocks before it.
    ///
    /// # Errors
    /// [`SignError`] if the system has no random bytes or `time` is past 2106.
    pub fn generate(user_id: &str, time: u64) -> Result<Self, SignError> {
        let mut seed = [0; 32];
        ring::rand::SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| SignError::NoRandom)?;
        Self::from_seed(seed, user_id, time)
    }

    /// The key of this seed, for demos and tests.
    ///
    /// # Errors
    /// [`SignError::Time`] if `time` is past 2106.
    pub fn from_seed(seed: [u8; 32], user_id: &str, time: u64) -> Result<Self, SignError> {
        let time = timestamp(time)?;
        let pair = ed25519::SecretKey::try_from_bytes(seed, ed25519::Mode::EdDSALegacy)?;
        let public_params = PublicParams::EdDSALegacy(EddsaLegacyPublicParams::from(&pair));
        let secret_params = PlainSecretParams::EdDSALegacy(eddsa_legacy::SecretKey::Ed25519(pair));
        let inner = PubKeyInner::new(
            KeyVersion::V4,
            PublicKeyAlgorithm::EdDSALegacy,
            time,
            None,
            public_params,
        )?;
        let primary = PublicKey::from_inner(inner)?;
        let secret = SecretKey::new(primary.clone(), SecretParams::Plain(secret_params))?;
        let user = UserId::from_str(pgp::types::PacketHeaderVersion::New, user_id)?;

        let mut flags = KeyFlags::default();
        flags.set_certify(true);
        flags.set_sign(true);
        let mut config = SignatureConfig::v4(
            SignatureType::CertPositive,
            PublicKeyAlgorithm::EdDSALegacy,
            HashAlgorithm::Sha256,
        );
        config.hashed_subpackets = vec![
            Subpacket::regular(SubpacketData::SignatureCreationTime(time))?,
            Subpacket::regular(SubpacketData::IssuerFingerprint(secret.fingerprint()))?,
            Subpacket::regular(SubpacketData::KeyFlags(flags))?,
            Subpacket::regular(SubpacketData::IsPrimary(true))?,
        ];
        config.unhashed_subpackets = vec![Subpacket::regular(SubpacketData::IssuerKeyId(
            secret.legacy_key_id(),
        ))?];
        let certified =
            config.sign_certification(&secret, &primary, &Password::empty(), user.tag(), &user)?;
        let details = SignedKeyDetails::new(vec![], vec![], vec![user.into_signed(certified)], vec![]);
        Ok(Self {
            secret,
            public: SignedPublicKey::new(primary, details, vec![]),
        })
    }

    /// A detached binary signature, the content of a `.sig`. `time` (seconds since 1970) stands in it.
    ///
    /// # Errors
    /// [`SignError`] if `data` cannot be read or `time` is past 2106.
    pub fn sign(&self, data: &mut impl Read, time: u64) -> Result<Vec<u8>, SignError> {
        let mut config = SignatureConfig::v4(
            SignatureType::Binary,
            PublicKeyAlgorithm::EdDSALegacy,
            HashAlgorithm::Sha256,
        );
        config.hashed_subpackets = vec![
            Subpacket::regular(SubpacketData::SignatureCreationTime(timestamp(time)?))?,
            Subpacket::regular(SubpacketData::IssuerFingerprint(self.secret.fingerprint()))?,
        ];
        config.unhashed_subpackets = vec![Subpacket::regular(SubpacketData::IssuerKeyId(
            self.secret.legacy_key_id(),
        ))?];
        let signature = DetachedSignature::new(config.sign(&self.secret, &Password::empty(), data)?);
        Ok(signature.to_bytes()?)
    }

    /// The public key in binary, for `gpg --import`.
    pub fn public_key(&self) -> Vec<u8> {
        self.public
            .to_bytes()
            .expect("a key that was made is written to memory")
    }

    /// The fingerprint, 40 hex digits in upper case, as `gpg --import-ownertrust` wants it.
    pub fn fingerprint(&self) -> String {
        HEXUPPER.encode(self.secret.fingerprint().as_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.fingerprint()).finish()
    }
}

fn timestamp(seconds: u64) -> Result<Timestamp, SignError> {
    u32::try_from(seconds)
        .map(Timestamp::from_secs)
        .map_err(|_| SignError::Time(seconds))
}
