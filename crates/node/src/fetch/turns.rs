//! What a fetch agrees with the machines of the same LAN before it asks outside.
//!
//! - Invariant: what a neighbour brings is never waited for longer than [`PATIENT`]; then we bring it.
//! - Not here: how they agree (`crate::neighbours`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cid::Cid;
use pacstore_store::Origin;
use tokio::time::Instant;

use super::job::Shared;
use super::plan::{LATE, SourceId};
use super::small::Got;
use super::{Inner, Sources, balance};
use crate::neighbours::{Theirs, Ticket, Whose};

/// How long neighbours are waited for in all. pacman waits ten seconds for a byte.
const PATIENT: Duration = Duration::from_secs(6);

/// A job's turns to bring leaves, by leaf.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<usize, Ticket>>);

impl Tickets {
    /// It is our turn to bring `leaf`; neighbours are told so until it is here or given back.
    pub(crate) fn hold(&self, leaf: usize, ticket: Ticket) {
        // One that goes is given up without the lock.
        let gone = match self.lock().entry(leaf) {
            Entry::Vacant(place) => {
                place.insert(ticket);
                None
            }
            // A second source of the leaf has no claim of its own: what neighbours were told for the first one stands.
            Entry::Occupied(_) if !ticket.is_claim() => Some(ticket),
            Entry::Occupied(mut place) => Some(place.insert(ticket)),
        };
        drop(gone);
    }

    /// `leaf` is on disk.
    pub(crate) fn done(&self, leaf: usize) {
        let ticket = self.lock().remove(&leaf);
        if let Some(ticket) = ticket {
            ticket.done();
        }
    }

    /// `leaf` is not brought after all.
    pub(crate) fn give_up(&self, leaf: usize) {
        let ticket = self.lock().remove(&leaf);
        drop(ticket);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of one leaf: from a neighbour that has or brings it, else from `outside`, with our ticket.
pub(crate) async fn small(
    inner: &Inner,
    root: &Cid,
    len: u64,
    sources: &Sources,
    outside: impl AsyncFnOnce() -> Result<Got, String>,
) -> (Result<Got, String>, Option<Ticket>) {
    let until = Instant::now() + PATIENT;
    while Instant::now() < until {
        match inner.neighbours.turn(root, sources.peers).await {
            Whose::Ours(ticket) => return (outside().await, Some(ticket)),
            Whose::Theirs(theirs) if is_slow(inner, theirs, sources, len) => break,
            Whose::Theirs(theirs) => {
                let under_way = inner.balance.of_peers(len);
                let data = inner.neighbours.take(root, theirs, (sources.peers, until)).await;
                drop(under_way);
                if let Some(data) = data.filter(|data| data.len() as u64 == len) {
                    let origin = Origin::Lan;
                    return (Ok(Got { data, origin }), None);
                }
            }
        }
    }
    (outside().await, None)
}

/// A neighbour has it, but its line is so slow that others should help.
fn is_slow(inner: &Inner, theirs: Theirs, sources: &Sources, len: u64) -> bool {
    let neighbours = || inner.neighbours.to_ask(sources.peers);
    theirs.is_here() && balance::are_neighbours_slow(inner, &neighbours(), &sources.upstreams, len)
}

/// Of the leaves `run` that `source` picked, the touching ones that it is to bring from outside. The
/// others come from neighbours, or are given back.
pub(crate) async fn ours(shared: &Arc<Shared>, source: SourceId, run: Vec<usize>) -> Vec<usize> {
    let neighbours = &shared.inner.neighbours;
    if run.is_empty() || !neighbours.any(shared.ask) {
        return run;
    }
    let cids: Vec<Cid> = run.iter().map(|leaf| shared.file.leaves[*leaf].cid).collect();
    let turns = neighbours.turns(&cids, shared.ask).await;
    let mut ours: Vec<usize> = Vec::new();
    for (leaf, turn) in run.into_iter().zip(turns) {
        shared.asked_now(leaf);
        let touches = ours.last().is_none_or(|last| last + 1 == leaf);
        match turn {
            Whose::Ours(ticket) if touches => {
                shared.tickets.hold(leaf, ticket);
                ours.push(leaf);
            }
            Whose::Theirs(theirs)
                if touches
                    && is_slow(
                        &shared.inner,
                        theirs,
                        &shared.sources,
                        shared.file.leaves[leaf].len,
                    ) =>
            {
                ours.push(leaf);
            }
            Whose::Ours(_) => shared.give_back(leaf, source),
            Whose::Theirs(theirs) => {
                // Where many are waited for, this source waits too.
                let Some(place) = neighbours.place().await else {
                    shared.give_back(leaf, source);
                    continue;
                };
                let of_task = Arc::clone(shared);
                shared.inner.tasks.spawn("fetch/neighbour", async move {
                    take(&of_task, source, leaf, theirs).await;
                    drop(place);
                });
            }
        }
    }
    ours
}

/// A leaf from a neighbour; given back if it does not come.
pub(crate) async fn take(shared: &Arc<Shared>, source: SourceId, leaf: usize, theirs: Theirs) {
    let wanted = shared.file.leaves[leaf];
    let until = Instant::now() + PATIENT;
    let _under_way = shared.inner.balance.of_peers(wanted.len);
    let taking = shared
        .inner
        .neighbours
        .take(&wanted.cid, theirs, (shared.ask, until));
    tokio::pin!(taking);
    let got = loop {
        tokio::select! {
            () = shared.stop.cancelled() => break None,
            () = shared.arrived(leaf) => break None,
            got = &mut taking => break got,
            // A neighbour that brings it is no late source: nobody else should.
            () = tokio::time::sleep(LATE / 4) => shared.asked_now(leaf),
        }
    };
    match got.map(|block| super::peers::file_bytes(&wanted, &block)) {
        Some(Some(data)) => shared.keep(leaf, data, Origin::Lan).await,
        Some(None) => shared.is_contradicted_by(leaf),
        None => {}
    }
    shared.give_back(leaf, source);
}

#[cfg(test)]
mod tests {
    use pacstore_dag as dag;

    use super::*;
    use crate::fetch::AskPeers;
    use crate::neighbours::Neighbours;

    #[tokio::test]
    async fn a_second_source_of_a_leaf_gives_nothing_up() {
        let neighbours = Neighbours::new(None);
        let cid = dag::raw_cid(dag::HashKind::Sha2_256, b"leaf");
        let tickets = Tickets::default();
        for source in ["the first", "one that is asked because the first is late"] {
            let Whose::Ours(ticket) = neighbours.turn(&cid, AskPeers::Everyone).await else {
                panic!("{source}: there is no neighbour");
            };
            tickets.hold(7, ticket);
            assert!(neighbours.is_bringing(&cid), "{source}");
        }
        tickets.done(7);
        assert!(!neighbours.is_bringing(&cid));
    }
}
