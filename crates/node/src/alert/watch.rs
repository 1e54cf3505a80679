//! What is wrong now: every few seconds all that a person would want to know of is looked at.
//!
//! - Invariant: a look costs a few system calls and never waits for the network.
//! - Invariant: the worker never ends by itself; a channel that fails is tried again with
//!   back-off for [`KEEP`].
//! - Not here: whether it is news (`super::board`).

use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pacstore_import::Step;
use pacstore_names::{rfc3339, unix_seconds};
use pacstore_runtime::{Pool, Stopped, TaskState};
use pacstore_upstream::{AddressRules, Http, HttpOptions};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::board::{Condition, Lasts, Rules};
use super::carry::carry;
use super::channels::Channels;
use super::{Alert, AlertConfig, Delivery, Kind, send};
use crate::config::Every;
use crate::importer::{Importing, Outcome};
use crate::keys::Keys;
use crate::node::Node;
use crate::replicas::LATEST;
use crate::status::chain;

/// Where the store keeps what was told.
pub(super) const STATE: &str = "alerts";

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// How long a message that cannot be delivered is tried again.
const KEEP: Duration = Duration::from_hours(24);

/// How much the wall clock may differ from the running time between two looks.
const JUMP: Duration = Duration::from_mins(5);

/// 2025-01-01: an earlier time is not the present.
const EARLIEST: u64 = 1_735_689_600;

/// A record that ends sooner than this should have been renewed long ago.
const RECORD_ENDS: Duration = Duration::from_hours(24);

/// How long `checked` of an own head may stand still beside its schedule.
const STANDS: Duration = Duration::from_hours(2);

/// A round that has not moved for less than this is at work, however soon failures are told.
const WORKS: Duration = Duration::from_mins(5);

/// Lines of a report that a message quotes.
const QUOTED: usize = 3;

/// What a look compares itself with.
struct Before {
    wall: u64,
    at: Instant,
    /// How long the machine had slept in all: `Instant` stands still then, the clock does not.
    slept: Duration,
    /// Until when a jump of the clock is told.
    jumped: Option<(i64, Instant)>,
}

/// The worker.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let http = client(&node.inner.config.alert);
    for import in node.imports() {
        // What the last process saw of another one that signs is not over because this one has seen nothing yet.
        let seen = node
            .inner
            .alerts
            .board(|board| board.seen(&format!("rival/{}", import.name())));
        import.rival.fetch_max(seen.unwrap_or(0), Ordering::Relaxed);
    }
    let mut before = Before {
        wall: node.inner.clock.unix_seconds(),
        at: Instant::now(),
        slept: slept(),
        jumped: None,
    };
    let mut tried = Channels::default();
    let mut saved = Vec::new();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if look(&node, &mut before).await == Err(Stopped::Stopping) {
            return;
        }
        // Before and after: what is told must be known to be, and what was told too.
        save(&node, &mut saved).await;
        let carried = stop.run_until_cancelled(carry(&node, &http, &mut tried)).await;
        save(&node, &mut saved).await;
        if carried.is_none() {
            return;
        }
        node.inner.alerts.looks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes what is remembered, if it is not what was `saved` last.
async fn save(node: &Node, saved: &mut Vec<u8>) {
    let bytes = node
        .inner
        .alerts
        .board(|board| serde_json::to_vec(board).unwrap_or_default());
    if *saved == bytes {
        return;
    }
    let (store, write) = (node.inner.store.clone(), bytes.clone());
    let put = move || store.state_put(&[(STATE, Some(&write))]);
    match node.inner.tasks.blocking(Pool::Disk, put).await {
        Ok(Ok(())) => *saved = bytes,
        Ok(Err(error)) => {
            warn!(
                error = &error as &dyn Error,
                "cannot remember what was told; it may be told twice"
            );
        }
        Err(_) => {}
    }
}

/// Only the web hook's host may be dialled.
fn client(config: &AlertConfig) -> Http {
    Http::new(HttpOptions {
        allow_private: AddressRules::only(&config.webhook),
        ..HttpOptions::default()
    })
}

