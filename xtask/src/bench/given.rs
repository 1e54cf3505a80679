//! `bench client`: what pacman gets through a node, beside what it gets without one.
//!
//! - Invariant: each row can be run alone (`--row`): warm, known, solo, unknown, pacman, lines, 304, memory, idle.
//! - Not here: rows of files that have to come (`super::cold`), of pacman itself (`super::with_pacman`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::client::{Connection, get_all};
use super::corpus::{Corpus, Noise};
use super::lab::{self, Home, NAME};
use super::serve::{self, Nginx};
use super::table::Table;
use super::world::World;
use super::{Args, cold, median, with_pacman};

/// Requests of the rows that ask for one thing over and over.
const REQUESTS: usize = 500;

/// Packages of the database that does not change.
const PACKAGES: usize = 5_000;

/// Downloads at once whose memory is looked at, and the bytes of each.
const DOWNLOADS: usize = 8;
const LARGE: u64 = 100 << 20;

const HOUR: f64 = 3600.0;

/// Measures all rows, or `--row`.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (bin, dir) = lab::prepare(args)?;
    let world = World::build()?;
    let mut table = Table::default();
    let row = args.row.as_deref();
    let wanted = |names: &[&str]| row.is_none_or(|row| names.contains(&row));
    let place = (&*bin, dir.path());
    let mut known = false;
    if wanted(&["warm"]) {
        known = true;
        serve::warm(args, place, &mut table)?;
    }
    if wanted(&["known", "solo"]) {
        known = true;
        cold::rows(args, place, &world, &mut table, row)?;
    }
    if wanted(&["pacman", "lines"]) {
        known = true;
        with_pacman::rows(args, place, &world, &mut table, row)?;
    }
    if wanted(&["unknown", "304"]) {
        known = true;
        asked(place, &mut table)?;
    }
    if wanted(&["memory"]) {
        known = true;
        eight(place, &mut table)?;
    }
    if wanted(&["idle"]) {
        known = true;
        idle(args, place, &world, &mut table)?;
    }
    ensure!(known, "no row `{}`", row.unwrap_or_default());
    table.print();
    Ok(())
}

/// A name that nobody has, and a database that did not change.
fn asked((bin, dir): (&Path, &Path), table: &mut Table) -> anyhow::Result<()> {
    let from = dir.join("asked");
    let mut corpus = Corpus::create(&from, u64::MAX, PACKAGES, 8_000)?;
    corpus.add_database("bench")?;
    let home = Home::importer(
        bin,
        &dir.join("asked-home"),
        &from,
        "files = \"all\"\nreplaced_by_rename = true",
    )?;
    home.import(&[0])?;
    let node = home.start()?;
    let mut times = Vec::new();
    let mut connection = Connection::open(&node.gateway)?;
    for n in 0..REQUESTS {
        let answer = connection.ask(&format!("/ipns/{NAME}/none{n}-1-1-x86_64.pkg.tar.zst"), "")?;
        ensure!(answer.status == 404, "status {}", answer.status);
        times.push(answer.took.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    table.limit("unknown file, no upstream: 404, p99", p99, "ms", 60.0);
    let Some(nginx) = Nginx::start(dir, &from)? else {
        table.tell("database that did not change: 304", "left out: no nginx here");
        return Ok(());
    };
    let own = not_modified(&node.gateway, &format!("/ipns/{NAME}/bench.db"))?;
    let other = not_modified(&nginx.host, "/bench.db")?;
    table.at_most("database that did not change: 304, p50", own, other, "ms", 2.0);
    Ok(())
}

/// The middle time of a 304, in ms.
fn not_modified(host: &str, path: &str) -> anyhow::Result<f64> {
    let mut connection = Connection::open(host)?;
    let first = connection.ask(path, "")?;
    let told = first.last_modified.context("a database has a time")?;
    let more = format!("If-Modified-Since: {told}\r\n");
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let answer = connection.ask(path, &more)?;
        ensure!(answer.status == 304, "{path}: status {}", answer.status);
        times.push(answer.took.as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

/// What a node takes while it gives eight large files at once: as they come from a peer, and when they are here.
fn eight((bin, dir): (&Path, &Path), table: &mut Table) -> anyhow::Result<()> {
    let from = dir.join("eight");
    std::fs::create_dir_all(&from)?;
    let mut random = Noise::new(8);
    let mut paths = Vec::new();
    for n in 0..DOWNLOADS {
        random.file(&from.join(format!("{n}.iso")), LARGE)?;
        paths.push(format!("/ipns/{NAME}/{n}.iso"));
    }
    let more = "files = \"all\"\nreplaced_by_rename = true";
    let importer = Home::importer(bin, &dir.join("eight-importer"), &from, more)?;
    importer.import(&[0])?;
    let importing = importer.start()?;
    let client = Home::client(
        bin,
        &dir.join("eight-client"),
        &importer.key()?,
        &importer.address()?,
    )?;
    for what in ["from a peer", "that are here"] {
        // The second time a process that has done nothing else.
        let node = client.start()?;
        node.await_path(&format!("/ipns/{NAME}/"))?;
        let bytes = get_all(&node.gateway, paths.clone(), DOWNLOADS)?;
        ensure!(bytes == DOWNLOADS as u64 * LARGE, "{bytes} bytes came");
        table.limit(
            &format!("{DOWNLOADS} downloads at once {what}: peak memory"),
            node.peak_mb(),
            "MB",
            96.0,
        );
    }
    drop(importing);
    Ok(())
}

/// A node that nobody asks for anything, with all that looks around by itself.
fn idle(args: &Args, (bin, dir): (&Path, &Path), world: &World, table: &mut Table) -> anyhow::Result<()> {
    let repo = dir.join("idle");
    let packages: Vec<(String, u64)> = (0..20).map(|n| (format!("pkg{n}"), 10_000)).collect();
    world.repository(&repo, &packages)?;
    let mirror = world.mirror(&repo, 0)?;
    let conf = dir.join("idle.conf");
    std::fs::create_dir_all(dir.join("idle-db/local"))?;
    let text = format!(
        "[options]\nArchitecture = x86_64\nDBPath = {}\n[lab]\nServer = {}\n",
        dir.join("idle-db").display(),
        mirror.address
    );
    std::fs::write(&conf, text)?;
    let more = format!(
        "\n[pacman]\nconfig = \"{}\"\n[prefetch]\nenable = true\n[[repository]]\nname = \"lab\"\nupstreams = [\"{}\"]\n",
        conf.display(),
        mirror.address
    );
    let home = Home::new(bin, &dir.join("idle-home"), "", &more)?;
    let node = home.start()?;
    node.await_path("/pacman/lab/x86_64/lab.db")?;
    // What follows from the start is no idling.
    std::thread::sleep(Duration::from_secs(5));
    let (cpu, written) = (node.cpu_seconds(), node.bytes_written()?);
    std::thread::sleep(Duration::from_secs(args.idle));
    let time = args.idle as f64;
    let processor = (node.cpu_seconds() - cpu) / time * 100.0;
    let bytes = (node.bytes_written()? - written) as f64 * HOUR / time / 1e6;
    let what = format!("idle, {} s", args.idle);
    let program = std::fs::metadata(bin)?.len() as f64 / 1e6;
    table.tell("size of the program", &format!("{program:.0} MB"));
    table.limit(&format!("{what}: memory"), node.resident_mb(), "MB", 40.0);
    table.limit(&format!("{what}: processor"), processor, "%", 0.2);
    table.limit(&format!("{what}: writes an hour"), bytes, "MB", 1.0);
    Ok(())
}
