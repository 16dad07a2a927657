use super::*;
use crate::hash::{Sha1Hash, hex};
use crate::peer::{PROTOCOL, noise};

const INFO_HASH: [u8; 20] = [0xab; 20];

/// The public key of a private key of 1, 2, 3 and so on.
const KEY_A: &str = "9fa4c50e31ec4635ddb9ef30405e9db341313ed2";
/// The public key of a private key of 21, 22, 23 and so on.
const KEY_B: &str = "e87d6f3297cfe8e032abf07a2ab1028c4e2dcbb0";
/// What A says to B then, when it offers both methods, pads nothing and begins with `initial`.
const OFFER: &str = "83c8d8a3d91a5bf40d723666c4258731c8427ccb5d2b60d497282fdf9f32c22363701bd9cc7c5f57a9daa7e3\
    3accfb976e2448a2b838cb6461b02e842773d6";
/// What B answers when it chooses RC4.
const CHOICE: &str = "549a0482af4436f46b4560017735";

fn random(first: u8, pad: usize, sealed_pad: usize) -> Random {
    let private_key = std::array::from_fn(|at| first + at as u8);
    Random { private_key, pad: noise(first.into(), pad), sealed_pad }
}

fn torrent(hash: &[u8; 20]) -> Option<[u8; 20]> {
    (*hash == req2(&INFO_HASH)).then_some(INFO_HASH)
}

fn sealed(cipher: &mut Cipher, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    cipher.apply(&mut bytes);
    bytes
}

/// How two sides meet.
#[derive(Clone, Copy)]
struct Meeting {
    offered: Methods,
    allowed: Methods,
    preferred: Method,
    pad: usize,
    sealed_pad: usize,
    /// Bytes in one read.
    chunk: usize,
}

const MEETING: Meeting = Meeting {
    offered: Methods::ANY,
    allowed: Methods::ANY,
    preferred: Method::Rc4,
    pad: 0,
    sealed_pad: 0,
    chunk: usize::MAX,
};

impl Meeting {
    /// Both ends of the stream, after A began with `initial`.
    fn run(self, initial: &[u8]) -> Result<(Established, Established), Error> {
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        let random_a = random(1, self.pad, self.sealed_pad);
        let mut a = Initiator::start(random_a, INFO_HASH, self.offered, initial.to_vec(), &mut to_b)?;
        let mut b = Acceptor::new(random(21, self.pad, self.sealed_pad), self.allowed, self.preferred);
        let (mut end_a, mut end_b) = (None, None);
        while end_a.is_none() {
            assert!(!to_a.is_empty() || !to_b.is_empty(), "both sides wait");
            let input: Vec<u8> = to_b.drain(..to_b.len().min(self.chunk)).collect();
            if end_b.is_none() {
                end_b = b.receive(&input, &mut to_a, torrent)?;
            }
            let input: Vec<u8> = to_a.drain(..to_a.len().min(self.chunk)).collect();
            end_a = a.receive(&input, &mut to_b)?;
        }
        assert_eq!(a.receive(b"more", &mut to_b).err(), Some(Error::Over));
        assert_eq!(b.receive(b"more", &mut to_a, torrent).err(), Some(Error::Over));
        Ok((end_a.unwrap(), end_b.unwrap()))
    }
}

#[test]
fn every_choice_of_methods_meets_or_is_refused() {
    use Method::{Plain, Rc4};
    let sets = [Methods::PLAIN, Methods::RC4, Methods::ANY];
    for (offered, allowed) in sets.into_iter().flat_map(|offered| sets.map(|allowed| (offered, allowed))) {
        for preferred in [Plain, Rc4] {
            let met = Meeting { offered, allowed, preferred, ..MEETING }.run(b"handshake");
            let common: Vec<_> = [preferred, Rc4, Plain]
                .into_iter()
                .filter(|method| offered.contains(*method) && allowed.contains(*method))
                .collect();
            let Some(method) = common.first() else {
                assert_eq!(met.err(), Some(Error::Method { theirs: offered.0 }));
                continue;
            };
            let (mut a, mut b) = met.unwrap();
            assert_eq!([a.method, b.method], [*method; 2]);
            assert_eq!([a.info_hash, b.info_hash], [Some(INFO_HASH); 2]);
            assert_eq!((a.received.as_slice(), b.received.as_slice()), (&b""[..], &b"handshake"[..]));
            for text in [&b"first"[..], b"and second"] {
                let wire = sealed(&mut b.writing, text);
                assert_eq!(wire == text, *method == Plain);
                assert_eq!(sealed(&mut a.reading, &wire), text);
                let wire = sealed(&mut a.writing, text);
                assert_eq!(sealed(&mut b.reading, &wire), text);
            }
        }
    }
}

