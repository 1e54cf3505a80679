//! The real pacman with `XferCommand = pacstore get %u -o %o`, of each version that is here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream, require};

use crate::daemon::Daemon;
use crate::home::{Home, LOOPBACK, PACSTORE, run};

/// pacman 6.0 of the machine and a newer one, where they are; pacman downloads as root only.
pub(crate) fn pacmans() -> Vec<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: pacman downloads as root only");
        return Vec::new();
    }
    let newer = std::env::var_os("PACSTORE_PACMAN71").map(PathBuf::from);
    let newer = newer.filter(|path| path.is_file());
    require("pacman").into_iter().chain(newer).collect()
}

/// A throw-away system of one pacman.
struct Machine {
    folder: tempfile::TempDir,
    pacman: PathBuf,
}

impl Machine {
    fn new(pacman: &Path, home: &Home, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["root", "db", "cache", "gpg", "hooks"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let text = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Never\n\
             XferCommand = {PACSTORE} --home {} get %u -o %o\n[core]\nServer = {server}\n",
            home.path().display()
        );
        fs::write(folder.path().join("pacman.conf"), text).unwrap();
        Self {
            folder,
            pacman: pacman.to_owned(),
        }
    }

    #[track_caller]
    fn pacman(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.pacman);
        for (flag, name) in [
            ("--config", "pacman.conf"),
            ("--root", "root"),
            ("--dbpath", "db"),
            ("--cachedir", "cache"),
            ("--gpgdir", "gpg"),
            ("--hookdir", "hooks"),
            ("--logfile", "log"),
        ] {
            command.arg(flag).arg(self.folder.path().join(name));
        }
        command.args(["--noconfirm", "--noprogressbar"]).args(arguments);
        command.env("LC_ALL", "C").stdin(std::process::Stdio::null());
        run(command).done();
    }

    fn cached(&self, file: &str) -> PathBuf {
        self.folder.path().join("cache").join(file)
    }
}

#[test]
fn pacman_downloads_by_us_with_and_without_a_daemon_and_goes_on_with_what_is_there() -> TestResult {
    for pacman in pacmans() {
        let folder = tempfile::tempdir()?;
        let repo = Repo::create(folder.path(), RepoSpec::new("core").package("big", 900_000))?;
        let upstream = Upstream::folder(folder.path())?;
        let base = upstream.url("/");
        let (file, bytes) = (repo.file_name("big")?, repo.bytes("big")?);
        let home = Home::with(&format!(
            "{LOOPBACK}\n[[repository]]\nname = \"core\"\nupstreams = \"{base}\"\n"
        ));
        // Without a daemon, and a download that was killed half way.
        let alone = Machine::new(&pacman, &home, base.trim_end_matches('/'));
        alone.pacman(&["-Sy"]);
        fs::write(alone.cached(&format!("{file}.part")), &bytes[..bytes.len() / 2])?;
        alone.pacman(&["-Sw", "big"]);
        assert_eq!(fs::read(alone.cached(&file))?, bytes, "{}", pacman.display());
        let asked = upstream.requests(&file);
        // Its last 64 KiB come again, to see that it is the beginning of that file.
        let half = format!("bytes={}-", bytes.len() / 2 - 65_536);
        assert!(
            asked.iter().any(|one| one.range.as_ref() == Some(&half)),
            "{asked:#?}"
        );
        // Beside a daemon that has the package already.
        let daemon = Daemon::start(&home);
        daemon.file("/pacman/core/x86_64/core.db");
        daemon.file(&format!("/pacman/core/x86_64/{file}"));
        upstream.clear_log();
        let beside = Machine::new(&pacman, &home, base.trim_end_matches('/'));
        beside.pacman(&["-Sy"]);
        beside.pacman(&["-Sw", "big"]);
        assert_eq!(fs::read(beside.cached(&file))?, bytes, "{}", pacman.display());
        assert_eq!(upstream.requests(&file).len(), 0, "the daemon has it");
        // With the daemon as the Server itself.
        let server = format!("http://{}/pacman/$repo/$arch", daemon.gateway);
        let through = Machine::new(&pacman, &home, &server);
        through.pacman(&["-Sy"]);
        through.pacman(&["-Sw", "big"]);
        assert_eq!(fs::read(through.cached(&file))?, bytes, "{}", pacman.display());
        daemon.stop();
    }
    Ok(())
}
