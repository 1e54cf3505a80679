//! What a round gave, in the words of those who publish it.
//!
//! - Invariant: [`Round::tree`] is held by the store.
//! - Not here: how it came about (`crate::round`), single repositories (`crate::state`).

use std::sync::Arc;

use cid::Cid;

use crate::build::Built;
use crate::spec::Source;
use crate::stamp::ChangeStamp;
use crate::state::{Alarm, RepoFacts, RepoState, State};

/// Numbers of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Files in the tree.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the tree before did not have, or had with other bytes.
    pub new: u64,
    /// Files that only the tree before had.
    pub removed: u64,
}

/// What a round gave.
#[derive(Debug, Clone)]
pub struct Round {
    /// Root of the tree. The store holds it under [`crate::Importer::label`] until the next round moves on.
    pub tree: Cid,
    /// Whether it is another than that of the round before.
    pub changed: bool,
    /// All repositories, by folder and name.
    pub repositories: Vec<RepoFacts>,
    /// How old the upstream says its state is: its change stamp, else the newest database; seconds since 1970.
    pub upstream_time: Option<u64>,
    /// What is in the tree.
    pub counts: Counts,
    /// What was left out, and why; one line each.
    pub warnings: Vec<String>,
    /// What a person should look at, though the round went on.
    pub alarms: Vec<Alarm>,
    /// Which source was read.
    pub source: Source,
    /// How often it was read.
    pub passes: u32,
}

impl Round {
    /// Whether a repository is torn or held.
    pub fn is_torn(&self) -> bool {
        self.repositories
            .iter()
            .any(|repo| repo.state != RepoState::Whole)
    }
}

/// The round that found nothing new.
pub(crate) fn unchanged(
    state: &State,
    tree: Cid,
    stamp: Option<&ChangeStamp>,
    source: &Source,
    passes: u32,
) -> Round {
    let stamped = stamp.and_then(ChangeStamp::time);
    let facts = state.repositories.iter().map(|kept| {
        let mut facts = kept.facts(RepoState::Whole);
        facts.upstream_time = stamped.or(facts.upstream_time);
        facts
    });
    let repositories: Vec<RepoFacts> = facts.collect();
    Round {
        tree,
        changed: false,
        upstream_time: stamped.or_else(|| repositories.iter().filter_map(|r| r.upstream_time).max()),
        repositories,
        counts: Counts {
            files: state.files,
            bytes: state.bytes,
            new: 0,
            removed: 0,
        },
        warnings: Vec::new(),
        alarms: Vec::new(),
        source: source.clone(),
        passes,
    }
}

/// The round that built a tree.
pub(crate) fn made(
    built: &Built,
    repositories: Vec<RepoFacts>,
    (warnings, alarms): (Vec<String>, Vec<Alarm>),
    (state, stamped, source, passes): (Option<&Arc<State>>, Option<u64>, &Source, u32),
) -> Round {
    let (files, bytes, new, removed) = (built.files, built.bytes, built.new, built.removed);
    let tree = built.tree;
    Round {
        tree,
        changed: state.and_then(|state| state.tree()) != Some(tree),
        upstream_time: stamped.or_else(|| repositories.iter().filter_map(|r| r.upstream_time).max()),
        repositories,
        counts: Counts {
            files,
            bytes,
            new,
            removed,
        },
        warnings,
        alarms,
        source: source.clone(),
        passes,
    }
}
