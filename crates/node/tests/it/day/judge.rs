//! What an importer says, held against what was true: heads, `checked`, alerts.
//!
//! Time here is that of the run, in seconds since its begin: it never jumps. The clock's time stands in heads.
//!
//! - Not here: what happens (`super`), upstreams (`super::site`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use cid::Cid;
use pacstore_dag as dag;
use pacstore_names::{Head, RepoState};
use pacstore_node::{AlertKind, Node};
use pacstore_pacman::{Database, Limits};
use pacstore_store::Store;
use ring::digest::{SHA256, digest};

use super::START;
use crate::nodes::Failure;

/// An error is told within this time after the first round that failed.
const WITHIN: u64 = 15 * 60;

/// What upstream has is there within this time, if nothing is wrong.
const MOVES: u64 = 25 * 60;

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
}

impl Judge {
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
        let spans = self.conditions.entry(key.to_owned()).or_default();
        let open = spans.last_mut().filter(|span| span.to.is_none());
        match open {
            Some(span) if !holds => span.to = Some(now),
            None if holds => spans.push(Span { from: now, to: None }),
            _ => {}
        }
    }

    pub(super) fn note_told(&mut self, now: u64, kind: AlertKind, key: String) {
        self.told.entry(key).or_default().push((now, kind));
    }

    /// The head that `mirror` has now: whole, honest, and not older than the last one.
    pub(super) fn look(&mut self, node: &Node, mirror: &str, now: u64) -> Result<(), Failure> {
        let Some(current) = node.mirror(mirror).and_then(|mirror| mirror.current()) else {
            return Ok(());
        };
        let head = &current.head;
        let before = self.heads.insert(mirror.to_owned(), (current.cid, head.sequence));
        match before {
            Some((cid, _)) if cid == current.cid => return Ok(()),
            Some((_, sequence)) => assert!(sequence < head.sequence, "{mirror}: a head is not newer"),
            None => {}
        }
        self.published += 1;
        let whole = tree_databases(node.store(), head)?;
        self.trees.insert(head.tree);
        for repository in &head.repositories {
            let which = (
                mirror.to_owned(),
                repository.folder.clone(),
                repository.name.clone(),
            );
            let sha256 = whole[&(repository.folder.clone(), repository.name.clone())];
            let known = self.databases.get(&which).cloned().unwrap_or_default();
            let at = known.iter().rposition(|(_, one)| *one == sha256);
            let at = at.unwrap_or_else(|| {
                panic!("at {now}, {which:?}: {repository:?} with a database that upstream never had whole: {sha256:?}")
            });
            let newest = self.newest.entry(which.clone()).or_default();
            assert!(*newest <= at, "{which:?} went back");
            *newest = at;
            let claim = (repository.checked, sha256);
            let truth = &self.truth[&which];
            let last = truth.iter().rev().find(|(at, _)| *at <= repository.checked);
            assert!(
                truth.contains(&claim),
                "{which:?}: checked at {} is not true ({:?}); before it was whole at {last:?}, this is number {at} of {known:?}",
                repository.checked - START,
                repository.state
            );
        }
        Ok(())
    }

    /// Everything that upstream had for some time is there, and was checked not `longest` ago.
    pub(super) fn is_current(&self, node: &Node, mirror: &str, (now, clock): (u64, u64), longest: u64) {
        let head = node.mirror(mirror).and_then(|mirror| mirror.current());
        let head = &head.unwrap_or_else(|| panic!("{mirror} has no head")).head;
        for one in &head.repositories {
            let which = (mirror.to_owned(), one.folder.clone(), one.name.clone());
            assert_eq!(one.state, RepoState::Whole, "{which:?}: {:?}", one.detail);
            let known = &self.databases[&which];
            let due = known.iter().rposition(|(since, _)| *since + MOVES <= now);
            assert!(
                due.is_none_or(|due| due <= self.newest[&which]),
                "{which:?} is behind"
            );
            let age = clock.abs_diff(one.checked);
            assert!(age <= longest, "{which:?} was checked {age} s ago");
        }
    }

    /// Every message has its reason, and every reason its message: one, in time, and one when it was over.
    pub(super) fn alerts(&self, step: u64) -> Summary {
        let mut summary = Summary::default();
        for (key, told) in &self.told {
            let known = self.conditions.contains_key(key);
            let event = key.starts_with("alarm/");
            assert!(known || event, "nobody asked for {key}: {told:?}");
            if event {
                assert_eq!(told.len(), 1, "{key} is told once");
            }
        }
        for (key, spans) in &self.conditions {
            let (after, late) = match key.split('/').next() {
                Some("torn") => (TORN, 0),
                Some("clock") => (0, 0),
                // It counts from the begin of the first round that failed, which may have hung for a while.
                _ => (AFTER, WITHIN - AFTER),
            };
            let mut told = self.told.get(key).cloned().unwrap_or_default();
            for span in spans {
                let end = span.to.unwrap_or(u64::MAX);
                let within =
                    |(at, _): &(u64, AlertKind)| span.from <= *at && *at <= end.saturating_add(3 * step);
                let of_span: Told = told.iter().copied().filter(within).collect();
                told.retain(|one| !within(one));
                let kinds: Vec<AlertKind> = of_span.iter().map(|(_, kind)| *kind).collect();
                let lasted = end - span.from;
                let must = after + late + 3 * step <= lasted;
                let may = after <= lasted + late + 3 * step;
                let whole = span.to.is_some();
                let right = match (&kinds[..], whole) {
                    ([], _) => !must,
                    ([AlertKind::Error, AlertKind::Recovery], true) | ([AlertKind::Error], false) => may,
                    _ => false,
                };
                assert!(right, "{key} from {} to {end}: {of_span:?}", span.from);
                if let Some((at, _)) = of_span.first() {
                    let took = at - span.from;
                    assert!(
                        took <= after + late + 3 * step,
                        "{key} is told {took} s after {}",
                        span.from
                    );
                    summary.told += 1;
                } else {
                    summary.short += 1;
                }
            }
            assert!(told.is_empty(), "{key}: {told:?} has no reason in {spans:?}");
        }
        summary.trees = self.trees.len();
        summary
    }
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
