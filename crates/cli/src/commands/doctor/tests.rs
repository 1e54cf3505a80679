//! Each link broken by itself: the line that then says so, and that nothing else does.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::judge::{
    CacheFacts, DaemonFacts, Facts, Line, PacmanFacts, Reached, RepositoryFacts, Served, UpstreamFacts,
    Verdict, judge,
};

const HOUR: Duration = Duration::from_hours(1);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn upstream(url: &str, age: Duration) -> UpstreamFacts {
    UpstreamFacts {
        repository: "core".to_owned(),
        url: url.to_owned(),
        answer: Ok((Some(now() - age), Some(now()))),
    }
}

fn repository() -> RepositoryFacts {
    RepositoryFacts {
        name: "core".to_owned(),
        ours: vec![(0, 8080)],
        servers: 3,
        cache: Vec::new(),
        ordinary: true,
    }
}

/// A machine on which everything is as it should be.
fn sound() -> Facts {
    Facts {
        now: now(),
        config: Ok(Some(PathBuf::from("/etc/pacstore/pacstore.toml"))),
        daemon: Some(DaemonFacts {
            served: vec![Served {
                name: "core".to_owned(),
                state: "current".to_owned(),
                age_s: Some(60),
                error: None,
            }],
            peers: 2,
            store: (1, 2),
            addresses: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
            caches: vec![(PathBuf::from("/var/cache/pacman/pkg/"), None)],
        }),
        gateway: (SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), Reached::Answer),
        localhost_names: true,
        mdns: true,
        swarm_ports: vec![4001],
        upstreams: vec![
            upstream("https://a.example/", HOUR),
            upstream("https://b.example/", 2 * HOUR),
        ],
        pacman: Ok(PacmanFacts {
            conf: PathBuf::from("/etc/pacman.conf"),
            version: Some((7, 1)),
            repositories: vec![repository()],
            caches: vec![CacheFacts {
                path: PathBuf::from("/var/cache/pacman/pkg"),
                exists: true,
                readable: true,
                writable: true,
                parts: None,
            }],
            lock: None,
        }),
        free: Some(100_000_000_000),
        unwritable: None,
        max_size: 10_000_000_000,
        firewalls: Vec::new(),
        proxy: None,
        guessed: false,
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Vec<Line> {
    let mut facts = sound();
    change(&mut facts);
    judge(&facts)
}

fn with_repository(change: impl FnOnce(&mut RepositoryFacts)) -> Vec<Line> {
    with(|facts| {
        let pacman = facts.pacman.as_mut().expect("pacman");
        change(&mut pacman.repositories[0]);
    })
}

/// Exactly this line is not ok, and it says what to do.
#[track_caller]
fn only(lines: &[Line], verdict: Verdict, link: &str, words: &str) {
    let wrong: Vec<_> = lines.iter().filter(|line| line.verdict != Verdict::Ok).collect();
    assert_eq!(wrong.len(), 1, "{wrong:#?}");
    assert_eq!((wrong[0].verdict, wrong[0].link), (verdict, link), "{wrong:#?}");
    assert!(wrong[0].says.contains(words), "{wrong:#?}");
    assert!(
        wrong[0].fix.as_ref().is_some_and(|fix| !fix.is_empty()),
        "{wrong:#?}"
    );
}

#[test]
fn a_sound_machine_has_nothing_but_ok() {
    let lines = judge(&sound());
    assert!(lines.iter().all(|line| line.verdict == Verdict::Ok), "{lines:#?}");
    let links: Vec<_> = lines.iter().map(|line| line.link).collect();
    let all = [
        "configuration",
        "daemon",
        "gateway",
        "names",
        "fresh",
        "pacman",
        "cache",
        "upstream",
        "upstream",
        "clock",
        "disk",
        "network",
    ];
    assert_eq!(links, all);
}

#[test]
fn each_broken_link_is_the_one_that_is_named() {
    use Verdict::{Bad, Warn};
    only(
        &with(|f| f.config = Err("line 3".to_owned())),
        Bad,
        "configuration",
        "line 3",
    );
    only(
        &with(|f| f.config = Ok(None)),
        Warn,
        "configuration",
        "there is none",
    );
    only(
        &with(|f| f.gateway.1 = Reached::Refused),
        Bad,
        "gateway",
        "nobody listens",
    );
    only(
        &with(|f| f.gateway.1 = Reached::Silent),
        Bad,
        "gateway",
        "does not answer",
    );
    only(
        &with(|f| f.localhost_names = false),
        Warn,
        "names",
        "not resolved",
    );
    only(&with(|f| f.mdns = false), Warn, "network", "mdns is off");
    only(
        &with(|f| f.free = Some(5_000_000_000)),
        Warn,
        "disk",
        "5.00 GB free",
    );
    only(&with(|f| f.free = Some(5_000_000)), Bad, "disk", "5.0 MB free");
    only(
        &with(|f| f.unwritable = Some("is read-only")),
        Bad,
        "disk",
        "read-only",
    );
    only(
        &with(|f| f.pacman = Err("not there".to_owned())),
        Bad,
        "pacman",
        "not there",
    );
    only(
        &with(|f| f.upstreams[1] = upstream("https://b.example/", 30 * HOUR)),
        Warn,
        "upstream",
        "29 h behind",
    );
    only(
        &with(|f| f.upstreams[0].answer = Err(("refused".to_owned(), None))),
        Warn,
        "upstream",
        "a.example/ (core): refused",
    );
    for (state, verdict) in [
        ("warn", Warn),
        ("refused", Bad),
        ("none", Warn),
        ("torn", Warn),
        ("rollback", Warn),
    ] {
        let lines = with(|f| f.daemon.as_mut().expect("it").served[0].state = state.to_owned());
        only(&lines, verdict, "fresh", state);
    }
    only(
        &with(|f| f.daemon.as_mut().expect("it").peers = 0),
        Warn,
        "network",
        "no peer",
    );
    only(
        &with(|f| f.daemon.as_mut().expect("it").served.clear()),
        Warn,
        "fresh",
        "no mirror",
    );
}

#[test]
fn pacmans_order_is_read_line_by_line() {
    use Verdict::{Bad, Warn};
    only(
        &with_repository(|r| r.ours.clear()),
        Warn,
        "pacman",
        "[core] does not ask us",
    );
    only(
        &with_repository(|r| r.ours = vec![(1, 8080)]),
        Warn,
        "pacman",
        "asks 1 others before us",
    );
    only(
        &with_repository(|r| r.ours = vec![(0, 8081)]),
        Bad,
        "pacman",
        "asks port 8081, but the gateway is on 8080",
    );
    only(&with_repository(|r| r.servers = 1), Warn, "pacman", "nobody else");
    let cache = |r: &mut RepositoryFacts| {
        r.ours.clear();
        r.cache = vec![8080];
    };
    assert!(
        with_repository(cache)
            .iter()
            .all(|line| line.verdict == Verdict::Ok)
    );
    let alone = |r: &mut RepositoryFacts| {
        cache(r);
        r.servers = 0;
    };
    only(&with_repository(alone), Bad, "pacman", "no Server: pacman fails");
    let old = with(|f| {
        let pacman = f.pacman.as_mut().expect("pacman");
        pacman.version = Some((6, 0));
        cache(&mut pacman.repositories[0]);
    });
    only(&old, Bad, "pacman", "does not know");
    let local = |r: &mut RepositoryFacts| {
        r.ours.clear();
        r.ordinary = false;
    };
    assert!(
        with_repository(local)
            .iter()
            .all(|line| line.verdict == Verdict::Ok)
    );
}

#[test]
fn leftovers_and_rights_of_pacmans_folders_are_told() {
    use Verdict::{Bad, Warn};
    let pacman = |change: fn(&mut PacmanFacts)| with(|f| change(f.pacman.as_mut().expect("pacman")));
    only(
        &pacman(|p| p.lock = Some(("/db.lck".into(), false))),
        Bad,
        "lock",
        "no pacman runs",
    );
    assert!(
        pacman(|p| p.lock = Some(("/db.lck".into(), true)))
            .iter()
            .all(|line| line.verdict == Verdict::Ok)
    );
    // A daemon that was not told of it has not tried.
    let untried = with(|f| {
        f.daemon.as_mut().expect("it").caches.clear();
        f.pacman.as_mut().expect("pacman").caches[0].readable = false;
    });
    only(&untried, Warn, "cache", "cannot be read");
    only(
        &pacman(|p| p.caches[0].exists = false),
        Warn,
        "cache",
        "is not there",
    );
    only(
        &pacman(|p| p.caches[0].parts = Some((3, 48 * HOUR))),
        Warn,
        "leftovers",
        "3 unfinished",
    );
    assert!(
        pacman(|p| p.caches[0].parts = Some((3, HOUR)))
            .iter()
            .all(|line| line.verdict == Verdict::Ok)
    );
}

#[test]
fn a_clock_is_judged_by_the_mirror_that_agrees_best() {
    let off = |by: Duration, of_all: usize| {
        with(|f| {
            for one in f.upstreams.iter_mut().take(of_all) {
                one.answer = Ok((None, Some(now() + by)));
            }
        })
    };
    only(&off(HOUR, 2), Verdict::Warn, "clock", "off by 60 min");
    only(&off(24 * HOUR, 2), Verdict::Bad, "clock", "off by 24 h");
    assert!(off(24 * HOUR, 1).iter().all(|line| line.verdict == Verdict::Ok));
    only(
        &with(|f| {
            f.now = SystemTime::UNIX_EPOCH;
            f.upstreams.clear();
        }),
        Verdict::Bad,
        "clock",
        "before 2025",
    );
}

#[test]
fn without_a_daemon_the_port_tells_whether_another_program_has_it() {
    let without = |reached: Reached| {
        with(|f| {
            f.daemon = None;
            f.gateway.1 = reached;
        })
    };
    let says = |lines: &[Line]| {
        lines
            .iter()
            .find(|line| line.link == "gateway")
            .expect("a line")
            .says
            .clone()
    };
    assert!(says(&without(Reached::Answer)).contains("another program has 127.0.0.1:8080"));
    assert!(says(&without(Reached::Refused)).contains("nobody listens"));
    let lines = without(Reached::Refused);
    assert!(
        lines
            .iter()
            .any(|line| line.link == "daemon" && line.verdict == Verdict::Bad)
    );
}

#[test]
fn a_cache_is_what_the_daemon_made_of_it_and_by_its_mode_only_without_one() {
    use Verdict::Warn;
    let cache = |f: &mut Facts, change: &dyn Fn(&mut CacheFacts)| {
        change(&mut f.pacman.as_mut().expect("pacman").caches[0]);
    };
    // A list of users lets the daemon in, whatever the mode says.
    let lines = with(|f| cache(f, &|one| one.readable = false));
    assert!(lines.iter().all(|line| line.verdict == Verdict::Ok), "{lines:#?}");
    let lines = with(|f| {
        f.daemon.as_mut().expect("it").caches.clear();
        cache(f, &|one| one.readable = false);
    });
    only(&lines, Warn, "cache", "cannot be read by the daemon");
    let lines = with(|f| {
        f.daemon.as_mut().expect("it").caches[0].1 = Some("Permission denied".to_owned());
    });
    only(&lines, Warn, "cache", "Permission denied");
    let lines = with(|f| cache(f, &|one| one.writable = false));
    let line = lines.iter().find(|line| line.link == "cache").expect("a line");
    assert_eq!(line.verdict, Verdict::Ok);
    assert!(line.says.contains("read-only"), "{line:?}");
    let lines = with(|f| cache(f, &|one| one.exists = false));
    only(&lines, Warn, "cache", "is not there");
}

#[test]
fn a_proxy_that_pacman_asks_for_us_is_told() {
    let said = |set: &[(&str, &str)]| {
        let get = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        super::probe::proxy_in_the_way(Ipv4Addr::LOCALHOST.into(), get)
    };
    let proxy = ("http_proxy", "http://proxy.example:3128");
    assert_eq!(said(&[proxy]), Some("http_proxy"));
    assert_eq!(
        said(&[("ALL_PROXY", "socks5://x"), ("no_proxy", "localhost, .lan")]),
        Some("ALL_PROXY")
    );
    assert_eq!(
        said(&[proxy, ("no_proxy", "10.0.0.0/8 127.0.0.2")]),
        Some("http_proxy")
    );
    for fine in ["*", "localhost,127.0.0.1", "127.0.0.0/8", ".lan 127.0.0.1"] {
        assert_eq!(said(&[proxy, ("no_proxy", fine)]), None, "{fine}");
    }
    // Not for http, or as if not set.
    assert_eq!(
        said(&[
            ("HTTP_PROXY", "http://x"),
            ("https_proxy", "http://x"),
            ("http_proxy", "")
        ]),
        None
    );
    let mut facts = sound();
    facts.proxy = Some("http_proxy");
    let lines: Vec<_> = judge(&facts)
        .into_iter()
        .filter(|line| line.verdict != Verdict::Ok)
        .collect();
    assert!(
        matches!(
            &lines[..],
            [Line {
                link: "proxy",
                fix: Some(_),
                ..
            }]
        ),
        "{lines:?}"
    );
}

#[test]
fn a_line_for_us_that_a_person_wrote_is_known_in_each_of_its_forms() {
    use super::probe::port;
    for line in [
        "http://127.0.0.1:8080/pacman/$repo/$arch",
        "http://127.0.0.1:8080/pacman/core/x86_64/",
        "http://localhost:8080/ipns/arch.example.org/$repo/os/$arch",
        "http://arch.example.org.ipns.localhost:8080/$repo/os/$arch",
        "http://[::1]:8080/pacman/core/$arch",
    ] {
        assert_eq!(port(line, 8080), Some(8080), "{line}");
    }
    // For another port only what nobody else would have there.
    assert_eq!(port("http://127.0.0.1:8081/pacman/$repo/$arch", 8080), Some(8081));
    for line in [
        "http://127.0.0.1:8081/ipns/arch.example.org/$repo",
        "http://127.0.0.1:8080/mirror/$repo",
        "https://mirror.example/pacman/$repo/$arch",
    ] {
        assert_eq!(port(line, 8080), None, "{line}");
    }
}
