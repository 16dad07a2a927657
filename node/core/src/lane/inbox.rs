//! What was read of a connection and not answered yet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::parse;
use crate::connection::{Answering, Connection};

/// Room for the header of nearly every request.
const USUAL: usize = 2048;

/// Bytes from the socket: grows with a header, up to a bound.
#[derive(Default)]
pub(super) struct Inbox {
    room: Vec<u8>,
    filled: usize,
    /// Bytes of which it is known that they are the beginning of a header.
    part: usize,
}

impl Inbox {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[..self.filled]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// What is there is the beginning of a header.
    pub(super) fn is_part(&mut self) {
        self.part = self.filled;
    }

    /// Whether it may hold a whole header: false saves reading a long one again for each of its
    /// bytes.
    pub(super) fn may_be_whole(&self) -> bool {
        let new = &self.bytes()[self.part.saturating_sub(3)..];
        match self.part {
            0 => !new.is_empty(),
            _ => new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n"),
        }
    }

    /// Makes room for more; false when there are `most` bytes already.
    pub(super) fn make_room(&mut self, most: usize) -> bool {
        if self.filled < self.room.len() {
            return true;
        }
        if self.filled >= most {
            return false;
        }
        self.room.resize((self.room.len() * 2).clamp(USUAL, most.max(USUAL)), 0);
        true
    }

    /// Reads once; 0 at the end of the stream.
    pub(super) async fn read<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut self.room[self.filled..]);
            std::task::ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            let read = buffer.filled().len();
            self.filled += read;
            std::task::Poll::Ready(Ok(read))
        })
        .await
    }

    /// Forgets a request that is answered.
    pub(super) fn consume(&mut self, length: usize) {
        self.part = 0;
        self.room.copy_within(length..self.filled, 0);
        self.filled -= length;
        if self.filled == 0 && self.room.len() > USUAL {
            self.room = Vec::new();
        }
    }

    /// Everything that was read, for whoever goes on.
    pub(super) fn take(&mut self) -> Bytes {
        self.room.truncate(self.filled);
        (self.filled, self.part) = (0, 0);
        std::mem::take(&mut self.room).into()
    }

    /// Notes in the connection that its first request is being answered.
    pub(super) fn begin(&self, connection: &Arc<Connection>) -> Answering {
        let mut slots = parse::slots();
        let uri = match parse::parse(self.bytes(), &mut slots) {
            parse::Parsed::Plain(plain, _) => plain.target.parse().unwrap_or_default(),
            _ => http::Uri::default(),
        };
        connection.begin(&http::Method::GET, &uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_header_in_pieces_is_looked_at_when_its_end_may_be_there() {
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let text = format!("GET / HTTP/1.1\r\nHost: a{end}");
            for cut in 1..text.len() {
                let mut inbox = Inbox::default();
                assert!(!inbox.may_be_whole());
                for piece in [&text[..cut], &text[cut..]] {
                    assert!(inbox.make_room(8192));
                    inbox.read(&mut piece.as_bytes()).await.unwrap();
                    assert!(inbox.may_be_whole());
                    inbox.is_part();
                    assert!(!inbox.may_be_whole() || piece == &text[cut..]);
                }
            }
        }
    }

    #[tokio::test]
    async fn it_grows_to_its_bound_and_shrinks_again() {
        let mut inbox = Inbox::default();
        let mut source = &[7; 10_000][..];
        while inbox.make_room(8192) {
            assert!(inbox.read(&mut source).await.unwrap() > 0);
        }
        assert_eq!(inbox.bytes().len(), 8192);
        inbox.consume(8190);
        assert_eq!(inbox.bytes(), [7, 7]);
        inbox.consume(2);
        assert!(inbox.is_empty() && inbox.make_room(8192) && inbox.room.len() == USUAL);
        assert_eq!(inbox.read(&mut source).await.unwrap(), 10_000 - 8192);
        assert_eq!(inbox.take().len(), 10_000 - 8192);
    }
}
