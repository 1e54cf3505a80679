//! Who is sooner, peers or a mirror: by what is under way from each, and by how fast each has shown to be.
//!
//! Peers go first. Where they are busy, a mirror that has nothing to do is sooner, and three lines bring more than two; where
//! the mirror is the busier one, more that is asked of it waits there while the peers have nothing to do.
//!
//! - Invariant: who was never measured is tried: peers at once, a mirror where it would be sooner if it gave [`GUESS`].
//! - Not here: sources that are late or fail (`super::plan`, `super::small`), which mirror is best (`pacstore-upstream`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pacstore_bitswap::Session;
use pacstore_net::{Net, PeerId};
use url::Url;

use super::Inner;

/// What a mirror is taken to give before it was measured, in bytes a second.
const GUESS: f64 = 8.0 * 1_048_576.0;

/// A neighbour that gives a block within this time is fast enough.
const SLOW: Duration = Duration::from_millis(100);

/// Bytes that are asked and not here, for all downloads.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    peers: Arc<AtomicU64>,
    mirrors: Arc<AtomicU64>,
}

/// Bytes that are under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    bytes: u64,
    of: Arc<AtomicU64>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Balance {
    /// So many bytes are asked of peers.
    pub(crate) fn of_peers(&self, bytes: u64) -> UnderWay {
        Self::add(&self.peers, bytes)
    }

    /// So many bytes are asked of a mirror.
    pub(crate) fn of_mirror(&self, bytes: u64) -> UnderWay {
        Self::add(&self.mirrors, bytes)
    }

    fn add(of: &Arc<AtomicU64>, bytes: u64) -> UnderWay {
        of.fetch_add(bytes, Ordering::Relaxed);
        UnderWay {
            bytes,
            of: Arc::clone(of),
        }
    }

    /// How long `bytes` take from a mirror of this rate (if it was measured) and latency, in seconds.
    fn mirror_takes(&self, bytes: u64, (rate, latency): (Option<f64>, Duration)) -> f64 {
        until(&self.mirrors, bytes, rate.unwrap_or(GUESS)) + latency.as_secs_f64()
    }

    fn is_mirror_sooner(&self, bytes: u64, peers: f64, mirror: (Option<f64>, Duration)) -> bool {
        self.mirror_takes(bytes, mirror) < until(&self.peers, bytes, peers)
    }

    fn are_peers_sooner(&self, bytes: u64, peers: f64, mirror: (Option<f64>, Duration)) -> bool {
        0 < self.mirrors.load(Ordering::Relaxed)
            && until(&self.peers, bytes, peers) < self.mirror_takes(bytes, mirror)
    }

    fn is_slow(&self, bytes: u64, neighbour: f64, mirror: (Option<f64>, Duration)) -> bool {
        let here = until(&self.peers, bytes, neighbour);
        SLOW.as_secs_f64() < here && 1.5 * self.mirror_takes(bytes, mirror) < here
    }
}

/// Seconds until `bytes` more are here at `rate`.
fn until(under_way: &AtomicU64, bytes: u64, rate: f64) -> f64 {
    (under_way.load(Ordering::Relaxed) + bytes) as f64 / rate.max(1.0)
}

/// Whether the best mirror would bring `bytes` sooner than the peers of `session`. Never where the line has no room for it:
/// it would take from it what the peers lose.
pub(crate) fn is_mirror_sooner(inner: &Inner, session: &Session, mirrors: &[Url], bytes: u64) -> bool {
    let rate = |net: &Net| net.bitswap().rate(&session.peers());
    let (Some(mirror), Some(peers)) = (best(inner, mirrors), inner.net.as_ref().and_then(rate)) else {
        return false;
    };
    inner.balance.is_mirror_sooner(bytes, peers, mirror)
}

/// Whether `peers` would bring `bytes` sooner than the mirror `url`, which has others under way.
pub(crate) fn are_peers_sooner(inner: &Inner, peers: &[PeerId], url: &Url, bytes: u64) -> bool {
    let Some(rate) = inner.net.as_ref().and_then(|net| net.bitswap().rate(peers)) else {
        return false;
    };
    let known = inner.http.mirrors();
    let mirror = known.rate(url).map(|rate| rate as f64);
    let latency = known.latency(url).unwrap_or_default();
    inner.balance.are_peers_sooner(bytes, rate, (mirror, latency))
}

