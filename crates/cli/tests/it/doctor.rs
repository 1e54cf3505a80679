//! `pacstore doctor` on machines with and without a daemon.

use std::fs;
use std::process::Command;

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};
use serde_json::Value;

use crate::daemon::{Daemon, until};
use crate::home::{Home, LOOPBACK};

fn verdict<'a>(report: &'a Value, link: &str) -> &'a str {
    let links = report["links"].as_array().unwrap();
    let found = links.iter().find(|one| one["link"] == link);
    found.unwrap_or_else(|| panic!("no {link} in {report}"))["verdict"]
        .as_str()
        .unwrap()
}

/// A machine whose only mirror is on the loopback interface, where nobody listens.
fn pacman_conf(home: &Home, port: &str) -> std::io::Result<String> {
    let cache = home.path().join("pkg");
    fs::create_dir_all(&cache)?;
    let path = home.path().join("pacman.conf");
    let text = format!(
        "[options]\nArchitecture = x86_64\nDBPath = {0}\nCacheDir = {1}\n[core]\n\
         Server = http://127.0.0.1:{port}/pacman/$repo/$arch\nServer = file:///srv/$repo\n",
        home.path().display(),
        cache.display()
    );
    fs::write(&path, text)?;
    Ok(path.to_str().unwrap().to_owned())
}

#[test]
fn without_a_daemon_it_says_so_and_ends_with_1() -> TestResult {
    let home = Home::with(LOOPBACK);
    let conf = pacman_conf(&home, "8080")?;
    let report = home.run(["doctor", "--json", "--config", &conf]).exits(1).json();
    assert_eq!(report["verdict"], "bad");
    assert_eq!(verdict(&report, "configuration"), "ok");
    assert_eq!(verdict(&report, "daemon"), "bad");
    assert_eq!(verdict(&report, "gateway"), "bad");
    let said = home.run(["doctor", "--config", &conf]).exits(1).out;
    assert!(
        said.contains("BAD   daemon") && said.contains("-> `systemctl enable"),
        "{said}"
    );
    home.configure("[gateway]\nlissten = 1\n");
    let report = home
        .run(["doctor", "--json", "--config", "/nowhere"])
        .exits(1)
        .json();
    assert_eq!(verdict(&report, "configuration"), "bad");
    assert_eq!(verdict(&report, "pacman"), "bad");
    Ok(())
}

/// A file system that is gone when dropped; none where it cannot be mounted.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn at(path: std::path::PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&path);
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(path));
        }
        assert!(
            std::env::var("PACSTORE_REQUIRE").as_deref() != Ok("all"),
            "cannot mount a tmpfs"
        );
        eprintln!("skipped: a tmpfs cannot be mounted here");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// It has room, and no inode left.
#[test]
fn where_no_file_can_be_made_the_disk_is_bad() -> TestResult {
    let home = Home::with(&format!("[store]\nmax_size = \"1GB\"\n{LOOPBACK}"));
    let conf = pacman_conf(&home, "8080")?;
    let state = home.path().join("state");
    let Some(disk) = Mounted::at(state, "size=4g,nr_inodes=3") else {
        return Ok(());
    };
    for (file, wanted) in [("one", "ok"), ("two", "bad")] {
        fs::write(disk.0.join(file), "")?;
        let report = home.run(["doctor", "--json", "--config", &conf]).exits(1).json();
        assert_eq!(verdict(&report, "disk"), wanted, "{report}");
    }
    Ok(())
}

#[test]
fn with_a_daemon_the_port_in_pacmans_configuration_must_be_its_own() -> TestResult {
    let home = Home::with(LOOPBACK);
    let daemon = Daemon::start(&home);
    let (_, port) = daemon.gateway.rsplit_once(':').unwrap();
    let conf = pacman_conf(&home, port)?;
    let report = home.run(["doctor", "--json", "--config", &conf]);
    let report = report.json();
    for link in ["configuration", "daemon", "gateway", "cache", "pacman"] {
        assert_eq!(verdict(&report, link), "ok", "{report}");
    }
    let conf = pacman_conf(&home, "1")?;
    let report = home.run(["doctor", "--json", "--config", &conf]).exits(1).json();
    assert_eq!(verdict(&report, "pacman"), "bad");
    Ok(())
}

