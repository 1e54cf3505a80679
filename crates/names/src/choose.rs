//! Which head counts: the newest one that enough of the trusted KEYs vouch for,
//! and never one that is older than what was seen.
//!
//! Each KEY has one vote, its newest head. Heads of the same tree add up to a
//! quorum. Between trees with a quorum the later `upstream_time` wins, then the
//! later `checked`, then the higher tree CID. What was accepted stays until
//! something newer comes, even when its records have expired.
//!
//! - Invariant: the result does not depend on the order of the candidates.
//! - Invariant: no KEY ever goes back: neither its votes nor what is accepted of it.
//! - Invariant: the accepted head goes back in time only when a KEY that vouched
//!   for it took that back by a newer head of its own, and too few others vouch for it.
//! - Not here: fetching heads, keeping [`Seen`] on disk (`node`).
//! - Read first: `docs/design.md`, "Head".

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use cid::Cid;
use serde::{Deserialize, Serialize};
use serde_ipld_dagcbor::DecodeError;

use crate::name::IpnsName;
use crate::record::better;
use crate::signed::Signed;

/// The order between KEYs. The head's CID only decides where all else is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Rank {
    upstream_time: u64,
    checked: u64,
    tree: Cid,
    head: Cid,
}

impl Rank {
    fn of(signed: &Signed) -> Self {
        Self {
            upstream_time: signed.head.upstream_time(),
            checked: signed.head.checked(),
            tree: signed.head.tree,
            head: signed.head_cid,
        }
    }
}

/// What a node remembers of one mirror, over restarts, so that it never goes back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The newest head of each KEY.
    pub keys: BTreeMap<IpnsName, SeenKey>,
    /// The accepted head.
    pub current: Option<Current>,
}

/// The newest that was seen of one KEY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenKey {
    /// The sequence of its record.
    pub sequence: u64,
    /// Its head.
    pub head: Cid,
}

/// The accepted head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Whose head it is; others may vouch for its tree as well.
    pub key: IpnsName,
    /// The sequence of its record.
    pub sequence: u64,
    /// The head.
    pub head: Cid,
    /// Its tree.
    pub tree: Cid,
    /// Its [`crate::Head::upstream_time`].
    pub upstream_time: u64,
    /// Its [`crate::Head::checked`].
    pub checked: u64,
    /// Whether it came after one with a later `upstream_time`: state `warn`.
    pub fell_back: bool,
    /// The KEYs that vouch for the tree, each with the sequence of its vote.
    votes: BTreeMap<IpnsName, Vote>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Vote {
    sequence: u64,
    rank: Rank,
}

impl Seen {
    /// What was seen of `from` counts for `to`, which goes on counting above `sequence`, that of the
    /// record that handed over and linked `head`.
    pub fn hand_over(&mut self, from: &IpnsName, to: &IpnsName, sequence: u64, head: Cid) {
        self.keys.remove(from);
        let seen = self.keys.entry(*to).or_insert(SeenKey { sequence, head });
        if seen.sequence < sequence {
            *seen = SeenKey { sequence, head };
        }
        if let Some(current) = &mut self.current
            && let Some(vote) = current.votes.remove(from)
        {
            current.votes.entry(*to).or_insert(vote);
        }
    }

    /// For the disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(self).expect("what was seen is always dag-cbor")
    }

    /// From the disk.
    ///
    /// # Errors
    /// If it is not what [`Seen::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError<Infallible>> {
        serde_ipld_dagcbor::from_slice(bytes)
    }
}

/// Why a candidate has no vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Its KEY is not trusted for this mirror.
    Untrusted,
    /// A newer one of the same KEY was seen; with the sequence of that.
    Older(u64),
    /// Another head with the same sequence was seen: the KEY's owner made a mistake,
    /// or two machines sign with it.
    SameSequence(Cid),
    /// Another candidate of the same KEY is newer.
    Superseded,
}

