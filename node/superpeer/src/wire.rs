//! What a peer is connected by: TCP, or a stream of uTP.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::outbox::Outbox;
use crate::utp::Utp;

/// A peer's bytes, both ways.
pub(crate) enum Wire {
    /// TCP.
    Tcp(TcpStream),
    /// uTP (BEP 29).
    Utp(Box<Utp>),
}

/// What was waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// Whether there is something to read, or an end to be found by reading.
    pub(crate) is_readable: bool,
    /// Bytes that have left the outbox.
    pub(crate) written: usize,
}

impl Wire {
    /// Waits until something can be read or, while something waits in `outbox`, some of that is written.
    pub(crate) async fn ready(&mut self, outbox: &mut Outbox) -> io::Result<Ready> {
        poll_fn(|context| self.poll_ready(context, outbox)).await
    }

    fn poll_ready(&mut self, context: &mut Context<'_>, outbox: &mut Outbox) -> Poll<io::Result<Ready>> {
        let written = match outbox.is_empty() {
            true => 0,
            false => match outbox.write(|slices| self.write(context, slices)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                written => written?,
            },
        };
        let readable = match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Utp(utp) => utp.poll_readable(context),
        };
        match readable {
            Poll::Ready(readable) => Poll::Ready(readable.map(|()| Ready { is_readable: true, written })),
            Poll::Pending if written > 0 => Poll::Ready(Ok(Ready { is_readable: false, written })),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads what has come; `WouldBlock` when that is nothing.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Utp(utp) => {
                let mut buffer = ReadBuf::new(buffer);
                match Pin::new(utp).poll_read(&mut unwoken(), &mut buffer) {
                    Poll::Ready(read) => read.map(|()| buffer.filled().len()),
                    Poll::Pending => Err(ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Writes what is taken at once; `WouldBlock` when that is nothing.
    pub(crate) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&mut unwoken(), slices)
    }

    /// The same; the context's task is woken when more is taken.
    fn write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(self).poll_write_vectored(context, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Sees to what was written before the connection ends. The system does that for TCP.
    pub(crate) async fn finish(&mut self) {
        if let Self::Utp(utp) = self {
            utp.finish().await;
        }
    }
}

/// For a try that nobody is to be woken for: [`Wire::ready`] tries again before it waits.
fn unwoken() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Utp(utp) => Pin::new(utp).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Utp(utp) => Pin::new(utp).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Utp(utp) => Pin::new(utp).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Utp(utp) => Pin::new(utp).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Utp(utp) => Pin::new(utp).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use skerry_wire::mse::Cipher;
    use skerry_wire::peer::{Block, Message};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::utp::tests::pair;

    /// Sends more than a socket takes at once, to a peer that reads to the end.
    async fn sends(mut wire: Wire, mut theirs: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        // Before that, uTP does not send anything.
        theirs.write_all(b"hello").await.unwrap();
        wire.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(wire.try_read(&mut [0; 5]).unwrap_err().kind(), ErrorKind::WouldBlock);

        let (mut outbox, mut plain) = (Outbox::default(), Cipher::Plain);
        let chunk = Bytes::from((0..1_u32 << 20).map(|n| (n >> 3) as u8).collect::<Vec<u8>>());
        let mut expected = BytesMut::new();
        for piece in 0..300_u32 {
            let block = Block { piece, begin: 0, length: 16_384 };
            let data = chunk.slice((piece as usize * 700)..(piece as usize * 700) + 16_384);
            Message::Have(piece).put(&mut expected);
            Message::Piece { piece, begin: 0, data: &data }.put(&mut expected);
            outbox.say(&Message::Have(piece), &mut plain);
            outbox.block(&block, data, None, &mut plain);
        }
        assert_eq!(outbox.bytes(), expected.len());
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all
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
        drop(wire);
        assert!(reading.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn what_is_written_in_parts_arrives_whole_and_in_order_over_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sends(Wire::Tcp(stream), listener.accept().await.unwrap().0).await;
    }

    #[tokio::test]
    async fn what_is_written_in_parts_arrives_whole_and_in_order_over_utp() {
        let (ours, theirs, _listener) = pair().await;
        sends(Wire::Utp(Box::new(ours)), theirs).await;
    }
}