/// Looks at everything and notes what is news.
async fn look(node: &Node, before: &mut Before) -> Result<(), Stopped> {
    let jump = jump(node, before);
    let clock = clock_condition(node, before);
    let (node_, now) = (node.clone(), node.inner.clock.unix_seconds());
    let work = move || {
        let mut conditions = conditions(&node_, now);
        conditions.extend(clock);
        let config = &node_.inner.config.alert;
        let rules = Rules {
            channels: send::channels(config),
            repeat: config.repeat,
            node: node_.peer_id().map(|id| id.to_string()),
        };
        let news = node_.inner.alerts.board(|board| {
            board.keep_channels(&rules.channels);
            board.shift(jump.unwrap_or(0));
            let news = board.look(now, conditions, &rules);
            let lost = board.expire(now, KEEP);
            if lost > 0 {
                warn!(lost, "alerts could not be delivered for a day and are given up");
            }
            news
        });
        for alert in news {
            say(&alert);
        }
    };
    node.inner.tasks.blocking(Pool::Disk, work).await
}

/// The log is told too: it is the one channel that is always there.
fn say(alert: &Alert) {
    let (key, text, hint) = (&alert.key, &alert.text, alert.hint.as_deref());
    match alert.kind {
        Kind::Error => error!(key, hint, "{text}"),
        Kind::Warning => warn!(key, hint, "{text}"),
        Kind::Recovery | Kind::Test => info!(key, "{text}"),
    }
}

impl Node {
    /// Sends a message to every channel and says how that went.
    pub async fn test_alerts(&self) -> Vec<Delivery> {
        let config = &self.inner.config.alert;
        let now = rfc3339(self.inner.clock.unix_seconds());
        let alert = Alert {
            kind: Kind::Test,
            key: "test".to_owned(),
            mirror: None,
            text: "this is a test: alerts of this node arrive here".to_owned(),
            hint: None,
            since: now.clone(),
            at: now,
            node: self.peer_id().map(|id| id.to_string()),
        };
        let http = client(config);
        let mut deliveries = Vec::new();
        for channel in send::channels(config) {
            let sent = send::deliver(&channel, &alert, config, &http).await;
            deliveries.push(Delivery {
                channel,
                error: sent.err().map(|error| chain(&error)),
            });
        }
        deliveries
    }
}

/// By how many seconds the clock jumped since the last look.
fn jump(node: &Node, before: &mut Before) -> Option<i64> {
    let (wall, at) = (node.inner.clock.unix_seconds(), Instant::now());
    let slept = slept();
    let ran = at.saturating_duration_since(before.at) + slept.saturating_sub(before.slept);
    let ran = ran.as_secs();
    let by = wall
        .cast_signed()
        .wrapping_sub(before.wall.saturating_add(ran).cast_signed());
    (before.wall, before.at, before.slept) = (wall, at, slept);
    if by.unsigned_abs() <= JUMP.as_secs() {
        return None;
    }
    before.jumped = Some((by, at + Duration::from_hours(1)));
    Some(by)
}

/// For how long the machine has slept since it was switched on.
fn slept() -> Duration {
    let read = |id| {
        let time = rustix::time::clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    };
    // In this order: what passes between them must not look like sleep.
    let all = read(rustix::time::ClockId::Boottime);
    all.saturating_sub(read(rustix::time::ClockId::Monotonic))
}

/// A jump is told for an hour, a time before this program was written until it is mended.
fn clock_condition(node: &Node, before: &mut Before) -> Option<Condition> {
    let (wall, at) = (node.inner.clock.unix_seconds(), Instant::now());
    before.jumped = before.jumped.filter(|(_, until)| at < *until);
    let text = match before.jumped {
        _ if wall < EARLIEST => format!("the clock says {}, which is not the present", rfc3339(wall)),
        Some((by, _)) => format!("the clock jumped by {by} s; it says {} now", rfc3339(wall)),
        None => return None,
    };
    Some(Condition {
        key: "clock".to_owned(),
        kind: Kind::Error,
        mirror: None,
        text,
        hint: Some("check the time (`timedatectl`): ages and validity of names depend on it".to_owned()),
        after: Duration::ZERO,
        held: Duration::ZERO,
        lasts: Lasts::Until,
    })
}

/// All that holds now but the clock. Blocking.
fn conditions(node: &Node, now: u64) -> Vec<Condition> {
    let mut found = Vec::new();
    for import in node.imports() {
        round(node, import, &mut found);
        repositories(node, import, &mut found);
        head(node, import, now, &mut found);
        key(node, import, &mut found);
        shared(node, import, &mut found);
        replicas(import, &mut found);
        rival(import, now, &mut found);
    }
    disk(node, &mut found);
    for task in node.inner.tasks.report() {
        if let TaskState::Panicked(text) = &task.state {
            found.push(Condition {
                key: format!("task/{}", task.name),
                kind: Kind::Error,
                mirror: None,
                text: format!("the part `{}` of the daemon died: {text}", task.name),
                hint: Some("restart the daemon and report this with its log".to_owned()),
                after: Duration::ZERO,
                held: Duration::ZERO,
                lasts: Lasts::Once,
            });
        }
    }
    found
}

