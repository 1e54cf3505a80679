//! Which leaf goes to which source: the state of one file on its way in.
//!
//! Pure bookkeeping, no I/O, so that its rules are tested without a network: every
//! source that is free asks [`Plan::pick`] for its next run of leaves. Whoever is
//! faster comes back sooner and so carries more; a slow source is sent ahead of the
//! reader by what the fast one will do meanwhile, so that its leaves are there in time.
//!
//! - Invariant: a leaf is asked of a second source only when the first is late and
//!   fewer than [`MAX_HEDGED`] leaves of this file were ever asked twice.
//! - Invariant: a leaf that is done is never handed out again.
//! - Not here: verification (`super::job`), sockets (`pacstore-bitswap`, `pacstore-upstream`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many leaves of one file may be asked of two sources at once over its whole way in.
pub(crate) const MAX_HEDGED: usize = 6;

/// A leaf in flight that brought nothing for this long may be asked of another source.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// A leaf that a reader waits for is asked of a source that is surely faster after this.
const SOON: Duration = Duration::from_millis(300);

/// Any other leaf after this.
const LATER: Duration = Duration::from_secs(2);

/// A source of leaves within one job: an index into the job's list of sources.
pub(crate) type SourceId = usize;

#[derive(Clone, Debug)]
enum Leaf {
    Missing,
    Flying {
        by: SourceId,
        second: Option<SourceId>,
        asked: Instant,
        progress: Instant,
    },
    Done,
}

/// What a source has shown it can do.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    bytes: u64,
    busy: Duration,
}

impl Pace {
    /// Bytes a second, or 0 while nothing is known.
    fn rate(self) -> f64 {
        if self.busy.is_zero() {
            0.0
        } else {
            self.bytes as f64 / self.busy.as_secs_f64()
        }
    }
}

/// The state of one file's leaves.
#[derive(Debug)]
pub(crate) struct Plan {
    leaves: Vec<Leaf>,
    done: usize,
    /// First leaf that each reader still needs, by the reader's number.
    fronts: BTreeMap<u64, usize>,
    /// Whose turn it is among the readers.
    turn: usize,
    hedged: usize,
    paces: Vec<Pace>,
}

impl Plan {
    /// A plan over `have.len()` leaves of which those that are `true` are here already.
    pub(crate) fn new(have: &[bool], sources: usize) -> Self {
        let leaves: Vec<Leaf> = have
            .iter()
            .map(|here| if *here { Leaf::Done } else { Leaf::Missing })
            .collect();
        let done = have.iter().filter(|here| **here).count();
        Self {
            leaves,
            done,
            fronts: BTreeMap::new(),
            turn: 0,
            hedged: 0,
            paces: vec![Pace::default(); sources],
        }
    }

    /// All leaves are here.
    pub(crate) fn complete(&self) -> bool {
        self.done == self.leaves.len()
    }

    /// This leaf is here.
    pub(crate) fn is_done(&self, leaf: usize) -> bool {
        matches!(self.leaves.get(leaf), Some(Leaf::Done))
    }

    /// Some source is to bring this leaf.
    pub(crate) fn is_flying(&self, leaf: usize) -> bool {
        matches!(self.leaves.get(leaf), Some(Leaf::Flying { .. }))
    }

    /// `reader` needs nothing before `leaf` any more.
    pub(crate) fn set_front(&mut self, reader: u64, leaf: usize) {
        self.fronts.insert(reader, leaf.min(self.leaves.len()));
    }

    /// `reader` needs nothing any more.
    pub(crate) fn leave(&mut self, reader: u64) {
        self.fronts.remove(&reader);
    }

    /// Where the reader stands whose turn it is; each gets its turn.
    fn next_front(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        let readers = self.fronts.len().max(1);
        self.fronts
            .values()
            .nth(self.turn % readers)
            .copied()
            .unwrap_or(0)
    }

