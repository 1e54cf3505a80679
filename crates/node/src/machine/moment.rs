//! Whether now is a good moment to fetch what nobody has asked for yet: the hour, the line, the battery.
//!
//! The kernel says whether the machine runs on battery; whether the line is metered NetworkManager says over D-Bus,
//! asked through `busctl`, which every machine with systemd has. What cannot be known does not hold anything back.
//!
//! - Invariant: asking takes at most [`ASK`], and one who does not answer is left alone for [`HUNG`].
//! - Not here: what is fetched (`super::prefetch`).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::PrefetchConfig;

/// Longest wait for an answer.
const ASK: Duration = Duration::from_secs(3);

/// Who says nothing for so long hangs.
const SLOW: Duration = Duration::from_secs(1);

/// An answer holds for this time: it is asked for before each file.
const HOLDS: Duration = Duration::from_secs(10);

/// Who did not answer is asked again after this time.
const HUNG: Duration = Duration::from_mins(2);

/// Whether the line is metered, as far as was heard lately.
#[derive(Debug)]
pub(crate) struct Line {
    program: &'static str,
    /// Until when, what. Held while it is asked, which is bounded: who comes meanwhile waits for the same answer.
    heard: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            program: "busctl",
            heard: tokio::sync::Mutex::default(),
        }
    }
}

/// Why not now, or nothing.
pub(super) async fn not_now(config: &PrefetchConfig, line: &Line, hour: u8) -> Option<&'static str> {
    if config.hours.is_some_and(|hours| !hours.holds(hour)) {
        return Some("outside of its hours");
    }
    if !config.battery && on_battery(Path::new("/sys/class/power_supply")) {
        return Some("on battery");
    }
    if !config.metered && line.is_metered().await {
        return Some("on a metered line");
    }
    None
}

/// A battery gives power, and nothing else does.
fn on_battery(supplies: &Path) -> bool {
    let Ok(entries) = fs_err::read_dir(supplies) else {
        return false;
    };
    let (mut drained, mut powered) = (false, false);
    for supply in entries.take(64).flatten() {
        let read = |name: &str| {
            let text = fs_err::read_to_string(supply.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        // A mouse has a battery too.
        if read("type") == "Battery" {
            drained |= read("scope") != "Device" && read("status") == "Discharging";
        } else {
            powered |= read("online") == "1";
        }
    }
    drained && !powered
}

impl Line {
    pub(crate) async fn is_metered(&self) -> bool {
        let mut heard = self.heard.lock().await;
        if let Some((until, metered)) = *heard
            && Instant::now() < until
        {
            return metered;
        }
        let asked = Instant::now();
        let answer = tokio::time::timeout(ASK, ask(self.program))
            .await
            .unwrap_or_default();
        let metered = says_metered(&answer);
        // Without NetworkManager there is no answer either, at once.
        let hangs = answer.is_empty() && SLOW < asked.elapsed();
        *heard = Some((Instant::now() + if hangs { HUNG } else { HOLDS }, metered));
        metered
    }
}

/// What NetworkManager says; nothing where there is none.
async fn ask(program: &str) -> Vec<u8> {
    let asked = tokio::process::Command::new(program)
        .args([
            "--system",
            "--no-pager",
            "--auto-start=no",
            "--timeout=2",
            "get-property",
            "org.freedesktop.NetworkManager",
            "/org/freedesktop/NetworkManager",
            "org.freedesktop.NetworkManager",
            "Metered",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    asked.await.map(|output| output.stdout).unwrap_or_default()
}

/// `NMMetered`: 1 = yes, 3 = by its guess yes.
fn says_metered(answer: &[u8]) -> bool {
    matches!(answer.trim_ascii(), b"u 1" | b"u 3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laptop_without_its_plug_is_on_battery() {
        let dir = tempfile::tempdir().unwrap();
        let set = |supply: &str, name: &str, text: &str| {
            fs_err::create_dir_all(dir.path().join(supply)).unwrap();
            fs_err::write(dir.path().join(supply).join(name), text).unwrap();
        };
        assert!(!on_battery(dir.path()) && !on_battery(&dir.path().join("none")));
        set("BAT0", "type", "Battery\n");
        set("BAT0", "status", "Discharging\n");
        set("AC", "type", "Mains\n");
        set("AC", "online", "0\n");
        assert!(on_battery(dir.path()));
        set("AC", "online", "1\n");
        assert!(!on_battery(dir.path()));
        set("AC", "online", "0\n");
        set("BAT0", "scope", "Device\n");
        assert!(!on_battery(dir.path()), "the mouse's");
    }

    /// A program in the place of `busctl` that notes each time it is run.
    fn fake(dir: &Path, answer: &str) -> (Line, impl Fn() -> usize) {
        let (program, ran) = (dir.join("busctl"), dir.join("ran"));
        let text = format!("#!/bin/sh\necho >>{}\n{answer}\n", ran.display());
        fs_err::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(&program, mode).unwrap();
        let line = Line {
            program: program.to_str().unwrap().to_owned().leak(),
            ..Line::default()
        };
        (line, move || fs_err::read(&ran).unwrap_or_default().len())
    }

    #[tokio::test]
    async fn the_line_is_asked_for_once_in_a_while_and_not_for_each_file() {
        let dir = tempfile::tempdir().unwrap();
        let (line, ran) = fake(dir.path(), "echo u 1");
        for _ in 0..5 {
            assert!(line.is_metered().await);
        }
        assert_eq!(ran(), 1);
        tokio::time::pause();
        tokio::time::advance(HOLDS).await;
        tokio::time::resume();
        assert!(line.is_metered().await);
        assert_eq!(ran(), 2);
    }

    #[tokio::test]
    async fn who_hangs_when_asked_for_the_line_is_left_alone_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (line, ran) = fake(dir.path(), "exec sleep 60");
        for _ in 0..3 {
            assert!(!line.is_metered().await);
        }
        // None where this machine is so busy that the program did not begin in time.
        let asked = ran();
        assert!(asked <= 1, "{asked}");
        tokio::time::pause();
        tokio::time::advance(HOLDS).await;
        tokio::time::resume();
        assert!(!line.is_metered().await);
        assert_eq!(ran(), asked);
    }

    #[test]
    fn network_manager_says_yes_or_guesses_it() {
        assert!(says_metered(b"u 1\n") && says_metered(b"u 3\n"));
        assert!(!says_metered(b"u 0\n") && !says_metered(b"u 4\n") && !says_metered(b""));
    }
}
