//! One database of a repository, `.db` or `.files`, as this node has it: its states, newest first.
//!
//! A state is a database with its signature, of one moment. It is kept while it is the newest, while a pacman run
//! stays with it, and for a day after something newer came.
//!
//! - Invariant: what is in memory is what is on disk: files are held first, then the list is written, then
//!   memory changes. A crash in between leaves the list as it was, and files that the next start lets go.
//! - Invariant: digests of databases that were replaced are remembered, so that none is ever served again.
//! - Not here: where states come from (`super::check`), which one is newer (`super::order`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cid::Cid;
use pacstore_dag as dag;
use pacstore_pacman::DbKind;
use pacstore_store::Store;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use super::MAX_AGE;
use super::check::Flight;
use super::incoming::{Arrived, Held};
use super::index::Remembered;
use super::order::{Age, Older, is_ahead, older};
use crate::error::StoreError;
use crate::hidden::Hidden;

/// A state that was replaced stays so long.
const REPLACED: Duration = Duration::from_hours(24);

/// States kept at once.
const MAX_STATES: usize = 8;

/// Digests of replaced databases remembered.
const MAX_HISTORY: usize = 128;

/// A database with its signature, of one moment.
#[derive(Debug)]
pub(super) struct State {
    /// Names this state: a CID over the roots of both.
    pub(super) id: Cid,
    pub(super) database: Stored,
    pub(super) signature: Option<Stored>,
    /// Upstream's newest time of the two, else when it was first seen here; what pacman is told.
    pub(super) modified: SystemTime,
    pub(super) age: Age,
    /// SHA-256 of the database.
    sha256: [u8; 32],
    /// Seconds since the epoch when something newer came; 0 = it is the newest.
    replaced: Mutex<u64>,
    /// Its packages, for a `.db`.
    pub(super) index: Remembered,
}

/// A file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) root: Cid,
    pub(super) len: u64,
}

/// What one mirror had when it was last asked, to ask it for changes only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Its folder's URL.
    pub(super) url: String,
    /// Of the database.
    pub(super) database: Tag,
    /// Of the signature; none if it has none.
    pub(super) signature: Option<Tag>,
    /// The state that this was.
    pub(super) state: String,
}

/// What tells that a file did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tag {
    pub(super) etag: Option<String>,
    /// Seconds since the epoch.
    pub(super) modified: Option<u64>,
    pub(super) len: Option<u64>,
}

impl Tag {
    /// The header of an answer to an unconditional request says that it is the same file.
    pub(super) fn shows(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(one), Some(other)) => one == other,
            _ => self.modified.is_some() && self.modified == other.modified && self.len == other.len,
        }
    }

    /// It tells anything at all.
    pub(super) fn tells(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }
}

/// A state that came in and is on no list yet.
pub(super) struct Candidate {
    pub(super) database: Arrived,
    pub(super) signature: Option<Arrived>,
    pub(super) modified: SystemTime,
    pub(super) age: Age,
    pub(super) seen: Seen,
}

#[derive(Debug, Default, Clone)]
struct Known {
    states: Vec<Arc<State>>,
    history: VecDeque<String>,
    seen: Vec<Seen>,
    /// Seconds since the epoch when a mirror last said that the newest state is its own.
    checked: u64,
    /// The same by a clock that nobody sets; unknown after a restart.
    confirmed: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    /// `core.db` or `core.files`.
    pub(super) name: String,
    pub(super) kind: DbKind,
    /// Key and prefix of labels: `repository/NAME/ARCH/KIND`.
    key: String,
    store: Store,
    known: RwLock<Known>,
    changing: Mutex<()>,
    pub(super) flight: Mutex<Option<Arc<Flight>>>,
    /// What is wrong with what the mirrors give, in words.
    pub(super) trouble: Mutex<Option<Trouble>>,
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Every mirror that answers gives a state older than the one here.
    pub(super) rollback: bool,
    pub(super) text: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    states: Vec<SavedState>,
    history: VecDeque<String>,
    seen: Vec<Seen>,
    checked: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedState {
    database: (String, u64),
    signature: Option<(String, u64)>,
    sha256: String,
    modified: u64,
    signed: Option<u64>,
    told: Option<u64>,
    built: Option<u64>,
    replaced: u64,
}

impl Line {
    /// The line with what the store remembers of it.
    pub(super) fn load(
        repository: &str,
        kind: DbKind,
        key: String,
        store: Store,
    ) -> Result<Self, StoreError> {
        let saved: Saved = match store.state_get(&key)? {
            // Without the history an older database could be served again; better none than that.
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| StoreError::State(key.clone()))?,
            None => Saved::default(),
        };
        let mut known = Known {
            history: saved.history,
            seen: saved.seen,
            checked: saved.checked,
            confirmed: None,
            states: Vec::new(),
        };
        for one in &saved.states {
            if let Some(state) = restore(&store, one) {
                known.states.push(Arc::new(state));
            } else {
                warn!(line = key, "a remembered state is not on disk any more");
            }
        }
        let line = Self {
            name: format!("{repository}.{}", kind.as_str()),
            kind,
            key,
            store,
            known: RwLock::new(known),
            changing: Mutex::default(),
            flight: Mutex::default(),
            trouble: Mutex::default(),
        };
        line.release_strays()?;
        Ok(line)
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest state.
    pub(super) fn current(&self) -> Option<Arc<State>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.states.first().cloned()
    }

