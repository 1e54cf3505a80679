//! A day of an importer of five mirrors that nobody looks after, in simulated time.
//!
//! Five upstreams with the layouts of real ones move on every half an hour; by a schedule that a seed makes each of them is
//! dead, hangs, has web pages, is empty, torn, without the right signature, wiped and refilled, some of it more than once.
//! The disk is full for a while, the process is killed in the middle of rounds and starts again, the clock says another year
//! twice. All the while: each head is whole and names only what upstream had, `checked` is true, alerts come as
//! `docs/operating.md` says, and in the end everything is as upstream has it.
//!
//! Time stands still while something works (real rsync, real HTTP, a real disk) and then goes on by [`STEP`]. So a deadline
//! passes in no time, and nothing depends on how fast the machine is.
//!
//! `cargo xtask soak day` runs it; `PACSTORE_SEED` repeats a schedule.
//!
//! - Not here: real kills (`kill.rs` of `cli`), the real pacman (`tests/accept/live.sh`).

mod judge;
mod script;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, UNIX_EPOCH};

use pacstore_import::Layout;
use pacstore_node::config::{Every, ImportConfig, Importing, Keep};
use pacstore_node::{Keys, Outcome, Status};
use pacstore_runtime::{Clock, FakeClock, Pool, Tasks};
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::TestResult;

use crate::nodes::{Failure, Plan, TestNode, mirror};
use crate::service::{told, told_in};
use judge::{AFTER, Judge, TORN};
use script::{Dice, HOUR, SITES, Script};
use site::{FAULTS, Fault, Site};

/// Where the clock begins, in seconds since 1970.
const START: u64 = 1_800_000_000;

/// How far time goes on at once: less than a program that tells an alert may take.
const STEP: Duration = Duration::from_secs(28);

/// Between two rounds of a mirror.
const PERIOD: Duration = Duration::from_mins(10);

/// How long a settled machine may take, on the clock of the wall.
const SETTLES: Duration = Duration::from_mins(2);

/// Rounds at once: fewer than mirrors, and than upstreams that hang at times.
const ROUNDS: usize = 2;

/// How many steps a mirror that is well may wait for its turn: all others hang, and each pair of them is waited for in vain
/// for less than a step, up to the next look.
const TURNS: u32 = 3;

/// Something was wrong this shortly ago: no claim about how fresh heads are.
const RECOVERS: u64 = 65 * 60;

/// A line of what happens; shown where a test fails.
#[expect(
    clippy::print_stderr,
    reason = "the test's own report, which the harness keeps until it fails"
)]
fn trace(line: &str) {
    eprintln!("{line}");
}

/// Fails every step of the store from the given one on.
#[derive(Debug)]
struct Gate {
    left: AtomicU64,
    full: std::sync::atomic::AtomicBool,
}

