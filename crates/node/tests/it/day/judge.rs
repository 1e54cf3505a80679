//! What an importer says, held against what was true: heads, `checked`, alerts.
//!
//! Time here is that of the run, in seconds since its begin: it never jumps. The clock's time stands in heads.
//! What is wrong is collected, so that one run tells all of it; [`Judge::verdict`] gives it.
//!
//! - Not here: what happens (`super`), upstreams (`super::site`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use cid::Cid;
use pacstore_dag as dag;
use pacstore_names::{Head, RepoState, Repository};
use pacstore_node::{AlertKind, Node};
use pacstore_pacman::{Database, Limits};
use pacstore_store::Store;
use ring::digest::{SHA256, digest};

use super::{PERIOD, START, STEP, TURNS, site, trace};
use crate::nodes::Failure;

/// An error is told within this time after the first round that failed.
const WITHIN: u64 = 15 * 60;

/// Who tells alerts may see a condition a step after it is here, sees that it is due at the step after that moment, and once
/// more so where the worker looks right before it is.
const SLACK: u64 = 3 * STEP.as_secs();

/// No more messages are written in an hour.
const MAX_PER_HOUR: usize = 12;

/// A head counts as not confirmed when it was not for so long.
const STANDS: u64 = 2 * 3600 + 2 * PERIOD.as_secs();

/// What upstream has is there within this time, if nothing is wrong.
const MOVES: u64 = 25 * 60;

/// The longest time between two rounds of a mirror that is well: a tenth more than the period (`jittered`), seen a step later,
/// and a wait for its turn.
const BETWEEN: u64 = PERIOD.as_secs() / 10 * 11 + (1 + TURNS as u64) * STEP.as_secs();

/// How old `checked` may become at a mirror that is well: half an hour, the round that comes next, and a step until it is seen.
pub(super) const LONGEST: u64 = 1800 + BETWEEN + STEP.as_secs();

/// Complaints that are kept.
const MAX_WRONG: usize = 200;

/// How long rounds must have failed before that is told, and a repository torn.
pub(super) const AFTER: u64 = 10 * 60;
pub(super) const TORN: u64 = 2 * 3600;

/// Mirror, folder, repository.
type Which = (String, String, String);

/// A condition that held from one moment to another, if it is over.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    to: Option<u64>,
}

/// What was told: when, what kind of message.
type Told = Vec<(u64, AlertKind)>;

#[derive(Default)]
pub(super) struct Judge {
    /// What was whole upstream, by the clock.
    truth: BTreeMap<Which, Vec<(u64, [u8; 32])>>,
    /// All databases that were ever whole, in order, and since when.
    databases: BTreeMap<Which, Vec<(u64, [u8; 32])>>,
    heads: BTreeMap<String, (Cid, u64)>,
    trees: BTreeSet<Cid>,
    newest: BTreeMap<Which, usize>,
    conditions: BTreeMap<String, Vec<Span>>,
    told: BTreeMap<String, Told>,
    pub(super) published: usize,
    wrong: Vec<String>,
}

impl Judge {
    /// Something is not as it should be.
    pub(super) fn blame(&mut self, now: u64, what: &str) {
        let line = format!("{now} s: {what}");
        trace(&format!("WRONG {line}"));
        if self.wrong.len() < MAX_WRONG {
            self.wrong.push(line);
        }
    }

    /// All that was wrong.
    pub(super) fn verdict(&self) -> &[String] {
        &self.wrong
    }

    /// Upstream has this database whole at `now`, which is `clock` by the clock, or none.
    pub(super) fn note_truth(&mut self, which: Which, (now, clock): (u64, u64), sha256: Option<[u8; 32]>) {
        let Some(sha256) = sha256 else { return };
        let known = self.databases.entry(which.clone()).or_default();
        if known.last().is_none_or(|(_, last)| *last != sha256) {
            known.push((now, sha256));
        }
        self.truth.entry(which).or_default().push((clock, sha256));
    }

    /// Whether the condition `key` holds at `now`.
    pub(super) fn note_condition(&mut self, now: u64, key: &str, holds: bool) {
        self.note_condition_since(now, now, key, holds);
    }

    /// The same of one that counts from an earlier moment on when it is first seen.
    pub(super) fn note_condition_since(&mut self, now: u64, since: u64, key: &str, holds: bool) {
        let spans = self.conditions.entry(key.to_owned()).or_default();
        let open = spans.last_mut().filter(|span| span.to.is_none());
        match open {
            Some(span) if !holds => span.to = Some(now),
            None if holds => spans.push(Span {
                from: since,
                to: None,
            }),
            _ => {}
        }
    }

    pub(super) fn note_told(&mut self, now: u64, kind: AlertKind, key: String) {
        self.told.entry(key).or_default().push((now, kind));
    }

