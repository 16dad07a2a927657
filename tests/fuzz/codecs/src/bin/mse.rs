//! Message stream encryption: bytes that come in reads of any length end as they do in one, on either side,
//! and two sides with a method in common meet whatever their pads are.
//!
//! The first byte of an input chooses side and methods, the second is the length of a read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skerry_wire::mse::{Acceptor, Error, Established, Initiator, MAX_INITIAL, MAX_PAD, Method, Methods};
use skerry_wire::mse::{Random, req2};

const INFO_HASH: [u8; 20] = [0xab; 20];
const SETS: [Methods; 4] = [Methods::ANY, Methods::RC4, Methods::PLAIN, Methods::ANY];

/// More than either side answers: a key, a pad, all of an offer.
const MAX_ANSWER: usize = 96 + MAX_PAD + 64 + MAX_PAD + MAX_INITIAL;

#[derive(Clone, Copy)]
struct Choice {
    offered: Methods,
    allowed: Methods,
    preferred: Method,
    /// Bytes in one read.
    step: usize,
}

/// `first` makes the private key. The kept inputs hold exchanges with the keys of 1 and of 21.
fn random(first: u8, pad: Vec<u8>, sealed_pad: usize) -> Random {
    Random { private_key: std::array::from_fn(|at| first.wrapping_add(at as u8)), pad, sealed_pad }
}

fn torrent(hash: &[u8; 20]) -> Option<[u8; 20]> {
    (*hash == req2(&INFO_HASH)).then_some(INFO_HASH)
}

type Receive<'a> = dyn FnMut(&[u8], &mut Vec<u8>) -> Result<Option<Established>, Error> + 'a;
type End = (Option<[u8; 20]>, Method, Vec<u8>);

/// What a side answers to a stream, and how it ends: with all of the payload.
fn hear(stream: &[u8], step: usize, receive: &mut Receive<'_>) -> (Vec<u8>, Result<Option<End>, Error>) {
    let mut output = Vec::new();
    let mut reads = stream.chunks(step);
    let end = reads.by_ref().find_map(|read| receive(read, &mut output).transpose()).transpose();
    let mut rest = reads.flatten().copied().collect::<Vec<u8>>();
    let end = end.map(|end| {
        end.map(|mut established| {
            established.reading.apply(&mut rest);
            established.received.append(&mut rest);
            (established.info_hash, established.method, established.received)
        })
    });
    assert!(output.len() <= MAX_ANSWER);
    (output, end)
}

fn accept(stream: &[u8], choice: Choice) {
    let hear = |step| {
        let mut acceptor = Acceptor::new(random(21, vec![0; 9], 5), choice.allowed, choice.preferred);
        hear(stream, step, &mut |read, output| acceptor.receive(read, output, torrent))
    };
    let whole = hear(usize::MAX);
    if let Ok(Some((info_hash, method, _))) = whole.1 {
        assert!(choice.allowed.contains(method) || info_hash.is_none());
    }
    assert_eq!(hear(choice.step), whole);
}

fn initiate(stream: &[u8], choice: Choice) {
    let hear = |step| {
        let random = random(1, vec![0; 9], 5);
        let mut first = Vec::new();
        let mut initiator =
            Initiator::start(random, INFO_HASH, choice.offered, b"initial".to_vec(), &mut first)
                .expect("a short beginning");
        hear(stream, step, &mut |read, output| initiator.receive(read, output))
    };
    let whole = hear(usize::MAX);
    if let Ok(Some((_, method, _))) = whole.1 {
        assert!(choice.offered.contains(method));
    }
    assert_eq!(hear(choice.step), whole);
}

/// The stream has two bytes for each private key and each length of a pad; all of it is A's payload.
fn meet(stream: &[u8], choice: Choice) {
    let (numbers, _) = stream.as_chunks::<2>();
    let number = |at: usize| numbers.get(at).map_or(0, |number| u16::from_be_bytes(*number));
    // Up to some more than is taken.
    let pad = |at: usize| usize::from(number(at)) % (MAX_PAD + 50);
    // Of one byte: the fuzzer learns the marks that are looked for, and would put them into the pads.
    let noise = |length: usize| vec![stream.first().copied().unwrap_or_default(); length];
    let a = random(number(0) as u8, noise(pad(2)), pad(3));
    let b = random(number(1) as u8, noise(pad(4)), pad(5));
    let common = [choice.preferred, Method::Rc4, Method::Plain]
        .into_iter()
        .find(|method| choice.offered.contains(*method) && choice.allowed.contains(*method));

    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    let started = Initiator::start(a, INFO_HASH, choice.offered, stream.to_vec(), &mut to_b);
    let mut a = match started {
        Ok(a) => a,
        Err(error) => return assert_eq!(error, Error::Initial { length: stream.len() }),
    };
    let mut b = Acceptor::new(b, choice.allowed, choice.preferred);
    let (mut end_a, mut end_b) = (None, None);
    while end_a.is_none() {
        assert!(!to_a.is_empty() || !to_b.is_empty(), "both sides wait");
        let read: Vec<u8> = to_b.drain(..to_b.len().min(choice.step)).collect();
        if end_b.is_none() {
            match b.receive(&read, &mut to_a, torrent) {
                Ok(end) => end_b = end,
                Err(error) => {
                    return assert!(matches!(error, Error::Method { .. }) && common.is_none(), "{error}");
                }
            }
        }
        let read: Vec<u8> = to_a.drain(..to_a.len().min(choice.step)).collect();
        end_a = a.receive(&read, &mut to_b).expect("what an acceptor says is understood");
    }
    let (mut a, mut b) = end_a.zip(end_b).expect("B ends before A");
    assert_eq!([Some(a.method), Some(b.method)], [common; 2]);
    assert_eq!([a.info_hash, b.info_hash], [Some(INFO_HASH); 2]);
    assert_eq!((a.received.as_slice(), b.received.as_slice()), (&b""[..], stream));
    let mut text = stream.to_vec();
    a.writing.apply(&mut text);
    b.reading.apply(&mut text);
    b.writing.apply(&mut text);
    a.reading.apply(&mut text);
    assert_eq!(text, stream);
}

fuzz_target!(|data: &[u8]| {
    let &[mode, step, ref stream @ ..] = data else { return };
    let choice = Choice {
        allowed: SETS[usize::from(mode >> 2 & 3)],
        offered: SETS[usize::from(mode >> 4 & 3)],
        preferred: if mode >> 6 & 1 == 0 { Method::Rc4 } else { Method::Plain },
        step: 1 + usize::from(step),
    };
    match mode & 3 {
        0 => accept(stream, choice),
        1 => initiate(stream, choice),
        _ => meet(stream, choice),
    }
});
