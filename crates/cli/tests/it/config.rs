//! `pacstore config`: what is refused and how it is said; the reference and its two copies.

use crate::home::{Home, LOOPBACK};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");

fn reference() -> String {
    Home::empty().run(["config", "reference"]).done().out
}

/// After a change of the keys: `pacstore config reference > dist/pacstore.toml`.
#[test]
fn the_commented_configuration_in_dist_is_the_reference() {
    let shipped = std::fs::read_to_string(format!("{ROOT}dist/pacstore.toml")).unwrap();
    assert_eq!(shipped, reference());
    let home = Home::with(&shipped);
    home.run(["config", "check"]).done();
}

/// `section` and `name` of each key of the reference.
fn keys() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in reference().lines().filter_map(|line| line.strip_prefix("# ")) {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_matches(['[', ']']).clone_into(&mut section);
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !section.is_empty()) {
            keys.push((section.clone(), name.to_owned()));
        }
    }
    keys
}

#[test]
fn each_key_is_explained_in_the_documentation() {
    let text = std::fs::read_to_string(format!("{ROOT}docs/configuration.md")).unwrap();
    let keys = keys();
    assert!(keys.len() > 40, "{keys:?}");
    for (section, name) in keys {
        let part = text.split("\n## ").find(|part| {
            let title = part.lines().next().unwrap_or_default();
            title.contains(&format!("[{section}]"))
        });
        let part = part.unwrap_or_else(|| panic!("docs/configuration.md has no part on [{section}]"));
        let name = if section == "names" {
            "\"NAME\"".to_owned()
        } else {
            name
        };
        assert!(
            part.contains(&format!("`{name}`")),
            "[{section}] {name} is not in docs/configuration.md"
        );
    }
}

