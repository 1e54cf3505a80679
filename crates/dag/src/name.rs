//! Which names an entry of a directory may have.
//!
//! - Invariant: a name that passes can be a file name on any UNIX; nothing else leaves or enters a directory.
//! - Not here: pacman's own rules for package names.

use crate::limits::MAX_NAME;

/// Why bytes are no file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no bytes.
    #[error("name is empty")]
    Empty,
    /// `.` and `..` mean something else.
    #[error("name is `.` or `..`")]
    Dots,
    /// `/` or NUL stand in it.
    #[error("name holds a slash or a NUL")]
    Byte,
    /// Longer than [`MAX_NAME`] bytes.
    #[error("name is longer than {MAX_NAME} bytes")]
    TooLong,
}

/// Checks a name that is to be written.
pub(crate) fn check(name: &[u8]) -> Result<(), NameError> {
    check_foreign(name)?;
    if name.len() > MAX_NAME {
        Err(NameError::TooLong)
    } else {
        Ok(())
    }
}

/// Checks a name that somebody else wrote; only its length is not limited here.
pub(crate) fn check_foreign(name: &[u8]) -> Result<(), NameError> {
    match name {
        b"" => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        name if name.iter().any(|b| matches!(b, b'/' | 0)) => Err(NameError::Byte),
        _ => Ok(()),
    }
}
