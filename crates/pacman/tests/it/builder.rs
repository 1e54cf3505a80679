//! Packages of our own making: reproducible, streamed, and what is in them.

use crate::samples::{TIME, package, repository, spec};
use pacstore_pacman::build::{
    BuildError, Compression, Content, FileSpec, Kind, PackageSpec, Random, RepoBuilder, SigningKey,
    write_package,
};
use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

fn unpacked(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match compression {
        Compression::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        Compression::Zstd => Box::new(zstd::Decoder::new(bytes).unwrap()),
        Compression::Xz => Box::new(liblzma::read::XzDecoder::new(bytes)),
        Compression::Bzip2 => Box::new(bzip2::read::BzDecoder::new(bytes)),
        Compression::None => Box::new(bytes),
    };
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    out
}

fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let mut all = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        all.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
    }
    all
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (first, bytes) = package("abc", "1.0-1");
    let (second, again) = package("abc", "1.0-1");
    assert_eq!(bytes, again);
    assert_eq!(first.csize, bytes.len() as u64);
    assert_eq!(first.sha256, second.sha256);
    assert_eq!(
        first.sha256[..],
        *ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref()
    );
    let key = || SigningKey::from_seed([1; 32], "A <a@example.org>", TIME).unwrap();
    assert_eq!(key().public_key(), key().public_key());
    let (repo, _) = repository();
    assert_eq!(
        repo.files(Some(&key())).unwrap(),
        repo.files(Some(&key())).unwrap()
    );
    let generated = || {
        SigningKey::generate("A <a@example.org>", TIME)
            .unwrap()
            .fingerprint()
    };
    assert_ne!(generated(), generated());
}

#[test]
fn every_compression_holds_the_same_package() {
    let all = [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::Bzip2,
        Compression::None,
    ];
    let tars = all.map(|compression| {
        let spec = PackageSpec {
            compression,
            ..spec("abc", "1.0-1")
        };
        let mut bytes = Vec::new();
        let built = write_package(&spec, &mut bytes).unwrap();
        assert_eq!(
            built.file_name,
            format!("abc-1.0-1-any.pkg.tar{}", compression.ending())
        );
        unpacked(compression, &bytes)
    });
    assert!(tars.iter().all(|tar| *tar == tars[0]));
}

#[test]
fn a_package_has_its_metadata_first_and_all_files_in_its_mtree() {
    let (built, bytes) = package("abc", "1.0-1");
    let tar = unpacked(Compression::Zstd, &bytes);
    let mut archive = tar::Archive::new(&tar[..]);
    let paths: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(paths[..3], [".BUILDINFO", ".MTREE", ".PKGINFO"]);
    assert_eq!(paths[3..], built.paths);
    let members = members(&tar);
    let pkginfo = String::from_utf8(members[".PKGINFO"].clone()).unwrap();
    for line in [
        "pkgname = abc",
        "pkgver = 1.0-1",
        "arch = any",
        &format!("size = {}", built.isize),
    ] {
        assert!(pkginfo.lines().any(|l| l == line), "{line} in {pkginfo}");
    }
    let mtree = String::from_utf8(unpacked(Compression::Gzip, &members[".MTREE"])).unwrap();
    for part in [
        "./usr/bin/abc time=1704067200.0 mode=755 size=10 md5digest=",
        "./usr/bin/abc-link time=1704067200.0 mode=777 type=link link=abc",
        "./var/lib/abc time=1704067200.0 mode=755 type=dir",
        "./usr/share/abc/read\\040me\\040\\0431.txt ",
        "./.PKGINFO ",
    ] {
        assert!(mtree.contains(part), "{part} in {mtree}");
    }
    assert_eq!(mtree.lines().count(), 2 + 2 + built.paths.len());
}

