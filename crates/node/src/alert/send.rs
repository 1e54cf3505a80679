//! How a message travels: by POST, to a command's standard input, or as a mail.
//!
//! - Invariant: every delivery ends within [`DEADLINE`]; a child that does not, or is under way when the node stops, is
//!   killed with its whole process group.
//! - Invariant: only the configured host is dialled, and redirects are not followed.
//! - Invariant: nothing in a message becomes an argument or a mail header that it should not be.
//! - Not here: what is told and when (`super::board`).

use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use pacstore_runtime::{DeadlineExceeded, deadline};
use pacstore_upstream::{Http, HttpError};
use ring::digest::{SHA256, digest};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::{Alert, AlertConfig};

/// The longest time that one delivery takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is kept of what a child says, in bytes.
const MAX_SAID: usize = 4096;

/// How long is read what a child that has ended had said.
const REST: Duration = Duration::from_secs(1);

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The web hook.
    #[error("the web hook did not take it")]
    Web(#[source] HttpError),
    /// The program cannot be started.
    #[error("cannot run `{0}`")]
    Start(String, #[source] std::io::Error),
    /// The program failed.
    #[error("`{program}` ended with {status}{}", said(.text))]
    Ended {
        program: String,
        status: std::process::ExitStatus,
        text: String,
    },
    /// It took too long.
    #[error(transparent)]
    Late(#[from] DeadlineExceeded),
}

fn said(text: &str) -> String {
    match text.lines().next_back().map(str::trim) {
        Some(line) if !line.is_empty() => format!(", saying: {line}"),
        _ => String::new(),
    }
}

/// The channels that `config` names.
pub(crate) fn channels(config: &AlertConfig) -> std::collections::BTreeSet<String> {
    let named = [
        ("webhook", config.webhook.is_some()),
        ("command", !config.command.is_empty()),
        ("mail", config.mail.is_some()),
    ];
    let named = named.into_iter().filter(|(_, on)| *on);
    named.map(|(name, _)| name.to_owned()).collect()
}

/// Carries `alert` to one channel; one that is not configured takes it at once.
pub(crate) async fn deliver(
    channel: &str,
    alert: &Alert,
    config: &AlertConfig,
    http: &Http,
) -> Result<(), SendError> {
    let json = serde_json::to_vec(alert).unwrap_or_default();
    match channel {
        "webhook" => {
            let Some(url) = &config.webhook else { return Ok(()) };
            http.post(url, "application/json", json, DEADLINE)
                .await
                .map_err(SendError::Web)
        }
        "command" => {
            let Some((program, arguments)) = config.command.split_first() else {
                return Ok(());
            };
            child(Path::new(program), arguments, json).await
        }
        _ => {
            let Some(to) = &config.mail else { return Ok(()) };
            let arguments = ["-i", "-t"].map(str::to_owned);
            child(&config.sendmail, &arguments, mail(to, alert)).await
        }
    }
}

/// A program and what it started. Dropped, all of them are killed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let leader = child.id().and_then(|id| i32::try_from(id).ok());
        Self(leader.and_then(Pid::from_raw))
    }

    /// The program has ended: what it left behind is none of our concern, and its number may soon be another's.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Gone already is just as good.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn child(program: &Path, arguments: &[String], input: Vec<u8>) -> Result<(), SendError> {
    let shown = program.display().to_string();
    let failed = |error| SendError::Start(shown.clone(), error);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = Group::of(&child);
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input ends all the same.
            let _ = stdin.write_all(&input).await;
        }
    };
    let mut text = Vec::new();
    let all = async {
        let mut talk = pin!(async { tokio::join!(write, last_words(stderr, &mut text)) });
        tokio::select! {
            status = child.wait() => {
                group.leave();
                // What it left behind may keep both open for ever.
                let _ = timeout(REST, talk).await;
                status
            }
            _ = &mut talk => {
                let status = child.wait().await;
                group.leave();
                status
            }
        }
    };
    let status = deadline("the alert's program", DEADLINE, all).await?;
    let status = status.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(SendError::Ended {
        program: shown,
        status,
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// Reads to the end, for who is not read cannot go on, and keeps the end of it.
async fn last_words(from: Option<ChildStderr>, text: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut part = vec![0; MAX_SAID];
    while let Ok(len @ 1..) = from.read(&mut part).await {
        text.extend(part.iter().take(len));
        text.drain(..text.len().saturating_sub(MAX_SAID));
    }
}

/// The mail as `sendmail -t` reads it.
fn mail(to: &str, alert: &Alert) -> Vec<u8> {
    let subject = format!("pacstore {}: {}", alert.kind.as_str(), header(&alert.key));
    let line = |name: &str, value: Option<&String>| {
        value.map_or_else(String::new, |value| format!("{name}: {value}\n"))
    };
    let body = [
        format!("{}\n\n", alert.text),
        line("What to do", alert.hint.as_ref()),
        line("Mirror", alert.mirror.as_ref()),
        line("Node", alert.node.as_ref()),
        line("Since", Some(&alert.since)),
        line("Written", Some(&alert.at)),
    ]
    .concat();
    let date = alert.at.parse::<Timestamp>().ok();
    let date = date.and_then(|at| rfc2822::to_string(&at.to_zoned(TimeZone::UTC)).ok());
    format!(
        "To: {}\nSubject: {subject}\n{}Message-ID: {}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: 8bit\nAuto-Submitted: auto-generated\n\n{body}",
        header(to),
        line("Date", date.as_ref()),
        message_id(alert),
    )
    .into_bytes()
}

/// The same for every try to deliver `alert`, and another one for any other alert. Not every program that takes mails
/// gives them an id. Source: RFC 5322, 3.6.4; the domain is one that nobody has (RFC 2606).
fn message_id(alert: &Alert) -> String {
    let hash = digest(&SHA256, &serde_json::to_vec(alert).unwrap_or_default());
    let half = hash.as_ref().first_chunk().copied().unwrap_or_default();
    format!("<{:032x}@pacstore.invalid>", u128::from_be_bytes(half))
}

/// What may stand in a header: printable ASCII, one line.
fn header(text: &str) -> String {
    text.chars()
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn sample() -> Alert {
        Alert {
            kind: Kind::Error,
            key: "round/a\nBcc: else@example".to_owned(),
            mirror: Some("a".to_owned()),
            text: "no answer".to_owned(),
            hint: Some("look".to_owned()),
            since: "2026-01-01T00:00:00Z".to_owned(),
            at: "2026-01-01T00:10:00Z".to_owned(),
            node: None,
        }
    }

    #[test]
    fn nothing_in_a_message_becomes_a_header() {
        let text = String::from_utf8(mail("root@localhost", &sample())).expect("text");
        let (headers, body) = text.split_once("\n\n").expect("headers and a body");
        assert!(
            headers.starts_with("To: root@localhost\nSubject: pacstore error: round/a?Bcc: else@example\n")
        );
        assert_eq!(headers.lines().count(), 8, "{headers}");
        assert!(body.starts_with("no answer\n"), "{body}");
    }

    #[test]
    fn a_mail_has_the_time_when_it_was_written_and_the_same_id_at_every_try() {
        let lines = |alert: &Alert| -> Vec<String> {
            let text = String::from_utf8(mail("root@localhost", alert)).expect("text");
            let headers = text.split("\n\n").next().unwrap_or_default();
            let headers = headers.lines().map(str::to_owned);
            headers
                .filter(|line| line.starts_with("Date: ") || line.starts_with("Message-ID: "))
                .collect()
        };
        let first = lines(&sample());
        assert_eq!(first[0], "Date: Thu, 1 Jan 2026 00:10:00 +0000");
        let id = first[1].strip_prefix("Message-ID: <").expect("an id");
        let (left, right) = id.split_once('@').expect("two parts");
        assert!(
            left.len() == 32 && left.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id}"
        );
        assert_eq!(right, "pacstore.invalid>");
        assert_eq!(lines(&sample()), first);
        let others = [
            Alert {
                at: "2026-01-01T00:10:01Z".to_owned(),
                ..sample()
            },
            Alert {
                node: Some("12D3".to_owned()),
                ..sample()
            },
            Alert {
                key: "round/b".to_owned(),
                ..sample()
            },
        ];
        for other in others {
            assert_ne!(lines(&other)[1], first[1], "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_command_gets_the_json_and_its_failure_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("got");
        let command = |script: String| AlertConfig {
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
            ..AlertConfig::default()
        };
        let http = Http::new(pacstore_upstream::HttpOptions::default());
        let config = command(format!("cat > {}", file.display()));
        deliver("command", &sample(), &config, &http)
            .await
            .expect("it arrives");
        let got: Alert = serde_json::from_slice(&fs_err::read(&file).expect("a file")).expect("JSON");
        assert_eq!(got, sample());
        let config = command("echo nobody is there >&2; exit 3".to_owned());
        let error = deliver("command", &sample(), &config, &http)
            .await
            .expect_err("it fails");
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.contains("nobody is there"),
            "{text}"
        );
        let config = AlertConfig {
            command: vec!["/nonexistent/program".to_owned()],
            ..AlertConfig::default()
        };
        let error = deliver("command", &sample(), &config, &http)
            .await
            .expect_err("it fails");
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    }

    #[tokio::test]
    async fn a_program_has_ended_whatever_it_leaves_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let left = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}", left.display());
        let sent = child(Path::new("/bin/sh"), &["-c".to_owned(), script], Vec::new()).await;
        let pid = fs_err::read_to_string(&left).expect("it was started");
        let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("it runs on");
        sent.expect("it took the message");
    }

    #[tokio::test]
    async fn who_is_not_waited_for_any_more_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("a folder");
        let (begun, pid) = (dir.path().join("begun"), dir.path().join("pid"));
        let script = format!(
            "sleep 1000 & echo $! > {}; mv {0} {}; wait",
            pid.display(),
            begun.display()
        );
        let script = ["-c".to_owned(), script];
        let sending = child(Path::new("/bin/sh"), &script, Vec::new());
        let has_begun = async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            sent = sending => panic!("it waits for its child: {sent:?}"),
            () = has_begun => {}
        }
        let pid = fs_err::read_to_string(&begun).expect("it was started");
        let status = Path::new("/proc").join(pid.trim()).join("status");
        let runs = || fs_err::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ"));
        let ended = async {
            while runs() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), ended)
            .await
            .expect("it is killed");
    }

    #[tokio::test]
    async fn a_program_may_say_much_and_its_last_words_are_told() {
        let script = "i=0; while [ $i -lt 5000 ]; do echo 'a line of what it does' >&2; i=$((i+1)); done; \
                      echo nobody is there >&2; exit 3";
        let sent = child(
            Path::new("/bin/sh"),
            &["-c".to_owned(), script.to_owned()],
            Vec::new(),
        )
        .await;
        let text = sent.expect_err("it fails").to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("saying: nobody is there"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_program_that_never_ends_is_killed() {
        let dir = tempfile::tempdir().expect("a folder");
        let ready = dir.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 1000", ready.display());
        let arguments = ["-c".to_owned(), script];
        // The clock stands until the child is there, then jumps over the deadline.
        let delivery = child(Path::new("/bin/sh"), &arguments, Vec::new());
        tokio::pin!(delivery);
        let until = std::time::Instant::now() + Duration::from_mins(1);
        let pid = loop {
            let text = fs_err::read_to_string(&ready).unwrap_or_default();
            if let Ok(pid) = text.trim().parse::<i32>() {
                break pid;
            }
            assert!(std::time::Instant::now() < until, "the child starts");
            let step = timeout(Duration::from_millis(20), &mut delivery).await;
            assert!(step.is_err(), "it does not end by itself");
        };
        tokio::time::pause();
        let ended = delivery.await;
        assert!(matches!(ended, Err(SendError::Late(_))), "{ended:?}");
        tokio::time::resume();
        let pid = Pid::from_raw(pid).expect("a pid");
        let gone = || {
            let state =
                fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        while !gone() {
            assert!(std::time::Instant::now() < until, "it was killed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
