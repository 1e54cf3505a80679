//! `bench importer`: what a round costs beside what changed, one row after the other.
//!
//! A round is `pacstore import NAME --once` as a process of its own: its start, the opening of its store and
//! the signing of its head are in each figure.
//!
//! - Not here: rates over large files (`import`), through a line of a fixed rate (`super::wire`), a year of rounds (`cargo xtask soak year`).

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::corpus::Noise;
use super::lab::{self, Home};
use super::table::Table;
use super::{Args, median, say, wire};

/// Bytes of each file.
const BYTES: u64 = 256;
/// Files that change between two rounds.
const CHANGED: usize = 10;
/// Most seconds of processor time for a first import of 100,000 files.
const FIRST: f64 = 10.0;
/// Most seconds of processor time for a round in which ten files changed.
const TEN: f64 = 0.5;
/// Most memory with five mirrors, in MB.
pub(super) const MEMORY: f64 = 150.0;
/// Exit codes of `pacstore import --once`: a new tree, nothing new.
const NEW: [i32; 1] = [0];
const SAME: [i32; 1] = [3];

/// The rows by name: what `--row` takes.
type Row = (&'static str, fn(&Lab<'_>, &mut Table) -> anyhow::Result<()>);
const ROWS: [Row; 7] = [
    ("first", first),
    ("unchanged-directory", unchanged_directory),
    ("unchanged-rsync", unchanged_rsync),
    ("ten-changed", ten_changed),
    ("memory", memory),
    ("wire-rsync", |lab, table| {
        wire::by_rsync(lab.args, (&lab.bin, &lab.dir), table)
    }),
    ("wire-http", |lab, table| {
        wire::by_http(lab.args, (&lab.bin, &lab.dir), table)
    }),
];

/// What all rows use.
struct Lab<'a> {
    args: &'a Args,
    bin: PathBuf,
    dir: PathBuf,
}

/// Measures the rows that were asked for.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let asked = |name: &str| args.row.as_deref().is_none_or(|row| row == name);
    let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
    ensure!(
        names.iter().any(|name| asked(name)),
        "no such row; there are: {}",
        names.join(", ")
    );
    let (bin, dir) = lab::prepare(args)?;
    let lab = Lab {
        args,
        bin,
        dir: dir.path().to_owned(),
    };
    say(&format!(
        "# {} files of {BYTES} bytes; page cache warm",
        args.files
    ));
    let mut table = Table::default();
    for (name, row) in ROWS {
        if asked(name) {
            row(&lab, &mut table).with_context(|| format!("row {name}"))?;
        }
    }
    table.print();
    Ok(())
}

impl Lab<'_> {
    /// A folder of `count` small files.
    fn files(&self, name: &str, count: usize) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        for number in 0..count {
            write(&dir, number, 0)?;
        }
        Ok(dir)
    }

    fn home(&self, name: &str, from: &Path) -> anyhow::Result<Home> {
        Home::importer(&self.bin, &self.dir.join(name), from, "files = \"all\"")
    }
}

fn write(dir: &Path, number: usize, version: u64) -> anyhow::Result<()> {
    let path = dir.join(format!("package{number:06}-1-1-any.pkg.tar.zst"));
    let beside = dir.join(".new");
    Noise::new(number as u64 + 1 + (version << 32)).file(&beside, BYTES)?;
    Ok(fs::rename(beside, path)?)
}

/// Seconds on the clock and of processor time, and peak memory in MB.
struct Cost {
    wall: f64,
    cpu: f64,
    memory: f64,
}

fn import(home: &Home, codes: &[i32]) -> anyhow::Result<Cost> {
    let before = children_cpu()?;
    let (wall, memory) = home.import(codes)?;
    Ok(Cost {
        wall,
        cpu: children_cpu()? - before,
        memory,
    })
}

/// Seconds of processor time of all children that ended and were waited for.
pub(super) fn children_cpu() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(13)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Runs a command to its end, its output thrown away: seconds.
pub(super) fn timed(command: &mut Command) -> anyhow::Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} failed");
    Ok(start.elapsed().as_secs_f64())
}

fn find(dir: &Path) -> Command {
    let mut find = Command::new("find");
    find.arg(dir).args(["-printf", "%p %s %T@ %i\\n"]);
    find
}

/// Reads and hashes all files of a folder: seconds of processor time of one thread, which is the clock's when warm.
fn hash_all(dir: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    for entry in fs::read_dir(dir)? {
        let bytes = fs::read(entry?.path())?;
        std::hint::black_box(ring::digest::digest(&ring::digest::SHA256, &bytes));
    }
    Ok(start.elapsed().as_secs_f64())
}

fn first(lab: &Lab<'_>, table: &mut Table) -> anyhow::Result<()> {
    let from = lab.files("first", lab.args.files)?;
    hash_all(&from)?;
    let (mut cpu, mut anchor, mut memory) = (Vec::new(), Vec::new(), 0.0_f64);
    for pass in 0..lab.args.passes {
        anchor.push(hash_all(&from)?);
        let home = lab.home(&format!("first-home-{pass}"), &from)?;
        let cost = import(&home, &NEW)?;
        cpu.push(cost.cpu);
        memory = memory.max(cost.memory);
    }
    let cpu = median(cpu);
    let goal = FIRST * lab.args.files as f64 / 100_000.0;
    table.limit("first import, processor time", cpu, "s", goal);
    table.tell(
        "  reading and hashing them alone",
        &format!("{:.2} s", median(anchor)),
    );
    table.limit("  peak memory", memory, "MB", MEMORY);
    Ok(())
}

