//! From what was taken to the tree: rows, their difference to the last tree, directory nodes, and the commit.
//!
//! The order makes any crash harmless: the new tree is held under a second label before the manifest knows of it, and
//! the old one is let go of only after.
//!
//! - Invariant: no node of a new tree is ever loose in the store.
//! - Invariant: the tree that the manifest names is held by the store, with all its files.
//! - Not here: which rows (`crate::settle`).
//! - Read first: `crate::tree`.

use std::sync::{Arc, Mutex, PoisonError};

use cid::Cid;
use pacstore_dag::{Block, Profile, edit_tree};
use pacstore_store::Store;

use crate::error::IntakeError;
use crate::manifest::{Manifest, Update};
use crate::state::State;
use crate::tree::{Difference, Regions, Row, Rows, difference};

/// Nodes of one transaction, in bytes: with them a few thousand references, so that other writers go on meanwhile.
const NODE_BATCH: usize = 256 << 10;

/// One tree is built at a time, of all mirrors: a folder of 100,000 new names takes tens of MB meanwhile, and all of it is
/// work of our own, with nobody to wait for.
static BUILDING: Mutex<()> = Mutex::new(());

/// The labels under which the store holds a mirror's trees.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    /// The tree that the manifest names.
    pub(crate) staged: String,
    /// One that it will name.
    pub(crate) next: String,
    /// Files that no tree holds yet.
    pub(crate) pending: String,
}

impl Labels {
    pub(crate) fn new(mirror: &str) -> Self {
        let label = |what: &str| format!("import/{mirror}/{what}");
        Self {
            staged: label("staged"),
            next: label("next"),
            pending: label("pending"),
        }
    }
}

/// The labels under which the store holds what an import of `mirror` brought: its last tree, one that was being made,
/// and files that no tree holds yet. Without them its next round reads everything anew.
pub fn labels(mirror: &str) -> [String; 3] {
    let Labels {
        staged,
        next,
        pending,
    } = Labels::new(mirror);
    [staged, next, pending]
}

/// What a build needs.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) profile: Profile,
    pub(crate) store: Store,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) labels: Labels,
}

/// A tree that was built.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) tree: Cid,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) new: u64,
    pub(crate) removed: u64,
    /// As in [`Difference::replaced`].
    pub(crate) replaced: Option<(Box<[u8]>, u64)>,
}

/// What became of a build.
#[derive(Debug)]
pub(crate) enum Outcome {
    Built(Built),
    /// So many files are not in the store any more.
    Lost(usize),
    /// It would be another tree, and that is older than the last one, by this sign.
    Behind(String),
}

impl Build {
    /// Brings store and manifest together after a crash; says whether the manifest is of any use.
    pub(crate) fn recover(&self, state: Option<&State>) -> Result<bool, IntakeError> {
        let held = self.store.retained()?;
        let of = |label: &str| held.iter().find(|(l, _)| l == label).map(|(_, tree)| *tree);
        let (staged, next) = (of(&self.labels.staged), of(&self.labels.next));
        let tree = state.and_then(State::tree);
        let useful = tree.is_some() && (tree == staged || tree == next);
        if let Some(tree) = tree.filter(|_| useful && tree != staged) {
            self.store.retain(&self.labels.staged, &tree)?;
        }
        if next.is_some() {
            self.store.release(&self.labels.next)?;
        }
        Ok(useful)
    }

    /// Builds the next tree out of `rows` and of those rows of the last one that stay, and commits everything.
    ///
    /// `old` comes with the tree of the round before, or none. `behind`: why another tree than that is not wanted.
    pub(crate) fn run(
        &self,
        (rows, behind): (Rows, Option<String>),
        regions: &Regions,
        stays: impl Fn(Option<usize>) -> bool,
        old: Option<&State>,
        finish: impl FnOnce(&Cid, &Difference) -> (State, Vec<Box<[u8]>>),
    ) -> Result<Outcome, IntakeError> {
        let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        let difference = difference(rows, regions, stays, |each| self.manifest.rows(each))?;
        if let Some(sign) = behind.filter(|_| !difference.rows.is_empty()) {
            return Ok(Outcome::Behind(sign));
        }
        let lost = self.lost(&difference)?;
        if 0 < lost {
            return Ok(Outcome::Lost(lost));
        }
        let base = old.and_then(State::tree);
        let mut nodes: Vec<Block> = Vec::new();
        let tree = match base {
            Some(base) if difference.rows.is_empty() => base,
            _ => {
                let edit = edit_tree(
                    &self.profile,
                    base.as_ref(),
                    difference.changes(),
                    &self.store,
                    &mut nodes,
                )?;
                edit.root.cid
            }
        };
        let moved = base != Some(tree);
        if moved {
            // Held before its nodes come, and parents before what they link to: gc has no moment to take one between.
            self.store.retain(&self.labels.next, &tree)?;
            nodes.reverse();
            self.put(&nodes)?;
        }
        // Between the first look and the hold gc may have been there.
        let lost = self.lost(&difference)?;
        if 0 < lost {
            return Ok(Outcome::Lost(lost));
        }
        let (files, bytes, new, removed) = (
            difference.files,
            difference.bytes,
            difference.new,
            difference.removed,
        );
        let (state, forget) = finish(&tree, &difference);
        let replaced = difference.replaced;
        let update = Update {
            facts: Vec::new(),
            forget,
            rows: difference.rows,
            state: Some(state),
        };
        self.manifest.commit(&update)?;
        if moved {
            self.store.retain(&self.labels.staged, &tree)?;
            self.store.release(&self.labels.next)?;
        }
        Ok(Outcome::Built(Built {
            tree,
            files,
            bytes,
            new,
            removed,
            replaced,
        }))
    }

    fn lost(&self, difference: &Difference) -> Result<usize, IntakeError> {
        let mut lost = 0;
        for (_, row) in &difference.rows {
            if let Some(Row::File(facts)) = row {
                lost += usize::from(self.store.file(&facts.root())?.is_none());
            }
        }
        Ok(lost)
    }

    fn put(&self, nodes: &[Block]) -> Result<(), IntakeError> {
        let mut rest = nodes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|node| {
                let first = bytes == 0;
                bytes += node.data.len();
                first || bytes <= NODE_BATCH
            });
            let (batch, after) = rest.split_at(fits.count());
            self.store.put_nodes(batch)?;
            rest = after;
        }
        Ok(())
    }
}
