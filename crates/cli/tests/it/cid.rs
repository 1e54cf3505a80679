//! `pacstore cid`: what scripts rely on, against CIDs that Kubo and ipfs-unixfs-importer computed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::home::Home;

/// Origin: `file:text-seq`, `dir:dir-1000` and `dir:empty-dir` of the shared `unixfs-vectors.json`
/// (ipfs-unixfs-importer 17.1.1, checked with Kubo 0.22).
const VECTORS: [(&str, [&str; 3]); 3] = [
    (
        "unixfs-v1-2025",
        [
            "bafybeid2jdtso46ohrnspbeo2chv45aemqiuhilgw7poghcuvty3drzpdm",
            "bafybeiebuxbiv47kbftxtlnrvnmz3mckdjoq75bo4bsbptdhjaqlzvblpy",
            "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354",
        ],
    ),
    (
        "kubo-cidv1",
        [
            "bafybeigbm5tryv6whcwtyvvf47blrbmqmk62p6h6y4fpckeksal7nwg7gm",
            "bafybeiebuxbiv47kbftxtlnrvnmz3mckdjoq75bo4bsbptdhjaqlzvblpy",
            "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354",
        ],
    ),
    (
        "pacman.store-2023",
        [
            "bafykbzacebu6rkth54rzoityumudd7txwmfv7d3ujin4wm5uk27xvsf22jpv2",
            "bafykbzaceaizyvjasysy5nkk25eirdxxvz4isr5ohl64oh6nxaiayt6jrv4ba",
            "bafykbzacebugfutjir6qie7apo5shpry32ruwfi762uytd5g3u2gk7tpscndq",
        ],
    ),
];

/// `latest -> core` beside `core/file`, by Kubo 0.22 (`v1|withlink` of `unixfs-extra-vectors.json`).
const WITH_LINK: &str = "bafybeifzjd63k4gbrlxreudvq3tnruh2bitwcl2eal3aerk55fczlzir2a";

fn text(folder: &Path) {
    let mut text: Vec<String> = (1..=400_000).map(|n: u32| n.to_string()).collect();
    text.push(String::new());
    let text = text.join("\n");
    fs::write(folder.join("text"), text).unwrap();
    fs::create_dir_all(folder.join("packages")).unwrap();
    for i in 0..1000 {
        let name = format!(
            "pkg-{i:05}-1.{}.{}-{}-x86_64.pkg.tar.zst",
            i % 17,
            i % 7,
            1 + i % 3
        );
        fs::write(folder.join("packages").join(&name), format!("{name}\n")).unwrap();
    }
    fs::create_dir_all(folder.join("empty")).unwrap();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn each_profile_gives_the_cids_that_others_give() -> TestResult {
    let home = Home::empty();
    let folder = tempfile::tempdir()?;
    text(folder.path());
    let paths = ["text", "packages", "empty"].map(|name| path(&folder.path().join(name)).to_owned());
    for (profile, cids) in VECTORS {
        let mut arguments = vec!["cid", "--profile", profile];
        arguments.extend(paths.iter().map(String::as_str));
        let ran = home.run(arguments).done();
        let expected = cids
            .iter()
            .zip(&paths)
            .map(|(cid, path)| format!("{cid}\t{path}"));
        assert!(ran.out.lines().eq(expected), "{profile}: {}", ran.out);
        assert_eq!(ran.err, "");
    }
    let default = home.run(["cid", &paths[0]]).done().line();
    assert!(default.starts_with(VECTORS[0].1[0]), "{default}");
    Ok(())
}

#[test]
fn links_are_kept_unless_they_are_to_be_followed() -> TestResult {
    let home = Home::empty();
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("core"))?;
    fs::write(folder.path().join("core/file"), "x")?;
    symlink("core", folder.path().join("latest"))?;
    let kept = ["cid", "--profile", "kubo-cidv1", path(folder.path())];
    let cid = |ran: &str| ran.split('\t').next().unwrap().to_owned();
    assert_eq!(cid(&home.run(kept).done().line()), WITH_LINK);
    let followed = home
        .run(["cid", "-L", "--profile", "kubo-cidv1", path(folder.path())])
        .done()
        .line();
    fs::remove_file(folder.path().join("latest"))?;
    fs::create_dir(folder.path().join("latest"))?;
    fs::write(folder.path().join("latest/file"), "x")?;
    assert_eq!(followed, home.run(kept).done().line());
    Ok(())
}

