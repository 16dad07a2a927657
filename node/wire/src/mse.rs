//! Message stream encryption, also called protocol encryption: a stream without a pattern.
//!
//! It hides a BitTorrent stream from equipment that slows such streams down. It is no protection from
//! anybody who tries: nobody is authenticated, and whoever knows the info-hash can sit in between.
//!
//! A connects, B accepts; `HASH` is SHA-1, `SKEY` the info-hash, and a pad 0 to [`MAX_PAD`] bytes:
//!
//! 1. A sends its Diffie-Hellman key and `PadA`;
//! 2. B sends its key and `PadB`; both now know the secret `S`;
//! 3. A sends `HASH('req1', S)`, by which B finds the end of `PadA`; `HASH('req2', SKEY)` xor
//!    `HASH('req3', S)`, by which B finds the torrent; then, under RC4, eight zeros, the methods that
//!    it offers, `PadC`, and the beginning of its payload;
//! 4. B sends, under RC4, eight zeros, by which A finds the end of `PadB`, the method that it chose,
//!    and `PadD`.
//!
//! What follows is plain, or goes on under RC4. The secret is the only key, so the two streams have
//! `HASH('keyA', S, SKEY)` and `HASH('keyB', S, SKEY)`, and start 1024 bytes late. Source: "Message
//! Stream Encryption" of the Vuze wiki.
//!
//! [`Acceptor`] is B, and takes a peer that does without as well; [`Initiator`] is A. Bytes go in and
//! out, random ones included. Between two calls neither keeps more than [`MAX_INITIAL`] bytes.

mod acceptor;
mod dh;
mod initiator;
#[cfg(test)]
mod tests;

use std::fmt;

use rc4::{Rc4, StreamCipher};
use sha1::{Digest, Sha1};

pub use acceptor::Acceptor;
pub use initiator::Initiator;

/// The longest pad, bytes.
pub const MAX_PAD: usize = 512;

/// The longest beginning of a payload that is taken within the exchange, bytes. The field would allow
/// 64 KiB; what is sent in it is a handshake.
pub const MAX_INITIAL: usize = 16 * 1024;

/// Length of a public key and of the secret, bytes.
const KEY: usize = 96;

/// The zeros by which one side sees that the other has the same keys.
const VERIFICATION: [u8; 8] = [0; 8];

/// Why a stream is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A public key that gives the secret away, or is none.
    #[error("a public key that no peer would choose")]
    Key,
    /// No end of a pad where there must be one.
    #[error("a pad of more than {MAX_PAD} bytes, or another protocol")]
    Synchronisation,
    /// The peer wants a torrent that is not here.
    #[error("no torrent here has the info-hash that is asked for")]
    UnknownInfoHash,
    /// What should be zeros under the shared key are none.
    #[error("the peer has other keys")]
    Verification,
    /// The sides have no method in common, or one was chosen that was not offered.
    #[error("no common encryption method: the peer names {theirs:#x}")]
    Method {
        /// The peer's bits.
        theirs: u32,
    },
    /// A beginning of a payload longer than [`MAX_INITIAL`].
    #[error("a first payload of {length} bytes; {MAX_INITIAL} are taken")]
    Initial {
        /// Its length, bytes.
        length: usize,
    },
    /// The exchange is over, well or not.
    #[error("the key exchange is over")]
    Over,
}

/// What the payload is sent under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Nothing.
    Plain,
    /// RC4.
    Rc4,
}

/// A set of methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods(u32);

impl Methods {
    /// Plain only.
    pub const PLAIN: Self = Self(1);
    /// RC4 only.
    pub const RC4: Self = Self(2);
    /// Both.
    pub const ANY: Self = Self(3);

    /// Whether `method` is in it.
    pub const fn contains(self, method: Method) -> bool {
        let bit = match method {
            Method::Plain => Self::PLAIN.0,
            Method::Rc4 => Self::RC4.0,
        };
        self.0 & bit != 0
    }

    /// The one method in it, unless there are more or none.
    fn only(self) -> Option<Method> {
        match self {
            Self::PLAIN => Some(Method::Plain),
            Self::RC4 => Some(Method::Rc4),
            _ => None,
        }
    }
}

