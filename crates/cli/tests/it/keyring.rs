//! `pacstore setup` where pacman demands trusted signatures: the same keyring counts for the daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream, require};

use crate::daemon::Daemon;
use crate::home::{Home, LOOPBACK, run};

/// A keyring as pacman-key makes it, which trusts the repository's key.
fn gnupg(dir: &Path, repo: &Repo) -> TestResult {
    fs::create_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    fs::write(dir.join("pubring.gpg"), "")?;
    fs::write(dir.join("gpg.conf"), "no-permission-warning\nlock-never\n")?;
    let key = dir.with_extension("key");
    fs::write(&key, repo.key().public_key())?;
    let owner = dir.with_extension("trust");
    fs::write(&owner, format!("{}:6:\n", repo.key().fingerprint()))?;
    for arguments in [["--import", path(&key)], ["--import-ownertrust", path(&owner)]] {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir")
            .arg(dir)
            .args(["--batch", "-q"])
            .args(arguments);
        run(gpg).done();
    }
    for name in ["pubring.gpg", "trustdb.gpg"] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn the_keyring_of_pacman_is_named_where_it_demands_trusted_signatures() -> TestResult {
    if require("gpg").is_none() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut repo = Repo::create(
        folder.path().join("mirror"),
        RepoSpec::new("core")
            .package("small", 90_000)
            .package("big", 2_500_000),
    )?;
    let upstream = Upstream::folder(repo.folder())?;
    let keys = folder.path().join("gpg");
    gnupg(&keys, &repo)?;
    for (number, program) in crate::xfer::pacmans().into_iter().enumerate() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let home = Home::with(&LOOPBACK.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
        let dir = folder.path().join(number.to_string());
        for name in ["root", "db", "cache", "hooks"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let conf = dir.join("pacman.conf");
        let text = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Required TrustedOnly\nGPGDir = {}/\n[core]\nServer = {}\n",
            keys.display(),
            upstream.url("")
        );
        fs::write(&conf, &text)?;
        let said = home
            .run(["setup", "--no-service", "--config", path(&conf)])
            .done()
            .out;
        assert!(said.contains("signatures checked"), "{said}");
        let ours = fs::read_to_string(home.path().join("pacstore.toml"))?;
        assert!(
            ours.contains(&format!("keyring = \"{}\"", keys.display())),
            "{ours}"
        );
        let pacman = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.arg("--config").arg(&conf);
            for (flag, name) in [
                ("--root", "root"),
                ("--dbpath", "db"),
                ("--cachedir", "cache"),
                ("--hookdir", "hooks"),
                ("--logfile", "log"),
            ] {
                command.arg(flag).arg(dir.join(name));
            }
            command.args(["--noconfirm", "--noprogressbar"]).args(arguments);
            command.env("LC_ALL", "C").stdin(Stdio::null());
            run(command).done()
        };
        let daemon = Daemon::start(&home);
        pacman(&["-Sy"]);
        pacman(&["-Sw", "small", "big"]);
        for package in ["small", "big"] {
            let file = repo.file_name(package)?;
            assert_eq!(fs::read(dir.join("cache").join(&file))?, repo.bytes(package)?);
        }
        // Signed anew: nothing but signatures is fetched, and pacman takes it.
        repo.resign()?;
        upstream.clear_log();
        fs::remove_dir_all(dir.join("cache"))?;
        fs::create_dir(dir.join("cache"))?;
        pacman(&["-Syy"]);
        pacman(&["-Sw", "small", "big"]);
        assert_eq!(
            upstream.requests("*.pkg.tar.zst").len(),
            0,
            "{:#?}",
            upstream.log()
        );
        let status = home.run(["status", "--json"]).done().json();
        assert_eq!(status["repositories"][0]["error"], serde_json::Value::Null);
        daemon.stop();
    }
    Ok(())
}
