//! `pacstore setup`: what pacman then reads, and that undoing leaves not one changed byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream, require};

use crate::daemon::Daemon;
use crate::home::{Home, LOOPBACK, Ran, run};
use crate::setup_shapes::{ARCH, SHAPES, Shape};

/// Held alone by the test that takes the usual ports: setup passes taken ones over.
static PORTS: RwLock<()> = RwLock::new(());

/// A shape on disk, and a home that is not there yet.
struct Machine {
    folder: tempfile::TempDir,
    home: Home,
    _ports: Option<RwLockReadGuard<'static, ()>>,
}

impl Machine {
    /// While nobody takes the usual ports.
    fn new(shape: &Shape) -> Self {
        let ports = PORTS.read().unwrap_or_else(PoisonError::into_inner);
        Self::with(shape, Some(ports))
    }

    fn with(shape: &Shape, ports: Option<RwLockReadGuard<'static, ()>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("DIR", dir)).unwrap();
        };
        write("pacman.conf", shape.main);
        shape.others.iter().for_each(|(name, text)| write(name, text));
        Self {
            folder,
            home: Home::empty(),
            _ports: ports,
        }
    }

    fn conf(&self) -> PathBuf {
        self.folder.path().join("pacman.conf")
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = self.home.command(["setup", "--no-service"]);
        command.args(flags).arg("--config").arg(self.conf());
        command
    }

    #[track_caller]
    fn setup(&self, flags: &[&str]) -> Ran {
        run(self.command(flags)).done()
    }

    /// Every file of the configuration and of the home's, with its bytes and mode.
    fn state(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
        let mut state = BTreeMap::new();
        collect(self.folder.path(), &mut state);
        collect(self.home.path(), &mut state);
        state
    }

    /// The servers of `repository` that pacman's own reader finds.
    fn servers(&self, pacman_conf: &Path, repository: &str) -> Vec<String> {
        let mut command = Command::new(pacman_conf);
        command.arg("--config").arg(self.conf());
        command.args(["--repo", repository, "Server"]);
        run(command).done().out.lines().map(str::to_owned).collect()
    }
}

fn collect(folder: &Path, state: &mut BTreeMap<PathBuf, (Vec<u8>, u32)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, state);
        } else {
            let mode = fs::metadata(&path).unwrap().mode();
            state.insert(path.clone(), (fs::read(&path).unwrap(), mode));
        }
    }
}

/// `pacman-conf` of each pacman that is here.
fn readers() -> Vec<PathBuf> {
    let newer =
        std::env::var_os("PACSTORE_PACMAN71").map(|pacman| Path::new(&pacman).with_file_name("pacman-conf"));
    let newer = newer.filter(|path| path.is_file());
    require("pacman-conf").into_iter().chain(newer).collect()
}

#[test]
fn every_shape_is_set_up_once_and_undone_to_the_byte() {
    assert!(SHAPES.len() > 11);
    let readers = readers();
    for shape in SHAPES {
        let machine = Machine::new(shape);
        fs::set_permissions(machine.conf(), fs::Permissions::from_mode(0o640)).unwrap();
        let before = machine.state();
        let mut servers = BTreeMap::new();
        for reader in &readers {
            for repository in shape.ours {
                servers.insert((reader, repository), machine.servers(reader, repository));
            }
        }
        let ran = machine.setup(&["--json"]);
        let report = ran.json();
        let ours = report["repositories"].as_array().unwrap().iter();
        let ours: Vec<_> = ours.map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(ours, shape.ours, "{}", shape.name);
        let after = machine.state();
        assert_eq!(
            after[&machine.conf()].1,
            before[&machine.conf()].1,
            "{}",
            shape.name
        );
        let gateway = report["gateway"].as_str().unwrap();
        for ((reader, repository), theirs) in &servers {
            let now = machine.servers(reader, repository);
            assert_eq!(
                now[0],
                format!("{gateway}/pacman/{repository}/x86_64"),
                "{}",
                shape.name
            );
            assert_eq!(&now[1..], &theirs[..], "{}", shape.name);
        }
        machine.home.run(["config", "check"]).done();
        // Mirror lists belong to their package.
        for (path, bytes) in before.iter().filter(|(path, _)| path.ends_with("mirrorlist")) {
            assert_eq!(&after[path], bytes, "{}", shape.name);
        }
        let again = machine.setup(&[]);
        assert!(
            again.out.contains("nothing to change"),
            "{}: {}",
            shape.name,
            again.out
        );
        assert_eq!(machine.state(), after, "{}", shape.name);
        machine.setup(&["--undo"]);
        assert_eq!(machine.state(), before, "{}", shape.name);
        assert!(machine.setup(&["--undo"]).out.contains("nothing to change"));
    }
}

