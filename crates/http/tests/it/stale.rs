//! Databases that are too old, as pacman sees it.

use std::time::{Duration, SystemTime};

use pacstore_import::Files;
use pacstore_runtime::Clock;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::client::serve;
use crate::nodes::{NAME, Plan};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_database_over_its_age_is_never_not_modified() -> TestResult {
    for with_mirror in [false, true] {
        let dir = tempfile::tempdir()?;
        let repo = Repo::create(dir.path(), RepoSpec::new("core").package("zlib", 9_000))?;
        let mirror = Upstream::folder(dir.path())?;
        let (clock, hand) = Clock::fake(SystemTime::now());
        let mut plan = Plan::importer(dir.path(), Files::Listed).clock(&clock);
        if with_mirror {
            plan = plan.upstream(&mirror);
        }
        let importer = plan.start().await;
        importer.import().await;
        let served = serve(importer).await;
        let db = format!("/ipns/{NAME}/core.db");
        let fresh = served.get(&db, &[]).await;
        let since = format!("If-Modified-Since: {}", fresh.header("last-modified"));
        assert_eq!(served.get(&db, &[&since]).await.status, 304);
        hand.advance(25 * HOUR);
        for name in ["core.db", "core.db.sig", "core.files", "core.files.sig"] {
            for headers in [vec![], vec![&*since], vec!["If-None-Match: *"]] {
                let old = served.get(&format!("/ipns/{NAME}/{name}"), &headers).await;
                if with_mirror {
                    assert_eq!(
                        (old.status, old.header("location")),
                        (302, &*mirror.url(name)),
                        "{headers:?}"
                    );
                } else {
                    assert_eq!(old.status, 404, "{name} {headers:?}");
                }
            }
        }
        let package = served
            .get(&format!("/ipns/{NAME}/{}", repo.file_name("zlib")?), &[])
            .await;
        assert_eq!(package.status, 200, "packages have no age");
        served.node.import().await;
        assert_eq!(
            served.get(&db, &[]).await.status,
            200,
            "checked again, given again"
        );
    }
    Ok(())
}
