//! The demo's steps, in order: what a user of two machines would do by hand.
//!
//! - Invariant: each step checks what it says; the first that does not hold ends the demo.
//! - Not here: the parts (the other files of this folder).

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use pacstore_node::Outcome;

use super::fallback;
use super::fetching::{Total, database, everything};
use super::line::Line;
use super::pacman::{self, Ran};
use super::report::{Say, rate, sources};
use super::repository::Sample;
use super::stage::{From, NAME, Stage};
use super::upstream::Upstream;
use super::{Args, client::Client};
use crate::printer::bytes;

/// Label of the importer's key.
const KEY: &str = "demo";

/// How long node 2 may take to have a new head: a connected client has it within 30 s.
const NEW_HEAD: Duration = Duration::from_secs(30);

/// All steps.
pub(super) async fn play(args: &Args, stage: &mut Stage, say: &mut Say<'_>) -> anyhow::Result<()> {
    let name = NAME.to_owned();
    say.summary.name = name;
    say.summary.repository.clone_from(&stage.repo);
    repository(args, stage, say).await?;
    importer(stage, say).await?;
    let tree = import(
        stage,
        say,
        "node 1 imports the repository over HTTP, checks and publishes it",
    )
    .await?;
    client(stage, say, &tree).await?;
    let big = largest(stage).await?;
    if matches!(stage.from, Some(From::Sample(_))) {
        fetch(stage, say, "everything through node 2's gateway", None).await?;
        update(stage, say).await?;
        let tree = import(stage, say, "node 1 imports again").await?;
        news(stage, say, &tree).await?;
        let big = largest(stage)
            .await?
            .context("the second state has no large package")?;
        fetch(
            stage,
            say,
            "everything again, but for the largest package",
            Some(&big.name),
        )
        .await?;
        fallback::play(stage, say, &big).await?;
    } else {
        let held_back = big.as_ref().map(|big| big.name.as_str());
        fetch(stage, say, "everything through node 2's gateway", held_back).await?;
        say.skip("the update, because this repository is not ours to change");
        match &big {
            Some(big) => fallback::play(stage, say, big).await?,
            None => say.skip("the kill in the middle of a file, because no package is large enough"),
        }
    }
    real_pacman(stage, say).await?;
    say.summary.server = Some(stage.server()?);
    say.summary.gateway = Some(format!("http://{}", stage.client.gateway()?));
    Ok(())
}

/// A package that is fetched while node 1 is killed.
#[derive(Debug)]
pub(super) struct Big {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) sha256: [u8; 32],
}

/// The largest package, if it is large enough to be interrupted.
async fn largest(stage: &Stage) -> anyhow::Result<Option<Big>> {
    let mut client = Client::new(stage.client.gateway()?, &stage.tasks);
    let (database, _) = database(stage, &mut client).await?;
    let sized = database.entries.iter().filter_map(|entry| {
        Some(Big {
            name: entry.filename.to_string(),
            len: entry.csize?,
            sha256: entry.sha256?,
        })
    });
    Ok(sized
        .max_by_key(|big| big.len)
        .filter(|big| big.len >= fallback::LEAST))
}

async fn repository(args: &Args, stage: &mut Stage, say: &mut Say<'_>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut said = Vec::new();
    let what = match args.upstream.as_deref() {
        None => {
            let folder = stage.dir.join("mirror");
            stage.folder = Some(folder.clone());
            let sample = stage
                .blocking(move || Sample::first(folder, SystemTime::now()))
                .await?;
            let (packages, size) = sample.size();
            said.push(format!(
                "repository `{}`: {packages} packages, {}, signed by {}",
                stage.repo,
                bytes(size),
                sample.public_key().1
            ));
            stage.from = Some(From::Sample(Box::new(sample)));
            "an ordinary mirror with a signed repository"
        }
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            stage.from = Some(From::Web);
            let slash = if url.ends_with('/') { "" } else { "/" };
            stage.url = format!("{url}{slash}");
            "somebody's mirror"
        }
        Some(dir) => {
            let folder = fs_err::canonicalize(Path::new(dir))?;
            if !folder.join(format!("{}.db", stage.repo)).is_file() {
                bail!("there is no {}.db in `{}`", stage.repo, folder.display());
            }
            stage.folder = Some(folder);
            stage.from = Some(From::Folder);
            "an ordinary mirror of your folder"
        }
    };
    if let Some(folder) = stage.folder.clone() {
        let upstream = Upstream::start(folder, &stage.tasks).await?;
        stage.url = upstream.url();
        stage.upstream = Some(upstream);
    }
    said.push(stage.url.clone());
    say.step(what, began.elapsed(), said);
    Ok(())
}

async fn importer(stage: &mut Stage, say: &mut Say<'_>) -> anyhow::Result<()> {
    let began = Instant::now();
    stage.key = stage.importer.new_key(KEY)?.name().to_string();
    let import = format!(
        "[[import]]\nmirror = \"{NAME}\"\nfrom = {}\nkey = \"{KEY}\"\nrepositories = {}\nevery = \"manual\"\n",
        toml::Value::from(vec![stage.url.clone()]),
        toml::Value::from(vec![format!("/{}", stage.repo)]),
    );
    stage.importer.configure(&[], &import)?;
    stage.importer.start().await?;
    say.summary.key = Some(stage.key.clone());
    let said = vec![
        format!("peer {}", stage.importer.peer_id()?),
        format!("publishes {NAME} under /ipns/{}", stage.key),
    ];
    say.step("node 1 starts, an importer", began.elapsed(), said);
    Ok(())
}

