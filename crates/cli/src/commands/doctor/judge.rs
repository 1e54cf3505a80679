//! From what was found to what is wrong and what helps.
//!
//! - Invariant: pure: facts in, lines out; every line that is not `ok` says what to do.
//! - Not here: how the facts are found (`super::probe`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::printer::{bytes, seconds};

/// A mirror that is this much older than the newest is behind.
const BEHIND: Duration = Duration::from_hours(24);
/// A clock that is off by this much is wrong: certificates and ages are judged by it.
const CLOCK_WARN: Duration = Duration::from_mins(5);
const CLOCK_BAD: Duration = Duration::from_hours(12);
/// No machine that runs this has an earlier clock: 2025-01-01.
const EARLIEST: Duration = Duration::from_hours(482_136);
/// Free space that a large update needs.
const ROOM: u64 = 1_000_000_000;

/// How it stands with one link of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Warn,
    Bad,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) link: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) says: String,
    pub(crate) fix: Option<String>,
}

fn ok(link: &'static str, says: impl Into<String>) -> Line {
    line(link, Verdict::Ok, says, None)
}

fn warn(link: &'static str, says: impl Into<String>, fix: &str) -> Line {
    line(link, Verdict::Warn, says, Some(fix))
}

fn bad(link: &'static str, says: impl Into<String>, fix: &str) -> Line {
    line(link, Verdict::Bad, says, Some(fix))
}

fn line(link: &'static str, verdict: Verdict, says: impl Into<String>, fix: Option<&str>) -> Line {
    Line {
        link,
        verdict,
        says: says.into(),
        fix: fix.map(str::to_owned),
    }
}

/// What a connection to the gateway's port shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// An HTTP answer came.
    Answer,
    /// Something listens and says nothing that is HTTP, or nothing in time.
    Silent,
    /// Nobody listens.
    Refused,
}

/// One mirror or repository as the daemon sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) age_s: Option<u64>,
    pub(crate) error: Option<String>,
}

/// What the daemon says.
#[derive(Clone, Debug, Default)]
pub(crate) struct DaemonFacts {
    pub(crate) served: Vec<Served>,
    pub(crate) peers: u64,
    pub(crate) store: (u64, u64),
    pub(crate) addresses: Vec<String>,
    /// pacman's caches that it takes packages from, and what keeps it from that.
    pub(crate) caches: Vec<(PathBuf, Option<String>)>,
}

/// What one upstream answers for one database.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamFacts {
    pub(crate) repository: String,
    pub(crate) url: String,
    pub(crate) answer: Asked,
}

/// Time of a database and the server's clock, or why it failed and what can be done.
pub(crate) type Asked = Result<(Option<SystemTime>, Option<SystemTime>), (String, Option<&'static str>)>;

/// One repository in pacman's configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct RepositoryFacts {
    pub(crate) name: String,
    /// At which places among its servers we stand, and the port asked.
    pub(crate) ours: Vec<(usize, u16)>,
    /// How many servers it has, ours included.
    pub(crate) servers: usize,
    /// Ports of our lines among its `CacheServer`s.
    pub(crate) cache: Vec<u16>,
    /// An ordinary HTTP mirror serves it, so we could.
    pub(crate) ordinary: bool,
}

/// Pacman's side.
#[derive(Clone, Debug, Default)]
pub(crate) struct PacmanFacts {
    pub(crate) conf: PathBuf,
    pub(crate) version: Option<(u32, u32)>,
    pub(crate) repositories: Vec<RepositoryFacts>,
    pub(crate) caches: Vec<CacheFacts>,
    /// `db.lck`, and whether a pacman runs.
    pub(crate) lock: Option<(PathBuf, bool)>,
}

/// One directory of packages.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheFacts {
    pub(crate) path: PathBuf,
    pub(crate) exists: bool,
    /// Others than root may read it.
    pub(crate) readable: bool,
    /// Root may write to it, so pacman downloads there.
    pub(crate) writable: bool,
    /// Unfinished downloads: how many, and how old the oldest is.
    pub(crate) parts: Option<(usize, Duration)>,
}

/// All that was found.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) now: SystemTime,
    /// The file; `None` where there is none.
    pub(crate) config: Result<Option<PathBuf>, String>,
    pub(crate) daemon: Option<DaemonFacts>,
    pub(crate) gateway: (SocketAddr, Reached),
    /// `NAME.ipns.localhost` leads to this machine.
    pub(crate) localhost_names: bool,
    pub(crate) mdns: bool,
    pub(crate) swarm_ports: Vec<u16>,
    pub(crate) upstreams: Vec<UpstreamFacts>,
    pub(crate) pacman: Result<PacmanFacts, String>,
    /// Which configuration pacman has could not be read in ours: the one in the usual place was taken.
    pub(crate) guessed: bool,
    /// Free bytes where the store is.
    pub(crate) free: Option<u64>,
    /// Why nobody can make a file in the state directory.
    pub(crate) unwritable: Option<&'static str>,
    pub(crate) max_size: u64,
    /// Programs that filter packets here.
    pub(crate) firewalls: Vec<&'static str>,
    /// The variable by which programs of this environment ask a proxy for our gateway, too.
    pub(crate) proxy: Option<&'static str>,
}

