//! Many rounds one after the other: what is kept, on disk and in memory, follows what is alive, not how long it went on.
//!
//! Each update writes 20 of 5,000 files anew and is imported; three snapshots stay, the rest goes with gc. A few
//! updates of a small folder run in every test; `cargo xtask soak year` runs a year of five-minute rounds, prints
//! what it measured, and judges it by the goals.
//!
//! - Not here: publishing and its clock (crate `node`).

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use pacstore_import::{Importer, Progress};

use crate::common::{Bench, all, of_directory};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Snapshots that stay.
const KEPT: usize = 3;

/// When the first files were written, since 1970; those of each update a second later.
const FIRST: Duration = Duration::from_secs(1_744_500_001);

/// How large a run is.
struct Size {
    updates: u32,
    files: u32,
    changed: u32,
    bytes: usize,
}

/// A folder that changes, and the importer that follows it.
struct Year {
    size: Size,
    upstream: tempfile::TempDir,
    bench: Bench,
    importer: Importer,
    kept: VecDeque<String>,
    update: u32,
}

/// What one update took.
struct Took {
    time: Duration,
    evictable: u64,
}

impl Year {
    /// Writes the folder and imports it for the first time.
    async fn begin(size: Size, bench: Bench) -> Result<Self, Box<dyn std::error::Error>> {
        let upstream = tempfile::tempdir()?;
        for number in 0..size.files {
            write(upstream.path(), number, 0, size.bytes)?;
        }
        let importer = bench.importer(all(of_directory(upstream.path())));
        let mut year = Self {
            size,
            upstream,
            bench,
            importer,
            kept: VecDeque::new(),
            update: 0,
        };
        year.round().await?;
        Ok(year)
    }

    /// Some files change; one round; the oldest snapshot goes.
    async fn update(&mut self) -> Result<Took, Box<dyn std::error::Error>> {
        self.update += 1;
        for n in 0..self.size.changed {
            let number = (self.update * self.size.changed + n) % self.size.files;
            write(self.upstream.path(), number, self.update, self.size.bytes)?;
        }
        let begun = Instant::now();
        self.round().await?;
        Ok(Took {
            time: begun.elapsed(),
            evictable: self.bench.store.stats().evictable,
        })
    }

    async fn round(&mut self) -> TestResult {
        let round = self.importer.round(&Progress::default()).await?;
        assert!(round.changed, "update {} changed nothing", self.update);
        assert_eq!(round.counts.files, u64::from(self.size.files));
        let label = format!("head/{}", self.update);
        self.bench.store.retain(&label, &round.tree)?;
        self.kept.push_back(label);
        if self.kept.len() > KEPT {
            let oldest = self.kept.pop_front().expect("more than three");
            self.bench.store.release(&oldest)?;
        }
        self.bench.store.gc(Some(0))?;
        Ok(())
    }

    /// Files that the snapshots hold together: those of the newest, and what each older one had instead.
    fn alive(&self) -> u64 {
        let older = (self.kept.len().saturating_sub(1)) as u64 * u64::from(self.size.changed);
        u64::from(self.size.files) + older
    }

    fn live_bytes(&self) -> u64 {
        self.alive() * self.size.bytes as u64
    }

    /// Bytes of the importer's own memory on disk.
    fn state_bytes(&self) -> Result<u64, Box<dyn std::error::Error>> {
        folder_bytes(&self.bench.dir.path().join("work"))
    }
}

fn write(dir: &Path, number: u32, version: u32, bytes: usize) -> TestResult {
    let mut content = vec![0; bytes];
    let seed = u64::from(number) << 32 | u64::from(version);
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in content.chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    // As rsync does it: beside, then over. What was written within two seconds is not remembered, and how many files that
    // are would depend on how fast the machine is.
    let beside = dir.join(".new");
    fs_err::write(&beside, content)?;
    let file = fs_err::OpenOptions::new().write(true).open(&beside)?;
    file.file()
        .set_modified(SystemTime::UNIX_EPOCH + FIRST + Duration::from_secs(u64::from(version)))?;
    drop(file);
    fs_err::rename(
        beside,
        dir.join(format!("package{number:05}-1-1-any.pkg.tar.zst")),
    )?;
    Ok(())
}

fn folder_bytes(dir: &Path) -> Result<u64, Box<dyn std::error::Error>> {
    let mut bytes = 0;
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            meta.len()
        };
    }
    Ok(bytes)
}

/// Bytes of memory that are resident now.
fn resident() -> f64 {
    let text = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}

/// Bytes of rows in a database of ours. Its length says less: it grows in steps, and more where readers hold old pages.
fn row_bytes(database: &Path) -> Result<u64, Box<dyn std::error::Error>> {
    // Of a copy: the database is in use, but nobody writes.
    let copy = tempfile::NamedTempFile::new()?;
    fs_err::copy(database, copy.path())?;
    let database = redb::Database::open(copy.path())?;
    Ok(database.begin_write()?.stats()?.stored_bytes())
}

