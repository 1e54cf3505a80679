//! One mirror as this node knows it: its heads, newest first, and what they hold.
//!
//! The current head is the one new requests are answered from. Older ones stay while a
//! pacman run, the retention policy or a serving in the last 24 h needs them.
//!
//! - Invariant: a head is here only when its directories are on disk and retained, so a
//!   path is looked up without the network.
//! - Invariant: what is in memory is what is on disk: the record of heads is written
//!   before memory changes.
//! - Not here: how heads come in (`crate::follow`) or are made (`crate::publish`).

mod databases;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use cid::Cid;
use pacstore_dag::{self as dag, BlockSource as _};
use pacstore_names::{HandOvers, Head, IpnsName, Layout, Record, Seen, Signed, unix_seconds};
use pacstore_store::{NODES_ONLY, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use crate::config::{Keep, MirrorConfig};
use crate::error::StoreError;
use crate::fetch::AskPeers;
use crate::history::History;

pub(crate) use databases::USED;

/// How keys of the store begin under which it is written what is known of a mirror; NAME follows.
pub(crate) const MIRROR: &str = "mirror/";

/// A head that was served stays at least this long.
const SERVED: Duration = Duration::from_hours(24);

/// Looked-up paths remembered.
const MAX_FOUND: usize = 20_000;

/// An accepted head.
#[derive(Debug)]
pub struct Accepted {
    /// Its block's CID.
    pub cid: Cid,
    /// What it says.
    pub head: Head,
    /// Seconds since the epoch when it was accepted here.
    since: AtomicU64,
    /// Seconds since the epoch when it was last served; 0 = never.
    served: AtomicU64,
    /// It and all its directories were here since it is held.
    pub(crate) whole: AtomicBool,
}

impl Accepted {
    /// Notes that it is served now; true if that should be written down (at most hourly).
    pub(crate) fn touch(&self, now: u64) -> bool {
        let due = self.is_to_note(now);
        if due {
            self.served.store(now, Ordering::Relaxed);
        }
        due
    }

    /// [`Self::touch`] would say so.
    pub(crate) fn is_to_note(&self, now: u64) -> bool {
        let before = self.served.load(Ordering::Relaxed);
        now.abs_diff(before) >= 3600 || before == 0
    }

    /// When it was accepted and last served, not later than `now`: a clock that ran ahead must not keep it until then.
    fn times_by(&self, now: u64) -> (u64, u64) {
        let mended = |time: &AtomicU64| {
            if now.saturating_add(SERVED.as_secs()) < time.load(Ordering::Relaxed) {
                time.store(now, Ordering::Relaxed);
            }
            time.load(Ordering::Relaxed)
        };
        (mended(&self.since), mended(&self.served))
    }
}

/// Paths of trees that were looked up, and what was found.
type LookedUp = HashMap<(Cid, Vec<u8>), Option<Found>>;

/// What a path of a tree is.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it resolves to.
    pub cid: Cid,
    /// The CID of every segment, the root first.
    pub roots: Vec<Cid>,
    /// File with its length, or directory.
    pub kind: FoundKind,
}

/// File or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A file of so many bytes.
    File(u64),
    /// A directory.
    Directory,
}

