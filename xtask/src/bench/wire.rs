//! `bench importer`, rows `wire-rsync` and `wire-http`: an import through a line of 1 Gbit/s, beside the transfer alone.
//!
//! The transfer alone is plain rsync, or curl with as many requests at once as the importer has, through the same line
//! into a folder of the same disk; neither syncs what it wrote, the importer has hashed, synced and published it.
//!
//! - Not here: the line (`super::link`), the rows about many small files (`super::importer`).

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::corpus::Corpus;
use super::lab::Home;
use super::link::{self, Link, Served};
use super::table::Table;
use super::{Args, importer, median, say, serve};

/// The line, in Mbit/s.
const RATE: u64 = 1_000;
/// The corpus, in GB, unless `--gb` says otherwise.
const GB: f64 = 10.0;
/// The largest package, in bytes: 10 GB are then close to 20,000 files.
const LARGEST: u64 = 128 << 20;
/// The part of the bytes that a new state of the mirror has anew.
const CHANGED: f64 = 0.015;
/// Requests that the importer has under way at once; curl has as many.
const AT_ONCE: usize = 8;
/// The repository.
const REPOSITORY: &str = "bench";
const NEW: [i32; 1] = [0];

/// A mirror behind a line.
struct Wire<'a> {
    bin: &'a Path,
    dir: PathBuf,
    corpus: Corpus,
    link: Link,
}

impl<'a> Wire<'a> {
    fn build(args: &Args, (bin, dir): (&'a Path, &Path), name: &str) -> anyhow::Result<Self> {
        let dir = dir.join(name);
        let bytes = (args.gb.unwrap_or(GB) * 1e9) as u64;
        let largest = LARGEST.min(bytes / 40);
        let mut corpus = Corpus::create(&dir.join("mirror"), bytes, usize::MAX, largest)?;
        corpus.add_database(REPOSITORY)?;
        let link = Link::of(RATE)?;
        say(&format!(
            "# {name}: {} files, {:.2} GB, {RATE} Mbit/s ({}); page cache as it falls",
            corpus.files.len(),
            corpus.bytes() as f64 / 1e9,
            link.name()
        ));
        Ok(Self {
            bin,
            dir,
            corpus,
            link,
        })
    }

    fn home(&self, name: &str, from: &str) -> anyhow::Result<Home> {
        let home = Home::importer(
            self.bin,
            &self.dir.join(name),
            Path::new(from),
            "files = \"listed\"",
        )?;
        Ok(home.inside(self.link.namespace()))
    }

    /// Imports once: seconds, and how its bytes came.
    fn import(home: &Home) -> anyhow::Result<Timed> {
        let mut meter = Meter::default();
        let before = importer::children_cpu()?;
        let (seconds, memory) = home.import_watched(&NEW, |pid| meter.look(pid))?;
        Ok(Timed {
            seconds,
            cpu: importer::children_cpu()? - before,
            memory,
            last_to_first: meter.last_to_first(),
        })
    }

    /// Frees a folder of the disk, its writes included, so that the next measurement has the disk to itself.
    fn clear(path: &Path) -> anyhow::Result<()> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        Self::settle()
    }

    fn settle() -> anyhow::Result<()> {
        ensure!(Command::new("sync").status()?.success(), "sync failed");
        Ok(())
    }

    fn rsyncd(&self) -> anyhow::Result<Option<Served>> {
        if serve::find("rsync").is_none() {
            return Ok(None);
        }
        let (host, config) = (free()?, self.dir.join("rsyncd.conf"));
        let port = host.rsplit(':').next().unwrap_or_default();
        let text = format!(
            "use chroot = no\nuid = 0\ngid = 0\n[mirror]\npath = {}\nread only = yes\n",
            self.corpus.dir.display()
        );
        fs::write(&config, text)?;
        let mut rsync = self.link.command("rsync");
        rsync
            .args([
                "--daemon",
                "--no-detach",
                "--address",
                "127.0.0.1",
                "--port",
                port,
            ])
            .arg(format!("--config={}", config.display()));
        self.serve(&mut rsync, &host).map(Some)
    }

