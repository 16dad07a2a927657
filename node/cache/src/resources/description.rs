//! What a resource is, as JSON. The ids of its chunks are written as they are sent, since a long film has a
//! hundred thousand of them.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;
use skerry_core::Body;
use skerry_store::Held;
use skerry_store::chunk::hex;

use super::data_url;

/// Ids in one piece of the body: 34 kB.
const IDS: usize = 512;
/// An id between its quotes, bytes.
const ID: usize = 66;

/// `GET resources/ID`.
pub(super) fn describe(held: Arc<Held>, base: &str) -> Response<Body> {
    let resource = &held.resource;
    let head = json!({
        "id": resource.id(),
        "name": held.name,
        "media_type": held.media_type,
        "length": resource.length,
        "chunk_length": resource.chunk_length,
        "sha256": hex(&resource.sha256),
        "torrent": format!("{base}/.skerry/v1/resources/{}.torrent", resource.id()),
        "sources": [data_url(base, &held)],
    });
    let (length, body) = with_chunks(head.to_string(), held);
    let mut response = Response::new(body);
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CONTENT_LENGTH, length.into());
    response
}

/// A JSON object with the ids of a resource's chunks as its last member, and its length in bytes.
fn with_chunks(mut head: String, held: Arc<Held>) -> (u64, Body) {
    let ids = held.resource.chunks.len();
    head.truncate(head.len() - 1);
    head.push_str(",\"chunks\":[");
    let length = head.len() + ids * ID + ids.saturating_sub(1) + "]}".len();
    let last = ids.saturating_sub(1) / IDS;
    let mut piece = move |number: usize| {
        let mut text = if number == 0 { std::mem::take(&mut head) } else { String::new() };
        for (place, id) in held.resource.chunks.iter().enumerate().skip(number * IDS).take(IDS) {
            if place > 0 {
                text.push(',');
            }
            text.push('"');
            text.push_str(&id.to_string());
            text.push('"');
        }
        if number == last {
            text.push_str("]}");
        }
        Bytes::from(text)
    };
    let body = if last == 0 {
        Body::from(piece(0))
    } else {
        let pieces = (0..=last).map(move |number| Ok::<_, Infallible>(Frame::data(piece(number))));
        Body::stream(StreamBody::new(stream::iter(pieces)))
    };
    (length as u64, body)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use skerry_store::ChunkId;
    use skerry_store::digest::Ingest;

    use super::*;

    #[tokio::test]
    async fn however_many_chunks_there_are_they_are_all_named_in_their_order() {
        for ids in [0, 1, IDS - 1, IDS, IDS + 1, 3 * IDS] {
            let mut resource = Ingest::new(1 << 18).finish();
            resource.chunks = (0..ids).map(|number| ChunkId::of(&number.to_le_bytes())).collect();
            let expected: Vec<String> = resource.chunks.iter().map(ToString::to_string).collect();
            let held = Held {
                resource,
                generations: Vec::new(),
                name: String::new(),
                media_type: String::new(),
                from: None,
                pin: None,
                added_ms: 0,
            };
            let (length, body) = with_chunks("{\"name\":\"a\"}".to_owned(), Arc::new(held));
            assert_eq!(matches!(body, Body::Stream(_)), ids > IDS, "{ids}");
            let text = body.collect().await.unwrap().to_bytes();
            assert_eq!(text.len() as u64, length, "{ids}");
            let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(read, json!({ "name": "a", "chunks": expected }), "{ids}");
        }
    }
}
