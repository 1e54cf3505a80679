//! `[[import]] replicas`: a head becomes preferred when enough other nodes hold its directories and databases.
//!
//! The coming head and its tree are held, written down, and linked in a record over the old head; who follows the mirror
//! fetches it ahead (`crate::ahead`). Connected peers are asked by Bitswap for all of it; when enough of them have it, or
//! [`LATEST`] is over, a record over the new head goes out. Until then this node's own gateway gives the old one too.
//!
//! - Invariant: a crash at any step leaves the head in force as it was, and the next start goes on.
//! - Invariant: the time that heads wait counts from the first that waited, however many replace it: upstream may
//!   change sooner than peers can take it.
//! - Invariant: the first head of a mirror, one over the tree in force, and one that goes to another audience never wait.
//! - Not here: what rounds found and how heads are signed (`crate::publish`), asking peers (`asking`).
//! - Read first: `docs/decisions/0017-a-coming-head-stands-in-the-record-of-the-old-one.md`.

mod asking;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cid::Cid;
use pacstore_dag::{Block, BlockSource as _};
use pacstore_names::{Head, MirrorName, Record, RecordData, Signed};
use pacstore_runtime::{Pool, note};
use pacstore_store::Store;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::error::StoreError;
use crate::importer::Importing;
use crate::mirror::Mirror;
use crate::node::Node;
use crate::publish::{PublishError, TTL, VALIDITY, next_sequence, put_out, take_in};
use asking::Asked;

/// The longest that a head waits for replicas. A node gives up on a head that does not come in that time
/// (`crate::follow`), so who takes it at all has it by then; and being late is worse for clients than few sources.
pub(crate) const LATEST: Duration = Duration::from_mins(10);

/// Between two questions.
const AGAIN: Duration = Duration::from_secs(2);

/// What waits: how labels begin that hold it, and keys of what is written down of it; NAME follows.
pub(crate) const LABEL: &str = "coming/";

/// What one import has to do with replicas.
#[derive(Debug)]
pub(crate) struct Replicas {
    name: MirrorName,
    /// Who signs something of this import holds it.
    signing: Mutex<()>,
    desk: Mutex<Desk>,
    changed: Notify,
}

#[derive(Clone, Debug, Default)]
struct Desk {
    waiting: Option<Waiting>,
    thin: Option<Thin>,
    /// Peers that have all of what waits.
    held: usize,
}

/// A head that is not preferred yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) head: Head,
    pub(crate) cid: Cid,
    /// Seconds since 1970 when the first head began to wait that was not preferred since.
    since: u64,
}

/// The head in force was preferred without enough replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thin {
    pub(crate) held: usize,
    pub(crate) wanted: usize,
}

/// As it stands in the store.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    waiting: Option<SavedWaiting>,
    thin: Option<Thin>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedWaiting {
    head: String,
    since: u64,
}

/// How an import stands with its replicas, for scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Nodes that must hold a head.
    pub wanted: usize,
    /// Those that do, of the one that waits.
    pub held: usize,
    /// The tree that waits.
    pub tree: Option<String>,
    /// For how many seconds heads have waited.
    pub waiting_s: Option<u64>,
    /// The head in force went out although only so many held it.
    pub thin: Option<usize>,
}

