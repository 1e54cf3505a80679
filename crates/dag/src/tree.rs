//! Changes a whole tree by paths.
//!
//! - Invariant: directories that no change lies below keep their CID and are not read.
//! - Not here: changing one directory (`crate::edit`).

use std::collections::BTreeMap;

use cid::Cid;

use crate::edit::{Changes, EditError, Output, edit_checked};
use crate::flat::empty_directory;
use crate::hash::DAG_PB;
use crate::limits::MAX_TREE_DEPTH;
use crate::name;
use crate::node::{Kind, kind};
use crate::profile::Profile;
use crate::resolve::find;
use crate::short::ShortEntry;
use crate::source::{BlockSink, BlockSource, Entry, require};

/// What happens to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It becomes this, whatever it was.
    Set(Entry),
    /// It goes, with all below; what is not there may be removed.
    Remove,
    /// It is a directory that stays even if it is empty; an existing directory keeps its entries.
    EmptyDir,
}

/// A tree after an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeEdit {
    /// The new root.
    pub root: Entry,
    /// How many nodes the sink got.
    pub new_nodes: usize,
    /// How many bytes they have.
    pub new_bytes: u64,
}

/// Applies changes by path and gives the new root; new nodes go to `sink`, children before parents.
///
/// Paths are `a/b/c` without a leading slash. The order of changes does not matter, save that of one path
/// given twice the last counts. Missing directories are created. A directory that loses its last entry by
/// this edit goes too, unless it is set as [`Change::EmptyDir`]; the root stays. Removals below a path that is
/// set or removed speak of its old content, so a file may turn into a directory, or back, in one edit.
///
/// # Errors
/// [`EditError::NotADirectory`] for a change below a file that is not removed, [`EditError::Conflict`] for
/// one below a path that is set, and the others of [`crate::edit_directory`].
pub fn edit_tree(
    profile: &Profile,
    root: Option<&Cid>,
    changes: impl IntoIterator<Item = (Vec<u8>, Change)>,
    source: &dyn BlockSource,
    sink: &mut dyn BlockSink,
) -> Result<TreeEdit, EditError> {
    let mut plan = Plan::default();
    for (path, change) in changes {
        plan.insert(&path, change)?;
    }
    let mut edit = Edit {
        profile,
        source,
        out: Output::new(sink),
        empty: empty_directory(profile).0.cid,
    };
    let entries = edit.entries(root, plan.below(), &mut Vec::new())?;
    let root = edit_checked(profile, root, entries, source, &mut edit.out)?;
    Ok(TreeEdit {
        root,
        new_nodes: edit.out.nodes,
        new_bytes: edit.out.bytes,
    })
}

/// The changes as a tree. There may be 100,000 names in it, most of them of files.
#[derive(Default)]
struct Plan {
    own: Option<Own>,
    /// Nothing for most names.
    below: Option<Box<Below>>,
    /// Whether anything below is to exist afterwards.
    adds_below: bool,
}

type Below = BTreeMap<Vec<u8>, Plan>;

/// A [`Change`] in less room.
#[derive(PartialEq)]
enum Own {
    Set(ShortEntry),
    Remove,
    EmptyDir,
}

impl From<Change> for Own {
    fn from(change: Change) -> Self {
        match change {
            Change::Set(entry) => Self::Set(entry.into()),
            Change::Remove => Self::Remove,
            Change::EmptyDir => Self::EmptyDir,
        }
    }
}

impl Plan {
    fn insert(&mut self, path: &[u8], change: Change) -> Result<(), EditError> {
        let adds = change != Change::Remove;
        let mut plan = self;
        for (depth, name) in path.split(|&byte| byte == b'/').enumerate() {
            if depth == MAX_TREE_DEPTH {
                return Err(EditError::TooDeep { path: path.to_vec() });
            }
            name::check(name).map_err(|source| EditError::Name {
                path: path.to_vec(),
                source,
            })?;
            plan.adds_below |= adds;
            let below = plan.below.get_or_insert_default();
            if !below.contains_key(name) {
                below.insert(name.to_vec(), Self::default());
            }
            plan = below.get_mut(name).expect("inserted just now");
        }
        plan.own = Some(change.into());
        Ok(())
    }

