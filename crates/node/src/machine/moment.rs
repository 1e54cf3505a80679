//! Whether now is a good moment to fetch what nobody has asked for yet: the hour, the line, the battery.
//!
//! The kernel says whether the machine runs on battery; whether the line is metered NetworkManager says over D-Bus,
//! asked through `busctl`, which every machine with systemd has. What cannot be known does not hold anything back.
//!
//! - Invariant: asking takes at most [`ASK`].
//! - Not here: what is fetched (`super::prefetch`).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::config::PrefetchConfig;

/// Longest wait for an answer.
const ASK: Duration = Duration::from_secs(3);

/// Why not now, or nothing.
pub(super) async fn not_now(config: &PrefetchConfig, hour: u8) -> Option<&'static str> {
    if config.hours.is_some_and(|hours| !hours.holds(hour)) {
        return Some("outside of its hours");
    }
    if !config.battery && on_battery(Path::new("/sys/class/power_supply")) {
        return Some("on battery");
    }
    if !config.metered && is_metered().await {
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

pub(crate) async fn is_metered() -> bool {
    let asked = tokio::process::Command::new("busctl")
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
    match tokio::time::timeout(ASK, asked).await {
        Ok(Ok(output)) => says_metered(&output.stdout),
        Ok(Err(_)) | Err(_) => false,
    }
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

    #[test]
    fn network_manager_says_yes_or_guesses_it() {
        assert!(says_metered(b"u 1\n") && says_metered(b"u 3\n"));
        assert!(!says_metered(b"u 0\n") && !says_metered(b"u 4\n") && !says_metered(b""));
    }
}
