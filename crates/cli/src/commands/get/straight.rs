//! A URL fetched as pacman's XferCommand: `XferCommand = /usr/bin/pacstore get %u -o %o`.
//!
//! pacman gives a URL of one of its mirrors and a file that ends in `.part`. A package of a
//! configured upstream is asked of the daemon's gateway first, where that runs; else, and
//! where that fails, exactly the URL that was given.
//!
//! - Invariant: nothing but the gateway of this machine and the given URL is asked (and where they redirect).
//! - Invariant: a database is fetched from its beginning: two of its versions are never joined.
//! - Invariant: what is there is continued only if its last bytes are those of the file.
//! - Read first: `pacman.conf(5)`, XferCommand.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pacstore_node::Status;
use pacstore_pacman::{PkgFileName, is_package_file};
use pacstore_upstream::{Get, Http, HttpError, HttpOptions, IfRangeIgnored, Response};
use url::Url;

use super::length;
use crate::config::Loaded;
use crate::context::Context;
use crate::printer::bytes;

/// How long the daemon may take to say where its gateway is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes at the end of what is there that are asked for again, to see whether it is the beginning of that file.
const OVERLAP: u64 = 64 * 1024;

/// Gives the length of the whole file, in bytes. Where it cannot be had whole, what came of a package stays for the
/// next try.
pub(super) async fn run(url: &Url, output: &Path, ctx: &Context) -> anyhow::Result<u64> {
    let http = Http::new(HttpOptions::default());
    if let Some(ours) = at_gateway(url, ctx).await {
        match fetch(&http, &ours, output, ctx).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => tracing::info!(url = %ours, error = format!("{error:#}"), "going on straight"),
        }
    }
    fetch(&http, url, output, ctx).await
}

/// Where the daemon has what `url` names, if it runs and knows that upstream.
async fn at_gateway(url: &Url, ctx: &Context) -> Option<Url> {
    let path = mapped(url, &ctx.config().ok()?)?;
    let asking = async {
        let status: Status = ctx.daemon().await?.get("/v1/status").await.ok()?;
        status.gateway
    };
    let gateway = tokio::time::timeout(PATIENCE, asking).await.ok()??;
    Url::parse(&format!("{gateway}{path}")).ok()
}

/// The gateway's path for a package below a configured upstream.
fn mapped(url: &Url, loaded: &Loaded) -> Option<String> {
    let name = url.path_segments()?.next_back()?;
    if url.query().is_some() || !is_package_file(&percent_decoded(name)) {
        return None;
    }
    let below = |base: &Url| {
        let rest = url.as_str().strip_prefix(base.as_str())?;
        Some(rest.trim_start_matches('/').to_owned())
    };
    for one in &loaded.node.repositories {
        if let Some(rest) = one.upstreams.iter().find_map(below) {
            return Some(format!("/pacman/{}/{}/{rest}", one.name, one.arch));
        }
    }
    for mirror in &loaded.node.mirrors {
        if let Some(rest) = mirror.upstreams.iter().find_map(below) {
            return Some(format!("/ipns/{}/{rest}", mirror.name));
        }
    }
    None
}

/// Colons of epochs come as `%3A` from some.
fn percent_decoded(name: &str) -> String {
    name.replace("%3A", ":").replace("%3a", ":")
}

/// One file from one URL, going on with what is there. Gives its length in bytes.
async fn fetch(http: &Http, url: &Url, output: &Path, ctx: &Context) -> anyhow::Result<u64> {
    let there = if may_resume(url) { length(output)? } else { 0 };
    if there > 0 {
        let mut get = Get::new(url);
        get.range = Some(there.saturating_sub(OVERLAP)..u64::MAX);
        get.if_range_ignored = IfRangeIgnored::Stream;
        let taken = match http.get(&get).await {
            Err(HttpError::NoSuchRange { .. }) => None,
            other => take(other?, output, there, ctx).await?,
        };
        if let Some(bytes) = taken {
            return Ok(bytes);
        }
        tracing::info!(%url, "what is there is no beginning of it; all of it is fetched");
    }
    let whole = take(http.get(&Get::new(url)).await?, output, 0, ctx).await?;
    whole.context("the mirror gave a part where all was asked")
}

/// Writes what comes behind the first `there` bytes of `output`, of which it may begin with some. Gives the length of the
/// whole file, or nothing where those are others than what is there: then nothing is written.
async fn take(
    mut response: Response,
    output: &Path,
    there: u64,
    ctx: &Context,
) -> anyhow::Result<Option<u64>> {
    let start = response.range.map_or(0, |range| range.start);
    let total = response.len.map(|len| start + len);
    let mut same = match response.range {
        // All of it comes, whatever is there.
        None => Vec::new(),
        Some(_) if total.is_some_and(|total| total < there) => return Ok(None),
        Some(_) => end_of(output, start, there)?,
    };
    let mut at = start + same.len() as u64;
    let mut file = None;
    let bar = ctx.out.bar("fetching", total.unwrap_or(0));
    while let Some(chunk) = response.chunk().await.context("the transfer broke off")? {
        let (first, rest) = chunk.split_at(same.len().min(chunk.len()));
        if !same.starts_with(first) {
            bar.finish_and_clear();
            return Ok(None);
        }
        same.drain(..first.len());
        if rest.is_empty() {
            continue;
        }
        if file.is_none() {
            file = Some(opened(output, at)?);
        }
        if let Some(file) = &mut file {
            file.write_all(rest)?;
        }
        at += rest.len() as u64;
        bar.set_position(at);
    }
    bar.finish_and_clear();
    // Only now: what cannot be had leaves no file.
    let file = match file {
        Some(file) => file,
        None => opened(output, at)?,
    };
    if let Some(total) = total.filter(|total| *total != at) {
        bail!("got {} of {}", bytes(at), bytes(total));
    }
    if !same.is_empty() {
        return Ok(None);
    }
    // A pipe has no disk.
    if file.metadata()?.is_file() {
        file.sync_all()?;
    }
    Ok(Some(at))
}

/// The bytes of `output` from `start` to `there`.
fn end_of(output: &Path, start: u64, there: u64) -> anyhow::Result<Vec<u8>> {
    let mut file = fs_err::File::open(output)?;
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(there.saturating_sub(start)).read_to_end(&mut end)?;
    Ok(end)
}

/// The file, cut off at `at`, to be written from there on.
fn opened(output: &Path, at: u64) -> anyhow::Result<fs_err::File> {
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.create(true).truncate(false).write(true).open(output)?;
    if file.metadata()?.is_file() {
        file.file().set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
    }
    Ok(file)
}

/// Packages never change under their name; databases and signatures do.
fn may_resume(url: &Url) -> bool {
    let name = url
        .path_segments()
        .and_then(|mut all| all.next_back())
        .unwrap_or_default();
    PkgFileName::parse(&percent_decoded(name)).is_ok()
}
