//! The LAN DHT among three nodes in a line: the ends know only the middle.

use std::time::Duration;

use pacstore_dag::{HashKind, raw_cid};
use pacstore_names::SigningKey;
use pacstore_net::{DhtMode, Provider};

use crate::support::{DEADLINE, Node, TestResult, config, join, record, start};

/// How long is looked for what nobody has.
const SHORT: Duration = Duration::from_secs(5);

/// Three nodes; the first and the last are connected to the one in the middle.
async fn line() -> (Node, Node, Node) {
    let (mut first, mut middle, mut last) = (start(config()), start(config()), start(config()));
    join(&mut first, &mut middle).await;
    join(&mut last, &mut middle).await;
    (first, middle, last)
}

/// Asks again until somebody is found: the announcement is under way.
async fn providers(node: &Node, cid: &pacstore_dag::Cid) -> Vec<Provider> {
    let searching = async {
        loop {
            let found = node
                .net
                .find_providers(cid, 8, Duration::from_secs(5))
                .await
                .unwrap();
            if !found.is_empty() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, searching)
        .await
        .expect("a provider is found in time")
}

#[tokio::test]
async fn a_record_put_at_one_end_is_found_at_the_other() -> TestResult {
    let (first, middle, last) = line().await;
    let key = SigningKey::from_seed([11; 32]);
    let name = key.name();
    let published = first.net.publish_record(&name, record(&key, 3).bytes()).await?;
    assert!(published.stored >= 1, "{published:?}");
    let found = last.net.find_record(&name, Duration::from_secs(20)).await?;
    assert_eq!(found.len(), 1, "one record, however many hold it");
    assert_eq!(found[0].record.sequence(), 3);
    assert!(
        middle
            .net
            .fetch_record(first.net.peer_id(), &name)
            .await?
            .is_some()
    );
    Ok(())
}

#[tokio::test]
async fn a_record_published_alone_reaches_the_dht_peer_that_comes_later() -> TestResult {
    let (mut first, mut middle, mut last) = (start(config()), start(config()), start(config()));
    let key = SigningKey::from_seed([12; 32]);
    let name = key.name();
    assert_eq!(
        first
            .net
            .publish_record(&name, record(&key, 1).bytes())
            .await?
            .stored,
        0
    );
    join(&mut first, &mut middle).await;
    join(&mut last, &mut middle).await;
    let searching = async {
        while last
            .net
            .find_record(&name, Duration::from_secs(5))
            .await
            .unwrap()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, searching).await?;
    Ok(())
}

#[tokio::test]
async fn a_provider_is_found_with_an_address_that_can_be_dialled() -> TestResult {
    let (first, _middle, last) = line().await;
    let cid = raw_cid(HashKind::Sha2_256, b"a tree root");
    first.net.provide(&cid).await?;
    let found = providers(&last, &cid).await;
    assert_eq!(
        found.iter().map(|one| one.id).collect::<Vec<_>>(),
        [first.net.peer_id()]
    );
    last.net.connect(found[0].id, found[0].addresses.clone()).await?;
    assert!(last.net.peer(&first.net.peer_id()).is_some());
    Ok(())
}

#[tokio::test]
async fn what_is_provided_alone_is_told_to_the_peer_that_comes_later() -> TestResult {
    let (mut first, mut middle, mut last) = (start(config()), start(config()), start(config()));
    let cid = raw_cid(HashKind::Sha2_256, b"provided before anybody came");
    first.net.provide(&cid).await?;
    join(&mut first, &mut middle).await;
    join(&mut last, &mut middle).await;
    assert_eq!(providers(&last, &cid).await[0].id, first.net.peer_id());
    Ok(())
}

#[tokio::test]
async fn nothing_is_announced_that_was_not_asked_for() -> TestResult {
    let (first, middle, last) = line().await;
    let key = SigningKey::from_seed([13; 32]);
    first.net.set_record(&key.name(), record(&key, 1).bytes())?;
    let cid = raw_cid(HashKind::Sha2_256, b"never provided");
    assert!(
        last.net
            .find_providers(&cid, 8, Duration::from_secs(10))
            .await?
            .is_empty()
    );
    first.net.provide(&cid).await?;
    first.net.stop_providing(&cid).await?;
    assert!(middle.net.peers().len() >= 2);
    Ok(())
}

#[tokio::test]
async fn who_gives_nothing_announces_nothing_answers_no_name_and_finds_all_the_same() -> TestResult {
    let mut silent = config();
    silent.dht = DhtMode::Server;
    silent.shares_back = false;
    let (mut silent, mut middle, mut asker) = (start(silent), start(config()), start(config()));
    join(&mut silent, &mut middle).await;
    join(&mut asker, &mut middle).await;
    let (own, other) = (SigningKey::from_seed([41; 32]), SigningKey::from_seed([42; 32]));
    let cid = raw_cid(HashKind::Sha2_256, b"nobody learns that it is there");
    silent.net.provide(&cid).await?;
    let published = silent
        .net
        .publish_record(&own.name(), record(&own, 1).bytes())
        .await?;
    assert_eq!(published.stored, 0);
    assert_eq!(asker.net.find_providers(&cid, 8, SHORT).await?, []);
    join(&mut asker, &mut silent).await;
    let told = asker.net.fetch_record(silent.net.peer_id(), &own.name()).await?;
    assert!(told.is_none(), "{told:?}");
    assert_eq!(asker.net.find_record(&own.name(), SHORT).await?.len(), 0);
    // What others have it finds, and it serves no DHT.
    middle
        .net
        .publish_record(&other.name(), record(&other, 1).bytes())
        .await?;
    assert_eq!(silent.net.find_record(&other.name(), SHORT).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn with_the_dht_off_looking_ends_at_once_with_nothing() -> TestResult {
    let mut off = config();
    off.dht = DhtMode::Off;
    let (mut here, mut there) = (start(off), start(config()));
    join(&mut here, &mut there).await;
    let cid = raw_cid(HashKind::Sha2_256, b"nowhere");
    let looking = here.net.find_providers(&cid, 8, DEADLINE);
    assert!(
        tokio::time::timeout(Duration::from_secs(5), looking)
            .await??
            .is_empty()
    );
    Ok(())
}

#[tokio::test]
async fn a_client_finds_without_keeping_anything_for_others() -> TestResult {
    let mut client = config();
    client.dht = DhtMode::Client;
    let (mut first, mut middle, mut client) = (start(config()), start(config()), start(client));
    join(&mut first, &mut middle).await;
    join(&mut client, &mut middle).await;
    let key = SigningKey::from_seed([14; 32]);
    let published = first
        .net
        .publish_record(&key.name(), record(&key, 1).bytes())
        .await?;
    assert_eq!(published.stored, 1, "only the middle keeps it");
    assert_eq!(
        client
            .net
            .find_record(&key.name(), Duration::from_secs(20))
            .await?
            .len(),
        1
    );
    Ok(())
}
