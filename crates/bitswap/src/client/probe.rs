//! Who has a block: HAVE asked of all peers of a session, without taking it.
//!
//! - Invariant: a probe ends when each asked peer has answered or is gone, or when its owner ends it.

use cid::Cid;
use libp2p::PeerId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Client, Key, SessionId};
use crate::wire::WantKind;

/// Somebody waits to hear who has a block.
#[derive(Debug)]
pub(super) struct Probe {
    id: u64,
    cid: Cid,
    asked: Vec<PeerId>,
    waiting: Vec<PeerId>,
    have: Vec<PeerId>,
    done: Option<oneshot::Sender<()>>,
}

impl Client {
    pub(crate) fn probe(
        &mut self,
        session: SessionId,
        cid: Cid,
        now: Instant,
    ) -> (u64, oneshot::Receiver<()>) {
        let (done, rx) = oneshot::channel();
        let id = self.number();
        let key = *cid.hash();
        let mut probe = Probe {
            id,
            cid,
            asked: Vec::new(),
            waiting: Vec::new(),
            have: Vec::new(),
            done: Some(done),
        };
        for peer in self.session_peers(session) {
            if self.usable(&peer)
                && let Some(remote) = self.peers.get_mut(&peer)
                && remote.presences
                && remote.ask(cid, WantKind::Have, 0, now)
            {
                probe.asked.push(peer);
                probe.waiting.push(peer);
            }
        }
        probe.settle();
        self.probes.entry(key).or_default().push(probe);
        (id, rx)
    }

    /// Ends a probe: who said that it has the block.
    pub(crate) fn end_probe(&mut self, key: &Key, id: u64, now: Instant) -> Vec<PeerId> {
        let Some(probes) = self.probes.get_mut(key) else {
            return Vec::new();
        };
        let Some(at) = probes.iter().position(|probe| probe.id == id) else {
            return Vec::new();
        };
        let probe = probes.swap_remove(at);
        let others = !probes.is_empty();
        if !others {
            self.probes.remove(key);
        }
        let want = self.wants.get(probe.cid.hash());
        for peer in &probe.waiting {
            let needed = others || want.is_some_and(|w| w.asked_from(peer) || w.probed.contains(peer));
            if !needed && let Some(remote) = self.peers.get_mut(peer) {
                remote.cancel(key, now);
            }
        }
        self.recent.insert(*key);
        probe.have
    }
}

impl Probe {
    pub(super) fn answer(&mut self, peer: &PeerId, have: bool) {
        if let Some(at) = self.waiting.iter().position(|p| p == peer) {
            self.waiting.swap_remove(at);
            if have {
                self.have.push(*peer);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        if self.waiting.is_empty()
            && let Some(done) = self.done.take()
        {
            let _: Result<(), ()> = done.send(());
        }
    }
}
