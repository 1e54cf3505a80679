//! What is known of one file's bytes.
//!
//! - Invariant: who holds [`FileFacts`] got them from hashing the file, never from a database or a peer's word.
//! - Not here: when they still hold (`crate::view::Stamp`).

use cid::Cid;
use pacstore_dag::{Entry, ShortCid};

/// Root, size and digest of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFacts {
    /// The root CID of its DAG.
    root: ShortCid,
    /// Size of the DAG in bytes, as directories record it.
    pub(crate) tsize: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// SHA-256 of the whole file, where somebody may ask for it (in the folder of a repository).
    pub(crate) sha256: Option<[u8; 32]>,
}

impl FileFacts {
    /// The facts of a file that was hashed.
    pub(crate) fn new(root: &Cid, tsize: u64, len: u64, sha256: Option<[u8; 32]>) -> Self {
        Self {
            root: ShortCid::from(root),
            tsize,
            len,
            sha256,
        }
    }

    /// The root CID of its DAG.
    pub(crate) fn root(&self) -> Cid {
        self.root.to_cid()
    }

    /// The link to it in a directory.
    pub(crate) fn entry(&self) -> Entry {
        Entry {
            cid: self.root(),
            tsize: self.tsize,
        }
    }

    /// A compact form for the manifest.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.tsize.to_be_bytes());
        out.push(u8::from(self.sha256.is_some()));
        out.extend_from_slice(&self.sha256.unwrap_or_default());
        out.extend_from_slice(self.root.as_bytes());
    }

    /// Reads what [`FileFacts::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (len, bytes) = bytes.split_first_chunk::<8>()?;
        let (tsize, bytes) = bytes.split_first_chunk::<8>()?;
        let (known, bytes) = bytes.split_first()?;
        let (sha256, bytes) = bytes.split_first_chunk::<32>()?;
        Some(Self {
            root: ShortCid::from(&Cid::try_from(bytes).ok()?),
            tsize: u64::from_be_bytes(*tsize),
            len: u64::from_be_bytes(*len),
            sha256: (*known == 1).then_some(*sha256),
        })
    }
}
