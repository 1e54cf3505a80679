//! Bitswap messages as bytes: a streaming protobuf reader and the few writers we need.
//!
//! The reader yields one field at a time and slices blocks out of the received buffer, so
//! a message of 80 000 entries costs no more memory than its own bytes.
//!
//! - Invariant: [`Fields`] never panics and allocates nothing in proportion to a length that
//!   the bytes only claim.
//! - Not here: the length prefix and its limit (`crate::frame`).
//! - Read first: the Bitswap 1.2.0 spec's protobuf; golden messages in `tests/it/vectors.rs`.

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use unsigned_varint::{decode, encode};

use crate::config::MAX_CID;

/// What a peer is asked for a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WantKind {
    /// The block itself.
    Block,
    /// Only whether the peer has it.
    Have,
}

/// One line of a wantlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is wanted.
    pub cid: Cid,
    /// Higher is more urgent. 0 is an ordinary value.
    pub priority: i32,
    /// The want is withdrawn.
    pub cancel: bool,
    /// The block or only word of it.
    pub kind: WantKind,
    /// Whether a peer without the block shall say so.
    pub send_dont_have: bool,
}

/// The head of a CID without its digest, which the block's bytes give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// CID version, 0 or 1.
    pub version: u64,
    /// Multicodec of the content.
    pub codec: u64,
    /// Multicodec of the hash.
    pub hash: u64,
    /// Digest length in bytes.
    pub len: u64,
}

/// One thing that a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A want or a cancel.
    Entry(Entry),
    /// The wantlist replaces all earlier ones. Comes before the entries of its wantlist.
    Full,
    /// A block as 1.1.0 and later send it.
    Block(Prefix, Bytes),
    /// A block as 1.0.0 sends it: its CID is version 0.
    OldBlock(Bytes),
    /// `true`: the peer has the block, `false`: it has not.
    Presence(Cid, bool),
    /// Bytes that the peer still has queued for us.
    PendingBytes(i32),
    /// An entry or presence whose CID we cannot read; it is skipped.
    Unreadable,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a field, or a length points past the end.
    #[error("message ends inside a field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("number out of range")]
    Number,
    /// A protobuf wire type that does not exist, or not for this field.
    #[error("field {0} has an impossible wire type")]
    WireType(u64),
    /// A CID longer than peers may send.
    #[error("CID of {0} bytes is too long")]
    LongCid(usize),
    /// A block's prefix is not four numbers.
    #[error("malformed block prefix")]
    Prefix,
}

/// Reads a message field by field. After the first error it ends.
#[derive(Debug, Clone)]
pub struct Fields {
    buf: Bytes,
    pos: usize,
    /// End of the wantlist that we are inside of.
    wantlist: Option<usize>,
    failed: bool,
}

/// One protobuf field: its number and value.
enum Value {
    Number(u64),
    Slice(usize, usize),
    Other,
}

impl Fields {
    /// Reads one message body (without its length prefix).
    pub fn new(message: Bytes) -> Self {
        Self {
            buf: message,
            pos: 0,
            wantlist: None,
            failed: false,
        }
    }

    fn step(&mut self) -> Result<Option<Field>, WireError> {
        loop {
            if let Some(end) = self.wantlist {
                if self.pos >= end {
                    self.wantlist = None;
                    continue;
                }
                let (number, value) = field(&self.buf, &mut self.pos, end)?;
                match (number, value) {
                    // `full` is written after the entries; it was looked for on entering.
                    (1, Value::Slice(from, to)) => return entry(&self.buf[from..to]).map(Some),
                    (1, _) => return Err(WireError::WireType(1)),
                    _ => continue,
                }
            }
            if self.pos >= self.buf.len() {
                return Ok(None);
            }
            let end = self.buf.len();
            let (number, value) = field(&self.buf, &mut self.pos, end)?;
            match (number, value) {
                (1, Value::Slice(from, to)) => {
                    self.pos = from;
                    self.wantlist = Some(to);
                    if is_full(&self.buf[..to], from)? {
                        return Ok(Some(Field::Full));
                    }
                }
                (2, Value::Slice(from, to)) => return Ok(Some(Field::OldBlock(self.buf.slice(from..to)))),
                (3, Value::Slice(from, to)) => return self.block(from, to).map(Some),
                (4, Value::Slice(from, to)) => return presence(&self.buf[from..to]).map(Some),
                (5, Value::Number(n)) => return Ok(Some(Field::PendingBytes(n as i32))),
                (n @ 1..=5, _) => return Err(WireError::WireType(n)),
                _ => {}
            }
        }
    }

    fn block(&self, from: usize, to: usize) -> Result<Field, WireError> {
        let mut pos = from;
        let mut head = None;
        let mut data = (to, to);
        while pos < to {
            match field(&self.buf, &mut pos, to)? {
                (1, Value::Slice(a, b)) => head = Some(prefix(&self.buf[a..b])?),
                (2, Value::Slice(a, b)) => data = (a, b),
                (n @ 1..=2, _) => return Err(WireError::WireType(n)),
                _ => {}
            }
        }
        let head = head.ok_or(WireError::Prefix)?;
        Ok(Field::Block(head, self.buf.slice(data.0..data.1)))
    }
}