/// The chain from the configuration to the neighbours, link by link.
pub(crate) fn judge(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![configuration(facts), daemon(facts), gateway(facts), names(facts)];
    lines.extend(facts.proxy.map(proxy));
    lines.extend(served(facts));
    lines.extend(pacman(facts));
    lines.extend(upstreams(facts));
    lines.extend([clock(facts), disk(facts)]);
    lines.extend(neighbours(facts));
    lines
}

fn configuration(facts: &Facts) -> Line {
    match &facts.config {
        Ok(Some(path)) => ok("configuration", format!("{} is in order", path.display())),
        Ok(None) => warn(
            "configuration",
            "there is none: all defaults hold, and no mirror and no repository is known",
            "`pacstore setup` writes one from pacman's configuration; `pacstore init` one for an importer or its clients",
        ),
        Err(why) => bad(
            "configuration",
            why,
            "mend the line; `pacstore config reference` lists every key",
        ),
    }
}

fn daemon(facts: &Facts) -> Line {
    match &facts.daemon {
        Some(_) => ok("daemon", "answers on its socket"),
        None => bad(
            "daemon",
            "no daemon answers",
            "`systemctl enable --now pacstore`, or `pacstore daemon`; pacman goes on to its mirrors meanwhile",
        ),
    }
}

fn gateway(facts: &Facts) -> Line {
    let (address, reached) = &facts.gateway;
    match (reached, &facts.daemon) {
        (Reached::Answer, Some(_)) => ok("gateway", format!("http://{address} answers")),
        (Reached::Answer | Reached::Silent, None) => bad(
            "gateway",
            format!("another program has {address}"),
            "set gateway.listen to a free port, then run `pacstore setup` again",
        ),
        (Reached::Silent, Some(_)) => bad(
            "gateway",
            format!("{address} takes connections and does not answer"),
            "restart the daemon; `PACSTORE_LOG=debug pacstore daemon` shows why",
        ),
        (Reached::Refused, _) => bad(
            "gateway",
            format!("nobody listens on {address}"),
            "start the daemon",
        ),
    }
}

fn names(facts: &Facts) -> Line {
    if facts.localhost_names {
        return ok("names", "NAME.ipns.localhost leads to this machine");
    }
    warn(
        "names",
        "NAME.ipns.localhost is not resolved here",
        "only browsers and subdomain addresses need it: add `myhostname` to `hosts:` in /etc/nsswitch.conf, or use systemd-resolved",
    )
}

fn proxy(variable: &str) -> Line {
    warn(
        "proxy",
        format!(
            "{variable} is set, so pacman started from here asks that proxy for us and goes on to its mirrors"
        ),
        "set no_proxy=localhost,127.0.0.1 wherever it is set; the daemon itself uses no proxy",
    )
}

fn served(facts: &Facts) -> Vec<Line> {
    let Some(daemon) = &facts.daemon else {
        return Vec::new();
    };
    let one = |served: &Served| {
        let age = served.age_s.map(|age| format!(", checked {} ago", seconds(age)));
        let says = format!("{} is {}{}", served.name, served.state, age.unwrap_or_default());
        let says = match &served.error {
            Some(error) => format!("{says}: {error}"),
            None => says,
        };
        match served.state.as_str() {
            "current" => ok("fresh", says),
            "refused" => bad(
                "fresh",
                says,
                "its databases come from the ordinary mirrors; see `pacstore resolve NAME` and ask its importer",
            ),
            "none" => warn(
                "fresh",
                says,
                "nothing was learnt of it yet: an importer or an upstream must be reachable",
            ),
            _ => warn(
                "fresh",
                says,
                "wait for the importer or mirror to go on; `pacstore status` says more",
            ),
        }
    };
    if daemon.served.is_empty() {
        return vec![warn(
            "fresh",
            "no mirror and no repository is configured",
            "run `pacstore setup`",
        )];
    }
    daemon.served.iter().map(one).collect()
}

