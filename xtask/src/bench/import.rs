//! `bench import`: a corpus like a mirror's, from a directory on the same disk into a store.
//!
//! The anchor hashes the same bytes with ring on all cores, as often as the import must.

use std::fs;

use super::corpus::Corpus;
use super::lab::{self, Home};
use super::table::Table;
use super::{Args, median, say};

/// The corpus, in GB, unless `--gb` says otherwise.
const GB: f64 = 4.3;

/// Most memory an import may take, in MB.
const MEMORY: f64 = 150.0;

/// Exit codes of `pacstore import --once`: a new tree, nothing new.
const NEW: [i32; 1] = [0];
const SAME: [i32; 1] = [3];

/// Imports with and without a database, linked and copied.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (bin, dir) = lab::prepare(args)?;
    let from = dir.path().join("mirror");
    let mut corpus = Corpus::create(&from, (args.gb.unwrap_or(GB) * 1e9) as u64, usize::MAX, 512 << 20)?;
    say(&format!(
        "# {} files, {:.2} GB; page cache warm; linked = replaced_by_rename",
        corpus.files.len(),
        corpus.bytes() as f64 / 1e9
    ));
    corpus.hash(u64::MAX)?;
    let mut table = Table::default();
    for database in [false, true] {
        if database {
            corpus.add_database("bench")?;
        }
        for linked in [true, false] {
            measure(args, &bin, dir.path(), &corpus, database, linked, &mut table)?;
        }
    }
    table.print();
    Ok(())
}

fn measure(
    args: &Args,
    bin: &std::path::Path,
    dir: &std::path::Path,
    corpus: &Corpus,
    database: bool,
    linked: bool,
    table: &mut Table,
) -> anyhow::Result<()> {
    let megabytes = corpus.bytes() as f64 / 1e6;
    let how = match (database, linked) {
        (false, true) => "linked",
        (false, false) => "copied",
        (true, true) => "with database, linked",
        (true, false) => "with database, copied",
    };
    // Packages whose SHA-256 a database tells are hashed as a whole and leaf by leaf; a
    // file of one leaf needs that once.
    let twice_above = if database { 1 << 20 } else { u64::MAX };
    let (mut rates, mut anchors, mut again, mut memory, mut index) = (vec![], vec![], vec![], 0.0_f64, 0);
    for pass in 0..args.passes {
        anchors.push(megabytes / corpus.hash(twice_above)?);
        let place = dir.join(format!("home-{pass}"));
        let more = format!("files = \"all\"\nreplaced_by_rename = {linked}");
        let home = Home::importer(bin, &place, &corpus.dir, &more)?;
        let (took, peak) = home.import(&NEW)?;
        rates.push(megabytes / took);
        memory = memory.max(peak);
        index = index.max(home.index_bytes()?);
        again.push(home.import(&SAME)?.0);
        fs::remove_dir_all(&place)?;
    }
    table.at_least(
        &format!("import, {how}"),
        median(rates),
        median(anchors),
        "MB/s",
        0.8,
    );
    table.limit("  peak memory", memory, "MB", MEMORY);
    table.limit("  index", index as f64 / 1e6, "MB", megabytes * 0.01 + 4.2);
    table.tell("  again, nothing new", &format!("{:.2} s", median(again)));
    Ok(())
}