    /// All that are here, newest first.
    pub(super) fn states(&self) -> Vec<Arc<State>> {
        self.known().states
    }

    /// How old the newest state is: time since a mirror last confirmed it. A time far ahead was written down by a
    /// clock that was wrong, and says nothing: where nothing else is known, the state is too old to be given.
    pub(super) fn age(&self, now: u64) -> Option<Duration> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.states.first()?;
        let ran = known.confirmed.map(|at| at.elapsed());
        if is_ahead(known.checked, now) {
            return Some(ran.unwrap_or(MAX_AGE + Duration::from_secs(1)));
        }
        let told = Duration::from_secs(now.saturating_sub(known.checked));
        Some(told.max(ran.unwrap_or_default()))
    }

    /// A mirror said since then that the newest state is its own.
    pub(super) fn is_confirmed_since(&self, since: std::time::Instant) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let confirmed = known.confirmed.map(Instant::into_std);
        confirmed.is_some_and(|at| since <= at)
    }

    /// The look that is under way, or was the last.
    pub(super) fn last_look(&self) -> Option<Arc<Flight>> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the mirror at `url` had last, if that state is still here.
    pub(super) fn seen(&self, url: &str) -> Option<(Seen, Arc<State>)> {
        let known = self.known();
        let seen = known.seen.into_iter().find(|seen| seen.url == url)?;
        let state = known
            .states
            .into_iter()
            .find(|state| state.id.to_string() == seen.state)?;
        Some((seen, state))
    }

    /// Why `candidate` is older than what is here.
    pub(super) fn older(&self, candidate: &Candidate, now: u64) -> Option<Older> {
        let known = self.known();
        let held = known.states.first()?;
        let had = candidate.database.sha256 != held.sha256
            && known.history.contains(&hex(&candidate.database.sha256));
        older(&candidate.age, &held.age, had, now)
    }

    /// How much older `candidate` is than what is here, as far as a common fact says.
    pub(super) fn lag(&self, candidate: &Candidate) -> Option<Duration> {
        let held = self.current()?.age;
        let new = candidate.age;
        let facts = [
            (new.signed, held.signed),
            (new.told, held.told),
            (new.built, held.built),
        ];
        let lag = facts
            .iter()
            .find_map(|(new, held)| held.as_ref()?.checked_sub(*new.as_ref()?));
        lag.filter(|lag| *lag > 0).map(Duration::from_secs)
    }

    /// The newest state is confirmed by a mirror, at `now`; `seen` is what that mirror has.
    pub(super) fn confirmed(&self, seen: Seen, now: u64) -> Result<(), StoreError> {
        self.change(|known| {
            note(known, seen);
            known.checked = now;
            known.confirmed = Some(Instant::now());
        })
    }

    /// `candidate` becomes the newest state, at `now`. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then but perhaps files that are held, which the next start lets go.
    pub(super) fn accept(
        &self,
        candidate: Candidate,
        hidden: Option<&Hidden>,
        now: u64,
    ) -> Result<Arc<State>, StoreError> {
        let (sha256, mut seen) = (candidate.database.sha256, candidate.seen);
        let stored = |arrived: &Arrived| Stored {
            root: arrived.dag.root,
            len: arrived.dag.len,
        };
        let database = stored(&candidate.database);
        let signature = candidate.signature.as_ref().map(stored);
        let id = id(&database.root, signature.map(|s| s.root).as_ref());
        let label = |part: &str| format!("{}/{id}/{part}", self.key);
        candidate
            .database
            .keep(&self.store, hidden, Held::Under(&label("database")))?;
        self.store.retain(&label("database"), &database.root)?;
        if let Some(arrived) = candidate.signature {
            let root = arrived.dag.root;
            arrived.keep(&self.store, hidden, Held::Under(&label("signature")))?;
            self.store.retain(&label("signature"), &root)?;
        }
        let state = Arc::new(State {
            id,
            database,
            signature,
            modified: candidate.modified,
            age: candidate.age,
            sha256,
            replaced: Mutex::new(0),
            index: Remembered::default(),
        });
        seen.state = id.to_string();
        let new = Arc::clone(&state);
        self.change(move |known| {
            for old in &known.states {
                let mut replaced = old.replaced.lock().unwrap_or_else(PoisonError::into_inner);
                if *replaced == 0 {
                    *replaced = now;
                }
                let digest = hex(&old.sha256);
                if old.sha256 != new.sha256 && !known.history.contains(&digest) {
                    known.history.push_back(digest);
                }
            }
            while known.history.len() > MAX_HISTORY {
                known.history.pop_front();
            }
            known.states.retain(|old| old.id != new.id);
            known.states.insert(0, new);
            known.checked = now;
            known.confirmed = Some(Instant::now());
            note(known, seen);
        })?;
        Ok(state)
    }

    /// Lets go of states that nobody needs. Blocks on the disk.
    pub(super) fn prune(&self, now: u64, in_use: &[Cid]) -> Result<(), StoreError> {
        let stays = |number: usize, state: &State| {
            let mut replaced = state.replaced.lock().unwrap_or_else(PoisonError::into_inner);
            if is_ahead(*replaced, now) {
                *replaced = now;
            }
            let replaced = *replaced;
            let young = now < replaced.saturating_add(REPLACED.as_secs());
            number == 0 || (number < MAX_STATES && (young || in_use.contains(&state.id)))
        };
        let states = self.states();
        if states
            .iter()
            .enumerate()
            .all(|(number, state)| stays(number, state))
        {
            return Ok(());
        }
        self.change(|known| {
            let mut number = 0;
            known.states.retain(|state| {
                number += 1;
                stays(number - 1, state)
            });
        })?;
        self.release_strays()
    }

    /// Files that are held for states that are not on the list.
    fn release_strays(&self) -> Result<(), StoreError> {
        let prefix = format!("{}/", self.key);
        let known: Vec<String> = self
            .states()
            .iter()
            .map(|state| format!("{prefix}{}/", state.id))
            .collect();
        for (label, _) in self.store.retained()? {
            if label.starts_with(&prefix) && !known.iter().any(|known| label.starts_with(known)) {
                self.store.release(&label)?;
            }
        }
        Ok(())
    }

    /// Changes what is known: first on disk, then in memory. One change at a time.
    fn change(&self, change: impl FnOnce(&mut Known)) -> Result<(), StoreError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.known();
        change(&mut known);
        let bytes = serde_json::to_vec(&save(&known)).unwrap_or_default();
        self.store.state_put(&[(&self.key, Some(&bytes))])?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }
}