#[test]
fn the_file_that_the_configuration_names_is_read() -> TestResult {
    let home = Home::empty();
    let conf = pacman_conf(&home, "8080")?;
    home.configure(&format!("{LOOPBACK}[pacman]\nconfig = \"{conf}\"\n"));
    let report = home.run(["doctor", "--json"]).exits(1).json();
    let links = report["links"].as_array().unwrap().iter();
    let said: Vec<_> = links.filter_map(|one| one["says"].as_str()).collect();
    assert!(said.iter().any(|says| says.contains("[core]")), "{report}");
    assert!(
        said.iter()
            .any(|says| says.contains(&format!("{}/pkg", home.path().display()))),
        "{report}"
    );
    let other = home.path().join("other.conf");
    fs::write(
        &other,
        "[options]\nArchitecture = x86_64\n[mine]\nServer = file:///srv\n",
    )?;
    let said = home
        .run(["doctor", "--config", other.to_str().unwrap()])
        .exits(1)
        .out;
    assert!(said.contains("[mine]") && !said.contains("[core]"), "{said}");
    Ok(())
}

/// Each is named by setup, shared by the daemon, and told by status and doctor.
#[test]
fn every_cache_directory_of_pacman_is_shared_with_its_signatures() -> TestResult {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().to_str().ok_or("a path")?;
    let spec = RepoSpec::new("extra").packages(2, 20_000);
    let repo = Repo::create(folder.path().join("mirror"), spec)?;
    let mirror = Upstream::folder(repo.folder())?;
    let conf = format!("{dir}/pacman.conf");
    fs::write(
        &conf,
        format!(
            "[options]\nArchitecture = x86_64\nDBPath = {dir}\nGPGDir = {dir}/gnupg\nCacheDir = {dir}/one/\n\
             CacheDir = {dir}/two\n[extra]\nServer = {}\n",
            mirror.url("")
        ),
    )?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let home = Home::with(&LOOPBACK.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
    home.run(["setup", "--no-service", "--config", &conf]).done();
    let mut names = Vec::new();
    for (cache, package) in [("one", "pkg0"), ("two", "pkg1")] {
        fs::create_dir(folder.path().join(cache))?;
        let name = repo.file_name(package)?;
        for name in [format!("{name}.sig"), name] {
            fs::copy(repo.folder().join(&name), folder.path().join(cache).join(&name))?;
            names.push(name);
        }
    }
    let daemon = Daemon::start(&home);
    daemon.file("/pacman/extra/x86_64/extra.db");
    until("both caches were looked at", || {
        let status = home.run(["status", "--json"]).done().json();
        let caches = status["caches"].as_array()?.clone();
        let seen = |one: &Value| one["shared"] == 1 && one["signatures"] == 1;
        (caches.len() == 2 && caches.iter().all(seen)).then_some(())
    });
    mirror.stop();
    for name in names {
        let bytes = fs::read(repo.folder().join(&name))?;
        assert_eq!(
            daemon.file(&format!("/pacman/extra/x86_64/{name}")),
            bytes,
            "{name}"
        );
    }
    let said = home.run(["status"]).done().out;
    for line in [
        format!("cache    {dir}/one/  1 of 1 packages shared, 1 signatures"),
        format!("cache    {dir}/two  1 of 1 packages shared, 1 signatures"),
    ] {
        assert!(said.contains(&line), "{line} is not in: {said}");
    }
    fs::remove_dir_all(folder.path().join("two"))?;
    let report = home.run(["doctor", "--json", "--config", &conf]).json();
    let links = report["links"].as_array().ok_or("links")?;
    let caches: Vec<_> = links.iter().filter(|one| one["link"] == "cache").collect();
    assert_eq!(caches.len(), 2, "{report}");
    assert_eq!(
        (&caches[0]["verdict"], &caches[1]["verdict"]),
        (&"ok".into(), &"warn".into())
    );
    daemon.stop();
    Ok(())
}
