//! The first phase: the info dictionary (BEP 9).
//!
//! It is taken from one peer as a whole, from a few peers at once: whoever sends a wrong one is known.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_wire::peer::Message;
use skerry_wire::peer::metadata::{Assembly, Message as Part};

use super::failures::Failures;
use crate::error::End;
use crate::peer::{Key, Peer};

/// Peers that it is taken from at once.
const AT_ONCE: usize = 3;
/// Parts that a peer is asked for at once.
const DEPTH: usize = 8;
/// How long a peer may take for a part.
const PATIENCE: Duration = Duration::from_secs(15);
/// And for all of it: a few that give a part now and then are not to keep all others out.
const LONGEST: Duration = Duration::from_secs(120);

/// Info dictionaries on their way.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    fetches: BTreeMap<Key, Fetch>,
    pub(crate) failures: Failures,
}

#[derive(Debug)]
struct Fetch {
    assembly: Assembly,
    asked: Vec<u32>,
    /// When it began, and when a part came last.
    began: Duration,
    at: Duration,
}

impl Metadata {
    /// Asks a peer for what may be asked for.
    pub(crate) fn tend(&mut self, peer: &mut Peer, now: Duration) {
        let (Some(id), Some(length)) = (peer.theirs.ut_metadata, peer.metadata_length) else { return };
        if !self.fetches.contains_key(&peer.key) {
            let rests = self.failures.rests(peer.key, now);
            if rests || self.fetches.len() >= AT_ONCE {
                return;
            }
            let Ok(assembly) = Assembly::new(length.into()) else { return };
            self.fetches.insert(peer.key, Fetch { assembly, asked: Vec::new(), began: now, at: now });
        }
        let Some(fetch) = self.fetches.get_mut(&peer.key) else { return };
        let room = DEPTH.saturating_sub(fetch.asked.len());
        let next = fetch.assembly.missing().filter(|part| !fetch.asked.contains(part));
        let next: Vec<u32> = next.take(room).collect();
        for piece in next {
            let payload = Part::Request { piece }.encode();
            peer.say(&Message::Extended { id, payload: &payload }, now);
            fetch.asked.push(piece);
        }
    }

    /// Takes what a peer says. Returns the whole when it is complete; whether it is right is for the
    /// caller to see.
    pub(crate) fn hear(
        &mut self,
        peer: &mut Peer,
        part: &Part<'_>,
        now: Duration,
    ) -> Result<Option<Vec<u8>>, End> {
        let asked = |piece: &u32| self.fetches.get(&peer.key)?.asked.iter().position(|asked| asked == piece);
        match part {
            Part::Data { piece, length, data } => {
                let Some(at) = asked(piece) else { return peer.noise().map(|()| None) };
                let Some(fetch) = self.fetches.get_mut(&peer.key) else { return Ok(None) };
                fetch.asked.swap_remove(at);
                fetch.assembly.add(*piece, *length, data)?;
                fetch.at = now;
                if !fetch.assembly.complete() {
                    return Ok(None);
                }
                Ok(self.fetches.remove(&peer.key).and_then(|fetch| fetch.assembly.finish()))
            }
            Part::Reject { piece } => {
                if asked(piece).is_some() {
                    self.fetches.remove(&peer.key);
                    self.failures.add(peer.key, now);
                }
                peer.noise().map(|()| None)
            }
            Part::Request { .. } | Part::Unknown => peer.noise().map(|()| None),
        }
    }

    /// Gives up those who are silent or take too long.
    pub(crate) fn tick(&mut self, now: Duration) {
        let is_late = |fetch: &Fetch| {
            now.saturating_sub(fetch.at) >= PATIENCE || now.saturating_sub(fetch.began) >= LONGEST
        };
        let late = self.fetches.iter().filter(|(_, fetch)| is_late(fetch));
        let late: Vec<Key> = late.map(|(peer, _)| *peer).collect();
        for peer in late {
            self.fetches.remove(&peer);
            self.failures.add(peer, now);
        }
    }

