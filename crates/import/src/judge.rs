//! Which repositories move: the whole ones, but for those that are bound to a torn one.
//!
//! - Invariant: repositories of one folder, and those of one `atomic` group, move together or not at all.
//! - Not here: what is wrong with one (`crate::repos`).
//! - Read first: design.md, "Head".

use crate::look::Look;
use crate::repos::Repo;

/// What becomes of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Moves,
    Torn,
    /// Whole, but held by the one of this number.
    Held(usize),
}

/// Judges all. `torn` says it of each; one that did not change counts as whole, and is not held.
pub(crate) fn judge(look: &Look, torn: &[bool], atomic: &[Vec<String>]) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = torn
        .iter()
        .map(|torn| if *torn { Verdict::Torn } else { Verdict::Moves })
        .collect();
    let bound = |a: usize, b: usize| -> bool {
        let folder = look.region_of.get(a) == look.region_of.get(b);
        let both = |group: &Vec<String>| match (look.repos.get(a), look.repos.get(b)) {
            (Some(a), Some(b)) => is_in(group, a) && is_in(group, b),
            _ => false,
        };
        folder || atomic.iter().any(both)
    };
    let mut todo: Vec<usize> = (0..torn.len()).filter(|i| torn.get(*i) == Some(&true)).collect();
    while let Some(cause) = todo.pop() {
        for (other, verdict) in verdicts.iter_mut().enumerate() {
            if *verdict == Verdict::Moves && bound(cause, other) {
                *verdict = Verdict::Held(cause);
                todo.push(other);
            }
        }
    }
    verdicts
}

fn is_in(group: &[String], repo: &Repo) -> bool {
    group.iter().any(|text| repo.is_called(text))
}
