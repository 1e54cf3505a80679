//! The members of a foreign tar, one after the other, under hard bounds.
//!
//! - Invariant: a member's name is held to [`MAX_PATH`] bytes, also where GNU or pax headers carry it; such
//!   headers are read by us because the tar crate would read any length of them into memory.
//! - Invariant: nothing is ever written to a file system; links, devices and sparse files count as "not a file".
//! - Not here: what the members mean (`crate::database`).

use crate::database::{DbError, Limits};
use crate::unpack::{Packing, TooMuch};
use std::io::{self, BufReader, Read};
use tar::EntryType;

/// The longest path of a member, in bytes (Linux's own limit).
const MAX_PATH: u64 = 4096;
/// The largest GNU or pax header that is read, in bytes.
const MAX_HEADER: u64 = 64 << 10;

/// What happens to a member after its path was seen.
pub(crate) enum Wanted {
    /// Its bytes are read and handed over.
    Bytes,
    /// It is passed over.
    Nothing,
}

/// One regular file of the archive.
pub(crate) struct Member<'a> {
    /// The folder, `NAME-VERSION` in a database.
    pub(crate) folder: &'a str,
    /// The file in it, such as `desc`.
    pub(crate) file: &'a str,
}

/// Walks over the regular files that stand exactly one folder deep.
///
/// `want` says of each whether its bytes are needed; `take` gets those. Members at other depths (up to the limit) are
/// passed over, and the archive is read to its end, so that a damaged tail is noticed.
pub(crate) fn walk(
    packed: &[u8],
    limits: &Limits,
    mut want: impl FnMut(&Member<'_>) -> Wanted,
    mut take: impl FnMut(&Member<'_>, &[u8]) -> Result<(), DbError>,
) -> Result<(), DbError> {
    let packing = Packing::of(packed).ok_or(DbError::Format)?;
    if packing == Packing::Tar
        && !(packed.len() >= 1024 && packed[packed.len() - 1024..].iter().all(|&b| b == 0))
    {
        // Nothing else would tell that a bare tar was cut between two members.
        return Err(DbError::Unpack(io::ErrorKind::UnexpectedEof.into()));
    }
    let reader = packing.reader(packed, limits.unpacked).map_err(unpack_error)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(64 << 10, reader));
    let mut long_path: Option<Vec<u8>> = None;
    let mut bytes = Vec::new();
    for (seen, entry) in archive.entries().map_err(unpack_error)?.raw(true).enumerate() {
        if seen >= limits.members {
            return Err(DbError::TooManyMembers {
                limit: limits.members,
            });
        }
        let mut entry = entry.map_err(unpack_error)?;
        let (kind, size) = (
            entry.header().entry_type(),
            entry.header().entry_size().map_err(unpack_error)?,
        );
        match kind {
            EntryType::GNULongName => {
                let mut path = read_header(&mut entry, size)?;
                path.truncate(path.iter().position(|&b| b == 0).unwrap_or(path.len()));
                long_path = Some(path);
                continue;
            }
            EntryType::XHeader => {
                if let Some(path) = pax_path(&read_header(&mut entry, size)?)? {
                    long_path = Some(path);
                }
                continue;
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let path = long_path
            .take()
            .unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let Some((folder, file)) = place(&path, limits)? else {
            continue;
        };
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            continue;
        }
        let member = Member { folder, file };
        if matches!(want(&member), Wanted::Nothing) {
            continue;
        }
        if size > limits.member {
            return Err(DbError::MemberTooLarge {
                member: shown(&path),
                size,
                limit: limits.member,
            });
        }
        bytes.clear();
        entry.read_to_end(&mut bytes).map_err(unpack_error)?;
        if bytes.len() as u64 != size {
            return Err(DbError::Unpack(io::ErrorKind::UnexpectedEof.into()));
        }
        take(&member, &bytes)?;
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unpack_error)?;
    Ok(())
}

/// Folder and file of a path that has exactly those two parts; an error if it is no path for a database at all.
fn place<'a>(path: &'a [u8], limits: &Limits) -> Result<Option<(&'a str, &'a str)>, DbError> {
    let refused = || DbError::Path { member: shown(path) };
    if path.len() as u64 > MAX_PATH || path.contains(&0) {
        return Err(refused());
    }
    let text = std::str::from_utf8(path).map_err(|_| refused())?;
    let mut parts = [""; 2];
    let mut depth = 0;
    for part in text.split('/').filter(|p| !matches!(*p, "" | ".")) {
        if part == ".." {
            return Err(refused());
        }
        if let Some(place) = parts.get_mut(depth) {
            *place = part;
        }
        depth += 1;
        if depth > limits.depth {
            return Err(DbError::TooDeep {
                member: shown(path),
                limit: limits.depth,
            });
        }
    }
    Ok((depth == 2).then_some((parts[0], parts[1])))
}

fn read_header(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, DbError> {
    if size > MAX_HEADER {
        return Err(DbError::Path {
            member: format!("a header of {size} bytes"),
        });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(unpack_error)?;
    Ok(bytes)
}

/// The path in a pax header. A size or a sparse map there would make two readers see two archives: refused.
fn pax_path(bytes: &[u8]) -> Result<Option<Vec<u8>>, DbError> {
    let mut path = None;
    for extension in tar::PaxExtensions::new(bytes) {
        let extension = extension.map_err(unpack_error)?;
        match extension.key_bytes() {
            b"path" => path = Some(extension.value_bytes().to_vec()),
            key if key == b"size" || key.starts_with(b"GNU.sparse") => {
                return Err(DbError::Path {
                    member: format!("a pax header with `{}`", shown(key)),
                });
            }
            _ => {}
        }
    }
    Ok(path)
}

/// Foreign bytes as they may stand in a message: printable, on one line, of bounded length.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 160;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]);
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if bytes.len() > MOST {
        out.push('…');
    }
    out
}

fn unpack_error(error: io::Error) -> DbError {
    match error.get_ref().and_then(|e| e.downcast_ref::<TooMuch>()) {
        Some(&TooMuch(limit)) => DbError::TooLarge { limit },
        None => DbError::Unpack(error),
    }
}
