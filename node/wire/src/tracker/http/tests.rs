//! Queries and answers, written, read and damaged.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::tracker::{Counts, compact};

fn some() -> Announce<'static> {
    let mut info_hash = [0; 20];
    info_hash.copy_from_slice(&(236..=255).collect::<Vec<u8>>());
    Announce {
        info_hash,
        peer_id: *b"-SK0001-& =%+~\0\r\nxyz",
        port: 6881,
        uploaded: 1,
        downloaded: u64::MAX,
        left: Some(3),
        event: Event::Paused,
        compact: false,
        no_peer_id: true,
        wanted: Some(7),
        key: Some(0xdead_beef),
        tracker_id: b"a%20b",
        supports_crypto: true,
        ip: Some("192.0.2.1".parse().unwrap()),
        ipv4: Some("192.0.2.2:80".parse().unwrap()),
        ipv6: Some("[2001:db8::1]:81".parse().unwrap()),
    }
}

const PLAIN: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1";

fn parsed(more: &str) -> Announce<'static> {
    // Leaked, since it is borrowed from; these are tests.
    let query: &'static str = format!("{PLAIN}{more}").leak();
    Announce::parse(query.as_bytes()).unwrap()
}

#[test]
fn a_query_reads_back() {
    let query = some().query();
    assert_eq!(Announce::parse(query.as_bytes()), Ok(some()));
    assert!(query.bytes().all(|byte| byte.is_ascii_graphic()), "{query}");
}

#[test]
fn defaults_are_those_of_a_client_that_says_little() {
    let announce = parsed("");
    assert_eq!((announce.info_hash, announce.peer_id, announce.port), ([b'a'; 20], [b'b'; 20], 1));
    assert!(announce.compact && announce.left.is_none() && announce.wanted.is_none());
    assert_eq!((announce.event, announce.key), (Event::None, None));
}

#[test]
fn addresses_are_read_as_bep_7_writes_them() {
    let six: SocketAddr = "[2001::53aa:64c:0:7f83:bc43:dec9]:1".parse().unwrap();
    assert_eq!(parsed("&ipv6=2001%3A%3A53Aa%3A64c%3A0%3A7f83%3Abc43%3Adec9").ipv6, Some(six));
    let bracketed = "&ipv6=%5B2001%3A%3A53Aa%3A64c%3A0%3A7f83%3Abc43%3Adec9%5D";
    assert_eq!(parsed(bracketed).ipv6, Some(six));
    let with_port = parsed(&format!("{bracketed}%3A6882")).ipv6.unwrap();
    assert_eq!(with_port.port(), 6882);
    assert_eq!(parsed("&ipv6=192.0.2.1").ipv6, None);
    assert_eq!(parsed("&ipv4=261.52.89.12").ipv4, None);
    assert_eq!(parsed("&ip=tracker.example.org").ip, None);
    assert_eq!(parsed(&format!("&ip={}", "1".repeat(500))).ip, None);
}

#[test]
fn odd_values_are_read_or_refused() {
    assert_eq!(parsed("&left=-1&numwant=-1&event=&unknown=%zz&&=&left").left, None);
    assert_eq!(parsed("&key=DEADBEEF").key, Some(0xdead_beef));
    assert!(parsed("&key=not%20hex").key.is_some());
    let refused = |more: &str| Announce::parse(format!("{PLAIN}{more}").as_bytes()).unwrap_err();
    assert_eq!(refused("&port=65536"), QueryError::Malformed("port"));
    assert_eq!(refused("&event=happy"), QueryError::Malformed("event"));
    assert_eq!(refused("&info_hash=%4"), QueryError::Malformed("info_hash"));
    assert_eq!(refused("&peer_id=short"), QueryError::Malformed("peer_id"));
    assert_eq!(refused("&downloaded=x"), QueryError::Malformed("downloaded"));
    let missing = |query: &str| Announce::parse(query.as_bytes()).unwrap_err();
    assert_eq!(missing(""), QueryError::Missing("info_hash"));
    assert_eq!(missing(PLAIN.split_once("&port").unwrap().0), QueryError::Missing("port"));
}

