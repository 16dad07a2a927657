//! Packets of UDP trackers, each read as a request and as an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skerry_wire::tracker::udp::{self, Request, Response};
use skerry_wire::tracker::{Counts, MOST_SCRAPED, compact};

fn request(packet: &[u8]) {
    let Ok(request) = Request::parse(packet) else { return };
    let mut again = Vec::new();
    request.write(&mut again);
    assert_eq!(Request::parse(&again).as_ref(), Ok(&request));
    let mut canonical = true;
    match &request {
        Request::Connect { .. } => {}
        Request::Announce { announce, .. } => {
            // Of the negative numbers, -1 is written.
            canonical = announce.wanted.is_some();
            if let Ok(url) = udp::url_data(announce.options) {
                let mut options = Vec::new();
                udp::push_url_data(&mut options, &url);
                assert_eq!(udp::url_data(&options), Ok(url));
            }
        }
        Request::Scrape { hashes, .. } => assert!((1..=MOST_SCRAPED).contains(&hashes.len())),
    }
    // What goes on behind a request is passed over.
    assert!(!canonical || packet.starts_with(&again));
}

fn response(packet: &[u8]) {
    let Ok(response) = Response::parse(packet) else { return };
    let mut again = Vec::new();
    match response {
        Response::Connect { transaction, connection } => {
            udp::write_connect(&mut again, transaction, connection);
        }
        Response::Announce { transaction, interval, leechers, seeders, peers } => {
            let counts = Counts { complete: seeders, incomplete: leechers, ..Counts::default() };
            udp::write_announce(&mut again, transaction, interval, &counts);
            assert_eq!(again.len(), udp::ANNOUNCE_HEAD);
            again.extend_from_slice(peers);
            packed(peers);
        }
        Response::Scrape { transaction, rows } => {
            udp::write_scrape(&mut again, transaction, rows.iter().map(udp::counts));
        }
        Response::Error { transaction, message } => {
            let Ok(message) = std::str::from_utf8(message) else { return };
            udp::write_error(&mut again, transaction, message);
        }
    }
    assert!(packet.starts_with(&again));
    assert_eq!(Response::parse(&again), Ok(response));
}

/// A list of peers, read as either family.
fn packed(list: &[u8]) {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    compact::v4(list).for_each(|peer| compact::push(&mut four, peer));
    compact::v6(list).for_each(|peer| compact::push(&mut six, peer));
    assert_eq!(four, list[..list.len() - list.len() % compact::V4]);
    assert_eq!(six, list[..list.len() - list.len() % compact::V6]);
}

fuzz_target!(|data: &[u8]| {
    request(data);
    response(data);
});