    fn below(self) -> Below {
        self.below.map(|below| *below).unwrap_or_default()
    }
}

/// What becomes of one name.
enum Fate {
    Unchanged,
    /// This entry, or none.
    Becomes(Option<ShortEntry>),
}

struct Edit<'e> {
    profile: &'e Profile,
    source: &'e dyn BlockSource,
    out: Output<'e>,
    /// The CID of a directory without entries.
    empty: Cid,
}

impl Edit<'_> {
    /// The changes to the entries of one directory, after those below were written. The plan goes as they come: a folder may
    /// have 100,000 names.
    fn entries(
        &mut self,
        base: Option<&Cid>,
        plans: Below,
        path: &mut Vec<u8>,
    ) -> Result<Changes, EditError> {
        let mut entries = Changes::with_capacity(plans.len());
        for (name, child) in plans {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if let Fate::Becomes(entry) = self.child(base, &name, child, path)? {
                entries.push((name, entry));
            }
            path.truncate(length);
        }
        Ok(entries)
    }

    fn child(
        &mut self,
        base: Option<&Cid>,
        name: &[u8],
        plan: Plan,
        path: &mut Vec<u8>,
    ) -> Result<Fate, EditError> {
        match plan.own {
            Some(Own::Set(_)) if plan.adds_below => Err(EditError::Conflict { path: path.clone() }),
            Some(Own::Set(entry)) => Ok(Fate::Becomes(Some(entry))),
            Some(Own::Remove) => self.directory(None, plan, path).map(Fate::Becomes),
            Some(Own::EmptyDir) => {
                let old = self
                    .existing(base, name)?
                    .filter(|(_, is_directory)| *is_directory);
                self.directory(old.map(|(entry, _)| entry), plan, path)
                    .map(Fate::Becomes)
            }
            None => match self.existing(base, name)? {
                Some((entry, true)) => self.directory(Some(entry), plan, path).map(Fate::Becomes),
                Some((_, false)) if plan.adds_below => Err(EditError::NotADirectory { path: path.clone() }),
                None if plan.adds_below => self.directory(None, plan, path).map(Fate::Becomes),
                Some((_, false)) | None => Ok(Fate::Unchanged),
            },
        }
    }

    fn existing(&self, base: Option<&Cid>, name: &[u8]) -> Result<Option<(Entry, bool)>, EditError> {
        let Some(base) = base else { return Ok(None) };
        let Some(entry) = find(base, name, self.source)? else {
            return Ok(None);
        };
        let is_directory = entry.cid.codec() == DAG_PB
            && kind(&entry.cid, &require(self.source, &entry.cid)?)? == Kind::Directory;
        Ok(Some((entry, is_directory)))
    }

    /// Writes a directory below the root; `None` if it is empty now and need not stay.
    fn directory(
        &mut self,
        old: Option<Entry>,
        plan: Plan,
        path: &mut Vec<u8>,
    ) -> Result<Option<ShortEntry>, EditError> {
        let base = old.as_ref().map(|entry| &entry.cid);
        let stays = plan.own == Some(Own::EmptyDir);
        let entries = self.entries(base, plan.below(), path)?;
        if entries.iter().all(|(_, entry)| entry.is_none()) && old.is_none() && !stays {
            return Ok(None);
        }
        if entries.is_empty() && old.is_some() {
            return Ok(old.map(ShortEntry::from));
        }
        let mut fresh = Vec::new();
        let mut out = Output::new(&mut fresh);
        let entry = edit_checked(self.profile, base, entries, self.source, &mut out)?;
        let vanishes = entry.cid == self.empty && !stays && base != Some(&entry.cid);
        if vanishes {
            return Ok(None);
        }
        fresh
            .into_iter()
            .try_for_each(|block| self.out.put_unless(None, block))?;
        Ok(Some(entry.into()))
    }
}
