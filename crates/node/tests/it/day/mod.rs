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
use site::{FAULTS, Fault, Site};

/// Where the clock begins, in seconds since 1970.
const START: u64 = 1_800_000_000;

/// How far time goes on at once: less than a program that tells an alert may take.
const STEP: Duration = Duration::from_secs(28);

/// Between two rounds of a mirror.
const PERIOD: Duration = Duration::from_mins(10);

/// How long a settled machine may take, on the clock of the wall.
const SETTLES: Duration = Duration::from_mins(2);

const HOUR: u64 = 3600;
const YEAR: u64 = 365 * 24 * HOUR;

/// The last hours nothing goes wrong any more.
const DAY: u64 = 24 * HOUR;
const CALM: u64 = 21 * HOUR;

/// When the disk is full, and when the clock says another year.
const FULL: (u64, u64) = (13 * HOUR, 13 * HOUR + 45 * 60);
const AHEAD: (u64, u64) = (16 * HOUR, 16 * HOUR + 30 * 60);
const BEHIND: (u64, u64) = (19 * HOUR, 19 * HOUR + 40 * 60);

/// When the process is killed.
const KILLS: [u64; 4] = [2 * HOUR, 9 * HOUR, 14 * HOUR + 30 * 60, 20 * HOUR];

/// Something was wrong this shortly ago: no claim about how fresh heads are.
const RECOVERS: u64 = 65 * 60;

static SITES: [site::Plan; 5] = [
    site::Plan {
        name: "arch.test",
        repos: &[
            ("core/os/x86_64", "core", "core"),
            ("extra/os/x86_64", "extra", "extra"),
        ],
        rsync: true,
        spare: false,
        layout: Layout::Archlinux,
        pool: true,
        stamp: "lastupdate",
        exclude: &[],
    },
    site::Plan {
        name: "endeavouros.test",
        repos: &[(
            "repo/endeavouros/x86_64",
            "repo/endeavouros/x86_64",
            "endeavouros",
        )],
        rsync: true,
        spare: true,
        layout: Layout::Plain,
        pool: false,
        stamp: "synctrace.txt",
        exclude: &[],
    },
    site::Plan {
        name: "manjaro.test",
        repos: &[
            ("stable/core/x86_64", "stable/core/x86_64", "core"),
            ("stable/extra/x86_64", "stable/extra/x86_64", "extra"),
        ],
        rsync: true,
        spare: false,
        layout: Layout::Plain,
        pool: false,
        stamp: "state",
        exclude: &["/testing"],
    },
    site::Plan {
        name: "alhp.test",
        repos: &[
            (
                "core-x86-64-v3/os/x86_64",
                "core-x86-64-v3/os/x86_64",
                "core-x86-64-v3",
            ),
            (
                "extra-x86-64-v3/os/x86_64",
                "extra-x86-64-v3/os/x86_64",
                "extra-x86-64-v3",
            ),
        ],
        rsync: false,
        spare: false,
        layout: Layout::Plain,
        pool: false,
        stamp: "lastupdate",
        exclude: &["/packages.html"],
    },
    site::Plan {
        name: "chaotic.test",
        repos: &[("x86_64", "x86_64", "chaotic-aur")],
        rsync: false,
        spare: false,
        layout: Layout::Plain,
        pool: false,
        stamp: "lastupdate",
        exclude: &["/index.html", "/pkgs.txt"],
    },
];

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// A fault of one site and the seconds from which and to which it lasts.
#[derive(Debug)]
struct Event {
    site: usize,
    fault: Fault,
    repository: usize,
    from: u64,
    to: u64,
}

/// What happens to whom; for each site every fault once, if the day is long enough.
fn schedule(dice: &mut Dice) -> Vec<Event> {
    // The first site is torn for hours, and dead in the middle of that.
    let event = |fault, from, to| Event {
        site: 0,
        fault,
        repository: 0,
        from,
        to,
    };
    let mut events = vec![
        event(Fault::Lost, 4 * HOUR, 8 * HOUR),
        event(Fault::Dead, 6 * HOUR + 40 * 60, 7 * HOUR + 10 * 60),
    ];
    for site in 0..SITES.len() {
        let first = dice.roll(FAULTS.len() as u64) as usize;
        let mut at = if site == 0 { 8 * HOUR + 1800 } else { HOUR } + dice.roll(HOUR);
        for number in 0..FAULTS.len() {
            let fault = FAULTS[(first + number) % FAULTS.len()];
            let lasts = 60 * [12, 25, 45, 70, 150][dice.roll(5) as usize];
            // The disk is full then: nothing else, or more would be told at once than is told in an hour.
            if at < FULL.1 + HOUR && FULL.0 - HOUR / 2 < at + lasts {
                at = FULL.1 + HOUR + dice.roll(HOUR / 2);
            }
            // What is held for its signature is taken once the clock says that its time is over, whatever made it say so.
            let jumps = [AHEAD, BEHIND]
                .iter()
                .any(|span| at < span.1 && span.0 < at + lasts);
            if fault == Fault::Unpaired && jumps {
                continue;
            }
            if CALM < at + lasts {
                break;
            }
            events.push(Event {
                site,
                fault,
                repository: dice.roll(2) as usize,
                from: at,
                to: at + lasts,
            });
            at += lasts + HOUR / 2 + dice.roll(HOUR);
        }
    }
    events
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
    /// When each site was last not well.
    unwell: Vec<u64>,
    seen: BTreeSet<Fault>,
    /// For work that waits on the clock of the wall.
    aside: Tasks,
    _told: tempfile::TempDir,
}

