//! The Host header: which names we answer to, and what a subdomain asks for.
//!
//! - Invariant: a Host that is neither an IP literal nor one of the configured names (or
//!   a subdomain gateway of one) is refused, so that a foreign page cannot reach us by
//!   rebinding its own name.
//! - Not here: what the path asks for (`crate::route`).

use std::net::IpAddr;

/// What the Host header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// One of our names or an address: the path decides.
    Plain,
    /// `NAME.ipns.HOST`.
    Ipns(String),
    /// `CID.ipfs.HOST`.
    Ipfs(String),
    /// Not ours.
    Foreign,
}

/// Reads `header` (with or without port); `ours` are the configured names.
pub(crate) fn parse(header: Option<&str>, ours: &[String]) -> Host {
    let Some(header) = header else { return Host::Plain };
    let name = without_port(header.trim())
        .trim_end_matches('.')
        .to_ascii_lowercase();
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || ours.contains(&name) {
        return Host::Plain;
    }
    for own in ours {
        let Some(rest) = name.strip_suffix(own.as_str()) else {
            continue;
        };
        if let Some(label) = rest.strip_suffix(".ipns.").filter(|label| !label.is_empty()) {
            return Host::Ipns(label.to_owned());
        }
        if let Some(label) = rest
            .strip_suffix(".ipfs.")
            .filter(|label| !label.is_empty() && !label.contains('.'))
        {
            return Host::Ipfs(label.to_owned());
        }
    }
    Host::Foreign
}

fn without_port(host: &str) -> &str {
    if let Some(end) = host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        return &host[..end + 2];
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: &str) -> Host {
        parse(Some(host), &["localhost".to_owned(), "mirror.lan".to_owned()])
    }

    #[test]
    fn addresses_and_our_names_are_ours() {
        for ours in [
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "192.168.1.5",
            "localhost",
            "LOCALHOST:8080",
            "mirror.lan",
        ] {
            assert_eq!(read(ours), Host::Plain, "{ours}");
        }
        assert_eq!(parse(None, &[]), Host::Plain, "HTTP/1.0 sends none");
    }

    #[test]
    fn subdomains_name_mirrors_with_and_without_dots() {
        let dotted = "x86-64.archlinux.pkg.pacman.store";
        assert_eq!(
            read(&format!("{dotted}.ipns.localhost:8080")),
            Host::Ipns(dotted.into())
        );
        let inlined = "x86--64-archlinux-pkg-pacman-store";
        assert_eq!(
            read(&format!("{inlined}.ipns.localhost")),
            Host::Ipns(inlined.into())
        );
        assert_eq!(read("bafy.ipfs.localhost"), Host::Ipfs("bafy".into()));
    }

    #[test]
    fn foreign_names_are_refused() {
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            ".ipns.localhost",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert_eq!(read(foreign), Host::Foreign, "{foreign}");
        }
    }
}