    /// Hands out the next run of at most `max` touching leaves to `source`, or nothing
    /// if there is nothing that it should do now.
    pub(crate) fn pick(&mut self, source: SourceId, max: usize, leaf_bytes: u64, now: Instant) -> Vec<usize> {
        let max = max.max(1);
        let ahead = self.ahead(source, max, leaf_bytes);
        let front = self.next_front();
        // A leaf that the reader waits for and that is late goes before new ones.
        if let Some(late) = self.late_at_front(front, source, leaf_bytes, now) {
            return vec![late];
        }
        let first = self
            .missing_from(front.saturating_add(ahead))
            .or_else(|| self.missing_from(front))
            .or_else(|| self.missing_from(0));
        let Some(first) = first else {
            return self.hedge(front, source, leaf_bytes, now).into_iter().collect();
        };
        let mut run = Vec::new();
        for leaf in first..self.leaves.len().min(first + max) {
            if !matches!(self.leaves[leaf], Leaf::Missing) {
                break;
            }
            self.leaves[leaf] = Leaf::Flying {
                by: source,
                second: None,
                asked: now,
                progress: now,
            };
            run.push(leaf);
        }
        run
    }

    /// How far ahead of the reader a source should work: what the fastest source does
    /// while this one fetches its run.
    fn ahead(&self, source: SourceId, run: usize, leaf_bytes: u64) -> usize {
        let mine = self.paces.get(source).copied().unwrap_or_default().rate();
        let best = self.paces.iter().map(|p| p.rate()).fold(0.0, f64::max);
        if mine <= 0.0 || leaf_bytes == 0 || best < mine * 1.5 {
            return 0;
        }
        ((best / mine) * run as f64).min(64.0) as usize
    }

    fn missing_from(&self, from: usize) -> Option<usize> {
        (from..self.leaves.len()).find(|leaf| matches!(self.leaves[*leaf], Leaf::Missing))
    }

    fn late_at_front(
        &mut self,
        front: usize,
        source: SourceId,
        leaf_bytes: u64,
        now: Instant,
    ) -> Option<usize> {
        let front = (front..self.leaves.len()).find(|leaf| !self.is_done(*leaf))?;
        self.second(front, source, (leaf_bytes, SOON), now)
    }

    /// The end game: nothing is missing, but something is late.
    fn hedge(&mut self, front: usize, source: SourceId, leaf_bytes: u64, now: Instant) -> Option<usize> {
        (front..self.leaves.len())
            .chain(0..front)
            .find_map(|leaf| self.second(leaf, source, (leaf_bytes, LATER), now))
    }

    fn second(
        &mut self,
        leaf: usize,
        source: SourceId,
        (leaf_bytes, patience): (u64, Duration),
        now: Instant,
    ) -> Option<usize> {
        let Leaf::Flying {
            by,
            second,
            asked,
            progress,
        } = self.leaves[leaf]
        else {
            return None;
        };
        let silent = now.saturating_duration_since(progress) >= LATE;
        let slow = || self.is_overtaken(by, source, asked, (leaf_bytes, patience), now);
        if self.hedged >= MAX_HEDGED || by == source || second.is_some() || !(silent || slow()) {
            return None;
        }
        if let Leaf::Flying { second, .. } = &mut self.leaves[leaf] {
            *second = Some(source);
        }
        self.hedged += 1;
        Some(leaf)
    }

    /// A leaf that `by` was asked for at `asked` would come from `source` in less than half of
    /// the time that it still takes, as far as both have shown what they can do.
    fn is_overtaken(
        &self,
        by: SourceId,
        source: SourceId,
        asked: Instant,
        (leaf_bytes, patience): (u64, Duration),
        now: Instant,
    ) -> bool {
        let age = now.saturating_duration_since(asked);
        let rate = self.rate(source);
        if rate <= 0.0 {
            return false;
        }
        let there = leaf_bytes as f64 / rate;
        if age < patience || age.as_secs_f64() < 2.0 * there {
            return false;
        }
        let theirs = self.rate(by);
        if theirs <= 0.0 {
            return true;
        }
        // What it was asked for before comes before.
        let before = self.leaves.iter().filter(|leaf| {
            matches!(leaf, Leaf::Flying { by: other, asked: then, .. } if *other == by && *then <= asked)
        });
        let whole = before.count() as f64 * leaf_bytes as f64 / theirs;
        let left = whole - age.as_secs_f64();
        2.0 * there < if left > 0.0 { left } else { whole }
    }