/// One round of node 1; the tree that it published.
async fn import(stage: &Stage, say: &mut Say<'_>, what: &str) -> anyhow::Result<String> {
    let (began, sent) = (Instant::now(), stage.upstream.as_ref().map(Upstream::sent));
    let node = stage.importer.node()?;
    let import = node.import(NAME).context("node 1 does not know its own import")?;
    let report = node.import_now(&import).await;
    if report.outcome != Outcome::Published {
        let problems = report
            .repositories
            .iter()
            .flat_map(|repository| &repository.problems);
        let all: Vec<&str> = report
            .error
            .iter()
            .chain(problems)
            .chain(&report.warnings)
            .map(String::as_str)
            .collect();
        bail!("the import ended {:?}: {}", report.outcome, all.join("; "));
    }
    let tree = report.tree.context("the published head has no tree")?;
    let mut said = vec![format!(
        "{} files, {}, as tree {tree}",
        report.files,
        bytes(report.bytes)
    )];
    if let (Some(upstream), Some(sent)) = (&stage.upstream, sent) {
        said.push(format!("read {} from the mirror", bytes(upstream.sent() - sent)));
    }
    say.summary.tree = Some(tree.clone());
    say.step(what, began.elapsed(), said);
    Ok(tree)
}

async fn client(stage: &mut Stage, say: &mut Say<'_>, tree: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    stage.line = Some(Line::start(stage.importer.swarm().await?, &stage.tasks).await?);
    let peer = stage.configure_client(&[])?;
    stage.client.start().await?;
    has_head(stage, tree).await?;
    let status = stage.client.mirror(NAME)?;
    let head = status.current().context("node 2 has no head")?;
    if let Some(arch) = head
        .head
        .repositories
        .first()
        .and_then(|repository| repository.arch.first())
    {
        stage.arch = arch.to_string();
    }
    let said = vec![
        format!(
            "peer {}, gateway http://{}",
            stage.client.peer_id()?,
            stage.client.gateway()?
        ),
        format!("its one peer: {peer}"),
        format!(
            "follows {NAME}: record, head {} and directories came from node 1",
            head.cid
        ),
    ];
    say.step(
        "node 2 starts, a client without any mirror",
        began.elapsed(),
        said,
    );
    Ok(())
}

async fn news(stage: &Stage, say: &mut Say<'_>, tree: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    has_head(stage, tree).await?;
    let said = vec![format!(
        "asked at once, as `pacstore resolve {NAME} --fresh` does; by itself it asks every 15 s"
    )];
    say.step("node 2 has the new head", began.elapsed(), said);
    Ok(())
}

/// Waits until node 2 serves `tree`.
async fn has_head(stage: &Stage, tree: &str) -> anyhow::Result<()> {
    let (node, mirror) = (stage.client.node()?, stage.client.mirror(NAME)?);
    let served = || {
        mirror
            .current()
            .is_some_and(|head| head.head.tree.to_string() == tree)
    };
    let waiting = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while !served() {
            tick.tick().await;
            if node.status(None).await.peers > 0 {
                node.refresh(&mirror).await;
            }
        }
    };
    if tokio::time::timeout(NEW_HEAD, waiting).await.is_err() {
        let error = node.summary(&mirror);
        bail!(
            "node 2 has no head with tree {tree} after {} s: {error:?}",
            NEW_HEAD.as_secs()
        );
    }
    Ok(())
}

async fn fetch(stage: &Stage, say: &mut Say<'_>, what: &str, except: Option<&str>) -> anyhow::Result<()> {
    let total = everything(stage, say, except).await?;
    let Total {
        files,
        bytes: all,
        took,
        ..
    } = total;
    let said = vec![
        format!(
            "{files} files (the database by two paths), {}, {}; slowest first byte {} ms",
            bytes(all),
            rate(all, took),
            total.slowest_first_byte.as_millis()
        ),
        format!("by their first source: {}", sources(total.by)),
        format!(
            "crossed the line between the nodes now: {}",
            bytes(total.over_the_line)
        ),
        "packages are what the database's SHA-256 says; databases and signatures are upstream's".to_owned(),
    ];
    if total.by.lan + total.by.peer == 0 {
        bail!("nothing came from node 1");
    }
    say.step(what, took, said);
    Ok(())
}

async fn update(stage: &mut Stage, say: &mut Say<'_>) -> anyhow::Result<()> {
    let began = Instant::now();
    let Some(From::Sample(mut sample)) = stage.from.take() else {
        bail!("only the demo's own repository is updated")
    };
    let sample = stage.blocking(move || sample.second().map(|()| sample)).await?;
    let (packages, size) = sample.size();
    stage.from = Some(From::Sample(sample));
    let said = vec![format!(
        "two packages upgraded, one new, one gone; now {packages}, {}",
        bytes(size)
    )];
    say.step("the mirror gets an update", began.elapsed(), said);
    Ok(())
}

async fn real_pacman(stage: &Stage, say: &mut Say<'_>) -> anyhow::Result<()> {
    let began = Instant::now();
    match pacman::run(stage).await? {
        Ran::Did(what) => {
            let what = what.join("; ");
            say.step(
                "the real pacman, in a throw-away root",
                began.elapsed(),
                vec![what.clone()],
            );
            say.summary.pacman = Some(what);
        }
        Ran::Not(why) => say.skip(&format!("the real pacman, because {why}")),
    }
    Ok(())
}
