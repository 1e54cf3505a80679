//! IPNS records: a signed statement of what a KEY points at now.
//!
//! A record is a protobuf message around dag-cbor data. Only the data is signed
//! (signature V2); the older fields and signature V1 are repeated for readers of
//! long ago, and must say the same.
//!
//! - Invariant: whatever a [`Record`] tells of itself stands in its dag-cbor data.
//! - Invariant: [`Record::from_bytes`] checks form and consistency, not signatures.
//! - Not here: where records come from (`net`), sequences kept on disk (`node`).
//! - Read first: <https://specs.ipfs.tech/ipns/ipns-record/>.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cid::Cid;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_ipld_dagcbor::DecodeError;

use crate::key::{KeyError, PublicKey, SigningKey};
use crate::name::IpnsName;
use crate::proto::{ProtoError, Value, fields, put_bytes, put_varint};
use crate::time::{read_validity, rfc3339, unix_seconds, write_validity};

/// The most bytes of a record, by the specification.
pub const MAX_RECORD: usize = 10 * 1024;

/// The key in a record's data under which the head is linked.
pub const HEAD_KEY: &str = "_pacstore/head";

/// The key in a record's data under which the KEY stands that signs from now on.
pub const NEXT_KEY: &str = "_pacstore/next";

/// The key in a record's data under which the head is linked that is to come next.
pub const COMING_KEY: &str = "_pacstore/coming";

/// Validity type 0: the validity is an end of life.
const EOL: u64 = 0;
const SIGN_PREFIX: &[u8] = b"ipns-signature:";

/// What a new record is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordData {
    /// The path, such as `/ipfs/<tree>`.
    pub value: Vec<u8>,
    /// Grows whenever value or head change.
    pub sequence: u64,
    /// Until when it is in force; to the nanosecond.
    pub validity: SystemTime,
    /// How long others may keep it without asking again.
    pub ttl: Duration,
    /// The head's CID, where there is one.
    pub head: Option<Cid>,
}

/// The signed data. Field order is free here: dag-cbor sorts, shorter keys first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Data {
    #[serde(rename = "TTL", default)]
    ttl: u64,
    #[serde(rename = "Value")]
    value: ByteBuf,
    #[serde(rename = "Sequence")]
    sequence: u64,
    #[serde(rename = "Validity")]
    validity: ByteBuf,
    #[serde(rename = "ValidityType")]
    validity_type: u64,
    #[serde(rename = "_pacstore/head", default, skip_serializing_if = "Option::is_none")]
    head: Option<Cid>,
    #[serde(rename = "_pacstore/next", default, skip_serializing_if = "Option::is_none")]
    next: Option<IpnsName>,
    #[serde(rename = "_pacstore/coming", default, skip_serializing_if = "Option::is_none")]
    coming: Option<Cid>,
}

/// What a record may say beside value and head.
#[derive(Clone, Copy, Default)]
struct More {
    next: Option<IpnsName>,
    coming: Option<Cid>,
}

/// A record in its form on the wire, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    bytes: Bytes,
    data: Data,
    validity: SystemTime,
    /// The data in bytes, as signed.
    signed: Bytes,
    signature: Bytes,
    public_key: Option<Bytes>,
}

