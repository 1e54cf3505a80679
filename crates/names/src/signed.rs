//! Signed heads: a head, the record that vouches for it, and proof that they belong together.
//!
//! - Invariant: a [`Signed`] made here has a signature that holds, the head that
//!   its record links, and one tree in both.
//! - Not here: which of several counts (`crate::choose`).

use std::time::SystemTime;

use cid::Cid;

use crate::head::{Head, HeadError};
use crate::name::IpnsName;
use crate::record::{Record, RecordError};

/// A head together with the record that vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Who signed.
    pub key: IpnsName,
    /// The record.
    pub record: Record,
    /// The head that it links.
    pub head: Head,
    /// The head's CID.
    pub head_cid: Cid,
}

/// Why record and head make no [`Signed`].
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The record is not by the KEY, or not in force.
    #[error("record of the head does not verify")]
    Record(#[from] RecordError),
    /// The record names no head: whoever publishes there does not use pacstore.
    #[error("record links no head")]
    NoHead,
    /// The bytes are not those of the head that the record links.
    #[error("block is not the linked head {0}")]
    OtherBlock(Cid),
    /// The bytes are no head.
    #[error("linked head {0} cannot be read")]
    Head(Cid, #[source] Box<HeadError>),
    /// The record's value is another tree than the head's.
    #[error("record points at another tree than its head {0}")]
    OtherTree(Cid),
}

impl Signed {
    /// Checks everything about a head that just came in: the signature, that the
    /// record is in force at `now`, that it links these bytes, that both name one tree.
    ///
    /// # Errors
    /// [`SignedError`] for the first of these that does not hold.
    pub fn verify(key: IpnsName, record: Record, head: &[u8], now: SystemTime) -> Result<Self, SignedError> {
        record.verify(&key, now)?;
        Self::assemble(key, record, head)
    }

    /// The same for a head that was accepted before; its record may have expired.
    ///
    /// # Errors
    /// [`SignedError`] as [`Signed::verify`], save for expiry.
    pub fn restore(key: IpnsName, record: Record, head: &[u8]) -> Result<Self, SignedError> {
        record.verify_signature(&key)?;
        Self::assemble(key, record, head)
    }

    fn assemble(key: IpnsName, record: Record, bytes: &[u8]) -> Result<Self, SignedError> {
        let head_cid = record.head().ok_or(SignedError::NoHead)?;
        if Head::cid_of(bytes) != head_cid {
            return Err(SignedError::OtherBlock(head_cid));
        }
        let head = Head::decode(bytes).map_err(|error| SignedError::Head(head_cid, Box::new(error)))?;
        if record.value_cid() != Some(head.tree) {
            return Err(SignedError::OtherTree(head_cid));
        }
        Ok(Self {
            key,
            record,
            head,
            head_cid,
        })
    }
}
