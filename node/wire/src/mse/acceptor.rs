//! The side that is connected to.

use std::mem;

use super::dh::Secret;
use super::{Cipher, Error, Established, KEY, MAX_INITIAL, MAX_PAD, Method, Methods, Random, VERIFICATION};
use super::{find, xor};
use crate::peer::PROTOCOL;

/// What follows the synchronisation point and has a fixed length: the torrent, then, under RC4, the
/// zeros, the methods offered and the length of `PadC`.
const OFFER: usize = 20 + 8 + 4 + 2;

/// The key exchange of an incoming connection.
pub struct Acceptor {
    random: Random,
    allowed: Methods,
    preferred: Method,
    state: State,
    /// What came and is not used yet: always less than what the state waits for.
    buffer: Vec<u8>,
}

enum State {
    /// Waits for a plain handshake's first bytes, or a public key.
    Key,
    /// Waits for `mark` behind `PadA`.
    Pad { secret: Secret, mark: [u8; 20], looked: usize },
    /// Waits for the [`OFFER`].
    Offer { secret: Secret },
    /// Waits for `PadC`, of this length, and the length of the first payload.
    SealedPad { sealed: Sealed, length: usize },
    /// Waits for the first payload, of this length.
    Initial { sealed: Sealed, length: usize },
    /// Waits for nothing.
    Over,
}

/// What is agreed on.
struct Sealed {
    info_hash: [u8; 20],
    method: Method,
    reading: Cipher,
    writing: Cipher,
}

enum Step {
    /// There is not enough to go on.
    Wait(State),
    Next(State),
    Done(Established),
}

impl Acceptor {
    /// Takes a peer that offers one of the `allowed` methods: the `preferred` one where it can choose.
    pub fn new(random: Random, allowed: Methods, preferred: Method) -> Self {
        Self { random, allowed, preferred, state: State::Key, buffer: Vec::new() }
    }

    /// Whether with `input` it is still a plain handshake that comes: nothing is to be computed or looked up
    /// to receive it.
    pub fn stays_plain(&self, input: &[u8]) -> bool {
        matches!(self.state, State::Key) && is_plain(self.buffer.iter().chain(input))
    }

    /// Takes what came, appends to `output` what is to be sent, and tells when the exchange is over.
    ///
    /// `torrent` is asked once for the info-hash that has this [`req2`](super::req2). A plain
    /// handshake ends the exchange at once: all of it is in [`Established::received`]. After an error
    /// the connection is closed.
    pub fn receive(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        torrent: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
    ) -> Result<Option<Established>, Error> {
        self.buffer.extend_from_slice(input);
        loop {
            let state = mem::replace(&mut self.state, State::Over);
            match self.step(state, output, &torrent)? {
                Step::Wait(state) => {
                    self.state = state;
                    return Ok(None);
                }
                Step::Next(state) => self.state = state,
                Step::Done(established) => return Ok(Some(established)),
            }
        }
    }

    fn step(
        &mut self,
        state: State,
        output: &mut Vec<u8>,
        torrent: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
    ) -> Result<Step, Error> {
        match state {
            State::Key => self.key(output),
            State::Pad { secret, mark, mut looked } => {
                let Some(at) = find(&self.buffer, &mark, &mut looked)? else {
                    return Ok(Step::Wait(State::Pad { secret, mark, looked }));
                };
                self.buffer.drain(..at + mark.len());
                Ok(Step::Next(State::Offer { secret }))
            }
            State::Offer { secret } => self.offer(secret, torrent),
            State::SealedPad { mut sealed, length } => {
                let Some((pad, _)) = self.buffer.split_at_mut_checked(length + 2) else {
                    return Ok(Step::Wait(State::SealedPad { sealed, length }));
                };
                sealed.reading.apply(pad);
                let initial = usize::from(u16::from_be_bytes([pad[length], pad[length + 1]]));
                if initial > MAX_INITIAL {
                    return Err(Error::Initial { length: initial });
                }
                self.buffer.drain(..length + 2);
                Ok(Step::Next(State::Initial { sealed, length: initial }))
            }
            State::Initial { mut sealed, length } => {
                let Some((initial, rest)) = self.buffer.split_at_mut_checked(length) else {
                    return Ok(Step::Wait(State::Initial { sealed, length }));
                };
                sealed.reading.apply(initial);
                let from = output.len();
                self.random.put_sealed(sealed.method.into(), output);
                sealed.writing.apply(&mut output[from..]);
                if sealed.method == Method::Plain {
                    (sealed.reading, sealed.writing) = (Cipher::Plain, Cipher::Plain);
                }
                sealed.reading.apply(rest);
                let Sealed { info_hash, method, reading, writing } = sealed;
                let received = mem::take(&mut self.buffer);
                Ok(Step::Done(Established { info_hash: Some(info_hash), method, reading, writing, received }))
            }
            State::Over => Err(Error::Over),
        }
    }

    fn key(&mut self, output: &mut Vec<u8>) -> Result<Step, Error> {
        if is_plain(self.buffer.iter()) {
            if self.buffer.len() < PROTOCOL.len() {
                return Ok(Step::Wait(State::Key));
            }
            return Ok(Step::Done(Established {
                info_hash: None,
                method: Method::Plain,
                reading: Cipher::Plain,
                writing: Cipher::Plain,
                received: mem::take(&mut self.buffer),
            }));
        }
        let Some(theirs) = self.buffer.first_chunk::<KEY>() else { return Ok(Step::Wait(State::Key)) };
        let secret = Secret::new(&self.random.private_key, theirs)?;
        self.buffer.drain(..KEY);
        self.random.put(output);
        Ok(Step::Next(State::Pad { mark: secret.hash(b"req1"), secret, looked: 0 }))
    }

    fn offer(
        &mut self,
        secret: Secret,
        torrent: impl Fn(&[u8; 20]) -> Option<[u8; 20]>,
    ) -> Result<Step, Error> {
        let Some((torrent_hash, sealed)) = self.buffer.split_first_chunk_mut::<20>() else {
            return Ok(Step::Wait(State::Offer { secret }));
        };
        let Some(sealed) = sealed.first_chunk_mut::<{ OFFER - 20 }>() else {
            return Ok(Step::Wait(State::Offer { secret }));
        };
        let req2 = xor(torrent_hash, &secret.hash(b"req3"));
        let info_hash = torrent(&req2).ok_or(Error::UnknownInfoHash)?;
        let mut reading = secret.cipher(b"keyA", &info_hash);
        reading.apply(sealed);
        let [zeros @ .., a, b, c, d, high, low] = *sealed;
        if zeros != VERIFICATION {
            return Err(Error::Verification);
        }
        let method = self.choose(u32::from_be_bytes([a, b, c, d]))?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_PAD {
            return Err(Error::Synchronisation);
        }
        self.buffer.drain(..OFFER);
        let writing = secret.cipher(b"keyB", &info_hash);
        let sealed = Sealed { info_hash, method, reading, writing };
        Ok(Step::Next(State::SealedPad { sealed, length }))
    }

    fn choose(&self, theirs: u32) -> Result<Method, Error> {
        let common = Methods(theirs & self.allowed.0);
        let choice = [self.preferred, Method::Rc4, Method::Plain];
        choice.into_iter().find(|method| common.contains(*method)).ok_or(Error::Method { theirs })
    }
}

/// Whether a plain handshake may begin so.
fn is_plain<'a>(bytes: impl Iterator<Item = &'a u8>) -> bool {
    bytes.zip(&PROTOCOL).all(|(byte, plain)| byte == plain)
}
