//! `pacstore verify`: read everything again and compare it with what it should be.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use pacstore_dag as dag;
use pacstore_pacman::{Database, DbFileName, DbKind, FileFacts, Limits, RepoFiles, check};
use serde::Serialize;

use crate::context::{Context, Exit, Hinted};
use crate::printer::{Bar, bytes};

/// Read a mirror's files again and compare them with its tree
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The mirror's NAME, or a directory that holds a repository
    #[arg(value_name = "NAME|DIR")]
    what: String,
}

/// Folders below the named one that are looked into.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Default, Serialize)]
struct Report {
    files: u64,
    bytes: u64,
    absent: u64,
    wrong: Vec<String>,
}

/// Exits 1 if anything is wrong. Files that were not fetched yet are counted, not wrong.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let report = if args.what.contains('/') || Path::new(&args.what).is_dir() {
        directory(Path::new(&args.what))?
    } else {
        mirror(&args.what, ctx).await?
    };
    ctx.out.data(&report, |report| {
        let mut lines = report.wrong.clone();
        lines.push(format!(
            "{} files, {} read again; {} not on this disk; {} wrong",
            report.files,
            bytes(report.bytes),
            report.absent,
            report.wrong.len()
        ));
        lines.join("\n")
    })?;
    Ok(if report.wrong.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Each database in `dir` or below it against the files beside it.
fn directory(dir: &Path) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut open = vec![(dir.to_owned(), 0)];
    let mut databases = 0;
    while let Some((folder, depth)) = open.pop() {
        for entry in fs_err::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() && depth < MAX_DEPTH {
                open.push((path, depth + 1));
                continue;
            }
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(DbFileName::parse);
            // Twins such as REPO.db.tar.gz hold the same; each is checked once, as REPO.db.
            if name.is_some_and(|name| name.kind == DbKind::Db && name.ending.is_empty() && !name.signature) {
                databases += 1;
                repository(&folder, &path, &mut report)?;
            }
        }
    }
    if databases == 0 {
        return Err(Hinted::new(
            format!("no REPO.db in or below `{}`", dir.display()),
            "name the folder of a repository",
        )
        .into());
    }
    Ok(report)
}

/// One repository: its database, its file list, the packages.
fn repository(folder: &Path, database: &Path, report: &mut Report) -> anyhow::Result<()> {
    let db =
        Database::read(&read_file(database)?, &Limits::DB).with_context(|| database.display().to_string())?;
    let db_name = database
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let files_name = format!("{}files", db_name.strip_suffix("db").unwrap_or(db_name));
    let files = match read_file(&folder.join(&files_name)) {
        Ok(bytes) => Some(Database::read(&bytes, &Limits::FILES).with_context(|| files_name.clone())?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let facts: BTreeMap<String, FileFacts> = db
        .entries
        .iter()
        .filter_map(|entry| {
            Some((
                entry.filename.to_string(),
                read_facts(&folder.join(&*entry.filename)).ok()?,
            ))
        })
        .collect();
    report.files += facts.len() as u64;
    report.bytes += facts.values().map(|facts| facts.len).sum::<u64>();
    let others: Vec<(&str, &Database)> = files.iter().map(|files| (files_name.as_str(), files)).collect();
    let problems = check(&RepoFiles {
        db_name,
        db: &db,
        others: &others,
        facts: &|name| facts.get(name).copied(),
        // Whether a signature should be there only the upstream knows.
        upstream_has: &|_| false,
    });
    report.wrong.extend(
        problems
            .iter()
            .map(|problem| format!("{}: {problem}", folder.display())),
    );
    Ok(())
}

/// All bytes of a database.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses what is no file: a pipe would be waited at for ever.
fn open_file(path: &Path) -> std::io::Result<fs_err::File> {
    if !fs_err::metadata(path)?.is_file() {
        let what = format!("`{}` is no ordinary file", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, what));
    }
    fs_err::File::open(path)
}

fn read_facts(path: &Path) -> std::io::Result<FileFacts> {
    let mut file = open_file(path)?;
    let mut hasher = dag::Hasher::new(dag::HashKind::Sha2_256);
    let (mut buffer, mut len) = (vec![0; 1 << 20], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(FileFacts {
                len,
                sha256: Some(hasher.finish()),
            });
        }
        hasher.update(&buffer[..read]);
        len += read as u64;
    }
}

async fn mirror(name: &str, ctx: &Context) -> anyhow::Result<Report> {
    if ctx.daemon().await.is_some() {
        let hint = "stop the daemon for it, or use `pacstore fsck`, which goes through it";
        return Err(Hinted::new("verify needs the store for itself", hint).into());
    }
    let own = ctx.offline().await?;
    let checked = read_again(&own.node, name, ctx);
    own.close().await;
    checked
}

fn read_again(node: &pacstore_node::Node, name: &str, ctx: &Context) -> anyhow::Result<Report> {
    let unknown = || {
        Hinted::new(
            format!("no mirror `{name}` is configured here"),
            "`pacstore config show` lists them",
        )
    };
    let mirror = node.mirror(name).ok_or_else(unknown)?;
    let no_head = || {
        Hinted::new(
            format!("no head of `{name}` is known"),
            "import it, or start the daemon",
        )
    };
    let head = mirror.current().ok_or_else(no_head)?;
    let store = node.store();
    let mut report = Report::default();
    let mut open = vec![(Vec::new(), head.head.tree)];
    let bar = ctx.out.bar("reading", head.head.counts.bytes);
    while let Some((path, cid)) = open.pop() {
        let shown = String::from_utf8_lossy(&path).into_owned();
        if cid.codec() == dag::DAG_PB {
            let Some(node) = store.node(&cid)? else {
                report.wrong.push(format!("{shown}: directory {cid} is missing"));
                continue;
            };
            if dag::verify(&cid, &node).is_err() {
                report.wrong.push(format!("{shown}: node {cid} has other bytes"));
                continue;
            }
            if matches!(dag::kind(&cid, &node)?, dag::Kind::Directory) {
                for (name, entry) in dag::list(&cid, store)? {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(&name);
                    open.push((below, entry.cid));
                }
                continue;
            }
        }
        file(store, &cid, &shown, &mut report, &bar)?;
    }
    bar.finish_and_clear();
    Ok(report)
}

fn file(
    store: &pacstore_store::Store,
    cid: &dag::Cid,
    shown: &str,
    report: &mut Report,
    bar: &Bar,
) -> anyhow::Result<()> {
    let Some(layout) = store.dag_of(cid)? else {
        report.absent += 1;
        return Ok(());
    };
    report.files += 1;
    for leaf in &layout.leaves {
        let right = match store.block(&leaf.cid) {
            Ok(Some(data)) => dag::verify(&leaf.cid, &data).is_ok(),
            Ok(None) | Err(_) => false,
        };
        if !right {
            report.wrong.push(format!(
                "{shown}: bytes {}..{} are not what the tree says",
                leaf.offset,
                leaf.offset + leaf.len
            ));
            return Ok(());
        }
        report.bytes += leaf.len;
        bar.inc(leaf.len);
    }
    Ok(())
}
