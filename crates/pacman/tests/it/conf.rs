//! `pacman.conf` and mirror lists: nothing is lost, and they mean what they mean to pacman.

use std::collections::BTreeMap;
use std::process::Command;

use pacstore_pacman::{Conf, ConfError, Mirrorlist, Settings, expand_server};
use proptest::prelude::*;

use crate::{installed, skip};

const STOCK: &str = "#\n# /etc/pacman.conf\n#\n[options]\nHoldPkg     = pacman glibc\nArchitecture = auto\n\
    #IgnorePkg   =\nIgnorePkg = linux linux-headers\nIgnorePkg=nvidia\nColor\nParallelDownloads = 5\n\
    SigLevel    = Required DatabaseOptional\nLocalFileSigLevel = Optional\n\n\
    #[core-testing]\n#Include = /etc/pacman.d/mirrorlist\n\n[core]\nInclude = /etc/pacman.d/mirrorlist\n\n\
    [extra]\nUsage = Sync Search\nInclude = /etc/pacman.d/mirrorlist\n\n\
    [custom]\nSigLevel = Optional TrustAll\nServer = file:///home/custompkgs\n";

fn settings(main: &str, files: &[(&str, &str)]) -> Result<Settings, ConfError> {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    Settings::read(&Conf::parse(main.as_bytes()), &mut |pattern| {
        let found = files.get(pattern).into_iter();
        found.map(|text| Conf::parse(text.as_bytes())).collect()
    })
}

#[test]
fn a_stock_configuration_means_what_it_means_to_pacman() {
    let list =
        "## Austria\nServer = https://a.example/$repo/os/$arch\nServer = https://b.example/$repo/os/$arch\n";
    let read = settings(STOCK, &[("/etc/pacman.d/mirrorlist", list)]).unwrap();
    assert_eq!(read.options.ignore_pkg, ["linux", "linux-headers", "nvidia"]);
    assert_eq!(read.options.parallel_downloads, Some(5));
    assert_eq!(read.options.sig_level, ["Required", "DatabaseOptional"]);
    assert_eq!(read.architecture("aarch64"), "aarch64");
    assert!(read.options.other.contains(&("Color".to_owned(), None)));
    let names: Vec<_> = read.repositories.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["core", "extra", "custom"]);
    assert_eq!(read.repositories[0].servers.len(), 2);
    assert_eq!(read.repositories[1].usage, ["Sync", "Search"]);
    assert_eq!(read.repositories[2].servers, ["file:///home/custompkgs"]);
    assert_eq!(
        expand_server(&read.repositories[0].servers[0], "core", "x86_64"),
        "https://a.example/core/os/x86_64"
    );
}

#[test]
fn a_section_begun_in_an_included_file_goes_on_behind_it_and_twice_is_one() {
    let main = "Server = nowhere\n[core]\r\nServer = one\r\nInclude = inner\r\nServer = two\r\n[core]\nServer = three";
    let read = settings(main, &[("inner", "Server = half\n[extra]\nServer = other\n")]).unwrap();
    assert_eq!(read.repositories[0].servers, ["one", "half", "three"]);
    assert_eq!(read.repositories[1].servers, ["other", "two"]);
}

#[test]
fn a_comment_behind_a_value_is_part_of_the_value() {
    let read = settings("[core]\nServer = https://a.example # mine\n", &[]).unwrap();
    assert_eq!(read.repositories[0].servers, ["https://a.example # mine"]);
}

#[test]
fn includes_that_go_in_circles_are_an_error() {
    let read = settings("[core]\nInclude = me\n", &[("me", "Include = me\n")]);
    assert_eq!(read, Err(ConfError::Depth("me".to_owned())));
}

#[test]
fn many_includes_are_an_error_before_they_are_much_work() {
    let conf = Conf::parse(b"[core]\nInclude = many\n");
    let read = Settings::read(&conf, &mut |_| vec![Conf::parse(b"Include = many\n"); 100]);
    assert!(
        matches!(read, Err(ConfError::Depth(_) | ConfError::Files)),
        "{read:?}"
    );
}

