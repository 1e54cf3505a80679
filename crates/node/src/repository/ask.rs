//! What pacman gets under `/pacman/REPO/ARCH/`.
//!
//! - Invariant: a database is as new as the mirrors' own, or pacman is sent to them; and if they do not answer it is
//!   the one that is here, while that is not too old.
//! - Invariant: pacman waits for no more than [`PATIENCE`], well under its ten seconds.
//! - Invariant: packages, signatures and file lists are those of the run's database; where that one is not known here, a
//!   mirror's, or those of the newest one after a look at the mirrors.
//! - Not here: how a file comes (`super::package`), how a mirror is read (`super::check`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cid::Cid;
use pacstore_dag as dag;
use pacstore_names::Layout;
use pacstore_pacman::{self as pacman, DbFileName, DbKind};
use pacstore_runtime::Pool;
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use super::check::{Outcome, Phase};
use super::index::{Index, Package};
use super::line::{Line, State, Stored};
use super::{MAX_AGE, PackageOf, Repository, plain};
use crate::fetch::{AskPeers, Sources};
use crate::giving::Against;
use crate::mirror::Mirror;
use crate::node::{Node, RepositoryIn};
use crate::runs::Asked;
use crate::serve::{Answer, AskError, Client, FileAnswer, Known, NAME_TTL, Redirect};

/// How long mirrors may take to answer at all, where something is here that can be given instead.
const ANSWER: Duration = Duration::from_secs(2);

/// How long pacman is kept waiting in all.
const PATIENCE: Duration = Duration::from_secs(8);

/// A package that no database here names makes us look for a newer one, unless that was done so lately.
const LOOKED: Duration = Duration::from_secs(10);

/// What a wait for the mirrors showed.
enum Waited {
    /// What is here is the newest, as far as can be known.
    Here,
    /// This mirror has something newer that does not become ours in time, and why.
    Coming(Url, &'static str),
    /// No mirror answered (in time); from these not a word came.
    Silence(Vec<Url>),
}

impl Node {
    /// What `client` gets for the file `name` of repository `repo` for `arch`.
    ///
    /// The first mirror whose head lists the repository answers; where it is too old, or there is none, the
    /// repository without importer does.
    ///
    /// # Errors
    /// [`AskError`] if what is on disk cannot be read.
    pub async fn ask_pacman(
        &self,
        client: Client,
        repo: &str,
        arch: &str,
        name: Vec<u8>,
    ) -> Result<Answer, AskError> {
        let own = self.inner.repositories.get(repo, arch);
        match (self.repository(repo, arch), own) {
            (RepositoryIn::One(mirror, folder), None) => {
                self.ask_mirror(client, &mirror, &folder, name).await
            }
            (RepositoryIn::One(mirror, folder), Some(own)) => {
                let parsed = std::str::from_utf8(&name).ok().and_then(DbFileName::parse);
                let database = parsed.is_some();
                // With a `.db` a run begins anew.
                let begins = parsed.is_some_and(|db| db.kind == DbKind::Db && !db.signature);
                let goes_on = !begins && self.inner.runs.begun(client, &own.run_name(&own.database));
                let stale = self.is_stale(&mirror, &folder, repo);
                if !(stale || goes_on) {
                    self.inner.runs.end(client, &own.run_name(&own.database));
                    return self.ask_mirror(client, &mirror, &folder, name).await;
                }
                match self.ask_repository(client, &own, &name).await? {
                    // The mirror may know packages that the repository never had.
                    Answer::Redirect(_) | Answer::NotFound(_) | Answer::NotNow(_)
                        if !database && !self.has_newer(client, &own) =>
                    {
                        self.ask_mirror(client, &mirror, &folder, name).await
                    }
                    answer => Ok(answer),
                }
            }
            (RepositoryIn::Several(mirror, folders), _) => Ok(several(repo, arch, &mirror, &folders)),
            (RepositoryIn::None, Some(own)) => self.ask_repository(client, &own, &name).await,
            (RepositoryIn::None, None) => Ok(self.headless(repo, arch, &name)),
        }
    }

