//! Which upstream a round reads: stamp first, the next one after a failure, the tree never back in time.
//!
//! - Invariant: a tree is made of what one upstream has; of what another left behind only files count that a
//!   database vouches for by digest (`crate::module`).
//! - Invariant: where there are several upstreams, none moves the tree to an older state (`crate::older`), unless
//!   nothing newer could be had for a day, all of them have been older for half an hour, or a person accepts it.
//! - Not here: reading one upstream (`crate::round`), what is remembered of them (`crate::upstreams`).
//! - Read first: [`Importer::round`].

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use pacstore_runtime::{Pool, deadline};
use pacstore_upstream::{Get, HttpError, IfRangeIgnored, ListSpec, Rsync, url_of};
use tracing::warn;

use crate::error::{IntakeError, RoundError, SourceError};
use crate::progress::{Progress, Step};
use crate::report::Round;
use crate::repos::Repo;
use crate::round::{Failed, Importer, Looked, Older, Torn, Try};
use crate::scan::Root;
use crate::spec::Source;
use crate::stamp::{Answer, Asker, ChangeStamp};
use crate::stamped::{Seen, told};
use crate::state::State;
use crate::upstreams::Times;

/// The longest time that an upstream which is not read may take to say how new it is.
const HOW_NEW: Duration = Duration::from_secs(20);
/// Upstreams that are asked for it at once.
const AT_ONCE: usize = 4;

/// What a stamp says of a round that is to begin.
enum First {
    /// Nothing changed.
    Holds(Box<Round>),
    /// A look is due. With the stamp before it, and what people should know of the stamp.
    Look(Option<ChangeStamp>, Option<String>),
}

impl Importer {
    /// Reads an upstream and gives the tree of its state.
    ///
    /// Where the upstream's change stamp says that nothing happened, this may be what the last round gave, with
    /// nothing `checked` and 0 passes; see [`Importer::look`].
    ///
    /// Dropping the future loses nothing that the next round could not do again; what is in the store stays.
    ///
    /// # Errors
    /// [`RoundError`]; the tree of the last round stays as it is.
    pub async fn round(&mut self, progress: &Progress) -> Result<Round, RoundError> {
        progress.begin(Step::Looking, 0, 0);
        let state = self.prepare().await?;
        self.time_passed();
        self.ask_how_new(state.as_ref(), progress).await;
        let chosen = Box::pin(self.choose(state.as_ref(), progress)).await;
        self.remember().await;
        progress.begin(Step::Idle, 0, 0);
        let round = chosen?;
        self.accept = false;
        self.look = false;
        Ok(round)
    }

    async fn choose(&mut self, state: Option<&Arc<State>>, progress: &Progress) -> Result<Round, RoundError> {
        let plan = Arc::clone(&self.plan);
        let from = &plan.spec.from;
        let order = self.upstreams.order(from, self.clock.unix_seconds());
        let order: Vec<&Source> = order.into_iter().filter_map(|at| from.get(at)).collect();
        let (mut attempts, mut empty, mut torn) = (Vec::new(), None, None);
        for (nth, source) in order.iter().copied().enumerate() {
            let now = self.clock.unix_seconds();
            if torn.is_some() && !self.upstreams.may_be_whole(source, now) {
                continue;
            }
            progress.source(&source.to_string(), 0);
            let (stamp, odd) = match self.stamp_first(source, state).await {
                First::Holds(round) => return Ok(*round),
                First::Look(stamp, odd) => (stamp, odd),
            };
            let mut others = order.iter().skip(nth + 1);
            let one_more = torn.is_some() || others.any(|other| self.upstreams.may_be_whole(other, now));
            let how = Try {
                stamp,
                torn: if one_more { Torn::Refused } else { Torn::Kept },
                older: self.older(source, state),
            };
            let error = match self.bounded(source, how, state, progress).await? {
                Ok(looked) => return Ok(self.looked(looked, odd, &attempts)),
                Err(Failed::Torn) => {
                    self.upstreams.torn(source, now);
                    torn.get_or_insert((source, odd));
                    continue;
                }
                Err(Failed::Round(error @ (RoundError::NoDatabase { .. } | RoundError::Emptied { .. }))) => {
                    self.upstreams.failed(source, now);
                    empty.get_or_insert(error);
                    continue;
                }
                Err(Failed::Round(error)) => return Err(error),
                Err(Failed::Source(error)) => error,
            };
            let ends = error.is_ours();
            warn!(mirror = plan.spec.mirror, %source, error = &error as &dyn std::error::Error, "source cannot be read");
            match error {
                SourceError::Older { .. } => {
                    self.time_passed();
                    self.upstreams.older(source, now);
                }
                _ if ends => {}
                _ => self.upstreams.failed(source, now),
            }
            attempts.push((source.clone(), error));
            if ends {
                break;
            }
        }
        // None has all of it whole: what is whole moves.
        if let Some((source, odd)) = torn {
            let how = Try {
                stamp: None,
                torn: Torn::Kept,
                older: self.older(source, state),
            };
            match self.bounded(source, how, state, progress).await? {
                Ok(looked) => return Ok(self.looked(looked, odd, &attempts)),
                Err(Failed::Round(error)) => return Err(error),
                Err(Failed::Source(error)) => attempts.push((source.clone(), error)),
                Err(Failed::Torn) => {}
            }
        }
        let mirror = plan.spec.mirror.clone();
        match empty {
            Some(error) if attempts.is_empty() => Err(error),
            _ => Err(RoundError::NoSource { mirror, attempts }),
        }
    }

