//! A block goes from one node to another through both swarms.

use std::sync::Arc;

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

#[tokio::test]
async fn a_block_is_fetched_over_tcp() -> TestResult {
    fetched_over(TCP).await
}

#[tokio::test]
async fn a_block_is_fetched_over_quic() -> TestResult {
    fetched_over(QUIC).await
}
