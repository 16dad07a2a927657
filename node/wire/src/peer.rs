//! The peer wire (BEP 3): what two peers say to one another, bytes in and values out.
//!
//! A connection begins with a [`Handshake`] from each side. Then each says what it has, in a
//! [`Bitfield`] or a shorter word for it, and the rest is [`Message`]s, which a [`Decoder`] takes out
//! of a read buffer without copying. Further messages travel inside those of the extension protocol
//! ([`extension`], BEP 10): the info dictionary ([`metadata`], BEP 9), peers ([`pex`], BEP 11) and
//! pieces that are gone (BEP 54).
//!
//! Whether a message is due is for the caller to know: those of the fast extension (BEP 6) and the
//! hash requests (BEP 52) are decoded whether or not the handshakes agreed on them.

mod bitfield;
mod error;
pub mod extension;
mod fast;
mod handshake;
mod hashes;
mod message;
pub mod metadata;
pub mod pex;

pub use bitfield::Bitfield;
pub use error::Error;
pub use fast::{MAX_ALLOWED_FAST, allowed_fast};
pub use handshake::{HANDSHAKE_LENGTH, Handshake, PROTOCOL, Reserved};
pub use hashes::{HashRequest, MAX_ANSWERED_HASHES};
pub use message::{BLOCK, Block, Decoder, MAX_BLOCK, MAX_EXTENDED, Message, PIECE_HEADER, piece_header};

/// Bytes without a pattern, the same in every run.
#[cfg(test)]
pub(crate) fn noise(seed: u32, length: usize) -> Vec<u8> {
    let block = |n: u32| crate::hash::Sha1Hash::of(&[seed.to_be_bytes(), n.to_be_bytes()].concat()).0;
    (0..).flat_map(block).take(length).collect()
}
