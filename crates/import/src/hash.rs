//! Reads a file once and gives both its DAG and the SHA-256 of the whole.
//!
//! - Invariant: no byte is read twice, none is hashed more often than it must be: where the file is one raw SHA-256
//!   leaf, the leaf's digest is the file's.
//! - Not here: which files, on how many cores (`crate::intake`).
//! - Read first: design.md, "Profile".

use std::io::{self, Read, Write};

use pacstore_dag::{FileBuilder, FileDag, Profile};
use ring::digest::{Context, SHA256};

use crate::facts::FileFacts;
use crate::spec::to_array;

/// Bytes of one read. The buffer is reused for all files of a thread.
pub(crate) const BUFFER: usize = 1 << 20;
/// What two hashes take in turn.
const PART: usize = 64 << 10;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) dag: FileDag,
    /// Of the whole file; where nobody asked for it, only if it costs nothing.
    pub(crate) sha256: Option<[u8; 32]>,
}

/// Which digests are needed of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digests {
    /// Only those of its leaves: no database names it.
    Leaves,
    /// That of the whole too.
    Whole,
}

impl Hashed {
    pub(crate) fn facts(&self) -> FileFacts {
        FileFacts::new(&self.dag.root, self.dag.tsize, self.dag.len, self.sha256)
    }
}

/// Reads `from` to its end, which should come after `len` bytes, and copies it to `to` if there is one.
///
/// `go_on` is told the bytes of each read, and ends it by `false` (an error of kind `Interrupted` then).
///
/// # Errors
/// Those of reading and writing. A file that grew or shrank meanwhile is no error; the DAG's length tells.
pub(crate) fn hash(
    (profile, digests): (&Profile, Digests),
    from: &mut dyn Read,
    len: u64,
    mut to: Option<&mut dyn Write>,
    buffer: &mut Vec<u8>,
    mut go_on: impl FnMut(u64) -> bool,
) -> io::Result<Hashed> {
    buffer.resize(BUFFER, 0);
    let mut file = FileBuilder::new(profile);
    // A short file is hashed as one leaf first; only if that is not what it became, its bytes are still here.
    let wanted = digests == Digests::Whole;
    let mut whole = (wanted && BUFFER as u64 <= len).then(|| Context::new(&SHA256));
    let last = loop {
        let filled = fill(from, buffer)?;
        let piece = buffer.get(..filled).unwrap_or_default();
        if let Some(to) = &mut to {
            to.write_all(piece)?;
        }
        if wanted && whole.is_none() && filled == BUFFER {
            whole = Some(Context::new(&SHA256));
        }
        // Both hashes take the same bytes while they are in the core's cache.
        for part in piece.chunks(PART) {
            file.push(part);
            if let Some(whole) = &mut whole {
                whole.update(part);
            }
        }
        if !go_on(filled as u64) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if filled < BUFFER {
            break filled;
        }
    };
    let dag = file.finish();
    let sha256 = match (whole, leaf_digest(&dag)) {
        (_, Some(digest)) => Some(digest),
        (Some(whole), None) => Some(to_array(whole.finish().as_ref())),
        (None, None) if !wanted => None,
        (None, None) => {
            let piece = buffer.get(..last).unwrap_or_default();
            Some(to_array(ring::digest::digest(&SHA256, piece).as_ref()))
        }
    };
    Ok(Hashed { dag, sha256 })
}

/// The digest of a file that is one raw SHA-256 leaf.
fn leaf_digest(dag: &FileDag) -> Option<[u8; 32]> {
    let hash = dag.root.hash();
    let raw = dag.root.codec() == pacstore_dag::RAW && hash.code() == pacstore_dag::HashKind::Sha2_256.code();
    raw.then(|| hash.digest().try_into().ok()).flatten()
}

/// Reads until the buffer is full or the file ends.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(profile: &Profile, bytes: &[u8], len: u64) -> Hashed {
        let mut copy = Vec::new();
        let hashed = hash(
            (profile, Digests::Whole),
            &mut &*bytes,
            len,
            Some(&mut copy),
            &mut Vec::new(),
            |_| true,
        )
        .unwrap();
        assert_eq!(copy, bytes);
        hashed
    }

    #[test]
    fn the_digest_is_that_of_the_whole_file_whatever_its_size_and_profile() {
        let bytes: Vec<u8> = (0..(3 * BUFFER + 5)).map(|i| (i * 7 % 251) as u8).collect();
        for profile in [
            Profile::UNIXFS_V1_2025,
            Profile::KUBO_CIDV1,
            Profile::PACMAN_STORE_2023,
        ] {
            for len in [0, 1, 1000, BUFFER - 1, BUFFER, BUFFER + 1, bytes.len()] {
                let bytes = &bytes[..len];
                let mut file = FileBuilder::new(&profile);
                file.push(bytes);
                let dag = file.finish();
                for promised in [0, len as u64, u64::MAX] {
                    let hashed = whole(&profile, bytes, promised);
                    assert_eq!(hashed.dag, dag, "{len}");
                    let digest = ring::digest::digest(&SHA256, bytes);
                    assert_eq!(hashed.sha256.unwrap(), digest.as_ref(), "{len} {promised}");
                }
            }
        }
    }

    #[test]
    fn reading_ends_when_it_is_told_to() {
        let error = hash(
            (&Profile::UNIXFS_V1_2025, Digests::Whole),
            &mut &b"x"[..],
            1,
            None,
            &mut Vec::new(),
            |_| false,
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_file_that_no_database_names_is_hashed_by_its_leaves_only() {
        for (len, known) in [
            (0, true),
            (1 << 20, true),
            ((1 << 20) + 1, false),
            (3 << 20, false),
        ] {
            let bytes = vec![7; len];
            let asked = (&Profile::UNIXFS_V1_2025, Digests::Leaves);
            let hashed = hash(asked, &mut &*bytes, len as u64, None, &mut Vec::new(), |_| true).unwrap();
            assert_eq!(hashed.sha256.is_some(), known, "{len}");
            let both = whole(&Profile::UNIXFS_V1_2025, &bytes, len as u64);
            assert_eq!(hashed.dag.root, both.dag.root, "{len}");
        }
    }
}
