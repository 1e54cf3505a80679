//! Our part of `pacstore.toml`: between two marks, put in and taken out as a whole.
//!
//! - Invariant: [`take_out`] of [`put_in`] is the same text; what stands outside the marks is never touched.
//! - Not here: what the part says (`super::plan`).

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;

use super::repositories::Repository;

const BEGIN: &str = "# >>> pacstore setup";
const END: &str = "# <<< pacstore setup";
/// The file was made for this part: with nothing else in it, it goes with the part.
const CREATED: &str = " (file made by setup)";
/// Its folder was made too, and goes with it.
const CREATED_BOTH: &str = " (file and folder made by setup)";
/// The line end before the first mark is ours too.
const JOINED: &str = " (line end added)";

/// A configuration without our part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// What is left; `None` = the file was made by setup, and nothing else is in it.
    pub(crate) text: Option<String>,
    /// Our part, without the marks.
    pub(crate) part: Option<String>,
    /// The folder was made for the file.
    pub(crate) folder: bool,
}

/// Splits a configuration (`None`: there is no file) into what is ours and what is not.
///
/// # Errors
/// If the second mark is gone: nobody knows then where our part ends.
pub(crate) fn take_out(text: Option<&str>) -> anyhow::Result<Rest> {
    let Some(text) = text else {
        return Ok(Rest {
            text: None,
            part: None,
            folder: false,
        });
    };
    let none = Rest {
        text: Some(text.to_owned()),
        part: None,
        folder: false,
    };
    let Some(begin) = line_beginning_with(text, 0, BEGIN) else {
        return Ok(none);
    };
    let Some(end) = line_beginning_with(text, begin, END) else {
        bail!("`{BEGIN}` stands there without `{END}`: take our part out by hand");
    };
    let after_mark = |at: usize| text[at..].find('\n').map_or(text.len(), |n| at + n + 1);
    let mark = text[begin..].lines().next().unwrap_or_default();
    let mut before = &text[..begin];
    if mark.contains(JOINED) {
        before = before.strip_suffix('\n').unwrap_or(before);
    }
    let rest = format!("{before}{}", &text[after_mark(end)..]);
    let folder = mark.contains(CREATED_BOTH);
    let gone = rest.trim().is_empty() && (folder || mark.contains(CREATED));
    Ok(Rest {
        text: (!gone).then_some(rest),
        part: Some(text[after_mark(begin).min(end)..end].to_owned()),
        folder,
    })
}

fn line_beginning_with(text: &str, from: usize, what: &str) -> Option<usize> {
    let mut at = from;
    for line in text[from..].split_inclusive('\n') {
        if line.starts_with(what) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// Adds our part behind what is there (`None`: there is no file; `folder`: nor is there its folder, without us).
pub(crate) fn put_in(rest: Option<&str>, part: &str, folder: bool) -> String {
    let (before, kind) = match rest {
        None if folder => (String::new(), CREATED_BOTH),
        None => (String::new(), CREATED),
        Some(text) if text.is_empty() || text.ends_with('\n') => (text.to_owned(), ""),
        Some(text) => (format!("{text}\n"), JOINED),
    };
    format!(
        "{before}{BEGIN}{kind}: written by `pacstore setup`, taken out by `pacstore setup --undo`\n{part}{END}\n"
    )
}

/// What is taken over from an earlier run or must be said because a port is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    /// The gateway's, where it has to be said.
    pub(crate) gateway: Option<u16>,
    /// The swarm's, where it has to be said.
    pub(crate) swarm: Option<u16>,
}

/// What the daemon is told of this machine's pacman.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its configuration, where it is not in its usual place.
    pub(crate) conf: Option<PathBuf>,
    /// Its cache directories; none where the user's own part of the file says `[pacman]`.
    pub(crate) cache: Option<Vec<String>>,
    /// pacman's keyring.
    pub(crate) keyring: Option<String>,
    /// Updates are fetched ahead; not where the user's own part says `[prefetch]`.
    pub(crate) prefetch: bool,
}

/// The text of our part.
pub(crate) fn part(ports: &Ports, machine: &Machine, repositories: &[Repository]) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = String::new();
    if let Some(port) = ports.gateway {
        let _ = writeln!(text, "[gateway]\nlisten = \"127.0.0.1:{port}\"\n");
    }
    if let Some(port) = ports.swarm {
        text.push_str("[swarm]\nlisten = [\n");
        for ip in ["ip4/0.0.0.0", "ip6/::"] {
            let _ = writeln!(
                text,
                "    \"/{ip}/udp/{port}/quic-v1\",\n    \"/{ip}/tcp/{port}\","
            );
        }
        text.push_str("]\n\n");
    }
    if let Some(cache) = &machine.cache {
        text.push_str("[pacman]\n");
        if let Some(conf) = &machine.conf {
            let _ = writeln!(text, "config = {}", quoted(&conf.to_string_lossy()));
        }
        let cache: Vec<String> = cache.iter().map(|dir| quoted(dir)).collect();
        let _ = writeln!(text, "cache = [{}]\n", cache.join(", "));
    }
    if machine.prefetch {
        text.push_str("[prefetch]\nenable = true\n\n");
    }
    for (index, one) in repositories.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "[[repository]]\nname = {}", quoted(&one.name));
        let _ = writeln!(text, "arch = {}\nupstreams = [", quoted(&one.arch));
        for url in &one.upstreams {
            let _ = writeln!(text, "    {},", quoted(url));
        }
        let _ = writeln!(text, "]\npublic = {}", one.public);
        if let Some(keyring) = machine.keyring.as_deref().filter(|_| one.signatures) {
            let _ = writeln!(text, "keyring = {}", quoted(keyring));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_part_goes_without_trace_also_when_the_rest_changed() -> anyhow::Result<()> {
        for text in [
            None,
            Some(""),
            Some("a = 1\n"),
            Some("a = 1"),
            Some("# x\r\n\r\n"),
        ] {
            let with = put_in(text, "[gateway]\n", false);
            let rest = take_out(Some(&with))?;
            assert_eq!(rest.text.as_deref(), text, "{with}");
            assert_eq!(rest.part.as_deref(), Some("[gateway]\n"));
            let edited = format!("# mine\n{with}# behind\n");
            let behind = take_out(Some(&edited))?.text.unwrap_or_default();
            assert_eq!(behind, format!("# mine\n{}# behind\n", text.unwrap_or_default()));
        }
        Ok(())
    }

    #[test]
    fn that_the_folder_was_made_too_is_known_after_another_run() -> anyhow::Result<()> {
        let with = put_in(None, "x\n", true);
        let rest = take_out(Some(&with))?;
        assert_eq!((rest.text.as_deref(), rest.folder), (None, true));
        assert_eq!(put_in(rest.text.as_deref(), "x\n", rest.folder), with);
        assert!(!take_out(Some(&put_in(None, "x\n", false)))?.folder);
        Ok(())
    }

    #[test]
    fn a_part_without_its_end_is_not_guessed_at() {
        let with = put_in(None, "x\n", false).replace(END, "");
        assert!(take_out(Some(&with)).is_err());
    }
}
