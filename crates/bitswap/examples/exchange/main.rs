//! How fast blocks go from one node to another, beside a bare libp2p stream between the same two.
//!
//! `cargo run --release -p pacstore-bitswap --example exchange -- [MIB] [tcp|tls|quic]`
//!
//! `... --fetch MULTIADDR INDEX` fetches the blocks of an index (lines of CID, offset, length) from any
//! peer that speaks Bitswap, Kubo for one; `... --seed tcp DIR` serves `DIR/index` out of `DIR/data`.
//!
//! Two processes on loopback. The anchor is a bare stream with the same security and muxer, whose
//! receiver hashes 1 MiB pieces; then the same bytes as 1 MiB leaves, then 5 000 small blocks.
//! Prints one line a case: MB/s (1 MB = 10^6 bytes), ratio to the anchor, peak memory of both.

#[path = "../../tests/it/streams.rs"]
mod streams;

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use cid::multihash::Multihash;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, TryStreamExt as _, stream};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, Swarm, SwarmBuilder, noise, tcp, tls, yamux};
use pacstore_bitswap::{Behaviour, Bitswap, Blocks, Config, SessionOptions};
use pacstore_dag::{HashKind, raw_cid};
use pacstore_runtime::Tasks;
use streams::{Opener, Streams};
use tokio::sync::mpsc;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MIB: usize = 1 << 20;
const SMALL_BLOCKS: u64 = 5000;
const RAW: &str = "/pacstore/bench/raw/1";

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Both {
    bitswap: Behaviour,
    raw: Streams,
}

/// Blocks that are ranges of one file.
struct Ranges {
    file: File,
    at: HashMap<Multihash<64>, (u64, usize)>,
}

impl Blocks for Ranges {
    fn len(&self, cid: &Cid, _: &PeerId) -> Option<u64> {
        self.at.get(cid.hash()).map(|(_, len)| *len as u64)
    }

    fn read(&self, cid: &Cid, _: &PeerId, out: &mut Vec<u8>) -> bool {
        let Some((offset, len)) = self.at.get(cid.hash()) else {
            return false;
        };
        let start = out.len();
        out.resize(start + len, 0);
        self.file.read_exact_at(&mut out[start..], *offset).is_ok()
    }
}

struct Index(Vec<(Cid, u64, usize)>);

impl Index {
    fn read(path: &Path) -> Fallible<Self> {
        let mut all = Vec::new();
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            let mut words = line.split(' ');
            let mut next = || words.next().ok_or("a word is missing in the index");
            all.push((next()?.parse()?, next()?.parse()?, next()?.parse()?));
        }
        Ok(Self(all))
    }

    fn ranges(&self, file: File) -> Ranges {
        let at = self
            .0
            .iter()
            .map(|(cid, offset, len)| (*cid.hash(), (*offset, *len)))
            .collect();
        Ranges { file, at }
    }
}

/// A cheap generator of bytes that do not compress.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// Writes the corpus: `mib` leaves of 1 MiB, then small blocks of 300 bytes to 512 KiB.
fn corpus(dir: &Path, mib: usize) -> Fallible<()> {
    let mut data = std::io::BufWriter::new(File::create(dir.join("data"))?);
    let mut index = std::io::BufWriter::new(File::create(dir.join("index"))?);
    let mut noise = Noise(42);
    let mut offset = 0;
    let mut put = |block: &[u8]| -> Fallible<()> {
        data.write_all(block)?;
        writeln!(
            index,
            "{} {offset} {}",
            raw_cid(HashKind::Sha2_256, block),
            block.len()
        )?;
        offset += block.len();
        Ok(())
    };
    for _ in 0..mib {
        put(&noise.fill(MIB))?;
    }
    for _ in 0..SMALL_BLOCKS {
        let bits = 8.2 + (noise.next() % 1000) as f64 / 1000.0 * 10.8;
        put(&noise.fill(bits.exp2() as usize))?;
    }
    data.flush()?;
    index.flush()?;
    Ok(())
}

struct Node {
    swarm: Swarm<Both>,
    bitswap: Bitswap,
    tasks: Tasks,
    opener: Opener,
    inbound: mpsc::Receiver<Stream>,
    outbound: mpsc::Receiver<Stream>,
}

