//! What HTTP trackers are asked and what they answer: an input is read as each of the four.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use skerry_wire::tracker::http::{self, Announce, Announced, AnswerError};
use skerry_wire::tracker::{MOST_SCRAPED, compact};

/// Words of a tracker that are not cut once they are UTF-8, bytes.
const WORDS: usize = 512;

fn announce(query: &[u8]) {
    let Ok(announce) = Announce::parse(query) else { return };
    let written = announce.query();
    // It is kept as it came, and written only as text.
    let is_text = std::str::from_utf8(announce.tracker_id).is_ok();
    let tracker_id = if is_text { announce.tracker_id } else { &[] };
    if tracker_id.is_empty() {
        assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written}");
    }
    assert_eq!(Announce::parse(written.as_bytes()), Ok(Announce { tracker_id, ..announce.clone() }));
}

fn scrape(query: &[u8]) {
    let Ok(hashes) = http::parse_scrape(query) else { return };
    assert!((1..=MOST_SCRAPED).contains(&hashes.len()));
    assert_eq!(http::parse_scrape(http::scrape_query(&hashes).as_bytes()), Ok(hashes));
}

fn announced(body: &[u8]) {
    match http::parse_answer(body) {
        Ok(mut answer) => {
            let (mut peers, mut peers6) = (Vec::new(), Vec::new());
            for peer in &answer.peers {
                compact::push(if peer.is_ipv4() { &mut peers } else { &mut peers6 }, *peer);
            }
            // What a tracker of ours says: each family together, no warning, partial seeds not told apart.
            answer.peers.sort_by_key(SocketAddr::is_ipv6);
            answer.warning = None;
            answer.counts.downloaders = answer.counts.incomplete;
            let external = answer.external.unwrap_or(IpAddr::from([0; 4]));
            answer.external = Some(external);
            for compact in [true, false] {
                let written = http::announced(&Announced {
                    interval: answer.interval,
                    min_interval: answer.min_interval,
                    counts: answer.counts,
                    external,
                    peers: &peers,
                    peers6: &peers6,
                    compact,
                });
                assert_eq!(http::parse_answer(&written).as_ref(), Ok(&answer));
            }
        }
        Err(AnswerError::Refused { reason, retry }) if reason.len() <= WORDS => {
            let written = http::failure(&reason, retry);
            assert_eq!(http::parse_answer(&written), Err(AnswerError::Refused { reason, retry }));
        }
        Err(_) => {}
    }
}

fn scraped(body: &[u8]) {
    let Ok(swarms) = http::parse_scraped(body) else { return };
    assert_eq!(http::parse_scraped(&http::scraped(&mut swarms.clone())), Ok(swarms));
}

fuzz_target!(|data: &[u8]| {
    announce(data);
    scrape(data);
    announced(data);
    scraped(data);
});
