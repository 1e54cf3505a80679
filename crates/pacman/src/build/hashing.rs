//! Digests of what is written, while it is written.
//!
//! - Invariant: what was counted and hashed is what the writer below took.

use super::content::Content;
use super::mtree::Digests;
use crate::Sha256;
use md5::{Digest as _, Md5};
use std::io::{self, Write};

/// Counts and hashes what passes through.
pub(super) struct Hashing<W: Write> {
    out: W,
    len: u64,
    sha256: ring::digest::Context,
    md5: Option<Md5>,
}

/// What passed through.
pub(super) struct Hashed {
    pub(super) len: u64,
    pub(super) sha256: Sha256,
    pub(super) md5: Option<[u8; 16]>,
}

/// Whether MD5 is needed, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WithMd5 {
    Yes,
    No,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(out: W, md5: WithMd5) -> Self {
        let md5 = (md5 == WithMd5::Yes).then(Md5::new);
        Self {
            out,
            len: 0,
            sha256: ring::digest::Context::new(&ring::digest::SHA256),
            md5,
        }
    }

    pub(super) fn finish(self) -> Hashed {
        Hashed {
            len: self.len,
            sha256: self
                .sha256
                .finish()
                .as_ref()
                .try_into()
                .expect("SHA-256 has 32 bytes"),
            md5: self.md5.map(|md5| md5.finalize().into()),
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.len += written as u64;
        self.sha256.update(&bytes[..written]);
        if let Some(md5) = &mut self.md5 {
            md5.update(&bytes[..written]);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The digests of a content, which is read once for them.
pub(super) fn digests(content: &Content) -> io::Result<Digests> {
    let mut hashing = Hashing::new(io::sink(), WithMd5::Yes);
    io::copy(&mut content.reader(), &mut hashing)?;
    let hashed = hashing.finish();
    Ok(Digests {
        md5: hashed.md5.expect("asked for"),
        sha256: hashed.sha256,
    })
}