#[test]
fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let machine = Machine::new(&SHAPES[0]);
    let before = machine.state();
    let shown = machine.setup(&["--dry-run"]).out;
    assert!(shown.contains("\n+Server = http://127.0.0.1:"), "{shown}");
    assert!(shown.contains("\n+[[repository]]\n"), "{shown}");
    assert!(
        shown.contains("\n--- /dev/null\n") || shown.starts_with("--- /dev/null\n"),
        "{shown}"
    );
    let taken_out = |line: &str| line.starts_with('-') && !line.starts_with("--- ");
    assert!(!shown.lines().any(taken_out), "{shown}");
    assert_eq!(machine.state(), before);
    machine.setup(&[]);
    let after = machine.state();
    let shown = machine.setup(&["--undo", "--dry-run"]).out;
    assert!(shown.contains("\n-Server = http://127.0.0.1:"), "{shown}");
    assert_eq!(machine.state(), after);
}

/// The configuration is written first: stopped after each write, pacman goes on, and setup and undo still end where they should.
#[test]
fn stopped_after_each_write_it_can_be_finished_or_undone() -> TestResult {
    let shape = &SHAPES[5];
    let machine = Machine::new(shape);
    let before = machine.state();
    machine.setup(&[]);
    let after = machine.state();
    let order = machine.setup(&["--undo", "--dry-run", "--json"]).json();
    assert_eq!(order["changes"].as_array().unwrap().len(), 3);
    let mut changed: Vec<_> = after
        .iter()
        .filter(|(path, state)| before.get(*path) != Some(*state))
        .collect();
    changed.sort_by_key(|(path, _)| !path.ends_with("pacstore.toml"));
    for made in 0..=changed.len() {
        let stopped = || -> TestResult {
            machine.setup(&["--undo"]);
            changed[..made]
                .iter()
                .try_for_each(|(path, (bytes, _))| fs::write(path, bytes))?;
            Ok(())
        };
        stopped()?;
        machine.setup(&["--undo"]);
        assert_eq!(machine.state(), before, "{made}");
        stopped()?;
        machine.setup(&[]);
        assert_eq!(machine.state(), after, "{made}");
    }
    Ok(())
}

#[test]
fn the_folder_of_the_configuration_goes_if_setup_made_it_and_nobody_else_uses_it() -> TestResult {
    for (there, used) in [(false, false), (false, true), (true, false)] {
        let root = tempfile::tempdir()?;
        let etc = root.path().join("etc");
        let ours = etc.join("pacstore");
        fs::create_dir_all(if there { &ours } else { &etc })?;
        let conf = "[options]\nArchitecture = x86_64\n[core]\nServer = https://a.example/$repo/os/$arch\n";
        fs::write(etc.join("pacman.conf"), conf)?;
        let setup = |more: &[&str]| {
            let mut command = Command::new(crate::home::PACSTORE);
            command
                .arg("setup")
                .arg("--no-service")
                .arg("--root")
                .arg(root.path())
                .args(more);
            run(command).done()
        };
        setup(&[]);
        setup(&[]);
        assert!(ours.join("pacstore.toml").is_file());
        if used {
            fs::write(ours.join("mine"), "")?;
        }
        setup(&["--undo"]);
        assert!(!ours.join("pacstore.toml").exists());
        assert_eq!(ours.exists(), there || used, "there {there}, used {used}");
        assert_eq!(fs::read_to_string(etc.join("pacman.conf"))?, conf);
    }
    Ok(())
}

