//! Machines of one LAN that want the same package at once, of which only the SHA-256 is known: one brings it.
//!
//! As for blocks (`crate::neighbours`), with the SHA-256 of the whole package in place of a block's. Who brings it
//! says so until it has all of it and has checked it; the others then learn its root from there, as from any peer. While
//! it comes, who brings it says so every second: pacman is held for that long (`super::hold`).
//!
//! - Invariant: who waits goes on alone early enough that pacman does not wait longer than without neighbours, unless
//!   one says that it still comes; of one that says so in vain nothing more is believed for ten minutes.
//! - Invariant: nothing is asked for a repository that is not public.
//! - Not here: how it is fetched (`super::whole`, `super::peers`).

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use pacstore_net::ShareState;
use tokio::time::Instant;
use tracing::debug;

use super::hold::{Hold, PATIENCE};
use super::package::PackageOf;
use super::peers;
use crate::manners::Manner;
use crate::neighbours::{Theirs, Ticket, Whose};
use crate::node::Node;
use crate::serve::FileAnswer;

/// How long one answer that it is there is waited for; the protocol ends at 8 s.
const ANSWER: Duration = Duration::from_secs(5);

/// How long one that said that it still comes may be silent then.
const BEATS_WITHIN: Duration = Duration::from_secs(7);

/// How often it may say so for one file: many times more than one that brings it does.
const MAX_BEATS: u32 = 100;

/// Left of the time for taking it from a neighbour, or for seeing that a mirror is sooner.
const LEFT: Duration = Duration::from_secs(2);

/// Left for sending pacman to a mirror.
const TAKEN: Duration = Duration::from_millis(300);

/// How long a neighbour may take to give it, beside a second for so many bytes.
const GIVE: Duration = Duration::from_secs(4);
const SECOND: u64 = 2_000_000;

/// Neighbours that give up one after the other before we go on alone. Of those that ask at the same time some do so at
/// once, in favour of another one.
const ROUNDS: usize = 12;

/// One that has it and does not give all of it counts as so many.
const TAKES: usize = 6;

/// The root of the package if a neighbour brought it; else our turn to bring it, where neighbours are told so.
pub(super) async fn turn(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    hold: &Hold,
) -> Result<Cid, Option<Ticket>> {
    let neighbours = node.inner.fetch.neighbours();
    let ask = answer.sources.peers;
    let begun = Instant::now();
    let mut gave_up = 0;
    while neighbours.any(ask) && gave_up < ROUNDS {
        let theirs = match neighbours.turn(&answer.root, ask).await {
            Whose::Ours(ticket) => return Err(Some(ticket)),
            Whose::Theirs(theirs) => theirs,
        };
        if !theirs.is_here() {
            match wait(node, answer, theirs, (begun, hold)).await {
                Waited::Here => {}
                // Asked again, it may be our turn.
                Waited::GaveUp => {
                    gave_up += 1;
                    continue;
                }
                Waited::Silent => continue,
                Waited::Late => {
                    debug!(name = package.name, "a neighbour does not bring it in time");
                    return Err(None);
                }
            }
        }
        let taken = taken(node, answer, package, (theirs, hold)).await;
        if let Some(root) = taken {
            return Ok(root);
        }
        // What came of it is kept, and where pacman is held there is time for the rest.
        if !hold.is_held() {
            return Err(None);
        }
        gave_up += TAKES;
    }
    Err(None)
}

/// What came of waiting for a neighbour.
enum Waited {
    /// It has it.
    Here,
    /// It does not bring it, or went away.
    GaveUp,
    /// It said nothing.
    Silent,
    /// It did not bring it while there was time.
    Late,
}

/// Waits for the neighbour that brings it: a while, and as long as it says that it still comes.
async fn wait(node: &Node, answer: &FileAnswer, theirs: Theirs, (begun, hold): (Instant, &Hold)) -> Waited {
    let neighbours = node.inner.fetch.neighbours();
    let asked = Instant::now();
    let mut beats = 0;
    let waited = loop {
        let latest = latest(begun, hold);
        let most = if beats > 0 { BEATS_WITHIN } else { ANSWER };
        let (since, wait) = (
            Instant::now(),
            latest.saturating_duration_since(Instant::now()).min(most),
        );
        match neighbours.wait_for(&answer.root, theirs, wait).await {
            Some(ShareState::Here) => return Waited::Here,
            Some(ShareState::Coming) if beats < MAX_BEATS && Instant::now() < latest => {
                beats += 1;
                hold.hold();
            }
            Some(ShareState::Free | ShareState::Coming) => break Waited::GaveUp,
            // No answer before its time: it went away, or does not speak as it should.
            None if since.elapsed() < wait => break Waited::GaveUp,
            None if Instant::now() < latest => break Waited::Silent,
            None => break Waited::Late,
        }
    };
    if PATIENCE < asked.elapsed() || (beats > 0 && matches!(waited, Waited::Silent)) || beats == MAX_BEATS {
        neighbours.note(theirs, Manner::LetsDown);
    } else if matches!(waited, Waited::Late) {
        neighbours.note(theirs, Manner::Owes);
    }
    waited
}

/// Neighbours are waited for until then.
fn latest(begun: Instant, hold: &Hold) -> Instant {
    let until = hold.until();
    let latest = until.checked_sub(LEFT).unwrap_or(begun);
    if hold.is_held() {
        return latest;
    }
    // Who is not bound to pacman's patience, as what is fetched ahead, waits for half of its time.
    latest.min(begun + until.saturating_duration_since(begun).max(ANSWER * 2) / 2)
}

/// Takes it from the neighbour that has it, and from others that do.
async fn taken(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    (theirs, hold): (Theirs, &Hold),
) -> Option<Cid> {
    let hints = peers::hints(node, answer, package).await;
    let enough = Instant::now() + GIVE + Duration::from_secs(answer.len / SECOND);
    let until = hold.until();
    let root = if hints.is_empty() {
        None
    } else {
        peers::fetch_inside(node, answer, package, hints, enough.min(until - TAKEN)).await
    };
    let manner = if root.is_some() {
        Manner::Gives
    } else {
        Manner::Lies
    };
    node.inner.fetch.neighbours().note(theirs, manner);
    root
}
