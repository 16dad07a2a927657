//! The side that connects.

use std::mem;

use super::dh::Secret;
use super::{Cipher, Error, Established, KEY, MAX_INITIAL, MAX_PAD, Method, Methods, Random, VERIFICATION};
use super::{find, req2, xor};

/// What follows the synchronisation point and has a fixed length: the method chosen and the length of
/// `PadD`.
const CHOICE: usize = 4 + 2;

/// The key exchange of an outgoing connection.
pub struct Initiator {
    random: Random,
    info_hash: [u8; 20],
    offered: Methods,
    initial: Vec<u8>,
    state: State,
    /// What came and is not used yet: always less than what the state waits for.
    buffer: Vec<u8>,
}

enum State {
    /// Waits for a public key.
    Key,
    /// Waits for `mark` behind `PadB`; `reading` is past it.
    Pad { streams: Streams, mark: [u8; 8], looked: usize },
    /// Waits for the [`CHOICE`].
    Choice { streams: Streams },
    /// Waits for `PadD`, of this length.
    SealedPad { streams: Streams, method: Method, length: usize },
    /// Waits for nothing.
    Over,
}

/// Both directions.
struct Streams {
    reading: Cipher,
    writing: Cipher,
}

enum Step {
    /// There is not enough to go on.
    Wait(State),
    Next(State),
    Done(Established),
}

impl Initiator {
    /// Asks a peer for a torrent, and appends to `output` what is to be sent first.
    ///
    /// `initial` goes out within the exchange, which saves a round trip: a handshake. More than
    /// [`MAX_INITIAL`] bytes are an error.
    pub fn start(
        random: Random,
        info_hash: [u8; 20],
        offered: Methods,
        initial: Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        if initial.len() > MAX_INITIAL {
            return Err(Error::Initial { length: initial.len() });
        }
        random.put(output);
        Ok(Self { random, info_hash, offered, initial, state: State::Key, buffer: Vec::new() })
    }

    /// Takes what came, appends to `output` what is to be sent, and tells when the exchange is over.
    ///
    /// After an error the connection is closed.
    pub fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Option<Established>, Error> {
        self.buffer.extend_from_slice(input);
        loop {
            let state = mem::replace(&mut self.state, State::Over);
            match self.step(state, output)? {
                Step::Wait(state) => {
                    self.state = state;
                    return Ok(None);
                }
                Step::Next(state) => self.state = state,
                Step::Done(established) => return Ok(Some(established)),
            }
        }
    }

    fn step(&mut self, state: State, output: &mut Vec<u8>) -> Result<Step, Error> {
        match state {
            State::Key => self.key(output),
            State::Pad { streams, mark, mut looked } => {
                let Some(at) = find(&self.buffer, &mark, &mut looked)? else {
                    return Ok(Step::Wait(State::Pad { streams, mark, looked }));
                };
                self.buffer.drain(..at + mark.len());
                Ok(Step::Next(State::Choice { streams }))
            }
            State::Choice { mut streams } => {
                let Some(choice) = self.buffer.first_chunk_mut::<CHOICE>() else {
                    return Ok(Step::Wait(State::Choice { streams }));
                };
                streams.reading.apply(choice);
                let [a, b, c, d, high, low] = *choice;
                let theirs = u32::from_be_bytes([a, b, c, d]);
                let method = Methods(theirs).only().filter(|method| self.offered.contains(*method));
                let method = method.ok_or(Error::Method { theirs })?;
                let length = usize::from(u16::from_be_bytes([high, low]));
                if length > MAX_PAD {
                    return Err(Error::Synchronisation);
                }
                self.buffer.drain(..CHOICE);
                Ok(Step::Next(State::SealedPad { streams, method, length }))
            }
            State::SealedPad { mut streams, method, length } => {
                let Some((pad, rest)) = self.buffer.split_at_mut_checked(length) else {
                    return Ok(Step::Wait(State::SealedPad { streams, method, length }));
                };
                streams.reading.apply(pad);
                if method == Method::Plain {
                    streams = Streams { reading: Cipher::Plain, writing: Cipher::Plain };
                }
                streams.reading.apply(rest);
                self.buffer.drain(..length);
                let received = mem::take(&mut self.buffer);
                let Streams { reading, writing } = streams;
                let info_hash = Some(self.info_hash);
                Ok(Step::Done(Established { info_hash, method, reading, writing, received }))
            }
            State::Over => Err(Error::Over),
        }
    }

    fn key(&mut self, output: &mut Vec<u8>) -> Result<Step, Error> {
        let Some(theirs) = self.buffer.first_chunk::<KEY>() else { return Ok(Step::Wait(State::Key)) };
        let secret = Secret::new(&self.random.private_key, theirs)?;
        self.buffer.drain(..KEY);
        let mut writing = secret.cipher(b"keyA", &self.info_hash);
        output.extend(secret.hash(b"req1"));
        output.extend(xor(&req2(&self.info_hash), &secret.hash(b"req3")));
        let from = output.len();
        self.random.put_sealed(self.offered, output);
        output.extend((self.initial.len() as u16).to_be_bytes());
        output.append(&mut self.initial);
        writing.apply(&mut output[from..]);
        let mut reading = secret.cipher(b"keyB", &self.info_hash);
        let mut mark = VERIFICATION;
        reading.apply(&mut mark);
        Ok(Step::Next(State::Pad { streams: Streams { reading, writing }, mark, looked: 0 }))
    }
}
