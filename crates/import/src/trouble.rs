//! What keeps a repository from moving: one sentence for each file.
//!
//! - Invariant: each names a file by its path in the upstream.
//! - Not here: finding it (`crate::check`, crate `pacman`).

use std::fmt;

use pacstore_pacman::Problem;

use crate::view::NoFile;

/// One thing that keeps a repository from being taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A file is missing, or another than the database says.
    File {
        /// The repository's folder in the upstream; empty for the root.
        folder: String,
        /// Which file of it, and what is wrong.
        problem: Problem,
    },
    /// A name has no bytes.
    NoFile {
        /// Its path in the upstream.
        path: String,
        /// Why.
        why: NoFile,
    },
    /// A file changed again and again while it was read.
    Moving {
        /// Its path in the upstream.
        path: String,
    },
    /// A database cannot be read.
    Database {
        /// Its path in the upstream.
        path: String,
        /// The reader's words.
        why: String,
    },
    /// The repository has lost its database, but not its packages.
    NoDatabase {
        /// Its path in the upstream.
        path: String,
    },
    /// Its signature does not verify.
    Signature {
        /// Its path in the upstream.
        path: String,
        /// What is wrong with the signature.
        why: String,
    },
    /// Its file lies where another file of the tree lies already.
    Clash {
        /// The path in the tree.
        path: String,
    },
}

impl Trouble {
    /// The file in question: its path in the upstream.
    pub fn path(&self) -> String {
        match self {
            Self::File { folder, problem } if folder.is_empty() => problem.file.clone(),
            Self::File { folder, problem } => format!("{folder}/{}", problem.file),
            Self::NoFile { path, .. }
            | Self::Moving { path }
            | Self::Database { path, .. }
            | Self::NoDatabase { path }
            | Self::Signature { path, .. }
            | Self::Clash { path } => path.clone(),
        }
    }
}

impl Trouble {
    /// Whether it is that a database cannot be read.
    pub(crate) fn is_of_a_database(&self) -> bool {
        matches!(self, Self::Database { .. })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { folder, problem } if folder.is_empty() => write!(f, "{problem}"),
            Self::File { folder, problem } => write!(f, "{folder}/{problem}"),
            Self::NoFile { path, why } => write!(f, "{path} is {why}"),
            Self::Moving { path } => write!(f, "{path} changed while it was read"),
            Self::Database { path, why } => write!(f, "{path} is no database: {why}"),
            Self::NoDatabase { path } => write!(f, "{path} is missing, though packages are there"),
            Self::Signature { path, why } => write!(f, "{path} does not verify: {why}"),
            Self::Clash { path } => write!(f, "{path} is both a file and a folder"),
        }
    }
}
