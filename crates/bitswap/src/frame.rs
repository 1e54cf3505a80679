//! Messages cut out of a stream by their length prefix.
//!
//! - Invariant: a body's buffer is not larger than its announced length, which is checked
//!   against the limit before anything is allocated; without room in a budget not much larger than what came.
//! - Invariant: [`Frames::header`] can be dropped and called again without losing a byte.
//! - Not here: what is in a message (`crate::wire`), budgets (`crate::reader`).

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _};
use pacstore_runtime::Buffer;
use tokio::time::timeout;

/// Bytes read ahead, so that small messages do not cost a read each.
const AHEAD: usize = 16 * 1024;

/// Why a stream gives no further message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// A message longer than the limit is announced, in bytes.
    #[error("message of {0} bytes is too long")]
    TooLong(u64),
    /// The length prefix is not a number.
    #[error("malformed message length")]
    Length,
    /// The message has begun but does not go on.
    #[error("message stopped in the middle")]
    Stalled,
    /// The stream broke.
    #[error("stream broke")]
    Io(#[source] io::Error),
}

/// Reads frames from one stream.
#[derive(Debug)]
pub(crate) struct Frames<S> {
    stream: S,
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
    /// What came of a message that no budget holds room for.
    small: Vec<u8>,
    limit: usize,
    stall: Duration,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    pub(crate) fn new(stream: S, limit: usize, stall: Duration) -> Self {
        Self {
            stream,
            ahead: vec![0; AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
            small: Vec::new(),
            limit,
            stall,
        }
    }

    /// Waits for the next message and returns its length; `None` at the end of the stream.
    /// There is no deadline while nothing has begun: a stream may stay quiet for hours.
    pub(crate) async fn header(&mut self) -> Result<Option<usize>, FrameError> {
        loop {
            if let Some((len, used)) = self.length()? {
                self.start += used;
                return Ok(Some(len));
            }
            let begun = self.start < self.end;
            self.ahead.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let read = self.stream.read(&mut self.ahead[self.end..]);
            let n = if begun {
                timeout(self.stall, read).await.map_err(|_| FrameError::Stalled)?
            } else {
                read.await
            };
            match n.map_err(FrameError::Io)? {
                0 if begun => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
                0 => return Ok(None),
                n => self.end += n,
            }
        }
    }

    /// Reads the body that [`Frames::header`] announced into `memory` of its length; `progress` hears
    /// of each piece. Not to be dropped before its end: the stream is then out of step.
    pub(crate) async fn body(
        &mut self,
        mut memory: Buffer,
        mut progress: impl FnMut(usize),
    ) -> Result<Bytes, FrameError> {
        let body = memory.room();
        let len = body.len();
        let mut at = len.min(self.end - self.start);
        body[..at].copy_from_slice(&self.ahead[self.start..self.start + at]);
        self.start += at;
        progress(at);
        while at < len {
            let read = timeout(self.stall, self.stream.read(&mut body[at..])).await;
            let n = read.map_err(|_| FrameError::Stalled)?.map_err(FrameError::Io)?;
            if n == 0 {
                return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            at += n;
            progress(n);
        }
        Ok(memory.filled(len))
    }

    /// The same for a message that no budget holds room for: it takes memory as its bytes come. Who announces
    /// messages and sends nothing of them has none of ours.
    pub(crate) async fn small_body(
        &mut self,
        len: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Bytes, FrameError> {
        self.small.clear();
        loop {
            let came = (len - self.small.len()).min(self.end - self.start);
            self.small
                .extend_from_slice(&self.ahead[self.start..self.start + came]);
            self.start += came;
            progress(came);
            if self.small.len() == len {
                return Ok(std::mem::take(&mut self.small).into());
            }
            (self.start, self.end) = (0, 0);
            let read = timeout(self.stall, self.stream.read(&mut self.ahead)).await;
            self.end = read.map_err(|_| FrameError::Stalled)?.map_err(FrameError::Io)?;
            if self.end == 0 {
                return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// The length at the front of what was read, and how many bytes it takes.
    fn length(&self) -> Result<Option<(usize, usize)>, FrameError> {
        let mut value = 0u64;
        for (i, byte) in self.ahead[self.start..self.end].iter().enumerate() {
            if i > 8 {
                return Err(FrameError::Length);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                let len = usize::try_from(value).ok().filter(|len| *len <= self.limit);
                return len
                    .map(|len| Some((len, i + 1)))
                    .ok_or(FrameError::TooLong(value));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::io::Cursor;

    use super::*;

    const LIMIT: usize = 1 << 20;

    /// Gives what it has, then nothing more, without an end.
    struct Stops(Cursor<Vec<u8>>);

    impl AsyncRead for Stops {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            out: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            if self.0.position() == self.0.get_ref().len() as u64 {
                return std::task::Poll::Pending;
            }
            std::pin::Pin::new(&mut self.0).poll_read(cx, out)
        }
    }

    fn framed(bodies: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for body in bodies {
            let mut prefix = unsigned_varint::encode::usize_buffer();
            out.extend_from_slice(unsigned_varint::encode::usize(body.len(), &mut prefix));
            out.extend_from_slice(body);
        }
        out
    }

    #[tokio::test]
    async fn small_messages_come_as_they_were_sent() -> Result<(), FrameError> {
        let long: Vec<u8> = (0..60_000_u32).map(|n| n as u8).collect();
        let bodies = [&b"a"[..], b"", &long, &long[..AHEAD], b"end"];
        let mut frames = Frames::new(Cursor::new(framed(&bodies)), LIMIT, Duration::from_secs(1));
        for body in bodies {
            let len = frames.header().await?.expect("a message");
            let mut told = 0;
            let came = frames.small_body(len, |n| told += n).await?;
            assert_eq!((&came[..], told), (body, len));
        }
        assert_eq!(frames.header().await?, None);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_announced_and_does_not_come_takes_no_memory() -> Result<(), FrameError> {
        let mut begun = framed(&[&vec![7; 65_000]]);
        begun.truncate(1000);
        let mut frames = Frames::new(Stops(Cursor::new(begun)), LIMIT, Duration::from_secs(1));
        let len = frames.header().await?.expect("a message");
        assert!(frames.small_body(len, |_| {}).now_or_never().is_none());
        let (came, memory) = (frames.small.len(), frames.small.capacity());
        assert!(900 < came && memory <= 4096, "{memory} bytes for {came}");
        let end = frames.small_body(len, |_| {}).await;
        assert!(matches!(end, Err(FrameError::Stalled)), "{end:?}");
        Ok(())
    }
}
