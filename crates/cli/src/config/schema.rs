//! Every configuration key: where it stands, its default, what it means.
//!
//! This table is the one source of `pacstore config reference`, of the check for unknown
//! keys and of what is not available yet.
//!
//! - Invariant: each key that `super::file` reads stands here and the other way round
//!   (a test compares them).
//! - Not here: how a value is read (`super::values`, `super::build`).

use std::fmt::Write as _;

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// `gateway`, or `[mirror]` for a table that may stand several times.
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    /// As TOML.
    pub(crate) default: &'static str,
    pub(crate) doc: &'static str,
    /// Any other value than the default is refused as not available yet.
    pub(crate) later: bool,
}

impl Key {
    /// What a value of it looks like, said to who wrote `raw`, which is of another kind.
    pub(crate) fn kind(&self, raw: &str) -> String {
        let range = match (self.section, self.name) {
            ("limits", "peers") => " from 0 to 384",
            ("limits", "rounds") => " from 1 to 64",
            ("[mirror]", "quorum") => " from 1 to the number of importers",
            _ => ", 0 or more",
        };
        let or_list = matches!(self.name, "bootstrap" | "from" | "repositories" | "stamp");
        match self.default.bytes().next() {
            Some(b't' | b'f') => "true or false".to_owned(),
            Some(b'0'..=b'9') => format!("a whole number{range}, such as {}", self.default),
            Some(b'{') => format!("it like {}", self.default),
            _ if self.name == "atomic" => "lists of names, such as [[\"core\", \"extra\"]]".to_owned(),
            Some(b'[') => "a text in quotes, or a list of them such as [\"a\", \"b\"]".to_owned(),
            _ if or_list => "a text in quotes, or a list of them such as [\"a\", \"b\"]".to_owned(),
            _ if raw.starts_with(['[', '{']) => "one text in quotes, no list".to_owned(),
            _ => format!("it in quotes: \"{}\"", raw.trim()),
        }
    }
}

const fn key(section: &'static str, name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key {
        section,
        name,
        default,
        doc,
        later: false,
    }
}

const fn later(section: &'static str, name: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key {
        section,
        name,
        default,
        doc,
        later: true,
    }
}

