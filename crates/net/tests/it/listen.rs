//! What is bound when the wanted port is taken, and what is reported.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use libp2p::multiaddr::Protocol;
use pacstore_net::{Multiaddr, Net, NetError};
use pacstore_runtime::{Clock, Tasks};

use crate::support::{Memory, TestResult, config, start};

fn port_of(address: &Multiaddr) -> u16 {
    address
        .iter()
        .find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        })
        .expect("a port")
}

#[tokio::test]
async fn a_taken_tcp_port_gives_way_to_a_free_one() -> TestResult {
    let held = TcpListener::bind("127.0.0.1:0")?;
    let taken = held.local_addr()?.port();
    let mut config = config();
    config.listen = vec![format!("/ip4/127.0.0.1/tcp/{taken}").parse()?];
    let node = start(config);
    let bound = node.net.listen_addresses().await;
    assert_eq!(bound.len(), 1);
    assert!(
        port_of(&bound[0]) != taken && port_of(&bound[0]) != 0,
        "{bound:?}"
    );
    Ok(())
}

/// libp2p would share the port silently with another node of the same user.
#[tokio::test]
async fn two_nodes_never_share_one_tcp_port() -> TestResult {
    let first = start(config());
    let wanted = first.net.listen_addresses().await;
    let mut second = config();
    second.listen = wanted.clone();
    let second = start(second);
    assert_ne!(second.net.listen_addresses().await, wanted);
    Ok(())
}

#[tokio::test]
async fn a_taken_udp_port_gives_way_to_a_free_one() -> TestResult {
    let held = UdpSocket::bind("127.0.0.1:0")?;
    let taken = held.local_addr()?.port();
    let mut config = config();
    config.listen = vec![format!("/ip4/127.0.0.1/udp/{taken}/quic-v1").parse()?];
    let node = start(config);
    let bound = node.net.listen_addresses().await;
    assert_eq!(bound.len(), 1);
    assert_ne!(port_of(&bound[0]), taken);
    Ok(())
}

#[tokio::test]
async fn no_usable_address_at_all_is_an_error_with_a_hint() -> TestResult {
    let mut config = config();
    // TEST-NET-3 (RFC 5737) is no address of this machine.
    config.listen = vec!["/ip4/203.0.113.7/tcp/0".parse()?];
    let started = Net::start(config, Arc::<Memory>::default(), &Tasks::new(), Clock::system());
    let error = started.expect_err("nothing can be bound");
    assert!(matches!(error, NetError::Listen { tried: 1, .. }), "{error:?}");
    assert!(error.hint().is_some());
    // Not what libp2p wraps around it, which is empty.
    let why = std::error::Error::source(&error).ok_or("why")?;
    assert!(
        why.to_string().contains("Cannot assign requested address"),
        "{why}"
    );
    Ok(())
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_does_not_harm_the_others() -> TestResult {
    let mut config = config();
    config.listen.push("/ip4/203.0.113.7/tcp/0".parse()?);
    assert_eq!(start(config).net.listen_addresses().await.len(), 1);
    Ok(())
}

#[tokio::test]
async fn every_interface_means_all_addresses_with_the_port_that_was_bound() -> TestResult {
    let mut config = config();
    config.listen = vec!["/ip4/0.0.0.0/tcp/0".parse()?];
    let bound = start(config).net.listen_addresses().await;
    assert!(
        bound
            .iter()
            .any(|address| address.to_string().starts_with("/ip4/127.0.0.1/tcp/")),
        "{bound:?}"
    );
    assert!(bound.iter().all(|address| port_of(address) != 0), "{bound:?}");
    Ok(())
}

/// The default configuration: one port number for TCP and QUIC, IPv4 and IPv6. The four are no
/// conflict of each other.
#[tokio::test]
async fn one_port_number_serves_both_protocols_and_both_families() -> TestResult {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: IPv6 is not there");
        assert_ne!(std::env::var("PACSTORE_REQUIRE").as_deref(), Ok("all"));
        return Ok(());
    }
    // Below the range that the system hands out, so that no other test is given it.
    let first = 20_000 + u16::try_from(std::process::id() % 5_000)?;
    let free =
        |port: &u16| TcpListener::bind(("::", *port)).is_ok() && UdpSocket::bind(("::", *port)).is_ok();
    let port = (first..first + 5_000).find(free).ok_or("no free port")?;
    let mut config = config();
    config.listen.clear();
    for host in ["/ip4/0.0.0.0", "/ip6/::"] {
        config.listen.push(format!("{host}/tcp/{port}").parse()?);
        config.listen.push(format!("{host}/udp/{port}/quic-v1").parse()?);
    }
    let bound = start(config).net.listen_addresses().await;
    assert!(bound.iter().all(|address| port_of(address) == port), "{bound:?}");
    for wanted in [
        "/ip4/127.0.0.1/tcp/",
        "/ip4/127.0.0.1/udp/",
        "/ip6/::1/tcp/",
        "/ip6/::1/udp/",
    ] {
        assert!(
            bound
                .iter()
                .any(|address| address.to_string().starts_with(wanted)),
            "{wanted}: {bound:?}"
        );
    }
    Ok(())
}
