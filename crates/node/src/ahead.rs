//! Fetching ahead what a head needs that is to come next, so that its importer may find it here.
//!
//! An importer with `replicas` links the coming head in the record over the old one (`Record::coming`). Who follows the
//! mirror and gives to others fetches its directories, the databases in use and, unless the line is metered, those of
//! all its repositories: that is what the importer asks for (`crate::replicas`).
//!
//! - Invariant: a coming head is never served and counts for nothing; requests are answered from the old one.
//! - Invariant: what came ahead may be evicted like anything that nobody uses.
//! - Not here: heads that are in force (`crate::follow`).
//! - Read first: `docs/decisions/0017-a-coming-head-stands-in-the-record-of-the-old-one.md`.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use pacstore_names::{Head, HeadError, IpnsName};
use pacstore_runtime::{Pool, note};
use tokio::sync::watch;
use tracing::{debug, info};

use crate::bring::{databases_of, directories, take_database};
use crate::fetch::FetchError;
use crate::follow::{FollowError, WHOLE_HEAD};
use crate::mirror::Mirror;
use crate::node::Node;

/// Databases that nobody uses here are fetched up to so many bytes a head, all of its databases counted.
const MOST: u64 = 128_000_000;

/// What did not come is tried again after so long.
const AGAIN: Duration = Duration::from_secs(15);

