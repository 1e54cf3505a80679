//! What `status --watch` shows.
//!
//! - Invariant: [`screen`] is pure: what is known goes in, lines come out, at any size.
//! - Invariant: what matters stands on top and to the left: a screen that is too small loses its end.
//! - Invariant: a number and its unit are shown whole or not at all, and so is a state.

use std::time::Duration;

use pacstore_node::{ImportStatus, Status, TransferStatus};

use crate::printer::{bytes, seconds};

/// Columns of a bar where there is room, and at least.
const BAR: (usize, usize) = (20, 4);
/// Files on their way that have a line of their own.
const TRANSFERS: usize = 8;
/// The step of an import that has no round under way.
const IDLE: &str = "idle";
/// What is wrong that has a line of its own.
const ALERTS: usize = 8;
/// Columns of a name where there is room, and at least; on a wide screen a third of it.
const NAME: (usize, usize) = (34, 12);

/// How wide things are on a screen.
#[derive(Clone, Copy, Debug)]
struct Fit {
    width: usize,
    name: usize,
    bar: usize,
}

impl Fit {
    fn of(width: usize) -> Self {
        // What stands beside a name in the line of a mirror, and beside a bar in that of a source.
        let (name, bar) = (width.saturating_sub(37), width.saturating_sub(35));
        Self {
            width,
            name: name.clamp(NAME.1, NAME.0.max(width / 3)),
            bar: bar.clamp(BAR.1, BAR.0),
        }
    }

    /// A line of the parts up to the first that has no room; the first is always there.
    fn line(self, parts: &[String]) -> String {
        let mut line = String::new();
        for part in parts {
            let columns = line.chars().count() + part.chars().count();
            if !line.is_empty() && columns > self.width {
                break;
            }
            line.push_str(part);
        }
        line
    }

    /// `text` in the columns of a name.
    fn name(self, text: &str) -> String {
        if text.chars().count() <= self.name {
            return format!("{text:width$}", width = self.name);
        }
        text.chars().take(self.name - 1).chain(['~']).collect()
    }

    fn bar(self, part: u64, of: u64) -> String {
        let filled = (u128::from(part) * self.bar as u128)
            .checked_div(u128::from(of))
            .unwrap_or(0);
        let filled = usize::try_from(filled).unwrap_or(self.bar).min(self.bar);
        format!("[{}{}]", "=".repeat(filled), " ".repeat(self.bar - filled))
    }
}

/// What is known at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// `None`: no daemon answers.
    pub(super) status: Option<Status>,
    pub(super) rates: Rates,
}

/// Bytes a second that left the gateway, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    disk: u64,
    lan: u64,
    peer: u64,
    upstream: u64,
}

impl Rates {
    /// What `after` has more than `before`, over `span`.
    pub(super) fn between(before: &Status, after: &Status, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
        // A daemon that was restarted may have lost a little.
        let rate = |before: u64, after: u64| after.saturating_sub(before).saturating_mul(1000) / millis;
        let (b, a) = (&before.bytes, &after.bytes);
        Self {
            disk: rate(b.disk, a.disk),
            lan: rate(b.lan, a.lan),
            peer: rate(b.peer, a.peer),
            upstream: rate(b.upstream, a.upstream),
        }
    }
}

/// The lines of a screen of this size; what does not fit is cut off.
pub(super) fn screen(view: &View, width: usize, height: usize) -> Vec<String> {
    let mut lines = vec!["pacstore  q quits".to_owned(), String::new()];
    match &view.status {
        None => lines.push("no daemon answers; start it with `pacstore daemon`".to_owned()),
        Some(status) => lines.extend(body(status, view.rates, Fit::of(width))),
    }
    lines.truncate(height);
    let fits = |line: String| -> String {
        // What a peer or mirror said may hold anything; here it is text.
        let text = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        text.take(width).collect::<String>().trim_end().to_owned()
    };
    lines.into_iter().map(fits).collect()
}

