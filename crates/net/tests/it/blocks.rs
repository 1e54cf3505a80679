//! A block goes from one node to another through both swarms.

use std::sync::Arc;
use std::time::Duration;

use pacstore_bitswap::SessionOptions;
use pacstore_dag::{HashKind, raw_cid};

use crate::support::{Memory, QUIC, TCP, TestResult, config, join, start, start_with};

async fn fetched_over(listen: &str) -> TestResult {
    let data: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let mut seed = config();
    seed.listen = vec![listen.parse()?];
    let blocks: Arc<Memory> = Memory::with(&[(cid, data.clone())]);
    let (mut seed, mut client) = (start_with(seed, blocks), start(config()));
    join(&mut client, &mut seed).await;
    let session = client
        .net
        .bitswap()
        .session(SessionOptions::with_peers([seed.net.peer_id()]));
    let got = session.get(cid).await?;
    assert_eq!(got.from, seed.net.peer_id());
    assert!(got.data == data);
    Ok(())
}

/// The pings of a connection tell Bitswap how long a peer may be silent.
#[tokio::test]
async fn bitswap_is_told_how_far_away_a_peer_is() -> TestResult {
    let (mut seed, mut client) = (start(config()), start(config()));
    join(&mut client, &mut seed).await;
    for (own, other) in [(&client, &seed), (&seed, &client)] {
        let options = SessionOptions::with_peers([other.net.peer_id()]);
        let session = own.net.bitswap().session(options);
        let measured = async {
            loop {
                if let Some(round_trip) = session.stats()[0].round_trip {
                    return round_trip;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Long before the second ping.
        let round_trip = tokio::time::timeout(Duration::from_secs(10), measured).await?;
        assert!(round_trip < Duration::from_secs(5), "{round_trip:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_block_is_fetched_over_tcp() -> TestResult {
    fetched_over(TCP).await
}

#[tokio::test]
async fn a_block_is_fetched_over_quic() -> TestResult {
    fetched_over(QUIC).await
}
