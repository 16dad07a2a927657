//! The lane: HTTP/1.1 `GET` and `HEAD` requests without content, read and answered at the socket.
//!
//! Nearly everything that an edge node is asked is such a request. One of them costs a read, a look
//! at the [`Lane`] of the worker, and a vectored write of header and chunk; when the lane has no
//! answer at once, the [`Handler`] is asked and its answer written here. All else (other versions
//! and methods, content, upgrades, `Connection` but for keep-alive, what does not parse) goes to
//! hyper with every byte that was read, and hyper keeps the connection from there on.
//!
//! Source: RFC 9112 (HTTP/1.1), sections 2, 3, 6 and 9.

mod inbox;
mod interim;
mod parse;
mod respond;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Connection, Watched};
use crate::worker::Handler;
use inbox::Inbox;
pub use interim::Interim;
use parse::Parsed;
pub use parse::Plain;
use respond::{respond, send};

/// What one worker answers at once, and what it counts while doing so.
pub trait Lane: Send + 'static {
    /// Answers a `GET` for which nothing has to be waited for: the whole header goes to `head`
    /// (which is empty), with its closing empty line. `None`, and whatever was written is dropped,
    /// when the handler is to answer.
    fn answer(&mut self, request: &Plain<'_>, head: &mut Vec<u8>) -> Option<AtOnce>;

    /// The answer is sent or broken off; `first` and `took` are from its request's header to its own
    /// and to its last byte.
    fn sent(&mut self, answer: AtOnce, first: Duration, took: Duration);
}

/// Answers nothing: everything goes to the handler.
impl Lane for () {
    fn answer(&mut self, _: &Plain<'_>, _: &mut Vec<u8>) -> Option<AtOnce> {
        None
    }

    fn sent(&mut self, _: AtOnce, _: Duration, _: Duration) {}
}

/// What follows the header of an answer at once.
#[derive(Debug)]
pub struct AtOnce {
    /// The content.
    pub body: Bytes,
    /// Tells the lane what it was, once it is sent.
    pub ticket: usize,
}

/// How a connection left the lane.
pub(crate) enum Left {
    /// It is at its end.
    Closed,
    /// It ends with the answer that was sent.
    Answered,
    /// Its next request, of which these bytes were read, is not for the lane.
    Over(Bytes),
}

/// What to do with what has been read.
enum Step {
    Read,
    Over,
    Answered(AtOnce, usize),
    Ask(Box<http::Request<crate::Body>>, usize),
}

/// Serves a connection until it closes or asks for something else. `max_head` bounds a request's
/// header in bytes.
pub(crate) async fn serve<S, H>(
    stream: &mut Watched<S>,
    handler: &Arc<H>,
    lane: &Mutex<H::Lane>,
    connection: &Arc<Connection>,
    max_head: usize,
) -> io::Result<Left>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let mut inbox = Inbox::default();
    let mut head = Vec::new();
    loop {
        let started = Instant::now();
        match step::<H>(&mut inbox, lane, connection, &mut head) {
            Step::Read => {
                if !inbox.is_empty() {
                    connection.heading();
                } else if connection.is_finishing() && connection.is_idle() {
                    return Ok(Left::Closed);
                }
                if !inbox.make_room(max_head) {
                    return Ok(Left::Over(inbox.take()));
                }
                if inbox.read(stream).await? == 0 {
                    return Ok(Left::Closed);
                }
            }
            Step::Over => return Ok(Left::Over(inbox.take())),
            Step::Answered(answer, length) => {
                let first = started.elapsed();
                let sent = {
                    let mut sending = pin!(send(stream, [&head[..], &answer.body]));
                    let begun = std::future::poll_fn(|context| Poll::Ready(sending.as_mut().poll(context)));
                    match begun.await {
                        Poll::Ready(result) => result,
                        Poll::Pending => {
                            let _answering = inbox.begin(connection);
                            sending.await
                        }
                    }
                };
                lane.lock().sent(answer, first, started.elapsed());
                sent?;
                inbox.consume(length);
                connection.rest();
            }
            Step::Ask(request, length) => {
                inbox.consume(length);
                // Boxed, so that an idle connection does not hold the room of an answer.
                let keep = Box::pin(ask(stream, handler, connection, *request, &mut head)).await?;
                if !keep {
                    return Ok(Left::Answered);
                }
            }
        }
    }
}

fn step<H: Handler>(
    inbox: &mut Inbox,
    lane: &Mutex<H::Lane>,
    connection: &Connection,
    head: &mut Vec<u8>,
) -> Step {
    if !inbox.may_be_whole() {
        return Step::Read;
    }
    let mut slots = parse::slots();
    match parse::parse(inbox.bytes(), &mut slots) {
        Parsed::Part => {
            inbox.is_part();
            Step::Read
        }
        Parsed::Other => Step::Over,
        Parsed::Plain(plain, length) => {
            head.clear();
            // Answers of the lane do not say `Connection: close`.
            if !plain.is_head
                && !connection.is_finishing()
                && let Some(answer) = lane.lock().answer(&plain, head)
            {
                return Step::Answered(answer, length);
            }
            plain.request().map_or(Step::Over, |request| Step::Ask(Box::new(request), length))
        }
    }
}

/// Lets the handler answer; false when the connection ends with it.
async fn ask<S, H>(
    stream: &mut Watched<S>,
    handler: &Arc<H>,
    connection: &Arc<Connection>,
    mut request: http::Request<crate::Body>,
    head: &mut Vec<u8>,
) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
{
    let is_head = request.method() == http::Method::HEAD;
    let _answering = connection.begin(request.method(), request.uri());
    let (interim, mut early) = Interim::channel();
    request.extensions_mut().insert(interim);
    let mut handling = pin!(handler.clone().handle(request, connection.clone()));
    let response = loop {
        tokio::select! {
            biased;
            Some((status, headers)) = early.recv() => {
                head.clear();
                respond::write_interim(head, status, &headers);
                send(stream, [&head[..]]).await?;
            }
            response = &mut handling => break response,
        }
    };
    respond(stream, connection, is_head, response, head).await
}
