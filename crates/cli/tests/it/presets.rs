//! Presets: each imports from a stand-in with its distribution's real layout, by rsync and HTTP alike.

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use fs_err as fs;
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::home::{Home, LOOPBACK};

/// A repository as a mirror has it: its packages are links into a pool.
fn pooled(root: &Path, folder: &str, name: &str, pool: &str) -> TestResult {
    let own = root.join(folder);
    Repo::create(&own, RepoSpec::new(name).packages(2, 1_500))?;
    fs::create_dir_all(root.join(pool))?;
    let up = "../".repeat(folder.split('/').count());
    for entry in fs::read_dir(&own)? {
        let file = entry?.file_name();
        if file.to_string_lossy().contains(".pkg.tar.") {
            // Two repositories may have a package of one name.
            let pooled = format!("{name}-{}", file.to_string_lossy());
            fs::rename(own.join(&file), root.join(pool).join(&pooled))?;
            symlink(format!("{up}{pool}/{pooled}"), own.join(&file))?;
        }
    }
    Ok(())
}

fn plain(root: &Path, folder: &str, name: &str) -> TestResult {
    Repo::create(root.join(folder), RepoSpec::new(name).packages(2, 1_500))?;
    Ok(())
}

fn file(root: &Path, path: &str, text: &str) -> TestResult {
    let path = root.join(path);
    fs::create_dir_all(path.parent().ok_or("a folder")?)?;
    Ok(fs::write(path, text)?)
}

fn arch(root: &Path) -> TestResult {
    for name in ["core", "extra", "multilib"] {
        pooled(root, &format!("{name}/os/x86_64"), name, "pool/packages")?;
    }
    file(root, "iso/2026.11.01/archlinux-x86_64.iso", "an image")?;
    symlink("2026.11.01", root.join("iso/latest"))?;
    file(root, "lastsync", "1744500300\n")?;
    file(root, "lastupdate", "1744500000\n")
}

fn endeavouros(root: &Path) -> TestResult {
    plain(root, "repo/endeavouros/x86_64", "endeavouros")?;
    file(root, "repo/state", "3\n")?;
    file(root, "iso/EndeavourOS.iso", "an image")?;
    file(root, "synctrace.txt", "synced from the tier above at some time\n")
}

fn manjaro(root: &Path) -> TestResult {
    for branch in [
        "stable",
        "testing",
        "unstable",
        "stable-staging",
        "stable/kde-unstable",
    ] {
        pooled(root, &format!("{branch}/core/x86_64"), "core", "pool/sync")?;
    }
    for branch in ["arm-stable", "arm-testing", "arm-unstable"] {
        pooled(root, &format!("{branch}/core/aarch64"), "core", "pool/arm")?;
    }
    file(root, "state", "###\nstate=1\ndate=2025-04-12T23:20:00Z\n")
}

fn alhp(root: &Path) -> TestResult {
    for level in ["v2", "v3"] {
        let name = format!("core-x86-64-{level}");
        plain(root, &format!("{name}/os/x86_64"), &name)?;
    }
    file(root, "logs/x86-64-v3/glibc.log", "built\n")?;
    file(root, "packages.html", "<html></html>")?;
    file(root, "lastupdate", "1744500000\n")
}

fn chaotic(root: &Path) -> TestResult {
    plain(root, "x86_64", "chaotic-aur")?;
    for path in [
        "index.html",
        "pkgs.txt",
        "pkgs.files.txt",
        "pkgs.files.old.txt",
        "x86_64/chaotic-aur.db.lck",
        "x86_64/.hidden",
    ] {
        file(root, path, "text")?;
    }
    file(root, "lastupdate", "1744500000\n")
}

/// Preset, NAME, how its mirrors look, and what of them the tree has: from -> to.
type Case = (
    &'static str,
    &'static str,
    fn(&Path) -> TestResult,
    &'static [(&'static str, &'static str)],
);

const CASES: &[Case] = &[
    (
        "arch",
        "x86-64.archlinux.pkg.pacman.store",
        arch,
        &[
            ("core/os/x86_64", "core"),
            ("extra/os/x86_64", "extra"),
            ("multilib/os/x86_64", "multilib"),
            ("iso", "iso"),
        ],
    ),
    (
        "endeavouros",
        "endeavouros.pkg.pacman.store",
        endeavouros,
        &[
            ("repo/endeavouros/x86_64", "repo/endeavouros/x86_64"),
            ("iso", "iso"),
        ],
    ),
    (
        "manjaro",
        "manjaro.pkg.pacman.store",
        manjaro,
        &[
            ("stable/core/x86_64", "stable/core/x86_64"),
            ("arm-stable/core/aarch64", "arm-stable/core/aarch64"),
        ],
    ),
    (
        "manjaro-arm",
        "manjaro-arm.pkg.pacman.store",
        manjaro,
        &[("arm-stable/core/aarch64", "arm-stable/core/aarch64")],
    ),
    (
        "alhp",
        "alhp.archlinux.pkg.pacman.store",
        alhp,
        &[
            ("core-x86-64-v2/os/x86_64", "core-x86-64-v2/os/x86_64"),
            ("core-x86-64-v3/os/x86_64", "core-x86-64-v3/os/x86_64"),
        ],
    ),
    (
        "chaotic-aur",
        "chaotic-aur.pkg.pacman.store",
        chaotic,
        &[("x86_64", "x86_64")],
    ),
];

