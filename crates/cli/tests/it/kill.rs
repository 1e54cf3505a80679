//! SIGKILL at random points of imports and of fetches; the node starts again by itself.
//!
//! An importer and a client, real processes with real stores. In each round upstream moves on,
//! one of the two is killed somewhere in the work that follows and is started again. The importer
//! reads a directory, a web server or an rsync daemon, keeps two snapshots, and is often told to
//! free space meanwhile: a kill falls into transfer, publishing, retention or gc. Then:
//! the store has no damage, the head is the old or the new one and whole, the work is finished
//! when it is asked for once more, and every byte is right.
//!
//! `PACSTORE_KILLS` says how many rounds (20 without it; `cargo xtask soak kill` sets 200) and
//! `PACSTORE_SEED` repeats the choices, though not the exact points in time.
//!
//! - Not here: power loss (the store's own crash tests stop after each step of each write).

use std::net::TcpListener;
use std::time::{Duration, Instant};

use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, Upstream};
use rustix::process::Signal;

use crate::daemon::{Daemon, until};
use crate::home::{DEADLINE, Home, LOOPBACK, client_config, import_block, signal, wait};
use crate::web;

const NAME: &str = "kill.example";

/// Packages of the repository and their sizes: one leaf, a few leaves.
const PACKAGES: [(&str, u64); 5] = [
    ("tiny", 20_000),
    ("small", 400_000),
    ("middle", 1_500_000),
    ("large", 4_000_000),
    ("huge", 9_000_000),
];

/// splitmix64: which packages move, who is killed and when.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    /// A moment within `span`, the early ones more often than not.
    fn moment(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.roll(1_000_000) as f64 / 1e6)
    }
}

/// One way to the same upstream.
struct Source {
    from: String,
    /// How much longer a round takes by it than by the directory.
    slower: f64,
}

struct Stage {
    // Before the homes, so that their logs are still there when they are dropped.
    importer: Option<Daemon>,
    client: Option<Daemon>,
    dice: Dice,
    repo: Repo,
    importer_home: Home,
    client_home: Home,
    /// The importer's configuration before its `[[import]]`.
    base: String,
    sources: Vec<Source>,
    /// Which of them it reads now.
    source: usize,
    /// How long an import and a fetch took when nobody was killed.
    import_takes: Duration,
    fetch_takes: Duration,
    _web: Upstream,
    _rsync: Option<RsyncDaemon>,
    _folder: tempfile::TempDir,
}

