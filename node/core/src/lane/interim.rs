//! Answers before the answer: 102, 103 and whatever 1xx may come (RFC 9110 §15.2).

use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

/// More than any origin sends for one request; what comes beyond, while the client takes none, is lost.
const MOST: usize = 8;

/// Where a request's client takes them: an extension of requests for which that can be done.
#[derive(Debug, Clone)]
pub struct Interim(mpsc::Sender<(StatusCode, HeaderMap)>);

impl Interim {
    pub(super) fn channel() -> (Self, mpsc::Receiver<(StatusCode, HeaderMap)>) {
        let (sender, receiver) = mpsc::channel(MOST);
        (Self(sender), receiver)
    }

    /// Passes one on. 100 is between neighbours, and 101 is no interim answer: neither goes further.
    pub fn send(&self, status: StatusCode, headers: HeaderMap) {
        if status.is_informational() && !matches!(status.as_u16(), 100 | 101) {
            let _ = self.0.try_send((status, headers));
        }
    }
}
