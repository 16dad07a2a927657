//! Messages after the handshake (BEP 3, 5, 6, 10, 52): a length, a kind, a body.

use bytes::BufMut;

use super::hashes::{HashRequest, MAX_ANSWERED_HASHES};
use super::{Error, bitfield};

#[cfg(test)]
mod tests;

/// Length of the blocks that everybody asks for, bytes. No longer one is taken in a [`Message::Piece`].
pub const BLOCK: u32 = 16 * 1024;

/// The longest block that a peer may ask for, bytes.
pub const MAX_BLOCK: u32 = 128 * 1024;

/// The longest payload of the extension protocol that is taken where the caller sets no other, bytes.
pub const MAX_EXTENDED: usize = 128 * 1024;

/// What a piece message has in front of its data, bytes.
pub const PIECE_HEADER: usize = 13;

/// Kinds of messages.
mod kind {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
    pub(super) const HASH_REQUEST: u8 = 21;
    pub(super) const HASHES: u8 = 22;
    pub(super) const HASH_REJECT: u8 = 23;
}

/// A part of a piece, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// Number of the piece.
    pub piece: u32,
    /// Where the block begins in the piece, bytes.
    pub begin: u32,
    /// Its length, bytes.
    pub length: u32,
}

/// A message. Long bodies are slices of the buffer that it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Nothing; sent when there was nothing else to send for two minutes.
    KeepAlive,
    /// Requests are not served.
    Choke,
    /// Requests are served.
    Unchoke,
    /// The sender wants something that the receiver has.
    Interested,
    /// It does not.
    NotInterested,
    /// The sender now has this piece.
    Have(u32),
    /// What the sender has, to be read by [`super::Bitfield::parse`].
    Bitfield(&'a [u8]),
    /// Asks for a block of 1 to [`MAX_BLOCK`] bytes.
    Request(Block),
    /// A block.
    Piece {
        /// Number of the piece.
        piece: u32,
        /// Where the block begins in the piece, bytes.
        begin: u32,
        /// The block.
        data: &'a [u8],
    },
    /// A request is not needed any more.
    Cancel(Block),
    /// UDP port of the sender's DHT node (BEP 5).
    Port(u16),
    /// This piece would be a good one to ask for (BEP 6).
    Suggest(u32),
    /// The sender has everything (BEP 6).
    HaveAll,
    /// The sender has nothing (BEP 6).
    HaveNone,
    /// A request will not be served (BEP 6).
    Reject(Block),
    /// This piece is served even while requests are not (BEP 6).
    AllowedFast(u32),
    /// A message of the extension protocol (BEP 10).
    Extended {
        /// 0 is the extension handshake; others are as the receiver gave them out in its own.
        id: u8,
        /// The message.
        payload: &'a [u8],
    },
    /// Asks for nodes of a file's tree (BEP 52).
    HashRequest(HashRequest),
    /// Nodes of a file's tree.
    Hashes {
        /// What was asked for.
        request: HashRequest,
        /// 32 bytes for each hash, at most [`MAX_ANSWERED_HASHES`].
        hashes: &'a [u8],
    },
    /// A hash request will not be served.
    HashReject(HashRequest),
    /// A message of another kind, to be ignored.
    Unknown(u8),
}

