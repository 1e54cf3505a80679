//! Files as a mirror has them: sizes spread log-normally, a signature beside each.
//!
//! - Invariant: the same seed and size give the same bytes.
//! - Not here: packages that pacman could install (`pacstore-pacman`).

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use ring::digest::{Context, SHA256};

/// Bytes of an OpenPGP signature as repositories have them.
const SIGNATURE: u64 = 566;

/// Median and spread of package sizes: those of a whole Arch mirror.
const MEDIAN: f64 = 150_000.0;
const SIGMA: f64 = 2.1;

/// A cheap generator of bytes that do not compress.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between 0 and 1, never 0.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (self.fraction(), self.fraction());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// Writes a file of `len` such bytes and gives its SHA-256.
    pub(super) fn file(&mut self, path: &Path, len: u64) -> anyhow::Result<[u8; 32]> {
        let mut file = File::create(path).with_context(|| path.display().to_string())?;
        let mut buffer = vec![0; 1 << 20];
        let mut sha256 = Context::new(&SHA256);
        let mut rest = len;
        while rest > 0 {
            let part = &mut buffer[..rest.min(1 << 20) as usize];
            self.fill(part);
            sha256.update(part);
            file.write_all(part)?;
            rest -= part.len() as u64;
        }
        Ok(sha256.finish().as_ref().try_into()?)
    }
}

/// A folder full of files.
#[derive(Debug)]
pub(super) struct Corpus {
    pub(super) dir: PathBuf,
    /// Names and lengths in bytes.
    pub(super) files: Vec<(String, u64)>,
    packages: Vec<(String, u64, [u8; 32])>,
}

impl Corpus {
    /// Packages and signatures of together `bytes`, at most `packages` and none above `largest`.
    /// One has `largest` bytes if that is a small part of all.
    pub(super) fn create(dir: &Path, bytes: u64, packages: usize, largest: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut noise = Noise::new(4);
        let mut sizes = Vec::new();
        let mut total = 0;
        if largest < bytes / 4 {
            sizes.push(largest);
            total = largest;
        }
        while total < bytes && sizes.len() < packages {
            let size = ((MEDIAN * (SIGMA * noise.normal()).exp()) as u64).clamp(1_000, largest / 2);
            total += size + SIGNATURE;
            sizes.push(size);
        }
        let made = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        each_core(|| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(size) = sizes.get(number) else {
                    return Ok(());
                };
                let name = format!("package{number:06}-1.{number}-1-x86_64.pkg.tar.zst");
                let mut noise = Noise::new(number as u64 + 1000);
                let sha256 = noise.file(&dir.join(&name), *size)?;
                noise.file(&dir.join(format!("{name}.sig")), SIGNATURE)?;
                made.lock()
                    .expect("no thread panicked")
                    .push((name, *size, sha256));
            }
        })?;
        let mut packages = made.into_inner().expect("no thread panicked");
        packages.sort();
        Ok(Self {
            dir: dir.to_owned(),
            files: with_signatures(&packages),
            packages,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }

    /// Replaces packages of together `part` of the bytes by a newer release, as a mirror does: other names, old ones gone.
    /// Gives the bytes of the new ones.
    pub(super) fn renew(&mut self, part: f64, release: u64) -> anyhow::Result<u64> {
        let wanted = (self.bytes() as f64 * part) as u64;
        let (mut bytes, count) = (0, self.packages.len());
        // Evenly spread, so that sizes are mixed as they are in the whole.
        for at in (0..count).map(|n| (n * 7919 + release as usize * 31) % count) {
            let Some((name, size, sha256)) = self.packages.get_mut(at) else {
                break;
            };
            if wanted < bytes + *size {
                continue;
            }
            fs::remove_file(self.dir.join(&*name))?;
            fs::remove_file(self.dir.join(format!("{name}.sig")))?;
            *name = format!("package{at:06}-1.{at}-{}-x86_64.pkg.tar.zst", release + 1);
            let mut noise = Noise::new(at as u64 + 1000 + (release << 32));
            *sha256 = noise.file(&self.dir.join(&*name), *size)?;
            noise.file(&self.dir.join(format!("{name}.sig")), SIGNATURE)?;
            bytes += *size + SIGNATURE;
            if wanted < bytes + wanted / 100 {
                break;
            }
        }
        self.files = with_signatures(&self.packages);
        Ok(bytes)
    }

    /// Writes the repository database `name`.db, which names every package with its SHA-256.
    pub(super) fn add_database(&mut self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(format!("{name}.db"));
        let mut tar = tar::Builder::new(BufWriter::new(File::create(&path)?));
        for (number, (file, size, sha256)) in self.packages.iter().enumerate() {
            let package = format!("package{number:06}");
            let version = file
                .strip_prefix(&format!("{package}-"))
                .and_then(|rest| rest.strip_suffix("-x86_64.pkg.tar.zst"))
                .context("a package of ours")?;
            let hex = sha256
                .iter()
                .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            let desc = format!(
                "%FILENAME%\n{file}\n\n%NAME%\n{package}\n\n%BASE%\n{package}\n\n%VERSION%\n{version}\n\n\
                 %DESC%\nnothing\n\n%CSIZE%\n{size}\n\n%ISIZE%\n{size}\n\n%SHA256SUM%\n{hex}\n\n%ARCH%\nx86_64\n\n"
            );
            let mut header = tar::Header::new_gnu();
            header.set_size(desc.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            header.set_cksum();
            tar.append_data(&mut header, format!("{package}-{version}/desc"), desc.as_bytes())?;
        }
        tar.into_inner()?.flush()?;
        self.files
            .push((format!("{name}.db"), fs::metadata(&path)?.len()));
        Ok(())
    }

    /// Hashes all files on all cores, those over `twice_above` bytes twice; seconds.
    pub(super) fn hash(&self, twice_above: u64) -> anyhow::Result<f64> {
        let mut order: Vec<_> = self.files.iter().collect();
        order.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let next = AtomicUsize::new(0);
        let start = std::time::Instant::now();
        each_core(|| {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let Some((name, size)) = order.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return Ok(());
                };
                let mut file = File::open(self.dir.join(name))?;
                let mut contexts = vec![Context::new(&SHA256); 1 + usize::from(*size > twice_above)];
                loop {
                    let read = file.read(&mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    for context in &mut contexts {
                        context.update(&buffer[..read]);
                    }
                }
                for context in contexts {
                    std::hint::black_box(context.finish());
                }
            }
        })?;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn with_signatures(packages: &[(String, u64, [u8; 32])]) -> Vec<(String, u64)> {
    let both =
        |(name, size, _): &(String, u64, _)| [(name.clone(), *size), (format!("{name}.sig"), SIGNATURE)];
    packages.iter().flat_map(both).collect()
}

fn each_core(work: impl Fn() -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(&work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}
