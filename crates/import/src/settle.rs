//! From a checked pass to a tree: who moves, what stays, and what is remembered.
//!
//! - Invariant: a region that is torn or held keeps exactly the rows that it had.
//! - Not here: checking (`crate::work`), building and committing (`crate::build`).
//! - Read first: design.md, "Head".

use std::sync::Arc;

use cid::Cid;
use pacstore_dag::Profile;

use crate::build::{Build, Labels, Outcome};
use crate::doubt::Doubts;
use crate::error::IntakeError;
use crate::intake::Intakes;
use crate::judge::{Verdict, judge};
use crate::names;
use crate::repos::{self, Repo};
use crate::round::Older;
use crate::stamp::ChangeStamp;
use crate::state::{Alarm, DatabaseTimes, Kept, RegionMark, RepoFacts, RepoState, State};
use crate::tree::{Difference, Row, Rows};
use crate::trouble::Trouble;
use crate::view::Item;
use crate::work::{AllOpened, Checked, Work};

/// Warnings that are kept of one round.
const MAX_WARNINGS: usize = 100;

/// What a pass came to.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) repositories: Vec<RepoFacts>,
    pub(crate) warnings: Vec<String>,
    pub(crate) alarms: Vec<Alarm>,
    /// Nothing: no repository is whole.
    pub(crate) outcome: Option<Outcome>,
}

impl Work {
    /// Judges, builds and commits, on a thread where it may block.
    ///
    /// `stable`: whether a second look showed the same, so that what is whole can be known again by its stamps.
    /// `older`: what is done with another tree than the last one if it is older.
    pub(crate) fn settle(
        mut self,
        opened: &AllOpened,
        (checked, doubts): (Checked, Doubts),
        (stable, older): (bool, Older),
        (intakes, labels, source): (&Intakes, &Labels, String),
    ) -> Result<Settled, IntakeError> {
        let stopped = |(number, troubles): (usize, &Vec<Trouble>)| {
            !troubles.is_empty() || doubts.held.get(number).is_some_and(|held| !held.is_empty())
        };
        let torn: Vec<bool> = checked.troubles.iter().enumerate().map(stopped).collect();
        let verdicts = judge(&self.look, &torn, &self.plan.spec.atomic);
        let (repositories, kept) = self.results(opened, (&checked.troubles, &doubts), &verdicts);
        let mut warnings = self.warnings(&checked.loose);
        warnings.extend(doubts.warnings);
        let mut alarms = doubts.alarms;
        alarms.extend(self.alarms(&repositories));
        let whole = repositories
            .iter()
            .filter(|r| r.state == RepoState::Whole)
            .count();
        if whole == 0 && !repositories.is_empty() {
            return Ok(Settled {
                repositories,
                warnings,
                alarms,
                outcome: None,
            });
        }
        let stays = self.stays(&verdicts);
        let rows = self.rows_that_move(checked.rows, &stays);
        let marks = self.marks(&stays, stable, checked.loose.is_empty());
        let forget = intakes.manifest.stale(|path| {
            let stays = stays
                .get(self.look.slot(self.look.region(path)))
                .copied()
                .unwrap_or_default();
            // A name without bytes says nothing of what was there.
            !stays && !matches!(self.view.get(path), Some(Item::File { .. }))
        })?;
        let spec = &self.plan.spec;
        let stamp = self.stamp.as_ref().and_then(ChangeStamp::written_time);
        let newest_other = self.newest_other();
        let behind = self.behind(opened, older, intakes.now);
        // What the source has is in the rows by now.
        self.view = Arc::default();
        let finish = |tree: &Cid, difference: &Difference| {
            let mut state = State::new(tree, spec.fingerprint(), profile_key(&spec.profile));
            (state.repositories, state.marks, state.source) = (kept, marks, source);
            (state.files, state.bytes) = (difference.files, difference.bytes);
            (state.stamp, state.newest_other) = (stamp, newest_other);
            (state, forget)
        };
        let build = Build {
            profile: spec.profile,
            store: intakes.store.clone(),
            manifest: Arc::clone(&intakes.manifest),
            labels: labels.clone(),
        };
        let loose = self.look.regions.len();
        let stay = |region: Option<usize>| stays.get(region.unwrap_or(loose)).copied().unwrap_or_default();
        let outcome = build.run(
            (rows, behind),
            &self.look.regions,
            stay,
            self.state.as_deref(),
            finish,
        )?;
        if let Outcome::Built(built) = &outcome
            && let Some((first, count)) = &built.replaced
        {
            alarms.push(Alarm::OtherBytes {
                first: names::show(first),
                count: *count,
            });
        }
        if whole == repositories.len() && matches!(outcome, Outcome::Built(_)) {
            build.store.release(&labels.pending)?;
        }
        Ok(Settled {
            repositories,
            warnings,
            alarms,
            outcome: Some(outcome),
        })
    }