/// What [`choose`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The index of the candidate to serve from now on; `None` = go on with the current head.
    pub pick: Option<usize>,
    /// What to remember; to be made durable before the pick is served.
    pub seen: Seen,
    /// Candidates without a vote, by index.
    pub rejected: Vec<(usize, Rejection)>,
    /// The most trusted KEYs that vouch for one tree, for a message where that is too few.
    pub most_votes: usize,
}

/// Chooses the head to serve.
///
/// `candidates` are all heads at hand, each made by [`Signed::verify`] while in
/// force; the newest known of each KEY must be among them for its vote to count.
/// `trusted` are the mirror's importers. A `quorum` of 0 counts as 1.
///
/// Calling it again with the same candidates and the returned [`Seen`] picks nothing.
pub fn choose(candidates: &[Signed], trusted: &[IpnsName], quorum: usize, seen: &Seen) -> Choice {
    let quorum = quorum.max(1);
    let trusted: BTreeSet<_> = trusted.iter().copied().collect();
    let (newest, rejected) = newest_of_each(candidates, &trusted, seen);

    let mut next = seen.clone();
    for (key, index) in &newest {
        let signed = &candidates[*index];
        let now = SeenKey {
            sequence: signed.record.sequence(),
            head: signed.head_cid,
        };
        next.keys.insert(*key, now);
    }

    let groups = by_tree(candidates, &newest);
    join_votes(next.current.as_mut(), &groups);
    let most_votes = groups.values().map(BTreeMap::len).max().unwrap_or(0);
    let backed = groups.values().filter(|votes| votes.len() >= quorum);
    let best = backed.clone().max_by_key(|votes| rank_of(votes));
    let baseline = baseline(&next, &trusted, quorum, backed);

    let pick = best
        .filter(|votes| baseline.is_none_or(|base| rank_of(votes) >= Some(base)))
        .and_then(|votes| first_of(candidates, votes));
    let picked = pick.map(|index| {
        (
            index,
            current_from(&candidates[index], &groups, next.current.as_ref()),
        )
    });
    let is_new = |new: &Current| {
        seen.current
            .as_ref()
            .is_none_or(|old| (old.head, old.key) != (new.head, new.key))
    };
    let pick = picked
        .as_ref()
        .filter(|(_, new)| is_new(new))
        .map(|(index, _)| *index);
    if let Some((_, new)) = picked {
        next.current = Some(new);
    }
    Choice {
        pick,
        seen: next,
        rejected,
        most_votes,
    }
}

type Votes = BTreeMap<IpnsName, Vote>;

/// The index of each trusted KEY's newest candidate, none older than seen.
fn newest_of_each(
    candidates: &[Signed],
    trusted: &BTreeSet<IpnsName>,
    seen: &Seen,
) -> (BTreeMap<IpnsName, usize>, Vec<(usize, Rejection)>) {
    let mut newest = BTreeMap::<IpnsName, usize>::new();
    let mut rejected = Vec::new();
    for (index, signed) in candidates.iter().enumerate() {
        if let Some(why) = reject(signed, trusted, seen) {
            rejected.push((index, why));
            continue;
        }
        let held = newest.entry(signed.key).or_insert(index);
        match better(&signed.record, &candidates[*held].record) {
            Ordering::Greater => rejected.push((std::mem::replace(held, index), Rejection::Superseded)),
            _ if *held != index => rejected.push((index, Rejection::Superseded)),
            _ => {}
        }
    }
    rejected.sort_by_key(|(index, _)| *index);
    (newest, rejected)
}

fn reject(signed: &Signed, trusted: &BTreeSet<IpnsName>, seen: &Seen) -> Option<Rejection> {
    if !trusted.contains(&signed.key) {
        return Some(Rejection::Untrusted);
    }
    let old = seen.keys.get(&signed.key)?;
    match signed.record.sequence().cmp(&old.sequence) {
        Ordering::Less => Some(Rejection::Older(old.sequence)),
        Ordering::Equal if signed.head_cid != old.head => Some(Rejection::SameSequence(old.head)),
        _ => None,
    }
}