impl Iterator for Fields {
    type Item = Result<Field, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// Reads a number at `pos`, which moves on.
fn varint(buf: &[u8], pos: &mut usize, end: usize) -> Result<u64, WireError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        if *pos >= end {
            return Err(WireError::Truncated);
        }
        let byte = buf[*pos];
        *pos += 1;
        if shift == 63 && byte > 1 {
            return Err(WireError::Number);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Number)
}

fn field(buf: &[u8], pos: &mut usize, end: usize) -> Result<(u64, Value), WireError> {
    let key = varint(buf, pos, end)?;
    let number = key >> 3;
    let skip = |pos: &mut usize, n: usize| {
        if n > end - *pos {
            return Err(WireError::Truncated);
        }
        *pos += n;
        Ok(())
    };
    let value = match key & 7 {
        0 => Value::Number(varint(buf, pos, end)?),
        1 => {
            skip(pos, 8)?;
            Value::Other
        }
        2 => {
            let len = varint(buf, pos, end)?;
            let from = *pos;
            skip(pos, usize::try_from(len).map_err(|_| WireError::Truncated)?)?;
            Value::Slice(from, *pos)
        }
        5 => {
            skip(pos, 4)?;
            Value::Other
        }
        _ => return Err(WireError::WireType(number)),
    };
    Ok((number, value))
}

/// Whether a wantlist (`buf[from..]`) says that it is a full one.
fn is_full(buf: &[u8], from: usize) -> Result<bool, WireError> {
    let mut pos = from;
    let mut full = false;
    while pos < buf.len() {
        if let (2, Value::Number(n)) = field(buf, &mut pos, buf.len())? {
            full = n != 0;
        }
    }
    Ok(full)
}

fn entry(buf: &[u8]) -> Result<Field, WireError> {
    let mut pos = 0;
    let mut cid: &[u8] = &[];
    let mut entry = (1i32, false, WantKind::Block, false);
    entry.0 = 0;
    while pos < buf.len() {
        match field(buf, &mut pos, buf.len())? {
            (1, Value::Slice(a, b)) => cid = &buf[a..b],
            (2, Value::Number(n)) => entry.0 = n as i32,
            (3, Value::Number(n)) => entry.1 = n != 0,
            (4, Value::Number(n)) => entry.2 = if n == 1 { WantKind::Have } else { WantKind::Block },
            (5, Value::Number(n)) => entry.3 = n != 0,
            (n @ 1..=5, _) => return Err(WireError::WireType(n)),
            _ => {}
        }
    }
    Ok(read_cid(cid)?.map_or(Field::Unreadable, |cid| {
        Field::Entry(Entry {
            cid,
            priority: entry.0,
            cancel: entry.1,
            kind: entry.2,
            send_dont_have: entry.3,
        })
    }))
}

fn presence(buf: &[u8]) -> Result<Field, WireError> {
    let mut pos = 0;
    let mut cid: &[u8] = &[];
    let mut have = true;
    while pos < buf.len() {
        match field(buf, &mut pos, buf.len())? {
            (1, Value::Slice(a, b)) => cid = &buf[a..b],
            (2, Value::Number(n)) => have = n == 0,
            (n @ 1..=2, _) => return Err(WireError::WireType(n)),
            _ => {}
        }
    }
    Ok(read_cid(cid)?.map_or(Field::Unreadable, |cid| Field::Presence(cid, have)))
}

/// `None` for a CID that is short enough but that we cannot use (identity ones among them).
fn read_cid(bytes: &[u8]) -> Result<Option<Cid>, WireError> {
    if bytes.len() > MAX_CID {
        return Err(WireError::LongCid(bytes.len()));
    }
    let cid = Cid::try_from(bytes).ok();
    Ok(cid.filter(|cid| cid.hash().code() != pacstore_dag::IDENTITY && cid.encoded_len() == bytes.len()))
}

fn prefix(bytes: &[u8]) -> Result<Prefix, WireError> {
    let mut rest = bytes;
    let mut next = || -> Result<u64, WireError> {
        let (n, left) = decode::u64(rest).map_err(|_| WireError::Prefix)?;
        rest = left;
        Ok(n)
    };
    Ok(Prefix {
        version: next()?,
        codec: next()?,
        hash: next()?,
        len: next()?,
    })
}

fn put_varint(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(encode::u64(n, &mut encode::u64_buffer()));
}

fn varint_len(n: u64) -> usize {
    encode::u64(n, &mut encode::u64_buffer()).len()
}

/// Bytes kept free before a body for its length prefix.
const HEAD: usize = 5;

/// Writes one framed message into one buffer: fields go in by the `put` methods, and
/// [`Builder::finish`] sets the length before them without moving them.
#[derive(Debug)]
pub struct Builder {
    out: Vec<u8>,
}