    async fn ask_mirror(
        &self,
        client: Client,
        mirror: &Arc<Mirror>,
        folder: &str,
        name: Vec<u8>,
    ) -> Result<Answer, AskError> {
        let folders = folder.split('/').filter(|part| !part.is_empty());
        let mut path: Vec<Vec<u8>> = folders.map(|part| part.as_bytes().to_vec()).collect();
        path.push(name);
        self.ask(client, mirror, &path).await
    }

    /// The mirror's repository is over its age limit.
    fn is_stale(&self, mirror: &Mirror, folder: &str, repo: &str) -> bool {
        let Some(head) = mirror.current() else { return true };
        let now = self.inner.clock.now();
        let mut of_folder = head.head.in_folder(folder);
        of_folder.any(|one| one.name == repo && one.is_refused_at(now, head.head.max_age()))
    }

    /// Nobody here has it; a mirror without head may lead to its upstream, where the path can be known.
    fn headless(&self, repo: &str, arch: &str, name: &[u8]) -> Answer {
        let text = std::str::from_utf8(name).unwrap_or_default();
        let of_database = DbFileName::parse(text).is_some_and(|db| db.repo == repo && db.ending.is_empty());
        let plausible = (of_database || pacman::is_package_file(text)) && arch == "x86_64";
        let path = [repo.as_bytes().to_vec(), name.to_vec()];
        let mut headless = self
            .inner
            .mirrors
            .iter()
            .filter(|mirror| mirror.current().is_none());
        let url = headless.find_map(|mirror| {
            let layout = mirror.config.layout;
            let urls = (layout == Layout::Archlinux).then(|| self.ranked_urls(mirror, layout, &path));
            urls?.into_iter().next()
        });
        match url {
            Some(url) if plausible => {
                Answer::Redirect(Redirect::new(url, "no head of a mirror is known yet"))
            }
            _ => Answer::NotFound("no configured mirror has this repository".to_owned()),
        }
    }

    async fn ask_repository(
        &self,
        client: Client,
        repository: &Arc<Repository>,
        name: &[u8],
    ) -> Result<Answer, AskError> {
        let not_found = || Answer::NotFound("no such file in this repository".to_owned());
        let Ok(name) = std::str::from_utf8(name) else {
            return Ok(not_found());
        };
        match DbFileName::parse(name) {
            Some(db) if db.repo == repository.config.name && db.ending.is_empty() => {
                let line = match db.kind {
                    DbKind::Db => Arc::clone(&repository.database),
                    DbKind::Files => Arc::clone(&repository.files),
                };
                if db.signature {
                    self.signature_of(client, repository, &line).await
                } else {
                    self.database_of(client, repository, &line).await
                }
            }
            _ if pacman::is_package_file(name) => self.package_of(client, repository, name).await,
            _ => Ok(not_found()),
        }
    }

    /// The database, after a look at the mirrors.
    async fn database_of(
        &self,
        client: Client,
        repository: &Arc<Repository>,
        line: &Arc<Line>,
    ) -> Result<Answer, AskError> {
        let waited = self.wait(repository, line).await;
        let age = line.age(self.inner.clock.unix_seconds());
        let young = age.is_some_and(|age| age <= MAX_AGE);
        let asked = Asked::Database(line.name.clone().into_bytes());
        let run = repository.run_name(line);
        if young
            && !matches!(waited, Waited::Coming(..))
            && let Some(state) = line.current()
        {
            self.inner.runs.head(client, &run, &asked, state.id);
            return self
                .state_file(repository, line, &state, &line.name, state.database)
                .await;
        }
        // The signature has to come from there, too; and packages, as long as that one is not here.
        let marker = match &waited {
            Waited::Coming(..) => newer(),
            Waited::Here | Waited::Silence(_) => elsewhere(),
        };
        self.inner.runs.head(client, &run, &asked, marker);
        info!(
            repository = repository.config.name,
            file = line.name,
            "pacman goes to a mirror for a database"
        );
        Ok(match &waited {
            Waited::Coming(mirror, because) => lead(
                pacstore_upstream::url_of(mirror, line.name.as_bytes()).ok(),
                because,
                "no mirror gives this database",
            ),
            Waited::Here => lead_past(
                repository,
                &line.name,
                &[],
                "no mirror confirmed the one that is here",
            ),
            Waited::Silence(silent) => lead_past(repository, &line.name, silent, "no mirror answered"),
        })
    }

