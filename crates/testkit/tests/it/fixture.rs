//! The real repository is laid out from where it lies.

use pacstore_testkit::{Fixture, Materialize, TestResult};

#[test]
fn two_updates_of_the_real_repository_are_laid_out_one_over_the_other() -> TestResult {
    let Some(fixture) = Fixture::arcolinux() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let db = dir.path().join("x86_64").join(format!("{}.db", Fixture::REPO));
    let find = |n| -> std::io::Result<Vec<u8>> {
        fixture.materialize(n, dir.path(), Materialize::Copy)?;
        let flat = dir.path().join(format!("{}.db", Fixture::REPO));
        fs_err::read(if db.exists() { &db } else { &flat })
    };
    assert_ne!(find(1)?, find(2)?);
    assert!(fixture.materialize(99, dir.path(), Materialize::Copy).is_err());
    Ok(())
}
