//! Stamp first: whether an upstream has to be looked at at all.
//!
//! Where the change stamp is the one of the last full look, nothing else is asked for. A stamp may lie: it comes
//! before the files that it speaks of, or stands still while they change. So a full look is due all the same, every
//! [`EVERY`] rounds and after [`AFTER`], whichever is first; and a stamp counts only once a look under it, from its
//! begin to its end, found everything whole.
//!
//! - Invariant: what is told of a round without a look is what the last look told, and nothing is `checked` by it.
//! - Not here: how a stamp is read (`crate::stamp`).
//! - Read first: [`Seen::still_holds`].

use std::time::Duration;

use crate::report::{Counts, Round};
use crate::spec::Source;
use crate::stamp::{Answer, ChangeStamp};

/// Rounds after which a full look is due, whatever the stamp says.
const EVERY: u32 = 10;
/// The same where something else came in the stamp's place.
const EVERY_ODD: u32 = 3;
/// The longest time between two full looks.
const AFTER: Duration = Duration::from_mins(30);

/// What the last full look at an upstream saw.
#[derive(Debug)]
pub(crate) struct Seen {
    source: Source,
    stamp: ChangeStamp,
    round: Round,
    /// Seconds since 1970.
    at: u64,
    /// Rounds since, which did not look.
    rounds: u32,
}

impl Seen {
    /// Remembers a look, if it can stand for later ones.
    pub(crate) fn new(round: &Round, stamp: Option<ChangeStamp>, now: u64) -> Option<Self> {
        let stamp = stamp.filter(|_| !round.is_torn())?;
        Some(Self {
            source: round.source.clone(),
            stamp,
            round: round.clone(),
            at: now,
            rounds: 0,
        })
    }

    /// The stamp that this source had at that look.
    pub(crate) fn stamp_of(&self, source: &Source) -> Option<&ChangeStamp> {
        (self.source == *source).then_some(&self.stamp)
    }

    /// What a round says that need not look; nothing where a look is due.
    pub(crate) fn still_holds(&mut self, source: &Source, answer: &Answer, now: u64) -> Option<Round> {
        let most = match answer {
            Answer::Same => EVERY,
            Answer::Here(stamp) if stamp.says_the_same(&self.stamp) => EVERY,
            Answer::Odd(_) => EVERY_ODD,
            Answer::Here(_) | Answer::Absent | Answer::Away(_) => return None,
        };
        self.rounds += 1;
        let recent = now.abs_diff(self.at) < AFTER.as_secs();
        let holds = self.source == *source && self.rounds < most && recent;
        holds.then(|| self.again(answer))
    }

    fn again(&self, answer: &Answer) -> Round {
        let mut round = self.round.clone();
        round.changed = false;
        round.passes = 0;
        round.counts = Counts {
            new: 0,
            removed: 0,
            ..round.counts
        };
        round.alarms.clear();
        for repository in &mut round.repositories {
            repository.checked = false;
        }
        round.warnings.extend(told(answer));
        round
    }
}

/// What people are told of a stamp that is none.
pub(crate) fn told(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Odd(what) => Some(format!(
            "{what}; that is not taken for a change. An error page or a captive portal most likely: open the URL \
             of `stamp` in a browser"
        )),
        _ => None,
    }
}