    /// Whether `source` was asked for `leaf` because another one was late.
    pub(crate) fn is_second(&self, leaf: usize, source: SourceId) -> bool {
        matches!(self.leaves.get(leaf), Some(Leaf::Flying { second: Some(second), .. }) if *second == source)
    }

    /// Bytes of what `source` was asked for come in; of which leaf is not known.
    pub(crate) fn moves(&mut self, source: SourceId, now: Instant) {
        for leaf in &mut self.leaves {
            if let Leaf::Flying { by, progress, .. } = leaf
                && *by == source
            {
                *progress = now;
            }
        }
    }

    /// Bytes of `leaf` came in from whoever has it.
    pub(crate) fn progressed(&mut self, leaf: usize, now: Instant) {
        if let Some(Leaf::Flying { progress, .. }) = self.leaves.get_mut(leaf) {
            *progress = now;
        }
    }

    /// `leaf` is asked for only now: a neighbour brings it, or was asked whether it would. No source is late.
    pub(crate) fn asked_now(&mut self, leaf: usize, now: Instant) {
        if let Some(Leaf::Flying { asked, progress, .. }) = self.leaves.get_mut(leaf) {
            (*asked, *progress) = (now, now);
        }
    }

    /// `leaf` is verified and on disk. False if it already was.
    pub(crate) fn finish(&mut self, leaf: usize) -> bool {
        let Some(state) = self.leaves.get_mut(leaf) else {
            return false;
        };
        if matches!(state, Leaf::Done) {
            return false;
        }
        *state = Leaf::Done;
        self.done += 1;
        true
    }

    /// `source` gives `leaf` back.
    pub(crate) fn give_back(&mut self, leaf: usize, source: SourceId) {
        let Some(state) = self.leaves.get_mut(leaf) else {
            return;
        };
        let Leaf::Flying {
            by,
            second,
            asked,
            progress,
        } = state.clone()
        else {
            return;
        };
        *state = match second {
            Some(other) if by == source => Leaf::Flying {
                by: other,
                second: None,
                asked,
                progress,
            },
            Some(other) if other == source => Leaf::Flying {
                by,
                second: None,
                asked,
                progress,
            },
            None if by == source => Leaf::Missing,
            _ => return,
        };
    }

    /// `source` was busy for `busy` and brought `bytes`.
    pub(crate) fn measured(&mut self, source: SourceId, bytes: u64, busy: Duration) {
        let Some(pace) = self.paces.get_mut(source) else {
            return;
        };
        // Half of the past counts, so that a source that slows down is noticed.
        if pace.busy > Duration::from_secs(4) {
            pace.bytes /= 2;
            pace.busy /= 2;
        }
        pace.bytes += bytes;
        pace.busy += busy;
    }

