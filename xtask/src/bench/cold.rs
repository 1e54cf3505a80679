//! Files that are not here: how long a set takes through us beside curl straight from the same mirror, and when the first
//! byte comes. With a tree that is known, and with no importer at all.

use std::path::Path;

use anyhow::{Context as _, ensure};

use super::client::Connection;
use super::corpus::Corpus;
use super::lab::{Daemon, Home, NAME};
use super::table::Table;
use super::world::{Fetched, Server, World, curl, first_byte};
use super::{Args, median, say};

/// What the mirror gives in all, in bytes a second: 200 Mbit/s.
const RATE: u64 = 25_000_000;

/// Files of the set, and the largest, in bytes.
const FILES: usize = 1000;
const LARGEST: u64 = 8 << 20;

/// Downloads at once, as Arch's `pacman.conf` has it.
const AT_ONCE: usize = 5;

/// Files whose first byte is waited for, one after the other: several leaves each.
const PROBES: usize = 10;

/// What the first byte may take beyond what the line and the hash need, in seconds.
const GRACE: f64 = 0.005;

/// The name of the repository.
const REPOSITORY: &str = "bench";

/// The row asked for; both if `None`.
pub(super) fn rows(
    args: &Args,
    (bin, dir): (&Path, &Path),
    world: &World,
    table: &mut Table,
    row: Option<&str>,
) -> anyhow::Result<()> {
    let mut corpus = Corpus::create(&dir.join("cold"), u64::MAX, FILES, LARGEST * 2)?;
    let hash = corpus.hash(u64::MAX)?;
    let hash = corpus.bytes() as f64 / hash;
    let packages =
        |(name, size): &(String, u64)| name.strip_suffix(".sig").is_none().then(|| (name.clone(), *size));
    let files: Vec<(String, u64)> = corpus.files.iter().filter_map(packages).collect();
    corpus.add_database(REPOSITORY)?;
    let is_probe = |size: u64| (2 << 20..LARGEST).contains(&size);
    let (mut probes, mut set) = (Vec::new(), Vec::new());
    for (name, size) in &files {
        if is_probe(*size) && probes.len() < PROBES {
            probes.push((name.as_str(), *size));
        } else {
            set.push(name.as_str());
        }
    }
    let mut mirror = world.mirror(&corpus.dir, RATE)?;
    say(&format!(
        "# cold: {} files, {:.0} MB, a mirror of {} MB/s, {AT_ONCE} at once",
        set.len(),
        corpus.bytes() as f64 / 1e6,
        RATE / 1_000_000
    ));
    let wanted = |kind: &str| row.is_none_or(|row| row == kind);
    let (mut straight, mut known, mut solo) = (vec![], vec![], vec![]);
    for pass in 0..args.passes {
        let place = dir.join(format!("cold-{pass}"));
        straight.push(curl(&mirror.address, &set, AT_ONCE, dir)?);
        if wanted("known") {
            known.push(Pass::known(
                (bin, &place),
                &corpus.dir,
                &mut mirror,
                (&set, &probes),
            )?);
            std::fs::remove_dir_all(&place)?;
        }
        if wanted("solo") {
            solo.push(Pass::solo((bin, &place), &mirror, (&set, &probes), hash)?);
            std::fs::remove_dir_all(&place)?;
        }
    }
    let anchor = median(straight.iter().map(|one| one.seconds).collect());
    for (what, passes, goal, limit) in [
        ("cold, tree known, 1,000 files", known, 1.05, "one leaf + 5 ms"),
        (
            "cold, no importer, 1,000 files",
            solo,
            1.1,
            "download + hash + 5 ms",
        ),
    ] {
        if passes.is_empty() {
            continue;
        }
        let same = passes
            .iter()
            .zip(&straight)
            .all(|(own, other)| own.all.bytes == other.bytes);
        ensure!(
            same,
            "{what}: other bytes than curl got: {passes:?}, {straight:?}"
        );
        let own = median(passes.iter().map(|one| one.all.seconds).collect());
        table.at_most(what, own, anchor, "s", goal);
        let over = median(passes.iter().flat_map(|one| one.over.clone()).collect());
        table.at_most(&format!("  first byte beside {limit}"), over, 1.0, "x", 1.0);
        let sent: usize = passes.iter().map(|one| one.redirected).sum();
        table.tell(
            "  first bytes that a redirect gave",
            &format!("{sent} of {}", passes.len() * probes.len()),
        );
    }
    Ok(())
}

