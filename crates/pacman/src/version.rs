//! Package versions in pacman's order: `[EPOCH:]VERSION[-RELEASE]` and `vercmp`.
//!
//! A port of libalpm's `alpm_pkg_vercmp` and `rpmvercmp`, byte for byte, because pacman decides by them what
//! an upgrade is. The crate `alpm-types` was tried first: it takes `0:1` for newer than `1`, differs where
//! separators lead (`..a0`), and refuses versions that foreign repositories carry; the tests keep it as a second opinion.
//!
//! - Invariant: [`vercmp`] answers as the program `vercmp` does (pinned by `tests/it/versions.rs`).
//! - Invariant: comparing never allocates.
//! - Not here: version requirements (`>=1.2`).
//! - Read first: `vercmp(8)`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The longest version taken, in bytes. It stands in a file name, so 255 is out of reach anyway.
const MAX_LEN: usize = 255;

/// The version of a package, as `%VERSION%` and file names have it.
///
/// Ordered as pacman orders, save where pacman's order is none: `rpmvercmp` finds `1. < 1.1 < 1..a < 1.`, and takes
/// `1-1` and `1-2` both for the same as `1`. So here, separators at the ends of version and release count last, and
/// a release is later than none. Wherever both versions have a release and their parts begin and end with a letter or digit
/// (all versions that makepkg lets pass, but for a trailing separator), this is [`Version::vercmp`]. Two versions may be equal and
/// yet be written differently (`1.0` and `1.00`).
#[derive(Clone, Debug)]
pub struct Version(Box<str>);

/// Why a text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// There is nothing.
    #[error("a version is empty")]
    Empty,
    /// It cannot be part of a file name.
    #[error("a version is longer than {MAX_LEN} bytes")]
    TooLong,
    /// Only visible ASCII characters other than `/` and `\` can be in a version.
    #[error("a version has the byte {0:#04x}")]
    Byte(u8),
}

impl Version {
    /// Takes any version that a package could carry; it is not judged by the packaging rules of a distribution.
    ///
    /// # Errors
    /// [`VersionError`] if it is empty, longer than 255 bytes, or has white space, control characters, `/`, `\` or
    /// anything beyond ASCII.
    pub fn new(text: &str) -> Result<Self, VersionError> {
        check_text(text)?;
        Ok(Self(text.into()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What pacman decides between these two: `Greater` if `self` would be an upgrade. See [`vercmp`].
    pub fn vercmp(&self, other: &Self) -> Ordering {
        vercmp(&self.0, &other.0)
    }
}

fn check_text(text: &str) -> Result<(), VersionError> {
    if text.is_empty() {
        return Err(VersionError::Empty);
    }
    if text.len() > MAX_LEN {
        return Err(VersionError::TooLong);
    }
    match text
        .bytes()
        .find(|b| !b.is_ascii_graphic() || matches!(b, b'/' | b'\\'))
    {
        Some(byte) => Err(VersionError::Byte(byte)),
        None => Ok(()),
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::new(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Version {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (Parts::of(&self.0), Parts::of(&other.0));
        rpmvercmp(a.epoch, b.epoch)
            .then_with(|| total(a.version, b.version))
            .then_with(|| match (a.release, b.release) {
                (Some(a), Some(b)) => total(a, b),
                (a, b) => a.is_some().cmp(&b.is_some()),
            })
    }
}

/// [`rpmvercmp`] made a total order: within texts that begin and end with a letter or digit it is one already.
fn total(a: &[u8], b: &[u8]) -> Ordering {
    let separator = |b: &&u8| !b.is_ascii_alphanumeric();
    let cut = |text: &[u8]| {
        let (before, rest) = text.split_at(separators(text));
        let behind = rest.iter().rev().take_while(separator).count();
        (before.len(), behind, rest.len() - behind)
    };
    let ((before_a, behind_a, core_a), (before_b, behind_b, core_b)) = (cut(a), cut(b));
    rpmvercmp(&a[before_a..][..core_a], &b[before_b..][..core_b])
        .then(before_a.cmp(&before_b))
        .then(behind_a.cmp(&behind_b))
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

/// Compares two versions exactly as pacman's `vercmp` does: `Greater` if `a` is newer than `b`.
///
/// A release counts only where both have one, so this is no total order; to sort, use [`Version`].
/// Any text is taken.
pub fn vercmp(a: &str, b: &str) -> Ordering {
    let (a, b) = (Parts::of(a), Parts::of(b));
    a.compare_without_release(&b)
        .then_with(|| match (a.release, b.release) {
            (Some(a), Some(b)) => rpmvercmp(a, b),
            _ => Ordering::Equal,
        })
}

/// A version cut as libalpm's `parseEVR` does.
struct Parts<'a> {
    epoch: &'a [u8],
    version: &'a [u8],
    release: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let (epoch, rest) = match bytes.get(digits) {
            Some(b':') if digits == 0 => (&b"0"[..], &bytes[1..]),
            Some(b':') => (&bytes[..digits], &bytes[digits + 1..]),
            _ => (&b"0"[..], bytes),
        };
        match rest.iter().rposition(|&b| b == b'-') {
            Some(dash) => Self {
                epoch,
                version: &rest[..dash],
                release: Some(&rest[dash + 1..]),
            },
            None => Self {
                epoch,
                version: rest,
                release: None,
            },
        }
    }

    fn compare_without_release(&self, other: &Self) -> Ordering {
        rpmvercmp(self.epoch, other.epoch).then_with(|| rpmvercmp(self.version, other.version))
    }
}

/// libalpm's `rpmvercmp`: segments of digits or letters, compared one by one.
fn rpmvercmp(a: &[u8], b: &[u8]) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (mut one, mut two) = (a, b);
    while !one.is_empty() && !two.is_empty() {
        let (gap_one, gap_two) = (separators(one), separators(two));
        (one, two) = (&one[gap_one..], &two[gap_two..]);
        if one.is_empty() || two.is_empty() {
            break;
        }
        if gap_one != gap_two {
            return gap_one.cmp(&gap_two);
        }
        let numeric = one[0].is_ascii_digit();
        let (segment_one, rest_one) = segment(one, numeric);
        let (segment_two, rest_two) = segment(two, numeric);
        if segment_two.is_empty() {
            // Of two kinds: a number is newer than letters.
            return if numeric {
                Ordering::Greater
            } else {
                Ordering::Less
            };
        }
        let order = if numeric {
            compare_numbers(segment_one, segment_two)
        } else {
            segment_one.cmp(segment_two)
        };
        if order != Ordering::Equal {
            return order;
        }
        (one, two) = (rest_one, rest_two);
    }
    // Whichever has something left is newer, except that letters never beat nothing (1.0rc1 < 1.0).
    match (one.first(), two.first()) {
        (None, None) => Ordering::Equal,
        (Some(x), _) if x.is_ascii_alphabetic() => Ordering::Less,
        (None, Some(y)) if !y.is_ascii_alphabetic() => Ordering::Less,
        _ => Ordering::Greater,
    }
}

fn separators(text: &[u8]) -> usize {
    text.iter().take_while(|b| !b.is_ascii_alphanumeric()).count()
}

fn segment(text: &[u8], numeric: bool) -> (&[u8], &[u8]) {
    let same = |b: &&u8| {
        if numeric {
            b.is_ascii_digit()
        } else {
            b.is_ascii_alphabetic()
        }
    };
    text.split_at(text.iter().take_while(same).count())
}

fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |n: &[u8]| n.iter().take_while(|&&b| b == b'0').count();
    let (a, b) = (&a[strip(a)..], &b[strip(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
