//! The importer's own small memory: what each upstream file hashed to, and what the last tree holds.
//!
//! Nothing in it is a truth of its own: all of it can be had again by reading the source. It is written in the same
//! order as the store (files, then the tree, then this), each time in one transaction; so after a crash it is at
//! worst older than the store, and then a few files are hashed again.
//!
//! - Invariant: rows of `tree` are exactly the entries of the tree that `state` names.
//! - Invariant: a row of `facts` is only written once the file is in the store.
//! - Not here: files, nodes, retained trees (crate `store`).

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tracing::warn;

use crate::doubt::{Known, Pair};
use crate::facts::FileFacts;
use crate::hold::Holds;
use crate::state::State;
use crate::tree::Row;
use crate::view::Stamp;

/// Upstream path -> stamp, facts.
const FACTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("facts");
/// Tree path (a folder ends in `/`) -> facts, nothing for an empty folder.
const TREE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tree");
/// SHA-256 of a file and of its signature -> whether they belong together.
const SIGNED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("signed");
/// The rest, as JSON.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The form of the tables; any other is thrown away, since it can be had again.
const FORMAT: &[u8] = b"pacstore import 1";

/// Why the importer's memory failed.
#[derive(Debug, thiserror::Error)]
#[error("the importer's manifest `{}` failed", .path.display())]
pub struct ManifestError {
    /// Where it is.
    pub path: PathBuf,
    /// What failed.
    #[source]
    pub source: Box<redb::Error>,
}

/// The manifest of one mirror.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    db: Database,
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// Facts that are new.
    pub(crate) facts: Vec<(Box<[u8]>, Stamp, FileFacts)>,
    /// Upstream paths that nobody asks for any more.
    pub(crate) forget: Vec<Box<[u8]>>,
    /// Rows of the tree: `None` removes.
    pub(crate) rows: Vec<(Box<[u8]>, Option<Row>)>,
    /// The new state, if a round ended.
    pub(crate) state: Option<State>,
}

