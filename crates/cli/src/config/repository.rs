//! `[[repository]]`: a repository without importer.
//!
//! - Invariant: a name or architecture that could not stand in a path of a request is refused here.
//! - Not here: what is done with it (`pacstore-node`, `repository`).

use pacstore_node::config::RepositoryConfig;

use super::build::{absolute, upstream};
use super::file::Repository;
use super::{ConfigError, Lines};

/// Checks all of them.
pub(super) fn build(tables: Vec<Repository>, lines: &Lines) -> Result<Vec<RepositoryConfig>, ConfigError> {
    let mut all: Vec<RepositoryConfig> = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let one = build_one(table, index, lines)?;
        if all
            .iter()
            .any(|known| known.name == one.name && known.arch == one.arch)
        {
            let why =
                "this repository stands here twice for one architecture; list all its upstreams in one table";
            return Err(lines.bad(&format!("repository.{index}.name"), why));
        }
        all.push(one);
    }
    Ok(all)
}

fn build_one(table: Repository, index: usize, lines: &Lines) -> Result<RepositoryConfig, ConfigError> {
    let key = |name: &str| format!("repository.{index}.{name}");
    if !is_word(&table.name) {
        return Err(lines.bad(&key("name"), "is needed: the repository's name, such as extra"));
    }
    if !is_word(&table.arch) {
        return Err(lines.bad(&key("arch"), "write an architecture, such as x86_64"));
    }
    let mut upstreams = Vec::new();
    for text in table.upstreams.into_vec() {
        let url = upstream(&text).map_err(|why| lines.bad(&key("upstreams"), why))?;
        if !upstreams.contains(&url) {
            upstreams.push(url);
        }
    }
    if upstreams.is_empty() {
        let why = "name at least one: the folder on an ordinary mirror that its .db is in";
        return Err(lines.bad(&key("upstreams"), why));
    }
    let keyring = match table.keyring.as_str() {
        "" => None,
        path => {
            let path = absolute(path).ok_or_else(|| lines.bad(&key("keyring"), "write an absolute path"))?;
            pacstore_import::read_keyring(&path)
                .map_err(|error| lines.bad(&key("keyring"), pacstore_node::chain(&error)))?;
            Some(path)
        }
    };
    Ok(RepositoryConfig {
        name: table.name,
        arch: table.arch,
        upstreams,
        public: table.public,
        keyring,
    })
}

/// One component of a path.
fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'%' | b'?' | b'#' | b'\\');
    !text.is_empty() && text.len() <= 200 && !text.starts_with('.') && text.bytes().all(plain)
}
