//! A repository without importer over HTTP, as pacman asks for it.

use pacstore_node::config::RepositoryConfig;
use pacstore_testkit::{Fault, Repo, RepoSpec, TestResult, Upstream};

use crate::client::{Served, serve};
use crate::nodes::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_importer_is_given_or_leads_to_its_mirror() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("fine", 2_000_000)
        .package("slow", 2_500_000);
    let repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    mirror.fault("slow-*.zst", Fault::Slow(50_000));
    let mut plan = Plan::new();
    plan.config.repositories.push(core(&mirror));
    let served = serve(plan.start().await).await;
    let database = served.get("/pacman/core/x86_64/core.db", &[]).await;
    assert_eq!(database.status, 200);
    let time = database.header("last-modified").to_owned();
    let home = served.get("/", &[]).await;
    assert!(
        home.text().contains("core x86_64</td><td>current</td>"),
        "{}",
        home.text()
    );
    let again = served
        .get(
            "/pacman/core/x86_64/core.db",
            &[&format!("If-Modified-Since: {time}")],
        )
        .await;
    assert_eq!(again.status, 304);
    let name = repo.file_name("fine")?;
    let package = served.get(&format!("/pacman/core/x86_64/{name}"), &[]).await;
    assert!(package.status == 200 && package.body == repo.bytes("fine")?);
    let rest = served
        .get(&format!("/pacman/core/x86_64/{name}"), &["Range: bytes=1500000-"])
        .await;
    assert!(rest.status == 206 && rest.body == repo.bytes("fine")?[1_500_000..]);
    let name = repo.file_name("slow")?;
    let sent = served.get(&format!("/pacman/core/x86_64/{name}"), &[]).await;
    assert_eq!((sent.status, sent.header("location")), (302, &*mirror.url(&name)));
    assert_eq!(served.get("/pacman/core/x86_64/nothing", &[]).await.status, 404);
    Ok(())
}

/// By redirects to ourselves, each before pacman gives up; whatever somebody writes into them, they come to an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_neighbours_want_it_too_pacman_is_held_by_redirects() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("slow", 4_500_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let mut served: Vec<Served> = Vec::new();
    for _ in 0..2 {
        let mut plan = Plan::new();
        plan.config.repositories.push(core(&mirror));
        plan.config.repositories[0].public = true;
        for other in &served {
            plan.config.swarm.peers.push(other.node.address().await);
        }
        served.push(serve(plan.start().await).await);
    }
    for one in &served {
        one.node.connected().await;
        assert_eq!(one.get("/pacman/core/x86_64/core.db", &[]).await.status, 200);
    }
    mirror.limit(Some(400_000));
    let path = format!("/pacman/core/x86_64/{}", repo.file_name("slow")?);
    let range = ["Range: bytes=4000000-"];
    let asked = served.iter().zip([&[][..], &range]).map(async |(one, more)| {
        let mut at = path.clone();
        for held in 1..=7 {
            let reply = one.get(&at, more).await;
            if reply.status != 302 {
                return (reply, held);
            }
            at = reply.header("location").to_owned();
            assert_eq!(at, format!("{path}?held={held}"));
        }
        panic!("held for ever")
    });
    // What is held for the last time is not held again, but given once it is here.
    let used_up = format!("{path}?held=250");
    let last = served[0].get(&used_up, &[]);
    let (replies, last) = futures::future::join(futures::future::join_all(asked), last).await;
    let bytes = repo.bytes("slow")?;
    assert_eq!(
        (last.status, last.header("location")),
        (302, &*mirror.url(&repo.file_name("slow")?))
    );
    for ((reply, held), (status, start)) in replies.iter().zip([(200, 0), (206, 4_000_000)]) {
        assert!(1 < *held && reply.status == status && reply.body == bytes[start..]);
    }
    let head = served[0].ask("HEAD", &format!("{path}?held=junk"), &[]).await;
    assert_eq!(head.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_no_mirror_answers_for_lets_pacman_go_on_to_its_next_server() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    mirror.fault("*", Fault::NoAnswer);
    let mut plan = Plan::new();
    plan.config.repositories.push(core(&mirror));
    let served = serve(plan.start().await).await;
    let answer = served.get("/pacman/core/x86_64/core.db", &[]).await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_eq!(answer.header("location"), "");
    Ok(())
}

fn core(mirror: &Upstream) -> RepositoryConfig {
    RepositoryConfig {
        name: "core".to_owned(),
        arch: "x86_64".to_owned(),
        upstreams: vec![mirror.url("").parse().expect("a mirror's URL")],
        public: false,
        keyring: None,
    }
}