fn pacman(facts: &Facts) -> Vec<Line> {
    let pacman = match &facts.pacman {
        Ok(pacman) => pacman,
        Err(why) => {
            return vec![bad(
                "pacman",
                why,
                "name pacman's configuration with --config FILE",
            )];
        }
    };
    let port = facts.gateway.0.port();
    let mut lines = Vec::new();
    if facts.guessed {
        let says = format!(
            "{} is taken for pacman's configuration: whether `[pacman] config` names another cannot be read",
            pacman.conf.display()
        );
        lines.push(warn(
            "pacman",
            says,
            "mend our configuration, or name pacman's with --config FILE",
        ));
    }
    lines.extend(pacman.repositories.iter().map(|one| order(one, port, pacman)));
    if pacman.repositories.is_empty() {
        let says = format!("{} has no repository", pacman.conf.display());
        lines.push(warn("pacman", says, "add the sections of your distribution"));
    }
    let caches = pacman.caches.iter();
    lines.extend(caches.map(|one| cache(one, facts.daemon.as_ref())));
    for cache in &pacman.caches {
        if let Some((count, age)) = cache.parts.filter(|(_, age)| *age > Duration::from_hours(24)) {
            let says = format!(
                "{count} unfinished downloads in {}, the oldest {} old",
                cache.path.display(),
                seconds(age.as_secs())
            );
            lines.push(warn(
                "leftovers",
                says,
                "pacman goes on with them; those of packages that are gone: delete *.part",
            ));
        }
    }
    if let Some((path, running)) = &pacman.lock
        && !running
    {
        let says = format!("{} is there and no pacman runs", path.display());
        lines.push(bad("lock", says, "a pacman was killed: delete the file"));
    }
    lines
}

fn order(one: &RepositoryFacts, port: u16, pacman: &PacmanFacts) -> Line {
    let name = &one.name;
    if !one.cache.is_empty() {
        if pacman.version.is_some_and(|version| version < (6, 1)) {
            let says = format!("[{name}] asks us as CacheServer, which this pacman does not know");
            return bad("pacman", says, "run `pacstore setup` without --cache-server");
        }
        if one.servers == 0 {
            let says = format!("[{name}] has a CacheServer and no Server: pacman fails");
            return bad("pacman", says, "add its mirrors");
        }
        return match one.cache.iter().find(|other| **other != port) {
            Some(other) => wrong_port(name, *other, port),
            None => ok(
                "pacman",
                format!("[{name}] asks us for packages, then its mirrors"),
            ),
        };
    }
    match one.ours.first() {
        None if !one.ordinary => ok(
            "pacman",
            format!("[{name}] has no ordinary HTTP mirror: it does without us"),
        ),
        None => warn(
            "pacman",
            format!("[{name}] does not ask us"),
            "run `pacstore setup`",
        ),
        Some((_, other)) if *other != port => wrong_port(name, *other, port),
        Some((0, _)) if one.servers == one.ours.len() => {
            let says = format!("[{name}] asks us and nobody else");
            warn(
                "pacman",
                says,
                "leave ordinary mirrors behind us, for when the daemon does not run",
            )
        }
        Some((0, _)) => ok("pacman", format!("[{name}] asks us first, then its mirrors")),
        Some((place, _)) => {
            let says = format!("[{name}] asks {place} others before us");
            warn(
                "pacman",
                says,
                "run `pacstore setup`; a line that you wrote yourself has to be moved up by hand",
            )
        }
    }
}

fn wrong_port(name: &str, asked: u16, port: u16) -> Line {
    let says = format!("[{name}] asks port {asked}, but the gateway is on {port}");
    bad(
        "pacman",
        says,
        "run `pacstore setup` again; a line that you wrote yourself has to be corrected by hand",
    )
}

fn cache(one: &CacheFacts, daemon: Option<&DaemonFacts>) -> Line {
    let path = one.path.display();
    // The daemon has tried: rights of folders above it, lists of users, a sandbox count, too.
    let tried = daemon.and_then(|daemon| {
        let known = daemon.caches.iter().find(|(path, _)| same(path, &one.path))?;
        Some(known.1.as_deref())
    });
    if one.exists
        && let Some(Some(why)) = tried
    {
        return warn(
            "cache",
            format!("{path}: {why}"),
            "chmod o+rX it and the folders above it, if packages that pacman already has are to be shared",
        );
    }
    match (one.exists, one.readable || tried.is_some()) {
        (true, true) if !one.writable => ok(
            "cache",
            format!("{path} can be read; it is read-only, so pacman downloads elsewhere"),
        ),
        (true, true) => ok("cache", format!("{path} can be read")),
        (true, false) => warn(
            "cache",
            format!("{path} cannot be read by the daemon"),
            "chmod o+rx, if packages that pacman already has are to be shared",
        ),
        (false, _) => warn(
            "cache",
            format!("{path} is not there"),
            "pacman makes it when it downloads first",
        ),
    }
}