    /// The head that `mirror` has now: whole, honest, and not older than the last one.
    pub(super) fn look(
        &mut self,
        node: &Node,
        mirror: &str,
        (now, clock): (u64, u64),
    ) -> Result<(), Failure> {
        let Some(current) = node.mirror(mirror).and_then(|mirror| mirror.current()) else {
            return Ok(());
        };
        let head = &current.head;
        let checked = head.repositories.iter().map(|one| one.checked).max();
        let stands = checked.is_some_and(|checked| STANDS < clock.saturating_sub(checked));
        self.note_condition(now, &format!("head/{mirror}"), stands);
        let before = self.heads.insert(mirror.to_owned(), (current.cid, head.sequence));
        match before {
            Some((cid, _)) if cid == current.cid => return Ok(()),
            Some((_, sequence)) if head.sequence <= sequence => {
                self.blame(now, &format!("{mirror}: a head is not newer"));
            }
            _ => {}
        }
        self.published += 1;
        let whole = tree_databases(node.store(), head)?;
        self.trees.insert(head.tree);
        for repository in &head.repositories {
            let key = (repository.folder.clone(), repository.name.clone());
            let sha256 = whole[&key];
            self.claim(&(mirror.to_owned(), key.0, key.1), repository, sha256, now);
        }
        Ok(())
    }

    /// What a head says of one repository is what upstream had then, and not older than what the last one said.
    fn claim(&mut self, which: &Which, repository: &Repository, sha256: [u8; 32], now: u64) {
        let known = self.databases.get(which).cloned().unwrap_or_default();
        let Some(at) = known.iter().rposition(|(_, one)| *one == sha256) else {
            self.blame(
                now,
                &format!("{which:?}: {repository:?} with a database that upstream never had whole"),
            );
            return;
        };
        let newest = self.newest.insert(which.clone(), at).unwrap_or_default();
        if at < newest {
            self.blame(now, &format!("{which:?} went back from {newest} to {at}"));
        }
        let checked = repository.checked;
        let truth = self.truth.get(which).map(Vec::as_slice).unwrap_or_default();
        if !truth.contains(&(checked, sha256)) {
            let last = truth.iter().rev().find(|(at, _)| *at <= checked);
            let last = last.map(|(at, one)| (at.cast_signed() - START.cast_signed(), *one == sha256));
            let what = format!(
                "{which:?}: checked at {} by the clock is not true ({:?}); it was whole before that at (and the same) \
                 {last:?}, this is number {at} of {}",
                checked.cast_signed() - START.cast_signed(),
                repository.state,
                known.len()
            );
            self.blame(now, &what);
        }
    }

    /// Everything that upstream had for some time is there, and was checked not long ago.
    pub(super) fn is_current(&mut self, node: &Node, plan: &site::Plan, (now, clock): (u64, u64)) {
        let mirror = plan.name;
        let Some(current) = node.mirror(mirror).and_then(|mirror| mirror.current()) else {
            self.blame(now, &format!("{mirror} has no head"));
            return;
        };
        for (_, folder, name) in plan.repos {
            let Some(one) = current.head.in_folder(folder).find(|one| one.name == *name) else {
                self.blame(now, &format!("{mirror} has no {folder}/{name}"));
                continue;
            };
            let which = (mirror.to_owned(), (*folder).to_owned(), (*name).to_owned());
            if one.state != RepoState::Whole {
                self.blame(now, &format!("{which:?} is {:?}: {:?}", one.state, one.detail));
            }
            let known = &self.databases[&which];
            let due = known.iter().rposition(|(since, _)| *since + MOVES <= now);
            if due.is_some_and(|due| self.newest.get(&which).is_none_or(|newest| *newest < due)) {
                self.blame(now, &format!("{which:?} is behind"));
            }
            let age = clock.abs_diff(one.checked);
            if LONGEST < age {
                self.blame(now, &format!("{which:?} was checked {age} s ago"));
            }
        }
    }

    /// Every message has its reason, and every reason its message: one, in time, and one when it was over.
    pub(super) fn alerts(&mut self, now: u64) -> Summary {
        let mut summary = Summary {
            trees: self.trees.len(),
            ..Summary::default()
        };
        let mut wrong = Vec::new();
        for (key, told) in &self.told {
            let event = key.starts_with("alarm/");
            if !event && !self.conditions.contains_key(key) {
                wrong.push(format!("nobody asked for {key}: {told:?}"));
            }
            if event && told.len() != 1 {
                wrong.push(format!("{key} is told once, not {told:?}"));
            }
        }
        let room = Room(self.told.values().flatten().map(|(at, _)| *at).collect());
        for (key, spans) in &self.conditions {
            let told = self.told.get(key).cloned().unwrap_or_default();
            wrong.extend(of_condition(key, spans, told, &room, &mut summary));
        }
        for what in wrong {
            self.blame(now, &what);
        }
        summary
    }
}

