//! What is known of an import's rounds beside their reports: how far, how fast, when next.
//!
//! - Invariant: what the store keeps of it ([`Kept`]) is enough that a restart neither forgets
//!   a failure nor reports one as over.
//! - Not here: running rounds (`crate::importer`), telling people (`crate::alert`, `crate::status`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pacstore_import::{Status, Step};
use pacstore_names::MirrorName;
use pacstore_store::Store;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::importer::{Outcome, RepositoryReport, RoundReport};

/// A report that says nothing new is written at most this often, in seconds.
const REWRITE: u64 = 600;

/// What survives a restart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    pub(crate) last: Option<RoundReport>,
    /// The last one that did not fail: what is known of the upstream while others do.
    pub(crate) read: Option<RoundReport>,
    /// Rounds that failed since the last that did not.
    pub(crate) failures: u32,
    /// When a round last ended well, seconds since 1970.
    pub(crate) good: Option<u64>,
}

/// How many rounds ended how, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// A new head was published.
    pub published: u64,
    /// Nothing had changed.
    pub unchanged: u64,
    /// Some repository is torn or held.
    pub torn: u64,
    /// No tree came of it.
    pub failed: u64,
}

/// A round under way.
#[derive(Debug)]
struct Running {
    since: Instant,
    /// The step, when it began, and when it last moved.
    seen: Status,
    beats: u64,
    step_since: Instant,
    moved: Instant,
}

#[derive(Debug)]
struct Facts {
    kept: Kept,
    written: u64,
    running: Option<Running>,
    /// When the first round began of those that failed since the last that did not.
    failing: Option<Instant>,
    /// When the next round is due, and what a due one waits for.
    next: Option<Instant>,
    waits: Option<&'static str>,
    /// The worker's last sign of life.
    beat: Instant,
    outcomes: Outcomes,
    took: Option<Duration>,
    /// What was odd in the last round that did not fail.
    odd: Odd,
}

/// What a round found odd.
#[derive(Clone, Debug, Default)]
pub(crate) struct Odd {
    /// Repositories that are torn or held.
    pub(crate) torn: Vec<RepositoryReport>,
    pub(crate) warnings: Vec<String>,
}

/// What a look at a round under way or to come says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Glance {
    /// For how long the round has been under way.
    pub(crate) running: Option<Duration>,
    /// For how long nothing has moved in it.
    pub(crate) still: Duration,
    /// Bytes a second of this step.
    pub(crate) rate: Option<u64>,
    /// Time that this step needs yet, by its rate.
    pub(crate) left: Option<Duration>,
    /// Until the next round.
    pub(crate) next: Option<Duration>,
    /// For how long it has been due without anything happening.
    pub(crate) overdue: Duration,
    /// What a due round waits for.
    pub(crate) waits: Option<&'static str>,
    /// For how long rounds have failed without a break, in this process.
    pub(crate) failing: Duration,
    /// Since the worker's last sign of life.
    pub(crate) silent: Duration,
    /// How long the last round took.
    pub(crate) took: Option<Duration>,
    pub(crate) outcomes: Outcomes,
}

/// The rounds of one import.
#[derive(Debug)]
pub(crate) struct Rounds(Mutex<Facts>);

fn key(name: &MirrorName) -> String {
    format!("round/{name}")
}

impl Rounds {
    /// With what the store remembers.
    pub(crate) fn load(store: &Store, name: &MirrorName) -> Result<Self, StoreError> {
        let kept: Kept = match store.state_get(&key(name))? {
            // Of another version or damaged: the next round says it anew.
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Kept::default(),
        };
        Ok(Self(Mutex::new(Facts {
            kept,
            written: 0,
            running: None,
            failing: None,
            next: None,
            waits: None,
            beat: Instant::now(),
            outcomes: Outcomes::default(),
            took: None,
            odd: Odd::default(),
        })))
    }