/// One mirror.
#[derive(Debug)]
pub struct Mirror {
    /// What the configuration says.
    pub config: MirrorConfig,
    /// Set where this node imports it.
    pub(crate) keep: Option<Keep>,
    pub(crate) past: History,
    store: Store,
    heads: RwLock<Heads>,
    changing: Mutex<()>,
    /// Held while trees are retained or let go of, so that a new one is not taken for a stray.
    trees: Mutex<()>,
    found: Mutex<LookedUp>,
    /// Folders and names of databases that clients asked for.
    used: Mutex<Vec<String>>,
    /// Counted up with each change of the heads.
    changes: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct Heads {
    /// Newest first; the first is current.
    accepted: Vec<Arc<Accepted>>,
    /// The newest of each importer.
    signed: Vec<Signed>,
    seen: Seen,
    handed: HandOvers,
}

/// As it stands in the store.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    accepted: Vec<SavedHead>,
    signed: Vec<SavedRecord>,
    seen: Vec<u8>,
    used: Vec<String>,
    /// KEYs that were handed over, and the records that say so.
    #[serde(default)]
    handed: Vec<SavedRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedHead {
    cid: String,
    accepted: u64,
    served: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRecord {
    key: IpnsName,
    record: Vec<u8>,
}

impl Mirror {
    /// The mirror with what the store remembers of it.
    pub(crate) fn load(config: MirrorConfig, keep: Option<Keep>, store: Store) -> Result<Self, StoreError> {
        let saved: Saved = match store.state_get(&key(&config))? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Saved::default(),
        };
        let mut heads = Heads::default();
        for one in saved.accepted {
            match load_head(&store, &one) {
                Some(accepted) => heads.accepted.push(Arc::new(accepted)),
                None => {
                    warn!(mirror = %config.name, head = one.cid, "a remembered head is not on disk any more");
                }
            }
        }
        for one in saved.signed {
            match restore(&store, &one) {
                Some(signed) => heads.signed.push(signed),
                None => {
                    warn!(mirror = %config.name, key = %one.key, "a remembered record cannot be read any more");
                }
            }
        }
        for one in saved.handed {
            let record = Record::from_bytes(&one.record).map_err(|_| StoreError::State(key(&config)))?;
            // Without it a KEY that was given up would be followed again.
            let added = heads.handed.add(one.key, record);
            added.map_err(|_| StoreError::State(key(&config)))?;
        }
        if !saved.seen.is_empty() {
            // Without it an older head could be taken; better none than that.
            heads.seen = Seen::from_bytes(&saved.seen).map_err(|_| StoreError::State(key(&config)))?;
        }
        Ok(Self {
            past: History::load(&store, &config.name)?,
            config,
            keep,
            store,
            heads: RwLock::new(heads),
            changing: Mutex::default(),
            trees: Mutex::default(),
            found: Mutex::default(),
            used: Mutex::new(saved.used),
            changes: watch::Sender::new(0),
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The mirror's NAME as text.
    pub fn name(&self) -> String {
        self.config.name.to_string()
    }

    /// Who may learn that something of `head` is wanted here; without a head, that it is looked for.
    pub(crate) fn audience(&self, head: Option<&Head>) -> AskPeers {
        let public = self.config.public && head.is_none_or(|head| head.public);
        if public {
            AskPeers::Everyone
        } else {
            AskPeers::Friends
        }
    }

    /// Anyone may have what `head` holds, and may know that it is here.
    pub(crate) fn is_public(&self, head: &Head) -> bool {
        self.audience(Some(head)) == AskPeers::Everyone
    }

    /// The head that new requests are answered from.
    pub fn current(&self) -> Option<Arc<Accepted>> {
        self.heads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .accepted
            .first()
            .cloned()
    }

    /// All heads that are here, newest first.
    pub fn heads(&self) -> Vec<Arc<Accepted>> {
        self.heads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .accepted
            .clone()
    }

    /// The newest record of each importer.
    pub fn signed(&self) -> Vec<Signed> {
        self.heads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .signed
            .clone()
    }

    /// The KEYs whose heads count: those of the configuration, or whom they were handed over to.
    pub(crate) fn importers(&self) -> Vec<IpnsName> {
        self.hand_overs().heirs(&self.config.importers)
    }

    /// What is known of KEYs that were handed over.
    pub(crate) fn hand_overs(&self) -> HandOvers {
        let heads = self.heads.read().unwrap_or_else(PoisonError::into_inner);
        heads.handed.clone()
    }

    /// Whether `key` was handed over.
    pub(crate) fn is_over(&self, key: &IpnsName) -> bool {
        self.hand_overs().is_over(key)
    }

    /// The KEY that signs today for `key`.
    pub(crate) fn heir(&self, key: &IpnsName) -> IpnsName {
        self.hand_overs().heir(key)
    }

    /// Whether `key` is or was one of its importers'.
    pub(crate) fn is_of(&self, key: &IpnsName) -> bool {
        self.config.importers.contains(key) || self.importers().contains(&self.heir(key))
    }

    /// From now on another KEY counts instead of `from`, as `record` says. True if that is news; one that
    /// contradicts what is known is told and changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub(crate) fn hand_over(&self, from: IpnsName, record: &Record) -> Result<bool, StoreError> {
        let mut handed = self.hand_overs();
        match handed.add(from, record.clone()) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                warn!(mirror = %self.config.name, key = %from, error = &error as &dyn std::error::Error, "a hand-over is not followed");
                return Ok(false);
            }
        }
        let to = record.successor().unwrap_or(from);
        let head = record.head().or(record.value_cid()).unwrap_or_default();
        self.change(|heads| {
            heads.seen.hand_over(&from, &to, record.sequence(), head);
            heads.handed = handed;
        })?;
        Ok(true)
    }

    /// Tells of each change of the heads or of what is known of them.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How upstream's paths map to ours: as the head says, else as configured.
    pub fn layout(&self) -> Layout {
        self.current().map_or(self.config.layout, |head| head.head.layout)
    }

    /// What was seen so far, for `names::choose`.
    pub fn seen(&self) -> Seen {
        self.heads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .seen
            .clone()
    }

    /// Makes the head of `new` current and remembers `signed` and `seen`. The tree is retained
    /// and the head pinned first, then the new state written, then memory changes.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then but perhaps a retained tree more, which the
    /// next prune releases.
    pub(crate) fn accept(
        &self,
        new: &Signed,
        now: u64,
        signed: Vec<Signed>,
        seen: Seen,
    ) -> Result<(), StoreError> {
        let _trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.retain(&self.label(&new.head.tree), &new.head.tree)?;
        self.store.pin(&new.head_cid)?;
        let accepted = Arc::new(Accepted {
            cid: new.head_cid,
            head: new.head.clone(),
            since: AtomicU64::new(now),
            served: AtomicU64::new(0),
            whole: AtomicBool::new(false),
        });
        let moves = self.current().is_none_or(|old| old.head.tree != new.head.tree);
        let line = if moves {
            self.past.line(new, now)
        } else {
            Vec::new()
        };
        self.remember(signed, seen, &line, |heads| {
            heads.accepted.retain(|old| old.cid != accepted.cid);
            heads.accepted.insert(0, accepted);
        })
    }

    /// Remembers newer records and what was seen; the current head stays.
    pub(crate) fn refresh(&self, signed: Vec<Signed>, seen: Seen) -> Result<(), StoreError> {
        self.remember(signed, seen, &[], |_| ())
    }

    fn remember(
        &self,
        signed: Vec<Signed>,
        seen: Seen,
        also: &[(String, Option<Vec<u8>>)],
        more: impl FnOnce(&mut Heads),
    ) -> Result<(), StoreError> {
        for one in &signed {
            self.store.pin(&one.head_cid)?;
        }
        let old = self.signed();
        self.change_with(also, |heads| {
            more(heads);
            heads.signed = signed;
            heads.seen = seen;
        })?;
        let heads = self.heads.read().unwrap_or_else(PoisonError::into_inner).clone();
        for one in old {
            if !heads.holds(&one.head_cid) {
                self.store.unpin(&one.head_cid)?;
            }
        }
        Ok(())
    }

    /// Lets go of heads that nobody needs: not current, not kept by the policy, not served
    /// in the last 24 h, not of a run. Returns how many went.
    pub(crate) fn prune(&self, now: SystemTime, in_use: &[Cid]) -> Result<usize, StoreError> {
        let _trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = unix_seconds(now);
        let keep = self.keep.unwrap_or(Keep {
            age: Duration::ZERO,
            count: 1,
        });
        let mut trees: Vec<Cid> = Vec::new();
        let mut gone = Vec::new();
        self.change(|heads| {
            heads.accepted.retain(|one| {
                let known = trees.contains(&one.head.tree);
                let (since, served) = one.times_by(seconds);
                let stays = in_use.contains(&one.cid)
                    || (served != 0 && seconds < served.saturating_add(SERVED.as_secs()))
                    || (!known && trees.len() < keep.count.max(1))
                    || (!known && seconds < since.saturating_add(keep.age.as_secs()));
                if stays && !known {
                    trees.push(one.head.tree);
                }
                if !stays {
                    gone.push(Arc::clone(one));
                }
                stays
            });
        })?;
        let count = gone.len();
        for one in gone {
            if !self.signed().iter().any(|signed| signed.head_cid == one.cid) {
                self.store.unpin(&one.cid)?;
            }
            if !trees.contains(&one.head.tree) {
                self.store.release(&self.label(&one.head.tree))?;
            }
        }
        self.release_strays(&trees)?;
        Ok(count)
    }

    /// Trees that a crash left retained without a head, or that are held as an `[[import]]`
    /// that came or went since would have it.
    fn release_strays(&self, trees: &[Cid]) -> Result<(), StoreError> {
        let prefix = format!("head/{}/", self.config.name);
        let retained = self.store.retained()?;
        for tree in trees {
            let label = self.label(tree);
            if !retained.iter().any(|(known, _)| *known == label) {
                self.store.retain(&label, tree)?;
            }
        }
        for (label, tree) in retained {
            let of_head = label
                .strip_prefix(NODES_ONLY)
                .unwrap_or(&label)
                .starts_with(&prefix);
            if of_head && !(trees.contains(&tree) && label == self.label(&tree)) {
                self.store.release(&label)?;
            }
        }
        Ok(())
    }

    /// What `path` is in `tree`; nothing if there is no such path.
    ///
    /// # Errors
    /// [`dag::ReadError`] if a directory cannot be read.
    pub(crate) fn look_up(&self, tree: &Cid, path: &[Vec<u8>]) -> Result<Option<Found>, dag::ReadError> {
        let key = (*tree, path.join(&b'/'));
        {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = found.get(&key) {
                return Ok(known.clone());
            }
        }
        let answer = look_up(&self.store, tree, path)?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() >= MAX_FOUND {
            found.clear();
        }
        found.insert(key, answer.clone());
        Ok(answer)
    }

    /// What holds a tree: all of it where this node imports it, else its directories alone,
    /// so that what a client fetched stays under the cap.
    fn label(&self, tree: &Cid) -> String {
        let nodes_only = if self.keep.is_some() { "" } else { NODES_ONLY };
        format!("{nodes_only}head/{}/{tree}", self.config.name)
    }

    /// Changes the heads: first on disk, then in memory. One change at a time.
    fn change(&self, change: impl FnOnce(&mut Heads)) -> Result<(), StoreError> {
        self.change_with(&[], change)
    }

    /// The same, with `also` in the same transaction.
    fn change_with(
        &self,
        also: &[(String, Option<Vec<u8>>)],
        change: impl FnOnce(&mut Heads),
    ) -> Result<(), StoreError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heads = self.heads.read().unwrap_or_else(PoisonError::into_inner).clone();
        change(&mut heads);
        let saved = Saved {
            accepted: heads
                .accepted
                .iter()
                .map(|one| SavedHead {
                    cid: one.cid.to_string(),
                    accepted: one.since.load(Ordering::Relaxed),
                    served: one.served.load(Ordering::Relaxed),
                })
                .collect(),
            signed: heads
                .signed
                .iter()
                .map(|one| SavedRecord {
                    key: one.key,
                    record: one.record.bytes().to_vec(),
                })
                .collect(),
            seen: heads.seen.to_bytes(),
            used: self.used_databases(),
            handed: heads
                .handed
                .iter()
                .map(|(key, record)| SavedRecord {
                    key: *key,
                    record: record.bytes().to_vec(),
                })
                .collect(),
        };
        let bytes = serde_json::to_vec(&saved).unwrap_or_default();
        let own = key(&self.config);
        let mut entries: Vec<(&str, Option<&[u8]>)> = vec![(&own, Some(&bytes))];
        entries.extend(also.iter().map(|(key, line)| (key.as_str(), line.as_deref())));
        self.store.state_put(&entries)?;
        *self.heads.write().unwrap_or_else(PoisonError::into_inner) = heads;
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }
}

