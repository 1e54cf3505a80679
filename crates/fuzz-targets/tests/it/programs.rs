//! Every target has its cargo-fuzz program, and no program is without target.

use std::collections::BTreeSet;
use std::path::Path;

use pacstore_fuzz_targets::TARGETS;

#[test]
fn each_target_has_a_program_that_runs_it() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs_err::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    let mut programs = BTreeSet::new();
    for file in fs_err::read_dir(fuzz.join("fuzz_targets")).expect("fuzz/fuzz_targets") {
        let path = file.expect("a readable folder").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs_err::read_to_string(&path).expect("a readable file");
        assert!(
            text.contains(&format!("run(\"{name}\", bytes)")),
            "{name} runs another target"
        );
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        programs.insert(name);
    }
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(programs, targets);
}