fn body(status: &Status, rates: Rates, fit: Fit) -> Vec<String> {
    let mut lines = vec![
        format!("gateway  {}", status.gateway.as_deref().unwrap_or("-")),
        fit.line(&[
            format!("peers    {} connected", status.peers),
            format!(", {} addresses of ours", status.addresses.len()),
        ]),
        store(status, fit),
        format!("fetching {} files", status.fetching),
        String::new(),
    ];
    if !status.transfers.is_empty() {
        let first = status.transfers.iter().take(TRANSFERS);
        lines.extend(first.map(|one| transfer(one, fit)));
        let more = status.transfers.len().saturating_sub(TRANSFERS);
        if more > 0 {
            lines.push(format!("         and {more} more"));
        }
        lines.push(String::new());
    }
    lines.extend(given(status, rates, fit));
    lines.push(String::new());
    lines.extend(status.mirrors.iter().map(|one| {
        let error = one.error.as_deref();
        served(("mirror", &one.name), &one.state, one.age_s, error, fit)
    }));
    lines.extend(status.repositories.iter().map(|one| {
        let name = format!("{} {}", one.name, one.arch);
        served(("repo", &name), &one.state, one.age_s, one.error.as_deref(), fit)
    }));
    lines.extend(status.imports.iter().map(|one| import(one, fit)));
    lines.extend(alerts(status));
    lines.extend(tasks(status));
    lines
}

/// How far the round under way is, else how the last one ended and when the next begins.
fn import(one: &ImportStatus, fit: Fit) -> String {
    let name = format!("import   {}", fit.name(&one.name));
    let (done, all) = one.bytes;
    if one.running_s.is_some() || one.step != IDLE {
        let rate = one.rate.map(|rate| format!("  {}/s", bytes(rate)));
        let left = one.left_s.map(|left| format!("  {} left", seconds(left)));
        return fit.line(&[
            name,
            format!("  {}", one.step),
            format!("  {}", fit.bar(done, all)),
            format!("  {}/{} files", one.files.0, one.files.1),
            rate.unwrap_or_default(),
            left.unwrap_or_default(),
        ]);
    }
    let outcome = one
        .last
        .as_ref()
        .map(|last| format!("{:?}", last.outcome).to_lowercase());
    let next = match (&one.waits, one.next_s) {
        (Some(what), _) => format!("  waits for {what}"),
        (None, Some(next)) => format!("  next in {}", seconds(next)),
        (None, None) => "  when asked".to_owned(),
    };
    let outcome = outcome.unwrap_or_else(|| "no round".to_owned());
    fit.line(&[name, format!("  {outcome:<9}"), next])
}

/// What is wrong, the oldest first.
fn alerts(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if !status.alerts.is_empty() {
        lines.push(String::new());
    }
    let first = status.alerts.iter().take(ALERTS);
    lines.extend(first.map(|one| format!("{:<8} {}", one.kind.as_str(), one.text)));
    let more = status.alerts.len().saturating_sub(ALERTS);
    if more > 0 {
        lines.push(format!("         and {more} more: `pacstore status`"));
    }
    lines
}

/// A file on its way: how far it is, from where, how fast, how long yet.
fn transfer(one: &TransferStatus, fit: Fit) -> String {
    let name = fit.name(&one.name);
    if one.ahead {
        return fit.line(&[format!("ahead    {name}"), format!("  {:>9}", bytes(one.bytes))]);
    }
    let left = one.left_s.map(|left| format!("  {} left", seconds(left)));
    fit.line(&[
        format!("giving   {name}"),
        format!("  {:>9}", bytes(one.done)),
        format!(" of {:>9}", bytes(one.bytes)),
        format!("  {:>11}", format!("{}/s", bytes(one.rate))),
        format!("  {}", one.sources.join("+")),
        left.unwrap_or_default(),
    ])
}

fn store(status: &Status, fit: Fit) -> String {
    let store = &status.store;
    fit.line(&[
        format!("store    {}", fit.bar(store.evictable, store.max_bytes)),
        format!("  {} of {}", bytes(store.evictable), bytes(store.max_bytes)),
        format!(" in {} files", store.files),
    ])
}

/// Bytes that left the gateway, a line a source, with its share and rate.
fn given(status: &Status, rates: Rates, fit: Fit) -> Vec<String> {
    let out = &status.bytes;
    let all = out.disk + out.lan + out.peer + out.upstream;
    let sources = [
        ("disk", out.disk, rates.disk),
        ("lan", out.lan, rates.lan),
        ("peer", out.peer, rates.peer),
        ("upstream", out.upstream, rates.upstream),
    ];
    sources
        .into_iter()
        .map(|(name, total, rate)| {
            fit.line(&[
                format!("{name:8} {}", fit.bar(total, all)),
                format!("  {:>9}", bytes(total)),
                format!("  {:>11}", format!("{}/s", bytes(rate))),
            ])
        })
        .collect()
}

