//! Names without bytes are the same over every transport, and links that lead back end.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use pacstore_import::{ImportSpec, Round, RoundError};
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::common::{Bench, all, cid_of, of_directory, of_url, troubles};

/// One importer for each way to read a folder.
struct Ways {
    _server: Upstream,
    _daemon: Option<RsyncDaemon>,
    benches: Vec<(Bench, ImportSpec)>,
}

impl Ways {
    fn to(dir: &Path, shape: impl Fn(&mut ImportSpec)) -> std::io::Result<Self> {
        let server = Upstream::folder(dir)?;
        let daemon = RsyncDaemon::serve(dir)?;
        let mut specs = vec![of_directory(dir), of_url(&server.url(""))];
        specs.extend(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
        let benches = specs.into_iter().map(|mut spec| {
            shape(&mut spec);
            (Bench::new(), spec)
        });
        Ok(Self {
            benches: benches.collect(),
            _server: server,
            _daemon: daemon,
        })
    }

    async fn rounds(&self) -> Result<Vec<Round>, RoundError> {
        let mut rounds = Vec::new();
        for (bench, spec) in &self.benches {
            rounds.push(bench.round(spec).await?);
        }
        Ok(rounds)
    }
}

#[tokio::test]
async fn a_link_that_dangles_in_a_repository_tears_it_over_every_transport() -> TestResult {
    let dir = tempfile::tempdir()?;
    let core = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(4, 2_000))?;
    // Other bytes than core's: what the store has by its digest is not asked for.
    let extra = RepoSpec::new("extra").package("other", 3_000);
    Repo::create(dir.path().join("extra"), extra)?;
    let ways = Ways::to(dir.path(), |_| {})?;
    let whole = cid_of(dir.path());
    for round in ways.rounds().await? {
        assert_eq!((round.tree, round.is_torn()), (whole, false));
    }
    let package = core.file_name("pkg1")?;
    for file in [
        package.clone(),
        format!("{package}.sig"),
        "core.files".into(),
        "core.db".into(),
    ] {
        let path = dir.path().join("core").join(&file);
        let kept = fs_err::read(&path)?;
        let modified = fs_err::metadata(&path)?.modified()?;
        fs_err::remove_file(&path)?;
        symlink("nowhere", &path)?;
        // An unchanged database is asked of a web mirror for itself alone, so it must move to be looked at.
        for (round, (_, spec)) in ways.rounds().await?.into_iter().zip(&ways.benches) {
            let by = &spec.from;
            if !spec.from[0].to_string().starts_with("http") || file == "core.db" {
                assert_eq!((round.tree, round.is_torn()), (whole, true), "{file} by {by:?}");
                let named = troubles(&round.repositories);
                assert!(
                    named.len() == 1 && named[0].starts_with(&format!("core/{file} ")),
                    "{named:?} by {by:?}"
                );
            }
        }
        // From nothing, everything is looked at, whatever the transport.
        for (_, spec) in &ways.benches {
            let round = Bench::new().round(spec).await?;
            let states: Vec<_> = round
                .repositories
                .iter()
                .map(|r| (r.name.as_str(), r.checked))
                .collect();
            if file == "core.db" {
                // There never was one, so nobody knows of the repository but by its name.
                assert!(states.contains(&("extra", true)), "{states:?} by {:?}", spec.from);
                continue;
            }
            assert_eq!(
                states,
                [("core", false), ("extra", true)],
                "{file} by {:?}",
                spec.from
            );
            let named = troubles(&round.repositories);
            assert!(
                named.len() == 1 && named[0].starts_with(&format!("core/{file} ")),
                "{named:?} by {:?}",
                spec.from
            );
        }
        fs_err::remove_file(&path)?;
        fs_err::write(&path, kept)?;
        fs_err::File::options()
            .write(true)
            .open(&path)?
            .file()
            .set_modified(modified)?;
        for round in ways.rounds().await? {
            assert_eq!((round.tree, round.is_torn()), (whole, false), "{file} is back");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_link_that_dangles_elsewhere_is_left_out_and_named_over_every_transport() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 2_000))?;
    fs_err::create_dir(dir.path().join("iso"))?;
    fs_err::write(dir.path().join("iso/a.iso"), vec![1; 3_000])?;
    let clean = cid_of(dir.path());
    symlink("nowhere", dir.path().join("iso/b.iso"))?;
    for round in Ways::to(dir.path(), |spec| spec.also = vec!["/iso".into()])?
        .rounds()
        .await?
    {
        assert_eq!(
            (round.tree, round.is_torn()),
            (clean, false),
            "{:?}",
            round.source
        );
        assert_eq!(round.warnings.len(), 1, "{:?} {:?}", round.warnings, round.source);
        assert!(
            round.warnings[0].starts_with("left out: iso/b.iso is "),
            "{:?}",
            round.warnings
        );
    }
    Ok(())
}