impl Message<'_> {
    /// Appends the message with its length.
    pub fn put(&self, out: &mut impl BufMut) {
        match *self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => head(out, kind::CHOKE, 0),
            Self::Unchoke => head(out, kind::UNCHOKE, 0),
            Self::Interested => head(out, kind::INTERESTED, 0),
            Self::NotInterested => head(out, kind::NOT_INTERESTED, 0),
            Self::Have(piece) => with_piece(out, kind::HAVE, piece),
            Self::Bitfield(bits) => with_body(out, kind::BITFIELD, &[], bits),
            Self::Request(block) => with_block(out, kind::REQUEST, block),
            Self::Piece { piece, begin, data } => {
                out.put_slice(&piece_header(piece, begin, data.len() as u32));
                out.put_slice(data);
            }
            Self::Cancel(block) => with_block(out, kind::CANCEL, block),
            Self::Port(port) => with_body(out, kind::PORT, &port.to_be_bytes(), &[]),
            Self::Suggest(piece) => with_piece(out, kind::SUGGEST, piece),
            Self::HaveAll => head(out, kind::HAVE_ALL, 0),
            Self::HaveNone => head(out, kind::HAVE_NONE, 0),
            Self::Reject(block) => with_block(out, kind::REJECT, block),
            Self::AllowedFast(piece) => with_piece(out, kind::ALLOWED_FAST, piece),
            Self::Extended { id, payload } => with_body(out, kind::EXTENDED, &[id], payload),
            Self::HashRequest(request) => with_body(out, kind::HASH_REQUEST, &request.encode(), &[]),
            Self::Hashes { request, hashes } => with_body(out, kind::HASHES, &request.encode(), hashes),
            Self::HashReject(request) => with_body(out, kind::HASH_REJECT, &request.encode(), &[]),
            Self::Unknown(kind) => head(out, kind, 0),
        }
    }
}

/// What stands before a block of `length` bytes, so that the block itself can be written from where
/// it lies.
pub fn piece_header(piece: u32, begin: u32, length: u32) -> [u8; PIECE_HEADER] {
    let mut header = [0; PIECE_HEADER];
    header[..4].copy_from_slice(&(length + 9).to_be_bytes());
    header[4] = kind::PIECE;
    header[5..9].copy_from_slice(&piece.to_be_bytes());
    header[9..].copy_from_slice(&begin.to_be_bytes());
    header
}

/// Takes messages out of what was read from a peer.
///
/// ```
/// use skerry_wire::peer::{Decoder, Message};
///
/// let decoder = Decoder::new(1313);
/// let read = [0, 0, 0, 5, 4, 0, 0, 0, 7, 0, 0, 0, 1];
/// let (message, length) = decoder.decode(&read)?.expect("the first message is whole");
/// assert_eq!((message, length), (Message::Have(7), 9));
/// assert_eq!(decoder.decode(&read[length..])?, None);
/// # Ok::<(), skerry_wire::peer::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    bitfield: usize,
    extended: usize,
}

impl Decoder {
    /// A decoder for a torrent of `pieces` pieces. Where that is not known yet, `pieces` is what is
    /// accepted at most.
    pub fn new(pieces: u32) -> Self {
        Self { bitfield: bitfield::length(pieces), extended: MAX_EXTENDED }
    }

    /// The same, with another limit for extension payloads and for messages of unknown kinds, bytes.
    pub fn with_extended(self, extended: usize) -> Self {
        Self { extended, ..self }
    }

    /// The message that `bytes` begin with and its length in bytes; `None` when it is not whole yet.
    ///
    /// A message that is too long for its kind is an error as soon as its kind is there, so no more of
    /// it is ever buffered.
    pub fn decode<'b>(&self, bytes: &'b [u8]) -> Result<Option<(Message<'b>, usize)>, Error> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length == 0 {
            return Ok(Some((Message::KeepAlive, 4)));
        }
        let Some((&id, rest)) = rest.split_first() else { return Ok(None) };
        if length - 1 > self.longest(id) {
            return Err(Error::Length { id, length });
        }
        let Some(body) = rest.get(..length - 1) else { return Ok(None) };
        let message = read(id, body).ok_or(Error::Length { id, length })?;
        match message {
            Message::Request(Block { length, .. }) if length == 0 || length > MAX_BLOCK => {
                Err(Error::Block { length })
            }
            message => Ok(Some((message, 4 + length))),
        }
    }

    /// The longest body of a message of this kind, bytes.
    fn longest(&self, id: u8) -> usize {
        match id {
            kind::CHOKE | kind::UNCHOKE | kind::INTERESTED | kind::NOT_INTERESTED => 0,
            kind::HAVE_ALL | kind::HAVE_NONE => 0,
            kind::HAVE | kind::SUGGEST | kind::ALLOWED_FAST => 4,
            kind::REQUEST | kind::CANCEL | kind::REJECT => 12,
            kind::PORT => 2,
            kind::BITFIELD => self.bitfield,
            kind::PIECE => 8 + BLOCK as usize,
            kind::HASH_REQUEST | kind::HASH_REJECT => HashRequest::LENGTH,
            kind::HASHES => HashRequest::LENGTH + 32 * MAX_ANSWERED_HASHES,
            _ => 1 + self.extended,
        }
    }
}

