//! What rsync's exit codes mean for whoever called it.
//!
//! - Read first: rsync(1), "EXIT VALUES".

use std::fmt;

/// The kinds of failure that a caller treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// 1, 3, 4: we asked for something that this rsync or that server cannot do.
    Usage,
    /// 2: the two do not understand each other.
    Protocol,
    /// 5: the daemon refused: unknown module, no access, too many connections.
    Refused,
    /// 10: the network failed.
    Network,
    /// 11: reading or writing a file failed, here in most cases: disk full, read-only.
    Disk,
    /// 12, 13: the stream broke off.
    Stream,
    /// 14, 15, 16, 21, 22, 255: the program failed in itself (memory, pipes, a crash).
    Program,
    /// 19, 20 or a signal: somebody ended it.
    Killed,
    /// 23: something could not be read at the source.
    Unread,
    /// 25: more deletions than allowed; the rest was done.
    MaxDelete,
    /// 30: no traffic for too long.
    Timeout,
    /// 35: the daemon did not answer.
    ConnectTimeout,
    /// Any other.
    Other,
}

impl ExitKind {
    pub(crate) fn of(code: i32) -> Self {
        match code {
            1 | 3 | 4 => Self::Usage,
            2 => Self::Protocol,
            5 => Self::Refused,
            10 => Self::Network,
            11 => Self::Disk,
            12 | 13 => Self::Stream,
            14 | 15 | 16 | 21 | 22 | 255 => Self::Program,
            19 | 20 | -1 => Self::Killed,
            23 => Self::Unread,
            25 => Self::MaxDelete,
            30 => Self::Timeout,
            35 => Self::ConnectTimeout,
            _ => Self::Other,
        }
    }

    /// Whether another upstream, or the same one later, may do better.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Network
                | Self::Stream
                | Self::Program
                | Self::Killed
                | Self::Timeout
                | Self::ConnectTimeout
        )
    }

    pub(crate) fn hint(self) -> Option<&'static str> {
        match self {
            Self::Refused => {
                Some("the mirror is full or the module is wrong; list the modules with `rsync HOST::`")
            }
            Self::Usage => Some(
                "rsync here, or the mirror's daemon (`refuse options`), does not do what an import needs",
            ),
            Self::Disk => Some("look at free space and permissions of the state directory"),
            Self::Network | Self::Timeout | Self::ConnectTimeout | Self::Stream => {
                Some("the mirror may be down; list another one beside it")
            }
            _ => None,
        }
    }
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usage => "it cannot do what was asked",
            Self::Protocol => "the versions do not understand each other",
            Self::Refused => "the daemon refused",
            Self::Network => "the network failed",
            Self::Disk => "reading or writing a file failed",
            Self::Stream => "the stream broke off",
            Self::Program => "the program failed",
            Self::Killed => "it was ended from outside",
            Self::Unread => "the mirror cannot read it",
            Self::MaxDelete => "more deletions than allowed",
            Self::Timeout => "no traffic for too long",
            Self::ConnectTimeout => "the daemon did not answer",
            Self::Other => "unknown code",
        })
    }
}

/// How a transfer that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Code 0: all of it.
    Whole,
    /// Code 23: something could not be sent (unreadable, a link that dangles).
    Partial,
    /// Code 24: files vanished at the source meanwhile.
    Vanished,
}