/// A port that nobody has, below those that the system hands out to others.
fn free_port() -> u16 {
    let first = 10_000 + (std::process::id() % 9_000) as u16;
    (first..20_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

impl Stage {
    fn set(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = RepoSpec::new("core");
        spec.seed = seed;
        for (name, size) in PACKAGES {
            spec = spec.package(name, size);
        }
        let repo = Repo::create(folder.path(), spec).unwrap();
        let importer_home = Home::with(LOOPBACK);
        importer_home.run(["key", "new", "signs"]).done();
        // A fixed port, so that the client finds the importer again after its restart.
        let base = LOOPBACK.replace("/tcp/0", &format!("/tcp/{}", free_port()));
        let web = Upstream::folder(folder.path()).unwrap();
        let rsync = RsyncDaemon::serve(folder.path()).unwrap();
        let source = |from: String, slower| Source { from, slower };
        let mut sources = vec![
            source(repo.folder().to_str().unwrap().to_owned(), 1.0),
            source(web.url(""), 2.0),
        ];
        sources.extend(rsync.iter().map(|rsync| source(rsync.url(""), 4.0)));
        importer_home.configure(&configuration(&base, &sources[0].from));
        let importer = Daemon::start(&importer_home);
        let begun = Instant::now();
        importer_home.run(["import", NAME, "--once"]).done();
        let import_takes = begun.elapsed();
        let id = importer_home.run(["id", "--json"]).done().json();
        let peers: Vec<String> = serde_json::from_value(id["addresses"].clone()).unwrap();
        let client_home = Home::with(&client_config(NAME, &importer_home.key(), &peers, &[]));
        let client = Daemon::start(&client_home);
        let mut stage = Self {
            dice: Dice(seed),
            repo,
            importer_home,
            client_home,
            base,
            sources,
            source: 0,
            importer: Some(importer),
            client: Some(client),
            import_takes,
            fetch_takes: Duration::ZERO,
            _web: web,
            _rsync: rsync,
            _folder: folder,
        };
        stage.follow(&tree(&stage.importer_home));
        let begun = Instant::now();
        stage.fetch_all();
        stage.fetch_takes = begun.elapsed();
        stage
    }

    /// The tree of upstream's state.
    fn upstream_tree(&self) -> String {
        let line = self
            .importer_home
            .run(["cid", self.repo.folder().to_str().unwrap()])
            .done()
            .line();
        line.split('\t').next().unwrap().to_owned()
    }

    fn update(&mut self) {
        let names: Vec<&str> = PACKAGES
            .map(|(name, _)| name)
            .into_iter()
            .filter(|_| self.dice.roll(2) == 0)
            .collect();
        let names = if names.is_empty() { vec!["huge"] } else { names };
        self.repo.update(&names).unwrap();
    }

    /// Waits until the client serves this tree.
    fn follow(&self, wanted: &str) {
        until("the client has the head", || {
            (tree(&self.client_home) == wanted).then_some(())
        });
    }

    /// Every file through the client's gateway, byte by byte.
    fn fetch_all(&self) {
        let client = self.client.as_ref().unwrap();
        for entry in std::fs::read_dir(self.repo.folder()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let body = client.file(&format!("/ipns/{NAME}/{name}"));
            assert!(
                body == std::fs::read(entry.path()).unwrap(),
                "{name} has other bytes"
            );
        }
    }

    /// Kills the importer somewhere in an import (or soon after) and starts it again.
    fn kill_importer(&mut self) {
        let old = tree(&self.importer_home);
        self.update();
        let new = self.upstream_tree();
        let asking = self
            .importer_home
            .command(["import", NAME, "--once"])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let span = self.import_takes.mul_f64(1.2 * self.sources[self.source].slower);
        let frees = (self.dice.roll(2) == 0).then(|| self.frees());
        let moment = self.dice.moment(span);
        std::thread::park_timeout(moment);
        self.importer.take().unwrap().kill();
        if let Some(frees) = frees {
            assert!(
                wait(frees, DEADLINE).is_some(),
                "gc was not told that its daemon died"
            );
        }
        let pid = asking.id();
        if wait(asking, DEADLINE).is_none() {
            signal(pid, Signal::KILL);
            panic!("the command was not told that its daemon died");
        }
        self.source = self.dice.roll(self.sources.len() as u64) as usize;
        let from = &self.sources[self.source].from;
        self.importer_home.configure(&configuration(&self.base, from));
        self.importer = Some(self.rise(Which::Importer, &[&old, &new]));
        let ended = self.importer_home.run(["import", NAME, "--once"]).code;
        assert!(
            matches!(ended, Some(0 | 3)),
            "the import after the restart ended with {ended:?}"
        );
        assert_eq!(tree(&self.importer_home), new, "the importer did not converge");
        self.follow(&new);
    }

    /// `pacstore gc --target 0`, again and again until its daemon is gone.
    fn frees(&self) -> std::process::Child {
        let program = self.importer_home.command(["gc", "--target", "0"]);
        let mut command = std::process::Command::new("sh");
        let daemon = self.importer.as_ref().unwrap().pid();
        let script = format!("while kill -0 {daemon} 2>/dev/null && \"$@\"; do :; done");
        command.args(["-c", &script, "sh"]);
        command.arg(program.get_program()).args(program.get_args());
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    /// Kills the client somewhere between hearing of a head and the last byte of its files.
    fn kill_client(&mut self) {
        let old = tree(&self.client_home);
        self.update();
        self.importer_home.run(["import", NAME, "--once"]).done();
        let new = tree(&self.importer_home);
        // Half of the kills fall into the head's arrival, half into the download.
        if self.dice.roll(2) == 0 {
            self.follow(&new);
        }
        let gateway = self.client.as_ref().unwrap().gateway.clone();
        let mut names: Vec<String> = self
            .repo
            .packages()
            .iter()
            .map(|package| package.file_name.clone())
            .collect();
        let turn = self.dice.roll(names.len() as u64) as usize;
        names.rotate_left(turn);
        let reading = std::thread::spawn(move || {
            for name in names {
                // It breaks off when the client dies.
                if web::get(&gateway, &format!("/ipns/{NAME}/{name}"), &[]).is_err() {
                    return;
                }
            }
        });
        let moment = self.dice.moment(self.fetch_takes.mul_f64(1.2));
        std::thread::park_timeout(moment);
        self.client.take().unwrap().kill();
        reading.join().unwrap();
        self.client = Some(self.rise(Which::Client, &[&old, &new]));
        self.follow(&new);
        self.fetch_all();
    }

    /// Starts a killed node again, and looks at it: before its daemon, or through it.
    fn rise(&mut self, which: Which, trees: &[&str]) -> Daemon {
        let kill_again = self.dice.roll(4) == 0;
        let moment = self.dice.moment(Duration::from_millis(800));
        let look_first = self.dice.roll(2) == 0;
        let home = match which {
            Which::Importer => &self.importer_home,
            Which::Client => &self.client_home,
        };
        if kill_again {
            let daemon = Daemon::spawn(home);
            std::thread::park_timeout(moment);
            daemon.kill();
        }
        if look_first {
            intact(home, trees);
            let verified = home.run(["verify", NAME, "--json"]).done().json();
            // An importer holds all of its tree; a client what it fetched.
            assert!(
                matches!(which, Which::Client) || verified["absent"] == 0,
                "{verified}"
            );
            return Daemon::start(home);
        }
        let daemon = Daemon::start(home);
        intact(home, trees);
        daemon
    }
}

/// The importer's, of which two snapshots stay.
fn configuration(base: &str, from: &str) -> String {
    format!(
        "{base}{}keep = {{ age = \"0s\", count = 2 }}\n",
        import_block(NAME, from)
    )
}

#[derive(Clone, Copy)]
enum Which {
    Importer,
    Client,
}

/// No damage in the store, and one of `trees` is the head.
fn intact(home: &Home, trees: &[&str]) {
    home.run(["fsck"]).done();
    let now = tree(home);
    assert!(
        trees.contains(&now.as_str()),
        "the head is {now}, none of {trees:?}"
    );
}

/// The tree that a home serves; empty without one.
fn tree(home: &Home) -> String {
    let resolved = home.run(["resolve", NAME, "--json"]).json();
    resolved["tree"].as_str().unwrap_or_default().to_owned()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn a_node_that_is_killed_at_any_point_starts_again_and_has_lost_nothing() {
    let kills = number("PACSTORE_KILLS").unwrap_or(20);
    let seed = number("PACSTORE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("{kills} kills, PACSTORE_SEED={seed}");
    let mut stage = Stage::set(seed);
    let begun = Instant::now();
    for kill in 0..kills {
        if stage.dice.roll(2) == 0 {
            stage.kill_importer();
        } else {
            stage.kill_client();
        }
        eprintln!(
            "kill {} of {kills}: whole again ({:.0?} so far)",
            kill + 1,
            begun.elapsed()
        );
    }
    for daemon in [stage.importer.take(), stage.client.take()] {
        daemon.expect("it runs").stop();
    }
    for home in [&stage.importer_home, &stage.client_home] {
        home.run(["verify", NAME]).done();
        home.run(["fsck"]).done();
    }
}