impl Builder {
    /// Starts a message in `buffer`, whose memory is used again and whose content is dropped.
    pub fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEAD, 0);
        Self { out: buffer }
    }

    /// Bytes of the body so far.
    pub fn len(&self) -> usize {
        self.out.len() - HEAD
    }

    /// Whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `n` more bytes at once.
    pub fn reserve(&mut self, n: usize) {
        self.out.reserve(n);
    }

    /// Adds a wantlist.
    pub fn wantlist<'a>(&mut self, entries: impl Iterator<Item = &'a Entry> + Clone, full: bool) {
        let len: usize = entries
            .clone()
            .map(|e| {
                let n = entry_len(e);
                1 + varint_len(n as u64) + n
            })
            .sum();
        self.out.push(0x0a);
        put_varint(&mut self.out, (len + if full { 2 } else { 0 }) as u64);
        for entry in entries {
            put_entry(&mut self.out, entry);
        }
        if full {
            self.out.extend_from_slice(&[0x10, 1]);
        }
    }

    /// Adds word of whether we have a block.
    pub fn presence(&mut self, cid: &Cid, have: bool) {
        let cid_len = cid.encoded_len();
        let len = 1 + varint_len(cid_len as u64) + cid_len + if have { 0 } else { 2 };
        self.out.push(0x22);
        put_varint(&mut self.out, len as u64);
        put_cid(&mut self.out, cid);
        if !have {
            self.out.extend_from_slice(&[0x10, 1]);
        }
    }

    /// Adds a block of `len` bytes that `read` appends; one copy from where it lies. If `read`
    /// fails or gives another number of bytes, nothing is added and false returned.
    pub fn block(&mut self, cid: &Cid, len: u64, read: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.out.len();
        let prefix = prefix_bytes(cid);
        let inner = 1
            + varint_len(prefix.len() as u64) as u64
            + prefix.len() as u64
            + 1
            + varint_len(len) as u64
            + len;
        self.out.reserve(usize::try_from(inner).unwrap_or(0) + 16);
        self.out.push(0x1a);
        put_varint(&mut self.out, inner);
        self.out.push(0x0a);
        put_varint(&mut self.out, prefix.len() as u64);
        self.out.extend_from_slice(&prefix);
        self.out.push(0x12);
        put_varint(&mut self.out, len);
        self.data(start, len, read)
    }

    /// Adds a block as 1.0.0 has it: the bytes alone.
    pub fn old_block(&mut self, len: u64, read: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.out.len();
        self.out.push(0x12);
        put_varint(&mut self.out, len);
        self.data(start, len, read)
    }

    fn data(&mut self, start: usize, len: u64, read: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let before = self.out.len();
        let good = read(&mut self.out) && self.out.len().checked_sub(before).map(|n| n as u64) == Some(len);
        if !good {
            self.out.truncate(start);
        }
        good
    }

    /// The message with its length prefix: the whole buffer and where in it the frame starts.
    pub fn finish(mut self) -> (Vec<u8>, usize) {
        let mut buffer = encode::u64_buffer();
        let prefix = encode::u64(self.len() as u64, &mut buffer);
        let start = HEAD - prefix.len().min(HEAD);
        self.out[start..HEAD].copy_from_slice(prefix);
        (self.out, start)
    }
}

fn put_cid(out: &mut Vec<u8>, cid: &Cid) {
    out.push(0x0a);
    put_varint(out, cid.encoded_len() as u64);
    cid.write_bytes(out).expect("writing into a Vec cannot fail");
}

fn priority_len(priority: i32) -> usize {
    if priority == 0 {
        0
    } else {
        1 + varint_len(i64::from(priority) as u64)
    }
}

fn entry_len(entry: &Entry) -> usize {
    let cid = entry.cid.encoded_len();
    1 + varint_len(cid as u64)
        + cid
        + priority_len(entry.priority)
        + if entry.cancel { 2 } else { 0 }
        + if entry.kind == WantKind::Have { 2 } else { 0 }
        + if entry.send_dont_have { 2 } else { 0 }
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(0x0a);
    put_varint(out, entry_len(entry) as u64);
    put_cid(out, &entry.cid);
    if entry.priority != 0 {
        out.push(0x10);
        put_varint(out, i64::from(entry.priority) as u64);
    }
    if entry.cancel {
        out.extend_from_slice(&[0x18, 1]);
    }
    if entry.kind == WantKind::Have {
        out.extend_from_slice(&[0x20, 1]);
    }
    if entry.send_dont_have {
        out.extend_from_slice(&[0x28, 1]);
    }
}

/// The prefix of a CID as bytes: version, codec, hash code, digest length.
fn prefix_bytes(cid: &Cid) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    let hash: &Multihash<64> = cid.hash();
    for n in [
        u64::from(cid.version()),
        cid.codec(),
        hash.code(),
        u64::from(hash.size()),
    ] {
        put_varint(&mut out, n);
    }
    out
}