/// Copies a folder, links as what they point at, without what the presets leave out of it.
fn copy(from: &Path, to: &Path) -> TestResult {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to)?;
        } else if !name.to_string_lossy().ends_with(".lck") && !name.to_string_lossy().starts_with('.') {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn config(upstream: &dyn Fn(usize) -> String) -> String {
    let mut text = LOOPBACK.to_owned();
    for (number, (preset, ..)) in CASES.iter().enumerate() {
        let from = upstream(number);
        let _ = writeln!(
            text,
            "\n[[import]]\npreset = \"{preset}\"\nfrom = \"{from}\"\nkey = \"{preset}\"\nevery = \"manual\""
        );
    }
    text
}

#[test]
fn each_preset_imports_from_a_mirror_with_its_real_layout() -> TestResult {
    let (mirrors, expected) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let home = Home::with(LOOPBACK);
    let (mut servers, mut daemons, mut trees) = (Vec::new(), Vec::new(), Vec::new());
    for (preset, _, build, parts) in CASES {
        let (root, tree) = (mirrors.path().join(preset), expected.path().join(preset));
        build(&root)?;
        for (from, to) in *parts {
            copy(&root.join(from), &tree.join(to))?;
        }
        let line = home.run(["cid", tree.to_str().ok_or("a path")?]).done().line();
        trees.push(line.split('\t').next().unwrap_or_default().to_owned());
        home.run(["key", "new", preset]).done();
        servers.push(Upstream::folder(&root)?);
        daemons.extend(RsyncDaemon::serve(&root)?);
    }
    let check = |code: i32| -> TestResult {
        for ((preset, name, ..), tree) in CASES.iter().zip(&trees) {
            home.run(["import", name, "--once"]).exits(code);
            let resolved = home.run(["resolve", name, "--json"]).done().json();
            assert_eq!(resolved["tree"], tree.as_str(), "{preset}");
        }
        Ok(())
    };
    home.configure(&config(&|number| servers[number].url("")));
    check(0)?;
    if daemons.len() == CASES.len() {
        home.configure(&config(&|number| daemons[number].url("")));
        // The same tree over the other transport: nothing to publish.
        check(3)?;
    }
    Ok(())
}

#[test]
fn where_each_value_comes_from_is_shown() {
    let home = Home::with(LOOPBACK);
    home.run(["key", "new", "signs"]).done();
    let import = "\n[[import]]\npreset = \"arch\"\nkey = \"signs\"\nexclude = [\"/pool\", \"/iso\"]\n";
    home.configure(&format!("{LOOPBACK}{import}"));
    let shown = home.run(["config", "show", "--origin"]).done().out;
    let file = home.config_file();
    let file = file.display();
    let line = |start: &str| {
        let found = shown.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no `{start}` in {shown}"))
    };
    let below = 1 + LOOPBACK.lines().count() + 2;
    assert_eq!(line("preset"), format!("preset = \"arch\"   # {file}:{below}"));
    assert_eq!(
        line("exclude"),
        format!("exclude = [\"/pool\", \"/iso\"]   # {file}:{}", below + 2)
    );
    assert_eq!(
        line("mirror"),
        "mirror = \"x86-64.archlinux.pkg.pacman.store\"   # preset arch"
    );
    assert!(line("from").starts_with("from = [\"rsync://mirror.f4st.host/archlinux/\", "));
    assert!(line("from").ends_with("   # preset arch"));
    assert_eq!(line("layout"), "layout = \"archlinux\"   # preset arch");
    assert_eq!(line("every"), "every = \"60s\"   # default");
    assert_eq!(line("upload"), "upload = \"0\"   # default");
    assert_eq!(line("listen"), format!("listen = \"127.0.0.1:0\"   # {file}:2"));

    // What is shown is the same configuration.
    let again = Home::with(LOOPBACK);
    again.run(["key", "new", "signs"]).done();
    let without_preset = shown.replace("preset = \"arch\"", "preset = \"\"");
    again.configure(&without_preset);
    again.run(["config", "check"]).done();
    let values = |home: &Home| {
        let all = home.run(["config", "show", "--origin", "--json"]).done().json();
        let all: Vec<(String, String)> = all
            .as_array()
            .expect("a list")
            .iter()
            .map(|set| (set["key"].to_string(), set["value"].to_string()))
            .filter(|(key, _)| !key.contains("preset"))
            .collect();
        all
    };
    assert_eq!(values(&home), values(&again));

    let plain = home.run(["config", "show"]).done().out;
    assert!(plain.contains("preset = \"arch\"\nkey = \"signs\"\n"), "{plain}");
    assert!(
        plain.contains("# import.0.layout = \"archlinux\"   # preset arch"),
        "{plain}"
    );
    let json = home.run(["config", "show", "--json"]).done().json();
    assert_eq!(json["import"][0]["stamp"][1], "lastupdate");
    assert_eq!(json["import"][0]["exclude"][1], "/iso");
}

#[test]
fn an_importer_is_set_up_by_its_preset_alone() {
    let home = Home::empty();
    let arguments = ["init", "importer", "--preset", "alhp", "--offline"];
    let said = home.run(arguments).done();
    assert!(
        said.err
            .contains("pacstore import alhp.archlinux.pkg.pacman.store --once"),
        "{}",
        said.err
    );
    let shown = home.run(["config", "show", "--json"]).done().json();
    assert_eq!(shown["import"][0]["preset"], "alhp");
    assert_eq!(shown["import"][0]["layout"], "plain");
    let none = Home::empty();
    let refused = none.run(["init", "importer", "--preset", "alph"]);
    refused.fails_with(&["no preset is called `alph`; did you mean `alhp`?"]);
}
