//! Learning of new heads: asking for records, checking, fetching what a head needs.
//!
//! Every [`ASK`] and whenever a peer connects, connected peers are asked for the records
//! of each mirror's importers; where nobody is connected, the DHT is. A record that is
//! better than the one known leads to a head; a head that `names::choose` prefers has its
//! directories and the databases in use fetched, then becomes current.
//!
//! - Invariant: a head older than one already accepted never becomes current, also after
//!   a restart (`names::choose` over what the store remembers).
//! - Invariant: requests are answered from the old head until all of the new one is here.
//! - Not here: where heads are kept (`crate::mirror`), how directories and databases come (`crate::bring`).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cid::Cid;
use futures::future::join_all;
use pacstore_dag as dag;
use pacstore_names::{Head, IpnsName, Record, Signed, SignedError, unix_seconds};
use pacstore_net::{NetEvent, PeerInfo};
use pacstore_runtime::Pool;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, info, warn};

use crate::bring::{databases, directories};
use crate::fetch::{AskPeers, FetchError};
use crate::hand_over;
use crate::importer::Importing;
use crate::mirror::Mirror;
use crate::node::Node;
use crate::publish;

/// How often connected peers are asked for records.
const ASK: Duration = Duration::from_secs(15);

/// Least time between two beginnings of a look.
const AT_LEAST: Duration = Duration::from_millis(500);

/// How often the DHT is asked where connected peers do not know a record.
const ASK_DHT: Duration = Duration::from_mins(5);

/// Peers asked for one record at once.
const MAX_ASKED: usize = 16;

/// Hand-overs that one look goes along with.
const MAX_HOPS: usize = 8;

/// How long one peer may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long fetching all of a head may take before it is begun anew.
pub(crate) const WHOLE_HEAD: Duration = Duration::from_mins(10);

/// What the follow worker last saw, for `status`.
#[derive(Debug, Default)]
pub(crate) struct Board {
    errors: Mutex<HashMap<String, String>>,
    asked_dht: Mutex<HashMap<String, Instant>>,
}

impl Board {
    pub(crate) fn error(&self, mirror: &str) -> Option<String> {
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(mirror)
            .cloned()
    }

    fn set(&self, mirror: &str, error: Option<String>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => errors.insert(mirror.to_owned(), error),
            None => errors.remove(mirror),
        };
    }

    /// True at most every [`ASK_DHT`] for each key.
    fn dht_is_due(&self, key: &IpnsName) -> bool {
        let mut asked = self.asked_dht.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key.to_string();
        if asked.get(&key).is_some_and(|last| last.elapsed() < ASK_DHT) {
            return false;
        }
        asked.insert(key, Instant::now());
        true
    }
}

