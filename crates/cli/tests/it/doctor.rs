//! `pacstore doctor` on machines with and without a daemon.

use std::fs;

use pacstore_testkit::TestResult;
use serde_json::Value;

use crate::daemon::Daemon;
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
