//! A handler's answer on the wire (RFC 9112 §6: how its length is told).

use std::future::poll_fn;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame};
use tokio::io::AsyncWrite;

use crate::connection::Connection;
use crate::{Body, BodyError};

/// How the client learns where the content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is none, whatever the header says.
    Nothing,
    Length(u64),
    Chunked,
}

impl Framing {
    fn of(is_head: bool, parts: &Parts, body: &Body) -> Self {
        let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_head || bodiless {
            return Self::Nothing;
        }
        let told = || parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        body.size_hint().exact().or_else(told).map_or(Self::Chunked, Self::Length)
    }
}

/// Writes an answer; false when the connection must close after it. An error leaves an answer cut
/// short, which the client can tell by its framing.
pub(super) async fn respond<S: AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &Connection,
    is_head: bool,
    response: Response<Body>,
    head: &mut Vec<u8>,
) -> io::Result<bool> {
    let (parts, mut body) = response.into_parts();
    let framing = Framing::of(is_head, &parts, &body);
    let asked_to_close = parts.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
    let keep = !asked_to_close && !connection.is_finishing();
    head.clear();
    write_head(head, &parts, &body, framing, keep);
    if framing == Framing::Nothing || framing == Framing::Length(0) {
        send(stream, [&head[..]]).await?;
        return Ok(keep);
    }
    // What is there already goes out with the header.
    let mut frame = match poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await {
        Poll::Ready(frame) => frame,
        Poll::Pending => {
            send(stream, [&head[..]]).await?;
            head.clear();
            next(&mut body).await
        }
    };
    let mut left = match framing {
        Framing::Length(length) => length,
        _ => u64::MAX,
    };
    while let Some(next_frame) = frame {
        // Trailers are left out: who wants them says `TE: trailers`, which is not for the lane.
        if let Ok(data) = next_frame.map_err(io::Error::other)?.into_data() {
            if data.len() as u64 > left {
                return Err(io::Error::other("the content is longer than its Content-Length"));
            }
            left -= data.len() as u64;
            if framing == Framing::Chunked && !data.is_empty() {
                // Writing to a vector cannot fail.
                let _ = write!(head, "{:x}\r\n", data.len());
                send(stream, [&head[..], &data, b"\r\n"]).await?;
            } else {
                send(stream, [&head[..], &data]).await?;
            }
            head.clear();
        }
        frame = if left == 0 { None } else { next(&mut body).await };
    }
    if framing == Framing::Chunked {
        send(stream, [&head[..], b"0\r\n\r\n"]).await?;
    } else if left > 0 {
        return Err(io::Error::other("the content is shorter than its Content-Length"));
    }
    Ok(keep)
}

/// An interim answer: its status and fields, and no content.
pub(super) fn write_interim(head: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    write_status(head, status);
    headers.iter().for_each(|(name, value)| field(head, name.as_str(), value.as_bytes()));
    head.extend_from_slice(b"\r\n");
}

fn write_status(head: &mut Vec<u8>, status: StatusCode) {
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
}

