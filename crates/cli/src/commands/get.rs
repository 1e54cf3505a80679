//! `pacstore get`: fetch one file; resumes; pacman's XferCommand too.
//!
//! A path or CID goes through the daemon's socket. A URL is fetched as curl would, so that
//! it works without a daemon; where it names a package on a configured upstream, the
//! daemon's gateway is asked first (`straight.rs`).
//!
//! - Invariant: what cannot be had leaves no file; what broke off stays for the next try.

mod straight;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use pacstore_http::GetRequest;
use url::Url;

use crate::context::{Context, Exit, Hinted};
use crate::printer::bytes;

/// No byte for this long gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Fetch a file, resuming what is there (also as pacman's XferCommand)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// /ipns/NAME/PATH, /ipfs/CID/PATH, /pacman/REPO/ARCH/FILE, a CID, or any http(s) URL
    #[arg(value_name = "PATH|CID|URL")]
    path: String,
    /// Where to put it; what is there is continued
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Exits 1 if the file cannot be had whole; what came stays for the next try.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let path = match Url::parse(&args.path) {
        // The gateway gives only what is configured; the socket asks peers for any CID.
        Ok(url) if is_here(&url) && url.path().starts_with("/ipfs/") => url.path().to_owned(),
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            return straight::run(&url, &args.output, ctx).await;
        }
        Ok(url) if matches!(url.scheme(), "ipfs" | "ipns") => {
            format!(
                "/{}/{}{}",
                url.scheme(),
                url.host_str().unwrap_or_default(),
                url.path()
            )
        }
        _ => args.path.clone(),
    };
    let Some(daemon) = ctx.daemon().await else {
        return Err(Hinted::new("no daemon answers", "start it with `pacstore daemon`").into());
    };
    let from = length(&args.output)?;
    let request = GetRequest { path, from };
    let response = tokio::time::timeout(PATIENCE, daemon.stream("/v1/get", &request)).await;
    let response = response.context("no answer for 60 s")??;
    // Only now: what cannot be had leaves no file.
    let mut file = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&args.output)?;
    let total = response
        .headers()
        .get("content-length")
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let bar = ctx.out.bar("fetching", from + total.unwrap_or(0));
    bar.set_position(from);
    let mut body = response.into_body();
    let mut got = 0;
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame())
            .await
            .context("no byte for 60 s; run it again to go on")?;
        let Some(frame) = frame else { break };
        let frame = frame.context("the transfer broke off; run it again to go on")?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data)?;
            got += data.len() as u64;
            bar.inc(data.len() as u64);
        }
    }
    bar.finish_and_clear();
    if total.is_some_and(|total| total != got) {
        bail!(
            "got {} of {}; run it again to go on",
            bytes(got),
            bytes(total.unwrap_or(0))
        );
    }
    file.sync_all()?;
    ctx.out
        .note(format!("{}: {}", args.output.display(), bytes(from + got)));
    Ok(Exit::Done)
}

/// A gateway of this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// How much of it is there.
fn length(path: &Path) -> anyhow::Result<u64> {
    match fs_err::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}
