//! `pacstore get`: fetch one file; resumes; pacman's XferCommand too.
//!
//! A path or CID goes through the daemon's socket. A URL is fetched as curl would, so that
//! it works without a daemon; where it names a package on a configured upstream, the
//! daemon's gateway is asked first (`straight.rs`).
//!
//! - Invariant: what cannot be had leaves no file; what broke off stays for the next try.
//! - Invariant: a file that is whole in the end has the bytes that were asked for, whatever was there before: what is there
//!   is compared with what the daemon gives (it keeps what it has fetched), never just continued.

mod straight;

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use pacstore_http::GetRequest;
use serde::Serialize;
use url::Url;

use crate::context::{Context, Exit, Hinted};
use crate::printer::bytes;

/// No byte for this long gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Fetch a file, resuming what is there (also as pacman's XferCommand)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// /ipns/NAME/PATH, /ipfs/CID/PATH, /pacman/REPO/ARCH/FILE, a CID, or any http, https or file URL
    #[arg(value_name = "PATH|CID|URL")]
    path: String,
    /// Where to put it, - for stdout; what is there is continued, and replaced where it is something else
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// What came, for `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// As it was asked for.
    path: &'a str,
    output: String,
    /// The length of the whole file.
    bytes: u64,
}

/// Exits 1 if the file cannot be had whole; what came stays for the next try.
pub(crate) async fn run(mut args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    if args.output == Path::new("-") {
        args.output = PathBuf::from("/dev/stdout");
    }
    if let Some(left) = left_by_pacman(&args) {
        let hint = "pacman replaces `%o` and `%u` only where each is a word of its own: XferCommand = pacstore get -o %o %u";
        return Err(Hinted::new(format!("pacman has left `{left}` as it is"), hint).into());
    }
    if args.output.is_dir() {
        let hint = "name the file in it, such as -o FOLDER/NAME";
        return Err(Hinted::new(format!("`{}` is a folder", args.output.display()), hint).into());
    }
    let bytes = fetch(&args, ctx).await?;
    if !is_stdout(&args.output) {
        let report = Report {
            path: &args.path,
            output: args.output.to_string_lossy().into_owned(),
            bytes,
        };
        ctx.out.data(&report, |_| String::new())?;
    }
    Ok(Exit::Done)
}

/// A word in which pacman should have put a file or a URL, and did not. No file that it asks for has such a name.
fn left_by_pacman(args: &Args) -> Option<&str> {
    let words = [args.output.to_str().unwrap_or_default(), &args.path];
    let is_left = |word: &&str| word.ends_with("%o") || word.ends_with("%u");
    words.into_iter().find(is_left)
}

/// The file goes to where the JSON would.
fn is_stdout(output: &Path) -> bool {
    let same = || -> std::io::Result<bool> {
        let stdout = rustix::fs::fstat(std::io::stdout())?;
        let output = fs_err::metadata(output)?;
        Ok((stdout.st_dev, stdout.st_ino) == (output.dev(), output.ino()))
    };
    same().unwrap_or(false)
}

/// Gives the length of the whole file, in bytes.
async fn fetch(args: &Args, ctx: &Context) -> anyhow::Result<u64> {
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
        Ok(url) if url.scheme() == "file" => return copy(&url, args, ctx),
        Ok(url) => {
            let hint = "write an http, https or file URL, /ipns/NAME/PATH, /ipfs/CID/PATH, /pacman/REPO/ARCH/FILE or a CID";
            return Err(Hinted::new(format!("`{}` URLs are not fetched", url.scheme()), hint).into());
        }
        Err(_) => args.path.clone(),
    };
    let Some(daemon) = ctx.daemon().await else {
        return Err(Hinted::new("no daemon answers", "start it with `pacstore daemon`").into());
    };
    let request = GetRequest { path, from: 0 };
    let response = tokio::time::timeout(PATIENCE, daemon.stream("/v1/get", &request)).await;
    let response = response.context("no answer for 60 s")??;
    // Only now: what cannot be had leaves no file.
    let mut output = Output::open(&args.output)?;
    let total = response
        .headers()
        .get("content-length")
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let bar = ctx.out.bar("fetching", total.unwrap_or(0));
    let mut body = response.into_body();
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame())
            .await
            .context("no byte for 60 s; run it again to go on")?;
        let Some(frame) = frame else { break };
        let frame = frame.context("the transfer broke off; run it again to go on")?;
        if let Ok(data) = frame.into_data() {
            output.write(&data)?;
            bar.set_position(output.at);
        }
    }
    bar.finish_and_clear();
    let got = output.at;
    if let Some(total) = total.filter(|total| *total != got) {
        bail!("got {} of {}; run it again to go on", bytes(got), bytes(total));
    }
    output.finish()?;
    ctx.out.note(format!("{}: {}", args.output.display(), bytes(got)));
    Ok(got)
}

/// A file of this machine, such as one of a repository of its own: pacman gives those to its XferCommand, too.
fn copy(url: &Url, args: &Args, ctx: &Context) -> anyhow::Result<u64> {
    let Ok(path) = url.to_file_path() else {
        return Err(Hinted::new(format!("`{url}` is of another machine"), "write file:///PATH").into());
    };
    if !fs_err::metadata(&path)?.is_file() {
        bail!("`{}` is no ordinary file", path.display());
    }
    let mut from = fs_err::File::open(&path)?;
    let mut output = Output::open(&args.output)?;
    let bar = ctx.out.bar("copying", from.metadata()?.len());
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        output.write(&buffer[..read])?;
        bar.set_position(output.at);
    }
    bar.finish_and_clear();
    let at = output.at;
    output.finish()?;
    Ok(at)
}

/// A file that becomes what is written to it, and is not touched where it is that already.
#[derive(Debug)]
struct Output {
    file: fs_err::File,
    /// Bytes written so far.
    at: u64,
    /// Bytes of what was there that may still be right.
    old: u64,
}

impl Output {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let old = length(path)?;
        let mut options = fs_err::OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        Ok(Self { file, at: 0, old })
    }

    fn write(&mut self, data: &[u8]) -> anyhow::Result<()> {
        let same = usize::try_from(self.old - self.at)
            .unwrap_or(usize::MAX)
            .min(data.len());
        let (first, rest) = data.split_at(same);
        let mut there = vec![0; same];
        self.file.read_exact(&mut there)?;
        if there == first {
            self.file.write_all(rest)?;
        } else {
            self.file.seek(SeekFrom::Start(self.at))?;
            self.file.write_all(data)?;
            // What stands behind is of another file as well.
            self.old = 0;
        }
        self.at += data.len() as u64;
        self.old = self.old.max(self.at);
        Ok(())
    }

    fn finish(self) -> std::io::Result<()> {
        // A pipe has no end to be set, and no disk.
        if !self.file.metadata()?.is_file() {
            return Ok(());
        }
        self.file.set_len(self.at)?;
        self.file.sync_all()
    }
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
