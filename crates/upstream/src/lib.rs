//! How pacstore reads ordinary mirrors: the one HTTP client and the rsync child.
//!
//! Everything here treats the other side as careless or hostile. A wait always has a
//! deadline, a body always has a bound, an address that a redirect names is checked
//! again, and bytes of two versions of a file are never joined.
//!
//! - Invariant: only hosts that were configured are dialled, and what a redirect of
//!   theirs may lead to ([`AddressRules`]); nothing is ever decompressed or rewritten.
//! - Not here: which file is wanted and whether its bytes are right (`import`, `node`
//!   check against the database or a CID), formats of databases (`pacman`).
//! - Read first: [`Http`], then [`Rsync`].
//!
//! ```
//! use pacstore_upstream::{Url, parse_listing, url_of};
//!
//! let folder = Url::parse("https://mirror.example/core/os/x86_64/")?;
//! let page = br#"<a href="../">../</a> <a href="vim-2%3A9.1-1-x86_64.pkg.tar.zst">vim</a>"#;
//! let entries = parse_listing(page, &folder);
//! assert_eq!(entries[0].name, b"vim-2:9.1-1-x86_64.pkg.tar.zst");
//! let file = url_of(&folder, &entries[0].name)?;
//! assert_eq!(file.path(), "/core/os/x86_64/vim-2:9.1-1-x86_64.pkg.tar.zst");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
mod dns;
mod error;
mod fetch;
mod http;
mod listing;
mod mirrors;
mod part;
mod paths;
mod pulse;
mod response;
mod rsync;

pub use address::{AddressRules, Reach};
pub use error::{HttpError, Refused};
pub use fetch::{Expected, Fetch, FetchError, Fetched, Resume};
pub use http::{Get, Http, HttpOptions, IfRangeIgnored, MinRate};
pub use listing::{ListEntry, MAX_ENTRIES, parse_listing};
pub use mirrors::{MirrorRecord, Mirrors, Observation};
pub use part::Durable;
pub use paths::{NotAPath, url_of};
pub use pulse::Pulse;
pub use response::{Response, ServedRange};
pub use rsync::{
    Deletion, ExitKind, ListSpec, Listed, ListedKind, Listing, Outcome, Progress, Rsync, RsyncError,
    RsyncOptions, RsyncReport, Rule, TransferSpec, parse_rsync_line,
};
pub use url::Url;
