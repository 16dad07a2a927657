//! A changing request in the log: who asked for what, and what came of it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use serde_json::Value;

use super::Caller;

/// Longest body that is told, bytes; of a longer one, and of what is no JSON, the length is.
const MOST_TOLD: usize = 512;

/// A changing request. Its line is written when it ends, also when its client went away meanwhile: what was begun
/// may be done.
pub(super) struct Change {
    caller: Caller,
    peer: SocketAddr,
    method: Method,
    target: Uri,
    asked: String,
    status: Option<StatusCode>,
}

impl Change {
    pub(super) fn begin(caller: Caller, peer: SocketAddr, request: &Request<Bytes>) -> Self {
        Self {
            caller,
            peer,
            method: request.method().clone(),
            target: request.uri().clone(),
            asked: told(request.body()),
            status: None,
        }
    }

    /// It was answered.
    pub(super) fn end(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let Self { caller, peer, method, target, asked, status } = &*self;
        let status = status.map_or_else(|| "cut".to_owned(), |status| status.as_u16().to_string());
        log::info!(
            listener:% = caller.listener,
            operator:% = caller.operator,
            peer:%,
            method:%,
            target:%,
            asked:%,
            status:%;
            "administration"
        );
    }
}

/// A body, on one line.
fn told(body: &Bytes) -> String {
    let json = (1..=MOST_TOLD).contains(&body.len()).then(|| serde_json::from_slice::<Value>(body).ok());
    match json.flatten() {
        Some(json) => json.to_string(),
        None => format!("{} bytes", body.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_body_is_told_and_a_long_one_counted() {
        for (body, wanted) in [
            ("", "0 bytes"),
            (" {\"url\":\n \"http://a/\" } ", "{\"url\":\"http://a/\"}"),
            ("\0asm", "4 bytes"),
            ("\"a\\u0000\\nb\"", "\"a\\u0000\\nb\""),
            (&format!("\"{}\"", "a".repeat(MOST_TOLD)), "514 bytes"),
        ] {
            assert_eq!(told(&Bytes::copy_from_slice(body.as_bytes())), wanted);
        }
    }
}
