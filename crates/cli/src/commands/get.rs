//! `pacstore get`: fetch one file through the daemon; resumes.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use pacstore_http::GetRequest;

use crate::context::{Context, Exit, Hinted};
use crate::printer::bytes;

/// No byte for this long gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Fetch a file, resuming what is there (also as pacman's XferCommand)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// /ipns/NAME/PATH, /ipfs/CID/PATH, /pacman/REPO/ARCH/FILE, a CID, or such a URL
    #[arg(value_name = "PATH|CID|URL")]
    path: String,
    /// Where to put it; what is there is continued
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Exits 1 if the file cannot be had whole; what came stays for the next try.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let Some(daemon) = ctx.daemon().await else {
        return Err(Hinted::new("no daemon answers", "start it with `pacstore daemon`").into());
    };
    let path = match url::Url::parse(&args.path) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url.path().to_owned(),
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
    let from = match fs_err::metadata(&args.output) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
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
