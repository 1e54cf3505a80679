//! From the rows of the last tree to those of the next one: what changes, and only that.
//!
//! The tree is divided into regions: one for each folder that holds a repository, and one for all the rest. A region
//! stays as it is (unchanged, or torn) or is replaced; the rows of both lists are in the order of their paths, so one
//! walk over the two gives the difference.
//!
//! - Invariant: applying the changes to the last tree gives the same root as building the next one from nothing.
//! - Not here: which files are taken (`crate::work`), directory nodes (crate `dag`).
//! - Read first: design.md, "Tree".

use std::collections::BTreeMap;

use pacstore_dag::Change;

use crate::facts::FileFacts;
use crate::names;

/// An entry of the tree: a file, or a folder with nothing in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Row {
    EmptyFolder,
    File(FileFacts),
}

impl Row {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if let Self::File(facts) = self {
            facts.encode(out);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::EmptyFolder);
        }
        FileFacts::decode(bytes).map(Self::File)
    }

    fn change(&self) -> Change {
        match self {
            Self::EmptyFolder => Change::EmptyDir,
            Self::File(facts) => Change::Set(facts.entry()),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::EmptyFolder => 0,
            Self::File(facts) => facts.len,
        }
    }

    fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// Rows by their paths, in order; a folder's path ends in `/`.
pub(crate) type Rows = Vec<(Box<[u8]>, Row)>;

/// Which folder of the tree a path belongs to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Regions {
    folders: BTreeMap<Vec<u8>, usize>,
}

impl Regions {
    /// Regions for these folders of the tree; each gets its number in order of first mention.
    pub(crate) fn new<'a>(folders: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut regions = Self::default();
        for folder in folders {
            let next = regions.folders.len();
            regions.folders.entry(folder.to_vec()).or_insert(next);
        }
        regions
    }

    pub(crate) fn len(&self) -> usize {
        self.folders.len()
    }

    /// The number of a repository's folder.
    pub(crate) fn number(&self, folder: &[u8]) -> Option<usize> {
        self.folders.get(folder).copied()
    }

    /// The region of a path: that of the deepest repository folder above it. A folder's path ends in `/`.
    pub(crate) fn of(&self, path: &[u8]) -> Option<usize> {
        let cuts = path
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, b)| **b == b'/')
            .map(|(i, _)| i);
        cuts.chain([0])
            .find_map(|cut| self.folders.get(path.get(..cut)?).copied())
    }
}

/// The difference of two trees.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// For the manifest: what is new, in order, then what is gone.
    pub(crate) rows: Vec<(Box<[u8]>, Option<Row>)>,
    /// How many of them are new.
    added: usize,
    /// Files of the next tree.
    pub(crate) files: u64,
    /// Bytes of the next tree.
    pub(crate) bytes: u64,
    /// Files that are new or have other bytes.
    pub(crate) new: u64,
    /// Files that are gone.
    pub(crate) removed: u64,
    /// Packages with other bytes under the same name: the first one's path, how many.
    pub(crate) replaced: Option<(Box<[u8]>, u64)>,
}

/// Compares `next` (sorted) with the last tree, whose rows `old` hands over in order.
///
/// `stays` says for each region, and for none, whether its old rows stay; `next` has no rows of such regions.
pub(crate) fn difference<E>(
    next: Rows,
    regions: &Regions,
    stays: impl Fn(Option<usize>) -> bool,
    old: impl FnOnce(&mut dyn FnMut(&[u8], Row)) -> Result<(), E>,
) -> Result<Difference, E> {
    let mut out = Difference::default();
    let mut rest = next.into_iter().peekable();
    let mut gone: Vec<(Box<[u8]>, bool)> = Vec::new();
    old(&mut |path, row| {
        while let Some((path, row)) = rest.next_if(|(next, _)| **next < *path) {
            out.add(path, row);
        }
        if let Some((path, new)) = rest.next_if(|(next, _)| **next == *path) {
            if new == row {
                out.count(&new);
            } else {
                if new.is_file() && row.is_file() && is_package(&path) {
                    out.replaced.get_or_insert_with(|| (path.clone(), 0)).1 += 1;
                }
                out.add(path, new);
            }
        } else if stays(regions.of(path)) {
            out.count(&row);
        } else {
            gone.push((path.into(), row.is_file()));
        }
    })?;
    for (path, row) in rest {
        out.add(path, row);
    }
    out.added = out.rows.len();
    for (path, is_file) in gone {
        out.removed += u64::from(is_file);
        out.rows.push((path, None));
    }
    Ok(out)
}