fn served(
    (kind, name): (&str, &str),
    state: &str,
    age: Option<u64>,
    error: Option<&str>,
    fit: Fit,
) -> String {
    let age = age.map_or_else(
        || "never checked".to_owned(),
        |age| format!("checked {} ago", seconds(age)),
    );
    let mut line = fit.line(&[
        format!("{kind:8} {}", fit.name(name)),
        format!("  {state:8}"),
        format!("  {age}"),
    ]);
    if let Some(error) = error {
        line = format!("{line}  {error}");
    }
    line
}

/// How many tasks there are, and by name those that do not run as they should.
fn tasks(status: &Status) -> Vec<String> {
    let odd = |state: &str| state.contains("panic") || state.contains("fail");
    let mut lines = vec![String::new(), format!("tasks    {}", status.tasks.len())];
    for one in status.tasks.iter().filter(|task| odd(&task.state)) {
        lines.push(format!("         {}  {}", one.name, one.state));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the daemon's socket gives it.
    fn status() -> Status {
        let text = r#"{
            "peer_id": "12D3KooW", "gateway": "http://127.0.0.1:8080", "peers": 3, "fetching": 2,
            "addresses": ["/ip4/127.0.0.1/tcp/4001"],
            "transfers": [
                {"name": "linux-6.16.1-1-x86_64.pkg.tar.zst", "bytes": 140000000, "done": 35000000, "rate": 5000000,
                 "left_s": 21, "sources": ["lan", "upstream"]},
                {"name": "firefox-143.0-1-x86_64.pkg.tar.zst", "bytes": 80000000, "ahead": true}],
            "mirrors": [
                {"name": "x86-64.archlinux.pkg.pacman.store", "tree": null, "sequence": 7, "age_s": 90,
                 "state": "current", "heads": 3, "error": null},
                {"name": "a-mirror-with-a-very-long-name.example.org", "tree": null, "sequence": null, "age_s": null,
                 "state": "none", "heads": 0, "error": "no importer answers"}],
            "bytes": {"disk": 0, "lan": 5000000, "peer": 2500000, "upstream": 2500000},
            "store": {"bytes": 5, "evictable": 5000000000, "max_bytes": 10000000000, "files": 812, "index_bytes": 1},
            "imports": [{"name": "core.example", "step": "fetching", "files": [3, 4], "bytes": [1, 4], "last": null}],
            "tasks": [{"name": "gc", "state": "running"}, {"name": "http/gateway", "state": "panicked"}]
        }"#;
        serde_json::from_str(text).expect("a status")
    }

    fn view() -> View {
        let mut before = status();
        before.bytes.lan -= 3_000_000;
        View {
            rates: Rates::between(&before, &status(), Duration::from_secs(2)),
            status: Some(status()),
        }
    }

    #[test]
    fn rounds_that_fail_are_seen_and_what_is_wrong_is_said() {
        let mut failing = status();
        let import = |text: &str| serde_json::from_str(text).expect("an import");
        failing.imports = vec![
            import(
                r#"{"name": "a.example", "step": "idle", "files": [0, 0], "bytes": [0, 0], "next_s": 17,
                    "last": {"name": "a.example", "at": "2026-11-28T11:56:17Z", "outcome": "failed", "tree": null,
                             "key": "k51", "files": 0, "bytes": 0, "repositories": [], "warnings": [], "error": null, "hint": null}}"#,
            ),
            import(
                r#"{"name": "b.example", "step": "idle", "files": [0, 0], "bytes": [0, 0], "waits": "its turn",
                    "last": null}"#,
            ),
            import(
                r#"{"name": "c.example", "step": "fetching", "files": [3, 4], "bytes": [1, 4], "rate": 5000000,
                    "left_s": 21, "running_s": 7, "last": null}"#,
            ),
        ];
        let alert = |n: u32| {
            format!(
                r#"{{"key": "round/{n}", "kind": "error", "text": "cannot import {n}", "hint": null, "since": "", "told": true}}"#
            )
        };
        failing.alerts = (0..10)
            .map(|n| serde_json::from_str(&alert(n)).expect("an alert"))
            .collect();
        let view = View {
            status: Some(failing),
            ..View::default()
        };
        let lines = screen(&view, 120, 50);
        let at = lines.iter().position(|line| line.starts_with("import"));
        let expected = "\
import   a.example                                 failed     next in 17 s
import   b.example                                 no round   waits for its turn
import   c.example                                 fetching  [=====               ]  3/4 files  5.0 MB/s  21 s left

