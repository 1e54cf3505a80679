//! The real pacman: 100 packages that are here, beside a repository on its own disk and the same from nginx; and from two
//! neighbours and a mirror, each with a cap.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::ensure;

use super::client::get_all;
use super::lab::{Home, NAME};
use super::serve::Nginx;
use super::table::Table;
use super::world::World;
use super::{Args, median, say};

/// Packages of the repository.
const PACKAGES: usize = 100;

/// What each neighbour and the mirror give, in bytes a second.
const CAP: u64 = 5_000_000;

/// What is a neighbour's or the mirror's share of bytes that is no file: framing, signatures, databases.
const WHAT: &str = "pacman -Sw of 100 packages";

/// The rows asked for; both if `None`.
pub(super) fn rows(
    args: &Args,
    (bin, dir): (&Path, &Path),
    world: &World,
    table: &mut Table,
    row: Option<&str>,
) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() || Command::new("pacman").arg("--version").output().is_err() {
        table.tell(WHAT, "left out: needs root and pacman");
        return Ok(());
    }
    // 50 kB to 2 MB, 65 MB in all.
    let size = |n: usize| 50_000 + (n * n * 200) as u64;
    let packages: Vec<(String, u64)> = (0..PACKAGES).map(|n| (format!("pkg{n}"), size(n))).collect();
    let repo = dir.join("packages");
    world.repository(&repo, &packages)?;
    let mut files: Vec<(String, u64)> = Vec::new();
    for entry in std::fs::read_dir(&repo)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".pkg.tar.zst") {
            files.push((name, entry.metadata()?.len()));
        }
    }
    let bytes: u64 = files.iter().map(|(_, size)| size).sum();
    say(&format!(
        "# pacman: {} packages, {:.0} MB",
        files.len(),
        bytes as f64 / 1e6
    ));
    let machine = Machine(dir.join("machine"));
    if row.is_none_or(|row| row == "pacman") {
        prefetched(args, (bin, dir), world, table, (&repo, &files, &machine))?;
    }
    if row.is_none_or(|row| row == "lines") {
        lines(args, (bin, dir), world, table, (&repo, bytes, &machine))?;
    }
    Ok(())
}

fn prefetched(
    args: &Args,
    (bin, dir): (&Path, &Path),
    world: &World,
    table: &mut Table,
    (repo, files, machine): (&Path, &[(String, u64)], &Machine),
) -> anyhow::Result<()> {
    let mirror = world.mirror(repo, 0)?;
    let more = format!(
        "\n[[repository]]\nname = \"lab\"\nupstreams = [\"{}\"]\n",
        mirror.address
    );
    let home = Home::new(bin, &dir.join("prefetched"), "", &more)?;
    let node = home.start()?;
    let path = "/pacman/lab/x86_64/";
    node.await_path(&format!("{path}lab.db"))?;
    let all = files.iter().map(|(name, _)| format!("{path}{name}")).collect();
    get_all(&node.gateway, all, 4)?;
    drop(mirror);
    let nginx = Nginx::start(dir, repo)?;
    let (mut own, mut other, mut http) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.passes {
        other.push(machine.download(&format!("file://{}", repo.display()))?);
        if let Some(nginx) = &nginx {
            http.push(machine.download(&format!("http://{}", nginx.host))?);
        }
        own.push(machine.download(&format!("http://{}/pacman/lab/x86_64", node.gateway))?);
    }
    table.at_most(
        &format!("{WHAT}, here, beside file://"),
        median(own),
        median(other),
        "s",
        1.1,
    );
    // What pacman itself takes longer for HTTP than for files.
    match nginx {
        Some(_) => table.tell("  the same from nginx", &format!("{:.2} s", median(http))),
        None => table.tell("  the same from nginx", "left out: no nginx here"),
    }
    Ok(())
}

