//! IPNS records between connected peers, by `/libp2p/fetch/0.0.1`.

use std::time::{Duration, SystemTime};

use libp2p::multiaddr::Protocol;
use pacstore_names::SigningKey;
use pacstore_net::{DhtMode, FetchError, RecordRefused, identity};

use crate::support::{TestResult, config, join, record, record_until, start};

#[tokio::test]
async fn a_record_is_fetched_from_a_connected_peer_and_verifies() -> TestResult {
    let (mut here, mut there) = (start(config()), start(config()));
    let key = SigningKey::from_seed([1; 32]);
    let name = key.name();
    join(&mut here, &mut there).await;
    assert!(
        here.net.fetch_record(there.net.peer_id(), &name).await?.is_none(),
        "not known yet"
    );
    let ours = record(&key, 5);
    there.net.set_record(&name, ours.bytes())?;
    let got = here
        .net
        .fetch_record(there.net.peer_id(), &name)
        .await?
        .expect("it has one");
    assert_eq!(got.record.bytes(), ours.bytes());
    assert_eq!(got.from, there.net.peer_id());
    Ok(())
}

#[tokio::test]
async fn who_is_not_connected_is_not_asked() {
    let here = start(config());
    let stranger = libp2p::PeerId::random();
    let asked = here
        .net
        .fetch_record(stranger, &SigningKey::from_seed([2; 32]).name())
        .await;
    assert!(
        matches!(asked, Err(FetchError::NotConnected(peer)) if peer == stranger),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_worse_or_wrong_record_never_replaces_a_better_one() -> TestResult {
    let here = start(config());
    let key = SigningKey::from_seed([3; 32]);
    let name = key.name();
    here.net.set_record(&name, record(&key, 5).bytes())?;
    let older = here.net.set_record(&name, record(&key, 4).bytes());
    assert!(matches!(older, Err(RecordRefused::Older(_))), "{older:?}");
    let other = SigningKey::from_seed([4; 32]);
    let foreign = here.net.set_record(&name, record(&other, 9).bytes());
    assert!(
        matches!(foreign, Err(RecordRefused::Invalid { .. })),
        "{foreign:?}"
    );
    let past = SystemTime::now() - Duration::from_secs(1);
    let expired = here.net.set_record(&name, record_until(&key, 9, past).bytes());
    assert!(
        matches!(expired, Err(RecordRefused::Invalid { .. })),
        "{expired:?}"
    );
    here.net.set_record(&name, record(&key, 6).bytes())?;
    Ok(())
}

#[tokio::test]
async fn a_private_record_is_for_configured_peers_only_and_for_no_dht() -> TestResult {
    let mut friend = config();
    friend.listen.clear();
    let friend_id = identity::Keypair::ed25519_from_bytes(friend.key)?
        .public()
        .to_peer_id();
    let mut owner = config();
    owner.peers = vec![
        "/ip4/127.0.0.1/tcp/1"
            .parse::<libp2p::Multiaddr>()?
            .with(Protocol::P2p(friend_id)),
    ];
    let (mut owner, mut friend, mut stranger) = (start(owner), start(friend), start(config()));
    let key = SigningKey::from_seed([5; 32]);
    let name = key.name();
    owner.net.set_private_record(&name, record(&key, 1).bytes())?;
    join(&mut friend, &mut owner).await;
    join(&mut stranger, &mut owner).await;
    let owner_id = owner.net.peer_id();
    assert!(friend.net.fetch_record(owner_id, &name).await?.is_some());
    assert!(stranger.net.fetch_record(owner_id, &name).await?.is_none());
    assert!(
        stranger
            .net
            .find_record(&name, Duration::from_secs(10))
            .await?
            .is_empty()
    );
    Ok(())
}

#[tokio::test]
async fn looking_for_a_record_asks_all_connected_peers_and_gives_the_best_first() -> TestResult {
    let mut off = config();
    off.dht = DhtMode::Off;
    let (mut here, mut one, mut two) = (start(off), start(config()), start(config()));
    let key = SigningKey::from_seed([6; 32]);
    let name = key.name();
    one.net.set_record(&name, record(&key, 1).bytes())?;
    two.net.set_record(&name, record(&key, 2).bytes())?;
    join(&mut here, &mut one).await;
    join(&mut here, &mut two).await;
    let found = here.net.find_record(&name, Duration::from_secs(10)).await?;
    let sequences: Vec<_> = found.iter().map(|found| found.record.sequence()).collect();
    assert_eq!(sequences, [2, 1]);
    assert_eq!(found[0].from, two.net.peer_id());
    Ok(())
}

#[tokio::test]
async fn publishing_where_there_is_no_dht_peer_is_no_error() -> TestResult {
    let (mut here, mut there) = (start(config()), start(config()));
    let key = SigningKey::from_seed([7; 32]);
    let name = key.name();
    assert_eq!(
        here.net
            .publish_record(&name, record(&key, 1).bytes())
            .await?
            .stored,
        0
    );
    join(&mut there, &mut here).await;
    assert!(there.net.fetch_record(here.net.peer_id(), &name).await?.is_some());
    here.net.forget_record(&name).await?;
    assert!(there.net.fetch_record(here.net.peer_id(), &name).await?.is_none());
    Ok(())
}