/// The message of this kind and body; `None` when the body is not as long as it must be.
fn read(id: u8, body: &[u8]) -> Option<Message<'_>> {
    Some(match id {
        kind::CHOKE => empty(body, Message::Choke)?,
        kind::UNCHOKE => empty(body, Message::Unchoke)?,
        kind::INTERESTED => empty(body, Message::Interested)?,
        kind::NOT_INTERESTED => empty(body, Message::NotInterested)?,
        kind::HAVE => Message::Have(piece(body)?),
        kind::BITFIELD => Message::Bitfield(body),
        kind::REQUEST => Message::Request(block(body)?),
        kind::PIECE => {
            let (piece, rest) = body.split_first_chunk()?;
            let (begin, data) = rest.split_first_chunk()?;
            let (piece, begin) = (u32::from_be_bytes(*piece), u32::from_be_bytes(*begin));
            Message::Piece { piece, begin, data }
        }
        kind::CANCEL => Message::Cancel(block(body)?),
        kind::PORT => Message::Port(u16::from_be_bytes(body.try_into().ok()?)),
        kind::SUGGEST => Message::Suggest(piece(body)?),
        kind::HAVE_ALL => empty(body, Message::HaveAll)?,
        kind::HAVE_NONE => empty(body, Message::HaveNone)?,
        kind::REJECT => Message::Reject(block(body)?),
        kind::ALLOWED_FAST => Message::AllowedFast(piece(body)?),
        kind::EXTENDED => {
            let (&id, payload) = body.split_first()?;
            Message::Extended { id, payload }
        }
        kind::HASH_REQUEST => Message::HashRequest(hash_request(body)?),
        kind::HASHES => {
            let (request, hashes) = HashRequest::read(body)?;
            hashes.len().is_multiple_of(32).then_some(Message::Hashes { request, hashes })?
        }
        kind::HASH_REJECT => Message::HashReject(hash_request(body)?),
        other => Message::Unknown(other),
    })
}

fn empty<'b>(body: &[u8], message: Message<'b>) -> Option<Message<'b>> {
    body.is_empty().then_some(message)
}

fn piece(body: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(body.try_into().ok()?))
}

fn block(body: &[u8]) -> Option<Block> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *<&[u8; 12]>::try_from(body).ok()?;
    let word = u32::from_be_bytes;
    Some(Block { piece: word([a, b, c, d]), begin: word([e, f, g, h]), length: word([i, j, k, l]) })
}

fn hash_request(body: &[u8]) -> Option<HashRequest> {
    let (request, rest) = HashRequest::read(body)?;
    rest.is_empty().then_some(request)
}

fn head(out: &mut impl BufMut, kind: u8, body: usize) {
    out.put_u32(1 + body as u32);
    out.put_u8(kind);
}

fn with_piece(out: &mut impl BufMut, kind: u8, piece: u32) {
    head(out, kind, 4);
    out.put_u32(piece);
}

fn with_block(out: &mut impl BufMut, kind: u8, block: Block) {
    head(out, kind, 12);
    out.put_u32(block.piece);
    out.put_u32(block.begin);
    out.put_u32(block.length);
}

/// `fixed` and `rest` are the body.
fn with_body(out: &mut impl BufMut, kind: u8, fixed: &[u8], rest: &[u8]) {
    head(out, kind, fixed.len() + rest.len());
    out.put_slice(fixed);
    out.put_slice(rest);
}