fn lines(
    args: &Args,
    (bin, dir): (&Path, &Path),
    world: &World,
    table: &mut Table,
    (repo, bytes, machine): (&Path, u64, &Machine),
) -> anyhow::Result<()> {
    let importer = Home::importer(bin, &dir.join("one"), repo, "replaced_by_rename = true")?;
    importer.import(&[0])?;
    let one = importer.start()?;
    let (key, direct) = (importer.key()?, importer.address()?);
    // The second has them from the first.
    let second = Home::client(bin, &dir.join("two"), &key, &direct)?;
    let two = second.start()?;
    two.await_path(&format!("/ipns/{NAME}/lab.db"))?;
    machine.download(&format!("http://{}/ipns/{NAME}", two.gateway))?;
    let (mut first, to_first) = behind(world, &direct)?;
    let (mut other, to_other) = behind(world, &second.address()?)?;
    let mut mirror = world.mirror(repo, 0)?;
    let mut rates = Vec::new();
    for pass in 0..args.passes {
        for server in [&mut first, &mut other, &mut mirror] {
            server.rate(0)?;
        }
        let more = format!(
            "\n[[mirror]]\nname = \"{NAME}\"\nimporters = [\"{key}\"]\nlayout = \"plain\"\nupstreams = [\"{}\"]\n",
            mirror.address
        );
        let peers = format!("\"{to_first}\", \"{to_other}\"");
        let home = Home::new(bin, &dir.join(format!("client-{pass}")), &peers, &more)?;
        let node = home.start()?;
        node.await_path(&format!("/ipns/{NAME}/lab.db"))?;
        home.await_peers(2)?;
        for server in [&mut first, &mut other, &mut mirror] {
            server.rate(CAP)?;
        }
        let took = machine.download(&format!("http://{}/ipns/{NAME}", node.gateway))?;
        rates.push(bytes as f64 / 1e6 / took);
    }
    drop((one, two));
    let sum = 3.0 * CAP as f64 / 1e6;
    table.at_least(
        &format!("{WHAT}, two peers and a mirror, {} MB/s each", CAP / 1_000_000),
        median(rates),
        sum,
        "MB/s",
        0.9,
    );
    Ok(())
}

/// A line to the node at this multiaddr, and the multiaddr of its other end.
fn behind(world: &World, address: &str) -> anyhow::Result<(super::world::Server, String)> {
    let port = address.split('/').nth(4).unwrap_or_default();
    let line = world.line(&format!("127.0.0.1:{port}"), 0)?;
    let own = line.address.rsplit(':').next().unwrap_or_default();
    let there = address.replace(&format!("/tcp/{port}"), &format!("/tcp/{own}"));
    Ok((line, there))
}

/// A throw-away system of pacman's.
struct Machine(PathBuf);

impl Machine {
    /// Seconds that `pacman -Sw` of all packages takes, its database here and its cache empty.
    fn download(&self, server: &str) -> anyhow::Result<f64> {
        let dir = &self.0;
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        for name in ["root", "db", "cache", "gpg", "hooks"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        let text = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Never\nParallelDownloads = 5\n[lab]\nServer = {server}\n"
        );
        std::fs::write(dir.join("pacman.conf"), text)?;
        self.pacman(&["-Sy"])?;
        let names: Vec<String> = (0..PACKAGES).map(|n| format!("pkg{n}")).collect();
        let mut arguments = vec!["-Swdd"];
        arguments.extend(names.iter().map(String::as_str));
        let begun = Instant::now();
        self.pacman(&arguments)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn pacman(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("pacman");
        for (flag, name) in [
            ("--config", "pacman.conf"),
            ("--root", "root"),
            ("--dbpath", "db"),
            ("--cachedir", "cache"),
            ("--gpgdir", "gpg"),
            ("--hookdir", "hooks"),
            ("--logfile", "log"),
        ] {
            command.arg(flag).arg(self.0.join(name));
        }
        command.args(["--noconfirm", "--noprogressbar"]).args(arguments);
        let out = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "pacman {}: {said}", arguments[0]);
        Ok(())
    }
}