#[test]
fn scrapes_read_back_and_are_bounded() {
    let hashes = [[1; 20], [255; 20], [b'&'; 20]];
    assert_eq!(parse_scrape(scrape_query(&hashes).as_bytes()), Ok(hashes.to_vec()));
    assert_eq!(parse_scrape(b"a=b"), Err(QueryError::Missing("info_hash")));
    assert_eq!(parse_scrape(b"info_hash=a"), Err(QueryError::Malformed("info_hash")));
    let many = vec![[1; 20]; MOST_SCRAPED + 1];
    assert_eq!(parse_scrape(scrape_query(&many).as_bytes()), Err(QueryError::TooMany));
}

#[test]
fn answers_read_back_in_both_forms() {
    let peers: [SocketAddr; 2] = ["192.0.2.1:6881".parse().unwrap(), "[2001:db8::1]:51413".parse().unwrap()];
    let (mut four, mut six) = (Vec::new(), Vec::new());
    compact::push(&mut four, peers[0]);
    compact::push(&mut six, peers[1]);
    for external in ["198.51.100.7", "2001:db8::7"] {
        let external: IpAddr = external.parse().unwrap();
        for packed in [true, false] {
            let answer = Announced {
                interval: 900,
                min_interval: 60,
                counts: Counts { complete: 1, incomplete: 2, downloaders: 2, downloaded: 3 },
                external,
                peers: &four,
                peers6: &six,
                compact: packed,
            };
            let read = parse_answer(&announced(&answer)).unwrap();
            assert_eq!((read.interval, read.min_interval, read.counts), (900, 60, answer.counts));
            assert_eq!((read.external, &read.peers[..]), (Some(external), &peers[..]));
        }
    }
}

#[test]
fn an_answer_is_as_the_protocol_says() {
    let answer = Announced {
        interval: 1800,
        min_interval: 60,
        counts: Counts::default(),
        external: "1.2.3.4".parse().unwrap(),
        peers: b"abcdef",
        peers6: b"",
        compact: true,
    };
    let expected = b"d8:completei0e10:downloadedi0e11:external ip4:\x01\x02\x03\x04\
        10:incompletei0e8:intervali1800e12:min intervali60e5:peers6:abcdefe";
    assert_eq!(announced(&answer).escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn refusals_say_when_to_come_back() {
    for (retry, written) in [
        (None, "d14:failure reason2:noe"),
        (Some(Retry::Minutes(5)), "d14:failure reason2:no8:retry ini5ee"),
        (Some(Retry::Never), "d14:failure reason2:no8:retry in5:nevere"),
    ] {
        let written = written.as_bytes();
        assert_eq!(failure("no", retry), written);
        let refused = AnswerError::Refused { reason: "no".into(), retry };
        assert_eq!(parse_answer(written), Err(refused.clone()));
        assert_eq!(parse_scraped(written), Err(refused));
    }
    let text = parse_answer(b"d14:failure reason2:no8:retry in1:5e").unwrap_err();
    assert_eq!(text, AnswerError::Refused { reason: "no".into(), retry: Some(Retry::Minutes(5)) });
}

#[test]
fn scrape_answers_are_sorted_and_read_back() {
    let counts = Counts { complete: 1, incomplete: 4, downloaders: 2, downloaded: 3 };
    let mut swarms = vec![([9; 20], counts), ([1; 20], Counts::default()), ([9; 20], counts)];
    let body = scraped(&mut swarms);
    assert_eq!(parse_scraped(&body).unwrap(), [([1; 20], Counts::default()), ([9; 20], counts)]);
    assert_eq!(scraped(&mut Vec::new()), b"d5:filesdee");
}

#[test]
fn what_is_no_answer_is_refused() {
    for body in [&b""[..], b"<html>", b"i1e", b"de", b"d8:intervali-1ee", b"d5:filesi1ee"] {
        assert!(parse_answer(body).is_err() && parse_scraped(body).is_err(), "{}", body.escape_ascii());
    }
    let odd = parse_answer(b"d8:intervali9e5:peersld2:ip1:x4:porti1eed2:ip7:1.2.3.44:porti70000eeee");
    assert!(odd.unwrap().peers.is_empty());
}