    /// For each region, and for what belongs to none, whether its rows stay as they are.
    fn stays(&self, verdicts: &[Verdict]) -> Vec<bool> {
        let mut stays: Vec<bool> = self.look.kept.clone();
        for (number, verdict) in verdicts.iter().enumerate() {
            if *verdict != Verdict::Moves
                && let Some(slot) = self
                    .look
                    .region_of
                    .get(number)
                    .and_then(|region| stays.get_mut(*region))
            {
                *slot = true;
            }
        }
        stays
    }

    /// What is said of each repository, and what is kept of those that the tree will hold.
    fn results(
        &self,
        opened: &AllOpened,
        (troubles, doubts): (&[Vec<Trouble>], &Doubts),
        verdicts: &[Verdict],
    ) -> (Vec<RepoFacts>, Vec<Kept>) {
        let stamped = self.stamp.as_ref().and_then(ChangeStamp::time);
        let (mut facts, mut kept) = (Vec::new(), Vec::new());
        for (number, repo) in self.look.repos.iter().enumerate() {
            let before = self.state.as_ref().and_then(|s| s.kept(&repo.folder, &repo.name));
            let databases = opened.databases.get(number).and_then(Option::as_ref);
            let state = match verdicts.get(number) {
                Some(Verdict::Torn) if troubles.get(number).is_none_or(Vec::is_empty) => RepoState::Doubted {
                    troubles: doubts.held.get(number).cloned().unwrap_or_default(),
                    until: doubts.until.get(number).copied().unwrap_or_default(),
                },
                Some(Verdict::Torn) => RepoState::Torn(troubles.get(number).cloned().unwrap_or_default()),
                Some(Verdict::Held(by)) if !self.is_kept(number) => {
                    let with = self.look.repos.get(*by).map(Repo::shown).unwrap_or_default();
                    RepoState::Held { with }
                }
                _ => RepoState::Whole,
            };
            let fresh = databases.map(|databases| Kept {
                name: repo.name.clone(),
                folder: repo.folder.clone(),
                tree_folder: self.look.mapping.to_tree(&repo.folder).path,
                arch: repos::architecture(&repo.folder, &databases.main),
                times: databases.times,
                upstream_time: stamped.or(databases.times.newest_database()),
                packages: databases.main.entries.len() as u64,
                database: databases.root.clone(),
                built: databases.built(),
            });
            let now = if state == RepoState::Whole {
                fresh.or_else(|| {
                    let mut same = before.cloned()?;
                    same.upstream_time = stamped.or(same.upstream_time);
                    Some(same)
                })
            } else {
                before.cloned()
            };
            if let Some(now) = now {
                facts.push(now.facts(state));
                kept.push(now);
            } else {
                let nothing = Kept {
                    name: repo.name.clone(),
                    folder: repo.folder.clone(),
                    tree_folder: self.look.mapping.to_tree(&repo.folder).path,
                    arch: None,
                    times: DatabaseTimes::default(),
                    upstream_time: None,
                    packages: 0,
                    database: String::new(),
                    built: None,
                };
                facts.push(RepoFacts {
                    in_tree: false,
                    ..nothing.facts(state)
                });
            }
        }
        (facts, kept)
    }

