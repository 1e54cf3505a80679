//! Which repositories of this machine we serve, from which mirrors, and which of them are public.
//!
//! - Invariant: pure: pacman's settings in, a list out.
//! - Invariant: public is only what everybody knows: a repository of a known distribution, all of
//!   whose mirrors are on the internet and need no secret. Everything else is private.

use std::net::IpAddr;

use pacstore_pacman::{RepositorySettings, Settings, expand_server};
use url::{Host, Url};

/// How many mirrors of one repository are taken over, the first ones.
const MAX_UPSTREAMS: usize = 8;

/// Repositories of Arch Linux (Manjaro's have the same names).
const ARCH: &[&str] = &[
    "core",
    "extra",
    "community",
    "multilib",
    "testing",
    "community-testing",
    "core-testing",
    "extra-testing",
    "multilib-testing",
    "core-staging",
    "extra-staging",
    "multilib-staging",
    "gnome-unstable",
    "kde-unstable",
];

/// Repositories of others that everybody knows.
const OTHERS: &[&str] = &["endeavouros", "chaotic-aur"];

/// ALHP's repositories are Arch's with one of these behind the name.
const ALHP: &[&str] = &["-x86-64-v2", "-x86-64-v3", "-x86-64-v4"];

/// Endings of names that only a local network knows.
const LOCAL: &[&str] = &[
    ".local",
    ".lan",
    ".home",
    ".internal",
    ".home.arpa",
    ".localdomain",
    ".intranet",
    ".corp",
    ".private",
    ".test",
];

/// One repository that we serve.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Repository {
    pub(crate) name: String,
    pub(crate) arch: String,
    /// Its folder on ordinary mirrors, in pacman's order.
    pub(crate) upstreams: Vec<String>,
    pub(crate) public: bool,
    /// Its databases and packages are checked by pacman's keyring.
    pub(crate) signatures: bool,
}

/// One that we do not serve.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LeftAlone {
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

/// What becomes of each repository of `settings`; `machine` is what `Architecture = auto` means.
pub(crate) fn sort(settings: &Settings, machine: &str) -> (Vec<Repository>, Vec<LeftAlone>) {
    let arch = settings.architecture(machine);
    let (mut ours, mut left) = (Vec::new(), Vec::new());
    for one in &settings.repositories {
        match repository(one, arch) {
            Ok(repository) => ours.push(repository),
            Err(why) => left.push(LeftAlone {
                name: one.name.clone(),
                why,
            }),
        }
    }
    (ours, left)
}

fn repository(settings: &RepositorySettings, arch: &str) -> Result<Repository, &'static str> {
    let name = &settings.name;
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%' | b'?' | b'#' | b'\\');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err("its name cannot stand in a URL");
    }
    if settings.servers.is_empty() {
        return Err("it has no Server");
    }
    let urls: Vec<Url> = settings
        .servers
        .iter()
        .filter_map(|server| Url::parse(&expand_server(server, name, arch)).ok())
        .filter(|url| !is_gateway(url))
        .collect();
    let remote: Vec<&Url> = urls
        .iter()
        .filter(|url| matches!(url.scheme(), "http" | "https") && !is_secret(url))
        .collect();
    if remote.is_empty() {
        return Err("no server of it is an ordinary HTTP mirror that needs no password");
    }
    let public = is_known(name) && urls.iter().all(is_open);
    let mut upstreams: Vec<String> = Vec::new();
    for url in remote {
        let text = format!("{}/", url.as_str().trim_end_matches('/'));
        if !upstreams.contains(&text) && upstreams.len() < MAX_UPSTREAMS {
            upstreams.push(text);
        }
    }
    Ok(Repository {
        name: name.clone(),
        arch: arch.to_owned(),
        upstreams,
        public,
        signatures: false,
    })
}

fn is_known(name: &str) -> bool {
    let base = ALHP.iter().find_map(|ending| name.strip_suffix(ending));
    ARCH.contains(&base.unwrap_or(name)) || OTHERS.contains(&name)
}

/// A gateway of this machine, ours or another one: it is no mirror but asks mirrors itself.
pub(crate) fn is_gateway(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) if name.ends_with(".localhost") => return true,
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    here && ["/pacman/", "/ipns/", "/ipfs/"]
        .iter()
        .any(|form| url.path().starts_with(form))
}

/// A URL that carries a secret: it stays in pacman's configuration alone.
fn is_secret(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some() || url.query().is_some()
}

/// On the internet, for everybody.
fn is_open(url: &Url) -> bool {
    let global = match url.host() {
        Some(Host::Ipv4(ip)) => !pacstore_net::is_lan_ip(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => !pacstore_net::is_lan_ip(IpAddr::V6(ip)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.contains('.') && !LOCAL.iter().any(|ending| name.ends_with(ending))
        }
        None => false,
    };
    matches!(url.scheme(), "http" | "https") && global && !is_secret(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacstore_pacman::Conf;

    fn sorted(text: &str) -> (Vec<Repository>, Vec<LeftAlone>) {
        let settings = Settings::read(&Conf::parse(text.as_bytes()), &mut |_| Vec::new());
        sort(&settings.expect("settings"), "x86_64")
    }

    fn is_public(name: &str, servers: &[&str]) -> bool {
        let servers = servers.join("\nServer = ");
        let (ours, _) = sorted(&format!("[{name}]\nServer = {servers}\n"));
        ours.first().expect("a repository").public
    }

    #[test]
    fn only_what_everybody_knows_and_can_reach_is_public() {
        let mirror = "https://mirror.example/$repo/os/$arch";
        for name in [
            "core",
            "multilib",
            "kde-unstable",
            "extra-x86-64-v3",
            "chaotic-aur",
            "endeavouros",
        ] {
            assert!(is_public(name, &[mirror]), "{name}");
        }
        for name in ["mine", "corex", "core-x86-64-v9", "endeavouros-x86-64-v3"] {
            assert!(!is_public(name, &[mirror]), "{name}");
        }
        for other in [
            "http://192.168.1.2/$repo",
            "http://[fd00::1]/$repo",
            "http://nas/$repo",
            "http://nas.lan/$repo",
            "https://me:secret@mirror.example/$repo",
            "https://mirror.example/$repo?token=secret",
            "file:///srv/$repo",
        ] {
            assert!(!is_public("core", &[mirror, other]), "{other}");
        }
    }

    #[test]
    fn mirrors_keep_pacmans_order_and_a_gateway_of_this_machine_is_no_mirror() {
        let (ours, left) = sorted(
            "[options]\nArchitecture = auto\n[core]\nServer = http://x.ipns.localhost:8080/$repo\nServer = http://localhost:8080/ipns/x/$repo\n\
             Server = https://b.example/$repo/os/$arch/\nServer = ftp://c.example/$repo\nServer = https://a.example/$repo\n\
             Server = https://a.example/$repo/\nServer = https://me:secret@a.example/$repo\n[own]\nServer = http://127.0.0.1/own\n[custom]\nServer = file:///srv\n[empty]\n",
        );
        assert_eq!(
            ours[0].upstreams,
            ["https://b.example/core/os/x86_64/", "https://a.example/core/"]
        );
        assert_eq!(
            (ours[1].upstreams[0].as_str(), ours[1].public),
            ("http://127.0.0.1/own/", false)
        );
        let names: Vec<_> = left.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["custom", "empty"]);
    }
}