    /// The signature that belongs to the database which this client got.
    async fn signature_of(
        &self,
        client: Client,
        repository: &Arc<Repository>,
        line: &Arc<Line>,
    ) -> Result<Answer, AskError> {
        let name = format!("{}.sig", line.name);
        let asked = Asked::Signature(line.name.clone().into_bytes());
        let current = line.current();
        let newest = current.as_ref().map_or_else(elsewhere, |state| state.id);
        let chosen = self
            .inner
            .runs
            .head(client, &repository.run_name(line), &asked, newest);
        if chosen == elsewhere() || chosen == newer() {
            return Ok(lead(
                repository.urls(&name).into_iter().next(),
                "its database came from a mirror, too",
                "no mirror gives this signature",
            ));
        }
        let state = line
            .states()
            .into_iter()
            .find(|state| state.id == chosen)
            .or(current);
        match state.as_ref().and_then(|state| Some((state, state.signature?))) {
            Some((state, stored)) => self.state_file(repository, line, state, &name, stored).await,
            None => Ok(Answer::NotFound("this database is not signed".to_owned())),
        }
    }

    /// A file of a state, with the time that pacman is told for both of them.
    async fn state_file(
        &self,
        repository: &Repository,
        line: &Line,
        state: &Arc<State>,
        name: &str,
        stored: Stored,
    ) -> Result<Answer, AskError> {
        let told = self
            .told(repository.run_name(line), line.name.clone(), state)
            .await?;
        Ok(Answer::File(Box::new(FileAnswer {
            root: stored.root,
            len: stored.len,
            name: name.as_bytes().to_vec(),
            last_modified: Some(told),
            roots: vec![stored.root],
            ttl: Some(NAME_TTL),
            sources: Sources::default(),
            known: Known::Tree,
            against: Against::Pair(repository.config.name.clone()),
        })))
    }

    /// The time that pacman is told for both files of a state; written down before it is told first.
    async fn told(&self, place: String, path: String, state: &Arc<State>) -> Result<SystemTime, AskError> {
        let root = state.database.root;
        let signature = state.signature.map(|stored| stored.root);
        let times = &self.inner.times;
        if let Some(known) = times.known(&place, &path, &root, signature.as_ref()) {
            return Ok(known);
        }
        let (node, modified) = (self.clone(), state.modified);
        let told = self.inner.tasks.blocking(Pool::Disk, move || {
            let times = &node.inner.times;
            times.told(&place, &path, &root, signature.as_ref(), modified)
        });
        Ok(told.await.map_err(|_| AskError::Stopping)??)
    }

    /// Looks at the mirrors and waits for what they say, as long as that makes sense.
    async fn wait(&self, repository: &Arc<Repository>, line: &Arc<Line>) -> Waited {
        let began = Instant::now();
        let flight = self.look(repository, line);
        let mut phase = flight.phase.subscribe();
        let now = self.inner.clock.unix_seconds();
        let here = line.age(now).is_some_and(|age| age <= MAX_AGE);
        loop {
            let at = phase.borrow_and_update().clone();
            let until = match &at {
                Phase::Over(Outcome::Confirmed | Outcome::New | Outcome::Behind) => return Waited::Here,
                Phase::Over(Outcome::Failed) => {
                    return match flight.unkept() {
                        Some(mirror) => {
                            Waited::Coming(mirror.clone(), "a newer database cannot be kept here")
                        }
                        None => Waited::Silence(flight.silent()),
                    };
                }
                Phase::Asking if here => began + ANSWER,
                Phase::Asking | Phase::Receiving(_) => began + PATIENCE,
            };
            match tokio::time::timeout_at(until, phase.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Waited::Silence(flight.silent()),
                Err(_) => {
                    return match at {
                        Phase::Receiving(mirror) => {
                            Waited::Coming(mirror, "a newer database does not come in time")
                        }
                        Phase::Asking | Phase::Over(_) => Waited::Silence(flight.silent()),
                    };
                }
            }
        }
    }

