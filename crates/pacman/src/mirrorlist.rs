//! Mirror lists (`/etc/pacman.d/mirrorlist`): the servers that are used and those that could be.
//!
//! - Invariant: lossless, as [`Conf`] is: a mirror list is a file of the same grammar.
//! - Not here: which mirror is good (`pacstore-upstream`, `mirrors.rs`).
//!
//! ```
//! use pacstore_pacman::Mirrorlist;
//!
//! let list = Mirrorlist::parse(b"## Austria\n#Server = https://a.example/$repo/os/$arch\nServer = https://b.example/$repo\n");
//! assert_eq!(list.used(), ["https://b.example/$repo"]);
//! assert_eq!(list.offered(), ["https://a.example/$repo/os/$arch"]);
//! ```

use crate::conf::Conf;

/// One mirror list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrorlist {
    conf: Conf,
}

impl Mirrorlist {
    /// Reads any bytes.
    pub fn parse(bytes: &[u8]) -> Self {
        Self {
            conf: Conf::parse(bytes),
        }
    }

    /// The file as it was.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.conf.to_bytes()
    }

    /// Its lines.
    pub fn conf(&self) -> &Conf {
        &self.conf
    }

    /// What stands behind `Server =`, in order, `$repo` and `$arch` as written.
    pub fn used(&self) -> Vec<String> {
        let servers = self.conf.directives().filter(|one| one.key == "Server");
        servers.filter_map(|one| one.value.map(str::to_owned)).collect()
    }

    /// Servers that are commented out, in order: `#Server = URL`, with any number of `#`.
    pub fn offered(&self) -> Vec<String> {
        (0..self.conf.len())
            .filter_map(|index| {
                let text = self.conf.text(index);
                let (key, url) = text.strip_prefix('#')?.trim_start_matches('#').split_once('=')?;
                let url = url.trim();
                // A sentence with an `=` in it is no server.
                let is_url = url.contains("://") && !url.contains(char::is_whitespace);
                (key.trim() == "Server" && is_url).then(|| url.to_owned())
            })
            .collect()
    }
}
