//! The compressions that packages and databases are written in.
//!
//! - Invariant: output depends on the input and on the version of the compressor only (no times, no thread counts).
//! - Not here: unpacking (`crate::unpack`).

use std::io::{self, Write};

/// How a package or a database is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// `.gz`, what `repo-add` does by default.
    Gzip,
    /// `.zst`, what `makepkg` does on Arch.
    #[default]
    Zstd,
    /// `.xz`; slow.
    Xz,
    /// `.bz2`.
    Bzip2,
    /// A bare tar.
    None,
}

impl Compression {
    /// What stands behind `.tar` in a file name, with its dot.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
            Self::Xz => ".xz",
            Self::Bzip2 => ".bz2",
            Self::None => "",
        }
    }

    /// A writer that packs into `out`. Call [`Packer::finish`], or the end is missing.
    pub(crate) fn pack<W: Write>(self, out: W) -> io::Result<Packer<W>> {
        Ok(match self {
            // Low levels: what is packed here is small, or does not shrink.
            Self::Gzip => Packer::Gzip(
                flate2::GzBuilder::new()
                    .mtime(0)
                    .write(out, flate2::Compression::new(4)),
            ),
            Self::Zstd => Packer::Zstd(zstd::Encoder::new(out, 1)?),
            Self::Xz => Packer::Xz(liblzma::write::XzEncoder::new(out, 1)),
            Self::Bzip2 => Packer::Bzip2(bzip2::write::BzEncoder::new(out, bzip2::Compression::fast())),
            Self::None => Packer::None(out),
        })
    }
}

/// A compressor over a writer.
pub(crate) enum Packer<W: Write> {
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
    Xz(liblzma::write::XzEncoder<W>),
    Bzip2(bzip2::write::BzEncoder<W>),
    None(W),
}

impl<W: Write> Packer<W> {
    /// Writes the end of the stream and gives the writer back.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Gzip(packer) => packer.finish(),
            Self::Zstd(packer) => packer.finish(),
            Self::Xz(packer) => packer.finish(),
            Self::Bzip2(packer) => packer.finish(),
            Self::None(out) => Ok(out),
        }
    }

    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Self::Gzip(packer) => packer,
            Self::Zstd(packer) => packer,
            Self::Xz(packer) => packer,
            Self::Bzip2(packer) => packer,
            Self::None(out) => out,
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_write().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_write().flush()
    }
}
