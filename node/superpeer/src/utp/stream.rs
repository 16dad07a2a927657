//! A stream of uTP with what the library's own lack: readiness, and an end.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use librqbit_utp::UtpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::datagrams::{Datagrams, of_peer};

/// How long a peer may take for what is on its way when the connection ends.
const FINISH: Duration = Duration::from_secs(3);

/// A stream that a peer has opened.
pub(crate) struct Utp {
    stream: UtpStream,
    /// The first byte of what can be read: nothing else shows that there is something.
    first: Option<u8>,
    datagrams: Arc<Datagrams>,
}

impl Utp {
    /// A stream over `datagrams`.
    pub(super) fn new(stream: UtpStream, datagrams: Arc<Datagrams>) -> Self {
        Self { stream, first: None, datagrams }
    }

    /// Where the peer is.
    pub(crate) fn address(&self) -> SocketAddr {
        of_peer(self.stream.remote_addr())
    }

    /// Waits until the peer has said something; false when it ends without a word.
    pub(super) async fn speaks(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_readable(context)).await?;
        Ok(self.first.is_some())
    }

    /// Whether there is something to read, or an end to be found by reading.
    pub(crate) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_none() {
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            self.first = buffer.filled().first().copied();
        }
        Poll::Ready(Ok(()))
    }

    /// Waits a while for the peer to take what was written. From one that does not, the stream is taken
    /// away: else what is left would be kept for as long as it pleases.
    pub(crate) async fn finish(&mut self) {
        let flushed = poll_fn(|context| Pin::new(&mut self.stream).poll_flush(context));
        if tokio::time::timeout(FINISH, flushed).await.is_err() {
            self.cut();
        }
    }

    /// Has the stream end without a word as soon as one of its packets is due, which its end is.
    pub(super) fn cut(&self) {
        self.datagrams.cut(self.stream.remote_addr(), Instant::now());
    }
}

impl AsyncRead for Utp {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let utp = self.get_mut();
        let stream = Pin::new(&mut utp.stream);
        let Some(first) = utp.first.take_if(|_| buffer.remaining() > 0) else {
            return stream.poll_read(context, buffer);
        };
        buffer.put_slice(&[first]);
        // What is behind it, if anything is there; an error is found again by the next read.
        let _ = stream.poll_read(context, buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Utp {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut self.get_mut().stream;
        let mut written = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                match Pin::new(&mut *stream).poll_write(context, rest) {
                    Poll::Ready(Ok(count)) => {
                        written += count;
                        rest = &rest[count..];
                    }
                    // An error is found again by the next write.
                    _ if written > 0 => return Poll::Ready(Ok(written)),
                    nothing => return nothing,
                }
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::outbox::Outbox;
    use crate::utp::tests::{pair, pairs};
    use crate::wire::Wire;

    #[tokio::test]
    async fn an_end_is_no_word() {
        let (mut ours, mut theirs, _listener) = pair().await;
        theirs.write_all(b"x").await.unwrap();
        assert!(ours.speaks().await.unwrap() && ours.speaks().await.unwrap());
        let (mut ours, silent, _listener) = pair().await;
        drop(silent);
        assert!(!matches!(ours.speaks().await, Ok(true)));
    }

    #[tokio::test]
    async fn a_cut_ends_one_stream_of_an_address_and_no_other() {
        let (mut pairs, _listener) = pairs(2).await;
        let (mut kept, mut taker) = pairs.pop().unwrap();
        let (mut ours, mut theirs) = pairs.pop().unwrap();
        assert_eq!(kept.address(), ours.address());
        theirs.write_all(b"x").await.unwrap();
        assert!(ours.speaks().await.unwrap());
        ours.cut();
        let ends = async { while ours.write(b"x").await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(10), ends).await.expect("its packets are due");

        taker.write_all(b"x").await.unwrap();
        assert!(kept.speaks().await.unwrap());
        kept.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        taker.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
    }

    #[tokio::test]
    async fn readiness_costs_no_byte() {
        let (ours, mut theirs, _listener) = pair().await;
        let (mut wire, mut outbox) = (Wire::Utp(Box::new(ours)), Outbox::default());
        let mut buffer = [0; 16];
        assert_eq!(wire.try_read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        for word in [b"one".as_slice(), b"2", b"three"] {
            theirs.write_all(word).await.unwrap();
            for _ in 0..2 {
                let ready = wire.ready(&mut outbox).await.unwrap();
                assert!(ready.is_readable && ready.written == 0);
            }
            let mut read = 0;
            while read < word.len() {
                wire.ready(&mut outbox).await.unwrap();
                read += wire.try_read(&mut buffer[read..]).unwrap();
            }
            assert_eq!(&buffer[..read], word);
        }
        drop(theirs);
        wire.ready(&mut outbox).await.unwrap();
        assert_eq!(wire.try_read(&mut buffer).unwrap(), 0);
    }
}
