//! Root on a home of another user, and what becomes of the files that are written there.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use pacstore_testkit::{Repo, RepoSpec, TestResult, require};

use crate::daemon::Daemon;
use crate::home::{Home, LOOPBACK, PACSTORE, import_block, run};

const NAME: &str = "core.example";
const NOBODY: u32 = 65534;

/// Everything below `folder` that `uid` does not own.
fn of_others(folder: &Path, uid: u32) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.metadata()?.uid() != uid {
            found.push(entry.path().display().to_string());
        }
        if entry.file_type()?.is_dir() {
            found.extend(of_others(&entry.path(), uid)?);
        }
    }
    Ok(found)
}

/// As the packaged service: the state is the service user's, the configuration root's and for everybody to read.
#[test]
fn what_root_does_in_the_home_of_the_service_stays_the_services() -> TestResult {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return Ok(());
    }
    let Some(setpriv) = require("setpriv") else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 10_000))?;
    let home = Home::with(LOOPBACK);
    let state = home.path().join("state");
    std::fs::create_dir(&state)?;
    home.chmod("", 0o777);
    home.chmod("pacstore.toml", 0o644);
    chown(&state, Some(NOBODY), Some(NOBODY))?;

    home.run(["id"]).done();
    home.run(["key", "new", "signs"]).done();
    home.configure(&format!(
        "{LOOPBACK}{}",
        import_block(NAME, repo.folder().to_str().unwrap())
    ));
    home.run(["import", NAME, "--once"]).done();
    home.run([
        "publish",
        repo.folder().to_str().unwrap(),
        "--name",
        "own.example",
    ])
    .done();
    home.run(["fsck"]).done();
    home.run(["gc"]).done();
    assert_eq!(of_others(&state, NOBODY)?, Vec::<String>::new());
    let config = std::fs::metadata(home.config_file())?;
    assert_eq!((config.uid(), config.mode() & 0o777), (0, 0o644));

    // Root's daemon goes on as the service's user, too, and that user alone can run it.
    let daemon = Daemon::start(&home);
    assert_eq!(
        daemon.file(&format!("/ipns/{NAME}/core.db")),
        std::fs::read(repo.database_path())?
    );
    daemon.stop();
    assert_eq!(of_others(&state, NOBODY)?, Vec::<String>::new());
    let binary = home.path().join("pacstore");
    std::fs::copy(PACSTORE, &binary)?;
    let mut command = Command::new(&setpriv);
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(&binary).arg("--home").arg(home.path());
    command.args(["verify", NAME]).current_dir("/");
    run(command).done();
    Ok(())
}

#[test]
fn the_configuration_keeps_its_mode_when_a_repository_is_published() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 1_000))?;
    for mode in [0o644, 0o640, 0o600] {
        let home = Home::with(LOOPBACK);
        home.chmod("pacstore.toml", mode);
        home.run(["publish", repo.folder().to_str().unwrap(), "--name", NAME])
            .done();
        let now = std::fs::metadata(home.config_file())?.mode() & 0o777;
        assert_eq!(now, mode, "{now:o}");
        // One that cannot be used is taken back, mode and all.
        home.run(["publish", "/", "--name", "no name"]).exits(1);
        assert_eq!(std::fs::metadata(home.config_file())?.mode() & 0o777, mode);
        home.run(["config", "check"]).done();
    }
    Ok(())
}
