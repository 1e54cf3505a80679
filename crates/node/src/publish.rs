//! Making heads: what a round found becomes a head, a record, and known to others.
//!
//! Order: the head block and the tree are durable, then the sequence number, then the
//! record, then memory; only then others are told. A crash in between leaves the last
//! head in force, and the next round converges.
//!
//! - Invariant: a sequence number is on disk before a record with it exists.
//! - Invariant: a refresh of the same head keeps the sequence; only validity grows.
//! - Not here: what is imported (`crate::importer`), the wire (`pacstore-net`).

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use pacstore_dag::Block;
use pacstore_import::Round;
use pacstore_names::{
    Head, IpnsName, Record, RecordData, RepoState, Repository, Signed, SignedError, TreeTimes, choose,
    unix_seconds,
};
use pacstore_runtime::Pool;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::error::StoreError;
use crate::follow::keep_record;
use crate::hand_over;
use crate::importer::{Importing, counts, head_repository};
use crate::mirror::Mirror;
use crate::node::Node;
use crate::replicas;

/// How long a record is valid. A client that sees no newer one for that long has no name.
pub(crate) const VALIDITY: Duration = Duration::from_hours(72);

/// How labels of the store begin that hold what one of our keys published last; its KEY follows.
pub(crate) const OWN: &str = "own/";

/// A record is renewed when less than this is left of it.
const RENEW: Duration = Duration::from_hours(48);

/// How long resolvers may keep a record.
pub(crate) const TTL: Duration = Duration::from_mins(1);

/// `checked` moves in a new head over the same tree at most this often, in seconds.
const CHECKED: u64 = 1800;

/// A `checked` that lies further ahead of the clock than this is not true, in seconds.
const AHEAD: u64 = 300;

/// Upstream's clock may be ahead of ours by so much, in seconds.
const TO_COME: u64 = 86_400;

/// How often records are looked at.
const LOOK: Duration = Duration::from_mins(10);

