//! Small packages and databases that several tests use.

use pacstore_pacman::build::{BuiltPackage, FileSpec, PackageSpec, RepoBuilder, write_package};

/// The time of everything in the samples: 2024-01-01.
pub(crate) const TIME: u64 = 1_704_067_200;

/// A small package with a file, a program, a link, an empty folder and odd names.
pub(crate) fn spec(name: &str, version: &str) -> PackageSpec {
    let mut spec = PackageSpec::new(name, version, TIME).unwrap();
    spec.files = vec![
        FileSpec::file(
            format!("usr/share/{name}/read me #1.txt"),
            format!("{name} {version}\n"),
        ),
        FileSpec::program(format!("usr/bin/{name}"), "#!/bin/sh\n"),
        FileSpec::link(format!("usr/bin/{name}-link"), name),
        FileSpec::folder(format!("var/lib/{name}")),
        FileSpec::random(format!("usr/lib/{name}.bin"), 7, 10_000),
        FileSpec::file(format!("usr/share/{name}/ünï=code"), ""),
        FileSpec::file(
            format!("usr/share/{name}/{}/deep", "long-folder-name-".repeat(8)),
            "x",
        ),
    ];
    spec
}

/// That package, written, and its bytes.
pub(crate) fn package(name: &str, version: &str) -> (BuiltPackage, Vec<u8>) {
    let mut bytes = Vec::new();
    let built = write_package(&spec(name, version), &mut bytes).unwrap();
    (built, bytes)
}

/// A repository of three small packages, and their bytes.
pub(crate) fn repository() -> (RepoBuilder, Vec<(String, Vec<u8>)>) {
    let mut repo = RepoBuilder::new("sample", TIME);
    let mut files = Vec::new();
    for (name, version) in [
        ("zoo", "1:2.0-1"),
        ("abc", "0.1.r5.gabcdef-3"),
        ("lib++", "9-1.1"),
    ] {
        let (built, bytes) = package(name, version);
        files.push((built.file_name.clone(), bytes));
        repo.add(built);
    }
    (repo, files)
}

/// A bare tar of these members.
pub(crate) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written raw, because the tar crate itself refuses hostile paths.
        let field = &mut header.as_old_mut().name;
        assert!(path.len() <= field.len(), "paths of samples are short");
        field[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A `desc` with what every entry needs.
pub(crate) fn desc(name: &str, version: &str) -> String {
    format!(
        "%FILENAME%\n{name}-{version}-any.pkg.tar.zst\n\n%NAME%\n{name}\n\n%VERSION%\n{version}\n\n%ARCH%\nany\n\n"
    )
}