/// Whether `neighbours` are so slow that the best mirror and all other peers had better help with `bytes` that one of them has.
/// What a LAN has is not asked outside for a moment's sake: see [`SLOW`].
pub(crate) fn are_neighbours_slow(inner: &Inner, neighbours: &[PeerId], mirrors: &[Url], bytes: u64) -> bool {
    let (Some(net), Some(mirror)) = (&inner.net, best(inner, mirrors)) else {
        return false;
    };
    let rate = net.bitswap().rate(neighbours);
    rate.is_some_and(|rate| inner.balance.is_slow(bytes, rate, mirror))
}

/// Whether the best of `mirrors` may bring something beside the peers.
pub(crate) fn may_mirrors_help(inner: &Inner, mirrors: &[Url]) -> bool {
    best(inner, mirrors).is_some()
}

/// What the best mirror gives, and its latency; `None` if no mirror is worth asking.
fn best(inner: &Inner, mirrors: &[Url]) -> Option<(Option<f64>, Duration)> {
    let url = mirrors.first()?;
    let known = inner.http.mirrors();
    let rate = known.rate(url).map(|rate| rate as f64);
    let worth = !known.is_paused(url) && inner.line.has_room_for(rate);
    worth.then(|| (rate, known.latency(url).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PEERS: f64 = 10e6;

    #[test]
    fn a_mirror_helps_busy_peers_and_leaves_idle_ones_alone() {
        let balance = Balance::default();
        let mirror = |rate: f64| (Some(rate), Duration::from_millis(10));
        assert!(
            !balance.is_mirror_sooner(MIB, PEERS, mirror(5e6)),
            "slower than idle peers"
        );
        let busy = [balance.of_peers(MIB), balance.of_peers(MIB)];
        assert!(balance.is_mirror_sooner(MIB, PEERS, mirror(5e6)));
        assert!(
            !balance.is_mirror_sooner(MIB, PEERS, mirror(1e6)),
            "a slow one is no help"
        );
        assert!(
            !balance.is_mirror_sooner(MIB, 100.0 * PEERS, mirror(5e6)),
            "a LAN is faster still"
        );
        let its = balance.of_mirror(2 * MIB);
        assert!(
            !balance.is_mirror_sooner(MIB, PEERS, mirror(5e6)),
            "it is busy itself"
        );
        drop((busy, its));
        assert!(
            !balance.is_mirror_sooner(MIB, PEERS, mirror(5e6)),
            "nothing is under way any more"
        );
    }

    #[test]
    fn a_busy_mirror_leaves_the_next_leaf_to_peers_that_are_sooner() {
        let balance = Balance::default();
        let mirror = (Some(5e6), Duration::from_millis(10));
        assert!(
            !balance.are_peers_sooner(MIB, PEERS, mirror),
            "one that has nothing to do brings it beside them"
        );
        let _its = balance.of_mirror(MIB);
        assert!(balance.are_peers_sooner(MIB, PEERS, mirror));
        assert!(
            !balance.are_peers_sooner(MIB, 1e6, mirror),
            "slow peers are no help"
        );
        let _busy = [balance.of_peers(2 * MIB), balance.of_peers(2 * MIB)];
        assert!(
            !balance.are_peers_sooner(MIB, PEERS, mirror),
            "they are busier still"
        );
    }

    #[test]
    fn what_a_neighbour_has_is_asked_outside_only_where_it_is_slow() {
        let balance = Balance::default();
        let mirror = (Some(5e6), Duration::from_millis(10));
        assert!(!balance.is_slow(MIB, 5e6, mirror), "it is as fast as the mirror");
        let _busy = [balance.of_peers(MIB), balance.of_peers(MIB)];
        assert!(balance.is_slow(MIB, 5e6, mirror));
        assert!(!balance.is_slow(MIB, 50e6, mirror), "it is busy, and a LAN");
        let fast = (Some(500e6), Duration::ZERO);
        assert!(!balance.is_slow(MIB, 50e6, fast), "for a moment's sake");
    }

    #[test]
    fn a_mirror_that_nobody_measured_is_tried_behind_busy_peers() {
        let balance = Balance::default();
        let unknown = (None, Duration::ZERO);
        assert!(!balance.is_mirror_sooner(MIB, PEERS, unknown));
        let _busy = balance.of_peers(MIB);
        assert!(balance.is_mirror_sooner(MIB, PEERS, unknown));
    }
}