/// Names a state.
pub(super) fn id(database: &Cid, signature: Option<&Cid>) -> Cid {
    let mut both = database.to_bytes();
    both.extend(signature.map(Cid::to_bytes).unwrap_or_default());
    dag::raw_cid(dag::HashKind::Sha2_256, &both)
}

fn note(known: &mut Known, seen: Seen) {
    known.seen.retain(|old| old.url != seen.url);
    known.seen.push(seen);
    // As many as a configuration has mirrors, and a few that it had.
    if known.seen.len() > 64 {
        known.seen.remove(0);
    }
}

fn hex(digest: &[u8; 32]) -> String {
    dag::cid_from_sha256(*digest).to_string()
}

fn save(known: &Known) -> Saved {
    let file = |stored: &Stored| (stored.root.to_string(), stored.len);
    let state = |state: &Arc<State>| SavedState {
        database: file(&state.database),
        signature: state.signature.as_ref().map(file),
        sha256: hex(&state.sha256),
        modified: seconds(state.modified),
        signed: state.age.signed,
        told: state.age.told,
        built: state.age.built,
        replaced: *state.replaced.lock().unwrap_or_else(PoisonError::into_inner),
    };
    Saved {
        states: known.states.iter().map(state).collect(),
        history: known.history.clone(),
        seen: known.seen.clone(),
        checked: known.checked,
    }
}

fn restore(store: &Store, saved: &SavedState) -> Option<State> {
    let file = |(root, len): &(String, u64)| {
        let root = Cid::try_from(root.as_str()).ok()?;
        store.file(&root).ok()??;
        Some(Stored { root, len: *len })
    };
    let database = file(&saved.database)?;
    let signature = match &saved.signature {
        Some(signature) => Some(file(signature)?),
        None => None,
    };
    let digest = Cid::try_from(saved.sha256.as_str()).ok()?;
    Some(State {
        id: id(&database.root, signature.map(|s| s.root).as_ref()),
        database,
        signature,
        modified: UNIX_EPOCH + Duration::from_secs(saved.modified),
        age: Age {
            signed: saved.signed,
            told: saved.told,
            built: saved.built,
        },
        sha256: digest.hash().digest().try_into().ok()?,
        replaced: Mutex::new(saved.replaced),
        index: Remembered::default(),
    })
}

