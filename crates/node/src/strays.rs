//! What the store holds for imports that are gone: let go of when the daemon starts.
//!
//! `own/KEY` holds what a key published last, `coming/NAME/CID` a head that waits for replicas, `head/NAME/CID` a
//! snapshot, `import/NAME/*` what the last round brought, `used/NAME/PATH` a database that clients of a followed mirror
//! asked for. They outlive the `[[import]]` that made them, and with them
//! packages that nobody asks for.
//!
//! - Invariant: what a key of this node published last is held, and so is the last published head of a name that is
//!   imported or followed. In doubt, such as with a key that cannot be read, everything stays.
//! - Invariant: of a name that was ever followed or imported the newest head stays, so that no older one is taken when
//!   it comes back; all of its files stay while a key is here with which its import may come back.
//! - Not here: labels of repositories (`crate::repository`), and of heads of mirrors in the configuration (`crate::mirror`).

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use cid::Cid;
use pacstore_names::{IpnsName, Layout, MirrorName};
use tracing::{info, warn};

use crate::config::{Keep, MirrorConfig};
use crate::error::StoreError;
use crate::keys::Keys;
use crate::mirror::{MIRROR, Mirror, USED};
use crate::node::Node;
use crate::{publish, replicas};

/// Lets go of what no configuration and no key explains. Blocking; before there are workers. A failure is told and
/// harmless: the next start does it again.
pub(crate) fn release(node: &Node) {
    let keys = Keys::new(&node.inner.config.state_dir);
    keys.sweep();
    match keys.names_of_all() {
        Ok(keys) => {
            tell(release_own(node, &keys));
            tell(release_gone(node, &keys));
        }
        Err(error) => {
            warn!(
                error = &error as &dyn Error,
                "what is held for keys stays, since one of them cannot be read"
            );
        }
    }
    tell(release_coming(node));
    tell(release_used(node));
}

/// Of an import that may come back the newest snapshot is kept, and all that are not older than this.
const MAY_COME_BACK: Keep = Keep {
    age: Duration::from_hours(7 * 24),
    count: 1,
};

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

/// Databases that clients used of mirrors that nobody follows here any more.
fn release_used(node: &Node) -> Result<(), StoreError> {
    let store = &node.inner.store;
    let holds = |name: &str| {
        let mut mirrors = node.inner.mirrors.iter();
        mirrors.any(|mirror| mirror.config.name.as_str() == name && mirror.holds_databases())
    };
    for (label, _) in store.retained()? {
        let name = label.strip_prefix(USED).and_then(|rest| rest.split('/').next());
        if name.is_some_and(|name| !holds(name)) {
            store.release(&label)?;
            info!(
                label,
                "a database is let go of: its mirror is not followed any more"
            );
        }
    }
    Ok(())
}

/// Snapshots of mirrors that the configuration no longer names, and what was brought for imports that it no longer has.
fn release_gone(node: &Node, keys: &[IpnsName]) -> Result<(), StoreError> {
    let store = &node.inner.store;
    let may_come_back = is_one_unused(node, keys);
    for name in gone_mirrors(node)? {
        let whole = format!("head/{name}/");
        let is_whole = store
            .retained()?
            .iter()
            .any(|(label, _)| label.starts_with(&whole));
        let keep = (may_come_back && is_whole).then_some(MAY_COME_BACK);
        let heads =
            Mirror::load(nobodys(name.clone()), keep, store.clone())?.prune(node.inner.clock.now(), &[])?;
        if 0 < heads || (is_whole && keep.is_none()) {
            info!(%name, heads, whole = keep.is_some(), "of a mirror that is gone from the configuration the newest snapshot stays");
        }
    }
    if may_come_back {
        return Ok(());
    }
    let held = store.retained()?;
    for name in gone_imports(node)? {
        let labels = pacstore_import::labels(&name);
        labels.iter().try_for_each(|label| store.release(label))?;
        if held.iter().any(|(label, _)| labels.contains(label)) {
            info!(
                name,
                "what was brought for an import is let go of: it is gone, and every key that it may have had"
            );
        }
    }
    Ok(())
}

/// There is a key that no import uses and that is not the node's own: it may be that of one that is gone.
fn is_one_unused(node: &Node, keys: &[IpnsName]) -> bool {
    let used: Vec<IpnsName> = node
        .inner
        .imports
        .iter()
        .map(|import| import.key().name())
        .collect();
    let own = Keys::new(&node.inner.config.state_dir)
        .node()
        .map(|key| key.name());
    keys.iter()
        .any(|key| !used.contains(key) && own.as_ref().ok() != Some(key))
}

/// Mirrors that are remembered and not configured.
fn gone_mirrors(node: &Node) -> Result<Vec<MirrorName>, StoreError> {
    let known = node.inner.store.state_list(MIRROR)?;
    let names = known
        .iter()
        .filter_map(|(key, _)| key.strip_prefix(MIRROR)?.parse().ok());
    let is_gone = |name: &MirrorName| {
        !node
            .inner
            .mirrors
            .iter()
            .any(|mirror| mirror.config.name == *name)
    };
    Ok(names.filter(is_gone).collect())
}

/// Imports of which the store holds something, or that have a folder, and that are not configured.
fn gone_imports(node: &Node) -> Result<BTreeSet<String>, StoreError> {
    let labels = node.inner.store.retained()?;
    let of_label = |label: &str| Some(label.strip_prefix("import/")?.split('/').next()?.to_owned());
    let mut names: BTreeSet<String> = labels.iter().filter_map(|(label, _)| of_label(label)).collect();
    // Files of a first round that never ended have no tree, so no label tells of them.
    let folders = fs_err::read_dir(node.inner.config.state_dir.join("import"));
    names.extend(
        folders
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok()),
    );
    names.retain(|name| {
        !node
            .inner
            .imports
            .iter()
            .any(|import| import.name().as_str() == name)
    });
    Ok(names)
}

/// A mirror that nobody serves: only what is remembered of it counts.
fn nobodys(name: MirrorName) -> MirrorConfig {
    MirrorConfig {
        name,
        importers: Vec::new(),
        quorum: 1,
        upstreams: Vec::new(),
        layout: Layout::Plain,
        folder: String::new(),
        public: false,
    }
}