error    cannot import 0
error    cannot import 1
error    cannot import 2
error    cannot import 3
error    cannot import 4
error    cannot import 5
error    cannot import 6
error    cannot import 7
         and 2 more: `pacstore status`
";
        let expected: Vec<_> = expected.lines().collect();
        assert_eq!(lines[at.expect("imports")..][..expected.len()], expected);
    }

    #[test]
    fn a_screen_of_usual_size_shows_it_all() {
        let expected = "\
pacstore  q quits

gateway  http://127.0.0.1:8080
peers    3 connected, 1 addresses of ours
store    [==========          ]  5.00 GB of 10.00 GB in 812 files
fetching 2 files

giving   linux-6.16.1-1-x86_64.pkg.tar.zst     35.0 MB of  140.0 MB     5.0 MB/s
ahead    firefox-143.0-1-x86_64.pkg.tar.zst    80.0 MB

disk     [                    ]        0 B        0 B/s
lan      [==========          ]     5.0 MB     1.5 MB/s
peer     [=====               ]     2.5 MB        0 B/s
upstream [=====               ]     2.5 MB        0 B/s

mirror   x86-64.archlinux.pkg.pacman.store   current   checked 90 s ago
mirror   a-mirror-with-a-very-long-name.ex~  none      never checked  no importe
import   core.example                        fetching  [=====               ]
 
tasks    2
         http/gateway  panicked
";
        let expected: Vec<_> = expected.lines().map(str::trim_end).collect();
        assert_eq!(screen(&view(), 80, 26), expected);
        let wide = screen(&view(), 120, 26);
        assert!(
            wide[7].ends_with("5.0 MB/s  lan+upstream  21 s left"),
            "{}",
            wide[7]
        );
    }

    #[test]
    fn a_narrow_screen_cuts_no_number_and_no_state() {
        let expected = "\
pacstore  q quits

gateway  http://127.0.0.1:8080
peers    3 connected
store    [==   ]  5.00 GB of 10.00 GB
fetching 2 files

giving   linux-6.16.~    35.0 MB
ahead    firefox-143~    80.0 MB

disk     [     ]        0 B        0 B/s
lan      [==   ]     5.0 MB     1.5 MB/s
peer     [=    ]     2.5 MB        0 B/s
upstream [=    ]     2.5 MB        0 B/s

mirror   x86-64.arch~  current
mirror   a-mirror-wi~  none      no impo
import   core.example  fetching  [=    ]

tasks    2
         http/gateway  panicked
";
        let expected: Vec<_> = expected.lines().collect();
        assert_eq!(screen(&view(), 40, 26), expected);
    }

    #[test]
    fn a_small_screen_loses_its_end_and_nothing_else() {
        for (width, height) in [(80, 10), (40, 10), (1, 1), (80, 3), (0, 0)] {
            let (small, all) = (screen(&view(), width, height), screen(&view(), width, 26));
            assert_eq!(small, all[..height]);
            assert!(
                small.iter().all(|line| line.chars().count() <= width),
                "{small:#?}"
            );
        }
    }

    #[test]
    fn what_others_say_does_not_steer_the_terminal() {
        let mut said = status();
        said.mirrors[0].error = Some("\u{1b}[2Jgone\n".to_owned());
        let view = View {
            status: Some(said),
            ..View::default()
        };
        let lines = screen(&view, 200, 50);
        assert!(
            lines.iter().all(|line| !line.contains(char::is_control)),
            "{lines:#?}"
        );
    }

    #[test]
    fn a_daemon_that_is_gone_is_said() {
        assert!(screen(&View::default(), 80, 24)[2].contains("no daemon answers"));
    }
}