/// After many updates the store holds what three snapshots hold, and neither the index nor the importer's memory has more in it.
#[tokio::test]
async fn updates_leave_nothing_behind_but_the_snapshots_that_stay() -> TestResult {
    let size = Size {
        updates: 80,
        files: 200,
        changed: 20,
        bytes: 600,
    };
    let updates = size.updates;
    let mut year = Year::begin(size, Bench::new()).await?;
    let home = year.bench.dir.path().to_owned();
    let rows = || -> Result<(u64, u64), Box<dyn std::error::Error>> {
        let memory = home.join("work/test.mirror/manifest.redb");
        Ok((row_bytes(&home.join("store/index.redb"))?, row_bytes(&memory)?))
    };
    let mut early = (0, 0);
    for n in 0..updates {
        let took = year.update().await?;
        assert_eq!(took.evictable, 0, "gc left something after update {n}");
        assert_eq!(year.bench.store.stats().files, year.alive(), "after update {n}");
        if n == 20 {
            early = rows()?;
        }
    }
    let late = rows()?;
    // A row of 16 bytes for each changed file would be 19 kB, one of 40 for each update 2.4.
    let same = |early: u64, late: u64| late <= early + 2_000;
    assert!(
        same(early.0, late.0) && same(early.1, late.1),
        "bytes of rows in index and memory: {early:?} grew to {late:?}"
    );
    Ok(())
}

/// The numbers of a long run.
#[derive(Default)]
struct Log {
    times: Vec<f64>,
    rss: Vec<f64>,
    most_evictable: u64,
}

/// `cargo xtask soak year`.
#[tokio::test]
#[ignore = "an hour and more; `cargo xtask soak year` runs it"]
async fn a_year_of_five_minute_rounds() -> TestResult {
    let asked = |name: &str, or: u32| {
        let value = std::env::var(name).ok();
        value.map_or(Ok(or), |text| text.parse::<u32>())
    };
    let size = Size {
        updates: asked("PACSTORE_YEAR", 105_000)?,
        files: asked("PACSTORE_YEAR_FILES", 5_000)?,
        changed: 20,
        bytes: asked("PACSTORE_YEAR_BYTES", 65_536)? as usize,
    };
    let updates = size.updates;
    let mut year = Year::begin(size, Bench::new()).await?;
    let mut log = Log::default();
    for n in 0..updates {
        let took = year.update().await?;
        log.times.push(took.time.as_secs_f64() * 1e3);
        log.most_evictable = log.most_evictable.max(took.evictable);
        if n % (updates / 50).max(1) == 0 || n + 1 == updates {
            log.rss.push(resident());
        }
        if (n + 1) % (updates / 10).max(1) == 0 {
            say(&format!(
                "# {} of {updates} updates, {:.0} ms, {} KiB of index and state, {:.1} MB of memory",
                n + 1,
                took.time.as_secs_f64() * 1e3,
                (year.bench.store.stats().index_bytes + year.state_bytes()?) >> 10,
                resident() / 1e6
            ));
        }
    }
    judge(&year, &log)
}

/// Prints each goal with what was reached, and fails if one was missed.
fn judge(year: &Year, log: &Log) -> TestResult {
    let live = year.live_bytes() as f64;
    let stats = year.bench.store.stats();
    let kept = (stats.index_bytes + year.state_bytes()?) as f64;
    let (first, windows) = windows(&log.times);
    let slowest = windows.iter().copied().fold(0.0, f64::max);
    let single = log.times.iter().copied().fold(0.0, f64::max);
    let rss = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    // The first tenth warms up, and at least 500 updates: with 200 files anonymous memory went from 13.3 to 15.1 MB by then,
    // and to 15.3 MB in the 1,900 that followed (caches and the allocator fill up; nothing is lost).
    let samples = log.rss.len();
    let cold = (samples / 10).max(samples * 500 / log.times.len().max(1));
    let warm = &log.rss[cold.min(samples.saturating_sub(8))..];
    let (early, late) = (
        rss(&warm[..warm.len().div_ceil(4)]),
        rss(&warm[warm.len() * 3 / 4..]),
    );
    let allowed = live * 0.01 + f64::from(4 << 20);
    let goals = [
        (
            "index and state",
            kept / 1e6,
            "MB",
            allowed / 1e6,
            "1 % of live data + 4 MiB",
        ),
        (
            "stored files",
            stats.bytes as f64 / live,
            "x live data",
            1.01,
            "nothing left behind",
        ),
        (
            "gc leaves at most",
            log.most_evictable as f64 / 1e6,
            "MB",
            0.0,
            "gc keeps up",
        ),
        ("memory, last quarter to first", late / early, "x", 1.05, "flat"),
        (
            "slowest 20 updates to the first 20, medians",
            slowest / first,
            "x",
            2.0,
            "no update slower than 2x",
        ),
    ];
    say(&format!(
        "{} updates of {} of {} files, {:.1} MB live in {KEPT} snapshots; first {first:.1} ms, slowest single {single:.1} ms; \
         memory {:.1} MB",
        log.times.len(),
        year.size.changed,
        year.size.files,
        live / 1e6,
        late / 1e6
    ));
    let mut missed = Vec::new();
    for (what, is, unit, goal, why) in goals {
        let met = is <= goal;
        say(&format!(
            "{what}: {is:.3} {unit}, goal <= {goal:.3} ({why}): {}",
            if met { "met" } else { "MISSED" }
        ));
        if !met {
            missed.push(what);
        }
    }
    assert_eq!(stats.files, year.alive(), "files that no snapshot holds");
    assert!(missed.is_empty(), "missed: {}", missed.join(", "));
    Ok(())
}

/// The median of the first 20, and of each 20 that follow.
fn windows(times: &[f64]) -> (f64, Vec<f64>) {
    let medians: Vec<f64> = times
        .chunks(20)
        .map(|window| {
            let mut window = window.to_vec();
            window.sort_by(f64::total_cmp);
            window[window.len() / 2]
        })
        .collect();
    (medians.first().copied().unwrap_or(f64::NAN), medians)
}

#[expect(clippy::print_stdout, reason = "a long test tells what it measures")]
fn say(line: &str) {
    println!("{line}");
}
