//! What is known of one file's bytes.
//!
//! - Invariant: who holds [`FileFacts`] got them from hashing the file, never from a database or a peer's word.
//! - Not here: when they still hold (`crate::view::Stamp`).

use std::fmt;

use cid::Cid;
use pacstore_dag::Entry;

/// A CID without the room that a [`Cid`] keeps for longer digests: importers hold many.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Root {
    len: u8,
    bytes: [u8; ROOT],
}

/// The longest CID of any profile is 38 bytes (blake2b-256).
const ROOT: usize = 39;

impl Root {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut root = Self {
            len: u8::try_from(bytes.len()).ok()?,
            bytes: [0; ROOT],
        };
        root.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(root)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Cid::try_from(self.as_bytes()))
    }
}

/// Root, size and digest of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFacts {
    /// The root CID of its DAG.
    root: Root,
    /// Size of the DAG in bytes, as directories record it.
    pub(crate) tsize: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// SHA-256 of the whole file, where somebody may ask for it (in the folder of a repository).
    pub(crate) sha256: Option<[u8; 32]>,
}

impl FileFacts {
    /// The facts of a file that was hashed; nothing if no profile gives such a root.
    pub(crate) fn new(root: &Cid, tsize: u64, len: u64, sha256: Option<[u8; 32]>) -> Option<Self> {
        Some(Self {
            root: Root::new(&root.to_bytes())?,
            tsize,
            len,
            sha256,
        })
    }

    /// The root CID of its DAG.
    pub(crate) fn root(&self) -> Cid {
        Cid::try_from(self.root.as_bytes()).expect("a root is made of a CID only")
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
            root: Root::new(&Cid::try_from(bytes).ok()?.to_bytes())?,
            tsize: u64::from_be_bytes(*tsize),
            len: u64::from_be_bytes(*len),
            sha256: (*known == 1).then_some(*sha256),
        })
    }
}