#[test]
fn hidden_names_are_left_out_unless_wanted_and_empty_folders_are_kept() -> TestResult {
    let home = Home::empty();
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("file"), "x")?;
    let cid = |arguments: &[&str]| {
        let ran = home
            .run(["cid"].iter().chain(arguments).chain(&[path(folder.path())]))
            .done();
        ran.line()
    };
    let plain = cid(&[]);
    fs::write(folder.path().join(".hidden"), "x")?;
    fs::write(folder.path().join("~backup"), "x")?;
    assert_eq!(cid(&[]), plain);
    assert_ne!(cid(&["--hidden"]), plain);
    fs::create_dir(folder.path().join("empty"))?;
    assert_ne!(cid(&[]), plain);
    Ok(())
}

#[test]
fn a_repository_s_folder_has_the_cid_of_its_imported_tree() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(
        folder.path(),
        RepoSpec::new("core").packages(5, 3_000).package("big", 2_500_000),
    )?;
    let home = Home::importer("core.example", path(repo.folder()));
    let report = home
        .run(["import", "core.example", "--once", "--json"])
        .done()
        .json();
    let cid = home.run(["cid", "--json", path(repo.folder())]).done().json();
    assert_eq!(cid[0]["cid"], report["tree"]);
    assert_eq!(cid[0]["path"], path(repo.folder()));
    Ok(())
}

#[test]
fn what_can_be_read_is_printed_beside_what_cannot() -> TestResult {
    let home = Home::empty();
    let folder = tempfile::tempdir()?;
    let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
    fs::write(&first, "x")?;
    fs::write(&second, "y")?;
    let paths = [path(&first), "/nowhere/at/all", path(&second)];
    let plain = home.run(["cid"].iter().chain(&paths));
    let lines = plain.fails_with(&["/nowhere/at/all"]).out;
    let lines: Vec<_> = lines.lines().filter_map(|line| line.split_once('\t')).collect();
    assert_eq!(
        lines.iter().map(|(_, path)| *path).collect::<Vec<_>>(),
        [paths[0], paths[2]]
    );
    let ran = home.run(["cid", "--json"].iter().chain(&paths));
    let ran = ran.fails_with(&["/nowhere/at/all"]);
    let all = lines
        .iter()
        .map(|(cid, path)| serde_json::json!({ "cid": cid, "path": path }));
    assert_eq!(ran.json(), all.collect::<serde_json::Value>());
    let none = home.run(["cid", "--json", "/nowhere/at/all"]);
    assert_eq!(none.exits(1).json(), serde_json::json!([]));
    Ok(())
}

/// A script that looks for the path it gave finds it, whatever bytes it has.
#[test]
fn a_path_that_is_no_utf_8_comes_back_byte_for_byte() -> TestResult {
    let home = Home::empty();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(OsStr::from_bytes(b"caf\xe9\xff"));
    fs::write(&path, "x")?;
    let mut command = home.command(["cid"]);
    let out = command.arg(&path).output()?.stdout;
    let expected = [b"\t", path.as_os_str().as_bytes(), b"\n"].concat();
    assert!(out.ends_with(&expected), "{}", out.escape_ascii());
    Ok(())
}

#[test]
fn what_cannot_be_read_fails_and_a_profile_that_is_none_is_a_usage_error() {
    let home = Home::empty();
    home.run(["cid", "/nowhere/at/all"])
        .fails_with(&["/nowhere/at/all"]);
    home.run(["cid", "/dev/null"])
        .fails_with(&["`/dev/null` is neither a file nor a folder"]);
    let ran = home.run(["cid", "--profile", "kubo", "/etc/hostname"]).exits(2);
    assert!(
        ran.err.contains("unixfs-v1-2025, kubo-cidv1, pacman.store-2023"),
        "{}",
        ran.err
    );
    home.run(["cid"]).exits(2);
}