    fn facts<T>(&self, with: impl FnOnce(&mut Facts) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The worker lives, and its next round is due in `wait`.
    pub(crate) fn idle(&self, wait: Option<Duration>) {
        self.facts(|facts| {
            facts.beat = Instant::now();
            facts.next = wait.map(|wait| Instant::now() + wait);
            facts.waits = None;
        });
    }

    /// A due round waits for something.
    pub(crate) fn waits(&self, what: &'static str) {
        self.facts(|facts| {
            facts.beat = Instant::now();
            facts.next = None;
            facts.waits = Some(what);
        });
    }

    pub(crate) fn begin(&self) {
        let now = Instant::now();
        self.facts(|facts| {
            (facts.beat, facts.next, facts.waits) = (now, None, None);
            facts.running = Some(Running {
                since: now,
                seen: Status::default(),
                beats: 0,
                step_since: now,
                moved: now,
            });
        });
    }

    /// Looks at how far the round is, and how often something came to it; to be called every second or so.
    pub(crate) fn observe(&self, status: &Status, beats: u64) {
        let now = Instant::now();
        self.facts(|facts| {
            facts.beat = now;
            let Some(running) = &mut facts.running else { return };
            if running.seen == *status && running.beats == beats {
                return;
            }
            running.beats = beats;
            if (running.seen.step, running.seen.pass) != (status.step, status.pass)
                || status.bytes_done < running.seen.bytes_done
            {
                running.step_since = now;
            }
            running.moved = now;
            running.seen.clone_from(status);
        });
    }

    /// What `report` says that is odd and was not when this was asked last: what is wrong with an upstream is so for days.
    pub(crate) fn news(&self, report: &RoundReport) -> Odd {
        if report.outcome == Outcome::Failed {
            return Odd::default();
        }
        let torn = report.repositories.iter().filter(|one| one.state != "whole");
        // Alarms are told as alerts.
        let warnings = report.warnings.iter().filter(|one| !report.alarms.contains(one));
        let now = Odd {
            torn: torn.cloned().collect(),
            warnings: warnings.cloned().collect(),
        };
        // Further problems may come and go; the last may be until when it waits.
        let same = |a: &RepositoryReport, b: &RepositoryReport| {
            (&a.folder, &a.name, &a.state) == (&b.folder, &b.name, &b.state)
                && a.problems.first() == b.problems.first()
        };
        self.facts(|facts| {
            let before = std::mem::replace(&mut facts.odd, now.clone());
            let mut news = now;
            news.torn
                .retain(|one| !before.torn.iter().any(|known| same(one, known)));
            news.warnings.retain(|one| !before.warnings.contains(one));
            news
        })
    }

    /// The round ended; what a restart must know of it is written. Blocking.
    pub(crate) fn end(
        &self,
        store: &Store,
        name: &MirrorName,
        report: &RoundReport,
        now: u64,
    ) -> Result<(), StoreError> {
        let write = self.facts(|facts| {
            let (ended, begun) = (Instant::now(), facts.running.take().map(|running| running.since));
            facts.beat = ended;
            facts.took = begun.map(|begun| ended.saturating_duration_since(begun));
            let count = match report.outcome {
                Outcome::Published => &mut facts.outcomes.published,
                Outcome::Unchanged => &mut facts.outcomes.unchanged,
                Outcome::Torn => &mut facts.outcomes.torn,
                Outcome::Failed => &mut facts.outcomes.failed,
            };
            *count += 1;
            let quiet = report.outcome == Outcome::Unchanged
                && facts
                    .kept
                    .last
                    .as_ref()
                    .is_some_and(|last| last.outcome == Outcome::Unchanged)
                && now.abs_diff(facts.written) < REWRITE;
            facts.kept.last = Some(report.clone());
            if report.outcome == Outcome::Failed {
                facts.kept.failures = facts.kept.failures.saturating_add(1);
                facts.failing = facts.failing.or(begun);
            } else {
                facts.failing = None;
                facts.kept.read = Some(report.clone());
                facts.kept.failures = 0;
                facts.kept.good = Some(now);
            }
            if quiet {
                return None;
            }
            facts.written = now;
            Some(serde_json::to_vec(&facts.kept).unwrap_or_default())
        });
        if let Some(bytes) = write {
            store.state_put(&[(&key(name), Some(&bytes))])?;
        }
        Ok(())
    }

    /// What survives a restart.
    pub(crate) fn kept(&self) -> Kept {
        self.facts(|facts| facts.kept.clone())
    }

    /// How it stands.
    pub(crate) fn glance(&self) -> Glance {
        let now = Instant::now();
        self.facts(|facts| {
            let mut glance = Glance {
                next: facts.next.map(|next| next.saturating_duration_since(now)),
                overdue: facts
                    .next
                    .map_or(Duration::ZERO, |next| now.saturating_duration_since(next)),
                waits: facts.waits,
                failing: facts
                    .failing
                    .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
                silent: now.saturating_duration_since(facts.beat),
                took: facts.took,
                outcomes: facts.outcomes,
                ..Glance::default()
            };
            if let Some(running) = &facts.running {
                glance.running = Some(now.saturating_duration_since(running.since));
                glance.still = now.saturating_duration_since(running.moved);
                (glance.rate, glance.left) =
                    speed(&running.seen, now.saturating_duration_since(running.step_since));
            }
            glance
        })
    }
}

/// Bytes a second, and what the rest takes at that rate, once there is something to tell by.
fn speed(status: &Status, spent: Duration) -> (Option<u64>, Option<Duration>) {
    if status.step == Step::Idle || status.bytes_done == 0 || spent < Duration::from_secs(1) {
        return (None, None);
    }
    let rate = (status.bytes_done as f64 / spent.as_secs_f64()) as u64;
    let rest = status.bytes_total.saturating_sub(status.bytes_done);
    let left = (rate > 0 && rest > 0).then(|| Duration::from_secs(rest / rate));
    (Some(rate), left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), pacstore_store::Options::new(1 << 20)).expect("a store");
        (dir, store)
    }

    fn report(outcome: Outcome) -> RoundReport {
        RoundReport {
            outcome,
            ..RoundReport::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rate_and_rest_come_from_the_step_under_way() {
        let (_dir, store) = store();
        let rounds = Rounds::load(&store, &"a.example".parse().expect("a name")).expect("new");
        rounds.begin();
        let at = |step, done| Status {
            step,
            bytes_done: done,
            bytes_total: 10_000,
            ..Status::default()
        };
        rounds.observe(&at(Step::Looking, 0), 0);
        tokio::time::advance(Duration::from_secs(100)).await;
        rounds.observe(&at(Step::Fetching, 0), 0);
        tokio::time::advance(Duration::from_secs(10)).await;
        rounds.observe(&at(Step::Fetching, 2_000), 0);
        let glance = rounds.glance();
        assert_eq!(glance.rate, Some(200));
        assert_eq!(glance.left, Some(Duration::from_secs(40)));
        assert_eq!(glance.running, Some(Duration::from_secs(110)));
        tokio::time::advance(Duration::from_mins(1)).await;
        rounds.observe(&at(Step::Fetching, 2_000), 0);
        assert_eq!(rounds.glance().still, Duration::from_mins(1), "it does not move");
        rounds.observe(&at(Step::Fetching, 2_000), 1);
        assert_eq!(
            rounds.glance().still,
            Duration::ZERO,
            "a piece of a long file came"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failing_begins_with_the_first_round_that_failed() {
        let (_dir, store) = store();
        let name = "a.example".parse().expect("a name");
        let rounds = Rounds::load(&store, &name).expect("new");
        let round = async |outcome, minutes| {
            rounds.begin();
            tokio::time::advance(Duration::from_mins(minutes)).await;
            rounds.end(&store, &name, &report(outcome), 0).expect("kept");
        };
        round(Outcome::Published, 7).await;
        assert_eq!(rounds.glance().failing, Duration::ZERO);
        round(Outcome::Failed, 5).await;
        round(Outcome::Failed, 1).await;
        assert_eq!(rounds.glance().failing, Duration::from_mins(6));
        round(Outcome::Torn, 1).await;
        assert_eq!(rounds.glance().failing, Duration::ZERO);
    }

    #[tokio::test]
    async fn a_repository_that_stays_torn_is_news_once() {
        let (_dir, store) = store();
        let rounds = Rounds::load(&store, &"a.example".parse().expect("a name")).expect("new");
        let news = |outcome, torn: &[(&str, &str)]| {
            let repositories = torn.iter().map(|(name, problem)| RepositoryReport {
                name: (*name).to_owned(),
                folder: String::new(),
                state: "torn".to_owned(),
                problems: vec![(*problem).to_owned(), "until then".to_owned()],
            });
            let report = RoundReport {
                repositories: repositories.collect(),
                ..report(outcome)
            };
            let news = rounds.news(&report);
            news.torn.into_iter().map(|one| one.name).collect::<Vec<_>>()
        };
        assert_eq!(news(Outcome::Torn, &[("core", "p1 is missing")]), ["core"]);
        assert!(news(Outcome::Torn, &[("core", "p1 is missing")]).is_empty());
        assert!(news(Outcome::Failed, &[]).is_empty());
        let two = [("core", "p1 is missing"), ("extra", "p2 is missing")];
        assert_eq!(news(Outcome::Torn, &two), ["extra"]);
        assert_eq!(news(Outcome::Torn, &[("core", "p3 is missing")]), ["core"]);
        assert!(news(Outcome::Unchanged, &[]).is_empty());
        assert_eq!(
            news(Outcome::Torn, &[("core", "p3 is missing")]),
            ["core"],
            "again"
        );

        let warned = |warnings: &[&str]| {
            let report = RoundReport {
                warnings: warnings.iter().map(|one| (*one).to_owned()).collect(),
                alarms: vec!["core shrank".to_owned()],
                ..report(Outcome::Unchanged)
            };
            rounds.news(&report).warnings
        };
        assert_eq!(warned(&["core shrank", "iso is left out"]), ["iso is left out"]);
        assert_eq!(warned(&["iso is left out", "old is gone"]), ["old is gone"]);
    }

    #[tokio::test]
    async fn a_restart_remembers_the_failures_and_the_last_good_round() {
        let (_dir, store) = store();
        let name = "a.example".parse().expect("a name");
        let rounds = Rounds::load(&store, &name).expect("new");
        rounds
            .end(&store, &name, &report(Outcome::Published), 1000)
            .expect("kept");
        rounds
            .end(&store, &name, &report(Outcome::Failed), 2000)
            .expect("kept");
        rounds
            .end(&store, &name, &report(Outcome::Failed), 3000)
            .expect("kept");
        let kept = Rounds::load(&store, &name).expect("again").kept();
        assert_eq!((kept.failures, kept.good), (2, Some(1000)));
        assert_eq!(kept.last.map(|last| last.outcome), Some(Outcome::Failed));
        rounds
            .end(&store, &name, &report(Outcome::Unchanged), 4000)
            .expect("kept");
        assert_eq!(Rounds::load(&store, &name).expect("again").kept().failures, 0);
        assert_eq!(rounds.glance().outcomes.failed, 2);
    }
}