/// All keys, in the order of the reference.
pub(crate) const KEYS: &[Key] = &[
    key(
        "gateway",
        "listen",
        "\"127.0.0.1:8080\"",
        "address and port of the HTTP gateway; port 0 takes a free one",
    ),
    key(
        "gateway",
        "hosts",
        "[\"localhost\"]",
        "names that serve subdomain gateways; the Host check admits IP literals and these",
    ),
    key(
        "gateway",
        "open",
        "false",
        "true: any CID is served, not only what is configured",
    ),
    key(
        "swarm",
        "listen",
        "[\"/ip4/0.0.0.0/udp/4001/quic-v1\", \"/ip4/0.0.0.0/tcp/4001\", \"/ip6/::/udp/4001/quic-v1\", \"/ip6/::/tcp/4001\"]",
        "multiaddrs to listen on",
    ),
    key(
        "swarm",
        "bootstrap",
        "\"public\"",
        "\"public\", or a list of multiaddrs; [] = none",
    ),
    key(
        "swarm",
        "peers",
        "[]",
        "multiaddrs with /p2p/ID that stay connected",
    ),
    key("swarm", "mdns", "true", "find peers of the local network"),
    key(
        "swarm",
        "mdns_interfaces",
        "[]",
        "names of the network interfaces on which they are looked for, such as \"eth0\"; [] = all",
    ),
    key(
        "swarm",
        "dht",
        "\"auto\"",
        "auto (server on the LAN protocol, client on the public one until reachable), client, server or off",
    ),
    key(
        "store",
        "dir",
        "\"\"",
        "where all files are; default: store/ under the state directory",
    ),
    key("store", "max_size", "\"10GB\"", "cap of evictable bytes"),
    key(
        "store",
        "scrub",
        "\"30d\"",
        "all files are read again once in this time, and mended; \"0\" = never",
    ),
    key(
        "pacman",
        "config",
        "\"/etc/pacman.conf\"",
        "pacman's configuration of this machine: what it uses, what is installed; \"\" = look at none",
    ),
    key(
        "pacman",
        "cache",
        "[]",
        "pacman's cache directories: what is right in them is shared without a second copy",
    ),
    key(
        "prefetch",
        "enable",
        "false",
        "true: what the next pacman -Syu of this machine needs is fetched ahead of time",
    ),
    key(
        "prefetch",
        "rate",
        "\"0\"",
        "bytes a second on average; \"0\" = no limit",
    ),
    key(
        "prefetch",
        "hours",
        "\"\"",
        "only then, such as \"1-6\" or \"22-6\" (local time); \"\" = always",
    ),
    key("prefetch", "metered", "false", "true: on metered lines too"),
    key("prefetch", "battery", "false", "true: on battery too"),
    key(
        "lan",
        "serve",
        "false",
        "true: the gateway also listens on 0.0.0.0 and [::] at its port",
    ),
    key(
        "lan",
        "allow",
        "[\"192.168.0.0/16\"]",
        "who may use the gateway over the LAN",
    ),
    key(
        "limits",
        "upload",
        "\"4MB/s\"",
        "upload to addresses that are not loopback, private or link-local; \"0\" = no limit; default none where an [[import]] stands",
    ),
    key(
        "limits",
        "upload_month",
        "\"0\"",
        "bytes that such addresses get in a calendar month, such as \"50GB\"; \"0\" = no limit",
    ),
    key(
        "limits",
        "upload_hours",
        "\"\"",
        "such addresses get something only then, such as \"1-6\" or \"22-6\" (local time); \"\" = always",
    ),
    key(
        "limits",
        "peers",
        "160",
        "connections to peers that are neither configured nor of the LAN; 0 = none",
    ),
    key(
        "limits",
        "import",
        "\"0\"",
        "bytes a second that all imports together take from upstreams; \"0\" = no limit",
    ),
    key(
        "limits",
        "rounds",
        "2",
        "mirrors that are imported at the same time; each needs its memory",
    ),
    key(
        "limits",
        "pressure",
        "true",
        "imports slow down while the kernel says that disk, memory or processor are overloaded",
    ),
    key(
        "alert",
        "webhook",
        "\"\"",
        "URL that gets each alert as JSON by POST",
    ),
    key(
        "alert",
        "command",
        "[]",
        "program and arguments; gets each alert as JSON on its standard input",
    ),
    key("alert", "mail", "\"\"", "address that gets each alert as a mail"),
    key(
        "alert",
        "sendmail",
        "\"/usr/sbin/sendmail\"",
        "the program that takes mails as sendmail does",
    ),
    key(
        "alert",
        "after",
        "\"10m\"",
        "how long rounds must have failed before that is told; at most 14m",
    ),
    key(
        "alert",
        "torn",
        "\"2h\"",
        "how long a repository may be torn before that is told",
    ),
    key(
        "alert",
        "disk_free",
        "\"2GB\"",
        "less free space than this for the store is told",
    ),
    key(
        "alert",
        "repeat",
        "\"24h\"",
        "what still holds is told again after this; \"0\" = never",
    ),
    key(
        "metrics",
        "listen",
        "\"\"",
        "loopback address and port for Prometheus, such as \"127.0.0.1:9640\"; \"\" = only the admin socket",
    ),
    key(
        "share",
        "enable",
        "true",
        "false: peers get nothing from this node, and nothing is announced; it still downloads",
    ),
    key(
        "share",
        "announce",
        "false",
        "true: the roots of single files are announced too, not only those of trees",
    ),
    later("names", "*", "", "pinned name = path, before DNS"),
    key("[mirror]", "name", "", "the mirror's NAME (needed)"),
    key(
        "[mirror]",
        "importers",
        "[]",
        "KEYs (k51...) trusted for it; \"dnslink\" is not available yet",
    ),
    key(
        "[mirror]",
        "quorum",
        "1",
        "how many importers must have signed the same tree",
    ),
    key(
        "[mirror]",
        "upstreams",
        "[]",
        "ordinary mirrors of the same files, for what peers do not give",
    ),
    key(
        "[mirror]",
        "layout",
        "\"archlinux\"",
        "archlinux or plain; only where no head says it",
    ),
    key(
        "[mirror]",
        "folder",
        "\"\"",
        "limits /pacman/ to repositories below this folder",
    ),
    key(
        "[mirror]",
        "public",
        "true",
        "false: only [swarm] peers may learn that it is followed here; needed for private ones from the start",
    ),
    later(
        "[mirror]",
        "keyring",
        "\"\"",
        "OpenPGP keys to check databases and packages with",
    ),
    key(
        "[repository]",
        "name",
        "",
        "a repository without importer, such as extra (needed)",
    ),
    key("[repository]", "arch", "\"x86_64\"", "its architecture"),
    key(
        "[repository]",
        "upstreams",
        "[]",
        "its folder on ordinary mirrors, in order of preference (needed)",
    ),
    key(
        "[repository]",
        "public",
        "false",
        "true: peers may be asked for its packages, and get them",
    ),
    key(
        "[repository]",
        "keyring",
        "\"\"",
        "OpenPGP keys to check signed databases and packages with: a folder as /etc/pacman.d/gnupg, or one file",
    ),
    key("[import]", "mirror", "", "the NAME to publish under (needed)"),
    key(
        "[import]",
        "from",
        "",
        "rsync://, http(s):// or an absolute directory; several in order of preference (needed)",
    ),
    key(
        "[import]",
        "key",
        "",
        "label of the key that signs (`pacstore key new LABEL`; needed)",
    ),
    key(
        "[import]",
        "preset",
        "\"\"",
        "arch, endeavouros, manjaro, manjaro-arm, alhp or chaotic-aur: mirror, from, stamp, layout, exclude and also where they are not written",
    ),
    key("[import]", "layout", "\"plain\"", "archlinux or plain"),
    key(
        "[import]",
        "repositories",
        "\"all\"",
        "\"all\" = found by their databases; or a list such as [\"core/os/x86_64/core\"]; HTTP without listings needs the list",
    ),
    key(
        "[import]",
        "files",
        "\"listed\"",
        "\"listed\" = databases and what they name; \"all\" = every file",
    ),
    key(
        "[import]",
        "also",
        "[]",
        "globs of further files to take where files = \"listed\"",
    ),
    key("[import]", "exclude", "[]", "globs of names to leave out"),
    key("[import]", "hidden", "false", "take names that begin with . or ~"),
    key(
        "[import]",
        "stamp",
        "\"\"",
        "URL of upstream's change stamp, or its path below the upstream's root; or a list, one for each of from",
    ),
    key("[import]", "every", "\"60s\"", "how often to look; or \"manual\""),
    key(
        "[import]",
        "keep",
        "{ age = \"7d\", count = 100 }",
        "snapshots that stay, beside those served in the last 24 h",
    ),
    key(
        "[import]",
        "keyring",
        "\"\"",
        "OpenPGP keys to check with: a folder as pacman's, or a file",
    ),
    key(
        "[import]",
        "hold",
        "\"2h\"",
        "longest time that a state whose signatures do not verify is held back; without keyring: a database beside the signature of another one",
    ),
    key(
        "[import]",
        "max_age",
        "\"24h\"",
        "clients refuse databases older than this; \"0\" = never",
    ),
    key(
        "[import]",
        "public",
        "true",
        "false: only [swarm] peers may have it",
    ),
    key(
        "[import]",
        "replicas",
        "0",
        "other nodes that must hold a head's directories and databases before it is preferred, for 10 minutes at most",
    ),
    key(
        "[import]",
        "atomic",
        "[]",
        "lists of repositories that move together, such as [[\"core\", \"extra\"]]",
    ),
    key(
        "[import]",
        "replaced_by_rename",
        "false",
        "upstream's directory replaces files by rename only: files are then hard-linked instead of copied",
    ),
];

/// The sections in their order, each once.
pub(crate) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = Vec::new();
    for key in KEYS {
        if sections.last() != Some(&key.section) {
            sections.push(key.section);
        }
    }
    sections
}

/// The commented configuration with every key and its default.
pub(crate) fn reference() -> String {
    let mut text = String::from(
        "# pacstore.toml: every key with its default. All are optional but those marked (needed).\n\
         # Sizes: 10GB, 512MiB. Rates: 4MB/s. Times: 60s, 15m, 24h, 7d. A string is taken where a list of one is meant.\n",
    );
    for section in sections() {
        let _ = writeln!(text, "\n# [{section}]");
        for key in KEYS.iter().filter(|key| key.section == section) {
            let note = if key.later { " (not available yet)" } else { "" };
            if key.name == "*" {
                let _ = writeln!(text, "# \"NAME\" = \"/ipns/KEY\"   # {}{note}", key.doc);
            } else {
                let default = if key.default.is_empty() {
                    "\"...\""
                } else {
                    key.default
                };
                let _ = writeln!(text, "# {} = {default}   # {}{note}", key.name, key.doc);
            }
        }
    }
    text
}

/// The known name nearest to `name` within `section`, if one is near at all.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2)
        .min()
        .map(|(_, known)| known)
}