/// Why nothing came ahead.
#[derive(Debug, thiserror::Error)]
enum AheadError {
    #[error("cannot fetch the coming head {0}")]
    Head(Cid, #[source] FetchError),
    #[error("the coming head {0} cannot be read")]
    Decode(Cid, #[source] HeadError),
    #[error("cannot fetch what the coming head needs")]
    Needs(#[from] FollowError),
    #[error("cannot read the tree of the coming head {0}")]
    Tree(Cid, #[source] pacstore_dag::ReadError),
    #[error("cannot fetch the database {0} of the coming head")]
    Database(String, #[source] FetchError),
    #[error("what the coming head {0} needs did not come in time")]
    Late(Cid),
}

/// A coming head that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    key: IpnsName,
    /// Of the record, and so of the head in force.
    sequence: u64,
    /// Whether the head in force is public.
    public: bool,
    head: Cid,
}

impl Named {
    /// Whether `head` can come after the one in force: it is newer, and for the same audience.
    fn may_come(&self, head: &Head) -> bool {
        self.sequence < head.sequence && self.public == head.public
    }
}

/// Fetches what is to come of one mirror until the node stops.
pub(crate) async fn run(node: Node, mirror: Arc<Mirror>) {
    let stop = node.inner.tasks.stop();
    let mut changes = mirror.watch();
    let mut done = HashSet::new();
    loop {
        let all = named(&node, &mirror);
        done.retain(|head| all.iter().any(|one| one.head == *head));
        let work = async {
            loop {
                let mut failed = false;
                for one in &all {
                    if done.contains(&one.head) {
                        continue;
                    }
                    note("fetching ahead");
                    match fetch(&node, &mirror, one).await {
                        Ok(()) => drop(done.insert(one.head)),
                        Err(error) => {
                            failed = true;
                            debug!(mirror = %mirror.config.name, error = &error as &dyn Error, "will retry");
                        }
                    }
                }
                note("waiting");
                if !failed {
                    return std::future::pending::<()>().await;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = Box::pin(work) => {}
            () = differs(&node, &mirror, &mut changes, &all) => {}
        }
    }
}

/// The coming heads that records in force name, but our own.
fn named(node: &Node, mirror: &Mirror) -> Vec<Named> {
    let trusted = mirror.importers();
    let ours = |key: &IpnsName| {
        node.inner
            .imports
            .iter()
            .any(|import| import.key().name() == *key)
    };
    let signed = mirror.signed().into_iter();
    let theirs = signed.filter(|one| trusted.contains(&one.key) && !ours(&one.key));
    let named = theirs.filter_map(|one| {
        Some(Named {
            key: one.key,
            sequence: one.record.sequence(),
            public: one.head.public,
            head: one.record.coming()?,
        })
    });
    named.collect()
}

/// Ends when records name others than `known`. The heads change for many reasons.
async fn differs(node: &Node, mirror: &Mirror, changes: &mut watch::Receiver<u64>, known: &[Named]) {
    loop {
        changes.borrow_and_update();
        if named(node, mirror) != known {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Fetches what one coming head needs, or finds that it is none.
async fn fetch(node: &Node, mirror: &Arc<Mirror>, named: &Named) -> Result<(), AheadError> {
    let cid = named.head;
    let ask = mirror.audience(mirror.current().as_deref().map(|head| &head.head));
    let block = node.inner.fetch.block(&cid, ask).await;
    let block = block.map_err(|source| AheadError::Head(cid, source))?;
    let head = Head::decode(&block).map_err(|source| AheadError::Decode(cid, source))?;
    if head.mirror != mirror.config.name || !named.may_come(&head) {
        debug!(mirror = %mirror.config.name, key = %named.key, head = %cid, "a record names a coming head that cannot come after the one in force");
        return Ok(());
    }
    let needs = needs(node, mirror, cid, &head);
    let came = tokio::time::timeout(WHOLE_HEAD, Box::pin(needs)).await;
    came.map_err(|_| AheadError::Late(cid))??;
    info!(mirror = %mirror.config.name, tree = %head.tree, head = %cid, "the coming head is here");
    Ok(())
}

async fn needs(node: &Node, mirror: &Arc<Mirror>, cid: Cid, head: &Head) -> Result<(), AheadError> {
    directories(node, &head.tree, mirror.audience(Some(head))).await?;
    let (mirror_, head_) = (Arc::clone(mirror), head.clone());
    let looked = node
        .inner
        .tasks
        .blocking(Pool::Disk, move || databases_of(&mirror_, &head_));
    let all = looked.await.map_err(|_| FollowError::Stopping)?;
    let all = all.map_err(|source| AheadError::Tree(cid, source))?;
    let mut paths: Vec<String> = Vec::new();
    for path in mirror.used_databases() {
        paths.extend([format!("{path}.sig"), path]);
    }
    let bytes: u64 = all.iter().map(|(_, _, len)| len).sum();
    if bytes <= MOST && may_cost(node).await {
        paths.extend(all.into_iter().map(|(path, _, _)| path));
    }
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        let taken = take_database(node, mirror, head, &path).await;
        taken.map_err(|source| AheadError::Database(path, source))?;
    }
    Ok(())
}

/// What nobody uses here may come over the line as it is now.
async fn may_cost(node: &Node) -> bool {
    let prefetch = node.inner.config.machine.prefetch.as_ref();
    prefetch.is_some_and(|config| config.metered) || !node.inner.machine.line.is_metered().await
}

#[cfg(test)]
mod tests {
    use pacstore_names::{Counts, Layout, SigningKey, TreeTimes};

    use super::*;

    #[test]
    fn what_is_older_than_the_head_in_force_or_for_others_does_not_come() {
        let cid = Head::cid_of(b"any");
        let head = |sequence, public| Head {
            mirror: "test.mirror".parse().unwrap(),
            tree: cid,
            profile: "unixfs-v1-2025".to_owned(),
            layout: Layout::Plain,
            public,
            max_age_s: 0,
            sequence,
            previous: None,
            counts: Counts::default(),
            tree_times: Some(TreeTimes::default()),
            repositories: Vec::new(),
        };
        let named = Named {
            key: SigningKey::from_seed([1; 32]).name(),
            sequence: 7,
            public: true,
            head: cid,
        };
        assert!(named.may_come(&head(8, true)));
        assert!(!named.may_come(&head(7, true)), "it would be no news");
        assert!(!named.may_come(&head(3, true)), "an older one");
        assert!(
            !named.may_come(&head(8, false)),
            "others must not even hear of it"
        );
    }
}