/// Why a record is refused, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// More bytes than any record may have.
    #[error("record has {0} bytes; at most {MAX_RECORD} are allowed")]
    TooLarge(usize),
    /// Not protobuf, or a field of the wrong kind.
    #[error("record is not an IPNS entry")]
    Malformed,
    /// Only the old signature, which proves nothing today, or none.
    #[error("record has no V2 signature")]
    NoSignatureV2,
    /// The signed data is not what a record's data is.
    #[error("data of the record is not dag-cbor as IPNS wants it")]
    Data(#[source] DecodeError<Infallible>),
    /// A kind of validity that we do not know.
    #[error("record has the unknown validity type {0}")]
    ValidityType(u64),
    /// The validity is no time.
    #[error("validity of the record is no RFC 3339 time of the years 1970 to 9999")]
    Validity,
    /// The old fields contradict the signed data.
    #[error("field {0} of the record differs from its signed data")]
    Contradiction(&'static str),
    /// The name is a hash, and the record lacks the key that it is of.
    #[error("record lacks the public key")]
    NoPublicKey,
    /// The key in the record cannot be used.
    #[error("public key of the record is unusable")]
    PublicKey(#[source] KeyError),
    /// The key in the record is not the one of the name.
    #[error("record holds a key that is not the one of {0}")]
    OtherKey(IpnsName),
    /// The signature is not one of the name's key over this data.
    #[error("signature of the record is not by {0}")]
    Signature(IpnsName),
    /// Its time is over.
    #[error("record expired at {}", rfc3339(unix_seconds(*.0)))]
    Expired(SystemTime),
}

impl From<ProtoError> for RecordError {
    fn from(_: ProtoError) -> Self {
        Self::Malformed
    }
}

impl Record {
    /// Makes and signs a record, with both signatures.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`] for a value of several kilobytes, and
    /// [`RecordError::Validity`] for a time that RFC 3339 cannot write.
    pub fn create(key: &SigningKey, new: RecordData) -> Result<Self, RecordError> {
        Self::make(key, new, More::default())
    }

    /// A record that also links the head `coming`, which is not in force yet: whoever knows of such records may
    /// fetch ahead what it needs. For all others it is a record like any other, of value and head.
    ///
    /// # Errors
    /// As [`Record::create`].
    pub fn announce(key: &SigningKey, new: RecordData, coming: Cid) -> Result<Self, RecordError> {
        let more = More {
            coming: Some(coming),
            ..More::default()
        };
        Self::make(key, new, more)
    }

    /// The last record of `key`: from then on `successor` signs.
    ///
    /// # Errors
    /// As [`Record::create`].
    pub fn hand_over(key: &SigningKey, new: RecordData, successor: IpnsName) -> Result<Self, RecordError> {
        let more = More {
            next: Some(successor),
            ..More::default()
        };
        Self::make(key, new, more)
    }

    fn make(key: &SigningKey, new: RecordData, more: More) -> Result<Self, RecordError> {
        let validity = write_validity(new.validity).ok_or(RecordError::Validity)?;
        let data = Data {
            ttl: u64::try_from(new.ttl.as_nanos()).unwrap_or(u64::MAX),
            value: ByteBuf::from(new.value),
            sequence: new.sequence,
            validity: ByteBuf::from(validity),
            validity_type: EOL,
            head: new.head,
            next: more.next,
            coming: more.coming,
        };
        let cbor = serde_ipld_dagcbor::to_vec(&data).expect("a record's data is always dag-cbor");
        let v1 = key.sign(&[data.value.as_slice(), &data.validity, b"EOL"].concat());
        let v2 = key.sign(&[SIGN_PREFIX, &cbor].concat());

        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 1, &data.value);
        put_bytes(&mut bytes, 2, &v1);
        put_varint(&mut bytes, 3, data.validity_type);
        put_bytes(&mut bytes, 4, &data.validity);
        put_varint(&mut bytes, 5, data.sequence);
        put_varint(&mut bytes, 6, data.ttl);
        put_bytes(&mut bytes, 8, &v2);
        put_bytes(&mut bytes, 9, &cbor);
        Self::from_bytes(&bytes)
    }

    /// Reads a record. Its signature is not checked yet: [`Record::verify`].
    ///
    /// # Errors
    /// [`RecordError`] for anything that no key could make valid: form, size, only
    /// the old signature, old fields that contradict the signed data.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLarge(bytes.len()));
        }
        let entry = Entry::read(bytes)?;
        if entry.signature_v2.is_empty() || entry.data.is_empty() {
            return Err(RecordError::NoSignatureV2);
        }
        let data: Data = serde_ipld_dagcbor::from_slice(entry.data).map_err(RecordError::Data)?;
        if data.validity_type != EOL {
            return Err(RecordError::ValidityType(data.validity_type));
        }
        entry.agrees_with(&data)?;
        let validity = read_validity(&data.validity).ok_or(RecordError::Validity)?;
        let owned = Bytes::copy_from_slice(bytes);
        Ok(Self {
            data,
            validity,
            signed: Bytes::copy_from_slice(entry.data),
            signature: Bytes::copy_from_slice(entry.signature_v2),
            public_key: entry.public_key.map(Bytes::copy_from_slice),
            bytes: owned,
        })
    }

    /// Checks that the owner of `name` signed this record and that it is in force at `now`.
    ///
    /// # Errors
    /// As [`Record::verify_signature`], and [`RecordError::Expired`].
    pub fn verify(&self, name: &IpnsName, now: SystemTime) -> Result<(), RecordError> {
        self.verify_signature(name)?;
        if self.in_force(now) {
            Ok(())
        } else {
            Err(RecordError::Expired(self.validity))
        }
    }

    /// Checks that the owner of `name` signed this record, whenever that was.
    ///
    /// # Errors
    /// [`RecordError`] if the key is missing, unusable or another, or the signature wrong.
    pub fn verify_signature(&self, name: &IpnsName) -> Result<(), RecordError> {
        let key = match (&self.public_key, name.ed25519_key()) {
            (Some(bytes), _) => PublicKey::from_protobuf(bytes).map_err(RecordError::PublicKey)?,
            (None, Some(public)) => PublicKey::Ed25519(public),
            (None, None) => return Err(RecordError::NoPublicKey),
        };
        if key.name() != *name {
            return Err(RecordError::OtherKey(*name));
        }
        let message = [SIGN_PREFIX, &self.signed].concat();
        if key.verifies(&message, &self.signature) {
            Ok(())
        } else {
            Err(RecordError::Signature(*name))
        }
    }

    /// Whether its validity is not over at `now`.
    pub fn in_force(&self, now: SystemTime) -> bool {
        now <= self.validity
    }

    /// The record as it goes over the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it points at: a path such as `/ipfs/<tree>`, unchecked.
    pub fn value(&self) -> &[u8] {
        &self.data.value
    }

    /// The CID of a value that is exactly `/ipfs/<cid>`.
    pub fn value_cid(&self) -> Option<Cid> {
        let text = std::str::from_utf8(self.value()).ok()?;
        text.strip_prefix("/ipfs/")?.parse().ok()
    }

    /// Its sequence number; the higher one of two records counts.
    pub fn sequence(&self) -> u64 {
        self.data.sequence
    }

    /// Until when it is in force.
    pub fn validity(&self) -> SystemTime {
        self.validity
    }

    /// How long it may be kept without asking again; zero where it does not say.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.data.ttl)
    }

    /// The head that it links.
    pub fn head(&self) -> Option<Cid> {
        self.data.head
    }

    /// The head that is to come next, if it says so.
    pub fn coming(&self) -> Option<Cid> {
        self.data.coming
    }

    /// The KEY that signs instead of this one, if it was handed over.
    pub fn successor(&self) -> Option<IpnsName> {
        self.data.next
    }
}