fn unchanged_directory(lab: &Lab<'_>, table: &mut Table) -> anyhow::Result<()> {
    let from = lab.files("unchanged", lab.args.files)?;
    let home = lab.home("unchanged-home", &from)?;
    import(&home, &NEW)?;
    let (mut own, mut anchor) = (Vec::new(), Vec::new());
    for _ in 0..lab.args.passes {
        anchor.push(timed(&mut find(&from))?);
        own.push(import(&home, &SAME)?.wall);
    }
    table.at_most(
        "nothing changed, directory; find -printf",
        median(own),
        median(anchor),
        "s",
        2.0,
    );
    Ok(())
}

fn unchanged_rsync(lab: &Lab<'_>, table: &mut Table) -> anyhow::Result<()> {
    let from = lab.files("rsync", lab.args.files)?;
    let Some(server) = Rsyncd::start(&lab.dir.join("rsyncd"), &from)? else {
        table.tell("nothing changed, rsync", "no rsync here");
        return Ok(());
    };
    let home = lab.home("rsync-home", Path::new(&server.url))?;
    import(&home, &NEW)?;
    let (mut own, mut anchor) = (Vec::new(), Vec::new());
    for _ in 0..lab.args.passes {
        let mut dry = Command::new("rsync");
        dry.args(["-rtn", &server.url]).arg(&from);
        anchor.push(timed(&mut dry)?);
        own.push(import(&home, &SAME)?.wall);
    }
    table.at_most(
        "nothing changed, rsync; rsync -n",
        median(own),
        median(anchor),
        "s",
        1.2,
    );
    Ok(())
}

fn ten_changed(lab: &Lab<'_>, table: &mut Table) -> anyhow::Result<()> {
    let most = lab.args.files * 2;
    let mut times = Vec::new();
    for count in [most / 20, lab.args.files, most] {
        let from = lab.files(&format!("ten-{count}"), count)?;
        let home = lab.home(&format!("ten-home-{count}"), &from)?;
        import(&home, &NEW)?;
        let (mut cpu, mut anchor) = (Vec::new(), Vec::new());
        for pass in 0..lab.args.passes {
            for n in 0..CHANGED {
                write(&from, n * 997 % count, pass as u64 + 1)?;
            }
            anchor.push(timed(&mut find(&from))?);
            cpu.push(import(&home, &NEW)?.cpu);
        }
        let cpu = median(cpu);
        table.limit(
            &format!("{CHANGED} of {count} changed, processor time"),
            cpu,
            "s",
            TEN,
        );
        table.tell("  find -printf", &format!("{:.2} s", median(anchor)));
        times.push((count as f64, cpu));
    }
    if let [(few, low), _, (many, high)] = times[..] {
        let slope = (high - low) / (many - few) * 1e6;
        table.tell("  more for each file more", &format!("{slope:.2} us"));
    }
    Ok(())
}

fn memory(lab: &Lab<'_>, table: &mut Table) -> anyhow::Result<()> {
    let from: Vec<PathBuf> = (0..5)
        .map(|n| lab.files(&format!("mirror-{n}"), lab.args.files))
        .collect::<anyhow::Result<_>>()?;
    let home = Home::importer_of(&lab.bin, &lab.dir.join("five"), &from, "files = \"all\"")?;
    for what in ["first import", "nothing new"] {
        let daemon = home.start()?;
        for number in 0..from.len() {
            home.await_head(number)?;
        }
        table.limit(
            &format!("memory, five mirrors, {what}"),
            daemon.peak_mb(),
            "MB",
            MEMORY,
        );
    }
    Ok(())
}

/// An rsync daemon over one folder.
struct Rsyncd {
    child: Child,
    url: String,
}

impl Rsyncd {
    /// Nothing if rsync is not installed.
    fn start(dir: &Path, files: &Path) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(dir)?;
        // Free now; taken again in a moment.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.join("conf");
        fs::write(
            &config,
            format!(
                "use chroot = no\nuid = 0\ngid = 0\n[mirror]\npath = {}\nread only = yes\n",
                files.display()
            ),
        )?;
        let mut rsync = Command::new("rsync");
        rsync
            .args(["--daemon", "--no-detach", "--address", "127.0.0.1"])
            .args(["--port", &port.to_string()])
            .arg(format!("--config={}", config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("err"))?);
        let child = match rsync.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let server = Self {
            child,
            url: format!("rsync://127.0.0.1:{port}/mirror/"),
        };
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                Instant::now() < until,
                "rsync does not start: {}",
                fs::read_to_string(dir.join("err"))?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(server))
    }
}

impl Drop for Rsyncd {
    fn drop(&mut self) {
        lab::end(&mut self.child);
    }
}
