//! The tree that the nodes exchange, and what a tree holds, to compare two.
//!
//! - Invariant: same bytes on every machine.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use fs_err as fs;
use pacstore_dag::{HashKind, Hasher};
use pacstore_testkit::{Repo, RepoSpec, TestResult, random};

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Folder,
    File { len: u64, sha256: [u8; 32] },
}

/// A tree: paths from its root (which is the empty path) and what is there.
pub(crate) type Listing = BTreeMap<Vec<u8>, Item>;

/// Files in the folder that is large enough to be a HAMT under every profile: with names of
/// [`LONG`] bytes its links are more than 256 KiB.
const MANY: usize = 1100;

/// Bytes of their names.
const LONG: usize = 220;

/// Names that are awkward in a shell, a URL, a page or a terminal, but are names.
const ODD: [&str; 14] = [
    "a b",
    " leading and trailing ",
    "plus+and%20percent",
    "hash#question?ampersand&",
    "quote\"and'apostrophe`",
    "back\\slash",
    "new\nline",
    "-dash",
    "<b>angle<b>.html",
    "Grüße, 世界, 🎉",
    "e\u{301} decomposed",
    "colon:semi;comma,equals=",
    "star*[brackets]{braces}",
    "00",
];

/// Writes a tree of everything at `root`: a signed repository, files of many leaves and around
/// the chunk sizes, a folder that is a HAMT, an empty folder and file, odd names.
pub(crate) fn write_all(root: &Path) -> TestResult {
    write_some(root)?;
    let many = root.join("many");
    fs::create_dir(&many)?;
    for index in 0..MANY {
        let name = format!("{index:0LONG$}");
        fs::write(many.join(name), format!("file {index}\n"))?;
    }
    Ok(())
}

/// As [`write_all`], without the HAMT.
pub(crate) fn write_some(root: &Path) -> TestResult {
    let spec = RepoSpec::new("core")
        .package("zlib", 100_000)
        .package("linux", 6_500_000);
    Repo::create(root.join("core"), spec)?;
    let edges = root.join("edges");
    fs::create_dir_all(&edges)?;
    for len in [0, 1, 131_072, 262_144, 262_145, 1_048_576, 1_048_577, 3_000_000] {
        fs::write(edges.join(format!("{len}")), random(len as u64, len))?;
    }
    fs::create_dir(root.join("empty"))?;
    let odd = root.join("odd");
    fs::create_dir(&odd)?;
    for name in ODD {
        fs::write(odd.join(name), name)?;
    }
    fs::write(odd.join("x".repeat(255)), "a long name")?;
    fs::create_dir_all(root.join("deep/er/and/deeper"))?;
    Ok(fs::write(root.join("deep/er/and/deeper/file"), "deep")?)
}

/// What is on disk at and below `root`.
pub(crate) fn of_disk(root: &Path) -> std::io::Result<Listing> {
    let mut listing = Listing::new();
    let mut open = vec![Vec::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(std::ffi::OsStr::from_bytes(&folder)))? {
            let entry = entry?;
            let mut path = folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.file_name().into_vec());
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else {
                listing.insert(path, of_bytes(&fs::read(entry.path())?));
            }
        }
        listing.insert(folder, Item::Folder);
    }
    Ok(listing)
}

/// What a file of these bytes is in a listing.
pub(crate) fn of_bytes(bytes: &[u8]) -> Item {
    let mut hasher = Hasher::new(HashKind::Sha2_256);
    hasher.update(bytes);
    Item::File {
        len: bytes.len() as u64,
        sha256: hasher.finish(),
    }
}

/// Panics with the first few differences if two trees differ.
pub(crate) fn assert_same(got: &Listing, wanted: &Listing) {
    let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let missing = wanted
        .iter()
        .filter(|(path, item)| got.get(*path) != Some(*item))
        .map(|(path, item)| format!("{}: {item:?}, got {:?}", show(path), got.get(path)));
    let extra = got
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .map(|path| format!("{}: should not be there", show(path)));
    let wrong: Vec<String> = missing.chain(extra).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        wanted.len(),
        wrong[..wrong.len().min(8)].join("\n")
    );
}
