//! A client of a UDP tracker (BEP 15), as far as a benchmark needs one.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;

/// What a request for a connection id begins with.
const PROTOCOL: u64 = 0x0417_2710_1980;

/// Bytes of an announce without options.
pub(crate) const ANNOUNCE: usize = 98;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Numbers of actions.
pub(crate) const CONNECT: u32 = 0;
pub(crate) const ANNOUNCED: u32 = 1;

/// A client with a socket of its own.
pub(crate) struct Client {
    socket: UdpSocket,
    /// Of requests whose answers are waited for; nothing else sends as high ones.
    transaction: u32,
}

impl Client {
    /// Of a tracker on loopback.
    pub(crate) fn of(tracker: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(tracker)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self { socket, transaction: 0xf000_0000 })
    }

    /// Sends a packet. That nobody listens is found out when there is no answer.
    pub(crate) fn send(&self, packet: &[u8]) -> Result<()> {
        match self.socket.send(packet) {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A connection id; `None` when there is no answer within a second.
    pub(crate) fn connect(&mut self) -> Result<Option<u64>> {
        self.transaction += 1;
        let mut packet = PROTOCOL.to_be_bytes().to_vec();
        packet.extend(CONNECT.to_be_bytes());
        packet.extend(self.transaction.to_be_bytes());
        self.send(&packet)?;
        let answer = self.answer(CONNECT)?;
        Ok(answer.and_then(|answer| Some(u64::from_be_bytes(*answer.get(8..16)?.first_chunk()?))))
    }

    /// Whether an announce is answered with more than an error.
    pub(crate) fn announce(&mut self, connection: u64, info_hash: &[u8; 20]) -> Result<bool> {
        self.transaction += 1;
        self.send(&announce(connection, self.transaction, info_hash))?;
        Ok(self.answer(ANNOUNCED)?.is_some_and(|answer| answer.len() >= 20))
    }

    /// The answer to the last request, if it is of that kind; answers to others are thrown away.
    fn answer(&self, action: u32) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let answer = &buffer[..length];
                    if number(answer, 4) == Some(self.transaction) {
                        return Ok((number(answer, 0) == Some(action)).then(|| answer.to_vec()));
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused => {
                        return Ok(None);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }
}

/// An announce of somebody who lacks something and asks for 30 peers.
pub(crate) fn announce(connection: u64, transaction: u32, info_hash: &[u8; 20]) -> [u8; ANNOUNCE] {
    let mut packet = [0; ANNOUNCE];
    packet[..8].copy_from_slice(&connection.to_be_bytes());
    packet[8..12].copy_from_slice(&ANNOUNCED.to_be_bytes());
    packet[12..16].copy_from_slice(&transaction.to_be_bytes());
    packet[16..36].copy_from_slice(info_hash);
    packet[71] = 50;
    packet[92..96].copy_from_slice(&30u32.to_be_bytes());
    packet[96..].copy_from_slice(&6881u16.to_be_bytes());
    packet
}

/// A number at a place of a packet that is long enough.
pub(crate) fn number(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