impl Replicas {
    /// What the store remembers of the import `name`.
    pub(crate) fn load(store: &Store, name: &MirrorName) -> Result<Self, StoreError> {
        let key = state_key(name);
        let saved: Saved = match store.state_get(&key)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| StoreError::State(key))?,
            None => Saved::default(),
        };
        let waiting = saved.waiting.and_then(|one| restore(store, &one));
        let replicas = Self {
            name: name.clone(),
            signing: Mutex::default(),
            desk: Mutex::new(Desk {
                waiting,
                thin: saved.thin,
                held: 0,
            }),
            changed: Notify::new(),
        };
        if let Err(error) = replicas.let_go(store) {
            warn!(mirror = %name, error = &error as &dyn std::error::Error, "what a head held that waited for replicas stays for now");
        }
        Ok(replicas)
    }

    /// One at a time signs for this import: a round, a renewal, a rotation, a head whose time has come. Blocking.
    pub(crate) fn signing(&self) -> MutexGuard<'_, ()> {
        self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, or nothing if somebody signs now.
    pub(crate) fn try_signing(&self) -> Option<MutexGuard<'_, ()>> {
        match self.signing.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head that waits.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.desk().waiting.clone()
    }

    /// Whether the head in force went out without enough replicas.
    pub(crate) fn thin(&self) -> Option<Thin> {
        self.desk().thin
    }

    /// For scripts; nothing where no replicas are wanted and none are waited for.
    pub(crate) fn status(&self, wanted: usize, now: u64) -> Option<ReplicaStatus> {
        let desk = self.desk().clone();
        let waiting = desk.waiting.as_ref();
        (wanted > 0 || waiting.is_some()).then(|| ReplicaStatus {
            wanted,
            held: desk.held,
            tree: waiting.map(|one| one.head.tree.to_string()),
            waiting_s: waiting.map(|one| now.saturating_sub(one.since)),
            thin: desk.thin.map(|thin| thin.held),
        })
    }

    /// Writes down what waits and whether the head in force is thin, then changes memory, then lets go of what
    /// nothing waits for any more.
    fn set(&self, store: &Store, waiting: Option<Waiting>, thin: Option<Thin>) -> Result<(), StoreError> {
        let before = self.desk().clone();
        let same = |a: &Option<Waiting>, b: &Option<Waiting>| match (a, b) {
            (Some(a), Some(b)) => (a.cid, a.since) == (b.cid, b.since),
            (None, None) => true,
            _ => false,
        };
        if same(&before.waiting, &waiting) && before.thin == thin {
            return Ok(());
        }
        let saved = Saved {
            waiting: waiting.as_ref().map(|one| SavedWaiting {
                head: one.cid.to_string(),
                since: one.since,
            }),
            thin,
        };
        let bytes = serde_json::to_vec(&saved).unwrap_or_default();
        let nothing = waiting.is_none() && thin.is_none();
        store.state_put(&[(&state_key(&self.name), (!nothing).then_some(&bytes[..]))])?;
        let mut desk = self.desk();
        let tree = |one: &Option<Waiting>| one.as_ref().map(|one| one.head.tree);
        if tree(&desk.waiting) != tree(&waiting) {
            desk.held = 0;
        }
        (desk.waiting, desk.thin) = (waiting, thin);
        drop(desk);
        self.changed.notify_one();
        self.let_go(store)
    }

    /// Lets go of what was held for heads that do not wait any more, also what a crash left.
    fn let_go(&self, store: &Store) -> Result<(), StoreError> {
        let waiting = self.waiting();
        let needed = |cid: &Cid| {
            waiting
                .as_ref()
                .is_some_and(|one| *cid == one.cid || *cid == one.head.tree)
        };
        let prefix = format!("{LABEL}{}/", self.name);
        for (label, cid) in store.retained()? {
            if label.starts_with(&prefix) && !needed(&cid) {
                store.release(&label)?;
            }
        }
        Ok(())
    }

    /// A head was preferred that did not wait, or has waited long enough. `thin` is what is told of it from now on.
    pub(crate) fn nothing_waits(&self, store: &Store, thin: Option<Thin>) -> Result<(), StoreError> {
        self.set(store, None, thin)
    }
}

fn state_key(name: &MirrorName) -> String {
    format!("{LABEL}{name}")
}

fn restore(store: &Store, saved: &SavedWaiting) -> Option<Waiting> {
    let cid = Cid::try_from(saved.head.as_str()).ok()?;
    let head = store.get(&cid).ok().flatten();
    let Some(head) = head.and_then(|block| Head::decode(&block).ok()) else {
        warn!(head = %cid, "a head that waited for replicas is not on disk any more; the next round makes it again");
        return None;
    };
    Some(Waiting {
        head,
        cid,
        since: saved.since,
    })
}

