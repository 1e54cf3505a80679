//! One pass over a view: databases in, what they name in, everything checked.
//!
//! - Invariant: whatever takes long over many names runs in the pools, not on the network's threads.
//! - Not here: passes and sources (`crate::round`), what becomes of the answer (`crate::settle`).
//! - Read first: `crate::round`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use pacstore_runtime::Pool;

use crate::error::IntakeError;
use crate::facts::FileFacts;
use crate::hash::Digests;
use crate::intake::{Intakes, Job};
use crate::look::Look;
use crate::names;
use crate::progress::Step;
use crate::repos::{self, Databases, Opened, Repo};
use crate::source::Want;
use crate::spec::{Files, Plan};
use crate::stamp::ChangeStamp;
use crate::state::State;
use crate::taken::{Taken, Taker};
use crate::tree::{Row, Rows, arrange};
use crate::trouble::Trouble;
use crate::view::{Item, NoFile, Place, View};

/// Whether what is known of a file must be proven to be in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sure {
    /// It is looked for: somebody is about to read it.
    Yes,
    /// Whoever builds the tree looks again.
    Later,
}

/// Names that are read in one go: what is told of each is in memory until all of them are in the store.
const PIECE: usize = 16_384;

/// One pass at work. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) plan: Arc<Plan>,
    pub(crate) look: Arc<Look>,
    pub(crate) view: Arc<View>,
    pub(crate) stamp: Option<ChangeStamp>,
    pub(crate) state: Option<Arc<State>>,
}

/// The databases of those repositories that are looked at.
#[derive(Debug)]
pub(crate) struct AllOpened {
    /// By number of the repository; none for one that is kept or torn already.
    pub(crate) databases: Vec<Option<Box<Databases>>>,
    /// Why one is torn already.
    pub(crate) troubles: Vec<Vec<Trouble>>,
    /// Something that is no repository after all, or not any more.
    pub(crate) mistaken: Option<Repo>,
}

/// A name that is to be in the tree.
#[derive(Debug)]
pub(crate) struct Pick {
    /// Its place in the view.
    pub(crate) at: usize,
    /// Its path in the tree, where that is not its path in the view.
    tree: Option<Box<[u8]>>,
    /// Whether the layout moved it.
    moved: bool,
}

/// What checking gave.
#[derive(Debug)]
pub(crate) struct Checked {
    /// By number of the repository.
    pub(crate) troubles: Vec<Vec<Trouble>>,
    /// Of what belongs to no repository.
    pub(crate) loose: Vec<Trouble>,
    pub(crate) rows: Rows,
}

impl Checked {
    /// Upstream paths of files that are there with wrong bytes.
    pub(crate) fn wrong_files(&self) -> Vec<Vec<u8>> {
        let all = self.troubles.iter().flatten();
        let wrong = all.filter(|t| match t {
            Trouble::File { problem, .. } => problem.what != pacstore_pacman::What::Missing,
            Trouble::Database { .. } => true,
            _ => false,
        });
        wrong.map(|t| t.path().into_bytes()).collect()
    }
}

/// The facts of a place in a view, or why it has none.
pub(crate) fn facts(view: &View, taken: &Taker, at: usize) -> Result<FileFacts, Trouble> {
    let Some((path, item)) = view.files.get(at) else {
        return Err(Trouble::NoFile {
            path: String::new(),
            why: NoFile::Absent,
        });
    };
    let shown = || names::show(path);
    match (item, taken.get(at)) {
        (Item::None(why), _) | (_, Some(Taken::None(why))) => Err(Trouble::NoFile {
            path: shown(),
            why: *why,
        }),
        (_, Some(Taken::Facts(facts))) => Ok(facts.clone()),
        (_, Some(Taken::Moved) | None) => Err(Trouble::Moving { path: shown() }),
    }
}

impl Work {
    pub(crate) fn is_kept(&self, repo: usize) -> bool {
        self.look.is_kept(self.look.region_of.get(repo).copied())
    }

