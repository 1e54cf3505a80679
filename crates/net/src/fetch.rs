//! `/libp2p/fetch/0.0.1` on the wire: one binary key asked, one value answered.
//!
//! Kubo serves and asks IPNS records by it between connected peers. Messages are protobuf with a
//! varint length in front: `FetchRequest { 1: identifier }`, `FetchResponse { 1: status, 2: data }`.
//! The identifier is declared a string but carries the binary routing key, so it is bytes here.
//!
//! - Invariant: nothing above [`MAX_REQUEST`] or [`MAX_RESPONSE`] bytes is read or allocated.
//! - Not here: which record answers which key (`crate::records`).
//! - Read first: specs `fetch/README.md`; boxo and Kubo omit the status when it is OK.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use quick_protobuf::{BytesReader, Writer};

use crate::config::MAX_RECORD;

/// The protocol's name.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/fetch/0.0.1");

/// "/ipns/" and a multihash; go allows more, nothing needs it.
const MAX_REQUEST: usize = 1024;
const MAX_RESPONSE: usize = MAX_RECORD + 64;

/// What a peer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Found(Vec<u8>),
    NotFound,
    Error,
}

/// Reads and writes the two messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Answer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_request(&read_message(io, MAX_REQUEST).await?)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_response(&read_message(io, MAX_RESPONSE).await?)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, key: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &encode_request(&key)?).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: Answer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &encode_response(&answer)?).await
    }
}

pub(crate) async fn read_message<T: AsyncRead + Unpin + Send>(
    io: &mut T,
    limit: usize,
) -> io::Result<Vec<u8>> {
    let length = read_length(io).await?;
    if length > limit {
        return Err(malformed("message above the size limit"));
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(message)
}

/// An unsigned varint of at most 4 bytes: no length in this protocol needs more.
async fn read_length<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<usize> {
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21] {
        let mut byte = [0_u8; 1];
        io.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(malformed("length above the size limit"))
}

pub(crate) async fn write_message<T: AsyncWrite + Unpin + Send>(
    io: &mut T,
    message: &[u8],
) -> io::Result<()> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let length = unsigned_varint::encode::usize(message.len(), &mut buffer);
    let framed = [length, message].concat();
    io.write_all(&framed).await?;
    io.flush().await
}

const TAG_1_BYTES: u32 = 0x0a;
const TAG_1_VARINT: u32 = 0x08;
const TAG_2_BYTES: u32 = 0x12;
const NOT_FOUND: i32 = 1;
const ERROR: i32 = 2;

fn encode_request(key: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(key.len() + 4);
    Writer::new(&mut out)
        .write_with_tag(TAG_1_BYTES, |w| w.write_bytes(key))
        .map_err(io::Error::other)?;
    Ok(out)
}

fn encode_response(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    match answer {
        Answer::Found(data) => writer.write_with_tag(TAG_2_BYTES, |w| w.write_bytes(data)),
        Answer::NotFound => writer.write_with_tag(TAG_1_VARINT, |w| w.write_enum(NOT_FOUND)),
        Answer::Error => writer.write_with_tag(TAG_1_VARINT, |w| w.write_enum(ERROR)),
    }
    .map_err(io::Error::other)?;
    Ok(out)
}

fn decode_request(message: &[u8]) -> io::Result<Vec<u8>> {
    let mut reader = BytesReader::from_bytes(message);
    let mut key = Vec::new();
    while !reader.is_eof() {
        match reader.next_tag(message).map_err(protobuf)? {
            TAG_1_BYTES => key = reader.read_bytes(message).map_err(protobuf)?.to_vec(),
            other => reader.read_unknown(message, other).map_err(protobuf)?,
        }
    }
    Ok(key)
}

fn decode_response(message: &[u8]) -> io::Result<Answer> {
    let mut reader = BytesReader::from_bytes(message);
    let mut status = 0;
    let mut data = Vec::new();
    while !reader.is_eof() {
        match reader.next_tag(message).map_err(protobuf)? {
            TAG_1_VARINT => status = reader.read_int32(message).map_err(protobuf)?,
            TAG_2_BYTES => data = reader.read_bytes(message).map_err(protobuf)?.to_vec(),
            other => reader.read_unknown(message, other).map_err(protobuf)?,
        }
    }
    Ok(match status {
        0 => Answer::Found(data),
        NOT_FOUND => Answer::NotFound,
        _ => Answer::Error,
    })
}

fn protobuf(error: quick_protobuf::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    #[test]
    fn an_unknown_key_is_answered_as_kubo_does() {
        assert_eq!(encode_response(&Answer::NotFound).unwrap(), [0x08, 0x01]);
        assert_eq!(decode_response(&[0x08, 0x01]).unwrap(), Answer::NotFound);
    }

    #[test]
    fn a_found_value_needs_no_status_and_may_have_one() {
        let answer = Answer::Found(b"record".to_vec());
        assert_eq!(encode_response(&answer).unwrap(), b"\x12\x06record");
        assert_eq!(decode_response(b"\x12\x06record").unwrap(), answer);
        assert_eq!(decode_response(b"\x08\x00\x12\x06record").unwrap(), answer);
    }

    #[test]
    fn the_identifier_is_binary() {
        let key = b"/ipns/\x00\x24\x08\x01\x12\x20\xff\xfe".to_vec();
        assert_eq!(decode_request(&encode_request(&key).unwrap()).unwrap(), key);
    }

    #[test]
    fn messages_that_claim_too_much_are_refused_before_they_are_read() {
        let mut wire = Cursor::new(vec![0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(
            block_on(read_message(&mut wire, MAX_RESPONSE))
                .unwrap_err()
                .kind(),
            io::ErrorKind::InvalidData
        );
        let mut endless = Cursor::new(vec![0xff; 16]);
        assert!(block_on(read_message(&mut endless, MAX_RESPONSE)).is_err());
    }

    #[test]
    fn hostile_bytes_are_errors_and_never_a_panic() {
        for length in 0..24_u8 {
            for fill in [0_u8, 0x08, 0x0a, 0x12, 0x7f, 0x80, 0xff] {
                let message = vec![fill; usize::from(length)];
                drop(decode_request(&message));
                drop(decode_response(&message));
            }
        }
    }
}