/// Not its signature: that may be made anew.
fn is_package(path: &[u8]) -> bool {
    !path.ends_with(b".sig")
        && std::str::from_utf8(names::split(path).1).is_ok_and(pacstore_pacman::is_package_file)
}

impl Difference {
    fn count(&mut self, row: &Row) {
        self.files += u64::from(row.is_file());
        self.bytes += row.len();
    }

    fn add(&mut self, path: Box<[u8]>, row: Row) {
        self.count(&row);
        self.new += u64::from(row.is_file());
        self.rows.push((path, Some(row)));
    }

    /// The same for `dag::edit_tree`.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Vec<u8>, Change)> + '_ {
        self.rows.iter().filter_map(|(path, row)| {
            let bare = path.strip_suffix(b"/").unwrap_or(path);
            match row {
                Some(row) => Some((bare.to_vec(), row.change())),
                // What is set anew under the same name need not be removed first.
                None => (!self.sets(bare)).then(|| (bare.to_vec(), Change::Remove)),
            }
        })
    }

    /// Whether `path` becomes a file or an empty folder.
    fn sets(&self, path: &[u8]) -> bool {
        let added = self.rows.get(..self.added).unwrap_or_default();
        let has = |key: &[u8]| added.binary_search_by(|(p, _)| (**p).cmp(key)).is_ok();
        has(path) || has(&[path, b"/"].concat())
    }
}