    /// Takes the databases in and reads them.
    pub(crate) async fn databases(
        &self,
        intakes: &Intakes,
        taken: &mut Taker,
    ) -> Result<AllOpened, IntakeError> {
        let repos: Vec<(usize, &Repo)> = self
            .look
            .repos
            .iter()
            .enumerate()
            .filter(|(number, _)| !self.is_kept(*number))
            .collect();
        let places = repos
            .iter()
            .flat_map(|(_, repo)| repos::own_files(&self.view, repo))
            .map(|(_, at)| at);
        let places: BTreeSet<usize> = places.collect();
        self.bring(intakes, &places.into_iter().collect::<Vec<_>>(), taken, Sure::Yes)
            .await?;
        let count = self.look.repos.len();
        let mut all = AllOpened {
            databases: (0..count).map(|_| None).collect(),
            troubles: vec![Vec::new(); count],
            mistaken: None,
        };
        for (number, repo) in repos {
            let in_tree = self
                .state
                .as_ref()
                .is_some_and(|s| s.kept(&repo.folder, &repo.name).is_some());
            let known = in_tree || self.plan.compiled.listed.is_some();
            let mut opened = self.open(intakes, taken, repo, known).await?;
            if matches!(&opened, Opened::Torn(troubles) if troubles.iter().any(Trouble::is_of_a_database))
                && let damaged = self.drop_damaged(intakes, taken, repo).await?
                && !damaged.is_empty()
            {
                self.bring(intakes, &damaged, taken, Sure::Yes).await?;
                opened = self.open(intakes, taken, repo, known).await?;
            }
            match opened {
                Opened::Databases(databases) => {
                    if let Some(slot) = all.databases.get_mut(number) {
                        *slot = Some(databases);
                    }
                }
                Opened::Torn(troubles) => {
                    if let Some(slot) = all.troubles.get_mut(number) {
                        *slot = troubles;
                    }
                }
                Opened::NoRepository => {
                    all.mistaken = Some(repo.clone());
                    return Ok(all);
                }
            }
        }
        all.mistaken = self.replaced(&all).cloned();
        Ok(all)
    }

    /// A repository of the tree that upstream goes on with under another name: nothing of its own is left, and other
    /// databases of its folder name all packages there.
    fn replaced(&self, all: &AllOpened) -> Option<&Repo> {
        let wanted = self.plan.compiled.listed.is_some();
        let mut lost = self.look.repos.iter().zip(&all.troubles);
        let replaced = lost.find(|(repo, troubles)| {
            let there = match &***troubles {
                [Trouble::NoDatabase { .. }] => Some(repos::packages(&self.view, &repo.folder).collect()),
                [
                    Trouble::NoFile {
                        why: NoFile::Absent, ..
                    },
                ] => repos::left(&self.view, &repo.folder),
                _ => None,
            };
            let Some(there) = there else { return false };
            let beside = self.look.repos.iter().zip(&all.databases);
            let beside: HashSet<&str> = beside
                .filter(|(other, _)| other.folder == repo.folder)
                .filter_map(|(_, databases)| databases.as_deref())
                .flat_map(|databases| databases.main.entries.iter().map(|desc| &*desc.filename))
                .collect();
            !wanted
                && repos::has_nothing(&self.view, repo)
                && there
                    .iter()
                    .all(|name: &&str| beside.contains(name.strip_suffix(".sig").unwrap_or(name)))
        });
        replaced.map(|(repo, _)| repo)
    }

    /// Reads the databases of a repository.
    async fn open(
        &self,
        intakes: &Intakes,
        taken: &Taker,
        repo: &Repo,
        known: bool,
    ) -> Result<Opened, IntakeError> {
        let own = repos::own_files(&self.view, repo).into_iter();
        let facts: HashMap<usize, _> = own.map(|(_, at)| (at, facts(&self.view, taken, at))).collect();
        let (store, view, of) = (intakes.store.clone(), Arc::clone(&self.view), repo.clone());
        let opened = intakes.tasks.blocking(Pool::Hash, move || {
            let absent = || Trouble::NoFile {
                path: of.shown(),
                why: NoFile::Absent,
            };
            let lookup = |at: usize| facts.get(&at).cloned().unwrap_or_else(|| Err(absent()));
            repos::open(&store, &view, &of, &lookup, known)
        });
        opened.await?
    }

