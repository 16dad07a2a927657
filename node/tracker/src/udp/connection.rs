//! Connection ids without state (BEP 15): the second in which one was given out, and proof that it was
//! given to that address.
//!
//! The upper 16 bits are the second, cut; the lower 48 are a keyed hash (SipHash, with a key that the
//! system gave) of address and whole second. The port is not in it: clients send from several sockets.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// How long one is good; clients give it up after half of that.
const LIFE_SECONDS: u64 = 120;
const SECOND_BITS: u64 = 16;
const PROOF_BITS: u64 = 64 - SECOND_BITS;

/// Gives out connection ids and knows them again; shared by all threads of a tracker.
#[derive(Debug, Default)]
pub struct ConnectionIds(RandomState);

impl ConnectionIds {
    /// For an address, at a time since the tracker's start.
    pub fn issue(&self, source: IpAddr, now: Duration) -> u64 {
        let second = now.as_secs();
        second << PROOF_BITS | self.proof(source, second)
    }

    /// Whether one was given out to that address within the last two minutes.
    pub fn accepts(&self, id: u64, source: IpAddr, now: Duration) -> bool {
        let now = now.as_secs();
        let age = now.wrapping_sub(id >> PROOF_BITS) & ((1 << SECOND_BITS) - 1);
        let proof = id & ((1 << PROOF_BITS) - 1);
        age <= LIFE_SECONDS && age <= now && proof == self.proof(source, now - age)
    }

    fn proof(&self, source: IpAddr, second: u64) -> u64 {
        self.0.hash_one((source, second)) & ((1 << PROOF_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_for_its_address_and_two_minutes() {
        let ids = ConnectionIds::default();
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let at = Duration::from_secs;
        for begin in [0, 1, 65_500, 65_536, 1 << 33] {
            let id = ids.issue(one, at(begin));
            for (later, good) in [(0, true), (60, true), (120, true), (121, false), (65_536, false)] {
                assert_eq!(ids.accepts(id, one, at(begin + later)), good, "{begin} and {later} later");
            }
            assert!(!ids.accepts(id, other, at(begin)));
            assert!(!ids.accepts(id ^ 1, one, at(begin)));
            // Of a tracker that ran before.
            assert!(!ConnectionIds::default().accepts(id, one, at(begin)));
        }
        let early = ids.issue(one, at(100));
        assert!(!ids.accepts(early, one, at(99)));
    }
}