    /// A package or its signature.
    async fn package_of(
        &self,
        client: Client,
        repository: &Arc<Repository>,
        name: &str,
    ) -> Result<Answer, AskError> {
        let began = Instant::now();
        let signature = name.strip_suffix(".sig");
        let file = signature.unwrap_or(name);
        if let Some(because) = self.is_ahead_of_us(client, repository).await? {
            self.inner.repositories.redirected.put(file, None);
            let url = repository.urls(name).into_iter().next();
            return Ok(lead(url, because, "no mirror gives it"));
        }
        let mut found = self.find(client, repository, file).await?;
        let line = &repository.database;
        let mut silent = Vec::new();
        if found.is_none() {
            let age = line.age(self.inner.clock.unix_seconds());
            if age.is_none_or(|age| LOOKED <= age) {
                if let Waited::Silence(mirrors) = self.wait(repository, line).await {
                    silent = mirrors;
                }
                found = self.find(client, repository, file).await?;
            }
        }
        let Some((state, package)) = found else {
            let answer = lead_past(repository, name, &silent, "no database here names this package");
            if matches!(answer, Answer::Redirect(_)) {
                self.inner.repositories.redirected.put(file, None);
            }
            return Ok(answer);
        };
        if signature.is_some() {
            return self.signature_answer(repository, &state, name, &package).await;
        }
        let small = package.len <= pacstore_dag::MAX_CHUNK.min(super::package::ONE_LEAF);
        let (root, sha256) = (dag::cid_from_sha256(package.sha256), package.sha256);
        Ok(Answer::File(Box::new(FileAnswer {
            root,
            len: package.len,
            name: name.as_bytes().to_vec(),
            last_modified: None,
            roots: Vec::new(),
            ttl: Some(NAME_TTL),
            sources: Sources {
                len: small.then_some(package.len),
                profile: None,
                peers: if repository.config.public {
                    AskPeers::Everyone
                } else {
                    AskPeers::Nobody
                },
                upstreams: repository.urls(name),
            },
            known: Known::Package(Arc::new(PackageOf {
                repository: Arc::clone(repository),
                name: name.to_owned(),
                sha256,
                entry: package,
                state,
                small,
                patience: super::hold::PATIENCE.saturating_sub(began.elapsed()),
                holds: None,
            })),
            against: Against::Database(repository.config.name.clone(), sha256),
        })))
    }

    /// Why what is here says nothing of the packages of this client: its database came from a mirror, and may name other
    /// bytes under the same names. Where nothing is known of its database, a newer one is looked for first.
    async fn is_ahead_of_us(
        &self,
        client: Client,
        repository: &Arc<Repository>,
    ) -> Result<Option<&'static str>, AskError> {
        let line = &repository.database;
        let Some(current) = line.current() else {
            return Ok(None);
        };
        if self.has_newer(client, repository) {
            return Ok(Some("its database came from a mirror, too"));
        }
        let place = repository.run_name(line);
        if self.inner.runs.begun(client, &place) {
            return Ok(None);
        }
        let age = line.age(self.inner.clock.unix_seconds());
        // What somebody got here is what pacman has, as far as we know; who never asks has it from elsewhere.
        if age.is_some_and(|age| age < LOOKED) || self.was_told(place, line.name.clone(), &current).await? {
            return Ok(None);
        }
        let last = line.last_look().filter(|look| look.failed_within(LOOKED));
        let look = last.unwrap_or_else(|| self.look(repository, line));
        let mut phase = look.phase.subscribe();
        // However many packages are asked for: a look that takes longer is waited for no more.
        let over = phase.wait_for(|phase| matches!(phase, Phase::Over(_)));
        let _ = tokio::time::timeout_at(look.began + ANSWER, over).await;
        let at = look.phase.borrow().clone();
        Ok(match at {
            Phase::Receiving(_) => Some("a newer database does not come in time"),
            Phase::Over(Outcome::Failed) if look.unkept().is_some() => {
                Some("a newer database cannot be kept here")
            }
            Phase::Asking | Phase::Over(_) => None,
        })
    }

