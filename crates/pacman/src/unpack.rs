//! Unpacking of foreign archives: gzip, zstd, xz, bzip2 or bare tar, told apart by their first bytes.
//!
//! - Invariant: never yields more than the given number of bytes; past it, reading fails with [`TooMuch`].
//! - Invariant: decoders need at most about 130 MiB of memory whatever the archive asks for.
//! - Not here: tar (`crate::archive`), packing (`crate::build`).

use std::io::{self, BufRead, Read};

/// The most memory that an xz stream may ask for, in bytes; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// The first byte of each member of a gzip file.
const GZIP_BEGINS: u8 = 0x1f;

/// The largest zstd window, as a power of two; what `zstd -d` takes, too.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The archive holds more than it may.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes unpacked")]
pub(crate) struct TooMuch(pub(crate) u64);

/// How bytes are packed, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    Tar,
}

impl Packing {
    /// Looks at the first bytes; `None` if nothing that we know begins like this.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let zstd_skippable = bytes.len() > 3 && bytes[0] & 0xf0 == 0x50 && bytes[1..4] == [0x2a, 0x4d, 0x18];
        if bytes.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || zstd_skippable {
            Some(Self::Zstd)
        } else if bytes.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Self::Xz)
        } else if bytes.starts_with(b"BZh") {
            Some(Self::Bzip2)
        } else if is_tar(bytes) {
            Some(Self::Tar)
        } else {
            None
        }
    }

    /// The unpacked bytes, at most `limit` of them.
    pub(crate) fn reader<'a>(self, input: impl BufRead + 'a, limit: u64) -> io::Result<Bounded<'a>> {
        let inner: Box<dyn Read + 'a> = match self {
            Self::Gzip => Box::new(Gzip(Some(flate2::bufread::GzDecoder::new(input)))),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Tar => Box::new(input),
        };
        Ok(Bounded {
            inner,
            limit,
            left: limit,
        })
    }
}

/// The members of a gzip file, one behind the other. Whatever stands behind the last one is padding (zeros of a tape or
/// of a disk's block), as for gzip and pacman.
struct Gzip<R>(Option<flate2::bufread::GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let got = member.read(out)?;
            if 0 < got || out.is_empty() {
                return Ok(got);
            }
            let rest = self.0.take().map(flate2::bufread::GzDecoder::into_inner);
            if let Some(mut rest) = rest
                && rest.fill_buf()?.first() == Some(&GZIP_BEGINS)
            {
                self.0 = Some(flate2::bufread::GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// A tar has a magic word in its first header; one without members is all zeros.
fn is_tar(bytes: &[u8]) -> bool {
    match bytes.get(..512) {
        Some(block) => &block[257..262] == b"ustar" || block.iter().all(|&b| b == 0),
        None => false,
    }
}

/// A reader that fails with [`TooMuch`] at the first byte past its limit.
pub(crate) struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    limit: u64,
    left: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other(TooMuch(self.limit))),
            };
        }
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let got = self.inner.read(&mut out[..room])?;
        self.left -= got as u64;
        Ok(got)
    }
}
