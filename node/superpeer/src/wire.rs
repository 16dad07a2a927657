//! What a peer is connected by: TCP, or a stream of uTP.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
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
    /// Waits until something can be read or, while something waits in `outbox`, be written. A stream of
    /// uTP tells that it takes more by taking it.
    pub(crate) async fn ready(&mut self, outbox: &mut Outbox) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => {
                let interest = match outbox.is_empty() {
                    true => Interest::READABLE,
                    false => Interest::READABLE | Interest::WRITABLE,
                };
                let ready = stream.ready(interest).await?;
                Ok(Ready { is_readable: ready.is_readable(), written: 0 })
            }
            Self::Utp(utp) => poll_fn(|context| utp.poll_ready(context, outbox)).await,
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
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Utp(utp) => utp.write(&mut unwoken(), slices),
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
