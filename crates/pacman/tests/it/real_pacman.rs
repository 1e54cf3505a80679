//! The real pacman installs from a repository of our own making. Needs root, pacman and gpg.

use crate::samples::{package, spec};
use crate::{installed, skip};
use pacstore_pacman::build::{
    BuiltPackage, Compression, PackageSpec, RepoBuilder, SigningKey, write_package,
};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs a program with this input; its output is shown if it fails.
fn run(program: &str, args: &[&str], input: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    std::fs::write(&file, input).unwrap();
    let input = Stdio::from(std::fs::File::open(file).unwrap());
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(input)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let both = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {both}");
    both
}

fn is_root() -> bool {
    run("id", &["-u"], "").trim() == "0"
}

/// A throw-away system: root, database, cache, keyring, configuration.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(key: &SigningKey, repo: &Path) -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for name in ["root", "db", "cache", "hooks", "gpg"] {
            std::fs::create_dir(machine.folder.path().join(name)).unwrap();
        }
        let gpg = machine.path("gpg");
        std::fs::write(format!("{gpg}/pubring.gpg"), "").unwrap();
        std::fs::write(
            format!("{gpg}/gpg.conf"),
            "lock-never\nno-permission-warning\nno-auto-check-trustdb\n",
        )
        .unwrap();
        std::fs::write(machine.path("key.gpg"), key.public_key()).unwrap();
        run(
            "gpg",
            &["--homedir", &gpg, "--batch", "--import", &machine.path("key.gpg")],
            "",
        );
        let trust = format!("{}:6:\n", key.fingerprint());
        run(
            "gpg",
            &["--homedir", &gpg, "--batch", "--import-ownertrust"],
            &trust,
        );
        run("gpg", &["--homedir", &gpg, "--batch", "--check-trustdb"], "");
        let config = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Required TrustedOnly\nCacheDir = {}/\n[sample]\nServer = file://{}\n",
            machine.path("cache"),
            repo.display()
        );
        std::fs::write(machine.path("pacman.conf"), config).unwrap();
        machine
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn pacman(&self, args: &[&str]) -> String {
        let [root, db, gpg, hooks, config] =
            ["root", "db", "gpg", "hooks", "pacman.conf"].map(|name| self.path(name));
        let log = self.path("pacman.log");
        let mut all = vec![
            "--noconfirm",
            "--color",
            "never",
            "--config",
            &config,
            "--root",
            &root,
            "--dbpath",
            &db,
        ];
        all.extend(["--gpgdir", &gpg, "--hookdir", &hooks, "--logfile", &log]);
        all.extend(args);
        run("pacman", &all, "")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // gpg may have started helpers for this keyring; they end with it.
        let _ = Command::new("gpgconf")
            .args(["--homedir", &self.path("gpg"), "--kill", "all"])
            .status();
    }
}

/// Writes a package and its signature into the repository's folder.
fn store(folder: &Path, spec: &PackageSpec, key: &SigningKey, now: u64) -> BuiltPackage {
    let path = folder.join(spec.file_name());
    let mut built = write_package(spec, &mut std::fs::File::create(&path).unwrap()).unwrap();
    let signature = key.sign(&mut std::fs::File::open(&path).unwrap(), now).unwrap();
    std::fs::write(folder.join(format!("{}.sig", built.file_name)), &signature).unwrap();
    built.signature = Some(signature);
    built
}

fn publish(folder: &Path, repo: &RepoBuilder, key: &SigningKey) {
    for (name, bytes) in repo.files(Some(key)).unwrap() {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn the_real_pacman_installs_checks_and_upgrades_our_packages() {
    if !(installed("pacman") && installed("gpg")) {
        return skip("pacman or gpg is not installed");
    }
    if !is_root() {
        return skip("pacman installs as root only");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    let key = SigningKey::generate("Sample <sample@example.org>", now - 3600).unwrap();
    let all = [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::None,
    ];
    for (number, compression) in all.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut repo = RepoBuilder::new("sample", now);
        repo.compression = compression;
        repo.embed_signatures = number % 2 == 1;
        repo.split_depends = number == 3;
        let first = PackageSpec {
            compression,
            md5: number == 1,
            ..spec("abc", "1.0-1")
        };
        let mut second = PackageSpec {
            compression,
            arch: "x86_64".into(),
            ..spec("zoo", "1:2.0-1")
        };
        second.depends = vec!["abc>=1.0".into()];
        repo.add(store(folder, &first, &key, now));
        repo.add(store(folder, &second, &key, now));
        publish(folder, &repo, &key);

        let machine = Machine::new(&key, folder);
        machine.pacman(&["-Sy"]);
        machine.pacman(&["-Fy"]);
        assert!(machine.pacman(&["-Fl", "abc"]).contains("abc usr/bin/abc\n"));
        machine.pacman(&["-S", "zoo"]);
        assert_eq!(
            machine.pacman(&["-Q"]),
            "abc 1.0-1\nzoo 1:2.0-1\n",
            "the dependency came along"
        );
        let checked = machine.pacman(&["-Qkk"]);
        assert_eq!(checked.matches(", 0 altered files").count(), 2, "{checked}");
        assert!(!checked.contains("warning"), "{checked}");
        let installed = std::fs::read(machine.path("root/usr/lib/zoo.bin")).unwrap();
        assert_eq!(installed.len(), 10_000);

        repo.time += 5;
        let third = PackageSpec {
            compression,
            ..spec("abc", "1.0.r1-1")
        };
        repo.add(store(folder, &third, &key, now));
        publish(folder, &repo, &key);
        machine.pacman(&["-Syyu"]);
        assert_eq!(machine.pacman(&["-Q", "abc"]), "abc 1.0.r1-1\n");
    }
}

#[test]
fn the_real_gpg_takes_our_signatures() {
    if !installed("gpg") {
        return skip("gpg is not installed");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    let key = SigningKey::from_seed([3; 32], "Ünïcode <u@example.org>", now).unwrap();
    let (_, bytes) = package("abc", "1-1");
    let machine = Machine::new(&key, Path::new("/nowhere"));
    let (file, signature) = (machine.path("file"), machine.path("file.sig"));
    std::fs::write(&file, &bytes).unwrap();
    std::fs::write(&signature, key.sign(&mut &bytes[..], now).unwrap()).unwrap();
    let verify = [
        "--homedir",
        &machine.path("gpg"),
        "--batch",
        "--status-fd",
        "1",
        "--verify",
        &signature,
        &file,
    ];
    let answer = run("gpg", &verify, "");
    assert!(
        answer.contains("[GNUPG:] GOODSIG ") && answer.contains("[GNUPG:] TRUST_ULTIMATE"),
        "{answer}"
    );
}