/// One pass through a node that has nothing.
#[derive(Debug)]
struct Pass {
    all: Fetched,
    /// For each probe, how long its first byte took beside what it may.
    over: Vec<f64>,
    redirected: usize,
}

impl Pass {
    /// The head is here, its importer is gone.
    fn known(
        (bin, place): (&Path, &Path),
        from: &Path,
        mirror: &mut Server,
        what: (&[&str], &[(&str, u64)]),
    ) -> anyhow::Result<Self> {
        let more = "files = \"all\"\nreplaced_by_rename = true";
        let importer = Home::importer(bin, &place.join("importer"), from, more)?;
        importer.import(&[0])?;
        let importing = importer.start()?;
        let mirrors = format!(
            "\n[[mirror]]\nname = \"{NAME}\"\nimporters = [\"{}\"]\nlayout = \"plain\"\nupstreams = [\"{}\"]\n",
            importer.key()?,
            mirror.address
        );
        let client = Home::new(
            bin,
            &place.join("client"),
            &format!("\"{}\"", importer.address()?),
            &mirrors,
        )?;
        let node = client.start()?;
        node.await_path(&format!("/ipns/{NAME}/"))?;
        drop(importing);
        let leaf = f64::from(1 << 20) / RATE as f64;
        Self::run(&node, &format!("/ipns/{NAME}/"), place, what, &|_| leaf)
    }

    /// There never was an importer.
    fn solo(
        (bin, place): (&Path, &Path),
        mirror: &Server,
        what: (&[&str], &[(&str, u64)]),
        hash: f64,
    ) -> anyhow::Result<Self> {
        let more = format!(
            "\n[[repository]]\nname = \"{REPOSITORY}\"\nupstreams = [\"{}\"]\n",
            mirror.address
        );
        let client = Home::new(bin, &place.join("client"), "", &more)?;
        let node = client.start()?;
        let path = format!("/pacman/{REPOSITORY}/x86_64/");
        node.await_path(&format!("{path}{REPOSITORY}.db"))?;
        Self::run(&node, &path, place, what, &|size| {
            size as f64 / RATE as f64 + size as f64 / hash
        })
    }

    fn run(
        node: &Daemon,
        path: &str,
        place: &Path,
        (set, probes): (&[&str], &[(&str, u64)]),
        due: &dyn Fn(u64) -> f64,
    ) -> anyhow::Result<Self> {
        let base = format!("http://{}{path}", node.gateway);
        let (mut over, mut redirected) = (Vec::new(), 0);
        for (name, size) in probes {
            let (took, redirects) = first_byte(&format!("{base}{name}"))?;
            over.push(took / (due(*size) + GRACE));
            redirected += usize::from(redirects > 0);
        }
        let all = curl(&base, set, AT_ONCE, place)?;
        Ok(Self {
            all,
            over,
            redirected,
        })
    }
}

impl Daemon {
    /// Waits until the gateway gives this path.
    pub(super) fn await_path(&self, path: &str) -> anyhow::Result<()> {
        let until = std::time::Instant::now() + std::time::Duration::from_mins(1);
        loop {
            match Connection::open(&self.gateway)?.get(path) {
                Ok(_) => return Ok(()),
                Err(error) if until < std::time::Instant::now() => {
                    return Err(error).with_context(|| format!("{path} does not come"));
                }
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        }
    }
}