fn about(import: &Importing, what: &str, kind: Kind, text: String) -> Condition {
    Condition {
        key: format!("{what}/{}", import.name()),
        kind,
        mirror: Some(import.name().to_string()),
        text,
        hint: None,
        after: Duration::ZERO,
        held: Duration::ZERO,
        lasts: Lasts::Until,
    }
}

/// Rounds that fail, and one that does not move.
fn round(node: &Node, import: &Importing, found: &mut Vec<Condition>) {
    let after = node.inner.config.alert.after;
    let glance = import.rounds.glance();
    let step = import.watch().borrow().step;
    // What rsync says while it transfers is not known here; it has limits of its own.
    if glance.running.is_some() && after.max(WORKS) <= glance.still && step != Step::Looking {
        let minutes = glance.still.as_secs() / 60;
        let step = format!("{step:?}").to_lowercase();
        let text = format!("a round has not moved for {minutes} min; it is at `{step}`");
        found.push(about(import, "round", Kind::Error, text));
        return;
    }
    let kept = import.rounds.kept();
    let Some(last) = kept.last.filter(|last| last.outcome == Outcome::Failed) else {
        return;
    };
    let why = last.error.as_deref().unwrap_or("the log says why");
    let good = kept.good.map_or_else(|| "never".to_owned(), rfc3339);
    let times = kept.failures;
    found.push(Condition {
        hint: last.hint.clone(),
        after,
        held: glance.failing,
        ..about(
            import,
            "round",
            Kind::Error,
            format!("cannot import ({times} rounds failed, last good one: {good}): {why}"),
        )
    });
}

/// Torn and held repositories, and what else a round found odd: the last one that did not fail. One that fails does not mend
/// what was wrong before it.
fn repositories(node: &Node, import: &Importing, found: &mut Vec<Condition>) {
    let Some(last) = import.rounds.kept().read else {
        return;
    };
    let config = &node.inner.config.alert;
    for one in last.repositories.iter().filter(|one| one.state != "whole") {
        let quoted: Vec<&str> = one.problems.iter().take(QUOTED).map(String::as_str).collect();
        let text = format!(
            "repository {} in `{}` is {} and stays as it was: {}",
            one.name,
            one.folder,
            one.state,
            quoted.join("; ")
        );
        let (hint, after) = if one.state == "held" {
            (
                "look what changed; it moves when its signatures or those it moves with are right",
                config.after,
            )
        } else {
            (
                "the upstream's database and files do not fit together; another upstream may be whole",
                config.torn,
            )
        };
        found.push(Condition {
            key: format!("{}/{}/{}/{}", one.state, import.name(), one.folder, one.name),
            hint: Some(hint.to_owned()),
            after,
            ..about(import, "", Kind::Error, text)
        });
    }
    for text in &last.alarms {
        found.push(Condition {
            key: format!("alarm/{}/{text}", import.name()),
            hint: Some("look at the upstream: this is not how repositories change".to_owned()),
            lasts: Lasts::Once,
            ..about(import, "", Kind::Warning, text.clone())
        });
    }
    if !last.warnings.is_empty() {
        let quoted: Vec<&str> = last.warnings.iter().take(QUOTED).map(String::as_str).collect();
        let text = format!(
            "{} warnings of the last round: {}",
            last.warnings.len(),
            quoted.join("; ")
        );
        found.push(Condition {
            after: config.torn,
            ..about(import, "warnings", Kind::Warning, text)
        });
    }
}