/// Whether `head`, which comes after `last`, is to wait for replicas. Nobody could fetch the first one ahead, what is over
/// the same tree is where that is, and the record of one audience must not tell of what is for another.
pub(crate) fn must_wait(import: &Importing, last: &Signed, head: &Head) -> bool {
    import.config.replicas > 0 && last.head.tree != head.tree && last.head.public == head.public
}

/// Lets `head` wait, in the place of what waited before, and names it in a record over `last`. Blocking; the caller
/// holds [`Replicas::signing`].
pub(crate) fn wait(
    node: &Node,
    import: &Importing,
    mirror: &Mirror,
    last: &Signed,
    head: Head,
) -> Result<(), PublishError> {
    let (cid, bytes) = head.encode()?;
    let store = &node.inner.store;
    let block = Block {
        cid,
        data: bytes.into(),
    };
    let blocks = std::slice::from_ref(&block);
    store.put_nodes(blocks).map_err(StoreError::from)?;
    for held in [&head.tree, &cid] {
        let label = format!("{LABEL}{}/{held}", import.name());
        store.retain(&label, held).map_err(StoreError::from)?;
    }
    // Held only now: gc may have taken it before.
    store.put_nodes(blocks).map_err(StoreError::from)?;
    let since = import.replicas.waiting().map(|before| before.since);
    let waiting = Waiting {
        since: since.unwrap_or_else(|| node.inner.clock.unix_seconds()),
        head,
        cid,
    };
    info!(mirror = %import.name(), tree = %waiting.head.tree, head = %cid, replicas = import.config.replicas, "a head waits for replicas");
    import
        .replicas
        .set(store, Some(waiting), import.replicas.thin())?;
    announce(node, import, mirror, last, cid)
}

/// Signs a record over `last` that links the coming head `cid`: a refresh with one field more.
fn announce(
    node: &Node,
    import: &Importing,
    mirror: &Mirror,
    last: &Signed,
    cid: Cid,
) -> Result<(), PublishError> {
    // Of two records with one sequence the one that is valid longer counts.
    let longer = last.record.validity() + Duration::from_nanos(1);
    let data = RecordData {
        value: last.record.value().to_vec(),
        sequence: last.record.sequence(),
        validity: (node.inner.clock.now() + VALIDITY).max(longer),
        ttl: TTL,
        head: Some(last.head_cid),
    };
    let record = Record::announce(&import.key(), data, cid)?;
    take_in(
        node,
        mirror,
        Signed {
            record,
            ..last.clone()
        },
    )
}

/// Brings in order what a crash, a rotation or a sequence seen elsewhere left; what waits then. Blocking.
fn settle(node: &Node, import: &Importing, mirror: &Mirror) -> Result<Option<Waiting>, PublishError> {
    let _one = import.replicas.signing();
    let Some(waiting) = import.replicas.waiting() else {
        return Ok(None);
    };
    let own = import.key().name();
    let last = mirror.signed().into_iter().find(|signed| signed.key == own);
    let Some(last) = last.filter(|_| !mirror.is_over(&own)) else {
        return Ok(None);
    };
    let store = &node.inner.store;
    if last.head.tree == waiting.head.tree {
        // It was preferred, and the power went before that was written down here.
        import.replicas.nothing_waits(store, import.replicas.thin())?;
        return Ok(None);
    }
    let now = node.inner.clock.unix_seconds();
    if now < waiting.since {
        // The clock ran ahead.
        let right = Waiting {
            since: now,
            ..waiting.clone()
        };
        import.replicas.set(store, Some(right), import.replicas.thin())?;
    }
    let sequence = next_sequence(node, &own)?;
    if waiting.head.sequence < sequence {
        let head = Head {
            sequence,
            ..waiting.head
        };
        wait(node, import, mirror, &last, head)?;
    } else if last.record.coming() != Some(waiting.cid) {
        announce(node, import, mirror, &last, waiting.cid)?;
    }
    Ok(import.replicas.waiting())
}