/// Why a head could not become current.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("cannot fetch what head {0} needs")]
    Fetch(Cid, #[source] FetchError),
    #[error("the head that {key} signed cannot be taken")]
    Signed {
        key: IpnsName,
        #[source]
        source: SignedError,
    },
    #[error("{key} signed head {head} of another mirror, {mirror}")]
    OtherMirror {
        key: IpnsName,
        head: Cid,
        mirror: String,
    },
    #[error("the tree of head {0} is damaged or too large")]
    Tree(Cid, #[source] Option<dag::ReadError>),
    #[error("cannot keep a head")]
    Store(#[from] crate::error::StoreError),
    #[error("head {0} did not come in whole in time")]
    Late(Cid),
    #[error("stopping")]
    Stopping,
}

/// Follows one mirror until the node stops. Mirrors do not wait for each other.
pub(crate) async fn run(node: Node, mirror: Arc<Mirror>) {
    let Some(net) = node.inner.net.clone() else { return };
    let stop = node.inner.tasks.stop();
    let mut events = net.subscribe();
    for signed in mirror.signed() {
        keep_record(&net, &mirror, &signed);
    }
    hand_over::keep(&net, &mirror);
    if let Some(head) = mirror.current() {
        announce(&node, &mirror, &head.head).await;
    }
    loop {
        let began = tokio::time::Instant::now();
        if stop
            .run_until_cancelled(Box::pin(follow(&node, &mirror)))
            .await
            .is_none()
        {
            return;
        }
        let until = (began + ASK).max(tokio::time::Instant::now() + AT_LEAST);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => break,
                event = events.recv() => match event {
                    Ok(NetEvent::PeerConnected(_) | NetEvent::PeerIdentified(_)) => break,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
        // Peers that come in numbers do not make us ask without a pause.
        if stop
            .run_until_cancelled(tokio::time::sleep_until(began + AT_LEAST))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// One look for newer records of one mirror, with its errors on the board.
async fn follow(node: &Node, mirror: &Arc<Mirror>) {
    match look(node, mirror).await {
        Ok(()) => node.inner.following.set(&mirror.name(), None),
        Err(FollowError::Stopping) => {}
        Err(error) => {
            warn!(mirror = %mirror.config.name, error = &error as &dyn std::error::Error, "cannot follow; will retry");
            node.inner
                .following
                .set(&mirror.name(), Some(crate::status::chain(&error)));
        }
    }
}

impl Node {
    /// Looks for a newer head of `mirror` right now (`resolve --fresh`).
    pub async fn refresh(&self, mirror: &Arc<Mirror>) {
        follow(self, mirror).await;
    }
}

async fn look(node: &Node, mirror: &Arc<Mirror>) -> Result<(), FollowError> {
    // Whom a KEY was handed over to is asked in the same look, and may have been handed over too.
    for _ in 0..MAX_HOPS {
        if look_once(node, mirror).await? == HandedOver::No {
            break;
        }
    }
    Ok(())
}

/// Whether some KEY turned out to have been handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandedOver {
    Yes,
    No,
}

async fn look_once(node: &Node, mirror: &Arc<Mirror>) -> Result<HandedOver, FollowError> {
    let mut better = Vec::new();
    let mut imported = false;
    let mut handed = HandedOver::No;
    for key in &mirror.importers() {
        if let Some(import) = node
            .inner
            .imports
            .iter()
            .find(|import| import.key().name() == *key)
        {
            own(node, mirror, import).await?;
            imported = true;
            continue;
        }
        let known = mirror
            .signed()
            .into_iter()
            .find(|signed| signed.key == *key)
            .map(|signed| signed.record);
        let audience = mirror.audience(mirror.current().as_deref().map(|head| &head.head));
        if let Some(record) = newest_record(node, key, known.as_ref(), audience).await {
            if record.successor().is_some() {
                if hand_over(node, mirror, *key, record).await? {
                    handed = HandedOver::Yes;
                }
            } else {
                better.push((*key, record));
            }
        }
    }
    let looked = if better.is_empty() {
        Ok(())
    } else {
        consider(node, mirror, better).await
    };
    // A tree of our own is held before its directories come.
    if !imported {
        complete(node, mirror).await?;
    }
    looked.map(|()| handed)
}

/// Follows another KEY instead of `key` from now on, as `record` says.
async fn hand_over(
    node: &Node,
    mirror: &Arc<Mirror>,
    key: IpnsName,
    record: Record,
) -> Result<bool, FollowError> {
    let (mirror_, record_) = (Arc::clone(mirror), record.clone());
    let work = move || mirror_.hand_over(key, &record_);
    let news = match node.inner.tasks.blocking(Pool::Disk, work).await {
        Ok(news) => news?,
        Err(_) => return Err(FollowError::Stopping),
    };
    if news {
        info!(mirror = %mirror.config.name, old = %key, new = ?record.successor().map(|key| key.to_string()), "the mirror's key was handed over");
        if let Some(net) = &node.inner.net {
            hand_over::keep(net, mirror);
        }
    }
    Ok(news)
}

/// Looks for a newer record of our own than we know of: this node lost its state, or came back
/// from an old copy. What we say must go above it, or nobody would believe us again.
async fn own(node: &Node, mirror: &Arc<Mirror>, import: &Arc<Importing>) -> Result<(), FollowError> {
    let key = import.key().name();
    let ask = if import.config.public {
        AskPeers::Everyone
    } else {
        AskPeers::Friends
    };
    let ours = mirror.signed().into_iter().find(|signed| signed.key == key);
    let known = ours.as_ref().map(|ours| &ours.record);
    let Some(record) = newest_record(node, &key, known, ask).await else {
        return Ok(());
    };
    if record.successor().is_some() {
        // On another machine, or before this copy of it was made: what we sign counts for nothing more.
        if hand_over(node, mirror, key, record).await? {
            warn!(mirror = %mirror.config.name, %key, "the key that signs here was handed over elsewhere");
        }
        return Ok(());
    }
    let (node_, sequence) = (node.clone(), record.sequence());
    blocking(node, move || publish::saw_sequence(&node_, &key, sequence)).await?;
    // Without a head of our own, the first that we publish goes above it. While others were asked we may have published.
    let ours = mirror.signed().into_iter().find(|signed| signed.key == key);
    let is_other = |ours: &Signed| record.head() != Some(ours.head_cid) && ours.record.sequence() <= sequence;
    let Some(ours) = ours.filter(is_other) else {
        return Ok(());
    };
    let theirs = read_head(node, mirror, key, record).await?;
    if import.began < theirs.head.checked() {
        import
            .rival
            .store(node.inner.clock.unix_seconds(), Ordering::Relaxed);
    }
    // An old copy of ours must not be put above what was published after it.
    if theirs.head.checked() < ours.head.checked() {
        warn!(mirror = %mirror.config.name, %key, sequence, "the network knows a later record of this key than this node; publishing above it");
        publish::overtake(node, import, mirror).await;
    }
    Ok(())
}

/// The best record of `key` that anyone tells us, if it is better than `known`.
async fn newest_record(
    node: &Node,
    key: &IpnsName,
    known: Option<&Record>,
    audience: AskPeers,
) -> Option<Record> {
    let net = node.inner.net.as_ref()?;
    let mut peers = net.peers();
    let may_ask =
        |peer: &&PeerInfo| peer.fetch != Some(false) && (peer.configured || audience == AskPeers::Everyone);
    peers.sort_by_key(|peer| (!peer.configured, peer.since));
    let asked = peers.iter().filter(may_ask).take(MAX_ASKED);
    let asked = asked.map(|peer| tokio::time::timeout(ANSWER, net.fetch_record(peer.id, key)));
    let answers = join_all(asked).await.into_iter();
    let mut found: Vec<Record> = answers
        .filter_map(|answer| Some(answer.ok()?.ok()??.record))
        .collect();
    keep_good(&mut found, key, node);
    let is_better = |record: &Record| known.is_none_or(|known| pacstore_names::better(record, known).is_gt());
    // Peers that follow as we do may know no more than we: what they say is not the last word.
    if !found.iter().any(is_better) && audience == AskPeers::Everyone && node.inner.following.dht_is_due(key)
    {
        let records = net.find_record(key, ASK).await.unwrap_or_default();
        found.extend(records.into_iter().map(|found| found.record));
        keep_good(&mut found, key, node);
    }
    let best = found.into_iter().max_by(pacstore_names::better);
    best.filter(is_better)
}

/// Leaves only records that `key` signed and that are in force.
fn keep_good(found: &mut Vec<Record>, key: &IpnsName, node: &Node) {
    let now = node.inner.clock.now();
    found.retain(|record| match record.verify(key, now) {
        Ok(()) => true,
        Err(error) => {
            debug!(%key, %error, "a peer gave a bad record");
            false
        }
    });
}

/// Takes newer records in: remembers them, or brings a new head in.
async fn consider(
    node: &Node,
    mirror: &Arc<Mirror>,
    records: Vec<(IpnsName, Record)>,
) -> Result<(), FollowError> {
    let trusted = mirror.importers();
    let mut signed = mirror.signed();
    signed.retain(|one| trusted.contains(&one.key));
    let mut failed = None;
    for (key, record) in records {
        if record.head().is_none() {
            debug!(%key, "a record without a head; not made by pacstore");
            continue;
        }
        // One importer that lies or is away must not keep the others' heads from us.
        match read_head(node, mirror, key, record).await {
            Ok(new) => {
                if !mirror.is_public(&new.head) {
                    node.inner.privacy.close();
                }
                signed.retain(|old| old.key != key);
                signed.push(new);
            }
            Err(error) => failed = Some(error),
        }
    }
    let choice = pacstore_names::choose(&signed, &trusted, mirror.config.quorum, &mirror.seen());
    for (index, why) in &choice.rejected {
        debug!(key = %signed[*index].key, ?why, "a head has no vote");
    }
    if let Some(new) = choice.pick.map(|index| signed[index].clone()) {
        bring(node, mirror, new.head_cid, &new.head).await?;
        let now = unix_seconds(node.inner.clock.now());
        let (mirror_, new_, signed_, seen) = (Arc::clone(mirror), new.clone(), signed.clone(), choice.seen);
        blocking(node, move || mirror_.accept(&new_, now, signed_, seen)).await?;
        info!(mirror = %mirror.config.name, tree = %new.head.tree, head = %new.head_cid, "new head");
        node.inner.machine.look_now();
        announce(node, mirror, &new.head).await;
    } else {
        let (mirror_, signed_, seen) = (Arc::clone(mirror), signed.clone(), choice.seen);
        blocking(node, move || mirror_.refresh(signed_, seen)).await?;
    }
    if let Some(net) = &node.inner.net {
        for one in &signed {
            keep_record(net, mirror, one);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What we know of a name others may ask us for.
pub(crate) fn keep_record(net: &pacstore_net::Net, mirror: &Mirror, signed: &Signed) {
    if mirror.is_over(&signed.key) {
        return;
    }
    let kept = if mirror.is_public(&signed.head) {
        net.set_record(&signed.key, signed.record.bytes())
    } else {
        net.set_private_record(&signed.key, signed.record.bytes())
    };
    if let Err(error) = kept {
        debug!(key = %signed.key, error = &error as &dyn std::error::Error, "the network does not keep a record");
    }
}

pub(crate) async fn blocking(
    node: &Node,
    call: impl FnOnce() -> Result<(), crate::error::StoreError> + Send + 'static,
) -> Result<(), FollowError> {
    match node.inner.tasks.blocking(Pool::Disk, call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(FollowError::Stopping),
    }
}

/// The head a record names, checked against the record and the mirror.
async fn read_head(
    node: &Node,
    mirror: &Mirror,
    key: IpnsName,
    record: Record,
) -> Result<Signed, FollowError> {
    let Some(cid) = record.head() else {
        return Err(FollowError::Signed {
            key,
            source: SignedError::NoHead,
        });
    };
    let ask = mirror.audience(mirror.current().as_deref().map(|head| &head.head));
    let block = node
        .inner
        .fetch
        .block(&cid, ask)
        .await
        .map_err(|e| FollowError::Fetch(cid, e))?;
    let signed = Signed::verify(key, record, &block, node.inner.clock.now());
    let signed = signed.map_err(|source| FollowError::Signed { key, source })?;
    if signed.head.mirror != mirror.config.name {
        let mirror = signed.head.mirror.to_string();
        return Err(FollowError::OtherMirror {
            key,
            head: cid,
            mirror,
        });
    }
    Ok(signed)
}

/// Fetches the directories of `head` and the databases in use.
async fn bring(node: &Node, mirror: &Arc<Mirror>, cid: Cid, head: &Head) -> Result<(), FollowError> {
    let all = async {
        directories(node, &head.tree, mirror.audience(Some(head))).await?;
        databases(node, mirror, head).await;
        Ok(())
    };
    tokio::time::timeout(WHOLE_HEAD, all)
        .await
        .map_err(|_| FollowError::Late(cid))?
}

/// Fetches what is missing of the current head and its directories: what came before it was held gc may have taken,
/// and it is held when it comes again.
async fn complete(node: &Node, mirror: &Mirror) -> Result<(), FollowError> {
    let Some(current) = mirror.current() else {
        return Ok(());
    };
    if current.whole.load(Ordering::Relaxed) {
        return Ok(());
    }
    let (cid, ask) = (current.cid, mirror.audience(Some(&current.head)));
    let all = async {
        let block = node.inner.fetch.block(&cid, ask).await;
        block.map_err(|e| FollowError::Fetch(cid, e))?;
        directories(node, &current.head.tree, ask).await
    };
    tokio::time::timeout(WHOLE_HEAD, all)
        .await
        .map_err(|_| FollowError::Late(cid))??;
    current.whole.store(true, Ordering::Relaxed);
    Ok(())
}

/// Peers of one tree find each other at its root.
async fn announce(node: &Node, mirror: &Mirror, head: &Head) {
    if let Some(net) = node.inner.net.as_ref().filter(|_| mirror.is_public(head))
        && let Err(error) = net.provide(&head.tree).await
    {
        debug!(
            error = &error as &dyn std::error::Error,
            "cannot announce the tree"
        );
    }
}
