//! `bench exchange`: files from node to node, beside a bare libp2p stream.
//!
//! The bare stream and Bitswap alone come from the example of `pacstore-bitswap`. Then the
//! whole product: an importer, a client node, its gateway, an HTTP client that throws the
//! bytes away.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::client::{Connection, get_all};
use super::corpus::{Corpus, Noise};
use super::lab::{self, Daemon, Home, NAME};
use super::table::Table;
use super::{Args, median, say};

/// The one large file, in bytes.
const LARGE: u64 = 512 << 20;

/// Packages of the tree; each has a signature.
const PACKAGES: usize = 2_500;

/// Requests at once for the tree.
const AT_ONCE: usize = 64;

/// Most memory each node may take, in MB.
const MEMORY: f64 = 96.0 * 1.048_576;

/// Measures Bitswap alone, one large file, a tree.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (bin, dir) = lab::prepare(args)?;
    let example = lab::build(&["--package", "pacstore-bitswap", "--example", "exchange"])?;
    let example = example.join("examples/exchange");
    let mut table = Table::default();

    let large = dir.path().join("large");
    std::fs::create_dir_all(&large)?;
    Noise::new(7).file(&large.join("large.iso"), LARGE)?;
    let tree = Corpus::create(&dir.path().join("tree"), u64::MAX, PACKAGES, 32 << 20)?;
    say(&format!(
        "# tree: {} files, {:.2} GB",
        tree.files.len(),
        tree.bytes() as f64 / 1e9
    ));

    let (mut bare, mut leaves, mut small) = (vec![], vec![], vec![]);
    let (mut product, mut whole) = (Vec::new(), Vec::new());
    // What a pass made stays until the end: for minutes ext4 steps over each inode that was given back when it makes a file.
    for pass in 0..args.passes {
        let alone = Alone::run(&example)?;
        bare.push(alone.bare);
        leaves.push(alone.leaves);
        small.push(alone.small);
        let place = dir.path().join(format!("large-{pass}"));
        let file = [("large.iso".to_owned(), LARGE)];
        product.push(fetched(&bin, &place, &large, &file, 1)?);
        let place = dir.path().join(format!("tree-{pass}"));
        whole.push(fetched(&bin, &place, &tree.dir, &tree.files, AT_ONCE)?);
    }
    let anchor = median(bare);
    let rate = |all: &[Fetched]| median(all.iter().map(|one| one.rate).collect());
    table.at_least(
        "Bitswap alone, 512 leaves of 1 MiB",
        median(leaves),
        anchor,
        "MB/s",
        0.75,
    );
    table.at_least(
        "Bitswap alone, 5,000 blocks to 512 KiB",
        median(small),
        anchor,
        "MB/s",
        0.6,
    );
    table.at_least(
        "node to node, one file of 512 MiB",
        rate(&product),
        anchor,
        "MB/s",
        0.75,
    );
    memory(&mut table, &product);
    table.at_least(
        "node to node, a tree of 5,000 files",
        rate(&whole),
        anchor,
        "MB/s",
        0.6,
    );
    memory(&mut table, &whole);
    table.print();
    Ok(())
}

fn memory(table: &mut Table, all: &[Fetched]) {
    let most = |of: fn(&Fetched) -> f64| all.iter().map(of).fold(0.0, f64::max);
    table.limit(
        "  peak memory of the client",
        most(|one| one.client_mb),
        "MB",
        MEMORY,
    );
    table.limit(
        "  peak memory of the importer",
        most(|one| one.importer_mb),
        "MB",
        MEMORY,
    );
    let cpu = |of: fn(&Fetched) -> f64| median(all.iter().map(of).collect());
    table.tell(
        "  processor seconds, client / importer",
        &format!(
            "{:.1} / {:.1}",
            cpu(|one| one.client_cpu),
            cpu(|one| one.importer_cpu)
        ),
    );
}

/// What the example of `pacstore-bitswap` says, in MB/s.
struct Alone {
    bare: f64,
    leaves: f64,
    small: f64,
}

impl Alone {
    fn run(example: &Path) -> anyhow::Result<Self> {
        // Nodes prefer TLS over TCP; so does the anchor.
        let out = Command::new(example).args(["512", "tls"]).output()?;
        ensure!(
            out.status.success(),
            "the example failed: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mean = |name: &str| -> anyhow::Result<f64> {
            let lines = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.split_once(", pass"));
            let rates: Vec<f64> = lines
                .filter_map(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok())
                .collect();
            ensure!(!rates.is_empty(), "the example does not tell `{name}`: {text}");
            Ok(rates.iter().sum::<f64>() / rates.len() as f64)
        };
        Ok(Self {
            bare: mean("bare stream")?,
            leaves: mean("1 MiB leaves")?,
            small: mean("small blocks")?,
        })
    }
}

/// One fetch through the whole product.
struct Fetched {
    rate: f64,
    client_mb: f64,
    importer_mb: f64,
    client_cpu: f64,
    importer_cpu: f64,
}

fn fetched(
    bin: &Path,
    place: &Path,
    from: &Path,
    files: &[(String, u64)],
    at_once: usize,
) -> anyhow::Result<Fetched> {
    let more = "files = \"all\"\nreplaced_by_rename = true";
    let importer = Home::importer(bin, &place.join("importer"), from, more)?;
    importer.import(&[0])?;
    let importing = importer.start()?;
    let client = Home::client(bin, &place.join("client"), &importer.key()?, &importer.address()?)?;
    let following = client.start()?;
    wait_for_head(&following)?;
    let paths: Vec<String> = files
        .iter()
        .map(|(name, _)| format!("/ipns/{NAME}/{name}"))
        .collect();
    let expected: u64 = files.iter().map(|(_, size)| size).sum();
    // What this benchmark itself has written must not be written while it measures.
    ensure!(Command::new("sync").status()?.success(), "`sync` failed");
    find_memory(place, expected)?;
    let (client_cpu, importer_cpu) = (following.cpu_seconds(), importing.cpu_seconds());
    let start = Instant::now();
    let bytes = get_all(&following.gateway, paths, at_once)?;
    let took = start.elapsed().as_secs_f64();
    ensure!(bytes == expected, "{bytes} bytes came of {expected}");
    Ok(Fetched {
        rate: bytes as f64 / 1e6 / took,
        client_mb: following.peak_mb(),
        importer_mb: importing.peak_mb(),
        client_cpu: following.cpu_seconds() - client_cpu,
        importer_cpu: importing.cpu_seconds() - importer_cpu,
    })
}

/// Has the machine below a virtual one find the memory that the page cache is about to need: the first write into pages that
/// were given back to it takes many times as long as the next, and the anchor writes nothing. Written as a node writes, a leaf
/// at a time: the page cache takes larger pieces of memory for larger writes.
fn find_memory(place: &Path, bytes: u64) -> anyhow::Result<()> {
    let path = place.join("memory");
    let mut file = File::create(&path)?;
    let leaf = vec![0; 1 << 20];
    for _ in 0..bytes.div_ceil(1 << 20) {
        file.write_all(&leaf)?;
    }
    Ok(std::fs::remove_file(&path)?)
}

fn wait_for_head(node: &Daemon) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let listed = Connection::open(&node.gateway)?.get(&format!("/ipns/{NAME}/"));
        match listed {
            Ok(_) => return Ok(()),
            Err(error) if until < Instant::now() => return Err(error).context("the client gets no head"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