    /// A database that cannot be read may be the disk's fault, not the upstream's: those that the store has not as they
    /// came in leave it, and are forgotten, so that they come in again. Gives their places in the view.
    async fn drop_damaged(
        &self,
        intakes: &Intakes,
        taken: &mut Taker,
        repo: &Repo,
    ) -> Result<Vec<usize>, IntakeError> {
        let own = repos::own_files(&self.view, repo).into_iter();
        let own = own.filter_map(|(_, at)| Some((at, facts(&self.view, taken, at).ok()?.root())));
        let (store, own): (_, Vec<_>) = (intakes.store.clone(), own.collect());
        let damaged = intakes.tasks.blocking(Pool::Hash, move || {
            let mut damaged = Vec::new();
            for (at, root) in own {
                // Of two names of one file the second finds it gone.
                if store.reread(&root)?.is_some() || store.file(&root)?.is_none() {
                    damaged.push(at);
                }
            }
            Ok::<_, IntakeError>(damaged)
        });
        let damaged = damaged.await??;
        for at in &damaged {
            taken.remove(*at);
        }
        Ok(damaged)
    }

    /// The files that the databases name.
    pub(crate) fn wants(&self, databases: &[Option<Box<Databases>>]) -> Vec<Want> {
        let mut wants = Vec::new();
        for (repo, databases) in self.look.repos.iter().zip(databases) {
            for desc in databases.iter().flat_map(|d| &d.main.entries) {
                wants.push(Want {
                    path: repo.path(&desc.filename),
                    expected: Some((desc.csize, desc.sha256)),
                });
                wants.push(Want {
                    path: repo.path(&format!("{}.sig", desc.filename)),
                    expected: None,
                });
            }
        }
        wants
    }

    /// The names that the tree is to have, out of the parts that are not kept.
    pub(crate) fn picks(&self, opened: &AllOpened) -> Vec<Pick> {
        let view = &*self.view;
        let mut places: Vec<usize> = Vec::new();
        if self.plan.spec.files == Files::All {
            places.extend(0..view.files.len());
        } else {
            for (repo, databases) in self.look.repos.iter().zip(&opened.databases) {
                let Some(databases) = databases else { continue };
                places.extend(repos::own_files(view, repo).into_iter().map(|(_, at)| at));
                for desc in &databases.main.entries {
                    places.extend(view.position(&repo.path(&desc.filename)));
                    places.extend(view.position(&repo.path(&format!("{}.sig", desc.filename))));
                }
            }
            let also = &self.plan.compiled.also;
            let matching = view
                .files
                .iter()
                .enumerate()
                .filter(|(_, (path, item))| item.is_taken_by(also, path));
            places.extend(matching.map(|(at, _)| at));
            places.sort_unstable();
            places.dedup();
        }
        let lost = self.lost(opened);
        let pick = |at: usize| {
            let (path, _) = view.files.get(at)?;
            let mapped = self.look.mapping.to_tree(path);
            let region = self.look.regions.of(&mapped.path);
            let torn = region.is_some_and(|region| lost.get(region) == Some(&true));
            let wanted = !torn && !self.look.is_kept(region);
            wanted.then(|| Pick {
                at,
                tree: (mapped.path != **path).then(|| mapped.path.into()),
                moved: mapped.moved,
            })
        };
        places.into_iter().filter_map(pick).collect()
    }

