//! The terminal text in `docs/client.md` is the program's own, seen through a real terminal.
//!
//! `PACSTORE_WRITE_DOCS=1 cargo test -p pacstore --test it screens` writes it anew.
//!
//! - Invariant: ports, paths, times and what depends on the machine are replaced before comparing; nothing else is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream, require};
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::home::{DEADLINE, Home, LOOPBACK, PACSTORE, run, signal};

const DOC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/client.md");

/// A terminal of 80 columns in a tmux of its own.
struct Terminal {
    tmux: PathBuf,
    socket: PathBuf,
}

impl Terminal {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.tmux);
        command
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"])
            .args(arguments);
        command
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX");
        command
    }

    /// A terminal in which a shell runs `line`; `END` and its exit code follow.
    fn start(tmux: &Path, folder: &Path, line: &str) -> Self {
        let number = fs::read_dir(folder).unwrap().count();
        let terminal = Self {
            tmux: tmux.to_owned(),
            socket: folder.join(format!("tmux-{number}")),
        };
        let line = format!("{line}; echo END $?; exec sleep 600");
        run(terminal.command(&["new-session", "-d", "-x", "80", "-y", "60", &line])).done();
        terminal
    }

    /// SIGTERM to what the shell runs at the moment.
    fn terminate(&self) {
        let shell = run(self.command(&["display-message", "-p", "#{pane_pid}"]))
            .done()
            .line();
        let parent_of = |stat: String| -> Option<String> {
            // `PID (NAME) STATE PPID ...`; the name may hold anything.
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.split(' ').nth(1).map(str::to_owned)
        };
        let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let child = all
            .filter(|one| {
                fs::read_to_string(one.path().join("stat"))
                    .ok()
                    .and_then(parent_of)
                    .as_ref()
                    == Some(&shell)
            })
            .find_map(|one| one.file_name().to_str()?.parse().ok());
        signal(child.expect("a child of the shell"), Signal::TERM);
    }

    /// The screen, as soon as it shows all of `words`.
    fn shows(&self, words: &[&str]) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let text = run(self.command(&["capture-pane", "-p", "-J", "-S", "-500"]))
                .done()
                .out;
            if words.iter().all(|word| text.contains(word)) {
                return text;
            }
            assert!(Instant::now() < until, "no {words:?} on:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        run(self.command(&["kill-server"]));
    }
}

/// What is on the screen when the command has ended well.
fn ended(terminal: &Terminal) -> String {
    let text = terminal.shows(&["END "]);
    let (text, code) = text.split_once("END ").unwrap();
    assert_eq!(code.trim(), "0", "{text}");
    text.to_owned()
}