impl From<Method> for Methods {
    fn from(method: Method) -> Self {
        match method {
            Method::Plain => Self::PLAIN,
            Method::Rc4 => Self::RC4,
        }
    }
}

/// The random part of one exchange, out of the caller's generator.
#[derive(Clone)]
pub struct Random {
    /// The private key.
    pub private_key: [u8; 20],
    /// `PadA` or `PadB`; cut at [`MAX_PAD`] bytes.
    pub pad: Vec<u8>,
    /// Length of `PadC` or `PadD`, bytes; [`MAX_PAD`] when it is more. They are zeros under RC4.
    pub sealed_pad: usize,
}

impl Random {
    /// Out of a generator that fills buffers, with pads of at most `longest` bytes.
    pub fn draw(longest: u16, mut fill: impl FnMut(&mut [u8])) -> Self {
        let (mut private_key, mut lengths) = ([0; 20], [0; 8]);
        fill(&mut private_key);
        fill(&mut lengths);
        let [a, b, c, d, lengths @ ..] = lengths;
        let length = |bytes| (u32::from_le_bytes(bytes) % (u32::from(longest) + 1)) as usize;
        let mut pad = vec![0; length([a, b, c, d])];
        fill(&mut pad);
        Self { private_key, pad, sealed_pad: length(lengths) }
    }

    /// Appends the public key and the pad after it.
    fn put(&self, output: &mut Vec<u8>) {
        output.extend(dh::public_key(&self.private_key));
        output.extend(&self.pad[..self.pad.len().min(MAX_PAD)]);
    }

    /// Appends what both sides send under RC4: the zeros, methods, a pad.
    fn put_sealed(&self, methods: Methods, output: &mut Vec<u8>) {
        let pad = self.sealed_pad.min(MAX_PAD);
        output.extend(VERIFICATION);
        output.extend(methods.0.to_be_bytes());
        output.extend((pad as u16).to_be_bytes());
        output.resize(output.len() + pad, 0);
    }
}

/// One direction of a stream. Bytes must go through it in their order, each once.
#[derive(Default)]
pub enum Cipher {
    /// Bytes stay as they are.
    #[default]
    Plain,
    /// RC4, somewhere in its stream.
    Rc4(Box<Rc4>),
}

impl Cipher {
    /// Enciphers or deciphers in place.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        if let Self::Rc4(rc4) = self {
            rc4.apply_keystream(bytes);
        }
    }

    /// Whether bytes stay as they are, so that they need not be copied to be sent.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_plain() { "Plain" } else { "Rc4" })
    }
}

/// A stream that is ready for the peer wire.
#[derive(Debug)]
pub struct Established {
    /// The torrent that the exchange was about. `None`: the peer did without one, and its stream is
    /// plain.
    pub info_hash: Option<[u8; 20]>,
    /// What goes over it.
    pub method: Method,
    /// For the bytes that come.
    pub reading: Cipher,
    /// For the bytes that go.
    pub writing: Cipher,
    /// The peer's payload so far, deciphered.
    pub received: Vec<u8>,
}

/// `HASH('req2', SKEY)`: what an index of info-hashes for an [`Acceptor`] has as its key.
pub fn req2(info_hash: &[u8; 20]) -> [u8; 20] {
    hash(b"req2", &[info_hash])
}

fn hash(name: &[u8; 4], parts: &[&[u8]]) -> [u8; 20] {
    parts.iter().fold(Sha1::new_with_prefix(name), |hash, part| hash.chain_update(part)).finalize().into()
}

fn xor(left: &[u8; 20], right: &[u8; 20]) -> [u8; 20] {
    std::array::from_fn(|at| left[at] ^ right[at])
}

/// Where `mark` begins in `buffer`, which may have a pad before it. `looked` says up to where it is
/// known not to begin.
fn find(buffer: &[u8], mark: &[u8], looked: &mut usize) -> Result<Option<usize>, Error> {
    let whole = MAX_PAD + mark.len();
    let buffer = &buffer[..buffer.len().min(whole)];
    if let Some(at) = buffer[*looked..].windows(mark.len()).position(|window| window == mark) {
        return Ok(Some(*looked + at));
    }
    if buffer.len() == whole {
        return Err(Error::Synchronisation);
    }
    *looked = (buffer.len() + 1).saturating_sub(mark.len());
    Ok(None)
}