    fn nginx(&self) -> anyhow::Result<Option<Served>> {
        let Some(program) = serve::find("nginx") else {
            return Ok(None);
        };
        let (host, dir) = (free()?, self.dir.join("nginx"));
        let config = serve::nginx_config(&dir, &self.corpus.dir, &host, "autoindex on;")?;
        let mut nginx = self.link.command(program);
        nginx.arg("-p").arg(&dir).arg("-c").arg(config);
        self.serve(&mut nginx, &host).map(Some)
    }

    fn serve(&self, command: &mut Command, host: &str) -> anyhow::Result<Served> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("server.err"))?);
        self.link.serve(command, host, RATE * 1_000_000 / 8)
    }

    /// Plain rsync into `to`: seconds.
    fn rsync(&self, url: &str, to: &Path) -> anyhow::Result<f64> {
        fs::create_dir_all(to)?;
        let mut rsync = self.link.command("rsync");
        rsync.args(["-rt", "--delete", url]).arg(to);
        importer::timed(&mut rsync)
    }

    /// curl into `to`: seconds.
    fn curl(&self, host: &str, to: &Path) -> anyhow::Result<f64> {
        fs::create_dir_all(to)?;
        let mut config = String::new();
        for (name, _) in &self.corpus.files {
            let path = to.join(name);
            let _ = writeln!(
                config,
                "url = \"http://{host}/{name}\"\noutput = \"{}\"",
                path.display()
            );
        }
        let list = self.dir.join("curl.config");
        fs::write(&list, config)?;
        let mut curl = self.link.command("curl");
        curl.args([
            "-sSf",
            "--no-progress-meter",
            "-Z",
            "--parallel-max",
            &AT_ONCE.to_string(),
            "-K",
        ])
        .arg(list);
        importer::timed(&mut curl)
    }

    fn rows_of_a_first_import(&self, how: &str, own: &[Timed], anchor: &[f64], table: &mut Table) {
        let seconds = median(own.iter().map(|one| one.seconds).collect());
        let what = format!(
            "first import by {how}, {:.1} GB; the transfer alone",
            self.corpus.bytes() as f64 / 1e9
        );
        table.at_most(&what, seconds, median(anchor.to_vec()), "s", 1.1);
        let cpu = median(own.iter().map(|one| one.cpu).collect());
        table.tell("  processor time", &format!("{cpu:.1} s"));
        let memory = own.iter().map(|one| one.memory).fold(0.0, f64::max);
        table.limit("  peak memory", memory, "MB", importer::MEMORY);
        let ratios: Option<Vec<f64>> = own.iter().map(|one| one.last_to_first).collect();
        match ratios {
            Some(ratios) => table.at_least(
                "  rate of the last tenth of the bytes; of the first",
                median(ratios),
                1.0,
                "x",
                0.9,
            ),
            None => table.tell("  last tenth of the bytes", "not measured through a relay"),
        }
    }
}

/// What an import took.
#[derive(Debug)]
struct Timed {
    seconds: f64,
    cpu: f64,
    memory: f64,
    /// The rate of the last tenth of the bytes in that of the first.
    last_to_first: Option<f64>,
}

/// How many bytes had come over the line, and when.
#[derive(Default)]
struct Meter {
    begun: Option<(Instant, u64)>,
    seen: Vec<(f64, u64)>,
}

impl Meter {
    fn look(&mut self, pid: u32) {
        let Some(bytes) = link::bytes_over_loopback(pid) else {
            return;
        };
        let (begun, before) = *self.begun.get_or_insert((Instant::now(), bytes));
        let at = begun.elapsed().as_secs_f64();
        if self.seen.last().is_none_or(|(last, _)| *last + 0.02 < at) {
            self.seen.push((at, bytes - before));
        }
    }