/// The head over `tree` waits no longer; `held` nodes have it. Blocking.
fn prefer(
    node: &Node,
    import: &Importing,
    mirror: &Mirror,
    tree: Cid,
    held: usize,
) -> Result<(), PublishError> {
    let _one = import.replicas.signing();
    // A round may have replaced it, a rotation may have begun.
    let waiting = import.replicas.waiting().filter(|one| one.head.tree == tree);
    let own = import.key().name();
    let Some(waiting) = waiting.filter(|_| !mirror.is_over(&own)) else {
        return Ok(());
    };
    let head = Head {
        sequence: next_sequence(node, &own)?,
        ..waiting.head
    };
    let cid = put_out(node, import, mirror, &head)?;
    let wanted = import.config.replicas;
    let thin = (held < wanted).then_some(Thin { held, wanted });
    import.replicas.nothing_waits(&node.inner.store, thin)?;
    info!(mirror = %import.name(), tree = %tree, head = %cid, held, wanted, "published");
    Ok(())
}

/// Looks after what waits of one import, until the node stops.
pub(crate) async fn run(node: Node, import: Arc<Importing>) {
    let stop = node.inner.tasks.stop();
    let mut asked = Asked::default();
    loop {
        let pass = Box::pin(pass(&node, &import, &mut asked));
        let waits = match stop.run_until_cancelled(pass).await {
            None => return,
            Some(Ok(waits)) => waits,
            Some(Err(error)) => {
                warn!(mirror = %import.name(), error = &error as &dyn std::error::Error, "cannot look after a head that waits for replicas; will retry");
                Waits::Yes
            }
        };
        note("waiting");
        let until = async {
            match waits {
                Waits::Yes => tokio::time::sleep(AGAIN).await,
                Waits::No => import.replicas.changed.notified().await,
            }
        };
        if stop.run_until_cancelled(until).await.is_none() {
            return;
        }
    }
}

/// Whether some head waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Yes,
    No,
}

async fn pass(node: &Node, import: &Arc<Importing>, asked: &mut Asked) -> Result<Waits, PublishError> {
    let Some(mirror) = node.mirror(import.name().as_str()) else {
        return Ok(Waits::No);
    };
    let (node_, import_, mirror_) = (node.clone(), Arc::clone(import), Arc::clone(&mirror));
    let settled = blocking(node, move || settle(&node_, &import_, &mirror_)).await?;
    let Some(waiting) = settled else {
        *asked = Asked::default();
        return Ok(Waits::No);
    };
    let tree = waiting.head.tree;
    if let Some(net) = &node.inner.net {
        let own = import.key().name();
        if let Some(signed) = mirror.signed().into_iter().find(|signed| signed.key == own) {
            crate::follow::keep_record(net, &mirror, &signed);
        }
    }
    let held = asked.ask(node, &mirror, &waiting.head).await;
    import.replicas.desk().held = held;
    let late = waiting.since + LATEST.as_secs() <= node.inner.clock.unix_seconds();
    if held < import.config.replicas && !late {
        return Ok(Waits::Yes);
    }
    let (node_, import_, mirror_) = (node.clone(), Arc::clone(import), Arc::clone(&mirror));
    blocking(node, move || prefer(&node_, &import_, &mirror_, tree, held)).await?;
    // Told aside: the DHT may take its time.
    let (node_, import_) = (node.clone(), Arc::clone(import));
    node.inner
        .tasks
        .spawn("publish", async move { node_.tell(&import_, &mirror).await });
    Ok(Waits::Yes)
}

async fn blocking<T: Send + 'static>(
    node: &Node,
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    let done = node.inner.tasks.blocking(Pool::Disk, work).await;
    done.unwrap_or(Err(PublishError::Store(StoreError::Stopping)))
}
