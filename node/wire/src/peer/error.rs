//! Why bytes of a peer are refused.

use super::message::MAX_BLOCK;
use super::metadata;
use super::pex;
use crate::bencode;

/// Bytes that no sound peer sends: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stream does not begin as a BitTorrent handshake.
    #[error("not a BitTorrent handshake")]
    Protocol,
    /// A message is longer than it may be, or not as long as its kind is.
    #[error("a message of kind {id} and {length} bytes")]
    Length {
        /// The message's kind.
        id: u8,
        /// What its prefix says, bytes.
        length: usize,
    },
    /// A request for nothing, or for more than [`MAX_BLOCK`].
    #[error("a request for {length} bytes; 1 to {MAX_BLOCK} may be asked for")]
    Block {
        /// What was asked for, bytes.
        length: u32,
    },
    /// A bitfield that is not as long as its torrent has pieces.
    #[error("a bitfield of {bytes} bytes for {pieces} pieces")]
    Bitfield {
        /// What came.
        bytes: usize,
        /// Pieces of the torrent.
        pieces: u32,
    },
    /// A bitfield with bits behind the last piece.
    #[error("a bitfield with spare bits set")]
    SpareBits,
    /// An extension's message is no bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// An extension's message lacks something, or has it in no usable form.
    #[error("a message of {extension} without a usable `{key}`")]
    Key {
        /// The extension.
        extension: &'static str,
        /// What is missing.
        key: &'static str,
    },
    /// An info dictionary of a size that is not taken.
    #[error("an info dictionary of {length} bytes; 1 to {} are taken", metadata::MAX_LENGTH)]
    Metadata {
        /// Its size, bytes.
        length: u64,
    },
    /// A part of an info dictionary that is not the one its number and size tell of.
    #[error("part {piece} of the info dictionary does not fit into it")]
    MetadataPiece {
        /// Its number.
        piece: u32,
    },
    /// More peers in one message than anybody sends.
    #[error("{peers} peers in one message; at most {} are taken", pex::MAX_TAKEN)]
    Peers {
        /// How many.
        peers: usize,
    },
}
