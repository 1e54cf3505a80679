//! CAR version 1: many blocks in one stream.
//!
//! - Invariant: a [`Reader`] gives no block that it has not verified, and holds one block at a time.
//! - Not here: CAR version 2 (named in an error), where the blocks go.
//! - Read first: <https://ipld.io/specs/transport/car/carv1/>.

use std::io::{self, Read, Write};

use bytes::Bytes;
use cid::Cid;

use crate::hash::{VerifyError, verify};
use crate::limits::MAX_BLOCK;
use crate::pb::put_varint;
use crate::source::Block;

/// The longest header in bytes: about 20,000 roots.
pub const MAX_HEADER: usize = 1 << 20;
/// The longest CID in bytes in front of a block.
const MAX_CID: usize = 128;

/// Why a CAR could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadCarError {
    /// The stream failed, or ended within a header or block.
    #[error("cannot read CAR stream")]
    Io(#[from] io::Error),
    /// The header is not that of a CAR.
    #[error("malformed CAR header: {0}")]
    Header(&'static str),
    /// A CAR of another version.
    #[error("CAR version {0} is not supported, only 1 is")]
    Version(u64),
    /// A header or block is longer than allowed, or has no length at all.
    #[error("CAR section {index} of {len} bytes")]
    Length {
        /// Which section, the header being 0.
        index: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A section does not begin with a CID.
    #[error("CAR section {index} has no valid CID")]
    Cid {
        /// Which section, the header being 0.
        index: u64,
    },
    /// A block is not what its CID says.
    #[error("CAR section {index} does not verify")]
    Block {
        /// Which section, the header being 0.
        index: u64,
        /// What is wrong with it.
        #[source]
        source: VerifyError,
    },
}

/// Reads blocks one by one; as an iterator it ends after the first error.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    roots: Vec<Cid>,
    index: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ReadCarError`].
    pub fn new(mut input: R) -> Result<Self, ReadCarError> {
        let len = read_varint(&mut input, 0)?.ok_or(ReadCarError::Header("empty stream"))?;
        let header = read_section(&mut input, 0, len, MAX_HEADER)?;
        let roots = parse_header(&header)?;
        Ok(Self {
            input,
            roots,
            index: 0,
            ended: false,
        })
    }

    /// The roots that the header names; their blocks need not be in the stream.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// The next block, verified; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`ReadCarError`]; where one block does not verify or parse, the next can still be read.
    pub fn next_block(&mut self) -> Result<Option<Block>, ReadCarError> {
        let index = self.index + 1;
        let Some(len) = read_varint(&mut self.input, index)? else {
            return Ok(None);
        };
        let section = Bytes::from(read_section(&mut self.input, index, len, MAX_BLOCK + MAX_CID)?);
        self.index = index;
        let mut rest = &section[..];
        let cid = Cid::read_bytes(&mut rest).map_err(|_| ReadCarError::Cid { index })?;
        let data = section.slice_ref(rest);
        verify(&cid, &data).map_err(|source| ReadCarError::Block { index, source })?;
        Ok(Some(Block { cid, data }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Block, ReadCarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_block().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A varint length; `None` if the stream ends before it.
fn read_varint(input: &mut impl Read, index: u64) -> Result<Option<u64>, ReadCarError> {
    let mut value = 0u64;
    for i in 0..9 {
        let mut byte = [0];
        match input.read_exact(&mut byte) {
            Err(error) if i == 0 && error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        value |= u64::from(byte[0] & 0x7f) << (7 * i);
        if byte[0] < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(ReadCarError::Length { index, len: value })
}

fn read_section(input: &mut impl Read, index: u64, len: u64, limit: usize) -> Result<Vec<u8>, ReadCarError> {
    if len == 0 || len > limit as u64 {
        return Err(ReadCarError::Length { index, len });
    }
    // Grows as bytes arrive: a length alone does not make us allocate.
    let mut section = Vec::new();
    input.take(len).read_to_end(&mut section)?;
    if section.len() as u64 != len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(section)
}

/// The roots in a header: the dag-cbor map `{roots: [CID], version: 1}` in any order of keys.
fn parse_header(header: &[u8]) -> Result<Vec<Cid>, ReadCarError> {
    let mut cbor = Cbor(header);
    let (mut roots, mut version) = (None, None);
    let (MAP, pairs) = cbor.head()? else {
        return Err(ReadCarError::Header("no map"));
    };
    for _ in 0..pairs {
        let (TEXT, len) = cbor.head()? else {
            return Err(ReadCarError::Header("key is no text"));
        };
        match cbor.take(len)? {
            b"roots" if roots.is_none() => roots = Some(cbor.roots()?),
            b"version" if version.is_none() => {
                let (UINT, number) = cbor.head()? else {
                    return Err(ReadCarError::Header("version is no number"));
                };
                version = Some(number);
            }
            _ => return Err(ReadCarError::Header("unknown or repeated key")),
        }
    }
    if !cbor.0.is_empty() {
        return Err(ReadCarError::Header("bytes after the map"));
    }
    match version {
        Some(1) => roots.ok_or(ReadCarError::Header("no roots")),
        Some(other) => Err(ReadCarError::Version(other)),
        None => Err(ReadCarError::Header("no version")),
    }
}

const UINT: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
/// The CBOR tag of a CID; a zero byte stands before it.
const CID_TAG: u64 = 42;

/// As much CBOR as a CAR header needs.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], ReadCarError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(ReadCarError::Header("cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    /// Major type and argument of the next item.
    fn head(&mut self) -> Result<(u8, u64), ReadCarError> {
        let first = self.take(1)?[0];
        let argument = match first & 31 {
            short @ 0..=23 => u64::from(short),
            long @ 24..=27 => {
                let bytes = self.take(1 << (long - 24))?;
                bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
            }
            _ => return Err(ReadCarError::Header("item of no definite length")),
        };
        Ok((first >> 5, argument))
    }

    fn roots(&mut self) -> Result<Vec<Cid>, ReadCarError> {
        let (ARRAY, count) = self.head()? else {
            return Err(ReadCarError::Header("roots are no array"));
        };
        let mut roots = Vec::new();
        for _ in 0..count {
            let (TAG, CID_TAG) = self.head()? else {
                return Err(ReadCarError::Header("root is no CID"));
            };
            let (BYTES, len) = self.head()? else {
                return Err(ReadCarError::Header("root is no CID"));
            };
            let bytes = self
                .take(len)?
                .strip_prefix(&[0])
                .ok_or(ReadCarError::Header("root is no CID"))?;
            roots.push(Cid::try_from(bytes).map_err(|_| ReadCarError::Header("root is no CID"))?);
        }
        Ok(roots)
    }
}

/// Writes blocks one by one.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn new(mut output: W, roots: &[Cid]) -> io::Result<Self> {
        let mut header = vec![MAP << 5 | 2];
        put_head(&mut header, TEXT, 5);
        header.extend_from_slice(b"roots");
        put_head(&mut header, ARRAY, roots.len() as u64);
        for root in roots {
            let bytes = root.to_bytes();
            put_head(&mut header, TAG, CID_TAG);
            put_head(&mut header, BYTES, bytes.len() as u64 + 1);
            header.push(0);
            header.extend_from_slice(&bytes);
        }
        put_head(&mut header, TEXT, 7);
        header.extend_from_slice(b"version");
        put_head(&mut header, UINT, 1);
        let mut len = Vec::new();
        put_varint(&mut len, header.len() as u64);
        output.write_all(&len)?;
        output.write_all(&header)?;
        Ok(Self { output })
    }

    /// Writes one block; the caller has verified it.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn write(&mut self, cid: &Cid, data: &[u8]) -> io::Result<()> {
        let mut head = Vec::with_capacity(MAX_CID);
        put_varint(&mut head, (cid.encoded_len() + data.len()) as u64);
        cid.write_bytes(&mut head).map_err(io::Error::other)?;
        self.output.write_all(&head)?;
        self.output.write_all(data)
    }

    /// Flushes, and gives the output back.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Appends a CBOR item's head in its shortest form.
fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend_from_slice(&[major | 0x18, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 0x19);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 0x1a);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 0x1b);
            out.extend_from_slice(&bytes);
        }
    }
}