#[test]
fn a_link_stays_a_link() -> TestResult {
    let machine = Machine::new(&SHAPES[7]);
    let target = machine.folder.path().join("dotfiles.conf");
    fs::rename(machine.conf(), &target)?;
    symlink("dotfiles.conf", machine.conf())?;
    let before = fs::read(&target)?;
    machine.setup(&[]);
    assert!(fs::symlink_metadata(machine.conf())?.is_symlink());
    assert!(String::from_utf8(fs::read(&target)?)?.contains("/pacman/$repo/$arch"));
    machine.setup(&["--undo"]);
    assert!(fs::symlink_metadata(machine.conf())?.is_symlink());
    assert_eq!(fs::read(&target)?, before);
    Ok(())
}

#[test]
fn ports_that_are_taken_are_passed_over_and_the_choice_is_kept() -> TestResult {
    let alone = PORTS.write().unwrap_or_else(PoisonError::into_inner);
    let machine = Machine::with(&SHAPES[7], None);
    // Whoever has it, it is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:8080");
    let swarm = std::net::UdpSocket::bind("0.0.0.0:4001");
    let first = machine.setup(&["--json"]).json();
    let gateway = first["gateway"].as_str().unwrap().to_owned();
    assert_ne!(gateway, "http://127.0.0.1:8080");
    let text = fs::read_to_string(machine.home.config_file())?;
    assert!(
        text.contains(&format!("listen = \"{}\"", &gateway["http://".len()..])),
        "{text}"
    );
    assert!(text.contains("/quic-v1\"") && !text.contains("/4001/"), "{text}");
    drop((taken, swarm));
    let again = machine.setup(&["--json"]).json();
    assert_eq!(again["gateway"], gateway.as_str());
    assert_eq!(again["changes"].as_array().unwrap().len(), 0);
    drop(alone);
    Ok(())
}

#[test]
fn what_the_user_configured_stays_and_is_used() -> TestResult {
    let machine = Machine::new(&SHAPES[0]);
    let own = format!(
        "{}\n[[repository]]\nname = \"core\"\nupstreams = \"https://mine.example/core/\"\n# end",
        LOOPBACK.replace("127.0.0.1:0", "127.0.0.1:8999")
    );
    machine.home.configure(&own);
    let report = machine.setup(&["--json"]).json();
    assert_eq!(report["gateway"], "http://127.0.0.1:8999");
    let text = fs::read_to_string(machine.home.config_file())?;
    assert!(text.starts_with(&own), "{text}");
    assert_eq!(text.matches("name = \"core\"").count(), 1, "{text}");
    assert_eq!(text.matches("name = \"extra\"").count(), 1, "{text}");
    machine.setup(&["--undo"]);
    assert_eq!(fs::read_to_string(machine.home.config_file())?, own);
    machine.home.configure(LOOPBACK);
    run(machine.command(&[])).fails_with(&["port 0", "hint: pacman needs a fixed one"]);
    Ok(())
}

#[test]
fn a_repository_that_was_made_private_stays_private() -> TestResult {
    let machine = Machine::new(&SHAPES[0]);
    machine.setup(&[]);
    let text = fs::read_to_string(machine.home.config_file())?;
    assert_eq!(text.matches("public = true").count(), 2, "{text}");
    machine
        .home
        .configure(&text.replacen("public = true", "public = false", 1));
    let list = machine.folder.path().join("mirrorlist");
    fs::write(list, "Server = https://new.example/$repo/os/$arch\n")?;
    let report = machine.setup(&["--json"]).json();
    assert_eq!(report["repositories"][0]["public"], false);
    assert_eq!(report["repositories"][1]["public"], true);
    let upstreams = &report["repositories"][0]["upstreams"];
    assert_eq!(upstreams[0], "https://new.example/core/os/x86_64/");
    Ok(())
}