/// Seconds since the epoch; 0 for what lies before it.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pacstore_store::{Options, Steps, Tuning};
    use pacstore_testkit::{Loss, Power};

    use super::super::incoming::arrived;
    use super::*;

    fn line(dir: &Path) -> Line {
        line_with(dir, Tuning::default())
    }

    fn line_with(dir: &Path, tuning: Tuning) -> Line {
        let store = Store::open_with(&dir.join("store"), Options::new(1 << 30), tuning).expect("a store");
        Line::load("core", DbKind::Db, "repository/core/x86_64/db".into(), store).expect("a line")
    }

    fn candidate(line: &Line, database: &[u8], signature: &[u8], signed: u64) -> std::io::Result<Candidate> {
        Ok(Candidate {
            database: arrived(&line.store, database)?,
            signature: Some(arrived(&line.store, signature)?),
            modified: UNIX_EPOCH + Duration::from_secs(signed),
            age: Age {
                signed: Some(signed),
                ..Age::default()
            },
            seen: Seen::default(),
        })
    }

    /// Database and signature of the newest state, as they are on disk.
    fn pair(line: &Line) -> (Vec<u8>, Vec<u8>) {
        let state = line.current().expect("a state");
        let read = |stored: Stored| {
            line.store
                .block(&stored.root)
                .expect("read")
                .expect("here")
                .to_vec()
        };
        (read(state.database), read(state.signature.expect("signed")))
    }

    /// Wherever it stops, with or without power, the next start has the old pair or the new one, whole, and holds nothing else.
    #[test]
    fn a_crash_at_any_step_of_a_change_leaves_one_whole_pair() {
        let (old, new) = (
            (b"old db".to_vec(), b"old sig".to_vec()),
            (b"new db".to_vec(), b"new sig".to_vec()),
        );
        let mut outcomes = [0, 0];
        for steps in 0..200 {
            let dir = tempfile::tempdir().expect("a folder");
            let first = line(dir.path());
            let state = candidate(&first, &old.0, &old.1, 100).expect("written");
            let held = first.accept(state, None, 100).expect("accepted").id;
            drop(first);
            let power = Power::watch(dir.path()).expect("watched");
            let tuning = Tuning {
                steps: Some(Arc::clone(&power) as Arc<dyn Steps>),
                ..Tuning::default()
            };
            let crashing = line_with(dir.path(), tuning);
            power.cut_after(steps);
            let state = candidate(&crashing, &new.0, &new.1, 200).expect("written");
            let accepted = crashing.accept(state, None, 200).is_ok();
            power.cut();
            if !accepted {
                let current = crashing.current().expect("a state").id;
                assert_eq!(current, held, "in memory the old one stays");
            }
            drop(crashing);
            for loss in [Loss::Nothing, Loss::Unsynced, Loss::Some(steps)] {
                power.restore(loss).expect("restored");
                let again = line(dir.path());
                let found = pair(&again);
                assert!(found == old || found == new, "after {steps} steps, {loss:?}");
                assert!(!accepted || found == new, "what was told is kept, {loss:?}");
                let held = again.store.retained().expect("labels").len();
                assert_eq!(held, 2 * again.states().len(), "after {steps} steps, {loss:?}");
                outcomes[usize::from(found == new)] += 1;
            }
            if accepted {
                assert!(outcomes[0] > 9, "it stopped at some steps: {outcomes:?}");
                return;
            }
        }
        panic!("it never came to its end");
    }

    #[test]
    fn what_was_replaced_is_older_for_ever_and_goes_after_a_day() {
        let dir = tempfile::tempdir().expect("a folder");
        let lined = line(dir.path());
        for (n, database) in [b"a", b"b", b"c"].into_iter().enumerate() {
            let state = candidate(&lined, database, &[n as u8], 100 + n as u64).expect("written");
            lined.accept(state, None, 1_000 + n as u64).expect("accepted");
        }
        let mut back = candidate(&lined, b"a", b"anew", 999).expect("written");
        back.age.signed = Some(999);
        assert_eq!(lined.older(&back, 2_000), Some(Older::ServedBefore));
        lined.prune(2_000, &[]).expect("pruned");
        assert_eq!(lined.states().len(), 3);
        let run = lined.states()[2].id;
        lined.prune(90_000, &[run]).expect("pruned");
        assert_eq!(lined.states().len(), 2, "a run stays with one");
        lined.prune(90_000, &[]).expect("pruned");
        drop(lined);
        let lined = line(dir.path());
        assert_eq!((lined.states().len(), pair(&lined).0), (1, b"c".to_vec()));
        assert_eq!(lined.older(&back, 100_000), Some(Older::ServedBefore));
    }
}
