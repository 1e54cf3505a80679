//! The demo's own repository: real packages, signed, in two states.
//!
//! - Invariant: what is here the real pacman installs; a state's databases name exactly
//!   the packages that lie beside them.
//! - Not here: how packages and databases are written (`pacstore-pacman`, `build`).

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use fs_err as fs;
use pacstore_pacman::build::{
    BuiltPackage, Compression, FileSpec, PackageSpec, RepoBuilder, SigningKey, write_package,
};

/// Its name.
pub(super) const NAME: &str = "demo";

/// The package that pacman is told to install; it needs [`NEEDED`].
pub(super) const HELLO: &str = "demo-hello";

/// What [`HELLO`] needs.
pub(super) const NEEDED: &str = "demo-words";

/// Name, version, architecture, payload in bytes.
type Wanted = (&'static str, &'static str, &'static str, u64);

const FIRST: [Wanted; 6] = [
    (HELLO, "1.0-1", "x86_64", 2_000),
    (NEEDED, "2024.1-2", "any", 60_000),
    ("demo-docs", "0.9.r3-1", "any", 300_000),
    ("demo-fonts", "3.2-1", "any", 1_500_000),
    ("demo-editor", "1:5.4-3", "x86_64", 5_000_000),
    ("demo-game", "1.0-1", "x86_64", 40_000_000),
];

/// Two upgraded, one new, one gone.
const SECOND: [Wanted; 6] = [
    (HELLO, "1.1-1", "x86_64", 2_500),
    (NEEDED, "2024.1-2", "any", 60_000),
    ("demo-music", "7-1", "any", 800_000),
    ("demo-fonts", "3.2-1", "any", 1_500_000),
    ("demo-editor", "1:5.4-3", "x86_64", 5_000_000),
    ("demo-game", "1.1-1", "x86_64", 40_000_000),
];

/// A folder with the repository, and the key that signs it.
#[derive(Debug)]
pub(super) struct Sample {
    folder: PathBuf,
    key: SigningKey,
    now: u64,
    repo: RepoBuilder,
}

impl Sample {
    /// The first state, an hour old.
    pub(super) fn first(folder: PathBuf, now: SystemTime) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let born = now.saturating_sub(7200);
        let key = SigningKey::generate("pacstore demo <demo@example.org>", born)?;
        let time = now.saturating_sub(3600);
        let repo = RepoBuilder::new(NAME, time);
        let mut sample = Self {
            folder,
            key,
            now,
            repo,
        };
        sample.state(&FIRST, time)?;
        Ok(sample)
    }

    /// The second state, a minute old.
    pub(super) fn second(&mut self) -> anyhow::Result<()> {
        let gone: Vec<String> = self
            .repo
            .packages()
            .iter()
            .filter(|old| !SECOND.iter().any(|new| is(old, new)))
            .map(|old| old.file_name.clone())
            .collect();
        self.state(&SECOND, self.now.saturating_sub(60))?;
        for name in gone {
            fs::remove_file(self.folder.join(format!("{name}.sig")))?;
            fs::remove_file(self.folder.join(name))?;
        }
        Ok(())
    }

    /// The key for `gpg --import`, and its fingerprint.
    pub(super) fn public_key(&self) -> (Vec<u8>, String) {
        (self.key.public_key(), self.key.fingerprint())
    }

    /// Packages, and bytes of them.
    pub(super) fn size(&self) -> (usize, u64) {
        let packages = self.repo.packages();
        (packages.len(), packages.iter().map(|package| package.csize).sum())
    }

    fn state(&mut self, wanted: &[Wanted], time: u64) -> anyhow::Result<()> {
        let gone: Vec<String> = self
            .repo
            .packages()
            .iter()
            .map(|old| old.spec.name.clone())
            .collect();
        for name in gone
            .iter()
            .filter(|name| !wanted.iter().any(|new| new.0 == **name))
        {
            self.repo.remove(name);
        }
        for one in wanted {
            if !self.repo.packages().iter().any(|old| is(old, one)) {
                let built = self.package(one, time)?;
                self.repo.add(built);
            }
        }
        self.repo.time = time;
        for (name, bytes) in self.repo.files(Some(&self.key))? {
            let path = self.folder.join(name);
            fs::write(&path, bytes)?;
            dated(&path, time)?;
        }
        Ok(())
    }

    fn package(&self, (name, version, arch, len): &Wanted, time: u64) -> anyhow::Result<BuiltPackage> {
        let mut spec = PackageSpec::new(*name, version, time)?;
        (*arch).clone_into(&mut spec.arch);
        spec.description = format!("a package of the pacstore demo with {len} bytes");
        // Random bytes become no smaller: the large one is stored as it is, which is faster.
        if *len > 20_000_000 {
            spec.compression = Compression::None;
        }
        if *name == HELLO {
            spec.depends = vec![NEEDED.to_owned()];
            let script = format!("#!/bin/sh\necho hello from {name} {version}\n");
            spec.files.push(FileSpec::program("usr/bin/demo-hello", script));
        }
        let seed = time.wrapping_add(*len);
        spec.files
            .push(FileSpec::random(format!("usr/share/{name}/payload"), seed, *len));
        let path = self.folder.join(spec.file_name());
        let built = write_package(
            &spec,
            &mut File::create(&path).with_context(|| path.display().to_string())?,
        )?;
        let signature = self.key.sign(&mut fs::File::open(&path)?, time)?;
        let signature_path = self.folder.join(format!("{}.sig", built.file_name));
        fs::write(&signature_path, signature)?;
        dated(&path, time)?;
        dated(&signature_path, time)?;
        Ok(built)
    }
}

fn is(package: &BuiltPackage, wanted: &Wanted) -> bool {
    package.spec.name == wanted.0 && package.spec.version.as_str() == wanted.1
}

/// Ordinary mirrors keep the time at which a file was made.
fn dated(path: &Path, time: u64) -> anyhow::Result<()> {
    let time = UNIX_EPOCH + Duration::from_secs(time);
    let file = File::options().write(true).open(path)?;
    Ok(file.set_times(FileTimes::new().set_modified(time))?)
}