fn node(blocks: Arc<dyn Blocks>, transport: &str) -> Fallible<Node> {
    let tasks = Tasks::new();
    let (bitswap, handle) = Behaviour::new(Config::default(), blocks, tasks.clone());
    let (to_inbound, inbound) = mpsc::channel(16);
    let (to_outbound, outbound) = mpsc::channel(16);
    let (raw, opener) = Streams::new(RAW, to_inbound, to_outbound);
    let both = Both { bitswap, raw };
    let tcp = tcp::Config::default().nodelay(true);
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let swarm = if transport == "tls" {
        let builder = builder
            .with_tcp(tcp, tls::Config::new, yamux::Config::default)?
            .with_quic();
        builder.with_behaviour(|_| both)?.build()
    } else {
        let builder = builder
            .with_tcp(tcp, noise::Config::new, yamux::Config::default)?
            .with_quic();
        builder.with_behaviour(|_| both)?.build()
    };
    Ok(Node {
        swarm,
        bitswap: handle,
        tasks,
        opener,
        inbound,
        outbound,
    })
}

/// The child: serves until its parent closes its standard input.
#[expect(clippy::print_stdout, reason = "the parent reads the address there")]
async fn seed(dir: PathBuf, transport: &str) -> Fallible<()> {
    let index = Index::read(&dir.join("index"))?;
    let mut node = node(Arc::new(index.ranges(File::open(dir.join("data"))?)), transport)?;
    let listen = if transport == "quic" {
        "/ip4/127.0.0.1/udp/0/quic-v1"
    } else {
        "/ip4/127.0.0.1/tcp/0"
    };
    node.swarm.listen_on(listen.parse()?)?;
    let file = Arc::new(File::open(dir.join("data"))?);
    let tasks = node.tasks.clone();
    let ended = tasks.blocking(pacstore_runtime::Pool::Disk, || std::io::stdin().lines().count());
    tokio::pin!(ended);
    loop {
        tokio::select! {
            event = node.swarm.select_next_some() => if let SwarmEvent::NewListenAddr { address, .. } = event {
                println!("{}", address.with(Protocol::P2p(*node.swarm.local_peer_id())));
            },
            Some(mut stream) = node.inbound.recv() => {
                let file = Arc::clone(&file);
                node.tasks.spawn("raw", async move { drop(pour(&mut stream, &file).await) });
            }
            _ = &mut ended => return Ok(()),
        }
    }
}

/// The anchor's sender: as many bytes of the file as it is asked for.
async fn pour(stream: &mut Stream, file: &File) -> std::io::Result<()> {
    let mut want = [0; 8];
    stream.read_exact(&mut want).await?;
    let total = u64::from_le_bytes(want);
    let mut buffer = vec![0; MIB];
    let mut sent = 0;
    while sent < total {
        file.read_exact_at(&mut buffer, sent)?;
        stream.write_all(&buffer).await?;
        sent += buffer.len() as u64;
    }
    stream.close().await
}

/// The anchor's receiver: hashes each MiB as it is complete.
async fn drink(stream: &mut Stream, total: u64) -> Fallible<()> {
    stream.write_all(&total.to_le_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; MIB];
    let mut got = 0;
    while got < total {
        stream.read_exact(&mut buffer).await?;
        std::hint::black_box(HashKind::Sha2_256.digest(&buffer));
        got += buffer.len() as u64;
    }
    Ok(())
}

/// The most memory that a process had resident, in MB.
fn peak(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

struct Served(Child, PathBuf);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
        drop(std::fs::remove_dir_all(&self.1));
    }
}

/// A node whose swarm runs and is connected to one peer.
struct Connected {
    peer: PeerId,
    bitswap: Bitswap,
    tasks: Tasks,
    opener: Opener,
    outbound: mpsc::Receiver<Stream>,
}

/// A peer that has nothing to give.
struct Nothing;

impl Blocks for Nothing {
    fn len(&self, _: &Cid, _: &PeerId) -> Option<u64> {
        None
    }

    fn read(&self, _: &Cid, _: &PeerId, _: &mut Vec<u8>) -> bool {
        false
    }
}