#[test]
fn the_screens_in_the_documentation_are_the_programs_own() -> TestResult {
    let Some(tmux) = require("tmux") else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let dir = folder.path().to_str().unwrap();
    let repo = Repo::create(
        folder.path().join("mirror"),
        RepoSpec::new("extra").package("big", 900_000),
    )?;
    let upstream = Upstream::folder(repo.folder())?;
    let mirror = upstream.url("/");
    let conf = format!("{dir}/pacman.conf");
    fs::create_dir(folder.path().join("pkg"))?;
    fs::write(
        &conf,
        format!(
            "[options]\nArchitecture = x86_64\nCacheDir = {dir}/pkg\nDBPath = {dir}\nGPGDir = {dir}/gnupg\n\n# The usual ones\n[extra]\nInclude = {dir}/mirrorlist\n\n[custom]\nServer = file:///srv/custom\n"
        ),
    )?;
    fs::write(format!("{dir}/mirrorlist"), format!("Server = {mirror}\n"))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let network = LOOPBACK.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    // The store's cap fits on any disk that the test fits on: doctor says otherwise.
    let home = Home::with(&format!("[store]\nmax_size = \"100MB\"\n\n{network}"));
    let sockets = tempfile::tempdir()?;
    let start = |line: &str| Terminal::start(&tmux, sockets.path(), line);
    let pacstore = format!("{PACSTORE} --home {}", home.path().display());
    let at = format!("--config {conf}");
    let shown = |arguments: &str| ended(&start(&format!("{pacstore} {arguments} {at}")));
    let mut screens = vec![
        ("pacstore setup --dry-run", shown("setup --dry-run --no-service")),
        ("pacstore setup", shown("setup --no-service")),
    ];
    let daemon = Daemon::start(&home);
    daemon.file("/pacman/extra/x86_64/extra.db");
    daemon.file(&format!("/pacman/extra/x86_64/{}", repo.file_name("big")?));
    screens.push(("pacstore doctor", shown("doctor")));
    screens.push(("pacstore why big", ended(&start(&format!("{pacstore} why big")))));
    let modes = folder.path().join("modes");
    let modes = modes.display();
    let watching = format!(
        "stty -g >{modes}; {pacstore} status --watch; E=$?; stty -g | cmp - {modes} && echo SAME; (exit $E)"
    );
    let begun = ["q quits", "extra x86_64", "tasks"];
    let terminal = start(&watching);
    let watched = terminal.shows(&begun);
    run(terminal.command(&["send-keys", "q"])).done();
    let after = terminal.shows(&["SAME", "END 0"]);
    assert!(
        !after.contains("q quits"),
        "the screen is left as it was: {after}"
    );
    let terminal = start(&watching);
    terminal.shows(&begun);
    terminal.terminate();
    let after = terminal.shows(&["SAME", "END 0"]);
    assert!(
        !after.contains("q quits"),
        "the screen is left as it was: {after}"
    );
    screens.push(("pacstore status --watch", watched));
    daemon.stop();
    let host = mirror.trim_start_matches("http://").trim_end_matches('/');
    let usual = |text: &str| {
        let text = text
            .replace(home.path().to_str().unwrap(), "/etc/pacstore")
            .replace(&format!("{dir}/mirrorlist"), "/etc/pacman.d/mirrorlist")
            .replace(&format!("{dir}/pkg"), "/var/cache/pacman/pkg")
            .replace(dir, "/etc")
            .replace(mirror.trim_end_matches('/'), "https://mirror.example")
            .replace(host, "mirror.example")
            .replace(&format!(":{port}"), ":8080");
        plain(&text)
    };
    let screens: Vec<_> = screens.iter().map(|(name, text)| (*name, usual(text))).collect();
    check(Path::new(DOC), &screens)
}

/// Without what depends on the machine and the moment.
fn plain(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut drops = false;
    for line in text.lines() {
        let link = line
            .get(6..)
            .unwrap_or_default()
            .split(' ')
            .next()
            .unwrap_or_default();
        let is_fix = line.trim_start().starts_with("-> ");
        drops = if is_fix {
            drops
        } else {
            matches!(link, "names" | "firewall")
        };
        if drops {
            continue;
        }
        let mut line = line.trim_end().to_owned();
        for (before, after, shown) in [
            ("checked ", " ago", "2 min"),
            ("disk           ", " free", "100.00 GB"),
            ("tasks    ", "", "21"),
            ("  when     ", "", "2026-12-01T12:00:00Z, in 40 ms"),
            ("SHA-256 ", " in the database", "0123...cdef"),
        ] {
            let Some(at) = line.find(before).map(|at| at + before.len()) else {
                continue;
            };
            let to = if after.is_empty() {
                Some(line.len())
            } else {
                line[at..].find(after).map(|n| at + n)
            };
            if let Some(to) = to {
                line.replace_range(at..to, shown);
            }
        }
        lines.push(line);
    }
    lines.join("\n").trim_end().to_owned()
}

/// Each screen stands in the document behind `$ COMMAND`.
fn check(doc: &Path, screens: &[(&str, String)]) -> TestResult {
    let mut text = fs::read_to_string(doc)?;
    let write = std::env::var_os("PACSTORE_WRITE_DOCS").is_some();
    for (name, screen) in screens {
        let begin = format!("```\n$ {name}\n");
        let at = text
            .find(&begin)
            .unwrap_or_else(|| panic!("no `$ {name}` in {}", doc.display()))
            + begin.len();
        let end = at + text[at..].find("```").ok_or("an open block")?;
        if write {
            text.replace_range(at..end, &format!("{screen}\n"));
        } else {
            assert_eq!(
                text[at..end].trim_end(),
                screen,
                "`{name}`: PACSTORE_WRITE_DOCS=1 writes it anew"
            );
        }
    }
    if write {
        fs::write(doc, text)?;
    }
    Ok(())
}
