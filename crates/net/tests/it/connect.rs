//! Every transport and security protocol carries a connection, and says what network it is of.

use libp2p::swarm::SwarmEvent;
use libp2p::{SwarmBuilder, noise, ping, tcp, tls, yamux};
use pacstore_net::{DialError, NetEvent};

use crate::support::{QUIC, TCP, TestResult, config, drive, join, start};

async fn connects_over(listen: &str) -> String {
    let mut there = config();
    there.listen = vec![listen.parse().unwrap()];
    "pacstore/test".clone_into(&mut there.agent);
    let (mut there, mut here) = (start(there), start(config()));
    join(&mut here, &mut there).await;
    let info = here.net.peer(&there.net.peer_id()).expect("it is connected");
    assert!(info.lan, "loopback is of the LAN");
    assert_eq!(pacstore_net::peer_of(&info.address), None, "{}", info.address);
    assert_eq!(info.agent, "pacstore/test");
    assert_eq!(
        (info.bitswap, info.fetch, info.configured),
        (Some(true), Some(true), false)
    );
    info.address.to_string()
}

#[tokio::test]
async fn two_nodes_connect_over_tcp() {
    assert!(connects_over(TCP).await.contains("/tcp/"));
}

#[tokio::test]
async fn two_nodes_connect_over_quic() {
    assert!(connects_over(QUIC).await.contains("/quic-v1"));
}

#[tokio::test]
async fn two_nodes_connect_over_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: IPv6 is not there");
        assert_ne!(std::env::var("PACSTORE_REQUIRE").as_deref(), Ok("all"));
        return;
    }
    assert!(connects_over("/ip6/::1/tcp/0").await.starts_with("/ip6/::1/tcp/"));
    assert!(connects_over("/ip6/::1/udp/0/quic-v1").await.contains("/quic-v1"));
}

/// Dials a node with one security protocol only, as a peer without the other would.
macro_rules! connects_secured_by {
    ($security:expr) => {{
        let node = start(config());
        let mut peer = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), $security, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| ping::Behaviour::default())
            .unwrap()
            .build();
        peer.dial(node.address().await).unwrap();
        drive(&mut peer, "an answered ping", |event| match event {
            SwarmEvent::Behaviour(ping) => ping.result.is_ok().then_some(()),
            _ => None,
        })
        .await;
    }};
}

#[tokio::test]
async fn a_peer_that_speaks_only_noise_is_served() {
    connects_secured_by!(noise::Config::new);
}

#[tokio::test]
async fn a_peer_that_speaks_only_tls_is_served() {
    connects_secured_by!(tls::Config::new);
}

#[tokio::test]
async fn connecting_to_a_connected_peer_dials_nothing_and_a_wrong_peer_is_refused() -> TestResult {
    let (mut here, mut there) = (start(config()), start(config()));
    join(&mut here, &mut there).await;
    here.net.connect(there.net.peer_id(), Vec::new()).await?;
    let address = there.net.listen_addresses().await.remove(0);
    let other = libp2p::PeerId::random();
    let refused = here.net.connect(other, vec![address]).await;
    assert!(matches!(refused, Err(DialError::Refused(_))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn on_the_lan_tcp_is_chosen_where_a_peer_has_both() -> TestResult {
    let mut both = config();
    both.listen = vec![QUIC.parse()?, TCP.parse()?];
    let (here, there) = (start(config()), start(both));
    here.net
        .connect(there.net.peer_id(), there.net.listen_addresses().await)
        .await?;
    let info = here.net.peer(&there.net.peer_id()).expect("it is connected");
    assert!(info.address.to_string().contains("/tcp/"), "{info:?}");
    Ok(())
}

#[tokio::test]
async fn two_callers_share_one_dial() -> TestResult {
    let (here, there) = (start(config()), start(config()));
    let address = there.net.listen_addresses().await;
    let peer = there.net.peer_id();
    let (one, two) = tokio::join!(
        here.net.connect(peer, address.clone()),
        here.net.connect(peer, address.clone())
    );
    one?;
    two?;
    assert_eq!(here.net.peers().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_banned_peer_is_disconnected_and_not_let_in_again() -> TestResult {
    let (mut here, mut there) = (start(config()), start(config()));
    join(&mut here, &mut there).await;
    let banned = there.net.peer_id();
    here.net.ban(banned, std::time::Duration::from_mins(1)).await?;
    here.wait("the end of the connection", |event| match event {
        NetEvent::PeerDisconnected(peer) if *peer == banned => Some(()),
        _ => None,
    })
    .await;
    let refused = here.net.dial(there.address().await).await;
    assert!(matches!(refused, Err(DialError::Refused(_))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn after_a_shutdown_every_call_says_so_and_no_task_is_left() -> TestResult {
    let (mut here, mut there) = (start(config()), start(config()));
    join(&mut here, &mut there).await;
    here.net.shutdown().await;
    here.net.shutdown().await;
    let gone = here.net.peer_id();
    there
        .wait("the end of the connection", |event| match event {
            NetEvent::PeerDisconnected(peer) if *peer == gone => Some(()),
            _ => None,
        })
        .await;
    let refused = here.net.dial(there.address().await).await;
    assert!(matches!(refused, Err(DialError::Closed(_))), "{refused:?}");
    assert_eq!(
        here.tasks.shutdown(std::time::Duration::from_secs(5)).await,
        Vec::<String>::new()
    );
    Ok(())
}