#[test]
fn a_line_put_in_and_taken_out_leaves_every_byte_as_it_was() {
    for (text, ending) in [
        ("[core]\nInclude = x", "\n"),
        ("[core]\r\nInclude = x\r\n", "\r\n"),
        ("# a\n\n[core]\n\tServer\t=\tx\n", "\n"),
    ] {
        let mut conf = Conf::parse(text.as_bytes());
        let at = conf.sections()[0].directives[0].line;
        conf.insert(at, "Server = ours");
        let with = String::from_utf8(conf.to_bytes()).unwrap();
        assert!(
            with.contains(&format!("[core]{ending}Server = ours{ending}")),
            "{with:?}"
        );
        conf.remove(at);
        assert_eq!(conf.to_bytes(), text.as_bytes());
    }
}

#[test]
fn a_mirror_list_tells_used_servers_from_those_commented_out() {
    let text = "## Server = a sentence = here\n# Server = https://a.example/$repo\n##Server=https://c.example\n\
        Server = https://b.example/$repo\n#Include = x\n";
    let list = Mirrorlist::parse(text.as_bytes());
    assert_eq!(list.used(), ["https://b.example/$repo"]);
    assert_eq!(list.offered(), ["https://a.example/$repo", "https://c.example"]);
    assert_eq!(list.to_bytes(), text.as_bytes());
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_and_come_out_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let conf = Conf::parse(&bytes);
        let _ = Settings::read(&conf, &mut |_| Vec::new());
        prop_assert_eq!(conf.to_bytes(), bytes);
    }

    #[test]
    fn text_that_looks_like_a_configuration_comes_out_unchanged(
        text in "((\\[[a-z]{0,3}\\]|#?[A-Za-z]{0,5} ?=? ?[a-z$/#=]{0,6}|\t)(\r?\n|\n\n)){0,30}[a-z]{0,3}",
    ) {
        prop_assert_eq!(Conf::parse(text.as_bytes()).to_bytes(), text.as_bytes());
    }
}

/// What pacman's own reader says about the same files.
#[test]
fn pacman_conf_reads_the_same() {
    if !installed("pacman-conf") {
        return skip("pacman-conf is not installed (install: pacman-package-manager)");
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "a.list",
            "Server = https://a.example/$repo/$arch\n# Server = https://no.example\n",
        ),
        ("b.list", "  Server=https://b.example/$repo\r\n"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let glob = format!("{}/*.list", folder.path().display());
    let main = format!(
        "[options]\nArchitecture = x86_64\nIgnorePkg = a b\n IgnorePkg=c\nSigLevel = Never\n[core]\r\nInclude = {glob}\r\n\
         [other]\n\tServer = https://c.example # not a comment"
    );
    let file = folder.path().join("pacman.conf");
    std::fs::write(&file, &main).unwrap();
    let read = Settings::read(&Conf::parse(main.as_bytes()), &mut |pattern| {
        assert_eq!(pattern, glob);
        let files = ["a.list", "b.list"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
        files.iter().map(|bytes| Conf::parse(bytes)).collect()
    })
    .unwrap();
    let said = |arguments: &[&str]| {
        let output = Command::new("pacman-conf")
            .arg("--config")
            .arg(&file)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(said(&["IgnorePkg"]), read.options.ignore_pkg);
    let names: Vec<_> = read.repositories.iter().map(|one| one.name.clone()).collect();
    assert_eq!(said(&["--repo-list"]), names);
    for one in &read.repositories {
        let ours: Vec<_> = one
            .servers
            .iter()
            .map(|url| expand_server(url, &one.name, "x86_64"))
            .collect();
        assert_eq!(said(&["--repo", &one.name, "Server"]), ours);
    }
}