    /// Bytes a second that `source` has shown, 0 while unknown.
    pub(crate) fn rate(&self, source: SourceId) -> f64 {
        self.paces.get(source).copied().unwrap_or_default().rate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn hands_out_each_leaf_once() {
        let now = Instant::now();
        let mut plan = Plan::new(&[false; 10], 2);
        let mut seen = Vec::new();
        loop {
            let run = plan.pick(seen.len() % 2, 3, MIB, now);
            if run.is_empty() {
                break;
            }
            seen.extend(run);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn never_asks_again_for_what_is_here() {
        let now = Instant::now();
        let mut plan = Plan::new(&[true, false, true, false], 1);
        assert_eq!(plan.pick(0, 8, MIB, now), vec![1]);
        assert_eq!(plan.pick(0, 8, MIB, now), vec![3]);
        assert!(plan.pick(0, 8, MIB, now + LATE * 5).is_empty());
    }

    #[test]
    fn a_late_leaf_goes_to_another_source_but_only_a_few_do() {
        let now = Instant::now();
        let mut plan = Plan::new(&[false; 20], 2);
        assert_eq!(plan.pick(0, 20, MIB, now).len(), 20);
        assert!(plan.pick(1, 1, MIB, now).is_empty());
        let later = now + LATE;
        let mut hedged = Vec::new();
        while let [leaf] = plan.pick(1, 1, MIB, later)[..] {
            hedged.push(leaf);
        }
        assert_eq!(hedged, (0..MAX_HEDGED).collect::<Vec<_>>());
        // What one of the two gives back, the other still brings.
        plan.give_back(0, 0);
        assert!(plan.is_flying(0));
        plan.give_back(0, 1);
        assert!(!plan.is_flying(0));
    }

    #[test]
    fn a_leaf_that_only_drips_goes_to_a_source_that_is_surely_faster_and_sooner_if_a_reader_waits() {
        let now = Instant::now();
        let mut plan = Plan::new(&[false; 3], 2);
        plan.measured(1, 10 * MIB, Duration::from_secs(1));
        assert_eq!(plan.pick(0, 1, MIB, now), [0]);
        assert_eq!(plan.pick(1, 1, MIB, now), [1]);
        let mut at = now;
        while at < now + SOON {
            plan.progressed(0, at);
            assert!(plan.pick(1, 1, MIB, at) != [0]);
            at += Duration::from_millis(100);
        }
        plan.progressed(0, at);
        assert_eq!(plan.pick(1, 1, MIB, at), [0]);
        assert!(plan.is_second(0, 1) && !plan.is_second(1, 1));
        // On one thin line both are slow, and nothing is asked twice.
        let mut plan = Plan::new(&[false; 2], 2);
        plan.measured(0, MIB / 4, Duration::from_secs(1));
        plan.measured(1, MIB / 4, Duration::from_secs(1));
        assert_eq!(plan.pick(0, 1, MIB, now), [0]);
        assert_eq!(plan.pick(1, 1, MIB, now), [1]);
        assert!(plan.finish(1));
        for tenths in 1..80 {
            let at = now + Duration::from_millis(100 * tenths);
            plan.moves(0, at);
            assert!(
                plan.pick(1, 1, MIB, at).is_empty(),
                "after {tenths} tenths of a second"
            );
        }
    }

    #[test]
    fn what_a_dead_source_gives_back_is_free_again() {
        let now = Instant::now();
        let mut plan = Plan::new(&[false; 4], 2);
        let run = plan.pick(0, 4, MIB, now);
        assert!(plan.finish(0));
        assert!(!plan.finish(0));
        for leaf in run {
            plan.give_back(leaf, 0);
        }
        assert_eq!(plan.pick(1, 8, MIB, now), vec![1, 2, 3]);
    }

    #[test]
    fn readers_in_different_places_take_turns() {
        let now = Instant::now();
        let mut plan = Plan::new(&[false; 100], 1);
        plan.set_front(1, 0);
        plan.set_front(2, 50);
        let mut seen = [
            plan.pick(0, 1, MIB, now),
            plan.pick(0, 1, MIB, now),
            plan.pick(0, 1, MIB, now),
            plan.pick(0, 1, MIB, now),
        ]
        .concat();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 50, 51]);
        plan.leave(1);
        assert_eq!(plan.pick(0, 2, MIB, now), [52, 53]);
    }

    #[test]
    fn a_slow_source_works_ahead_of_the_reader() {
        let now = Instant::now();
        let mut plan = Plan::new(&[false; 100], 2);
        plan.measured(0, 5 * MIB, Duration::from_secs(1));
        plan.measured(1, MIB, Duration::from_secs(1));
        assert_eq!(plan.pick(1, 2, MIB, now), vec![10, 11]);
        assert_eq!(plan.pick(0, 4, MIB, now), vec![0, 1, 2, 3]);
    }
}