    /// This client was sent to a mirror for a newer database, and none has come in since.
    fn has_newer(&self, client: Client, repository: &Repository) -> bool {
        let line = &repository.database;
        let run = self.inner.runs.run(client, &repository.run_name(line));
        run.is_some_and(|(head, since)| head == newer() && !line.is_confirmed_since(since))
    }

    async fn was_told(&self, place: String, path: String, state: &Arc<State>) -> Result<bool, AskError> {
        let (root, signature) = (state.database.root, state.signature.map(|stored| stored.root));
        let node = self.clone();
        let told = self.inner.tasks.blocking(Pool::Disk, move || {
            node.inner
                .times
                .was_told(&place, &path, &root, signature.as_ref())
        });
        Ok(told.await.map_err(|_| AskError::Stopping)??)
    }

    /// The package by the run's database, else by the newest that has it.
    async fn find(
        &self,
        client: Client,
        repository: &Repository,
        file: &str,
    ) -> Result<Option<(Arc<State>, Package)>, AskError> {
        let line = &repository.database;
        let Some(current) = line.current() else {
            return Ok(None);
        };
        let run = repository.run_name(line);
        let chosen = self.inner.runs.head(client, &run, &Asked::Other, current.id);
        let mut states = line.states();
        states.sort_by_key(|state| state.id != chosen);
        for state in states {
            if let Some(package) = self.index(&state).await?.get(file) {
                return Ok(Some((state, package)));
            }
        }
        Ok(None)
    }

    /// What the database of `state` names; read anew if nobody asked for a while.
    pub(super) async fn index(&self, state: &Arc<State>) -> Result<Arc<Index>, AskError> {
        if let Some(index) = state.index.get() {
            return Ok(index);
        }
        // One reader at a time: the others find it made.
        let _one = self.inner.repositories.reading.lock().await;
        if let Some(index) = state.index.get() {
            return Ok(index);
        }
        let packed = self.read_all(&state.database.root).await?;
        let read = self
            .inner
            .tasks
            .blocking(Pool::Hash, move || Index::read(&packed));
        let index = match read.await.map_err(|_| AskError::Stopping)? {
            Ok(index) => Arc::new(index),
            // It was read when it came in.
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "a stored database cannot be read any more"
                );
                Arc::new(Index::default())
            }
        };
        state.index.put(Arc::clone(&index));
        Ok(index)
    }
}

/// Marks a run whose database came from a mirror.
fn elsewhere() -> Cid {
    dag::raw_cid(dag::HashKind::Sha2_256, b"elsewhere")
}

/// The same where that mirror has a newer one than we have.
fn newer() -> Cid {
    dag::raw_cid(dag::HashKind::Sha2_256, b"newer")
}

/// To a mirror, if there is one.
fn lead(url: Option<Url>, because: &'static str, else_why: &str) -> Answer {
    url.map_or_else(
        || Answer::NotFound(else_why.to_owned()),
        |url| Answer::Redirect(Redirect::new(plain(&url), because)),
    )
}

/// To the first mirror that was not just `silent`. pacman would wait ten seconds there, for nothing, before its next Server.
fn lead_past(repository: &Repository, name: &str, silent: &[Url], because: &'static str) -> Answer {
    let mirrors = repository.mirrors();
    match mirrors.iter().find(|mirror| !silent.contains(mirror)) {
        None if !mirrors.is_empty() => Answer::NotNow("its mirrors do not answer"),
        mirror => lead(
            mirror.and_then(|mirror| pacstore_upstream::url_of(mirror, name.as_bytes()).ok()),
            because,
            "no mirror gives it",
        ),
    }
}

fn several(repo: &str, arch: &str, mirror: &str, folders: &[String]) -> Answer {
    let lines: Vec<String> = folders
        .iter()
        .map(|folder| format!("/ipns/{mirror}/{folder}"))
        .collect();
    warn!(repo, arch, use_one_of = ?lines, "the mirror has this repository in several folders");
    Answer::NotFound(format!(
        "{repo} is in several folders; use one of {}",
        lines.join(" ")
    ))
}
