//! A stream of uTP with what the library's own lack: readiness, and an end.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use librqbit_utp::UtpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Datagrams;
use crate::outbox::Outbox;
use crate::wire::Ready;

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
        self.stream.remote_addr()
    }

    /// Waits until the peer has said something; false when it ends without a word.
    pub(super) async fn speaks(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_readable(context)).await?;
        Ok(self.first.is_some())
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_none() {
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            self.first = buffer.filled().first().copied();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what it can of `outbox`, and sees whether there is something to read; pending when it is
    /// neither.
    pub(crate) fn poll_ready(
        &mut self,
        context: &mut Context<'_>,
        outbox: &mut Outbox,
    ) -> Poll<io::Result<Ready>> {
        let written = match outbox.is_empty() {
            true => 0,
            false => match outbox.write(|slices| self.write(context, slices)) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        match self.poll_readable(context) {
            Poll::Ready(readable) => Poll::Ready(readable.map(|()| Ready { is_readable: true, written })),
            Poll::Pending if written > 0 => Poll::Ready(Ok(Ready { is_readable: false, written })),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what the stream takes; `WouldBlock` when that is nothing, and then the context's task is
    /// woken when it takes something.
    pub(crate) fn write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                match Pin::new(&mut self.stream).poll_write(context, rest) {
                    Poll::Ready(Ok(count)) => {
                        written += count;
                        rest = &rest[count..];
                    }
                    _ if written > 0 => return Ok(written),
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => return Err(ErrorKind::WouldBlock.into()),
                }
            }
        }
        Ok(written)
    }

    /// Waits a while for the peer to take what was written. From one that does not, the streams of its
    /// address are taken away: else what is left would be kept for as long as it pleases.
    pub(crate) async fn finish(&mut self) {
        let flushed = poll_fn(|context| Pin::new(&mut self.stream).poll_flush(context));
        if tokio::time::timeout(FINISH, flushed).await.is_err() {
            self.datagrams.cut(self.address(), Instant::now());
        }
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

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use skerry_wire::mse::Cipher;
    use skerry_wire::peer::{Block, Message};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::utp::tests::pair;
    use crate::wire::Wire;

    #[tokio::test]
    async fn what_is_written_in_parts_arrives_whole_and_in_order() {
        let (ours, mut theirs, _listener) = pair().await;
        let mut wire = Wire::Utp(Box::new(ours));
        theirs.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        wire.read_exact(&mut hello).await.unwrap();

        let (mut outbox, mut plain) = (Outbox::default(), Cipher::Plain);
        let chunk = Bytes::from((0..1_u32 << 20).map(|n| (n >> 3) as u8).collect::<Vec<u8>>());
        let mut expected = BytesMut::new();
        for piece in 0..60_u32 {
            let block = Block { piece, begin: 0, length: 16_384 };
            let data = chunk.slice((piece as usize * 700)..(piece as usize * 700) + 16_384);
            Message::Have(piece).put(&mut expected);
            Message::Piece { piece, begin: 0, data: &data }.put(&mut expected);
            outbox.say(&Message::Have(piece), &mut plain);
            outbox.block(&block, data, None, &mut plain);
        }
        let length = expected.len();
        let reading = tokio::spawn(async move {
            let mut all = vec![0; length];
            theirs.read_exact(&mut all).await.unwrap();
            (all, theirs)
        });
        while !outbox.is_empty() {
            match outbox.write(|slices| wire.try_write(slices)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let ready = wire.ready(&mut outbox).await.unwrap();
                    assert!(ready.written > 0 && !ready.is_readable);
                }
                Err(error) => panic!("{error}"),
            }
        }
        wire.finish().await;
        let (all, mut theirs) = reading.await.unwrap();
        assert!(all == expected);
        drop(wire);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }

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
