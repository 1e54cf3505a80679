//! `/pacstore/share/1` on the wire: neighbours agree who of them brings what from outside.
//!
//! Machines of one LAN that want the same bytes at once would each bring them over the same line.
//! Before a node asks outside for something it asks its neighbours: "may I?"; who has it or is bringing
//! it says so, and the node asks that one for it later: "tell me when".
//!
//! Both messages have their length in front (`crate::wire`). The request is one byte, 0 for "may I?" or 1 for "tell me when", and up to 64 SHA-256 digests of blocks. The answer
//! is one byte for each digest: 0 free, 1 here, 2 coming. One request and one answer a stream; the
//! answer to "tell me when" comes when it is there, or will not come.
//!
//! - Invariant: at most [`MAX_SHARE`] digests are asked and states told.
//! - Not here: who may ask, what is answered (`node`, `neighbours`).

use std::io;
use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use tokio::sync::oneshot;

use crate::config::{SHARE_DEADLINE, SHARE_STREAMS};
use crate::lookup::Digest;
use crate::wire::{Messages, malformed};

/// Digests in one request, at most.
pub const MAX_SHARE: usize = 64;

/// What is asked of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareAsk {
    /// Whether the asker may bring these from outside. Answered at once.
    MayI,
    /// When the first of these is there. Answered when it is, or when it will not come.
    TellMe,
}

/// How a neighbour stands to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// It neither has nor brings it.
    Free,
    /// It has it.
    Here,
    /// It is bringing it.
    Coming,
}

/// A neighbour's request, and where its answer goes. Dropping that refuses it.
#[derive(Debug)]
pub struct ShareRequest {
    /// Who asks. It is a LAN peer.
    pub peer: PeerId,
    /// What.
    pub ask: ShareAsk,
    /// Which blocks, by their SHA-256; 1 to [`MAX_SHARE`].
    pub digests: Vec<Digest>,
    /// One state for each digest, in their order.
    pub reply: oneshot::Sender<Vec<ShareState>>,
}

/// A request on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) ask: ShareAsk,
    pub(crate) digests: Vec<Digest>,
}

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share;

impl Messages for Share {
    const PROTOCOL: StreamProtocol = StreamProtocol::new("/pacstore/share/1");
    const MAX_REQUEST: usize = 1 + MAX_SHARE * size_of::<Digest>();
    const MAX_RESPONSE: usize = MAX_SHARE;
    const DEADLINE: Duration = SHARE_DEADLINE;
    const STREAMS: usize = SHARE_STREAMS;
    type Request = Request;
    type Response = Vec<ShareState>;

    fn encode_request(request: &Request) -> io::Result<Vec<u8>> {
        Ok(encode_request(request))
    }

    fn decode_request(message: &[u8]) -> io::Result<Request> {
        decode_request(message)
    }

    fn encode_response(states: &Vec<ShareState>) -> io::Result<Vec<u8>> {
        Ok(states.iter().copied().map(byte_of).collect())
    }

    fn decode_response(message: &[u8]) -> io::Result<Vec<ShareState>> {
        decode_response(message)
    }
}

fn byte_of(state: ShareState) -> u8 {
    match state {
        ShareState::Free => 0,
        ShareState::Here => 1,
        ShareState::Coming => 2,
    }
}

fn encode_request(request: &Request) -> Vec<u8> {
    let ask = match request.ask {
        ShareAsk::MayI => 0,
        ShareAsk::TellMe => 1,
    };
    [&[ask], request.digests.as_flattened()].concat()
}

fn decode_request(message: &[u8]) -> io::Result<Request> {
    let none = || malformed("a request without a digest");
    let (ask, digests) = message.split_first().ok_or_else(none)?;
    let ask = match ask {
        0 => ShareAsk::MayI,
        1 => ShareAsk::TellMe,
        _ => return Err(malformed("a request of an unknown kind")),
    };
    let digests = crate::wire::digests(digests)?;
    Ok(Request { ask, digests })
}

fn decode_response(message: &[u8]) -> io::Result<Vec<ShareState>> {
    let state = |byte: &u8| match byte {
        0 => Ok(ShareState::Free),
        1 => Ok(ShareState::Here),
        2 => Ok(ShareState::Coming),
        _ => Err(malformed("an unknown state")),
    };
    message.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        for ask in [ShareAsk::MayI, ShareAsk::TellMe] {
            let digests = vec![[1; 32], [2; 32]];
            let request = Request { ask, digests };
            assert_eq!(decode_request(&encode_request(&request)).unwrap(), request);
        }
        let states = [ShareState::Free, ShareState::Here, ShareState::Coming];
        assert_eq!(decode_response(&states.map(byte_of)).unwrap(), states);
    }

    #[test]
    fn hostile_bytes_are_errors_and_never_a_panic() {
        for bad in [&[][..], &[0], &[1, 7], &[2; 33], &[0; 34]] {
            assert!(decode_request(bad).is_err(), "{bad:?}");
        }
        assert!(decode_request(&[0; 33]).is_ok());
        assert!(decode_response(&[0, 3]).is_err());
    }
}