impl Manifest {
    /// Opens it, or begins anew where there is none, or none that can be read.
    pub(crate) fn open(path: &Path) -> Result<Self, ManifestError> {
        let fail = |source: redb::Error| ManifestError {
            path: path.to_owned(),
            source: Box::new(source),
        };
        match Self::attempt(path) {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => {
                warn!(path = %path.display(), "the import manifest is of another format; starting anew");
            }
            Err(redb::Error::Corrupted(why)) => {
                warn!(path = %path.display(), why, "the import manifest is damaged; starting anew");
            }
            Err(redb::Error::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
                warn!(path = %path.display(), "the import manifest is no database; starting anew");
            }
            Err(redb::Error::UpgradeRequired(_)) => {
                warn!(path = %path.display(), "the import manifest is of an old database; starting anew");
            }
            Err(e) => return Err(fail(e)),
        }
        fs_err::remove_file(path).map_err(|e| fail(redb::Error::Io(e)))?;
        match Self::attempt(path) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => Err(fail(redb::Error::Corrupted("a new manifest is not empty".into()))),
            Err(e) => Err(fail(e)),
        }
    }

    fn attempt(path: &Path) -> Result<Option<Self>, redb::Error> {
        let db = redb::Builder::new().set_cache_size(16 << 20).create(path)?;
        let write = db.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let known = meta.get("format")?.map(|v| v.value() == FORMAT);
            match known {
                Some(true) => {}
                Some(false) => return Ok(None),
                None => drop(meta.insert("format", FORMAT)?),
            }
            write.open_table(FACTS)?;
            write.open_table(TREE)?;
            write.open_table(SIGNED)?;
        }
        write.commit()?;
        Ok(Some(Self {
            path: path.to_owned(),
            db,
        }))
    }

    fn fail(&self) -> impl Fn(redb::Error) -> ManifestError + '_ {
        |source| ManifestError {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }

    /// What the last round left; nothing if it was none, or one of another kind.
    pub(crate) fn state(&self) -> Result<Option<State>, ManifestError> {
        let read = || -> Result<_, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            Ok(meta.get("state")?.and_then(|v| State::decode(v.value())))
        };
        read().map_err(self.fail())
    }

    /// For each of `wanted`, a list of paths in order and their stamps, the facts if they still hold.
    pub(crate) fn facts<'a>(
        &self,
        wanted: impl ExactSizeIterator<Item = (&'a [u8], &'a Stamp)>,
        mut each: impl FnMut(Option<FileFacts>),
    ) -> Result<(), ManifestError> {
        let holds = |row: &[u8], stamp: &Stamp| {
            let (known, rest) = Stamp::decode(row)?;
            (known == *stamp).then(|| FileFacts::decode(rest)).flatten()
        };
        let read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(FACTS)?;
            // Many are found faster by walking over all.
            if (wanted.len() as u64) < table.len()? / 8 {
                for (path, stamp) in wanted {
                    each(table.get(path)?.and_then(|row| holds(row.value(), stamp)));
                }
                return Ok(());
            }
            let mut rows = table.iter()?;
            let mut row = rows.next().transpose()?;
            for (path, stamp) in wanted {
                while row.as_ref().is_some_and(|(known, _)| known.value() < path) {
                    row = rows.next().transpose()?;
                }
                let same = row.as_ref().filter(|(known, _)| known.value() == path);
                each(same.and_then(|(_, row)| holds(row.value(), stamp)));
            }
            Ok(())
        };
        read().map_err(self.fail())
    }

    /// What is remembered of one path, whatever its stamp.
    pub(crate) fn remembered(&self, path: &[u8]) -> Result<Option<(Stamp, FileFacts)>, ManifestError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(FACTS)?;
            let row = table.get(path)?;
            Ok(row.and_then(|row| {
                let (stamp, rest) = Stamp::decode(row.value())?;
                Some((stamp, FileFacts::decode(rest)?))
            }))
        };
        read().map_err(self.fail())
    }

    /// All paths with facts that `gone` says are not there any more.
    pub(crate) fn stale(&self, mut gone: impl FnMut(&[u8]) -> bool) -> Result<Vec<Box<[u8]>>, ManifestError> {
        let mut read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(FACTS)?;
            let mut stale = Vec::new();
            for row in table.iter()? {
                let (path, _) = row?;
                if gone(path.value()) {
                    stale.push(path.value().into());
                }
            }
            Ok(stale)
        };
        read().map_err(self.fail())
    }

    /// Walks the last tree in order.
    pub(crate) fn rows(&self, mut each: impl FnMut(&[u8], Row)) -> Result<(), ManifestError> {
        let mut read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(TREE)?;
            for row in table.iter()? {
                let (path, row) = row?;
                let row = Row::decode(row.value())
                    .ok_or_else(|| redb::Error::Corrupted("a row of the tree".into()))?;
                each(path.value(), row);
            }
            Ok(())
        };
        read().map_err(self.fail())
    }

    /// Writes all of it, or, if this fails, nothing.
    pub(crate) fn commit(&self, update: &Update) -> Result<(), ManifestError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            {
                let mut facts = write.open_table(FACTS)?;
                let mut buffer = Vec::new();
                for (path, stamp, known) in &update.facts {
                    buffer.clear();
                    stamp.encode(&mut buffer);
                    known.encode(&mut buffer);
                    facts.insert(&**path, &*buffer)?;
                }
                for path in &update.forget {
                    facts.remove(&**path)?;
                }
                let mut tree = write.open_table(TREE)?;
                for (path, row) in &update.rows {
                    if let Some(row) = row {
                        buffer.clear();
                        row.encode(&mut buffer);
                        tree.insert(&**path, &*buffer)?;
                    } else {
                        tree.remove(&**path)?;
                    }
                }
                if let Some(state) = &update.state {
                    write.open_table(META)?.insert("state", &*state.encode())?;
                }
            }
            write.commit()?;
            Ok(())
        };
        write().map_err(self.fail())
    }

    /// Forgets the last tree, and with it every fact if they are of another profile.
    pub(crate) fn forget_tree(&self, profile: &str) -> Result<(), ManifestError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            {
                let mut meta = write.open_table(META)?;
                let same = meta
                    .get("profile")?
                    .is_some_and(|v| v.value() == profile.as_bytes());
                meta.remove("state")?;
                meta.insert("profile", profile.as_bytes())?;
                if !same {
                    write.delete_table(FACTS)?;
                    write.open_table(FACTS)?;
                }
            }
            write.delete_table(TREE)?;
            write.open_table(TREE)?;
            write.commit()?;
            Ok(())
        };
        write().map_err(self.fail())
    }

    /// What is known of each of these files under their signatures.
    pub(crate) fn signatures<'a>(
        &self,
        pairs: impl Iterator<Item = &'a Pair>,
    ) -> Result<Vec<Option<Known>>, ManifestError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.db.begin_read()?.open_table(SIGNED)?;
            let mut known = Vec::new();
            for pair in pairs {
                known.push(table.get(&pair[..])?.and_then(|row| Known::decode(row.value())));
            }
            Ok(known)
        };
        read().map_err(self.fail())
    }

    /// Which repositories are held, and for how long.
    pub(crate) fn holds(&self) -> Result<Holds, ManifestError> {
        let read = || -> Result<_, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            let holds = meta.get("holds")?;
            Ok(holds
                .and_then(|v| serde_json::from_slice(v.value()).ok())
                .unwrap_or_default())
        };
        read().map_err(self.fail())
    }

    /// What was seen of the sources, as `crate::upstreams` wrote it.
    pub(crate) fn upstreams(&self) -> Result<Option<Vec<u8>>, ManifestError> {
        let read = || -> Result<_, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            Ok(meta.get("upstreams")?.map(|v| v.value().to_vec()))
        };
        read().map_err(self.fail())
    }

    /// Keeps what was seen of the sources.
    pub(crate) fn note_upstreams(&self, bytes: &[u8]) -> Result<(), ManifestError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            write.open_table(META)?.insert("upstreams", bytes)?;
            write.commit()?;
            Ok(())
        };
        write().map_err(self.fail())
    }

    /// Remembers all of it, or nothing. Of a source of `files` files, four times as many are remembered before
    /// the table begins anew; what a person or time accepted stays.
    pub(crate) fn note_signatures(
        &self,
        notes: &[(Pair, Known)],
        accepted: &[(Pair, Known)],
        holds: Option<&Holds>,
        files: u64,
    ) -> Result<(), ManifestError> {
        if notes.is_empty() && accepted.is_empty() && holds.is_none() {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            {
                let mut table = write.open_table(SIGNED)?;
                if 4 * files + 4096 < table.len()? {
                    let stays = |row: &[u8]| matches!(Known::decode(row), Some(Known::Accepted(_)));
                    table.retain(|_, row| stays(row))?;
                }
                for (pair, known) in notes.iter().chain(accepted) {
                    table.insert(&pair[..], &*known.encode())?;
                }
                if let Some(holds) = holds {
                    let text = serde_json::to_vec(holds).unwrap_or_default();
                    write.open_table(META)?.insert("holds", &*text)?;
                }
            }
            write.commit()?;
            Ok(())
        };
        write().map_err(self.fail())
    }

    /// Forgets what files hash to: some of them are not in the store any more.
    pub(crate) fn forget_facts(&self) -> Result<(), ManifestError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            write.delete_table(FACTS)?;
            write.open_table(FACTS)?;
            write.commit()?;
            Ok(())
        };
        write().map_err(self.fail())
    }
}
