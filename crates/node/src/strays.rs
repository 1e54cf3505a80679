//! What the store holds for imports that are gone: let go of when the daemon starts.
//!
//! `own/KEY` holds what a key published last, `coming/NAME/CID` a head that waits for replicas. Both outlive the
//! `[[import]]` that made them, and with them packages that nobody asks for.
//!
//! - Invariant: what a key of this node published last is held, and so is the last published head of a name that is
//!   imported or followed. In doubt, such as with a key that cannot be read, everything stays.
//! - Not here: labels of repositories (`crate::repository`) and of heads (`crate::mirror`).

use std::error::Error;

use cid::Cid;
use pacstore_names::IpnsName;
use tracing::{info, warn};

use crate::error::StoreError;
use crate::keys::Keys;
use crate::node::Node;
use crate::{publish, replicas};

/// Lets go of what no configuration and no key explains. Blocking; before there are workers. A failure is told and
/// harmless: the next start does it again.
pub(crate) fn release(node: &Node) {
    let keys = Keys::new(&node.inner.config.state_dir);
    keys.sweep();
    match keys.names_of_all() {
        Ok(keys) => tell(release_own(node, &keys)),
        Err(error) => {
            warn!(
                error = &error as &dyn Error,
                "what is held for keys stays, since one of them cannot be read"
            );
        }
    }
    tell(release_coming(node));
}

fn tell(done: Result<(), StoreError>) {
    if let Err(error) = done {
        warn!(
            error = &error as &dyn Error,
            "what is held for imports that are gone stays until the next start"
        );
    }
}

/// Trees of keys that are not here, save those that are still the newest of a name in the configuration.
fn release_own(node: &Node, keys: &[IpnsName]) -> Result<(), StoreError> {
    let store = &node.inner.store;
    for (label, tree) in store.retained()? {
        let Some(Ok(key)) = label.strip_prefix(publish::OWN).map(str::parse::<IpnsName>) else {
            continue;
        };
        if !keys.contains(&key) && !is_newest(node, &key, &tree) {
            store.release(&label)?;
            info!(%key, %tree, "a tree is let go of: its key is gone");
        }
    }
    Ok(())
}

/// `tree` is, or may be, what `key` published last of a mirror in the configuration.
fn is_newest(node: &Node, key: &IpnsName, tree: &Cid) -> bool {
    node.inner.mirrors.iter().any(|mirror| {
        let signed = mirror.signed();
        match signed.iter().find(|signed| signed.key == *key) {
            Some(signed) => signed.head.tree == *tree,
            None => mirror.is_of(key),
        }
    })
}

/// Heads that waited for replicas of an import that is gone. What is written down of them goes first: an import that
/// comes back must not wait for a tree that is not here.
fn release_coming(node: &Node) -> Result<(), StoreError> {
    let (store, imports) = (&node.inner.store, &node.inner.imports);
    let is_gone = |rest: &str| {
        let name = rest.split('/').next().unwrap_or_default();
        !imports.iter().any(|import| import.name().as_str() == name)
    };
    let of_one_gone = |key: &String| key.strip_prefix(replicas::LABEL).is_some_and(is_gone);
    let known = store.state_list(replicas::LABEL)?;
    let known: Vec<&String> = known
        .iter()
        .map(|(key, _)| key)
        .filter(|key| of_one_gone(key))
        .collect();
    if !known.is_empty() {
        let none: Vec<(&str, Option<&[u8]>)> = known.iter().map(|key| (key.as_str(), None)).collect();
        store.state_put(&none)?;
    }
    for (label, cid) in store.retained()? {
        if of_one_gone(&label) {
            store.release(&label)?;
            info!(label, %cid, "a head that waited for replicas is let go of: its import is gone");
        }
    }
    Ok(())
}