async fn connect(address: &str, transport: &str) -> Fallible<Connected> {
    let address: Multiaddr = address.trim().parse()?;
    let Some(Protocol::P2p(peer)) = address.iter().last() else {
        return Err("no peer in the address".into());
    };
    let Node {
        mut swarm,
        bitswap,
        tasks,
        opener,
        outbound,
        inbound,
    } = node(Arc::new(Nothing), transport)?;
    swarm.dial(address)?;
    while !swarm.is_connected(&peer) {
        swarm.select_next_some().await;
    }
    tasks.spawn("swarm", async move {
        let _inbound = inbound;
        loop {
            swarm.select_next_some().await;
        }
    });
    Ok(Connected {
        peer,
        bitswap,
        tasks,
        opener,
        outbound,
    })
}

/// Fetches the blocks of an index from a peer that somebody else runs.
#[expect(clippy::print_stdout, reason = "a bench prints")]
async fn fetch(address: &str, index: &Path) -> Fallible<()> {
    let index = Index::read(index)?;
    let Connected { peer, bitswap, .. } = connect(address, "tcp").await?;
    let session = bitswap.session(SessionOptions::with_peers([peer]));
    let start = Instant::now();
    let gets = stream::iter(index.0.iter().map(|(cid, ..)| session.get(*cid))).buffered(64);
    let bytes = gets
        .try_fold(0, |sum, got| async move { Ok(sum + got.data.len() as u64) })
        .await?;
    let rate = bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!(
        "{bytes} bytes of {} blocks at {rate:.0} MB/s; {:?}",
        index.0.len(),
        bitswap.ledger(&peer)
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
async fn client(mib: usize, transport: &str) -> Fallible<()> {
    let dir = std::env::temp_dir().join(format!("pacstore-exchange-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    corpus(&dir, mib)?;
    let child = Command::new(std::env::current_exe()?)
        .args(["--seed", transport])
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut served = Served(child, dir.clone());
    let mut address = String::new();
    BufReader::new(served.0.stdout.take().ok_or("no output")?).read_line(&mut address)?;

    let index = Index::read(&dir.join("index"))?;
    let Connected {
        peer,
        bitswap,
        tasks,
        opener,
        mut outbound,
    } = connect(&address, transport).await?;

    let total = (mib * MIB) as u64;
    let (large, small) = index.0.split_at(mib);
    println!(
        "{:<28} {:>8} {:>8}  peak MB client / seed",
        format!("{mib} MiB, {transport}"),
        "MB/s",
        "ratio"
    );
    let mut anchor: f64 = 0.0;
    for pass in 1..=2 {
        opener.open();
        let mut stream = outbound.recv().await.ok_or("no stream")?;
        let start = Instant::now();
        drink(&mut stream, total).await?;
        anchor = anchor.max(report(
            &format!("bare stream, pass {pass}"),
            total,
            start.elapsed(),
            None,
            served.0.id(),
        ));
    }
    for pass in 1..=2 {
        for (name, blocks, ahead) in [("1 MiB leaves", large, 64), ("small blocks", small, 512)] {
            let session = bitswap.session(SessionOptions::with_peers([peer]));
            let start = Instant::now();
            let gets = stream::iter(blocks.iter().map(|(cid, ..)| session.get(*cid))).buffered(ahead);
            let bytes = gets
                .try_fold(0, |sum, got| async move { Ok(sum + got.data.len() as u64) })
                .await?;
            report(
                &format!("{name}, pass {pass}"),
                bytes,
                start.elapsed(),
                Some(anchor),
                served.0.id(),
            );
        }
    }
    tasks.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench prints")]
fn report(name: &str, bytes: u64, took: Duration, anchor: Option<f64>, seed: u32) -> f64 {
    let rate = bytes as f64 / 1e6 / took.as_secs_f64();
    let ratio = anchor.map_or_else(|| "anchor".to_owned(), |anchor| format!("{:.2}", rate / anchor));
    println!(
        "{name:<28} {rate:>8.0} {ratio:>8}  {:.0} / {:.0}",
        peak(std::process::id()),
        peak(seed)
    );
    rate
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["--seed", transport, dir] => seed(PathBuf::from(dir), transport).await,
        ["--fetch", address, index] => fetch(address, Path::new(index)).await,
        [mib, transport] => client(mib.parse()?, transport).await,
        [mib] => client(mib.parse()?, "tcp").await,
        _ => client(512, "tcp").await,
    }
}