/// Why a head could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store failed.
    #[error("cannot keep the new head")]
    Store(#[from] StoreError),
    /// The record cannot be made.
    #[error("cannot sign the new head")]
    Record(#[from] pacstore_names::RecordError),
    /// The head cannot be made.
    #[error("cannot write the new head")]
    Head(#[from] pacstore_names::HeadError),
    /// What we made does not fit together.
    #[error("the new head does not verify")]
    Signed(#[from] SignedError),
    /// The configuration has no mirror for the import.
    #[error("no mirror is configured for this import")]
    NoMirror,
    /// The key was handed over, on another machine or before this one's copy was made.
    #[error("{key} was handed over to {to}; it signs nothing more")]
    Over {
        /// Our KEY.
        key: IpnsName,
        /// Whom it was handed over to.
        to: IpnsName,
    },
}

impl PublishError {
    /// One sentence on what to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint().map(str::to_owned),
            Self::Over { .. } => Some(
                "put the new key's file in the place of this one, or stop this importer: another machine has its place"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// What became of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// A new head over a new tree.
    Tree,
    /// A new head over the same tree: states or times moved.
    Facts,
    /// The published head already says all of it.
    Same,
}

/// Publishes what `round` found. Blocking.
pub(crate) fn publish(
    node: &Node,
    import: &Importing,
    mirror: &Mirror,
    round: &Round,
) -> Result<Published, PublishError> {
    let _one = import.replicas.signing();
    let own = import.key().name();
    if mirror.is_over(&own) {
        let to = mirror.heir(&own);
        return Err(PublishError::Over { key: own, to });
    }
    let last = mirror.signed().into_iter().find(|signed| signed.key == own);
    // What waits for replicas is the last that rounds found. Where none are wanted any more, or it was preferred before a
    // crash, it is as if it was not.
    let in_force = |tree: &Cid| last.as_ref().is_some_and(|last| last.head.tree == *tree);
    let waits = import
        .replicas
        .waiting()
        .filter(|waits| import.config.replicas > 0 && !in_force(&waits.head.tree))
        .map(|waits| waits.head);
    let newest = waits.as_ref().or(last.as_ref().map(|last| &last.head));
    let head = make_head(node, import, last.as_ref(), newest, round)?;
    if newest.is_some_and(|newest| same(newest, &head)) {
        if waits.is_none() {
            let (store, replicas) = (&node.inner.store, &import.replicas);
            replicas.nothing_waits(store, replicas.thin())?;
        }
        return Ok(Published::Same);
    }
    let found = match newest {
        Some(newest) if newest.tree == head.tree => Published::Facts,
        _ => Published::Tree,
    };
    if let Some(last) = last
        .as_ref()
        .filter(|last| replicas::must_wait(import, last, &head))
    {
        replicas::wait(node, import, mirror, last, head)?;
        return Ok(found);
    }
    let cid = put_out(node, import, mirror, &head)?;
    let thin = import.replicas.thin();
    let thin = thin.filter(|_| last.is_some_and(|last| last.head.tree == head.tree));
    import.replicas.nothing_waits(&node.inner.store, thin)?;
    info!(mirror = %mirror.config.name, tree = %head.tree, head = %cid, "published");
    Ok(found)
}

/// Keeps `head` and its tree, signs it and takes it in.
pub(crate) fn put_out(
    node: &Node,
    import: &Importing,
    mirror: &Mirror,
    head: &Head,
) -> Result<Cid, PublishError> {
    let own = import.key().name();
    let (cid, bytes) = head.encode()?;
    let store = &node.inner.store;
    let block = Block {
        cid,
        data: bytes.clone().into(),
    };
    let blocks = std::slice::from_ref(&block);
    store.put_nodes(blocks).map_err(StoreError::from)?;
    // Ours stays whole for others even where the quorum prefers another tree.
    store
        .retain(&format!("{OWN}{own}"), &head.tree)
        .map_err(StoreError::from)?;
    let record = sign(node, import, cid, &head.tree, head.sequence, None)?;
    let signed = Signed::verify(own, record, &bytes, node.inner.clock.now())?;
    take_in(node, mirror, signed)?;
    // Held only now: gc may have taken it before.
    store.put_nodes(blocks).map_err(StoreError::from)?;
    Ok(cid)
}

/// Signs what we published last anew, above any sequence seen; not while a round is under way,
/// which is looked at again soon.
pub(crate) async fn overtake(node: &Node, import: &Arc<Importing>, mirror: &Arc<Mirror>) {
    let Some(_no_round) = import.no_round() else {
        return;
    };
    let (node_, import_, mirror_) = (node.clone(), Arc::clone(import), Arc::clone(mirror));
    let again = move || {
        let own = import_.key().name();
        let _one = import_.replicas.signing();
        if mirror_.is_over(&own) {
            return Ok(());
        }
        let Some(last) = mirror_.signed().into_iter().find(|signed| signed.key == own) else {
            return Ok(());
        };
        let sequence = next_sequence(&node_, &own)?;
        let head = Head {
            sequence,
            ..last.head
        };
        put_out(&node_, &import_, &mirror_, &head).map(drop)
    };
    match node.inner.tasks.blocking(Pool::Disk, again).await {
        Ok(Ok(())) => node.tell(import, mirror).await,
        Ok(Err(error)) => {
            warn!(mirror = %import.name(), error = &error as &dyn std::error::Error, "cannot publish above what the network knows; will retry");
        }
        Err(_) => {}
    }
}

/// Our own newest head, weighed like any other's.
pub(crate) fn take_in(node: &Node, mirror: &Mirror, new: Signed) -> Result<(), PublishError> {
    let mut signed = mirror.signed();
    let trusted = mirror.importers();
    signed.retain(|old| old.key != new.key && trusted.contains(&old.key));
    signed.push(new);
    let choice = choose(&signed, &trusted, mirror.config.quorum, &mirror.seen());
    match choice.pick {
        Some(pick) => {
            let picked = signed[pick].clone();
            mirror.accept(&picked, unix_seconds(node.inner.clock.now()), signed, choice.seen)?;
        }
        None => mirror.refresh(signed, choice.seen)?,
    }
    Ok(())
}

/// The head that `round` asks for: after `last`, which is in force, and `newest`, which rounds found last.
fn make_head(
    node: &Node,
    import: &Importing,
    last: Option<&Signed>,
    newest: Option<&Head>,
    round: &Round,
) -> Result<Head, PublishError> {
    let now = unix_seconds(node.inner.clock.now());
    let previous = match last {
        Some(last) if last.head.tree == round.tree => last.head.previous,
        Some(last) => Some(last.head_cid),
        None => None,
    };
    let old = |name: &str, folder: &str| {
        newest.and_then(|newest| {
            newest
                .in_folder(folder)
                .find(|repository| repository.name == name)
        })
    };
    // The same tree is as new as the newest upstream that had it: a mirror whose change stamp is older does not age it.
    let stands = newest.filter(|newest| newest.tree == round.tree);
    let in_tree = round.repositories.iter().filter(|facts| facts.in_tree);
    let repositories: Vec<Repository> = in_tree
        .map(|facts| {
            let old = old(&facts.name, &facts.folder);
            let mut new = head_repository(facts, old, now);
            let before = old.filter(|_| stands.is_some());
            let possible = |new: u64, before: Option<u64>| possible(new, before, now);
            new.db_time = possible(new.db_time, before.map(|old| old.db_time));
            let files = before.and_then(|old| old.files_time);
            new.files_time = new.files_time.map(|time| possible(time, files));
            new.upstream_time = newest_of(new.upstream_time, before.map(|old| old.upstream_time), now);
            new
        })
        .collect();
    let before = stands
        .and_then(|newest| newest.tree_times)
        .map(|times| times.upstream_time);
    let upstream_time = newest_of(round.upstream_time.unwrap_or(0), before, now);
    let tree_times = repositories.is_empty().then_some(TreeTimes {
        upstream_time,
        checked: now,
    });
    Ok(Head {
        mirror: import.name().clone(),
        tree: round.tree,
        profile: import.config.spec.profile.name().to_owned(),
        layout: import.config.layout,
        public: import.config.public,
        max_age_s: import.config.max_age.map_or(0, |age| age.as_secs()),
        sequence: next_sequence(node, &import.key().name())?,
        previous,
        counts: counts(round),
        tree_times,
        repositories,
    })
}

/// A time that upstream tells, if it may be true. One that is still to come would be above all that are told after it, here
/// and at other importers; what was said `before` of the same bytes stands for it, else `now`.
fn possible(time: u64, before: Option<u64>, now: u64) -> u64 {
    if time <= now.saturating_add(TO_COME) {
        time
    } else {
        before.unwrap_or(now)
    }
}

/// The later of two times of one tree, of which the one said `before` may be one that is still to come.
fn newest_of(time: u64, before: Option<u64>, now: u64) -> u64 {
    let stands = before.filter(|before| *before <= now.saturating_add(TO_COME));
    possible(time, before, now).max(stands.unwrap_or(0))
}

/// Nothing moved that clients would need a new head for.
fn same(old: &Head, new: &Head) -> bool {
    let facts = |head: &Head| {
        let of_one = |r: &Repository| {
            (
                r.folder.clone(),
                r.name.clone(),
                r.state,
                r.detail.clone(),
                r.upstream_time,
                r.db_time,
            )
        };
        (
            head.tree,
            head.public,
            head.max_age_s,
            head.layout,
            head.tree_times.map(|times| times.upstream_time),
            head.repositories.iter().map(of_one).collect::<Vec<_>>(),
        )
    };
    facts(old) == facts(new) && !confirmed(old, new)
}

/// Whether some `checked` has moved by enough. A torn repository's stands still, which must not
/// hold up the others. One that goes back was written under a clock that ran ahead, and is mended.
fn confirmed(old: &Head, new: &Head) -> bool {
    let times = |head: &Head| -> Vec<u64> {
        if head.repositories.is_empty() {
            return vec![head.checked()];
        }
        head.repositories.iter().map(|one| one.checked).collect()
    };
    let mut pairs = times(old).into_iter().zip(times(new));
    pairs.any(|(old, new)| old + CHECKED <= new || new + AHEAD < old)
}

/// Whether the head that rounds of `import` made last asks for a look at the upstream, whatever its change stamp says: some
/// whole repository was not checked for so long that a look would move its `checked`, or was checked in the future.
///
/// So the age of what stands still is at most [`CHECKED`], the time to the next round and what that takes.
pub(crate) fn wants_check(node: &Node, import: &Importing) -> bool {
    let own = import.key().name();
    let Some(mirror) = node.mirror(import.name().as_str()) else {
        return false;
    };
    let waits = import.replicas.waiting().filter(|_| import.config.replicas > 0);
    let published = || mirror.signed().into_iter().find(|signed| signed.key == own);
    let head = waits.map(|waits| waits.head);
    let Some(head) = head.or_else(|| Some(published()?.head)) else {
        return false;
    };
    let now = unix_seconds(node.inner.clock.now());
    let wants = |checked: u64| checked + CHECKED <= now || now + AHEAD < checked;
    if head.repositories.is_empty() {
        return wants(head.checked());
    }
    let mut whole = head
        .repositories
        .iter()
        .filter(|one| one.state == RepoState::Whole);
    whole.any(|one| wants(one.checked))
}

fn sequence_key(key: &IpnsName) -> String {
    format!("sequence/{key}")
}

/// One more than any sequence that we used or saw for this key.
pub(crate) fn next_sequence(node: &Node, key: &IpnsName) -> Result<u64, StoreError> {
    let stored = node.inner.store.state_get(&sequence_key(key))?;
    let damaged = || StoreError::State(sequence_key(key));
    let local = match stored {
        Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| damaged())?),
        None => 0,
    };
    Ok(local.saturating_add(1))
}

/// Remembers that `sequence` was used or seen for `key`, if it is the highest.
pub(crate) fn saw_sequence(node: &Node, key: &IpnsName, sequence: u64) -> Result<(), StoreError> {
    if sequence < next_sequence(node, key)? {
        return Ok(());
    }
    node.inner
        .store
        .state_put(&[(&sequence_key(key), Some(&sequence.to_be_bytes()))])?;
    Ok(())
}

/// Signs a record for `head`. The sequence is durable before the record exists.
fn sign(
    node: &Node,
    import: &Importing,
    head: Cid,
    tree: &Cid,
    sequence: u64,
    coming: Option<Cid>,
) -> Result<Record, PublishError> {
    saw_sequence(node, &import.key().name(), sequence)?;
    let data = RecordData {
        value: format!("/ipfs/{tree}").into_bytes(),
        sequence,
        validity: node.inner.clock.now() + VALIDITY,
        ttl: TTL,
        head: Some(head),
    };
    Ok(match coming {
        Some(coming) => Record::announce(&import.key(), data, coming)?,
        None => Record::create(&import.key(), data)?,
    })
}

/// Renews the record of what `import` last published if its end is near.
pub(crate) fn renew(node: &Node, import: &Importing, mirror: &Mirror) -> Result<bool, PublishError> {
    // There is time for it later.
    let Some(_one) = import.replicas.try_signing() else {
        return Ok(false);
    };
    let own = import.key().name();
    let Some(old) = mirror.signed().into_iter().find(|signed| signed.key == own) else {
        return Ok(false);
    };
    let left = old
        .record
        .validity()
        .duration_since(node.inner.clock.now())
        .unwrap_or_default();
    if RENEW < left {
        return Ok(false);
    }
    let (head, sequence) = (old.head_cid, old.record.sequence());
    let record = sign(node, import, head, &old.head.tree, sequence, old.record.coming())?;
    take_in(node, mirror, Signed { record, ..old })?;
    Ok(true)
}

impl Node {
    /// Tells the network what `import` last published.
    pub(crate) async fn tell(&self, import: &Importing, mirror: &Arc<Mirror>) {
        let Some(net) = &self.inner.net else { return };
        let own = import.key().name();
        let Some(signed) = mirror.signed().into_iter().find(|signed| signed.key == own) else {
            return;
        };
        if mirror.is_over(&own) {
            return;
        }
        keep_record(net, mirror, &signed);
        if !import.config.public {
            return;
        }
        if let Err(error) = net.provide(&signed.head.tree).await {
            debug!(
                error = &error as &dyn std::error::Error,
                "cannot announce the tree"
            );
        }
        if let Err(error) = net.publish_record(&own, signed.record.bytes()).await {
            debug!(
                error = &error as &dyn std::error::Error,
                "the DHT did not take the record; connected peers get it from us"
            );
        }
    }

    /// Learns from the network which sequence of our own keys is in use, after a loss of state.
    async fn learn_sequences(&self) {
        let Some(net) = &self.inner.net else { return };
        // Of a private one only friends are asked, by whoever follows our own mirror (`crate::follow`).
        for import in self.inner.imports.iter().filter(|import| import.config.public) {
            let own = import.key().name();
            let found = net.find_record(&own, FIND_OWN).await.unwrap_or_default();
            let Some(highest) = found.iter().map(|found| found.record.sequence()).max() else {
                continue;
            };
            if let Err(error) = saw_sequence(self, &own, highest) {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot remember a sequence"
                );
            }
        }
    }
}

/// How long other nodes are asked for our own records at start.
const FIND_OWN: Duration = Duration::from_secs(5);

/// Keeps records in force: looks at each every few minutes, renews and tells.
pub(crate) async fn announce(node: Node) {
    let stop = node.inner.tasks.stop();
    if stop.run_until_cancelled(node.learn_sequences()).await.is_none() {
        return;
    }
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for import in &node.inner.imports {
            let Some(mirror) = node.mirror(&import.name().to_string()) else {
                continue;
            };
            if mirror.is_over(&import.key().name()) {
                continue;
            }
            match renew(&node, import, &mirror) {
                Ok(_) => {}
                Err(error) => {
                    warn!(mirror = %import.name(), error = &error as &dyn std::error::Error, "cannot renew the record; will retry");
                }
            }
            if stop
                .run_until_cancelled(async {
                    node.tell(import, &mirror).await;
                    hand_over::tell(&node, import, &mirror).await;
                })
                .await
                .is_none()
            {
                return;
            }
        }
    }
}
