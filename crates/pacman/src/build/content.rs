//! The files that a package installs, and incompressible bytes made from a seed.
//!
//! - Invariant: a file's content can be read any number of times and is the same each time; a package needs it
//!   twice (digest first, bytes later) without keeping it.
//! - Not here: how files are packed (`super::package`).

use std::io::{self, Cursor, Read};

/// One file, folder or link of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Where it is installed, without leading `/`.
    pub path: String,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a [`FileSpec`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File(Content),
    /// A folder. Folders above a file come by themselves (0755).
    Folder,
    /// A symbolic link to this target.
    Link(String),
}

/// The bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These.
    Bytes(Vec<u8>),
    /// [`Random`] ones, which no compressor makes smaller.
    Random {
        /// Which ones.
        seed: u64,
        /// How many.
        len: u64,
    },
}

impl FileSpec {
    /// A file, 0644.
    pub fn file(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            kind: Kind::File(Content::Bytes(bytes.into())),
        }
    }

    /// A program, 0755.
    pub fn program(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            mode: 0o755,
            ..Self::file(path, bytes)
        }
    }

    /// A file of `len` incompressible bytes, 0644.
    pub fn random(path: impl Into<String>, seed: u64, len: u64) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            kind: Kind::File(Content::Random { seed, len }),
        }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            mode: 0o777,
            kind: Kind::Link(target.into()),
        }
    }

    /// A folder, 0755.
    pub fn folder(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            mode: 0o755,
            kind: Kind::Folder,
        }
    }
}

impl Content {
    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Random { len, .. } => *len,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads it from its beginning.
    pub fn reader(&self) -> Box<dyn Read + '_> {
        match self {
            Self::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Self::Random { seed, len } => Box::new(Random::new(*seed).take(*len)),
        }
    }
}

/// An endless stream of bytes that look random and are the same for the same seed, for ever and everywhere.
///
/// It is splitmix64, little-endian: about 2 GB/s, and no cryptography.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            word: [0; 8],
            used: 8,
        }
    }

    /// The next eight bytes as a number.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Read for Random {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = out.len();
        let mut rest = out;
        while !rest.is_empty() {
            if self.used == 8 && rest.len() >= 8 {
                let (word, behind) = rest.split_at_mut(8);
                word.copy_from_slice(&self.next().to_le_bytes());
                rest = behind;
                continue;
            }
            if self.used == 8 {
                self.word = self.next().to_le_bytes();
                self.used = 0;
            }
            rest[0] = self.word[self.used];
            self.used += 1;
            rest = &mut rest[1..];
        }
        Ok(len)
    }
}
