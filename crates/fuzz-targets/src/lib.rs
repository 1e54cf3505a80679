//! Every parser of foreign bytes, as a function that a fuzzer calls with any bytes at all.
//!
//! A target reads the bytes as its parser would find them on the wire, looks at what came out, and panics where a
//! promise is broken. The cargo-fuzz programs in `fuzz/` call the same functions as the tests here, which replay
//! `fuzz/corpus` and a bounded number of damaged seeds on the stable compiler.
//!
//! - Invariant: a target does no input or output and its result depends on its bytes alone.
//! - Not here: damaging seeds (`tests/it/damage.rs`), the parsers.
//! - Read first: [`TARGETS`].

mod dag;
mod names;
mod openpgp;
mod pacman;
mod web;
mod wire;

/// One parser, or a few that read the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its program and of the folder of its corpus.
    pub name: &'static str,
    /// Reads any bytes; panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Well-formed inputs, from which a fuzzer starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("dag_node", dag::node, dag::node_seeds),
    target("hamt", dag::hamt, dag::hamt_seeds),
    target("car", dag::car, dag::car_seeds),
    target("bitswap_message", wire::bitswap, wire::bitswap_seeds),
    target("ipns_record", names::record, names::record_seeds),
    target("head", names::head, names::head_seeds),
    target("names", names::texts, names::text_seeds),
    target("desc", pacman::desc, pacman::desc_seeds),
    target("database", pacman::database, pacman::database_seeds),
    target("package_name", pacman::package_name, pacman::package_name_seeds),
    target("pacman_conf", pacman::conf, pacman::conf_seeds),
    target("signature", openpgp::signature, openpgp::signature_seeds),
    target("keyring", openpgp::keyring, openpgp::keyring_seeds),
    target("request", web::request, web::request_seeds),
    target("listing", web::listing, web::listing_seeds),
    target("rsync_line", web::rsync_line, web::rsync_line_seeds),
];

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Runs the target of that name, for the programs in `fuzz/`.
///
/// # Panics
/// If there is no such target, or where the target finds a broken promise.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a program is named as its target").run)(bytes);
}
