//! What is to be fetched.

use skerry_wire::magnet::Magnet;
use skerry_wire::metainfo::{Info, Metainfo};
use skerry_wire::{InfoHash, Sha1Hash, Sha256Hash};

/// A torrent, known or named.
#[derive(Debug, Clone)]
pub enum Target {
    /// By its metainfo; piece layers may lack.
    Torrent(Box<Metainfo>),
    /// By its info-hashes, which must all be right.
    Named(Vec<InfoHash>),
    /// By one info-hash as trackers and handshakes carry it: v1, or the beginning of v2.
    Wire([u8; 20]),
}

impl Target {
    /// The info-hashes as trackers and handshakes carry them, the best first.
    pub(crate) fn wires(&self) -> Vec<[u8; 20]> {
        match self {
            Self::Torrent(metainfo) => of_info(metainfo.info()),
            Self::Named(hashes) => ordered(hashes.iter().copied()),
            Self::Wire(wire) => vec![*wire],
        }
    }

    /// Whether these bytes are the info dictionary.
    pub(crate) fn is(&self, info: &[u8]) -> bool {
        let named = |hash: &InfoHash| match hash {
            InfoHash::V1(hash) => Sha1Hash::of(info) == *hash,
            InfoHash::V2(hash) => Sha256Hash::of(info) == *hash,
        };
        match self {
            Self::Torrent(metainfo) => metainfo.info().bytes() == info,
            Self::Named(hashes) => !hashes.is_empty() && hashes.iter().all(named),
            Self::Wire(wire) => Sha1Hash::of(info).0 == *wire || Sha256Hash::of(info).0[..20] == *wire,
        }
    }
}

impl From<&Magnet> for Target {
    fn from(magnet: &Magnet) -> Self {
        Self::Named(magnet.hashes().collect())
    }
}

/// The info-hashes of a torrent as handshakes carry them, the best first.
pub(crate) fn of_info(info: &Info) -> Vec<[u8; 20]> {
    ordered(info.hashes())
}

/// v2 before v1: who knows the torrent by that name can give its hashes too.
fn ordered(hashes: impl Iterator<Item = InfoHash>) -> Vec<[u8; 20]> {
    let mut hashes: Vec<InfoHash> = hashes.collect();
    hashes.sort_by_key(|hash| matches!(hash, InfoHash::V1(_)));
    hashes.iter().map(InfoHash::wire).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_dictionary_is_known_by_all_its_hashes() {
        let info = b"d4:name1:ae";
        let (v1, v2) = (InfoHash::V1(Sha1Hash::of(info)), InfoHash::V2(Sha256Hash::of(info)));
        let other = InfoHash::V1(Sha1Hash::of(b"other"));
        assert!(Target::Named(vec![v1, v2]).is(info) && Target::Named(vec![v2]).is(info));
        assert!(!Target::Named(vec![other, v2]).is(info) && !Target::Named(Vec::new()).is(info));
        assert!(Target::Wire(v1.wire()).is(info) && Target::Wire(v2.wire()).is(info));
        assert!(!Target::Wire(other.wire()).is(info));
        assert_eq!(Target::Named(vec![v1, v2]).wires(), [v2.wire(), v1.wire()]);
    }
}
