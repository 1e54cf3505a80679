//! Whether what a source has is an older state than the one in the tree.
//!
//! The databases tell it first, because the tree is made of them; where they are the same, the change stamps; where
//! there are none, the newest file that no database names. What a source does not tell speaks against nobody.
//!
//! - Invariant: a source that has the tree as it is is never older, whatever its stamp says (`crate::build`).
//! - Not here: what follows from it (`crate::choose`), for how long (`crate::upstreams`).
//! - Read first: [`Work::older`].

use std::cmp::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::SourceError;
use crate::repos::{Databases, Repo};
use crate::round::Older;
use crate::spec::Files;
use crate::stamp::ChangeStamp;
use crate::state::Kept;
use crate::view::Item;
use crate::work::{AllOpened, Work};

/// Clocks may differ by so much, in seconds: a time further ahead says nothing.
pub(crate) const AHEAD: u64 = 86_400;

impl Work {
    /// The first repository whose database is older than the tree's. Asked before anything is fetched for it.
    pub(crate) fn older(&self, opened: &AllOpened) -> Option<SourceError> {
        self.to_databases(opened)
            .find(|(_, (order, _))| *order == Ordering::Less)
            .map(|(repo, (_, by))| older(&repo.shown(), by))
            .map(|sign| SourceError::Older { sign })
    }

    /// By what this pass is older than the tree where no database is, if that is refused and should it have another
    /// tree.
    pub(crate) fn behind(&self, opened: &AllOpened, how: Older, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let state = self.state.as_ref().filter(|_| how == Older::Refused)?;
        if self
            .to_databases(opened)
            .any(|(_, (order, _))| order == Ordering::Greater)
        {
            return None;
        }
        let stamp = self.stamp.as_ref().and_then(ChangeStamp::written_time);
        match possible(stamp, now).zip(possible(state.stamp, now)) {
            Some((own, before)) if own < before => return Some(older("change stamp", Some(before - own))),
            Some((own, before)) if before < own => return None,
            _ => {}
        }
        if let Some(gone) = self.look.gone.first() {
            return Some(format!("it does not have {}", gone.shown()));
        }
        let (own, before) = possible(self.newest_other(), now).zip(possible(state.newest_other, now))?;
        (own < before).then(|| older("newest file beside its repositories", Some(before - own)))
    }

    /// How each repository that was read stands to the tree's.
    fn to_databases(&self, opened: &AllOpened) -> impl Iterator<Item = (&Repo, (Ordering, Option<u64>))> {
        let read = self.look.repos.iter().zip(&opened.databases);
        read.filter_map(|(repo, databases)| {
            let kept = self.state.as_ref()?.kept(&repo.folder, &repo.name)?;
            Some((repo, by_databases(databases.as_ref()?, kept)))
        })
    }

    /// When the newest file was written of those that are taken though no database names them, in seconds since 1970.
    pub(crate) fn newest_other(&self) -> Option<u64> {
        let all = self.plan.spec.files == Files::All;
        let taken = self.view.files.iter();
        let taken = taken.filter(|(path, _)| all || self.plan.compiled.also.covers_file(path));
        let times = taken.filter_map(|(_, item)| match item {
            Item::File { stamp, .. } => u64::try_from(stamp.seconds()?).ok(),
            Item::None(_) => None,
        });
        times.max()
    }
}

/// How a repository's databases stand to those in the tree: by the times of their files, else (where those are not
/// told, or the same) by their newest packages. With the difference in seconds, where file times tell it.
fn by_databases(now: &Databases, before: &Kept) -> (Ordering, Option<u64>) {
    if now.root == before.database {
        return (Ordering::Equal, None);
    }
    let files = now
        .times
        .newest_database()
        .zip(before.times.newest_database())
        .filter(|(now, before)| now != before);
    if let Some((now, before)) = files {
        return (now.cmp(&before), Some(now.abs_diff(before)));
    }
    let built = now.built().zip(before.built);
    (
        built.map_or(Ordering::Equal, |(now, before)| now.cmp(&before)),
        None,
    )
}

fn older(what: &str, by: Option<u64>) -> String {
    match by {
        Some(by) => format!("its {what} is {by} s older"),
        None => format!("the newest package of its {what} is older"),
    }
}

fn possible(time: Option<u64>, now: u64) -> Option<u64> {
    time.filter(|time| *time <= now.saturating_add(AHEAD))
}