    /// One try, ended where it takes too long, or where all ends.
    async fn bounded(
        &self,
        source: &Source,
        how: Try,
        state: Option<&Arc<State>>,
        progress: &Progress,
    ) -> Result<Result<Looked, Failed>, RoundError> {
        let attempt = deadline(
            "reading the source",
            self.plan.spec.limits.source,
            Box::pin(self.attempt(source, how, state, progress)),
        );
        match self.tasks.stop().run_until_cancelled(attempt).await {
            Some(Ok(done)) => Ok(done),
            Some(Err(late)) => Ok(Err(Failed::Source(late.into()))),
            None => Err(IntakeError::Stopped.into()),
        }
    }

    /// Whether an older state than the tree's may be taken from here.
    fn older(&self, source: &Source, state: Option<&Arc<State>>) -> Older {
        let from = &self.plan.spec.from;
        let configured = |state: &Arc<State>| {
            // A source that is not configured any more was left on purpose.
            from.iter().any(|one| one.to_string() == state.source)
        };
        let others = 1 < from.len() && state.is_some_and(configured);
        if others && !self.accept && !self.upstreams.is_older_for_good(source, from) {
            Older::Refused
        } else {
            Older::Taken
        }
    }

    /// Counts what passed since the last time for upstreams that are behind.
    fn time_passed(&mut self) {
        let passed = self.behind.passed();
        self.upstreams.pass(&passed, self.clock.unix_seconds());
        self.behind.written(&passed);
    }

