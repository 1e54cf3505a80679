//! Strangers in the DHT: what they put is checked, what they answer is checked, and they cannot
//! take the room of what is ours.

use std::time::{Duration, SystemTime};

use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryResult, Quorum, RecordKey};
use libp2p::swarm::SwarmEvent;
use pacstore_dag::{HashKind, raw_cid};
use pacstore_names::SigningKey;

use crate::support::{
    Stranger, StrangerBehaviourEvent, TestResult, beside, config, drive, join, meet, record, record_until,
    start, stranger,
};

/// Puts a value into the DHT as stock libp2p does, and waits until that is over.
async fn put(stranger: &mut Stranger, key: &[u8], value: &[u8]) {
    let record = kad::Record::new(key.to_vec(), value.to_vec());
    stranger
        .behaviour_mut()
        .kad
        .put_record(record, Quorum::One)
        .unwrap();
    drive(stranger, "the end of a put", |event| match event {
        SwarmEvent::Behaviour(StrangerBehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
            result: QueryResult::PutRecord(_),
            ..
        })) => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn values_that_do_not_verify_are_refused_when_they_are_put() -> TestResult {
    let (mut bad, _) = stranger().await;
    let (mut keeper, mut reader) = (start(config()), start(config()));
    meet(&mut bad, &mut keeper).await;
    let key = SigningKey::from_seed([21; 32]);
    let other = SigningKey::from_seed([22; 32]);
    let routing = key.name().routing_key();
    put(&mut bad, &routing, record(&key, 4).bytes()).await;
    put(&mut bad, &routing, b"junk").await;
    put(&mut bad, &routing, record(&other, 9).bytes()).await;
    put(&mut bad, &routing, record(&key, 3).bytes()).await;
    put(
        &mut bad,
        &routing,
        record_until(&key, 9, SystemTime::now() - Duration::from_secs(1)).bytes(),
    )
    .await;
    put(&mut bad, b"/pk/anything", b"junk").await;
    drop(bad);
    join(&mut reader, &mut keeper).await;
    let found = reader
        .net
        .find_record(&key.name(), Duration::from_secs(20))
        .await?;
    assert_eq!(
        found
            .iter()
            .map(|found| found.record.sequence())
            .collect::<Vec<_>>(),
        [4]
    );
    assert_eq!(
        found[0].from,
        keeper.net.peer_id(),
        "it was kept in the DHT by the node"
    );
    Ok(())
}

#[tokio::test]
async fn answers_that_do_not_verify_are_ignored_when_looking() -> TestResult {
    let (mut bad, _) = stranger().await;
    let mut node = start(config());
    meet(&mut bad, &mut node).await;
    let key = SigningKey::from_seed([23; 32]);
    let value = record(&SigningKey::from_seed([24; 32]), 99).bytes().to_vec();
    let lie = kad::Record::new(key.name().routing_key(), value);
    bad.behaviour_mut().kad.store_mut().put(lie)?;
    let name = key.name();
    let looking = node.net.find_record(&name, Duration::from_secs(10));
    assert!(beside(&mut bad, looking).await?.is_empty());
    Ok(())
}

/// More than the 1024 that libp2p's own store holds.
const FLOOD: usize = 1200;

/// Trap 11: with libp2p's own store our `start_providing` would fail with `MaxProvidedKeys`.
#[tokio::test]
async fn our_own_announcements_survive_a_flood_of_foreign_ones() -> TestResult {
    let (mut flood, _) = stranger().await;
    let (mut node, mut reader) = (start(config()), start(config()));
    meet(&mut flood, &mut node).await;
    for number in 0..FLOOD {
        let key = raw_cid(HashKind::Sha2_256, &number.to_be_bytes())
            .hash()
            .to_bytes();
        flood.behaviour_mut().kad.start_providing(RecordKey::from(key))?;
    }
    let mut done = 0;
    drive(&mut flood, "the end of the flood", |event| {
        if let SwarmEvent::Behaviour(StrangerBehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
            result: QueryResult::StartProviding(_),
            ..
        })) = event
        {
            done += 1;
        }
        (done == FLOOD).then_some(())
    })
    .await;
    drop(flood);
    let key = SigningKey::from_seed([25; 32]);
    let ours = raw_cid(HashKind::Sha2_256, b"ours");
    node.net.provide(&ours).await?;
    node.net.set_record(&key.name(), record(&key, 1).bytes())?;
    join(&mut reader, &mut node).await;
    let found = reader
        .net
        .find_providers(&ours, 1, Duration::from_secs(20))
        .await?;
    assert_eq!(found[0].id, node.net.peer_id());
    assert_eq!(
        reader
            .net
            .find_record(&key.name(), Duration::from_secs(20))
            .await?
            .len(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn a_stranger_of_the_dht_is_put_to_and_found_by_its_own_protocol() -> TestResult {
    let (mut kubo_like, _) = stranger().await;
    let mut node = start(config());
    meet(&mut kubo_like, &mut node).await;
    let key = SigningKey::from_seed([26; 32]);
    let name = key.name();
    let bytes = record(&key, 1).bytes().clone();
    let published = beside(&mut kubo_like, node.net.publish_record(&name, &bytes)).await?;
    assert_eq!(published.stored, 1);
    let kept = kubo_like
        .behaviour_mut()
        .kad
        .store_mut()
        .get(&RecordKey::from(name.routing_key()));
    assert_eq!(kept.expect("the stranger keeps it").value, bytes);
    Ok(())
}

#[tokio::test]
async fn a_node_finds_also_what_it_keeps_for_others_itself() -> TestResult {
    let (mut other, _) = stranger().await;
    let mut node = start(config());
    meet(&mut other, &mut node).await;
    let key = SigningKey::from_seed([27; 32]);
    put(&mut other, &key.name().routing_key(), record(&key, 8).bytes()).await;
    drop(other);
    let found = node.net.find_record(&key.name(), Duration::from_secs(20)).await?;
    assert_eq!(
        found.iter().map(|found| found.from).collect::<Vec<_>>(),
        [node.net.peer_id()]
    );
    Ok(())
}
