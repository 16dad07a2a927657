//! The peer wire. An input that begins with `d` is the payload of an extension; of any other the first byte
//! says how many bytes a read has, the second how many pieces the torrent, and the rest is what a peer sends.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use skerry_wire::merkle::{Tree, Wanted, verify_proof};
use skerry_wire::peer::extension::{self, ExtensionHandshake, Extensions, MAX_CLIENT};
use skerry_wire::peer::pex::{MAX_TOLD, Pex};
use skerry_wire::peer::{Bitfield, Decoder, Error, HashRequest, MAX_ANSWERED_HASHES, Message, metadata};
use skerry_wire::peer::{HANDSHAKE_LENGTH, Handshake, PROTOCOL};

/// A file whose last piece layer is not full.
static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::new((0..11).map(|leaf| [leaf; 32]).collect(), 0, 0));

/// What a peer said, each message with its bytes, and what ended it.
#[derive(Debug, Default, PartialEq)]
struct Said<'a> {
    handshake: Option<Handshake>,
    messages: Vec<(Message<'a>, &'a [u8])>,
    end: Option<Error>,
}

/// Listens to `stream` in reads of `step` bytes. A handshake comes first if anything of it does.
fn listen(stream: &[u8], step: usize, pieces: u32) -> Said<'_> {
    let decoder = Decoder::new(pieces);
    let mut said = Said::default();
    let mut at = 0;
    for start in (0..stream.len()).step_by(step) {
        let read = &stream[..stream.len().min(start + step)];
        if stream[0] == PROTOCOL[0] && said.handshake.is_none() {
            match Handshake::parse(read) {
                Ok(None) => continue,
                Ok(handshake) => said.handshake = handshake,
                Err(error) => return Said { end: Some(error), ..said },
            }
            at = HANDSHAKE_LENGTH;
        }
        loop {
            match decoder.decode(&read[at..]) {
                Ok(None) => break,
                Ok(Some((message, length))) => {
                    said.messages.push((message, &read[at..at + length]));
                    at += length;
                }
                Err(error) => return Said { end: Some(error), ..said },
            }
        }
    }
    said
}

fn check(message: &Message<'_>, bytes: &[u8], pieces: u32) {
    match *message {
        // Its body is not kept.
        Message::Unknown(_) => return,
        Message::Bitfield(bits) => bitfield(bits, pieces),
        Message::Extended { payload, .. } => extensions(payload),
        Message::HashRequest(request) | Message::HashReject(request) => hashes(&request),
        Message::Hashes { request, .. } => hashes(&request),
        _ => {}
    }
    let mut again = Vec::new();
    message.put(&mut again);
    assert_eq!(again, bytes, "{message:?}");
}

fn bitfield(bits: &[u8], pieces: u32) {
    let Ok(mut field) = Bitfield::parse(bits, pieces) else { return };
    assert_eq!(field.as_bytes(), bits);
    let held: Vec<u32> = field.held().collect();
    assert_eq!(held.len(), field.count() as usize);
    assert!(held.into_iter().all(|piece| piece < pieces && field.clear(piece)));
    assert_eq!(field, Bitfield::new(pieces));
}

fn hashes(request: &HashRequest) {
    let wanted = request.wanted();
    if let Some(hashes) = TREE.hashes(wanted) {
        assert!(hashes.len() <= MAX_ANSWERED_HASHES);
    }
    let above = TREE.top().saturating_sub(wanted.base);
    let whole = Wanted { proof_layers: above.saturating_sub(1), ..wanted };
    if let Some(hashes) = TREE.hashes(whole) {
        assert!(verify_proof(&TREE.root(), TREE.top(), whole, &hashes), "{whole:?}");
    }
}

fn extensions(payload: &[u8]) {
    if let Ok(handshake) = ExtensionHandshake::parse(payload) {
        let mut again = ExtensionHandshake::parse(&handshake.encode()).expect("what is encoded is read");
        // A name that was no UTF-8 is longer once it is, and cut again.
        if handshake.client.as_ref().is_some_and(|client| client.len() > MAX_CLIENT) {
            again.client.clone_from(&handshake.client);
        }
        assert_eq!(again, handshake);
        let mut known = Extensions::OURS;
        known.update(&handshake.extensions);
        assert!([known.lt_donthave, known.ut_metadata, known.ut_pex].iter().all(|id| *id != Some(0)));
    }
    if let Ok(message) = metadata::Message::parse(payload) {
        assert_eq!(metadata::Message::parse(&message.encode()), Ok(message));
        assemble(&message);
    }
    if let Ok(pex) = Pex::parse(payload) {
        let mut told = pex.clone();
        told.added.truncate(MAX_TOLD);
        told.dropped.truncate(MAX_TOLD);
        // Each family is written in a list of its own.
        told.added.sort_by_key(|contact| contact.address.is_ipv6());
        told.dropped.sort_by_key(|address| address.is_ipv6());
        assert_eq!(Pex::parse(&pex.encode()), Ok(told));
    }
    if let Ok(piece) = extension::parse_dont_have(payload) {
        assert_eq!(extension::dont_have(piece), payload);
    }
}

fn assemble(message: &metadata::Message<'_>) {
    let metadata::Message::Data { piece, length, data } = *message else { return };
    let Ok(mut assembly) = metadata::Assembly::new(length) else { return };
    let missing = assembly.missing().count();
    let taken = assembly.add(piece, length, data).is_ok();
    assert_eq!(assembly.missing().count(), missing - usize::from(taken));
    let whole = assembly.finish();
    assert_eq!(whole.as_deref(), (taken && missing == 1).then_some(data));
}

fuzz_target!(|data: &[u8]| {
    match data {
        [b'd', ..] => extensions(data),
        [step, pieces, stream @ ..] => {
            let pieces = u32::from(*pieces);
            let said = listen(stream, stream.len().max(1), pieces);
            assert_eq!(listen(stream, 1 + usize::from(*step), pieces), said);
            if let Some(handshake) = said.handshake {
                assert_eq!(handshake.encode(), stream[..HANDSHAKE_LENGTH]);
            }
            said.messages.iter().for_each(|(message, bytes)| check(message, bytes, pieces));
        }
        _ => {}
    }
});
