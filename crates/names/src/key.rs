//! Keys: signing with Ed25519, checking Ed25519 and RSA.
//!
//! Keys are stored and sent in libp2p's protobuf form, so that every libp2p reads
//! them: field 1 the type, field 2 the key.
//!
//! - Invariant: a [`SigningKey`] never shows its secret in `Debug`.
//! - Not here: files and their permissions.
//! - Read first: <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};

use crate::name::IpnsName;
use crate::proto::{ProtoError, Value, fields};

/// What stands before the 32 bytes of an Ed25519 public key in protobuf form.
pub(crate) const ED25519_PUBLIC: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// The same before the 64 bytes of a private key.
const ED25519_PRIVATE: [u8; 4] = [0x08, 0x01, 0x12, 0x40];

const TYPE_RSA: u64 = 0;
const TYPE_ED25519: u64 = 1;

/// The object identifier of RSA keys in DER, 1.2.840.113549.1.1.1.
const RSA_OID: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no key in libp2p's form.
    #[error("not a key in libp2p's protobuf form")]
    Malformed,
    /// A type that we do not use.
    #[error("key type {0} is not supported; Ed25519 is")]
    Type(u64),
    /// The public half does not belong to the secret one: the file is damaged.
    #[error("the two halves of the key do not fit together")]
    Halves,
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    Random,
}

impl From<ProtoError> for KeyError {
    fn from(_: ProtoError) -> Self {
        Self::Malformed
    }
}

/// An importer's secret Ed25519 key.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Random`] if there is none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| KeyError::Random)?;
        Ok(Self::from_seed(seed))
    }

    /// The secret: the 32 bytes that the key is made from.
    pub fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// The key of a seed; the seed is the secret.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every 32 bytes are a seed");
        Self { seed, pair }
    }

    /// Reads what [`SigningKey::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`KeyError`] for another type of key, or for damaged bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let (kind, key) = split(bytes)?;
        if kind != TYPE_ED25519 {
            return Err(KeyError::Type(kind));
        }
        let (seed, public) = key.split_first_chunk::<32>().ok_or(KeyError::Malformed)?;
        if public.len() != 32 {
            return Err(KeyError::Malformed);
        }
        let read = Self::from_seed(*seed);
        if read.public() == public {
            Ok(read)
        } else {
            Err(KeyError::Halves)
        }
    }

    /// libp2p's `PrivateKey` message: 68 bytes, seed and public key inside. Secret.
    pub fn to_bytes(&self) -> Vec<u8> {
        [ED25519_PRIVATE.as_slice(), &self.seed, &self.public()].concat()
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.pair
            .public_key()
            .as_ref()
            .try_into()
            .expect("an Ed25519 public key has 32 bytes")
    }

    /// The IPNS name of this key.
    pub fn name(&self) -> IpnsName {
        IpnsName::ed25519(self.public())
    }

    /// Signs `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair
            .sign(message)
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// A public key that can check signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// 32 bytes.
    Ed25519([u8; 32]),
    /// Of 2,048 to 8,192 bits.
    Rsa {
        /// The key as PKCS #1 DER.
        pkcs1: Vec<u8>,
        /// SHA-256 of its protobuf form: its name.
        digest: [u8; 32],
    },
}

impl PublicKey {
    /// Reads libp2p's `PublicKey` message.
    ///
    /// # Errors
    /// [`KeyError`] for types other than Ed25519 and RSA, and for malformed bytes.
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, KeyError> {
        match split(bytes)? {
            (TYPE_ED25519, key) => key.try_into().map(Self::Ed25519).map_err(|_| KeyError::Malformed),
            (TYPE_RSA, spki) => {
                let pkcs1 = rsa_key(spki).ok_or(KeyError::Malformed)?.to_vec();
                let digest = digest(&SHA256, bytes)
                    .as_ref()
                    .try_into()
                    .expect("SHA-256 has 32 bytes");
                Ok(Self::Rsa { pkcs1, digest })
            }
            (other, _) => Err(KeyError::Type(other)),
        }
    }

    /// The IPNS name of this key.
    pub fn name(&self) -> IpnsName {
        match self {
            Self::Ed25519(public) => IpnsName::ed25519(*public),
            Self::Rsa { digest, .. } => IpnsName::hashed(*digest),
        }
    }

    /// Whether `signature` over `message` is of this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let (algorithm, key): (&'static dyn VerificationAlgorithm, &[u8]) = match self {
            Self::Ed25519(public) => (&ED25519, public),
            Self::Rsa { pkcs1, .. } => (&RSA_PKCS1_2048_8192_SHA256, pkcs1),
        };
        UnparsedPublicKey::new(algorithm, key)
            .verify(message, signature)
            .is_ok()
    }
}

/// Type and bytes of a key message.
fn split(bytes: &[u8]) -> Result<(u64, &[u8]), KeyError> {
    let (mut kind, mut key) = (None, None);
    for field in fields(bytes) {
        match field? {
            (1, Value::Varint(value)) => kind = Some(value),
            (2, Value::Bytes(value)) => key = Some(value),
            _ => return Err(KeyError::Malformed),
        }
    }
    kind.zip(key).ok_or(KeyError::Malformed)
}

/// The PKCS #1 key inside of a `SubjectPublicKeyInfo`, RFC 5280 section 4.1.
fn rsa_key(spki: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OID: u8 = 0x06;
    const BIT_STRING: u8 = 0x03;
    let (info, end) = der(spki, SEQUENCE)?;
    let (algorithm, rest) = der(info, SEQUENCE)?;
    let (oid, _parameters) = der(algorithm, OID)?;
    let (bits, nothing) = der(rest, BIT_STRING)?;
    let key = bits.strip_prefix(&[0])?;
    (oid == RSA_OID && end.is_empty() && nothing.is_empty()).then_some(key)
}

/// The content of the DER element with `tag` at the start of `bytes`, and what follows it.
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}
