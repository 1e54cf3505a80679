//! IPNS names: the hash of a key, in the forms that people and protocols write.
//!
//! - Invariant: an [`IpnsName`] is of an Ed25519 key (the key itself) or of an RSA
//!   key (its SHA-256); other key types are refused when read.
//! - Not here: keys and signatures (`crate::key`), names of mirrors
//!   (`crate::mirror_name`).
//! - Read first: <https://specs.ipfs.tech/ipns/ipns-record/#ipns-name>.

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use cid::multihash::Multihash;
use data_encoding::BASE64URL_NOPAD;
use multibase::Base;
use serde::{Deserialize, Serialize};

use crate::key::ED25519_PUBLIC;

/// The multicodec of a CID that holds a key.
const LIBP2P_KEY: u64 = 0x72;
const IDENTITY: u64 = 0x00;
const SHA2_256: u64 = 0x12;

/// Longer texts are no names, whatever their base; base2 is not wanted.
const MAX_TEXT: usize = 128;

/// The name of an IPNS key. Its text is base36, `k51...` for Ed25519.
///
/// ```
/// use pacstore_names::IpnsName;
///
/// let key = "k51qzi5uqu5djujjnsq8fs9inng2b89zjaxh4svr593txa01mk9rjctjbzxpz4";
/// let name: IpnsName = "12D3KooWKiSHPb2kdsfmwUKj8Yb5pnpTAR68eViSdgBhnD3ARC1d".parse()?;
/// assert_eq!(name.to_string(), key);
/// # Ok::<(), pacstore_names::NameError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpnsName(Kind);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    /// The public key.
    Ed25519([u8; 32]),
    /// SHA-256 of the protobuf form of a key too long to be its own name.
    Hashed([u8; 32]),
}

/// Why something is no IPNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is neither a CID nor a peer id.
    #[error("`{0}` is no IPNS name: neither a CID nor a peer id")]
    Text(String),
    /// It is a CID of something else than a key.
    #[error("CID with codec {0:#x} names no key (0x72 would)")]
    Codec(u64),
    /// The key is of a type that we do not check, or its hash is.
    #[error("only names of Ed25519 and RSA keys are supported")]
    KeyType,
}

impl IpnsName {
    /// The name of an Ed25519 public key.
    pub fn ed25519(public: [u8; 32]) -> Self {
        Self(Kind::Ed25519(public))
    }

    /// The name of a longer key: SHA-256 of its protobuf form.
    pub(crate) fn hashed(digest: [u8; 32]) -> Self {
        Self(Kind::Hashed(digest))
    }

    /// The public key, where the name holds it.
    pub fn ed25519_key(&self) -> Option<[u8; 32]> {
        match self.0 {
            Kind::Ed25519(public) => Some(public),
            Kind::Hashed(_) => None,
        }
    }

    /// The multihash: a peer id in bytes.
    pub fn to_multihash_bytes(&self) -> Vec<u8> {
        self.multihash().to_bytes()
    }

    /// Reads a multihash; nothing may follow it.
    ///
    /// # Errors
    /// [`NameError::KeyType`] if it is not one of an Ed25519 or RSA key.
    pub fn from_multihash_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        let hash = Multihash::from_bytes(bytes).map_err(|_| NameError::KeyType)?;
        Self::from_multihash(&hash)
    }

    /// The key of its records in the DHT and over `/libp2p/fetch`: `/ipns/` and the
    /// multihash in bytes.
    pub fn routing_key(&self) -> Vec<u8> {
        [b"/ipns/".as_slice(), &self.to_multihash_bytes()].concat()
    }

    /// Reads a routing key, as peers ask with it.
    ///
    /// # Errors
    /// [`NameError`] if it is not one of a name that we can check.
    pub fn from_routing_key(key: &[u8]) -> Result<Self, NameError> {
        Self::from_multihash_bytes(key.strip_prefix(b"/ipns/").ok_or(NameError::KeyType)?)
    }

    /// The gossipsub topic of its records.
    pub fn pubsub_topic(&self) -> String {
        format!("/record/{}", BASE64URL_NOPAD.encode(&self.routing_key()))
    }

    /// The CID form.
    pub fn to_cid(&self) -> Cid {
        Cid::new_v1(LIBP2P_KEY, self.multihash())
    }

    /// The peer id of the same key: `12D3KooW...` or `Qm...`.
    pub fn peer_id(&self) -> String {
        Base::Base58Btc.encode(self.to_multihash_bytes())
    }

    fn multihash(&self) -> Multihash<64> {
        let wrapped = match self.0 {
            Kind::Ed25519(public) => {
                Multihash::wrap(IDENTITY, &[ED25519_PUBLIC.as_slice(), &public].concat())
            }
            Kind::Hashed(digest) => Multihash::wrap(SHA2_256, &digest),
        };
        wrapped.expect("36 and 32 bytes fit into 64")
    }

    fn from_multihash(hash: &Multihash<64>) -> Result<Self, NameError> {
        let digest = hash.digest();
        let kind = match hash.code() {
            IDENTITY => digest
                .strip_prefix(ED25519_PUBLIC.as_slice())
                .and_then(|public| public.try_into().ok())
                .map(Kind::Ed25519),
            SHA2_256 => digest.try_into().ok().map(Kind::Hashed),
            _ => None,
        };
        kind.map(Self).ok_or(NameError::KeyType)
    }
}

impl fmt::Display for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&multibase::encode(Base::Base36Lower, self.to_cid().to_bytes()))
    }
}

impl fmt::Debug for IpnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IpnsName({self})")
    }
}

impl FromStr for IpnsName {
    type Err = NameError;

    /// Reads a CID of a key in any usual base (`k51...`, `bafz...`), or a peer id
    /// (`12D3KooW...`, `Qm...`).
    fn from_str(text: &str) -> Result<Self, NameError> {
        let unknown = || NameError::Text(text.chars().take(MAX_TEXT).collect());
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(unknown());
        }
        if text.starts_with("Qm") || text.starts_with('1') {
            let bytes = Base::Base58Btc.decode(text).map_err(|_| unknown())?;
            return Self::from_multihash_bytes(&bytes);
        }
        let cid: Cid = text.parse().map_err(|_| unknown())?;
        if cid.codec() != LIBP2P_KEY {
            return Err(NameError::Codec(cid.codec()));
        }
        Self::from_multihash(cid.hash())
    }
}

impl TryFrom<String> for IpnsName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<IpnsName> for String {
    fn from(name: IpnsName) -> Self {
        name.to_string()
    }
}
