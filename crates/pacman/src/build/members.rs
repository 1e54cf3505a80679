//! The members of a package's tar: which there are, and writing them.
//!
//! - Invariant: sorted by path, so a folder comes before what is in it, after the metadata.
//! - Invariant: owner root and one time for all, so the bytes are reproducible.
//! - Not here: what the metadata says (`super::package`).

use super::compress::Compression;
use super::content::{Content, FileSpec, Kind};
use super::hashing::digests;
use super::mtree::Mtree;
use super::package::BuildError;
use crate::name::check_file_name;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// What is at a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Member<'a> {
    /// What was asked for.
    Given(&'a FileSpec),
    /// A folder above something that was asked for.
    Above,
}

impl<'a> Member<'a> {
    fn mode(self) -> u32 {
        match self {
            Self::Given(file) => file.mode,
            Self::Above => 0o755,
        }
    }

    fn kind(self) -> &'a Kind {
        match self {
            Self::Given(file) => &file.kind,
            Self::Above => &Kind::Folder,
        }
    }

    fn is_folder(self) -> bool {
        matches!(self.kind(), Kind::Folder)
    }
}

/// All members of a package but its metadata.
#[derive(Debug)]
pub(super) struct Members<'a>(BTreeMap<&'a str, Member<'a>>);

impl<'a> Members<'a> {
    /// Lays out the files and the folders above them.
    pub(super) fn new(files: &'a [FileSpec]) -> Result<Self, BuildError> {
        let mut all: BTreeMap<&str, Member<'_>> = BTreeMap::new();
        for file in files {
            check_path(&file.path)?;
            match all.insert(&file.path, Member::Given(file)) {
                Some(other) if !other.is_folder() || file.kind != Kind::Folder => {
                    return Err(BuildError::Twice(file.path.clone()));
                }
                _ => {}
            }
        }
        for file in files {
            for (at, _) in file.path.match_indices('/') {
                let above = &file.path[..at];
                if !all.entry(above).or_insert(Member::Above).is_folder() {
                    return Err(BuildError::Twice(above.to_owned()));
                }
            }
        }
        Ok(Self(all))
    }

    /// Bytes of all files together.
    pub(super) fn size(&self) -> u64 {
        let len = |member: &Member<'_>| match member.kind() {
            Kind::File(content) => content.len(),
            Kind::Folder | Kind::Link(_) => 0,
        };
        self.0.values().map(len).sum()
    }

    /// The paths, folders with a `/` behind.
    pub(super) fn paths(&self) -> Vec<String> {
        let slash = |member: &Member<'_>| if member.is_folder() { "/" } else { "" };
        self.0
            .iter()
            .map(|(path, member)| format!("{path}{}", slash(member)))
            .collect()
    }

    /// Writes metadata and files into a tar. Contents are read twice: for `.MTREE`, and for the tar.
    pub(super) fn write<W: Write>(
        &self,
        tar: &mut tar::Builder<W>,
        time: u64,
        buildinfo: &Content,
        pkginfo: &Content,
    ) -> io::Result<()> {
        let mtree = self.mtree(time, &[(".BUILDINFO", buildinfo), (".PKGINFO", pkginfo)])?;
        for (path, content) in [
            (".BUILDINFO", buildinfo),
            (".MTREE", &mtree),
            (".PKGINFO", pkginfo),
        ] {
            put_file(tar, path, 0o644, time, content)?;
        }
        for (path, member) in &self.0 {
            match member.kind() {
                Kind::File(content) => put_file(tar, path, member.mode(), time, content)?,
                Kind::Folder => put_folder(tar, path, member.mode(), time)?,
                Kind::Link(target) => {
                    let mut header = plain_header(tar::EntryType::Symlink, 0o777, 0, time);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(())
    }

    fn mtree(&self, time: u64, metadata: &[(&str, &Content)]) -> io::Result<Content> {
        let mut mtree = Mtree::new(time);
        for (path, content) in metadata {
            mtree.file(path, 0o644, content.len(), &digests(content)?);
        }
        for (path, member) in &self.0 {
            match member.kind() {
                Kind::File(content) => mtree.file(path, member.mode(), content.len(), &digests(content)?),
                Kind::Folder => mtree.folder(path, member.mode()),
                Kind::Link(target) => mtree.link(path, target),
            }
        }
        let mut packed = Compression::Gzip.pack(Vec::new())?;
        packed.write_all(mtree.into_text().as_bytes())?;
        Ok(Content::Bytes(packed.finish()?))
    }
}

fn check_path(path: &str) -> Result<(), BuildError> {
    // A leading dot is fine inside a package, but not at its top, where the metadata stands.
    let top = path.split('/').next().unwrap_or_default();
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']);
    if check_file_name(top).is_ok() && path.split('/').all(plain) {
        Ok(())
    } else {
        Err(BuildError::Path(path.to_owned()))
    }
}

/// Puts a file into a tar.
pub(super) fn put_file<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    time: u64,
    content: &Content,
) -> io::Result<()> {
    let mut header = plain_header(tar::EntryType::Regular, mode, content.len(), time);
    tar.append_data(&mut header, path, content.reader())
}

/// Puts a folder into a tar.
pub(super) fn put_folder<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    time: u64,
) -> io::Result<()> {
    let mut header = plain_header(tar::EntryType::Directory, mode, 0, time);
    tar.append_data(&mut header, format!("{path}/"), io::empty())
}

/// A tar header of owner root.
fn plain_header(kind: tar::EntryType, mode: u32, size: u64, time: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_username("root").expect("`root` fits into 32 bytes");
    header.set_groupname("root").expect("`root` fits into 32 bytes");
    header
}
