//! The allowed fast set (BEP 6).

use std::net::Ipv4Addr;

use sha1::{Digest, Sha1};

/// The most pieces that are chosen for one peer.
pub const MAX_ALLOWED_FAST: usize = 64;

/// The pieces that a peer at `address` may have while it is choked: `count` of `pieces`, or fewer
/// where there are fewer, or more than [`MAX_ALLOWED_FAST`] are asked for. The same for a whole /24,
/// so that addresses of one network gain nothing.
pub fn allowed_fast(address: Ipv4Addr, info_hash: &[u8; 20], pieces: u32, count: usize) -> Vec<u32> {
    let count = count.min(pieces as usize).min(MAX_ALLOWED_FAST);
    let [a, b, c, _] = address.octets();
    let mut hash: [u8; 20] = Sha1::new().chain_update([a, b, c, 0]).chain_update(info_hash).finalize().into();
    let mut set = Vec::with_capacity(count);
    while set.len() < count {
        for word in hash.as_chunks::<4>().0 {
            let piece = u32::from_be_bytes(*word) % pieces;
            if set.len() < count && !set.contains(&piece) {
                set.push(piece);
            }
        }
        hash = Sha1::digest(hash).into();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_of_the_text() {
        let address = Ipv4Addr::new(80, 4, 4, 200);
        let set = [1059, 431, 808, 1217, 287, 376, 1188, 353, 508];
        assert_eq!(allowed_fast(address, &[0xaa; 20], 1313, 7), set[..7]);
        assert_eq!(allowed_fast(address, &[0xaa; 20], 1313, 9), set);
        assert_eq!(allowed_fast(Ipv4Addr::new(80, 4, 4, 1), &[0xaa; 20], 1313, 9), set);
    }

    #[test]
    fn no_more_than_there_is() {
        let set = |pieces, count| allowed_fast(Ipv4Addr::LOCALHOST, &[1; 20], pieces, count);
        assert!(set(0, 10).is_empty());
        assert_eq!(set(1, 10), [0]);
        assert_eq!(set(10, 10).iter().sum::<u32>(), 45);
        assert_eq!(set(u32::MAX, usize::MAX).len(), MAX_ALLOWED_FAST);
        assert_eq!(set(64, 64).len(), 64);
    }
}
