//! A view taken apart: which repositories there are, which folder of the tree belongs to which, what moved.
//!
//! - Invariant: a region that is kept has, name by name and stamp by stamp, what it had when the last tree was made.
//! - Not here: reading databases (`crate::repos`), rounds (`crate::round`).
//! - Read first: `crate::tree`.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::layout::Mapping;
use crate::names;
use crate::repos::{Repo, discover, has_nothing};
use crate::spec::{Compiled, Files, ImportSpec};
use crate::state::State;
use crate::tree::Regions;
use crate::view::{Mark, View};

/// A digest over a region, and whether all stamps in it are settled.
pub(crate) type Marked = ([u8; 32], bool);

/// A view taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) repos: Vec<Repo>,
    /// For each repository, its region.
    pub(crate) region_of: Vec<usize>,
    /// Repositories that the last tree holds and the source does not have any more.
    pub(crate) gone: Vec<Repo>,
    pub(crate) mapping: Mapping,
    pub(crate) regions: Regions,
    /// Folder in the tree of each region.
    pub(crate) folders: Vec<Vec<u8>>,
    /// One for each region, and one for what belongs to none.
    pub(crate) marks: Vec<Marked>,
    /// Whether each of them is as the last tree has it.
    pub(crate) kept: Vec<bool>,
}

impl Look {
    pub(crate) fn new(
        view: &View,
        (spec, compiled): (&ImportSpec, &Compiled),
        state: Option<&State>,
        ignored: &BTreeSet<Repo>,
        now: SystemTime,
    ) -> Self {
        let (mut repos, mut gone) = discover(view, compiled.listed.as_deref(), state);
        let known = |repo: &Repo| state.is_some_and(|state| state.kept(&repo.folder, &repo.name).is_some());
        // One that was replaced is there again with its first file.
        let is_none = |repo: &Repo| !known(repo) || has_nothing(view, repo);
        let (none, some): (Vec<Repo>, _) = repos
            .into_iter()
            .partition(|repo| ignored.contains(repo) && is_none(repo));
        repos = some;
        gone.extend(none.into_iter().filter(known));
        let mapping = Mapping::new(spec.layout, repos.iter().map(|repo| (&*repo.folder, &*repo.name)));
        let tree_folders: Vec<Vec<u8>> = repos
            .iter()
            .map(|repo| mapping.to_tree(&repo.folder).path)
            .collect();
        let regions = Regions::new(tree_folders.iter().map(|folder| &**folder));
        let region_of: Vec<usize> = tree_folders
            .iter()
            .map(|folder| regions.number(folder).unwrap_or_default())
            .collect();
        let mut folders = vec![Vec::new(); regions.len()];
        for (folder, region) in tree_folders.into_iter().zip(&region_of) {
            if let Some(slot) = folders.get_mut(*region) {
                *slot = folder;
            }
        }
        let mut look = Self {
            repos,
            region_of,
            gone,
            mapping,
            regions,
            folders,
            marks: Vec::new(),
            kept: Vec::new(),
        };
        look.marks = look.digest(view, spec, compiled, now);
        look.kept = look.compare(state, spec);
        look
    }

    fn digest(&self, view: &View, spec: &ImportSpec, compiled: &Compiled, now: SystemTime) -> Vec<Marked> {
        let mut marks = vec![Mark::new(now); self.regions.len() + 1];
        let all = spec.files == Files::All;
        for (path, item) in &view.files {
            let region = self.region(path);
            // Of the rest only what `also` takes ever comes into the tree.
            let counts = region.is_some() || all || item.is_taken_by(&compiled.also, path);
            if counts && let Some(mark) = marks.get_mut(self.slot(region)) {
                mark.file(path, item);
            }
        }
        for path in view.folders.iter().filter(|_| all) {
            let tree = names::join(&self.mapping.to_tree(path).path, b"");
            if let Some(mark) = marks.get_mut(self.slot(self.regions.of(&tree))) {
                mark.folder(path);
            }
        }
        marks.into_iter().map(Mark::finish).collect()
    }

    fn compare(&self, state: Option<&State>, spec: &ImportSpec) -> Vec<bool> {
        let Some(state) = state.filter(|state| state.fingerprint == spec.fingerprint()) else {
            return vec![false; self.marks.len()];
        };
        let same = |slot: usize, folder: Option<&[u8]>| {
            let settled = self.marks.get(slot).filter(|(_, settled)| *settled);
            settled.is_some_and(|(mark, _)| state.mark(folder) == Some(*mark))
        };
        let known = |repo: &Repo| state.kept(&repo.folder, &repo.name).is_some();
        let mut kept: Vec<bool> = self
            .folders
            .iter()
            .enumerate()
            .map(|(r, f)| same(r, Some(f)))
            .collect();
        for (repo, region) in self.repos.iter().zip(&self.region_of) {
            if !known(repo)
                && let Some(kept) = kept.get_mut(*region)
            {
                *kept = false;
            }
        }
        let same_repos = state.repositories.len() == self.repos.len() && self.repos.iter().all(known);
        kept.push(same_repos && same(self.folders.len(), None));
        kept
    }

    /// The region of an upstream path.
    pub(crate) fn region(&self, path: &[u8]) -> Option<usize> {
        self.regions.of(&self.mapping.to_tree(path).path)
    }

    /// Where a region, or what belongs to none, stands in `marks` and `kept`.
    pub(crate) fn slot(&self, region: Option<usize>) -> usize {
        region.unwrap_or(self.regions.len())
    }

    pub(crate) fn is_kept(&self, region: Option<usize>) -> bool {
        self.kept.get(self.slot(region)).copied().unwrap_or_default()
    }

    /// Whether a later look shows the same in every part that this one is about to take.
    pub(crate) fn still_holds(&self, later: &Self) -> bool {
        self.repos == later.repos
            && self
                .marks
                .iter()
                .zip(&later.marks)
                .zip(&self.kept)
                .all(|((a, b), kept)| *kept || a.0 == b.0)
    }

    /// The repositories of a region.
    pub(crate) fn repos_of(&self, region: usize) -> impl Iterator<Item = (usize, &Repo)> {
        let own = self.repos.iter().enumerate().zip(&self.region_of);
        own.filter(move |(_, r)| **r == region).map(|(repo, _)| repo)
    }
}