#[test]
fn pads_of_every_length_are_passed_over() {
    for (pad, sealed_pad) in [(0, 0), (1, 0), (0, 1), (511, 511), (512, 512), (513, 513)] {
        for chunk in [usize::MAX, 97, 20, 8] {
            let (a, b) = Meeting { pad, sealed_pad, chunk, ..MEETING }.run(b"handshake").unwrap();
            assert_eq!((a.received.len(), b.received.as_slice()), (0, &b"handshake"[..]), "{pad} {chunk}");
        }
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    for preferred in [Method::Plain, Method::Rc4] {
        let meeting = Meeting { pad: 300, sealed_pad: 30, chunk: 1, preferred, ..MEETING };
        let (_, b) = meeting.run(b"handshake").unwrap();
        assert_eq!(b.received, b"handshake");
    }
}

#[test]
fn the_exchange_is_that_of_an_implementation_by_hand() {
    // Computed with Python from the text.
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    let mut a =
        Initiator::start(random(1, 0, 0), INFO_HASH, Methods::ANY, b"initial".to_vec(), &mut to_b).unwrap();
    assert_eq!(Sha1Hash::of(&to_b).to_string(), KEY_A);
    let mut b = Acceptor::new(random(21, 0, 0), Methods::ANY, Method::Rc4);
    assert!(b.receive(&to_b, &mut to_a, torrent).unwrap().is_none());
    assert_eq!(Sha1Hash::of(&to_a).to_string(), KEY_B);
    to_b.clear();
    assert!(a.receive(&to_a, &mut to_b).unwrap().is_none());
    assert_eq!(hex(&to_b), OFFER);
    to_a.clear();
    let mut b = b.receive(&to_b, &mut to_a, torrent).unwrap().unwrap();
    assert_eq!(hex(&to_a), CHOICE);
    let mut a = a.receive(&to_a, &mut to_b).unwrap().unwrap();
    assert_eq!(hex(&sealed(&mut a.writing, b"from a")), "533beb72f128");
    assert_eq!(hex(&sealed(&mut b.writing, b"from b")), "012997d1278f");
    assert_eq!(hex(&req2(&INFO_HASH)), "debcbb002ca1ef763a10a40caaeab1f00a565dbe");
}

#[test]
fn payload_right_behind_the_exchange_is_kept() {
    for (preferred, initial) in [(Method::Plain, &b""[..]), (Method::Rc4, &b"handshake"[..])] {
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        let mut a =
            Initiator::start(random(1, 40, 4), INFO_HASH, Methods::ANY, initial.to_vec(), &mut to_b).unwrap();
        let mut b = Acceptor::new(random(21, 40, 4), Methods::ANY, preferred);
        assert!(b.receive(&to_b, &mut to_a, torrent).unwrap().is_none());
        to_b.clear();
        assert!(a.receive(&to_a, &mut to_b).unwrap().is_none());
        to_a.clear();
        let mut b = b.receive(&to_b, &mut to_a, torrent).unwrap().unwrap();
        let long = noise(3, 100_000);
        to_a.extend(sealed(&mut b.writing, &long));
        let a = a.receive(&to_a, &mut to_b).unwrap().unwrap();
        assert!(a.received == long, "{preferred:?}");
        assert_eq!(b.received, initial);
    }
}

#[test]
fn a_plain_handshake_is_recognised() {
    for chunk in [1, 7, 68] {
        let handshake = [&PROTOCOL[..], &[7; 48]].concat();
        let mut acceptor = Acceptor::new(random(21, 0, 0), Methods::RC4, Method::Rc4);
        let mut output = Vec::new();
        let mut chunks = handshake.chunks(chunk);
        let end = chunks.by_ref().find_map(|chunk| {
            assert!(acceptor.stays_plain(chunk));
            acceptor.receive(chunk, &mut output, torrent).unwrap()
        });
        let mut end = end.unwrap();
        assert_eq!((end.info_hash, end.method), (None, Method::Plain));
        end.received.extend(chunks.flatten());
        assert_eq!(end.received, handshake);
        assert!(output.is_empty() && end.reading.is_plain() && end.writing.is_plain());
    }
}

#[test]
fn what_is_no_plain_handshake_is_told_before_it_is_received() {
    let mut acceptor = Acceptor::new(random(21, 0, 0), Methods::ANY, Method::Rc4);
    let mut output = Vec::new();
    let (first, rest) = PROTOCOL.split_at(7);
    assert!(acceptor.stays_plain(first) && !acceptor.stays_plain(rest));
    assert!(acceptor.receive(first, &mut output, torrent).unwrap().is_none());
    assert!(acceptor.stays_plain(rest) && !acceptor.stays_plain(first));
    // It is the beginning of a key.
    assert!(acceptor.receive(&[1], &mut output, torrent).unwrap().is_none());
    assert!(!acceptor.stays_plain(b""));
    assert!(acceptor.receive(&[1; KEY - 8], &mut output, torrent).unwrap().is_none());
    assert!(output.len() >= KEY && !acceptor.stays_plain(&PROTOCOL));
}

#[test]
fn what_is_drawn_has_a_key_and_pads_within_their_bound() {
    let mut number = 0;
    let mut counting = |bytes: &mut [u8]| {
        bytes.fill(number);
        number += 1;
    };
    let drawn = Random::draw(0, &mut counting);
    assert_eq!((drawn.private_key, drawn.pad.len(), drawn.sealed_pad), ([0; 20], 0, 0));
    let mut lengths = Vec::new();
    for _ in 0..20 {
        let drawn = Random::draw(64, &mut counting);
        assert!(drawn.pad.len() <= 64 && drawn.sealed_pad <= 64);
        lengths.push(drawn.pad.len());
    }
    lengths.dedup();
    assert!(lengths.len() > 1, "they are as random as what they are drawn from");
}

/// What B says to bytes that A sends after its key, and to those before.
fn refused(bytes: &[u8]) -> Option<Error> {
    let mut acceptor = Acceptor::new(random(21, 0, 0), Methods::ANY, Method::Rc4);
    acceptor.receive(&dh::public_key(&random(1, 0, 0).private_key), &mut Vec::new(), torrent).unwrap();
    acceptor.receive(bytes, &mut Vec::new(), torrent).err()
}

/// What A sends after its key, with `fields` under RC4.
fn offer(pad: usize, fields: &[u8]) -> Vec<u8> {
    let [a, b] = [1, 21].map(|first| random(first, 0, 0).private_key);
    let secret = dh::Secret::new(&a, &dh::public_key(&b)).unwrap();
    let mut bytes = vec![0; pad];
    bytes.extend(secret.hash(b"req1"));
    bytes.extend(xor(&req2(&INFO_HASH), &secret.hash(b"req3")));
    bytes.extend(sealed(&mut secret.cipher(b"keyA", &INFO_HASH), fields));
    bytes
}

#[test]
fn offers_that_break_a_rule_are_refused() {
    let good = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    assert_eq!(refused(&offer(MAX_PAD, &good)), None);
    assert_eq!(refused(&offer(MAX_PAD + 1, &good)), Some(Error::Synchronisation));
    assert_eq!(refused(&noise(1, MAX_PAD + 19)), None);
    assert_eq!(refused(&noise(1, MAX_PAD + 20)), Some(Error::Synchronisation));
    let with = |at: usize, value: u8| {
        let mut fields = good;
        fields[at] = value;
        refused(&offer(0, &fields))
    };
    assert_eq!(with(7, 1), Some(Error::Verification));
    assert_eq!(with(11, 0), Some(Error::Method { theirs: 0 }));
    assert_eq!(with(11, 0xfc), Some(Error::Method { theirs: 0xfc }));
    assert_eq!(with(11, 0xfd), None);
    assert_eq!(with(12, 2), None);
    assert_eq!(with(12, 3), Some(Error::Synchronisation));
    assert_eq!(with(14, 0x40), None);
    assert_eq!(with(14, 0x41), Some(Error::Initial { length: 0x4100 }));
    let mut other = offer(0, &good);
    other[25] ^= 1;
    assert_eq!(refused(&other), Some(Error::UnknownInfoHash));
}

#[test]
fn choices_that_break_a_rule_are_refused() {
    let refused = |offered: Methods, fields: &[u8]| {
        let mut output = Vec::new();
        let mut a = Initiator::start(random(1, 0, 0), INFO_HASH, offered, Vec::new(), &mut output).unwrap();
        let public_key = dh::public_key(&random(21, 0, 0).private_key);
        let secret = dh::Secret::new(&random(1, 0, 0).private_key, &public_key).unwrap();
        let choice = sealed(&mut secret.cipher(b"keyB", &INFO_HASH), fields);
        a.receive(&[&public_key[..], &choice].concat(), &mut output).err()
    };
    let choice = |method: u8, pad: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, method, pad, 0];
    assert_eq!(refused(Methods::ANY, &choice(2, 0)), None);
    assert_eq!(refused(Methods::RC4, &choice(1, 0)), Some(Error::Method { theirs: 1 }));
    assert_eq!(refused(Methods::ANY, &choice(3, 0)), Some(Error::Method { theirs: 3 }));
    assert_eq!(refused(Methods::ANY, &choice(0, 0)), Some(Error::Method { theirs: 0 }));
    assert_eq!(refused(Methods::ANY, &choice(2, 2)), None);
    assert_eq!(refused(Methods::ANY, &choice(2, 3)), Some(Error::Synchronisation));
    assert_eq!(refused(Methods::ANY, &noise(1, MAX_PAD + 8)), Some(Error::Synchronisation));
}

