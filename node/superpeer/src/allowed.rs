//! The allowed fast set (BEP 6): a few pieces that a new peer may have while it waits for a place, so
//! that it has something to give to others meanwhile.

use std::net::IpAddr;

use skerry_wire::peer::{Block, allowed_fast};

/// Pieces in a set. Who has more of the torrent than so many is told of none.
pub(crate) const PIECES: usize = 5;
/// Bytes of a set at most; pieces that are not wholly within are left out.
const MOST_BYTES: u64 = 8 << 20;

/// What one peer may have while it is choked. Its bytes are given once.
#[derive(Debug)]
pub(crate) struct Allowed {
    pieces: Vec<u32>,
    /// Bytes that may still be asked for.
    left: u64,
}

impl Allowed {
    /// The set of a peer at `address` of a torrent of `pieces` pieces; `held` tells the length of those
    /// that are held, bytes. For IPv6 addresses there is no set in the text, so theirs is empty.
    pub(crate) fn new(
        address: IpAddr,
        info_hash: &[u8; 20],
        pieces: u32,
        held: impl Fn(u32) -> Option<u32>,
    ) -> Self {
        let set = match address.to_canonical() {
            IpAddr::V4(address) => allowed_fast(address, info_hash, pieces, PIECES),
            IpAddr::V6(_) => Vec::new(),
        };
        let mut allowed = Self { pieces: Vec::new(), left: 0 };
        for piece in set {
            let whole = held(piece).map(|length| allowed.left + u64::from(length));
            if let Some(bytes) = whole.filter(|bytes| *bytes <= MOST_BYTES) {
                allowed.pieces.push(piece);
                allowed.left = bytes;
            }
        }
        allowed
    }

    /// The pieces that the peer is to be told of.
    pub(crate) fn pieces(&self) -> &[u32] {
        &self.pieces
    }

    /// Whether a block may be asked for; then its bytes count as given.
    pub(crate) fn take(&mut self, block: &Block) -> bool {
        let left = self.left.checked_sub(block.length.into());
        match left.filter(|_| self.pieces.contains(&block.piece)) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(80, 4, 4, 200);

    fn block(piece: u32) -> Block {
        Block { piece, begin: 0, length: 16_384 }
    }

    #[test]
    fn held_pieces_of_the_set_are_given_once() {
        // The set of the text begins with 1059, 431, 808, 1217, 287.
        let held = |piece: u32| (piece != 808).then_some(32_768);
        let mut allowed = Allowed::new(ADDRESS.into(), &[0xaa; 20], 1313, held);
        assert_eq!(allowed.pieces(), [1059, 431, 1217, 287]);
        assert!(!allowed.take(&block(808)) && !allowed.take(&block(7)));
        for _ in 0..8 {
            assert!(allowed.take(&block(1059)));
        }
        assert!(!allowed.take(&block(1059)) && !allowed.take(&block(431)));
    }

    #[test]
    fn its_size_is_bounded() {
        let with = |length| Allowed::new(ADDRESS.into(), &[0xaa; 20], 1313, |_| Some(length)).pieces().len();
        assert_eq!([1 << 20, 2 << 20, 3 << 20, 8 << 20, 9 << 20].map(with), [5, 4, 2, 1, 0]);
        assert_eq!(Allowed::new(ADDRESS.into(), &[0xaa; 20], 2, |_| Some(1)).pieces().len(), 2);
    }

    #[test]
    fn only_ipv4_has_a_set() {
        let of = |address: IpAddr| Allowed::new(address, &[0xaa; 20], 1313, |_| Some(1)).pieces().len();
        assert_eq!(of(Ipv6Addr::LOCALHOST.into()), 0);
        assert_eq!(of(ADDRESS.to_ipv6_mapped().into()), 5);
    }
}
