//! Seeds are well-formed, and what fuzzers once found stays fixed.

use std::path::{Path, PathBuf};

use pacstore_fuzz_targets::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

#[test]
fn every_seed_passes() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for seed in &seeds {
            (target.run)(seed);
        }
    }
}

#[test]
fn the_corpus_is_replayed() {
    for folder in fs_err::read_dir(corpus()).expect("fuzz/corpus is there") {
        let folder = folder.expect("a readable folder").path();
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        if folder.is_file() {
            continue;
        }
        let target = TARGETS.iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("fuzz/corpus/{name} has no target"));
        for file in fs_err::read_dir(&folder).expect("a readable folder") {
            let path = file.expect("a readable folder").path();
            (target.run)(&fs_err::read(path).expect("a readable file"));
        }
    }
}

/// Without this, a seed that its parser refuses at once would test nothing.
#[test]
fn seeds_are_what_their_parsers_accept() {
    let seeds = |name: &str| {
        let target = TARGETS.iter().find(|target| target.name == name);
        (target.expect("a target").seeds)()
    };
    for seed in seeds("dag_node").iter().chain(&seeds("hamt")) {
        let cid = pacstore_dag::cid_of(pacstore_dag::DAG_PB, pacstore_dag::HashKind::Sha2_256, seed);
        pacstore_dag::kind(&cid, seed).expect("a node");
    }
    for seed in seeds("bitswap_message") {
        let fields = pacstore_bitswap::wire::Fields::new(seed.into());
        let fields: Vec<_> = fields.collect::<Result<_, _>>().expect("a message");
        assert!(fields.len() >= 4, "{fields:?}");
    }
    for seed in seeds("ipns_record") {
        pacstore_names::Record::from_bytes(&seed).expect("a record");
    }
    for seed in seeds("head") {
        pacstore_names::Head::decode(&seed).expect("a head");
    }
    for seed in seeds("database") {
        let database =
            pacstore_pacman::Database::read(&seed, &pacstore_pacman::Limits::DB).expect("a database");
        assert!(!database.entries.is_empty());
    }
    for seed in seeds("car") {
        pacstore_dag::car::Reader::new(&seed[..]).expect("a stream");
    }
}
