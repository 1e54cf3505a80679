//! Writes a signed sample repository `demo` into a folder, to try mirrors and the real pacman by hand.
//!
//! `cargo run --example sample_repository -- DIR [UPDATE]`: `UPDATE` 1 (the default) makes it, 2 brings the same
//! folder to the next state: one package upgraded, one new, one gone. The public key is `DIR/key.gpg`.

use pacstore_pacman::build::{Compression, FileSpec, PackageSpec, RepoBuilder, SigningKey, write_package};
use std::error::Error;
use std::path::Path;

/// The birth of key and packages, 2024-01-01.
const TIME: u64 = 1_704_067_200;

/// Name, version, payload in bytes, packing.
type Wanted = (&'static str, &'static str, u64, Compression);

const FIRST: [Wanted; 6] = [
    ("alpha", "1.0-1", 5_000, Compression::Zstd),
    ("beta", "1:0.9.r3-2", 700_000, Compression::Xz),
    ("gamma", "3.1-1", 3_000_000, Compression::Zstd),
    ("delta", "2024.1-1", 0, Compression::Gzip),
    ("epsilon", "0.1-1", 1_048_576, Compression::None),
    ("omega", "9-1.1", 20_000_000, Compression::Zstd),
];
const SECOND: [Wanted; 6] = [
    ("alpha", "1.1-1", 6_000, Compression::Zstd),
    ("beta", "1:0.9.r3-2", 700_000, Compression::Xz),
    ("gamma", "3.2-1", 3_000_001, Compression::Zstd),
    ("epsilon", "0.1-1", 1_048_576, Compression::None),
    ("new", "1-1", 100, Compression::Gzip),
    ("omega", "9-1.1", 20_000_000, Compression::Zstd),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: sample_repository DIR [UPDATE]")?;
    let (folder, update) = (Path::new(&folder), args.next().unwrap_or_else(|| "1".to_owned()));
    let (packages, time) = if update == "2" {
        (SECOND, TIME + 86_400)
    } else {
        (FIRST, TIME)
    };
    let key = SigningKey::from_seed([42; 32], "Sample repository <sample@example.org>", TIME)?;
    let mut repo = RepoBuilder::new("demo", time);
    repo.twins = true;
    std::fs::create_dir_all(folder)?;
    for (number, (name, version, len, compression)) in packages.into_iter().enumerate() {
        let mut spec = PackageSpec::new(name, version, TIME)?;
        spec.compression = compression;
        let arch = if number % 2 == 0 { "x86_64" } else { "any" };
        arch.clone_into(&mut spec.arch);
        spec.files = vec![
            FileSpec::random(format!("usr/lib/{name}/payload"), len, len),
            FileSpec::program(
                format!("usr/bin/{name}"),
                format!("#!/bin/sh\necho {name} {version}\n"),
            ),
            FileSpec::link(format!("usr/bin/{name}-link"), name),
            FileSpec::file(format!("etc/{name}.conf"), "# nothing\n"),
            FileSpec::folder(format!("var/lib/{name}")),
        ];
        spec.backup = vec![format!("etc/{name}.conf")];
        let path = folder.join(spec.file_name());
        let built = write_package(&spec, &mut std::fs::File::create(&path)?)?;
        let signature = key.sign(&mut std::fs::File::open(&path)?, TIME)?;
        std::fs::write(folder.join(format!("{}.sig", built.file_name)), signature)?;
        repo.add(built);
    }
    for (name, bytes) in repo.files(Some(&key))? {
        std::fs::write(folder.join(name), bytes)?;
    }
    std::fs::write(folder.join("key.gpg"), key.public_key())?;
    Ok(())
}
