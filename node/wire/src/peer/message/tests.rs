use bytes::BytesMut;

use super::*;
use crate::peer::noise;

const BLOCK_7: Block = Block { piece: 7, begin: 16_384, length: 16_383 };
const HASH_REQUEST: HashRequest =
    HashRequest { root: [9; 32], base: 4, index: 8, length: 2, proof_layers: 3 };

fn put(message: Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.put(&mut bytes);
    bytes
}

/// One of each kind.
fn messages() -> [Message<'static>; 22] {
    [
        Message::KeepAlive,
        Message::Choke,
        Message::Unchoke,
        Message::Interested,
        Message::NotInterested,
        Message::Have(3),
        Message::Bitfield(&[0xff, 0x80]),
        Message::Request(BLOCK_7),
        Message::Piece { piece: 7, begin: 16_384, data: b"data" },
        Message::Cancel(BLOCK_7),
        Message::Port(6881),
        Message::Suggest(4),
        Message::HaveAll,
        Message::HaveNone,
        Message::Reject(BLOCK_7),
        Message::AllowedFast(5),
        Message::Extended { id: 3, payload: b"payload" },
        Message::Extended { id: 0, payload: b"" },
        Message::HashRequest(HASH_REQUEST),
        Message::Hashes { request: HASH_REQUEST, hashes: &[6; 64] },
        Message::HashReject(HASH_REQUEST),
        Message::Unknown(99),
    ]
}

#[test]
fn layouts_are_those_of_the_texts() {
    assert_eq!(put(Message::KeepAlive), [0; 4]);
    assert_eq!(put(Message::Interested), [0, 0, 0, 1, 2]);
    assert_eq!(put(Message::HaveAll), [0, 0, 0, 1, 0x0e]);
    assert_eq!(put(Message::AllowedFast(258)), [0, 0, 0, 5, 0x11, 0, 0, 1, 2]);
    let request = [0, 0, 0, 13, 6, 0, 0, 0, 7, 0, 0, 0x40, 0, 0, 0, 0x3f, 0xff];
    assert_eq!(put(Message::Request(BLOCK_7)), request);
    let piece = [0, 0, 0, 13, 7, 0, 0, 0, 7, 0, 0, 0x40, 0, b'd', b'a', b't', b'a'];
    assert_eq!(put(Message::Piece { piece: 7, begin: 16_384, data: b"data" }), piece);
    assert_eq!(piece_header(7, 16_384, 4), piece[..13]);
    assert_eq!(put(Message::Port(6881)), [0, 0, 0, 3, 9, 0x1a, 0xe1]);
    assert_eq!(put(Message::Extended { id: 2, payload: b"de" }), [0, 0, 0, 4, 20, 2, b'd', b'e']);
    let hashes = put(Message::HashRequest(HASH_REQUEST));
    assert_eq!(hashes[..5], [0, 0, 0, 49, 21]);
    assert_eq!(hashes[5..37], [9; 32]);
    assert_eq!(hashes[37..], [0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 3]);
}

#[test]
fn messages_read_back_once_they_are_whole() {
    let decoder = Decoder::new(16);
    for message in messages() {
        let mut bytes = put(message);
        let length = bytes.len();
        for part in 0..length {
            assert_eq!(decoder.decode(&bytes[..part]), Ok(None), "{part} of {message:?}");
        }
        bytes.extend(b"more");
        assert_eq!(decoder.decode(&bytes), Ok(Some((message, length))));
    }
}

#[test]
fn a_buffer_gives_its_messages_one_after_another() {
    let mut buffer = BytesMut::new();
    for message in messages() {
        message.put(&mut buffer);
    }
    let decoder = Decoder::new(16);
    let (mut rest, mut seen) = (&buffer[..], Vec::new());
    while let Some((message, length)) = decoder.decode(rest).unwrap() {
        seen.push(message);
        rest = &rest[length..];
    }
    assert_eq!(seen, messages());
    assert!(rest.is_empty());
}

#[test]
fn what_is_too_long_is_refused_before_it_is_there() {
    let decoder = Decoder::new(16).with_extended(100);
    let longest = [
        (0, 0),
        (4, 4),
        (5, 2),
        (6, 12),
        (7, 16_392),
        (9, 2),
        (14, 0),
        (20, 101),
        (21, 48),
        (22, 48 + 32 * MAX_ANSWERED_HASHES),
        (200, 101),
    ];
    for (id, body) in longest {
        let decode = |length: usize| {
            let [a, b, c, d] = (length as u32).to_be_bytes();
            decoder.decode(&[a, b, c, d, id]).map(|_| ())
        };
        assert_eq!(decode(1 + body), Ok(()), "{id}");
        let length = 2 + body;
        assert_eq!(decode(length), Err(Error::Length { id, length }));
        let length = u32::MAX as usize;
        assert_eq!(decode(length), Err(Error::Length { id, length }));
    }
}

#[test]
fn what_is_too_short_is_refused() {
    let decoder = Decoder::new(16);
    for (id, body) in
        [(4, 3), (6, 11), (7, 7), (8, 0), (9, 1), (16, 4), (17, 0), (20, 0), (21, 47), (22, 47), (23, 0)]
    {
        let mut bytes = vec![0, 0, 0, 1 + body, id];
        bytes.resize(5 + usize::from(body), 0);
        let length = 1 + usize::from(body);
        assert_eq!(decoder.decode(&bytes), Err(Error::Length { id, length }));
    }
    let ragged = Message::Hashes { request: HASH_REQUEST, hashes: &[0; 33] };
    assert_eq!(decoder.decode(&put(ragged)), Err(Error::Length { id: 22, length: 82 }));
}

#[test]
fn blocks_asked_for_have_a_length() {
    for (length, allowed) in
        [(0, false), (1, true), (MAX_BLOCK, true), (MAX_BLOCK + 1, false), (u32::MAX, false)]
    {
        let request = Message::Request(Block { length, ..BLOCK_7 });
        let bytes = put(request);
        let expected = if allowed { Ok(Some((request, 17))) } else { Err(Error::Block { length }) };
        assert_eq!(Decoder::new(16).decode(&bytes), expected);
    }
}

#[test]
fn any_bytes_are_messages_or_an_error() {
    let decoder = Decoder::new(1313);
    for seed in 0..10_000 {
        let mut bytes = noise(seed, seed as usize % 200);
        // Half of them with a length that lets the rest be looked at.
        if seed % 2 == 0 && bytes.len() > 5 {
            let length = bytes[3] % 64;
            bytes[..4].copy_from_slice(&[0, 0, 0, length]);
            bytes[4] %= 24;
        }
        let mut rest = &bytes[..];
        while let Ok(Some((message, length))) = decoder.decode(rest) {
            assert!((4..=rest.len()).contains(&length), "{message:?}");
            rest = &rest[length..];
        }
    }
}
