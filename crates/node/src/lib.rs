//! What pacstore does: fetch, publish, follow, import, serve by rule.
//!
//! [`Node`] puts the lower crates together and runs their workers. Above it `http` gives
//! its answers to pacman and `cli` gives it orders.
//!
//! - Invariant: no byte is given that was not verified; no head older than one seen
//!   becomes current; nothing waits without a deadline.
//! - Not here: sockets that people talk to, printing, the configuration file.
//! - Read first: [`Node`], then `serve.rs` and `fetch/mod.rs`.

mod ahead;
mod alert;
mod announce;
mod blocks;
mod bring;
mod by_cid;
mod bytes_out;
pub mod config;
mod damage;
mod digests;
mod error;
mod fetch;
mod follow;
mod freshness;
mod gc;
mod giving;
mod hand_over;
mod health;
mod hidden;
mod history;
mod hours;
mod importer;
mod keys;
mod lookup;
mod machine;
mod manners;
mod meet;
pub mod metrics;
mod mirror;
mod neighbours;
mod node;
mod open;
mod pressure;
mod process;
mod publish;
mod ranking;
mod read;
mod receipts;
mod replicas;
mod repository;
mod rounds;
mod runs;
mod serve;
mod status;
mod strays;
mod transfers;
mod turn;
mod uploads;
mod wake;
mod wanted;
mod work;

pub use alert::{Alert, AlertConfig, Delivery, Kind as AlertKind, OpenAlert};
pub use bytes_out::BytesOut;
pub use config::Config;
pub use damage::Checked;
pub use error::StoreError;
pub use fetch::{AskPeers, FetchError, Fetcher, Opened, Reader, Small, Sources, Through, one_leaf};
pub use giving::Giving;
pub use hand_over::{RotateError, Rotated};
pub use health::Unwell;
pub use history::Past;
pub use importer::{Importing, Outcome, RepositoryReport, RoundReport};
pub use keys::{KeyError, Keys};
pub use lookup::Hint;
pub use machine::cache::CacheStatus;
pub use machine::prefetch::PrefetchStatus;
pub use machine::scrub::ScrubStatus;
pub use mirror::{Accepted, Found, FoundKind, Mirror};
pub use node::{Node, Online, RepositoryIn, STOP_GRACE, StartError};
pub use open::Content;
pub use pressure::Pressure;
pub use process::Process;
pub use publish::PublishError;
pub use receipts::{Ending, Giver, Receipt};
pub use replicas::ReplicaStatus;
pub use repository::{Redirected, RepositoryStatus};
pub use rounds::Outcomes;
pub use serve::{Answer, AskError, Client, DirectoryAnswer, FileAnswer, Redirect};
pub use status::{
    ImportStatus, MirrorStatus, Status, StoreStatus, TaskStatus, WARN_AFTER, chain, state_name,
};
pub use transfers::TransferStatus;
pub use uploads::UploadStatus;
pub use work::{Repair, WorkStatus};
