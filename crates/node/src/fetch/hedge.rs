//! Peers first, mirrors beside them where that takes too long.
//!
//! - Invariant: a mirror is asked as soon as it is known that no peer gives it, and never before the peers had a start.
//! - Not here: how either is asked (`super::small`).

use std::future::Future;

use super::small::Got;

/// The first that succeeds; if both fail, what the mirrors said. They are asked once `late` is over, or as soon as
/// the peers have failed.
pub(super) async fn hedged(
    peers: impl Future<Output = Result<Got, String>>,
    late: impl Future<Output = ()>,
    mirrors: impl Future<Output = Result<Got, String>>,
) -> Result<Got, String> {
    tokio::pin!(peers);
    tokio::pin!(mirrors);
    tokio::select! {
        first = &mut peers => match first {
            Ok(small) => return Ok(small),
            Err(_) => return mirrors.await,
        },
        () = late => {}
    }
    tokio::select! {
        first = &mut peers => match first { Ok(small) => Ok(small), Err(_) => mirrors.await },
        first = &mut mirrors => match first { Ok(small) => Ok(small), Err(why) => peers.await.map_err(|_| why) },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use pacstore_store::Origin;
    use tokio::time::Instant;

    use super::super::small::HEAD_START;
    use super::*;

    fn got(origin: Origin) -> Got {
        let data = Bytes::from_static(b"it");
        Got { data, origin }
    }

    /// How it ended, and when the mirrors were asked, in milliseconds of a clock that moves only by waiting.
    async fn hedge(
        peers: impl Future<Output = Result<Got, String>>,
        mirrors: Result<Got, String>,
    ) -> (Result<Origin, String>, Option<u128>) {
        let began = Instant::now();
        let mut asked = None;
        let late = tokio::time::sleep(HEAD_START);
        let ended = hedged(peers, late, async {
            asked = Some(began.elapsed().as_millis());
            mirrors
        });
        let ended = ended.await.map(|got| got.origin);
        (ended, asked)
    }

    async fn after(ms: u64, answer: Result<Got, String>) -> Result<Got, String> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_is_asked_at_once_when_no_peer_has_it_and_a_little_later_when_none_answers() {
        let no = || Err("nobody has it".to_owned());
        let dont_have = hedge(after(3, no()), Ok(got(Origin::Upstream))).await;
        assert_eq!(dont_have, (Ok(Origin::Upstream), Some(3)));
        let silent = hedge(std::future::pending(), Ok(got(Origin::Upstream))).await;
        assert_eq!(silent, (Ok(Origin::Upstream), Some(HEAD_START.as_millis())));
        let quick = hedge(after(3, Ok(got(Origin::Lan))), Ok(got(Origin::Upstream))).await;
        assert_eq!(quick, (Ok(Origin::Lan), None), "nobody else is asked");
        let slow = hedge(after(900, Ok(got(Origin::Lan))), no()).await;
        assert_eq!(slow, (Ok(Origin::Lan), Some(HEAD_START.as_millis())));
        let none = hedge(after(3, no()), Err("404".to_owned())).await;
        assert_eq!(none, (Err("404".to_owned()), Some(3)));
    }
}