impl Steps for Gate {
    fn before(&self, _: &'static str) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if left != u64::MAX {
            self.left.store(left - 1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The day as it goes on.
struct Day {
    script: Script,
    sites: Vec<Site>,
    node: Option<TestNode>,
    clock: FakeClock,
    gate: Arc<Gate>,
    judge: Judge,
    dice: Dice,
    told: PathBuf,
    heard: usize,
    /// Seconds since the begin, and how far the clock is from that.
    now: u64,
    off: i64,
    /// Until when a jump of the clock is told: for an hour.
    jumped: Option<u64>,
    /// When each site was last not well.
    unwell: Vec<u64>,
    /// How many rounds each has done since the start.
    rounds: Vec<u64>,
    /// When the round began that each is at.
    began: Vec<Option<u64>>,
    /// For how many steps each waits for its turn.
    waited: Vec<u32>,
    seen: BTreeSet<Fault>,
    /// For work that waits on the clock of the wall.
    aside: Tasks,
    _told: tempfile::TempDir,
}

impl Day {
    /// Nothing if rsync is not installed.
    async fn begin(
        mut dice: Dice,
        script: impl FnOnce(&mut Dice) -> Script,
    ) -> Result<Option<Self>, Failure> {
        let mut sites = Vec::new();
        for plan in &SITES {
            match Site::open(plan, START)? {
                Some(site) => sites.push(site),
                None => return Ok(None),
            }
        }
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("told");
        let gate = Arc::new(Gate {
            left: AtomicU64::new(u64::MAX),
            full: false.into(),
        });
        let (clock, hand) = Clock::fake(UNIX_EPOCH + Duration::from_secs(START));
        let mut plan = Plan::new().clock(&clock);
        plan.config.alert = told_in(&file);
        plan.config.alert.after = Duration::from_secs(AFTER);
        plan.config.alert.torn = Duration::from_secs(TORN);
        plan.config.importing = Importing {
            rounds: ROUNDS,
            ..plan.config.importing
        };
        plan.config.tuning = Tuning {
            steps: Some(Arc::<Gate>::clone(&gate)),
            ..Tuning::default()
        };
        for site in &sites {
            add_import(&mut plan, site)?;
        }
        let node = plan.start().await;
        Ok(Some(Self {
            script: script(&mut dice),
            waited: vec![0; sites.len()],
            began: vec![None; sites.len()],
            rounds: vec![0; sites.len()],
            unwell: vec![0; sites.len()],
            sites,
            node: Some(node),
            clock: hand,
            gate,
            judge: Judge::default(),
            dice,
            told: file,
            heard: 0,
            now: 0,
            off: 0,
            jumped: None,
            seen: BTreeSet::new(),
            aside: Tasks::new(),
            _told: folder,
        }))
    }

    fn clock(&self) -> u64 {
        (START + self.now).saturating_add_signed(self.off)
    }

    fn node(&self) -> &TestNode {
        self.node.as_ref().expect("it runs")
    }

    /// The clock jumps to `off` seconds from what is right.
    fn jump(&mut self, off: i64) {
        self.off = off;
        self.clock.set(UNIX_EPOCH + Duration::from_secs(self.clock()));
        self.unwell.fill(self.now);
        self.jumped = Some(self.now + HOUR);
        self.judge.note_condition(self.now, "clock", true);
    }

    /// A moment passes on the clock of the wall, and nearly nothing on the others.
    async fn moment(&self) {
        let moment = || std::thread::park_timeout(Duration::from_millis(1));
        drop(self.aside.blocking(Pool::Disk, moment).await);
        tokio::time::advance(Duration::from_millis(1)).await;
    }

    /// Time goes on.
    async fn step(&mut self) -> Result<(), Failure> {
        self.note_truth()?;
        let looks = self.node().node.status(None).await.alert_looks;
        self.clock.advance(STEP);
        tokio::time::advance(STEP).await;
        self.now += STEP.as_secs();
        self.note_truth()?;
        let status = self.settle(looks).await;
        self.look(&status)
    }

    /// Waits until nothing works any more but what waits for an upstream that hangs, and there were more than `looks` looks
    /// for what is wrong.
    async fn settle(&self, looks: u64) -> Status {
        let until = std::time::Instant::now() + SETTLES;
        loop {
            let status = self.node().node.status(None).await;
            let hangs = |import: &pacstore_node::ImportStatus| {
                let site = self.sites.iter().find(|site| site.plan.name == import.name);
                import.running_s.is_some() && site.is_some_and(|site| site.hangs(&import.source))
            };
            let hung = status.imports.iter().filter(|import| hangs(import)).count();
            let works = |import: &pacstore_node::ImportStatus| {
                let waits = import.waits.is_some() && hung < ROUNDS;
                // Between the end of a round and the wait for the next one its report is written.
                let due = import.next_s.is_none_or(|next| next == 0);
                let is_due = due && import.waits.is_none() && import.running_s.is_none();
                is_due || waits || (import.running_s.is_some() && !hangs(import))
            };
            let told = looks < status.alert_looks && status.alert_counts.2 == 0;
            if told && !status.imports.iter().any(works) {
                return status;
            }
            assert!(std::time::Instant::now() < until, "it never settles: {status:#?}");
            self.moment().await;
        }
    }

    /// What is true upstream now.
    fn note_truth(&mut self) -> Result<(), Failure> {
        for site in &self.sites {
            for (folder, name, sha256) in site.truth()? {
                let which = (site.plan.name.to_owned(), folder, name);
                let now = (self.now, self.clock());
                self.judge.note_truth(which, now, sha256);
            }
        }
        Ok(())
    }

    /// Looks at everything that the node says.
    fn look(&mut self, status: &Status) -> Result<(), Failure> {
        let messages = told(&self.told);
        for (kind, key) in messages.into_iter().skip(self.heard) {
            self.heard += 1;
            trace(&format!("{} s: {kind:?} {key}", self.now));
            self.judge.note_told(self.now, kind, key);
        }
        let full = self.gate.full.load(Ordering::SeqCst);
        let clock = self.clock();
        let told = self.jumped.is_some_and(|until| self.now < until);
        self.judge.note_condition(self.now, "clock", told);
        let node = self.node.as_ref().expect("it runs");
        for (number, import) in status.imports.iter().enumerate() {
            let name = &import.name;
            let now = (self.now, clock);
            self.judge.look(&node.node, name, now)?;
            let site = &mut self.sites[number];
            site.lingers &= site.down == Some(Fault::Hung) || import.running_s.is_some();
            let last = import.last.as_ref();
            let rounds = import.outcomes;
            let all = rounds.published + rounds.unchanged + rounds.torn + rounds.failed;
            if all != self.rounds[number] {
                self.rounds[number] = all;
                let outcome = last.map(|last| last.outcome);
                trace(&format!(
                    "{} s: round {all} of {name}: {outcome:?} of {}",
                    self.now, import.source
                ));
            }
            let failed = last.is_some_and(|last| last.outcome == Outcome::Failed);
            let begun = self.began[number].take().unwrap_or(self.now);
            self.began[number] = import.running_s.map(|running| self.now.saturating_sub(running));
            let key = format!("round/{name}");
            self.judge.note_condition_since(self.now, begun, &key, failed);
            let states: BTreeMap<_, _> = last
                .filter(|_| !failed)
                .map(|last| {
                    last.repositories
                        .iter()
                        .map(|one| ((&*one.folder, &*one.name), &*one.state))
                })
                .into_iter()
                .flatten()
                .collect();
            for (_, folder, repository) in SITES[number].repos.iter().filter(|_| !failed) {
                let state = states.get(&(*folder, *repository)).copied();
                for kind in ["torn", "held"] {
                    let key = format!("{kind}/{name}/{folder}/{repository}");
                    self.judge.note_condition(self.now, &key, state == Some(kind));
                }
            }
            if !self.sites[number].is_well() || full || failed {
                self.unwell[number] = self.now;
            }
            let waits = import.waits.is_some();
            self.waited[number] = if waits { self.waited[number] + 1 } else { 0 };
            if TURNS < self.waited[number] {
                let steps = self.waited[number];
                self.judge.blame(
                    self.now,
                    &format!("{name} has waited for its turn for {steps} steps"),
                );
            }
            if self.unwell[number] + RECOVERS < self.now {
                self.judge.is_current(&node.node, &SITES[number], now);
            }
        }
        Ok(())
    }

    /// The process ends in the middle of a round: from some step on nothing reaches the disk.
    async fn kill(&mut self) -> TestResult {
        let site = self.dice.roll(self.sites.len() as u64) as usize;
        let clock = self.clock();
        self.sites[site].update(self.now as usize, clock)?;
        self.note_truth()?;
        let node = self.node.take().expect("it runs");
        let inner = node.node.clone();
        let import = inner.import(SITES[site].name).expect("it imports");
        self.aside.spawn("test/round", async move {
            inner.import_now(&import).await;
        });
        for _ in 0..self.dice.roll(40) {
            self.moment().await;
        }
        self.gate.left.store(self.dice.roll(60), Ordering::SeqCst);
        for _ in 0..self.dice.roll(120) {
            self.moment().await;
        }
        self.gate.left.store(0, Ordering::SeqCst);
        let plan = {
            let stop = node.stop();
            tokio::pin!(stop);
            loop {
                tokio::select! {
                    plan = &mut stop => break plan,
                    () = self.moment() => {}
                }
            }
        };
        self.gate.left.store(u64::MAX, Ordering::SeqCst);
        self.node = Some(plan.start().await);
        self.unwell.fill(self.now);
        // Nobody who starts can know of it.
        self.jumped = None;
        Ok(())
    }

    /// What the schedule has for the time between `self.now` and the next step.
    async fn happen(&mut self) -> TestResult {
        let (from, to) = (self.now, self.now + STEP.as_secs());
        let now = |at: u64| (from..to).contains(&at);
        for event in &self.script.events {
            let clock = self.clock();
            let fault = self.sites[event.site].can(event.fault);
            if now(event.from) {
                self.sites[event.site].inflict(fault, event.repository, clock)?;
                self.seen.insert(fault);
                trace(&format!(
                    "{} s: {fault:?} at {}",
                    self.now, SITES[event.site].name
                ));
            }
            if now(event.to) {
                self.sites[event.site].heal(fault, event.repository, clock)?;
                trace(&format!(
                    "{} s: {fault:?} is over at {}",
                    self.now, SITES[event.site].name
                ));
            }
        }
        for number in 0..self.sites.len() {
            if now(self.now / 1800 * 1800 + 60 * (number as u64 + 1)) && self.dice.roll(2) == 0 {
                let (roll, clock) = (self.dice.roll(1000) as usize, self.clock());
                self.sites[number].update(roll, clock)?;
            }
        }
        let full = self.script.full;
        self.gate
            .full
            .store((full.0..full.1).contains(&from), Ordering::SeqCst);
        for (begins, ends, off) in self.script.jumps.clone() {
            if now(begins) {
                self.jump(off);
            }
            if now(ends) {
                self.jump(0);
            }
        }
        if self.script.kills.iter().copied().any(now) {
            self.kill().await?;
        }
        Ok(())
    }
}

/// A mirror of its own, with a key of its own.
fn add_import(plan: &mut Plan, site: &Site) -> Result<(), Failure> {
    let label = site.plan.name.split('.').next().unwrap_or_default();
    let key = Keys::new(&plan.config.state_dir).create(label)?.name();
    let layout = match site.plan.layout {
        Layout::Plain => pacstore_names::Layout::Plain,
        Layout::Archlinux => pacstore_names::Layout::Archlinux,
    };
    plan.config.imports.push(ImportConfig {
        name: site.plan.name.parse()?,
        layout,
        spec: site.spec()?,
        key: label.to_owned(),
        every: Every::Period(PERIOD),
        keep: Keep {
            age: Duration::from_hours(1),
            count: 3,
        },
        max_age: Some(Duration::from_hours(24)),
        public: true,
        replicas: 0,
    });
    let mut trusts = mirror(vec![key]);
    (trusts.name, trusts.layout) = (site.plan.name.parse()?, layout);
    plan.config.mirrors.push(trusts);
    Ok(())
}

/// Runs it to its end, and gives what there was to judge.
async fn run(
    seed: u64,
    script: impl FnOnce(&mut Dice) -> Script,
) -> Result<Option<(Day, judge::Summary)>, Failure> {
    // While this waits, time goes on only where it is told to.
    let (release, held) = sync_channel::<()>(0);
    let hold = Tasks::new();
    let waits = hold.blocking(Pool::Disk, move || held.recv());
    hold.spawn("test/hold", async move { drop(waits.await) });
    let Some(mut day) = Day::begin(Dice(seed), script).await? else {
        return Ok(None);
    };
    while day.now < day.script.ends {
        day.happen().await?;
        day.step().await?;
    }
    let summary = day.judge.alerts(day.now);
    assert_eq!(day.judge.verdict(), [""; 0]);
    let damages = day.node().node.store().fsck(false, &mut |_| ())?.damages;
    assert!(damages.is_empty(), "{damages:?}");
    drop(release);
    Ok(Some((day, summary)))
}

/// Nothing is wrong any more, and everything is as upstream has it.
async fn ends_well(day: &mut Day) {
    assert_eq!(day.node().node.status(None).await.alerts, []);
    let (now, clock) = (day.now, day.clock());
    let node = day.node.as_ref().expect("it runs");
    for plan in &SITES {
        day.judge.is_current(&node.node, plan, (now, clock));
    }
    assert_eq!(day.judge.verdict(), [""; 0]);
    assert_eq!(day.seen.len(), FAULTS.len(), "{:?}", day.seen);
}

#[tokio::test(start_paused = true)]
#[ignore = "minutes; `cargo xtask soak day` runs it"]
async fn a_day_of_five_mirrors_with_every_fault() -> TestResult {
    let seed = std::env::var("PACSTORE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("PACSTORE_SEED={seed}");
    let Some((mut day, summary)) = run(seed, Script::day).await? else {
        return Ok(());
    };
    ends_well(&mut day).await;
    eprintln!("{summary:?}, {} heads", day.judge.published);
    assert!(
        40 < summary.trees && 5 < summary.told && 5 < summary.short,
        "too little happened: {summary:?}, {} heads",
        day.judge.published
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn some_hours_of_five_mirrors_with_every_fault() -> TestResult {
    let Some((mut day, summary)) = run(1, |_| Script::hours()).await? else {
        return Ok(());
    };
    ends_well(&mut day).await;
    assert!(
        10 < summary.trees && 1 < summary.told && 1 < summary.short,
        "too little happened: {summary:?}, {} heads",
        day.judge.published
    );
    Ok(())
}

/// With two rounds at once and four upstreams that hang, the fifth goes on as if there were no others.
#[tokio::test(start_paused = true)]
async fn upstreams_that_hang_for_ever_keep_nobody_from_its_rounds() -> TestResult {
    let Some((mut day, _)) = run(1, |_| Script::hung()).await? else {
        return Ok(());
    };
    let (now, clock) = (day.now, day.clock());
    let node = day.node.as_ref().expect("it runs");
    day.judge.is_current(&node.node, &SITES[1], (now, clock));
    assert_eq!(day.judge.verdict(), [""; 0]);
    let outcomes = node.node.status(None).await.imports[1].outcomes;
    let longest = PERIOD.as_secs() / 10 * 11 + 4 * STEP.as_secs();
    let rounds = outcomes.published + outcomes.unchanged;
    assert!(now / longest <= rounds, "{outcomes:?}");
    Ok(())
}
