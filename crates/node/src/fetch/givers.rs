//! Who brought the verified bytes of which file lately: for receipts only.
//!
//! - Invariant: at most [`FILES`] files with [`EACH`] givers each; the oldest file is forgotten first.
//! - Not here: receipts (`crate::receipts`).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use cid::Cid;
use pacstore_net::PeerId;
use pacstore_store::Origin;
use url::Url;

use crate::receipts::Giver;

/// Files remembered.
const FILES: usize = 256;

/// Givers of one file; what more of them brought is counted under no name.
const EACH: usize = 16;

/// The files that came lately, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Givers(Mutex<VecDeque<(Cid, Vec<Giver>)>>);

impl Givers {
    /// A peer brought `bytes` of `root`.
    pub(crate) fn peer(&self, root: &Cid, peer: &PeerId, origin: Origin, bytes: u64) {
        self.add(root, peer.to_string(), origin, bytes);
    }

    /// The mirror that `url` is on brought `bytes` of `root`.
    pub(crate) fn mirror(&self, root: &Cid, url: &Url, bytes: u64) {
        // No user, no password, no path.
        let host = url.host_str().unwrap_or("?");
        let who = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        self.add(root, who, Origin::Upstream, bytes);
    }

    fn add(&self, root: &Cid, who: String, origin: Origin, bytes: u64) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = files.iter().rposition(|(of, _)| of == root);
        let at = at.unwrap_or_else(|| {
            if files.len() >= FILES {
                files.pop_front();
            }
            files.push_back((*root, Vec::new()));
            files.len() - 1
        });
        let Some((_, givers)) = files.get_mut(at) else {
            return;
        };
        if let Some(giver) = givers.iter_mut().find(|giver| giver.who == who) {
            giver.bytes += bytes;
        } else if givers.len() < EACH {
            givers.push(Giver::new(who, origin, bytes));
        }
    }

    /// Who brought `root`, as far as it is remembered.
    pub(crate) fn of(&self, root: &Cid) -> Vec<Giver> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.iter().rev().find(|(of, _)| of == root);
        found.map(|(_, givers)| givers.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use pacstore_dag as dag;

    use super::*;

    #[test]
    fn files_and_givers_are_bounded_and_bytes_of_one_giver_add_up() {
        let givers = Givers::default();
        let root = |n: usize| dag::raw_cid(dag::HashKind::Sha2_256, &n.to_le_bytes());
        let url = |n: usize| Url::parse(&format!("http://user:secret@m{n}.test:81/a/b")).expect("a URL");
        for n in 0..=FILES {
            givers.mirror(&root(n), &url(0), 1);
        }
        assert_eq!(givers.of(&root(0)), []);
        for n in 0..EACH * 2 {
            givers.mirror(&root(FILES), &url(n), 2);
        }
        let of = givers.of(&root(FILES));
        assert_eq!(of.len(), EACH);
        assert_eq!(
            (&*of[0].who, of[0].bytes, &*of[0].source),
            ("m0.test:81", 3, "upstream")
        );
    }
}
