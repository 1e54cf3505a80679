//! A URL fetched as pacman's XferCommand: `XferCommand = /usr/bin/pacstore get %u -o %o`.
//!
//! pacman gives a URL of one of its mirrors and a file that ends in `.part`. A package of a
//! configured upstream is asked of the daemon's gateway first, where that runs; else, and
//! where that fails, exactly the URL that was given.
//!
//! - Invariant: nothing but the gateway of this machine and the given URL is asked (and where they redirect).
//! - Invariant: a database is fetched from its beginning: two of its versions are never joined.
//! - Read first: `pacman.conf(5)`, XferCommand.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pacstore_node::Status;
use pacstore_pacman::{PkgFileName, is_package_file};
use pacstore_upstream::{Get, Http, HttpError, HttpOptions, IfRangeIgnored};
use url::Url;

use super::length;
use crate::config::Loaded;
use crate::context::Context;
use crate::printer::bytes;

/// How long the daemon may take to say where its gateway is.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let from = if may_resume(url) { length(output)? } else { 0 };
    let mut get = Get::new(url);
    get.range = (from > 0).then_some(from..u64::MAX);
    get.if_range_ignored = IfRangeIgnored::Stream;
    let mut response = match http.get(&get).await {
        Err(HttpError::NoSuchRange { total, .. }) if total == Some(from) => return Ok(from),
        // What is there is no beginning of that file.
        Err(HttpError::NoSuchRange { .. }) => {
            let again = Get::new(url);
            http.get(&again).await?
        }
        other => other?,
    };
    let start = response.range.map_or(0, |range| range.start);
    // Only now: what cannot be had leaves no file.
    let mut file = fs_err::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(output)?;
    file.file().set_len(start)?;
    file.seek(SeekFrom::Start(start))?;
    let total = response.len.map(|len| start + len);
    let bar = ctx.out.bar("fetching", total.unwrap_or(0));
    bar.set_position(start);
    let mut at = start;
    while let Some(chunk) = response.chunk().await.context("the transfer broke off")? {
        file.write_all(&chunk)?;
        at += chunk.len() as u64;
        bar.set_position(at);
    }
    bar.finish_and_clear();
    if let Some(total) = total.filter(|total| *total != at) {
        bail!("got {} of {}", bytes(at), bytes(total));
    }
    file.sync_all()?;
    Ok(at)
}

/// Packages never change under their name; databases and signatures do.
fn may_resume(url: &Url) -> bool {
    let name = url
        .path_segments()
        .and_then(|mut all| all.next_back())
        .unwrap_or_default();
    PkgFileName::parse(&percent_decoded(name)).is_ok()
}
