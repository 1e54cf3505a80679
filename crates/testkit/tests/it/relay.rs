//! The thin line between two nodes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pacstore_testkit::{TestResult, ThrottledRelay, random};

/// Takes one connection, sends `bytes`, and reads to its end.
fn sender(bytes: Vec<u8>) -> std::io::Result<(std::net::SocketAddr, JoinHandle<std::io::Result<usize>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let thread = std::thread::spawn(move || {
        let (mut s, _) = listener.accept()?;
        s.write_all(&bytes)?;
        s.shutdown(std::net::Shutdown::Write)?;
        let mut back = Vec::new();
        s.read_to_end(&mut back)
    });
    Ok((address, thread))
}

#[test]
fn bytes_pass_unchanged_counted_and_at_the_rate() -> TestResult {
    let bytes = random(1, 500_000).to_vec();
    let (target, thread) = sender(bytes.clone())?;
    let relay = ThrottledRelay::start(target, Some(1_000_000))?;
    let began = Instant::now();
    let mut s = TcpStream::connect(relay.address())?;
    s.write_all(b"hello")?;
    s.shutdown(std::net::Shutdown::Write)?;
    let mut got = Vec::new();
    s.read_to_end(&mut got)?;
    assert_eq!(got, bytes);
    assert!(
        began.elapsed() > Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(thread.join().map_err(|_| "panicked")??, 5);
    assert_eq!((relay.up(), relay.down(), relay.connections()), (5, 500_000, 1));
    Ok(())
}

#[test]
fn it_cuts_at_a_byte_and_pauses_and_closes() -> TestResult {
    let (target, _thread) = sender(random(1, 500_000).to_vec())?;
    let relay = ThrottledRelay::start(target, None)?;
    relay.cut_after(100_000);
    let mut got = Vec::new();
    let _ = TcpStream::connect(relay.address())?.read_to_end(&mut got);
    assert_eq!((got.len(), relay.down()), (100_000, 100_000));

    relay.heal();
    let (target, _thread) = sender(vec![7; 1000])?;
    relay.set_target(target);
    relay.pause();
    let mut s = TcpStream::connect(relay.address())?;
    s.set_read_timeout(Some(Duration::from_millis(100)))?;
    assert!(s.read(&mut [0; 10]).is_err());
    relay.resume();
    s.set_read_timeout(Some(Duration::from_secs(10)))?;
    s.read_exact(&mut [0; 1000])?;
    relay.cut();
    assert!(matches!(s.read(&mut [0; 10]), Ok(0) | Err(_)));
    relay.close();
    assert!(TcpStream::connect(relay.address()).is_err());
    Ok(())
}