/// The same folder, however its slashes are written.
fn same(one: &Path, other: &Path) -> bool {
    one.components().eq(other.components())
}

fn upstreams(facts: &Facts) -> Vec<Line> {
    let newest = |repository: &str| {
        let same = facts.upstreams.iter().filter(|one| one.repository == repository);
        same.filter_map(|one| one.answer.as_ref().ok()?.0).max()
    };
    let one = |upstream: &UpstreamFacts| {
        let what = format!("{} ({})", upstream.url, upstream.repository);
        match &upstream.answer {
            Err((why, hint)) => warn(
                "upstream",
                format!("{what}: {why}"),
                hint.unwrap_or(
                    "other mirrors are used meanwhile; if it stays so, take it out of the mirror list",
                ),
            ),
            Ok((time, _)) => {
                let behind = time.zip(newest(&upstream.repository));
                let behind = behind.and_then(|(time, newest)| newest.duration_since(time).ok());
                match behind.filter(|behind| *behind > BEHIND) {
                    Some(behind) => warn(
                        "upstream",
                        format!("{what} is {} behind the newest", seconds(behind.as_secs())),
                        "put a fresher mirror first in the mirror list",
                    ),
                    None => ok("upstream", format!("{what} answers")),
                }
            }
        }
    };
    let mut lines: Vec<Line> = facts.upstreams.iter().map(one).collect();
    if !lines.is_empty() && facts.upstreams.iter().all(|one| one.answer.is_err()) {
        lines.push(bad(
            "upstream",
            "no mirror answers at all",
            "look at the network of this machine",
        ));
    }
    lines
}

fn clock(facts: &Facts) -> Line {
    let fix = "set the clock: `timedatectl set-ntp true`";
    if facts
        .now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        < EARLIEST
    {
        return bad("clock", "the clock is before 2025", fix);
    }
    let off = |date: SystemTime| {
        let ahead = facts.now.duration_since(date);
        ahead.unwrap_or_else(|behind| behind.duration())
    };
    let dates = facts
        .upstreams
        .iter()
        .filter_map(|one| one.answer.as_ref().ok()?.1);
    // The mirror that agrees best: one of them may be wrong itself.
    match dates.map(off).min() {
        None => ok("clock", "no mirror told the time, nothing speaks against ours"),
        Some(off) if off > CLOCK_BAD => bad("clock", format!("off by {}", seconds(off.as_secs())), fix),
        Some(off) if off > CLOCK_WARN => warn("clock", format!("off by {}", seconds(off.as_secs())), fix),
        Some(_) => ok("clock", "agrees with a mirror's"),
    }
}

fn disk(facts: &Facts) -> Line {
    if let Some(why) = facts.unwritable {
        return bad(
            "disk",
            format!("the state directory's file system {why}"),
            "see `dmesg` for an error of the disk, and `df -i` for inodes; nothing is kept until it can be written to",
        );
    }
    let Some(free) = facts.free else {
        return warn(
            "disk",
            "free space is not known",
            "see whether the state directory exists",
        );
    };
    let used = facts.daemon.as_ref().map_or(0, |daemon| daemon.store.0);
    let wanted = facts.max_size.saturating_sub(used);
    let says = format!("{} free, the store may grow by {}", bytes(free), bytes(wanted));
    if free < ROOM {
        return bad(
            "disk",
            says,
            "make room, or lower store.max_size and run `pacstore gc`",
        );
    }
    if free < wanted {
        return warn("disk", says, "lower store.max_size to what the disk can give");
    }
    ok("disk", says)
}

fn neighbours(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    match (&facts.daemon, facts.mdns) {
        (_, false) => lines.push(warn(
            "network",
            "swarm.mdns is off: machines of this house are not found",
            "set swarm.mdns = true to share with them",
        )),
        (Some(daemon), true) if daemon.peers == 0 => lines.push(warn(
            "network",
            "no peer is connected",
            "mirrors do without; for peers open the swarm's ports and see `pacstore status`",
        )),
        (Some(daemon), true) => lines.push(ok(
            "network",
            format!("{} peers, {} addresses", daemon.peers, daemon.addresses.len()),
        )),
        (None, true) => {}
    }
    if !facts.firewalls.is_empty() {
        let ports: Vec<String> = facts.swarm_ports.iter().map(u16::to_string).collect();
        let says = format!("{} filters packets here", facts.firewalls.join(", "));
        let fix = format!(
            "if neighbours do not find this machine: let in tcp and udp {} and mDNS (udp 5353)",
            ports.join(", ")
        );
        lines.push(line("firewall", Verdict::Ok, says, Some(&fix)));
    }
    lines
}