    /// For each region, whether some repository of it cannot be read.
    fn lost(&self, opened: &AllOpened) -> Vec<bool> {
        let torn = |number: usize| opened.troubles.get(number).is_some_and(|t| !t.is_empty());
        let regions = 0..self.look.regions.len();
        regions
            .map(|region| self.look.repos_of(region).any(|(number, _)| torn(number)))
            .collect()
    }

    /// Brings the files at these places into the store, unless they are known.
    pub(crate) async fn bring(
        &self,
        intakes: &Intakes,
        places: &[usize],
        taken: &mut Taker,
        sure: Sure,
    ) -> Result<(), IntakeError> {
        taken.reserve(self.view.files.len());
        let mut asked: Vec<usize> = Vec::new();
        for at in places {
            match self.view.file(*at) {
                None | Some((_, _, Place::Later)) => {}
                _ if taken.get(*at).is_some() => {}
                Some((_, _, Place::Known(facts))) => taken.insert(*at, Taken::Facts((**facts).clone())),
                Some(_) => asked.push(*at),
            }
        }
        let (manifest, store) = (Arc::clone(&intakes.manifest), intakes.store.clone());
        let view = Arc::clone(&self.view);
        let look_up = move || -> Result<_, IntakeError> {
            let mut known: Vec<Option<Box<FileFacts>>> = Vec::with_capacity(asked.len());
            let files = asked.iter().filter_map(|at| view.file(*at));
            let wanted = files.map(|(path, stamp, _)| (path, stamp));
            manifest.facts((asked.len(), wanted), |facts| known.push(facts.map(Box::new)))?;
            if sure == Sure::Yes {
                for slot in &mut known {
                    if let Some(facts) = slot
                        && store
                            .file(&facts.root())?
                            .is_none_or(|file| file.len != facts.len)
                    {
                        *slot = None;
                    }
                }
            }
            Ok((asked, known))
        };
        let (asked, known) = intakes.tasks.blocking(Pool::Disk, look_up).await??;
        // Only a database asks for the digest of a whole file.
        let digests = if self.look.repos.is_empty() {
            Digests::Leaves
        } else {
            Digests::Whole
        };
        let mut unknown: Vec<usize> = Vec::new();
        for (at, known) in asked.into_iter().zip(known) {
            let enough = |facts: &FileFacts| digests == Digests::Leaves || facts.sha256.is_some();
            match known.filter(|facts| enough(facts)) {
                Some(facts) => taken.insert(at, Taken::Facts(*facts)),
                None => unknown.push(at),
            }
        }
        let bytes = unknown.iter().map(|at| size_and_inode(&self.view, *at).0).sum();
        intakes.progress.begin(Step::Reading, unknown.len() as u64, bytes);
        for piece in pieces(&self.view, &mut unknown, PIECE) {
            let job = |at: &usize| {
                let (path, stamp, place) = self.view.file(*at)?;
                Some(Job {
                    at: *at,
                    path: path.into(),
                    stamp: stamp.clone(),
                    place: place.clone(),
                    digests,
                })
            };
            for (at, outcome) in intakes.take(piece.iter().filter_map(job).collect()).await? {
                taken.insert(at, outcome);
            }
        }
        Ok(())
    }