/// When messages were written.
struct Room(Vec<u64>);

impl Room {
    /// When a message that is due at `due` is read at the latest: there must be room for it in its hour.
    fn by(&self, due: u64) -> u64 {
        let mut by = due;
        // Each was written up to `SLACK` before it was read.
        let full = |by: u64| {
            let hour = by.saturating_sub(3600 + SLACK)..=by;
            self.0.iter().filter(|at| hour.contains(at)).count() >= MAX_PER_HOUR
        };
        while by != u64::MAX && full(by) {
            by += STEP.as_secs();
        }
        by
    }
}

/// What is wrong with the messages of one condition.
fn of_condition(key: &str, spans: &[Span], told: Told, room: &Room, summary: &mut Summary) -> Vec<String> {
    let mut wrong = Vec::new();
    let (after, late) = match key.split('/').next() {
        Some("torn") => (TORN, 0),
        Some("clock") => (0, 0),
        // The next round has its turn, which mends it after a clock that jumped.
        Some("head") => (AFTER.max(PERIOD.as_secs() / 4 * 5), 0),
        // It counts from the begin of the first round that failed, and is known when that has ended.
        _ => (AFTER, WITHIN - AFTER),
    };
    let mut told = told.into_iter().peekable();
    for span in spans {
        let end = span.to.unwrap_or(u64::MAX);
        let over = room.by(end.saturating_add(SLACK));
        let error = told.next_if(|(at, kind)| *kind == AlertKind::Error && (span.from..=over).contains(at));
        let Some((at, _)) = error else {
            summary.short += 1;
            if room.by(span.from + after + late + SLACK) < end {
                wrong.push(format!("{key} from {} to {end} is not told", span.from));
            }
            continue;
        };
        summary.told += 1;
        let took = at - span.from;
        if took + SLACK < after {
            wrong.push(format!("{key} is told only {took} s after {}", span.from));
        }
        if room.by(span.from + after + late + SLACK) < at {
            wrong.push(format!("{key} is told {took} s after {}", span.from));
        }
        let recovery = told.next_if(|(at, kind)| *kind == AlertKind::Recovery && end <= *at && *at <= over);
        if recovery.is_none() && span.to.is_some() {
            wrong.push(format!("{key}: its end at {end} is not told by {over}"));
        }
    }
    let rest: Told = told.collect();
    if !rest.is_empty() {
        wrong.push(format!("{key}: {rest:?} has no reason in {spans:?}"));
    }
    wrong
}

/// What there was to judge.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) trees: usize,
    /// Conditions that were told, and those that ended before.
    pub(super) told: usize,
    pub(super) short: usize,
}

/// The databases of a head's tree, by folder and name, each of whose packages is there as it says.
fn tree_databases(store: &Store, head: &Head) -> Result<BTreeMap<(String, String), [u8; 32]>, Failure> {
    let mut files = BTreeMap::new();
    walk(store, &head.tree, "", &mut files)?;
    let mut found = BTreeMap::new();
    for repository in &head.repositories {
        let path = |file: &str| {
            let folder = &repository.folder;
            let slash = if folder.is_empty() { "" } else { "/" };
            format!("{folder}{slash}{file}")
        };
        let name = path(&format!("{}.db", repository.name));
        let bytes = read(store, files.get(&name).ok_or(format!("no {name}"))?)?;
        for desc in &Database::read(&bytes, &Limits::DB)?.entries {
            let name = path(&desc.filename);
            let file = files.get(&name).ok_or(format!("no {name}"))?;
            let bytes = read(store, file)?;
            assert_eq!(Some(bytes.len() as u64), desc.csize, "{name}");
            assert_eq!(Some(sha256(&bytes)?), desc.sha256, "{name}");
            assert!(files.contains_key(&format!("{name}.sig")), "no {name}.sig");
        }
        let key = (repository.folder.clone(), repository.name.clone());
        found.insert(key, sha256(&bytes)?);
    }
    Ok(found)
}

/// All files below `root`. None of them is longer than a leaf.
fn walk(store: &Store, root: &Cid, above: &str, files: &mut BTreeMap<String, Cid>) -> Result<(), Failure> {
    for (name, entry) in dag::list(root, store)? {
        let path = format!("{above}{}", String::from_utf8(name)?);
        if entry.cid.codec() == dag::RAW {
            files.insert(path, entry.cid);
        } else {
            walk(store, &entry.cid, &format!("{path}/"), files)?;
        }
    }
    Ok(())
}

fn read(store: &Store, cid: &Cid) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut open = store
        .open_file(cid)?
        .ok_or(format!("{cid} is not in the store"))?;
    open.file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> Result<[u8; 32], Failure> {
    Ok(digest(&SHA256, bytes).as_ref().try_into()?)
}
