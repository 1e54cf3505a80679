//! `pacstore setup` and `doctor` beside what users wrote themselves: lines for us in `pacman.conf`, faults in `pacstore.toml`.

use std::fs;

use pacstore_testkit::TestResult;

use crate::home::{Home, LOOPBACK, Ran};

/// Nobody listens there.
const MIRROR: &str = "Server = http://127.0.0.1:9/$repo\n";

fn conf(home: &Home, core: &str) -> std::io::Result<String> {
    let path = home.path().join("pacman.conf");
    fs::write(&path, format!("[options]\nArchitecture = x86_64\n[core]\n{core}"))?;
    Ok(path.to_str().unwrap().to_owned())
}

/// A home whose gateway has a port of its own, and what says so.
fn home(port: u16, more: &str) -> Home {
    Home::with(&format!(
        "{}{more}",
        LOOPBACK.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
    ))
}

fn setup(home: &Home, conf: &str, more: &[&str]) -> Ran {
    let mut words = vec!["setup", "--no-service", "--config", conf];
    words.extend(more);
    home.run(words)
}

/// It stays the user's, and would never be asked: that has to be said.
#[test]
fn a_line_of_the_user_that_is_of_no_use_is_told() -> TestResult {
    let own = "Server = http://127.0.0.1:18080/pacman/$repo/$arch\n";
    let below =
        "[core] your own line for pacstore stands below servers that pacman asks first: move it above them";
    let port = "[core] your own line for pacstore asks port 18080, but the gateway is on 18081: correct it";
    for (listens, core, told) in [
        (18080, format!("{MIRROR}{own}"), Some(below)),
        (18080, format!("{own}{MIRROR}"), None),
        (18081, format!("{own}{MIRROR}"), Some(port)),
        (18080, MIRROR.to_owned(), None),
    ] {
        let home = home(listens, "");
        let conf = conf(&home, &core)?;
        let before = fs::read(&conf)?;
        let shown = setup(&home, &conf, &["--dry-run"]).done().out;
        let ran = setup(&home, &conf, &[]).done();
        for said in [shown, ran.out] {
            assert_eq!(told.map(|told| said.contains(told)), told.map(|_| true), "{said}");
            assert_eq!(said.contains("your own line"), told.is_some(), "{said}");
        }
        let again = setup(&home, &conf, &["--json"]).done().json();
        assert_eq!(
            again["notes"].as_array().map(Vec::len),
            Some(told.iter().count()),
            "{again}"
        );
        if core.contains(own) {
            assert_eq!(fs::read(&conf)?, before);
        }
        setup(&home, &conf, &["--undo"]).done();
        assert_eq!(fs::read(&conf)?, before);
    }
    Ok(())
}

/// Where `[pacman] config` can still be read it holds, whatever else is wrong; where it cannot, nobody guesses in silence.
#[test]
fn a_configuration_that_cannot_be_loaded_hides_nothing_of_pacmans() -> TestResult {
    let home = home(18080, "");
    let path = conf(&home, MIRROR)?;
    let before = fs::read(&path)?;
    setup(&home, &path, &[]).done();
    let ours = fs::read_to_string(home.config_file())?;
    assert!(ours.contains(&format!("config = \"{path}\"")), "{ours}");
    // A slip of the hand elsewhere.
    home.configure(&format!("{ours}[limits]\npers = 3\n"));
    let said = home.run(["doctor"]).exits(1).out;
    assert!(
        said.contains("[core] asks us first") && said.contains("unknown key `limits.pers`"),
        "{said}"
    );
    let setting_up = home.run(["setup", "--no-service"]);
    setting_up.fails_with(&["unknown key `limits.pers`"]);
    home.run(["setup", "--no-service", "--undo"]).done();
    assert_eq!(fs::read(&path)?, before);
    // No TOML at all.
    setup(&home, &path, &["--undo"]).done();
    home.configure("[gateway\n");
    let said = home.run(["doctor"]).exits(1).out;
    assert!(
        said.contains("/etc/pacman.conf is taken for pacman's configuration"),
        "{said}"
    );
    for verb in [["setup", "--dry-run"], ["setup", "--undo"]] {
        let why = [
            "which pacman.conf this machine uses is not known",
            "toml:1:",
            "hint: ",
            "--config",
        ];
        home.run(verb).fails_with(&why);
    }
    Ok(())
}
