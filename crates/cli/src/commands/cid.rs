//! `pacstore cid`: the CIDs of files and folders, offline, as `ipfs add -r -Q` gives them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use pacstore_dag::{
    self as dag, Block, BlockSink, BlockSource, Cid, Entry, FileBuilder, Profile, SourceError,
};

use super::report;
use crate::context::{Context, Exit};

/// Print the CIDs of files and folders, offline
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How files become DAGs: unixfs-v1-2025, kubo-cidv1 or pacman.store-2023
    #[arg(long, value_name = "NAME", default_value = "unixfs-v1-2025", value_parser = profile)]
    profile: &'static Profile,
    /// Take names that begin with . or ~ too
    #[arg(long)]
    hidden: bool,
    /// Follow symbolic links instead of keeping them
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Deepest folder that is read.
const MAX_DEPTH: usize = 128;

fn profile(name: &str) -> anyhow::Result<&'static Profile> {
    let known: Vec<&str> = Profile::ALL.iter().map(Profile::name).collect();
    Profile::by_name(name).with_context(|| format!("there are {}", known.join(", ")))
}

/// Prints `CID<TAB>PATH` a line, PATH byte for byte as it was given. Exits 1 if a path cannot be read: that is told, and the others are printed.
pub(crate) fn run(args: &Args, ctx: &Context) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    let mut exit = Exit::Done;
    for path in &args.paths {
        let mut walk = Walk {
            profile: args.profile,
            hidden: args.hidden,
            follow: args.dereference,
            nodes: Nodes::default(),
        };
        let entry = match walk.path(path, 0, true) {
            Ok(entry) => entry,
            Err(error) => {
                report(ctx, &error);
                exit = Exit::Failed;
                continue;
            }
        };
        if ctx.out.json() {
            all.push(serde_json::json!({ "cid": entry.cid.to_string(), "path": path.to_string_lossy() }));
        } else {
            let line = [
                entry.cid.to_string().as_bytes(),
                b"\t",
                path.as_os_str().as_bytes(),
            ]
            .concat();
            ctx.out.bytes(&line);
        }
    }
    if ctx.out.json() {
        ctx.out.line(serde_json::to_string_pretty(&all)?);
    }
    Ok(exit)
}

/// Directory nodes while a folder is built; files' bytes are not kept.
#[derive(Debug, Default)]
struct Nodes(BTreeMap<Vec<u8>, Bytes>);

impl BlockSource for Nodes {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        Ok(self.0.get(&cid.to_bytes()).cloned())
    }
}

impl BlockSink for Nodes {
    fn put(&mut self, block: Block) -> Result<(), SourceError> {
        self.0.insert(block.cid.to_bytes(), block.data);
        Ok(())
    }
}

struct Walk {
    profile: &'static Profile,
    hidden: bool,
    follow: bool,
    nodes: Nodes,
}

impl Walk {
    fn path(&mut self, path: &Path, depth: usize, named: bool) -> anyhow::Result<Entry> {
        if depth > MAX_DEPTH {
            bail!(
                "`{}` is more than {MAX_DEPTH} folders deep; a loop of links?",
                path.display()
            );
        }
        let meta = if self.follow {
            fs_err::metadata(path)?
        } else {
            fs_err::symlink_metadata(path)?
        };
        if meta.is_symlink() {
            let target = fs_err::read_link(path)?.into_os_string().into_vec();
            return Ok(dag::symlink(self.profile, &target).0);
        }
        if meta.is_dir() {
            return self.folder(path, depth);
        }
        if !meta.is_file() {
            if named {
                bail!("`{}` is neither a file nor a folder", path.display());
            }
            bail!(
                "`{}` is neither a file, a folder nor a link; remove it or leave it out",
                path.display()
            );
        }
        file(self.profile, path)
    }

    fn folder(&mut self, path: &Path, depth: usize) -> anyhow::Result<Entry> {
        let mut entries = Vec::new();
        for entry in fs_err::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().as_bytes().to_vec();
            if !self.hidden && matches!(name.first(), Some(b'.' | b'~')) {
                continue;
            }
            entries.push((name, Some(self.path(&entry.path(), depth + 1, false)?)));
        }
        let empty = Nodes::default();
        // A folder's nodes are needed only until its CID is known.
        let mut sink = Nodes::default();
        let built = dag::edit_directory(self.profile, None, entries, &empty, &mut sink);
        let entry = built.with_context(|| format!("cannot lay out `{}`", path.display()))?;
        self.nodes = Nodes::default();
        Ok(entry)
    }
}

fn file(profile: &Profile, path: &Path) -> anyhow::Result<Entry> {
    let mut file = fs_err::File::open(path)?;
    let mut builder = FileBuilder::new(profile);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        builder.push(&buffer[..read]);
    }
    let dag = builder.finish();
    Ok(Entry {
        cid: dag.root,
        tsize: dag.tsize,
    })
}