impl Heads {
    /// Some head or record here is `head`.
    fn holds(&self, head: &Cid) -> bool {
        self.accepted.iter().any(|one| one.cid == *head)
            || self.signed.iter().any(|one| one.head_cid == *head)
    }
}

fn key(config: &MirrorConfig) -> String {
    format!("{MIRROR}{}", config.name)
}

fn load_head(store: &Store, saved: &SavedHead) -> Option<Accepted> {
    let cid = Cid::try_from(saved.cid.as_str()).ok()?;
    let head = Head::decode(&store.get(&cid).ok()??).ok()?;
    Some(Accepted {
        cid,
        head,
        since: AtomicU64::new(saved.accepted),
        served: AtomicU64::new(saved.served),
        whole: AtomicBool::new(false),
    })
}

fn restore(store: &Store, saved: &SavedRecord) -> Option<Signed> {
    let record = Record::from_bytes(&saved.record).ok()?;
    let head = store.get(&record.head()?).ok()??;
    Signed::restore(saved.key, record, &head).ok()
}

/// What `path` below `root` is, by the blocks on disk.
pub(crate) fn look_up(store: &Store, root: &Cid, path: &[Vec<u8>]) -> Result<Option<Found>, dag::ReadError> {
    let segments: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    match dag::resolve(root, &segments, store) {
        Ok(resolved) => {
            let kind = match (resolved.kind, resolved.tsize) {
                (dag::Kind::File { len }, _) | (dag::Kind::Raw, Some(len)) => FoundKind::File(len),
                (dag::Kind::Raw, None) => {
                    match store.block_len(&resolved.cid).map_err(dag::SourceError::new)? {
                        Some(len) => FoundKind::File(len),
                        None => return Err(dag::ReadError::Missing(vec![resolved.cid])),
                    }
                }
                (dag::Kind::Directory, _) => FoundKind::Directory,
                _ => return Ok(None),
            };
            Ok(Some(Found {
                cid: resolved.cid,
                roots: resolved.roots,
                kind,
            }))
        }
        Err(dag::ReadError::NotFound { .. } | dag::ReadError::NotADirectory { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
