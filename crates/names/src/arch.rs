//! Architectures: what pacman puts for `$arch`.
//!
//! - Invariant: an [`Arch`] can stand in a path as one component.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Architectures that pacman distributions build for. A folder's component that
/// is one of these is taken as the repository's architecture.
const KNOWN: [&str; 21] = [
    "aarch64",
    "arm",
    "armv6h",
    "armv7h",
    "armv8",
    "i386",
    "i486",
    "i586",
    "i686",
    "loong64",
    "loongarch64",
    "mips64el",
    "pentium4",
    "powerpc64le",
    "ppc64le",
    "riscv32",
    "riscv64",
    "x86_64",
    "x86_64_v2",
    "x86_64_v3",
    "x86_64_v4",
];

/// A name of an architecture: ASCII letters, digits and `_`, at most 32.
///
/// ```
/// use pacstore_names::Arch;
///
/// let arch: Arch = "x86_64".parse()?;
/// assert!(arch.is_known());
/// assert!("../x".parse::<Arch>().is_err());
/// # Ok::<(), pacstore_names::ArchError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Arch(String);

/// Not a name of an architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no architecture: letters, digits and `_` are, at most 32")]
pub struct ArchError(String);

impl Arch {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of those that distributions build for. `any` is none.
    pub fn is_known(&self) -> bool {
        is_known(&self.0)
    }
}

fn is_known(text: &str) -> bool {
    // CachyOS and ALHPS write x86-64-v3, Arch's own pacman x86_64_v3.
    let text = text.replace('-', "_");
    KNOWN.contains(&text.as_str())
}

/// The component of a repository's folder that is an architecture; of several the
/// last, which is the nearest to the files.
///
/// ```
/// use pacstore_names::arch_of_folder;
///
/// assert_eq!(arch_of_folder("core/os/x86_64").map(String::from).as_deref(), Some("x86_64"));
/// assert_eq!(arch_of_folder("core"), None);
/// ```
pub fn arch_of_folder(folder: &str) -> Option<Arch> {
    let component = folder.rsplit('/').find(|component| is_known(component))?;
    component.replace('-', "_").parse().ok()
}

impl FromStr for Arch {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Self, ArchError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ArchError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for Arch {
    type Error = ArchError;

    fn try_from(text: String) -> Result<Self, ArchError> {
        text.parse()
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> Self {
        arch.0
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
