//! Peers first, mirrors beside them where that takes too long; or the other way round.
//!
//! - Invariant: who is second is asked as soon as it is known that the first give it not, and never before those had a start.
//! - Not here: how either is asked (`super::small`).

use std::future::Future;

use super::small::Got;

/// The first of peers and mirrors that succeeds; if both fail, what the mirrors said. Mirrors are asked once `late` is over,
/// or as soon as the peers have failed.
pub(super) async fn hedged(
    peers: impl Future<Output = Result<Got, String>>,
    late: impl Future<Output = ()>,
    mirrors: impl Future<Output = Result<Got, String>>,
) -> Result<Got, String> {
    one_then_both(peers, late, mirrors, |_, mirrors| mirrors).await
}

/// The same with mirrors in front, which the peers are too busy to be sooner than.
pub(super) async fn mirrors_first(
    mirrors: impl Future<Output = Result<Got, String>>,
    late: impl Future<Output = ()>,
    peers: impl Future<Output = Result<Got, String>>,
) -> Result<Got, String> {
    one_then_both(mirrors, late, peers, |mirrors, _| mirrors).await
}

/// The second is asked once `late` is over, or as soon as the first has failed. If both fail, `told` of what they said.
async fn one_then_both(
    first: impl Future<Output = Result<Got, String>>,
    late: impl Future<Output = ()>,
    second: impl Future<Output = Result<Got, String>>,
    told: fn(String, String) -> String,
) -> Result<Got, String> {
    tokio::pin!(first);
    tokio::pin!(second);
    let ended = tokio::select! {
        ended = &mut first => ended,
        () = late => tokio::select! {
            ended = &mut first => ended,
            ended = &mut second => return match ended {
                Ok(got) => Ok(got),
                Err(that) => first.await.map_err(|this| told(this, that)),
            },
        },
    };
    match ended {
        Ok(got) => Ok(got),
        Err(this) => second.await.map_err(|that| told(this, that)),
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

    #[tokio::test]
    async fn peers_make_up_for_mirrors_and_it_is_said_what_the_mirrors_said() {
        let failed = |why: &str| -> Result<Got, String> { Err(why.to_owned()) };
        let never = std::future::pending::<()>;
        for (mirrors, peers, expected) in [
            (Ok(got(Origin::Upstream)), failed("b"), Ok(Origin::Upstream)),
            (failed("a"), Ok(got(Origin::Peer)), Ok(Origin::Peer)),
            (failed("a"), failed("b"), Err("a".to_owned())),
        ] {
            let ended = mirrors_first(after(1, mirrors), never(), after(1, peers)).await;
            assert_eq!(ended.map(|got| got.origin), expected);
        }
        let silent = std::future::pending();
        let ended = mirrors_first(silent, std::future::ready(()), after(1, Ok(got(Origin::Peer)))).await;
        assert_eq!(ended.map(|got| got.origin), Ok(Origin::Peer));
        let ended = mirrors_first(
            after(2, failed("a")),
            std::future::ready(()),
            after(1, failed("b")),
        )
        .await;
        assert_eq!(ended.map(|got| got.origin), Err("a".to_owned()));
    }
}