#[tokio::test]
async fn links_that_escape_or_lead_back_are_the_same_by_directory_and_rsync() -> TestResult {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root");
    let core = Repo::create(root.join("core"), RepoSpec::new("core").packages(3, 1_000))?;
    fs_err::create_dir(root.join("pool"))?;
    fs_err::write(root.join("pool/x"), b"x")?;
    fs_err::write(dir.path().join("outside"), b"secret")?;
    for (name, target) in [
        ("up", "."),
        ("pool/back", "../core"),
        ("pool/forth", ".."),
        ("pool/again", "../pool"),
        ("escape", "../outside"),
        ("passwd", "/etc/passwd"),
    ] {
        symlink(target, root.join(name))?;
    }
    let Some(daemon) = RsyncDaemon::serve(&root)? else {
        return Ok(());
    };
    for exclude in [&[][..], &["/pool"], &["/core"]] {
        let shape = |mut spec: ImportSpec| {
            spec.exclude = exclude.iter().map(|g| (*g).to_owned()).collect();
            spec.limits.source = Duration::from_mins(2);
            all(spec)
        };
        let by_directory = Bench::new().round(&shape(of_directory(&root))).await?;
        let bench = Bench::new();
        let by_rsync = bench.round(&shape(of_url(&daemon.url("")))).await?;
        assert_eq!(by_rsync.tree, by_directory.tree, "{exclude:?}");
        assert_eq!(by_rsync.warnings, by_directory.warnings, "{exclude:?}");
        assert!(
            by_rsync
                .warnings
                .contains(&"left out: escape is a link that leaves the root".into())
        );
        assert!(
            !bench
                .files(&by_rsync.tree)
                .iter()
                .any(|(_, bytes)| bytes == b"secret")
        );
    }

    let package = core.package_path("pkg1")?;
    fs_err::rename(&package, dir.path().join("moved"))?;
    symlink("../../moved", &package)?;
    let mut named = Vec::new();
    for mut spec in [of_directory(&root), of_url(&daemon.url(""))] {
        spec.exclude = vec!["/pool".into()];
        let error = Bench::new().round(&spec).await.unwrap_err();
        let RoundError::Torn { repositories, .. } = &error else {
            panic!("{error:?}")
        };
        named.push(troubles(repositories));
    }
    let want = format!("core/{} is a link that leaves the root", core.file_name("pkg1")?);
    assert_eq!(named, [[want.clone()], [want]]);
    Ok(())
}