/// Which of two records of one KEY counts: `Greater` if `a` does.
///
/// Higher sequence, then later validity, then the larger bytes, as every
/// implementation of IPNS selects. Both must have been verified.
pub fn better(a: &Record, b: &Record) -> Ordering {
    let key = |record: &Record| (record.data.sequence, record.validity);
    key(a).cmp(&key(b)).then_with(|| a.bytes.cmp(&b.bytes))
}

/// The protobuf message around the data.
#[derive(Default)]
struct Entry<'a> {
    value: &'a [u8],
    signature_v1: &'a [u8],
    validity_type: u64,
    validity: &'a [u8],
    sequence: u64,
    ttl: u64,
    public_key: Option<&'a [u8]>,
    signature_v2: &'a [u8],
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Of a field that comes twice the last one counts, as in all of protobuf.
    fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut entry = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => entry.value = bytes,
                (2, Value::Bytes(bytes)) => entry.signature_v1 = bytes,
                (3, Value::Varint(number)) => entry.validity_type = number,
                (4, Value::Bytes(bytes)) => entry.validity = bytes,
                (5, Value::Varint(number)) => entry.sequence = number,
                (6, Value::Varint(number)) => entry.ttl = number,
                (7, Value::Bytes(bytes)) => entry.public_key = Some(bytes).filter(|key| !key.is_empty()),
                (8, Value::Bytes(bytes)) => entry.signature_v2 = bytes,
                (9, Value::Bytes(bytes)) => entry.data = bytes,
                (1..=9, _) => return Err(RecordError::Malformed),
                _ => {}
            }
        }
        Ok(entry)
    }

    /// Where the old fields are used at all, all five must say what the data says.
    fn agrees_with(&self, data: &Data) -> Result<(), RecordError> {
        if self.value.is_empty() && self.signature_v1.is_empty() {
            return Ok(());
        }
        let fields = [
            ("value", self.value == data.value.as_slice()),
            ("validityType", self.validity_type == data.validity_type),
            ("validity", self.validity == data.validity.as_slice()),
            ("sequence", self.sequence == data.sequence),
            ("ttl", self.ttl == data.ttl),
        ];
        match fields.into_iter().find(|(_, equal)| !equal) {
            Some((field, _)) => Err(RecordError::Contradiction(field)),
            None => Ok(()),
        }
    }
}
