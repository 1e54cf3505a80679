//! Configurations, good and bad, and what is said of them.

use pacstore_import::StampSource;
use pacstore_names::Layout;

use super::*;

fn loaded(text: &str) -> Result<Loaded, ConfigError> {
    let home = Home::at(PathBuf::from("/nowhere"));
    parse(Path::new("pacstore.toml"), text, &home)
}

fn message(text: &str) -> String {
    loaded(text).expect_err("a bad configuration").to_string()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let loaded = loaded("").expect("defaults");
    assert_eq!(loaded.gateway.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(loaded.node.max_size, 10_000_000_000);
    let sharing = &loaded.node.sharing;
    assert_eq!((sharing.enable, sharing.rate), (true, Some(4_000_000)));
    assert_eq!((sharing.month, sharing.hours), (None, None));
    assert_eq!(loaded.node.swarm.strangers, 160);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let text = "[gateway]\nlisten = \"127.0.0.1:0\"\nhost = [\"x\"]\n";
    assert_eq!(
        message(text),
        "pacstore.toml:3: unknown key `gateway.host`; did you mean `hosts`?"
    );
    assert_eq!(
        message("[gatewya]\n"),
        "pacstore.toml:1: unknown section `gatewya`; did you mean `gateway`?"
    );
    assert_eq!(
        message("\n[mirror]\nname = \"a.b\"\n"),
        "pacstore.toml:2: mirror: write it as `[[mirror]]`"
    );
}

#[test]
fn what_is_not_built_yet_is_refused_unless_it_is_the_default() {
    assert_eq!(
        message("[[mirror]]\nname = \"a.b\"\nkeyring = \"/etc/keys\"\n"),
        "pacstore.toml:3: `mirror.0.keyring` is not available yet"
    );
    assert!(loaded("[[mirror]]\nname = \"a.b\"\nkeyring = \"\"\n").is_ok());
}

#[test]
fn each_preset_can_be_imported_with_a_key_alone() {
    for preset in preset::PRESETS {
        let text = format!("[[import]]\npreset = \"{}\"\nkey = \"a\"\n", preset.name);
        let loaded = loaded(&text).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        let spec = &loaded.node.imports[0].spec;
        assert!(1 < spec.from.len());
        assert!(spec.from.iter().all(|source| spec.stamp_of(source).is_some()));
    }
}

#[test]
fn an_unknown_preset_is_refused_with_its_line_and_the_nearest_one() {
    let text = "[[import]]\nkey = \"a\"\npreset = \"manjro\"\n";
    let message = message(text);
    assert!(
        message.starts_with(
            "pacstore.toml:3: import.0.preset: no preset is called `manjro`; did you mean `manjaro`?"
        ),
        "{message}"
    );
}

#[test]
fn a_stamp_that_is_none_is_refused() {
    let text = |line: &str| {
        format!("[[import]]\nmirror = \"a.b\"\nkey = \"a\"\nfrom = \"http://a.example/\"\n{line}\n")
    };
    for stamp in ["http://", "ftp://a.example/x", "https:///", "../x", "a//b", "/"] {
        let said = message(&text(&format!("stamp = \"{stamp}\"")));
        let want = "pacstore.toml:5: import.0.stamp: write a path below";
        assert!(said.contains(want), "{stamp}: {said}");
    }
    loaded(&text("stamp = \"/a/b\"")).expect("a path");
}

#[test]
fn several_stamps_are_those_of_the_upstreams_in_their_order() {
    let text = |stamps: &str| {
        format!(
            "[[import]]\nmirror = \"a.b\"\nkey = \"a\"\n\
             from = [\"http://a.example/\", \"http://b.example/\"]\nstamp = {stamps}\n"
        )
    };
    let loaded = loaded(&text("[\"http://c.example/stamp\", \"state\"]")).expect("one each");
    let spec = &loaded.node.imports[0].spec;
    let stamp = |at: usize| spec.stamp_of(&spec.from[at]).cloned();
    assert_eq!(stamp(1), Some(StampSource::Path("state".into())));
    assert!(matches!(stamp(0), Some(StampSource::Url(url)) if url.path() == "/stamp"));
    let three = message(&text("[\"a\", \"b\", \"c\"]"));
    assert!(
        three.contains("pacstore.toml:5: import.0.stamp: write one for all"),
        "{three}"
    );
}

#[test]
fn the_layout_of_an_import_is_its_mirrors_also_before_there_is_a_head() {
    let import = "[[import]]\nmirror = \"a.b\"\nkey = \"a\"\nfrom = \"/srv/a\"\n";
    let mirror = "[[mirror]]\nname = \"a.b\"\nupstreams = [\"http://a.example/\"]\n";
    for (text, layout) in [
        (mirror.to_owned(), Layout::Archlinux),
        (format!("{mirror}{import}"), Layout::Plain),
        (
            format!("{mirror}{import}layout = \"archlinux\"\n"),
            Layout::Archlinux,
        ),
        (format!("{mirror}layout = \"plain\"\n"), Layout::Plain),
    ] {
        let loaded = loaded(&text).expect("a configuration");
        assert_eq!(loaded.node.mirrors[0].layout, layout, "{text}");
    }
}

#[test]
fn an_import_takes_a_keyring_and_how_long_it_holds() {
    let text = |more: &str| format!("[[import]]\nmirror = \"a.b\"\nfrom = \"/srv/a\"\nkey = \"a\"\n{more}");
    let import = loaded(&text("keyring = \"/etc/pacman.d/gnupg\"\nhold = \"30m\"\n")).expect("a keyring");
    let spec = &import.node.imports[0].spec;
    assert_eq!(spec.keyring.as_deref(), Some(Path::new("/etc/pacman.d/gnupg")));
    assert_eq!(spec.hold.as_secs(), 1800);
    assert!(
        message(&text("keyring = \"keys\"\n"))
            .contains("pacstore.toml:5: import.0.keyring: `keys` is no absolute path")
    );
    let unknown = "repositories = [\"core\"]\natomic = [[\"core\", \"extra\"]]\n";
    assert!(message(&text(unknown)).contains("import.0.atomic: `extra` is none of the `repositories`"));
}

#[test]
fn what_others_get_has_its_limits() {
    let text = "[limits]\nupload = \"0\"\nupload_month = \"50GB\"\nupload_hours = \"22-6\"\npeers = 0\n\
                [share]\nenable = false\nannounce = true\n";
    let node = loaded(text).expect("limits").node;
    let sharing = &node.sharing;
    assert_eq!((sharing.rate, sharing.month), (None, Some(50_000_000_000)));
    assert_eq!(sharing.hours.map(|hours| (hours.from, hours.to)), Some((22, 6)));
    assert!(!sharing.enable && sharing.announce && node.swarm.strangers == 0);
    let import = "[[import]]\nmirror = \"a.b\"\nfrom = \"/srv/a\"\nkey = \"a\"\n";
    assert_eq!(loaded(import).expect("an import").node.sharing.rate, None);
    for (bad, why) in [
        (
            "upload_hours = \"9\"",
            "limits.upload_hours: write hours, such as 1-6 or 22-6",
        ),
        (
            "upload_month = \"much\"",
            "limits.upload_month: `much` is no size",
        ),
        ("peers = 100000", "limits.peers: must be at most 384"),
    ] {
        let said = message(&format!("[limits]\n{bad}\n"));
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_bad_value_names_its_key_and_what_to_write() {
    assert!(message("[store]\nmax_size = \"much\"\n").contains("store.max_size: `much` is no size"));
    assert!(
        message("[[mirror]]\nname = \"a.b\"\nimporters = [\"k51nonsense\"]\n").contains("pacstore.toml:3")
    );
}

/// What the reader says of it (`expected usize`) helps nobody.
#[test]
fn a_value_of_another_kind_is_told_what_its_key_takes() {
    for (text, why) in [
        (
            "[limits]\npeers = -1",
            "limits.peers: write a whole number from 0 to 384, such as 160",
        ),
        (
            "[limits]\nrounds = 1.5",
            "limits.rounds: write a whole number from 1 to 64, such as 2",
        ),
        ("[limits]\npressure = 1", "limits.pressure: write true or false"),
        (
            "[limits]\nupload_month = 50",
            "limits.upload_month: write it in quotes: \"50\"",
        ),
        (
            "[store]\nmax_size = [\"1GB\"]",
            "store.max_size: write one text in quotes, no list",
        ),
        (
            "[swarm]\npeers = [1]",
            "swarm.peers: write a text in quotes, or a list of them",
        ),
        (
            "[swarm]\nbootstrap = false",
            "swarm.bootstrap: write a text in quotes, or a list of them",
        ),
        (
            "[[mirror]]\nquorum = \"2\"",
            "mirror.0.quorum: write a whole number from 1 to the number of importers, such as 1",
        ),
        (
            "[[import]]\nreplicas = -1",
            "import.0.replicas: write a whole number, 0 or more, such as 0",
        ),
        (
            "[[import]]\natomic = [\"a\"]",
            "import.0.atomic: write lists of names, such as [[",
        ),
        (
            "[[import]]\nkeep = { age = 7 }",
            "import.0.keep: write it like { age = \"7d\", count = 100 }",
        ),
    ] {
        let want = format!("pacstore.toml:2: {why}");
        let said = message(&format!("{text}\n"));
        assert!(said.starts_with(&want), "{said}");
    }
    assert_eq!(
        message("\nlimits = 3\n"),
        "pacstore.toml:2: limits: write it as `[limits]`"
    );
    assert_eq!(
        message("mirror = [1]\n"),
        "pacstore.toml:1: mirror: write it as `[[mirror]]`"
    );
}

#[test]
fn a_key_that_is_missing_is_told_with_the_line_of_its_table() {
    let said = message("[[mirror]]\nname = \"a.b\"\n\n[[mirror]]\nlayout = \"plain\"\n");
    assert!(
        said.starts_with("pacstore.toml:4: mirror.1.name: is needed"),
        "{said}"
    );
}

#[test]
fn what_nobody_could_listen_on_or_ask_for_is_refused() {
    for listen in [
        "",
        "/ip4/127.0.0.1",
        "/dns4/localhost/tcp/1",
        "/ip4/127.0.0.1/tcp/1/ws",
    ] {
        let said = message(&format!("[swarm]\nlisten = [\"{listen}\"]\n"));
        let want = format!("pacstore.toml:2: swarm.listen: `{listen}` is nothing to listen on");
        assert!(said.starts_with(&want), "{said}");
    }
    for host in ["", "http://box/", "box:8080", "a b"] {
        let said = message(&format!("[gateway]\nhosts = [\"{host}\"]\n"));
        let want = format!("pacstore.toml:2: gateway.hosts: `{host}` is no name of a host");
        assert!(said.starts_with(&want), "{said}");
    }
    loaded("[swarm]\nlisten = \"/ip6/::1/udp/0/quic-v1\"\n[gateway]\nhosts = [\"pkg.box_1.lan\"]\n")
        .expect("both");
}

#[test]
fn an_importer_that_stands_twice_has_no_second_vote() {
    let key = "k51qzi5uqu5dgixyyha6tdj6z8iw4ltp41cstc46ujo2yrc7i4wyy2vk00thlx";
    let text = format!("[[mirror]]\nname = \"a.b\"\nimporters = [\"{key}\", \"{key}\"]\nquorum = 2\n");
    assert!(
        message(&text).contains("pacstore.toml:3: mirror.0.importers:"),
        "{}",
        message(&text)
    );
    assert!(message(&text).contains("stands here twice"));
}

#[test]
fn every_key_of_the_reference_parses_with_its_default() {
    for key in KEYS
        .iter()
        .filter(|key| !key.default.is_empty() && !key.section.starts_with('['))
    {
        let text = format!("[{}]\n{} = {}\n", key.section, key.name, key.default);
        loaded(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    for key in KEYS
        .iter()
        .filter(|key| !key.default.is_empty() && key.section == "[import]")
    {
        let text = format!(
            "[[import]]\nmirror = \"a.example\"\nfrom = \"/srv/a\"\nkey = \"a\"\n{} = {}\n",
            key.name, key.default
        );
        loaded(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