#[tokio::test]
async fn of_a_listed_module_only_what_databases_name_and_also_takes_is_copied() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut core = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 2_000))?;
    fs_err::write(dir.path().join("readme"), b"r")?;
    let expected = {
        let clean = Bench::new();
        let mut spec = of_directory(dir.path());
        spec.also = vec!["readme".into()];
        clean.round(&spec).await?.tree
    };
    fs_err::write(dir.path().join("core/old-1-1-any.pkg.tar.zst"), b"old")?;
    fs_err::create_dir(dir.path().join("images"))?;
    fs_err::write(dir.path().join("images/big.img"), vec![0; 100_000])?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let mut spec = of_url(&daemon.url(""));
    spec.also = vec!["readme".into()];
    let bench = Bench::new();
    let round = bench.round(&spec).await?;
    assert_eq!((round.tree, round.is_torn()), (expected, false));
    let staged = bench
        .dir
        .path()
        .join("work")
        .join(&spec.mirror)
        .join("rsync/tree");
    assert!(staged.join("core").join(core.file_name("pkg1")?).exists() && staged.join("readme").exists());
    assert!(!staged.join("core/old-1-1-any.pkg.tar.zst").exists() && !staged.join("images").exists());

    // What is gone from the module goes from the copy; what is new comes.
    let gone = core.file_name("pkg1")?;
    core.update(&["pkg1"])?;
    fs_err::remove_file(dir.path().join("core").join(&gone)).or_else(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    })?;
    let round = bench.round(&spec).await?;
    let mut by_directory = of_directory(dir.path());
    by_directory.also = vec!["readme".into()];
    assert_eq!(round.tree, Bench::new().round(&by_directory).await?.tree);
    assert!(staged.join("core").join(core.file_name("pkg1")?).exists());
    assert!(!staged.join("core").join(&gone).exists());

    // A package that vanishes under an unchanged database is noticed.
    core.lose_package("pkg2")?;
    let torn = bench.round(&spec).await?;
    assert_eq!((torn.tree, torn.is_torn()), (round.tree, true));
    Ok(())
}

/// A web server shows a link as the folder that it leads to, for ever.
#[tokio::test]
async fn a_folder_link_that_leads_back_adds_nothing_over_every_transport() -> TestResult {
    let dir = tempfile::tempdir()?;
    for name in ["core", "extra"] {
        Repo::create(
            dir.path().join(name).join("os/x86_64"),
            RepoSpec::new(name).packages(2, 900),
        )?;
    }
    let whole = cid_of(dir.path());
    symlink(".", dir.path().join("self"))?;
    symlink("..", dir.path().join("core/up"))?;
    for (way, round) in Ways::to(dir.path(), |_| {})?.rounds().await?.iter().enumerate() {
        assert_eq!((round.tree, round.is_torn()), (whole, false), "way {way}");
    }
    Ok(())
}

/// As its modes are, not as its owner would have them: a mirror whose folders lie beside private ones.
#[tokio::test]
async fn a_folder_that_may_be_listed_and_not_entered_is_left_out_and_named() -> TestResult {
    use std::os::unix::fs::PermissionsExt as _;
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may enter every folder");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 900))?;
    let closed = dir.path().join("closed");
    fs_err::create_dir(&closed)?;
    fs_err::write(closed.join("file"), b"x")?;
    let whole = all(of_directory(dir.path()));
    fs_err::set_permissions(&closed, std::fs::Permissions::from_mode(0o444))?;
    let round = Bench::new().round(&whole).await;
    fs_err::set_permissions(&closed, std::fs::Permissions::from_mode(0o755))?;
    let round = round?;
    let said: Vec<String> = round.warnings.iter().map(ToString::to_string).collect();
    assert!(
        !round.is_torn() && said.iter().any(|one| one.contains("closed")),
        "{said:?}"
    );
    fs_err::remove_dir_all(&closed)?;
    assert_eq!(round.tree, cid_of(dir.path()));
    Ok(())
}

/// A folder that has the only name of the one above it is no link that leads back.
#[tokio::test]
async fn folders_of_one_name_in_one_another_are_walked_over_http() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core").packages(2, 600);
    Repo::create(dir.path().join("x86_64/x86_64/x86_64"), spec)?;
    let server = Upstream::folder(dir.path())?;
    let round = Bench::new().round(&of_url(&server.url(""))).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    // One that does lead back still ends.
    let other = tempfile::tempdir()?;
    symlink(".", other.path().join("again"))?;
    let server = Upstream::folder(other.path())?;
    let error = Bench::new().round(&of_url(&server.url(""))).await.unwrap_err();
    assert!(matches!(error, RoundError::NoDatabase { .. }), "{error:?}");
    Ok(())
}