#[test]
fn impossible_packages_are_refused() {
    let write = |spec: &PackageSpec| write_package(spec, &mut io::sink());
    let with = |files: Vec<FileSpec>| PackageSpec {
        files,
        ..PackageSpec::new("a", "1-1", TIME).unwrap()
    };
    for path in [
        "", "/etc/x", "../x", "usr/../x", "usr//x", ".PKGINFO", ".x/y", "usr/x\ny",
    ] {
        assert!(
            matches!(
                write(&with(vec![FileSpec::file(path, "")])),
                Err(BuildError::Path(_))
            ),
            "{path:?}"
        );
    }
    let twice = vec![FileSpec::file("usr/x", ""), FileSpec::file("usr/x", "")];
    assert!(matches!(write(&with(twice)), Err(BuildError::Twice(_))));
    let above = vec![FileSpec::file("usr/x", ""), FileSpec::file("usr/x/y", "")];
    assert!(matches!(write(&with(above)), Err(BuildError::Twice(_))));
    for (name, version) in [("a b", "1-1"), ("", "1-1"), ("a/b", "1-1"), ("a", "1")] {
        let spec = PackageSpec::new(name, version, TIME).unwrap();
        assert!(
            matches!(write(&spec), Err(BuildError::Name(..))),
            "{name} {version}"
        );
    }
    assert!(PackageSpec::new("a", "", TIME).is_err());
}

#[test]
fn random_content_is_the_same_however_it_is_read() {
    let content = Content::Random { seed: 5, len: 1000 };
    let mut whole = Vec::new();
    content.reader().read_to_end(&mut whole).unwrap();
    assert_eq!(whole.len(), 1000);
    let mut pieces = Vec::new();
    let mut random = Random::new(5);
    for size in (1..).take_while(|n| n * (n + 1) / 2 <= 1000) {
        let mut piece = vec![0; size];
        random.read_exact(&mut piece).unwrap();
        pieces.extend(piece);
    }
    assert_eq!(whole[..pieces.len()], pieces);
    // The reference value of splitmix64. Another generator would change every sample repository.
    let mut first = [0; 8];
    Random::new(0).read_exact(&mut first).unwrap();
    assert_eq!(u64::from_le_bytes(first), 0xe220_a839_7b1d_cdaf);
}

/// A writer that keeps nothing, for files that should not be in memory.
#[derive(Default)]
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_large_payload_streams_and_does_not_shrink() {
    let mut spec = PackageSpec::new("large", "1-1", TIME).unwrap();
    spec.files.push(FileSpec::random("usr/lib/large", 1, 32 << 20));
    let mut out = Counted::default();
    let built = write_package(&spec, &mut out).unwrap();
    assert_eq!(built.csize, out.0);
    assert_eq!(built.isize, 32 << 20);
    assert!(
        built.csize > 32 << 20 && built.csize < 33 << 20,
        "{}",
        built.csize
    );
    assert!(built.spec.files.is_empty());
    assert_eq!(
        spec.files[0].kind,
        Kind::File(Content::Random {
            seed: 1,
            len: 32 << 20
        })
    );
}

#[test]
fn a_signature_holds_for_its_bytes_only() {
    let key = SigningKey::from_seed([1; 32], "A <a@example.org>", TIME).unwrap();
    let signature = key.sign(&mut &b"hello"[..], TIME + 1).unwrap();
    let public = SignedPublicKey::from_bytes(&key.public_key()[..]).unwrap();
    public.verify_bindings().unwrap();
    let parsed = DetachedSignature::from_bytes(&signature[..]).unwrap();
    parsed.verify(&public, b"hello").unwrap();
    assert!(parsed.verify(&public, b"hellO").is_err());
    assert_eq!(key.fingerprint().len(), 40);
    assert!(key.sign(&mut &b""[..], u64::MAX).is_err());
    let other = SigningKey::from_seed([2; 32], "A <a@example.org>", TIME).unwrap();
    assert_ne!(other.fingerprint(), key.fingerprint());
}

#[test]
fn adding_a_package_replaces_the_older_one() {
    let mut repo = RepoBuilder::new("r", TIME);
    repo.twins = true;
    repo.add(package("abc", "1-1").0);
    repo.add(package("abc", "2-1").0);
    assert_eq!(repo.packages().len(), 1);
    assert_eq!(repo.packages()[0].spec.version.as_str(), "2-1");
    let names: Vec<String> = repo
        .files(None)
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["r.db", "r.db.tar.gz", "r.files", "r.files.tar.gz"]);
    assert!(repo.remove("abc") && !repo.remove("abc"));
}
