//! One state for one pacman run: which head a client address stays with.
//!
//! pacman fetches a database, then minutes later the packages it names. If the head
//! moved in between, the packages might be gone. So a client address keeps the head
//! whose `.db` it last got, until it asks for a `.db` again or [`RUN`] passed.
//! A database and its signature on one connection are one pair.
//!
//! - Invariant: at most [`MAX_RUNS`] addresses and as many connections are remembered; the
//!   oldest is forgotten first.
//! - Not here: whether the head is still on disk (`crate::mirror`).

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cid::Cid;

use crate::serve::Client;

/// How long a client stays with a head after its last `.db`.
const RUN: Duration = Duration::from_mins(10);

/// Addresses remembered at once.
const MAX_RUNS: usize = 4096;

/// What a request is for, as far as the run goes. Paths are those of the `.db`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A `.db`: a run begins with the current head.
    Database(Vec<u8>),
    /// Its signature: from the head of the `.db` that this connection got.
    Signature(Vec<u8>),
    /// Anything else: the run goes on.
    Other,
}

/// Which address asks for what of which mirror.
type Run = (IpAddr, String);

/// Which connection got which database of which mirror.
type Pair = (u64, String, Vec<u8>);

#[derive(Debug, Default)]
pub(crate) struct Runs {
    heads: Mutex<HashMap<Run, (Cid, Instant)>>,
    pairs: Mutex<HashMap<Pair, (Cid, Instant)>>,
}

impl Runs {
    /// The head that `client` is to be answered from.
    pub(crate) fn head(&self, client: Client, mirror: &str, asked: &Asked, current: Cid) -> Cid {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let run = (client.address, mirror.to_owned());
        let now = Instant::now();
        match asked {
            Asked::Database(path) => {
                remember(&mut heads, run, current, now);
                let pair = (client.connection, mirror.to_owned(), path.clone());
                remember(&mut pairs, pair, current, now);
                return current;
            }
            Asked::Signature(path) => {
                let pair = (client.connection, mirror.to_owned(), path.clone());
                if let Some((head, _)) = in_force(&pairs, &pair, now) {
                    return head;
                }
            }
            Asked::Other => {}
        }
        in_force(&heads, &run, now).map_or(current, |(head, _)| head)
    }

    /// A run of `client` with a database of `mirror` is under way.
    pub(crate) fn begun(&self, client: Client, mirror: &str) -> bool {
        self.run(client, mirror).is_some()
    }

    /// The head of the run of `client` that is under way, and since when.
    pub(crate) fn run(&self, client: Client, mirror: &str) -> Option<(Cid, Instant)> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let run = (client.address, mirror.to_owned());
        in_force(&heads, &run, Instant::now())
    }

    /// `client` gets its database elsewhere now.
    pub(crate) fn end(&self, client: Client, mirror: &str) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.remove(&(client.address, mirror.to_owned()));
    }

    /// Heads that some run stays with.
    pub(crate) fn in_use(&self) -> Vec<Cid> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        heads
            .values()
            .chain(pairs.values())
            .filter(|(_, since)| since.elapsed() < RUN)
            .map(|(head, _)| *head)
            .collect()
    }
}

/// The head, and since when.
fn in_force<K: Hash + Eq>(
    known: &HashMap<K, (Cid, Instant)>,
    key: &K,
    now: Instant,
) -> Option<(Cid, Instant)> {
    let found = *known.get(key)?;
    (now.duration_since(found.1) < RUN).then_some(found)
}

fn remember<K: Hash + Eq + Clone>(known: &mut HashMap<K, (Cid, Instant)>, key: K, head: Cid, now: Instant) {
    if known.len() >= MAX_RUNS && !known.contains_key(&key) {
        forget_oldest(known, now);
    }
    known.insert(key, (head, now));
}

fn forget_oldest<K: Hash + Eq + Clone>(known: &mut HashMap<K, (Cid, Instant)>, now: Instant) {
    known.retain(|_, (_, since)| now.duration_since(*since) < RUN);
    if known.len() < MAX_RUNS {
        return;
    }
    let oldest = known.iter().min_by_key(|(_, (_, since))| *since);
    if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
        known.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn head(n: u8) -> Cid {
        pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &[n])
    }

    fn client(last: u32, connection: u64) -> Client {
        let address = IpAddr::V4(Ipv4Addr::from(0x7f00_0000 + last));
        Client { address, connection }
    }

    fn db() -> Asked {
        Asked::Database(b"core.db".to_vec())
    }

    #[test]
    fn a_run_stays_with_the_head_of_its_database() {
        let runs = Runs::default();
        let (me, other) = (client(1, 1), client(2, 2));
        assert_eq!(runs.head(me, "a", &db(), head(1)), head(1));
        assert_eq!(runs.head(me, "a", &Asked::Other, head(2)), head(1));
        let elsewhere = runs.head(other, "a", &Asked::Other, head(2));
        assert_eq!(elsewhere, head(2), "another address is another run");
        let elsewhere = runs.head(me, "b", &Asked::Other, head(2));
        assert_eq!(elsewhere, head(2), "another mirror is another run");
        let anew = runs.head(me, "a", &db(), head(2));
        assert_eq!(anew, head(2), "a new database begins a new run");
        assert_eq!(runs.head(me, "a", &Asked::Other, head(3)), head(2));
    }

    #[test]
    fn a_signature_belongs_to_the_database_of_its_own_connection() {
        let runs = Runs::default();
        let signature = Asked::Signature(b"core.db".to_vec());
        runs.head(client(1, 1), "a", &db(), head(1));
        // The head moves, and another pacman at the same address begins.
        runs.head(client(1, 2), "a", &db(), head(2));
        assert_eq!(runs.head(client(1, 1), "a", &signature, head(2)), head(1));
        assert_eq!(runs.head(client(1, 2), "a", &signature, head(3)), head(2));
        assert_eq!(runs.head(client(1, 3), "a", &signature, head(3)), head(2));
    }

    #[test]
    fn memory_is_bounded() {
        let runs = Runs::default();
        for n in 0..(MAX_RUNS as u32 + 50) {
            runs.head(client(n, u64::from(n)), "a", &db(), head(1));
        }
        assert!(runs.heads.lock().expect("not poisoned").len() <= MAX_RUNS);
        assert!(runs.pairs.lock().expect("not poisoned").len() <= MAX_RUNS);
    }
}