#[test]
fn each_key_of_the_reference_is_taken_with_its_default() {
    for line in reference().lines() {
        assert!(line.is_empty() || line.starts_with('#'), "{line}");
    }
    // All the sections that may stand once, uncommented.
    let reference = reference();
    let lines = reference.lines().filter_map(|line| line.strip_prefix("# "));
    let once = lines
        .skip_while(|line| !line.starts_with('['))
        .take_while(|line| !line.starts_with("[["))
        .filter(|line| !line.starts_with("\"NAME\""));
    let text = once.collect::<Vec<_>>().join("\n");
    let home = Home::with(&text);
    home.run(["config", "check"]).done();
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one_and_its_line() {
    let home = Home::with(
        "[gateway]\nlisten = \"127.0.0.1:0\"\n\n[[mirror]]\nname = \"a.example\"\nimporter = []\n",
    );
    let message = "pacstore.toml:6: unknown key `mirror.importer`; did you mean `importers`?";
    // Every verb that needs the configuration says the same.
    for verb in [
        vec!["config", "check"],
        vec!["config", "show"],
        vec!["daemon"],
        vec!["import", "a.example", "--once"],
        vec!["resolve", "a.example"],
    ] {
        home.run(verb).fails_with(&[message]);
    }
    home.configure("[store]\nmax-size = \"1GB\"\n");
    home.run(["config", "check"])
        .fails_with(&["pacstore.toml:2: unknown key `store.max-size`; did you mean `max_size`?"]);
    home.configure("\n\n[swarn]\n");
    home.run(["config", "check"])
        .fails_with(&["pacstore.toml:3: unknown section `swarn`; did you mean `swarm`?"]);
}

#[test]
fn what_comes_later_is_refused_by_name_and_line() {
    let mirror = "[[mirror]]\nname = \"a.example\"\n";
    for (text, key) in [
        ("[names]\n\"example.org\" = \"/ipns/k51\"\n".to_owned(), "`names`"),
        (
            format!("{mirror}keyring = \"/etc/keys\"\n"),
            "pacstore.toml:3: `mirror.0.keyring`",
        ),
    ] {
        let home = Home::with(&text);
        home.run(["config", "check"])
            .fails_with(&[key, "is not available yet"]);
    }
    let dnslink = Home::with(&format!("{mirror}importers = \"dnslink\"\n"));
    dnslink
        .run(["config", "check"])
        .fails_with(&["not available yet"]);
}

#[test]
fn bad_toml_and_bad_values_name_line_and_key() {
    for (text, message) in [
        ("[gateway\n", "pacstore.toml:1: "),
        ("[gateway]\nlisten = 8080\n", "pacstore.toml:2: "),
        (
            "[gateway]\nlisten = \"8080\"\n",
            "pacstore.toml:2: gateway.listen: write ADDRESS:PORT",
        ),
        (
            "[swarm]\npeers = [\"/ip4/127.0.0.1/tcp/1\"]\n",
            "does not end in /p2p/PEERID",
        ),
        (
            "[swarm]\ndht = \"on\"\n",
            "pacstore.toml:2: swarm.dht: write auto, client, server or off",
        ),
        (
            "[store]\nmax_size = \"10XB\"\n",
            "`10XB` is no size; write it like 10GB",
        ),
        (
            "[limits]\nupload = \"fast\"\n",
            "`fast` is no rate; write it like 4MB/s",
        ),
        ("[[mirror]]\n", "mirror.0.name: is needed"),
        ("[[repository]]\n", "repository.0.name: is needed"),
        (
            "[[repository]]\nname = \"../extra\"\n",
            "pacstore.toml:2: repository.0.name: is needed",
        ),
        (
            "[[repository]]\nname = \"extra\"\n",
            "repository.0.upstreams: name at least one",
        ),
        (
            "[[repository]]\nname = \"a\"\nupstreams = \"http://a.example/\"\nkeyring = \"/nowhere/keys\"\n",
            "pacstore.toml:4: repository.0.keyring: cannot read `/nowhere/keys`",
        ),
        (
            "[[repository]]\nname = \"extra\"\nupstreams = \"rsync://a.example/\"\n",
            "pacstore.toml:3: repository.0.upstreams: `rsync://a.example/` is no http(s) URL",
        ),
        (
            "[[repository]]\nname = \"a\"\nupstreams = \"http://a.example/\"\n\
             [[repository]]\nname = \"a\"\nupstreams = \"http://b.example/\"\n",
            "repository.1.name: this repository stands here twice",
        ),
        (
            "[[repository]]\nname = \"a\"\nupstreams = \"http://a.example/$repo/os/$arch\"\n",
            "pacstore.toml:3: repository.0.upstreams: `http://a.example/$repo/os/$arch`: only pacman knows",
        ),
        (
            "[[mirror]]\nname = \"a.example\"\nupstreams = \"http://a.example/$repo/\"\n",
            "pacstore.toml:3: mirror.0.upstreams: `http://a.example/$repo/`: only pacman knows",
        ),
        (
            "[[import]]\nmirror = \"a.example\"\nkey = \"a\"\nfrom = \"rsync://a.example/$arch\"\n",
            "pacstore.toml:4: import.0.from: `rsync://a.example/$arch`: only pacman knows",
        ),
        (
            "[[import]]\nmirror = \"a.example\"\nkey = \"a\"\n",
            "import.0.from: name at least one",
        ),
        (
            "[[import]]\nmirror = \"a.example\"\nfrom = \"/srv\"\n",
            "import.0.key: name the key",
        ),
    ] {
        let home = Home::with(text);
        home.run(["config", "check"]).fails_with(&[message]);
    }
}

#[test]
fn a_key_that_is_not_there_is_told_before_the_daemon_is_started() {
    let home = Home::with("[[import]]\nmirror = \"a.example\"\nfrom = \"/srv\"\nkey = \"a\"\n");
    let checked = home.run(["config", "check"]).done();
    assert!(
        checked
            .err
            .contains("the daemon will not start: there is no key `a`"),
        "{}",
        checked.err
    );
    home.run(["key", "new", "a"]).done();
    assert_eq!(home.run(["config", "check"]).done().err, "");
    let home = Home::with("[[import]]\nmirror = \"a.example\"\nfrom = \"/srv\"\nkey = \"../a\"\n");
    let checked = home.run(["config", "check", "--json"]).done().json();
    let warning = checked["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("`../a` is no label"), "{warning}");
}

#[test]
fn the_configuration_is_shown_as_text_and_as_json() {
    let home = Home::with(LOOPBACK);
    assert_eq!(
        home.run(["config", "show"]).done().out.trim_end(),
        LOOPBACK.trim_end()
    );
    let shown = home.run(["config", "show", "--json"]).done().json();
    assert_eq!(shown["gateway"]["listen"], "127.0.0.1:0");
    let checked = home.run(["config", "check", "--json"]).done().json();
    assert_eq!(checked["ok"], true);
    let reference = home.run(["config", "reference", "--json"]).done().json();
    assert_eq!(reference[0]["key"], "gateway.listen");
    assert!(reference.as_array().map(Vec::len) > Some(40));
    let none = Home::empty();
    let checked = none.run(["config", "check"]).done();
    assert!(
        checked.out.contains("does not exist; all defaults hold"),
        "{}",
        checked.out
    );
    assert!(
        none.run(["config", "show"])
            .done()
            .err
            .contains("all defaults hold")
    );
    none.run(["config", "check"]).done();
}

#[test]
fn an_import_whose_node_gives_nothing_is_warned_of() {
    let home = Home::importer("core.example", "/nowhere");
    let quiet = home.run(["config", "check", "--json"]).done();
    assert_eq!(quiet.json()["warnings"].as_array().map(Vec::len), Some(0));
    let text = std::fs::read_to_string(home.path().join("pacstore.toml")).unwrap();
    home.configure(&format!("{text}\n[share]\nenable = false\n"));
    let warned = home.run(["config", "check"]).done();
    assert!(
        warned.err.contains("warning: nobody can follow core.example"),
        "{}",
        warned.err
    );
}

#[test]
fn a_keyring_that_is_not_there_is_warned_of() {
    let home = Home::importer("core.example", "/nowhere");
    let text = std::fs::read_to_string(home.path().join("pacstore.toml")).unwrap();
    std::fs::create_dir(home.path().join("empty")).unwrap();
    for (folder, why) in [("gnupg", "No such file"), ("empty", "is no keyring")] {
        let keyring = home.path().join(folder);
        home.configure(&format!("{text}keyring = \"{}\"\n", keyring.display()));
        let warned = home.run(["config", "check"]).done().err;
        assert!(
            warned.contains("warning: no round of core.example will end well: ") && warned.contains(why),
            "{warned}"
        );
        assert!(warned.contains("name a folder as pacman's"), "{warned}");
    }
}

#[test]
fn a_max_age_that_is_over_before_the_next_head_is_warned_of() {
    let home = Home::importer("core.example", "/nowhere");
    let text = std::fs::read_to_string(home.path().join("pacstore.toml")).unwrap();
    let warned = |every: &str, max_age: &str| {
        let lines = format!("every = \"{every}\"\nmax_age = \"{max_age}\"\n");
        let kept = text.lines().filter(|line| !line.starts_with("every"));
        let text = kept.collect::<Vec<_>>().join("\n");
        home.configure(&text.replace("[[import]]\n", &format!("[[import]]\n{lines}")));
        let said = home.run(["config", "check"]).done().err;
        said.contains("warning: clients will refuse the databases of core.example again and again")
    };
    for (every, max_age, odd) in [
        ("60s", "1s", true),
        ("60s", "45m", true),
        ("24h", "24h", true),
        ("60s", "1h", false),
        ("24h", "49h", false),
        ("24h", "0", false),
        ("manual", "1s", false),
    ] {
        assert_eq!(warned(every, max_age), odd, "every {every}, max_age {max_age}");
    }
}