/// Our own head: whether it is confirmed, and whether its record stays in force.
fn head(node: &Node, import: &Importing, now: u64, found: &mut Vec<Condition>) {
    let Every::Period(period) = import.config.every else {
        return;
    };
    let Some(mirror) = node.mirror(import.name().as_str()) else {
        return;
    };
    let own = import.key().name();
    let Some(signed) = mirror.signed().into_iter().find(|signed| signed.key == own) else {
        return;
    };
    let newest = signed.head.repositories.iter().map(|one| one.checked).max();
    let checked = newest.unwrap_or_else(|| signed.head.checked());
    let stands = now.saturating_sub(checked);
    // The next look is given its turn: after a clock that jumped it mends both.
    let after = node.inner.config.alert.after.max(period + period / 4);
    if (STANDS + 2 * period).as_secs() < stands {
        let text = format!(
            "the published head was last checked at {}; it does not advance",
            rfc3339(checked)
        );
        found.push(Condition {
            after,
            ..about(import, "head", Kind::Error, text)
        });
    }
    let ends = unix_seconds(signed.record.validity());
    if ends < now + RECORD_ENDS.as_secs() {
        let text = format!(
            "the name's record is valid until {} only and was not renewed",
            rfc3339(ends)
        );
        found.push(Condition {
            after,
            ..about(import, "record", Kind::Error, text)
        });
    }
}

/// The key file: the daemon goes on with what it read, a restart could not.
fn key(node: &Node, import: &Importing, found: &mut Vec<Condition>) {
    let keys = Keys::new(&node.inner.config.state_dir);
    let (text, hint) = match keys.load(&import.config.key) {
        Ok(key) if key.name() == import.key().name() => return,
        Ok(_) => (
            format!(
                "the key file `{}` holds another key than the one that signs",
                import.config.key
            ),
            Some("restore the right one from your copy before the next restart".to_owned()),
        ),
        Err(error) => (
            format!("the key that signs cannot be read again: {}", chain(&error)),
            Some(
                "restore it from your copy before the next restart; a new key is a new name for clients"
                    .to_owned(),
            ),
        ),
    };
    found.push(Condition {
        hint,
        ..about(import, "key", Kind::Error, text)
    });
}

/// An importer that gives nothing publishes to nobody.
fn shared(node: &Node, import: &Importing, found: &mut Vec<Condition>) {
    if node.inner.config.sharing.enable {
        return;
    }
    let text =
        "others get nothing from this node ([share] enable = false), so nobody can follow what it publishes";
    found.push(Condition {
        hint: Some("set share.enable = true; for an audience of your own there is public = false".to_owned()),
        ..about(import, "share", Kind::Warning, text.to_owned())
    });
}

/// The head in force went out because its time was over, not because enough nodes held it.
fn replicas(import: &Importing, found: &mut Vec<Condition>) {
    let Some(thin) = import.replicas.thin() else {
        return;
    };
    let text = format!(
        "the published head went out after {} min although {} of {} replicas held it",
        LATEST.as_secs() / 60,
        thin.held,
        thin.wanted
    );
    let hint =
        "see that enough nodes follow this mirror and are connected (`pacstore status`), or lower `replicas`";
    found.push(Condition {
        hint: Some(hint.to_owned()),
        ..about(import, "replicas", Kind::Warning, text)
    });
}

/// Two daemons sign with one key: each takes the name from the other.
fn rival(import: &Importing, now: u64, found: &mut Vec<Condition>) {
    let seen = import.rival.load(Ordering::Relaxed);
    if seen == 0 || STANDS.as_secs() < now.abs_diff(seen) {
        return;
    }
    let text =
        "another node signs with the same key, so clients are led from the tree of one to that of the other";
    found.push(Condition {
        hint: Some("stop one of the two: a copy of this machine, or the old one after a move".to_owned()),
        ..about(import, "rival", Kind::Error, text.to_owned())
    });
}

fn disk(node: &Node, found: &mut Vec<Condition>) {
    let config = &node.inner.config;
    let Some(free) = free_bytes(&config.store_dir) else {
        return;
    };
    // A little more must be free before it is over, so that it does not flutter.
    let open = node.inner.alerts.open().iter().any(|one| one.key == "disk");
    let limit = config.alert.disk_free + if open { config.alert.disk_free / 10 } else { 0 };
    if free < limit {
        found.push(Condition {
            key: "disk".to_owned(),
            kind: Kind::Error,
            mirror: None,
            text: format!(
                "only {} MB are free at `{}`",
                free / 1_000_000,
                config.store_dir.display()
            ),
            hint: Some("make room: lower [import] keep or store.max_size, then `pacstore gc`".to_owned()),
            after: Duration::ZERO,
            held: Duration::ZERO,
            lasts: Lasts::Until,
        });
    }
}

/// Bytes that this process could write on the file system of `path`.
pub(crate) fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