/// The votes for each tree.
fn by_tree(candidates: &[Signed], newest: &BTreeMap<IpnsName, usize>) -> BTreeMap<Cid, Votes> {
    let mut groups = BTreeMap::<Cid, Votes>::new();
    for (key, index) in newest {
        let signed = &candidates[*index];
        let vote = Vote {
            sequence: signed.record.sequence(),
            rank: Rank::of(signed),
        };
        groups.entry(signed.head.tree).or_default().insert(*key, vote);
    }
    groups
}

/// The rank of a tree: that of the best head that vouches for it.
fn rank_of(votes: &Votes) -> Option<Rank> {
    votes.values().map(|vote| vote.rank).max()
}

/// What a new head must at least equal; `None` if any will do.
fn baseline<'a>(
    next: &Seen,
    trusted: &BTreeSet<IpnsName>,
    quorum: usize,
    backed: impl Iterator<Item = &'a Votes>,
) -> Option<Rank> {
    let current = next.current.as_ref()?;
    let votes: Votes = current
        .votes
        .iter()
        .filter(|(key, _)| trusted.contains(key))
        .map(|(key, vote)| (*key, *vote))
        .collect();
    if votes.is_empty() {
        return None; // nobody who is trusted any more vouches for it
    }
    let stands =
        |key: &IpnsName, vote: &Vote| next.keys.get(key).is_none_or(|now| now.sequence <= vote.sequence);
    let standing: Votes = votes
        .iter()
        .filter(|(key, vote)| stands(key, vote))
        .map(|(key, vote)| (*key, *vote))
        .collect();
    if standing.len() >= quorum {
        return rank_of(&standing);
    }
    // Too few stand by it. Those that went on may lead back in time, but only to
    // what they themselves sign now.
    let taken_back = |group: &&Votes| {
        votes
            .iter()
            .any(|(key, vote)| !stands(key, vote) && group.contains_key(key))
    };
    backed
        .filter(taken_back)
        .filter_map(rank_of)
        .max()
        .or_else(|| rank_of(&votes))
}

/// The index of the candidate that gives a tree its rank; of equals, the lowest KEY's.
fn first_of(candidates: &[Signed], votes: &Votes) -> Option<usize> {
    let rank = rank_of(votes)?;
    let (key, vote) = votes.iter().find(|(_, vote)| vote.rank == rank)?;
    let is_it = |signed: &Signed| {
        signed.key == *key && signed.record.sequence() == vote.sequence && signed.head_cid == rank.head
    };
    let all = candidates.iter().enumerate().filter(|(_, signed)| is_it(signed));
    all.max_by(|(_, a), (_, b)| better(&a.record, &b.record))
        .map(|(index, _)| index)
}

fn current_from(signed: &Signed, groups: &BTreeMap<Cid, Votes>, old: Option<&Current>) -> Current {
    let rank = Rank::of(signed);
    let fell_back = old.is_some_and(|old| match rank.upstream_time.cmp(&old.upstream_time) {
        Ordering::Less => true,
        Ordering::Equal => old.fell_back,
        Ordering::Greater => false,
    });
    let mut current = Current {
        key: signed.key,
        sequence: signed.record.sequence(),
        head: signed.head_cid,
        tree: signed.head.tree,
        upstream_time: rank.upstream_time,
        checked: rank.checked,
        fell_back,
        // Earlier votes for the same tree stand until their KEYs say something newer.
        votes: old
            .filter(|old| old.tree == signed.head.tree)
            .map(|old| old.votes.clone())
            .unwrap_or_default(),
    };
    join_votes(Some(&mut current), groups);
    current
}

/// Adds the votes for the current tree that are at hand now.
fn join_votes(current: Option<&mut Current>, groups: &BTreeMap<Cid, Votes>) {
    if let Some(current) = current
        && let Some(votes) = groups.get(&current.tree)
    {
        current.votes.extend(votes);
    }
}
