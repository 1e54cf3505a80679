//! Configured peers stay connected.

use libp2p::multiaddr::Protocol;
use pacstore_net::{NetEvent, PeerInfo};

use crate::support::{Node, TestResult, config, fresh_key, start};

async fn connected(node: &mut Node) -> PeerInfo {
    node.wait("a connection", |event| match event {
        NetEvent::PeerConnected(info) => Some(info.clone()),
        _ => None,
    })
    .await
}

async fn disconnected(node: &mut Node) {
    node.wait("the end of the connection", |event| match event {
        NetEvent::PeerDisconnected(_) => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_configured_peer_is_dialled_again_after_its_restart() -> TestResult {
    let key = fresh_key();
    let mut first = config();
    first.key = key;
    let there = start(first.clone());
    let addresses = there.net.listen_addresses().await;
    let mut here = config();
    here.peers = vec![there.address().await];
    let mut here = start(here);
    assert!(connected(&mut here).await.configured);

    there.net.shutdown().await;
    disconnected(&mut here).await;
    first.listen = addresses.clone();
    let again = start(first);
    assert_eq!(
        again.net.listen_addresses().await,
        addresses,
        "the port is free again"
    );
    let info = connected(&mut here).await;
    assert_eq!(info.id, again.net.peer_id());
    assert!(info.configured);
    Ok(())
}

/// Without `/p2p/ID` whoever answers there is the peer, also after it changed its key.
#[tokio::test]
async fn a_peer_configured_by_address_alone_may_change_its_key() -> TestResult {
    let there = start(config());
    let addresses = there.net.listen_addresses().await;
    let mut here = config();
    here.peers = addresses.clone();
    let mut here = start(here);
    let first = connected(&mut here).await;
    assert!(first.configured);
    there.net.shutdown().await;
    disconnected(&mut here).await;
    let mut other = config();
    other.listen = addresses;
    let other = start(other);
    assert_eq!(connected(&mut here).await.id, other.net.peer_id());
    Ok(())
}

#[tokio::test]
async fn a_configured_peer_that_dials_us_first_counts_as_configured() -> TestResult {
    let mut there = config();
    there.listen.clear();
    let there = start(there);
    let mut here = config();
    // Nobody listens at port 1: it can only come by itself.
    here.peers = vec![
        "/ip4/127.0.0.1/tcp/1"
            .parse::<libp2p::Multiaddr>()?
            .with(Protocol::P2p(there.net.peer_id())),
    ];
    let mut here = start(here);
    there.net.dial(here.address().await).await?;
    assert!(connected(&mut here).await.configured);
    Ok(())
}
