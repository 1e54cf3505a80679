//! Protocols of one question and one answer a stream: how both are framed, read, written and bounded.
//!
//! `/libp2p/fetch/0.0.1`, `/pacstore/lookup/1` and `/pacstore/share/1` differ in what stands in their messages. Each
//! message has its length in front, as an unsigned varint of at most 4 bytes.
//!
//! - Invariant: nothing above a protocol's own bounds is read or allocated; a request and its answer have a deadline.
//! - Not here: what stands in the messages (`crate::fetch`, `crate::lookup`, `crate::share`).

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::{self, ProtocolSupport};

/// The messages of one protocol.
pub(crate) trait Messages: Send + 'static {
    /// Its name.
    const PROTOCOL: StreamProtocol;
    /// The longest request, in bytes.
    const MAX_REQUEST: usize;
    /// The longest answer, in bytes.
    const MAX_RESPONSE: usize;
    /// How long a request and its answer may take.
    const DEADLINE: Duration;
    /// Requests of one connection at the same time, both ways.
    const STREAMS: usize;
    type Request: Clone + std::fmt::Debug + Send + 'static;
    type Response: std::fmt::Debug + Send + 'static;

    fn encode_request(request: &Self::Request) -> io::Result<Vec<u8>>;
    fn decode_request(message: &[u8]) -> io::Result<Self::Request>;
    fn encode_response(response: &Self::Response) -> io::Result<Vec<u8>>;
    fn decode_response(message: &[u8]) -> io::Result<Self::Response>;
}

/// What happens on a protocol.
pub(crate) type Event<M> = request_response::Event<<M as Messages>::Request, <M as Messages>::Response>;

/// A protocol in the swarm.
pub(crate) type Behaviour<M> = request_response::Behaviour<Codec<M>>;

/// Whether we answer others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// We do.
    Yes,
    /// We only ask, and do not offer the protocol.
    No,
}

impl Answers {
    pub(crate) fn if_some<T>(whom: Option<&T>) -> Self {
        whom.map_or(Self::No, |_| Self::Yes)
    }
}

/// A protocol with its bounds.
pub(crate) fn behaviour<M: Messages>(answers: Answers) -> Behaviour<M> {
    let support = match answers {
        Answers::Yes => ProtocolSupport::Full,
        Answers::No => ProtocolSupport::Outbound,
    };
    let config = request_response::Config::default()
        .with_request_timeout(M::DEADLINE)
        .with_max_concurrent_streams(M::STREAMS);
    request_response::Behaviour::with_codec(Codec::default(), [(M::PROTOCOL, support)], config)
}

/// Reads and writes the messages of a protocol.
#[derive(Debug)]
pub(crate) struct Codec<M>(PhantomData<fn() -> M>);

impl<M> Default for Codec<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M> Clone for Codec<M> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<M: Messages> request_response::Codec for Codec<M> {
    type Protocol = StreamProtocol;
    type Request = M::Request;
    type Response = M::Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<M::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        M::decode_request(&read_message(io, M::MAX_REQUEST).await?)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<M::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        M::decode_response(&read_message(io, M::MAX_RESPONSE).await?)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: M::Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &M::encode_request(&request)?).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: M::Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &M::encode_response(&response)?).await
    }
}

async fn read_message<T: AsyncRead + Unpin + Send>(io: &mut T, limit: usize) -> io::Result<Vec<u8>> {
    let length = read_length(io).await?;
    if length > limit {
        return Err(malformed("message above the size limit"));
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(message)
}

/// An unsigned varint of at most 4 bytes: no length in these protocols needs more.
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

async fn write_message<T: AsyncWrite + Unpin + Send>(io: &mut T, message: &[u8]) -> io::Result<()> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let length = unsigned_varint::encode::usize(message.len(), &mut buffer);
    let framed = [length, message].concat();
    io.write_all(&framed).await?;
    io.flush().await
}

pub(crate) fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whole SHA-256 digests, at least one.
pub(crate) fn digests(bytes: &[u8]) -> io::Result<Vec<[u8; 32]>> {
    let (digests, rest) = bytes.as_chunks();
    if digests.is_empty() || !rest.is_empty() {
        return Err(malformed("a request that is not made of digests"));
    }
    Ok(digests.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    const LIMIT: usize = 1024;

    #[test]
    fn messages_that_claim_too_much_are_refused_before_they_are_read() {
        let mut wire = Cursor::new(vec![0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(
            block_on(read_message(&mut wire, LIMIT)).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let mut endless = Cursor::new(vec![0xff; 16]);
        assert!(block_on(read_message(&mut endless, LIMIT)).is_err());
    }

    #[test]
    fn what_is_framed_is_read_again() {
        let mut wire = Cursor::new(Vec::new());
        let message = vec![7; 300];
        block_on(write_message(&mut wire, &message)).unwrap();
        wire.set_position(0);
        assert_eq!(block_on(read_message(&mut wire, LIMIT)).unwrap(), message);
    }

    #[test]
    fn digests_are_whole_and_at_least_one() {
        assert_eq!(digests(&[7; 64]).unwrap(), [[7; 32]; 2]);
        for bad in [0, 1, 31, 33] {
            assert!(digests(&vec![0; bad]).is_err(), "{bad}");
        }
    }
}