    /// What is remembered of a look that went well.
    ///
    /// `attempts`: the sources that were tried before it in this round.
    fn looked(&mut self, looked: Looked, odd: Option<String>, attempts: &[(Source, SourceError)]) -> Round {
        let now = self.clock.unix_seconds();
        let Looked {
            mut round,
            stamp,
            rate,
        } = looked;
        let databases = round
            .repositories
            .iter()
            .filter_map(|repo| repo.times.newest_database());
        let times = Times {
            stamp: stamp.as_ref().and_then(|(stamp, _)| stamp.time()),
            database: databases.max(),
        };
        if 1 < self.plan.spec.from.len() {
            self.upstreams.worked(&round.source, rate, now);
            self.upstreams.told(&round.source, times, now);
        }
        let sure = stamp.and_then(|(stamp, held_still)| held_still.then_some(stamp));
        self.seen = Seen::new(&round, sure, now);
        let behind = attempts
            .iter()
            .filter(|(_, error)| matches!(error, SourceError::Older { .. }));
        let left_out = behind.map(|(source, error)| format!("{source} is left out of this round: {error}"));
        round.warnings.extend(odd.into_iter().chain(left_out));
        round
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            http: &self.http,
            rsync: &self.rsync,
            tasks: &self.tasks,
            limits: &self.plan.spec.limits,
            folder: &self.rsync_dir,
        }
    }

    /// The stamp of a source now; nothing if it has none, or what came is none.
    pub(crate) async fn stamp(&self, source: &Source) -> Option<ChangeStamp> {
        match self
            .asker()
            .ask(self.plan.spec.stamp_of(source)?, source, None)
            .await
        {
            Answer::Here(stamp) => Some(stamp),
            Answer::Same | Answer::Absent | Answer::Odd(_) | Answer::Away(_) => None,
        }
    }

    async fn stamp_first(&mut self, source: &Source, state: Option<&Arc<State>>) -> First {
        let Some(stamp) = self.plan.spec.stamp_of(source) else {
            return First::Look(None, None);
        };
        let known = self.seen.as_ref().and_then(|seen| seen.stamp_of(source)).cloned();
        let answer = self.asker().ask(stamp, source, known.as_ref()).await;
        // An odd one is a warning of the round.
        if let Answer::Away(why) = &answer {
            warn!(mirror = self.plan.spec.mirror, %source, why, "the change stamp cannot be asked for");
        }
        let tree = state.and_then(|state| state.tree());
        if !self.look
            && let Some(seen) = &mut self.seen
            && let Some(round) = seen.still_holds(source, &answer, self.clock.unix_seconds())
            && Some(round.tree) == tree
        {
            return First::Holds(Box::new(round));
        }
        let odd = told(&answer);
        match answer {
            Answer::Here(stamp) => First::Look(Some(stamp), odd),
            // What comes in its place is no change, so the one that is known stands.
            Answer::Same | Answer::Odd(_) => First::Look(known, odd),
            Answer::Absent | Answer::Away(_) => First::Look(None, odd),
        }
    }

    /// Where there is a choice: how new each upstream is, if that has not been asked for a while.
    async fn ask_how_new(&mut self, state: Option<&Arc<State>>, progress: &Progress) {
        let plan = Arc::clone(&self.plan);
        let from = &plan.spec.from;
        if from.len() < 2 {
            return;
        }
        let due = self.upstreams.to_ask(from, self.clock.unix_seconds());
        // In boxes: as one nameless type the compiler would not see that it may cross threads.
        let mut asks: Vec<BoxFuture<'_, Times>> = Vec::with_capacity(due.len());
        let sources: Vec<&Source> = due.into_iter().filter_map(|at| from.get(at)).collect();
        if !sources.is_empty() {
            progress.source("", 0);
        }
        for source in &sources {
            let asked = tokio::time::timeout(HOW_NEW, self.how_new(source, state));
            asks.push(asked.map(Result::unwrap_or_default).boxed());
        }
        let asked = stream::iter(asks).buffered(AT_ONCE).collect::<Vec<Times>>();
        let Some(asked) = self.tasks.stop().run_until_cancelled(asked).await else {
            return;
        };
        let now = self.clock.unix_seconds();
        for (source, times) in sources.into_iter().zip(asked) {
            self.upstreams.told(source, times, now);
        }
    }

    async fn how_new(&self, source: &Source, state: Option<&Arc<State>>) -> Times {
        let stamp = self.stamp(source).await;
        let newest = state.and_then(|state| {
            let all = state.repositories.iter();
            let newest = all.max_by_key(|kept| kept.times.newest_database())?;
            Some(Repo {
                folder: newest.folder.clone(),
                name: newest.name.clone(),
            })
        });
        let listed = self.plan.compiled.listed.iter().flatten().next();
        let repo = newest.or_else(|| {
            listed.map(|wanted| Repo {
                folder: wanted.folder.clone(),
                name: wanted.name.clone(),
            })
        });
        let database = match repo {
            Some(repo) => {
                self.time_of(source, repo.path(&format!("{}.db", repo.name)))
                    .await
            }
            None => None,
        };
        Times {
            stamp: stamp.as_ref().and_then(ChangeStamp::time),
            database,
        }
    }

    /// When a source says that one of its files was written; the file itself is not fetched.
    async fn time_of(&self, source: &Source, path: Vec<u8>) -> Option<u64> {
        let time = match source {
            Source::Directory(folder) => {
                let folder = folder.clone();
                let stamp = move || Some(Root::open(&folder).ok()?.open_file(&path).ok()?.1);
                let stamp = self.tasks.blocking(Pool::Disk, stamp).await.ok()??;
                return u64::try_from(stamp.seconds()?).ok();
            }
            Source::Http(base) => {
                let url = url_of(base, &path).ok()?;
                let mut get = Get::new(&url);
                get.range = Some(0..1);
                get.if_range_ignored = IfRangeIgnored::Stream;
                get.deadline = Some(HOW_NEW);
                let answer: Result<_, HttpError> = self.http.get(&get).await;
                answer.ok()?.last_modified?
            }
            Source::Rsync(url) => {
                let file = format!("{url}{}", String::from_utf8(path).ok()?);
                let mut spec = ListSpec::new(&file);
                (spec.max_entries, spec.deadline) = (2, HOW_NEW);
                spec.stop = self.tasks.stop().child_token();
                let rsync = Rsync::new(self.rsync.clone(), self.tasks.clone());
                rsync.list(&spec).await.ok()?.entries.first()?.mtime
            }
        };
        time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    /// Keeps what was seen of the upstreams over a restart.
    async fn remember(&mut self) {
        let (Some(manifest), true) = (self.manifest.clone(), self.upstreams != self.upstreams_kept) else {
            return;
        };
        let bytes = self.upstreams.encode();
        let written = self
            .tasks
            .blocking(Pool::Disk, move || manifest.note_upstreams(&bytes))
            .await;
        match written {
            Ok(Ok(())) => self.upstreams_kept = self.upstreams.clone(),
            Ok(Err(error)) => {
                warn!(
                    mirror = self.plan.spec.mirror,
                    error = &error as &dyn std::error::Error,
                    "cannot remember what was seen of the sources"
                );
            }
            Err(_) => {}
        }
    }
}
