//! Machines of one LAN that want the same package at once, of which only the SHA-256 is known: one brings it.
//!
//! As for blocks (`crate::neighbours`), with the SHA-256 of the whole package in place of a block's. Who brings it
//! says so until it has all of it and has checked it; the others then learn its root from there, as from any peer.
//!
//! - Invariant: who waits goes on alone early enough that pacman does not wait longer than without neighbours.
//! - Invariant: nothing is asked for a repository that is not public.
//! - Not here: how it is fetched (`super::whole`, `super::peers`).

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use tokio::time::Instant;
use tracing::debug;

use super::package::PackageOf;
use super::peers;
use crate::manners::Manner;
use crate::neighbours::{Theirs, Ticket, Whose};
use crate::node::Node;
use crate::serve::FileAnswer;

/// How long one answer that it is there is waited for; the protocol ends at 8 s.
const ANSWER: Duration = Duration::from_secs(5);

/// Left of the time for taking it from a neighbour, or for seeing that a mirror is sooner.
const LEFT: Duration = Duration::from_secs(2);

/// Left for sending pacman to a mirror.
const TAKEN: Duration = Duration::from_millis(300);

/// How long a neighbour may take to give it, beside a second for so many bytes.
const GIVE: Duration = Duration::from_secs(4);
const SECOND: u64 = 2_000_000;

/// Neighbours that give up one after the other before we go on alone.
const ROUNDS: usize = 3;

/// The root of the package if a neighbour brought it; else our turn to bring it, where neighbours are told so.
pub(super) async fn turn(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    until: Instant,
) -> Result<Cid, Option<Ticket>> {
    let neighbours = node.inner.fetch.neighbours();
    let ask = answer.sources.peers;
    let begun = Instant::now();
    let latest = until.checked_sub(LEFT).unwrap_or(begun);
    // Who is not bound to pacman's patience, as what is fetched ahead, waits for half of its time.
    let latest = latest.min(begun + until.saturating_duration_since(begun).max(ANSWER * 2) / 2);
    let mut gave_up = 0;
    while neighbours.any(ask) && gave_up < ROUNDS {
        let theirs = match neighbours.turn(&answer.root, ask).await {
            Whose::Ours(ticket) => return Err(Some(ticket)),
            Whose::Theirs(theirs) => theirs,
        };
        if !theirs.is_here() {
            let (asked, wait) = (
                Instant::now(),
                latest.saturating_duration_since(Instant::now()).min(ANSWER),
            );
            match neighbours.wait_for(&answer.root, theirs, wait).await {
                Some(true) => {}
                // Asked again, it may be our turn.
                Some(false) => {
                    gave_up += 1;
                    continue;
                }
                None if Instant::now() < latest => {
                    // No answer before its time: it went away, or does not speak as it should.
                    gave_up += usize::from(asked.elapsed() < wait);
                    continue;
                }
                None => {
                    debug!(name = package.name, "a neighbour does not bring it in time");
                    neighbours.note(theirs, Manner::Owes);
                    return Err(None);
                }
            }
        }
        return taken(node, answer, package, (theirs, until)).await.ok_or(None);
    }
    Err(None)
}

/// Takes it from the neighbour that has it, and from others that do.
async fn taken(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    (theirs, until): (Theirs, Instant),
) -> Option<Cid> {
    let hints = peers::hints(node, answer, package).await;
    let enough = Instant::now() + GIVE + Duration::from_secs(answer.len / SECOND);
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