impl Day {
    /// Nothing if rsync is not installed.
    async fn begin(seed: u64) -> Result<Option<Self>, Failure> {
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
            rounds: SITES.len(),
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
            unwell: vec![0; sites.len()],
            sites,
            node: Some(node),
            clock: hand,
            gate,
            judge: Judge::default(),
            dice: Dice(seed),
            told: file,
            heard: 0,
            now: 0,
            off: 0,
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
        self.clock.advance(STEP);
        tokio::time::advance(STEP).await;
        self.now += STEP.as_secs();
        self.note_truth()?;
        let status = self.settle().await;
        self.look(&status)
    }

    /// Waits until nothing works any more but what waits for an upstream that hangs.
    async fn settle(&self) -> Status {
        let until = std::time::Instant::now() + SETTLES;
        loop {
            let status = self.node().node.status(None).await;
            let works = |import: &pacstore_node::ImportStatus| {
                let site = self.sites.iter().find(|site| site.plan.name == import.name);
                let hangs = site.is_some_and(|site| site.hangs(&import.source));
                let due = import.next_s == Some(0) || import.waits.is_some();
                due || (import.running_s.is_some() && !hangs)
            };
            if !status.imports.iter().any(works) && status.alert_counts.2 == 0 {
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
            self.judge.note_told(self.now, kind, key);
        }
        let full = self.gate.full.load(Ordering::SeqCst);
        let node = self.node.as_ref().expect("it runs");
        for (number, import) in status.imports.iter().enumerate() {
            let name = &import.name;
            self.judge.look(&node.node, name, self.now)?;
            let site = &mut self.sites[number];
            site.lingers &= site.down == Some(Fault::Hung) || import.running_s.is_some();
            let last = import.last.as_ref();
            let failed = last.is_some_and(|last| last.outcome == Outcome::Failed);
            self.judge
                .note_condition(self.now, &format!("round/{name}"), failed);
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
            if self.unwell[number] + RECOVERS < self.now {
                // `checked` moves every half an hour, and with the next round after that.
                let longest = 1800 + 2 * PERIOD.as_secs();
                let now = (self.now, self.clock());
                self.judge.is_current(&node.node, name, now, longest);
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
        Ok(())
    }

    /// What the schedule has for the time between `self.now` and the next step.
    async fn happen(&mut self, events: &[Event]) -> TestResult {
        let (from, to) = (self.now, self.now + STEP.as_secs());
        let now = |at: u64| (from..to).contains(&at);
        for event in events {
            let clock = self.clock();
            let fault = self.sites[event.site].can(event.fault);
            if now(event.from) {
                self.sites[event.site].inflict(fault, event.repository, clock)?;
                self.seen.insert(fault);
            }
            if now(event.to) {
                self.sites[event.site].heal(fault, event.repository, clock)?;
            }
        }
        for number in 0..self.sites.len() {
            if now(self.now / 1800 * 1800 + 60 * (number as u64 + 1)) && self.dice.roll(2) == 0 {
                let (roll, clock) = (self.dice.roll(1000) as usize, self.clock());
                self.sites[number].update(roll, clock)?;
            }
        }
        self.gate
            .full
            .store((FULL.0..FULL.1).contains(&from), Ordering::SeqCst);
        for (span, off) in [(AHEAD, YEAR.cast_signed()), (BEHIND, -YEAR.cast_signed())] {
            if now(span.0) {
                self.jump(off);
            }
            if now(span.1) {
                self.jump(0);
            }
            // It is told for an hour after the last jump.
            let told = now(span.0) || (span.0..span.1 + HOUR).contains(&from);
            if told || now(span.1 + HOUR) {
                self.judge.note_condition(self.now, "clock", told);
            }
        }
        if KILLS.into_iter().any(now) {
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

#[tokio::test(start_paused = true)]
#[ignore = "minutes; `cargo xtask soak day` runs it"]
async fn a_day_of_five_mirrors_with_every_fault() -> TestResult {
    let seed = std::env::var("PACSTORE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("PACSTORE_SEED={seed}");
    // While this waits, time goes on only where it is told to.
    let (release, held) = sync_channel::<()>(0);
    let hold = Tasks::new();
    let waits = hold.blocking(Pool::Disk, move || held.recv());
    hold.spawn("test/hold", async move { drop(waits.await) });

    let Some(mut day) = Day::begin(seed).await? else {
        return Ok(());
    };
    let events = schedule(&mut day.dice);
    while day.now < DAY {
        day.happen(&events).await?;
        day.step().await?;
    }
    let node = day.node.take().expect("it runs");
    assert_eq!(node.node.status(None).await.alerts, []);
    for site in &day.sites {
        let longest = 1800 + 2 * PERIOD.as_secs();
        day.judge
            .is_current(&node.node, site.plan.name, (day.now, day.clock()), longest);
    }
    let damages = node.node.store().fsck(false, &mut |_| ())?.damages;
    assert!(damages.is_empty(), "{damages:?}");
    let summary = day.judge.alerts(STEP.as_secs());
    assert_eq!(day.seen.len(), FAULTS.len(), "{:?}", day.seen);
    assert!(
        40 < summary.trees && 5 < summary.told && 5 < summary.short,
        "too little happened: {summary:?}, {} heads",
        day.judge.published
    );
    drop(release);
    Ok(())
}
