//! What fsck found, in words.

use pacstore_store::{Damage, FsckReport};
use serde::{Deserialize, Serialize};

/// What fsck found and what of it is left, each damage in one line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Checked {
    /// Files checked.
    pub files: u64,
    /// Nodes checked.
    pub nodes: u64,
    /// What was wrong.
    pub damages: Vec<String>,
    /// What still is: all of it without `--repair`, else what is not of the store.
    pub left: Vec<String>,
    /// True if what can be mended was.
    pub repaired: bool,
}

impl From<&FsckReport> for Checked {
    fn from(report: &FsckReport) -> Self {
        Self {
            files: report.files,
            nodes: report.nodes,
            damages: report.damages.iter().map(describe_damage).collect(),
            left: report.left().map(describe_damage).collect(),
            repaired: report.repaired,
        }
    }
}

/// One damage in one line.
fn describe_damage(damage: &Damage) -> String {
    match damage {
        Damage::Pages => "the index had damaged pages and went back to its last whole state".to_owned(),
        Damage::FileMissing { root, path } => format!("file {root} is missing: {}", path.display()),
        Damage::FileSize {
            root,
            path,
            expected,
            found,
        } => {
            format!(
                "file {root} has {found} bytes, not {expected}: {}",
                path.display()
            )
        }
        Damage::FileBytes { root, path } => format!("file {root} has other bytes: {}", path.display()),
        Damage::FileUnreadable { root, path } => format!("file {root} cannot be read: {}", path.display()),
        Damage::FileRow { id } => format!("the index row of file {id} makes no sense"),
        Damage::NodeBytes { cid } => format!("node {cid} has other bytes"),
        Damage::Table { table, rows } => format!("{rows} rows of table `{table}` are missing or wrong"),
        Damage::Stray { path } => format!("the index does not know {}", path.display()),
        Damage::Foreign { path } => format!("not of the store, left alone: {}", path.display()),
        other => format!("{other:?}"),
    }
}
