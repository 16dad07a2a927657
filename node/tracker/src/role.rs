//! The tracker on the admin listener, and the thread that forgets the silent.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin, problem};
use skerry_wire::InfoHash;
use skerry_wire::tracker::Counts;

use crate::TrackerError;
use crate::super_peers::Held;
use crate::tracker::Tracker;

/// From one part of the swarms to the next: all of them in a minute.
const SWEEP: Duration = Duration::from_millis(234);

/// The tracker as a role of the node.
pub struct TrackerRole {
    tracker: Arc<Tracker>,
    /// Dropped first, which ends the thread.
    stop: Option<Sender<()>>,
    sweeping: Option<JoinHandle<()>>,
}

impl TrackerRole {
    /// The role; begins to forget who falls silent.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(tracker: Arc<Tracker>) -> Result<Self, TrackerError> {
        let (stop, stopped) = channel();
        let swept = tracker.clone();
        let sweeping = std::thread::Builder::new()
            .name("tracker-sweep".into())
            .spawn(move || {
                while stopped.recv_timeout(SWEEP) == Err(RecvTimeoutError::Timeout) {
                    swept.sweep(swept.now());
                }
            })
            .map_err(TrackerError::Thread)?;
        Ok(Self { tracker, stop: Some(stop), sweeping: Some(sweeping) })
    }

    fn totals(&self) -> Value {
        let totals = self.tracker.totals();
        json!({
            "torrents": totals.torrents,
            "peers": { "ipv4": totals.v4, "ipv6": totals.v6 },
            "announces": self.tracker.settle(),
        })
    }

    fn swarm(&self, hash: &str) -> Response<Body> {
        let Ok(hash) = hash.parse::<InfoHash>() else {
            return problem::response(StatusCode::BAD_REQUEST, "an info-hash has 40 or 64 hex digits");
        };
        let hash = hash.wire();
        let families = self.tracker.families(&hash);
        let held = [false, true].map(|v6| self.tracker.super_peers(&hash, v6));
        if families.is_none() && held.iter().all(Option::is_none) {
            return problem::response(StatusCode::NOT_FOUND, "nobody is in that swarm");
        }
        let families = families.unwrap_or_default();
        let super_peers = held.iter().flatten().flat_map(|held| told(held));
        admin::json(&json!({
            "ipv4": counts(&families.v4),
            "ipv6": counts(&families.v6),
            "downloaded": families.v4.downloaded,
            "super_peers": super_peers.collect::<Vec<_>>(),
        }))
    }
}

impl Drop for TrackerRole {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.sweeping.take() {
            let _ = thread.join();
        }
    }
}

impl Role for TrackerRole {
    fn name(&self) -> &'static str {
        "tracker"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            if request.method() != Method::GET {
                return None;
            }
            match request.uri().path().strip_prefix("/tracker")? {
                "" => Some(admin::json(&self.totals())),
                rest => rest.strip_prefix("/swarms/").map(|hash| self.swarm(hash)),
            }
        })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        self.totals()
    }

    fn settle(&self) {
        self.tracker.settle();
    }
}

fn counts(counts: &Counts) -> Value {
    json!({
        "complete": counts.complete,
        "incomplete": counts.incomplete,
        "downloaders": counts.downloaders,
    })
}

fn told(held: &Held) -> impl Iterator<Item = Value> {
    held.rows.iter().map(|node| {
        json!({
            "address": node.address.to_string(),
            "region": node.place.region,
            "used_kbps": node.used_kbps,
            "capacity_kbps": node.capacity_kbps,
            "health": node.health,
            "held": node.held,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use skerry_wire::tracker::Event;

    use super::*;
    use crate::metrics::Transport;
    use crate::tracker::Asked;
    use crate::tracker::tests::tracker;

    fn get(role: &TrackerRole, path: &str) -> Option<(StatusCode, Value)> {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        let answer = role.admin(request);
        let Poll::Ready(response) = pin!(answer).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it waits for nothing")
        };
        let response = response?;
        let status = response.status();
        let Body::Full(bytes) = response.into_body() else { panic!("it has content") };
        Some((status, serde_json::from_slice(&bytes).unwrap()))
    }

    #[test]
    fn totals_and_swarms_are_told() {
        let role = TrackerRole::new(tracker(|_| {})).unwrap();
        let asked = Asked {
            info_hash: [0xab; 20],
            peer_id: [1; 20],
            key: 0,
            source: "2001:db8::1".parse().unwrap(),
            named: None,
            port: 1,
            event: Event::Started,
            left: Some(0),
            downloaded: 0,
            wanted: None,
            room: 10,
            both: false,
            transport: Transport::Udp,
        };
        role.tracker.announce(&asked, Duration::ZERO, &mut role.tracker.worker(None)).unwrap();
        let (_, totals) = get(&role, "/tracker").unwrap();
        let expected = json!({ "torrents": 1, "peers": { "ipv4": 0, "ipv6": 1 }, "announces": 1 });
        assert_eq!((&totals, &role.status()), (&expected, &expected));
        // As 20 bytes, and as the 32 of which a v2 torrent's are the first.
        for digits in [40, 64] {
            let (status, swarm) =
                get(&role, &format!("/tracker/swarms/{}", "ab".repeat(digits / 2))).unwrap();
            assert_eq!((status, &swarm["ipv6"]["complete"]), (StatusCode::OK, &json!(1)));
        }
        let (status, _) = get(&role, &format!("/tracker/swarms/{}", "cd".repeat(20))).unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(get(&role, "/tracker/swarms/xyz").unwrap().0, StatusCode::BAD_REQUEST);
        assert!(get(&role, "/trackers").is_none() && get(&role, "/purge").is_none());
    }
}