    /// What is odd about the repositories that moved, beside those of the tree before.
    fn alarms(&self, now: &[RepoFacts]) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (repo, now) in self.look.repos.iter().zip(now) {
            let before = self.state.as_ref().and_then(|s| s.kept(&repo.folder, &repo.name));
            let Some(before) = before.filter(|_| now.state == RepoState::Whole) else {
                continue;
            };
            if now.packages * 10 < before.packages * 7 {
                alarms.push(Alarm::Shrunk {
                    repository: repo.shown(),
                    from: before.packages,
                    to: now.packages,
                });
            }
            if let (Some(from), Some(to)) = (before.upstream_time, now.upstream_time)
                && to < from
            {
                alarms.push(Alarm::Older {
                    repository: repo.shown(),
                    from,
                    to,
                });
            }
        }
        alarms.truncate(MAX_WARNINGS);
        alarms
    }

    /// The rows of all regions that do not stay as they are.
    fn rows_that_move(&self, mut rows: Rows, stays: &[bool]) -> Rows {
        let stay = |region: Option<usize>| stays.get(self.look.slot(region)).copied().unwrap_or_default();
        let above = |path: &[u8]| {
            let mut staying = self
                .look
                .folders
                .iter()
                .enumerate()
                .filter(|(region, _)| stay(Some(*region)));
            // A folder above one that stays is not empty, if that one is there at all.
            staying.any(|(_, folder)| {
                names::join(folder, b"").starts_with(path)
                    && self
                        .state
                        .as_ref()
                        .is_some_and(|s| s.repositories.iter().any(|k| k.tree_folder == *folder))
            })
        };
        rows.retain(|(path, row)| {
            let moves = !stay(self.look.regions.of(path));
            moves && !(*row == Row::EmptyFolder && above(path))
        });
        rows
    }

    /// By what the parts that are whole now are known again.
    fn marks(&self, stays: &[bool], stable: bool, loose_is_whole: bool) -> Vec<RegionMark> {
        let folders = self.look.folders.iter().map(|f| Some(f.clone())).chain([None]);
        let parts = folders.zip(&self.look.marks).enumerate();
        let known = parts.filter(|(slot, (folder, (_, settled)))| {
            let kept = self.look.kept.get(*slot).copied().unwrap_or_default();
            let held = stays.get(*slot).copied().unwrap_or_default() && !kept;
            let whole = folder.is_some() || loose_is_whole;
            kept || (stable && *settled && !held && whole)
        });
        known
            .map(|(_, (folder, (mark, _)))| RegionMark { folder, mark: *mark })
            .collect()
    }

    fn warnings(&self, loose: &[Trouble]) -> Vec<String> {
        let gone = self
            .look
            .gone
            .iter()
            .map(|repo| format!("{} is gone from the source", repo.shown()));
        let out = loose.iter().map(|trouble| format!("left out: {trouble}"));
        let named = self.plan.spec.atomic.iter().flatten();
        let unknown: Vec<&String> = named
            .filter(|text| !self.look.repos.iter().any(|repo| repo.is_called(text)))
            .collect();
        let alone = unknown
            .iter()
            .map(|text| format!("`atomic` names {text}, which is no repository of the source"));
        let mut warnings: Vec<String> = alone.chain(gone).chain(out).take(MAX_WARNINGS).collect();
        let all = unknown.len() + self.look.gone.len() + loose.len();
        if warnings.len() < all {
            warnings.push(format!("and {} more", all - warnings.len()));
        }
        warnings
    }
}

/// The profile as the manifest knows it.
pub(crate) fn profile_key(profile: &Profile) -> String {
    format!("{profile:?}")
}
