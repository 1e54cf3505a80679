//! `.MTREE`: what each file of a package is, so that `pacman -Qkk` can check what is installed.
//!
//! - Invariant: lists every member of the package but itself.
//! - Invariant: MD5 stands beside SHA-256, because pacman 6.0 compares the MD5 even where there is none.
//! - Read first: `alpm-mtree(5)`, version 2; `mtree(5)` for the escapes.

use crate::Sha256;
use data_encoding::HEXLOWER;
use std::fmt::Write as _;

/// The digests of one file.
#[derive(Debug)]
pub(super) struct Digests {
    pub(super) md5: [u8; 16],
    pub(super) sha256: Sha256,
}

/// The text under construction (before gzip).
#[derive(Debug)]
pub(super) struct Mtree {
    text: String,
    time: u64,
}

impl Mtree {
    pub(super) fn new(time: u64) -> Self {
        Self {
            text: "#mtree\n/set type=file uid=0 gid=0 mode=644\n".to_owned(),
            time,
        }
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, size: u64, digests: &Digests) {
        let mode = if mode == 0o644 {
            String::new()
        } else {
            format!(" mode={mode:o}")
        };
        let (md5, sha256) = (HEXLOWER.encode(&digests.md5), HEXLOWER.encode(&digests.sha256));
        self.line(
            path,
            &format!("{mode} size={size} md5digest={md5} sha256digest={sha256}"),
        );
    }

    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.line(path, &format!(" mode={mode:o} type=dir"));
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.line(path, &format!(" mode=777 type=link link={}", escaped(target)));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, path: &str, words: &str) {
        let _ = writeln!(self.text, "./{} time={}.0{words}", escaped(path), self.time);
    }
}

/// Octal for everything that would end a word or begin a comment.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'=') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out
}
