//! `/libp2p/fetch/0.0.1` on the wire: one binary key asked, one value answered.
//!
//! Kubo serves and asks IPNS records by it between connected peers. Messages are protobuf with a
//! varint length in front: `FetchRequest { 1: identifier }`, `FetchResponse { 1: status, 2: data }`.
//! The identifier is declared a string but carries the binary routing key, so it is bytes here.
//!
//! - Invariant: an answer is one of three; what is unknown in a message is passed over.
//! - Not here: which record answers which key (`crate::records`), framing and bounds (`crate::wire`).
//! - Read first: specs `fetch/README.md`; boxo and Kubo omit the status when it is OK.

use std::io;
use std::time::Duration;

use libp2p::StreamProtocol;
use quick_protobuf::{BytesReader, Writer};

use crate::config::{FETCH_DEADLINE, FETCH_STREAMS, MAX_RECORD};
use crate::wire::Messages;

/// What a peer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Found(Vec<u8>),
    NotFound,
    Error,
}

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch;

impl Messages for Fetch {
    const PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/fetch/0.0.1");
    /// "/ipns/" and a multihash; go allows more, nothing needs it.
    const MAX_REQUEST: usize = 1024;
    const MAX_RESPONSE: usize = MAX_RECORD + 64;
    const DEADLINE: Duration = FETCH_DEADLINE;
    const STREAMS: usize = FETCH_STREAMS;
    type Request = Vec<u8>;
    type Response = Answer;

    fn encode_request(key: &Vec<u8>) -> io::Result<Vec<u8>> {
        encode_request(key)
    }

    fn decode_request(message: &[u8]) -> io::Result<Vec<u8>> {
        decode_request(message)
    }

    fn encode_response(answer: &Answer) -> io::Result<Vec<u8>> {
        encode_response(answer)
    }

    fn decode_response(message: &[u8]) -> io::Result<Answer> {
        decode_response(message)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
