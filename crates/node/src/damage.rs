//! What fsck found, in words.

use pacstore_store::Damage;

/// One damage in one line.
pub fn describe_damage(damage: &Damage) -> String {
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