    /// Between the hundredth and the tenth part of the bytes, and between nine tenths and all but a hundredth: listings
    /// and the search for databases at the start, and the second look at the end, are no transfer.
    fn last_to_first(&self) -> Option<f64> {
        let all = self.seen.last()?.1 as f64;
        let when = |part: f64| {
            let at = self.seen.iter().find(|(_, bytes)| all * part <= *bytes as f64);
            at.map(|(at, _)| *at)
        };
        let first = when(0.10)? - when(0.01)?;
        let last = when(0.99)? - when(0.90)?;
        (all > 0.0 && last > 0.0).then(|| first / last)
    }
}

/// An address on the loopback interface where nobody listens now.
fn free() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// First imports by rsync, then such of a part that changed.
pub(super) fn by_rsync(args: &Args, place: (&Path, &Path), table: &mut Table) -> anyhow::Result<()> {
    let mut wire = Wire::build(args, place, "wire-rsync")?;
    let Some(server) = wire.rsyncd()? else {
        table.tell("import by rsync", "left out: no rsync here");
        return Ok(());
    };
    let url = format!("rsync://{}/mirror/", server.host);
    let copy = wire.dir.join("copy");
    let (mut own, mut anchor, mut kept) = (Vec::new(), Vec::new(), None);
    for pass in 0..args.passes {
        drop(kept.take());
        Wire::clear(&copy)?;
        anchor.push(wire.rsync(&url, &copy)?);
        Wire::settle()?;
        let home = wire.home(&format!("rsync-home-{pass}"), &url)?;
        own.push(Wire::import(&home)?);
        Wire::settle()?;
        if pass + 1 < args.passes {
            Wire::clear(home.dir())?;
        } else {
            kept = Some(home);
        }
    }
    wire.rows_of_a_first_import("rsync", &own, &anchor, table);
    let Some(home) = kept else { return Ok(()) };
    let (mut own, mut anchor, mut bytes) = (Vec::new(), Vec::new(), 0);
    for pass in 0..args.passes.max(3) {
        bytes = wire.corpus.renew(CHANGED, pass as u64 + 1)?;
        wire.corpus.add_database(REPOSITORY)?;
        // A database of this second might be taken for the last one.
        std::thread::sleep(Duration::from_millis(1100));
        Wire::settle()?;
        anchor.push(wire.rsync(&url, &copy)?);
        Wire::settle()?;
        own.push(Wire::import(&home)?);
    }
    let what = format!(
        "{:.0} MB changed, by rsync; rsync of the same difference alone",
        bytes as f64 / 1e6
    );
    table.at_most(
        &what,
        median(own.iter().map(|one| one.seconds).collect()),
        median(anchor),
        "s",
        1.2,
    );
    let cpu = median(own.iter().map(|one| one.cpu).collect());
    table.tell("  processor time", &format!("{cpu:.2} s"));
    Ok(())
}

/// First imports by HTTP.
pub(super) fn by_http(args: &Args, place: (&Path, &Path), table: &mut Table) -> anyhow::Result<()> {
    let wire = Wire::build(args, place, "wire-http")?;
    let Some(server) = wire.nginx()? else {
        table.tell("import by HTTP", "left out: no nginx here");
        return Ok(());
    };
    let copy = wire.dir.join("copy");
    let (mut own, mut anchor) = (Vec::new(), Vec::new());
    for pass in 0..args.passes {
        anchor.push(wire.curl(&server.host, &copy)?);
        Wire::clear(&copy)?;
        let home = wire.home(&format!("http-home-{pass}"), &format!("http://{}/", server.host))?;
        own.push(Wire::import(&home)?);
        Wire::clear(home.dir())?;
    }
    wire.rows_of_a_first_import("HTTP", &own, &anchor, table);
    Ok(())
}