/// Brings rows into order and drops what cannot stand beside another: gives the paths that were dropped.
///
/// Each row says whether the layout moved it; such a one wins. Empty folders that are none go without a word.
pub(crate) fn arrange(mut rows: Vec<(Box<[u8]>, Row, bool)>) -> (Rows, Vec<Box<[u8]>>) {
    rows.sort_by(|a, b| a.0.cmp(&b.0).then(b.2.cmp(&a.2)));
    let mut dropped = Vec::new();
    rows.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same && later.1.is_file() {
            dropped.push(later.0.clone());
        }
        same
    });
    // A file that lies where a folder lies: the folder has more to lose.
    let mut clash = Vec::new();
    for (path, row, _) in &rows {
        if row.is_file() {
            let mut above = names::split(path).0;
            while !above.is_empty() {
                if rows.binary_search_by(|(p, _, _)| (**p).cmp(above)).is_ok() {
                    clash.push(above.to_vec());
                }
                above = names::split(above).0;
            }
        }
    }
    clash.sort_unstable();
    clash.dedup();
    rows.retain(|(path, ..)| {
        let stays = clash.binary_search_by(|c| (**c).cmp(path)).is_err();
        if !stays {
            dropped.push(path.clone());
        }
        stays
    });
    // `a/` sorts right before what lies in it.
    let pairs = rows.array_windows();
    let filled = pairs.map(|[(path, row, _), (next, ..)]| *row == Row::EmptyFolder && next.starts_with(path));
    let mut filled = filled.collect::<Vec<bool>>().into_iter();
    rows.retain(|_| !filled.next().unwrap_or_default());
    // In place: there may be 100,000.
    let kept = rows.into_iter().map(|(path, row, _)| (path, row)).collect();
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pacstore_dag::{Profile, edit_tree};

    use super::*;

    fn row(n: u8) -> Row {
        let root = pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &[n]);
        Row::File(FileFacts::new(&root, 1, 1, Some([n; 32])))
    }

    fn rows(list: &[(&str, u8)]) -> Vec<(Box<[u8]>, Row)> {
        let rows = list.iter().map(|(path, n)| {
            let row = if path.ends_with('/') {
                Row::EmptyFolder
            } else {
                row(*n)
            };
            (path.as_bytes().into(), row, false)
        });
        arrange(rows.collect()).0
    }

    fn apply(
        base: Option<&cid::Cid>,
        next: &[(Box<[u8]>, Row)],
        old: &[(Box<[u8]>, Row)],
        blocks: &mut BTreeMap<cid::Cid, bytes::Bytes>,
    ) -> cid::Cid {
        let feed = |each: &mut dyn FnMut(&[u8], Row)| -> Result<(), ()> {
            for (path, row) in old {
                each(path, row.clone());
            }
            Ok(())
        };
        let difference = difference(next.to_vec(), &Regions::default(), |_| false, feed).unwrap();
        let mut sink = Vec::new();
        let edit = edit_tree(
            &Profile::UNIXFS_V1_2025,
            base,
            difference.changes(),
            blocks,
            &mut sink,
        )
        .unwrap();
        blocks.extend(sink.into_iter().map(|block| (block.cid, block.data)));
        edit.root.cid
    }

    #[test]
    fn editing_gives_the_same_root_as_building_anew() {
        let states: [&[(&str, u8)]; 9] = [
            &[("a", 1), ("d/x", 2), ("d/y", 3), ("e/", 0)],
            &[("a", 1), ("d/x", 4), ("d/y", 3), ("e/f", 5)],
            &[("a/b", 1), ("d", 4), ("e/", 0)],
            &[("a/", 0), ("d/x/y", 4), ("e", 1)],
            &[("a", 9), ("d/x/", 0), ("e/g/h/", 0)],
            &[("a/b/c", 9), ("d/", 0)],
            &[],
            &[("q w", 1), ("n\nl", 2)],
            &[("a", 1), ("d/x", 2), ("d/y", 3), ("e/", 0)],
        ];
        for first in states {
            for second in states {
                let (old, next) = (rows(first), rows(second));
                let mut blocks = BTreeMap::new();
                let base = apply(None, &old, &[], &mut blocks);
                let edited = apply(Some(&base), &next, &old, &mut blocks);
                let built = apply(None, &next, &[], &mut BTreeMap::new());
                assert_eq!(edited, built, "{first:?} -> {second:?}");
            }
        }
    }

    #[test]
    fn a_region_that_stays_keeps_its_rows() {
        let regions = Regions::new([&b"core"[..], b"extra"].into_iter());
        let old = rows(&[("core/a", 1), ("extra/a", 2), ("stamp", 3)]);
        let next = rows(&[("core/b", 4), ("stamp", 3)]);
        let feed = |each: &mut dyn FnMut(&[u8], Row)| -> Result<(), ()> {
            for (path, row) in &old {
                each(path, row.clone());
            }
            Ok(())
        };
        let out = difference(next, &regions, |region| region == Some(1), feed).unwrap();
        assert_eq!(out.changes().count(), 2);
        assert_eq!((out.files, out.new, out.removed), (3, 1, 1));
    }

    #[test]
    fn the_deepest_repository_folder_owns_a_path() {
        let regions = Regions::new([&b""[..], b"x/y"].into_iter());
        assert_eq!(regions.of(b"x/y/z"), Some(1));
        assert_eq!(regions.of(b"x/y/"), Some(1));
        assert_eq!(regions.of(b"x/z"), Some(0));
        assert_eq!(Regions::new([&b"x"[..]].into_iter()).of(b"y"), None);
    }

    #[test]
    fn a_folder_is_empty_only_if_nothing_lies_in_it() {
        let paths = |list| {
            rows(list)
                .into_iter()
                .map(|(p, _)| String::from_utf8(p.to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(&[("a/", 0), ("a/b/", 0), ("a/b/c", 1), ("d/", 0), ("d-e", 1)]),
            ["a/b/c", "d-e", "d/"]
        );
    }

    #[test]
    fn a_file_where_a_folder_lies_is_dropped_and_named() {
        let all = [("a", 1), ("a/b", 2)].map(|(p, n)| (p.as_bytes().into(), row(n), false));
        let (kept, dropped) = arrange(all.to_vec());
        assert_eq!((kept.len(), dropped), (1, vec![Box::from(&b"a"[..])]));
    }
}