    /// Checks every repository that is looked at, and makes the rows of all that is.
    pub(crate) fn check(&self, opened: &AllOpened, taken: &Taker, picks: Vec<Pick>) -> Checked {
        let view = &*self.view;
        let facts = |at: usize| facts(view, taken, at);
        let mut troubles = opened.troubles.clone();
        let lost = self.lost(opened);
        for (number, repo) in self.look.repos.iter().enumerate() {
            let region = self.look.region_of.get(number).copied().unwrap_or_default();
            if lost.get(region) == Some(&true) {
                // Its files were not brought: it stays with the one that cannot be read.
                continue;
            }
            let databases = opened.databases.get(number).and_then(Option::as_ref);
            if let (Some(databases), Some(slot)) = (databases, troubles.get_mut(number)) {
                slot.extend(repos::check(view, repo, databases, &facts));
            }
        }
        let mut seen: HashSet<String> = troubles.iter().flatten().map(Trouble::path).collect();
        let mut loose = Vec::new();
        let mut rows = Vec::with_capacity(picks.len());
        let mut blame = |region: Option<usize>, trouble: Trouble| {
            let first = region.and_then(|region| self.look.repos_of(region).next());
            match first.and_then(|(number, _)| troubles.get_mut(number)) {
                Some(slot) if seen.insert(trouble.path()) => slot.push(trouble),
                Some(_) => {}
                None => loose.push(trouble),
            }
        };
        for Pick { at, tree, moved } in picks {
            let Some(tree) = tree.or_else(|| view.files.get(at).map(|(path, _)| path.clone())) else {
                continue;
            };
            match facts(at) {
                Ok(facts) => rows.push((tree, Row::File(facts), moved)),
                // A pipe or a socket is no file, so none is missing, and rsync does not send it either.
                Err(
                    trouble @ Trouble::NoFile {
                        why: NoFile::Special, ..
                    },
                ) => blame(None, trouble),
                Err(trouble) => blame(self.look.regions.of(&tree), trouble),
            }
        }
        if self.plan.spec.files == Files::All {
            for folder in view
                .folders
                .iter()
                .filter(|folder| !self.look.mapping.is_passage(folder))
            {
                let mapped = self.look.mapping.to_tree(folder);
                let path = names::join(&mapped.path, b"");
                if !self.look.is_kept(self.look.regions.of(&path)) {
                    rows.push((path.into(), Row::EmptyFolder, mapped.moved));
                }
            }
        }
        let (rows, dropped) = arrange(rows);
        for path in dropped {
            blame(
                self.look.regions.of(&path),
                Trouble::Clash {
                    path: names::show(&path),
                },
            );
        }
        Checked {
            troubles,
            loose,
            rows,
        }
    }
}

/// The places in pieces of about so many, the largest files first; names of one file are in the same piece, so that it is
/// read once.
fn pieces<'a>(view: &View, places: &'a mut [usize], most: usize) -> impl Iterator<Item = &'a [usize]> {
    places.sort_by_cached_key(|at| {
        let (size, inode) = size_and_inode(view, *at);
        (Reverse(size), inode, *at)
    });
    let mut rest = &*places;
    std::iter::from_fn(move || {
        let inode = |at: usize| size_and_inode(view, *rest.get(at)?).1;
        let is_twin = |at: usize| inode(at).is_some_and(|own| inode(at - 1) == Some(own));
        let cut = (most..rest.len()).find(|at| !is_twin(*at));
        let (piece, after) = rest.split_at(cut.unwrap_or(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn size_and_inode(view: &View, at: usize) -> (u64, Option<(u64, u64)>) {
    let stamp = view.file(at).map(|(_, stamp, _)| stamp);
    stamp.map_or((0, None), |stamp| (stamp.size(), stamp.inode()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Stamp;

    #[test]
    fn the_largest_files_come_first_and_names_of_one_file_are_not_taken_apart() {
        let file = |(number, (ino, size)): (usize, (u64, u64))| {
            let stamp = Stamp::Disk {
                dev: 1,
                ino,
                size,
                seconds: 0,
                nanos: 0,
                born: 0,
            };
            let path = format!("{number}").into_bytes().into();
            let place = Place::Here;
            (path, Item::File { stamp, place })
        };
        let files = [(7, 5), (9, 1), (7, 5), (8, 5), (7, 5), (6, 2)];
        let view = View {
            files: files.into_iter().enumerate().map(file).collect(),
            ..View::default()
        };
        let mut places = vec![0, 1, 2, 3, 4, 5];
        let cut: Vec<Vec<usize>> = pieces(&view, &mut places, 2).map(<[usize]>::to_vec).collect();
        assert_eq!(cut, [vec![0, 2, 4], vec![3, 5], vec![1]]);
        assert_eq!(pieces(&view, &mut [], 2).count(), 0);
    }
}
