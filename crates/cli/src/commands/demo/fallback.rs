//! Node 1 dies in the middle of a file, and the file arrives all the same.
//!
//! Both sources are slowed first, or the file would be there before anything can
//! happen: node 1 to a good line on the internet, the mirror to a poor one.
//!
//! - Invariant: the client sees one ordinary answer, every byte of it checked.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::client::Client;
use super::fetching::{book, path_of, same};
use super::machine::since;
use super::report::{Fallback, Say, rate, sources};
use super::stage::Stage;
use super::steps::Big;
use super::upstream::Upstream;
use crate::printer::bytes;

/// The smallest file that can be interrupted: 4 MiB.
pub(super) const LEAST: u64 = 4 << 20;

/// Node 1's line while the file comes, in bytes a second.
const PEER_RATE: u64 = 12_000_000;

/// The mirror, in bytes a second, until node 1 is dead.
const MIRROR_RATE: u64 = 1_000_000;

/// How long node 2 may take to find node 1 again.
const CONNECT: Duration = Duration::from_secs(15);

/// The whole step.
pub(super) async fn play(stage: &mut Stage, say: &mut Say<'_>, big: &Big) -> anyhow::Result<()> {
    restart(stage, say).await?;
    let limit = |rate| {
        if let Some(upstream) = &stage.upstream {
            upstream.set_rate(rate);
        }
    };
    limit(Some(MIRROR_RATE));
    stage.line()?.set_rate(Some(PEER_RATE));
    let (sent, down) = (stage.upstream.as_ref().map(Upstream::sent), stage.line()?.down());
    let (before, began) = (stage.client.bytes().await?, Instant::now());
    let mut client = Client::new(stage.client.gateway()?, &stage.tasks);
    let mut body = client.must(&path_of(&big.name)).await?;
    let kill_at = big.len / 3;
    while body.len < kill_at {
        body.next()
            .await?
            .context("the file is shorter than its database says")?;
    }
    let killed_at = body.len;
    let mut last = Instant::now();
    stage.importer.kill().await;
    tracing::debug!(ms = last.elapsed().as_millis(), "node 1 is dead");
    if let Some(upstream) = &stage.upstream {
        upstream.set_rate(None);
    }
    let mut longest = Duration::ZERO;
    while body.next().await?.is_some() {
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let got = body.end()?;
    let took = began.elapsed();
    same(&big.name, &got, Some(big.sha256))?;
    let by = since(before, stage.client.bytes().await?);
    book(say, 1, got.len, by);
    let mut said = vec![
        format!("{}, {}, {}", big.name, bytes(got.len), rate(got.len, took)),
        format!(
            "node 1 was killed when the client had {}; longest wait after it {} ms",
            bytes(killed_at),
            longest.as_millis()
        ),
        format!("one ordinary answer, its SHA-256 right: {}", sources(by)),
    ];
    if let (Some(upstream), Some(sent)) = (&stage.upstream, sent) {
        said.push(format!(
            "on the wire: {} from node 1, {} from the mirror",
            bytes(stage.line()?.down() - down),
            bytes(upstream.sent() - sent),
        ));
    }
    say.step("a package, and node 1 dies in the middle of it", took, said);
    let fallback = Fallback {
        file: big.name.clone(),
        bytes: got.len,
        killed_at,
        from_peer: by.lan + by.peer,
        from_upstream: by.upstream,
        longest_wait_ms: longest.as_millis() as u64,
        seconds: took.as_secs_f64(),
        verified: true,
    };
    let ours = stage.upstream.is_some();
    let both = fallback.from_peer > 0 && fallback.from_upstream > 0;
    say.summary.fallback = Some(fallback);
    if ours && !both {
        bail!("the file should have come from both sources, but {}", sources(by));
    }
    Ok(())
}

/// Node 2 learns of the mirror by its configuration, and starts again.
async fn restart(stage: &mut Stage, say: &mut Say<'_>) -> anyhow::Result<()> {
    let began = Instant::now();
    stage.client.stop().await;
    stage.configure_client(std::slice::from_ref(&stage.url))?;
    stage.client.start().await?;
    let node = stage.client.node()?;
    let connected = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while node.status(None).await.peers == 0 {
            tick.tick().await;
        }
    };
    let connected = tokio::time::timeout(CONNECT, connected).await;
    connected.context("node 2 does not find node 1 again")?;
    let said = vec![format!("upstreams = [\"{}\"]", stage.url)];
    say.step(
        "node 2 starts again, now also with the ordinary mirror",
        began.elapsed(),
        said,
    );
    Ok(())
}
