//! Names of mirrors: DNS names, and the one label that they become in a host name.
//!
//! - Invariant: a [`MirrorName`] is a lower-case DNS name, so it can stand in a
//!   path, in a host name and in a file name as it is.
//! - Invariant: it is never the text of a CID or an IPNS key.
//! - Not here: asking DNS (`net`), reading its answer (`crate::dnslink`).
//! - Read first: <https://specs.ipfs.tech/http-gateways/subdomain-gateway/>, "DNSLink inlining".

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use serde::{Deserialize, Serialize};

use crate::name::IpnsName;

/// The most characters of a label of a DNS name.
const MAX_LABEL: usize = 63;
/// The most characters of a DNS name.
const MAX_NAME: usize = 253;

/// The name of a mirror, such as `x86-64.archlinux.pkg.pacman.store`.
///
/// ```
/// use pacstore_names::MirrorName;
///
/// let name: MirrorName = "x86-64.archlinux.pkg.pacman.store".parse()?;
/// assert_eq!(name.label().as_deref(), Some("x86--64-archlinux-pkg-pacman-store"));
/// assert_eq!(MirrorName::from_label("x86--64-archlinux-pkg-pacman-store")?, name);
/// # Ok::<(), pacstore_names::MirrorNameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MirrorName(String);

/// Why a text is no name of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MirrorNameError {
    /// Nothing at all, or more than 253 characters.
    #[error("a mirror's name has 1 to {MAX_NAME} characters, not {0}")]
    Length(usize),
    /// Between two dots there is nothing or too much.
    #[error("each part of a mirror's name has 1 to {MAX_LABEL} characters, not {0}")]
    LabelLength(usize),
    /// A character that a DNS name does not have.
    #[error("a mirror's name has letters, digits, `-` and `.`, not {0:?}")]
    Character(char),
    /// A part that starts or ends with `-`.
    #[error("no part of a mirror's name starts or ends with `-`")]
    Dash,
    /// It would be taken for content, not for a name.
    #[error("a mirror's name must not look like a CID or an IPNS key")]
    LooksLikeCid,
}

impl MirrorName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one DNS label: `-` doubled, `.` as `-`. `None` if that is longer
    /// than the 63 characters a label may have; such a mirror is reached by path only.
    pub fn label(&self) -> Option<String> {
        let label = self.0.replace('-', "--").replace('.', "-");
        (label.len() <= MAX_LABEL).then_some(label)
    }

    /// Reads what [`MirrorName::label`] wrote.
    ///
    /// # Errors
    /// [`MirrorNameError`] if the label, read so, is no name.
    pub fn from_label(label: &str) -> Result<Self, MirrorNameError> {
        if label.len() > MAX_LABEL {
            return Err(MirrorNameError::LabelLength(label.len()));
        }
        // A dot has no place in a label; it must not pass as one that was a dash.
        if label.contains('.') {
            return Err(MirrorNameError::Character('.'));
        }
        let halves: Vec<_> = label.split("--").map(|part| part.replace('-', ".")).collect();
        halves.join("-").parse()
    }

    /// The names that the host part before `.ipns.localhost` can mean, the likelier
    /// first: read as an inlined label where it has a dash and no dot, then as it is.
    pub fn of_host(host: &str) -> Vec<Self> {
        let inlined = (host.contains('-') && !host.contains('.')).then(|| Self::from_label(host).ok());
        let plain: Option<Self> = host.parse().ok();
        let mut names: Vec<_> = inlined.flatten().into_iter().chain(plain).collect();
        names.dedup();
        names
    }
}

fn check_label(label: &str) -> Result<(), MirrorNameError> {
    if !(1..=MAX_LABEL).contains(&label.len()) {
        return Err(MirrorNameError::LabelLength(label.len()));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(MirrorNameError::Dash);
    }
    Ok(())
}

impl FromStr for MirrorName {
    type Err = MirrorNameError;

    /// Upper-case letters become lower-case ones.
    fn from_str(text: &str) -> Result<Self, MirrorNameError> {
        if !(1..=MAX_NAME).contains(&text.len()) {
            return Err(MirrorNameError::Length(text.len()));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if let Some(bad) = text.chars().find(|c| !good(*c)) {
            return Err(MirrorNameError::Character(bad));
        }
        text.split('.').try_for_each(check_label)?;
        if text.parse::<Cid>().is_ok() || text.parse::<IpnsName>().is_ok() {
            return Err(MirrorNameError::LooksLikeCid);
        }
        let lower = text.to_ascii_lowercase();
        if lower.parse::<Cid>().is_ok() || lower.parse::<IpnsName>().is_ok() {
            return Err(MirrorNameError::LooksLikeCid);
        }
        Ok(Self(lower))
    }
}

impl TryFrom<String> for MirrorName {
    type Error = MirrorNameError;

    fn try_from(text: String) -> Result<Self, MirrorNameError> {
        text.parse()
    }
}

impl From<MirrorName> for String {
    fn from(name: MirrorName) -> Self {
        name.0
    }
}

impl fmt::Display for MirrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