    /// A peer is gone.
    pub(crate) fn left(&mut self, peer: Key) {
        self.fetches.remove(&peer);
        self.failures.forget(peer);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use skerry_wire::peer::Decoder;
    use skerry_wire::peer::extension::Extensions;

    use super::super::failures::PAUSE;
    use super::*;
    use crate::piece::tests::noise;

    const NOW: Duration = Duration::ZERO;

    fn peer(key: Key, length: u32) -> Peer {
        let address = SocketAddr::from(([192, 0, 2, 1], key as u16));
        let mut peer = Peer::new(key, address, [7; 20], [8; 20], NOW);
        peer.take_out();
        peer.theirs = Extensions { ut_metadata: Some(9), ..Extensions::default() };
        peer.metadata_length = Some(length);
        peer
    }

    /// The parts that a peer was asked for since the last time.
    fn asked(peer: &mut Peer) -> Vec<u32> {
        let (said, decoder) = (peer.take_out(), Decoder::new(0));
        let (mut parts, mut at) = (Vec::new(), 0);
        while let Some((message, length)) = decoder.decode(&said[at..]).unwrap() {
            let Message::Extended { id: 9, payload } = message else { panic!("{message:?}") };
            let Ok(Part::Request { piece }) = Part::parse(payload) else { panic!("no request") };
            parts.push(piece);
            at += length;
        }
        parts
    }

    #[test]
    fn it_comes_part_by_part() {
        let info = noise(1, 20 * 16_384 + 9);
        let (mut metadata, mut peer) = (Metadata::default(), peer(1, info.len() as u32));
        let mut whole = None;
        let mut parts = 0;
        while whole.is_none() {
            metadata.tend(&mut peer, NOW);
            let asked = asked(&mut peer);
            assert!((1..=DEPTH).contains(&asked.len()));
            for part in asked {
                parts += 1;
                whole = metadata.hear(&mut peer, &Part::answer(&info, part), NOW).unwrap();
            }
        }
        assert_eq!((whole, parts), (Some(info), 21));
    }

    #[test]
    fn who_refuses_or_is_silent_is_left_alone_for_a_while() {
        let (mut metadata, mut refuses, mut is_silent) = (Metadata::default(), peer(1, 9), peer(2, 9));
        metadata.tend(&mut refuses, NOW);
        metadata.tend(&mut is_silent, NOW);
        assert_eq!((asked(&mut refuses), asked(&mut is_silent)), (vec![0], vec![0]));
        metadata.hear(&mut refuses, &Part::Reject { piece: 0 }, PATIENCE).unwrap();
        metadata.tick(PATIENCE);
        for peer in [&mut refuses, &mut is_silent] {
            metadata.tend(peer, PATIENCE);
            assert!(asked(peer).is_empty());
            metadata.tend(peer, PATIENCE + PAUSE);
            assert_eq!(asked(peer), [0]);
        }
        metadata.left(1);
        metadata.left(2);
        assert!(metadata.fetches.is_empty() && metadata.failures.is_empty());
    }

    #[test]
    fn those_who_give_a_part_now_and_then_make_room() {
        let info = noise(1, 100 * 16_384);
        let (mut metadata, mut now) = (Metadata::default(), NOW);
        let mut slow: Vec<Peer> = (1..).take(AT_ONCE).map(|key| peer(key, info.len() as u32)).collect();
        let mut other = peer(9, info.len() as u32);
        loop {
            slow.iter_mut().for_each(|peer| metadata.tend(peer, now));
            metadata.tend(&mut other, now);
            if !asked(&mut other).is_empty() {
                break;
            }
            for peer in &mut slow {
                let next = metadata.fetches[&peer.key].asked[0];
                assert!(metadata.hear(peer, &Part::answer(&info, next), now).unwrap().is_none());
            }
            now += PATIENCE - Duration::from_secs(1);
            assert!(now < 2 * LONGEST);
            metadata.tick(now);
        }
        assert!(now >= LONGEST);
    }

    #[test]
    fn sizes_and_parts_that_make_no_sense_are_not_taken() {
        let mut metadata = Metadata::default();
        let mut long = peer(1, u32::MAX);
        metadata.tend(&mut long, NOW);
        assert!(asked(&mut long).is_empty());
        let mut short = peer(2, 5);
        metadata.tend(&mut short, NOW);
        let data = |piece, length, data| Part::Data { piece, length, data };
        assert!(matches!(metadata.hear(&mut short, &data(1, 5, b"abcde"), NOW), Ok(None)), "not asked for");
        assert!(metadata.hear(&mut short, &data(0, 6, b"abcdef"), NOW).is_err());
        for key in 3..9 {
            metadata.tend(&mut peer(key, 5), NOW);
        }
        assert_eq!(metadata.fetches.len(), AT_ONCE);
    }
}
