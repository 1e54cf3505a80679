//! Request paths: from the percent-encoded text of a request to the names in a tree.
//!
//! - Invariant: no segment is empty, `.` or `..`, or holds `/` or NUL, whatever the
//!   encoding; so a [`RequestPath`] never leaves the tree that it is resolved in.
//! - Invariant: decoded exactly once; `%252e` is the name `%2e`.
//! - Not here: what the first segments mean (`http`).

use percent_encoding::percent_decode_str;

/// The most bytes of a path as it stands in a request.
pub const MAX_PATH: usize = 8 * 1024;
/// The most bytes of one name, as on every UNIX file system.
pub const MAX_SEGMENT: usize = 255;
/// The most names in one path.
pub const MAX_SEGMENTS: usize = 128;

/// A path, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestPath {
    /// The names, from the root on; none for `/`. Any bytes but `/` and NUL.
    pub segments: Vec<Vec<u8>>,
    /// Whether it ended with `/`: the client wants a directory.
    pub trailing_slash: bool,
}

impl RequestPath {
    /// The segments, borrowed, as path resolution takes them.
    pub fn as_slices(&self) -> Vec<&[u8]> {
        self.segments.iter().map(Vec::as_slice).collect()
    }
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("path does not start with `/`")]
    NotAbsolute,
    /// More bytes than [`MAX_PATH`].
    #[error("path has {0} bytes; at most {MAX_PATH} are allowed")]
    TooLong(usize),
    /// More names than [`MAX_SEGMENTS`].
    #[error("path has more than {MAX_SEGMENTS} names")]
    TooDeep,
    /// A name longer than [`MAX_SEGMENT`] bytes.
    #[error("path has a name of {0} bytes; at most {MAX_SEGMENT} are allowed")]
    LongSegment(usize),
    /// Two slashes in a row.
    #[error("path has an empty name")]
    EmptySegment,
    /// `.` or `..`, also percent-encoded.
    #[error("path has `.` or `..` as a name")]
    DotSegment,
    /// `%2f`: a slash that is no separator.
    #[error("path has an encoded `/` in a name")]
    EncodedSlash,
    /// A byte of value zero.
    #[error("path has a NUL byte")]
    Nul,
    /// `%` without two hexadecimal digits.
    #[error("path has a `%` without two hexadecimal digits")]
    BadEscape,
    /// A character that must be encoded in a path: `?`, `#`, blank or control.
    #[error("path has the unencoded byte {0:#04x}")]
    Unencoded(u8),
}

/// Parses the path of a request, still percent-encoded and without its query.
///
/// `+` stays `+`, as in `libstdc++`. Bytes above ASCII are taken as they are.
///
/// # Errors
/// [`PathError`] for whatever is not plainly a list of names.
///
/// ```
/// use pacstore_names::{PathError, parse_request_path};
///
/// let path = parse_request_path("/core/libsigc%2B%2B-3.6-1-any.pkg.tar.zst")?;
/// assert_eq!(path.segments, [&b"core"[..], b"libsigc++-3.6-1-any.pkg.tar.zst"]);
/// assert_eq!(parse_request_path("/core/%2e%2E/secret"), Err(PathError::DotSegment));
/// # Ok::<(), PathError>(())
/// ```
pub fn parse_request_path(raw: &str) -> Result<RequestPath, PathError> {
    if raw.len() > MAX_PATH {
        return Err(PathError::TooLong(raw.len()));
    }
    let inner = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    if inner.is_empty() {
        return Ok(RequestPath {
            segments: Vec::new(),
            trailing_slash: true,
        });
    }
    let (names, trailing_slash) = match inner.strip_suffix('/') {
        Some(names) => (names, true),
        None => (inner, false),
    };
    if names.split('/').nth(MAX_SEGMENTS).is_some() {
        return Err(PathError::TooDeep);
    }
    let segments = names.split('/').map(segment).collect::<Result<_, _>>()?;
    Ok(RequestPath {
        segments,
        trailing_slash,
    })
}

fn segment(raw: &str) -> Result<Vec<u8>, PathError> {
    if let Some(bad) = raw.bytes().find(|byte| must_be_encoded(*byte)) {
        return Err(if bad == 0 {
            PathError::Nul
        } else {
            PathError::Unencoded(bad)
        });
    }
    let escape = |rest: &str| {
        rest.as_bytes()
            .iter()
            .take(2)
            .filter(|byte| byte.is_ascii_hexdigit())
            .count()
            == 2
    };
    if !raw.split('%').skip(1).all(escape) {
        return Err(PathError::BadEscape);
    }
    let name: Vec<u8> = percent_decode_str(raw).collect();
    match name.as_slice() {
        [] => Err(PathError::EmptySegment),
        b"." | b".." => Err(PathError::DotSegment),
        name if name.contains(&0) => Err(PathError::Nul),
        name if name.contains(&b'/') => Err(PathError::EncodedSlash),
        name if name.len() > MAX_SEGMENT => Err(PathError::LongSegment(name.len())),
        _ => Ok(name),
    }
}

fn must_be_encoded(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || byte == b'?' || byte == b'#'
}
