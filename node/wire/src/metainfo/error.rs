//! Why a torrent is refused, when it is read or made.

use super::{MAX_FILES, MAX_METAINFO, MAX_PIECE_LENGTH};
use crate::bencode;

/// Why a metainfo file or info dictionary is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_METAINFO`].
    #[error("metainfo of {bytes} bytes, over the limit of {MAX_METAINFO}")]
    Size {
        /// Its length.
        bytes: usize,
    },
    /// No bencode.
    #[error(transparent)]
    Bencode(#[from] bencode::Error),
    /// A key that must be there.
    #[error("the torrent has no `{0}`")]
    Missing(&'static str),
    /// A key whose value is of the wrong type, out of its range, or in contradiction to others.
    #[error("the torrent's `{0}` is not what it should be")]
    Wrong(&'static str),
    /// A version after 2.
    #[error("the torrent is of version {0}, which is newer than this program")]
    Version(i64),
    /// Zero, too long, or no power of two where it must be one.
    #[error(
        "piece length {0}: v1 takes 1 to {MAX_PIECE_LENGTH} bytes, v2 and hybrids a power of two from 16384"
    )]
    PieceLength(i64),
    /// A path that leads out of the torrent's folder, or cannot be a path.
    #[error("path \"{path}\" {reason}")]
    Path {
        /// The component or path, escaped and cut.
        path: String,
        /// What is wrong with it, after the path.
        reason: &'static str,
    },
    /// Two files at one place, or a file where another has a folder.
    #[error("path \"{0}\" stands for two things")]
    Duplicate(String),
    /// Symbolic links are not followed, nor made.
    #[error("\"{0}\" is a symbolic link")]
    Symlink(String),
    /// Over [`MAX_FILES`].
    #[error("a torrent of more than {MAX_FILES} files")]
    Files,
    /// Over [`super::MAX_LENGTH`].
    #[error("a torrent of more than 1 PiB")]
    Length,
    /// Over [`super::MAX_PIECES`].
    #[error("the content has too many pieces of this length")]
    Pieces,
    /// Not one byte beside padding.
    #[error("a torrent without content")]
    Empty,
    /// `pieces` does not hold one SHA-1 hash for each piece.
    #[error("{found} bytes of v1 piece hashes, expected {expected}")]
    PieceHashes {
        /// What the content needs.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// A piece layer whose root is not the file's pieces root, or that has too few or many hashes.
    #[error("the piece layer of \"{path}\" does not belong to its pieces root")]
    Layer {
        /// The file.
        path: String,
    },
    /// One pieces root, two lengths.
    #[error("\"{path}\" has the pieces root of a file of another length")]
    SharedRoot {
        /// The later file.
        path: String,
    },
    /// A hybrid's two descriptions of its content are not of the same content (BEP 52).
    #[error("a hybrid torrent whose v1 and v2 halves differ in {0}")]
    Hybrid(&'static str),
    /// Files to be made into a torrent that are not in order, component by component.
    #[error("\"{0}\" is out of order: files are hashed in the order of their paths")]
    Order(String),
    /// Hashes that were not made of these files.
    #[error("the hashes are not those of the files: {0} differ")]
    Hashes(&'static str),
}
