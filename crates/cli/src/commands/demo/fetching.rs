//! Everything of a repository through node 2's gateway, each byte checked.
//!
//! Packages are compared with the SHA-256 in the database; the database and the
//! signatures with the files of the ordinary mirror, or where that is somebody else's,
//! with what node 1 gives.
//!
//! - Invariant: a wrong byte, a missing file or a wrong length is an error.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pacstore_dag::{HashKind, Hasher};
use pacstore_node::BytesOut;
use pacstore_pacman::{Database, Desc, Limits};

use super::client::{Client, Got};
use super::machine::since;
use super::report::Say;
use super::stage::{NAME, Stage};

/// What one fetch of everything brought.
#[derive(Debug, Default)]
pub(super) struct Total {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) by: BytesOut,
    pub(super) took: Duration,
    pub(super) slowest_first_byte: Duration,
    /// Bytes that crossed the line between the nodes.
    pub(super) over_the_line: u64,
}

/// The path of `file` under the mirror's name.
pub(super) fn path_of(file: &str) -> String {
    // Names of packages may hold `+` and `:`, which stand in paths as they are, and `%`.
    format!("/ipns/{NAME}/{}", file.replace('%', "%25"))
}

/// Node 2's database, read through its gateway.
pub(super) async fn database(stage: &Stage, client: &mut Client) -> anyhow::Result<(Database, Got)> {
    let (read, got) = client.read(&path_of(&format!("{}.db", stage.repo))).await?;
    let database = Database::read(&read, &Limits::DB).context("the database that the gateway gives")?;
    Ok((database, got))
}

/// Fetches all but the package `except`.
pub(super) async fn everything(
    stage: &Stage,
    say: &mut Say<'_>,
    except: Option<&str>,
) -> anyhow::Result<Total> {
    let (began, before, line) = (Instant::now(), stage.client.bytes().await?, stage.line()?.down());
    let mut client = Client::new(stage.client.gateway()?, &stage.tasks);
    let mut importer = Client::new(stage.importer.gateway()?, &stage.tasks);
    let mut total = Total::default();
    let (database, got) = database(stage, &mut client).await?;
    let name = format!("{}.db", stage.repo);
    same(&name, &got, reference(stage, &mut importer, &name).await?)?;
    total.add(&got);
    let wanted: Vec<&Desc> = database
        .entries
        .iter()
        .filter(|entry| Some(&*entry.filename) != except)
        .collect();
    let bar = say
        .ctx()
        .out
        .bar("fetching", wanted.iter().filter_map(|entry| entry.csize).sum());
    // As pacman asks: by repository and architecture.
    for ending in ["db", "db.sig", "files", "files.sig"] {
        let name = format!("{}.{ending}", stage.repo);
        let expected = reference(stage, &mut importer, &name).await?;
        let path = format!("/pacman/{}/{}/{name}", stage.repo, stage.arch);
        one(&mut client, &path, expected, &mut total).await?;
    }
    for entry in wanted {
        let mut expected = entry.sha256;
        if expected.is_none() {
            expected = reference(stage, &mut importer, &entry.filename).await?;
        }
        let got = one(&mut client, &path_of(&entry.filename), expected, &mut total).await?;
        if entry.csize.is_some_and(|size| got.is_none_or(|got| got != size)) {
            bail!("{} has another size than its database says", entry.filename);
        }
        let signature = format!("{}.sig", entry.filename);
        let expected = reference(stage, &mut importer, &signature).await?;
        one(&mut client, &path_of(&signature), expected, &mut total).await?;
        bar.inc(entry.csize.unwrap_or_default());
    }
    bar.finish_and_clear();
    total.took = began.elapsed();
    total.by = since(before, stage.client.bytes().await?);
    total.over_the_line = stage.line()?.down() - line;
    book(say, total.files, total.bytes, total.by);
    Ok(total)
}

/// Books what came and was checked.
pub(super) fn book(say: &mut Say<'_>, files: u64, bytes: u64, by: BytesOut) {
    let summary = &mut say.summary;
    summary.files_verified += files;
    summary.bytes_verified += bytes;
    summary.bytes.disk += by.disk;
    summary.bytes.lan += by.lan;
    summary.bytes.peer += by.peer;
    summary.bytes.upstream += by.upstream;
}

impl Total {
    fn add(&mut self, got: &Got) {
        self.files += 1;
        self.bytes += got.len;
        self.slowest_first_byte = self.slowest_first_byte.max(got.first_byte);
    }
}

/// One file that must be there exactly if `expected` says what it is.
async fn one(
    client: &mut Client,
    path: &str,
    expected: Option<[u8; 32]>,
    total: &mut Total,
) -> anyhow::Result<Option<u64>> {
    if expected.is_none() {
        if client.open(path).await?.is_some() {
            bail!("{path} is there, though the ordinary mirror has no such file");
        }
        return Ok(None);
    }
    let got = client.get(path).await?;
    same(path, &got, expected)?;
    total.add(&got);
    Ok(Some(got.len))
}

pub(super) fn same(what: &str, got: &Got, expected: Option<[u8; 32]>) -> anyhow::Result<()> {
    if expected != Some(got.sha256) {
        bail!("{what} has other bytes than it should");
    }
    Ok(())
}

/// The SHA-256 of `name` on the ordinary mirror; `None` if it has no such file.
async fn reference(stage: &Stage, importer: &mut Client, name: &str) -> anyhow::Result<Option<[u8; 32]>> {
    if let Some(folder) = &stage.folder {
        let path = folder.join(name);
        return stage.blocking(move || sha256(path)).await;
    }
    match importer.open(&path_of(name)).await? {
        None => Ok(None),
        Some(mut body) => {
            while body.next().await?.is_some() {}
            Ok(Some(body.end()?.sha256))
        }
    }
}

fn sha256(path: PathBuf) -> anyhow::Result<Option<[u8; 32]>> {
    let mut file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut hasher = Hasher::new(HashKind::Sha2_256);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Some(hasher.finish())),
            n => hasher.update(&piece[..n]),
        }
    }
}