#[test]
fn too_long_a_beginning_is_refused_at_once() {
    let start = |length| {
        Initiator::start(random(1, 0, 0), INFO_HASH, Methods::ANY, vec![0; length], &mut Vec::new()).err()
    };
    assert_eq!(start(MAX_INITIAL), None);
    assert_eq!(start(MAX_INITIAL + 1), Some(Error::Initial { length: MAX_INITIAL + 1 }));
    let (_, b) = MEETING.run(&noise(1, MAX_INITIAL)).unwrap();
    assert!(b.received == noise(1, MAX_INITIAL));
}

#[test]
fn any_bytes_end_in_an_error_or_a_wait() {
    let whole = offer(30, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4, 5]);
    let key = dh::public_key(&random(1, 0, 0).private_key);
    for seed in 0..10_000 {
        let noise = noise(seed, 120);
        let mut output = Vec::new();
        let mut acceptor = Acceptor::new(random(21, 10, 10), Methods::ANY, Method::Rc4);
        // Powers of keys take their time: few of the inputs are long enough for one.
        match seed % 20 {
            0 => {
                let mut bytes = [&key[..], &whole].concat();
                for pair in noise.chunks_exact(2).take(1 + seed as usize % 3) {
                    let at = usize::from(pair[0]) % bytes.len();
                    bytes[at] ^= pair[1];
                }
                for part in bytes.chunks(1 + usize::from(noise[101])) {
                    if !matches!(acceptor.receive(part, &mut output, torrent), Ok(None)) {
                        break;
                    }
                }
            }
            1 => {
                let random = random(1, 0, 0);
                let mut initiator =
                    Initiator::start(random, INFO_HASH, Methods::ANY, Vec::new(), &mut output).unwrap();
                let _ = initiator.receive(&noise, &mut output);
            }
            _ => {
                let end = acceptor.receive(&noise[..seed as usize % KEY], &mut output, torrent);
                assert!(end.is_ok_and(|end| end.is_none()));
            }
        }
        assert!(output.len() < 3 * KEY);
    }
}
