//! The codecs of the wire, sans-I/O: bytes and time in, bytes and events out. No sockets, no clocks, no
//! runtime, so that each of them is tried and fuzzed in microseconds.
//!
//! A torrent begins as a metainfo file ([`metainfo`]), written in [`bencode`], or as a link that
//! names one ([`magnet`]). Its content is named by hashes ([`hash`]) over SHA-1 pieces (v1) or Merkle
//! trees ([`merkle`], v2). Who has it is asked of a [`tracker`] or told by a neighbour ([`lsd`]); it is then
//! exchanged in the messages of [`peer`], plain or inside the stream of [`mse`]. Who may be told of whom is said by
//! [`reach`].
//!
//! Whatever is read here came from a stranger: every length, depth and count has a bound that is
//! checked before memory is taken, and nothing panics on any bytes.

pub mod bencode;
pub mod hash;
pub mod lsd;
pub mod magnet;
pub mod merkle;
pub mod metainfo;
pub mod mse;
pub mod peer;
pub mod reach;
pub mod tracker;

pub use hash::{InfoHash, Sha1Hash, Sha256Hash};
