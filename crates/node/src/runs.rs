//! One state for one pacman run: which head a client address stays with.
//!
//! pacman fetches a database, then minutes later the packages it names. If the head
//! moved in between, the packages might be gone. So a client address keeps the head
//! whose `.db` it last got, until it asks for a `.db` again or [`RUN`] passed.
//! A database and its signature on one connection are one pair.
//!
//! - Invariant: at most [`MAX_RUNS`] addresses are remembered; the oldest is forgotten first.
//! - Not here: whether the head is still on disk (`crate::mirror`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cid::Cid;

/// How long a client stays with a head after its last `.db`.
const RUN: Duration = Duration::from_secs(600);

/// Addresses remembered at once.
const MAX_RUNS: usize = 4096;

/// What a request is for, as far as the run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A `.db`: a run begins with the current head.
    Database,
    /// Anything else: the run goes on.
    Other,
}

/// Who asks for what of which mirror.
type Client = (IpAddr, String);

#[derive(Debug, Default)]
pub(crate) struct Runs {
    heads: Mutex<HashMap<Client, (Cid, Instant)>>,
}

impl Runs {
    /// The head that `client` is to be answered from.
    pub(crate) fn head(&self, client: IpAddr, mirror: &str, asked: Asked, current: Cid) -> Cid {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (client, mirror.to_owned());
        let now = Instant::now();
        match heads.get(&key) {
            Some((head, since)) if asked == Asked::Other && now.duration_since(*since) < RUN => *head,
            _ => {
                if asked == Asked::Database {
                    if heads.len() >= MAX_RUNS {
                        forget_oldest(&mut heads, now);
                    }
                    heads.insert(key, (current, now));
                } else {
                    heads.remove(&key);
                }
                current
            }
        }
    }

    /// Heads that some run stays with.
    pub(crate) fn in_use(&self) -> Vec<Cid> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads
            .values()
            .filter(|(_, since)| since.elapsed() < RUN)
            .map(|(head, _)| *head)
            .collect()
    }
}

fn forget_oldest(heads: &mut HashMap<Client, (Cid, Instant)>, now: Instant) {
    heads.retain(|_, (_, since)| now.duration_since(*since) < RUN);
    if heads.len() < MAX_RUNS {
        return;
    }
    if let Some(oldest) = heads
        .iter()
        .min_by_key(|(_, (_, since))| *since)
        .map(|(key, _)| key.clone())
    {
        heads.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn head(n: u8) -> Cid {
        pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &[n])
    }

    #[test]
    fn a_run_stays_with_the_head_of_its_database() {
        let runs = Runs::default();
        let me = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(runs.head(me, "a", Asked::Database, head(1)), head(1));
        assert_eq!(runs.head(me, "a", Asked::Other, head(2)), head(1));
        assert_eq!(
            runs.head(other, "a", Asked::Other, head(2)),
            head(2),
            "another address is another run"
        );
        assert_eq!(
            runs.head(me, "b", Asked::Other, head(2)),
            head(2),
            "another mirror is another run"
        );
        assert_eq!(
            runs.head(me, "a", Asked::Database, head(2)),
            head(2),
            "a new database begins a new run"
        );
        assert_eq!(runs.head(me, "a", Asked::Other, head(3)), head(2));
    }

    #[test]
    fn memory_is_bounded() {
        let runs = Runs::default();
        for n in 0..(MAX_RUNS as u32 + 50) {
            runs.head(IpAddr::V4(Ipv4Addr::from(n)), "a", Asked::Database, head(1));
        }
        assert!(runs.heads.lock().expect("not poisoned").len() <= MAX_RUNS);
    }
}
