//! Why a download ends without its content, and why a connection ends.

use std::io;

use skerry_wire::{metainfo, peer};

/// Why a download ended. `E` is the sink's own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error<E> {
    /// The torrent, or the lack of peers.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// What came could not be kept.
    #[error("{0}")]
    Sink(E),
}

/// What a swarm can fail at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The info dictionary has the right hash, and is none.
    #[error("the torrent cannot be used: {0}")]
    Metainfo(#[from] metainfo::Error),
    /// A piece does not fit into memory.
    #[error("pieces of {length} bytes are longer than the limit of {limit}")]
    PieceLength {
        /// Of the torrent, bytes.
        length: u32,
        /// What may be in memory, bytes.
        limit: u64,
    },
    /// More hashes to be asked for than anybody's torrent has.
    #[error("{pieces} pieces without their hashes; give the whole torrent file")]
    Layers {
        /// Of files whose piece layer is not known.
        pieces: u64,
    },
    /// No info-hash at all.
    #[error("nothing names the torrent")]
    Nameless,
    /// Nobody was found in time.
    #[error("no peer was found")]
    Alone,
    /// Peers were found, and none of them gave anything in time.
    #[error("the peers give nothing")]
    Stalled,
    /// A fault of the program: a task of the download, its sink or its sources has panicked.
    #[error("a task of the download has panicked")]
    Panicked,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// It could not be made.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("the peer closed it")]
    Closed,
    /// The key exchange of an encrypted connection failed.
    #[error("{0}")]
    Encryption(#[from] skerry_wire::mse::Error),
    /// No handshake in time.
    #[error("no handshake came in time")]
    Silent,
    /// Bytes that no sound peer sends.
    #[error("{0}")]
    Protocol(#[from] peer::Error),
    /// A handshake for something else.
    #[error("its handshake names another torrent")]
    OtherTorrent,
    /// It is this very download.
    #[error("it leads back here")]
    Ourselves,
    /// It names pieces that there are not.
    #[error("it names a piece that there is not")]
    Range,
    /// It said twice which pieces it has.
    #[error("it tells twice what it has")]
    ToldTwice,
    /// A block of another length than was asked for.
    #[error("a block of the wrong length")]
    Length,
    /// Blocks that nobody asked for.
    #[error("blocks that nobody asked for")]
    Unasked,
    /// Words without end.
    #[error("it talks, and gives nothing")]
    Noise,
    /// Nothing was said for too long.
    #[error("nothing was said for too long")]
    Idle,
    /// It takes nothing.
    #[error("it does not read what it is sent")]
    Deaf,
    /// A private torrent, and only a peer told of this one.
    #[error("the torrent is private, and no tracker told of it")]
    Private,
    /// Others may have what is wanted.
    #[error("it is of no use, and others wait")]
    Useless,
    /// An info dictionary or hashes that are not those of the torrent.
    #[error("hashes or an info dictionary that are wrong")]
    Hashes,
    /// It sent a wrong piece.
    #[error("it sends wrong pieces")]
    Wrong,
}

impl End {
    /// Whether nobody should connect there again.
    pub(crate) fn bans(&self) -> bool {
        matches!(self, Self::Hashes | Self::Wrong | Self::Ourselves | Self::Length | Self::Unasked)
    }
}
