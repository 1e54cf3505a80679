//! Names: who says which snapshot is the newest, and how that is written down.
//!
//! An importer signs an IPNS record; the record names a tree and links a [`Head`],
//! which says how fresh each repository of the tree is. This crate makes, checks
//! and compares all of that, and it reads what people write: KEYs, mirror names,
//! DNSLink texts, request paths.
//!
//! - Invariant: pure. No clock, disk, network or async runtime; time is a parameter.
//! - Invariant: no bytes of others make it panic, and none make it allocate more
//!   than a small multiple of their length, which is bounded first.
//! - Not here: where records come from and go to (`net`), what is done with the
//!   newest head (`node`).
//! - Read first: [`Record`], then [`Head`], then [`choose`].
//!
//! ```
//! use std::time::{Duration, UNIX_EPOCH};
//! use pacstore_names::{Record, RecordData, SigningKey};
//!
//! let key = SigningKey::from_seed([7; 32]);
//! let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
//! let record = Record::create(&key, RecordData {
//!     value: b"/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".to_vec(),
//!     sequence: 1,
//!     validity: now + Duration::from_secs(48 * 3600),
//!     ttl: Duration::from_secs(300),
//!     head: None,
//! })?;
//! let received = Record::from_bytes(record.bytes())?;
//! received.verify(&key.name(), now)?;
//! assert_eq!(received.sequence(), 1);
//! # Ok::<(), pacstore_names::RecordError>(())
//! ```

mod arch;
mod choose;
mod dnslink;
mod hand_over;
mod head;
mod key;
mod mirror_name;
mod name;
mod path;
mod proto;
mod record;
mod repository;
mod signed;
mod summary;
mod time;

pub use arch::{Arch, ArchError, arch_of_folder};
pub use choose::{Choice, Current, Rejection, Seen, SeenKey, choose};
pub use cid::Cid;
pub use dnslink::{DnslinkError, LinkTarget, parse_dnslink};
pub use hand_over::{HandOverError, HandOvers, MAX_HAND_OVERS};
pub use head::{
    Counts, HEAD_VERSION, Head, HeadError, Layout, LayoutError, MAX_HEAD, MAX_REPOSITORIES, TreeTimes,
};
pub use key::{KeyError, PublicKey, SigningKey};
pub use mirror_name::{MirrorName, MirrorNameError};
pub use name::{IpnsName, NameError};
pub use path::{MAX_PATH, MAX_SEGMENT, MAX_SEGMENTS, PathError, RequestPath, parse_request_path};
pub use record::{COMING_KEY, HEAD_KEY, MAX_RECORD, NEXT_KEY, Record, RecordData, RecordError, better};
pub use repository::{RepoState, Repository, State};
pub use signed::{Signed, SignedError};
pub use summary::{ArchField, FellBack, ImporterLine, RepositoryLine, Summary};
pub use time::{rfc3339, unix_seconds};