#[test]
fn cache_server_is_refused_where_pacman_does_not_know_it() -> TestResult {
    let machine = Machine::new(&SHAPES[7]);
    let before = machine.state();
    let program = machine.folder.path().join("pacman");
    let pretend = |version: &str| -> TestResult {
        fs::write(
            &program,
            format!("#!/bin/sh\necho 'Pacman v{version} - libalpm v13'\n"),
        )?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(())
    };
    let flags = ["--cache-server", "--pacman", program.to_str().unwrap()];
    pretend("6.0.2")?;
    run(machine.command(&flags)).fails_with(&["pacman 6.0 does not know CacheServer"]);
    fs::remove_file(&program)?;
    assert_eq!(machine.state(), before);
    pretend("6.1.0")?;
    machine.setup(&flags);
    let text = fs::read_to_string(machine.conf())?;
    assert!(text.contains("\nCacheServer = http://127.0.0.1:"), "{text}");
    // From one way to the other.
    machine.setup(&[]);
    let text = fs::read_to_string(machine.conf())?;
    assert!(
        !text.contains("CacheServer") && text.contains("\nServer = http://127.0.0.1:"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_system_that_is_mounted_elsewhere_is_set_up_there() -> TestResult {
    let folder = tempfile::tempdir()?;
    let etc = folder.path().join("etc");
    fs::create_dir_all(etc.join("pacman.d"))?;
    let conf = "[options]\nArchitecture = x86_64\n[core]\nInclude = /etc/pacman.d/mirrorlist\n";
    fs::write(etc.join("pacman.conf"), conf)?;
    fs::write(etc.join("pacman.d/mirrorlist"), ARCH)?;
    let command = |flags: &[&str]| {
        let mut command = Command::new(crate::home::PACSTORE);
        command
            .env_remove("PACSTORE_HOME")
            .args(["setup", "--root"])
            .arg(folder.path())
            .args(flags);
        run(command)
    };
    command(&[]).done();
    let text = fs::read_to_string(etc.join("pacstore/pacstore.toml"))?;
    assert!(text.contains("https://a.example/core/os/x86_64/"), "{text}");
    assert!(!text.contains("[gateway]"), "{text}");
    command(&["--undo"]).done();
    assert_eq!(fs::read_to_string(etc.join("pacman.conf"))?, conf);
    assert!(!etc.join("pacstore/pacstore.toml").exists());
    Ok(())
}

/// Named once, by a path from where one stood.
#[test]
fn a_configuration_in_another_place_is_named_once() -> TestResult {
    let machine = Machine::new(&SHAPES[7]);
    let before = machine.state();
    let setup = |flags: &[&str]| {
        let mut command = machine.home.command(["setup", "--no-service"]);
        command.args(flags).current_dir(machine.folder.path());
        run(command).done()
    };
    setup(&["--config", "pacman.conf"]);
    let once = machine.state();
    let named = format!("config = \"{}\"", machine.conf().display());
    let ours = fs::read_to_string(machine.home.config_file())?;
    assert!(ours.contains(&named), "{ours}");
    // Dry, so that no other file is touched where this is broken.
    let again = setup(&["--dry-run"]).out;
    assert!(again.contains("nothing to change"), "{again}");
    let undone = setup(&["--dry-run", "--undo"]).out;
    let would = format!("{} would be changed", machine.conf().display());
    assert!(undone.contains(&would), "{undone}");
    assert_eq!(machine.state(), once);
    setup(&["--undo", "--config", "pacman.conf"]);
    assert_eq!(machine.state(), before);
    let root = machine.folder.path().to_str().unwrap();
    machine.setup(&["--root", root]);
    let ours = fs::read_to_string(machine.home.config_file())?;
    assert!(ours.contains("config = \"/pacman.conf\""), "{ours}");
    Ok(())
}

#[test]
fn without_a_pacman_conf_it_says_how_to_name_one() {
    let home = Home::empty();
    home.run(["setup", "--config", "/nowhere/pacman.conf"])
        .fails_with(&["`/nowhere/pacman.conf` is not there", "--root DIR"]);
}

#[test]
fn who_may_not_write_is_told_what_to_do_and_nothing_is_changed() -> TestResult {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let (etc, binary) = (folder.path().join("etc"), folder.path().join("pacstore"));
    fs::copy(crate::home::PACSTORE, &binary)?;
    fs::create_dir(&etc)?;
    let conf = etc.join("pacman.conf");
    let text = "[options]\nArchitecture = x86_64\n[core]\nServer = https://a.example/$repo\n";
    fs::write(&conf, text)?;
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o555))?;
    let setup = |flags: &[&str]| {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new(require("setpriv").unwrap());
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            command.arg(&binary);
            command
        } else {
            Command::new(&binary)
        };
        command
            .env_remove("PACSTORE_HOME")
            .args(["setup", "--no-service", "--root"]);
        command.arg(folder.path()).args(flags);
        run(command)
    };
    setup(&["--dry-run"]).done();
    setup(&[]).fails_with(&[
        "setup stopped",
        "ermission denied",
        "hint: run it as root: sudo pacstore setup",
    ]);
    assert_eq!(fs::read_dir(&etc)?.count(), 1);
    assert_eq!(fs::read_to_string(&conf)?, text);
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[test]
fn a_pipe_in_the_place_of_pacmans_configuration_is_refused() -> TestResult {
    let home = Home::empty();
    let pipe = home.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    home.run(["setup", "--no-service", "--config", pipe.to_str().unwrap()])
        .fails_with(&["pipe` is no ordinary file"]);
    Ok(())
}

/// The whole way: set up, sync and download through the daemon, without it through the mirror, undone.
#[test]
fn the_real_pacman_goes_by_us_after_setup_and_by_its_mirror_when_the_daemon_is_gone() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(
        folder.path().join("mirror"),
        RepoSpec::new("core").package("big", 900_000),
    )?;
    let upstream = Upstream::folder(repo.folder())?;
    let (file, bytes) = (repo.file_name("big")?, repo.bytes("big")?);
    for (number, pacman) in crate::xfer::pacmans().into_iter().enumerate() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let home = Home::with(&LOOPBACK.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
        let dir = folder.path().join(number.to_string());
        for name in ["root", "db", "cache", "gpg", "hooks"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let conf = dir.join("pacman.conf");
        let text = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Never\n[core]\nServer = {}\n",
            upstream.url("")
        );
        fs::write(&conf, &text)?;
        let path = conf.to_str().unwrap();
        home.run(["setup", "--no-service", "--config", path]).done();
        let pacman = |arguments: &[&str]| {
            let mut command = Command::new(&pacman);
            command.arg("--config").arg(&conf);
            for (flag, name) in [
                ("--root", "root"),
                ("--dbpath", "db"),
                ("--cachedir", "cache"),
                ("--gpgdir", "gpg"),
                ("--hookdir", "hooks"),
                ("--logfile", "log"),
            ] {
                command.arg(flag).arg(dir.join(name));
            }
            command.args(["--noconfirm", "--noprogressbar"]).args(arguments);
            run(command).done()
        };
        let daemon = Daemon::start(&home);
        pacman(&["-Sy"]);
        pacman(&["-Sw", "big"]);
        assert_eq!(fs::read(dir.join("cache").join(&file))?, bytes);
        let given = home.run(["status", "--json"]).done().json();
        let given = &given["bytes"]["upstream"];
        assert!(
            given.as_u64().is_some_and(|given| given >= bytes.len() as u64),
            "{given}"
        );
        let report = home.run(["doctor", "--json", "--config", path]).json();
        let links = report["links"].as_array().unwrap().iter();
        let bad: Vec<_> = links.filter(|one| one["verdict"] == "bad").collect();
        assert!(bad.is_empty(), "{bad:#?}");
        daemon.stop();
        fs::remove_file(dir.join("cache").join(&file))?;
        pacman(&["-Syy"]);
        pacman(&["-Sw", "big"]);
        assert_eq!(fs::read(dir.join("cache").join(&file))?, bytes, "by the mirror");
        home.run(["setup", "--undo", "--no-service", "--config", path])
            .done();
        assert_eq!(fs::read_to_string(&conf)?, text);
    }
    Ok(())
}