fn write_head(head: &mut Vec<u8>, parts: &Parts, body: &Body, framing: Framing, keep: bool) {
    write_status(head, parts.status);
    // RFC 9110 §8.6: it says nothing of a length.
    let empty = parts.status == StatusCode::NO_CONTENT;
    for (name, value) in &parts.headers {
        let ours = matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING)
            || (*name == header::CONTENT_LENGTH && (framing != Framing::Nothing || empty));
        if !ours {
            field(head, name.as_str(), value.as_bytes());
        }
    }
    if !parts.headers.contains_key(header::DATE) {
        field(head, "date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    }
    match framing {
        Framing::Length(length) => field(head, "content-length", length.to_string().as_bytes()),
        Framing::Chunked => field(head, "transfer-encoding", b"chunked"),
        // What a GET would have had, where the answer to a HEAD carries its content for that.
        Framing::Nothing => {
            let length = body.size_hint().exact().filter(|length| *length > 0 && !empty);
            if let Some(length) = length.filter(|_| !parts.headers.contains_key(header::CONTENT_LENGTH)) {
                field(head, "content-length", length.to_string().as_bytes());
            }
        }
    }
    if !keep {
        field(head, "connection", b"close");
    }
    head.extend_from_slice(b"\r\n");
}

fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, BodyError>> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// Writes all of the parts, in as few system calls as the socket lets it be.
pub(super) async fn send<S: AsyncWrite + Unpin, const N: usize>(
    stream: &mut S,
    parts: [&[u8]; N],
) -> io::Result<()> {
    let mut slices = parts.map(IoSlice::new);
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let written = poll_fn(|context| write_some(stream, context, left)).await?;
        IoSlice::advance_slices(&mut left, written);
    }
    poll_fn(|context| Pin::new(&mut *stream).poll_flush(context)).await
}

fn write_some<S: AsyncWrite + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(stream).poll_write_vectored(context, slices))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use http_body_util::StreamBody;

    use super::*;

    async fn wire(is_head: bool, response: Response<Body>) -> (String, io::Result<bool>) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = Connection::new(peer, false, Arc::default());
        let mut out = Vec::new();
        let result = respond(&mut out, &connection, is_head, response, &mut Vec::new()).await;
        (String::from_utf8(out).unwrap(), result)
    }

    fn pieces(pieces: &'static [&'static str]) -> Body {
        let frames = pieces.iter().map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::from(*piece))));
        Body::stream(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn answer(body: Body) -> Response<Body> {
        Response::builder().header("date", "then").body(body).unwrap()
    }

    #[tokio::test]
    async fn a_known_length_is_told() {
        let (text, keep) = wire(false, answer(Body::from("hello".to_owned()))).await;
        assert_eq!(text, "HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 5\r\n\r\nhello");
        assert!(keep.unwrap());
    }

    #[tokio::test]
    async fn an_unknown_length_is_chunked() {
        let (text, _) = wire(false, answer(pieces(&["hello", "", " you"]))).await;
        let body = "5\r\nhello\r\n4\r\n you\r\n0\r\n\r\n";
        assert_eq!(
            text,
            format!("HTTP/1.1 200 OK\r\ndate: then\r\ntransfer-encoding: chunked\r\n\r\n{body}")
        );
    }

    #[tokio::test]
    async fn content_of_another_length_is_an_error() {
        for length in ["4", "6"] {
            let mut response = answer(pieces(&["hel", "lo"]));
            response.headers_mut().insert("content-length", length.parse().unwrap());
            let (text, result) = wire(false, response).await;
            assert!(result.is_err() && text.contains("\r\n\r\nhel"), "{length}: {text}");
        }
    }

    #[tokio::test]
    async fn head_and_bodiless_answers_end_with_their_header() {
        let (text, _) = wire(true, answer(Body::from("hello".to_owned()))).await;
        assert_eq!(text, "HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 5\r\n\r\n");
        let mut response = answer(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let (text, _) = wire(false, response).await;
        assert_eq!(text, "HTTP/1.1 304 Not Modified\r\ndate: then\r\n\r\n");
        let mut response = answer(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert("content-length", "5".parse().unwrap());
        let (text, _) = wire(false, response).await;
        assert_eq!(text, "HTTP/1.1 204 No Content\r\ndate: then\r\n\r\n");
        let (text, _) = wire(false, answer(Body::Empty)).await;
        assert_eq!(text, "HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 0\r\n\r\n");
    }

    #[tokio::test]
    async fn an_answer_that_closes_says_so_once() {
        let mut response = answer(Body::from("x".to_owned()));
        response.headers_mut().insert("connection", "close".parse().unwrap());
        let (text, keep) = wire(false, response).await;
        assert!(!keep.unwrap());
        assert_eq!(text.matches("connection: close\r\n").count(), 1);
    }
}
