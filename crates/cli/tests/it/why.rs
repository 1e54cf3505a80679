//! `pacstore why` against a daemon, and after it.

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::daemon::{Daemon, until};
use crate::home::{Home, LOOPBACK};

#[test]
fn why_tells_sources_checks_and_redirects_also_without_a_daemon() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 3_000_000))?;
    let upstream = Upstream::folder(folder.path())?;
    let home = Home::with(&format!(
        "{LOOPBACK}\n[[repository]]\nname = \"core\"\narch = \"x86_64\"\nupstreams = [\"{}\"]\n",
        upstream.url("")
    ));
    let daemon = Daemon::start(&home);
    home.run(["why", "a"])
        .fails_with(&["nothing is known of `a`", "hint: only what was given"]);
    daemon.file("/pacman/core/x86_64/core.db");
    let name = repo.file_name("a")?;
    assert_eq!(
        daemon.file(&format!("/pacman/core/x86_64/{name}")),
        repo.bytes("a")?
    );
    let other = "other-1-1-any.pkg.tar.zst";
    assert_eq!(daemon.get(&format!("/pacman/core/x86_64/{other}")).status, 302);
    let told = until("the receipt is there", || {
        let ran = home.run(["why", "a", "--json"]);
        (ran.code == Some(0)).then(|| ran.json())
    });
    let host = upstream.url("").replace("http://", "");
    let host = host.trim_end_matches('/');
    let receipt = &told[0];
    assert_eq!(
        (&receipt["name"], &receipt["ended"]),
        (&name.clone().into(), &"given".into())
    );
    assert_eq!(receipt["bytes"]["upstream"], receipt["len"]);
    assert_eq!(receipt["givers"][0]["who"], host);
    let human = home.run(["why", &name]).done().out;
    for part in [
        &format!("{name}  given"),
        &format!("upstream {host}"),
        "in the database of repository core",
    ] {
        assert!(human.contains(part), "{part} is not in: {human}");
    }
    let human = home.run(["why", other]).done().out;
    for part in [
        &format!("{other}  sent to a mirror"),
        &upstream.url(other),
        "because  no database here names this package",
    ] {
        assert!(human.contains(part), "{part} is not in: {human}");
    }
    daemon.stop();
    assert_eq!(home.run(["why", "a", "--json"]).done().json(), told);
    home.run(["why", "b"]).fails_with(&["nothing is known of `b`"]);
    Ok(())
}
